"""A value comes back equal and of the same type, through the safest codec that is faithful."""

from __future__ import annotations

import array
import collections
import enum
import hashlib
import json
import math
import pickle
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowstore.errors import ArtifactError
from flowstore.store import blobs, codecs, opening
from support.blobs import blob_of, put, raw
from support.flows import LINEAR, flow_source
from support.processes import python, told
from support.sameness import decoded, same

quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One store for all examples of a property."""
    made = opening.ensure_store(tmp_path_factory.mktemp("shared") / "codecs.db")
    yield made
    made.close()


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
    with pytest.raises(ArtifactError, match="cannot be pickled"):
        codecs.encode(value)


def test_a_value_that_needs_a_missing_module(tmp_path, store):
    """The module that isn't there is named."""
    (tmp_path / "passing_by.py").write_text("class Thing:\n    pass\n")
    code = """
        import sys
        sys.path.insert(0, ".")
        import passing_by
        from flowstore.store import blobs, codecs, opening
        store = opening.ensure_store("codecs.db")
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
