"""Values of builtins as trees, from their JSON. Typed JSON is shown by its marks, and is not made into values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from flowstore.client.values import MAX_JSON_BYTES, Node, Pages, Text, Tree, Window, texts
from flowstore.store.blob_parts import Part
from flowstore.text import shorten, visible

MOST_CHILDREN = 100  # of the part that is looked at, on a page
_MOST_INNER = 20  # of a part below that
_MOST_NODES = 800
_MOST_DEPTH = 6
_LEAF_CHARACTERS = 300
_SUMMARY_CHARACTERS = 80
_KEY_CHARACTERS = 200


def of_json(part: Part, window: Window) -> Tree | Text:
    """Return plain JSON as a tree; a text, and what is too large for a tree, as text."""
    if part.read(0, 1) == b'"':
        return texts.of_text_bytes(part, window)
    return _of_bytes(part, window, typed=False)


def of_typed_json(part: Part, window: Window) -> Tree | Text:
    """Return typed JSON as a tree; what is too large for one, as text."""
    return _of_bytes(part, window, typed=True)


def _of_bytes(part: Part, window: Window, *, typed: bool) -> Tree | Text:
    if part.size_bytes > MAX_JSON_BYTES:
        return texts.of_json_bytes(part, window)
    return of_text(part.read(0, part.size_bytes).decode(), window, typed=typed)


def of_text(text: str, window: Window, *, typed: bool = False) -> Tree | Text:
    """Return the part of a JSON text that is looked at as a tree; a leaf that is text, as text.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    reader = _Reader(typed=typed)
    value = _parsed(text)
    above: list[Node] = []
    key: str | None = None
    at: tuple[int, ...] = ()
    for position in window.at:
        members = reader.members(value)
        if members is None or not 0 <= position < len(members):
            break
        above.append(reader.node(value, key, at, 0, 0))
        key, value = reader.member(members, position)
        at = (*at, position)
    if type(value) is str and at:
        return texts.of_leaf(value, (*above, reader.node(value, key, at, 0, 0)), window)
    return reader.tree(value, key, at, tuple(above), window)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Pairs, parse_constant=_Number)
    except ValueError:  # of a number with more digits than Python reads, too; each as text takes ten times as long
        return json.loads(text, object_pairs_hook=_Pairs, parse_int=_Number, parse_constant=_Number)


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, as they stand there."""


class _Number(str):
    """The digits of a number that Python does not read."""

    __slots__ = ()


_LISTS = {"$tuple": "tuple", "$set": "set", "$frozenset": "frozenset"}
_LEAVES = {bool: "boolean", type(None): "null", int: "number", float: "number", _Number: "number", str: "text"}


class _Reader:
    """Reads the levels of a tree.

    Args:
        typed: whether objects of one key that begins with a dollar sign are marks.
    """

    def __init__(self, *, typed: bool) -> None:
        self._typed = typed

    def tree(self, value: Any, key: str | None, at: tuple[int, ...], above: tuple[Node, ...], window: Window) -> Tree:
        """Return a part with those of its children that are on a page."""
        members = self.members(value) or ()
        pages = Pages.of(window.page, len(members), MOST_CHILDREN)
        count = min(MOST_CHILDREN, len(members) - pages.first)
        shown = range(pages.first, pages.first + count)
        children = self._children(members, shown, at, _MOST_NODES, _MOST_DEPTH)
        own = self.node(value, key, at, 0, 0)
        return Tree(_with_children(own, children), above, pages)

    def _children(
        self, members: Sequence[Any], shown: range, at: tuple[int, ...], budget: int, depth: int
    ) -> tuple[Node, ...]:
        """Return nodes of some members, among which the budget of nodes below them is divided."""
        rest = max(0, budget - len(shown))
        nodes = []
        for left, position in zip(range(len(shown), 0, -1), shown, strict=True):
            key, value = self.member(members, position)
            node = self.node(value, key, (*at, position), rest // left, depth)
            rest -= _size_of(node)
            nodes.append(node)
        return tuple(nodes)

    def node(self, value: Any, key: str | None, at: tuple[int, ...], budget: int, depth: int) -> Node:
        """Return a value as a node, with at most so many below it."""
        mark, inner = self._mark_of(value)
        members = self.members(value)
        key = None if key is None else shorten(visible(key), _KEY_CHARACTERS)
        if members is None:
            text = _leaf_text(inner, bare=bool(mark))
            cut = shorten(text, _LEAF_CHARACTERS)
            return Node(key, at, mark or _LEAVES.get(type(inner), "object"), cut, is_cut=cut != text)
        kind = _LISTS.get(mark, mark) if mark else "object" if type(value) is _Pairs else "list"
        own = Node(key, at, kind.removeprefix("$"), self._summary(members), count=len(members))
        shown = range(min(len(members), _MOST_INNER, budget))
        return _with_children(own, self._children(members, shown, at, budget, depth - 1)) if depth and shown else own

    def _mark_of(self, value: Any) -> tuple[str, Any]:
        """Return the mark of a value of typed JSON, and what it marks; no mark, and the value, for all others."""
        if self._typed and type(value) is _Pairs and len(value) == 1 and value[0][0].startswith("$"):
            mark, inner = value[0]
            return (mark if type(inner) is list and (mark in _LISTS or mark == "$dict") else mark[1:]), inner
        return "", value

    def members(self, value: Any) -> Sequence[Any] | None:
        """Return what a value contains; `None` for a leaf."""
        mark, inner = self._mark_of(value)
        if mark == "$dict" and all(type(pair) is list and len(pair) == 2 for pair in inner):
            return _Pairs((self._key(name), item) for name, item in inner)
        return inner if isinstance(inner, list) and (not mark or mark.startswith("$")) else None

    def _key(self, value: Any) -> str:
        """Return a key that is no text in one line."""
        members = self.members(value)
        return self._gist(value) if members is None else f"({self._summary(members)})"

    def member(self, members: Sequence[Any], position: int) -> tuple[str, Any]:
        """Return the key and the value of a member."""
        member = members[position]
        if type(members) is _Pairs:
            return member[0], member[1]
        return str(position), member

    def _gist(self, value: Any) -> str:
        """Return a member in a summary: a leaf, or the first names of what contains more."""
        mark, inner = self._mark_of(value)
        members = self.members(value)
        if members is None:
            return _leaf_text(inner, _SUMMARY_CHARACTERS, bare=bool(mark))
        if type(members) is not _Pairs:
            return "[…]" if members else "[]"
        names = [shorten(visible(name), 20) for name, _ in members[:3]]
        return f"{{{', '.join(names + ['…'] * (len(members) > 3))}}}"

    def _summary(self, members: Sequence[Any]) -> str:
        """Return the first of the leaves in some members, in one short line."""
        parts: list[str] = []
        length = 0
        for key, value in (self.member(members, position) for position in range(min(8, len(members)))):
            text = self._gist(value)
            parts.append(f"{shorten(visible(key), 30)}: {text}" if type(members) is _Pairs else text)
            length += len(parts[-1])
            if length > _SUMMARY_CHARACTERS:
                break
        more = ["…"] if len(parts) < len(members) else []
        return shorten(", ".join(parts + more), _SUMMARY_CHARACTERS)


def _with_children(node: Node, children: tuple[Node, ...]) -> Node:
    return Node(node.key, node.at, node.kind, node.text, node.is_cut, node.count, children)


def _size_of(node: Node) -> int:
    """Return how many nodes are below a node."""
    return sum(1 + _size_of(child) for child in node.children)


def _leaf_text(value: Any, most: int = _LEAF_CHARACTERS, *, bare: bool = False) -> str:
    """Return a leaf as JSON, of at most a few more characters than `most`; `bare`: a text without quotes."""
    if type(value) is _Number or (bare and isinstance(value, str)):
        return visible(str(value)[: most + 1])
    if isinstance(value, str):
        return visible(json.dumps(value[: most + 1], ensure_ascii=False))
    return visible(json.dumps(_plain(value))[: most + 1])


def _plain(value: Any) -> Any:
    """Return what a mark holds that is not text, such as the two parts of a complex number."""
    return [_plain(item) for item in value[:20]] if isinstance(value, list) else value
