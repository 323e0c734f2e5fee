"""A power cut damages nothing, and loses no more than is said.

The quick form looks at some moments of each scene, chosen by a seed. The long form looks at all around each sync, and
prints its figures: `python -m pytest -m soak -n0 tests/guarantees/test_power.py`. `$SOAK_SEED` chooses what is lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys

import attrs
import pytest

from flowstore.errors import NotAStore, StoreCorrupt
from flowstore.maintenance import check
from flowstore.production import tokens
from flowstore.store import trust
from flowstore.store.opening import open_store
from support.chores import CHORES
from support.flows import FOREACH, flow_source
from support.killing import ACKNOWLEDGED, assert_at_rest
from support.power import build_recorder, cuts, files_of, record, restore

pytestmark = pytest.mark.skipif(
    not shutil.which("cc") or sys.platform != "linux", reason="needs a C compiler and LD_PRELOAD"
)

SEED = int(os.environ.get("SOAK_SEED", "1"))
FLOW = flow_source(
    FOREACH,
    start="self.xs = [1, 2, 3]\nself.big = bytes(range(256)) * 6000",
    body="self.y = (self.input, 'pickled')",
    join="self.r = [i.y for i in inputs]",
)
WITHOUT_LOG = """
import runpy, sys
from flowstore.sqlite import journal
journal.on_network = lambda _path: True
sys.argv[0] = "flow.py"
runpy.run_path("flow.py", run_name="__main__")
"""
RUNS = {
    "run": (["flow.py", "run"], False),
    "run without a log": (["-c", WITHOUT_LOG, "run"], False),
    "run --reuse-workers": (["flow.py", "run", "--reuse-workers"], False),
    "run --durable": (["flow.py", "run", "--durable"], True),
    "run --durable without a log": (["-c", WITHOUT_LOG, "run", "--durable"], True),
}
COMMANDS = [name for name in CHORES if name not in {"scheduler", "deploy trigger"}]  # these only start runs


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """What writes down what a process tells the disk."""
    return build_recorder(tmp_path_factory.mktemp("recorder"))


@attrs.define
class Figures:
    """What was looked at: states of the disk, those of them without a store, tasks acknowledged and found."""

    states: int = 0
    without_store: int = 0
    acknowledged: int = 0
    found: int = 0


class Scene:
    """A folder in which something is recorded, and what is found of it after a cut."""

    def __init__(self, tmp_path, library):
        self.folder = tmp_path / "scene"
        self.folder.mkdir()
        self._tmp = tmp_path
        self._library = library
        self.before, self.changes = {}, []

    def record(self, *command, **options):
        """Do something; what is there before is on the disk."""
        self.before = files_of(self.folder)
        self.changes = record(self._library, self.folder, self._tmp / "log", *command, **options)

    def cuts(self, seed, count):
        """The cuts, each with the folder as it is found."""
        for cut in cuts(self.changes, self.before, seed, count):
            found = self._tmp / "found"
            restore(cut, self.folder, found)
            yield cut, found
            shutil.rmtree(found)


@pytest.fixture
def scene(tmp_path, library, monkeypatch):
    """A place to record in, the user's home included."""
    made = Scene(tmp_path, library)
    monkeypatch.setenv("FLOWSTORE_HOME", str(made.folder / "home"))
    return made


def finished_in(path):
    """The tasks that finished, in a store in which a deep check finds nothing wrong; `None` where there is none."""
    if not path.exists():
        return None
    with contextlib.closing(open_store(path)) as store:
        assert check.check(store, deep=True).problems == []
        found = {row["id"] for row in store.rows("select id from tasks where status = 'successful'")}
    assert_at_rest(path)
    return found


def acknowledged(said):
    """The tasks that were said to have finished, in order."""
    return [int(task_id) for _, _, task_id in ACKNOWLEDGED.findall(said)]


def verify_home(folder):
    """A user's key and tokens are whole, or not there."""
    key = trust._read_key(folder / "key")
    assert key is None or len(key) == 32
    for path in folder.glob("tokens/*.json"):
        tokens._read(path)


def verify_run(scene, seed, count, *, durable):
    """What is found are the first tasks that were committed, all that were secure, and all others if `durable`."""
    figures = Figures()
    for cut, found in scene.cuts(seed, count):
        told = acknowledged(cut.printed)
        tasks = finished_in(found / "flowstore.db")
        verify_home(found / "home")
        figures.states += 1
        figures.without_store += tasks is None
        kept = [task for task in told if task in (tasks or ())]
        assert kept == told[: len(kept)], cut
        assert len(kept) >= len(acknowledged(cut.secure)), cut
        assert kept == told or not durable, cut
        figures.acknowledged += len(told)
        figures.found += len(kept)
    return figures


def verify_command(scene, chore, seed, count):
    """What the command changes is as it was, or as it is to be; gives how many states were looked at."""
    states = 0
    for cut, found in scene.cuts(seed, count):
        states += 1
        after = chore.moved(found)
        if after.db.exists():
            after.sound()
            after.verify()
        else:
            assert not chore.db.exists() or "deploy" in chore.command(), cut
        after.promised(cut.printed)
        verify_home(found / "home")
    return states


def record_run(scene, kind):
    """Record a run of six tasks; gives whether it is durable."""
    command, durable = RUNS[kind]
    (scene.folder / "flow.py").write_text(FLOW)
    scene.record(*command)
    said = "".join(change.data.decode() for change in scene.changes if change.what == "O")
    assert len(acknowledged(said)) == 6
    return durable


def record_command(scene, name):
    """Record a command that changes a store."""
    chore = CHORES[name](scene.folder)
    chore.prepare()
    scene.record(*chore.command())
    return chore


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.quick("run", "run --durable")
def test_the_power_fails_in_a_run(kind, scene):
    """The store is sound and holds what was committed first; with --durable, all that was said to have finished."""
    durable = record_run(scene, kind)
    assert verify_run(scene, SEED, 16, durable=durable).states > 8


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.quick("export --force", "import", "delete", "migration from version 1", "deploy create")
def test_the_power_fails_in_a_command(name, scene):
    """Whatever a command changes is as it was, or as it is to be, and nothing is damaged."""
    chore = record_command(scene, name)
    assert verify_command(scene, chore, SEED, 6) > 2


def test_without_syncs_it_would_be_noticed(scene):
    """Of a run that synced nothing, a cut leaves damage or loses what was acknowledged: what is tested has teeth."""
    record_run(scene, "run --durable")
    scene.changes = [change for change in scene.changes if change.what not in "SD"]
    with pytest.raises((AssertionError, NotAStore, StoreCorrupt)):
        verify_run(scene, SEED, 60, durable=True)


# --- what --durable sets

TOLD = """
import os, sqlite3
connect = sqlite3.connect

class Connection(sqlite3.Connection):
    def execute(self, sql, *args):
        if sql.startswith("begin immediate"):
            level = super().execute("pragma synchronous").fetchone()[0]
            with open(os.environ["LEVELS"], "a") as file:
                print(os.getpid(), level, file=file)
        return super().execute(sql, *args)

sqlite3.connect = lambda *args, **options: connect(*args, **{"factory": Connection, **options})
"""
FULL, EXTRA = 2, 3
TAGS = "current.run.add_tag(f'seen-{self.index}')"


@pytest.mark.parametrize(
    "command",
    [["run"], ["run", "--start-method", "spawn"], ["resume"], ["deploy", "trigger"]],
    ids=["run", "spawn", "resume", "trigger"],
)
def test_durable_is_so_on_every_connection_that_writes(command, flow, tmp_path):
    """The driver's commits wait for the disk, and so do those of tasks that set tags."""
    script = flow(flow_source(FOREACH, start="self.xs = [1]", body=TAGS))
    if command == ["resume"]:
        script("run")
    if command[0] == "deploy":
        script("deploy", "create")
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(TOLD)
    path = f"{tmp_path / 'hook'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    script("--durable", *command, *(["start"] if command == ["resume"] else []),
           PYTHONPATH=path, LEVELS=str(tmp_path / "levels"))  # fmt: skip
    levels = [line.split() for line in (tmp_path / "levels").read_text().splitlines()]
    assert {int(level) for _, level in levels} <= {FULL, EXTRA}
    assert EXTRA in {int(level) for _, level in levels}
    assert len({pid for pid, _ in levels}) >= 2


# --- all moments


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", RUNS)
def test_the_power_fails_at_every_sync_of_a_run(kind, scene, capsys):
    """All moments around each sync and each name that changes, and as many others, each with several losses."""
    durable = record_run(scene, kind)
    total = Figures()
    for seed in range(SEED, SEED + 4):
        figures = verify_run(scene, seed, None, durable=durable)
        for name in attrs.fields_dict(Figures):
            setattr(total, name, getattr(total, name) + getattr(figures, name))
    with capsys.disabled():
        print(
            f"\n{kind} (seeds {SEED} to {SEED + 3}): {total.states} states of the disk, none of them damaged; "
            f"{total.without_store} from before there was a store\n"
            f"  of {total.acknowledged} tasks acknowledged by then, {total.found} found"
        )


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_power_fails_at_every_sync_of_a_command(name, scene, capsys):
    """The same for each command that changes a store."""
    chore = record_command(scene, name)
    states = sum(verify_command(scene, chore, seed, None) for seed in range(SEED, SEED + 2))
    with capsys.disabled():
        print(f"\n{name} (seeds {SEED} and {SEED + 1}): {states} states of the disk, none of them damaged")
