"""A value comes back equal and of the same type, through the safest codec that is faithful, in any size."""

from __future__ import annotations

import array
import collections
import contextlib
import datetime as dt
import decimal
import enum
import hashlib
import io
import json
import math
import os
import pickle
import random
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from harness import LINEAR, flow_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.extra import pandas as hpd
from test_store import python, task_with, told

from flowstore.errors import ArtifactError, StoreCorrupt
from flowstore.store import blobs, codecs, db, records
from flowstore.store.staging import Staging, Writer

MIB = 1 << 20
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    made = db.ensure_store(tmp_path / "codecs.db")
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One store for all examples of a property."""
    made = db.ensure_store(tmp_path_factory.mktemp("shared") / "codecs.db")
    yield made
    made.close()


def blob_of(store, blob_id):
    """The description of a content by its row."""
    return blobs.Blob.of(store.row(f"select {blobs.COLUMNS} from blobs b where b.id = ?", (blob_id,)))


def put(store, value):
    """Store a value as a parameter is stored; gives its blob."""
    with store.write() as connection:
        blob_id = blobs.put(connection, store, codecs.encode(value))
    return blob_of(store, blob_id)


def stage(store, value):
    """Store a value as a task's large artifact is stored: staged in chunks, then published."""
    encoded = codecs.encode(value)
    writer = Writer(store, task_with(store))
    staging = Staging(writer, encoded.codec, encoded.size_bytes, encoded.type, encoded.preview)
    for chunk in blobs.chunks_of(encoded.pieces):
        staging.take(bytes(chunk))
    staging.writer.finish()
    with store.write() as connection:
        blob_id = staging.publish(connection, encoded.sha)
    return blob_of(store, blob_id)


def raw(store, codec, content, size_bytes=None):
    """Store bytes that no encoder made, with their true hash."""
    with store.write() as connection:
        size = len(content) if size_bytes is None else size_bytes
        sha = hashlib.sha256(content).digest()
        blob_id = blobs.insert(connection, codec, size, "t", "p", sha=sha, data=content)
    return blob_of(store, blob_id)


def decoded(encoded):
    """The value of what `encode` gave."""
    return codecs.decode(encoded.codec, iter([encoded.content]), encoded.size_bytes)


def same(one, two):
    """Equal and of the same types all the way down, where NaN is NaN and -0.0 is not 0.0."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return repr(one) == repr(two)
    if isinstance(one, complex):
        return same(one.real, two.real) and same(one.imag, two.imag)
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, (set, frozenset)):
        return sorted(map(repr, one)) == sorted(map(repr, two))
    if one is pd.NaT:
        return two is pd.NaT
    if isinstance(one, np.ndarray):
        alike = one.dtype == two.dtype and one.shape == two.shape
        return alike and (same(one.tolist(), two.tolist()) if one.dtype.hasobject else one.tobytes() == two.tobytes())
    return one == two


# --- which codec


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Mapping(dict):
    pass


class Sort(enum.IntEnum):
    ONE = 1


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


TWICE = [1]
JSON = {
    "nothing": None, "true": True, "int": 1, "the largest": 2**63 - 1, "the smallest": -(2**63), "float": 0.1,
    "minus zero": -0.0, "subnormal": 5e-324, "text": "näive \0 \u2028 😀 \x7f", "empty list": [], "empty dict": {},
    "bool beside int": [True, 1, 1.0, False, 0, 0.0], "dict in order": {"b": 1, "a": 2}, "equal parts": [[1], [1]],
    "deep": nested(50), "mixed": {"a": [1, None, {"b": 2.5}]},
}  # fmt: skip
PICKLE = {
    "shared part": [TWICE, TWICE], "shared in a dict": {"a": TWICE, "b": [TWICE]},
    "lone surrogate": "\ud800", "lone surrogate as a key": {"\udfff": 1}, "deep": nested(400),
    "subclass of str": Text("a"), "of int": Number(1), "of dict": Mapping(a=1), "inside": [Text("a")],
    "as a key": {Text("a"): 1}, "IntEnum": Sort.ONE, "OrderedDict": collections.OrderedDict(a=1),
    "range": range(3), "ellipsis": ..., "array": array.array("d", [1.0]), "a type": int, "a function": math.sqrt,
}  # fmt: skip


@pytest.mark.parametrize("name", JSON)
def test_plain_builtins_are_json(store, name):
    """Exact builtins that JSON gives back are JSON, which SQLite can read too."""
    blob = put(store, JSON[name])
    assert blob.codec == "json"
    assert same(blobs.load(store, blob, "x"), JSON[name])
    assert store.value("select json_valid(cast(data as text)) from blobs where id = ?", (blob.id,)) == 1


@pytest.mark.parametrize("name", PICKLE)
def test_what_json_would_change_is_pickled(store, name):
    """Whatever JSON would give back as something else is pickled, and comes back as it was."""
    blob = put(store, PICKLE[name])
    assert blob.codec == "pickle"
    assert same(blobs.load(store, blob, "x"), PICKLE[name])


def test_shared_parts_stay_shared(store):
    """A part that stands twice is one object again, and a value that holds itself holds itself."""
    part, cycle = [1], []
    cycle.append(cycle)
    one, two = blobs.load(store, put(store, [part, part]), "x")
    assert one is two
    loaded = blobs.load(store, put(store, cycle), "x")
    assert loaded[0] is loaded


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.complex_numbers()
)
keys = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers())
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner) | st.sets(st.integers()),
    max_leaves=12,
)


def json_alone_is_faithful(value):
    """Whether plain JSON gives the value back, judged by trying."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
        return same(json.loads(text), value)
    except (TypeError, ValueError):
        return False


@quick
@given(value=values)
def test_any_value_comes_back(value):
    """Any value of builtins comes back; JSON is chosen only where it is faithful, for numbers as SQLite reads them."""
    encoded = codecs.encode(value)
    assert same(decoded(encoded), value)
    assert encoded.sha == hashlib.sha256(encoded.content).digest()
    assert encoded.size_bytes == len(encoded.content)
    if encoded.codec == "json":
        assert json_alone_is_faithful(value)
    elif encoded.codec == "pickle":
        beyond = has_big_int(value) or any(word in repr(value) for word in ("inf", "nan"))
        assert beyond or not json_alone_is_faithful(value)


def has_big_int(value):
    """Whether an int that doesn't fit SQLite's is somewhere in the value."""
    if isinstance(value, int):
        return not -(2**63) <= value < 2**63
    if isinstance(value, dict):
        return any(map(has_big_int, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_big_int, value))


@quick
@given(value=values)
def test_any_value_comes_back_from_a_store(shared, value):
    """The same through the file."""
    assert same(blobs.load(shared, put(shared, value), "x"), value)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@quick
@given(value=plain)
def test_plain_values_are_always_json(value):
    """Values of JSON's own kinds are never pickled, so that strangers can read them."""
    assert codecs.encode(value).codec == "json"


# --- arrays

dtypes = (
    hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes()
    | hnp.complex_number_dtypes() | hnp.datetime64_dtypes() | hnp.timedelta64_dtypes() | hnp.byte_string_dtypes()
    | hnp.unicode_string_dtypes()
)  # fmt: skip
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@quick
@given(values=hnp.arrays(dtypes, shapes), layout=st.sampled_from(["C", "F", "strided", "reversed"]))
def test_any_plain_array_is_npy_and_comes_back(values, layout):
    """Arrays of any plain dtype, byte order, shape and layout are stored as .npy, and come back with the same bytes."""
    if layout == "F":
        values = np.asfortranarray(values) if values.ndim else values
    elif layout == "strided" and values.ndim:
        values = np.repeat(values, 2, axis=0)[::2]
    elif layout == "reversed":
        values = values.T
    encoded = codecs.encode(values)
    assert encoded.codec == "npy"
    back = decoded(encoded)
    assert same(back, values)
    assert back.flags.writeable
    if values.flags.f_contiguous:
        assert back.flags.f_contiguous
    assert np.load(io.BytesIO(encoded.content)).tobytes() == values.tobytes()


class Matrix(np.ndarray):
    pass


NOT_PLAIN = {
    "masked": np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]),
    "structured": np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "record array": np.rec.array([(1, 2.5)], names="a,b"),
    "objects": np.array([1, "a", None], dtype=object),
    "void": np.zeros(2, "V3"),
    "with metadata": np.zeros(2, np.dtype("i4", metadata={"unit": "m"})),
    "subclass": np.zeros(2).view(Matrix),
    "strings of any length": np.array(["a", "bcd"], dtype=np.dtypes.StringDType()),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_other_arrays_are_pickled(store, name):
    """Arrays that .npy would change are pickled, and keep mask, fields, objects, class and metadata."""
    value = NOT_PLAIN[name]
    blob = put(store, value)
    assert blob.codec == "pickle"
    back = blobs.load(store, blob, "x")
    assert type(back) is type(value)
    assert back.dtype == value.dtype
    assert back.dtype.metadata == value.dtype.metadata
    np.testing.assert_array_equal(back, value)
    if name == "masked":
        np.testing.assert_array_equal(back.mask, value.mask)


LARGE_ARRAYS = """
import resource, sys
import numpy as np
from flowstore.store import blobs, codecs
resource.setrlimit(resource.RLIMIT_CPU, (8, 8))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
order = sys.argv[1]
values = np.arange(300_000.0).reshape(3, 1000, 100)
values = values[:, ::2] if order == "strided" else np.asarray(values, order=order)
encoded = codecs.encode({"a": values, "b": np.ones((200, 300), "c16")})
chunks = [bytes(chunk) for chunk in blobs.chunks_of(encoded.pieces)]
assert {len(chunk) for chunk in chunks[:-1]} == {1 << 20}
back = codecs.decode("pickle", iter(chunks), encoded.size_bytes)
assert back["a"].tobytes() == values.tobytes()
"""


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_large_arrays_inside_other_values(order):
    """A pickle that holds large arrays of several dimensions is cut into chunks by bytes, whatever their items."""
    told(python(LARGE_ARRAYS, order))


def npy(header, content=b"", *, pad=True):
    """A .npy file of version 1.0 with this header."""
    text = header.encode("latin-1") + (b" " * (-(len(header) + 11) % 64) if pad else b"") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def header(descr="'<f8'", shape="(1,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


LIES = {
    "too short": npy(header(shape="(2,)"), bytes(8)),
    "too long": npy(header(shape="(2,)"), bytes(24)),
    "huge": npy(header(shape=f"({2**60},)"), bytes(8)),
    "negative": npy(header(shape="(-1,)"), bytes(8)),
    "two negatives": npy(header(shape="(-1, -1)"), bytes(8)),
    "negatives of the right size": npy(header(shape="(-2, -3)"), bytes(48)),
    "negative and empty": npy(header(shape="(0, -5)")),
    "empty and too large": npy(header(shape=f"(0, {2**70})")),
    "100 dimensions": npy(header(shape="(" + "1," * 100 + ")"), bytes(8)),
    "subarray": npy(header("'(2,)<f8'", "(3,)"), bytes(48)),
    "objects": npy(header("'|O'"), bytes(8)),
    "pickled objects": npy(header("'|O'"), pickle.dumps([1])),
    "float shape": npy(header(shape="(1.0,)"), bytes(8)),
    "bool shape": npy(header(shape="(True,)"), bytes(8)),
    "not a header": npy("1"),
    "empty header": npy(""),
    "half a header": npy("{'descr': ("),
    "parentheses": npy("(" * 3000),
    "Python 2": npy(header(shape="(1L,)"), bytes(8)),
    "unknown dtype": npy(header("'<q99'"), bytes(8)),
    "code": npy("__import__('os').abort()"),
    "version 2": b"\x93NUMPY\x02\x00" + npy(header(), bytes(8))[8:],
    "no magic": b"PK\x03\x04" + bytes(200),
    "cut": npy(header())[:40],
    "nothing": b"",
}


@pytest.mark.parametrize("name", LIES)
def test_lying_npy_headers(store, name):
    """A .npy whose header doesn't fit its content is one ArtifactError, whatever it says."""
    blob = raw(store, "npy", LIES[name])
    with pytest.raises(ArtifactError, match=r"^F/1/end/1/x: "):
        blobs.load(store, blob, "F/1/end/1/x")


@pytest.mark.parametrize("shape", ["(2,)", f"({2**40},)"], ids=["small", "terabytes"])
def test_a_lying_size_is_found(store, shape):
    """A content that is shorter than its row says is an error, not an array of whatever was in memory."""
    content = npy(header(shape=shape), bytes(8))
    size = len(content) - 8 + eval(shape)[0] * 8
    with pytest.raises((ArtifactError, StoreCorrupt)):
        blobs.load(store, raw(store, "npy", content, size), "x")


@pytest.mark.parametrize("codec", ["json", "typed-json", "bytes", "npy", "parquet"])
def test_a_lying_size_never_raises_anything_else(store, codec):
    """Sizes that don't fit the content, in both directions, are an error or harmless, in every codec."""
    content = codecs.encode(VALUES[codec]).content
    for size in (0, 1, len(content) - 1, len(content) + 1, len(content) + MIB, 2**50):
        blob = raw(store, codec, content, size)
        with contextlib.suppress(ArtifactError, StoreCorrupt):
            assert equal(blobs.load(store, blob, "x"), VALUES[codec])
        with store.write() as connection:
            connection.execute("delete from blobs")


def equal(one, two):
    return one.equals(two) if isinstance(one, pd.DataFrame) else same(one, two)


# --- frames


def frame(**columns):
    return pd.DataFrame(columns)


def with_attrs(attrs):
    made = frame(a=[1, 2])
    made.attrs = attrs
    return made


def with_labels(**columns):
    return pd.DataFrame(columns, index=pd.Index(["x", "y"], name="who"))


DAYS = pd.date_range("2024-01-01", periods=2, freq="D")
PARQUET = {
    "numbers": frame(a=[1, 2], b=[0.5, math.nan], c=[True, False]),
    "text": frame(a=["ä", "b"]),
    "no rows": frame(a=[1])[:0],
    "labels": with_labels(a=[1, 2]),
    "small ints": frame(a=np.array([1, 2], "int8"), b=np.array([1, 2], "uint16"), c=np.array([1, 2], "float32")),
    "nullable": frame(a=pd.array([1, None], "Int64"), b=pd.array([True, None], "boolean")),
    "times": frame(a=pd.to_datetime(["2024-01-01 00:00:00.123456789", None]), b=pd.to_timedelta([1, 2])),
    "time zone": frame(a=pd.to_datetime(["2024-06-01", "2024-12-01"]).tz_localize("Europe/Berlin")),
    "two levels": pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["k", "n"])),
    "text categories": frame(a=pd.Categorical(["x", "y"], categories=["y", "x"], ordered=True)),
    "extremes": frame(
        a=np.array([-(2**63), 2**63 - 1, 0]),
        b=np.array([0, 2**64 - 1, 1], "uint64"),
        c=np.array([-128, 127, 0], "int8"),
        d=np.array([0, 2**32 - 1, 1], "uint32"),
        e=pd.array([2**63 - 1, None, -(2**63)], "Int64"),
        f=pd.to_datetime(["1677-09-21 00:12:43.145224193", "2262-04-11 23:47:16.854775807", None]),
    ),
}
PICKLED = {
    "mixed objects": frame(a=[1, "x"]),
    "None and NaN": pd.DataFrame({"a": pd.Series([None, math.nan, "x"], dtype=object)}),
    "NaN among objects": pd.DataFrame({"a": pd.Series([math.nan, "x"], dtype=object)}),
    "NaN label": pd.DataFrame({"a": [1, 2]}, index=pd.Index([math.nan, "x"], dtype=object)),
    "same column twice": pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "int columns": pd.DataFrame([[1, 2]]),
    "two column levels": pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
    "index with a freq": pd.DataFrame({"a": [1, 2]}, index=DAYS),
    "sparse": frame(a=pd.arrays.SparseArray([0, 0, 1])),
    "lists": frame(a=[[1], [2, 3]]),
    "tuples": frame(a=[(1,), (2, 3)]),
    "sets": frame(a=[{1}, {2}]),
    "ints and floats in dicts": frame(a=[{"x": 1}, {"x": 1.5}]),
    "dicts with different keys": frame(a=[{"x": 1}, {"y": 2}]),
    "ints as objects": pd.DataFrame({"a": pd.Series([1, 2], dtype=object)}),
    "numpy text": pd.DataFrame({"a": pd.Series([np.str_("x"), "y"], dtype=object)}),
    "attrs with a tuple": with_attrs({"a": (1, 2)}),
    "attrs with int keys": with_attrs({1: 2}),
    "complex": frame(a=[1j]),
    "no duplicates allowed": frame(a=[1, 2]).set_flags(allows_duplicate_labels=False),
    "NaN beside NA": frame(a=pd.arrays.FloatingArray(np.array([math.nan, 1.0]), np.array([False, True]))),
}
VARIOUS = {
    "attrs": with_attrs({"unit": "m", "n": 1}),
    "int categories": frame(a=pd.Categorical([1, 2, 1])),
    "unused categories": frame(a=pd.Categorical(["x"], categories=["z", "x"])),
    "no columns": pd.DataFrame(index=range(3)),
    "nothing": pd.DataFrame(),
    "periods": frame(a=pd.period_range("2024-01", periods=2, freq="M")),
    "intervals": frame(a=pd.interval_range(0, 2)),
    "bytes": frame(a=[b"a", b"b"]),
    "dates": frame(a=[dt.date(2024, 1, 1), None]),
    "decimals": frame(a=[decimal.Decimal("1.10"), decimal.Decimal("2.2")]),
    "bools and None": pd.DataFrame({"a": pd.Series([True, None], dtype=object)}),
    "labels of one kind twice": pd.DataFrame({"a": [1, 2]}, index=["x", "x"]),
    "gaps": pd.DataFrame({"a": [1, 2]}, index=range(10, 20, 5)),
    "seconds": frame(a=pd.to_datetime(["2024-01-01"]).as_unit("s")),
    "minus zero": frame(a=[-0.0, 0.0]),
    "named columns": pd.DataFrame({"a": [1]}).rename_axis(columns="what"),
    "text of pandas": frame(a=pd.array(["x", None], "string")),
    "lone surrogate": pd.DataFrame({"a": pd.Series(["\ud800"], dtype=object)}),
}


def assert_same_frame(back, value):
    """Equal in values, dtypes, labels, their types and freq, attrs and flags; objects one by one."""
    assert type(back) is type(value)
    pd.testing.assert_frame_equal(back, value, check_exact=True, check_freq=True, check_flags=True)
    for one, two in ((back.index, value.index), (back.columns, value.columns)):
        assert type(one) is type(two)
        assert list(one.names) == list(two.names)
        assert same(one.tolist(), two.tolist())
    assert getattr(back.index, "freq", None) == getattr(value.index, "freq", None)
    assert same(back.attrs, value.attrs)
    for at in range(value.shape[1]):
        one, two = back.iloc[:, at], value.iloc[:, at]
        assert one.dtype == two.dtype
        if isinstance(one.dtype, np.dtype):
            assert same(one.tolist(), two.tolist())


def test_numbers_that_repeat_take_little_room(store):
    """A column of few different numbers is a fraction of one in which each is different."""
    random = np.random.default_rng(1)
    few, many = random.integers(0, 100, 100_000) / 7, random.normal(size=100_000)
    sizes = [put(store, pd.DataFrame({"x": column})).size_bytes for column in (few, many)]
    assert sizes[0] < 100_000 < sizes[1] < 810_000


@pytest.mark.parametrize(
    ("column", "most_bytes"),
    [
        (np.arange(100_000), 20_000),
        (np.random.default_rng(1).integers(0, 2**32, 100_000), 450_000),
        (pd.date_range("2024-01-01", periods=100_000, freq="min", unit="ns"), 20_000),
        (np.arange(100_000) / 4, 200_000),
        (np.arange(100_000).astype(str), 300_000),
        ([str(n) for n in range(50_000)] + [None] * 50_000, 150_000),
    ],
    ids=["a count", "half of the bits", "times at a distance", "few binary places", "text", "text, half of it missing"],
)
def test_numbers_that_vary_take_the_room_that_they_need(store, column, most_bytes):
    """A column of 100,000 different values takes less than their 800,000 bytes, where there is something to save."""
    value = pd.DataFrame({"x": column})
    blob = put(store, value)
    assert (blob.codec, blob.size_bytes < most_bytes) == ("parquet", True)
    assert_same_frame(blobs.load(store, blob, "x"), value)


@pytest.mark.large
def test_a_long_count_is_parquet(store):
    """A frame of many rows that take next to nothing, which no reader would make room for, is written at length."""
    value = pd.DataFrame({"x": np.arange(40_000_000)})
    blob = put(store, value)
    assert blob.codec == "parquet"
    assert blobs.load(store, blob, "x").equals(value)


@pytest.mark.parametrize("name", PARQUET)
def test_usual_frames_are_parquet(store, name):
    """Frames that other tools can read as they are stored as Parquet."""
    blob = put(store, PARQUET[name])
    assert blob.codec == "parquet"
    assert_same_frame(blobs.load(store, blob, "x"), PARQUET[name])


@pytest.mark.parametrize("name", PICKLED)
def test_frames_that_parquet_would_change_are_pickled(store, name):
    """Frames that would come back different are pickled, and come back as they were."""
    blob = put(store, PICKLED[name])
    assert_same_frame(blobs.load(store, blob, "x"), PICKLED[name])
    assert blob.codec == "pickle"


@pytest.mark.parametrize("name", VARIOUS)
def test_frames_come_back_as_they_were(store, name):
    """Whichever codec is chosen, the frame comes back identical."""
    assert_same_frame(blobs.load(store, put(store, VARIOUS[name]), "x"), VARIOUS[name])


cells = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3) | st.binary(max_size=2)


@settings(quick, max_examples=60)
@given(
    value=hpd.data_frames(
        [hpd.column("a", dtype=float), hpd.column("b", dtype=int), hpd.column("c", elements=cells, dtype=object)],
        index=hpd.range_indexes(max_size=4) | hpd.indexes(dtype=float, max_size=4),
    )
)
def test_any_frame_comes_back(value):
    """Frames of numbers and of anything come back identical."""
    assert_same_frame(decoded(codecs.encode(value)), value)


def test_series_and_subclasses_are_pickled(store):
    """What is not exactly a DataFrame keeps its type."""

    class Mine(pd.DataFrame):
        pass

    blob = put(store, pd.Series([1, 2], name="s"))
    assert blob.codec == "pickle"
    pd.testing.assert_series_equal(blobs.load(store, blob, "x"), pd.Series([1, 2], name="s"))
    assert codecs.encode(Mine({"a": [1]})).codec == "pickle"


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"PAR1" + bytes(50) + (20).to_bytes(4, "little") + b"PAR1"], ids=range(3)
)
def test_what_is_not_parquet_is_an_artifact_error(store, content):
    """A content that its codec can't read is an ArtifactError that names the artifact."""
    with pytest.raises(ArtifactError, match=r"^F/1/end/1/x: "):
        blobs.load(store, raw(store, "parquet", content), "F/1/end/1/x")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"[1] 2"], ids=range(6))
def test_what_is_not_json_is_an_artifact_error(store, content):
    """The same for JSON, however deep or long."""
    with pytest.raises(ArtifactError, match=r"^F/1/end/1/x: "):
        blobs.load(store, raw(store, "json", content), "F/1/end/1/x")


# --- pickles


def test_functions_and_classes_by_value(flow):
    """Lambdas and classes of a flow's file can be loaded where the file isn't, equal to each other."""
    script = flow(
        flow_source(
            LINEAR,
            head="""
                import enum
                class Point:
                    def __init__(self, x): self.x = x
                    def __eq__(self, other): return isinstance(other, Point) and self.x == other.x
                    __hash__ = None
                class Color(enum.Enum):
                    RED = 1
                """,
            start="""
                scale = 3
                self.f = lambda x: x * scale
                self.point, self.same, self.color = Point(1), Point(1), Color.RED
                self.kind = Point
                """,
            end="assert type(self.point) is Point and self.color is Color.RED and self.kind is Point",
        )
    )
    script("run")
    script.file.unlink()
    data = script.client().data
    assert data.f(2) == 6
    assert data.point == data.same
    assert data.color is data.color
    assert data.color.name == "RED"
    assert type(data.point) is data.kind


class Opaque:
    """Can't be pickled."""

    def __reduce__(self):
        raise RuntimeError("no way")


@pytest.mark.parametrize(
    "value", [threading.Lock(), (n for n in [1]), Opaque(), [Opaque()]], ids=["lock", "generator", "raises", "inside"]
)
def test_what_cannot_be_pickled_is_an_artifact_error(value):
    """Whatever pickling raises, it is one ArtifactError."""
    with pytest.raises(ArtifactError, match="can't be pickled"):
        codecs.encode(value)


def test_a_value_that_needs_a_missing_module(tmp_path, store):
    """The module that isn't there is named."""
    (tmp_path / "passing_by.py").write_text("class Thing:\n    pass\n")
    code = """
        import sys
        sys.path.insert(0, ".")
        import passing_by
        from flowstore.store import blobs, codecs, db
        store = db.ensure_store("codecs.db")
        with store.write() as connection:
            print(blobs.put(connection, store, codecs.encode(passing_by.Thing())))
        """
    blob = blob_of(store, int(told(python(code, folder=tmp_path))))
    with pytest.raises(ArtifactError, match="'passing_by', which is not installed"):
        blobs.load(store, blob, "x")


def test_a_pickle_that_breaks_off(store):
    """A pickle that ends early, or calls what raises, is an ArtifactError."""
    for content in (b"", b"junk", b"cos\nnosuch\n.", pickle.dumps(math.sqrt)[:-1] + b"(K\xffNt R."):
        with pytest.raises(ArtifactError):
            codecs.decode("pickle", iter([content]), len(content))


@pytest.mark.parametrize("codec", ["arrow", "", "PICKLE", "json "])
def test_an_unknown_codec_is_an_artifact_error(store, codec):
    """There is no fallback: an unknown codec is named, and nothing is loaded."""
    with pytest.raises(ArtifactError, match="codec"):
        blobs.load(store, raw(store, codec, pickle.dumps(1)), "x")


# --- chunks

SIZES = [0, 1, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 5, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1]


def value_of_size(codec, size):
    """A value whose content has exactly this size."""
    rng = random.Random(size)
    if codec == "bytes":
        return rng.randbytes(size)
    if codec == "json":
        return ("".join(rng.choices("abcdefgh", k=1000)) * (size // 1000 + 1))[: size - 2]
    if codec == "npy":
        return np.frombuffer(rng.randbytes(size - 128), np.uint8)
    rough = bytearray(rng.randbytes(size))
    return rough[: size - (codecs.encode(rough).size_bytes - size)]


@pytest.mark.parametrize("keep", [put, stage])
@pytest.mark.parametrize("codec", ["bytes", "json", "npy", "pickle"])
@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_the_limits(store, codec, size, keep):
    """Contents of every size around 64 KiB, whole MiB and a batch come back, in chunks of a MiB but for the last."""
    if codec != "bytes" and size < 1000:
        pytest.skip("too small for a header")
    if keep is stage and size == 0:
        pytest.skip("only large contents are staged")
    value = value_of_size(codec, size)
    blob = keep(store, value)
    if codec != "pickle":
        assert (blob.codec, blob.size_bytes) == (codec, size)
    assert same(blobs.load(store, blob, "x"), value)
    chunks = [row[0] for row in store.rows("select length(data) from chunks where blob_id = ? order by n", (blob.id,))]
    if keep is put and blob.size_bytes <= 65536:
        assert chunks == []
    else:
        assert blob.data is None
        assert sum(chunks) == blob.size_bytes
        assert set(chunks[:-1]) <= {MIB}


# --- damage

VALUES = {
    "json": {"text": "abc" * 50, "numbers": list(range(40))},
    "bytes": bytes(range(256)),
    "npy": np.arange(50.0).reshape(5, 10),
    "parquet": frame(a=[1, 2, 3], b=["x", "y", "z"]),
    "typed-json": (1, "two", {3}),
    "pickle": [1, "two", range(3)],
}
LARGE = {
    "json": ["abc" * 500_000, "d"],
    "bytes": os.urandom(2 * MIB + 77),
    "npy": np.arange(300_000.0),
    "parquet": frame(a=np.random.default_rng(1).random(300_000)),
    "typed-json": ("abc" * 300_000, ["d" * 300_000]),
    "pickle": (bytes(MIB), bytearray(MIB)),
}


@pytest.mark.parametrize("codec", VALUES)
def test_a_flipped_byte_in_a_small_content(store, codec):
    """Any changed byte is StoreCorrupt when the value is loaded, before anything is made of it that runs code."""
    blob = put(store, VALUES[codec])
    assert blob.codec == codec
    rng = random.Random(codec)
    for at in {0, blob.size_bytes - 1, *(rng.randrange(blob.size_bytes) for _ in range(60))}:
        content = bytearray(blob.data)
        content[at] ^= 1 << rng.randrange(8)
        with store.write() as connection:
            connection.execute("update blobs set data = ? where id = ?", (bytes(content), blob.id))
        with pytest.raises(StoreCorrupt, match="F/1/end/1/x"):
            blobs.load(store, blob_of(store, blob.id), "F/1/end/1/x")


DAMAGES = {
    "a flipped byte": "update chunks set data = cast(x'ff' || substr(data, 2) as blob) where n = 1",
    "a flipped last byte": "update chunks set data = cast(substr(data, 1, length(data) - 1) || x'ee' as blob)",
    "a longer chunk": "update chunks set data = cast(data || x'00' as blob) where n = 0",
    "a longer last chunk": "update chunks set data = cast(data || x'00' as blob) where n = (select max(n) from chunks)",
    "a shorter chunk": "update chunks set data = substr(data, 1, 1000) where n = 0",
    "an empty chunk": "update chunks set data = x'' where n = 0",
    "no first chunk": "delete from chunks where n = 0",
    "no last chunk": "delete from chunks where n = (select max(n) from chunks)",
    "no chunks": "delete from chunks",
    "another order": "update chunks set n = 1 - n + 100 where n < 2; update chunks set n = n - 100 where n > 50",
    "a chunk too many": (
        "insert into chunks select blob_id, (select max(n) + 1 from chunks), data from chunks where n = 0;"
        "update blobs set size_bytes = size_bytes + 1048576"
    ),
    "a smaller size": "update blobs set size_bytes = 70000",
}


@pytest.mark.parametrize("codec", LARGE)
def test_damage_in_a_large_content(store, codec):
    """Changed, cut, lost, added or swapped chunks are StoreCorrupt, in every codec."""
    blob = put(store, LARGE[codec])
    assert blob.codec == codec
    chunks = [tuple(row) for row in store.rows("select * from chunks")]
    assert len(chunks) > 1
    wrong = []
    for name, sql in DAMAGES.items():
        with store.write() as connection:
            for statement in sql.split(";"):
                connection.execute(statement)
        try:
            blobs.load(store, blob_of(store, blob.id), "x")
            wrong.append((name, "loaded"))
        except StoreCorrupt:
            pass
        except Exception as error:
            wrong.append((name, repr(error)))
        with store.write() as connection:
            connection.execute("delete from chunks")
            connection.executemany("insert into chunks values (?, ?, ?)", chunks)
            connection.execute("update blobs set size_bytes = ?", (blob.size_bytes,))
    assert wrong == []


# --- the view's text


def test_json_text_is_shown_up_to_64_kib(store):
    """`artifact_values.value` is there for what plain JSON of at most 64 KiB can say."""
    task_with(store, small={"a": [1]}, limit="x" * 65534, over="x" * 65535, text=b'{"a": 1}', pair=(1,), none=None)
    rows = {row["name"]: row for row in store.rows("select name, codec, size_bytes, type, value from artifact_values")}
    assert {name: row["codec"] for name, row in rows.items()} == {
        "small": "json", "limit": "json", "over": "json", "text": "bytes", "pair": "typed-json", "none": "json",
    }  # fmt: skip
    assert rows["small"]["value"] == '{"a":[1]}'
    assert rows["limit"]["size_bytes"] == 65536
    assert json.loads(rows["limit"]["value"]) == "x" * 65534
    assert rows["none"]["value"] == "null"
    assert [rows[name]["value"] for name in ("over", "text", "pair")] == [None, None, "[1]"]
    assert store.value("select value ->> '$.a[0]' from artifact_values where name = 'small'") == 1


def test_previews_are_short_and_safe():
    """A preview is short text for any value, also where a repr raises or is endless, and names the shape of tables."""

    class Rude:
        def __repr__(self):
            raise RuntimeError("no")

    for value in (Rude(), "x" * 10**6, [[1] * 1000] * 1000, {n: n for n in range(10**5)}, "\ud800", np.zeros((9, 9))):
        text = codecs.encode(value).preview
        assert len(text) <= 400
        text.encode()
    assert "3 rows × 2 columns" in codecs.encode(VALUES["parquet"]).preview
    assert "[5, 10]" in codecs.encode(VALUES["npy"]).preview


# --- one copy


def counts(store):
    return tuple(store.row("select (select count(*) from blobs), (select count(*) from chunks)"))


def test_the_same_content_is_stored_once(store):
    """Equal values of equal type are one row, however they came; the codec is part of the address."""
    first = put(store, {"a": 1})
    assert put(store, {"a": 1}).id == first.id
    assert put(store, b'{"a":1}').id != first.id
    big = os.urandom(3 * MIB)
    first = put(store, big)
    before = counts(store)
    assert put(store, big).id == stage(store, big).id == first.id
    assert counts(store) == before


def test_a_value_that_flows_through_is_stored_once(flow):
    """An artifact that a later task never touches is no row of that task."""
    script = flow(flow_source(LINEAR, start="self.big = os.urandom(1 << 20)"))
    script("run")
    assert script.sql("select count(*) from artifacts where name = 'big'") == [1]
    assert script.client().data.big == script.client()["start"].task.data.big


def staging_of(store, run_id, content):
    return Staging(Writer(store, run_id), "bytes", len(content), "bytes", "")


def running(store):
    """A run that hasn't ended."""
    with store.write() as connection:
        return records.create_run(connection, records.NewRun("F", "u", {}, (), None, [], []))


def test_staged_content_is_invisible_until_published(store):
    """Chunks on their way in have no hash; publishing makes them one content."""
    run_id, content = running(store), os.urandom(20 * MIB + 3)
    sha = hashlib.sha256(content).digest()
    staging = staging_of(store, run_id, content)
    for at in range(0, len(content), MIB):
        staging.take(content[at : at + MIB])
    staging.writer.finish()
    assert staging.whole
    assert counts(store) == (1, 21)
    with store.read() as connection:
        assert blobs.find(connection, sha, "bytes") is None
    with store.write() as connection:
        blob_id = staging.publish(connection, sha)
    assert blobs.load(store, blob_of(store, blob_id), "x") == content
    assert store.value("select staged_by from blobs") is None
    assert counts(store) == (1, 21)


def test_a_dropped_content_leaves_nothing(store):
    """A task that fails in the middle gives its space back, before and after the first batch."""
    run_id = running(store)
    for size in (MIB, 17 * MIB):
        staging = staging_of(store, run_id, bytes(size))
        for _ in range(size // MIB):
            staging.take(bytes(MIB))
        staging.writer.finish()
        for _ in range(2):
            with store.write() as connection:
                staging.drop(connection)
        assert counts(store) == (0, 0)


def test_two_that_stage_the_same_content_leave_one(store):
    """The second to publish drops its copy and points at the first."""
    run_id, content = running(store), os.urandom(17 * MIB)
    ids = []
    stagings = [staging_of(store, run_id, content) for _ in range(2)]
    for at in range(0, len(content), MIB):
        for staging in stagings:
            staging.take(content[at : at + MIB])
    for staging in stagings:
        staging.writer.finish()
        with store.write() as connection:
            ids.append(staging.publish(connection, hashlib.sha256(content).digest()))
    assert ids[0] == ids[1]
    assert counts(store) == (1, 17)
    assert blobs.load(store, blob_of(store, ids[0]), "x") == content


def test_a_publication_that_is_undone_can_be_repeated(store):
    """If the transaction that publishes fails, publishing again gives the whole content."""
    run_id, content = running(store), os.urandom(MIB)
    sha = hashlib.sha256(content).digest()
    staging = staging_of(store, run_id, content)
    staging.take(content)
    staging.writer.finish()
    with pytest.raises(ZeroDivisionError), store.write() as connection:  # noqa: PT012
        staging.publish(connection, sha)
        1 / 0  # noqa: B018
    with store.write() as connection:
        blob_id = staging.publish(connection, sha)
    assert blobs.load(store, blob_of(store, blob_id), "x") == content


def test_an_undone_publication_never_drops_another_s_content(store):
    """Dropping after an undone publication removes nothing that got the same row since."""
    run_id, content = running(store), os.urandom(MIB)
    staging = staging_of(store, run_id, content)
    staging.take(content)
    staging.writer.finish()
    with pytest.raises(ZeroDivisionError), store.write() as connection:  # noqa: PT012
        staging.publish(connection, hashlib.sha256(content).digest())
        1 / 0  # noqa: B018
    other = put(store, {"someone": "else's"})
    with store.write() as connection:
        staging.drop(connection)
    assert blobs.load(store, blob_of(store, other.id), "x") == {"someone": "else's"}


def test_orphans_are_dropped(store):
    """What ended runs had begun to write goes, what living runs write stays, and so does what is published."""
    kept = put(store, b"kept")
    alive, dead, deleted = running(store), running(store), running(store)
    for run_id in (alive, dead, deleted):
        staging = staging_of(store, run_id, bytes(16 * MIB))
        for _ in range(16):
            staging.take(bytes(MIB))
        staging.writer.finish()
    with store.write() as connection:
        records.finish_run(connection, dead, "failed")
        connection.execute("delete from runs where id = ?", (deleted,))
        blobs.drop_orphans(connection)
    assert [tuple(row) for row in store.rows("select id, staged_by from blobs")] == [(kept.id, None), (2, alive)]
    assert store.value("select count(*) from chunks") == 16


# --- memory

MEMORY = """
import sys
import numpy as np
from flowstore.store import blobs, codecs, db, records
from flowstore.store.staging import Staging, Writer
def peak_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) >> 10
store = db.ensure_store("codecs.db")
what = sys.argv[1]
base = peak_mib()
if sys.argv[2] == "store":
    value = bytes(256 << 20) if what == "bytes" else np.zeros(32 << 20)
    if what == "npy":
        value += 1
    with store.write() as connection:
        run_id = records.create_run(connection, records.NewRun("F", "u", {}, (), None, [], []))
    encoded = codecs.encode(value)
    writer = Writer(store, run_id)
    staging = Staging(writer, encoded.codec, encoded.size_bytes, encoded.type, encoded.preview)
    for chunk in blobs.chunks_of(encoded.pieces):
        staging.take(bytes(chunk))
    staging.writer.finish()
    with store.write() as connection:
        staging.publish(connection, encoded.sha)
else:
    blob = blobs.Blob.of(store.row(f"select {blobs.COLUMNS} from blobs b where codec = ?", (what,)))
    value = blobs.load(store, blob, "x")
    assert (len(value) if what == "bytes" else value.nbytes) == 256 << 20
print(peak_mib() - base)
store.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("codec", ["bytes", "npy"])
def test_a_large_value_never_stands_in_memory_twice_over(tmp_path, codec):
    """Storing and loading 256 MiB takes less than two copies and 150 MiB each."""
    for action in ("store", "load"):
        assert int(told(python(MEMORY, codec, action, folder=tmp_path))) < 2 * 256 + 150
    (tmp_path / "codecs.db").unlink()
