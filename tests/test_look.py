"""Looking at results from the shell and in notebooks: tables that fit, stable keys, natural forms, Tab, HTML."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import tracemalloc
from pathlib import Path

import harness
import pytest
from harness import Script, flow_source
from test_store import AS_NOBODY, make_store, python, task_with, told

import flowstore
from flowstore import ArtifactError, DataArtifact, Flow, Flows, Run, UntrustedArtifact, namespace, use_store
from flowstore.cli import natural, table
from flowstore.store import db, records

SHAPE = {
    "start": "self.next(self.body, foreach='xs')",
    "body": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}
MEMBERS = "alpha = Parameter('alpha', default=0.5)\nnote = Parameter('note', default='')"
BODIES = {
    "start": """
        print("hello \\x1b[31mred")
        print("oops", file=sys.stderr)
        import numpy, pandas
        self.xs, self.words, self.text = [1, 2, 3], ["a", "b"], "größe\\n"
        self.rows = [{"a": 1, "b": "x"}, {"a": 2, "c": "=y"}]
        self.array = numpy.arange(6).reshape(2, 3)
        self.frame = pandas.DataFrame({"n": [1, 2], "t": ["x", "y"]})
        self.raw, self.f, self._hidden = b"\\x00\\x1b[2J", lambda: 1, 1
        """,
    "body": "self.y = self.input * self.alpha",
    "join": "self.ys = [i.y for i in inputs]\nself.merge_artifacts(inputs, exclude=['y'])",
    "end": "assert self.alpha < 1, 'too much'",
}
LONG = "a note 日本語 " * 20


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """F/1; F/2 by will, with a long note and two tags; F/3 failed in its end."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("look")
    anne, will = ({"FLOWSTORE_USER": name, "FLOWSTORE_HOME": str(folder / "home")} for name in ("anne", "will"))
    script = Script(folder, flow_source(SHAPE, members=MEMBERS, **BODIES))
    script("run", **anne)
    script("run", "--note", LONG, "--tag", "👍 good", "--tag", "日本語", **will)
    script("run", "--alpha", 2, "--tag", "日本語", expect=1, **anne)
    yield script
    script.check()


def command(story, *args, code=0, **env):
    """What `flowstore ARGS` prints; on stderr, where it fails."""
    environment = {"FLOWSTORE_HOME": str(story.folder / "home"), **env}
    ran = harness.command(*args, expect=code, folder=story.folder, **environment)
    return ran.stdout if code == 0 else ran.stderr


def rows(story, *args, **env):
    return json.loads(command(story, *args, "--json", **env))


@pytest.fixture
def look(story, monkeypatch):
    """The story's store, opened by this process, looking at everything."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(story.folder / "home"))
    use_store(story.db)
    namespace(None)
    return story


ELSEWHERE = {
    "show F/2 --namespace user:anne": 'To use it: --namespace user:will or --namespace ""',
    "diff F/1 F/2 --namespace user:anne": 'To use it: --namespace user:will or --namespace ""',
    "show F --namespace trial": 'To see all runs: --namespace ""',
}


@pytest.mark.parametrize("args", ELSEWHERE)
def test_what_is_elsewhere_names_the_option(story, args):
    """On a command line what switches the namespace is an option, not a call."""
    told = command(story, *args.split(), code=1)
    assert told.startswith("Error: ")
    assert told.endswith(f" {ELSEWHERE[args]}\n")


@pytest.mark.parametrize("words", ["list steps 2", "tag list --run-id 2"])
def test_a_flow_s_commands_name_the_option_too(story, words):
    """What is told to be given can be given, and does it."""
    environment = {"FLOWSTORE_HOME": str(story.folder / "home"), "FLOWSTORE_USER": "anne"}
    told = story(*words.split(), expect=1, **environment).stderr
    option = re.search(r"To use it: (--namespace user:will) or --namespace \"\"$", told.strip())[1]
    story(*words.split(), *option.split(), **environment)


# --- rows for programs

TASK = "F/1/start/1"
KEYS = {
    "runs": "run status user created_at duration_s parameters tags",
    "show F": "run status user created_at duration_s parameters tags",
    "show F/1": "run status user created_at duration_s parameters tags finished_at origin_run_id system_tags "
    "script_name code_files steps",
    "show F/1/body": "task status attempts index created_at duration_s origin",
    f"show {TASK}": "artifact type size_bytes codec preview",
    f"show {TASK}/xs": "artifact type size_bytes codec preview",
    f"get {TASK}/xs": "artifact type size_bytes codec sha preview value",
    f"logs {TASK}": "task attempt stream written_at text",
    "tags": "tag runs system last_used",
    "namespaces": "namespace runs last_used",
}


@pytest.mark.parametrize("args", KEYS)
def test_the_keys_of_every_command(printed, args):
    """`--json` is a list of objects with these keys; `--csv` has them as its head."""
    found = json.loads(printed[f"{args} --json"])
    assert found
    assert {" ".join(row) for row in found} == {KEYS[args]}
    head, *lines = csv.reader(io.StringIO(printed[f"{args} --csv"]))
    assert " ".join(head) == KEYS[args]
    assert len(lines) == len(found)


@pytest.fixture(scope="module")
def printed(story):
    """What each command of `KEYS` prints with --json and with --csv."""
    calls = [f"{args} {form}" for args in KEYS for form in ("--json", "--csv")]
    ran = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(calls)], cwd=story.folder, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return dict(zip(calls, ran.stdout.split("\0\n"), strict=False))


def test_nothing_found_has_a_head_too(story):
    """An empty list, or a CSV of its head alone."""
    assert rows(story, "runs", "--tag", "none") == []
    assert command(story, "runs", "--tag", "none", "--csv").split() == [KEYS["runs"].replace(" ", ",")]


def test_a_run_has_its_own_fields_and_its_steps(story):
    """`show RUN --json` is one object; times are as in the views."""
    [run] = rows(story, "show", "F/2")
    [(created_at, finished_at)] = story.sql("select created_at, finished_at from run_summary where run_id = 2")
    assert (run["run"], run["user"], run["created_at"], run["finished_at"]) == ("F/2", "will", created_at, finished_at)
    assert run["parameters"] == {"alpha": 0.5, "note": LONG}
    assert {step["step"]: (step["tasks"], step["status"]) for step in run["steps"]} == {
        "F/2/start": (1, "1 successful"),
        "F/2/body": (3, "3 successful"),
        "F/2/join": (1, "1 successful"),
        "F/2/end": (1, "1 successful"),
    }
    assert run["code_files"].keys() == {"flow.py"}


def test_runs_are_chosen(story):
    """By flow, tag, lacking tag, status and number; when there are more, that is said."""
    assert [row["run"] for row in rows(story, "runs", "F", "--status", "failed")] == ["F/3"]
    assert [row["run"] for row in rows(story, "runs", "--tag", "日本語", "--without", "👍 good")] == ["F/3"]
    assert [row["run"] for row in rows(story, "runs", "--limit", 2)] == ["F/3", "F/2"]
    assert [row["run"] for row in rows(story, "runs", "--namespace", "user:will")] == ["F/2"]
    called = [sys.executable, "-m", "flowstore", "runs", "--limit", "2"]
    assert "--limit 20" in subprocess.run(called, cwd=story.folder, capture_output=True, text=True).stderr


@pytest.mark.parametrize(("words", "option"), [(["runs"], "--limit"), (["logs", "F/1/start"], "--attempt")])
def test_a_number_beyond_all_bounds(story, words, option):
    """It is wrong usage, in words, rather than an error of Python's or of a file that is none."""
    called = [sys.executable, "-m", "flowstore", *words, option, str(2**63 - 1)]
    done = subprocess.run(called, cwd=story.folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Invalid value for '{option}'" in done.stderr


def test_log_lines_say_whose_they_are(story):
    """Stream and text of each; JSON escapes what a terminal would obey."""
    text = command(story, "logs", TASK, "--json")
    assert "\x1b" not in text
    assert [(row["stream"], row["text"]) for row in json.loads(text)] == [
        ("stdout", "hello \x1b[31mred"),
        ("stderr", "oops"),
    ]
    assert "hello red" in command(story, "logs", TASK, "--csv")
    assert command(story, "logs", TASK, "--stdout") == "hello red\n"
    assert command(story, "logs", TASK, "--stdout", "--raw") == "hello \x1b[31mred\n"


def test_a_failed_task_says_why(story):
    """Below its artifacts."""
    [task] = story.sql("select task_id from task_summary where run_id = 3 and step = 'end'")
    assert command(story, "show", f"F/3/end/{task}").splitlines()[-1] == "failed: AssertionError: too much"


def test_sql_rows_are_plain_json(story):
    """Numbers that JSON lacks are null; what could hide or move text is escaped."""
    assert rows(story, "sql", "select 9e999 as a, 1.5 as b, x'01ff' as c") == [{"a": None, "b": 1.5, "c": "01ff"}]
    text = command(story, "sql", "select char(155, 8238, 97) as x", "--json")
    assert text.isascii()
    assert json.loads(text) == [{"x": "\x9b\u202ea"}]


# --- tables for people


def on_terminal(story, columns, *calls):
    """The lines that each of some commands prints on a terminal that is so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    called = [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(calls)]
    with subprocess.Popen(called, cwd=story.folder, env=environment, **streams) as process:
        os.close(theirs)
        said = b""
        while chunk := read_terminal(ours):
            said += chunk
    os.close(ours)
    assert process.returncode == 0, said.decode()
    return [each.splitlines() for each in said.decode().replace("\r", "").split("\x00\n")[:-1]]


IN_ONE_PROCESS = """
import json, sys
from flowstore.cli.admin import _with_commands
for args in json.loads(sys.argv[1]):
    _with_commands().main(args.split(), prog_name="flowstore", standalone_mode=False)
    print("\\0")
"""


def read_terminal(descriptor):
    """What a terminal shows next; nothing once it was closed."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


TABLES = ("runs", "show F/2", f"show {TASK}", "tags", "diff F/1 F/2")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_tables_fit_the_terminal(story, width):
    """No line is wider, wide characters counted as two, and what was cut ends in …"""
    shown = on_terminal(story, width, *TABLES)
    assert len(shown) == len(TABLES)
    for args, lines in zip(TABLES, shown, strict=True):
        assert max(map(table.columns_of, lines)) <= width, args
        assert "…" in "".join(lines) or width > 60 or args == "tags"


def test_a_narrow_terminal_gets_a_line_for_each_cell(story):
    """What does not fit as a table is a block for each row."""
    [lines] = on_terminal(story, 40, "runs")
    assert lines.count("") == 2
    assert [line.split()[0] for line in lines[: lines.index("")]] == KEYS["runs"].split()


def test_times_and_ids_are_kept_longest(story):
    """At 80 columns the ids and times of runs are whole, and free text gives way."""
    [lines] = on_terminal(story, 80, "runs")
    assert [line.split()[0] for line in lines] == ["run", "F/3", "F/2", "F/1"]
    assert all(re.search(r"\d\d:\d\d:\d\d ", line) for line in lines[1:])


def test_wide_characters_are_aligned(story):
    """Each column begins at one place, emoji and Chinese characters before it or not."""
    text = command(story, "sql", "select '👍日本' as a, 'x' as b union all select 'plain', 'x'")
    head, *lines = text.splitlines()
    assert {table.columns_of(line[: line.rindex("x")]) for line in lines} == {head.index("b")}


def test_a_pipe_gets_whole_values(story):
    """Nothing is cut where nobody's screen limits it, whatever the environment says."""
    assert LONG.strip() in command(story, "runs", COLUMNS="40")


# --- reading leaves no trace


def test_a_read_only_file_and_folder_can_be_looked_at(story, open_folder):
    """Every reading command works on them, and not one byte changes."""
    home, folder = open_folder / "nobody", open_folder / "medium"
    home.mkdir()
    home.chmod(0o777)
    folder.mkdir()
    shutil.copy(story.db, folder)
    path = folder / "flowstore.db"
    path.chmod(0o444)
    folder.chmod(0o555)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    queries = [*map(str.split, KEYS), ["diff", "F/1", "F/2"], ["sql", "select 1 as x"], ["schema"]]
    body = """
import json, sys
from click.testing import CliRunner
from flowstore.cli.admin import _with_commands

def look_at(path):
    for args in json.loads(sys.argv[1]):
        ran = CliRunner().invoke(_with_commands(), [*args, "--store", path], catch_exceptions=False)
        assert ran.exit_code == 0 and ran.stdout, (args, ran.output)

look_at(sys.argv[2])  # so that all modules are there, which nobody may not be allowed to read
"""
    code = body + AS_NOBODY + "look_at(sys.argv[3])"
    environment = {**os.environ, "FLOWSTORE_HOME": str(home)}
    told(python(code, json.dumps(queries), story.db, path, env=environment))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert [each.name for each in folder.iterdir()] == ["flowstore.db"]
    folder.chmod(0o755)


# --- artifacts in their natural form


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("xs", "x.json", b"[1,2,3]"),
        ("text", "x.txt", "größe\n".encode()),
        ("text", "x", "größe\n".encode()),
        ("raw", "x.bin", b"\x00\x1b[2J"),
        ("raw", "x.txt", b"\x00\x1b[2J"),
        ("words", "x.csv", b"a\nb\n"),
        ("rows", "x.csv", b"a,b,c\n1,x,\n2,,'=y\n"),
        ("array", "x.csv", b"0,1,2\n3,4,5\n"),
        ("frame", "x.csv", b"n,t\n1,x\n2,y\n"),
        ("array", "x.json", b"[\n  [\n    0,\n    1,\n    2\n  ],\n  [\n    3,\n    4,\n    5\n  ]\n]"),
    ],
)
def test_an_artifact_is_written_in_the_form_that_the_name_asks_for(look, tmp_path, name, file, content):
    """Text, bytes, JSON and CSV as they are."""
    natural.write(DataArtifact(f"{TASK}/{name}"), tmp_path / file)
    assert (tmp_path / file).read_bytes() == content


def test_arrays_and_frames_are_written_as_files_of_their_own(look, tmp_path):
    """.npy and .parquet, from what is stored so, and from lists."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    for name, shape in (("array", (2, 3)), ("xs", (3,))):
        natural.write(DataArtifact(f"{TASK}/{name}"), tmp_path / "x.npy")
        assert numpy.load(tmp_path / "x.npy").shape == shape
    for name in ("frame", "rows"):
        natural.write(DataArtifact(f"{TASK}/{name}"), tmp_path / "x.parquet")
        assert len(pandas.read_parquet(tmp_path / "x.parquet")) == 2
    natural.write(DataArtifact(f"{TASK}/frame"), tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == [{"n": 1, "t": "x"}, {"n": 2, "t": "y"}]


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("xs", "x.txt", "can't be written as .txt"),
        ("text", "x.csv", "it is no table"),
        ("raw", "x.json", "has no form in JSON"),
        ("xs", "x.pkl", "safer form"),
        ("xs", "none/x.json", "No such file or directory"),
    ],
)
def test_what_has_no_such_form_is_one_message(look, tmp_path, name, file, words):
    """It names the artifact's type, and leaves no file behind."""
    with pytest.raises(ArtifactError, match=re.escape(words)):
        natural.write(DataArtifact(f"{TASK}/{name}"), tmp_path / file)
    assert [path.name for path in tmp_path.glob("*x*")] == []


@pytest.mark.parametrize("file", ["x.json", "x.csv", "x.npy", "x.parquet", "x.txt", "x"])
def test_a_form_that_needs_the_value_of_a_stranger_s_pickle_is_refused(story, tmp_path, monkeypatch, file):
    """As reading it is, with the command that trusts; the bytes themselves can be had, and no file is left."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "stranger"))
    use_store(story.db)
    namespace(None)
    with pytest.raises(UntrustedArtifact, match="flowstore trust"):
        natural.write(DataArtifact(f"{TASK}/f"), tmp_path / file)
    assert list(tmp_path.glob("*x*")) == []
    natural.write(DataArtifact(f"{TASK}/f"), tmp_path / "x.pkl")
    assert (tmp_path / "x.pkl").stat().st_size > 100


def test_large_bytes_are_never_held_whole(tmp_path):
    """64 MB are written in pieces."""
    store = db.ensure_store(tmp_path / "flowstore.db")
    task_with(store, big=b"0123456789abcdef" * (4 << 20))
    store.close()
    use_store(store.path)
    namespace(None)
    artifact = DataArtifact("F/1/end/1/big")
    tracemalloc.start()
    natural.write(artifact, tmp_path / "big.bin")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "big.bin").stat().st_size == 64 << 20
    assert peak < 8 << 20


def test_a_device_is_written_to_and_not_replaced(look):
    """What is no file stays what it is."""
    natural.write(DataArtifact(f"{TASK}/raw"), Path("/dev/null"))
    assert not Path("/dev/null").is_file()


def test_get_prints_what_can_be_printed(story):
    """JSON as JSON, bytes as they are, anything else as its preview; `--json` says what it is as well."""
    assert json.loads(command(story, "get", f"{TASK}/rows"))[1]["c"] == "=y"
    assert command(story, "get", f"{TASK}/raw") == "\x00\x1b[2J"
    assert "function" in command(story, "get", f"{TASK}/f")
    [row] = rows(story, "get", f"{TASK}/xs")
    assert (row["value"], row["sha"]) == ([1, 2, 3], hashlib.sha256(b"[1,2,3]").hexdigest())
    assert rows(story, "get", f"{TASK}/f")[0]["value"] is None


def test_without_the_data_packages_all_else_works(story, tmp_path):
    """Without pandas, numpy and pyarrow: tables, JSON, bytes and stored forms; what needs them says how to get them."""
    code = (
        "import sys\n"
        "for name in ('pandas', 'numpy', 'pyarrow'): sys.modules[name] = None\n"
        "from click.testing import CliRunner\n"
        "from flowstore.cli.admin import _with_commands\n"
        "from flowstore import FlowstoreError\n"
        "def call(*args):\n"
        "    ran = CliRunner().invoke(_with_commands(), args)\n"
        "    if isinstance(ran.exception, FlowstoreError): return str(ran.exception)\n"
        "    assert ran.exit_code == 0, ran.exception\n"
        f"task = {TASK!r}\n"
        "for words in ('runs', 'show F/1', f'show {task}', 'tags', 'logs F/1', 'diff F/1 F/2', f'get {task}/frame'):\n"
        "    assert call(*words.split()) is None, words\n"
        "for name, file in (('rows', 'x.csv'), ('array', 'x.npy'), ('frame', 'x.parquet'), ('raw', 'x.bin')):\n"
        "    assert call('get', f'{task}/{name}', '-o', sys.argv[1] + '/' + file) is None, name\n"
        "for name, file in (('frame', 'x.csv'), ('array', 'x.csv'), ('xs', 'y.npy'), ('rows', 'y.parquet')):\n"
        "    message = call('get', f'{task}/{name}', '-o', sys.argv[1] + '/' + file)\n"
        "    assert 'pip install \"flowstore[data]\"' in message, (name, file, message)\n"
    )
    told(python(code, tmp_path, folder=story.folder))
    assert (tmp_path / "x.csv").read_text() == "a,b,c\n1,x,\n2,,'=y\n"


# --- Tab in the shell


def complete(line, shell="bash", folder=None):
    """What Tab offers at the end of a line."""
    words = line.split(" ")
    environment = {
        "_FLOWSTORE_COMPLETE": f"{shell}_complete",
        "COMP_LINE": line,
        "COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    ran = subprocess.run(
        [sys.executable, "-c", "from flowstore.cli.admin import main; main()"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
    )
    assert ran.stderr == ""
    if shell == "zsh":
        return ran.stdout.split("\n")[1::3]
    return [each.partition(",")[2].partition("\t")[0] for each in ran.stdout.splitlines() if each]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("flowstore show ", ["F", "F/3", "F/2", "F/1"]),
        ("flowstore diff F/1 F/", ["F/3", "F/2", "F/1"]),
        ("flowstore show F/1/", ["F/1/end", "F/1/join", "F/1/body", "F/1/start"]),
        ("flowstore logs F/1/st", ["F/1/start"]),
        ("flowstore get F/1/start/1/x", ["F/1/start/1/xs"]),
        ("flowstore runs --tag 日", ["日本語"]),
        ("flowstore runs --namespace user:w", ["will"]),  # bash has cut off "user:"
        ("flowstore runs --namespace=user:w", ["will"]),
        ("flowstore --namespace user:will diff ", ["F/2"]),
        ("flowstore runs --status su", ["successful"]),
        ("flowstore delete F/", ["F/3", "F/2", "F/1"]),
        ("flowstore delete --tag 日", ["日本語"]),
        ("flowstore export out.db --flow ", ["F"]),
        ("sudo /usr/bin/flowstore name", ["namespaces"]),
        ("flowstore show G/", []),
        ("flowstore show F/9/", []),
    ],
)
def test_tab_completes_what_is_in_the_store(story, line, offered):
    """Flows, run ids, steps, tasks, artifacts, tags and namespaces."""
    assert complete(line, folder=story.folder) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_tab_completes_in_other_shells(story, shell):
    """There a colon does not end a word."""
    assert complete("flowstore runs --namespace user:w", shell, story.folder) == ["user:will"]
    assert complete("flowstore diff F/", shell, story.folder) == ["F/3", "F/2", "F/1"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_tab_completes_in_a_real_bash(story, tmp_path):
    """The script that the README's line evaluates answers bash as bash asks."""
    program = tmp_path / "flowstore"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from flowstore.cli.admin import main; main()" "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(_FLOWSTORE_COMPLETE=bash_source flowstore)"\n'
        'COMP_LINE="flowstore runs --namespace user:wi # later"; COMP_POINT=34\n'
        '_flowstore_completion flowstore; echo "${COMPREPLY[@]}"; complete -p flowstore'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", script], cwd=story.folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert ran.stdout.splitlines()[0] == "will"
    assert "-F _flowstore_completion flowstore" in ran.stdout


def test_tab_offers_only_plain_words_and_only_some(tmp_path):
    """Nothing that a shell or a terminal would take for more than a word, and some dozens at most."""
    store = db.ensure_store(tmp_path / "flowstore.db")
    hostile = ["$(reboot)", "a b", "`x`", "x\x1b[2J", "x\ny", "-rf", "x;y", "x\u202ey", "it's", "*"]
    with store.write() as connection:
        for n in range(120):
            run = records.NewRun("F", "tester", {}, (), None, ["user:tester"], [f"tag{n:03}", *hostile])
            records.create_run(connection, run)
    store.close()
    offered = complete("flowstore runs --tag ", folder=tmp_path)
    assert len(offered) == 50
    assert not set(offered) & set(hostile)
    assert len(complete("flowstore diff ", folder=tmp_path)) == 50
    for beginning in "$x":
        assert complete(f"flowstore runs --tag {beginning}", folder=tmp_path) == []


def test_tab_is_quiet_where_there_is_nothing_to_offer(tmp_path):
    """No store, or a damaged one: no words, no message, no file."""
    assert complete("flowstore show ", folder=tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "flowstore.db").write_bytes(b"SQLite format 3\x00" + b"x" * 5000)
    assert complete("flowstore show ", folder=tmp_path) == []
    assert complete("flowstore runs --tag x", folder=tmp_path) == []


# --- notebooks


def test_a_run_shows_its_graph_artifacts_and_timings(look):
    """Steps with their states and seconds, what came after what, and previews, in a few kilobytes, without scripts."""
    html = Run("F/2")._repr_html_()
    assert "<svg" in html
    assert len(re.findall("<rect", html)) == 4
    assert len(re.findall("<path", html)) == 3
    assert "body ×3" in html
    assert "[0.5, 1.0, 1.5]" in html
    assert "日本語" in html
    assert len(html) < 20_000
    failed = Run("F/3")._repr_html_()
    assert "1 failed" in failed
    assert "#e5534b" in failed


def test_a_graph_with_a_loop_is_drawn(flow):
    """An edge that leads back is dashed; a step stands after all that came before it."""
    script = flow(
        flow_source(
            {"start": "self.next(self.body)", "body": "self.next({'more': self.body, 'done': self.end}, condition='s')",
             "end": ""},
            start="self.n = 0",
            body="self.n += 1\nself.s = 'done' if self.n > 2 else 'more'",
        )
    )  # fmt: skip
    script("run")
    html = script.client()._repr_html_()
    assert html.count("stroke-dasharray") == 1
    assert "body ×3" in html


def test_html_is_escaped(tmp_path):
    """Names, tags and values of anybody's are text, in the drawing too."""
    store = db.ensure_store(tmp_path / "flowstore.db")
    with store.write() as connection:
        run = records.NewRun("F", "tester", {"p": '"</svg><script>"'}, (), None, ["user:tester"], ["<img src=x>"])
        run_id = records.create_run(connection, run)
        step_id = records.ensure_step(connection, run_id, '<b onclick="x">')
        records.start_task(connection, run_id, step_id, (), None, None)
    store.close()
    use_store(store.path)
    namespace(None)
    html = Run("F/1")._repr_html_()
    assert not re.search(r"<(script|img|b )", html)
    assert "&lt;b oncl" in html


def test_brackets_complete_with_tab(look):
    """What IPython asks for after an opening bracket."""
    task = Run("F/1")["start"].task
    asked = [Flows(), Flow("F"), Run("F/1"), Run("F/1")["start"], task, task.artifacts]
    assert [each._ipython_key_completions_()[:2] for each in asked] == [
        ["F"],
        ["3", "2"],
        ["end", "join"],
        ["1"],
        ["alpha", "array"],
        ["alpha", "array"],
    ]


def test_a_data_frame_of_no_runs_has_its_columns(look):
    """So that code which selects columns works."""
    pytest.importorskip("pandas")
    frame = Flow("F").to_dataframe("none")
    assert len(frame) == 0
    assert {"run_id", "status", "created_at", "duration_s", "tags"} <= set(frame)
    assert str(frame["created_at"].dt.tz) == "UTC"
    assert next(iter(Flow("F").to_dataframe()["ys"].dropna())) == [0.5, 1.0, 1.5]


def test_two_stores_side_by_side(look, tmp_path):
    """`use_store` as a context manager switches back, and what was found inside goes on."""
    other = make_store(tmp_path / "other.db", runs=2)
    with use_store(other) as path:
        assert path == other
        inside = Flow("F")
        assert [run.id for run in inside] == ["2", "1"]
    assert [run.id for run in Flow("F")] == ["3", "2", "1"]
    assert [run.id for run in inside] == ["2", "1"]
    assert inside.to_dataframe()["x"][0] == {"accuracy": 0.5}
    assert flowstore.get_store() == look.db


def test_a_run_in_which_nothing_began_has_no_drawing(tmp_path):
    """It shows its fields."""
    store = db.ensure_store(tmp_path / "flowstore.db")
    with store.write() as connection:
        records.create_run(connection, records.NewRun("F", "tester", {}, (), None, ["user:tester"], []))
    store.close()
    use_store(store.path)
    namespace(None)
    assert "<svg" not in Run("F/1")._repr_html_()
