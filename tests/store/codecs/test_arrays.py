"""Arrays are stored as .npy where that is faithful; lying headers are found."""

from __future__ import annotations

import contextlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowstore.errors import ArtifactError, StoreCorrupt
from flowstore.store import blobs, codecs
from support.blobs import VALUES, put, raw
from support.processes import python, told
from support.sameness import decoded, equal, same

MIB = 1 << 20
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

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


def test_masked_arrays_are_not_imported_for_plain_ones():
    """Their module takes longer to import than a task takes, and a plain array of a forked task is stored without."""
    code = """
import sys, numpy
from flowstore.store import codecs
encoded = codecs.encode({"a": numpy.arange(3), "b": numpy.float64(2)})
encoded = codecs.encode(numpy.arange(3))
codecs.decode(encoded.codec, iter([encoded.content]), encoded.size_bytes)
print("numpy.ma" in sys.modules, "attrs" in sys.modules)
"""
    assert told(python(code)).split() == ["False", "False"]
