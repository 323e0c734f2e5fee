"""Data frames are stored as Parquet where that is faithful."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import pandas as hpd

from flowstore.errors import ArtifactError
from flowstore.store import blobs, codecs
from support.blobs import frame, put, raw
from support.sameness import assert_same_frame, decoded

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


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


@pytest.mark.long
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


def wide(dtypes=("float64",), rows=3, index=None, columns=None):
    """A frame of 300 columns, whose dtypes alternate."""
    random = np.random.default_rng(1)
    values = {f"c{n}": random.normal(0, 50, rows).astype(dtypes[n % len(dtypes)]) for n in range(300)}
    return pd.DataFrame(values, index=index).rename_axis(columns=columns)


gaps = wide(rows=4)
gaps.iloc[1, 5] = math.nan
gaps.iloc[2, 7] = math.inf
gaps.attrs = {"unit": "m", "by": [1, 2]}
WIDE = {
    "floats": wide(),
    "gaps and attrs": gaps,
    "one type of ints": wide(["int16"]),
    "truth": wide(["bool"]),
    "several types": wide(["float64", "int8", "bool", "float32", "uint16"]),
    "no rows": wide(rows=0),
    "labels": wide(index=pd.Index(["x", "y", "z"], name="who"), columns="what"),
    "times": wide(index=pd.to_datetime(["2024-01-01", "2024-03-01", None])),
    "every other": wide(index=pd.RangeIndex(5, 11, 2)),
    "two levels": wide(index=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["k", "n"])),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_frame_with_more_columns_than_rows_is_written_with_both_exchanged(store, name):
    """It comes back as it was, and a row of its Parquet is one of its columns: name, dtype and values."""
    value = WIDE[name]
    blob = put(store, value)
    assert blob.codec == "parquet"
    back = blobs.load(store, blob, "x")
    assert_same_frame(back, value)
    assert back.attrs == value.attrs
    assert list(back.dtypes) == list(value.dtypes)
    with store.read() as db:
        table = pq.read_table(io.BytesIO(b"".join(blobs.read(db, blobs.fetched(db, blob)))))
    assert table.column_names == ["column", "dtype", *map(str, range(len(value)))]
    assert table.column("column").to_pylist() == list(value.columns)


@pytest.mark.parametrize(
    "value",
    [
        wide(["float64", "int64"]).assign(c1=2**60 + 1).iloc[:2],
        wide().assign(c1=["x", "y", "z"]),
        wide().assign(c1=np.array([1, 2, 3], ">f8")),
    ],
    ids=["an int that no float is", "text", "another order of bytes"],
)
def test_other_wide_frames_come_back_as_they_were(value):
    """As Parquet with a column for each of theirs, where that is faithful."""
    encoded = codecs.encode(value)
    assert encoded.codec == ("pickle" if value.c1.dtype == ">f8" and not value.c1.dtype.isnative else "parquet")
    assert_same_frame(decoded(encoded), value)


def test_a_wide_frame_that_was_changed_is_an_artifact_error(store):
    """Where its rows are not the columns of a frame."""
    for table in (
        {"column": ["a"], "dtype": ["object"], "0": [1.0]},
        {"column": ["a"], "dtype": ["float64"]},
        {"column": ["a"], "dtype": ["float64"], "0": ["text"]},
    ):
        first = b"".join(bytes(piece) for piece in codecs.encode(frame(a=[1.5])).pieces)
        marks = {b"flowstore": b"pandas.DataFrame, rows and columns exchanged", b"flowstore.first": first}
        sink = io.BytesIO()
        pq.write_table(pa.table(table).replace_schema_metadata(marks), sink)
        with pytest.raises(ArtifactError, match=r"^x: "):
            blobs.load(store, raw(store, "parquet", sink.getvalue()), "x")


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
