"""A store to hold on to: a file and a namespace of its own, whatever the process, or another thread, looks at."""

from __future__ import annotations

import pickle
import shutil
import threading

import pytest

import flowstore
from flowstore import (
    Flow,
    FlowstoreError,
    NamespaceMismatch,
    NotFound,
    Run,
    StoreNotFound,
    namespace,
    open_store,
    use_store,
)
from flowstore.store import opening
from support.stores import task_with


def ids(objects):
    return [item.id for item in objects]


@pytest.fixture
def two(tmp_path):
    """Two stores, each with a run of F whose end has an artifact x that says which store it is."""
    paths = []
    for name in ("one", "two"):
        store = opening.ensure_store(tmp_path / f"{name}.db")
        task_with(store, x=name)
        store.close()
        paths.append(store.path)
    return paths


def test_a_store_finds_what_is_in_it(everyone):
    """Flows, and objects of each kind by their addresses; what they hold is of the same store."""
    with open_store(everyone.path, namespace=None) as store:
        assert ids(store.flows()) == ["F", "G"]
        assert store.flow("F") == Flow("F")
        assert store.run("F/5") == Run("F/5")
        task = store.step("F/1/start").task
        assert store.task(task.pathspec) == task
        assert store.task(task.pathspec, attempt=0).current_attempt == 0
        assert store.artifact(f"{task.pathspec}/x").data == store.run("F/1")["start"].task.data.x == 1
        assert (store.path, store.namespace) == (everyone.path, None)
        assert store.sql("select count(*) as runs from runs") == [{"runs": 5}]
        with pytest.raises(FlowstoreError, match="Only reading is allowed"):
            store.sql("delete from runs")
    assert [file.name for file in everyone.path.parent.glob("flowstore.db*")] == ["flowstore.db"]


def test_what_was_closed_is_opened_again(two):
    """An object that outlives its store opens the file at its next question."""
    with open_store(two[0], namespace=None) as store:
        run = store.run("F/1")
    assert run.data.x == "one"


def test_a_store_keeps_to_its_own_namespace(anne):
    """Its objects see the namespace that it was opened with, and so do theirs; the process's is another matter."""
    with open_store(anne.path, namespace="user:will") as will, open_store(anne.path) as own:
        assert own.namespace == "user:anne"
        for _ in range(2):
            assert (ids(will.flow("F")), ids(own.flow("F")), len(will.flows()), len(own.flows())) == (
                ["2"], ["5", "4", "1"], 1, 2,
            )  # fmt: skip
            assert ids(will.run("F/2").parent) == ["2"]
            assert "5" not in will.flow("F")
            assert ids(will.run("F/2").steps("blue"))
            namespace("blue")
        with pytest.raises(NamespaceMismatch, match=r"Open the store with namespace='user:anne' or namespace=None\."):
            will.run("F/5")
        with pytest.raises(NamespaceMismatch, match=r"has no run in the namespace 'user:will'"):
            will.flow("G")
        assert ids(Flow("F")) == ["2", "1"]
        with pytest.raises(FlowstoreError, match="A namespace is a tag"):
            open_store(anne.path, namespace="")


def test_a_file_that_is_no_store_is_refused_at_once(tmp_path):
    """As by `use_store`."""
    with pytest.raises(StoreNotFound, match="nowhere"):
        open_store(tmp_path / "nowhere.db")


def test_trusting_a_store_is_for_that_object(everyone, monkeypatch, tmp_path):
    """`trust` lets the pickles of one store object be loaded, and of no other."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "other"))
    with (
        open_store(everyone.path, namespace=None, trust=True) as trusting,
        open_store(everyone.path, namespace=None) as other,
    ):
        assert trusting.run("F/1").data.f() == 42
        with pytest.raises(flowstore.UntrustedArtifact):
            _ = other.run("F/1").data.f
        with pytest.raises(flowstore.UntrustedArtifact):
            _ = Run("F/1").data.f


def test_pickled_objects_keep_their_store_and_namespace(two, everyone):
    """In another process they look into the file and the namespace that they came from."""
    use_store(two[0])
    with open_store(everyone.path, namespace="user:will") as store:
        pickled = pickle.dumps([store.flows(), store.flow("F"), store.run("F/2"), store])
    flows, flow, run, store = pickle.loads(pickled)
    assert store.run("F/2") == run
    assert (ids(flows), ids(flow), run.data.x) == (["F"], ["2"], 2)
    assert ids(pickle.loads(pickle.dumps(flow))) == ["2"]
    assert flow.latest_run == run


def test_two_namespaces_of_one_store_in_two_threads(everyone):
    """Each sees its own all the time, while the process's namespace is switched to and fro."""
    expected = {"user:anne": ["5", "4", "1"], "user:will": ["2"], "blue": ["2", "1"], None: ["5", "4", "2", "1"]}
    barrier = threading.Barrier(len(expected) + 1)
    seen, problems = [], []

    def look(tag):
        try:
            with open_store(everyone.path, namespace=tag) as store:
                barrier.wait()
                for n in range(150):
                    flow = store.flow("F")
                    assert ids(flow) == expected[tag]
                    run = flow.latest_run
                    assert run.id == expected[tag][0]
                    assert ids(run) == ids(run.steps())
                    assert run.data.x == 2
                    for other in ("1", "2"):
                        assert (other in flow) == (other in expected[tag])
                    assert ids(run["start"].task.artifacts)
                    if n % 50 == 0:
                        store.close()
                seen.append(tag)
        except BaseException as error:
            problems.append(error)
            raise

    threads = [threading.Thread(target=look, args=(tag,)) for tag in expected]
    for thread in threads:
        thread.start()
    barrier.wait()
    while any(thread.is_alive() for thread in threads):
        for tag in expected:
            namespace(tag)
    for thread in threads:
        thread.join()
    assert problems == []
    assert set(seen) == set(expected)


def test_two_stores_in_several_threads(two):
    """Threads that open, read and close two files at once never see the other's values; both are one file at rest."""
    barrier = threading.Barrier(6)
    problems = []

    def look(path):
        try:
            barrier.wait()
            for _ in range(60):
                with open_store(path, namespace=None) as store:
                    run = store.run("F/latest")
                    assert run.data.x == path.stem
                    assert run["end"].task["x"].parent.parent.parent.parent.latest_run.data.x == path.stem
                    assert store.sql("select count(*) as runs from runs") == [{"runs": 1}]
        except BaseException as error:
            problems.append(error)
            raise

    threads = [threading.Thread(target=look, args=(two[n % 2],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for path in two:
        assert [file.name for file in path.parent.glob(f"{path.name}*")] == [path.name]


def test_threads_that_write_and_read_one_store(two):
    """A tag that one thread adds is there in the others at their next question; nothing is lost, nothing is locked."""
    problems = []

    def tag(name):
        try:
            with open_store(two[0], namespace=None) as store:
                run = store.run("F/1")
                for n in range(15):
                    run.add_tag(f"{name}{n}")
                    assert f"{name}{n}" in store.run("F/1").user_tags
        except BaseException as error:
            problems.append(error)
            raise

    threads = [threading.Thread(target=tag, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with open_store(two[0], namespace=None) as store:
        assert {f"{name}{n}" for name in "abc" for n in range(15)} <= store.run("F/1").user_tags


def test_a_copied_store_is_another_one(everyone, tmp_path):
    """Objects are equal by address and file; the namespace is no part of what they are."""
    copy = shutil.copy(everyone.path, tmp_path / "copy.db")
    with open_store(copy, namespace=None) as other, open_store(everyone.path, namespace="user:anne") as own:
        assert own.run("F/1") == Run("F/1") != other.run("F/1")
        assert hash(own.run("F/1")) == hash(Run("F/1"))
        with pytest.raises(NotFound):
            other.run("F/99")
