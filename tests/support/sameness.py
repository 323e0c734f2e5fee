"""Whether two values are the same."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flowstore.store import codecs


def same_details(one, two):
    """Zones, categories, levels and attributes, which pandas compares leniently."""
    for a, b in [(one[name].dtype, two[name].dtype) for name in two] + [(one.index.dtype, two.index.dtype)]:
        assert type(a) is type(b)
        assert repr(a) == repr(b)
        if isinstance(b, pd.CategoricalDtype):
            assert a.categories.tolist() == b.categories.tolist()
            assert (a.categories.name, a.categories.dtype) == (b.categories.name, b.categories.dtype)
        if isinstance(b, pd.DatetimeTZDtype):
            assert (type(a.tz), repr(a.tz)) == (type(b.tz), repr(b.tz))
    for a, b in zip(getattr(one.index, "levels", []), getattr(two.index, "levels", []), strict=True):
        assert (a.dtype, a.tolist()) == (b.dtype, b.tolist())
    assert repr(one.attrs) == repr(two.attrs)
    assert list(map(type, one.attrs.values())) == list(map(type, two.attrs.values()))


def decoded(encoded):
    """The value of what `encode` gave."""
    return codecs.decode(encoded.codec, iter([encoded.content]), encoded.size_bytes)


def same(one, two):
    """Equal and of the same types all the way down, where NaN is NaN and -0.0 is not 0.0."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return repr(one) == repr(two)
    if isinstance(one, complex):
        return same(one.real, two.real) and same(one.imag, two.imag)
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, (set, frozenset)):
        return sorted(map(repr, one)) == sorted(map(repr, two))
    if one is pd.NaT:
        return two is pd.NaT
    if isinstance(one, np.ndarray):
        alike = one.dtype == two.dtype and one.shape == two.shape
        return alike and (same(one.tolist(), two.tolist()) if one.dtype.hasobject else one.tobytes() == two.tobytes())
    return one == two


def equal(one, two):
    return one.equals(two) if isinstance(one, pd.DataFrame) else same(one, two)


def assert_same_frame(back, value):
    """Equal in values, dtypes, labels, their types and freq, attrs and flags; objects one by one."""
    assert type(back) is type(value)
    pd.testing.assert_frame_equal(back, value, check_exact=True, check_freq=True, check_flags=True)
    for one, two in ((back.index, value.index), (back.columns, value.columns)):
        assert type(one) is type(two)
        assert list(one.names) == list(two.names)
        assert same(one.tolist(), two.tolist())
    assert getattr(back.index, "freq", None) == getattr(value.index, "freq", None)
    assert same(back.attrs, value.attrs)
    for at in range(value.shape[1]):
        one, two = back.iloc[:, at], value.iloc[:, at]
        assert one.dtype == two.dtype
        if isinstance(one.dtype, np.dtype):
            assert same(one.tolist(), two.tolist())
