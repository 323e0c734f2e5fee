"""A power cut damages nothing, and loses no more than is said.

The quick form looks at some moments of each scene, chosen by a seed. The long form looks at all around each sync, with
several seeds: `python -m pytest -m soak -n0 tests/test_power.py`, with `$SOAK_SEED` to choose the first of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys

import attrs
import pytest
from harness import FOREACH, flow_source
from killing import ACKNOWLEDGED, assert_at_rest
from power import build_recorder, cuts, files_of, record, restore

from flowstore.store.db import open_store
from flowstore.transfer import check

pytestmark = pytest.mark.skipif(
    not shutil.which("cc") or sys.platform != "linux", reason="needs a C compiler and LD_PRELOAD"
)

FLOW = flow_source(
    FOREACH,
    start="self.xs = [1, 2, 3]\nself.big = bytes(range(256)) * 6000",
    body="self.y = (self.input, 'pickled')",
    join="self.r = [i.y for i in inputs]",
)
WITHOUT_LOG = """
import sys
from flowstore.store import journal
journal.on_network = lambda _path: True
sys.argv[0] = "flow.py"
import runpy
runpy.run_path("flow.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """What writes down what a process tells the disk."""
    return build_recorder(tmp_path_factory.mktemp("recorder"))


@attrs.define
class Figures:
    """What was looked at."""

    states: int = 0
    without_store: int = 0
    acknowledged: int = 0
    found: int = 0


class Scene:
    """A folder in which something is recorded, and what is found of it after a cut."""

    def __init__(self, tmp_path, library):
        self.folder = tmp_path / "scene"
        self.folder.mkdir()
        self.db = self.folder / "flowstore.db"
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
def scene(tmp_path, library):
    """A place to record in."""
    return Scene(tmp_path, library)


def look(path, query="select id from tasks where status = 'successful' order by finished_at, id"):
    """What a query finds in a store in which a deep check finds nothing wrong; `None` where there is no store."""
    if not path.exists():
        return None
    with contextlib.closing(open_store(path)) as store:
        assert check.check(store, deep=True).problems == []
        found = [row[0] for row in store.rows(query)]
    assert_at_rest(path)
    return found


def acknowledged(text):
    return [int(task_id) for _, _, task_id in ACKNOWLEDGED.findall(text)]


def verify_runs(scene, seed, count, *, durable, figures):
    """What is found are the first tasks that were committed, all that were secure, and all others if `durable`."""
    for cut, found in scene.cuts(seed, count):
        told = acknowledged(cut.printed)
        tasks = look(found / "flowstore.db")
        figures.states += 1
        if tasks is None:
            assert not told or not durable, cut
            assert not acknowledged(cut.secure), cut
            figures.without_store += 1
            continue
        kept = [task for task in told if task in tasks]
        assert kept == told[: len(kept)], cut
        assert len(kept) >= len(acknowledged(cut.secure)), cut
        assert not durable or kept == told, cut
        figures.acknowledged += len(told)
        figures.found += len(kept)


RUNS = {
    "normal": (["flow.py", "run"], False),
    "durable": (["flow.py", "run", "--durable"], True),
    "durable without a log": (["-c", WITHOUT_LOG, "run", "--durable"], True),
}


@pytest.mark.parametrize("kind", RUNS)
def test_the_power_fails_in_a_run(scene, kind):
    """The store is sound, and holds what was committed first; with --durable, all that was said to have finished."""
    command, durable = RUNS[kind]
    (scene.folder / "flow.py").write_text(FLOW)
    scene.record(*command)
    assert len(acknowledged("".join(c.data.decode() for c in scene.changes if c.what == "O"))) == 6
    figures = Figures()
    verify_runs(scene, 1, int(os.environ.get("N", "30")), durable=durable, figures=figures)
    print(figures)
