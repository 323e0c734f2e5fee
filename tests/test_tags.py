"""Tags: changing them, inheriting them, finding by them. What is asked of the store is what a plain model answers."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from contextlib import contextmanager
from itertools import combinations, islice, product

import attrs
import pytest
from harness import LINEAR, Script, flow_source
from hypothesis import given, settings
from hypothesis import strategies as st

import flowstore
from flowstore import (
    DataArtifact,
    Flow,
    Flows,
    FlowstoreError,
    InvalidPathspec,
    NamespaceMismatch,
    NotFound,
    Run,
    Step,
    TaggingError,
    Task,
    context,
    namespace,
)
from flowstore.store import blobs, queries, records, tags
from flowstore.store.codecs import encode
from flowstore.store.db import ensure_store
from flowstore.store.locate import active_store
from flowstore.store.tags import Node
from flowstore.transfer.delete import candidates, delete

SYSTEM = ("runtime:local", "python_version:3", "flowstore_version:0")
KINDS = {
    "run": lambda: Run("F/1"),
    "step": lambda: Step("F/1/start"),
    "task": lambda: Task("F/1/start/1"),
    "artifact": lambda: DataArtifact("F/1/start/1/x"),
}
every_kind = pytest.mark.parametrize("find", KINDS.values(), ids=KINDS)
every_pair = pytest.mark.parametrize(("above", "below"), list(combinations(KINDS, 2)))


def add_run(db, store, *, flow="F", user="tester", given=(), status="successful", steps=(("start", 2), ("end", 1))):
    """Insert a run with its steps, so many tasks of each, and an artifact `x` of each task; gives its id."""
    new = records.NewRun(flow, user, {}, [], None, [f"user:{user}", *SYSTEM], given)
    run_id = records.create_run(db, new)
    for name, count in steps:
        step_id = records.ensure_step(db, run_id, name)
        for _ in range(count):
            task_id = records.start_task(db, run_id, step_id, [], None, None)
            blob_id = blobs.put(db, store, encode(name))
            attempt_id = records.start_attempt(db, task_id, 0)
            records.finish_attempt(db, task_id, attempt_id, "successful", artifacts=[("x", blob_id, 0)])
    if status != "running":
        records.finish_run(db, run_id, status)
    return run_id


def new_run(**what):
    """Insert a run into the active store."""
    store = active_store()
    with store.write() as db:
        return add_run(db, store, **what)


@pytest.fixture
def script(flow):
    """A flow file `F`, and beside it a store with the run F/1: `start` with the tasks 1 and 2, `end` with 3."""
    made = flow(flow_source(LINEAR))
    ensure_store(made.db).close()
    flowstore.use_store(made.db)
    new_run()
    return made


def stored_tags(script):
    """All rows that say who has which tag."""
    return script.sql(
        """select kind, run_id, step, task_id, artifact, tag, system, own from object_tags
           order by kind, run_id, step, task_id, artifact, tag"""
    )


# --- changing tags


@every_kind
def test_adding_and_removing(find, script):
    """Each kind of object has the whole interface, and each call is seen at once, by this object and another."""
    found = find()
    for change, argument, left in (
        (found.add_tag, ["a"], {"a"}),
        (found.add_tags, [["b", "c"]], {"a", "b", "c"}),
        (found.remove_tag, ["a"], {"b", "c"}),
        (found.replace_tag, ["b", "d"], {"c", "d"}),
        (found.replace_tags, [["c", "d"], ["e", "f"]], {"e", "f"}),
        (found.remove_tags, [["e", "f"]], set()),
    ):
        assert change(*argument) is None
        assert found.user_tags == find().user_tags == left
        assert found.tags == find().tags == left | found.system_tags
    assert len(found.system_tags) == 5


@every_kind
@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, iter, dict.fromkeys])
def test_any_iterable_of_tags(kind, find, script):
    """Several tags are given as any iterable, also one that can be read once only."""
    found = find()
    found.add_tags(kind(["a", "b", "c"]))
    found.replace_tags(kind(["a", "b"]), kind(["d"]))
    assert found.user_tags == {"c", "d"}
    found.remove_tags(kind(["c", "d"]))
    found.add_tags(kind([]))
    assert found.user_tags == set()


PLACES = {
    "run": ("--run-id", "1"),
    "run's pathspec": ("--pathspec", "F/1"),
    "step": ("--pathspec", "1/start"),
    "task": ("--pathspec", "1/start/1"),
    "artifact": ("--pathspec", "1/start/1/x"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_command_line(place, script):
    """`tag add`, `tag remove` and both forms of `tag replace` do what the interface in Python does."""
    found = KINDS[("run", "run", "step", "task", "artifact")[len(place[1].removeprefix("F/").split("/"))]]()
    script("tag", "add", *place, "a", "b", "c")
    assert found.user_tags == {"a", "b", "c"}
    script("tag", "remove", "b", "c", *place)
    assert found.user_tags == {"a"}
    script("tag", "replace", *place, "a", "d")
    assert found.user_tags == {"d"}
    script("tag", "replace", *place, "--remove", "d", "--remove", "not there", "--add", "e", "--add", "f")
    assert found.user_tags == {"e", "f"}
    assert script("tag", "list", *place, "--hide-system-tags").stdout == "e\nf\n"


@pytest.mark.parametrize(
    "words",
    [
        ["add", "x"],
        ["add", "--run-id", "1"],
        ["add", "x", "--run-id", "1", "--pathspec", "1/start"],
        ["add", "x", "--run-id", "1/start"],
        ["add", "x", "--pathspec", "1/start/1/x/y"],
        ["replace", "--run-id", "1"],
        ["replace", "--run-id", "1", "only one"],
        ["replace", "--run-id", "1", "old", "new", "--add", "x"],
        ["list", "--flat", "--group-by-tag"],
        ["list", "--run-id", "1", "--all"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage(words, script):
    """Wrong usage is exit code 2, says why, and changes nothing."""
    before = stored_tags(script)
    assert script("tag", *words, expect=2).stderr
    assert stored_tags(script) == before


@pytest.mark.parametrize("words", [["add", "user:will"], ["add", "a", ""], ["remove", "user:tester"]], ids=" ".join)
def test_refusals_on_the_command_line(words, script):
    """What is refused is one message, exit code 1, and changes nothing."""
    before = stored_tags(script)
    result = script("tag", *words, "--run-id", "1", expect=1)
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    assert stored_tags(script) == before


def test_others_runs_are_tagged_in_their_namespace(script):
    """The namespace holds for changing tags, too: others' runs are tagged after switching."""
    new_run(user="will")
    assert "Run F/2 is not in the active namespace" in script("tag", "add", "--run-id", "2", "x", expect=1).stderr
    script("--namespace", "user:will", "tag", "add", "--run-id", "2", "x")
    script("tag", "add", "--run-id", "2", "y", "--namespace", "")
    namespace("user:will")
    assert Run("F/2").user_tags == {"x", "y"}


def test_inside_a_task(flow):
    """A task changes tags of its own run, and of what is below, while it runs."""
    script = flow(
        flow_source(
            LINEAR,
            start="""
                current.run.add_tag('of the run')
                current.task.add_tags(['of the task', 'wrong'])
                current.task.remove_tag('wrong')
                self.seen = sorted(current.task.user_tags)
                """,
            end="current.run['start'].task.artifacts.seen.add_tag('of the artifact')",
        )
    )
    script("run", "--tag", "given")
    run = script.client()
    assert run.data.seen == ["given", "of the run", "of the task"]
    assert run.user_tags == run["end"].task.user_tags == {"given", "of the run"}
    assert run["start"].task["seen"].user_tags == {"given", "of the run", "of the task", "of the artifact"}


def test_run_tags_from_the_environment(flow):
    """`$FLOWSTORE_RUN_TAGS` adds tags, separated by commas, to those of --tag."""
    script = flow(flow_source(LINEAR))
    script("run", "--tag", "a", "--tag", "b", "--tag", "a", FLOWSTORE_RUN_TAGS="b, c,,d e ")
    assert script.client().user_tags == {"a", "b", "c", "d e"}


@pytest.mark.parametrize("bad", ["", "user:will", "production:token", "x" * 501, b"\xff"], ids=repr)
def test_run_refuses_bad_tags(bad, flow):
    """A bad --tag is refused before there is a run."""
    script = flow(flow_source(LINEAR))
    done = subprocess.run([sys.executable, "flow.py", "run", "--tag", "good", "--tag", bad], capture_output=True)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ")
    assert b"Traceback" not in done.stderr
    assert script.sql("select count(*) from runs") == [0]


# --- inheritance

BELOW = {  # where a tag is set: what then has it, of what `everything` lists
    "run": {"run", "start", "start/1", "start/1/x", "start/2", "start/2/x", "end", "end/3", "end/3/x"},
    "step": {"start", "start/1", "start/1/x", "start/2", "start/2/x"},
    "task": {"start/1", "start/1/x"},
    "artifact": {"start/1/x"},
}


def everything():
    """All objects of F/1, by their path within it."""
    found = {"run": Run("F/1")}
    for step in found["run"]:
        for each in [step, *(task for task in step), *(artifact for task in step for artifact in task)]:
            found[each.pathspec.removeprefix("F/1/")] = each
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_tag_is_that_of_all_below(kind, script):
    """A tag added to an object is that object's and its descendants', and of nothing else, in Python and in SQL."""
    KINDS[kind]().add_tag("t")
    assert {path for path, each in everything().items() if "t" in each.tags} == BELOW[kind]
    rows = script.sql("select step, task_id, artifact, own from object_tags where tag = 't'")
    paths = {"/".join(str(part) for part in row[:3] if part is not None) or "run": row[3] for row in rows}
    own = {"run": "run", "step": "start", "task": "start/1", "artifact": "start/1/x"}[kind]
    assert paths == {path: int(path == own) for path in BELOW[kind]}
    assert len(rows) == len(paths)


def test_filtering_uses_inherited_tags(script):
    """Steps and tasks are found by all of several tags, whether own or inherited."""
    run = Run("F/1")
    run.add_tag("r")
    run["start"].add_tag("s")
    run["start"]["2"].add_tag("t")
    assert [step.id for step in run.steps("r")] == ["end", "start"]
    assert [step.id for step in run.steps("r", "s", "user:tester")] == ["start"]
    assert [task.id for task in run["start"].tasks("s", "r")] == ["2", "1"]
    assert [task.id for task in run["start"].tasks("t", "s", "r")] == ["2"]
    assert [list(run.steps("t")), list(run["start"].tasks("t", "u"))] == [[], []]


def test_a_tag_reaches_what_comes_later(script):
    """A task that starts after the tag was added has it as well, and so has a step that begins then."""
    Run("F/1").add_tag("r")
    Step("F/1/start").add_tag("s")
    with active_store().write() as db:
        later = records.start_task(db, 1, records.ensure_step(db, 1, "start"), [], None, None)
        records.start_task(db, 1, records.ensure_step(db, 1, "next"), [], None, None)
    assert Task(f"F/1/start/{later}").user_tags == {"r", "s"}
    assert Step("F/1/next").task.user_tags == Step("F/1/next").user_tags == {"r"}


@every_pair
def test_removing_what_is_inherited(above, below, script):
    """Removing an inherited tag from a descendant is an error that says where it is set; there it can be removed."""
    upper, lower = KINDS[above](), KINDS[below]()
    upper.add_tag("t")
    lower.add_tag("own")
    for change in (lambda: lower.remove_tags(["own", "t"]), lambda: lower.replace_tag("t", "u")):
        with pytest.raises(TaggingError) as caught:
            change()
        assert lower.pathspec in str(caught.value)
        assert f"it is set on {upper.pathspec};" in str(caught.value)
        assert lower.user_tags == {"own", "t"}
    upper.remove_tag("t")
    assert lower.user_tags == {"own"}


@every_pair
def test_own_and_inherited(above, below, script):
    """A tag that is set twice, below and then above, is one; taken from above, it is still there below."""
    upper, lower = KINDS[above](), KINDS[below]()
    lower.add_tag("t")
    upper.add_tag("t")
    assert lower.user_tags == {"t"}
    rows = script.sql(
        "select kind, step, task_id, artifact, count(*) from object_tags where tag = 't' group by 1,2,3,4"
    )
    assert {row[-1] for row in rows} == {1}
    upper.remove_tag("t")
    assert (upper.user_tags, lower.user_tags) == (frozenset(), {"t"})
    lower.remove_tag("t")
    assert lower.user_tags == frozenset()


def test_adding_what_is_inherited_changes_nothing(script):
    """Adding a tag below, that is set above, does not set it again: removing it above removes it."""
    Run("F/1").add_tag("t")
    before = stored_tags(script)
    Task("F/1/start/1").add_tag("t")
    assert stored_tags(script) == before
    Run("F/1").remove_tag("t")
    assert Task("F/1/start/1").user_tags == frozenset()


# --- what is refused

BAD = {
    "empty": "",
    "number": 1,
    "none": None,
    "bytes": b"a",
    "list": ["a"],
    "501 characters": "x" * 501,
    "501 emoji": "😀" * 501,
    "lone surrogate": "a\ud800",
    "user": "user:will",
    "bare user": "user:",
    "production": "production:token",
}


@every_kind
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_tags_change_nothing(bad, find, script):
    """One bad tag in a call is refused, with a message, and nothing of the call is done."""
    found = find()
    found.add_tag("old")
    before = stored_tags(script)
    for change in (
        lambda: found.add_tag(bad),
        lambda: found.add_tags(["good", bad]),
        lambda: found.add_tags([bad, "good"]),
        lambda: found.replace_tag("old", bad),
        lambda: found.replace_tags(["old"], ["good", bad]),
    ):
        with pytest.raises(TaggingError) as caught:
            change()
        str(caught.value).encode()
        assert stored_tags(script) == before


@every_kind
@pytest.mark.parametrize("bad", [v for v in BAD.values() if not str(v).startswith(("user:", "production:"))], ids=repr)
def test_removing_what_is_no_tag(bad, find, script):
    """What can't be a tag can't be removed either; a mistake is told, nothing is done."""
    find().add_tag("old")
    for change in (lambda: find().remove_tags(["old", bad]), lambda: find().replace_tags([bad], ["new"])):
        with pytest.raises(TaggingError):
            change()
        assert find().user_tags == {"old"}


@every_kind
@pytest.mark.parametrize("several", ["abc", b"abc", None, 7])
def test_one_text_is_not_several_tags(several, find, script):
    """`add_tags("abc")` is a mistake, not the tags a, b and c."""
    for change in (find().add_tags, find().remove_tags):
        with pytest.raises(TaggingError, match="list of tags"):
            change(several)
    assert find().user_tags == frozenset()


@every_kind
@pytest.mark.parametrize("tag", ["user:tester", "runtime:local", "python_version:3", "flowstore_version:0"])
def test_system_tags(tag, find, script):
    """Adding a system tag that is there is no error and changes nothing; removing one is refused."""
    before = stored_tags(script)
    find().add_tag(tag)
    find().add_tags([tag, tag])
    assert stored_tags(script) == before
    for change in (lambda: find().remove_tag(tag), lambda: find().replace_tag(tag, "x")):
        with pytest.raises(TaggingError, match="system tag of F/1"):
            change()
    assert stored_tags(script) == before


def test_a_system_tag_given_by_hand_stays_one(flow):
    """`--tag` with what flowstore sets anyway is no error, and does not make a user tag of it."""
    script = flow(flow_source(LINEAR))
    script("run", "--tag", "runtime:local")
    assert script.client().user_tags == frozenset()
    assert "runtime:local" in script.client().system_tags


@every_kind
def test_no_error(find, script):
    """Adding what is there, and removing what is not, is no error."""
    found = find()
    found.add_tags(["a", "a"])
    found.add_tag("a")
    found.remove_tag("not there")
    found.remove_tags(["user:nobody", "not there"])
    found.replace_tag("not there", "b")
    assert found.user_tags == {"a", "b"}
    found.replace_tag("a", "a")
    found.replace_tags(["a", "b"], ["b", "c"])
    assert found.user_tags == {"b", "c"}


def test_another_prefix_is_free(script):
    """Only user: and production: are reserved, as written."""
    free = ["User:will", "users", "user", "username:will", " user:will", "date:2020-06-01", "project:x", "runtime:mars"]
    Run("F/1").add_tags(free)
    assert Run("F/1").user_tags == set(free)


def test_text_of_a_derived_type(script):
    """A tag may be of a type derived from text, such as a member of an enumeration; it comes back as text."""

    class Stage(enum.StrEnum):
        DRAFT = "draft"

    Run("F/1").add_tag(Stage.DRAFT)
    assert [(tag, type(tag)) for tag in Run("F/1").user_tags] == [("draft", str)]
    assert [run.id for run in Flow("F").runs(Stage.DRAFT)] == ["1"]


def test_deleted_meanwhile(script):
    """What was deleted can't be tagged; the error says so."""
    objects = [find() for find in KINDS.values()]
    with active_store().write() as db:
        db.execute("delete from runs")
    for found in objects:
        with pytest.raises(NotFound, match="deleted"):
            found.add_tag("a")


def test_time_and_order_stay(script, monkeypatch):
    """Tagging never changes `created_at`, `finished_at` or the order of runs."""
    new_run()
    new_run(status="failed")

    def facts():
        runs = [(run.id, run.created_at, run.finished_at) for run in Flow("F")]
        return runs, [(each.pathspec, each.created_at) for each in everything().values()], Flow("F").latest_run

    before = facts()
    clock = records.now_ms
    monkeypatch.setattr(records, "now_ms", lambda: clock() + 10_000)
    for find in KINDS.values():
        find().add_tags(["a", "b"])
        find().replace_tag("a", "c")
        find().remove_tag("b")
    assert facts() == before
    namespace("c")
    assert Flow("F").latest_run.id == Flow("F").latest_successful_run.id == "1"


@pytest.mark.parametrize("status", ["successful", "failed", "stopped", "running"])
def test_a_tag_that_comes_later_knows_how_the_run_went(status, script):
    """The latest successful run by a tag is right, whether the tag came before or after the run's end."""
    run_id = new_run(given=["before"], status="running")
    if status != "running":
        with active_store().write() as db:
            records.finish_run(db, run_id, status)
    Run(f"F/{run_id}").add_tag("after")
    for tag in ("before", "after"):
        namespace(tag)
        expected = Run(f"F/{run_id}") if status == "successful" else None
        assert Flow("F").latest_successful_run == expected
        assert Flow("F").latest_run.status == status


# --- strange tags

STRANGE = {
    "500 characters": "x" * 500,
    "500 emoji": "😀" * 500,
    "quotes": 'it\'s a "tag" of `mine`',
    "percent": "100%",
    "underscore": "a_b",
    "newline": "two\nlines",
    "tab and return": "a\tb\r",
    "sql": "'); drop table tags; --",
    "nul": "a\0b",
    "backslash": "\\u0041\\",
    "json": '{"a": [1, null]}',
    "slash": "F/1/start",
    "comma": "a, b",
    "spaces": "  ",
    "dash": "--all",
    "escape": "\x1b[31mred",
    "right to left": "\u202egat",
    "number": "1",
    "combining": "e\u0301",
    "composed": "\u00e9",
    "upper": "ÉA",
    "noncharacter": "\uffff\U0010ffff",
}


def test_strange_tags(script):
    """Any text up to 500 characters is a tag, and means nothing but itself: to the Client, as a namespace, in SQL."""
    run = Run("F/1")
    run.add_tags(STRANGE.values())
    assert run.user_tags == set(STRANGE.values())
    new_run()
    for tag in STRANGE.values():
        context.state.namespace = context.DEFAULT
        assert [run.id for run in Flow("F").runs(tag)] == ["1"]
        namespace(tag)
        assert [run.id for run in Flow("F")] == ["1"]
        with pytest.raises(NamespaceMismatch):
            Run("F/2")
        assert script.sql("select run_id from object_tags where kind = 'run' and tag = ?", tag) == [1]
    context.state.namespace = context.DEFAULT
    in_view = json.loads(script.sql("select tags from run_summary where run_id = 1")[0])
    assert (set(in_view), len(in_view)) == (set(run.tags), len(run.tags))
    for tag in STRANGE.values():
        run.remove_tag(tag)
        assert tag not in run.user_tags
    assert run.user_tags == frozenset()


@pytest.mark.parametrize("like", ["a%", "A", "%", "_", "a*", "[a]", "a ", "a\0", "ab"])
def test_a_tag_is_no_pattern(like, script):
    """Filtering compares whole tags: no wildcards, no case folding, no trimming."""
    Run("F/1").add_tag("a")
    assert list(Flow("F").runs(like)) == []
    namespace(like)
    with pytest.raises(NamespaceMismatch):
        Flow("F")


def test_strange_tags_on_the_command_line(script):
    """Any text that a command line can carry is a tag there, too; control characters are not shown."""
    strange = [tag for tag in STRANGE.values() if "\0" not in tag]
    script("tag", "add", "--run-id", "1", "--", *strange)
    assert Run("F/1").user_tags == set(strange)
    shown = script("tag", "list", "--run-id", "1", "--hide-system-tags").stdout
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "'); drop table tags; --" in shown.splitlines()
    script("tag", "remove", "--run-id", "1", "--", *strange)
    assert Run("F/1").user_tags == frozenset()


def test_a_tag_a_line(script):
    """`tag list --flat` is a tag a line, also where a tag itself holds a line break: no tag can pose as another."""
    Run("F/1").add_tag("harmless\nuser:will")
    lines = script("tag", "list", "--run-id", "1", "--flat").stdout.splitlines()
    assert "user:will" not in lines
    assert len(lines) == len(Run("F/1").tags)


def test_ten_thousand_tags(script):
    """A run with 10,000 tags, half of them 500 characters long, is found by each of them, and can lose them all."""
    many = [f"{number:05d}".ljust(500 if number % 2 else 5, "x") for number in range(10_000)]
    run = Run("F/1")
    run.add_tags(many)
    assert run.user_tags == set(many)
    assert Task("F/1/start/1").user_tags == set(many)
    assert [run.id for run in Flow("F").runs(*many[:1000:100], many[-1])] == ["1"]
    namespace(many[5000])
    assert [run.id for run in Flow("F")] == ["1"]
    namespace(None)
    assert len(json.loads(script.sql("select tags from run_summary")[0])) == 10_005
    assert len(tags.listing(active_store())) == 10_005
    run.replace_tags(many, ["one"])
    assert run.user_tags == {"one"}


@pytest.mark.parametrize("count", [8, 9, 10, 65, 1100, 5000])
def test_many_tags_in_one_question(count, script):
    """Filtering by any number of tags at once gives what has all of them: runs, steps and tasks."""
    many = [str(number) for number in range(count)]
    run = Run("F/1")
    run.add_tags(many)
    new_run(given=many[1:])
    new_run(given=many[:-1])
    assert [run.id for run in Flow("F").runs(*many)] == ["1"]
    assert [run.id for run in Flow("F").runs(*many[1:-1])] == ["3", "2", "1"]
    assert list(Flow("F").runs(*many, "runtime:mars")) == []
    assert [step.id for step in run.steps(*many)] == ["end", "start"]
    run.remove_tags(many)
    run["start"].add_tags(many[::2])
    run["start"]["2"].add_tags(many[1::2])
    assert [step.id for step in run.steps(*many[::2])] == ["start"]
    assert [task.id for task in run["start"].tasks(*many[1:])] == ["2"]


UNENCODABLE = "a\ud800"


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Flow("F").runs(UNENCODABLE),
        lambda: Run("F/1").steps(UNENCODABLE),
        lambda: Step("F/1/start").tasks(UNENCODABLE),
    ],
    ids=["runs", "steps", "tasks"],
)
def test_what_no_tag_can_be_is_found_nowhere(ask, script):
    """Asking for text that no object can be tagged with finds nothing; it does not fail inside SQLite."""
    assert list(ask()) == []


@pytest.mark.parametrize(
    "ask", [lambda: Flow("F"), lambda: list(Flows()), lambda: Run("F/1")], ids=["Flow", "Flows", "Run"]
)
def test_an_impossible_namespace(ask, script):
    """Text that can't be a tag is no namespace: an error of ours, at the switch or at the first question."""
    try:
        namespace(UNENCODABLE)
        assert ask() == []
    except FlowstoreError as error:
        str(error)


def test_an_impossible_namespace_on_the_command_line(script):
    """The same on the command line: one message, and nothing was run, tagged or deployed."""
    before = script.db.read_bytes()
    commands = (["list", "runs"], ["run"], ["resume"], ["deploy", "create"], ["tag", "add", "x", "--run-id", "1"])
    processes = [
        subprocess.Popen([sys.executable, "flow.py", "--namespace", b"\xff", *words], stderr=subprocess.PIPE)
        for words in commands
    ]
    for process in processes:
        _, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr[:33]) == (1, b"Error: A namespace is a tag, or N")
    assert script.db.read_bytes() == before


UNADDRESSABLE = {
    "Flow": lambda: Flow(UNENCODABLE),
    "Run": lambda: Run(f"{UNENCODABLE}/1"),
    "Step": lambda: Step(f"F/1/{UNENCODABLE}"),
    "Task": lambda: Task(f"F/1/start/{UNENCODABLE}"),
    "DataArtifact": lambda: DataArtifact(f"F/1/start/1/{UNENCODABLE}"),
    "[name]": lambda: Task("F/1/start/1")[UNENCODABLE],
    "[step]": lambda: Run("F/1")[UNENCODABLE],
}


@pytest.mark.parametrize("ask", UNADDRESSABLE.values(), ids=UNADDRESSABLE)
def test_an_impossible_address(ask, script):
    """Text that no name or id can be addresses nothing: an error of ours, not one of SQLite's."""
    with pytest.raises((InvalidPathspec, NotFound)) as caught:
        ask()
    str(caught.value).encode()


def test_an_impossible_name_is_in_nothing(script):
    """Nor is it in any container."""
    run = Run("F/1")
    assert not any(UNENCODABLE in each for each in (Flows(), Flow("F"), run, run["start"], run["start"].task))


def test_an_impossible_user_name(flow):
    """A user name that is not text is told clearly, before anything runs."""
    script = flow(flow_source(LINEAR))
    script("run", expect=1, FLOWSTORE_USER="\udcff")
    assert script.sql("select count(*) from runs") == [0]


# --- many processes

CHANGES = """
import sys
from flowstore import Run, Task

me, count = sys.argv[1], int(sys.argv[2])
run, task = Run("F/1"), Task("F/1/start/1")
print("ready", flush=True)
sys.stdin.readline()
for n in range(count):
    run.add_tags([f"new {me} {n}", f"shared {n}"])
    run.remove_tag(f"old {me} {n}")
    task.replace_tags([f"turn {me} {n - 1}"], [f"turn {me} {n}"])
"""


def test_changes_of_eight_processes(script):
    """Eight processes change the tags of one run at once; no change is lost, and none is done twice."""
    people, count = range(8), 8
    run = Run("F/1")
    run.add_tags([f"old {me} {n}" for me in people for n in range(count + 1)])
    active_store().close()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHANGES, str(me), str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for me in people
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        with process:
            assert process.communicate() == ("", "")
        assert process.returncode == 0
    left = {f"new {me} {n}" for me in people for n in range(count)} | {f"shared {n}" for n in range(count)}
    assert run.user_tags == left | {f"old {me} {count}" for me in people}
    assert Task("F/1/start/1").user_tags - run.user_tags == {f"turn {me} {count - 1}" for me in people}
    assert script.sql("select tag from tags group by tag having count(*) > 1") == []


# --- listing tags


@pytest.fixture
def listed(script):
    """F/1 is tagged a and b, F/2 a, F/3 of somebody else c, and the newest, F/4, nothing; G/5 is another flow's."""
    Run("F/1").add_tags(["b", "a"])
    new_run(given=["a"])
    new_run(given=["c"], user="will")
    new_run()
    new_run(flow="G", given=["a", "g"])
    return script


SYSTEM_PREFIXES = ("date:", "flowstore_version:", "python_version:", "runtime:", "user:")


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([], []),
        (["--run-id", "1"], ["a", "b"]),
        (["--run-id", "F/1"], ["a", "b"]),
        (["--pathspec", "1/start/1/x"], ["a", "b"]),
        (["--run-id", "1", "--flat"], ["a", "b"]),
        (["--run-id", "1", "--group-by-run"], ["F/1", "  a", "  b"]),
        (["--run-id", "1", "--group-by-tag"], ["a", "  F/1", "b", "  F/1"]),
        (["--my-runs"], ["F/4", "F/2", "  a", "F/1", "  a", "  b"]),
        (["--my-runs", "--flat"], ["a", "b"]),
        (["--my-runs", "--group-by-tag"], ["a", "  F/2", "  F/1", "b", "  F/1"]),
        (["--all", "--group-by-run"], ["F/4", "F/3", "  c", "F/2", "  a", "F/1", "  a", "  b"]),
        (["--all", "--group-by-tag"], ["c", "  F/3", "a", "  F/2", "  F/1", "b", "  F/1"]),
        (["--namespace", "user:will"], ["c"]),
        (["--namespace", "a", "--my-runs", "--flat"], ["a", "b"]),
        (["--namespace", "user:nobody", "--all", "--flat"], ["c", "a", "b"]),
    ],
    ids=lambda value: " ".join(value) or "-",
)
def test_tag_list(words, lines, listed):
    """`tag list`: of the latest run, a named one, one's own or all runs of the flow; flat, by tag or by run."""
    shown = listed("tag", "list", *words, "--hide-system-tags").stdout.splitlines()
    assert sorted(shown) == sorted(lines) if "--flat" in words else shown == lines


@pytest.mark.parametrize(("words", "run_id"), [([], 4), (["--run-id", "1"], 1), (["--pathspec", "1/end/3"], 1)])
def test_tag_list_shows_system_tags(words, run_id, listed):
    """Unless told otherwise, all tags are listed, a line each, in order."""
    lines = listed("tag", "list", *words).stdout.splitlines()
    assert lines == sorted(Run(f"F/{run_id}").tags)
    assert sum(line.startswith(SYSTEM_PREFIXES) for line in lines) == 5


def test_tag_list_of_nothing(flow):
    """Where there is no run, that is said, with exit code 1."""
    script = flow(flow_source(LINEAR))
    ensure_store(script.db).close()
    assert "no run of F" in script("tag", "list", expect=1).stderr


def command(*words, expect=0):
    """Run `flowstore WORDS` in the current folder."""
    done = subprocess.run(
        [sys.executable, "-m", "flowstore", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == expect, done.stderr
    return done.stdout


def last_used(script, run_id):
    """When a run was created, as views say it."""
    return script.sql("select created_at from run_summary where run_id = ?", run_id)[0]


def test_flowstore_tags(listed):
    """`flowstore tags` lists every tag with the number of runs and the last use, of the whole file or a namespace."""
    rows = json.loads(command("tags", "--json"))
    found = {row["tag"]: (row["runs"], row["system"]) for row in rows}
    assert {tag: found[tag] for tag in ("a", "b", "c", "g", "user:tester", "user:will", "runtime:local")} == {
        "a": (3, 0), "b": (1, 0), "c": (1, 0), "g": (1, 0),
        "user:tester": (4, 1), "user:will": (1, 1), "runtime:local": (5, 1),
    }  # fmt: skip
    assert len(found) == len(rows) == 10
    [used] = [row["last_used"] for row in rows if row["tag"] == "c"]
    assert used == last_used(listed, 3)
    narrow = {row["tag"]: row["runs"] for row in json.loads(command("--json", "tags", "--namespace", "user:will"))}
    assert {tag: runs for tag, runs in narrow.items() if ":" not in tag or "user" in tag} == {"c": 1, "user:will": 1}


def test_flowstore_tags_lists_every_tag(listed):
    """A tag that is set on a step, a task or an artifact alone is listed, too: every tag."""
    Step("F/1/start").add_tag("on a step")
    Task("F/1/start/1").add_tag("on a task")
    DataArtifact("F/1/start/1/x").add_tag("on an artifact")
    found = {row["tag"] for row in json.loads(command("tags", "--json"))}
    assert found >= {"on a step", "on a task", "on an artifact"}


def test_flowstore_namespaces(listed):
    """`flowstore namespaces` lists the users and the deployments with their runs and the last use."""
    store = active_store()
    with store.write() as db:
        deployed = ["production:F-x7", *SYSTEM]
        records.create_run(db, records.NewRun("F", "tester", {}, [], None, deployed, []))
    rows = json.loads(command("namespaces", "--json"))
    assert rows == [
        {"namespace": "production:F-x7", "runs": 1, "last_used": last_used(listed, 6)},
        {"namespace": "user:tester", "runs": 4, "last_used": last_used(listed, 5)},
        {"namespace": "user:will", "runs": 1, "last_used": last_used(listed, 3)},
    ]
    table = command("namespaces").splitlines()
    assert table[0].split() == ["namespace", "runs", "last_used", "(UTC)"]
    assert [line.split()[:2] for line in table[1:]] == [
        ["production:F-x7", "1"],
        ["user:tester", "4"],
        ["user:will", "1"],
    ]


def test_a_tag_that_nothing_has_is_gone(script):
    """A tag that was taken from everything is not listed any more."""
    Run("F/1").add_tag("once")
    Run("F/1").remove_tag("once")
    assert "once" not in {row["tag"] for row in json.loads(command("tags", "--json"))}


# --- the plain model

USERS = ("ann", "bob")
TAGS = ("t", "u", "v")
FLOWS = ("F", "G")
ASKED = (*TAGS, "user:ann", "runtime:local", "nothing")
NAMESPACES = (None, "user:ann", "user:bob", "user:nobody", *TAGS, "runtime:local")

run_events = st.tuples(
    st.just("run"),
    st.sampled_from(FLOWS),
    st.sampled_from(USERS),
    st.sets(st.sampled_from(TAGS)),
    st.sampled_from(["successful", "successful", "failed", "stopped", "running"]),
    st.integers(-5, 5),  # how the clock goes on, or back
)
tag_events = st.builds(
    lambda place, tags, old: ("tag", place, tags[old:], tags[:old]),
    st.lists(st.integers(0, 10), min_size=1, max_size=4),  # which run, and which step, task, artifact in it
    st.permutations(TAGS),
    st.sampled_from([0, 1, 1, 2, 3, 3]),  # how many to add; the others are removed
)
end_events = st.tuples(st.just("end"), st.integers(0, 10), st.sampled_from(["successful", "failed", "stopped"]))
delete_events = st.tuples(st.just("delete"), st.integers(0, 10))
other_events = st.one_of(run_events, end_events, delete_events)
histories = st.builds(
    lambda runs, later: [*runs, *(event for pair in later for event in pair)],
    st.lists(run_events, min_size=1, max_size=6),
    st.lists(st.tuples(tag_events, other_events), max_size=8),
)


@attrs.define
class Thing:
    """The model of a run, step, task or artifact: its own tags and what it inherits from."""

    path: str
    above: Thing | None = None
    own: set[str] = attrs.field(factory=set)
    below: list[Thing] = attrs.field(factory=list)
    flow: str = ""
    status: str = ""
    system: frozenset[str] = frozenset()
    created_at: int = 0

    @property
    def tags(self):
        """All tags, the inherited ones included."""
        return self.own | self.system | (self.above.tags if self.above else set())

    def has(self, wanted):
        """Whether it has all tags; None, the global namespace, is none of them."""
        return set(wanted) - {None} <= self.tags

    def child(self, name):
        """Add something below."""
        self.below.append(Thing(f"{self.path}/{name}", self))
        return self.below[-1]


class History:
    """Does the same to a store and to the model."""

    def __init__(self, store):
        self.store = store
        self.runs = []
        self.clock = 1_700_000_000_000
        self.tasks = 0

    def run(self, flow, user, given, status, pace):
        """A run of one step with two tasks, and an end with one."""
        self.clock += pace
        with frozen_clock(self.clock), self.store.write() as db:
            run_id = add_run(db, self.store, flow=flow, user=user, given=sorted(given), status=status)
        newest = max((run.created_at for run in self.runs), default=0)
        made = Thing(f"{flow}/{run_id}", flow=flow, status=status, own=set(given), created_at=max(self.clock, newest))
        made.system = frozenset({f"user:{user}", *SYSTEM, records.date_tag(made.created_at)})
        for name, count in (("start", 2), ("end", 1)):
            step = made.child(name)
            for _ in range(count):
                self.tasks += 1
                step.child(self.tasks).child("x")
        self.runs.append(made)

    def tag(self, place, removed, added):
        """Replace tags of some run, or of a step, task or artifact of it."""
        if not self.runs:
            return
        thing = self.runs[place[0] % len(self.runs)]
        for number in place[1:]:
            thing = thing.below[number % len(thing.below)]
        found = (Run, Step, Task, DataArtifact)[len(place) - 1](thing.path)
        inherited = thing.above.tags if thing.above else set()
        if inherited & set(removed):
            with pytest.raises(TaggingError):
                found.replace_tags(removed, added)
        else:
            found.replace_tags(removed, added)
            removed, added = set(removed), set(added)
            thing.own = thing.own - removed | (added - inherited)

    def end(self, number, status):
        """A run comes to its end, if it has not."""
        running = [run for run in self.runs if run.status == "running"]
        if running:
            thing = running[number % len(running)]
            thing.status = status
            with self.store.write() as db:
                records.finish_run(db, int(thing.path.split("/")[1]), status)

    def delete(self, number):
        """A run is deleted, unless it is the only one, or still running."""
        over = [run for run in self.runs[1:] if run.status != "running"]
        if over:
            thing = over[number % len(over)]
            self.runs.remove(thing)
            delete(self.store, candidates(self.store, [int(thing.path.split("/")[1])]))
            with pytest.raises(NotFound):
                Run(thing.path)

    def newest(self, flow, wanted):
        """The model's answer: runs of a flow that have all tags, newest first."""
        found = [run for run in self.runs if run.flow == flow and run.has(wanted)]
        return sorted(found, key=lambda run: (run.created_at, int(run.path.split("/")[1])), reverse=True)


@contextmanager
def frozen_clock(at_ms):
    """The store's clock stands still."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "now_ms", lambda: at_ms)
        yield


def paths(things):
    """The pathspecs of what the model or the store gave, `None` for nothing."""
    return [each if each is None else getattr(each, "pathspec", None) or each.path for each in things]


def compare(history):
    """Every question in every namespace has the model's answer."""
    combos = [(), *((tag,) for tag in ASKED), *combinations(ASKED[:4], 2), TAGS, ASKED[:4], ("t", "nothing")]
    for active in NAMESPACES:
        namespace(active)
        names = sorted({run.flow for run in history.runs if run.has([active])})
        assert paths(Flows()) == names == [name for name in FLOWS if name in Flows()]
        for name in {run.flow for run in history.runs} - set(names):
            with pytest.raises(NamespaceMismatch):
                Flow(name)
        for name in names:
            compare_flow(history, name, active, combos)
        for run in history.runs:
            compare_run(run, active)


def compare_flow(history, name, active, combos):
    """A flow's runs, by tags, and the latest."""
    flow = Flow(name)
    runs = history.newest(name, [active])
    successful = [run for run in runs if run.status == "successful"]
    assert paths([flow.latest_run]) == paths(runs[:1])
    assert paths([flow.latest_successful_run]) == paths(successful[:1] or [None])
    for combo in combos:
        assert paths(flow.runs(*combo)) == paths(history.newest(name, [active, *combo]))


def compare_run(run, active):
    """Whether a run, its steps, tasks and artifacts may be seen, and those that have tags."""
    for thing in (run, run.below[0], run.below[0].below[1], run.below[1].below[0].below[0]):
        kind = (Run, Step, Task, DataArtifact)[thing.path.count("/") - 1]
        if thing.has([active]):
            assert kind(thing.path).pathspec == thing.path
        else:
            with pytest.raises(NamespaceMismatch):
                kind(thing.path)
    found = Run._at(active_store(), run.path)
    assert (found.id in Flow._at(active_store(), run.flow)) == run.has([active])
    for combo in ((), ("t",), ("t", "u"), ("v", "user:ann")):
        steps = [step for step in reversed(run.below) if step.has([active, *combo])]
        assert paths(found.steps(*combo)) == paths(steps)
        for step in steps:
            tasks = [task for task in reversed(step.below) if task.has([active, *combo])]
            assert paths(Step(step.path).tasks(*combo)) == paths(tasks)


def compare_sql(history):
    """The view `object_tags`, `flowstore tags` and the Client's `tags` say the same as the model."""
    namespace(None)
    expected, counts = set(), {}
    things = list(history.runs)
    for thing in things:
        things += thing.below
        depth = thing.path.count("/")
        assert (Run, Step, Task, DataArtifact)[depth - 1](thing.path).tags == thing.tags
        expected |= {(thing.path, tag, int(tag in thing.own | thing.system)) for tag in thing.tags}
        if thing.above is None:
            counts |= {tag: counts.get(tag, 0) + 1 for tag in thing.tags}
    rows = history.store.rows(
        """select flow || '/' || run_id || coalesce('/' || step, '') || coalesce('/' || task_id, '')
             || coalesce('/' || artifact, ''), tag, own from object_tags"""
    )
    assert sorted(tuple(row) for row in rows) == sorted(expected)
    on_parts = {tag for thing in things if thing.above for tag in thing.own}
    listed = {row["tag"]: row["runs"] for row in tags.listing(history.store)}
    assert counts.keys() <= listed.keys() <= counts.keys() | on_parts
    assert all(listed[tag] == count for tag, count in counts.items() if tag not in on_parts)


@given(histories)
@settings(max_examples=40)
def test_every_question_has_the_models_answer(tmp_path_factory, events):
    """Runs of varying users, tags and ends, changes of tags, deletes, in any order: the store answers as the model."""
    script = Script.__new__(Script)
    script.folder = tmp_path_factory.mktemp("history")
    script.db = script.folder / "flowstore.db"
    ensure_store(script.db).close()
    with flowstore.use_store(script.db), context.within(None), pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "FEW", 8 if len(events) % 2 else 2)  # a few tags are asked for as many are
        store = active_store()
        store.connection().execute("pragma synchronous = off")
        history = History(store)
        for event in events:
            getattr(history, event[0])(*event[1:])
        compare(history)
        compare_sql(history)
    script.check()


# --- how they are found


@contextmanager
def traced(store):
    """Collects the SQL that a store is asked."""
    asked = []
    connection = store.connection()
    connection.set_trace_callback(asked.append)
    try:
        yield asked
    finally:
        connection.set_trace_callback(None)


def plans(store, asked):
    """What SQLite would do for each statement."""
    selects = [sql for sql in asked if sql.lstrip().lower().startswith(("select", "with"))]
    return [row["detail"] for sql in selects for row in store.rows(f"explain query plan {sql}")]


QUESTIONS = {
    "Flow": lambda flow: Flow(flow.id),
    "Run": lambda flow: Run(f"{flow.id}/1"),
    "latest_run": lambda flow: flow.latest_run,
    "latest_successful_run": lambda flow: flow.latest_successful_run,
    "runs()": lambda flow: list(flow.runs()),
    "runs(common)": lambda flow: list(flow.runs("common")),
    "runs(rare)": lambda flow: list(flow.runs("rare")),
    "runs(common, rare)": lambda flow: list(flow.runs("common", "rare")),
    "runs(early, late)": lambda flow: list(flow.runs("early", "late")),
    "runs(early, rare, common)": lambda flow: list(flow.runs("early", "rare", "common")),
    "steps()": lambda flow: list(flow["1"].steps()),
    "steps(own)": lambda flow: list(flow["1"].steps("own")),
    "steps(own, common)": lambda flow: list(flow["1"].steps("own", "common")),
    "tasks()": lambda flow: list(flow["1"]["start"].tasks()),
    "tasks(own)": lambda flow: list(flow["1"]["start"].tasks("own")),
    "tasks(own, also, common)": lambda flow: list(flow["1"]["start"].tasks("own", "also", "common")),
}


@pytest.fixture(scope="module")
def thousands(tmp_path_factory):
    """A store with 2,000 runs of 20 flows and 10 users; all are common, one in a hundred is rare.

    The first half of each flow's runs is early, the rest late; in turn they are p and q, q and r, r and p. Runs of F0
    have steps and tasks, F0/1 tags on them.
    """
    path = tmp_path_factory.mktemp("thousands") / "flowstore.db"
    store = ensure_store(path)
    with store.write() as db:
        for number in range(2000):
            flow, user = f"F{number % 20}", f"u{number // 200}"
            given = ["common", "rare"] if number % 100 == 0 else ["common"]
            given += ["early"] if number < 1000 else ["late"]
            given += [("p", "q"), ("q", "r"), ("r", "p")][number // 20 % 3]
            status = "successful" if number % 3 else "failed"
            steps = (("start", 3 if number else 200), ("end", 1)) if number % 20 == 0 else ()
            add_run(db, store, flow=flow, user=user, given=given, status=status, steps=steps)
    for node in (Node("F0/1/start", 1, 1), Node("F0/1/start/1", 1, 1, 1), Node("F0/1/start/7", 1, 1, 7)):
        tags.change(store, node, add=["own", "also"])
    store.close()
    return path


@pytest.mark.parametrize("analyzed", [False, True], ids=["", "analyzed"])
@pytest.mark.parametrize("active", [None, "user:u0", "rare"])
@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_all_is_found_through_indexes(ask, active, analyzed, thousands):
    """No question looks through a table, or has SQLite sort what it found; whatever its statistics say."""
    with flowstore.use_store(thousands), context.within(active):
        store = active_store()
        store.connection().execute("analyze" if analyzed else "drop table if exists sqlite_stat1")
        flow = Flow("F0")
        with traced(store) as asked:
            ask(flow)
        found = plans(store, asked)
    assert len(found) > 1
    harmless = ("SEARCH", "SCALAR", "CORRELATED SCALAR", "SCAN CONSTANT ROW")  # the last one is no table's
    assert [step for step in found if not step.startswith(harmless)] == []


def test_the_first_of_many_runs(thousands):
    """Taking the first of many runs reads one short page; going through all of them reads few long ones."""
    with flowstore.use_store(thousands), context.within(None):
        flow, store = Flow("F0"), active_store()
        with traced(store) as first:
            assert next(flow.runs()).id == "1981"
        with traced(store) as all_:
            assert len(list(flow.runs())) == 100
        assert len(first) <= 3
        assert len(all_) <= 8
        assert flow.latest_run.id == "1981"
        assert steps_of(store, lambda: flow.latest_run) < 300, "however many runs there are"


def steps_of(store, ask):
    """The steps that SQLite's own machine takes to answer."""
    steps = []
    store.connection().set_progress_handler(lambda: steps.append(1), 1)
    ask()
    store.connection().set_progress_handler(None, 0)
    return len(steps)


def test_tags_that_never_meet_are_not_searched_for(thousands):
    """Two tags that half of the runs have each: that none has both costs what it costs with ten runs."""
    with flowstore.use_store(thousands), context.within(None):
        flow, store = Flow("F1"), active_store()
        assert [run.id for run in flow.runs("early", "late")] == []
        assert len(list(flow.runs("early"))) == len(list(flow.runs("late"))) == 50
        assert steps_of(store, lambda: list(flow.runs("early", "late"))) < 300


def test_three_tags_that_meet_in_pairs_only(thousands):
    """Where each two of three tags meet, and never all three, one of them is walked once, a few steps for each run."""
    with flowstore.use_store(thousands), context.within(None):
        flow, store = Flow("F1"), active_store()
        assert [len(list(flow.runs(*pair))) for pair in (("p", "q"), ("q", "r"), ("r", "p"))] == [34, 33, 33]
        assert list(flow.runs("p", "q", "r")) == []
        assert steps_of(store, lambda: list(flow.runs("p", "q", "r"))) < 300 + 30 * len(list(flow.runs("q")))


def test_tags_of_a_crowded_run_are_found_together(thousands):
    """A run with many tags, given at once or one by one, is found by any two of them."""
    at_once, one_by_one = [f"a{n}" for n in range(40)], [f"b{n}" for n in range(40)]
    with flowstore.use_store(thousands), context.within(None):
        flow = Flow("F2")
        first, second = islice(flow.runs(), 2)
        first.add_tags(at_once)
        for tag in one_by_one:
            second.add_tag(tag)
        for tags_, owner in ((at_once, first), (one_by_one, second)):
            for pair in combinations(["common", *tags_], 2):
                assert list(flow.runs(*pair)) == [owner]
        for pair in product(at_once, one_by_one[::7]):
            assert list(flow.runs(*pair)) == []
        first.remove_tags(at_once)
        second.remove_tags(one_by_one)


def test_a_run_that_is_no_longer_crowded_is_found(thousands):
    """A run that had many tags, lost most, and got another is found by old and new ones together."""
    many = [f"c{n}" for n in range(40)]
    with flowstore.use_store(thousands), context.within(None):
        run = next(iter(Flow("F2").runs()))
        run.add_tags(many)
        run.remove_tags(many[2:])
        run.add_tag("new")
        for count in (2, 3, 4):
            for asked in combinations(["common", *many[:2], "new"], count):
                assert list(Flow("F2").runs(*asked)) == [run]
        run.remove_tags([*many[:2], "new"])


def test_ones_own_user_tag_may_be_given(flow):
    """Adding a tag that is there anyway, a system tag included, is no error; it stays a system tag."""
    script = flow(flow_source(LINEAR))
    script("run", "--tag", "user:tester", "--tag", "mine")
    assert script.client().user_tags == {"mine"}
    assert "user:tester" in script.client().system_tags
