"""A table comes back as it was in any process, as its own library's, in bounded memory; a stranger's too."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import subprocess
import sys
import zoneinfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstore.errors import ArtifactError
from flowstore.store import codecs
from flowstore.store.codecs import parquet
from support.flows import MIDDLE, flow_source
from support.processes import python, told
from support.sameness import assert_same_frame, decoded, same_details

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def indexed(*values, **options):
    """A frame of one column with this index."""
    return pd.DataFrame({"a": range(len(values[0]))}, index=pd.Index(*values, **options))


def categories(values, **options):
    return pd.DataFrame({"a": pd.Categorical(values, **options)})


def with_attrs(**attrs):
    made = pd.DataFrame({"a": [1]})
    made.attrs = attrs
    return made


# --- periods, which pyarrow knows only where pandas has told it

PERIODS = """
import pandas as pd
MONTHS = pd.period_range("2024-01", periods=3, freq="M")
frames = {
    "labels": pd.DataFrame({"a": [1, 2, 3]}, index=MONTHS),
    "column": pd.DataFrame({"a": MONTHS}),
    "level": pd.DataFrame({"a": [1, 2, 3]}, index=pd.MultiIndex.from_arrays([MONTHS, [1, 2, 3]], names=["m", "n"])),
    "missing": pd.DataFrame({"a": pd.PeriodIndex(["2024-Q1", pd.NaT, "2024-Q3"], freq="Q")}),
}
"""


def test_periods_are_periods_in_every_process(flow):
    """A frame with periods, as an index, a level or a column, is Parquet, and a step that reads it sets nothing."""
    head = PERIODS + "\ndef look(self): return [repr(getattr(self, name)) for name in frames]"
    script = flow(
        flow_source(
            MIDDLE,
            head=head,
            start="for name, frame in frames.items(): setattr(self, name, frame)",
            middle="assert look(self) == [repr(frame) for frame in frames.values()]",
        )
    )
    script("run")
    rows = script.sql(
        "select name, codec, count(*) from artifact_values where codec = 'parquet' group by 1, 2 order by 1"
    )
    assert rows == [(name, "parquet", 1) for name in ("column", "labels", "level", "missing")]
    code = f"""
        {PERIODS.strip().replace(chr(10), chr(10) + "        ")}
        import flowstore
        data = flowstore.Run("F/1").data
        for name, frame in frames.items():
            pd.testing.assert_frame_equal(getattr(data, name), frame)
        """
    told(python(code, folder=script.folder))


def test_periods_that_an_older_version_wrote_are_periods(tmp_path):
    """What earlier versions stored holds the periods still, and is read as such before pandas was used for any."""
    exec(PERIODS, scope := {})
    pq.write_table(pa.Table.from_pandas(scope["frames"]["labels"]), tmp_path / "content")
    code = f"""
        import pathlib
        from flowstore.store import codecs
        content = pathlib.Path("content").read_bytes()
        back = codecs.decode("parquet", iter([content]), len(content))
        {PERIODS.strip().replace(chr(10), chr(10) + "        ")}
        pd.testing.assert_frame_equal(back, frames["labels"])
        """
    told(python(code, folder=tmp_path))


# --- nearly equal

DAYS = pd.DatetimeIndex(["2024-01-01", "2024-01-03"])
FAITHFUL = {
    "small ints in a level": lambda: indexed([(1, "a"), (2, "b")]).set_index(
        pd.MultiIndex.from_arrays([np.array([1, 2], "int8"), ["a", "b"]], names=["n", "t"])
    ),
    "categories in a level": lambda: pd.DataFrame(
        {"a": [1, 2]}, index=pd.MultiIndex.from_arrays([pd.Categorical(["u", "v"]), [1, 2]])
    ),
    "a level that is unused": lambda: indexed(pd.MultiIndex.from_tuples([("x", 1), ("y", 2), ("z", 3)]))[:2],
    "intervals as index": lambda: indexed(pd.interval_range(0, 2)),
    "labels with a distance": lambda: indexed(pd.date_range("2024-01-01", periods=2)),
    "days": lambda: indexed(DAYS),
    "durations": lambda: indexed(pd.TimedeltaIndex([1, 2])),
    "a range": lambda: indexed(range(5, 9, 2), name="r"),
    "labels of bool": lambda: indexed([True, False]),
    "a name that is no text": lambda: indexed([1, 2], name=1),
    "the name of a column": lambda: indexed([5, 6], name="a"),
    "categories": lambda: categories(["x", "y"], categories=["z", "y", "x"]),
    "missing categories": lambda: categories(["x", None]),
    "categories in another order": lambda: categories(["b", "a"], categories=["b", "a"]),
    "a name of categories": lambda: categories(["x"], categories=pd.Index(["x", "y"], name="kind")),
    "categories of ints": lambda: categories([1, 2, 1], ordered=True),
    "categories of days": lambda: categories(DAYS),
    "categories as index": lambda: indexed(pd.CategoricalIndex(["x", "y"], categories=["y", "x"])),
    "attrs": lambda: with_attrs(unit="m", rate=2.5, on=True, none=None),
    "a tuple in attrs": lambda: with_attrs(a=(1, 2)),
    "a NumPy number in attrs": lambda: with_attrs(a=np.float64(1)),
    "a bool in attrs": lambda: with_attrs(a=True),
    "Berlin": lambda: pd.DataFrame({"a": DAYS.tz_localize(BERLIN)}),
    "UTC": lambda: pd.DataFrame({"a": DAYS.tz_localize("UTC")}, index=DAYS.tz_localize("UTC")),
    "UTC by name": lambda: pd.DataFrame({"a": DAYS.tz_localize(zoneinfo.ZoneInfo("UTC"))}),
    "a fixed zone": lambda: pd.DataFrame({"a": DAYS.tz_localize(dt.timezone(dt.timedelta(hours=2)))}),
    "a named fixed zone": lambda: pd.DataFrame({"a": DAYS.tz_localize(dt.timezone(dt.timedelta(hours=2), "X"))}),
    **{f"in {unit}": lambda unit=unit: pd.DataFrame({"a": DAYS.as_unit(unit)}) for unit in ("s", "ms", "us", "ns")},
    "nullable": lambda: pd.DataFrame({"a": pd.array([1, None], "UInt8"), "b": pd.array([1.5, None], "Float32")}),
    "text": lambda: pd.DataFrame({"a": pd.array(["x", None], "string"), "b": ["x", "y"]}),
    "text in Python": lambda: pd.DataFrame({"a": pd.array(["x", None], pd.StringDtype("python"))}),
    "text with NaN": lambda: pd.DataFrame({"a": pd.array(["x", None], pd.StringDtype(na_value=np.nan))}),
    "text as objects": lambda: pd.DataFrame({"a": pd.Series(["x", None], dtype=object)}),
    "Arrow's": lambda: pd.DataFrame({"a": pd.array([1, None], pd.ArrowDtype(pa.int64()))}),
    "Arrow's text": lambda: pd.DataFrame({"a": pd.array(["x", None], pd.ArrowDtype(pa.string()))}),
    "Arrow's lists": lambda: pd.DataFrame({"a": pd.array([[1], [2]], pd.ArrowDtype(pa.list_(pa.int64())))}),
    "sparse": lambda: pd.DataFrame({"a": pd.arrays.SparseArray([0, 0, 1])}),
    "dates": lambda: pd.DataFrame({"a": pd.Series([dt.date(2024, 1, 1), None], dtype=object)}),
    "columns with dots": lambda: pd.DataFrame({"a.b": [1], "a": ["x"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAITHFUL)
def test_frames_come_back_in_every_detail(name):
    """Levels, categories and their names, zones, units, attributes and extension types are what they were."""
    back, value = decoded(codecs.encode(FAITHFUL[name]())), FAITHFUL[name]()
    assert_same_frame(back, value)
    same_details(back, value)


@pytest.mark.parametrize(
    "name", ["days", "categories", "UTC", "Berlin", "a fixed zone", "attrs", "nullable", "text", "dates", "Arrow's"]
)
def test_usual_details_are_parquet(name):
    """What other tools can read stays readable without a pickle."""
    assert codecs.encode(FAITHFUL[name]()).codec == "parquet"


def test_options_of_the_reader_change_nothing():
    """How a process likes to store texts does not change a frame that it reads."""
    value = pd.DataFrame({"a": ["x", "y"], "b": pd.array(["x", None], pd.StringDtype("pyarrow"))})
    encoded = codecs.encode(value)
    with pd.option_context("mode.string_storage", "python"):
        back = decoded(encoded)
    assert encoded.codec == "parquet"
    assert [repr(each) for each in back.dtypes] == [repr(each) for each in value.dtypes]


# --- tables of several libraries

TABLES = {
    "polars": lambda: pl.DataFrame({"a": [1, None], "b": ["x", "y"], "c": [0.5, float("nan")]}),
    "polars, nested": lambda: pl.DataFrame({"l": [[1, 2], []], "s": [{"x": 1, "y": "z"}] * 2, "t": [["a"], ["b"]]}),
    "polars, categories": lambda: pl.DataFrame({"c": pl.Series(["a", "b", "a"], dtype=pl.Categorical)}),
    "polars, Enum": lambda: pl.DataFrame({"c": pl.Series(["a", "b"], dtype=pl.Enum(["b", "a", "c"]))}),
    "polars, times": lambda: pl.DataFrame({"d": [dt.date(2024, 1, 1)], "t": [dt.datetime(2024, 1, 1, tzinfo=BERLIN)]}),
    "polars, no rows": lambda: pl.DataFrame({"a": [1]})[:0],
    "pyarrow": lambda: pa.table({"a": [1, None], "b": ["x", "y"], "c": [0.5, float("nan")]}),
    "pyarrow, metadata": lambda: pa.table({"a": [1]}).replace_schema_metadata({"k": "v"}),
    "pyarrow, categories": lambda: pa.table({"a": pa.array(["x", "y", "x"]).dictionary_encode()}),
    "pyarrow, of pandas": lambda: pa.Table.from_pandas(pd.DataFrame({"a": [1, 2]})),
    "pyarrow, no rows": lambda: pa.table({"a": pa.array([], pa.int64())}),
}


def equal_tables(one, two):
    if isinstance(two, pl.DataFrame):
        return one.schema == two.schema and one.equals(two)
    return one.schema.equals(two.schema, check_metadata=True) and repr(one.to_pylist()) == repr(two.to_pylist())


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_polars_and_pyarrow_are_parquet(name):
    """They come back as tables of their own library, equal in values and types, and anybody can read their Parquet."""
    value = TABLES[name]()
    encoded = codecs.encode(value)
    assert encoded.codec == "parquet"
    back = decoded(encoded)
    assert type(back) is type(value)
    assert equal_tables(back, value)
    assert pq.read_table(io.BytesIO(encoded.content)).num_rows == len(value)


MAP = pa.map_(pa.string(), pa.int64())
OTHER_TABLES = {
    "lists of pyarrow": lambda: pa.table({"l": [[1], [2, 3]], "m": pa.array([[("k", 1)], []], MAP)}),
    "columns of one name": lambda: pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
    "a series": lambda: pl.Series("s", [1, 2]),
    "large ints": lambda: pl.DataFrame({"a": pl.Series([1], dtype=pl.Int128)}),
    "a schema": lambda: pa.schema([("a", pa.int64())]),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_TABLES)
def test_what_parquet_would_change_is_pickled(name):
    """It comes back as it was all the same."""
    value = OTHER_TABLES[name]()
    encoded = codecs.encode(value)
    assert encoded.codec == "pickle"
    back = decoded(encoded)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_equal_data_of_two_libraries_are_two_contents():
    """Each comes back as its own library's, so they don't share their bytes."""
    frame = pd.DataFrame({"a": [1, 2]})
    tables = [frame, pl.DataFrame({"a": [1, 2]}), pa.Table.from_pandas(frame)]
    encoded = [codecs.encode(each) for each in tables]
    assert len({each.sha for each in encoded}) == 3
    assert [type(decoded(each)) for each in encoded] == [type(each) for each in tables]


def test_a_library_that_is_missing_is_named():
    """A polars table where polars is not installed: the error says what to install."""
    content = codecs.encode(TABLES["polars"]()).content
    code = """
        import sys
        sys.modules["polars"] = None
        from flowstore.errors import ArtifactError
        from flowstore.store import codecs
        content = sys.stdin.buffer.read()
        try:
            codecs.decode("parquet", iter([content]), len(content))
        except ArtifactError as error:
            print(error)
        """
    lines = "\n".join(line[8:] for line in code.splitlines())
    said = subprocess.run([sys.executable, "-c", lines], input=content, capture_output=True, check=True).stdout.decode()
    assert "polars" in said
    assert "install" in said


# --- strangers' files


def bomb(**columns):
    """A small file of many rows."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd", store_schema=True)
    return sink.getvalue()


MANY = 2_000_000
ONES = np.ones(MANY, "i4")
STRUCTURE = pa.StructArray.from_arrays([pa.array(ONES)], ["x"])
BOMBS = {
    "a structure of one field": lambda: bomb(a=STRUCTURE),
    "lists": lambda: bomb(a=pa.array([[1]] * 100)),
    "dates": lambda: bomb(**{f"c{n}": pa.array(ONES, pa.date32()) for n in range(4)}),
    "times": lambda: bomb(**{f"c{n}": pa.array(ONES, pa.time32("s")) for n in range(4)}),
    "decimals": lambda: bomb(**{f"c{n}": pa.array(ONES).cast(pa.decimal128(12)) for n in range(4)}),
    "fixed bytes": lambda: bomb(**{f"c{n}": pa.array([b"x" * 16] * MANY, pa.binary(16)) for n in range(3)}),
    "numbers": lambda: bomb(**{f"c{n}": pa.array(ONES.astype("i8")) for n in range(40)}),
    "texts": lambda: bomb(**{f"c{n}": pa.array(["x" * 30] * MANY) for n in range(6)}),
    "groups": lambda: bomb(**{f"c{n}": pa.array([None] * MANY, pa.int64()) for n in range(40)}),
}
READ = """
import pathlib, resource
import pandas, pyarrow
from flowstore.errors import ArtifactError
from flowstore.store import codecs
content = pathlib.Path("content").read_bytes()
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    codecs.decode("parquet", iter([content]), len(content))
    print("read")
except ArtifactError as error:
    print("refused")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)
"""


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.quick("lists", "texts", "groups")
def test_a_small_file_never_takes_much_memory(name, tmp_path):
    """A file of at most 200 kB that stands for objects of gigabytes is refused before they are made."""
    content = BOMBS[name]()
    assert len(content) < 400_000
    (tmp_path / "content").write_bytes(content)
    said, mib = told(python(READ, folder=tmp_path)).split()
    assert said == "refused"
    assert int(mib) < 100


def test_a_page_that_lies_about_its_size_is_found(tmp_path):
    """A footer that says one row for a page of gigabytes does not help."""
    sink = io.BytesIO()
    options = {"compression": "zstd", "use_dictionary": False, "data_page_size": 1 << 30, "write_statistics": False}
    pq.write_table(pa.table({"a": np.zeros(40_000_000, "i8")}), sink, row_group_size=1 << 30, **options)
    content = bytearray(sink.getvalue())
    assert len(content) < 200_000
    for number in (40_000_000, 320_000_000):  # rows, and bytes of the group, as the footer has them
        zigzag, old, footer = number * 2, b"", int.from_bytes(content[-8:-4], "little") + 8
        while zigzag > 127:
            old += bytes([zigzag & 127 | 128])
            zigzag >>= 7
        old += bytes([zigzag])
        new = b"\x82" + b"\x80" * (len(old) - 2) + b"\x00"
        content[-footer:] = bytes(content[-footer:]).replace(old, new)
    (tmp_path / "content").write_bytes(content)
    said, mib = told(python(READ, folder=tmp_path)).split()
    assert said == "refused"
    assert int(mib) < 100


def test_a_text_that_repeats_the_one_before_is_refused():
    """An encoding in which a few bytes stand for a long text again and again is not ours."""
    sink = io.BytesIO()
    texts = pa.array(["x" * 10_000] * 1000)
    pq.write_table(pa.table({"a": texts}), sink, use_dictionary=False, column_encoding={"a": "DELTA_BYTE_ARRAY"})
    with pytest.raises(ArtifactError, match="few bytes repeat"):
        codecs.decode("parquet", iter([sink.getvalue()]), len(sink.getvalue()))


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["pandas", *TABLES]), st.data())
def test_damaged_files_are_a_table_or_an_artifact_error(name, data):
    """Bytes changed or cut, in pages and footer, raise nothing but an ArtifactError."""
    value = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}) if name == "pandas" else TABLES[name]()
    content = bytearray(codecs.encode(value).content)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ArtifactError):
        codecs.decode("parquet", iter([bytes(content)]), len(content))


# --- memory

MEMORY = """
import sys
import numpy as np, pandas as pd, pyarrow.parquet
from flowstore.store import codecs

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) >> 10

def peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")

def pieces():
    with open("content", "rb") as file:
        while piece := file.read(1 << 20):
            yield piece

action, mib, columns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
small = codecs.encode(pd.DataFrame({"a": [1.0], "b": ["x"]}))
codecs.decode(small.codec, iter([small.content]), small.size_bytes)
if action == "store":
    random = np.random.default_rng(0)
    count = mib * (1 << 20) // 8 // columns
    value = pd.DataFrame({f"c{n}": random.random(count) for n in range(columns)})
    before = status("VmRSS")
    peak()
    encoded = codecs.encode(value)
    assert encoded.codec == "parquet"
    print(status("VmHWM") - before)
    with open("content", "wb") as file:
        file.writelines(encoded.pieces)
else:
    import os
    before = status("VmRSS")
    peak()
    value = codecs.decode("parquet", pieces(), os.path.getsize("content"))
    print(status("VmHWM") - before - mib)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("mib", "columns"), [(150, 1), (150, 5), (400, 3)])
@pytest.mark.quick("150-5")
def test_a_frame_takes_one_and_a_half_times_its_size(mib, columns, tmp_path):
    """Storing or loading a frame of random numbers, which nothing compresses, takes that much besides the frame."""
    for action in ("store", "load"):
        assert int(told(python(MEMORY, action, str(mib), str(columns), folder=tmp_path))) < 1.5 * mib


def test_groups_of_rows_are_compared_and_joined():
    """A frame of several groups of rows, with texts and categories in each, is whole again."""
    count = 400_000
    value = pd.DataFrame(
        {
            "n": np.random.default_rng(1).random(count), "t": [f"name {n % 70_000}" for n in range(count)],
            "c": pd.Categorical.from_codes(np.arange(count) % 3, ["x", "y", "z"]),
            "m": pd.array([None, 1] * (count // 2), "Int64"),
            "o": [dt.date(2024, 1, 1 + n % 28) for n in range(count)],
        },
        index=pd.Index(np.arange(count) * 3, name="k"),
    )  # fmt: skip
    encoded = codecs.encode(value)
    assert encoded.codec == "parquet"
    assert parquet.File([encoded.content]).metadata.num_row_groups > 1
    pd.testing.assert_frame_equal(decoded(encoded), value)
    assert json.loads(pq.read_metadata(io.BytesIO(encoded.content)).metadata[b"pandas"])["index_columns"] == ["k"]
