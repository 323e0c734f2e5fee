"""Schedulers that are killed while events come, again and again: `python -m support.triggering 100`."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from support.cli import Script, started
from support.flows import LINEAR, flow_source

EVENT = "@trigger(event='data_updated')"
WAITING = flow_source(LINEAR, head=EVENT, members="number = Parameter('number', default=0)", start="time.sleep(0.05)")


def kill_schedulers(script, times, *, seed=0):
    """Publish as many events as schedulers are killed, each after a while; then let one finish; return what ran.

    Returns:
        For each event that started a run, by its payload, how many runs it started.
    """
    chance = random.Random(seed)
    for number in range(times):
        script.flowstore("event", "data_updated", "--payload", json.dumps({"number": number}))
        process = started("-m", "flowstore", "scheduler", "--store", script.db, folder=script.folder)
        moment = chance.random()
        if moment < 0.5:
            _wait_for_a_run(script, process)
        elif moment < 0.8:
            _wait_for_a_start(process)
        time.sleep(chance.uniform(0, 0.3 if moment < 0.5 else 2))  # at any moment of what follows
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    with started("-m", "flowstore", "scheduler", "--once", "--store", script.db, folder=script.folder) as process:
        process.communicate(timeout=600)
    recorded = script.sql("select trigger_events from runs order by id")
    return collections.Counter(event["payload"]["number"] for text in recorded for event in json.loads(text))


def _wait_for_a_run(script, process):
    """Wait until a run has used an event up that no run had used before."""
    before = script.sql("select event_id from event_marks")
    until = time.monotonic() + 30
    while script.sql("select event_id from event_marks") == before and process.poll() is None:
        if time.monotonic() > until:
            return
        time.sleep(0.01)


def _wait_for_a_start(process):
    """Read what a scheduler says until it has started a run."""
    for line in process.stderr:
        if b"Started" in line:
            return


def main(times):
    """Kill so many schedulers, and say what came of their events."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"FLOWSTORE_HOME": f"{folder}/home", "FLOWSTORE_USER": "tester"}
        script = Script(Path(folder), WAITING)
        script("deploy", "create")
        runs = kill_schedulers(script, times, seed=times)
        print(f"{times} schedulers were killed; {len(runs)} events started {sum(runs.values())} runs.")
        print(dict(collections.Counter(script.sql("select status from runs"))))
        assert runs == collections.Counter(range(times))


if __name__ == "__main__":
    main(int(sys.argv[1]))
