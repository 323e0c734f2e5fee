"""Values to pickles and back: the one place of the package that unpickles.

Classes of the flow file need care. cloudpickle writes classes of `__main__` by value, so that two processes
of one run would each rebuild a class of their own, and `isinstance`, `==` and enums would fail between them.
Here such a class is written as a name *and* a by-value copy. A process that runs the same flow resolves the
name, to its own class; any other rebuilds the copy, once for all artifacts that hold the same copy.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
from collections.abc import Callable, Iterator
from io import BytesIO
from types import ModuleType
from typing import Any, Protocol

import cloudpickle

from flowstore.context import state

PROTOCOL = 5
_rebuilt: dict[bytes, type] = {}
_copies: dict[type, bytes | None] = {}


class Readable(Protocol):
    """A binary file, as much of it as an unpickler needs."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self, /) -> bytes: ...


def dump(value: Any, write: Callable[[Any], Any]) -> object:
    """Pickle `value`, calling `write` with each piece; large buffers are passed without a copy.

    Returns:
        An object that keeps the pieces' memory alive; hold it as long as they are used.
    """
    pickler = _Pickler(_Sink(write), protocol=PROTOCOL)
    with _at_store():
        pickler.dump(value)
    return pickler


def load(file: Readable) -> Any:
    """Rebuild a value. This runs code that the pickle chooses: only for pickles that are trusted."""
    with _at_store():
        return pickle.load(file)  # noqa: S301  # guarded by flowstore.store.blobs, where trust is checked


@contextlib.contextmanager
def _at_store() -> Iterator[None]:
    """Let objects know that they are pickled for the store, or loaded from it, rather than for a pool of processes."""
    before, state.at_store = state.at_store, True
    try:
        yield
    finally:
        state.at_store = before


@functools.cache
def register_classes(module: ModuleType) -> None:
    """Prepare the classes of a flow's module, so that all processes write the same bytes for them."""
    if module.__name__ != "__main__":
        cloudpickle.register_pickle_by_value(module)
    for candidate in list(vars(module).values()):
        if isinstance(candidate, type) and candidate.__module__ == module.__name__:
            _track(candidate, module)


class _Sink:
    """A file for the pickler that hands on what it is given."""

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self.write = write


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def reducer_override(self, obj: Any) -> Any:
        module = state.flow_module
        if module is not None and isinstance(obj, type) and _find(module, obj.__qualname__) is obj:
            return _flow_class, (obj.__qualname__, _copy_of(obj, module))
        return super().reducer_override(obj)


def _find(module: ModuleType, qualname: str) -> Any:
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _copy_of(cls: type, module: ModuleType) -> bytes | None:
    """The class by value, or `None` where that can't be done: then only this flow's processes can load it."""
    if cls not in _copies:
        register_classes(module)
        _track(cls, module)  # one that was made after the module was imported
        try:
            _copies[cls] = cloudpickle.dumps(cls, protocol=PROTOCOL)
        except Exception:  # a lock, a module or an open file among its attributes; anything may raise here
            _copies[cls] = None
    return _copies[cls]


def _track(cls: type, module: ModuleType) -> None:
    """Give the class cloudpickle's identity mark, the same in every run of this source.

    Without it cloudpickle draws a random one in each process: equal values would get different bytes, and
    two artifacts loaded elsewhere would have two classes.
    """
    tracker = getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", None)
    by_id = getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", None)
    if tracker is not None and by_id is not None and cls not in tracker:
        source = getattr(module, "__file__", None) or module.__name__
        mark = hashlib.sha256(f"{source}\0{cls.__qualname__}\0{_members(cls)}".encode()).hexdigest()[:32]
        tracker[cls] = mark
        by_id.setdefault(mark, cls)


def _members(cls: type) -> str:
    codes = [getattr(getattr(value, "__code__", None), "co_code", b"").hex() for value in vars(cls).values()]
    return "\0".join([*vars(cls), *codes])


def _flow_class(qualname: str, copy: bytes | None) -> Any:
    """Called by a pickle: this process's own class of that name if it runs the flow, else the copy."""
    if state.flow_module is not None and isinstance(own := _find(state.flow_module, qualname), type):
        return own
    if copy is None:
        raise pickle.UnpicklingError(f"the class {qualname} can only be loaded inside its own flow")
    mark = hashlib.sha256(copy).digest()
    if mark not in _rebuilt:
        _rebuilt[mark] = load(BytesIO(copy))
    return _rebuilt[mark]
