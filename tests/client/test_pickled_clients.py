"""Client objects as values: pickled by store and address, and looked up wherever they are loaded."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import pickletools
import subprocess
import sys

import pytest

import flowstore
from flowstore import DataArtifact, Flow, Flows, Run, Step, StoreNotFound, Task, context, use_store
from support.flows import LINEAR, MIDDLE, flow_source

OBJECTS = {
    "flows": "Flows()",
    "flow": "Flow('F')",
    "run": "Run('F/1')",
    "step": "Step('F/1/start')",
    "task": "Task('F/1/start/1')",
    "attempt": "Task('F/1/start/1', attempt=0)",
    "artifact": "DataArtifact('F/1/start/1/x')",
    "artifacts": "Task('F/1/start/1').artifacts",
    "data": "Run('F/1').data",
    "code": "Run('F/1').code",
    "metadata": "Task('F/1/start/1').metadata",
    "listed task": "next(iter(Step('F/1/start')))",
    "in a dict": "{'runs': list(Flow('F')), 'one': Flow('F').latest_run}",
}
ASKED = {
    "flows": "[flow.id for flow in found]",
    "flow": "found.latest_run.id",
    "run": "(found.status, found.data.x)",
    "step": "(found.task.id, found.run if hasattr(found, 'run') else found.parent.id)",
    "task": "(found.current_attempt, found['x'].data, found.stdout)",
    "attempt": "(found.current_attempt, found.status)",
    "artifact": "(found.data, found.parent.id)",
    "artifacts": "[artifact.data for artifact in found]",
    "data": "found.x",
    "code": "(found.script_name, found.flowspec)",
    "metadata": "[(item.name, item.value, item.task.id) for item in found]",
    "listed task": "found['x'].data",
    "in a dict": "[run.id for run in [*found['runs'], found['one']]]",
}


@pytest.fixture
def script(flow):
    """A flow that was run once, whose first attempt failed."""
    written = flow(
        flow_source(LINEAR, start="@retry(times=1)\nself.x = 7\nif current.retry_count == 0: raise ValueError")
    )
    written("run")
    use_store(written.db)
    return written


def make(what):
    return eval(OBJECTS[what], vars(flowstore) | {name: getattr(flowstore, name) for name in flowstore.__all__})


def ask(what, found):
    return eval(ASKED[what], {"found": found})


@pytest.mark.parametrize("what", OBJECTS)
def test_each_kind_of_object_comes_back(what, script):
    """In the same process, copied, and in another process and folder, where another store is the active one."""
    found = make(what)
    expected = ask(what, found)
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found), copy.copy(found)):
        assert ask(what, again) == expected
        assert again == found or what in {"flows", "artifacts", "data", "code", "metadata"}
    (script.folder / "pickled").write_bytes(pickle.dumps(found))
    code = f"import pickle; found = pickle.load(open({str(script.folder / 'pickled')!r}, 'rb')); print({ASKED[what]})"
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd="/", check=True, capture_output=True, text=True
    )
    assert told.stdout == f"{expected}\n"


@pytest.mark.parametrize("what", OBJECTS)
def test_pickles_name_public_places_only(what, script):
    """What is pickled names `flowstore.Run` and the like, which stay where they are, and the store's whole path."""
    del script
    names = [
        argument for _, argument, _ in pickletools.genops(pickle.dumps(make(what), 2)) if isinstance(argument, str)
    ]
    assert not [name for name in names if name.startswith("flowstore.client.") or "store.db" in name.split(" ")]
    if what not in {"artifacts", "data", "code", "metadata", "in a dict"}:
        assert f"flowstore {type(make(what)).__name__}" in names


def status(run):
    """What a pool is asked."""
    return run.status, run.data.x, os.getpid() != os.getppid()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_maps_over_runs(method, script):
    """Runs can be handed to a pool of processes, however those start."""
    del script
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(status, [Run("F/1")] * 4) == [("successful", 7, True)] * 4


@pytest.mark.parametrize("options", [[], ["--start-method", "spawn"], ["--reuse-workers"]])
def test_a_client_object_is_an_artifact(options, flow):
    """A step stores the run that it is in, or another; later steps and other processes look it up."""
    script = flow(
        flow_source(
            MIDDLE,
            start="self.source = current.run; self.task = current.task; self.x = 7",
            middle="self.seen = self.source.id, self.task['x'].data",
            end="self.again = self.source.status",
        )
    )
    script("run", *options)
    data = script.client().data
    assert data.seen == ("1", 7)
    assert data.again == "running"
    assert data.source == script.client()
    assert data.source.status == "successful"


def test_an_object_of_another_store_finds_its_own(script, tmp_path, flow):
    """Where another store is active, an object that is loaded still looks into the one that it came from."""
    pickled = pickle.dumps(Run("F/1"))
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "flowstore.db"
    del flow
    script("run", "--store", str(other))
    with use_store(other):
        assert pickle.loads(pickled).data.x == 7
        assert pickle.loads(pickled) != Run("F/1")
        assert flowstore.get_store() == other


def test_a_store_that_is_gone_is_told_when_it_is_asked(script):
    """Loading asks nothing; the first question says which file is missing."""
    pickled = pickle.dumps([Run("F/1"), Flows(), Run("F/1").code, Task("F/1/start/1"), Step("F/1/start"), Flow("F")])
    context.state.store.close()
    context.state.store = None
    moved = script.db.rename(script.folder / "moved.db")
    loaded = pickle.loads(pickled)
    assert loaded[0].pathspec == "F/1"
    for ask_it in (lambda: loaded[0].status, lambda: list(loaded[1]), lambda: loaded[2].flowspec):
        with pytest.raises(StoreNotFound, match=r"flowstore\.db"):
            ask_it()
    moved.rename(script.db)
    assert loaded[0].status == "successful"


def test_the_namespace_is_no_hindrance(script):
    """What was found is found again, whichever namespace is active where it is loaded."""
    pickled = pickle.dumps([Run("F/1"), DataArtifact("F/1/start/1/x")])
    flowstore.namespace("user:nobody")
    run, artifact = pickle.loads(pickled)
    assert (run.status, artifact.data) == ("successful", 7)
    script.check()
