"""The messages between a driver and its hosts: lists of plain values, written by msgpack, over a stream of bytes.

A frame is a length in 4 bytes, and that many bytes of msgpack: a list that begins with the message's kind. `FORMS` says
what follows in each kind. A reader accepts nothing else, so whatever a stream carries, reading it takes time and memory
in proportion to what has arrived, runs no code, and ends in a message or in a `ValueError`. `marshal`, which serves
between the processes of one machine, can be made to allocate gigabytes by a few damaged bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

LARGEST_BYTES = 128 << 20  # of a frame: a report carries the items of a foreach, at most 64 MiB
MOST_VALUES = 8 << 20  # in all lists and dicts of a message
MOST_LEVELS = 32
_HEADER = struct.Struct("!I")
_BIG_INT = 1  # the extension type of whole numbers of more than 64 bits
_MOST_DIGITS_BYTES = 64 << 10  # of such a number: turning one into decimal digits takes time quadratic in its length

_NUMBER, _TEXT, _BYTES, _LIST, _DICT = int, str, bytes, list, dict
_ANY = object
_MAYBE = (int, type(None))

FORMS: dict[str, tuple[Any, ...]] = {
    # from the driver
    "setup": (_DICT,),  # what `host.Program` reads
    "files": (_BYTES,),  # of the snapshot, one after the other
    "slots": (_NUMBER, _NUMBER),  # pool, how many of its attempts may run at a time
    "order": (_NUMBER, _NUMBER, _LIST),  # pool, the attempt's number
    "kill": (_NUMBER, _NUMBER),  # a signal; an attempt that waits is returned
    "withdraw": (_NUMBER,),
    "send": (_NUMBER, _LIST),  # the indexes of the large values that the store lacks
    "answer": (_NUMBER, _ANY),  # to the `ask` of this number
    "refusal": (_NUMBER, _TEXT, _TEXT),  # the same, with the name of an error and its message
    "close": (),
    # from a host
    "hello": (_DICT,),
    "ready": (_MAYBE_TEXT := (str, type(None)),),  # a notice for the user
    "failed": (_TEXT,),  # the flow could not be imported
    "started": (_NUMBER, _NUMBER),  # pid
    "printed": (_NUMBER, _TEXT, _BYTES),
    "card": (_NUMBER, _LIST),
    "offer": (_NUMBER, _LIST),  # packed descriptions of large values
    "data": (_NUMBER, _BYTES),  # a chunk of a large value
    "reported": (_NUMBER, _LIST),
    "ended": (_NUMBER, _NUMBER, _MAYBE),  # exit code, signal
    "died": (_NUMBER, _MAYBE, _MAYBE, bool, _MAYBE),  # exit code, signal, garbled, refused
    "returned": (_NUMBER,),
    "ask": (_NUMBER, _TEXT, _LIST),  # what, its arguments
    # from both
    "beat": (),
}

Message = Sequence[Any]


def encode(kind: str, *values: Any) -> bytes:
    """Return the frame of a message."""
    import msgpack  # here and below, since only who uses other machines has it

    body: bytes = msgpack.packb([kind, *values], default=_encode_other, unicode_errors="surrogatepass")
    if len(body) > LARGEST_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is larger than {LARGEST_BYTES}")
    return _HEADER.pack(len(body)) + body


class Reader:
    """Messages out of a stream that is read whenever something has arrived."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[Message]:
        """Take what was received; yield each message that is now complete.

        Raises:
            ValueError: this is no such stream.
        """
        self._buffer += received
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > LARGEST_BYTES:
                raise ValueError(f"a message of {length} bytes is announced, more than {LARGEST_BYTES}")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as view:
                message = decode(view[_HEADER.size : end])
            del self._buffer[:end]
            yield message


def decode(body: bytes | memoryview) -> Message:
    """Return a message from the body of its frame.

    Raises:
        ValueError: it is none.
    """
    import msgpack

    count = _Counter()
    try:
        message = msgpack.unpackb(
            body,
            max_array_len=MOST_VALUES,
            max_map_len=MOST_VALUES,
            max_ext_len=_MOST_DIGITS_BYTES,
            list_hook=count,
            object_hook=count,
            ext_hook=_decode_other,
            unicode_errors="surrogatepass",
        )
    except (msgpack.UnpackException, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"this is not a message: {error}") from None
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise ValueError("this is not a message: it has no kind")
    kind, *values = message
    form = FORMS.get(kind)
    if form is None or len(form) != len(values):
        raise ValueError(f"this is not a message: {kind[:40]!r} of {len(values)} values")
    if not all(isinstance(value, allowed) for value, allowed in zip(values, form, strict=True)):
        raise ValueError(f"this is not a message: {kind} has values of other types")
    if _is_deep(message):
        raise ValueError(f"this is not a message: it is deeper than {MOST_LEVELS} levels")
    return message


class _Counter:
    """Counts the values in a message while it is decoded, and raises ValueError where they are too many."""

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, values: Any) -> Any:
        self._seen += len(values) + 1
        if self._seen > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES} values")
        return values


def _is_deep(message: Message) -> bool:
    """Return whether lists and dicts are nested more deeply than any message is."""
    level: list[Any] = [message]
    for _ in range(MOST_LEVELS):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, (list, dict))
        ]
        if not level:
            return False
    return True


def _encode_other(value: Any) -> Any:
    if isinstance(value, int):  # of more than 64 bits
        import msgpack

        return msgpack.ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if isinstance(value, (memoryview, bytearray)):
        return bytes(value)
    raise TypeError(f"a message holds a value of type {type(value).__name__}")


def _decode_other(kind: int, data: bytes) -> int:
    if kind != _BIG_INT:
        raise ValueError(f"an extension of type {kind}")
    return int.from_bytes(data, "big", signed=True)
