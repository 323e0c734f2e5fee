"""Messages between a driver and its hosts: what is written comes back, and nothing else is taken for a message."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("msgpack")

import contextlib

from flowstore.run.remote import messages
from flowstore.run.remote.messages import Reader, decode, encode

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**200), max_value=2**200)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
ORDER = encode("order", 0, 3, [1, "step", 2**70, [None, True, {"x": b"bytes"}], 0.5, "é\udcff"])


@given(PLAIN, st.integers(1, 30))
def test_what_is_written_comes_back(value, size):
    """Any plain value crosses a stream, however that is cut into pieces."""
    stream = encode("answer", 7, value) + encode("beat")
    reader = Reader()
    got = [message for at in range(0, len(stream), size) for message in reader.feed(stream[at : at + size])]
    assert got == [["answer", 7, value], ["beat"]]


def test_tuples_and_views_are_lists_and_bytes():
    """What is encoded may be a tuple or a view; it arrives as a list or as bytes."""
    assert decode(encode("answer", 1, (1, memoryview(b"ab"), bytearray(b"c")))[4:]) == ["answer", 1, [1, b"ab", b"c"]]


def test_an_object_is_not_sent():
    """Only plain values are messages."""
    with pytest.raises(TypeError, match="a value of type object"):
        encode("answer", 1, object())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "is not a message"),
        (b"\xc0", "no kind"),
        (b"\x90", "no kind"),
        (b"\x91\x01", "no kind"),
        (encode("beat")[4:] + b"\0", "is not a message"),
        (b"\x91\xa3bea", "'bea' of 0 values"),
        (b"\x92\xa4beat\x01", "'beat' of 1 values"),
        (b"\x92\xa5ready\x01", "ready has values of other types"),
        (b"\x93\xa6answer\x01" + b"\x91" * 40 + b"\xc0", "deeper than 32 levels"),
        (b"\x91" * 100_000, "is not a message"),
        (b"\xdd\xff\xff\xff\xff", "is not a message"),  # a list of 4 billion values
        (b"\xdf\xff\xff\xff\xff", "is not a message"),
        (b"\xc6\xff\xff\xff\xff", "is not a message"),
        (b"\x93\xa6answer\x01\xd4\x05\x00", "an extension of type 5"),
        (b"\x93\xa6answer\x01\xc9\x00\x02\x00\x00\x01" + bytes(1 << 17), "max_ext_len"),  # a number of many digits
    ],
)
def test_what_is_no_message(body, why):
    """Anything else ends in a ValueError that says what it is not."""
    with pytest.raises(ValueError, match=why):
        decode(body)


def test_many_small_lists(monkeypatch):
    """What would take a hundred times its size in memory is refused before all of it is there."""
    monkeypatch.setattr(messages, "MOST_VALUES", 1000)
    with pytest.raises(ValueError, match="more than 1000 values"):
        decode(b"\x93\xa6answer\x01\xdc\x03\x00" + b"\x91\x90" * 0x300)


def test_a_length_that_is_too_large():
    """A frame that announces gigabytes is refused before any of it is waited for."""
    with pytest.raises(ValueError, match="is announced"):
        next(Reader().feed(b"\xff\xff\xff\xff"))


@given(st.lists(st.tuples(st.integers(0, len(ORDER) - 5), st.integers(0, 255)), min_size=1, max_size=5))
def test_damage(changes):
    """A damaged message is another message or an error, and takes no time either way."""
    body = bytearray(ORDER[4:])
    for at, value in changes:
        body[at] = value
    began = time.perf_counter()
    with contextlib.suppress(ValueError):
        decode(bytes(body))
    assert time.perf_counter() - began < 1


@given(st.binary(max_size=2000))
def test_noise(data):
    """A stream of anything at all ends in messages, or in an error."""
    with contextlib.suppress(ValueError):
        assert all(isinstance(message, list) for message in Reader().feed(data))
