"""Whatever is killed, and whenever: what was said to have finished is there, and the rest can be done again.

The quick form tries a few moments of each kind, chosen by a seed. The long form tries all of them, then random ones
for `$SOAK_SECONDS`, and prints its figures: `python -m pytest -m soak -n0 tests/guarantees/test_kill.py`.
`$SOAK_SEED` chooses which.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import flowstore
from flowstore.errors import FlowstoreError
from flowstore.run.executor import Setup
from flowstore.run.local.executor import LocalExecutor
from flowstore.run.local.processes import TaskServer
from flowstore.run.orders import Order
from support.chores import CHORES
from support.flows import FOREACH, flow_source
from support.killing import WORKS, Scene, processes_in
from support.processes import wait_for

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"), pytest.mark.fresh]

SEED = int(os.environ.get("SOAK_SEED", "1"))
SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))
TARGETS = ("driver", "server", "task")
SPAWNING = {"spawn"}  # has no task server: its tasks are the driver's children


def chosen(name, most, count):
    """Some moments at which to kill, the same in each run of the tests."""
    return random.Random(f"{SEED} {name}").sample(range(1, most), count)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Make a folder, with a home and a folder for temporary files beside it; gives the folder. Forgets the last one."""
    made = []

    def make():
        if made:
            shutil.rmtree(made[-1])
        around = tmp_path / f"place-{len(made)}"  # its key is remembered by the home's path
        for name in ("work", "tmp"):
            (around / name).mkdir(parents=True)
        monkeypatch.setenv("FLOWSTORE_HOME", str(around / "home"))
        monkeypatch.setenv("TMPDIR", str(around / "tmp"))
        made.append(around)
        return around / "work"

    return make


class Figures:
    """What was tried, and what was found."""

    def __init__(self):
        self.kills = Counter()
        self.acknowledged = self.found = 0

    def count(self, moment, acknowledged=0, found=0):
        """Note one that was killed, if it was."""
        self.kills[moment] += moment is not None
        self.acknowledged += acknowledged
        self.found += found

    def tell(self, capsys, what):
        """Print them."""
        kills = ", ".join(f"{count} {moment}" for moment, count in sorted(self.kills.items(), key=str) if count)
        with capsys.disabled():
            print(f"\n{what} (seed {SEED}): {self.kills.total()} kills survived: {kills}")
            if self.found:
                print(f"  {self.acknowledged} tasks acknowledged, all of them among {self.found} found and taken over")


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.quick("linear", "large", "resume")
def test_a_driver_is_killed(name, place):
    """A run that is killed at any moment loses nothing that had finished, and resuming comes to the same end."""
    for at in chosen(name, WORKS[name].moments, 1):
        scene = Scene(place(), WORKS[name])
        killed = scene.kill(at)
        assert killed.moment is not None
        scene.verify(killed.acknowledged)


@pytest.mark.parametrize("target", TARGETS)
def test_a_process_of_a_run_is_killed(target, place):
    """The same holds whichever of its processes dies, at a random moment; and a task only fails its own attempt."""
    rng = random.Random(f"{SEED} {target}")
    scene = Scene(place(), WORKS["foreach"])
    killed = scene.strike(target, rng)
    scene.verify(killed.acknowledged)


@pytest.mark.parametrize("workers", [1, 8])
def test_a_task_kills_the_task_server(workers, flow):
    """The run fails with one message, whatever the driver was about to ask of the server, and can be resumed."""
    body = "if not Path('mended').exists(): os.kill(os.getppid(), signal.SIGKILL)"
    script = flow(flow_source(FOREACH, start="self.xs = range(20)", body=body))
    said = script("run", "--max-workers", workers, expect=1).stderr
    assert said.count("The task server died") == 1
    assert "resume" in said
    assert (script.client().status, script.client()["start"].task.successful) == ("failed", True)
    (script.folder / "mended").touch()
    script("resume")
    assert script.client(2).successful


def test_a_task_that_could_not_be_started_leaves_nothing_open():
    """Where the task server is gone, that is one error, and the connections that were made for the task are closed."""
    before = len([*Path("/proc/self/fd").iterdir()])
    executor = LocalExecutor(Setup(flow=flowstore.FlowSpec, graph=None, method="spawn"))
    ours, theirs = socket.socketpair()
    theirs.close()
    executor._pool.servers[()] = TaskServer(ours)
    with pytest.raises(FlowstoreError, match="task server died"):
        executor.launch(Order(run=None, step="start", task_id=1))
    executor.close()
    assert len([*Path("/proc/self/fd").iterdir()]) == before


CHILDREN = """
import subprocess
if self.index == 1:
    child = subprocess.Popen(["sleep", "300"])
Path(f"pids-{self.index}").write_text(f"{os.getpid()} {os.getppid()}")
time.sleep(300)
"""


@pytest.mark.parametrize(
    ("method", "unread"),
    [("fork", False), ("fork", True), ("spawn", False)],
    ids=["fork", "fork, with messages unread", "spawn"],
)
def test_nothing_outlives_its_driver(method, unread, flow):
    """Task server, tasks and what these have started die with the driver, also if that had not read all it was told."""
    script = flow(flow_source(FOREACH, start="self.xs = range(2)", body=CHILDREN))
    process = script.start("run", "--max-workers", 2, "--start-method", method)
    files = [script.folder / f"pids-{index}" for index in range(2)]
    (task, server), _ = wait_for(
        lambda: (
            all(file.exists() and file.read_text() for file in files)
            and [[int(pid) for pid in file.read_text().split()] for file in files]
        )
    )
    if unread:
        process.send_signal(signal.SIGSTOP)
        os.kill(task, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{task}").exists())
        wait_for(lambda: Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[0] == "S")
    process.kill()
    process.communicate(timeout=20)
    wait_for(lambda: not processes_in(script.folder))
    assert script.client().status == "dead"


@pytest.mark.parametrize("name", CHORES)
@pytest.mark.quick("export --force", "import", "delete", "migration from version 1", "deploy create")
def test_a_command_is_killed(name, place):
    """Every command that changes a store does so whole or not at all, leaves nothing behind, and can be done again."""
    chore = CHORES[name]
    for at in chosen(name, chore.moments, 1):
        chore(place()).kill(at)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", WORKS)
def test_a_driver_is_killed_at_every_moment(name, place, capsys):
    """All moments of each kind of run, until it survives."""
    figures = Figures()
    for at in itertools.count(1):
        scene = Scene(place(), WORKS[name])
        killed = scene.kill(at)
        found = scene.verify(killed.acknowledged)
        figures.count(_kind(killed.moment), len(killed.acknowledged), found)
        if killed.moment is None:
            break
    figures.tell(capsys, f"driver, {name}")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CHORES)
def test_a_command_is_killed_at_every_moment(name, place, capsys):
    """All moments of each command, until it survives."""
    figures = Figures()
    for at in itertools.count(1):
        moment = CHORES[name](place()).kill(at)
        figures.count(_kind(moment))
        if moment is None:
            break
    figures.tell(capsys, name)


@pytest.mark.soak
@pytest.mark.timeout(36_000)
def test_processes_are_killed_at_random(place, capsys):
    """Driver, task server and tasks of each kind of run, for as long as asked."""
    rng, figures = random.Random(SEED), Figures()
    until = time.monotonic() + SOAK_SECONDS
    while time.monotonic() < until:
        name = rng.choice([*WORKS])
        target = rng.choice(TARGETS)
        scene = Scene(place(), WORKS[name])
        killed = scene.strike(target, rng)
        found = scene.verify(killed.acknowledged)
        figures.count(killed.moment, len(killed.acknowledged), found)
    figures.tell(capsys, "at random")


@pytest.mark.soak
@pytest.mark.timeout(36_000)
def test_commands_are_killed_at_random(place, capsys):
    """Every command that changes a store, for as long as asked."""
    rng, figures = random.Random(SEED), Figures()
    until = time.monotonic() + SOAK_SECONDS
    while time.monotonic() < until:
        name = rng.choice([*CHORES])
        figures.count(CHORES[name](place()).strike(rng) and name)
    figures.tell(capsys, "commands at random")


def _kind(moment):
    """A moment without its particulars."""
    return moment and " ".join(moment.split()[:3]).rstrip(";=")
