"""The codec `xarray`: datasets and data arrays of xarray whose values are in memory.

The bytes are the length of a header in 8 bytes, the header in the notation of `typed_json`, and one array in NumPy's
format after the other. NetCDF and Zarr would do as well, but their readers are C libraries and packages with plugins,
which a stranger's file is not to reach, and both change dtypes and attributes on the way.

Whether a dataset comes back as it is is tried: it is built again from its header and its own arrays, and compared.
Values that are loaded lazily or in other arrays than NumPy's, arrays of objects, and other indexes than those that
xarray makes of a coordinate by itself are pickled.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from flowstore.errors import ArtifactError
from flowstore.store.codecs.arrays import Npy
from flowstore.store.codecs.contract import Codec, File, Piece, Pieces
from flowstore.store.plain import NOTHING, Plain
from flowstore.store.preview import ITEMS

_LENGTH = struct.Struct("!Q")
_MAX_HEADER = 16 << 20
_MAX_VARIABLES = 100_000
_VALUES = "_flowstore_values"  # the name of the values of a data array in the dataset that stands for it
_KEYS = {"type", "name", "attrs", "encoding", "variables"}
_VARIABLE_KEYS = {"name", "dims", "attrs", "encoding", "is_coordinate", "index", "size_bytes"}
_arrays = Npy()


class Datasets(Codec):
    """`xarray.Dataset` and `xarray.DataArray`, with their coordinates, attributes, names and order."""

    def encode(self, value: Any) -> Pieces | None:
        """Return the header and views of the arrays' memory."""
        if type(value) not in {sys.modules["xarray"].Dataset, sys.modules["xarray"].DataArray}:
            return None
        arrays: list[Any] = []
        header = _header(value, arrays)
        pieces: list[Piece] = []
        for variable, array in zip(header["variables"], arrays, strict=True):
            encoded = _arrays.encode(array)
            if encoded is None:
                return None
            variable["size_bytes"] = sum(memoryview(piece).nbytes for piece in encoded.pieces)
            pieces += encoded.pieces
        from flowstore.store.codecs import typed_json

        text = typed_json.dump(header)
        if text is None or len(text) > _MAX_HEADER or len(arrays) > _MAX_VARIABLES:
            return None
        if not _is_same(_built(typed_json.load(text), arrays), value):
            return None
        return Pieces([_LENGTH.pack(len(text)) + text, *pieces], keep=arrays)

    def decode(self, pieces: Iterator[bytes], size_bytes: int) -> Any:
        """Return the dataset or data array, built from what the header says and its arrays hold."""
        import xarray  # noqa: F401  # so that a missing library is named before anything is read

        from flowstore.store.codecs import typed_json

        file = File(pieces)
        length = _LENGTH.unpack(_taken(file, _LENGTH.size))[0]
        if length > min(_MAX_HEADER, size_bytes):
            raise ArtifactError("Its bytes are not a dataset: the header is too long.")
        try:
            header = typed_json.load(_taken(file, length))
            sizes = _checked(header)
            if _LENGTH.size + length + sum(sizes) != size_bytes:
                raise ValueError("the arrays do not fit the length")
            arrays = [_arrays.decode(_part(file, size), size) for size in sizes]
            return _built(header, arrays)
        except ArtifactError:
            raise
        except Exception as error:  # a header that `encode` can't have written trips xarray in many ways
            raise ArtifactError(f"Its bytes are not a dataset: {type(error).__name__}: {error}") from error

    def preview(self, value: Any) -> str | None:
        """Return the sizes of the dimensions, and the first variables with their dimensions and dtypes."""
        xarray: Any = sys.modules["xarray"]
        if hasattr(xarray, "Dataset") and isinstance(value, xarray.Dataset):
            lines = [f"{name} ({', '.join(map(str, v.dims))}) {v.dtype}" for name, v in value.variables.items()]
            more = ["…"] if len(lines) > ITEMS else []
            return "\n".join([_sizes(value), *lines[:ITEMS], *more])
        if hasattr(xarray, "DataArray") and isinstance(value, xarray.DataArray):
            return f"{'' if value.name is None else f'{value.name}, '}{_sizes(value)}, {value.dtype}"
        return None

    def plain(self, value: Any) -> Plain:  # noqa: ARG002
        """Return nothing: a dataset has no obvious JSON."""
        return NOTHING


# --- writing


def _header(value: Any, arrays: list[Any]) -> dict[str, Any]:
    """Return what describes a dataset or data array, and add its arrays to the list.

    Raises:
        TypeError: it holds what this codec does not write.
    """
    kind = type(value).__name__
    dataset = value if kind == "Dataset" else value.to_dataset(name=_VALUES)
    variables = []
    for name, variable in dataset.variables.items():
        in_memory = type(variable._data).__name__ in {"ndarray", "PandasIndexingAdapter"}
        if type(name) is not str or not in_memory or variable.dtype.hasobject:
            raise TypeError(f"{name!r} is not an array in memory, or has no text for a name")
        arrays.append(variable.values)
        variables.append(
            {
                "name": name,
                "dims": list(variable.dims),
                "attrs": dict(variable.attrs),
                "encoding": dict(variable.encoding),
                "is_coordinate": name in dataset.coords,
                "index": _index_of(dataset, name),
            }
        )
    own = {"attrs": dict(dataset.attrs), "encoding": dict(dataset.encoding)}
    return {"type": kind, "name": None if kind == "Dataset" else value.name, **own, "variables": variables}


def _index_of(dataset: Any, name: str) -> Any:
    """Return how a coordinate is indexed: not (None), by its values, by a range, or by times at a distance."""
    import pandas as pd

    if name not in dataset.xindexes:
        return None
    index = dataset.indexes[name]
    if type(index) is pd.RangeIndex:
        return [index.start, index.stop, index.step]
    return getattr(index, "freqstr", None) or "values"


def _is_same(one: Any, two: Any) -> bool:
    """Return whether two objects are the same in what a user can see: `identical` leaves out order and indexes."""
    if not one.identical(two) or list(one.coords) != list(two.coords) or one.sizes != two.sizes:
        return False
    if list(one.sizes) != list(two.sizes) or dict(one.encoding) != dict(two.encoding):
        return False
    if hasattr(two, "variables"):
        pairs = [(one.variables[name], two.variables[name]) for name in two.variables]
        if list(one.variables) != list(two.variables):
            return False
    else:
        pairs = [(one.variable, two.variable), *((one[name].variable, two[name].variable) for name in two.coords)]
    return all(map(_same_variables, *zip(*pairs, strict=True))) and _same_indexes(one, two) if pairs else True


def _same_variables(one: Any, two: Any) -> bool:
    from flowstore.store.sameness import is_unchanged

    alike = type(one) is type(two) and one.dtype == two.dtype and one.dims == two.dims
    return alike and is_unchanged([dict(one.attrs), dict(one.encoding)], [dict(two.attrs), dict(two.encoding)])


def _same_indexes(one: Any, two: Any) -> bool:
    if list(one.xindexes) != list(two.xindexes):
        return False
    for name in two.xindexes:
        if type(one.xindexes[name]) is not type(two.xindexes[name]):
            return False
        mine, its = one.indexes[name], two.indexes[name]
        same_freq = getattr(mine, "freq", None) == getattr(its, "freq", None)
        if not (type(mine) is type(its) and mine.dtype == its.dtype and mine.name == its.name and same_freq):
            return False
        if not mine.equals(its):
            return False
    return True


# --- reading


def _taken(file: File, count: int) -> bytes:
    """Return the next bytes, exactly so many."""
    data = bytearray()
    while len(data) < count:
        piece = file.read_piece(count - len(data))
        if not piece:
            raise ArtifactError("Its bytes are not a dataset: they end too early.")
        data += piece
    return bytes(data)


def _part(file: File, count: int) -> Iterator[bytes]:
    """Yield the next bytes, exactly so many, as they come."""
    while count:
        piece = file.read_piece(count)
        if not piece:
            raise ArtifactError("Its bytes are not a dataset: they end too early.")
        count -= len(piece)
        yield bytes(piece) if len(piece) < 256 else piece  # type: ignore[misc]  # the header is looked into


def _checked(header: Any) -> list[int]:
    """Return the sizes of the arrays.

    Raises:
        ValueError: the header is not of our form.
    """
    if type(header) is not dict or header.keys() != _KEYS or header["type"] not in {"Dataset", "DataArray"}:
        raise ValueError("the header is of another form")
    variables = header["variables"]
    if type(variables) is not list or len(variables) > _MAX_VARIABLES:
        raise ValueError("the header is of another form")
    for variable in variables:
        if type(variable) is not dict or variable.keys() != _VARIABLE_KEYS or type(variable["name"]) is not str:
            raise ValueError("the header is of another form")
        if type(variable["size_bytes"]) is not int or variable["size_bytes"] < 0:
            raise ValueError("the size of an array is not a size")
        if type(variable["is_coordinate"]) is not bool:
            raise ValueError("a variable is neither a coordinate nor data")
        if type(variable["dims"]) is not list or not all(type(name) is str for name in variable["dims"]):
            raise ValueError("the name of a dimension is no text")
    if len({variable["name"] for variable in variables}) < len(variables):
        raise ValueError("the name of a variable occurs twice")
    return [variable["size_bytes"] for variable in variables]


def _built(header: Mapping[str, Any], arrays: list[Any]) -> Any:
    """Return the object that a header describes, with these arrays."""
    import xarray as xr

    variables = {}
    for described, array in zip(header["variables"], arrays, strict=True):
        data = _indexed(described, array)
        variable = xr.Variable(described["dims"], data, described["attrs"], described["encoding"])
        variables[described["name"]] = variable
    dataset = xr.Dataset(variables, attrs=header["attrs"])
    dataset = dataset.set_coords([one["name"] for one in header["variables"] if one["is_coordinate"]])
    plain = [one["name"] for one in header["variables"] if one["index"] is None]
    dataset = dataset.drop_indexes([name for name in plain if name in dataset.xindexes])
    dataset.encoding = header["encoding"]
    if header["type"] == "Dataset":
        return dataset
    array = dataset[_VALUES].rename(header["name"])
    array.attrs, array.encoding = dataset[_VALUES].attrs, dataset[_VALUES].encoding
    return array


def _indexed(described: Mapping[str, Any], array: Any) -> Any:
    """Return the values of a variable: those of a coordinate as the index that they were."""
    import pandas as pd

    index = described["index"]
    if index is None or index == "values":
        return array
    if type(index) is list:
        start, stop, step = index
        if len(range(start, stop, step)) != math.prod(array.shape):
            raise ValueError("a range is not as long as its coordinate")
        labels = pd.RangeIndex(start, stop, step)
    elif type(index) is str and len(index) <= 40 and array.dtype.kind in "mM":
        labels = (pd.DatetimeIndex if array.dtype.kind == "M" else pd.TimedeltaIndex)(array, freq=index)
    else:
        raise ValueError("an index is of an unknown kind")
    if not (labels == array).all():
        raise ValueError("an index is not that of its coordinate")
    return labels


def _sizes(value: Any) -> str:
    return " × ".join(f"{name} {size}" for name, size in value.sizes.items()) or "no dimensions"
