"""Stores of every schema version: read as they are, migrated by the first write, then as good as new.

`stores/vN.db.gz` was written by the flowstore of its time, where `stores/flow.py` was run as `told_story` does. No
release ever made versions 4 and 5 by themselves: these are stores of version 3 with one and two more migrations.
`stores/v6-0.1.0.db.gz` was written by flowstore 0.1.0 on Python 3.11, where `stores/kinds.py` was run and deployed.
"""

from __future__ import annotations

import contextlib
import gzip
import pickle
import re
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

import flowstore
from flowstore import context
from flowstore.cards import get_cards
from flowstore.errors import FlowstoreError, UntrustedArtifact
from flowstore.maintenance import check as checking
from flowstore.maintenance import vacuum
from flowstore.sqlite.user_sql import ask
from flowstore.store import opening, schema
from support.cli import Script, command
from support.flows import LINEAR, flow_source
from support.stores import schema_of, untouched

STORES = Path(__file__).parents[1] / "stores"
VERSIONS = range(1, schema.SCHEMA_VERSION + 1)
SOURCE = (STORES / "flow.py").read_text("utf-8")

READING = (
    ["runs"], ["runs", "--tag", "blue", "--json"], ["runs", "--status", "failed"], ["tags"], ["namespaces"],
    ["search", "blue"], ["note", "Old/1"],
    ["show", "Old/1"], ["show", "Old/1/start/1"], ["logs", "Old/1"], ["get", "Old/1/start/1/metrics"],
    ["get", "Old/1/start/1/large"], ["sql", "select * from object_tags"], ["schema"], ["deployments"],
    ["diff", "Old/1", "Old/3"], ["check", "--deep"], ["delete", "Old/1", "--dry-run"], ["export", "out.db", "--force"],
)  # fmt: skip
WRITING = (
    ["import", "other.db"], ["delete", "Old/1", "--yes"], ["vacuum"], ["check", "--deep", "--repair"],
    ["check", "--deep"], ["runs"],
)  # fmt: skip


def told_story(script, *, deployed):
    """What each store holds: a run, one that failed, one that resumed it; tags; a deployment and its run."""
    script("run", "--tag", "blue", "--tag", "best", "--max-workers", "1")
    script("run", "--alpha", "0.25", "--fail", "true", "--max-workers", "1", expect=1)
    (script.folder / "mended").touch()
    script("resume", "--tag", "second", "--max-workers", "1")
    script("tag", "add", "seen", "--run-id", "1")
    [body] = script.sql("select min(task_id) from task_summary where run_id = 1 and step = 'body'")
    script("tag", "add", "odd one", "--pathspec", f"1/body/{body}")
    script("tag", "add", "thing", "--pathspec", "1/start/1/metrics")
    if deployed:
        script("deploy", "create")
        script("deploy", "trigger", "--alpha", "0.75")


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """The same story, told by this version."""
    folder = tmp_path_factory.mktemp("new")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTORE_HOME", str(folder / "home"))
        patch.setenv("FLOWSTORE_USER", "tester")
        script = Script(folder, SOURCE)
        told_story(script, deployed=True)
    script.check()
    return script.db


@pytest.fixture
def old(tmp_path):
    """Gives a copy of the store of a version, in the test's folder."""

    def unpack(version, name="flowstore.db"):
        (tmp_path / name).write_bytes(gzip.decompress((STORES / f"v{version}.db.gz").read_bytes()))
        return tmp_path / name

    return unpack


QUESTIONS = {
    "runs": "select run_id, flow, user, status, parameters, tasks, failed_tasks, origin_run_id from run_summary",
    "tasks": "select run_id, step, foreach_index, status, attempts, origin_pathspec is null from task_summary",
    "artifacts": """select run_id, step, name, type, codec, value, sha, substr(preview, 1, 100) from artifact_values
                    where codec not in ('pickle', 'typed-json')""",
    "pickled once": """select run_id, step, name, replace(type, 'flowstore.client.task.', 'flowstore.')
                       from artifact_values
                       where codec in ('pickle', 'typed-json')""",  # it may have a safer form and another name now
    "tags": "select kind, run_id, step, artifact, tag, own from object_tags where not system",
    "whose": "select run_id, tag from object_tags where kind = 'run' and system and tag like 'user:%'",
    "logs": "select run_id, step, group_concat(text, '') from task_logs where stream = 'stdout' group by run_id, step",
    "lineage": """select c.run_id, c.step, p.step, count(*) from lineage l join task_summary c using (task_id)
                  join task_summary p on p.task_id = l.parent_task_id group by 1, 2, 3""",
}

NEW_QUESTIONS = {  # of columns and views that an older file has only where flowstore reads it, or has migrated it
    "metrics": """select run_id, step, artifact, name, number, final from metrics
                  where artifact <> 'pickled' and run_id < 4""",
    "numbers": """select run_id, step, name, exact, number from artifact_values
                  where codec not in ('pickle', 'typed-json') and run_id < 4""",
    "failures": """select r.run_id, t.step, r.error as first, t.error as last, r.note
                   from run_summary r join task_summary t using (run_id) where r.run_id < 4""",
}


def answers(path):
    """What flowstore answers to the new questions."""
    with contextlib.closing(opening.open_store(path)) as store:
        return {
            name: sorted(repr([*row.values()]) for row in ask(store, sql, untrusted=False))
            for name, sql in NEW_QUESTIONS.items()
        }


def facts(path):
    """What the first three runs of a store are, without what differs each time: times, processes, ids of tasks."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        found = {name: sorted(map(repr, connection.execute(sql))) for name, sql in QUESTIONS.items()}
    position = {"tags": 1}
    return {
        name: [row for row in rows if row.split(",")[position.get(name, 0)].strip("( ") in "123"]
        for name, rows in found.items()
    }


def definitions(path):
    """The schema of a store but for comments, which stay in an old file as they were."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return schema_of(connection.backup, comments=False)


def ran(path, args):
    """Run a `flowstore` command in this process; gives what it printed."""
    done = command("--store", path, *args)
    return done.stdout + done.stderr


def test_there_is_a_store_of_each_version():
    """A new migration comes with a store that was made before it."""
    assert [path.name for path in sorted(STORES.glob("v?.db.gz"))] == [f"v{version}.db.gz" for version in VERSIONS]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_store_is_read_as_it_is(version, old, new):
    """Client, commands and SQL find in an old store what a new one has; not one byte of it is written."""
    path = old(version)
    assert facts(path) == facts(new)
    with untouched(path.parent):
        assert answers(path) == answers(new)
        flowstore.use_store(path, trust=True)
        flowstore.namespace(None)
        run = flowstore.Run("Old/1")
        assert (run.status, run.data.answer, run["start"].task.data.pickled) == ("successful", 3, (1, 2))
        assert run["start"].task.stdout == "hello\nworld\n"
        assert run.code.flowspec == SOURCE
        assert [each.id for each in flowstore.Flow("Old").runs("blue", "best")] == ["1"]
        assert flowstore.Flow("Old").latest_successful_run.id == ("3" if version == 1 else "4")
        context.state.store.close()
        with contextlib.closing(opening.open_store(path)) as store:
            assert store.version == version
        for args in READING[:-1]:
            ran(path, args)
    ran(path, READING[-1])
    assert facts(path.parent / "out.db") == facts(new)
    assert answers(path.parent / "out.db") == answers(new)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.quick("1", "5", "7")
def test_an_old_store_is_migrated_by_the_first_write(version, old, new):
    """One tag brings an old store to the newest schema, the same as a new store's, and changes nothing else."""
    path = old(version)
    flowstore.use_store(path)
    flowstore.namespace(None)
    flowstore.Run("Old/2").add_tag("later")
    flowstore.Run("Old/2").remove_tag("later")
    context.state.store.close()
    assert definitions(path) == definitions(new)
    assert facts(path) == facts(new)
    assert answers(path) == answers(new)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select count(*) from backlog").fetchone() == (0,)
    with contextlib.closing(opening.open_store(path)) as store:
        assert checking.check(store, deep=True).problems == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.quick("5", "7")
def test_an_old_store_that_another_process_migrates(version, old, tmp_path):
    """Whoever has it open meanwhile reads what is new in it, and loses nothing of it when they write."""
    path = old(version)
    flowstore.use_store(path)
    flowstore.namespace(None)
    assert flowstore.Run("Old/1").note is None
    script = Script(tmp_path, flow_source(LINEAR, start="@card(type='blank')"))
    script("--store", path, "run")
    script.flowstore("note", "Old/1", "seen", "--store", path)
    assert flowstore.Run("Old/1").note == "seen"
    task = flowstore.Flow("F").latest_run["start"].task
    assert len(get_cards(task)) == 1
    vacuum.vacuum(context.state.store)
    assert "<html" in get_cards(task)[0].get()
    context.state.store.close()
    script.flowstore("check", "--deep", "--store", path)


@pytest.mark.parametrize("version", VERSIONS)
def test_all_commands_work_on_an_old_store(version, old, new, tmp_path):
    """Runs, resumes, deployments, imports, deletes and vacuums go on where an old flowstore left off."""
    path = old(version)
    shutil.copy(new, tmp_path / "other.db")
    script = Script(tmp_path, SOURCE)
    flowstore.use_store(path)
    flowstore.namespace(None)
    if version < 7:
        with pytest.raises(FlowstoreError, match="pickle"):  # another home's key signed it
            flowstore.DataArtifact("Old/1/start/1/pickled").data  # noqa: B018
    context.state.store.close()
    if version == 1:
        script("deploy", "create")
        script("deploy", "trigger")
    else:
        assert "deployed by      tester" in script("deploy", "show").stdout
    (tmp_path / "mended").touch()
    ran(path, ["trust", str(path)])
    script("resume", "--origin-run-id", "2")
    assert len(script.sql("select 1 from runs")) == 5
    for args in WRITING:
        ran(path, args)
    assert script.sql("select count(*) from run_summary where run_id = 1") == [0]
    script.check()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.quick("1", "5", "7")
def test_an_old_store_is_imported(version, old, new, tmp_path):
    """The runs of an old file arrive in a new store as they were, without a change to the old one."""
    source = old(version, "source.db")
    before = source.read_bytes()
    ran(tmp_path / "target.db", ["import", str(source)])
    assert source.read_bytes() == before
    arrived, expected = facts(tmp_path / "target.db"), facts(new)
    users = [re.sub("@[0-9a-f]{8}", "", row) for row in arrived.pop("whose")]  # a stranger's file: kept apart
    assert (users, arrived) == (expected.pop("whose"), expected)
    assert answers(tmp_path / "target.db") == answers(new)


PLAIN_METRICS = [("metrics.accuracy", 0.5, 1), ("sum", 2.0, 1), ("val/loss", 0.75, 1)]
PICKLED_METRICS = [
    ("nested.scores.0", 0.25, 1), ("nested.scores.1", 0.75, 1), ("pair.0", 1.0, 1), ("pair.1", 2.5, 1),
    ("scalar", 0.125, 1), ("whole", 7.0, 1),
]  # fmt: skip


@pytest.fixture
def kinds(old):
    """The store of 0.1.0 whose artifacts are of many kinds."""
    return old("6-0.1.0")


def metrics_of(path, run_id=1):
    """The metrics of a run that are numbers in the order of their names."""
    with contextlib.closing(opening.open_store(path)) as store:
        found = ask(
            store, f"select name, number, final from metrics where run_id = {run_id} order by name", untrusted=False
        )
        return [tuple(row.values()) for row in found if not row["name"].startswith("problem")]


def start_of(path, *, trust):
    """The data of the first run's start task."""
    flowstore.use_store(path, trust=trust)
    flowstore.namespace(None)
    return flowstore.Run("Kinds/1")["start"].task.data


def test_what_0_1_0_stored_plainly_is_read_without_trust(kinds):
    """Metrics, and an artifact whose name has a slash; pickles are refused, and nothing is written."""
    with untouched(kinds.parent):
        assert metrics_of(kinds) == PLAIN_METRICS
        data = start_of(kinds, trust=False)
        assert (data.metrics, getattr(data, "val/loss")) == ({"accuracy": 0.5}, 0.75)
        for name in ("pair", "model", "kind_of_model"):
            with pytest.raises(UntrustedArtifact):
                getattr(data, name)
        context.state.store.close()


def test_a_frame_of_0_1_0_has_its_periods(kinds):
    """Its index is what it was when it was written."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = start_of(kinds, trust=False).frame
    assert list(frame["x"]) == [1, 2, 3]
    assert frame.index.equals(pandas.period_range("2026-01", periods=3, freq="M"))


def test_the_pickles_of_0_1_0_are_loaded_where_they_are_trusted(kinds):
    """Tuples, what `@catch` left, and NumPy's numbers are equal to what they were, and of the same types."""
    numpy = pytest.importorskip("numpy")
    data = start_of(kinds, trust=True)
    assert (data.pair, data.nested) == ((1, 2.5), {"scores": (0.25, 0.75), 1: "one"})
    assert (type(data.scalar), data.scalar, type(data.whole), data.whole) == (numpy.float64, 0.125, numpy.int64, 7)
    problem = flowstore.Run("Kinds/1")["fails"].task.data.problem
    assert type(problem) is flowstore.ExceptionInfo
    assert (problem.type, problem.message) == ("KeyError", repr("no\nmore"))


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="a class by value holds the bytecode of Python 3.11")
def test_the_flow_s_classes_of_0_1_0_are_loaded_where_they_are_trusted(kinds):
    """An object and its class, which are one class in this process."""
    data = start_of(kinds, trust=True)
    assert data.model.predict(4) == 2.0
    assert type(data.model) is data.kind_of_model


def test_what_0_1_0_pickled_is_measured_by_vacuum(kinds):
    """After a migration, without a change to what was there, and only where the store is trusted."""
    flowstore.use_store(kinds)
    flowstore.namespace(None)
    flowstore.Run("Kinds/1").add_tag("later")
    context.state.store.close()
    assert metrics_of(kinds) == PLAIN_METRICS
    ran(kinds, ["vacuum"])
    assert metrics_of(kinds) == PLAIN_METRICS
    ran(kinds, ["trust", str(kinds)])
    ran(kinds, ["vacuum"])
    assert metrics_of(kinds) == sorted(PLAIN_METRICS + PICKLED_METRICS) == metrics_of(kinds, 2)
    with contextlib.closing(opening.open_store(kinds)) as store:
        assert checking.check(store, deep=True).problems == []


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="a class by value holds the bytecode of Python 3.11")
def test_a_flow_of_0_1_0_is_resumed_and_its_deployment_shown(kinds, tmp_path):
    """Its objects reach the end task as instances of the flow's own class."""
    source = (STORES / "kinds.py").read_text("utf-8")
    script = Script(
        tmp_path, source.replace("self.model.predict(4)", "self.model.predict(4) + isinstance(self.model, Model)")
    )
    ran(kinds, ["trust", str(kinds)])
    assert "deployed by      tester" in script("deploy", "show").stdout
    script("resume", "end", "--origin-run-id", "1")
    assert script.sql("select number from metrics where run_id = 3 and name = 'sum'") == [3.0]
    script.check()


@pytest.mark.parametrize(
    "name",
    [
        "flowstore.store.pickling _flow_class",
        "flowstore.store.pickling _lru_cached",
        "flowstore.client.task ExceptionInfo",
        "flowstore.run.task Gang",
    ],
)
def test_names_in_stored_pickles_can_be_imported(name):
    """They are part of the file format: pickles that earlier versions wrote hold them."""
    assert pickle.loads(b"c%s\n%s\n." % tuple(map(str.encode, name.split())))
