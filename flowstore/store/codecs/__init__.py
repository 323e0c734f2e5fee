"""Values <-> bytes. The safest codec that is faithful wins: a value comes back equal and of the same type.

| codec      | for                                                            | loading runs code |
| ---------- | -------------------------------------------------------------- | ----------------- |
| json       | None, bool, int of 64 bits, finite float, text, lists and      | no                |
|            | dicts of them with text keys, without shared parts             |                   |
| typed-json | these mixed with tuples, sets, other keys and numbers, bytes,  | no                |
|            | dates, paths and NumPy scalars (see `typed_json`)              |                   |
| bytes      | bytes                                                          | no                |
| npy        | plain numpy.ndarray (NumPy's .npy format, without pickles)     | no                |
| parquet    | data frames of pandas and polars, and pyarrow's tables, that   | no                |
|            | come back identical                                            |                   |
| pickle     | everything else (cloudpickle)                                  | yes               |

The table of decoders is fixed. An unknown codec is an error; nothing falls back to pickle.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from flowstore.context import is_text
from flowstore.errors import ArtifactError
from flowstore.store.description import Described, Description
from flowstore.store.pictures import picture
from flowstore.store.plain import NOTHING, describe, describe_json
from flowstore.store.preview import preview, type_name

MAX_JSON_DEPTH = 100
_LARGE_TEXT = 1 << 20
_SCALARS = frozenset({bool, type(None)})
_TABLES = (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table"))
_MOST_EMPTY_TEXTS = 1 << 20
_LARGE_PIECE = 65536  # kept as it is; smaller ones are joined

SAFE = frozenset({"json", "typed-json", "bytes", "npy", "parquet"})  # codecs whose decoding never runs code
WITHOUT_JSON = frozenset({"bytes", "parquet"})  # codecs of values that have no plain JSON

Piece = bytes | bytearray | memoryview


@attrs.frozen(eq=False, repr=False)
class Encoded(Described):
    """A value as bytes, with its description.

    Attributes:
        pieces: the bytes, in order; large ones are views of the value's own memory.
        keep: an object that keeps that memory alive.
    """

    pieces: Sequence[Piece] = attrs.field(repr=False)
    keep: object = attrs.field(default=None, repr=False)

    @property
    def content(self) -> bytes:
        """All pieces as one; a copy, so for small values."""
        return b"".join(self.pieces)

    @functools.cached_property
    def sha(self) -> bytes:
        """SHA-256 of all pieces, computed when it is first asked for: not everything that is encoded is stored."""
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(piece)
        return digest.digest()


def encode(value: Any, *, described: bool = True) -> Encoded:
    """Encode a value with the safest codec that is faithful.

    Args:
        value: anything that can be pickled.
        described: whether to say what it is, for people and SQL; not needed where only the hash is compared.

    Raises:
        ArtifactError: it can't be pickled.
    """
    codec, pieces, keep = _encode(value)
    size = sum(memoryview(piece).nbytes for piece in pieces)
    if not described:
        return Encoded(Description(codec, size, type_name(value), ""), pieces, keep)
    plain = describe_json(value) if codec == "json" else NOTHING if codec in WITHOUT_JSON else describe(value)
    shown = picture(value) if codec == "pickle" else None
    return Encoded(Description(codec, size, type_name(value), preview(value), plain, shown), pieces, keep)


def _encode(value: Any) -> tuple[str, Sequence[Piece], object]:
    kind = type(value)
    if kind is bytes:
        return "bytes", [value], None
    if is_plain_json(value):
        return "json", _json_pieces(value), None
    if (typed := _typed_json(value)) is not None:
        return "typed-json", [typed], None
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is numpy.ndarray and _is_plain_array(value):
        return "npy", _npy_pieces(value), value
    if (library := _library_of(kind)) is not None and (parquet := _parquet(value, library)) is not None:
        return "parquet", parquet, None
    return "pickle", *_pickle_pieces(value)


def decode(codec: str, pieces: Iterator[bytes], size_bytes: int) -> Any:
    """Rebuild a value from its bytes.

    Args:
        codec: one of the table above. For `pickle`, the caller has made sure that it is trusted.
        pieces: the content, in order.
        size_bytes: its length.

    Raises:
        ArtifactError: the codec is unknown, needs a package that is not there, or the bytes don't fit it.
    """
    decoder = _DECODERS.get(codec)
    if decoder is None:
        raise ArtifactError(f"The codec {codec!r} is unknown to this flowstore; a newer version may know it.")
    try:
        return decoder(pieces, size_bytes)
    except ImportError as error:
        if codec == "pickle":
            raise ArtifactError(f"Loading it needs the module {error.name!r}, which is not installed here.") from error
        raise ArtifactError(f'Loading it needs {error.name}: pip install "flowstore[data]"') from error


# --- json


def is_plain_json(value: Any) -> bool:
    """Whether JSON gives the value back equal and of the same types, also in SQLite's reading of it.

    >>> is_plain_json({"a": [1, 2.5, None]}), is_plain_json((1,)), is_plain_json({1: 2}), is_plain_json(2**64)
    (True, False, False, False)
    """
    return _is_plain(value, set(), MAX_JSON_DEPTH)


def _is_plain(value: Any, seen: set[int], depth: int) -> bool:
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is str:
        return is_text(value)
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    if kind is float:
        return math.isfinite(value)
    if kind not in {list, dict} or depth == 0 or id(value) in seen:
        return False
    seen.add(id(value))  # a part that stands twice would come back as two
    if kind is dict:
        if not all(type(key) is str and is_text(key) for key in value):
            return False
        value = list(value.values())
    kinds = set(map(type, value))
    if kinds == {float}:
        return all(map(math.isfinite, value))
    if kinds == {int}:
        return bool(min(value) >= -(2**63) and max(value) < 2**63)
    return all(_is_plain(item, seen, depth - 1) for item in value)


def _json_pieces(value: Any) -> list[Piece]:
    if type(value) is str and len(value) > _LARGE_TEXT:  # one copy of a large text, not three
        inner = (_ENCODER.encode(value[at : at + _LARGE_TEXT]) for at in range(0, len(value), _LARGE_TEXT))
        return [b'"', *(piece[1:-1].encode() for piece in inner), b'"']
    if type(value) is int or type(value) is float:  # as the encoder has them, without its set-up
        return [repr(value).encode()]
    return [_ENCODER.encode(value).encode()]


def _load_json(pieces: Iterator[bytes], _size: int) -> Any:
    """Only what could have been written comes back: JSON that other readers understand otherwise is refused."""
    try:
        text = b"".join(pieces).decode()
        value, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError(f"it goes on after character {end}")
        plain = is_plain_json(value)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"Its content is not JSON: {error}") from error
    if not plain:
        raise ArtifactError("Its content is not plain JSON: a number, a text or the depth has no place there.")
    return value


def _typed_json(value: Any) -> bytes | None:
    """Return a value in the notation of `typed_json`, which only some flows need; `None` where it has none."""
    from flowstore.store.codecs import typed_json

    return typed_json.dump(value)


def _load_typed_json(pieces: Iterator[bytes], _size: int) -> Any:
    from flowstore.store.codecs import typed_json

    try:
        return typed_json.load(b"".join(pieces))
    except ValueError as error:
        raise ArtifactError(f"Its content is not typed JSON: {error}") from error


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(object_pairs_hook=_unambiguous)


# --- numpy


def _is_plain_array(array: Any) -> bool:
    dtype = array.dtype
    few = array.nbytes < 2**62 if dtype.itemsize else array.size <= _MOST_EMPTY_TEXTS
    plain = dtype.kind in "biufcSUmM" and dtype.metadata is None and dtype.fields is None and few
    return plain and _has_sound_items(array)


def _npy_pieces(array: Any) -> list[Piece]:
    import numpy as np
    from numpy.lib import format as npy

    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = np.ascontiguousarray(array)
    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
    if array.size == 0 or array.dtype.itemsize == 0:
        return [header.getvalue()]
    return [header.getvalue(), array.ravel(order="K").view(np.uint8).data]


# The header that NumPy writes for a plain array; anything else is not ours (numpy.org: numpy.lib.format).
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][biufcSUmM]\d{1,9}(?:\[[\w/]{1,20}\])?)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}(?:, ?|(?=\))))*)\), \} *\n"
)


def _load_npy(pieces: Iterator[bytes], size: int) -> Any:
    """Read the header, check it against the size, and fill the array in place: one copy, and no trust in the header."""
    import numpy as np

    first = next(pieces, b"")
    start = 10 + int.from_bytes(first[8:10], "little")
    match = _NPY_HEADER.fullmatch(first[10:start]) if first[:8] == b"\x93NUMPY\x01\x00" else None
    if match is None:
        raise ArtifactError("Its content is not a plain .npy array: the header is of another form.")
    shape = tuple(map(int, re.findall(rb"\d+", match[3])))
    try:
        dtype = np.dtype(match[1].decode())
        if math.prod(shape) * dtype.itemsize != size - start:
            raise ValueError("the header does not fit the content")
        if dtype.itemsize == 0 and math.prod(shape) > _MOST_EMPTY_TEXTS:
            raise ValueError("so many empty texts can't have been stored")
        array = np.empty(math.prod(shape), dtype)
        shaped = array.reshape(shape, order="F" if match[2] == b"True" else "C")
    except (ValueError, TypeError, MemoryError, OverflowError) as error:
        raise ArtifactError(f"Its content is not a plain .npy array: {error}") from error
    if array.nbytes:
        target = array.view(np.uint8).data
        at = 0
        for piece in itertools.chain([first[start:]], pieces):
            target[at : at + len(piece)] = piece
            at += len(piece)
    if not _has_sound_items(array):
        raise ArtifactError("Its content is not a plain .npy array: it holds what is no item of its type.")
    return shaped


def _has_sound_items(array: Any) -> bool:
    """Booleans are 0 or 1, and characters are Unicode's: NumPy takes both on trust, and trips over others later."""
    import numpy as np

    if array.dtype.kind == "b":
        return bool(array.view(np.uint8).max(initial=0) <= 1)
    if array.dtype.kind == "U" and array.nbytes:
        characters = np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)
        return bool(array.reshape(-1).view(characters).max(initial=0) <= sys.maxunicode)
    return True


# --- data frames


def _library_of(kind: type) -> str | None:
    """The library of which this is the type of tables."""
    for name, attribute in _TABLES if kind.__name__ in {"DataFrame", "Table"} else ():
        if getattr(sys.modules.get(name), attribute, None) is kind:
            return name
    return None


def _parquet(value: Any, library: str) -> list[bytearray] | None:
    """A table as Parquet, or `None` where it would not come back identical (which is tried, not guessed)."""
    try:
        from flowstore.store.codecs import frames
    except ImportError:
        return None
    try:
        return frames.dump(value, library)
    except Exception:  # pyarrow, pandas and polars raise their own kinds for what they can't hold: then it is pickled
        return None


def _load_parquet(pieces: Iterator[bytes], size: int) -> Any:
    from flowstore.store.codecs import frames

    try:
        return frames.load(pieces, size)
    except ImportError:
        raise
    except Exception as error:  # damaged bytes and metadata trip pyarrow and pandas in many ways
        raise ArtifactError(f"Its content is not Parquet: {type(error).__name__}: {error}") from error


# --- pickle


def _pickle_pieces(value: Any) -> tuple[Sequence[Piece], object]:
    from flowstore.store import pickling

    pieces: list[Piece] = []
    small = bytearray()

    def write(piece: Piece) -> int:
        nonlocal small
        if memoryview(piece).nbytes > _LARGE_PIECE:
            if small:
                pieces.append(small)
                small = bytearray()
            pieces.append(piece)
        else:
            small += piece
        return memoryview(piece).nbytes

    try:
        keep = pickling.dump(value, write)
    except ArtifactError:  # of an object of ours that says itself why it can't be stored
        raise
    except Exception as error:  # pickling calls the value's own methods, which may raise anything
        raise ArtifactError(f"it can't be pickled: {type(error).__name__}: {error}") from error
    pieces.append(small)
    return pieces, keep


def _load_pickle(pieces: Iterator[bytes], _size: int) -> Any:
    from flowstore.store import pickling

    try:
        return pickling.load(io.BufferedReader(_Pieces(pieces), 1 << 20))
    except (ImportError, ArtifactError):
        raise
    except Exception as error:  # unpickling calls the value's own methods, which may raise anything
        raise ArtifactError(f"Its pickle can't be loaded here: {type(error).__name__}: {error}") from error


class _Pieces(io.RawIOBase):
    """Pieces as a file, without joining them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any, /) -> int:
        view = memoryview(target).cast("B")
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _load_bytes(pieces: Iterator[bytes], size: int) -> bytes:
    first = next(pieces, b"")
    if len(first) == size:
        return first
    buffer = io.BytesIO(first)  # grows in place, and its getvalue shares the memory: one copy
    buffer.seek(0, io.SEEK_END)
    for piece in pieces:
        buffer.write(piece)
    return buffer.getvalue()


_DECODERS = {
    "json": _load_json,
    "typed-json": _load_typed_json,
    "bytes": _load_bytes,
    "npy": _load_npy,
    "parquet": _load_parquet,
    "pickle": _load_pickle,
}
