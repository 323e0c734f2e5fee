"""Numbers that can be found: values as plain JSON whatever their codec, metrics, and which are final."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sqlite3

import pytest

import flowstore
from support.cli import Script, command
from support.flows import FOREACH, LINEAR, MIDDLE, flow_source
from support.measuring import HEAD
from support.processes import wait_for

VALUES = {  # what is assigned, and its JSON: None where it has none
    "{'a': 1, 'b': [True, None, 'x', 0.5]}": {"a": 1, "b": [True, None, "x", 0.5]},
    "(1, (2, 'x'))": [1, [2, "x"]],
    "{3, 1, 2}": [1, 2, 3],
    "frozenset({'b', 'a'})": ["a", "b"],
    "collections.deque([1, 2])": [1, 2],
    "collections.OrderedDict(b=1, a=2)": {"b": 1, "a": 2},
    "collections.Counter('aab')": {"a": 2, "b": 1},
    "range(3)": [0, 1, 2],
    "float('nan')": None,
    "{'x': float('nan')}": {"x": None},
    "[float('inf'), -float('inf')]": [math.inf, -math.inf],
    "2**70": 2**70,
    "{1: 'a', None: 'b', False: 'c'}": {"1": "a", "null": "b", "false": "c"},
    "{1: 'a', None: 'b', 0.5: 'c', ('x', 2): 'd'}": {"1": "a", "null": "b", "0.5": "c", "('x', 2)": "d"},
    "{1: 'a', '1': 'b'}": None,
    "datetime.date(2026, 1, 2)": "2026-01-02",
    "datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.timezone.utc)": "2026-01-02T03:04:00+00:00",
    "datetime.time(3, 4)": "03:04:00",
    "datetime.timedelta(minutes=1.5)": 90.0,
    "decimal.Decimal('0.10')": 0.1,
    "decimal.Decimal('NaN')": None,
    "fractions.Fraction(1, 4)": 0.25,
    "uuid.UUID(int=5)": "00000000-0000-0000-0000-000000000005",
    "pathlib.PurePosixPath('a/b')": "a/b",
    "Color.RED": 1,
    "Score(0.5)": {"accuracy": 0.5, "folds": [1, 2]},
    "Pair(1, 2)": {"left": 1, "right": 2},
    "b'bytes'": None,
    "{'x': b'bytes'}": None,
    "1j": None,
    "object": None,
    "Trap(a=1)": {"a": 1},
    "[[0] * 3] * 2": [[0, 0, 0], [0, 0, 0]],
    "['x' * 70000]": None,
}
EXACT = ("{'a': 1, 'b': [True, None, 'x', 0.5]}", "[float('inf'), -float('inf')]", "2**70", "[[0] * 3] * 2")
NUMPY = {
    "np.float64(0.5)": 0.5, "np.float32(0.5)": 0.5, "np.longdouble(0.5)": 0.5, "np.int8(3)": 3, "np.bool_(True)": True,
    "np.str_('x')": "x", "np.float64('nan')": None, "np.arange(3)": [0, 1, 2], "np.eye(2)": [[1.0, 0.0], [0.0, 1.0]],
    "np.array(2.5)": 2.5, "np.array([1, None], dtype=object)": [1, None], "np.array(['a'])": ["a"],
    "np.array(['2026-01-02', 'NaT'], dtype='datetime64[D]')": ["2026-01-02", None],
    "np.timedelta64(1500, 'ms')": 1.5, "np.datetime64('2026-01-02')": "2026-01-02", "np.array([1j])": None,
    "np.ma.masked_array([1, 2], [0, 1])": [1, None], "np.zeros(100000)": None, "{np.int64(3): np.float64(1)}": {"3": 1},
    "np.array([(1, 2)], dtype='i,i')": None, "np.array([b'x'])": None,
}  # fmt: skip


def expression_flow(values, head):
    """A flow that sets an artifact `vN` for each expression."""
    body = "\n".join(f"self.v{n} = {text}" for n, text in enumerate(values))
    return flow_source(LINEAR, head=head, start=body)


@pytest.fixture(scope="module")
def values(run_once):
    """Every value of the standard library, stored."""
    script = run_once(expression_flow(VALUES, HEAD))
    rows = script.sql("select name, value, exact, number from artifact_values where name like 'v%'")
    return {list(VALUES)[int(name[1:])]: rest for name, *rest in rows}


@pytest.mark.parametrize("text", VALUES)
def test_a_value_is_plain_json_whatever_its_codec(values, text):
    """Tuples, sets, dates, keys that are no text, NaN, infinities and the rest, where there is an obvious JSON."""
    value, exact, _ = values[text]
    found = None if value is None else json.loads(value)
    assert found == VALUES[text]
    assert (type(found), exact) == (type(VALUES[text]), None if value is None else int(text in EXACT))


def test_nan_is_null_and_infinity_is_a_number(values):
    """JSON that SQLite and Python read alike."""
    assert values["float('nan')"] == ["null", 0, None]
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        text = values["[float('inf'), -float('inf')]"][0]
        assert text == "[9e999,-9e999]"
        assert connection.execute("select json_valid(?), ? ->> 0", (text, text)).fetchone() == (1, math.inf)


def test_the_number_of_a_value_that_is_one(values):
    """Python's numbers, durations and decimals have it; booleans and dates have none."""
    numbers = {text: number for text, (_, _, number) in values.items() if number is not None}
    assert numbers == {
        "2**70": 2.0**70, "datetime.timedelta(minutes=1.5)": 90.0, "decimal.Decimal('0.10')": 0.1,
        "fractions.Fraction(1, 4)": 0.25, "Color.RED": 1.0,
    }  # fmt: skip


def test_values_of_numpy(run_once):
    """Scalars as Python's, small arrays as lists; times as text and durations in seconds."""
    pytest.importorskip("numpy")
    script = run_once(expression_flow(NUMPY, "import numpy as np"))
    rows = script.sql("select name, value from artifact_values where name like 'v%'")
    found = {list(NUMPY)[int(name[1:])]: None if text is None else json.loads(text) for name, text in rows}
    assert found == NUMPY
    assert {text: type(found[text]) for text in found} == {text: type(NUMPY[text]) for text in NUMPY}


def test_values_of_pandas(run_once):
    """A moment is text, a duration seconds, and what is missing null."""
    pytest.importorskip("pandas")
    values = {
        "pd.Timestamp('2026-01-02 03:04')": "2026-01-02T03:04:00", "pd.Timedelta('1min')": 60.0, "pd.NaT": None,
        "[pd.NA, 1]": [None, 1], "pd.DataFrame({'a': [1]})": None,
    }  # fmt: skip
    script = run_once(expression_flow(values, "import pandas as pd"))
    rows = script.sql("select name, value from artifact_values where name like 'v%'")
    assert {list(values)[int(name[1:])]: text and json.loads(text) for name, text in rows} == values


def test_values_of_attrs(run_once):
    """What has named fields is an object, as `@catch` stores it, too."""
    script = run_once(
        flow_source(
            MIDDLE,
            head="import attrs\n@attrs.frozen\nclass Score:\n    accuracy = attrs.field()\n",
            start="self.score = Score(0.5)",
            middle="@catch(var='problem', print_exception=False)\nraise ValueError('no')",
        )
    )
    [score] = script.sql("select value from artifact_values where name = 'score'")
    assert json.loads(score) == {"accuracy": 0.5}
    [problem] = script.sql("select value from artifact_values where name = 'problem' and step = 'middle'")
    assert json.loads(problem)["message"] == "no"


def test_metrics_are_the_numbers_in_a_value(measured):
    """At any depth, dict entries first, breadth first; no booleans, no NaN, no list of more than 20."""
    rows = measured.sql("select name, number from metrics where artifact = 'metrics'")
    few = [(f"metrics.few.{n}", float(n)) for n in range(20)]
    assert rows == [
        ("metrics.accuracy", 0.9), ("metrics.inf", math.inf), ("metrics.7", 0.5), ("metrics.deep.loss", 1.0),
        ("metrics.folds.0", 3.0), *few, ("metrics.folds.1.auc", 0.75),
    ]  # fmt: skip


def test_the_metric_of_one_number_has_the_artifact_s_name(measured):
    """And those of a list are numbered; parameters, private artifacts, booleans and text are none."""
    rows = measured.sql("select name, number from metrics where artifact not in ('metrics', 'full')")
    assert sorted(rows) == [("big.accuracy", 0.25), ("one", 3.0), ("scores.0", 0.5), ("scores.1", 0.25)]


def test_a_number_at_the_empty_key_is_not_the_dict_s(run_once):
    """It has no name of its own; as the dict's number it would contradict its JSON."""
    script = run_once(flow_source(LINEAR, start="self.x = {'': 3}; self.y = {'': 3, 1: 2}"))
    assert script.sql("select name, number from artifact_values order by name") == [("x", None), ("y", None)]
    assert script.sql("select name, number from metrics") == [("y.1", 2.0)]
    script.flowstore("check", "--deep")


def test_more_than_a_hundred_numbers_are_no_metrics(measured):
    """The log of the task says so."""
    assert measured.sql("select count(*) from metrics where artifact = 'full'") == [100]
    assert measured.sql("select count(*) from metrics where artifact = 'many'") == [0]
    log = "".join(measured.sql("select text from task_logs where stream = 'stderr'"))
    assert log == "many holds more than 100 numbers, so none of them is a metric.\n"


def test_a_run_s_metrics_are_in_python_and_in_the_table(measured):
    """`Run.metrics`, the columns of `to_dataframe`, and those of the command are the same numbers."""
    run = measured.client()
    assert run.metrics["metrics.accuracy"] == 0.9
    assert len(run.metrics) == 26 + 100 + 4
    shown = json.loads(command("runs", "--columns", "metrics.accuracy,alpha", "--json", "--store", measured.db).stdout)
    assert [(row["run"], row["metrics.accuracy"], row["alpha"]) for row in shown] == [("F/1", 0.9, 0.5)]
    pytest.importorskip("pandas")
    row = flowstore.Flow("F").to_dataframe().iloc[0]
    assert (row["metrics.accuracy"], row["scores.1"], row["one"], row["alpha"]) == (0.9, 0.25, 3, 0.5)


# --- which are final

FINAL = "select step, name, number from metrics where final = 1 order by name"


def test_what_is_inherited_by_the_end_is_final(run_once):
    """A value that is set anew or deleted later is not, however many steps lie between."""
    script = run_once(
        flow_source(
            MIDDLE,
            start="self.a, self.b, self.c, self.d = 1, 1, 1, 1",
            middle="self.b = 2; self.c = 'text'; del self.d; self.e = 5",
            end="self.e = 6",
        )
    )
    assert script.sql(FINAL) == [("start", "a", 1.0), ("middle", "b", 2.0), ("end", "e", 6.0)]
    assert script.client().metrics == {"a": 1.0, "b": 2.0, "e": 6.0}


def test_what_a_join_merges_is_final_once(run_once):
    """Of branches that agree, the first one's; what is not merged is not final."""
    script = run_once(
        flow_source(
            FOREACH,
            start="self.xs = [1, 2, 3]",
            body="self.same = 7; self.own = self.input; self.some = {'x': 1}",
            join="self.merge_artifacts(inputs, include=['same', 'some'])",
        )
    )
    assert script.sql(FINAL) == [("body", "same", 7.0), ("body", "some.x", 1.0)]
    assert script.sql("select count(*) from metrics where name = 'own' and final = 0") == [3]


def test_without_an_end_the_last_value_is_final(run_once):
    """Also where the run fails, and where the value that was set last is no number."""
    script = run_once(
        flow_source(
            MIDDLE, start="self.a, self.b, self.c = 1, 1, 1", middle="self.b = 2; self.c = 'text'; raise ValueError"
        ),
        expect=1,
    )
    assert script.sql(FINAL) == [("start", "a", 1.0), ("middle", "b", 2.0)]


def test_metrics_are_those_of_the_last_attempt(run_once):
    """What a failed attempt had set is not shown once the task was tried again, in no view."""
    body = "@retry(times=1, minutes_between_retries=0)\nself.a = current.retry_count\nif self.a == 0: self.b = 1; 1 / 0"
    script = run_once(flow_source(MIDDLE, start="self.b = 5", middle=body))
    assert script.sql("select step, name, number, final from metrics order by name, step") == [
        ("middle", "a", 1.0, 1), ("start", "b", 5.0, 1),
    ]  # fmt: skip
    assert script.sql("select name, number from artifact_values where step = 'middle'") == [("a", 1.0)]


RETRY_THAT_WAITS = """
@retry(times=1, minutes_between_retries=0)
import pathlib, time
if current.retry_count == 0:
    self.a, self.b, self.c = 2, 'text', 3
    raise ValueError
pathlib.Path("waits").touch()
time.sleep(600)
"""


@pytest.fixture
def in_a_retry(tmp_path):
    """A run whose second task failed once and runs again; what it holds is looked at, or it is killed."""
    script = Script(tmp_path, flow_source(MIDDLE, start="self.a = 1; self.b = 1", middle=RETRY_THAT_WAITS))
    process = script.start("run")
    wait_for((tmp_path / "waits").exists)
    yield script, process
    process.kill()
    process.communicate()


BEFORE_THE_RETRY = [("start", "a", 1.0), ("start", "b", 1.0)]


def test_what_a_retry_has_not_set_yet_is_as_before_it(in_a_retry):
    """The failed attempt's values are gone while the next one runs, and the earlier ones are the last again."""
    script, _ = in_a_retry
    assert script.sql(FINAL) == BEFORE_THE_RETRY
    assert script.client().metrics == {"a": 1.0, "b": 1.0}


def test_a_run_killed_in_a_retry_has_the_values_set_last(in_a_retry):
    """Before and after the next writer records its death."""
    script, process = in_a_retry
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert script.sql(FINAL) == BEFORE_THE_RETRY
    script("tag", "add", "seen", "--run-id", "1")
    assert script.sql("select status from run_summary") == ["dead"]
    assert script.sql(FINAL) == BEFORE_THE_RETRY
    script.check()


def test_a_run_killed_after_a_join_has_the_values_set_last(tmp_path):
    """Of branches in parallel, one value counts, and that is told when the death is recorded."""
    body = "self.own = self.input; self.same = 7"
    join = "import pathlib, time; pathlib.Path('waits').touch(); time.sleep(600)"
    script = Script(tmp_path, flow_source(FOREACH, start="self.xs = [1, 2, 3]; self.own = 0", body=body, join=join))
    process = script.start("run")
    wait_for((tmp_path / "waits").exists)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    script("tag", "add", "seen", "--run-id", "1")
    rows = script.sql("select name, step, count(*) from metrics where final = 1 and name not like 'xs.%' group by name")
    assert rows == [("own", "body", 1), ("same", "body", 1)]


def test_a_resumed_run_has_the_metrics_that_it_took_over(run_once):
    """They belong to its own tasks, and are final as in any run."""
    source = flow_source(MIDDLE, start="self.a = 1; self.b = 1", middle="self.b = 2", end="1 / 0")
    script = run_once(source, expect=1)
    script.rewrite(source.replace("1 / 0", "self.c = 3"))
    script("resume")
    rows = script.sql("select run_id, name, number from metrics where final = 1 order by run_id, name")
    assert rows == [(1, "a", 1), (1, "b", 2), (2, "a", 1), (2, "b", 2), (2, "c", 3)]


@pytest.mark.parametrize("how", [("--start-method", "spawn"), ("--reuse-workers",)])
def test_metrics_do_not_depend_on_how_tasks_start(run_once, how):
    """Fresh interpreters and shared processes report as forked ones do."""
    script = run_once(flow_source(LINEAR, start="self.metrics = {'accuracy': 0.5, 'folds': (1,)}"), *how)
    assert script.sql("select name, number, final from metrics") == [
        ("metrics.accuracy", 0.5, 1), ("metrics.folds.0", 1.0, 1),
    ]  # fmt: skip


# --- values that would do harm


def test_a_value_s_own_methods_cannot_fail_its_task(run_once):
    """What raises when it is looked at has no JSON; the artifact is stored as any other."""
    script = run_once(flow_source(LINEAR, head=HEAD, start="self.x = {'a': Hostile()}; self.y = Trap(b=2)"))
    assert script.sql("select name, value from artifact_values where codec = 'pickle' order by name") == [
        ("x", None), ("y", '{"b":2}'),
    ]  # fmt: skip


def test_a_large_value_is_not_walked_to_its_end():
    """Time and memory are those of 64 KiB of JSON, however much there is, shared or nested."""
    from flowstore.store import plain

    class Counted(list):
        pass

    steps = 0

    def items():
        nonlocal steps
        for n in range(10**6):
            steps += 1
            yield n

    shared = [0]
    for _ in range(60):
        shared = [shared, shared]
    assert plain.describe(shared).value is None
    recursive = []
    recursive.append(recursive)
    assert plain.describe(recursive) is plain.NOTHING
    assert plain.describe(dict.fromkeys(items())).value is None
    assert plain.describe(Counted(range(10**6))).value is None
    assert plain.describe({"a": Counted(range(10**6)), "b": 0.5}).numbers == [("b", 0.5)]
