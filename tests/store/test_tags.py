"""Tags: changing them, inheriting them, and what is refused."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from itertools import combinations

import pytest

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
from flowstore.store import records, tags
from flowstore.store.opening import active_store, ensure_store
from support.flows import LINEAR, flow_source
from support.tagging import new_run

KINDS = {
    "run": lambda: Run("F/1"),
    "step": lambda: Step("F/1/start"),
    "task": lambda: Task("F/1/start/1"),
    "artifact": lambda: DataArtifact("F/1/start/1/x"),
}
every_kind = pytest.mark.parametrize("find", KINDS.values(), ids=KINDS)
every_pair = pytest.mark.parametrize(("above", "below"), list(combinations(KINDS, 2)))


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
        later = records.start_task(db, records.NewTask(1, records.ensure_step(db, 1, "start"), [], None, None))
        records.start_task(db, records.NewTask(1, records.ensure_step(db, 1, "next"), [], None, None))
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
    "list": ["a", ["b"]],
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
@pytest.mark.parametrize("several", [b"abc", None, 7])
def test_what_is_no_tags(several, find, script):
    """`add_tags(7)` is a mistake."""
    for change in (find().add_tags, find().remove_tags):
        with pytest.raises(TaggingError, match="list of tags"):
            change(several)
    assert find().user_tags == frozenset()


@every_kind
def test_one_text_or_several(find, script):
    """Each call takes one text, which is one tag, or several; replacing nothing with nothing is a mistake."""
    find().add_tags("abc")
    find().add_tag(["d", "e"])
    assert find().user_tags == {"abc", "d", "e"}
    find().remove_tags("abc")
    find().remove_tag(["d", "f"])
    find().replace_tag("e", ["g", "h"])
    assert find().user_tags == {"g", "h"}
    find().replace_tags([], "i")
    for nothing in ([], "", ()):
        with pytest.raises(TaggingError, match=r"nothing to replace|cannot be empty"):
            find().replace_tags(nothing, [])
    assert find().user_tags == {"g", "h", "i"}


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
        context.state.namespace = context.UNSET
        assert [run.id for run in Flow("F").runs(tag)] == ["1"]
        namespace(tag)
        assert [run.id for run in Flow("F")] == ["1"]
        with pytest.raises(NamespaceMismatch):
            Run("F/2")
        assert script.sql("select run_id from object_tags where kind = 'run' and tag = ?", tag) == [1]
    context.state.namespace = context.UNSET
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
