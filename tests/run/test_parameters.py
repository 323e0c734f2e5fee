"""Parameters, include files and tags of a run, from the command line and the environment; `current`."""

from __future__ import annotations

import pytest

import flowstore
from flowstore import Flow
from support.cli import failure
from support.flows import LINEAR, MEND, flow_source

# --- parameters

PARAMETERS = """
n = Parameter("n", default=1)
rate = Parameter("rate", type=float, default=2)
on = Parameter("on", default=False)
flag = Parameter("flag", is_flag=True, default=False)
conf = Parameter("conf", type=JSONType, default={"a": 1})
many = Parameter("many", separator=",", default="a,b")
when = Parameter("when", default=lambda: "called")
who = Parameter("who", default=lambda context: f"{context.flow_name}/{context.user_name}/{context.parameter_name}")
other_name = Parameter("my-name", default="x")
none = Parameter("none", default=None)
PI = 3
"""
DEFAULTS = {
    "n": 1, "rate": 2.0, "on": False, "flag": False, "conf": {"a": 1}, "many": ["a", "b"], "when": "called",
    "who": "F/tester/who", "other_name": "x", "none": None,
}  # fmt: skip
GIVEN = {
    ("--n", "-3"): {"n": -3},
    ("--rate", "1e-3"): {"rate": 0.001},
    ("--on", "true"): {"on": True},
    ("--on", "NO"): {"on": False},
    ("--flag",): {"flag": True},
    ("--conf", "[1, null]"): {"conf": [1, None]},
    ("--conf", "null"): {"conf": None},
    ("--many", "x,,y z"): {"many": ["x", "", "y z"]},
    ("--when", ""): {"when": ""},
    ("--my-name", "größe"): {"other_name": "größe"},
    ("--my_name", "y"): {"other_name": "y"},
}


@pytest.mark.parametrize("given", GIVEN, ids=" ".join)
def test_parameter_values(given, flow):
    """Each type takes its texts; what isn't given has its default; types are exact."""
    script = flow(flow_source(LINEAR, members=PARAMETERS))
    script("run", *given)
    expected = {**DEFAULTS, **GIVEN[given]}
    run = script.client()
    found = {name: getattr(run.data, name) for name in expected}
    assert (found, run.parameters) == (expected, expected)
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in expected.items()}
    assert run.data.PI == 3


def test_parameters_from_the_environment(flow):
    """`$FLOWSTORE_RUN_<NAME>` gives a value to every kind of parameter; an option wins over it."""
    script = flow(flow_source(LINEAR, members=PARAMETERS))
    variables = {"N": "5", "FLAG": "true", "CONF": '{"b": 2}', "MANY": "p,q", "MY_NAME": "z", "ON": "1"}
    script("run", "--n", 6, **{f"FLOWSTORE_RUN_{name}": value for name, value in variables.items()})
    found = script.client().parameters
    assert {name: found[name] for name in ("n", "flag", "conf", "many", "other_name", "on")} == {
        "n": 6, "flag": True, "conf": {"b": 2}, "many": ["p", "q"], "other_name": "z", "on": True,
    }  # fmt: skip


WRONG = {
    "ill-typed": (["--n", "many"], "--n"),
    "not whole": (["--n", "1.5"], "--n"),
    "no number": (["--rate", "fast"], "--rate"),
    "no bool": (["--on", "maybe"], "--on"),
    "no JSON": (["--conf", "{"], "--conf"),
    "unknown": (["--nn", "1"], "--nn"),
    "no value": (["--n"], "--n"),
    "value of a flag": (["--flag", "yes"], "yes"),
    "workers": (["--max-workers", "0"], "--max-workers"),
    "splits": (["--max-num-splits", "0"], "--max-num-splits"),
}


@pytest.mark.parametrize(("given", "named"), WRONG.values(), ids=WRONG)
def test_wrong_usage_ends_with_2(given, named, flow):
    """What can't be a value is told by name, with exit code 2, and no store is made."""
    script = flow(flow_source(LINEAR, members=PARAMETERS))
    assert named in script("run", *given, expect=2).stderr
    assert not script.db.exists()


def test_a_wrong_value_in_the_environment(flow):
    """A variable that doesn't fit is wrong usage too."""
    script = flow(flow_source(LINEAR, members=PARAMETERS))
    assert (
        "'many' is not an int. It is the value of $FLOWSTORE_RUN_N."
        in script("run", expect=2, FLOWSTORE_RUN_N="many").stderr
    )
    assert not script.db.exists()


MISTAKES = {
    "required": ("x = Parameter('x', required=True)", 2, "--x"),
    "default raises": ("x = Parameter('x', default=lambda: 1 / 0)", 2, "ZeroDivisionError"),
    "default without a type": ("x = Parameter('x', default=lambda: 3)", 2, "3 is not a str. Write type=int."),
    "default of another type": ("x = Parameter('x', type=int, default=lambda: 'one')", 2, "one"),
    "missing file": ("x = IncludeFile('x', default='nowhere.txt')", 2, "nowhere.txt"),
    "an option of run": ("x = Parameter('max_workers')", 1, "--max-workers"),
    "twice": ("x = Parameter('a-b'); y = Parameter('a_b')", 1, "--a-b"),
}


@pytest.mark.parametrize(("members", "code", "named"), MISTAKES.values(), ids=MISTAKES)
def test_parameters_that_give_no_value(members, code, named, flow):
    """A missing value, a failing default and a name that is taken stop the run before it begins."""
    script = flow(flow_source(LINEAR, members=members))
    assert named in script("run", expect=code).stderr
    assert not script.db.exists()


def test_include_file(flow, tmp_path):
    """IncludeFile gives text in its encoding, or bytes, and keeps them in the store."""
    (tmp_path / "latin.txt").write_bytes("Größe\r\n".encode("latin-1"))
    (tmp_path / "raw.bin").write_bytes(bytes(range(256)))
    members = """
text = IncludeFile("text", encoding="latin-1", default="latin.txt")
raw = IncludeFile("raw", is_text=False, required=True)
big = IncludeFile("big", is_text=False)
utf8 = IncludeFile("utf8")
"""
    (tmp_path / "big.bin").write_bytes(b"x" * 3_000_000)
    script = flow(
        flow_source(LINEAR, members=members, end="self.sizes = [len(self.text), len(self.raw), len(self.big)]")
    )
    script("run", "--raw", "raw.bin", "--big", "big.bin")
    data = script.client().data
    assert (data.text, data.raw, data.sizes) == ("Größe\r\n", bytes(range(256)), [7, 256, 3_000_000])
    assert data.utf8 is None
    assert "utf-8" in script("run", "--raw", "raw.bin", "--utf8", "raw.bin", expect=2).stderr
    assert "nowhere" in script("run", "--raw", "nowhere", expect=2).stderr


FIXED = ["self.n = 2", "self.PI = 4", "self.start = 1", "setattr(self, 'n', 1)", "setattr(self, 'input', 1)"]


@pytest.mark.parametrize("assignment", FIXED)
def test_parameters_and_constants_cannot_be_assigned(assignment, flow):
    """Assigning a parameter, a constant, a step or what every flow has is an AttributeError that says so."""
    script = flow(flow_source(LINEAR, members=PARAMETERS, start=assignment))
    script("run", expect=1)
    assert failure(script).type == "builtins.AttributeError"
    assert "cannot be assigned" in failure(script).message


def test_resume_takes_no_parameter(flow):
    """A resumed run keeps its origin's parameters: giving one is wrong usage, with the reason."""
    script = flow(flow_source(LINEAR, members=PARAMETERS, end=MEND))
    script("run", "--n", 5, expect=1)
    told = script("resume", "--n", 6, expect=2)
    assert "keeps its origin's parameters" in told.stderr
    assert script.sql("select count(*) from runs") == [1]
    (script.folder / "mended").touch()
    script("resume", FLOWSTORE_RUN_N="7")
    assert (script.client(2).data.n, script.client(2).parameters["n"]) == (5, 5)


# --- tags, ids, current


def test_tags_of_a_run(flow):
    """`--tag` and $FLOWSTORE_RUN_TAGS add user tags; the system's come by themselves."""
    script = flow(flow_source(LINEAR, start="self.tags = current.tags"))
    script("run", "--tag", "a", "--tag", "größe b", FLOWSTORE_RUN_TAGS="c, d,,a")
    run = script.client()
    assert run.user_tags == {"a", "größe b", "c", "d"}
    assert run["start"].task.data.tags == run.user_tags
    heads = {tag.partition(":")[0] for tag in run.system_tags}
    assert heads == {"user", "runtime", "date", "python_version", "flowstore_version"}
    assert [run.id for run in Flow("F").runs("a", "d")] == ["1"]
    assert list(Flow("F").runs("a", "e")) == []


@pytest.mark.parametrize("tag", ["", "user:anne", "production:x", "x" * 501])
def test_a_bad_tag_stops_the_run_before_it_begins(tag, flow):
    """A tag that can't be is one message, and no run."""
    script = flow(flow_source(LINEAR))
    script("run", "--tag", "good", "--tag", tag, expect=1)
    assert not script.db.exists() or script.sql("select count(*) from runs") == [0]


def test_run_id_file(flow, tmp_path):
    """The run id file holds the bare id before the first task starts."""
    script = flow(flow_source(LINEAR, start="self.id = Path('id').read_bytes()"))
    script("run", "--run-id-file", "id")
    assert script.client().data.id == (tmp_path / "id").read_bytes() == b"1"
    script("resume", "end", "--run-id-file", "id")
    assert (tmp_path / "id").read_text() == "2"


CURRENT = """
names = ("flow_name", "run_id", "origin_run_id", "step_name", "task_id", "pathspec", "namespace", "username",
         "retry_count", "is_running_flow", "project_name", "parallel")
self.seen = {name: getattr(current, name) for name in names}
self.also = [current.run.pathspec, current.task.pathspec, current.parameters.n, current.parameters["n"],
             current.get("run_id"), current.get("nope", 4), "run_id" in current, "nope" in current]
"""


def test_current_in_a_task(flow):
    """`current` says where a task is, in a plain run and in a resumed one; outside a task it is empty."""
    script = flow(flow_source(LINEAR, members=PARAMETERS, end=CURRENT))
    script("run")
    script("resume", "end", "--namespace", "user:anne")
    common = {
        "flow_name": "F", "step_name": "end", "username": "tester", "retry_count": 0, "is_running_flow": True,
        "project_name": None, "parallel": None,
    }  # fmt: skip
    first, second = script.client(1).data, script.client(2).data
    assert first.seen == {
        **common, "run_id": "1", "origin_run_id": None, "task_id": "2", "pathspec": "F/1/end/2",
        "namespace": "user:tester",
    }  # fmt: skip
    assert second.seen == {
        **common, "run_id": "2", "origin_run_id": "1", "task_id": "4", "pathspec": "F/2/end/4",
        "namespace": "user:anne",
    }  # fmt: skip
    assert first.also == ["F/1", "F/1/end/2", 1, 1, "1", 4, True, False]
    assert (flowstore.current.run_id, flowstore.current.is_running_flow) == (None, False)
