"""Artifacts: one with its address, all of a task's, and their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from flowstore import later
from flowstore.client import addresses
from flowstore.client.base import Tagged
from flowstore.client.code import missing_module, where_code_is
from flowstore.errors import ArtifactError, InvalidPathspec, NotFound
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import blobs, inheritance, tags
from flowstore.store.blobs import Blob
from flowstore.text import safe

if TYPE_CHECKING:
    from flowstore.client.task import Task

_TELLING_BYTES = 64  # that two artifacts of so many are equal says something


class DataArtifact(Tagged):
    """One artifact of a task.

    Args:
        pathspec: `FlowName/run_id/step/task_id/name`.
    """

    _KIND, _DEPTH = "artifact", 5
    _PICKLED = ("pathspec", "_task")
    _SPLITS = 4  # version 0.1.0 let names hold slashes

    def _check_exists(self) -> None:
        self._task: Task = self._above(4)
        addresses.number("task", self._task.id)
        if self._task._find() is None:
            raise addresses.missing(self._store, self.path_components)
        if self.id not in self._task._blobs(self.id):
            if "/" in self.id:
                raise InvalidPathspec(f"{self.pathspec!r} does not address an artifact: give {addresses.FORMS[5]}.")
            raise addresses.missing(self._store, self.path_components, self._task._blobs())

    @classmethod
    def _of(cls, task: Task, name: str) -> DataArtifact:
        artifact = cls._at(task._scope, f"{task.pathspec}/{name}")
        artifact._task = task
        return artifact

    def _node(self) -> tags.Node:
        row = self._task._row()
        return tags.Node(self.pathspec, row["run_id"], row["step_id"], row["id"], self.id)

    @property
    def parent(self) -> Task:
        """The task."""
        return self._task

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        user, system = self._task._effective_tags()
        row = self._task._row()
        return user | set(tags.node_tags(self._store, row["run_id"], row["step_id"], row["id"], self.id)), system

    def _blob(self) -> Blob:
        blob = self._task._blobs(self.id).get(self.id)
        if blob is None:
            raise NotFound(f"Artifact {self.pathspec} was deleted from {self._store.path}.")
        return blob

    @property
    def data(self) -> Any:
        """The value.

        Raises:
            UntrustedArtifact: it is a pickle that this user's runs did not write.
            ArtifactError: it can't be rebuilt here, or was left out when this file was exported.
            StoreCorrupt: its bytes are damaged.
        """
        return self._load(self._blob())

    def _load(self, blob: Blob) -> Any:
        try:
            return blobs.load(self._store, blob, self.pathspec, run_id=int(self.path_components[1]))
        except ArtifactError as error:
            hint = missing_module(self._task._run.code, error)
            if hint is None:
                raise
            run = "/".join(self.path_components[:2])
            raise ArtifactError(f"{self.pathspec}: {hint} {where_code_is(run)}") from error

    def copy_to(self, file: BinaryIO) -> None:
        """Write its bytes to an open file, as they are stored, without making the value.

        Raises:
            StoreCorrupt: they are damaged.
            ArtifactError: they were left out when this file was exported.
        """
        blobs.copy(self._store, self._blob(), file, self.pathspec)

    def _repr_html_(self) -> str:
        from flowstore.client import html

        return html.artifact(self)

    @property
    def sha(self) -> str:
        """SHA-256 of its bytes, in hex."""
        return self._blob().sha.hex()

    @property
    def size(self) -> int:
        """Its size, in bytes."""
        return self._blob().size_bytes

    @property
    def codec(self) -> str:
        """The codec of its bytes, such as 'json' or 'pickle'; see `flowstore.store.codecs`."""
        return self._blob().codec

    @property
    def type(self) -> str:
        """The name of its Python type."""
        return self._blob().type

    @property
    def preview(self) -> str:
        """A short text that shows it, without loading it."""
        return self._blob().preview

    @property
    def origin_pathspec(self) -> str | None:
        """The pathspec of the artifact that a resumed run took this one over from; else `None`."""
        origin = self._task.origin_pathspec
        return None if origin is None else f"{origin}/{self.id}"

    @property
    def finished_at(self) -> datetime:
        """When the attempt that set it ended, in UTC; `created_at` is the same."""
        return self.created_at

    @property
    def created_at(self) -> datetime:
        """When the attempt that set it ended, in UTC."""
        attempt = self._task._attempt_row()
        setter = inheritance.setter_of(self._store, attempt["task_id"], attempt["id"], self.id)
        return self._task._run.created_at if setter is None else time_of(setter["at"])


@later.frozen
class Provenance:
    """Where the bytes of an artifact come from, and where else they are.

    Attributes:
        set_by: the pathspec of the task that set it; `None` for a parameter, which the run has.
        set_at: when, in UTC.
        elsewhere: the pathspecs of other artifacts that were set to the same bytes, the latest first, at most ten.
    """

    set_by: str | None
    set_at: datetime
    elsewhere: list[str]


def provenance(artifact: DataArtifact) -> Provenance:
    """Return where an artifact's bytes come from, and where else they are."""
    attempt, blob, store = artifact._task._attempt_row(), artifact._blob(), artifact._store
    setter = inheritance.setter_of(store, attempt["task_id"], attempt["id"], artifact.id)
    if setter is None:
        return Provenance(None, artifact._task._run.created_at, [])
    flow = artifact.path_components[0]
    but = (setter["task_id"], artifact.id)
    elsewhere = inheritance.same_bytes(store, blob.id, but, 10) if blob.size_bytes >= _TELLING_BYTES else []
    set_by = f"{flow}/{setter['run_id']}/{setter['step']}/{setter['task_id']}"
    return Provenance(set_by, time_of(setter["at"]), elsewhere)


class Artifacts:
    """A task's artifacts: iterable, by attribute, by name."""

    def __init__(self, task: Task, names: Sequence[str]) -> None:
        self._task = task
        self._names = names

    def __iter__(self) -> Iterator[DataArtifact]:
        return (DataArtifact._of(self._task, name) for name in self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> DataArtifact:
        return self._task[name]

    def __getattr__(self, name: str) -> DataArtifact:
        if name == "_task":  # not there yet, while a copy is made
            raise AttributeError(name)
        if name.startswith("__") or name not in self._task:
            raise AttributeError(f"Task {self._task.pathspec} has no artifact {name!r}.")
        return self._task[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._names)

    def __repr__(self) -> str:
        return safe(f"Artifacts({', '.join(self._names)})")


class Data:
    """The values of a task's artifacts, by attribute."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        if name == "_task":  # not there yet, while a copy is made
            raise AttributeError(name)
        blob = None if name.startswith("__") else self._task._blobs(name).get(name)
        if blob is None:
            raise AttributeError(f"Task {self._task.pathspec} has no artifact {name!r}.")
        return DataArtifact._of(self._task, name)._load(blob)

    def __contains__(self, name: object) -> bool:
        return name in self._task

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._task.artifacts._names]

    def __repr__(self) -> str:
        return safe(f"Data({', '.join(self._task.artifacts._names)})")
