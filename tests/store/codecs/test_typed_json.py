"""What plain JSON lacks is stored as JSON that a person can read, and comes back equal and of the same type."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import json
import math
import pathlib
import sqlite3
import subprocess
import sys
import uuid
import zoneinfo
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowstore
from flowstore.errors import ArtifactError
from flowstore.store import codecs
from support.cli import command
from support.flows import LINEAR, MIDDLE, flow_source
from support.sameness import decoded, same

Decimal = decimal.Decimal
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
BERLIN, UTC = zoneinfo.ZoneInfo("Europe/Berlin"), dt.timezone.utc  # noqa: UP017  # as users of 3.11 write it too


def hours(count, name=None):
    """A zone of a fixed offset."""
    return dt.timezone(dt.timedelta(hours=count), *([name] if name else []))


# ruff: noqa: DTZ001  # times without a zone are values, too
# A value, and its content where that is a promise to people and programs that read it.
READABLE = [
    ((1, "a"), '{"$tuple":[1,"a"]}'), ({10, 9, 1}, '{"$set":[1,9,10]}'),
    (frozenset({"b", "a"}), '{"$frozenset":["a","b"]}'), ({(2,), (1,)}, '{"$set":[{"$tuple":[1]},{"$tuple":[2]}]}'),
    ({30: 0.5, None: 1}, '{"$dict":[[30,0.5],[null,1]]}'),
    ({"a": 1, (1, 2): [b"x"]}, '{"$dict":[["a",1],[{"$tuple":[1,2]},[{"$bytes":"x"}]]]}'),
    ({"$tuple": (1,)}, '{"$dict":[["$tuple",{"$tuple":[1]}]]}'),
    ({"$tuple": 1, "x": ()}, '{"$tuple":1,"x":{"$tuple":[]}}'),
    ([math.nan, math.inf, -math.inf, -0.0], '[{"$float":"nan"},{"$float":"inf"},{"$float":"-inf"},-0.0]'),
    (2**64, '{"$int":"18446744073709551616"}'), ([b"GIF\xff\0"], '[{"$bytes":"GIFÿ\\u0000"}]'),
    (bytearray(b"ab"), '{"$bytearray":"ab"}'), (complex(-0.0, math.nan), '{"$complex":[-0.0,"nan"]}'),
    (dt.date(2024, 2, 29), '{"$date":"2024-02-29"}'), (dt.time(23, 59, 59, 999999), '{"$time":"23:59:59.999999"}'),
    (dt.datetime(2024, 2, 29, 1, 2, 3), '{"$datetime":"2024-02-29T01:02:03"}'),
    (dt.datetime(2024, 2, 29, tzinfo=UTC), '{"$datetime":"2024-02-29T00:00:00+00:00"}'),
    (dt.datetime(2024, 2, 29, tzinfo=hours(2, "CEST")), '{"$datetime":"2024-02-29T00:00:00+02:00(CEST)"}'),
    (dt.datetime(2024, 10, 27, 2, 5, fold=1, tzinfo=BERLIN),
     '{"$datetime":"2024-10-27T02:05:00[Europe/Berlin] fold=1"}'),
    (dt.timedelta(days=1, microseconds=500_000), '{"$timedelta":"PT86400.5S"}'),
    (BERLIN, '{"$zone":"[Europe/Berlin]"}'), (Decimal("1.10"), '{"$decimal":"1.10"}'),
    (Fraction(-1, 3), '{"$fraction":"-1/3"}'), (uuid.UUID(int=1), '{"$uuid":"00000000-0000-0000-0000-000000000001"}'),
    (pathlib.PurePosixPath("a/ä"), '{"$PurePosixPath":"a/ä"}'),
    (pathlib.PureWindowsPath("C:\\x"), '{"$PureWindowsPath":"C:\\\\x"}'),
    ({"accuracy": np.float64(0.97)}, '{"accuracy":{"$numpy.float64":0.97}}'),
    (np.bool_(True), '{"$numpy.bool":true}'), (np.uint64(2**64 - 1), '{"$numpy.uint64":"18446744073709551615"}'),
    (np.datetime64("2024-02-29T01:02"), '{"$numpy.datetime64":["2024-02-29T01:02","m"]}'),
    (np.timedelta64(5, "25ms"), '{"$numpy.timedelta64":[5,"25ms"]}'),
]  # fmt: skip
NUMPY_NUMBERS = [
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128",
]  # fmt: skip
OTHERS = [
    (), set(), frozenset(), {()}, [(), ()], [(1, 2), (1, 2)], {True: 1}, {math.nan: 1}, {1.5, "a", None, (1,), b"x"},
    -(2**63) - 1, 2**2048 - 1, 2**2048, -(2**2049), 10**5000, 1j, complex(math.inf, -0.0), {"$": ()}, {"": ()},
    {"a": {"$set": (1,)}}, {1: {"$dict": []}}, [{"$tuple": [1]}, ()], bytearray(), [b""], [bytes(65536)],
    ["x" * (1 << 20), ()], dt.date.min, dt.date.max, dt.time(0), dt.time(1, fold=1), dt.time(1, tzinfo=BERLIN),
    dt.time(1, tzinfo=hours(-3)), dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
    dt.datetime(1, 1, 1, tzinfo=hours(-23)), dt.datetime(1900, 1, 1, tzinfo=BERLIN),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(-dt.timedelta(seconds=1, microseconds=1))),
    dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), dt.timedelta.min, dt.timedelta.max,
    dt.timedelta.resolution, dt.timedelta(0), dt.timedelta(microseconds=-1), UTC, hours(0, "UTC"), hours(5, "ä b"),
    dt.timezone.max, dt.timezone.min, zoneinfo.ZoneInfo("Etc/GMT+1"),
    zoneinfo.ZoneInfo("America/Argentina/Buenos_Aires"), zoneinfo.ZoneInfo("UTC"), Decimal("NaN"),
    Decimal("-sNaN123"), Decimal("-Infinity"), Decimal("-0"), Decimal("0E-10"), Decimal("1E+999999999"),
    Decimal(1) / 3, Fraction(0), Fraction(2**2000, 3), uuid.UUID(int=2**128 - 1), pathlib.Path(),
    pathlib.Path("/a b/\n"), pathlib.PureWindowsPath("//host/share/x"),
    *(getattr(np, name)(3) for name in NUMPY_NUMBERS), np.float32(0.1), np.float16(65504), np.float64("nan"),
    np.float32("-inf"), np.float64(-0.0), np.float64(5e-324), np.int8(-128), np.uint64(2**63), np.int64(-(2**63)),
    np.complex64(complex(0.1, math.nan)), np.bool_(False), np.str_("ä"), np.bytes_(b"\xff"),
    np.datetime64("NaT", "ns"), np.datetime64("2024"), np.datetime64("2024-05"), np.datetime64("2024-01-02", "W"),
    np.datetime64("2024-02-29"), np.datetime64("2024-02-29T01:02:03.123456789"), np.datetime64(5, "as"),
    np.datetime64(7, "25s"), np.datetime64(10**18, "Y"), np.datetime64(-(10**6), "D"), np.datetime64(-1, "s"),
    np.timedelta64(1, "D"), np.timedelta64(-(10**18), "ns"),
    {np.int64(1): np.float64(2)}, {np.datetime64("2024-01-01"): (1,)},
    {"deep": [{"er": ({1: [{frozenset({(1, Decimal(2))})}.pop()]},)}]},
]  # fmt: skip
VALUES = [value for value, _ in READABLE] + OTHERS


def equal(one, two):
    """Equal and of the same types all the way down, where NaN is NaN, and -0.0 is not 0.0."""
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return equal(list(one.items()), list(two.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(equal, one, two))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(two) and all(any(equal(a, b) for b in two) for a in one)
    if isinstance(one, int):
        return one == two
    return repr(one) == repr(two) and getattr(one, "dtype", None) == getattr(two, "dtype", None)


@pytest.mark.parametrize("index", range(len(VALUES)))
def test_values_come_back_equal_and_of_the_same_type(index):
    """Each kind of value and their nestings are typed JSON, valid for SQLite, and come back as they were."""
    value = VALUES[index]
    encoded = codecs.encode(value)
    assert encoded.codec == "typed-json"
    assert equal(decoded(encoded), value)
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("select json_valid(?)", (encoded.content.decode(),)).fetchone() == (1,)


@pytest.mark.parametrize(("value", "content"), READABLE, ids=[content for _, content in READABLE])
def test_the_notation_can_be_read_and_stays(value, content):
    """The notation says what a value is; a later version writes the same."""
    assert codecs.encode(value).content.decode() == content


@pytest.mark.parametrize("index", range(len(VALUES)))
def test_values_inside_others_come_back(index):
    """The same as a part of lists, dicts and tuples, and as a member or key where it can be one."""
    value = VALUES[index]
    nested = [{"a": value}, ("x", [value])]
    with contextlib.suppress(TypeError, ValueError):  # it can't be a member; NumPy has such values too
        nested.append({value: {value}})
    for each in nested:
        encoded = codecs.encode(each)
        assert encoded.codec == "typed-json"
        assert equal(decoded(encoded), each)


class Pair(tuple):
    __slots__ = ()


class Stamp(dt.datetime):
    pass


class Hour(dt.tzinfo):
    def utcoffset(self, when):
        return dt.timedelta(hours=1)

    def __repr__(self):
        return "Hour()"

    def __eq__(self, other):
        return type(other) is Hour

    def __hash__(self):
        return 1


def deep(depth):
    value = ()
    for _ in range(depth):
        value = [value]
    return value


LIST, TUPLE, SET = [1], ([1],), {1}
KEPT_BY_PICKLE = {
    "a subclass": Pair((1, 2)), "a subclass inside": [Stamp(2024, 1, 1), ()], "a list twice": (LIST, LIST),
    "a tuple of a list twice": [TUPLE, TUPLE], "a set twice": (SET, SET),
    "a long tuple twice": [(tuple(range(20)),) * 2], "a bytearray twice": (bytearray(b"a"),) * 2,
    "text over 1 MiB": ("x" * ((1 << 20) + 1),), "such a key": {"x" * ((1 << 20) + 1): ()},
    "bytes over 64 KiB": [bytes(65537)], "a long bytearray": bytearray(65537), "too deep": deep(400),
    "a lone surrogate": ("\ud800",), "a path that is no text": pathlib.Path("\udcff"),
    "a zone of another library": dt.datetime(2024, 1, 1, tzinfo=Hour()), "digits": Decimal("1." + "1" * 2000),
    "a long fraction": Fraction(1, 2**3000), "a longer int": 1 << 400_000, "range": range(3), "ellipsis": (...,),
    "a type": (int,), "an exception": [(1,), ValueError("x")],
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT_BY_PICKLE)
def test_what_has_no_notation_is_pickled(name):
    """Subclasses, shared parts, what is long, deep or foreign is pickled, and comes back as it was."""
    value = KEPT_BY_PICKLE[name]
    encoded = codecs.encode(value)
    assert encoded.codec == "pickle"
    back = decoded(encoded)
    assert type(back) is type(value)
    assert repr(back) == repr(value) if not isinstance(value, int) else back == value


def test_recursive_and_nearly_equal_values_are_pickled():
    """A value that holds itself, numbers of the platform, and zones and ids that only look alike keep what they are."""
    loop = []
    loop.append((loop,))
    safe = uuid.UUID(int=1, is_safe=uuid.SafeUUID.safe)
    own_zone = zoneinfo.ZoneInfo.no_cache("Europe/Berlin")
    longs = (np.longdouble(1) / 3, np.clongdouble(1), np.void(b"ab"))
    for value in (loop, safe, own_zone, *longs, [(1,), np.array([1])], {"a": (np.array(1),)}):
        assert codecs.encode(value).codec == "pickle"
    assert decoded(codecs.encode(safe)).is_safe is uuid.SafeUUID.safe


def test_equal_sets_are_the_same_bytes():
    """The order of a set's members, which differs from process to process, leaves no trace."""
    code = (
        "from flowstore.store import codecs; print(codecs.encode({'abc', 'b', 1, (2, 'x'), None, 0.5, b'z'}).sha.hex())"
    )
    shas = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in "123"
    }
    assert len(shas) == 1


# --- any value

units = st.sampled_from(["Y", "D", "s", "ns", "10us"])
zones = st.none() | st.sampled_from([UTC, BERLIN, hours(-3), hours(3, "x")])
hashable = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    | st.complex_numbers() | st.dates() | st.times(timezones=zones) | st.datetimes(timezones=zones) | st.timedeltas()
    | st.decimals().filter(lambda d: not d.is_snan()) | st.fractions() | st.uuids()
    | st.builds(np.float32, st.floats(width=32)) | st.builds(np.int16, st.integers(-(2**15), 2**15 - 1))
    | st.builds(np.datetime64, st.integers(-200, 200), units)  # in a set, NumPy converts them between units
)  # fmt: skip
keys = st.recursive(
    hashable, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3), max_leaves=4
)
anything = st.recursive(
    keys,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.text("$atuple", max_size=6), inner, max_size=2)
        | st.sets(keys, max_size=4)
    ),
    max_leaves=10,
)


@settings(quick, max_examples=150)
@given(anything)
def test_any_nesting_comes_back(value):
    """Any nesting of these kinds comes back equal and of the same types, and is never pickled."""
    encoded = codecs.encode(value)
    assert encoded.codec in {"json", "typed-json", "bytes"}
    assert equal(decoded(encoded), value)
    assert codecs.encode(decoded(encoded)).sha == encoded.sha


# --- strangers' contents

MARKS = sorted({json.loads(content).popitem()[0] for _, content in READABLE if content.startswith('{"$')})
nodes = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["nan", "2024-02-30", "2024-01-01T00:00:00+99:99", "[../x]", "now", "1/0", "PT1e9S", "١"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    | st.tuples(st.sampled_from(MARKS), inner).map(lambda pair: dict([pair])),
    max_leaves=8,
)  # fmt: skip


def load(content):
    """Decode a stranger's content; gives what was refused, or `None`."""
    try:
        codecs.decode("typed-json", iter([content]), len(content))
    except ArtifactError as error:
        return str(error)
    return None


@settings(quick, max_examples=200)
@given(nodes)
def test_any_json_is_a_value_or_an_artifact_error(node):
    """Marks around anything that is JSON, and JSON's constants, raise nothing but an ArtifactError."""
    load(json.dumps(node).encode())


@settings(quick, max_examples=200)
@given(st.integers(0, len(VALUES) - 1), st.data())
def test_damaged_contents_are_a_value_or_an_artifact_error(index, data):
    """Bytes changed, cut or doubled raise nothing but an ArtifactError."""
    content = bytearray(codecs.encode(VALUES[index]).content[:2000])
    for _ in range(3):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b'"', b"9", b"]", b"$", b"\xff"])
        )
    load(bytes(content))


def marked(mark, content):
    return json.dumps({f"${mark}": content}).encode()


WRONG = {
    "an unknown mark": marked("numpy.void", "x"), "a module": marked("os.system", "true"), "NaN": b"[NaN]",
    "a text for a list": marked("tuple", "ab"), "a tuple for a list": b'{"$set":{"$tuple":[1]}}',
    "no pair": marked("dict", [[1]]), "a member twice": marked("set", [1, 1]),
    "a key twice": marked("dict", [[1, 2], [1, 3]]), "an object's key twice": b'{"a":1,"a":2}',
    "a member that can't be one": marked("set", [[1]]), "a list as a key": marked("dict", [[[1], 2]]),
    "a float": marked("float", "1e5"), "an int of many digits": marked("int", "9" * 5000),
    "digits of another script": marked("int", "١"), "an odd date": marked("date", "20240229"),
    "no date": marked("date", "2024-02-30"), "a number as a date": marked("date", 5),
    "a zone that is a path": marked("zone", "[../../etc/passwd]"), "no zone": marked("zone", "[No/Where]"),
    "a folder of zones": marked("zone", "[America]"), "an offset of days": marked("zone", "+24:00"),
    "a duration beyond": marked("timedelta", "PT99999999999999S"), "a decimal with spaces": marked("decimal", " 1"),
    "a decimal beyond": marked("decimal", "1E+9999999999999999999"), "by nothing": marked("fraction", "1/0"),
    "not reduced": marked("fraction", "2/4"), "no id": marked("uuid", "x"), "beyond int8": marked("numpy.int8", 300),
    "beyond float16": marked("numpy.float16", 1e300), "a bool as a number": marked("numpy.int64", True),
    "a number as a bool": marked("numpy.bool", 1), "today": marked("numpy.datetime64", ["today", "D"]),
    "a zone in it": marked("numpy.datetime64", ["2024-01-01T00:00Z", "s"]),
    "no unit": marked("numpy.datetime64", ["NaT", "x"]), "a text of no bytes": marked("bytes", "€"),
    "a lone surrogate": b'["\\ud800"]', "a surrogate as a key": b'{"\\udfff":1}', "too deep": b"[" * 101 + b"]" * 101,
    "very deep": b"[" * 100_000, "deep tuples": b'{"$tuple":[' * 400 + b"]}" * 400, "more": b"1 2",
    "one text of 2 MiB": json.dumps("x" * (2 << 20)).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_notations_that_no_value_has_are_refused(name):
    """What this version would not have written is one ArtifactError."""
    assert load(WRONG[name]).startswith("Its bytes are not typed JSON: ")


def colliding(count):
    """Members of one hash."""
    return [{"$int": str(n * (2**61 - 1))} for n in range(20, count)]


BOMBS = {
    "a decimal": marked("decimal", "1E+999999999999999999"),
    "decimals in a set": marked("set", [{"$decimal": f"1E+99999999999999999{n}"} for n in range(10)] * 2000),
    "digits": b"[" + b"9" * 10_000_000 + b"]",
    "digits of an int": marked("int", "9" * 10_000_000),
    "digits in base 16": marked("int", "0x" + "f" * 10_000_000),
    "digits of a decimal": marked("decimal", "9" * 10_000_000),
    "one hash": marked("set", colliding(50_000)),
    "one hash as keys": marked("dict", [[key, 0] for key in colliding(50_000)]),
    "a long date": marked("datetime", "2" * 10_000_000),
    "a long path": marked("numpy.datetime64", ["2" * 10_000_000, "D"]),
    "tuples in tuples": b'{"$tuple":[' * 50_000,
    "open lists": b"[" * 10_000_000,
}


BOUNDED = """
import pathlib, resource
from flowstore.errors import ArtifactError
from flowstore.store import codecs
content = pathlib.Path("content").read_bytes()
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    codecs.decode("typed-json", iter([content]), len(content))
except ArtifactError:
    pass
"""


@pytest.mark.parametrize("name", BOMBS)
def test_no_content_takes_long(name, tmp_path):
    """Numbers of millions of digits, huge exponents, members of one hash: decoded or refused in seconds, in 1 GB."""
    (tmp_path / "content").write_bytes(BOMBS[name])
    subprocess.run([sys.executable, "-c", BOUNDED], check=True)


def test_members_of_one_hash_are_pickled():
    """What would not be read again is not written: thousands of members of one hash."""
    assert codecs.encode({n * (2**61 - 1) for n in range(200)}).codec == "pickle"
    assert codecs.encode({n * (2**61 - 1) for n in range(100)}).codec == "typed-json"


def test_nothing_is_imported_by_a_name_in_a_content():
    """Reading imports the modules of known kinds at most, whatever a content names."""
    code = """
import json, sys
from flowstore.errors import ArtifactError
from flowstore.store import codecs
before = {*sys.modules}
for name in ("os", "antigravity", "this", "numpy.testing", "decimal.context", "xml.dom", "zoneinfo"):
    for content in ({"$" + name: 1}, {"$zone": f"[{name}]"}, {"$numpy." + name: 1}, {"$import": name}, {"$type": name}):
        try:
            codecs.decode("typed-json", iter([json.dumps(content).encode()]), 1)
        except ArtifactError:
            pass
print(*sorted({"antigravity", "this", "numpy", "decimal", "xml"} & {*sys.modules}.difference(before)))
"""
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told == "\n"


# --- what a user sees


def test_a_collaborator_reads_metrics_without_trust(flow, tmp_path, monkeypatch):
    """A dict with NumPy numbers, tuples, NaN and dates is no pickle: whoever gets the file reads it."""
    script = flow(
        flow_source(
            LINEAR,
            head="import datetime, numpy as np",
            start="""
                self.metrics = {"accuracy": np.float64(0.5), "folds": (3, 4), "loss": float("nan"), 5: {1, 2},
                                "day": datetime.date(2024, 2, 29)}
                """,
        )
    )
    script("run")
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "somebody else"))
    metrics = script.client().data.metrics
    expected = {
        "accuracy": np.float64(0.5), "folds": (3, 4), "loss": math.nan, 5: {1, 2}, "day": dt.date(2024, 2, 29),
    }  # fmt: skip
    assert equal(metrics, expected)
    assert script.sql("select codec, type from artifact_values where name = 'metrics'") == [("typed-json", "dict")]


def test_a_value_that_is_only_read_is_stored_once(flow):
    """Tuples, sets and dicts with other keys that a later step reads are not set again; what it changes is."""
    script = flow(
        flow_source(
            MIDDLE,
            start='self.pair, self.labels, self.ages = (1, 2), {"a", "b"}, {30: 0.5}',
            middle='assert self.pair == (1, 2) and self.labels == {"a", "b"}\nself.ages[40] = 1',
            end="assert self.ages == {30: 0.5, 40: 1}",
        )
    )
    script("run")
    rows = script.sql("select name, count(*) from artifact_values group by name order by name")
    assert rows == [("ages", 2), ("labels", 1), ("pair", 1)]


def test_export_and_import_keep_the_values(flow, tmp_path):
    """An exported and imported artifact is the same value, and the same bytes."""
    script = flow(flow_source(LINEAR, start="self.x = {1: (2, b'3')}"))
    script("run")
    command("--store", "flowstore.db", "export", "out.db")
    command("--store", "other.db", "import", "out.db")
    flowstore.use_store(tmp_path / "other.db")
    artifact = flowstore.Run("F/1")["start"].task["x"]
    assert same(artifact.data, {1: (2, b"3")})
    assert artifact.codec == "typed-json"


def test_a_foreach_over_tuples(flow):
    """Items of a foreach that plain JSON lacks reach their tasks as they are."""
    tails = {
        "start": "self.next(self.body, foreach='xs')",
        "body": "self.next(self.join)",
        "join": "self.next(self.end)",
        "end": "",
    }
    script = flow(
        flow_source(
            tails,
            head="import datetime",
            start="self.xs = [(1, 'a'), {2, 3}, datetime.date(2024, 2, 29)]",
            body="self.got = repr(self.input)",
            join="self.all = [each.got for each in inputs]",
        )
    )
    script("run")
    assert script.client().data.all == ["(1, 'a')", "{2, 3}", "datetime.date(2024, 2, 29)"]
