"""What all objects have in common: an address, a parent, tags, a namespace to be in.

An object is no more than its pathspec and its store; each question is a query. The kinds know each other by
their depth in the pathspec, so that a task can name its step without importing what a step is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

from flowstore import context
from flowstore.errors import InvalidPathspec, NamespaceMismatch, NotFound, StoreCorrupt
from flowstore.sqlite.database import Row, Store
from flowstore.sqlite.liveness import is_dead
from flowstore.store.opening import active_store, store_at

if TYPE_CHECKING:
    from flowstore.store.tags import Node

_LARGEST_ID = 2**63 - 1
MOST_KEYS = 100  # of what Tab offers
Item = TypeVar("Item")
DONE = frozenset({"successful", "failed", "stopped"})
_kinds: dict[int, Any] = {}  # depth of the pathspec: the class


def number(kind: str, text: str) -> int:
    """An id as a number; what isn't one can't exist."""
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST_ID))
    if not plain or text != str(int(text)) or int(text) > _LARGEST_ID:
        raise NotFound(f"There is no {kind} {text[:100]!r}: {kind} ids are numbers.")
    return int(text)


def _a(kind: str) -> str:
    return f"an {kind}" if kind.startswith("a") else f"a {kind}"


class _LazyStore:
    """The store of an object that was pickled, opened at first use, in whichever process that is."""

    def __get__(self, instance: InStore, owner: type) -> Store:
        store = vars(instance)["_store"] = store_at(instance._path)
        return store


class InStore:
    """Something in a store; it is pickled as the store's path and what finds it there."""

    _PICKLED: ClassVar[tuple[str, ...]] = ()  # the attributes that find it
    if TYPE_CHECKING:
        _store: Store
    else:
        _store = _LazyStore()

    @property
    def _path(self) -> str:
        """The path of the store, whether that is open or not."""
        store = vars(self).get("_store")
        return str(vars(self)["_pickled_path"] if store is None else store.path)

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self._path, **{name.lstrip("_"): getattr(self, name) for name in self._PICKLED}}

    def __setstate__(self, values: dict[str, Any]) -> None:
        vars(self).update({name: values[name.lstrip("_")] for name in self._PICKLED}, _pickled_path=values["store"])


class Object(InStore):
    """What all objects have in common: an address, a parent, tags."""

    _PICKLED: ClassVar[tuple[str, ...]] = ("pathspec",)

    _KIND: ClassVar[str]
    _FORM: ClassVar[str]
    _DEPTH: ClassVar[int]
    _SPLITS: ClassVar[int] = -1  # of a pathspec at its slashes: all, but for an artifact, whose name may hold more

    pathspec: str

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "_KIND" in vars(cls):
            _kinds[cls._DEPTH] = cls

    def _open(self, pathspec: str) -> list[str]:
        if not isinstance(pathspec, str):
            raise InvalidPathspec(f"Address {_a(self._KIND)} by text of the form {self._FORM}, not {pathspec!r}.")
        parts = pathspec.split("/", self._SPLITS)
        if len(parts) != self._DEPTH or not all(parts) or not context.is_text(pathspec):
            raise InvalidPathspec(f"{pathspec!r} does not address {_a(self._KIND)}: give {self._FORM}.")
        self._store = active_store()
        self.pathspec = pathspec
        return parts

    def _above(self, depth: int) -> Any:
        """The object above this one that has `depth` parts in its pathspec."""
        return _kinds[depth]._at(self._store, "/".join(self.path_components[:depth]))

    def _below(self, ident: object) -> Any:
        """The object of that id in this one; raises like its constructor."""
        with using(self._store):
            return _kinds[self._DEPTH + 1](f"{self.pathspec}/{ident}")

    @property
    def path_components(self) -> list[str]:
        """The parts of the pathspec."""
        return self.pathspec.split("/", self._SPLITS)

    @property
    def id(self) -> str:
        """The last part of the pathspec."""
        return self.path_components[-1]

    def _effective_tags(self) -> tuple[set[str], set[str]]:
        """User tags and system tags, own and inherited."""
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

    def _check_namespace(self) -> None:
        active = context.get_namespace()
        if active is None or self._is_of_the_running_task() or active in self.tags:
            return
        owners = sorted(tag for tag in self.system_tags if tag.startswith(("user:", "production:")))
        raise NamespaceMismatch(
            f"{self._KIND.capitalize()} {self.pathspec} is not in the active namespace, {active!r}. To use it:",
            *owners[:1],
            None,
        )

    def _lacking(self, tags: Iterable[str]) -> set[str]:
        """Those of the tags, and of the namespace, that what is below this must have itself to be listed."""
        wanted = set(tags)
        if (active := context.get_namespace()) is not None and not self._is_of_the_running_task():
            wanted.add(active)
        return wanted - self.tags if wanted else wanted

    def _is_of_the_running_task(self) -> bool:
        """Whether this is part of the run that asks, which may look at itself in whatever namespace it looks."""
        running: str = context.state.task.get("pathspec", "")
        return running.split("/")[:2] == self.path_components[:2]

    @classmethod
    def _at(cls, store: Store, pathspec: str) -> Self:
        """An object that is known to exist, without looking; StoreCorrupt if no name can be part of a pathspec."""
        if len(pathspec.split("/", cls._SPLITS)) != cls._DEPTH:
            raise StoreCorrupt.damaged(f"no {cls._KIND} can be {pathspec!r}", store.path)
        made = cls.__new__(cls)
        made._store = store
        made.pathspec = pathspec
        return made

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
        found: Item = self._below(ident)
        return found

    def __contains__(self, ident: object) -> bool:
        try:
            self._below(ident)
        except (NotFound, NamespaceMismatch, InvalidPathspec):
            return False
        return True

    def __iter__(self) -> Iterator[Item]:
        raise AssertionError  # each kind of container defines it

    def _ipython_key_completions_(self) -> list[str]:
        """What Tab offers after an opening bracket: the newest ids."""
        return [item.id for item in itertools.islice(cast("Iterable[Any]", self), MOST_KEYS)]


class Ending(Object):
    """An object with a status, a beginning and an end."""

    @property
    def status(self) -> str:
        """'running', 'successful', 'failed', 'stopped', or 'dead' if its process died."""
        raise AssertionError  # runs and tasks define it

    @property
    def successful(self) -> bool:
        """Whether all went well; a failure that was caught is well too."""
        return self.status == "successful"

    @property
    def finished(self) -> bool:
        """Whether it came to an end: successful, failed or stopped."""
        return self.status in DONE


def status_of(run: Row) -> str:
    """A run's status as it is now: the driver of one that is recorded as running may have died."""
    status: str = run["status"]
    return "dead" if status == "running" and is_dead(run) else status


class using:  # noqa: N801  # a context manager used as a function
    """Make an object's store the active one while another object of it is made."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        self._before = context.state.store
        context.state.store = self._store

    def __exit__(self, *_: object) -> None:
        context.state.store = self._before


class Tagged(Object):
    """An object whose tags can be changed. Each call changes all that it says, or nothing."""

    def _node(self) -> Node:
        """Where its tags are stored."""
        raise AssertionError  # each kind of object defines it

    def add_tag(self, tag: str) -> None:
        """Add a tag; no error if it is there.

        Raises:
            TaggingError: the tag is not allowed.
        """
        self.replace_tags([], [tag])

    def add_tags(self, tags: Iterable[str]) -> None:
        """Add tags; see `add_tag`."""
        self.replace_tags([], tags)

    def remove_tag(self, tag: str) -> None:
        """Remove a tag; no error if it is not there.

        Raises:
            TaggingError: it is a system tag, or inherited from an object above.
        """
        self.replace_tags([tag], [])

    def remove_tags(self, tags: Iterable[str]) -> None:
        """Remove tags; see `remove_tag`."""
        self.replace_tags(tags, [])

    def replace_tag(self, tag_to_remove: str, tag_to_add: str) -> None:
        """Remove one tag and add another."""
        self.replace_tags([tag_to_remove], [tag_to_add])

    def replace_tags(self, tags_to_remove: Iterable[str], tags_to_add: Iterable[str]) -> None:
        """Remove tags, then add others."""
        from flowstore.store import tags  # not before a tag is changed: looking at results needs none of it

        tags.change(self._store, self._node(), remove=tags_to_remove, add=tags_to_add)
