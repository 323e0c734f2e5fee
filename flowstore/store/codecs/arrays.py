"""The codec `npy`: plain arrays of NumPy in its own format, without pickles."""

from __future__ import annotations

import io
import itertools
import math
import re
import sys
from collections.abc import Iterator
from typing import Any

from flowstore import later
from flowstore.errors import ArtifactError
from flowstore.store.codecs.contract import Codec, Pieces
from flowstore.store.preview import first_of

MOST_EMPTY_TEXTS = 1 << 20
# The header that NumPy writes for a plain array; anything else is not ours (numpy.org: numpy.lib.format).
_HEADER = re.compile(
    rb"\{'descr': '([<>|][biufcSUmM]\d{1,9}(?:\[[\w/]{1,20}\])?)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}(?:, ?|(?=\))))*)\), \} *\n"
)


class Npy(Codec):
    """Arrays of numbers, times, booleans and fixed-width texts; subclasses, structures and objects are pickled."""

    def encode(self, value: Any) -> Pieces | None:
        """Return the header and a view of the array's memory."""
        if type(value) is not sys.modules["numpy"].ndarray or not _is_plain(value):
            return None
        import numpy as np
        from numpy.lib import format as npy

        array = value if value.flags.c_contiguous or value.flags.f_contiguous else np.ascontiguousarray(value)
        header = io.BytesIO()
        npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
        if array.size == 0 or array.dtype.itemsize == 0:
            return Pieces([header.getvalue()])
        return Pieces([header.getvalue(), array.ravel(order="K").view(np.uint8).data], keep=array)

    def decode(self, pieces: Iterator[bytes], size_bytes: int) -> Any:
        """Read the header, compare it with the size, and fill the array in place: one copy, no trust in the header."""
        import numpy as np

        first = next(pieces, b"")
        while len(first) < min(size_bytes, 128):  # of pieces that are cut anywhere
            first = b"".join([first, next(pieces)])
        start = 10 + int.from_bytes(first[8:10], "little")
        while len(first) < min(size_bytes, start):
            first = b"".join([first, next(pieces)])
        header = header_of(first, size_bytes)
        try:
            array = np.empty(math.prod(header.shape), header.dtype)
            shaped = array.reshape(header.shape, order="F" if header.is_fortran else "C")
        except (ValueError, TypeError, MemoryError, OverflowError) as error:
            raise ArtifactError(f"Its bytes are not a plain .npy array: {error}") from error
        if array.nbytes:
            target: Any = array.view(np.uint8).data
            at = 0
            for piece in itertools.chain([memoryview(first)[header.start :]], pieces):
                target[at : at + len(piece)] = piece
                at += len(piece)
        if not _has_valid_items(array):
            raise ArtifactError(
                "Its bytes are not a plain .npy array: it contains values that are invalid for its dtype."
            )
        return shaped

    def preview(self, value: Any) -> str | None:
        """Return the dtype, the shape and the first values of an array."""
        numpy = sys.modules["numpy"]
        if not isinstance(value, numpy.ndarray):
            return None
        if value.dtype.kind == "O":
            return f"{value.dtype}{list(value.shape)} [{'…' if value.size else ''}]"
        return f"{value.dtype}{list(value.shape)} [{first_of(value.flat, value.size)}]"


@later.frozen
class Header:
    """The description of an array at the beginning of its bytes.

    Attributes:
        dtype: NumPy's.
        shape: its length in each dimension.
        is_fortran: whether the first dimension changes fastest in the bytes, not the last one.
        start: where the items begin.
    """

    dtype: Any
    shape: tuple[int, ...]
    is_fortran: bool
    start: int


MOST_HEADER_BYTES = 10 + (1 << 16)


def header_of(first: bytes, size_bytes: int) -> Header:
    """Return the header of an array's bytes, compared with how many there are.

    Args:
        first: at least all of the header, so no more than `MOST_HEADER_BYTES` are needed.
        size_bytes: the length of all bytes.

    Raises:
        ArtifactError: an array of ours does not begin so.
    """
    import numpy as np

    start = 10 + int.from_bytes(first[8:10], "little")
    match = _HEADER.fullmatch(first[10:start]) if first[:8] == b"\x93NUMPY\x01\x00" else None
    if match is None:
        raise ArtifactError("Its bytes are not a plain .npy array: the header is of another form.")
    shape = tuple(map(int, re.findall(rb"\d+", match[3])))
    try:
        dtype = np.dtype(match[1].decode())
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"Its bytes are not a plain .npy array: {error}") from error
    if math.prod(shape) * dtype.itemsize != size_bytes - start:
        raise ArtifactError("Its bytes are not a plain .npy array: the header does not fit the length.")
    if dtype.itemsize == 0 and math.prod(shape) > MOST_EMPTY_TEXTS:
        raise ArtifactError("Its bytes are not a plain .npy array: so many empty texts cannot have been stored.")
    return Header(dtype, shape, match[2] == b"True", start)


def _is_plain(array: Any) -> bool:
    dtype = array.dtype
    few = array.nbytes < 2**62 if dtype.itemsize else array.size <= MOST_EMPTY_TEXTS
    plain = dtype.kind in "biufcSUmM" and dtype.metadata is None and dtype.fields is None and few
    return plain and _has_valid_items(array)


def _has_valid_items(array: Any) -> bool:
    """Return whether booleans are 0 or 1, and characters Unicode's: NumPy does not look, and fails on them later."""
    import numpy as np

    if array.dtype.kind == "b":
        return bool(array.view(np.uint8).max(initial=0) <= 1)
    if array.dtype.kind == "U" and array.nbytes:
        characters = np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)
        return bool(array.reshape(-1).view(characters).max(initial=0) <= sys.maxunicode)
    return True
