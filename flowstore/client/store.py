"""A store to hold on to: results of one file, seen in one namespace, whatever this process does besides."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flowstore import context
from flowstore.client import addresses
from flowstore.client.addresses import Scope, active_scope
from flowstore.client.artifact import DataArtifact
from flowstore.client.base import InStore, Object, kinds
from flowstore.client.run import Flow, Flows, Run, Step
from flowstore.client.task import Task
from flowstore.context import UNSET, Unset
from flowstore.sqlite import database
from flowstore.store import opening

if TYPE_CHECKING:
    import os

Kind = TypeVar("Kind", bound=Object)


class Store(InStore):
    """An open store and a namespace of it, as `open_store` returns it.

    What is reached from it looks into this file and this namespace, whichever are active in the process. Any number of
    stores may be open at once, one file several times too, and any thread may use them.

    As a context manager it closes the file at the end. An object that is used after that opens it again.

    Wherever it takes an address, `FlowName/latest`, `FlowName/latest-successful` and `FlowName/5/step/latest` stand
    for the newest run or task, the name of a flow for its latest run, and `FlowName/5/metrics` for an artifact of the
    run's end task.

    Attributes:
        path: the file, absolute.
        namespace: a tag, or `None` where everything is visible.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return self._scope.store.path

    @property
    def namespace(self) -> str | None:
        """The namespace: a tag, or `None` where everything is visible."""
        return self._scope.namespace

    def flows(self) -> Flows:
        """Return the flows that have a run in the namespace."""
        return Flows._in(self._scope)

    def flow(self, name: str) -> Flow:
        """Return a flow.

        Raises:
            NotFound: it was never run in this store.
            NamespaceMismatch: it has no run in the namespace.
        """
        return Flow._get(self._scope, name)

    def run(self, address: str) -> Run:
        """Return a run, such as `"F/5"`, `"F/latest"` or, which is the same, `"F"`.

        Raises:
            InvalidPathspec: it is no address of a run.
            NotFound: there is no such run.
            NamespaceMismatch: it is outside the namespace.
        """
        return self.find(address, Run)

    def step(self, address: str) -> Step:
        """Return a step, such as `"F/5/start"` or `"F/latest/start"`.

        Raises:
            InvalidPathspec, NotFound, NamespaceMismatch: as `run` does.
        """
        return self.find(address, Step)

    def task(self, address: str, attempt: int | None = None) -> Task:
        """Return a task, such as `"F/5/start/17"` or `"F/5/start/latest"`.

        Args:
            address: its address.
            attempt: look at this attempt, from 0, rather than at the last one.

        Raises:
            InvalidPathspec, NotFound, NamespaceMismatch: as `run` does.
        """
        pathspec = addresses.resolve(self._scope, address, [Task._DEPTH])
        return Task._get(self._scope, pathspec) if attempt is None else Task._at_attempt(self._scope, pathspec, attempt)

    def artifact(self, address: str) -> DataArtifact:
        """Return an artifact, such as `"F/5/start/17/x"` or, of the end task, `"F/5/x"`.

        Raises:
            InvalidPathspec, NotFound, NamespaceMismatch: as `run` does.
        """
        return self.find(address, DataArtifact)

    def find(self, address: str, *wanted: type[Kind]) -> Kind:
        """Return the object of an address.

        Args:
            address: text of one of the forms above.
            wanted: the kinds of objects that it may be; by default any.

        Raises:
            InvalidPathspec: it is no address of such an object; the message shows the forms.
            NotFound: there is no such object.
            NamespaceMismatch: it is outside the namespace.
        """
        depths = [kind._DEPTH for kind in wanted] or [*addresses.KINDS]
        pathspec = addresses.resolve(self._scope, address, depths)
        item: Kind = kinds[len(pathspec.split("/", 4))]._get(self._scope, pathspec)
        return item

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Return the rows of a query in SQL, as dicts. The store is only read.

        `flowstore schema` explains the views that answer the usual questions. The namespace does not limit what a
        query sees.

        Raises:
            FlowstoreError: it is not SQL, or does more than read.
        """
        from flowstore.sqlite.user_sql import ask  # with sqlite-utils, which takes 70 ms to import
        from flowstore.store import trust

        return ask(self._scope.store, query, untrusted=trust.is_foreign(self._scope.store))

    def close(self) -> None:
        """Close the file; it is opened again when one of its objects is used again."""
        self._scope.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"open_store({str(self.path)!r}, namespace={self.namespace!r})"


def open_store(path: str | os.PathLike[str], *, namespace: str | Unset | None = UNSET, trust: bool = False) -> Store:
    """Open a store to hold on to, beside the one that is active in this process.

    Args:
        path: the file.
        namespace: a tag that what is looked at must have, such as `"user:anne"`; `None` for everything; by default
            the namespace that is active now.
        trust: load its pickles, which may run any code that whoever wrote the file put there.

    Raises:
        StoreNotFound, NotAStore, StoreCorrupt, StoreTooNew: the file can't be opened as a store.

    Example:
        >>> from flowstore import open_store
        >>> with open_store("elsewhere.db", namespace=None) as store:
        ...     print(store.flow("HelloFlow").latest_run.data.greeting)
        Traceback (most recent call last):
        ...
        flowstore.errors.StoreNotFound: There is no store at ...elsewhere.db.
    """
    chosen = context.get_namespace() if isinstance(namespace, Unset) else context.checked_namespace(namespace)
    return Store(Scope(opening.open_store(path, trusted=trust), chosen))


def active_store() -> Store:
    """Return the store that is active in this process, seen in whichever namespace is active.

    Raises:
        StoreNotFound: there is no store; the message names the paths that were tried.
    """
    return Store(active_scope())


def seen(store: database.Database, namespace: str | Unset | None = UNSET) -> Store:
    """Return an open file as a store to look at, in a namespace; by default the one that is active at the time."""
    return Store(Scope(store, namespace))
