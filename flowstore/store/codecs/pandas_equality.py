"""Whether two pandas objects are the same in all that a user can see: values, dtypes, labels, their types and zones.

pandas' own `equals` and `==` of dtypes are more lenient: names of categories, the kind of a zone, the type of a label
do not count there.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pandas as pd

_CELLS = frozenset({str, bytes, bool, int, type(None), dt.date, dt.time, Decimal})  # of columns of objects
_DTYPES = frozenset(
    {"BooleanDtype", "StringDtype", "Float32Dtype", "Float64Dtype", "PeriodDtype", "ArrowDtype", "CategoricalDtype"}
    | {"DatetimeTZDtype", *(f"{sign}Int{bits}Dtype" for sign in ("", "U") for bits in (8, 16, 32, 64))}
)


def same_index(one: Any, two: Any) -> bool:
    """Return whether two indexes are the same: their kind, names, values, dtypes, levels and distance."""
    if type(one) is not type(two) or list(one.names) != list(two.names) or len(one) != len(two):
        return False
    if isinstance(two, pd.MultiIndex):
        return all(map(same_index, one.levels, two.levels)) and all(
            (a == b).all() for a, b in zip(one.codes, two.codes, strict=True)
        )
    if isinstance(two, pd.RangeIndex):
        return (one.start, one.stop, one.step) == (two.start, two.stop, two.step)
    freq = getattr(one, "freq", None)
    return (
        type(freq) is type(getattr(two, "freq", None)) and freq == getattr(two, "freq", None) and _same_values(one, two)
    )


def same_columns(one: Any, two: Any) -> bool:
    """Return whether the columns of two frames are the same, by their places; their indexes are not looked at."""
    if one.shape != two.shape or list(one.columns) != list(two.columns):
        return False
    return all(_same_values(one.iloc[:, n], two.iloc[:, n]) for n in range(two.shape[1]))


def _same_values(one: Any, two: Any) -> bool:
    """Return whether two columns or indexes hold the same values of the same dtype."""
    if not _same_dtype(one.dtype, two.dtype):
        return False
    if two.dtype == object:
        return all(map(_same_cell, one, two))
    if isinstance(two.dtype, pd.ArrowDtype):
        return bool(one.array.equals(two.array)) and _same_missing(one.array, two.array)
    return bool(one.array.equals(two.array))


def _same_missing(one: Any, two: Any) -> bool:
    """Return whether NaN and missing values are in the same places: pandas takes them for equal in Arrow's arrays."""
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = [
        pa.chunked_array(pa.array(side)) if not isinstance(side, pa.ChunkedArray) else side for side in (one, two)
    ]
    return bool(pc.is_null(arrays[0]).equals(pc.is_null(arrays[1])))


def _same_cell(one: Any, two: Any) -> bool:
    kind = type(two)
    return type(one) is kind and kind in _CELLS and one == two and (kind is not Decimal or str(one) == str(two))


def _same_dtype(one: Any, two: Any) -> bool:
    """Return whether two dtypes are the same, and NumPy's or pandas' own: others are not known everywhere."""
    if type(one) is not type(two) or one != two:
        return False
    if not hasattr(two, "na_value"):  # one of NumPy's
        return two.metadata is None
    if type(two).__name__ not in _DTYPES or getattr(pd, type(two).__name__, None) is not type(two):
        return False
    if isinstance(two, pd.CategoricalDtype):
        return one.ordered == two.ordered and same_index(one.categories, two.categories)
    if isinstance(two, pd.DatetimeTZDtype):
        return same_zone(one.tz, two.tz)
    if isinstance(two, pd.ArrowDtype):
        return bool(one.pyarrow_dtype.equals(two.pyarrow_dtype, check_metadata=True))
    return repr(one) == repr(two)


def same_zone(one: Any, two: Any) -> bool:
    """Return whether two zones are of one library and one name."""
    return type(one) is type(two) and repr(one) == repr(two)
