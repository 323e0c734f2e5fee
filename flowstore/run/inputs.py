"""Where a task's inherited artifacts and foreach items come from: the store, or the order itself where small."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowstore.errors import ArtifactError, FlowstoreError
from flowstore.flow import spec
from flowstore.flow.spec import Inputs, Transition
from flowstore.run.local import messages
from flowstore.sqlite.database import Store
from flowstore.sqlite.typed_rows import PAGE
from flowstore.store import blobs, codecs, queries
from flowstore.store.blobs import Blob
from flowstore.store.inheritance import visible_artifacts
from flowstore.store.opening import active_store
from flowstore.store.preview import preview

FOREACH_ITEMS = "_foreach_items"  # holds the items of a foreach over something that can't be indexed


class Inherited:
    """What the tasks that flow into this one have, fetched for many at once when one is asked for."""

    def __init__(self, task_ids: Sequence[int]) -> None:
        self._task_ids = task_ids
        self._found: dict[int, dict[str, Blob]] = {}

    def of(self, task_id: int) -> dict[str, Blob]:
        """A task's artifacts, inherited ones included."""
        if task_id not in self._found:
            at = self._task_ids.index(task_id)
            with active_store().read() as db:
                self._found = visible_artifacts(db, dict.fromkeys(self._task_ids[at : at + PAGE]))
        return self._found[task_id]


class TaskLink:
    """Connects a flow's instance to its task: where inherited artifacts come from (see `flow.spec.Link`)."""

    __slots__ = (  # a join has one for each of its inputs
        "_frames", "_index", "_inherited", "_order", "_task_id", "_visible",
        "first_values", "forgotten", "is_join", "loaded", "merged", "step", "transition",
    )  # fmt: skip

    def __init__(
        self,
        order: Mapping[str, Any],
        step: str,
        task_id: int | None,
        inherited: Inherited | None = None,
        *,
        index: int | None = None,
        is_join: bool = False,
    ) -> None:
        self.step = step  # an input's own, where the order is that of the join
        self.is_join = is_join
        self.transition: Transition | None = None
        self.first_values: dict[str, Any] = {}
        self.loaded: dict[str, tuple[Blob, Any]] = {}
        self.merged: dict[str, Blob] = {}
        self.forgotten: tuple[str, ...] = ()
        self._task_id = task_id  # whose artifacts are inherited
        self._inherited = inherited
        self._index = index  # within the foreach that is joined, for an input
        self._order = order
        self._visible: dict[str, Blob] | None = None
        self._frames: list[spec.Frame] | None = None

    def visible(self) -> dict[str, Blob]:
        """All inherited artifacts."""
        if self._visible is None:
            if self._task_id is None:
                rows = queries.parameters_of(active_store(), int(self._order["run_id"]))
                self._visible = {row["name"]: Blob.of(row) for row in rows}
            else:
                self._visible = (self._inherited or Inherited([self._task_id])).of(self._task_id)
        return self._visible

    def load(self, name: str) -> Any:
        """The value of an inherited artifact; KeyError where there is none."""
        if name in self.loaded:
            return self.loaded[name][1]
        if name in self.forgotten:
            raise KeyError(name)
        if name in self._order["parameters"]:
            return self.load_parameter(name)
        blob = self.merged.get(name) or self.visible()[name]
        value = self.load_blob(blob, name)
        self.loaded[name] = (blob, value)
        return value

    def load_blob(self, blob: Blob, name: str) -> Any:
        """The value of a content that the run has."""
        return blobs.load(active_store(), blob, name, run_id=int(self._order["run_id"]))

    def load_parameter(self, name: str) -> Any:
        """The value of one of the run's parameters."""
        content = self._order["parameters"][name]
        if content is None:  # too large to travel
            return self.load_blob(self.visible()[name], name)
        return messages.value_of(content)

    def merge(self, own: dict[str, Any], inputs: Inputs, include: Sequence[str], exclude: Sequence[str]) -> None:
        """Carry artifacts of joined tasks over; those whose bytes are the same are not loaded."""
        if not self.is_join:
            raise ArtifactError("merge_artifacts works in a join only, a step that takes inputs.")
        fixed = set(self._order["parameters"]) | set(self._order["constants"])
        candidates: dict[str, dict[tuple[bytes, str], Blob]] = {}
        for task in inputs:
            for name, blob in task.__dict__[spec._LINK].visible().items():
                if name not in own and name not in fixed and name not in exclude and (not include or name in include):
                    candidates.setdefault(name, {})[blob.sha, blob.codec] = blob
        missing = [name for name in include if name not in candidates and name not in own]
        if missing:
            raise ArtifactError(f"merge_artifacts: no branch has {', '.join(missing)}.")
        unclear = sorted(
            name
            for name, versions in candidates.items()
            if len(versions) > 1 and name != FOREACH_ITEMS and not self._agree(name, list(versions.values()))
        )
        if unclear:
            raise ArtifactError(
                f"merge_artifacts: the branches disagree on {', '.join(unclear)}. "
                "Set them in this step before the call, or name them in exclude."
            )
        self.merged.update({name: blob for name, [blob, *_] in ((n, list(v.values())) for n, v in candidates.items())})

    def _agree(self, name: str, versions: Sequence[Blob]) -> bool:
        """Return whether blobs whose bytes differ hold equal values."""
        from flowstore.store.sameness import is_equal

        if len({blob.type for blob in versions}) > 1:
            return False
        try:
            first = self.load_blob(versions[0], name)
            return all(is_equal(first, self.load_blob(blob, name)) for blob in versions[1:])
        except FlowstoreError:  # one that is untrusted, damaged, or can't be rebuilt here
            return False

    def forget(self, name: str) -> bool:
        """Hide an inherited artifact from what follows."""
        if name in self._order["parameters"] or name in self.forgotten:
            return False
        known = self.merged.pop(name, None) is not None or name in self.visible()
        self.loaded.pop(name, None)
        if known:
            self.forgotten += (name,)
        return known

    @property
    def frames(self) -> list[spec.Frame]:
        """The enclosing foreaches, with their items."""
        if self._frames is None:
            told = self._order["frames"]
            if self._index is not None:
                told = [*told, {**self._order["joined"], "index": self._index, "item": None}]
            self._frames = [spec.Frame(f["index"], f["count"], self._item(f)) for f in told]
        return self._frames

    def _item(self, frame: Mapping[str, Any]) -> Any:
        """The item of one enclosing foreach: sent along where it is small, else taken from the list in the store."""
        if frame["kind"] == "gang":
            return frame["index"]
        if frame["item"] is not None:
            return messages.value_of(frame["item"])
        with active_store().read() as db:
            [blob] = visible_artifacts(db, {frame["opener"]: None}, frame["items_from"])[frame["opener"]].values()
        return self.load_blob(blob, frame["items_from"])[frame["index"]]


MAX_ITEM = 200  # characters of an item's preview
_READ = frozenset({"json", "typed-json", "npy"})  # codecs whose decoding runs no code and makes something to index
_MAX_BYTES = 4 << 20


def item_preview(item: object) -> str:
    """Return a preview of a foreach item."""
    return preview(item)[:MAX_ITEM]


def later(
    store: Store, opener_id: int, items_from: str | None, count: int | None
) -> Callable[[], Sequence[str | None]] | None:
    """Return what finds the previews of a foreach's items when it is first called; `None` where there is no foreach."""
    if items_from is None or count is None:
        return None

    @functools.cache
    def previews() -> Sequence[str | None]:
        with store.read() as db:
            return previews_of(db, opener_id, items_from, count)

    return previews


def previews_of(db: sqlite3.Connection, opener_id: int, items_from: str, count: int) -> Sequence[str | None]:
    """Return a preview of each item of a foreach: from the tasks that had them, else from the list where it is safe.

    Args:
        db: of an open transaction.
        opener_id: the task that opened the foreach.
        items_from: the artifact that holds the items.
        count: how many there are.
    """
    previews: list[str | None] = [None] * count
    rows = db.execute(
        """select t.foreach_path, t.item from task_parents p join tasks t on t.id = p.task_id
           where p.parent_id = ? and t.item is not null""",
        (opener_id,),
    ).fetchall()
    for row in rows:
        index = (row["foreach_path"] or "").rpartition("/")[2]
        if index.isdecimal() and int(index) < count:
            previews[int(index)] = row["item"]
    if None in previews:
        items = _stored(db, opener_id, items_from)
        if items is not None and len(items) == count:
            previews = [known or item_preview(item) for known, item in zip(previews, items, strict=True)]
    return previews


def _stored(db: sqlite3.Connection, opener_id: int, items_from: str) -> Sequence[object] | None:
    """Return the list of items as the store has it; `None` where that is large, or a pickle."""
    blob = visible_artifacts(db, {opener_id: None}, items_from)[opener_id].get(items_from)
    if blob is None or blob.codec not in _READ or blob.size_bytes > _MAX_BYTES:
        return None
    try:
        items = codecs.decode(blob.codec, iter([b"".join(blobs.read(db, blob))]), blob.size_bytes)
        return items if hasattr(items, "__len__") and hasattr(items, "__getitem__") else None
    except FlowstoreError:  # it is damaged, which a task that needs it will tell
        return None
