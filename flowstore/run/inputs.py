"""Where a task's inputs come from: the order itself where they are small, else the task's source.

A source reads the store, or asks somebody who can: a task neither knows nor needs to know which.
"""

from __future__ import annotations

import abc
import functools
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from flowstore import later
from flowstore.errors import ArtifactError, FlowstoreError, StoreCorrupt
from flowstore.flow import spec
from flowstore.flow.spec import FlowSpec, Inputs, Transition
from flowstore.run.orders import Inline, OpenSplit, Order
from flowstore.sqlite.database import Database
from flowstore.sqlite.typed_rows import PAGE
from flowstore.store import blobs, codecs, queries, trust
from flowstore.store.blobs import Blob
from flowstore.store.codecs import encode
from flowstore.store.inheritance import known_artifacts, visible_artifacts
from flowstore.store.opening import store_at

FOREACH_ITEMS = "_foreach_items"  # holds the items of a foreach over something that can't be indexed


class Source(abc.ABC):
    """Answers what a task asks for while it runs.

    `StoreSource` reads the store's file. A task on another machine has a source that sends the questions over the
    task's channel, to a `StoreSource` on the driver's side.
    """

    @abc.abstractmethod
    def parameters(self) -> Mapping[str, Blob]:
        """Return the run's parameters and constants, by name."""

    @abc.abstractmethod
    def artifacts(self, task_ids: Sequence[int], name: str | None = None) -> Mapping[int, Mapping[str, Blob | None]]:
        """Return the artifacts of tasks of the run, inherited ones included, by task and name; `None`: deleted.

        Args:
            task_ids: the tasks; of many, an answer may leave out the last ones.
            name: of the only artifact that is wanted; default: all.
        """

    @abc.abstractmethod
    def load(self, blob: Blob, name: str) -> Any:
        """Return the value of a blob of the run.

        Args:
            blob: its row, as `parameters` or `artifacts` returned it.
            name: what to call it in messages.

        Raises:
            StoreCorrupt: its bytes don't match their hash.
            UntrustedArtifact: it is a pickle that this user neither wrote nor trusts.
            ArtifactError: it can't be rebuilt here.
        """

    def item(self, split: OpenSplit) -> Any:
        """Return the item of a foreach that a task has, from the artifact that holds all of them."""
        name = split.items_from or ""
        blob = self.artifacts([split.opener_id], name)[split.opener_id][name]
        assert blob is not None  # `self` has no way to delete it
        return self.load(blob, name)[split.index]


class StoreSource(Source):
    """Reads the store's file, which is opened when the first question is asked.

    Args:
        store: the store, or what returns it.
        run_id: the run.
    """

    def __init__(self, store: Callable[[], Database], run_id: int) -> None:
        self._store = store
        self._run_id = run_id

    @classmethod
    def of(cls, order: Order) -> StoreSource:
        """Return the source of a task on the machine that has the store."""
        return cls(functools.partial(store_at, order.run.store), order.run.run_id)

    def parameters(self) -> Mapping[str, Blob]:
        """Return the run's parameters and constants, by name."""
        rows = queries.parameters_of(self._store(), self._run_id)
        return {row["name"]: Blob.of(row) for row in rows}

    def artifacts(self, task_ids: Sequence[int], name: str | None = None) -> Mapping[int, Mapping[str, Blob | None]]:
        """Return the artifacts of the first tasks of many, inherited ones included, by task and name."""
        with self._store().read() as db:
            return known_artifacts(db, dict.fromkeys(task_ids[:PAGE]), name)

    def load(self, blob: Blob, name: str) -> Any:
        """Return the value of a blob of the run."""
        return blobs.load(self._store(), blob, name, run_id=self._run_id)

    def find(self, blob_id: int) -> Blob:
        """Return a blob of the store by its row, for a task without one; raise StoreCorrupt where there is none."""
        row = self._store().row(f"select {blobs.COLUMNS} from blobs b where b.id = ?", (blob_id,))
        if row is None:
            raise StoreCorrupt.damaged(f"there is no blob {blob_id}", self._store().path)
        return Blob.of(row)

    def loadable(self, known: Mapping[str, Blob | None]) -> dict[str, Blob | None]:
        """Return blobs without the bytes of pickles that the user does not trust: a task elsewhere can't tell."""
        store, run_id = self._store(), self._run_id
        return {
            name: blob
            if blob is None
            or blob.data is None
            or codecs.is_safe(blob.codec)
            or trust.may_load(store, run_id, blob.id, blob.sha, blob.codec)
            else later.evolve(blob, data=None)
            for name, blob in known.items()
        }

    def chunk(self, blob: Blob, name: str, n: int) -> bytes:
        """Return a chunk of a blob of the run, for a task that has no store and compares the bytes with the hash.

        Args:
            blob: the blob.
            name: what to call it in messages.
            n: the chunk's number; a blob of no bytes has one of no bytes.

        Raises:
            FlowstoreError: as `load` does.
        """
        store = self._store()
        with store.read() as db:
            if n == 0:
                blobs.check_trust(store, blob, name, self._run_id)
                blobs.check_size(db, store, blobs.fetched(db, blob), name)
            return blobs.chunk(db, blob, n)


class Inherited:
    """The artifacts of the tasks that flow into a task, fetched for many of these when one is asked for."""

    def __init__(self, source: Source, task_ids: Sequence[int]) -> None:
        self._source = source
        self._task_ids = task_ids
        self._fetched: Mapping[int, Mapping[str, Blob | None]] = {}

    def of(self, task_id: int) -> Mapping[str, Blob | None]:
        """Return a task's artifacts, inherited ones included; `None` for those that were deleted."""
        if task_id not in self._fetched:
            at = self._task_ids.index(task_id)
            self._fetched = self._source.artifacts(self._task_ids[at:])
        return self._fetched[task_id]


class TaskLink:
    """Connects a flow's instance to its task: where inherited artifacts come from (see `flow.spec.Link`).

    Args:
        order: of the task; for an input of a join, the join's.
        source: answers for what is not in the order.
        step: the step's name; for an input of a join, the input's.
        inherited: the artifacts to start from, by task; default: those of the task `task_id` alone.
        task_id: the task that the artifacts are inherited from; `None` for the run's first task.
        index: the position of an input of a join in the foreach that is joined.
        is_join: whether the step joins.
    """

    __slots__ = (  # a join has one for each of its inputs
        "_deleted", "_frames", "_index", "_inherited", "_order", "_source", "_task_id", "_visible",
        "first_values", "forgotten", "is_join", "loaded", "merged", "step", "transition",
    )  # fmt: skip

    def __init__(
        self,
        order: Order,
        source: Source,
        *,
        step: str,
        task_id: int | None,
        inherited: Inherited | None = None,
        index: int | None = None,
        is_join: bool = False,
    ) -> None:
        self.step = step
        self.is_join = is_join
        self.transition: Transition | None = None
        self.first_values: dict[str, Any] = {}
        self.loaded: dict[str, tuple[Blob | Inline, Any]] = {}
        self.merged: dict[str, Blob] = {}
        self.forgotten: tuple[str, ...] = ()
        self._order = order
        self._source = source
        self._task_id = task_id
        self._inherited = inherited
        self._index = index
        self._visible: Mapping[str, Blob] | None = None
        self._deleted: Collection[str] = ()  # known with what is visible
        self._frames: list[spec.Frame] | None = None

    def visible(self) -> Mapping[str, Blob]:
        """Return all inherited artifacts, by name."""
        if self._visible is None:
            if self._task_id is None:
                self._visible = self._source.parameters()
            else:
                inherited = self._inherited or Inherited(self._source, [self._task_id])
                known = inherited.of(self._task_id)
                self._visible = {name: blob for name, blob in known.items() if blob is not None}
                self._deleted = known.keys() - self._visible.keys()
        return self._visible

    def names(self) -> Collection[str]:
        """Return the names of the inherited artifacts."""
        return self.visible().keys()

    def has_first_value(self, name: str) -> bool:
        """Return whether the flow's `__init__` has set something that no task before this one has deleted."""
        return name in self.first_values and name not in self._deleted

    def load(self, name: str) -> Any:
        """Return the value of an inherited artifact; raise KeyError where there is none."""
        if name in self.loaded:
            return self.loaded[name][1]
        if name in self.forgotten:
            raise KeyError(name)
        if name in self._order.run.parameters:
            return self.load_parameter(name)
        blob: Blob | Inline = self.merged.get(name) or self._at_hand(name) or self.visible()[name]
        value = self.load_blob(blob, name)
        self.loaded[name] = (blob, value)
        return value

    def _at_hand(self, name: str) -> Inline | None:
        """Return an inherited artifact that came with the order."""
        value = self._order.values.get(name)
        return None if value is None else Inline(*value)  # an order that has inputs to join has none of these

    def load_blob(self, blob: Blob | Inline, name: str) -> Any:
        """Return the value of a blob that the run has."""
        if not isinstance(blob, Inline):
            return self._source.load(blob, name)
        try:
            return blob.load()
        except ArtifactError as error:
            raise ArtifactError(f"{name}: {error}") from error

    def load_parameter(self, name: str) -> Any:
        """Return the value of one of the run's parameters."""
        inline = self._order.run.parameters[name]
        return self.load_blob(self.visible()[name], name) if inline is None else inline.load()

    def merge(self, own: dict[str, Any], inputs: Inputs, include: Sequence[str], exclude: Sequence[str]) -> None:
        """Carry artifacts of joined tasks over; those that have the same bytes are not loaded."""
        if not self.is_join:
            raise ArtifactError("merge_artifacts works in a join only, a step that takes inputs.")
        fixed = set(self._order.run.parameters) | set(self._order.run.constants)
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
        """Return whether blobs with different bytes hold equal values."""
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
        if name in self._order.run.parameters or name in self.forgotten:
            return False
        known = self.merged.pop(name, None) is not None or name in self.visible() or self.has_first_value(name)
        self.loaded.pop(name, None)
        if known:
            self.forgotten += (name,)
        return known

    @property
    def frames(self) -> list[spec.Frame]:
        """The enclosing foreaches, with their items."""
        if self._frames is None:
            splits = [*self._order.splits]
            if self._index is not None and self._order.joined is not None:
                splits.append(later.evolve(self._order.joined, index=self._index))
            self._frames = [spec.Frame(split.index or 0, split.count, self._item(split)) for split in splits]
        return self._frames

    def _item(self, split: OpenSplit) -> Any:
        """Return the item of one enclosing foreach: from the order if it is small, else from the source."""
        if split.kind == "gang":
            return split.index
        return self._source.item(split) if split.item is None else split.item.load()


INLINE_ITEM_BYTES = 2048  # items of a foreach of at most this size travel with the task
INLINE_ITEMS_BYTES = 64 << 20
MAX_ITEM = 200  # characters of an item's preview
_MAX_BYTES = 4 << 20


def item_preview(item: object) -> str:
    """Return a preview of a foreach item."""
    return codecs.preview(item)[:MAX_ITEM]


def inline_items(items: Sequence[Any]) -> list[Inline] | None:
    """Return the items of a foreach where all are small: each task then gets its own without loading the list."""
    inline: list[Inline] = []
    total = 0
    for item in items:
        try:
            encoded = encode(item, described=False)
        except ArtifactError:  # the list itself could be stored, so its tasks take their items from there
            return None
        total += encoded.size_bytes
        if encoded.size_bytes > INLINE_ITEM_BYTES or total > INLINE_ITEMS_BYTES:
            return None
        inline.append(Inline.of(encoded))
    return inline


def previews_at_need(
    store: Database, opener_id: int, items_from: str | None, count: int | None
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
    if blob is None or not _is_read(blob):
        return None
    try:
        items = codecs.decode(blob.codec, iter([b"".join(blobs.read(db, blob))]), blob.size_bytes)
        return items if hasattr(items, "__len__") and hasattr(items, "__getitem__") else None
    except FlowstoreError:  # it is damaged, as a task that needs it will report
        return None


def _is_read(blob: Blob) -> bool:
    """Return whether a list of items is read for the previews: it is small, and reading it executes no code."""
    return codecs.is_safe(blob.codec) and bool(codecs.entry_of(blob.codec).indexable) and blob.size_bytes <= _MAX_BYTES


def inputs_of(flow: type[FlowSpec], order: Order, source: Source) -> Inputs:
    """Return the inputs of a join."""
    inherited = Inherited(source, [task_id for task_id, _ in order.inputs])
    links = [
        TaskLink(
            order,
            source,
            step=step,
            task_id=task_id,
            inherited=inherited,
            index=None if order.joined is None else index,
        )
        for index, (task_id, step) in enumerate(order.inputs)
    ]
    return Inputs([spec.bind(flow, link) for link in links], [link.step for link in links])
