"""Tables and previews cost little, whatever they hold."""

from __future__ import annotations

import collections
import contextlib
import resource
import sqlite3
import subprocess
import sys
import time

import pytest

from flowstore.cli import output
from flowstore.store.codecs import preview
from support.cli import on_terminal
from support.flows import LINEAR, flow_source

# --- cells of any size


def test_a_wide_cell_costs_a_terminal_little(flow):
    """A cell of 40 MB is cut before it is measured."""
    script = flow(flow_source(LINEAR))
    script("run")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    [lines] = on_terminal(script, 80, "sql select/**/printf('%.40000000c','é')as/**/a,1/**/as/**/b")
    assert [len(line) for line in lines] == [80, 80]
    assert lines[1].endswith("…  1")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 10  # it took 80 s


def test_a_wide_cell_costs_a_pipe_little():
    """It is written whole, and the others are not padded to its width."""
    cells = [["x" * 10_000_000, "a"], *([str(n), "b"] for n in range(400))]
    lines = list(output.table_lines(["x", "y"], cells, None))
    assert len(lines[1]) == 10_000_003
    assert max(map(len, lines[2:])) < 2000


def test_a_preview_of_ten_megabytes_shared_by_many_rows(flow):
    """`show` and `diff` of a file made for it answer within the memory that a small one needs."""
    script = flow(flow_source(LINEAR, start="for n in range(400): setattr(self, f'x{n}', {7})"))
    script("run")
    script("run", "--tag", "other")
    shared = "update blobs set preview = printf('%.10000000c', 'x'), type = 'x' || hex(sha) where preview = '{7}'"
    with contextlib.closing(sqlite3.connect(script.db)) as connection:
        connection.execute(shared)
        connection.commit()
    for words in (["show", "F/1/start/1"], ["diff", "F/1", "F/2"], ["show", "F/1/start/1", "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", WITHIN, "1000", *words], cwd=script.folder, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), words
        assert len(done.stdout) < 2_000_000


WITHIN = """
import resource, sys
most = int(sys.argv.pop(1)) << 20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
from flowstore.cli.main import main
main()
"""


# --- previews


def test_dicts_are_shown_in_their_own_order():
    """Nested ones and other kinds of dict, too."""
    assert preview({"b": 1, "a": {"z": 1, "y": {3: 1, 2: 1}}}) == "{'b': 1, 'a': {'z': 1, 'y': {3: 1, 2: 1}}}"
    assert preview([{"b": 1, "a": 2}]) == "[{'b': 1, 'a': 2}]"
    assert preview({n: n for n in range(99, 0, -1)}).startswith("{99: 99, 98: 98, ")
    assert preview(collections.OrderedDict(b=1, a=2)) == "OrderedDict({'b': 1, 'a': 2})"
    assert preview(collections.Counter("baa")) == "Counter({'b': 1, 'a': 2})"
    assert preview({}) == "{}"


def test_the_preview_of_a_large_set_takes_no_time():
    """Its items are not sorted; those of a small one are."""
    started = time.process_time()
    assert preview(set(map(str, range(2_000_000)))).endswith(", ...} (2,000,000 items)")
    assert time.process_time() - started < 2
    assert preview({3, 1, 2}) == "{1, 2, 3}"


def test_times_are_shown_as_times():
    """Arrays, Series and indexes of dates, spans and periods, whatever their unit."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    for unit in ("s", "ms", "us", "ns"):
        array = np.array(["2020-01-02T03:04:05"], f"datetime64[{unit}]")
        assert preview(array).startswith(f"datetime64[{unit}][1] [2020-01-02T03:04:05")
        assert "2020-01-02 03:04:05" in preview(pd.Series(array))
        assert "2020-01-02 03:04:05" in preview(pd.DatetimeIndex(array, tz="UTC"))
        assert "2020-01-02 03:04:05" in preview(pd.DataFrame({"t": array}))
        assert preview(np.array([5], f"timedelta64[{unit}]")).split("[5 ")[1]
    assert preview(np.array(["2020-01-02", "nat"], "datetime64[D]")) == "datetime64[D][2] [2020-01-02, NaT]"
    assert preview(pd.period_range("2020", periods=2, freq="M")) == "2 values, period[M] [2020-01, 2020-02]"
    assert preview(np.float32([0.1])) == "float32[1] [0.1]"
    assert preview(np.ma.array([1, 2], mask=[0, 1])) == "int64[2] [1, --]"


def test_tables_of_any_library_are_shown_as_tables():
    """Their shape first, then their head."""
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    columns = {"n": [1, 22], "text": ["a", "x" * 99]}
    shown = " n                  text\n 1                     a\n22  xxxxxxxxxxxxxxxxxxx…"
    assert preview(pl.DataFrame(columns)) == f"2 rows × 2 columns\n{shown}"
    assert preview(pa.table(columns)) == f"2 rows × 2 columns\n{shown}"
    assert preview(pa.table({"n": [1]}).to_batches()[0]) == "1 row × 1 column\nn\n1"
    assert preview(pl.Series([1, 2])) == "2 values, Int64 [1, 2]"
    assert preview(pl.DataFrame()) == "0 rows × 0 columns"
