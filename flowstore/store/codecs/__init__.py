"""Values <-> bytes. The safest codec that is faithful wins: a value comes back equal and of the same type.

| codec      | for                                                            | loading runs code |
| ---------- | -------------------------------------------------------------- | ----------------- |
| json       | None, bool, int of 64 bits, finite float, text, lists and      | no                |
|            | dicts of them with text keys, without shared parts             |                   |
| bytes      | bytes                                                          | no                |
| typed-json | these mixed with tuples, sets, other keys and numbers, bytes,  | no                |
|            | dates, paths and NumPy scalars (see `typed_json`)              |                   |
| npy        | plain numpy.ndarray (NumPy's .npy format, without pickles)     | no                |
| parquet    | data frames of pandas and polars, and pyarrow's tables, that   | no                |
|            | come back identical                                            |                   |
| xarray     | xarray.Dataset and DataArray whose values are in memory        | no                |
| html       | the HTML of cards (`hypertext.Html`)                           | no                |
| pickle     | everything else (cloudpickle)                                  | yes               |

The contract of a codec is `contract.Codec`. `REGISTRY` lists them in the order of preference and is the only list:
whatever depends on a codec asks its entry. A codec is imported when it is first needed, and never to encode a value
if the libraries that it is for are not imported. Nothing falls back to pickle when it is read.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

from flowstore import later
from flowstore.errors import ArtifactError, FlowstoreError
from flowstore.store.codecs.contract import Codec, Encoded, Piece, Pieces
from flowstore.store.description import Description
from flowstore.store.plain import NOTHING, Plain
from flowstore.store.preview import preview as preview_by
from flowstore.store.preview import type_name

__all__ = [
    "INDEXABLE", "NOTATIONS", "REGISTRY", "SLOW", "WITH_JSON_BESIDE", "Codec", "Encoded", "Entry", "Piece", "Pieces",
    "decode", "describe", "encode", "entry_of", "import_common", "import_slow", "is_safe", "likely_slow", "plain_of",
    "preview",
]  # fmt: skip


@later.frozen(kw_only=True)
class Entry:
    """A codec's line in the registry: what can be said of it without importing it.

    Attributes:
        name: stands in the store with each blob.
        path: the module and the class, as `module:Class`.
        libraries: modules without which there is no value of its types, the most common one first; empty for those that
            are always asked.
        needs: the module that encoding and decoding import, if any.
        install: what pip installs where that is missing.
        slow: the module whose import takes time: a task server imports it once a task has needed it.
        runs_code: whether decoding executes code that the bytes choose.
        has_json: whether its values may have plain JSON.
        is_json: whether its bytes are that JSON.
        is_notation: whether its values are small structures of builtins, which are shown as JSON.
        suffix: of the files that hold these bytes as they are.
        indexable: names of the types whose items can be taken by index, the same from what comes back.
    """

    name: str
    path: str
    libraries: tuple[str, ...] = ()
    needs: str = ""
    install: str = '"flowstore[data]"'
    slow: str = ""
    runs_code: bool = False
    has_json: bool = True
    is_json: bool = False
    is_notation: bool = False
    suffix: str = ""
    indexable: tuple[str, ...] = ()

    @property
    def codec(self) -> Codec:
        """The codec, imported at the first use."""
        codec = _codecs.get(self.name)
        if codec is None:
            module, _, name = self.path.partition(":")
            codec = _codecs[self.name] = getattr(importlib.import_module(module), name)()
        return codec

    @property
    def is_possible(self) -> bool:
        """Whether there can be values of its types in this process."""
        return not self.libraries or not sys.modules.keys().isdisjoint(self.libraries)


_codecs: dict[str, Codec] = {}

REGISTRY = (
    Entry(
        name="json",
        path="flowstore.store.codecs.plain_json:PlainJson",
        is_json=True,
        is_notation=True,
        suffix=".json",
        indexable=("list",),
    ),
    Entry(name="bytes", path="flowstore.store.codecs.raw_bytes:RawBytes", has_json=False),
    Entry(
        name="typed-json",
        path="flowstore.store.codecs.typed_json:TypedJson",
        slow="flowstore.store.codecs.typed_json",
        is_notation=True,
        indexable=("tuple",),
    ),
    Entry(
        name="npy",
        path="flowstore.store.codecs.arrays:Npy",
        slow="flowstore.store.codecs.arrays",
        libraries=("numpy",),
        needs="numpy",
        suffix=".npy",
        indexable=("numpy.ndarray",),
    ),
    Entry(
        name="parquet",
        path="flowstore.store.codecs.tables:Tables",
        libraries=("pandas", "polars", "pyarrow"),
        needs="pyarrow",
        slow="flowstore.store.codecs.frames",
        has_json=False,
        suffix=".parquet",
    ),
    Entry(
        name="xarray",
        path="flowstore.store.codecs.datasets:Datasets",
        libraries=("xarray",),
        needs="xarray",
        install="xarray",
        slow="flowstore.store.codecs.datasets",
        has_json=False,
    ),
    Entry(
        name="html",
        path="flowstore.store.codecs.hypertext:Hypertext",
        libraries=("flowstore.store.codecs.hypertext",),
        slow="flowstore.cards.markdown",  # which the cards that it is for often need
        has_json=False,
        suffix=".html",
    ),
    Entry(
        name="pickle",
        path="flowstore.store.codecs.pickled:Pickled",
        slow="flowstore.store.pickling",
        runs_code=True,
        suffix=".pkl",
        indexable=("range",),
    ),
)
_BY_NAME = {entry.name: entry for entry in REGISTRY}
INDEXABLE = frozenset(name for entry in REGISTRY for name in entry.indexable)
NOTATIONS = frozenset(entry.name for entry in REGISTRY if entry.is_notation)
WITH_JSON_BESIDE = tuple(  # safe codecs whose values have their JSON in `blob_values`, not in their bytes
    entry.name for entry in REGISTRY if entry.has_json and not entry.is_json and not entry.runs_code
)
SLOW = tuple(entry.slow for entry in REGISTRY if entry.slow)  # modules whose import takes time


def entry_of(name: str) -> Entry:
    """Return the entry of a codec.

    Raises:
        ArtifactError: this flowstore has no codec of that name.
    """
    entry = _BY_NAME.get(name)
    if entry is None:
        raise ArtifactError(
            f"It was stored with the codec {name!r}, which is unknown to this flowstore. A newer version may know it: "
            "pip install --upgrade flowstore"
        )
    return entry


def is_safe(name: str) -> bool:
    """Return whether decoding what a codec wrote never executes code; False for one that is unknown."""
    entry = _BY_NAME.get(name)
    return entry is not None and not entry.runs_code


def likely_slow() -> list[str]:
    """Return those of `SLOW` that are likely to be needed: what they import was imported by this process."""
    imported = sys.modules.keys()
    return [entry.slow for entry in REGISTRY if entry.slow and {entry.needs, *entry.libraries[:1]} <= imported]


def import_slow(module: str) -> None:
    """Import one of `SLOW`, with the codec that needs it."""
    importlib.import_module(module)
    for entry in REGISTRY:
        if entry.slow == module:
            _ = entry.codec


def import_common() -> None:
    """Import the codecs that are asked about every value and are quick to import, so that no forked task has to."""
    for entry in REGISTRY:
        if not entry.libraries and not entry.slow:
            _ = entry.codec


def encode(value: Any, *, described: bool = True) -> Encoded:
    """Encode a value with the safest codec that is faithful.

    Args:
        value: anything that can be pickled.
        described: whether to describe it for people and SQL; not needed where only the hash is compared.

    Raises:
        ArtifactError: it can't be pickled.
    """
    entry, pieces = _first_that_can(value)
    encoded = Encoded(Description(entry.name, pieces.size_bytes, type_name(value), ""), pieces.pieces, pieces.keep)
    return describe(encoded, value) if described else encoded


def describe(encoded: Encoded, value: Any) -> Encoded:
    """Return an encoded value with what people and SQL are shown of it."""
    known = encoded.description
    plain = _codecs[known.codec].plain(value)
    description = Description(known.codec, known.size_bytes, known.type, preview(value), plain)
    described = Encoded(description, encoded.pieces, encoded.keep)
    if "sha" in vars(encoded):  # computed already
        vars(described)["sha"] = encoded.sha
    return described


def _first_that_can(value: Any) -> tuple[Entry, Pieces]:
    """Return the first codec that can encode a value, and the value's bytes."""
    for entry in REGISTRY:
        if entry.libraries and not entry.is_possible:
            continue
        pieces = None
        try:
            pieces = (_codecs.get(entry.name) or entry.codec).encode(value)  # the property takes longer
        except ArtifactError:
            raise
        except Exception:  # noqa: S110  # libraries raise their own kinds for what they can't hold: ask the next one
            pass
        if pieces is not None:
            return entry, pieces
    raise ArtifactError("it cannot be pickled")  # never: the last one takes everything, or says why not


def decode(name: str, pieces: Iterator[bytes], size_bytes: int) -> Any:
    """Return the value of these bytes.

    Args:
        name: the codec that wrote them. For one that runs code, the caller has made sure that they are trusted.
        pieces: the bytes, in order.
        size_bytes: their length.

    Raises:
        ArtifactError: the codec is unknown, needs a package that is not there, or can't have written these bytes.
    """
    try:
        codec = _codecs.get(name) or entry_of(name).codec
        return codec.decode(pieces, size_bytes)
    except FlowstoreError:
        raise
    except ImportError as error:
        entry = entry_of(name)
        if entry.runs_code:
            raise ArtifactError(f"Loading it needs the module {error.name!r}, which is not installed here.") from error
        raise ArtifactError(f"Loading it needs {error.name}: pip install {entry.install}") from error
    except Exception as error:  # damaged bytes trip a codec's library in many ways
        raise ArtifactError(f"Its bytes are not {name}: {type(error).__name__}: {error}") from error


def plain_of(name: str, value: Any) -> Plain:
    """Return a value that a codec has decoded as plain JSON, with its metrics; nothing where there is none."""
    entry = entry_of(name)
    return entry.codec.plain(value) if entry.has_json else NOTHING


def preview(value: Any) -> str:
    """Return a short text that shows a value, as the codecs show the types of their libraries.

    >>> preview({"accuracy": 0.5})
    "{'accuracy': 0.5}"
    """
    if type(value) is float or (type(value) is int and -(2**63) <= value < 2**63):  # what tasks set most often
        return repr(value)
    return preview_by(value, _shown_by_codecs)


def _shown_by_codecs(value: Any) -> str | None:
    for entry in REGISTRY:
        if entry.libraries and entry.is_possible and (text := entry.codec.preview(value)) is not None:
            return text
    return None
