"""Values that people keep, by name: how each is made, and what tells whether another is the same."""

# ruff: noqa: F401  # the sources of the values use them

from __future__ import annotations

import array
import collections
import copy
import datetime as dt
import decimal
import fractions
import functools
import ipaddress
import logging
import math
import operator
import pathlib
import random
import re
import string
import types
import uuid
import zoneinfo

import numpy as np
import pandas as pd
import pyarrow as pa

D = decimal.Decimal
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
UTC = dt.timezone.utc  # noqa: UP017  # as users of 3.11 write it too
DAYS = pd.DatetimeIndex(["2024-01-01", "2024-01-03"])
Point = collections.namedtuple("Point", "x y")  # noqa: PYI024
PNG = b"\x89PNG\r\n\x1a\n"


class _Polars:
    """polars, imported at first use: its threads don't survive a fork."""

    def __getattr__(self, name):
        import polars  # noqa: ICN001

        return getattr(polars, name)


pl = _Polars()


def frame(**columns):
    return pd.DataFrame(columns)


def picture():
    from PIL import Image

    return Image.new("RGB", (4, 3), (255, 0, 0))


def figure():
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    made = Figure(figsize=(2, 1))
    made.subplots().plot([1, 2], [3, 4])
    return made


def fitted(name, module, **options):
    import importlib

    model = getattr(importlib.import_module(f"sklearn.{module}"), name)(**options)
    x = np.arange(20.0).reshape(10, 2)
    return model.fit(x, np.arange(10) % 2)


SOURCES = """
None | True | False | 0 | -1 | 2**62 | 2**63 | -(2**64) | 10**400 | 0.1 | -0.0 | 5e-324 | math.nan | math.inf
-math.inf | 1j | complex(math.nan, -0.0) | '' | 'näive' | 'a\\nb' | '\\x00' | '=1+1' | b'' | b'\\x00\\xff' | PNG
bytearray(b'ab') | ... | NotImplemented | [] | [1, 2] | [1, 2.5, 'x', None] | [[1], [2]] | [math.nan] | [b'x'] | ()
(1,) | (1, (2, [3])) | set() | {1, 2} | {(1, 2), (3,)} | {None, 'a', 2.5} | frozenset({'a'}) | {} | {'a': 1}
{'a': {'b': [1, None]}} | {1: 'x'} | {(1, 2): 3} | {None: 0} | {True: 1} | {'$tuple': [1]} | {'a': (1, 2)}
{'b': 1, 'a': 2} | {2.5: {1, 2}} | range(5) | range(0, -10, -3) | slice(1, None, 2)
collections.OrderedDict(b=1, a=2) | collections.Counter('aab') | collections.deque([1, 2], maxlen=3)
collections.defaultdict(list, a=[1]) | collections.ChainMap({'a': 1}, {'b': 2}) | Point(1, 2) | [Point(1, 2)]
types.SimpleNamespace(a=1) | array.array('d', [1.0, 2.0]) | dt.date(2024, 2, 29) | dt.date.min | dt.time(1, 2, 3)
dt.time(1, tzinfo=BERLIN) | dt.datetime(2024, 1, 1) | dt.datetime.max | dt.datetime(2024, 1, 1, tzinfo=UTC)
dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN)
dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-5), 'EST')) | dt.timedelta(days=-1, microseconds=1)
dt.timedelta.max | UTC | BERLIN | dt.timezone(dt.timedelta(hours=2)) | D('1.10') | D('NaN') | D('-Infinity')
D('1E+100') | fractions.Fraction(1, 3) | uuid.UUID(int=5) | pathlib.PurePosixPath('a/b') | pathlib.Path('x')
pathlib.PureWindowsPath('C:/x') | ipaddress.ip_address('127.0.0.1') | ipaddress.ip_network('10.0.0.0/8')
re.compile('a+', re.I) | re.I | logging.INFO | string.Template('$a') | decimal.Context(prec=5) | ValueError('x')
KeyError('k') | OSError(2, 'gone', 'f') | ExceptionGroup('g', [ValueError('x')]) | int | dict | math.sqrt | len
operator.itemgetter(1) | functools.partial(int, base=2) | math | list[int] | int | None
[dt.date(2024, 1, 1), D('1.5')] | {'day': dt.date(2024, 1, 1), 'n': np.int64(3)} | [1] * 1000 | ['x' * 1000] * 3
list(range(3000)) | {str(n): n for n in range(500)} | {n: n * 0.5 for n in range(500)}
[(n, str(n)) for n in range(500)] | 'x' * 100_000 | bytes(100_000) | np.int8(-5) | np.int16(5) | np.int32(5)
np.int64(2**62) | np.uint8(255) | np.uint16(5) | np.uint32(5) | np.uint64(2**64 - 1) | np.float16(0.5)
np.float32(0.1) | np.float64(0.1) | np.float64('nan') | np.longdouble('0.1') | np.complex64(1j)
np.complex128(1 + 2j) | np.bool_(True) | np.str_('ä') | np.bytes_(b'x') | np.datetime64('2024-02-29')
np.datetime64('2024-01-01T00:00:00.123456789') | np.datetime64('NaT', 's') | np.timedelta64(5, 'D')
np.timedelta64(7, '25ms') | np.void(b'ab') | np.float64 | np.dtype('i4') | np.dtype([('a', 'i4')]) | np.arange(5)
np.arange(6.0).reshape(2, 3) | np.asfortranarray(np.arange(6).reshape(2, 3)) | np.array(5) | np.array([])
np.zeros((0, 3)) | np.array([True, False]) | np.array([1, 2], 'i1') | np.array([1, 2], '>i4')
np.array([1.5], 'f2') | np.array([1], 'g') | np.array([1j]) | np.array(['a', 'bcd']) | np.array([b'a', b'bc'])
np.array(['2024-01-01', 'NaT'], 'M8[D]') | np.array([1, 2], 'm8[s]') | np.array([1, 'x', None], object)
np.array([(1, 2.5)], [('a', 'i4'), ('b', 'f8')]) | np.rec.array([(1, 'x')], names='a,b')
np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]) | np.matrix([[1, 2]]) | np.array(['a', 'bc'], np.dtypes.StringDType())
np.zeros(3, 'V2') | np.arange(100)[::-3] | np.arange(200_000) | np.array([math.nan, -0.0, math.inf])
[np.arange(3), np.arange(2)] | {'a': np.eye(2)} | np.random.default_rng(5) | np.random.RandomState(5)
random.Random(5) | np.poly1d([1, 2]) | np.finfo('f4').eps | np.exp | pd.Timestamp('2024-01-01')
pd.Timestamp('2024-01-01', tz='Europe/Berlin') | pd.Timestamp('2024-01-01 00:00:00.123456789') | pd.Timedelta('1h')
pd.NaT | pd.NA | pd.Period('2024-01', 'M') | pd.Interval(0, 1) | pd.offsets.BDay(2)
pd.Categorical(['x', 'y', 'x']) | pd.array([1, None], 'Int64') | pd.Index([1, 2]) | pd.Index(['x', 'y'], name='k')
pd.RangeIndex(5) | pd.MultiIndex.from_tuples([('x', 1), ('y', 2)]) | pd.date_range('2024', periods=3)
pd.period_range('2024-01', periods=2, freq='M') | pd.interval_range(0, 2) | pd.CategoricalIndex(['x'])
pd.TimedeltaIndex([1, 2]) | pd.Series([1, 2]) | pd.Series(['x', None], name='s') | pd.Series([0.5], index=['a'])
pd.Series([], dtype=float) | pd.Series(DAYS) | pd.Series([1, 'x'], dtype=object) | pd.DataFrame() | frame(a=[1, 2])
frame(a=[0.1, math.nan], b=['x', None]) | frame(a=DAYS) | frame(a=DAYS.tz_localize('Europe/Berlin'))
frame(a=DAYS.tz_localize('UTC')) | frame(a=pd.to_timedelta([1, 2])) | frame(a=pd.array([1, None], 'Int64'))
frame(a=pd.array([True, None], 'boolean')) | frame(a=pd.array([1.5, None], 'Float32'))
frame(a=pd.array(['x', None], 'string')) | frame(a=pd.Categorical(['x', 'y']))
frame(a=pd.Categorical([1, 2], ordered=True)) | frame(a=pd.period_range('2024-01', periods=2, freq='M'))
frame(a=pd.interval_range(0, 2)) | frame(a=pd.arrays.SparseArray([0, 1]))
frame(a=pd.array([1, None], pd.ArrowDtype(pa.int64()))) | frame(a=[[1], [2, 3]]) | frame(a=[{'x': 1}])
frame(a=[dt.date(2024, 1, 1)]) | frame(a=[D('1.10'), D('2.2')]) | frame(a=[1j]) | frame(a=[b'x'])
frame(a=np.array([1], 'i1')) | frame(a=[1, 'x', None]) | pd.DataFrame([[1, 2]])
pd.DataFrame([[1, 2]], columns=['a', 'a']) | pd.DataFrame({'a': [1, 2]}, index=['x', 'y'])
pd.DataFrame({'a': [1, 2]}, index=pd.period_range('2024-01', periods=2, freq='M'))
pd.DataFrame({'a': [1, 2]}, index=DAYS)
pd.DataFrame({'a': [1, 2]}, index=pd.MultiIndex.from_tuples([('x', 1), ('y', 2)], names=['k', 'n']))
frame(a=[1, 2]).set_flags(allows_duplicate_labels=False)
pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([('a', 'b'), ('a', 'c')])) | frame(a=[1, 2])[:0]
frame(a=range(5000), b=['x'] * 5000) | frame(a=DAYS.as_unit('s'))
frame(a=pd.Categorical(['x'], categories=pd.Index(['x', 'y'], name='n'))) | [frame(a=[1])] | {'f': frame(a=[1])}
pl.DataFrame({'a': [1, None], 'b': ['x', 'y']}) | pl.DataFrame({'a': [[1, 2], []]})
pl.DataFrame({'a': [{'x': 1}]}) | pl.DataFrame() | pl.DataFrame({'a': pl.Series(['x', 'y'], dtype=pl.Categorical)})
pl.DataFrame({'a': [dt.datetime(2024, 1, 1)]}) | pl.DataFrame({'a': [1]})[:0] | pl.DataFrame({'a': [D('1.10')]})
pl.Series('s', [1, 2]) | pl.col('a') + 1 | pl.Int64() | pl.DataFrame({'a': [1]}).lazy() | [pl.DataFrame({'a': [1]})]
pa.table({'a': [1, None], 'b': ['x', 'y']}) | pa.table({'a': [[1], [2]]}) | pa.table({'a': [{'x': 1}]})
pa.table({'a': pa.array([], pa.int8())}) | pa.array([1, None]) | pa.array(['x', 'y']).dictionary_encode()
pa.chunked_array([[1], [2]]) | pa.scalar(5) | pa.schema([('a', pa.int64())]) | pa.int64()
pa.record_batch({'a': [1]}) | pa.table({'a': [1]}).replace_schema_metadata({'k': 'v'}) | picture()
[picture(), picture()] | picture().convert('L') | figure() | {'loss': figure()}
fitted('LinearRegression', 'linear_model') | fitted('LogisticRegression', 'linear_model')
fitted('RandomForestClassifier', 'ensemble', n_estimators=2, random_state=1)
fitted('StandardScaler', 'preprocessing') | fitted('KMeans', 'cluster', n_clusters=2, random_state=1, n_init=1)
fitted('PCA', 'decomposition') | fitted('DecisionTreeRegressor', 'tree') | fitted('SVC', 'svm')
fitted('GaussianNB', 'naive_bayes') | fitted('KNeighborsClassifier', 'neighbors')
"""
VALUES = {
    f"v{n:03}": source.strip()
    for n, source in enumerate(part for line in SOURCES.strip().splitlines() for part in line.split(" | "))
}


def make(name):
    """A value, made anew."""
    return eval(VALUES[name])


def same(one, two):
    """Whether two values are equal and of one type, all the way down."""
    if type(one) is not type(two):
        return False
    if type(two).__module__.startswith("polars"):
        return _same_polars(one, two)
    check = _CHECKS.get(type(two).__name__)
    if check is not None:
        return check(one, two)
    if type(two).__module__.startswith(("sklearn", "matplotlib", "numpy.random")) or isinstance(two, random.Random):
        return _same_state(one, two)
    if isinstance(two, np.ndarray):
        return _same_array(one, two)
    if isinstance(two, dict):
        return same(list(one.items()), list(two.items())) if type(two) is not collections.Counter else one == two
    if isinstance(two, (list, tuple, collections.deque)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(two, Exception):
        return repr(one) == repr(two)
    if isinstance(two, (set, frozenset, int, types.SimpleNamespace, array.array, functools.partial)):
        return one == two if not isinstance(two, functools.partial) else repr(one) == repr(two)
    return repr(one) == repr(two) or bool(one == two)


def _same_array(one, two):
    alike = one.dtype == two.dtype and one.shape == two.shape
    if alike and isinstance(two, np.ma.MaskedArray):
        return bool((one.mask == two.mask).all() and (one.data == two.data).all())
    if two.dtype.hasobject or two.dtype.kind in "VT" or two.dtype.char == "g":  # whose items are padded with anything
        return alike and one.tolist() == two.tolist()
    return alike and one.tobytes() == two.tobytes()


def _same_frame(one, two):
    from support.sameness import assert_same_frame, same_details

    assert_same_frame(one, two)
    if two.columns.is_unique and two.columns.nlevels == 1:
        same_details(one, two)
    return True


def _same_series(one, two):
    pd.testing.assert_series_equal(one, two, check_exact=True)
    return True


def _same_labels(one, two):
    pd.testing.assert_index_equal(one, two, exact=True)
    return True


def _same_state(one, two):
    """Models, figures and generators: what they do, or what they pickle to, is the same."""
    if hasattr(two, "predict"):
        return bool((one.predict(np.arange(8.0).reshape(4, 2)) == two.predict(np.arange(8.0).reshape(4, 2))).all())
    if hasattr(two, "transform"):
        return bool((one.transform(np.ones((2, 2))) == two.transform(np.ones((2, 2)))).all())
    if hasattr(two, "savefig"):
        return [line.get_xydata().tolist() for line in one.axes[0].lines] == [[[1, 3], [2, 4]]]
    return one.random() == two.random() if hasattr(two, "random") else bool(one.rand() == two.rand())


def _same_polars(one, two):
    if hasattr(two, "collect"):
        one, two = one.collect(), two.collect()
    if hasattr(two, "equals"):
        return one.equals(two) and getattr(one, "schema", None) == getattr(two, "schema", None)
    return one.meta.eq(two) if hasattr(two, "meta") else one == two


def _same_items(one, two):
    return one.equals(two) if hasattr(one, "equals") else list(one) == list(two)


_CHECKS = {
    "DataFrame": _same_frame, "Series": _same_series,
    "Table": lambda one, two: one.schema.equals(two.schema, check_metadata=True) and one.equals(two),
    "Image": lambda one, two: (one.mode, one.size, one.tobytes()) == (two.mode, two.size, two.tobytes()),
    "ufunc": lambda one, two: one is two, "module": lambda one, two: one is two,
    "Template": lambda one, two: one.template == two.template, "itemgetter": lambda one, two: repr(one) == repr(two),
    "Context": lambda one, two: repr(one) == repr(two), "poly1d": lambda one, two: bool(one == two),
    **dict.fromkeys(("Index", "RangeIndex", "MultiIndex", "DatetimeIndex", "PeriodIndex"), _same_labels),
    **dict.fromkeys(("IntervalIndex", "CategoricalIndex", "TimedeltaIndex"), _same_labels),
    **dict.fromkeys(("Int64Array", "ChunkedArray", "Int64Scalar", "DictionaryArray", "RecordBatch"), _same_items),
    **dict.fromkeys(("IntegerArray", "Categorical"), _same_items),
}  # fmt: skip


def _copied(value):
    """A copy where there can be one: comparing changes generators, figures and caches, and they would be set anew."""
    try:
        return copy.deepcopy(value)
    except Exception:  # a module, a schema
        return value


def wrong(read):
    """Which values are not the same as when they are made anew, with their sources; `read` gives each by its name."""
    found = []
    for name, source in VALUES.items():
        try:
            if not same(_copied(read(name)), make(name)):
                found.append(f"{source}: differs")
        except Exception as error:  # whatever a comparison raises is told with its value
            found.append(f"{source}: {type(error).__name__}: {str(error)[:200]}")
    return found
