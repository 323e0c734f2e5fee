"""The base of all Client objects: an address, a parent, tags, and a scope.

An object is no more than its pathspec and its scope: a store, and the namespace that is seen of it. What is reached
from an object has the same scope. Each question is a query. The kinds know each other by their depth in the pathspec,
so that a task can name its step without importing what a step is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

from flowstore.client import addresses
from flowstore.client.addresses import Scope, active_scope
from flowstore.context import UNSET, Unset
from flowstore.errors import InvalidPathspec, NamespaceMismatch, NotFound, StoreCorrupt, TaggingError
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.liveness import is_dead
from flowstore.store import tags
from flowstore.store.opening import store_at

MOST_KEYS = 100  # of what Tab offers
Item = TypeVar("Item")
DONE = frozenset({"successful", "failed", "stopped"})
kinds: dict[int, Any] = {}  # depth of the pathspec: the class


class _LazyScope:
    """The scope of an object that was pickled; its store is opened at first use, in whichever process that is."""

    def __get__(self, instance: InStore, owner: type) -> Scope:
        values = vars(instance)
        scope = values["_scope"] = Scope(store_at(instance._path), values["_pickled"].get("namespace", UNSET))
        return scope


class InStore:
    """Something in a store; it is pickled as the store's path and what finds it there."""

    _PICKLED: ClassVar[tuple[str, ...]] = ()  # the attributes that find it
    if TYPE_CHECKING:
        _scope: Scope
    else:
        _scope = _LazyScope()

    @property
    def _store(self) -> Database:
        return self._scope.store

    @property
    def _path(self) -> str:
        """The path of the store, whether that is open or not."""
        scope = vars(self).get("_scope")
        return str(vars(self)["_pickled"]["store"] if scope is None else scope.store.path)

    def __getstate__(self) -> dict[str, Any]:
        scope = vars(self).get("_scope")
        chosen = vars(self)["_pickled"].get("namespace", UNSET) if scope is None else scope.chosen
        namespace = {} if isinstance(chosen, Unset) else {"namespace": chosen}
        return {"store": self._path, **namespace, **{name.lstrip("_"): getattr(self, name) for name in self._PICKLED}}

    def __setstate__(self, values: dict[str, Any]) -> None:
        found_by = {name: values[name.lstrip("_")] for name in self._PICKLED}
        vars(self).update(found_by, _pickled={name: values[name] for name in ("store", "namespace") if name in values})


class Object(InStore):
    """The base of all Client objects: an address, a parent, tags."""

    _PICKLED: ClassVar[tuple[str, ...]] = ("pathspec",)

    _KIND: ClassVar[str]
    _DEPTH: ClassVar[int]
    _SPLITS: ClassVar[int] = -1  # of a pathspec at its slashes: all, but for an artifact, whose name may hold more

    pathspec: str

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "_KIND" in vars(cls):
            kinds[cls._DEPTH] = cls

    def __init__(self, pathspec: str) -> None:
        self._look_up(active_scope, pathspec)

    @classmethod
    def _get(cls, scope: Scope, pathspec: str) -> Self:
        """Return the object of that pathspec; raise as the constructor does."""
        item = cls.__new__(cls)
        item._look_up(lambda: scope, pathspec)
        return item

    def _look_up(self, scope: Callable[[], Scope], pathspec: str) -> None:
        """Become the object of a pathspec.

        Raises:
            InvalidPathspec: it is no pathspec of this kind of object.
            NotFound: there is no such object.
            NamespaceMismatch: it is outside the namespace.
        """
        parts = addresses.split(pathspec, self._DEPTH)  # before a store is looked for
        self._scope = scope()
        self.pathspec = "/".join(addresses.with_ids(self._scope, parts))
        self._check_exists()
        self._check_namespace()

    def _check_exists(self) -> None:
        raise AssertionError  # each kind of object defines it

    def _above(self, depth: int) -> Any:
        """Return the object above this one that has `depth` parts in its pathspec."""
        return kinds[depth]._at(self._scope, "/".join(self.path_components[:depth]))

    def _below(self, ident: object) -> Any:
        """Return the object of that id in this one; raise as its constructor does."""
        return kinds[self._DEPTH + 1]._get(self._scope, f"{self.pathspec}/{ident}")

    @property
    def path_components(self) -> list[str]:
        """The parts of the pathspec."""
        return self.pathspec.split("/", self._SPLITS)

    @property
    def id(self) -> str:
        """The last part of the pathspec."""
        return self.path_components[-1]

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        """Return user tags and system tags, own and inherited."""
        raise AssertionError  # each kind of object defines it

    @property
    def tags(self) -> frozenset[str]:
        """All tags, the inherited ones included."""
        user, system = self._effective_tags()
        return frozenset(user | system)

    @property
    def user_tags(self) -> frozenset[str]:
        """The tags that people set."""
        return frozenset(self._effective_tags()[0])

    @property
    def system_tags(self) -> frozenset[str]:
        """The tags that flowstore set."""
        return frozenset(self._effective_tags()[1])

    def is_in_namespace(self) -> bool:
        """Return whether it is in the active namespace; everything is in the global one."""
        try:
            self._check_namespace()
        except NamespaceMismatch:
            return False
        return True

    @property
    def origin_pathspec(self) -> str | None:
        """The pathspec of what it stands for or goes on with, in a resumed run; else `None`."""
        return None

    def _check_namespace(self) -> None:
        active = self._scope.namespace
        if active is None or self._scope.exempts(self.path_components[:2]) or active in self.tags:
            return
        owners = sorted(tag for tag in self.system_tags if tag.startswith(("user:", "production:")))
        raise self._scope.mismatch(f"{self._KIND.capitalize()} {self.pathspec} is not in", "To use it:", *owners[:1])

    def _lacking(self, tags: Iterable[str]) -> set[str]:
        """Return the requested tags, and the namespace, that this lacks: what is below must carry them itself."""
        wanted = set(tags)
        active = self._scope.namespace
        if active is not None and not self._scope.exempts(self.path_components[:2]):
            wanted.add(active)
        return wanted - self.tags if wanted else wanted

    @classmethod
    def _at(cls, scope: Scope, pathspec: str) -> Self:
        """Return an object that is known to exist, without looking.

        Raises:
            StoreCorrupt: a name that was read can be no part of a pathspec.
        """
        if len(pathspec.split("/", cls._SPLITS)) != cls._DEPTH:
            raise StoreCorrupt.damaged(f"no {cls._KIND} can be {pathspec!r}", scope.store.path)
        item = cls.__new__(cls)
        item._scope = scope
        item.pathspec = pathspec
        return item

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pathspec!r})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Object)
            and type(other) is type(self)
            and other.pathspec == self.pathspec
            and other._path == self._path
        )

    def __hash__(self) -> int:
        return hash((type(self), self.pathspec, self._path))


class Container(Object, Generic[Item]):
    """An object that holds others, by id."""

    def __getitem__(self, ident: str | int) -> Item:
        item: Item = self._below(ident)
        return item

    def __contains__(self, ident: object) -> bool:
        try:
            self._below(ident)
        except (NotFound, NamespaceMismatch, InvalidPathspec):
            return False
        return True

    def __iter__(self) -> Iterator[Item]:
        raise AssertionError  # each kind of container defines it

    def _ipython_key_completions_(self) -> list[str]:
        """Return what Tab offers after an opening bracket: the newest ids."""
        return [item.id for item in itertools.islice(cast("Iterable[Any]", self), MOST_KEYS)]


class Ending(Object):
    """An object with a status, a beginning and an end."""

    @property
    def status(self) -> str:
        """'running', 'successful', 'failed', 'stopped', or 'dead' if its process died."""
        raise AssertionError  # runs and tasks define it

    @property
    def successful(self) -> bool:
        """Whether it succeeded; a failure that was caught counts as success."""
        return self.status == "successful"

    @property
    def finished(self) -> bool:
        """Whether it came to an end: successful, failed or stopped."""
        return self.status in DONE


def status_of(run: Row) -> str:
    """Return a run's status as it is now: the driver of one that is recorded as running may have died."""
    status: str = run["status"]
    return "dead" if status == "running" and is_dead(run) else status


class Tagged(Object):
    """An object whose tags can be changed. Each call changes all that it says, or nothing."""

    def _node(self) -> tags.Node:
        """Return where its tags are stored."""
        raise AssertionError  # each kind of object defines it

    def add_tag(self, tag: str | Iterable[str]) -> None:
        """Add a tag, or several; no error if it is there.

        Raises:
            TaggingError: the tag is not allowed.
        """
        self._change([], _several(tag))

    def add_tags(self, tags: str | Iterable[str]) -> None:
        """Add tags; see `add_tag`."""
        self._change([], _several(tags))

    def remove_tag(self, tag: str | Iterable[str]) -> None:
        """Remove a tag, or several; no error if it is not there.

        Raises:
            TaggingError: it is a system tag, or inherited from an object above.
        """
        self._change(_several(tag), [])

    def remove_tags(self, tags: str | Iterable[str]) -> None:
        """Remove tags; see `remove_tag`."""
        self._change(_several(tags), [])

    def replace_tag(self, tag_to_remove: str | Iterable[str], tag_to_add: str | Iterable[str]) -> None:
        """Remove one tag and add another; see `replace_tags`."""
        self.replace_tags(tag_to_remove, tag_to_add)

    def replace_tags(self, tags_to_remove: str | Iterable[str], tags_to_add: str | Iterable[str]) -> None:
        """Remove tags, then add others.

        Raises:
            TaggingError: a tag is not allowed, or there is nothing to remove and nothing to add.
        """
        removed, added = _several(tags_to_remove), _several(tags_to_add)
        if not removed and not added:
            raise TaggingError("There is nothing to replace: give tags to remove, tags to add, or both.")
        self._change(removed, added)

    def _change(self, tags_to_remove: Iterable[str], tags_to_add: Iterable[str]) -> None:
        from flowstore.store.records import record_dead_runs  # not before a tag is changed: it is part of running

        record_dead_runs(self._store)
        tags.change(self._store, self._node(), remove=tags_to_remove, add=tags_to_add)


def _several(tags: str | Iterable[str]) -> Any:
    """Return what was given as tags, one text or several, to be checked."""
    if isinstance(tags, bytes) or not isinstance(tags, Iterable):
        return tags
    return [tags] if isinstance(tags, str) else [*tags]
