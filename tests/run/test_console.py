"""What people see of a run: live lines, progress bars, colours, explanations, logs."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import termios

import pytest

from flowstore.run.lines import Lines
from flowstore.text import escaped, safe
from support.cli import Script, command, known_commands, read_terminal, stop
from support.flows import FOREACH, LINEAR, flow_source
from support.processes import wait_for

# --- text that plays tricks


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mERROR\x1b[0m x", "ERROR x"),
        ("\x1b[1;38;2;1;2;3mbold\x1b[m", "bold"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1bPq#0;2\x1b\\x", "x"),
        ("\x1b]0;never ends", "0;never ends"),
        ("\x1b\x1b[31m[31mx", "[31mx"),
        ("\x1b(B\x1b7x\x1bc", "x"),
        ("\x9b31mred", "red"),
        ("mojibake: \xe2\x80\x9dquoted", "mojibake: âquoted"),
        ("a\u200eb\u200fc\u061cd\u202ee\u2066f\ufeffg\u200bh\u00adi\U000e0041j", "abcdefghij"),
        ("👩\u200d💻 ❤\ufe0f नमस्\u200dते", "👩\u200d💻 ❤\ufe0f नमस्\u200dते"),
        ("\x1b[", ""),
    ],
)
def test_sequences_are_dropped_whole(text, shown):
    """Nothing is left of a colour, a title or a link; marks without a shape go, those that join characters stay."""
    assert safe(text) == shown
    assert not set(escaped(f'"{text}"')) & set("\u200e\u200f\u061c\u202e\u2066\ufeff\x9b\U000e0041")


def test_marks_that_turn_the_reading_order_reach_no_terminal(flow):
    """In tables, logs, messages, CSV and JSON, of tags, names, values and what tasks print."""
    marks = "\u200e\u200f\u061c\u202a\u202e\u2066\u2069"
    script = flow(flow_source(LINEAR, start=f"self.x = {marks!r} + 'x'; print(self.x)"))
    script("run", "--tag", f"a{marks}b")
    at = "F/1/start/1"
    asked = (
        "runs",
        "tags",
        f"show {at}",
        f"logs {at}",
        f"get {at}/x",
        "sql select/**/tag/**/from/**/tags",
        f"show {at}/y",
    )
    for words in asked:
        for form in ([], ["--csv"], ["--json"]):
            args = words.split()
            done = command(*args, *form, folder=script.folder, expect=int(words.endswith("y")))
            assert not set(marks) & set(done.stdout + done.stderr), (words, form)


# --- lines that progress bars change


def played(*chunks):
    """What the log gets of some chunks that arrive within a second, and the lines that are shown."""
    lines = Lines()
    played = [lines.feed(chunk.encode(), n / 100) for n, chunk in enumerate(chunks)]
    played.append(lines.feed(b"", 1, end=True))
    return "".join(text for text, _ in played), [line for _, whole in played for line in whole]


@pytest.mark.parametrize(
    ("chunks", "log"),
    [
        (("\r 0%", "\r 50%", "\r100%", "\nnext\n"), "100%\nnext\n"),
        (("0%\r", "50%\r", "100%\r"), "100%"),
        (("0%\r50%\r100%\r\nnext",), "100%\nnext"),
        (("one\r\ntwo\r", "\nthree\r\n"), "one\r\ntwo\nthree\n"),
        (("\r 0%", "\r100%", "\r    \r", "after\n"), "after\n"),
        (("\r 0%", "\r100%", "\r    \r"), ""),
        (("\r 0%", "\r\x1b[K"), ""),
        (("\r outer 0", "\n", "\rinner 0", "\x1b[A", "\n", "\rinner 9", "\x1b[A", "\r outer 9\n"), " outer 9\ninner 9"),
        (("Loading", "\rLoaded\n"), "Loaded\n"),
        (("x\x1b", "[", "A\ry\n"), "y\nx"),
        (("a", "b\n", "c"), "ab\nc"),
        (("\x1b[3", "1mred\x1b[0m\n"), "\x1b[31mred\x1b[0m\n"),
        (("\r" + "x" * 3_000_000,), "x" * 3_000_000),
        (("\x1b[999A", "\rx\n"), "x\n"),
    ],
)  # fmt: skip
def test_the_log_has_the_last_state_of_a_line(chunks, log):
    r"""Whatever writes over it: `\r` before or behind, cursors that move, in pieces of any size; `\r\n` ends a line."""
    text, shown = played(*chunks)
    assert "".join(text.splitlines()) == "".join(log.splitlines())
    if len(log) < 1000:
        assert text == log
        assert shown == log.splitlines()
        assert played(*"".join(chunks))[0].replace("\r", "") == log.replace("\r", "")


def test_the_beginning_of_a_line_is_logged_before_its_end():
    """After a while, as a prompt or a step that hangs leaves it; the line is shown once, when it is whole."""
    lines = Lines()
    assert lines.feed(b"computing", 0) == ("", [])
    assert lines.settle(1) == ("", [])
    assert lines.settle(3) == ("computing", [])
    assert lines.feed(b" done\n", 4) == (" done\n", ["computing done"])


BARS = """
    from tqdm import tqdm, trange
    for _ in trange(20, desc="outer"):
        time.sleep(0.1)
        for _ in trange(3, desc="inner", leave=False): pass
    for _ in tqdm(range(2), desc="quick"): pass
    print("plain")
    """


def events(text):
    """The live lines, as time of day in seconds, label and text."""
    found = re.findall(r"^\S+ (\d+):(\d+):(\S+) \[(.*?) \(pid \d+\)\] (.*)$", text, re.MULTILINE)
    return [(int(h) * 3600 + int(m) * 60 + float(s), label, told) for h, m, s, label, told in found]


def test_a_bar_in_a_pipe(flow):
    """It is shown while it runs, at most twice a second, each time with its prefix; the log has its last state only."""
    pytest.importorskip("tqdm")
    script = flow(flow_source(LINEAR, start=BARS))
    shown = [event for event in events(script("run").stdout) if "outer" in event[2]]
    assert {label for _, label, _ in shown} == {"1/start/1"}
    assert [re.search(r"(\d+)/20 ", told)[1] != "20" for _, _, told in shown] == [True] * (len(shown) - 1) + [False]
    assert len(shown) >= 3
    assert len({told for _, _, told in shown}) == len(shown)
    assert min(b[0] - a[0] for a, b in itertools.pairwise(shown[:-1])) > 0.45  # the end is shown when it comes
    task = script.client()["start"].task
    assert [line[:12] for line in task.stderr.splitlines()] == ["outer: 100%|", "quick: 100%|"]
    assert "\r" not in "".join(script.sql("select text from task_logs"))
    assert task.stdout == "plain\n"


class Terminal:
    """A terminal that is so wide, and what it shows while `python flow.py ARGS` runs on it."""

    def __init__(self, script, *args, columns=120, rows=30, **env):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
        environment |= {"TERM": "xterm", "PYTHONWARNINGS": "error", **env}
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        called = [sys.executable, script.file.name, *args]
        self.process = subprocess.Popen(called, cwd=script.folder, env=environment, start_new_session=True, **streams)
        os.close(theirs)
        self.said = b""
        self.screens = []

    def __iter__(self):
        """What it shows after each piece of output, as lines."""
        while chunk := read_terminal(self._ours):
            self.said += chunk
            yield screen(self.said.decode("utf-8", "replace"))
        os.close(self._ours)
        self.process.wait(60)


def screen(said):
    """The lines of a terminal that understands what is used of it."""
    lines, at = [""], 0
    for text, how in re.findall(r"([^\r\n\x1b]*)(\r|\n|\x1b\[\d*[AJm]|$)", said):
        lines[at] += text
        if how == "\n":
            at += 1
            lines += [""] if at == len(lines) else []
        elif how == "\r":
            lines[at] = _Returned(lines[at])
        elif how.endswith("A"):
            at -= int(how[2:-1] or 1)
            lines[at] = _Returned(lines[at])
        elif how.endswith("J"):
            del lines[at + 1 :]
            lines[at] = ""
    return [str(line) for line in lines]


class _Returned(str):
    """A line at whose beginning the cursor is."""

    __slots__ = ()

    def __add__(self, text):
        return text + self[len(text) :] if text else self


def test_bars_on_a_terminal(flow):
    """Each is a line that changes in place, below all others, with the prefix of its task; then it stays, once."""
    pytest.importorskip("tqdm")
    script = flow(flow_source(FOREACH, start="self.xs = ['a', 'b']", body=BARS.replace("range(3", "range(30")))
    both, terminal = 0, Terminal(script, "run", "--max-workers", "2")
    for lines in terminal:
        bars = [line for line in lines if "outer" in line]
        assert len(bars) <= 4
        both = max(both, len({line.split("[")[1].split()[0] for line in bars if "100%" not in line}))
    assert terminal.process.returncode == 0
    assert both == 2
    assert (
        sorted(line.split("] ")[1][:12] for line in lines if "%|" in line)
        == ["outer: 100%|"] * 2 + ["quick: 100%|"] * 2
    )
    assert max(map(len, lines)) < 150
    draws = terminal.said.decode().count("\x1b[J")
    assert 4 < draws < 60


def test_a_bar_whose_task_dies(flow):
    """Its last state is shown and kept, though its line never ended."""
    start = "print('10%', end='\\r', flush=True); print('20%', end='\\r', flush=True); os._exit(3)"
    script = flow(flow_source(LINEAR, start=start))
    shown = script("run", expect=1).stdout
    assert "] 20%\n" in shown
    assert script.client()["start"].task.stdout == "20%"
    assert "20%" in script.client()["start"].task.exception.message


def test_a_terminal_that_can_t_move_its_cursor_gets_plain_lines(flow):
    """So says `TERM=dumb`."""
    script = flow(flow_source(LINEAR, start="print('\\r10%', end=''); time.sleep(0.8); print('\\r20%')"))
    terminal = Terminal(script, "run", TERM="dumb")
    [*_] = terminal
    assert "\x1b" not in terminal.said.decode()
    assert terminal.said.decode().count("] 10%\r\n") == terminal.said.decode().count("] 20%\r\n") == 1


def test_many_tasks_are_counted_on_a_terminal(flow):
    """On one line, which goes at the end; lines about tasks that start and succeed don't scroll the rest away."""
    script = flow(flow_source(FOREACH, start="self.xs = range(30)", body="print('item', self.input); time.sleep(0.05)"))
    terminal = Terminal(script, "run", "--max-workers", "2")
    counted = {line for lines in terminal for line in lines if " in all" in line}
    assert any(re.match(r"\d+ done, 2 running, 0 failed, 31 in all  ━", line) for line in counted)
    end = screen(terminal.said.decode())
    assert not any(" in all" in line for line in end)
    assert sum("item" in line for line in end) == 30
    assert sum("finished" in line for line in end) < 10


def test_ctrl_c_takes_the_bars_away(flow):
    """And the log has what they showed at last."""
    script = flow(flow_source(LINEAR, start="for n in range(1000): print(f'\\r{n} of 1000', end=''); time.sleep(0.05)"))
    with script.start("run", PYTHONUNBUFFERED="1") as process:
        wait_for(lambda: script.db.exists() and script.sql("select 1 from tasks"))
        assert process.stdout.readline()
        assert b" of 1000" in process.stdout.readline()
        assert stop(process).code == 130
    assert re.fullmatch(r"\d+ of 1000", script.client()["start"].task.stdout)


# --- colours

COLOURED = r"""
    print("\x1b[31mERROR\x1b[0m plain \x1b[1;32mopen")
    print("next \x1b[2J\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\")
    os.write(1, b"\x1b[3"); time.sleep(0.1); os.write(1, b"4mblue\x1b[0m\n")
    """


def test_colours_pass_on_a_terminal(flow):
    """Whole, and end with their line; other sequences are dropped whole."""
    terminal = Terminal(flow(flow_source(LINEAR, start=COLOURED)), "run")
    [*_] = terminal
    shown = [text for _, _, text in events(terminal.said.decode().replace("\r\n", "\n"))][1:4]
    assert shown == ["\x1b[31mERROR\x1b[0m plain \x1b[1;32mopen\x1b[0m", "next link", "\x1b[34mblue\x1b[0m"]


def test_colours_are_dropped_elsewhere(flow):
    """In a pipe, where `NO_COLOR` is set, and in what `logs` shows; the log keeps them for `--raw`."""
    script = flow(flow_source(LINEAR, start=COLOURED))
    plain = ["ERROR plain open", "next link", "blue"]
    assert [text for _, _, text in events(script("run").stdout)][1:4] == plain
    terminal = Terminal(script, "run", NO_COLOR="1")
    [*_] = terminal
    assert [text for _, _, text in events(terminal.said.decode().replace("\r\n", "\n"))][1:4] == plain
    assert command("logs", "F/1/start/1", folder=script.folder).stdout.splitlines() == plain
    assert script("logs", "show", "1/start").stdout.splitlines() == plain
    assert "\x1b[31mERROR\x1b[0m" in command("logs", "F/1/start/1", "--raw", folder=script.folder).stdout


# --- what is said, and what not


def test_quiet_is_quiet(flow):
    """Of a run that succeeds nothing is left but what its tasks print; a failure says so all the same."""
    script = flow(flow_source(LINEAR, start="print('hello')"))
    done = script("run", "--quiet")
    assert [(label, text) for _, label, text in events(done.stdout)] == [("1/start/1", "hello")]
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")
    script.rewrite(flow_source(LINEAR, start="raise ValueError('no')"))
    done = script("--quiet", "run", expect=1)
    assert "starting" not in done.stdout
    assert done.stdout.endswith("] Task failed.\n")
    assert done.stderr.startswith("Run F/2 failed in start/")


FORMS = {  # what each command is given; a store is beside it
    "runs": "", "show": "F/1", "diff": "F/1 F/1", "tags": "", "namespaces": "", "logs": "F/1", "get": "F/1/start/1/x",
    "schema": "", "sql": "select/**/1", "export": "out{form}.db", "import": "out--csv.db", "trust": "flowstore.db",
    "delete": "--dry-run F/1", "vacuum": "", "check": "", "deployments": "", "scheduler": "--once", "demo": "",
    "note": "F/1 good", "search": "good",
}  # fmt: skip


def test_each_command_prints_rows_or_refuses_to(flow):
    """`--json` is one list of objects, `--csv` has a head, whatever else the command does; or the option is refused."""
    script = flow(flow_source(LINEAR, start="self.x = 1; print('hello')"))
    script("run")

    names = set(known_commands().list_commands(None)) - {"import-metaflow", "worker"}  # need Metaflow's files, or AWS
    refused = set()
    for name in sorted(names):
        for form in ("--json", "--csv"):
            words = FORMS.get(name, "").format(form=form).split()
            if name == "demo":
                words = ["--store", "demo.db"]
            done = script.flowstore(name, *words, form, expect=None, fresh=name in {"demo", "scheduler"})
            if done.code == 2:
                assert form in done.stderr
                assert done.stdout == ""
                refused.add(name)
                continue
            assert done.code == 0, (name, done.stderr)
            if form == "--json":
                found = json.loads(done.stdout)
                assert isinstance(found, list)
                assert all(isinstance(row, dict) for row in found), name
    assert refused == {"event", "scheduler", "ui"}
    for path in script.folder.glob("*.db"):
        if path != script.db:
            path.unlink()


# --- explanations

FAILS = "if self.input == 'c' and not os.environ.get('OK'): raise ValueError('bad\\nmore')"
OF_LETTERS = flow_source(FOREACH, start="self.xs = ['a', 'b', 'c']\nprint('one'); print('two')", body=FAILS)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """F/1 failed for one letter, a while ago; F/2 resumed it."""
    folder = tmp_path_factory.mktemp("letters")
    env = {"FLOWSTORE_HOME": str(folder / "home"), "FLOWSTORE_USER": "tester"}
    script = Script(folder, OF_LETTERS)
    failed = script("run", "--max-workers", 1, expect=1, **env)
    with contextlib.closing(sqlite3.connect(script.db)) as connection:
        for table, columns in {
            "runs": "created_at finished_at",
            "steps": "created_at",
            "tasks": "started_at finished_at",
        }.items():
            for column in columns.split():
                connection.execute(f"update {table} set {column} = {column} - 100000")
        connection.execute("update attempts set started_at = started_at - 100000, finished_at = finished_at - 100000")
        connection.commit()
    return script, failed, script("resume", OK="1", **env)


def look(letters, *words):
    """What `flowstore WORDS` prints of it."""
    return command(*words, folder=letters[0].folder, FLOWSTORE_HOME=str(letters[0].folder / "home")).stdout


def test_a_failed_run_says_why(letters):
    """With the task, its item and the command that goes on: `show`, `list runs`, HTML and the live line."""
    script, failed, _ = letters
    [task] = script.sql("select task_id from task_summary where run_id = 1 and status = 'failed'")
    shown = look(letters, "show", "F/1").splitlines()
    assert f"Failed in body/{task} (item 'c'): ValueError: bad" in shown
    assert "To go on: python flow.py resume --origin-run-id 1" in shown
    assert f"body/{task}: ValueError: bad" in script("list", "runs").stdout
    assert "Task failed. Its foreach item: 'c'\n" in failed.stdout
    page = script.client()._repr_html_()
    assert "ValueError: bad" in page
    assert f"body/{task}" in page
    assert "python flow.py resume --origin-run-id 1" in page
    assert json.loads(look(letters, "show", "F/2", "--json"))[0]["status"] == "successful"


def test_a_foreach_task_shows_its_item(letters):
    """In the tables of tasks, in `show` of one, and in HTML; what a program reads keeps its keys."""
    script = letters[0]
    lines = look(letters, "show", "F/1/body").splitlines()
    assert lines[0].split()[:5] == ["task", "status", "attempts", "index", "item"]
    assert [line.split()[4] for line in lines[1:]] == ["'a'", "'b'", "'c'"]
    assert "'c'" in script("list", "tasks", "1").stdout
    [task, *_] = script.sql("select task_id from task_summary where run_id = 1 and step = 'body'")
    assert "foreach item: 'a'" in look(letters, "show", f"F/1/body/{task}").splitlines()
    run = script.client()
    assert "<td>&#x27;a&#x27;</td>" in run["body"]._repr_html_()
    assert "<b>item</b>&#x27;a&#x27;" in run["body"][task]._repr_html_()
    assert "item" not in look(letters, "show", "F/1/start").splitlines()[0]


def test_a_resumed_run_says_what_it_resumed(letters):
    """When it begins and ends, in `show` and in HTML; with as many tasks as there were."""
    script, _, resumed = letters
    assert resumed.stderr.splitlines()[0].endswith("which resumes F/1")
    assert "3 tasks were taken over from F/1." in resumed.stderr
    assert "Resumes F/1, from which 3 tasks were taken over." in look(letters, "show", "F/2").splitlines()
    assert "<b>resumes</b>F/1" in script.client(2)._repr_html_()


def test_one_task_was_taken_over(flow):
    """The plural is right."""
    script = flow(flow_source(LINEAR, end="assert os.environ.get('OK')"))
    script("run", expect=1)
    assert "\n1 task was taken over from F/1.\n" in script("resume", OK="1").stderr
    assert "1 task was taken over" in command("show", "F/2", folder=script.folder).stdout


def test_durations_are_never_negative(letters):
    """Tasks that were taken over have their own: in `show`, `diff`, JSON, HTML, the Client and the views."""
    script = letters[0]
    steps = json.loads(look(letters, "show", "F/2", "--json"))[0]["steps"]
    own = {step["step"].split("/")[2]: step for step in json.loads(look(letters, "show", "F/1", "--json"))[0]["steps"]}
    assert all(0 <= step["duration_s"] < 50 for step in steps)
    assert steps[0]["duration_s"] == own["start"]["duration_s"]
    assert steps[0]["created_at"] == own["start"]["created_at"]
    found = json.loads(look(letters, "diff", "F/1", "F/2", "--json"))
    assert all(
        0 <= side < 50 for row in found if row["kind"] == "timing" for side in (row["left"], row["right"]) if side
    )
    assert script.sql("select count(*) from task_summary where not duration_s between 0 and 50") == [0]
    for step in script.client(2):
        assert step.created_at <= step.finished_at
        for task in step:
            assert step.created_at <= task.created_at <= task.finished_at <= step.finished_at
    assert ">-" not in script.client(2)._repr_html_()


def test_times_in_tables_say_that_they_are_utc(letters):
    """Only for people: keys stay."""
    assert "created_at (UTC)" in look(letters, "runs").splitlines()[0]
    assert "last_used (UTC)" in look(letters, "tags").splitlines()[0]
    assert "created_at" in json.loads(look(letters, "runs", "--json"))[0]
    assert "created_at" in look(letters, "runs", "--csv").splitlines()[0].split(",")
    assert "<th>started (UTC)</th>" in letters[0].client().parent._repr_html_()


# --- logs


def test_logs_is_short_for_logs_show(letters):
    """Of a run, a step or a task: bare lines."""
    script = letters[0]
    assert script("logs", "1/start").stdout == "one\ntwo\n"
    assert script("logs", "1").stdout == script("logs", "show", "1").stdout
    assert script("logs", "1").stdout.splitlines()[:2] == ["one", "two"]
    assert script("logs", "--stdout", "1").stdout == "one\ntwo\n"
    assert "RUN" in script("logs", "--help").stdout
    assert "[1/start/1] one" in look(letters, "logs", "F/1")


@pytest.mark.parametrize("words", [["logs", "-f", "1"], ["logs", "1", "-f"], None])
def test_logs_follow_a_run_to_its_end(flow, words):
    """Lines are there while the run goes on, and it ends with the run; so do `flowstore logs -f`."""
    source = flow_source(
        LINEAR, start="print('one', flush=True)\nwhile not Path('go').exists(): time.sleep(0.01)\nprint('two')"
    )
    script = flow(source)
    with script.start("run") as run:
        wait_for(lambda: script.db.exists() and script.sql("select 1 from tasks"))
        called = [script.file.name, *words] if words else ["-m", "flowstore", "logs", "F/1/start/1", "--follow"]
        with subprocess.Popen(
            [sys.executable, *called], cwd=script.folder, stdout=subprocess.PIPE, text=True
        ) as following:
            assert following.stdout.readline() == "one\n"
            assert following.poll() is None
            (script.folder / "go").touch()
            assert following.stdout.read() == "two\n"
        assert following.returncode == 0
        run.communicate()


def test_following_a_log_is_ended_with_ctrl_c(flow):
    """Without a word, and the run goes on."""
    source = flow_source(LINEAR, start="print('one', flush=True)\nwhile not Path('go').exists(): time.sleep(0.01)")
    script = flow(source)
    with script.start("run") as run:
        wait_for(lambda: script.db.exists() and script.sql("select 1 from tasks"))
        called = [sys.executable, "-m", "flowstore", "logs", "F/1", "--follow"]
        with subprocess.Popen(called, cwd=script.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
            assert following.stdout.readline() == b"[1/start/1] one\n"
            following.send_signal(signal.SIGINT)
            assert following.communicate(timeout=30) == (b"", b"")
        assert following.returncode == 130
        (script.folder / "go").touch()
        run.communicate()
    assert script.client().successful
