"""Pickles of builtins are read by their opcodes; nothing that a pickle names is imported, and nothing takes long."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import pickletools
import sys
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstore.transfer.metaflow_history import pickles
from flowstore.transfer.metaflow_history.pickles import NotPlain

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False)
)  # fmt: skip
KEYS = st.recursive(SCALARS, lambda keys: st.tuples(keys, keys) | st.frozensets(keys, max_size=3), max_leaves=4)
VALUES = st.recursive(
    SCALARS | st.builds(bytearray, st.binary()) | st.sets(KEYS, max_size=4),
    lambda values: (
        st.lists(values) | st.dictionaries(KEYS, values, max_size=5) | st.lists(values, max_size=5).map(tuple)
    ),
    max_leaves=20,
)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
LARGE_TEXT = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20)
HOSTILE = {
    "an import": b"cos\nsystem\n(S'true'\ntR.",
    "an import by name": pickle.dumps(os.system),
    "an object": pickle.dumps(pickle.UnpicklingError("x")),
    "a call of a value": b"\x80\x02K\x01K\x02\x86R.",
    "a persistent id": b"Pid\n.",
    "an extension": b"\x82\x01.",
    "an attribute": b"c__builtin__\nset\n)R}b.",
    "an old class": b"(i__builtin__\nset\n.",
    "a buffer": pickle.PROTO + b"\x05" + b"\x97.",
    "a memo that is empty": b"h\x00.",
    "a mark as a value": b"(.",
    "a mark in a tuple": b"(\x85.",
    "no end": b"N",
    "more than one value": b"NN.",
    "something behind the end": b"N.N",
    "nothing": b"",
    "a text that is cut off": b"X\xff\xff\xff\x7fab.",
    "bytes of a negative length": b"\x8b\xff\xff\xff\xff.",
    "a list as a key": b"}]Ns.",
    "an unhashable tuple": b"}]\x85Ns.",
    "a key without a value": b"}(Nu.",
    "deep tuples": b"N" + b"\x85" * 50_000 + b".",
    "deep frozen sets": b"(" * 50_000 + b"N" + b"\x91" * 50_000 + b".",
    "keys of one hash": b"}(" + b"".join(pickle.LONG1 + b"\x14" + ((2**61 - 1) * n).to_bytes(20, "little") + b"N"
                                         for n in range(5000)) + b"u.",
    "members of one hash, one by one": b"\x8f" + b"".join(
        b"(" + pickle.LONG1 + b"\x14" + ((2**61 - 1) * n).to_bytes(20, "little") + b"\x90" for n in range(5000)
    ) + b".",
    "a large tuple as many keys": b"(" + b"K\x01" * 100_000 + b"tq\x000}(" + b"h\x00N" * 100_000 + b"u.",
    "many copies of a large text": (
        LARGE_TEXT + b"q\x000X\x06\x00\x00\x00latin1q\x010"
        b"c_codecs\nencode\nq\x020" + b"h\x02h\x00h\x01\x86R0" * 100_000 + b"N."
    ),
    "many copies of a large set": (
        b"(" + b"".join(b"M" + n.to_bytes(2, "little") for n in range(60_000)) + b"lq\x000c__builtin__\nset\nq\x010"
        + b"h\x01h\x00\x85R0" * 10_000 + b"N."
    ),
    "many copies of a large text in a list": LARGE_TEXT + b"q\x000(" + b"h\x00" * 100_000 + b"l.",
    "many copies of a large text on the stack": b"(" + LARGE_TEXT + b"2" * 100_000 + b"l.",
    "many copies of a large text in a tuple": LARGE_TEXT + b"\x85q\x000(" + b"h\x00" * 100_000 + b"l.",
    "a number of many digits": b"L" + b"9" * 100_000 + b"L\n.",
}  # fmt: skip


def same(one, other):
    """Return whether values are equal and of the same types; pickles keep the order of dicts."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return same([*one.items()], [*other.items()])
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and (not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other))


@pytest.mark.quick("4")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_builtins_come_back(protocol):
    """Whatever Python's own pickler writes of builtins, in each protocol, as its C and its Python version write it."""

    @settings(max_examples=40, deadline=None)
    @given(VALUES)
    def check(value):
        for data in (pickle.dumps(value, protocol), pickle._dumps(value, protocol)):
            assert same(pickles.load(data), value)
            assert same(pickles.load(pickletools.optimize(data)), value)

    check()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_at_once(name):
    """Nothing is imported, no time is spent, and no memory: the pickle stays a pickle."""
    before = set(sys.modules)
    began = time.process_time()
    with pytest.raises(NotPlain):
        pickles.load(HOSTILE[name])
    assert time.process_time() - began < 10
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.startswith("many copies")])
def test_hostile_pickles_take_little_memory(name):
    """However short the program that makes copies."""
    tracemalloc.start()
    with pytest.raises(NotPlain):
        pickles.load(HOSTILE[name])
    assert tracemalloc.get_traced_memory()[1] < 200 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("reader", [pickles.load, pickles.outline])
def test_changed_pickles_are_values_or_refused(reader):
    """Whatever bytes there are, the answer is a value or NotPlain, never another error."""
    base = [
        pickle.dumps({"a": [1, (2.5, None)], 3: {4, "x"}, (1, 2): b"\x00" * 20}, protocol) for protocol in PROTOCOLS
    ]

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(base), st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=6))
    def fuzz(data, changes):
        for at, piece in changes:
            data = data[: at % len(data)] + piece + data[at % len(data) + 1 :]
        for program in (data, b"".join(piece for _, piece in changes)):
            with contextlib.suppress(NotPlain):
                reader(program)

    fuzz()


def test_recursive_values_are_read_and_not_stored_as_plain():
    """A list in itself is a list in itself; whoever encodes it declines it."""
    value = []
    value.append(value)
    loaded = pickles.load(pickle.dumps(value))
    assert loaded[0] is loaded


def test_outlines_name_classes_without_importing_them():
    """Of Metaflow's own objects only the shape is needed."""
    stored = pickles.outline(b"cno_such_module\nThing\n(K\x01K\x02t\x81}X\x01\x00\x00\x00aK\x03sb.")
    assert (stored.name, stored.arguments, stored.state) == ("no_such_module.Thing", (1, 2), {"a": 3})
    assert "no_such_module" not in sys.modules


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_536, 1 << 20])
def test_bytes_are_found_in_their_pickle(protocol, size):
    """So that they can be stored without being in memory as a whole."""
    value = bytes(size)
    data = pickle.dumps(value, protocol)
    begin, length = pickles.payload_of(data[:64], data[-64:], len(data))
    assert data[begin : begin + length] == value


def test_other_pickles_are_not_taken_for_bytes():
    """Nor are those that only begin like bytes."""
    for data in (pickle.dumps([b"a"]), pickle.dumps("text"), pickle.dumps(b"a")[:-1] + b"N.", b"C\x05abc."):
        assert pickles.payload_of(data[:64], data[-64:], len(data)) is None
