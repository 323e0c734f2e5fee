"""Runs side by side: what differs between them.

Values are compared by hash and codec, and shown by their previews, so that comparing loads nothing and runs
nobody's code; small JSON values are shown as well. Each kind of thing is fetched in one query for each run,
however many tasks it has.

    kind      name              left and right
    run       flow, status, …   the fact
    tag       the tag           true where it is set
    parameter its name          a value
    code      a file's path     sha, size_bytes, text
    package   a distribution    its version
    step      its name          how many of its tasks have each status
    artifact  its name          a value, as `run.data` has it
    set       step/artifact     a value, as a step that has one task in each run set it
    timing    the step's name   seconds from its first task's beginning to its last one's end

A value is a dict of type, codec, size_bytes, sha, preview and value. What is not there is `None`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from flowstore import later
from flowstore.client import rows
from flowstore.client.run import Run
from flowstore.sqlite.database import Database
from flowstore.store import blobs, queries
from flowstore.store.blobs import Blob

KINDS = ("run", "tag", "parameter", "code", "package", "step", "artifact", "set", "timing")
VALUES = frozenset({"parameter", "artifact", "set"})  # the kinds whose values are dicts, as above
MOST_ITEMS = 20  # of a dict of which only the items that differ are shown
SMALL_BYTES = 65536  # values up to here are shown as JSON
MOST_TEXT_BYTES = 1 << 20  # and files up to here as text
MOST_LINES = 4000  # a file made for it takes time by the square of this


@later.frozen
class Row:
    """One thing that runs have, each in its way.

    Attributes:
        kind: one of `KINDS`.
        name: what it is called.
        values: how each of the runs has it, `None` where it is not there.
        differs: whether they are not all the same.
    """

    kind: str
    name: str
    values: Sequence[Any]
    differs: bool


@later.frozen
class Difference:
    """One thing that differs.

    Attributes:
        kind: one of `KINDS`.
        name: what differs.
        left: how the first run has it, `None` where it is not there.
        right: the same for the second run.
    """

    kind: str
    name: str
    left: Any
    right: Any


def compare(left: Run, right: Run, *, code: bool = True) -> list[Difference]:
    """Return what differs between two runs, of one flow or of two, in one store or in two.

    Args:
        left: the first run.
        right: the second run.
        code: whether to give the text of files that differ.

    Returns:
        The differences, by kind in the order of `KINDS`.

    Example:
        compare(Run("F/1"), Run("F/2"))
    """
    rows = side_by_side([left, right], code=code)
    return [Difference(row.kind, row.name, *row.values) for row in rows]


def side_by_side(runs: Sequence[Run], *, code: bool = True, everything: bool = False) -> list[Row]:
    """Return how runs have what they have, by kind in the order of `KINDS`.

    Args:
        runs: two or more; each is asked in the same few queries.
        code: whether to give the text of files that differ.
        everything: whether to return what is the same in all of them, too.
    """
    sides = [_Side(run) for run in runs]
    single = set.intersection(*({name for name, tasks in side.states.items() if sum(tasks.values()) == 1}
                                for side in sides))  # fmt: skip
    steps = single - {side.end_step for side in sides}  # whose artifacts are among the visible ones
    compared = itertools.chain(
        _plain("run", [side.facts for side in sides]),
        _plain("tag", [side.tags for side in sides]),
        _values("parameter", sides, [side.parameters for side in sides], everything=everything),
        _files(sides, with_text=code, everything=everything),
        _plain("package", [side.packages for side in sides]),
        _plain("step", [side.states for side in sides]),
        _values("artifact", sides, [side.visible for side in sides], everything=everything),
        _values("set", sides, [side.set_in(steps) for side in sides], everything=everything),
        _plain("timing", [side.timings for side in sides]),
    )
    return [row for row in compared if everything or row.differs]


def by_key(row: Row) -> list[Row]:
    """Return a row for each item of values that are all dicts, of those that differ if some do; else the row itself."""
    values: list[Any] = [side["value"] if row.kind in VALUES and side else None for side in row.values]
    if not all(isinstance(value, dict) for value in values):
        return [row]
    keys = dict.fromkeys(key for value in values for key in value)
    items = [[value.get(key) for value in values] for key in keys]
    differing = [(key, item) for key, item in zip(keys, items, strict=True) if any(one != item[0] for one in item)]
    if not 0 < len(differing) <= MOST_ITEMS:
        return [row]
    return [Row(row.kind, f"{row.name}.{key}", [_item(one) for one in item], True) for key, item in differing]


def _item(value: Any) -> dict[str, Any] | None:
    return None if value is None else {"value": value, "preview": ""}


def text_diff(name: str, left: Any, right: Any) -> Iterator[str]:
    """Yield the lines of the unified diff of a file's text; none where a text is missing or very long.

    Args:
        name: the file's path.
        left: how the first run has it, as in a row of the kind `code`.
        right: how the other one has it.
    """
    old, new = ("" if side is None else side["text"] for side in (left, right))
    if old is None or new is None:
        return
    before, after = old.splitlines(), new.splitlines()
    if max(len(before), len(after)) <= MOST_LINES:
        import difflib

        yield from difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", lineterm="")


class _Side:
    """One of the runs, asked once for all that is compared."""

    def __init__(self, run: Run) -> None:
        self.store: Database = run._store
        run_id = int(run.id)
        with self.store.read():  # one snapshot
            row = rows.of_run(run)
            self.facts = {
                "flow": row.flow,
                "user": row.user,
                "status": row.status,
                "origin_run_id": row.origin_run_id,
                "duration_s": row.duration_s,
            }
            self.tags = dict.fromkeys(sorted((*row.tags, *row.system_tags)), True)
            self.code = run.code
            self.packages = run.environment or {}
            self.parameters = queries.parameters(self.store, run_id)
            steps = rows.of_steps(run, row.status)
            self.states = {step.name: step.tasks for step in steps}
            self.timings = {step.name: step.duration_s for step in steps}
            self._set = queries.single_artifacts(self.store, run_id)
            end = run.end_task
            visible = {} if end is None else end._blobs()
        self.end_step = None if end is None else end.path_components[2]
        self.visible = {name: blob for name, blob in visible.items() if name not in self.parameters}

    def set_in(self, steps: Collection[str]) -> dict[str, Blob]:
        """Return what the tasks of these steps set, by step and name."""
        return {f"{step}/{name}": blob for (step, name), blob in self._set.items() if step in steps}


def _plain(kind: str, sides: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Yield a row for each name, of values that are compared as they are."""
    for name in dict.fromkeys(name for side in sides for name in side):
        values = [side.get(name) for side in sides]
        yield Row(kind, name, values, any(value != values[0] for value in values))


def _blobs(sides: Sequence[Mapping[str, Blob]], *, everything: bool) -> Iterator[tuple[str, bool]]:
    """Yield the names of values, and whether they differ; only those that do unless `everything` is asked for."""
    for name in dict.fromkeys(name for side in sides for name in side):
        blobs_ = [side.get(name) for side in sides]
        differs = len({None if blob is None else (blob.sha, blob.codec) for blob in blobs_}) > 1
        if differs or everything:
            yield name, differs


def _values(
    kind: str, sides: Sequence[_Side], blobs_: Sequence[Mapping[str, Blob]], *, everything: bool
) -> Iterator[Row]:
    names = {name: differs for name, differs in _blobs(blobs_, everything=everything) if not _is_private(name)}
    described = [
        _described(side.store, {name: own[name] for name in names if name in own})
        for side, own in zip(sides, blobs_, strict=True)
    ]
    for name, differs in names.items():
        yield Row(kind, name, [own.get(name) for own in described], differs)


def _is_private(name: str) -> bool:
    return name.rpartition("/")[2].startswith("_")


def _described(store: Database, by_name: Mapping[str, Blob]) -> dict[str, dict[str, Any]]:
    """Return blobs as dicts, with the values of those that are small JSON."""
    small = {blob.id for blob in by_name.values() if blob.codec == "json" and blob.size_bytes <= SMALL_BYTES}
    full = {at: blob for at, blob in queries.with_bytes(store, small).items() if blob.data is not None}
    return {
        name: {
            "type": blob.type,
            "codec": blob.codec,
            "size_bytes": blob.size_bytes,
            "sha": blob.sha.hex(),
            "preview": blob.preview,
            "value": blobs.load(store, full[blob.id], name) if blob.id in full else None,
        }
        for name, blob in by_name.items()
    }


def _files(sides: Sequence[_Side], *, with_text: bool, everything: bool) -> Iterator[Row]:
    files = [{} if side.code is None else side.code._files for side in sides]
    for name, differs in _blobs(files, everything=everything):
        yield Row("code", name, [_file(side, name, with_text=with_text and differs) for side in sides], differs)


def _file(side: _Side, path: str, *, with_text: bool) -> dict[str, Any] | None:
    blob = None if side.code is None else side.code._files.get(path)
    if side.code is None or blob is None:
        return None
    text = None
    if with_text and blob.size_bytes <= MOST_TEXT_BYTES:
        text = _decoded(side.code._read(path))
    return {"sha": blob.sha.hex(), "size_bytes": blob.size_bytes, "text": text}


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None  # no text, so there are no lines to compare
