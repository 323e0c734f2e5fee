"""Results are found again by pathspec, by iteration, by namespace and tag."""

from __future__ import annotations

import pytest

import flowstore
from flowstore import (
    DataArtifact,
    Flow,
    Flows,
    InvalidPathspec,
    NamespaceMismatch,
    NotFound,
    Run,
    Step,
    Task,
    context,
    namespace,
    open_store,
)
from flowstore.client.addresses import FORMS
from flowstore.store.opening import ensure_store
from support.stores import task_with


def ids(objects):
    return [found.id for found in objects]


# --- addresses


def test_flows_are_listed_by_name(everyone):
    """Flows() iterates over all flows, has a length, and supports [name] and `in`."""
    assert ids(Flows()) == ["F", "G"]
    assert len(Flows()) == 2
    assert Flows()["G"] == Flow("G")
    assert "F" in Flows()
    assert "H" not in Flows()
    assert 1 not in Flows()


def test_containers_are_iterated_newest_first(everyone):
    """Runs, steps and tasks come newest first, artifacts by name."""
    assert ids(Flow("F")) == ids(Flow("F").runs()) == ["5", "4", "2", "1"]
    assert ids(Run("F/1")) == ids(Run("F/1").steps()) == ["end", "join", "body", "start"]
    assert [task.index for task in Step("F/1/body")] == [2, 1, 0]
    assert ids(Run("F/1")["end"].task) == ["LEVEL", "alpha", "f", "fail", "x", "xs", "ys"]


def test_ids_may_be_text_or_numbers(everyone):
    """[id] and `in` take both, on flows and steps; names of steps and artifacts are text."""
    task = Step("F/1/end").task
    assert Flow("F")["1"] == Flow("F")[1] == Run("F/1")
    assert Step("F/1/end")[task.id] == Step("F/1/end")[int(task.id)] == task
    assert 1 in Flow("F")
    assert "1" in Flow("F")
    assert int(task.id) in Step("F/1/end")
    assert "start" in Run("F/1")
    assert Run("F/1")["start"].task["x"].data == 1
    missing_ones = [(missing, Flow("F")) for missing in (3, "99", "x", None)]
    for missing, container in [*missing_ones, ("nosuch", Run("F/1"))]:
        assert missing not in container
        with pytest.raises((NotFound, InvalidPathspec)):
            container[missing]
    assert "nosuch" not in task
    assert 1 not in task


def test_every_object_has_its_address_and_parent(everyone):
    """pathspec, path_components, id and parent lead from an artifact up to its flow."""
    task = Step("F/1/start").task
    artifact = DataArtifact(f"{task.pathspec}/x")
    assert artifact.pathspec == f"F/1/start/{task.id}/x"
    assert artifact.path_components == ["F", "1", "start", task.id, "x"]
    chain = [artifact]
    while chain[-1] is not None:
        chain.append(chain[-1].parent)
    assert chain[1:] == [task, Step("F/1/start"), Run("F/1"), Flow("F"), None]
    assert ids(chain[:-1]) == ["x", task.id, "start", "1", "F"]


def test_parent_never_raises(anne):
    """An object's parent is there also outside of the namespace."""
    with namespace_of(None):
        artifact = Step("F/2/start").task["x"]
    assert artifact.parent.parent.parent.parent == Flow("F")
    assert artifact.parent.parent.parent.pathspec == "F/2"


def namespace_of(tag):
    return context.within(tag)


MISSING = [
    (Flow, "H"), (Flow, "f"), (Run, "F/99"), (Run, "F/3"), (Run, "G/1"), (Run, "F/x"), (Run, "F/1.0"), (Run, "F/-1"),
    (Run, "F/01"), (Run, "F/ 1"), (Run, "F/٣"), (Run, f"F/{10**30}"), (Run, "F/" + "9" * 5000), (Step, "F/1/nosuch"),
    (Step, "F/99/start"), (Step, "G/1/start"), (Task, "F/1/start/99"), (Task, "F/1/end/1"), (Task, "F/1/start/x"),
    (Task, "F/1/start/01"), (DataArtifact, "F/1/start/1/nosuch"), (DataArtifact, "F/1/start/99/x"),
    (DataArtifact, "F/2/start/1/x"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "pathspec"), MISSING, ids=lambda value: str(value)[:30])
def test_what_does_not_exist_is_not_found(everyone, kind, pathspec):
    """Addressing what doesn't exist anywhere is NotFound, which names it and is a KeyError."""
    with pytest.raises(NotFound) as caught:
        kind(pathspec)
    assert pathspec.split("/")[-1][:100] in str(caught.value)
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize("kind", [Flow, Run, Step, Task, DataArtifact])
@pytest.mark.parametrize("pathspec", ["", "/", "F/1/start/1/x/more", "F//start", 5, None, "F/"])
def test_what_is_no_pathspec_is_invalid(everyone, kind, pathspec):
    """Text of the wrong depth, and what isn't text, is InvalidPathspec, which shows the form."""
    with pytest.raises(InvalidPathspec, match=FORMS[kind._DEPTH]):
        kind(pathspec)


MISTAKEN = [(Run, "F"), (Flow, "F/1"), (Step, "F/1"), (Task, "F/1/start"), (DataArtifact, "F/1/start/1")]


@pytest.mark.parametrize(("kind", "pathspec"), MISTAKEN)
def test_a_pathspec_of_another_kind_is_invalid(everyone, kind, pathspec):
    """A run's pathspec doesn't address a step, and so on."""
    with pytest.raises(InvalidPathspec):
        kind(pathspec)


# --- latest, and what may be left out


def test_latest_stands_for_the_newest_run(anne):
    """In constructors too: of the namespace, and with the run's own id as the object's address."""
    assert Run("F/latest").pathspec == Run("F/latest-successful").pathspec == Flow("F")["latest"].pathspec == "F/5"
    assert Step("F/latest/start") == Step("F/5/start")
    body = max(int(task.id) for task in Step("F/5/body"))
    assert (
        Task("F/latest/body/latest").pathspec == DataArtifact("F/5/body/latest/y").parent.pathspec == f"F/5/body/{body}"
    )
    namespace("late")
    assert Run("F/latest").id == "4"
    with pytest.raises(
        NamespaceMismatch, match=r"no successful run in the active namespace, 'late'.*namespace\(None\)"
    ):
        Run("F/latest-successful")
    with open_store(anne.path, namespace="user:will") as store:
        assert store.run("F/latest").id == store.run("F").id == "2"


def test_a_short_address_is_of_what_exists_under_that_name(tmp_path):
    """A step comes before an artifact of the end task that has its name, where both are meant."""
    store = ensure_store(tmp_path / "named.db")
    task_with(store, end=1, metrics=2)
    store.close()
    with open_store(store.path, namespace=None) as results:
        end = results.step("F/latest/end").task
        assert results.find("F/1/end") == results.step("F/1/end")
        assert results.find("F/1/end", DataArtifact) == results.artifact("F/1/end") == end["end"]
        assert results.find("F/1/metrics") == results.find("F/latest/metrics") == end["metrics"]
        assert (results.find("F"), results.find("F", Run)) == (Flow._at(end._scope, "F"), results.run("F/1"))
        assert (
            results.find(end.pathspec) == results.find("F/1/end/latest") == results.task("F/latest/end/latest") == end
        )
        assert results.find("F/1/end/latest/metrics").data == 2


MISTYPED = [
    ("G2", "Did you mean 'G'?"), ("F/lates", "Did you mean 'latest'"), ("F/5/strat", "Did you mean 'start'?"),
    ("F/5/strat/17", "Did you mean 'start'?"), ("F/5/end/latest/alhpa", "Did you mean 'alpha'?"),
    ("F/5/alhpa", "Did you mean 'alpha'?"), ("F/4/strat", "Did you mean 'start'?"), ("F/5/start/latst", "'latest'?"),
]  # fmt: skip


@pytest.mark.parametrize(("address", "hint"), MISTYPED)
def test_a_name_that_is_mistyped_is_guessed(everyone, address, hint):
    """NotFound offers the names most like it."""
    with open_store(everyone.path, namespace=None) as store, pytest.raises(NotFound) as caught:
        store.find(address)
    assert hint in str(caught.value)


def test_the_constructors_guess_too(everyone):
    """Flows, steps and artifacts, by their names."""
    end = Step("F/1/end").task.pathspec
    for make, hint in [
        (lambda: Flow("FF"), "'F'"), (lambda: Step("F/1/strat"), "'start'"),
        (lambda: DataArtifact(f"{end}/alhpa"), "'alpha'"),
        (lambda: Task(end)["alhpa"], "'alpha'"),
    ]:  # fmt: skip
        with pytest.raises(NotFound, match=f"Did you mean {hint}"):
            make()


@pytest.mark.parametrize("address", ["", "/", "F//start", "F/5/start/", "a/b"])
def test_an_address_of_no_form_is_told_the_forms(everyone, address):
    """InvalidPathspec says which forms there are, of the kinds that are meant."""
    with open_store(everyone.path) as store:
        kinds = [Step, Task] if address == "a/b" else []
        with pytest.raises(InvalidPathspec) as caught:
            store.find(address, *kinds)
    for kind in kinds or [Flow, Run, Step, Task, DataArtifact]:
        assert FORMS[kind._DEPTH] in str(caught.value)
    assert "run_id may be latest or latest-successful" in str(caught.value)


def test_a_run_without_an_end_has_no_short_addresses(everyone):
    """The message says what to add."""
    with open_store(everyone.path) as store, pytest.raises(NotFound, match="It has no end task"):
        store.artifact("F/4/x")


# --- namespaces


def test_the_default_namespace_is_the_user_s_own(anne, monkeypatch):
    """Each user sees the own runs; $FLOWSTORE_USER says who that is."""
    assert flowstore.get_namespace() == "user:anne"
    assert ids(Flow("F")) == ["5", "4", "1"]
    monkeypatch.setenv("FLOWSTORE_USER", "will")
    assert ids(Flow("F")) == ["2"]
    assert ids(Flows()) == ["F"]
    assert Flow("F").latest_run == Run("F/2")


OUTSIDE = [(Run, "F/2"), (Step, "F/2/start"), (Task, "F/2/start/{}"), (DataArtifact, "F/2/start/{}/x")]


@pytest.mark.parametrize(("kind", "pathspec"), OUTSIDE)
def test_what_is_outside_is_a_mismatch_that_says_how_to_switch(anne, kind, pathspec):
    """NamespaceMismatch names the object, the active namespace and both calls that would switch."""
    with namespace_of(None):
        pathspec = pathspec.format(Step("F/2/start").task.id)
    with pytest.raises(NamespaceMismatch) as caught:
        kind(pathspec)
    for part in (pathspec, "'user:anne'", 'namespace("user:will")', "namespace(None)"):
        assert part in str(caught.value)
    namespace("user:will")
    assert kind(pathspec).pathspec == pathspec


def test_items_outside_are_a_mismatch_too(anne, monkeypatch):
    """[id] raises what the constructor raises; `in` says no."""
    with pytest.raises(NamespaceMismatch):
        Flow("F")["2"]
    assert "2" not in Flow("F")
    with pytest.raises(NotFound):
        Flow("F")["3"]
    monkeypatch.setenv("FLOWSTORE_USER", "will")
    with pytest.raises(NamespaceMismatch, match="G"):
        Flow("G")
    assert "G" not in Flows()
    with pytest.raises(NotFound):
        Flow("H")


def test_a_tag_is_a_namespace(everyone):
    """Any tag can be one, whoever ran it."""
    namespace("blue")
    assert ids(Flow("F")) == ["2", "1"]
    assert ids(Flows()) == ["F"]
    with pytest.raises(NamespaceMismatch):
        Run("F/4")


def test_an_empty_listing_hints_at_the_global_namespace(everyone):
    """Where a namespace holds nothing but the store does, the listing says so."""
    namespace("user:nobody")
    assert list(Flows()) == []
    assert "namespace(None)" in repr(Flows())
    namespace("blue")
    assert list(Flow("F").runs("late")) == []


def test_a_namespace_is_a_tag_or_none(everyone):
    """Anything else is refused and changes nothing."""
    for wrong in ("", 5, b"user:anne"):
        with pytest.raises(flowstore.FlowstoreError):
            namespace(wrong)
    assert flowstore.get_namespace() is None
    assert namespace("a") == flowstore.get_namespace() == "a"
    assert flowstore.default_namespace() == "user:anne"
