"""Looking at results from the shell: tables that fit, stable keys."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil

import pytest

from flowstore.text import columns_of
from support.cli import on_terminal
from support.looks import LONG, TASK
from support.processes import AS_NOBODY, python, told

ELSEWHERE = {
    "show F/2 --namespace user:anne": 'To use it: --namespace user:will or --namespace ""',
    "diff F/1 F/2 --namespace user:anne": 'To use it: --namespace user:will or --namespace ""',
    "show F --namespace trial": 'To see all runs: --namespace ""',
}


@pytest.mark.parametrize("args", ELSEWHERE)
def test_what_is_elsewhere_names_the_option(story, args):
    """On a command line what switches the namespace is an option, not a call."""
    told = story.flowstore(*args.split(), expect=1).stderr
    assert told.startswith("Error: ")
    assert told.endswith(f" {ELSEWHERE[args]}\n")


@pytest.mark.parametrize("words", ["list steps 2", "tag list --run-id 2"])
def test_a_flow_s_commands_name_the_option_too(story, words):
    """What is told to be given can be given, and does it."""
    environment = {"FLOWSTORE_HOME": str(story.folder / "home"), "FLOWSTORE_USER": "anne"}
    told = story(*words.split(), expect=1, **environment).stderr
    option = re.search(r"To use it: (--namespace user:will) or --namespace \"\"$", told.strip())[1]
    story(*words.split(), *option.split(), **environment)


KEYS = {
    "runs": "run status user created_at duration_s parameters tags error",
    "show F": "run status user created_at duration_s parameters tags error",
    "show F/1": "run status user created_at duration_s parameters tags error finished_at origin_run_id system_tags "
    "script_name code_files steps",
    "show F/1/body": "task status attempts index item created_at duration_s origin",
    f"show {TASK}": "artifact type size_bytes codec preview",
    f"show {TASK}/xs": "artifact type size_bytes codec preview",
    f"get {TASK}/xs": "artifact type size_bytes codec sha preview value",
    f"logs {TASK}": "task attempt stream written_at text",
    "search hello F": "run status created_at where task excerpt",
    "note F/1": "run note",
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
    return {call: story.flowstore(*call.split()).stdout for call in calls}


def test_nothing_found_has_a_head_too(story):
    """An empty list, or a CSV of its head alone."""
    assert story.rows("runs", "--tag", "none") == []
    assert story.flowstore("runs", "--tag", "none", "--csv").stdout.split() == [KEYS["runs"].replace(" ", ",")]


def test_a_run_has_its_own_fields_and_its_steps(story):
    """`show RUN --json` is one object; times are as in the views."""
    [run] = story.rows("show", "F/2")
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
    assert [row["run"] for row in story.rows("runs", "F", "--status", "failed")] == ["F/3"]
    assert [row["run"] for row in story.rows("runs", "--tag", "日本語", "--without", "👍 good")] == ["F/3"]
    assert [row["run"] for row in story.rows("runs", "--limit", 2)] == ["F/3", "F/2"]
    assert [row["run"] for row in story.rows("runs", "--namespace", "user:will")] == ["F/2"]
    assert "--limit 20" in story.flowstore("runs", "--limit", 2).stderr


@pytest.mark.parametrize(("words", "option"), [(["runs"], "--limit"), (["logs", "F/1/start"], "--attempt")])
def test_a_number_beyond_all_bounds(story, words, option):
    """It is wrong usage, in words, rather than an error of Python's or of a file that is none."""
    done = story.flowstore(*words, option, 2**63 - 1, expect=2)
    assert done.stdout == ""
    assert f"Invalid value for '{option}'" in done.stderr


def test_log_lines_say_whose_they_are(story):
    """Stream and text of each; JSON escapes what a terminal would obey."""
    text = story.flowstore("logs", TASK, "--json").stdout
    assert "\x1b" not in text
    assert [(row["stream"], row["text"]) for row in json.loads(text)] == [
        ("stdout", "hello \x1b[31mred"),
        ("stderr", "oops"),
    ]
    assert "hello red" in story.flowstore("logs", TASK, "--csv").stdout
    assert story.flowstore("logs", TASK, "--stdout").stdout == "hello red\n"
    assert story.flowstore("logs", TASK, "--stdout", "--raw").stdout == "hello \x1b[31mred\n"


def test_a_failed_task_says_why(story):
    """Below its artifacts."""
    [task] = story.sql("select task_id from task_summary where run_id = 3 and step = 'end'")
    assert story.flowstore("show", f"F/3/end/{task}").stdout.splitlines()[-1] == "failed: AssertionError: too much"


def test_sql_rows_are_plain_json(story):
    """Numbers that JSON lacks are null; what could hide or move text is escaped."""
    assert story.rows("sql", "select 9e999 as a, 1.5 as b, x'01ff' as c") == [{"a": None, "b": 1.5, "c": "01ff"}]
    text = story.flowstore("sql", "select char(155, 8238, 97) as x", "--json").stdout
    assert text.isascii()
    assert json.loads(text) == [{"x": "\x9b\u202ea"}]


TABLES = ("runs", "show F/2", f"show {TASK}", "tags", "diff F/1 F/2")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_tables_fit_the_terminal(story, width):
    """No line is wider, wide characters counted as two, and what was cut ends in …"""
    shown = on_terminal(story, width, *TABLES)
    assert len(shown) == len(TABLES)
    for args, lines in zip(TABLES, shown, strict=True):
        assert max(map(columns_of, lines)) <= width, args
        assert "…" in "".join(lines) or width > 60 or args == "tags"


def test_a_narrow_terminal_gets_a_line_for_each_cell(story):
    """What does not fit as a table is a block for each row."""
    [lines] = on_terminal(story, 40, "runs")
    assert lines.count("") == 2
    assert [line.split()[0] for line in lines[: lines.index("")]] == KEYS["runs"].removesuffix(" error").split()


def test_times_and_ids_are_kept_longest(story):
    """At 80 columns the ids and times of runs are whole, and free text gives way."""
    [lines] = on_terminal(story, 80, "runs")
    assert [line.split()[0] for line in lines] == ["run", "F/3", "F/2", "F/1"]
    assert all(re.search(r"\d\d:\d\d:\d\d ", line) for line in lines[1:])


def test_wide_characters_are_aligned(story):
    """Each column begins at one place, emoji and Chinese characters before it or not."""
    text = story.flowstore("sql", "select '👍日本' as a, 'x' as b union all select 'plain', 'x'").stdout
    head, *lines = text.splitlines()
    assert {columns_of(line[: line.rindex("x")]) for line in lines} == {head.index("b")}


def test_a_pipe_gets_whole_values(story):
    """Nothing is cut where nobody's screen limits it, whatever the environment says."""
    assert LONG.strip() in story.flowstore("runs", COLUMNS="40").stdout


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
from flowstore.cli import main

def look_at(path):
    for args in json.loads(sys.argv[1]):
        ran = CliRunner().invoke(main.flowstore, [*args, "--store", path], catch_exceptions=False)
        assert ran.exit_code == 0 and ran.stdout, (args, ran.output)

look_at(sys.argv[2])  # so that all modules are there, which nobody may not be allowed to read
"""
    code = body + AS_NOBODY + "look_at(sys.argv[3])"
    environment = {**os.environ, "FLOWSTORE_HOME": str(home)}
    told(python(code, json.dumps(queries), story.db, path, env=environment))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert [each.name for each in folder.iterdir()] == ["flowstore.db"]
    folder.chmod(0o755)


# --- what JSON says beside the table


def rows_of(story, *words):
    """The rows that a command prints as JSON."""
    return json.loads(story.flowstore(*words, "--json").stdout)


def test_json_says_why_a_run_failed(story):
    """`error` of a run is what the view `run_summary` has; a table shows it where it is asked for."""
    errors = [{"run": f"F/{run_id}", "error": error} for run_id, error in
              story.sql("select run_id, error from run_summary order by run_id desc")]  # fmt: skip
    assert errors[0] == {"run": "F/3", "error": "AssertionError: too much"}
    for words in (["runs"], ["show", "F"], ["show", "F/3"]):
        shown = [{key: row[key] for key in ("run", "error")} for row in rows_of(story, *words)]
        assert shown == (errors if len(shown) > 1 else errors[:1])
    assert story.flowstore("runs", "--csv").stdout.splitlines()[0].endswith(",tags,error")
    assert "error" not in story.flowstore("runs").stdout.splitlines()[0]
    assert "too much" in story.flowstore("runs", "--columns", "error").stdout


def test_json_says_which_item_a_task_has(story):
    """`item` of a task is what the view `task_summary` has."""
    items = story.sql("select item from task_summary where run_id = 1 and step = 'body' order by task_id")
    assert items == ["1", "2", "3"]
    assert [row["item"] for row in rows_of(story, "show", "F/1/body")] == items
    assert [row["item"] for row in rows_of(story, "show", "F/1/start")] == [None]
