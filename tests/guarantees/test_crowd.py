"""Many processes on one store: drivers, readers, taggers, an export and a delete, all at once, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import threading
import time

import attrs
import pytest

from flowstore.maintenance import check as checking
from flowstore.store.opening import open_store
from support.flows import FOREACH, flow_source

pytestmark = pytest.mark.fresh

WIDTH = 4
SOURCE = flow_source(
    FOREACH,
    members="token = Parameter('token')\nwidth = Parameter('width', default=4)",
    start="self.xs = list(range(self.width))",
    body="self.y = (self.token * 10_000)[:200_000] + str(self.index); print(self.index)",
    join="self.ys = len({i.y for i in inputs})",
    end="self.answer = [self.token, self.ys]",
)

# Each looks every 50 ms until its stdin is closed, then prints what it saw as one JSON object.
MEMBER = """
import json, os, resource, select, sqlite3, sys, time
from pathlib import Path
import flowstore
from flowstore import Flow, Run

def rss_kb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024

def go_on():
    return not select.select([sys.stdin], [], [], 0.05)[0]

def report(took, **more):
    print(json.dumps({"took": took, **more}))
"""
READER = """
took, sizes, log_bytes, seen = [], [], 0, 0
flowstore.use_store("flowstore.db")
log = Path("flowstore.db-wal")
while go_on():
    before = time.perf_counter()
    newest = []
    for run in Flow("F"):
        newest.append(int(run.id))
        if len(newest) == 20:
            break
    assert newest == sorted(newest, reverse=True), newest
    done = Flow("F").latest_successful_run
    if done is not None and "kept" in done.tags:
        assert done.data.answer[1] == len(list(done["body"])), done
    seen += len(newest)
    took.append(time.perf_counter() - before)
    sizes.append(rss_kb())
    if log.exists():
        log_bytes = max(log_bytes, log.stat().st_size)
report(took, sizes=sizes, log_bytes=log_bytes, seen=seen)
"""
ASKER = """
took, seen = [], 0
db = sqlite3.connect("file:flowstore.db?mode=ro", uri=True, timeout=60)
while go_on():
    before = time.perf_counter()
    rows = db.execute("select run_id, status, tasks from run_summary order by run_id desc limit 20").fetchall()
    ended = [tasks for _, status, tasks in rows if status == "successful"]
    assert all(tasks >= 7 for tasks in ended), rows  # what a run did is visible together with its end
    took.append(time.perf_counter() - before)
    seen += len(rows)
db.close()
report(took, seen=seen)
"""
TAGGER = """
me, took, expected = sys.argv[1], [], set()
flowstore.use_store("flowstore.db")
run = Run("F/1")
while go_on():
    before = time.perf_counter()
    tag = f"{me}-{len(took)}"
    run.add_tag(tag)
    expected.add(tag)
    if len(took) % 3 == 2:
        gone = f"{me}-{len(took) - 1}"
        run.replace_tag(gone, f"{gone}-mended")
        expected = expected - {gone} | {f"{gone}-mended"}
    if len(took) % 7 == 6:
        gone = min(expected)
        run.remove_tag(gone)
        expected.remove(gone)
    took.append(time.perf_counter() - before)
report(took, expected=sorted(expected))
"""


@attrs.define
class Ran:
    """One run of a driver, as whoever started it saw it."""

    token: str
    kept: bool
    width: int
    code: int
    run_id: str
    tasks: list[str]
    stderr: str
    took_s: float
    peak_kb: int


class Crowd:
    """Processes around one store, until it is over."""

    def __init__(self, script):
        self.script = script
        self.runs: list[Ran] = []
        self.commands: list[tuple[list[str], int, str]] = []
        self._members = []

    def member(self, code, *args):
        """Start a process that looks, or tags, until it is over."""
        command = [sys.executable, "-W", "error", "-c", MEMBER + code, *args]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._members.append(subprocess.Popen(command, cwd=self.script.folder, **pipes))

    def reports(self):
        """What the members saw, in their order."""
        found = []
        for process in self._members:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr.decode()
            found.append(json.loads(stdout))
        return found

    def drive(self, name, width, enough):
        """Run the flow again and again; every fourth run is one to delete."""
        number = 0
        while not enough(number):
            number += 1
            self._run(f"{name}-{number}", kept=number % 4 != 3, width=width)

    def _run(self, token, *, kept, width):
        id_file = self.script.folder / f"id-{token}"
        options = ["--token", token, "--width", width, "--max-workers", 2, "--run-id-file", id_file]
        options += ["--reuse-workers"] if token.endswith(("0", "1", "2")) else []
        before = time.monotonic()
        with self.script.start("run", *options, "--tag", "kept" if kept else "rubbish") as process:
            stderr: list[bytes] = []
            listener = threading.Thread(target=lambda: stderr.append(process.stderr.read()))
            listener.start()
            stdout = process.stdout.read()
            listener.join()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        tasks = sorted(set(re.findall(rb"\[\d+/\w+/(\d+) ", stdout)))
        self.runs.append(
            Ran(
                token, kept, width, process.returncode, id_file.read_text() if id_file.exists() else "",
                [task.decode() for task in tasks], stderr[0].decode(), time.monotonic() - before, usage.ru_maxrss,
            )
        )  # fmt: skip

    def command(self, *args):
        """Run `flowstore ARGS` once."""
        command = [sys.executable, "-W", "error", "-m", "flowstore", *args]
        done = subprocess.run(command, cwd=self.script.folder, capture_output=True, text=True)
        self.commands.append((list(args), done.returncode, done.stderr))


def gather(script, *, drivers, runs, seconds, wide):
    """A crowd around the script's store, for so many runs of each driver and at least so many seconds."""
    crowd = Crowd(script)
    crowd._run("first", kept=True, width=WIDTH)
    until = time.monotonic() + seconds
    for code, *args in ([READER], [READER], [ASKER], [TAGGER, "a"], [TAGGER, "b"]):
        crowd.member(code, *args)

    def enough(number):
        return number >= runs and time.monotonic() > until

    drive = [threading.Thread(target=crowd.drive, args=(f"d{n}", WIDTH, enough)) for n in range(drivers - 1)]
    drive.append(threading.Thread(target=crowd.drive, args=("wide", wide, enough)))
    for thread in drive:
        thread.start()
    while any(thread.is_alive() for thread in drive):
        crowd.command("export", "out.db", "--tag", "kept", "--latest", "20", "--force")
        crowd.command("delete", "--tag", "rubbish", "--yes")
    for thread in drive:
        thread.join()
    return crowd


def judge(crowd, *, largest_log_bytes, slowest_read_s):
    """Nothing is lost, nothing is there twice, and nobody waited long; gives the figures."""
    readers, others = (reports := crowd.reports())[:2], reports[2:]
    script = crowd.script
    told = [ran.stderr for ran in crowd.runs] + [stderr for _, _, stderr in crowd.commands]
    assert [text for text in told if "lock" in text or "Traceback" in text] == []
    assert [ran for ran in crowd.runs if ran.code != 0] == []
    refused = [each for each in crowd.commands if each[1] != 0 and "it is running" not in each[2]]
    assert refused == []
    ids = [ran.run_id for ran in crowd.runs]
    tasks = [task for ran in crowd.runs for task in ran.tasks]
    assert len(set(ids)) == len(ids)
    assert len(set(tasks)) == len(tasks) == sum(ran.width + 3 for ran in crowd.runs)
    there = dict(script.sql("select run_id, value from artifact_values where name = 'answer'"))
    for ran in crowd.runs:
        if ran.kept:
            assert json.loads(there[int(ran.run_id)]) == [ran.token, ran.width]
    own = set(script.sql("select tag from object_tags where kind = 'run' and run_id = 1 and tag glob '[ab]-*'"))
    assert own == {tag for tagger in others[1:] for tag in tagger["expected"]}
    took = sorted(second for reader in (*readers, others[0]) for second in reader["took"])
    growth = max(max(reader["sizes"]) - statistics.median(reader["sizes"][: 1 + len(took) // 20]) for reader in readers)
    figures: dict[str, float] = {
        "drivers' runs": len(crowd.runs),
        "tasks acknowledged and found": len(tasks),
        "exports and deletes": len(crowd.commands),
        "edits of tags": sum(len(tagger["took"]) for tagger in others[1:]),
        "reads": len(took),
        "a read, median s": round(statistics.median(took), 4),
        "a read, 99 of 100 below s": round(took[len(took) * 99 // 100], 3),
        "a read, slowest s": round(took[-1], 3),
        "an edit of tags, slowest s": round(max(max(tagger["took"]) for tagger in others[1:]), 3),
        "a run, slowest s": round(max(ran.took_s for ran in crowd.runs), 1),
        "log, largest MB": round(max(reader["log_bytes"] for reader in readers) / 1e6, 1),
        "a driver, largest MB": round(max(ran.peak_kb for ran in crowd.runs) / 1e3),
        "a reader grew by MB": round(growth / 1e3, 1),
        "store, MB": round(script.db.stat().st_size / 1e6, 1),
    }
    print(json.dumps(figures, indent=1))
    assert figures["log, largest MB"] * 1e6 < largest_log_bytes
    assert took[-1] < slowest_read_s
    forked_from = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # which Linux counts for the child, too
    assert figures["a driver, largest MB"] < max(250, 1.1 * forked_from)
    assert figures["a reader grew by MB"] < 40
    check(script)
    return figures


def check(script):
    """At rest it is one file, in which every hash and reference is right; so is what was exported of it."""
    for name in ("flowstore.db", "out.db"):
        with contextlib.closing(open_store(script.folder / name)) as store:
            assert checking.check(store, deep=True).problems == []


def test_a_crowd_loses_nothing(flow):
    """Six drivers, readers, taggers, exports and deletes on one store: nothing is lost or twice, nobody locked out."""
    crowd = gather(flow(SOURCE), drivers=6, runs=3, seconds=0, wide=20)
    judge(crowd, largest_log_bytes=100 << 20, slowest_read_s=20)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_large_crowd_loses_nothing_for_ten_minutes(flow):
    """The same with sixteen drivers for ten minutes, one of them with a wide foreach; prints its figures."""
    seconds = float(os.environ.get("CROWD_SECONDS", "600"))
    crowd = gather(flow(SOURCE), drivers=16, runs=1, seconds=seconds, wide=500)
    judge(crowd, largest_log_bytes=200 << 20, slowest_read_s=30)
