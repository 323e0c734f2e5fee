"""Rubbish in, one clear message out: commands, pathspecs, SQL, parameters and file names, and never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import flowstore
from flowstore import DataArtifact, Flow, FlowSpec, JSONType, Parameter, Run, Step, Task, context, step
from flowstore.cli import flow as flow_commands
from flowstore.errors import FlowstoreError
from flowstore.run import start
from flowstore.store import codecs, trust
from flowstore.store.opening import open_store
from support.cli import exit_code, known_commands
from support.flows import MIDDLE, flow_source
from support.recording import store_with, tag_node

DEEP = "[" * 5000
ODD = [
    "", " ", "-", "--", "-1", "0", "1", "9" * 20, "1" * 5000, "1e400", "nan", "-0.0", "1_000", "+1", "²", "٣",
    "\udc80", "\udcff", "\u202e", "\x1b[31m", "\ufeff", "👍🏽", "%", "%s", "{}", "' or 1=1 --", '"', "*", "[", "(",
    "F", "F/1", "F/1/", "F//1", "/F", "F/1/start", "F/1/start/1", "F/1/start/1/x", "F/1/start/1/x/y", "F/-1", "F/01",
    "F/1.0", "f/1", "F/latest", "G", "user:tester", "production:", "a b", "x" * 600, "null", "true", DEEP, '{"a":',
    "\n", "a\tb", "2016-12-31T23:59:60Z", "30d", "-5d", "10MB", "1e3GB", "--help", "--store", "select", ";",
    "~nobody-such/x", "run=1", "\\",
]  # fmt: skip
# What a process can be given as an argument: anything but NUL. Nothing absolute, since some of it names files.
ARGUMENT = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(codec="utf-8", exclude_characters="\0/"), max_size=12),
    st.integers().map(str),
).filter(lambda text: not text.startswith("/") and ".." not in text)
FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
LONG = pytest.mark.parametrize(
    "examples",
    [
        15,
        pytest.param(150, marks=pytest.mark.long),
        pytest.param(20_000, marks=[pytest.mark.soak, pytest.mark.timeout(3000)]),
    ],
)


@pytest.fixture
def store(tmp_path):
    """A store with a run of F, of which everything has a tag, and one that failed."""
    path = store_with(
        tmp_path / "flowstore.db", {"x": 1, "tags": ["blue"], "width": 2}, {"fails_at": "end", "x": range(2)}
    )
    with contextlib.closing(open_store(path)) as opened:
        tag_node(opened, "F", 1, "red", "start", task=True, artifact="x")
    flowstore.use_store(path)
    return path


def called(make, args):
    """Call a command line as its console script does; gives its exit code. What is not told in a message is raised."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = exit_code(*args, make=make)
    said = err.getvalue()
    assert code in {0, 1, 2}, (args, code)
    told = said.count("Error: ") == 1 or (code == 2 and said.startswith("Usage: ")) or {"check", "delete"} & {*args}
    assert code == 0 or told, (args, said)
    assert "\x1b" not in said
    context.namespace(None)
    return code


# --- commands

SKIPPED = {"scheduler", "demo", "ui"}  # which run until they are stopped
KNOWN = known_commands()
COMMANDS = {
    name: KNOWN.get_command(click.Context(KNOWN), name)
    for name in KNOWN.list_commands(click.Context(KNOWN))
    if name not in SKIPPED
}


@st.composite
def calls(draw, commands):
    """A command with some of its options, and rubbish where they take something."""
    name = draw(st.sampled_from(sorted(commands)))
    args = [name]
    kept = {"--yes", "--store", "--repair"}
    options = [each for each in commands[name].params if isinstance(each, click.Option) and not kept & {*each.opts}]
    for option in draw(st.lists(st.sampled_from(options), max_size=3)) if options else ():
        args.append(draw(st.sampled_from(option.opts)))
        if not option.is_flag and draw(st.integers(0, 9)):
            args.append(draw(ARGUMENT))
    return [*args, *draw(st.lists(ARGUMENT, max_size=3))]


@LONG
def test_commands_with_rubbish(examples, store):
    """Whatever the `flowstore` commands are given, they end with 0, 1 or 2 and one error at most; nothing changes."""

    @settings(FUZZ, max_examples=examples)
    @given(calls(COMMANDS))
    @example(["get", "F/1/start/1/x", "-o", "no/such/folder/x"])
    @example(["get", "F/1/start/1/x", "-o", "x" * 600])
    @example(["export", "x" * 600])
    @example(["import", "x" * 600])
    @example(["trust", "x" * 600])
    @example(["show", "F/²"])
    @example(["show", "F/1/start/٣"])
    @example(["sql", "\ud800"])
    @example(["--store", "\udcff.db", "runs"])
    @example(["--namespace", "\ud800", "runs"])
    def fuzz(args):
        called(lambda: KNOWN, args)

    fuzz()
    with contextlib.closing(open_store(store)) as opened:
        assert opened.value("select count(*) from run_summary") == 2


WORDS = """
select * from runs run_summary where tags ( ) , ' " ; x 1 = insert delete attach pragma vacuum with as join null
count(*) load_extension('x') -- /* randomblob(10) x'00ff' 1e999 -9223372036854775808 group by order explain begin drop
temp table readfile('/etc/passwd') fts3_tokenizer('simple') zeroblob(999999999999) \udcff
""".split()  # noqa: SIM905  # as one reads it
SQL = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


@LONG
def test_sql_rubbish(examples, store):
    """Any text for `flowstore sql` is answered, or refused with one message; nothing is written, no other file read."""
    before = store.read_bytes()

    @settings(FUZZ, max_examples=examples)
    @given(st.one_of(SQL, ARGUMENT), st.sampled_from([[], ["--json"], ["--csv"]]))
    def fuzz(query, form):
        called(lambda: KNOWN, ["sql", *form, "--", query])

    fuzz()
    context.state.store.close()
    assert store.read_bytes() == before


# --- the Client

ADDRESS = st.one_of(ARGUMENT, st.lists(ARGUMENT, min_size=1, max_size=6).map("/".join), st.text(max_size=8))


@LONG
def test_pathspecs_of_rubbish(examples, store):
    """An address that is none is InvalidPathspec or NotFound, also in brackets; `in` answers."""

    @settings(FUZZ, max_examples=examples)
    @given(ADDRESS, st.integers())
    @example("F/1/start/1/x\0", 0)
    @example("F/\0", 2**63)
    @example("F/\ud800", -(2**63))
    def fuzz(text, number):
        flowstore.namespace(None)
        objects = [Flow("F"), Run("F/1"), Run("F/1")["start"], Run("F/1")["start"].task]
        for kind in (Flow, Run, Step, Task, DataArtifact):
            with contextlib.suppress(FlowstoreError):
                assert isinstance(kind(text), kind)
        for each in objects:
            for key in (text, number):
                assert (key in each) in {True, False}
                with contextlib.suppress(FlowstoreError):
                    each[key]
        with contextlib.suppress(FlowstoreError):
            flowstore.namespace(text)
            assert next(iter(Flow("F").runs(text)), None) is None or text in {"blue", "user:tester"}

    fuzz()


# --- parameters and tags of a flow


class Everything(FlowSpec):
    """One parameter of each type."""

    text = Parameter("text", default="")
    whole = Parameter("whole", default=0)
    real = Parameter("real", default=0.0)
    switch = Parameter("switch", default=False)
    data = Parameter("data", type=JSONType, default="null")
    parts = Parameter("parts", separator=",", default="")
    content = flowstore.IncludeFile("content")

    @step
    def start(self):
        """Does nothing."""
        self.next(self.end)

    @step
    def end(self):
        """Does nothing."""


NAMES = ["text", "whole", "real", "switch", "data", "parts", "content"]


@LONG
def test_parameters_of_rubbish(examples, monkeypatch):
    """A value has the parameter's type and can be stored, or ends in exit code 2, from option and environment alike."""
    found = {}
    monkeypatch.setattr("flowstore.cli.flow.run._executor", lambda *_: None)
    monkeypatch.setattr(start, "run_flow", lambda _flow, _graph, values, *_: found.update(values) or 0)
    types = {"text": str, "whole": int, "real": float, "switch": bool, "parts": list}

    @settings(FUZZ, max_examples=examples)
    @given(st.sampled_from(NAMES), ARGUMENT)
    @example("data", DEEP)
    @example("content", "~nobody-such/x")
    @example("content", "x" * 600)
    def fuzz(name, value):
        codes = []
        for args in (["run", f"--{name}={value}"], ["run"]):
            found.clear()
            with pytest.MonkeyPatch.context() as patch:
                if len(args) == 1:
                    patch.setenv(f"FLOWSTORE_RUN_{name.upper()}", value)
                codes.append(called(lambda: flow_commands.commands_of(Everything), args))
            if codes[-1] == 0:
                assert isinstance(found[name], types.get(name, object)) or found[name] is None
                encoded = codecs.encode(found[name])
                same = codecs.decode(encoded.codec, iter([encoded.content]), encoded.size_bytes)
                assert same == found[name] or same != same  # noqa: PLR0124  # NaN
        assert set(codes) <= {0, 2}
        assert codes[0] == codes[1] or value == ""  # an empty variable counts as none

    fuzz()


@LONG
def test_flow_commands_with_rubbish(examples, store, monkeypatch):
    """The same for the commands of a flow's file, tags included; only well-formed tags are added."""
    monkeypatch.setattr("flowstore.cli.flow.run._executor", lambda *_: None)
    monkeypatch.setattr(start, "resume_flow", lambda *_, **__: 0)
    known = flow_commands.commands_of(type("F", (Everything,), {"__module__": __name__}))
    context_ = click.Context(known)
    commands = {
        name: known.get_command(context_, name) for name in ("show", "check", "dump", "logs", "list", "output-dot")
    }
    verbs = st.sampled_from(
        ["tag add", "tag remove", "tag replace", "tag list", "logs show", "list tasks", "list", "deploy show",
         "deploy delete", "dump", "resume"]
    ).map(str.split)  # fmt: skip
    options = st.sampled_from(["--run-id", "--pathspec", "--include", "--max-value-size", "--attempt", "--run-id=1"])
    more = st.lists(st.one_of(options, ARGUMENT), max_size=5)

    @settings(FUZZ, max_examples=examples)
    @given(st.one_of(calls(commands), st.tuples(verbs, more).map(lambda both: [*both[0], *both[1]])))
    @example(["dump", "1/start/1", "--file", "no/such/folder/x"])
    @example(["tag", "add", "\ud800", "--run-id", "1"])
    def fuzz(args):
        called(lambda: known, args)

    fuzz()
    with contextlib.closing(open_store(store)) as opened:
        for row in opened.rows("select tag from tags"):
            assert 0 < len(row["tag"]) <= 500


# --- file names

FILES = [
    "a b",
    "a?b",
    "a#b",
    "a%41b",
    "a%b",
    "file:x",
    ":memory:",
    "-x",
    "'q\"",
    "n\nl",
    "ü",
    "\udcff\udcfe",
    "a&mode=ro",
    "~",
    "$HOME",
]


@pytest.mark.parametrize("name", FILES, ids=[ascii(name) for name in FILES])
@pytest.mark.quick("'a?b'", "'a%41b'", "':memory:'", "'-x'")
def test_a_store_of_any_name(name, store, tmp_path):
    """A store, an export and an artifact's file may have any name that the system permits; nothing else is made."""
    context.state.store.close()
    place = f"./{name}.db"
    shutil.copy(store, place)
    commands = (
        ["runs"], ["show", "F/1"], ["check", "--deep"], ["get", "F/1/start/1/x", "-o", f"./{name}.json"],
        ["sql", "select 1"], ["export", f"./{name}.out"], ["vacuum"], ["trust", place], ["trust", "--revoke", place],
        ["delete", "F/2", "--yes"],
    )  # fmt: skip
    for args in commands:
        assert called(lambda: KNOWN, ["--store", place, *args]) == 0
        if args == ["trust", place]:
            with contextlib.closing(open_store(place)) as opened:
                assert trust.is_trusted(opened.path, opened.uuid)
    assert called(lambda: KNOWN, ["--store", place, "import", f"./{name}.out"]) == 0
    context.state.store.close()
    made = {item.name for item in tmp_path.iterdir()} - {"home", "flowstore.db"}
    assert made == {f"{name}.db", f"{name}.json", f"{name}.out"}


def test_a_run_with_odd_names(flow):
    """A run's store, its id file and its environment may hold bytes that are no text."""
    end = "self.y = Run(current.pathspec.rpartition('/end')[0]).id"
    script = flow(flow_source(MIDDLE, members="p = Parameter('p', default='')", start="self.x = self.p", end=end))
    name = os.fsdecode(b"a ?#%41&\xff\n'.db")
    options = ["--store", name, "--run-id-file", f"{name}.id", "--tag", "a b"]
    with script.start("run", "--quiet", *options, FLOWSTORE_RUN_P=os.fsdecode(b"\xfe p")) as process:
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, b"")
    assert Path(f"{name}.id").read_text() == "1"
    flowstore.use_store(name)
    assert flowstore.Run("F/1").data.x == os.fsdecode(b"\xfe p")
    context.state.store.close()
    assert sorted(path.name for path in script.folder.iterdir() if path.name not in {"home", "flow.py"}) == [
        name,
        f"{name}.id",
    ]
