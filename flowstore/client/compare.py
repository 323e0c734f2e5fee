"""Two runs side by side: what differs between them.

Values are compared by hash and codec, and shown by their previews, so that comparing loads nothing and runs
nobody's code; small JSON values are shown as well. Each kind of thing is fetched in one query for each run,
however many tasks it has.

    kind      name              left and right
    run       flow, status, …   the fact
    tag       the tag           true where it is set
    parameter its name          a value
    code      a file's path     sha, size_bytes, text
    step      its name          how many of its tasks have each status
    artifact  its name          a value, as `run.data` has it
    set       step/artifact     a value, as a step that has one task in each run set it
    timing    the step's name   seconds from its first task's beginning to its last one's end

A value is a dict of type, codec, size_bytes, sha, preview and value. What is not there is `None`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import attrs

from flowstore.client import rows
from flowstore.client.run import Run
from flowstore.sqlite.database import Store
from flowstore.store import blobs, queries
from flowstore.store.blobs import Blob

KINDS = ("run", "tag", "parameter", "code", "step", "artifact", "set", "timing")
SMALL_BYTES = 65536  # values up to here are shown as JSON
MOST_TEXT_BYTES = 1 << 20  # and files up to here as text
MOST_LINES = 4000  # a file made for it takes time by the square of this


@attrs.frozen(eq=False, repr=False)
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
    sides = one, other = _Side(left), _Side(right)
    single = {name for name, tasks in one.states.items() if sum(tasks.values()) == 1}
    single &= {name for name, tasks in other.states.items() if sum(tasks.values()) == 1}
    steps = single - {"end"}  # whose artifacts are among the visible ones
    return [
        *_pairs("run", one.facts, other.facts),
        *_pairs("tag", one.tags, other.tags),
        *_values("parameter", sides, one.parameters, other.parameters),
        *_files(sides, with_text=code),
        *_pairs("step", one.states, other.states),
        *_values("artifact", sides, one.visible, other.visible),
        *_values("set", sides, one.set_in(steps), other.set_in(steps)),
        *_pairs("timing", one.timings, other.timings),
    ]


def text_diff(difference: Difference) -> Iterator[str]:
    """Yield the lines of the unified diff of a file's text; none where a text is missing or very long."""
    old, new = ("" if side is None else side["text"] for side in (difference.left, difference.right))
    if old is None or new is None:
        return
    before, after = old.splitlines(), new.splitlines()
    if max(len(before), len(after)) <= MOST_LINES:
        import difflib

        name = difference.name
        yield from difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", lineterm="")


class _Side:
    """One of the two runs, asked once for all that is compared."""

    def __init__(self, run: Run) -> None:
        self.store: Store = run._store
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
            self.parameters = queries.parameters(self.store, run_id)
            steps = rows.of_steps(run, row.status)
            self.states = {step.name: step.tasks for step in steps}
            self.timings = {step.name: step.duration_s for step in steps}
            self._set = queries.single_artifacts(self.store, run_id)
            end = run.end_task
            visible = {} if end is None else end._blobs()
        self.visible = {name: blob for name, blob in visible.items() if name not in self.parameters}

    def set_in(self, steps: Collection[str]) -> dict[str, Blob]:
        """Return what the tasks of these steps set, by step and name."""
        return {f"{step}/{name}": blob for (step, name), blob in self._set.items() if step in steps}


def _pairs(
    kind: str, left: Mapping[str, Any], right: Mapping[str, Any], same: Callable[[Any, Any], bool] = lambda a, b: a == b
) -> Iterator[Difference]:
    """Yield a difference for each name whose two sides are not equal."""
    for name in dict.fromkeys((*left, *right)):
        one, other = left.get(name), right.get(name)
        if not same(one, other):
            yield Difference(kind, name, one, other)


def _same(left: Blob | None, right: Blob | None) -> bool:
    return left is not None and right is not None and (left.sha, left.codec) == (right.sha, right.codec)


def _values(
    kind: str, sides: tuple[_Side, _Side], left: Mapping[str, Blob], right: Mapping[str, Blob]
) -> Iterator[Difference]:
    pairs = [pair for pair in _pairs(kind, left, right, _same) if not _is_private(pair.name)]
    ones = _described(sides[0].store, {pair.name: pair.left for pair in pairs if pair.left is not None})
    others = _described(sides[1].store, {pair.name: pair.right for pair in pairs if pair.right is not None})
    for pair in pairs:
        yield Difference(kind, pair.name, ones.get(pair.name), others.get(pair.name))


def _is_private(name: str) -> bool:
    return name.rpartition("/")[2].startswith("_")


def _described(store: Store, by_name: Mapping[str, Blob]) -> dict[str, dict[str, Any]]:
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


def _files(sides: tuple[_Side, _Side], *, with_text: bool) -> Iterator[Difference]:
    one, other = ({} if side.code is None else side.code._files for side in sides)
    for pair in _pairs("code", one, other, _same):
        left, right = (_file(side, pair.name, with_text=with_text) for side in sides)
        yield Difference("code", pair.name, left, right)


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
