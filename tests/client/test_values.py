"""What an artifact looks like: trees, texts, tables and pages of them, without loading anything."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json

import pytest

from flowstore.client import open_store, values
from flowstore.client.values import Window
from flowstore.client.values.downloads import downloads, pieces
from flowstore.store import opening
from support.stores import task_with


@pytest.fixture
def artifact(tmp_path):
    """Store a value; gives its artifact."""
    opened = []
    numbers = iter(range(1000))

    def make(value):
        path = tmp_path / f"{next(numbers)}.db"
        store = opening.ensure_store(path)
        task_with(store, x=value)
        store.close()
        opened.append(open_store(path, namespace=None))
        return opened[-1].find("F/1/end/1/x")

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def look(artifact):
    """Store a value; gives how it looks."""

    def at(value, **window):
        shown = values.look_at(artifact(value), Window(**window))
        assert shown.problem == ""
        return shown.look

    return at


def outline(node):
    """A node as nested tuples: key, kind, and the children or the text."""
    return (node.key, node.kind, [outline(child) for child in node.children] if node.children else node.text)


# --- trees


def test_json_is_a_tree(look):
    """Each part has its key, its kind and its place; numbers have all their digits."""
    tree = look({"a": [1, 2.50, None, True], "b": {"c": "é\n"}, "d": {}})
    assert outline(tree.root) == (None, "object", [
        ("a", "list", [("0", "number", "1"), ("1", "number", "2.5"), ("2", "null", "null"), ("3", "boolean", "true")]),
        ("b", "object", [("c", "text", '"é\\n"')]),
        ("d", "object", ""),
    ])  # fmt: skip
    assert [child.at for child in tree.root.children[0].children] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert (tree.root.count, tree.root.children[0].count) == (3, 4)


def test_typed_json_is_a_tree_of_its_types(look):
    """Tuples, sets, other keys, dates; what looks like a mark in plain JSON is none."""
    tree = look({"t": (1, {2}), "d": {1: "x", (1, 2): "y"}, "day": dt.date(2024, 2, 29), "big": 2**70})
    assert outline(tree.root) == (None, "object", [
        ("t", "tuple", [("0", "number", "1"), ("1", "set", [("0", "number", "2")])]),
        ("d", "dict", [("1", "text", '"x"'), ("(1, 2)", "text", '"y"')]),
        ("day", "date", "2024-02-29"),
        ("big", "int", str(2**70)),
    ])  # fmt: skip
    assert outline(look({"$tuple": [1]}).root) == (None, "object", [("$tuple", "list", [("0", "number", "1")])])


def test_a_long_list_is_shown_in_pages(look):
    """Of 100 items; a page that is not there is the last one."""
    tree = look([*range(250)], page=9)
    assert (tree.pages.page, tree.pages.pages) == (3, 3)
    assert [tree.root.children[0].text, tree.root.children[-1].text] == ["200", "249"]


def test_a_part_has_a_page_of_its_own(look):
    """With the way to it; a long text in it is shown whole."""
    value = {"a": [{"deep": [*range(300)]}, "x" * 5000]}
    tree = look(value, at=(0, 0, 0), page=2)
    assert ([node.key for node in tree.above], tree.root.key) == ([None, "a", "0"], "deep")
    assert tree.root.children[0].text == "100"
    text = look(value, at=(0, 1))
    assert (text.text, [node.key for node in text.above]) == ("x" * 5000, [None, "a", "1"])
    assert look(value, at=(7, 7)).root.key is None
    leaf = look(value).root.children[0].children[1]
    assert (leaf.is_cut, len(leaf.text)) == (True, 300)


def test_a_tree_is_bounded(look):
    """However much is in it, a page has some hundred nodes; the rest is on pages of its parts."""

    def count(node):
        return 1 + sum(map(count, node.children))

    assert 100 < count(look([[[0] * 50] * 1 for _ in range(1)] + [[n] * 90 for n in range(300)]).root) < 1500
    deep = 1
    for _ in range(90):
        deep = [deep]
    assert count(look(deep).root) < 20


def test_a_pickle_shows_the_plain_json_that_was_kept(artifact):
    """As a tree; without one there is only its preview."""
    import collections

    named = collections.namedtuple("Pair", "a b")(1, [2])  # noqa: PYI024
    assert artifact(named).codec == "pickle"
    assert outline(values.look_at(artifact(named), Window()).look.root)[2][0] == ("a", "number", "1")
    assert values.plain_value(artifact(named)) == {"a": 1, "b": [2]}
    assert values.look_at(artifact(len), Window()) == values.Value(None, "", has_picture=False)


# --- text and bytes


def test_text_is_text(look):
    """With its lines; characters that nobody sees have signs."""
    text = look("one\n\ttwo\x1b[31m\u202e\x00")
    assert (text.text, text.kind) == ("one\n\ttwo␛[31m\\u202e␀", "text")


@pytest.mark.parametrize("unit", ["é", "日", "😀", "\\", '"', "\n", "\x01", "a\\n", '\\"', "x\\\x02é", "\\" * 5 + "n"])
def test_pages_of_a_text_are_the_text(artifact, unit):
    """Whatever is at their ends: no character is cut, lost or doubled."""
    from flowstore.client.values import texts
    from flowstore.text import visible

    value = "-" + unit * (200_000 // len(unit.encode()))
    stored = artifact(value)
    first = values.look_at(stored, Window()).look
    assert first.pages.pages > 2
    parts = [values.look_at(stored, Window(page=n + 1)).look.text for n in range(first.pages.pages)]
    assert "".join(parts) == visible(value)
    assert b"".join(pieces(stored, ".txt")).decode() == value
    assert max(map(len, parts)) <= texts.TEXT_BYTES + 10


def test_bytes_are_hexadecimal(look):
    """16 in a line, by their place, with what they are as text; 4 KiB a page."""
    hexdump = look(bytes(range(32)) + b"hello <b>", page=1)
    assert hexdump.text.splitlines()[2] == "0020  68 65 6c 6c 6f 20 3c 62  3e                       hello <b>"
    assert look(bytes(10_000), page=3).text.splitlines()[-1].startswith("2700  00 00")


def test_large_json_is_text_in_pages(look):
    """More than 4 MiB are not made a tree."""
    text = look([["é" * 50] * 1000 for _ in range(60)], page=3)
    assert (text.kind, text.pages.page, "\ufffd" in text.text) == ("JSON", 3, False)


# --- tables


def test_an_array_of_one_dimension_is_a_column(look):
    """50 rows a page."""
    np = pytest.importorskip("numpy")
    table = look(np.arange(120) / 10, page=2)
    assert (table.shape, table.rows[0], len(table.rows)) == ((120,), ("5.0",), 50)
    assert (table.row_pages.pages, table.row_pages.first, table.columns[0].is_number) == (3, 50, True)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(70, 45), (2, 3, 70, 45), (3, 0), (0, 3), (2, 0, 3), (0, 2, 3)])
def test_pages_of_an_array_are_the_array(artifact, order, shape):
    """In both orders of bytes; of more dimensions the last two are shown, at one position in the others."""
    np = pytest.importorskip("numpy")
    array = np.arange(np.prod(shape)).reshape(shape).astype("i4", order=order)
    stored = artifact(array)
    assert stored.codec == "npy"
    index = tuple(length - 1 for length in shape[:-2])
    table = values.look_at(stored, Window(page=2, columns=3, index=(9,) * len(index))).look
    assert (table.shape, table.index) == (shape, tuple(max(0, at) for at in index))
    seen = array[index] if 0 not in shape[:-2] else array.reshape(0, shape[-1])
    rows = seen[50:100] if len(seen) > 50 else seen
    assert [list(row) for row in table.rows] == [[str(item) for item in row] for row in rows[:, -5:].tolist()]


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        ("np.array(5)", [["5"]]),
        ("np.array([True, False])", [["True"], ["False"]]),
        ("np.array(['a', 'bé\\n'])", [["a"], ["bé\n"]]),
        ("np.array([b'a', b'\\xff'])", [["a"], ["\\xff"]]),
        ("np.array(['2020-01-02', 'NaT'], 'datetime64[D]')", [["2020-01-02"], ["NaT"]]),
        ("np.array([1.1], 'f4')", [["1.1"]]),
        ("np.array([np.nan, -np.inf])", [["nan"], ["-inf"]]),
        ("np.array([1 + 2j])", [["(1+2j)"]]),
        ("np.array(['', ''], 'U0')", [[""], [""]]),
        ("np.arange(3, dtype='>i2')", [["0"], ["1"], ["2"]]),
    ],
)
def test_items_of_an_array_are_shown_as_they_are(look, make, shown):
    """Of every kind that is stored so."""
    np = pytest.importorskip("numpy")
    assert [list(row) for row in look(eval(make, {"np": np})).rows] == shown


def test_long_items_of_an_array_are_read_and_shown_in_part(look):
    """A text of a megabyte in each."""
    np = pytest.importorskip("numpy")
    table = look(np.array(["ab" * 500_000, "c"]))
    assert (len(table.rows[0][0]), table.rows[0][0][-1], table.rows[1][0]) == (300, "…", "c")


def test_a_frame_is_a_table(look):
    """With its index first, its types, and missing values as such."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"n": [1.5, None], "t": ["a", None], "at": pd.to_datetime(["2020-01-02", None])}, index=["x", "y"]
    )
    table = look(frame)
    assert [(column.name, column.is_index, column.is_number) for column in table.columns] == [
        ("", True, False), ("n", False, True), ("t", False, False), ("at", False, False),
    ]  # fmt: skip
    assert [list(row)[:3] for row in table.rows] == [["x", "1.5", "a"], ["y", None, None]]
    assert (table.rows[0][3][:10], table.rows[1][3]) == ("2020-01-02", None)
    assert (table.shape, table.type) == ((2, 3), "pandas.DataFrame")


@pytest.mark.long
def test_pages_of_a_frame_are_the_frame(artifact):
    """Also where it has several groups of rows, and more columns than a page."""
    pd, np = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    parquet = pytest.importorskip("pyarrow.parquet")
    count = 3000
    frame = pd.DataFrame(
        {f"c{n}": np.arange(count) * (n + 1) for n in range(45)} | {"t": [f"{n:9000}" for n in range(count)]}
    )
    stored = artifact(frame)
    assert parquet.ParquetFile(io.BytesIO(b"".join(pieces(stored, ".parquet")))).num_row_groups > 2
    for page in (21, 41, 60):
        table = values.look_at(stored, Window(page=page, columns=3)).look
        assert [column.name for column in table.columns] == ["c40", "c41", "c42", "c43", "c44", "t"]
        expected = frame.iloc[(page - 1) * 50 : page * 50, 40:45].to_numpy().tolist()
        assert [list(map(int, row[:5])) for row in table.rows] == expected
    assert values.look_at(stored, Window(page=10**9)).look.rows[-1][0] == "2999"
    lines = b"".join(pieces(stored, ".csv")).decode().splitlines()
    assert (len(lines), lines[-1].startswith("2999,5998,")) == (count + 1, True)


def test_frames_of_other_libraries_and_types(look):
    """polars and pyarrow, lists and structures, categories, periods, durations, decimals, bytes."""
    import decimal

    pa, pl, pd = pytest.importorskip("pyarrow"), pytest.importorskip("polars"), pytest.importorskip("pandas")
    assert look(pl.DataFrame({"a": [[1, 2]], "s": [{"x": "é"}]})).rows == (("[1, 2]", "{'x': 'é'}"),)
    arrow = pa.table({
        "d": pa.array([decimal.Decimal("1.50"), None]), "b": pa.array([b"\x00", None]),
        "w": pa.array([3, None], pa.duration("s")),
    })  # fmt: skip
    assert look(arrow).rows == (("1.50", "b'\\x00'", "0:00:03"), (None, None, None))
    frame = pd.DataFrame({"c": pd.Categorical(["u", "v"]), "p": pd.period_range("2020-01", periods=2, freq="M")})
    assert look(frame).rows == (("u", "2020-01"), ("v", "2020-02"))
    assert look(pd.DataFrame({"a": []})).rows == ()


# --- downloads


def test_each_artifact_is_downloaded_in_its_natural_form(artifact):
    """A table as CSV too; the bytes are those that are stored."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"n": [1, 2], "t": ["=1", None]})
    expected = {
        "text": [".txt", ".json"], 5: [".json"], (1, 2): [".json"], b"raw": [".bin"], len: [".pickle"],
    }  # fmt: skip
    for value, forms in expected.items():
        assert [form.suffix for form in downloads(artifact(value))] == forms
    assert [form.suffix for form in downloads(artifact(np.ones((2, 2))))] == [".npy", ".csv"]
    assert [form.suffix for form in downloads(artifact(np.ones((2, 2, 2))))] == [".npy"]
    assert [form.suffix for form in downloads(artifact(frame))] == [".parquet", ".csv"]
    assert np.load(io.BytesIO(b"".join(pieces(artifact(np.ones(3)), ".npy")))).tolist() == [1, 1, 1]
    assert json.loads(b"".join(pieces(artifact([1, "é"]), ".json"))) == [1, "é"]
    assert b"".join(pieces(artifact(b"\0raw"), ".bin")) == b"\0raw"
    assert b"".join(pieces(artifact(frame), ".csv")).decode() == "n,t\n1,'=1\n2,\n"


def test_csv_has_all_rows(artifact):
    """Of arrays in both orders, and of a frame."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    array = np.arange(30_000).reshape(10_000, 3)
    frame = pd.DataFrame(array, columns=[*"abc"])
    lines = [list(map(str, row)) for row in array.tolist()]
    for value, head in ((array, []), (np.asfortranarray(array), []), (frame, [[*"abc"]])):
        text = b"".join(pieces(artifact(value), ".csv")).decode()
        assert [*csv.reader(io.StringIO(text))] == [*head, *lines]
