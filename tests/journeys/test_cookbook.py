"""The cookbook's twelve questions: SQL, Python and the command give the same answer, and the right one."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import re
import sqlite3
import subprocess
import sys

import pytest

import flowstore
from support.cli import Script, command
from support.pages import DOCS, example, section

PAGE, TUTORIAL = DOCS / "cookbook.md", DOCS / "tutorial.md"
SECTION, TOOLS = section(PAGE, "## Questions"), section(PAGE, "## Other tools")
QUESTION = re.compile(r"^### (\d+)\. (.+?)$.*?^```sql\n(.*?)^```\n(.*?)(?=^###|\Z)", re.MULTILINE | re.DOTALL)
RECIPES = {int(match[1]): match for match in QUESTION.finditer(SECTION)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The tutorial's flows in a store of its own: PricesFlow 1, 2, 4 (will's) and 5 (in production), ShakyFlow 3."""
    folder = tmp_path_factory.mktemp("cookbook")
    people = {name: {"FLOWSTORE_USER": name, "FLOWSTORE_HOME": str(folder / "home")} for name in ("anne", "will")}
    prices = Script(folder, example(TUTORIAL, "prices.py"))
    prices("run", **people["anne"])
    prices("run", "--price", 25, "--tag", "trial", **people["anne"])
    prices("tag", "add", "best", "--run-id", 2, **people["anne"])
    prices.rewrite(example(TUTORIAL, "shaky.py"))
    prices("run", expect=1, **people["anne"])
    prices.rewrite(example(TUTORIAL, "prices.py"))
    prices("run", "--tag", "trial", **people["will"])
    prices("deploy", "create", **people["anne"])
    prices("deploy", "trigger", "--price", 30, **people["anne"])
    yield prices
    prices.check()


@pytest.fixture
def ask(store, monkeypatch):
    """Give the answers to a question: SQL's rows, Python's value, and the rows of each command."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(store.folder / "home"))
    monkeypatch.chdir(store.folder)
    [token] = store.sql("select tag from object_tags where kind = 'run' and tag like 'production:%'")
    flowstore.use_store(store.db)
    flowstore.namespace(None)

    def answers(number):
        sql, bullets = RECIPES[number][3], RECIPES[number][4].replace("production:TOKEN", token)
        rows = json.loads(command("sql", sql, "--json").stdout)
        with contextlib.closing(sqlite3.connect(store.db)) as plain:
            assert [tuple(row.values()) for row in rows] == plain.execute(sql).fetchall()
        return (
            rows,
            in_python(bullets),
            [json.loads(command(*words.split(), "--json").stdout) for words in commands(bullets)],
        )

    return answers


def in_python(bullets):
    """The value of the recipe's line, after the imports that the page names."""
    *before, last = re.search(r"^- Python: `(.+?)`", bullets, re.MULTILINE)[1].split("; ")
    names = {"collections": collections}
    exec("from flowstore import *", names)  # as the page says
    for statement in before:
        exec(statement, names)
    return eval(last, names)


def commands(bullets):
    """The recipe's commands, without their name."""
    line = re.search(r"^- Command: .*", bullets, re.MULTILINE)
    return [each for each in re.findall(r"`flowstore (\w.*?)`", line[0]) if " " in each] if line else []


def ids(runs):
    return {int(run.id) for run in runs}


def test_there_are_twelve():
    """Each is found by this test, in its three forms."""
    assert list(RECIPES) == list(range(1, 13))
    assert len(re.findall(r"^- Python: ", SECTION, re.MULTILINE)) == 12


def test_which_run_did_best(ask):
    """The one that sold at 30."""
    rows, run, [printed] = ask(1)
    assert rows == [{"run_id": 5, "revenue": 3960.0}]
    assert [(row["run"], row["metrics.revenue"]) for row in printed] == [("PricesFlow/5", 3960.0)]
    assert (int(run.id), run.data.metrics["revenue"]) == (5, 3960.0)


def test_what_changed_between_two_runs(ask):
    """The parameter, and what came of it."""
    rows, differences, [printed] = ask(2)
    told = {row["name"]: (row["before"], row["after"]) for row in rows}
    assert told["price"] == ("20.0", "25.0")
    assert told.keys() == {"price", "metrics"}
    for found in (
        {each.name.rpartition("/")[2]: (each.left["preview"], each.right["preview"]) for each in differences
         if each.kind in {"parameter", "set"}},
        {row["name"].rpartition("/")[2]: (row["left"]["preview"], row["right"]["preview"]) for row in printed
         if row["kind"] in {"parameter", "set"}},
    ):  # fmt: skip
        assert found == told


def test_which_runs_had_a_parameter_over_some_value(ask):
    """Those at 25 and 30."""
    rows, runs, _ = ask(3)
    assert {row["run_id"] for row in rows} == ids(runs) == {2, 5}


def test_which_steps_took_longest(ask):
    """All three say the same seconds."""
    rows, steps, [[run]] = ask(4)
    seconds = {row["step"]: row["seconds"] for row in rows}
    assert {row["step"]: row["tasks"] for row in rows} == {"start": 1, "try_out": 4, "choose": 1, "end": 1}
    in_python = {step.id: (step.finished_at - step.created_at).total_seconds() for step in steps}
    assert list(in_python.values()) == sorted(in_python.values(), reverse=True)
    shown = {step["step"].rpartition("/")[2]: step["duration_s"] for step in run["steps"]}
    assert seconds == pytest.approx(in_python, abs=0.02)
    assert seconds == pytest.approx(shown, abs=0.02)


def test_what_failed_and_why(ask):
    """The end of ShakyFlow, for want of a file."""
    rows, pairs, [runs, lines, hits] = ask(5)
    text = "".join(row["text"] for row in rows)
    [[task, why]] = pairs
    assert {f"{row['flow']}/{row['run_id']}/{row['step']}/{row['task_id']}" for row in rows} == {task.pathspec}
    assert [row["run"] for row in runs] == [row["run"] for row in hits] == ["ShakyFlow/3"]
    assert {line["task"] for line in lines} == {task.pathspec}
    for told in (text, str(why), "\n".join(line["text"] for line in lines)):
        assert "No such file or directory: 'order.txt'" in told


def test_how_much_space_each_artifact_takes(ask):
    """Each content is counted once, however many runs have it."""
    rows, sizes, _ = ask(6)
    found = collections.Counter()
    for (name, _), size in sizes.items():
        found[name] += size
    assert {row["name"]: row["bytes"] for row in rows} == found
    assert {row["name"]: row["versions"] for row in rows}["discounts"] == 1


def test_what_a_result_came_from(ask):
    """Its task, the four before it, and the first."""
    rows, tasks, _ = ask(7)
    assert {row["task_id"] for row in rows} == {int(task.id) for task in tasks}
    assert [row["step"] for row in rows] == ["start", *["try_out"] * 4, "choose"]


def test_who_ran_how_much(ask):
    """Four runs of anne's, one of will's."""
    rows, counts, _ = ask(8)
    assert {(row["user"], row["day"]): row["runs"] for row in rows} == {
        (user, str(day)): count for (user, day), count in counts.items()
    }
    by_user = collections.Counter()
    for row in rows:
        by_user[row["user"]] += row["runs"]
    assert by_user == {"anne": 4, "will": 1}


def test_what_each_item_gave(ask):
    """A revenue for each discount."""
    rows, revenues, _ = ask(9)
    assert {row["foreach_index"]: row["revenue"] for row in rows} == {n: json.dumps(v) for n, v in revenues.items()}
    assert revenues == {0: 2500.0, 1: 2925.0, 2: 3200.0, 3: 3300.0}


def test_one_tag_but_not_another(ask):
    """Will's trial, not the best."""
    rows, runs, [printed] = ask(10)
    assert {row["run_id"] for row in rows} == ids(runs) == {4}
    assert [row["run"] for row in printed] == ["PricesFlow/4"]


def test_the_last_production_run(ask):
    """The one that was triggered."""
    rows, run, [printed] = ask(11)
    assert rows == [{"run_id": 5}]
    assert run.id == "5"
    assert [row["run"] for row in printed] == ["PricesFlow/5"]


def test_which_code_made_it(ask):
    """The flow's file as it was, byte for byte."""
    rows, text, [[run]] = ask(12)
    files = {row["path"]: row["sha"] for row in rows}
    assert run["code_files"] == files
    assert hashlib.sha256(text.encode()).hexdigest() == files[run["script_name"]]
    assert text in {row["text"] for row in rows}


def test_reading_with_pandas(store):
    """The page's line for pandas gives the view as a table."""
    pandas = pytest.importorskip("pandas")
    line = re.search(r"\| pandas \| `pandas.read_sql\((.+?), sqlite3.connect\((.+?)\)\)`", TOOLS)
    assert json.loads(line[2]) == store.db.name
    with contextlib.closing(sqlite3.connect(store.db)) as database:
        frame = pandas.read_sql(json.loads(line[1]), database)
    assert list(frame["run_id"]) == [1, 2, 3, 4, 5]


def test_reading_as_a_spreadsheet(store):
    """The page's line for spreadsheets gives the view as CSV."""
    line = re.search(r"\| spreadsheets \| `flowstore (.+?) > runs.csv`", TOOLS)[1]
    called = f"{sys.executable} -m flowstore {line}"
    ran = subprocess.run(called, shell=True, cwd=store.folder, capture_output=True, text=True)
    assert ran.stdout.splitlines()[0].startswith("run_id,flow,user,status")
    assert len(ran.stdout.splitlines()) == 6
