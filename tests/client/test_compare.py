"""Two runs side by side: what differs is told, by contents that are never loaded, at the cost of the two runs."""

from __future__ import annotations

import json

import pytest

import flowstore
from flowstore import Run, namespace, use_store
from flowstore.client.compare import KINDS, compare, text_diff
from flowstore.store import blobs, codecs, opening, records
from support.cli import Script
from support.flows import LINEAR, flow_source

SHAPE = {
    "start": "self.next(self.body, foreach='xs')",
    "body": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}
MEMBERS = """
LEVEL = 3
alpha = Parameter("alpha", default=0.5)
"""
HEAD = """
import extra
class Loud:
    def __reduce__(self):
        return os.mkdir, (os.path.abspath("loaded"),)
"""
BODIES = {
    "start": "self.xs, self.same, self.text, self._hidden = [1, 2], 'same', 'first', self.alpha\nself.loud = Loud()",
    "body": "self.y = self.input * self.alpha",
    "join": "self.metrics = {'sum': sum(i.y for i in inputs), 'count': len(list(inputs))}\n"
    "self.merge_artifacts(inputs, exclude=['y'])",
    "end": "self.x = 1",
}


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """F/1; F/2 with another parameter and tag, by will; F/3 with other code, which fails; G/4."""
    folder = tmp_path_factory.mktemp("compare")
    anne, will = ({"FLOWSTORE_USER": name, "FLOWSTORE_HOME": str(folder / "home")} for name in ("anne", "will"))
    (folder / "extra.py").write_text("WORDS = ['a']\n", "utf-8")
    script = Script(folder, flow_source(SHAPE, head=HEAD, members=MEMBERS, **BODIES))
    script("run", **anne)
    script("run", "--alpha", "0.7", "--tag", "seven", **will)
    changed = flow_source(
        SHAPE, head=HEAD.replace("extra", "more"), members=MEMBERS, **{**BODIES, "end": "raise ValueError('no')"}
    )
    (folder / "extra.py").unlink()
    (folder / "more.py").write_text("\x1b[31mWORDS = 'é'\n".replace("\x1b", "# \x1b"), "utf-8")
    script.rewrite(changed)
    script("run", expect=1, **anne)
    script.rewrite(
        flow_source(LINEAR, start="self.other = 1").replace("class F(", "class G(").replace("  F()", "  G()")
    )
    script("run", **anne)
    yield script
    script.check()


@pytest.fixture
def differ(story):
    """What differs between two runs, by kind and name: the two sides."""
    use_store(story.db)
    namespace(None)

    def found(left, right, **options):
        return {(each.kind, each.name): (each.left, each.right) for each in compare(Run(left), Run(right), **options)}

    return found


def values(sides):
    """The JSON values of two contents."""
    return tuple(None if side is None else side["value"] for side in sides)


# --- what differs


def test_a_run_does_not_differ_from_itself(differ, story):
    """Nothing is found, and the command says so."""
    assert differ("F/1", "F/1") == {}
    assert story.flowstore("diff", "F/1", "F/1").stdout == "F/1 and F/1 do not differ.\n"
    assert json.loads(story.flowstore("diff", "F/1", "F/1", "--json").stdout) == []


def test_parameters_tags_and_users(differ):
    """Each is told with both sides; what is not there is None."""
    found = differ("F/1", "F/2")
    assert values(found["parameter", "alpha"]) == (0.5, 0.7)
    assert found["run", "user"] == ("anne", "will")
    assert found["tag", "seven"] == (None, True)
    assert found["tag", "user:anne"] == (True, None)
    assert not [name for kind, name in found if kind in {"code", "step"}]


def test_artifacts_are_those_of_the_end_inherited_ones_included(differ):
    """As `run.data` has them; what is equal, a parameter, or begins with an underscore is not told again."""
    found = differ("F/1", "F/2")
    assert {name for kind, name in found if kind == "artifact"} == {"metrics"}
    assert values(found["artifact", "metrics"]) == ({"sum": 1.5, "count": 2}, {"sum": pytest.approx(2.1), "count": 2})
    left, _ = found["artifact", "metrics"]
    assert (left["type"], left["codec"], left["sha"]) == ("dict", "json", Run("F/1").end_task["metrics"].sha)


def test_what_single_tasks_set_is_told_for_each_step(differ):
    """Where a step has one task in both runs, what it set is compared; a foreach is not."""
    found = differ("F/1", "F/2")
    assert {name for kind, name in found if kind == "set"} == {"join/metrics"}


def test_code_is_compared_file_by_file(differ):
    """Files that were added, removed and changed, with their text, and as a unified diff."""
    found = differ("F/1", "F/3")
    assert found["code", "more.py"][0] is None
    assert found["code", "extra.py"][1] is None
    assert found["code", "extra.py"][0]["text"] == "WORDS = ['a']\n"
    [changed] = [each for each in compare(Run("F/1"), Run("F/3")) if each.name == "flow.py"]
    assert {"--- a/flow.py", "+++ b/flow.py", "-import extra", "+import more"} <= set(
        text_diff(changed.name, changed.left, changed.right)
    )
    without = differ("F/1", "F/3", code=False)
    assert without["code", "flow.py"][0]["text"] is None
    assert without["code", "flow.py"][0]["sha"] == found["code", "flow.py"][0]["sha"]


def test_steps_status_and_timings(differ):
    """How many tasks of each step ended how; the artifacts of an end that failed are not there."""
    found = differ("F/1", "F/3")
    assert found["run", "status"] == ("successful", "failed")
    assert found["step", "end"] == ({"successful": 1}, {"failed": 1})
    assert ("step", "body") not in found
    assert found["artifact", "LEVEL"][1] is None
    assert values(found["artifact", "x"]) == (1, None)
    seconds, missing = differ("F/1", "G/4")["timing", "join"]
    assert (seconds > 0, missing) == (True, None)


def test_runs_of_different_flows(differ):
    """What only one of them has is told as missing in the other."""
    found = differ("F/1", "G/4")
    assert found["run", "flow"] == ("F", "G")
    assert found["step", "body"] == ({"successful": 2}, None)
    assert values(found["artifact", "other"]) == (None, 1)


def test_a_pickle_is_compared_without_being_loaded(differ, story, monkeypatch):
    """By its bytes, also by a stranger: it is shown by its preview, and no code of it runs."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(story.folder / "stranger"))
    left, right = differ("F/1", "G/4")["artifact", "loud"]
    assert (left["codec"], left["value"], right) == ("pickle", None, None)
    assert "Loud" in left["preview"]
    story.flowstore("diff", "F/1", "G/4")
    assert not (story.folder / "loaded").exists()


def test_runs_of_two_stores(differ, story, tmp_path):
    """Each run is read in its own file."""
    other = opening.ensure_store(tmp_path / "other.db")
    wide_run(other, 1)
    other.close()
    ours = Run("F/1")
    use_store(other.path)
    found = {each.name: (each.left, each.right) for each in compare(ours, Run("F/1")) if each.kind == "run"}
    assert found["user"] == ("anne", "tester")


# --- the command


def test_the_table_tells_what_differs(story):
    """A line for each, of a dict its items that differ; below it the text of the code that differs."""
    lines = story.flowstore("diff", "F/1", "F/2").stdout.splitlines()
    assert lines[0].split() == ["F/1", "F/2"]
    table = {tuple(line.split()[:2]): line.split()[2:] for line in lines[1:]}
    assert table["parameter", "alpha"] == ["0.5", "0.7"]
    assert table["tag", "seven"] == ["–", "yes"]
    assert table["artifact", "metrics.sum"][0] == "1.5"
    assert ("artifact", "metrics.count") not in table
    text = story.flowstore("diff", "F/1", "F/3").stdout
    assert "\n-import extra\n" in text
    assert "\n+# WORDS = 'é'" in text
    assert "\x1b" in story.flowstore("diff", "F/1", "F/3", "--raw").stdout
    assert "import extra" not in story.flowstore("diff", "F/1", "F/3", "--no-code").stdout


def test_json_and_csv_have_stable_keys(story):
    """One list of objects: kind, name, left, right."""
    rows = json.loads(story.flowstore("diff", "F/1", "F/3", "--json").stdout)
    assert {tuple(row) for row in rows} == {("kind", "name", "left", "right")}
    order = [KINDS.index(row["kind"]) for row in rows]
    assert order == sorted(order)
    contents = [row["left"] for row in rows if row["kind"] in {"artifact", "set", "parameter"} and row["left"]]
    assert {tuple(each) for each in contents} == {("type", "codec", "size_bytes", "sha", "preview", "value")}
    files = [row["left"] or row["right"] for row in rows if row["kind"] == "code"]
    assert {tuple(each) for each in files} == {("sha", "size_bytes", "text")}
    assert story.flowstore("diff", "F/1", "F/1", "--csv").stdout == "kind,name,left,right\n"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["F/1"], 2, "Missing argument"),
        (["F/1", "F/99"], 1, "There is no run F/99"),
        (["F/1", "F/2/start"], 1, "does not address a run"),
        (["F/1", "F/2", "--namespace", "user:anne"], 1, "not in the active namespace"),
    ],
)
def test_what_is_no_pair_of_runs_is_one_message(story, args, code, words):
    """Wrong usage is 2, a run that is not there 1."""
    result = story.flowstore("diff", *args, expect=code)
    assert words in result.stderr


# --- its cost


def wide_run(store, tasks, value=1):
    """Record a run with a foreach of so many tasks, an artifact in each; gives its pathspec."""
    with store.write() as connection:
        run_id = records.create_run(connection, records.NewRun("F", "tester", {}, (), None, ["user:tester"], []))
        before = ()
        for name, count in (("start", 1), ("body", tasks), ("end", 1)):
            step_id = records.ensure_step(connection, run_id, name)
            made = []
            for n in range(count):
                path = str(n) if name == "body" else None
                task_id = records.start_task(connection, records.NewTask(run_id, step_id, before, None, path))
                attempt_id = records.start_attempt(connection, task_id, 0)
                encoded = {f"a{m}": codecs.encode([value, name, n, m]) for m in range(3)}
                rows = [(key, blobs.put(connection, store, each), 0) for key, each in encoded.items()]
                records.finish_attempt(
                    connection, task_id, attempt_id, records.AttemptEnd("successful", artifacts=rows)
                )
                made.append(task_id)
            before = made
        records.finish_run(connection, run_id, "successful")
    return f"F/{run_id}"


def test_the_number_of_queries_does_not_grow_with_the_tasks(tmp_path):
    """Comparing runs of 1,000 tasks asks as many questions as comparing runs of three."""
    store = opening.ensure_store(tmp_path / "flowstore.db")
    pairs = [[wide_run(store, count, value) for value in (1, 2)] for count in (3, 1000)]
    store.close()
    use_store(store.path)
    namespace(None)
    asked = []
    for left, right in pairs:
        statements = []
        connection = flowstore.context.state.store.connection()
        connection.set_trace_callback(statements.append)
        found = compare(Run(left), Run(right))
        connection.set_trace_callback(None)
        asked.append(len(statements))
        assert {each.name for each in found if each.kind == "set"} == {"start/a0", "start/a1", "start/a2"}
    assert asked[0] == asked[1] <= 60
