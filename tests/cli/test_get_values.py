"""`get -o`: all of a value is written in the form that the file's name asks for, or the form is refused."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import json
import math
import sys

import pytest

from flowstore import ArtifactError, DataArtifact, namespace, use_store
from flowstore.cli import formats
from flowstore.store import blobs, opening, pictures
from support import cli
from support.stores import task_with

np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")


pytest.importorskip("pyarrow")


ZONED = dt.datetime(2020, 1, 2, 3, 4, 5, 6, dt.timezone(dt.timedelta(hours=1)))


@pytest.fixture
def got(tmp_path):
    """Store a value, write it in a form; gives the bytes."""
    stores = iter(range(1000))

    def get(value, name):
        path = tmp_path / f"{next(stores)}.db"
        store = opening.ensure_store(path)
        task_with(store, x=value)
        store.close()
        use_store(path)
        namespace(None)
        formats.write(DataArtifact("F/1/end/1/x"), tmp_path / name)
        return (tmp_path / name).read_bytes()

    return get


def in_json(text):
    """What strict JSON says; the names that Python adds to it are none."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def frame(**columns):
    return pd.DataFrame(columns)


INDEXED = pd.DataFrame({"x": [0.1, 0.2]}, index=pd.Index(["a", "b"], name="key"))
MISSING = pd.array([None], "Int64")
AS_JSON = {
    "precision": (lambda: frame(x=[1 / 3, 1e-300]), [{"x": 1 / 3}, {"x": 1e-300}]),
    "no numbers": (lambda: frame(x=[math.nan, math.inf, -math.inf]), [{"x": None}, {"x": math.inf}, {"x": -math.inf}]),
    "an index": (lambda: INDEXED, [{"key": "a", "x": 0.1}, {"key": "b", "x": 0.2}]),
    "an index without a name": (lambda: INDEXED.rename_axis(None)[:1], [{"index": "a", "x": 0.1}]),
    "an index that counts from 5": (lambda: frame(x=[1, 2, 3])[1:], [{"index": 1, "x": 2}, {"index": 2, "x": 3}]),
    "an index of the name of a column": (
        lambda: INDEXED.rename_axis("x"),
        {"columns": ["x"], "index": ["a", "b"], "data": [[0.1], [0.2]], "index_names": ["x"]},
    ),
    "levels": (
        lambda: pd.DataFrame({"x": [1]}, index=pd.MultiIndex.from_tuples([("a", 2)], names=["k", None])),
        [{"k": "a", "level_1": 2, "x": 1}],
    ),
    "columns of one name": (
        lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]),
        {"columns": ["a", "a"], "index": [0], "data": [[1, 2]]},
    ),
    "columns without names": (lambda: pd.DataFrame([[1, 2]]), {"columns": [0, 1], "index": [0], "data": [[1, 2]]}),
    "columns in levels": (
        lambda: pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
        {"columns": [["a", "b"]], "index": [0], "data": [[1]], "column_names": [None, None]},
    ),
    "a sparse frame": (lambda: frame(x=pd.arrays.SparseArray([0, 0, 1])), [{"x": 0}, {"x": 0}, {"x": 1}]),
    "times": (
        lambda: frame(t=pd.to_datetime(["2020-01-02T03:04:05.000000006", None]), z=[pd.Timestamp(ZONED)] * 2),
        [{"t": "2020-01-02T03:04:05.000000006", "z": ZONED.isoformat()}, {"t": None, "z": ZONED.isoformat()}],
    ),
    "kinds of columns": (
        lambda: frame(p=pd.period_range("2020", periods=1, freq="M"), c=pd.Categorical(["u"]), n=MISSING),
        [{"p": "2020-01", "c": "u", "n": None}],
    ),
    "no rows": (lambda: frame(x=[]), []),
    "a series": (lambda: pd.Series([0.1], index=["a"], name="s"), {"name": "s", "index": ["a"], "data": [0.1]}),
    "a masked array": (lambda: np.ma.array([1.5, 2.5], mask=[0, 1]), [1.5, None]),
    "times in an array": (lambda: np.array(["2020-01-02", "nat"], "datetime64[s]"), ["2020-01-02T00:00:00", None]),
    "no number": (lambda: [math.nan, (math.inf, {"a": -math.inf})], [None, [math.inf, {"a": -math.inf}]]),
    "keys": (lambda: {1: {(1, 2): 3}, None: dt.date(2020, 1, 2)}, {"1": {"(1, 2)": 3}, "null": "2020-01-02"}),
    "numbers": (lambda: [np.float32(0.5), np.int8(3), decimal.Decimal("1.50"), 2**70], [0.5, 3, 1.5, 2**70]),
    "long text": (lambda: {"t": "é\n" * 100_000}, {"t": "é\n" * 100_000}),
    "text of NumPy": (lambda: np.array(["a", "bc"]), ["a", "bc"]),
}  # fmt: skip


@pytest.mark.parametrize("name", AS_JSON)
def test_json_has_all_of_a_value(got, name):
    """Every digit, the index, infinities as 9e999, NaN as null, tables as lists of rows."""
    make, expected = AS_JSON[name]
    assert in_json(got(make(), "x.json")) == expected


def test_numbers_with_more_digits_than_a_float_keep_them(got):
    """Where NumPy's `longdouble` is longer, JSON and CSV have all its digits."""
    value = np.array([1, np.inf, np.nan], np.longdouble) / 3
    text = got(value, "x.json").decode()
    assert str(value[0]) in text
    assert in_json(text)[1:] == [math.inf, None]
    assert got(value, "x.csv").decode().split() == [str(value[0]), "inf", '""']
    assert np.load(io.BytesIO(got(value, "x.npy")))[0] == value[0]


def test_tables_of_polars_and_pyarrow(got):
    """In each form, to the nanosecond."""
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    columns = {"n": [1, None], "x": [1 / 3, math.inf], "t": ["a", "=b"], "l": [[1], [2, 3]]}
    rows = [{"n": 1, "x": 1 / 3, "t": "a", "l": [1]}, {"n": None, "x": math.inf, "t": "=b", "l": [2, 3]}]
    for table in (pl.DataFrame(columns), pa.table(columns)):
        assert in_json(got(table, "x.json")) == rows
        lines = [*csv.reader(io.StringIO(got(table, "x.csv").decode()))]
        assert lines == [["n", "x", "t", "l"], ["1", str(1 / 3), "a", "[1]"], ["", "inf", "'=b", "[2, 3]"]]
        assert pd.read_parquet(io.BytesIO(got(table, "x.parquet")))["x"].tolist() == columns["x"]
    moment = pd.Timestamp("2020-01-02T03:04:05.000000006")
    fine = pl.DataFrame({"t": pd.Series([moment])}) if sys.modules.get("pyarrow") else None
    assert in_json(got(fine, "x.json")) == [{"t": "2020-01-02T03:04:05.000000006"}]
    assert in_json(got(pl.Series("s", [1, 2]), "x.json")) == {"name": "s", "data": [1, 2]}
    assert in_json(got(pa.table([[1], [2]], names=["a", "a"]), "x.json")) == {"columns": ["a", "a"], "data": [[1, 2]]}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: INDEXED, "key,x\na,0.1\nb,0.2\n"),
        (lambda: INDEXED.rename_axis(None), ",x\na,0.1\nb,0.2\n"),
        (lambda: frame(x=[1, 2, 3])[1:], ",x\n1,2\n2,3\n"),
        (lambda: frame(x=["=1+1", "+a", "-a", "@a", "\ta", "a"], n=[-1, -1.5, 2, 3, 4, 5]),
         "x,n\n'=1+1,-1.0\n'+a,-1.5\n'-a,2.0\n'@a,3.0\n'\ta,4.0\na,5.0\n"),
        (lambda: frame(**{"=x": [1]}), "'=x\n1\n"),
        (lambda: [["=a", -1], [None, 2]], "'=a,-1\n,2\n"),
        (lambda: {"=a": ["-b", -2]}, "'=a\n'-b\n-2\n"),
        (lambda: np.array([-1.5, 2]), "-1.5\n2.0\n"),
        (lambda: np.array([(1, "=a")], [("n", int), ("t", "U2")]), "n,t\n1,'=a\n"),
        (lambda: np.ma.array([1, 2], mask=[0, 1]), '1\n""\n'),
        (lambda: np.array(["2020-01-02"], "datetime64[ns]"), "2020-01-02T00:00:00.000000000\n"),
        (lambda: pd.Series([1.5], name="s"), "s\n1.5\n"),
        (lambda: [{"a": [1, 2], "b": {"c": math.inf}}], 'a,b\n"[1, 2]","{""c"": 9e999}"\n'),
    ],
)  # fmt: skip
def test_csv_has_all_of_a_table_and_no_formulas(got, make, expected):
    """The index, names, nested values as JSON; text that a spreadsheet would compute is quoted, numbers are not."""
    assert got(make(), "x.csv").decode() == expected


def recursive():
    found = [1]
    found.append(found)
    return found


def graph():
    networkx = type("Graph", (), {"__iter__": lambda _: iter([1, 2]), "__len__": lambda _: 2, "edges": [(1, 2)]})
    return networkx()


REFUSED = {
    "a list in itself, .json": (recursive, "x.json", "contains itself", [".pkl"]),
    "a list in itself, .csv": (recursive, "x.csv", "contains itself", [".pkl"]),
    "a list in itself, .npy": (recursive, "x.npy", "", [".pkl"]),
    "a graph, .npy": (graph, "x.npy", "no array", [".pkl"]),
    "a graph, .csv": (graph, "x.csv", "no table", [".pkl"]),
    "a graph, .json": (graph, "x.json", "no form in JSON", [".pkl"]),
    "a graph, .parquet": (graph, "x.parquet", "no table", [".pkl"]),
    "a masked array, .npy": (lambda: np.ma.array([1, 2], mask=[0, 1]), "x.npy", "mask", [".json", ".csv", ".pkl"]),
    "three dimensions, .csv": (lambda: np.zeros((2, 2, 2)), "x.csv", "dimensions", [".json", ".npy"]),
    "a frame, .npy": (lambda: INDEXED, "x.npy", "no array", [".json", ".csv", ".parquet"]),
    "numbers and text, .npy": (lambda: [1, "a"], "x.npy", "one type", [".json", ".csv"]),
    "too large a number, .npy": (lambda: [2**53 + 1, 0.5], "x.npy", "one type", [".json", ".csv"]),
    "one text of two keys": (lambda: {1: "a", "1": "b"}, "x.json", "one text", []),
    "complex numbers, .json": (lambda: np.array([1j]), "x.json", "no form in JSON", [".csv", ".npy"]),
    "bytes in a table": (lambda: [{"a": b"\0"}], "x.csv", "no form in JSON", [".parquet"]),
    "no picture": (lambda: [1], "x.png", "no picture", [".json", ".csv", ".npy"]),
    "half a character": (lambda: ["\ud800"], "x.json", "surrogates", [".pkl"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_t_be_written_whole_is_refused(got, tmp_path, name):
    """With the reason, and the forms that work; no file is left."""
    make, file, why, forms = REFUSED[name]
    with pytest.raises(ArtifactError) as caught:
        got(make(), file)
    message = str(caught.value)
    assert why in message
    assert "Traceback" not in message
    assert [form for form in forms if form not in message] == []
    assert not (tmp_path / file).exists()
    for form in forms:
        assert got(make(), f"other{form}")


def test_pictures(got):
    """PIL's and matplotlib's as .png; a mode that PNG lacks is refused."""
    image = pytest.importorskip("PIL.Image")
    figure = pytest.importorskip("matplotlib.figure")
    png = got(image.new("RGB", (2, 3), (1, 2, 3)), "x.png")
    assert image.open(io.BytesIO(png)).getpixel((1, 1)) == (1, 2, 3)
    with pytest.raises(ArtifactError, match="F as PNG"):
        got(image.new("F", (2, 3)), "y.png")
    drawn = figure.Figure()
    drawn.add_subplot().plot([1, 2])
    assert got(drawn, "z.png")[:4] == b"\x89PNG"
    assert b"<svg" in got(drawn, "z.svg")
    assert got(drawn.axes[0], "axes.png")[:4] == b"\x89PNG"


@pytest.mark.parametrize("kept", [True, False])
def test_a_picture_that_cannot_be_loaded_is_the_one_that_was_kept(tmp_path, monkeypatch, kept):
    """The message says so; without one, and in any other form, loading fails as ever."""
    image = pytest.importorskip("PIL.Image")
    store = opening.ensure_store(tmp_path / "flowstore.db")
    task_with(store, x=image.new("RGB", (8, 9)))
    monkeypatch.setattr(pictures, "LONGEST_S", 30.0)  # on a busy machine
    png = pictures.picture(image.new("RGB", (2, 3)))
    if kept:
        with store.write() as db:
            blobs.insert_picture(db, store.value("select blob_id from artifacts where name = 'x'"), png)
    store.close()
    own = cli.command("get", "F/1/end/1/x", "-o", "own.png")
    assert own.stderr == "Wrote F/1/end/1/x to own.png.\n"
    assert image.open(io.BytesIO((tmp_path / "own.png").read_bytes())).size == (8, 9)
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "stranger"))
    if kept:
        written = cli.command("get", "F/1/end/1/x", "-o", "kept.png")
        assert "the small picture that was kept" in written.stderr
        assert "is a pickle" in written.stderr
        assert (tmp_path / "kept.png").read_bytes() == png
    else:
        assert "flowstore trust" in cli.command("get", "F/1/end/1/x", "-o", "kept.png", expect=1).stderr
    assert "flowstore trust" in cli.command("get", "F/1/end/1/x", "-o", "x.svg", expect=1).stderr


def test_rows_with_other_keys_are_all_in_the_parquet(got):
    """Not only those that the first row has; numbers stay numbers where some are missing."""
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(got([{"a": 2**60 + 1}, {"b": "x"}], "x.parquet")))
    assert table.to_pylist() == [{"a": 2**60 + 1, "b": None}, {"a": None, "b": "x"}]


def test_get_without_a_file_prints_what_can_be_printed(tmp_path):
    """Values of JSON as JSON, also where they are tuples; what has none as Python shows it; never a traceback."""
    shown = {
        (1, math.inf): "[\n  1,\n  9e999\n]\n",
        "é": '"é"\n',
        (b"\0",): "(b'\\x00',)\n",
    }
    for value, expected in shown.items():
        path = tmp_path / "p.db"
        path.unlink(missing_ok=True)
        store = opening.ensure_store(path)
        task_with(store, x=value)
        store.close()
        assert cli.command("get", "F/1/end/1/x", "--store", path).stdout == expected


def test_json_rows_follow_the_same_rules(tmp_path):
    """`--json` of any command is strict JSON, whatever the values: NaN is null, an infinity 9e999."""
    store = opening.ensure_store(tmp_path / "flowstore.db")
    task_with(store, x=[math.nan, math.inf], y=(1, 2))
    store.close()
    [row] = in_json(cli.command("get", "F/1/end/1/x", "--json").stdout)
    assert row["value"] == [None, math.inf]
    [row] = in_json(cli.command("get", "F/1/end/1/y", "--json").stdout)
    assert row["value"] == [1, 2]
