"""Values as plain JSON, for people and SQL: what `artifact_values.value` shows, and the numbers that are metrics.

A value has such a JSON where there is an obvious one, whatever codec stores it:

| values                                        | JSON                                                             |
| --------------------------------------------- | ---------------------------------------------------------------- |
| None, booleans, numbers, text, lists, dicts   | the same; NaN is null, infinity 9e999, keys are text             |
| tuples, sets (sorted), deques, ranges, arrays | a list                                                           |
| dataclasses, named tuples, attrs and pydantic | an object                                                        |
| enums                                         | their value                                                      |
| dates and times; durations                    | ISO text; a number of seconds                                    |
| Decimal, Fraction; UUID, paths                | a number; text                                                   |
| NumPy scalars, pandas' NA and NaT             | as Python's; null                                                |

Anything else has none, and neither has what contains it. Two keys that become one text are ambiguous: no JSON either.
A value is never walked further than 64 KiB of JSON go, and nothing here fails the task that set it.

Metrics are the numbers in the value, by the way to them, breadth first, where there are at most 100. Those in a value
of more than 64 KiB count as well, since `{"accuracy": 0.9, "curve": [...]}` is what people write.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flowstore import later
from flowstore.store.json_levels import (
    LEAVES_WITHOUT_NUMBER,
    MAX_VALUE_BYTES,
    Leaf,
    List,
    NoJson,
    Object,
    TooLarge,
    open_level,
    quoted,
)

if TYPE_CHECKING:
    from flowstore.sqlite.database import Database

MAX_DEPTH = 100
MAX_METRICS = 100
MAX_LIST = 20  # items; a longer list is data, not metrics
MAX_NAME = 1000  # characters of a metric's name
_MAX_NODES = 20_000  # looked at for metrics

Numbers = list[tuple[str, float]]  # the way to each, such as 'accuracy' or 'folds.0', and '' for the value itself


@later.frozen
class Plain:
    """The plain JSON of a value.

    Attributes:
        value: the JSON, of at most 64 KiB; `None` where there is none.
        exact: whether it is the value itself, types included.
        number: the value, where it is one number.
        numbers: its metrics.
        too_many: whether it has none because they would be too many.
    """

    value: str | None = None
    exact: bool = False
    number: float | None = None
    numbers: Numbers = later.field(factory=list)
    too_many: bool = False


NOTHING = Plain()


class _TooMany(Exception):
    """There are too many numbers for metrics."""


def describe(value: Any) -> Plain:
    """Return what plain JSON tells of a value.

    >>> describe((1, float("inf"))).value, describe({1: "a"}).value, describe({1: "a", "1": "b"}).value
    ('[1,9e999]', '{"1":"a"}', None)
    """
    try:
        writer = _Writer()
        try:
            writer.write(value)
            text: str | None = "".join(writer.parts)
        except TooLarge:
            text = None
        numbers, too_many = _metrics(value)
    except Exception:  # the value's own methods may raise anything; it then has no JSON
        return NOTHING
    number = numbers[0][1] if numbers and numbers[0][0] == "" else None
    return Plain(text, writer.exact and text is not None, number, numbers, too_many)


def describe_json(value: Any) -> Plain:
    """Return what there is to tell of a value that is plain JSON itself, whose text its bytes are."""
    kind = type(value)
    if kind in LEAVES_WITHOUT_NUMBER:
        return NOTHING
    if kind is int or kind is float:  # the shortest way, for what most tasks set
        return Plain(numbers=[("", float(value))])
    numbers, too_many = _metrics(value)
    return Plain(numbers=numbers, too_many=too_many) if numbers or too_many else NOTHING


def kept_value(store: Database, blob_id: int) -> Any:
    """Return the plain JSON that was kept of a blob, as builtins; `None` where there is none."""
    text = find_kept(store, blob_id)
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):  # another program's, or a stranger's
        return None


def find_kept(store: Database, blob_id: int) -> str | None:
    """Return the plain JSON that was kept beside a blob whose bytes are not that JSON; `None` where there is none."""
    if store.value("select 1 from pragma_table_info('blob_values')") is None:  # in a file that an older version wrote
        return None
    text: str | None = store.value(
        "select value from blob_values where blob_id = ? and length(value) <= ?", (blob_id, MAX_VALUE_BYTES)
    )
    return text


def numbers_in(artifact: str, text: str) -> Numbers:
    """Return the metrics of an artifact from its JSON, by their full names.

    >>> numbers_in("scores", '{"auc": 0.5, "folds": [1, true]}')
    [('scores.auc', 0.5), ('scores.folds.0', 1.0)]
    """
    try:
        numbers, _ = _metrics(json.loads(text))
    except (ValueError, RecursionError, NoJson):
        return []
    return [(full_name(artifact, name), number) for name, number in numbers]


def full_name(artifact: str, name: str) -> str:
    """Return the name of a metric: that of the artifact, and the way to the number in it."""
    return f"{artifact}.{name}" if name else artifact


def _keyed(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any, bool]]:
    """Yield the entries of an object by the text of their key, and whether that is the key itself."""
    seen: set[str] = set()
    for key, value in pairs:
        exact = type(key) is str
        text = key if exact else _key(key)
        if text in seen:
            raise NoJson
        seen.add(text)
        yield text, value, exact


def _key(key: Any) -> str:
    """Return what stands for a key that is no text: the text of its JSON, and of a tuple what Python shows."""
    opened = open_level(key)
    if isinstance(opened, Leaf):
        return str(json.loads(opened.text)) if opened.text[0] == '"' else opened.text
    writer = _Writer()
    writer.write(key)
    return str(tuple(json.loads("".join(writer.parts)))) if isinstance(opened, List) else "".join(writer.parts)


class _Writer:
    """Writes JSON as long as it is small."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.exact = True
        self._bytes = 0

    def write(self, value: Any, depth: int = MAX_DEPTH) -> None:
        """Write a value.

        Raises:
            TooLarge: it is of more than 64 KiB.
            NoJson: there is no JSON for it, or it is nested too deeply.
        """
        opened = open_level(value)
        self.exact = self.exact and opened.exact
        if isinstance(opened, Leaf):
            self._add(opened.text)
        elif depth == 0:
            raise NoJson
        elif isinstance(opened, List):
            self._list(opened, depth)
        else:
            self._object(opened, depth)

    def _list(self, opened: List, depth: int) -> None:
        if self._bytes + max(opened.least_bytes, 2 * opened.length) > MAX_VALUE_BYTES + 2:
            raise TooLarge
        comma = "["
        for item in opened.items():
            self._add(comma)
            self.write(item, depth - 1)
            comma = ","
        self._add("]" if comma == "," else "[]")

    def _object(self, opened: Object, depth: int) -> None:
        comma = "{"
        for key, value, exact in _keyed(opened.pairs):
            self.exact = self.exact and exact
            self._add(f"{comma}{quoted(key)}:")
            self.write(value, depth - 1)
            comma = ","
        self._add("}" if comma == "," else "{}")

    def _add(self, text: str) -> None:
        self._bytes += len(text) if text.isascii() else len(text.encode())
        if self._bytes > MAX_VALUE_BYTES:
            raise TooLarge
        self.parts.append(text)


# --- metrics


def _metrics(value: Any) -> tuple[Numbers, bool]:
    """Return a value's metrics, and whether it has none because they would be too many."""
    try:
        return [*_numbers(value)], False
    except _TooMany:
        return [], True


def _numbers(value: Any) -> Iterator[tuple[str, float]]:
    opened = open_level(value)
    if isinstance(opened, Leaf):
        if opened.number is not None:
            yield "", opened.number
        return
    count, looked_at = 0, 0
    levels = [("", opened)]
    while levels:
        inner: list[tuple[str, Object | List]] = []
        for way, level in sorted(levels, key=lambda pair: isinstance(pair[1], List)):
            for key, item in _parts(level):
                looked_at += 1
                name = f"{way}{key}"
                if looked_at > _MAX_NODES:
                    return
                if type(item) is str or len(name) > MAX_NAME:
                    continue
                part = open_level(item)
                if not isinstance(part, Leaf):
                    inner.append((f"{name}.", part))
                elif part.number is not None and name:  # a dict's own name is not that of what is at its key ""
                    count += 1
                    if count > MAX_METRICS:
                        raise _TooMany
                    yield name, part.number
        levels = inner


def _parts(level: Object | List) -> Iterator[tuple[str, Any]]:
    if isinstance(level, Object):
        for key, item, _ in _keyed(level.pairs):
            yield key, item
    elif level.length <= MAX_LIST:
        for index, item in enumerate(level.items()):
            yield str(index), item
