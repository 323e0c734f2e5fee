"""The looks of an artifact's value, for pages: a part of it at a time, read from its bytes, and never from a pickle.

| codec, value               | looks like                                                                   |
| -------------------------- | ---------------------------------------------------------------------------- |
| json, typed-json           | a `Tree`; a text is a `Text`                                                 |
| bytes                      | a `Text` of hexadecimal numbers                                              |
| npy, parquet               | a `Table`                                                                    |
| all others                 | their plain JSON as a `Tree`, where it was kept; else type and preview alone |

Figures and images have a picture beside that. A large value is shown in pages: a page of a table takes the bytes of its
own rows and columns from the store, and no more memory for 1 GiB than for 1 MiB. Whatever is wrong with the bytes is
one sentence, `Value.problem`.

To show another codec, add a module with a function that returns one of these looks, and a line to `LOOKS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import attrs

from flowstore.client.artifact import DataArtifact
from flowstore.errors import FlowstoreError
from flowstore.store import codecs, plain
from flowstore.store.blob_parts import Part
from flowstore.store.pictures import find_picture

MAX_JSON_BYTES = 4 << 20  # of a tree; more is shown as text


@attrs.frozen
class Window:
    """The part of a value that is looked at.

    Attributes:
        page: of rows, items or text, from 1; one that is too large stands for the last.
        columns: the page of a table's columns, from 1.
        index: the position in each dimension of an array but the last two.
        at: the way to a part of a tree: the position in each level.
    """

    page: int = 1
    columns: int = 1
    index: tuple[int, ...] = ()
    at: tuple[int, ...] = ()


@attrs.frozen
class Pages:
    """One page of many items.

    Attributes:
        page: its number, from 1.
        pages: how many there are.
        first: the number of its first item, from 0.
        size: how many items each page has, but for the last.
        total: how many items there are in all.
    """

    page: int
    pages: int
    first: int
    size: int
    total: int

    @classmethod
    def of(cls, page: int, total: int, size: int) -> Pages:
        """Return the page of a number, or the nearest that there is, where each has so many items.

        >>> Pages.of(9, total=250, size=100)
        Pages(page=3, pages=3, first=200, size=100, total=250)
        """
        pages = max(1, -(-total // size))
        page = min(max(1, page), pages)
        return cls(page, pages, (page - 1) * size, size, total)


@attrs.frozen
class Node:
    """A part of a tree.

    Attributes:
        key: its name or position in what contains it; `None` for the root.
        at: the way to it from the root.
        kind: 'object', 'list', 'text', 'number', 'boolean' or 'null', or a Python type such as 'tuple' or 'date'.
        text: the value of a leaf as JSON, shortened; of other parts, the beginning of what is in it.
        is_cut: whether there is more of a leaf's text than that.
        count: how many parts it has; `None` for a leaf.
        children: the first of its parts; none where they are left to a page of their own.
    """

    key: str | None
    at: tuple[int, ...]
    kind: str
    text: str
    is_cut: bool = False
    count: int | None = None
    children: tuple[Node, ...] = ()


@attrs.frozen
class Tree:
    """A value of builtins.

    Attributes:
        root: the part that is looked at; its children are those of the page.
        above: the parts that contain it, from the whole value down.
        pages: which of its children these are.
    """

    root: Node
    above: tuple[Node, ...]
    pages: Pages


@attrs.frozen
class Text:
    """A text, or bytes as hexadecimal numbers.

    Attributes:
        text: of this page, with signs in place of invisible characters.
        kind: 'text'; 'JSON', of a value that is too large for a tree; or 'bytes'.
        pages: which part it is; its items are bytes as they are stored.
    """

    text: str
    kind: str
    pages: Pages
    above: tuple[Node, ...] = ()


@attrs.frozen
class Column:
    """A column of a table.

    Attributes:
        name: its name, or its number in an array.
        type: of its values; empty where all columns share it.
        is_number: whether its values line up to the right.
        is_index: whether it labels the rows.
    """

    name: str
    type: str = ""
    is_number: bool = False
    is_index: bool = False


@attrs.frozen
class Table:
    """A frame, or an array.

    Attributes:
        type: 'array'; else the type of the frame.
        dtype: of an array; empty for a frame.
        shape: its length in each dimension.
        index: the position in each dimension but the last two, of an array of more.
        columns: those of this page.
        rows: their values as text; `None` for a missing one.
        row_pages, column_pages: which rows and columns these are.
    """

    type: str
    dtype: str
    shape: tuple[int, ...]
    index: tuple[int, ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[str | None, ...], ...]
    row_pages: Pages
    column_pages: Pages


Look = Tree | Text | Table

# The function that shows what a codec wrote; each takes the bytes and the part to look at.
LOOKS = {
    "json": "flowstore.client.values.trees:of_json",
    "typed-json": "flowstore.client.values.trees:of_typed_json",
    "bytes": "flowstore.client.values.texts:of_bytes",
    "npy": "flowstore.client.values.arrays:look",
    "parquet": "flowstore.client.values.frames:look",
}


@attrs.frozen
class Value:
    """A part of an artifact, as a page shows it beside the description.

    Attributes:
        look: a part of the value; `None` where there is only the preview.
        problem: why it can't be shown, as one sentence; empty where it is, or where its type never is.
        has_picture: whether a picture of it was kept.
        is_compared: whether the bytes are known to be as they were written; of a large value only a part is read.
    """

    look: Look | None
    problem: str
    has_picture: bool
    is_compared: bool = True


def look_at(artifact: DataArtifact, window: Window) -> Value:
    """Return a part of an artifact's value as it is shown, without loading a pickle.

    Raises:
        NotFound: the artifact was deleted.
    """
    blob = artifact._blob()
    has_picture = find_picture(artifact._store, blob.id) is not None
    try:
        if blob.codec in LOOKS:
            part = Part(artifact._store, blob, artifact.pathspec)
            return Value(_function(LOOKS[blob.codec])(part, window), "", has_picture, part.is_compared)
        text = plain.find_kept(artifact._store, blob.id)
        look = None if text is None else _function("flowstore.client.values.trees:of_text")(text, window)
        return Value(look, "", has_picture)
    except FlowstoreError as error:
        return Value(None, " ".join(str(error).split("\n")), has_picture)
    except ImportError as error:
        install = codecs.entry_of(blob.codec).install
        return Value(None, f"Showing it needs {error.name}: pip install {install}", has_picture)
    except Exception as error:  # damaged bytes trip libraries in many ways
        return Value(None, _sentence(blob.codec, error), has_picture)


def _function(path: str) -> Callable[..., Look]:
    module, _, name = path.partition(":")
    function: Callable[..., Look] = getattr(importlib.import_module(module), name)
    return function


def _sentence(codec: str, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "It cannot be shown: it is nested too deeply."
    if isinstance(error, MemoryError):
        return "It cannot be shown: it would take too much memory."
    why = str(error).strip().partition("\n")[0][:200].removesuffix(".")
    return f"Its bytes cannot be shown as {codec}: {why or type(error).__name__}."


def plain_value(artifact: DataArtifact) -> Any:
    """Return a value as plain JSON has it, without loading a pickle; `None` where there is none, or it is large."""
    blob = artifact._blob()
    if blob.codec == "json":
        return artifact.data if blob.size_bytes <= MAX_JSON_BYTES else None
    return plain.kept_value(artifact._store, blob.id)
