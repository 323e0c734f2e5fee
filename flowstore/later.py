"""`attrs.frozen` for values that nobody compares or prints, whose classes are finished when their first object is made.

attrs writes and compiles methods for each class, which takes a third of a millisecond, and importing attrs takes 14. A
command defines a hundred classes and makes objects of a few. So `@later.frozen` only remembers the class, and its first
object has attrs complete it: in the same class, therefore with a `__dict__` instead of slots.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attrs import field, frozen

__all__ = ["field", "fields", "finish", "finish_all", "frozen", "is_value"]

_unfinished: dict[type, dict[str, Any]] = {}  # the options of each class
_lock = threading.RLock()


class _Field:
    """The options of a field, for attrs."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options


def _field(**options: Any) -> Any:
    return _Field(options)


def _frozen(cls: type | None = None, **options: Any) -> Any:
    if cls is None:
        return functools.partial(_frozen, **options)

    def make_first(self: Any, *args: Any, **kwargs: Any) -> None:
        finish(cls)
        cls.__init__(self, *args, **kwargs)  # type: ignore[misc]

    cls.__init__ = make_first  # type: ignore[misc]
    _unfinished[cls] = options
    return cls


if not TYPE_CHECKING:
    field, frozen = _field, _frozen


def finish(*classes: type) -> None:
    """Complete classes, and those that they derive from, where nobody did so yet."""
    import attrs

    with _lock:
        for cls in (base for kind in classes for base in reversed(kind.__mro__) if base in _unfinished):
            for name, value in list(vars(cls).items()):
                if isinstance(value, _Field):
                    setattr(cls, name, attrs.field(**value.options))
            options = _unfinished[cls]
            attrs.frozen(cls, init=True, eq=False, repr=False, slots=False, **options)
            del _unfinished[cls]


def finish_all(*modules: str) -> None:
    """Complete the classes of some modules: before a process forks, since each fork would do so again."""
    finish(*(cls for cls in list(_unfinished) if cls.__module__ in modules))


def fields(cls: type) -> Sequence[Any]:
    """Return the attributes of a class as `attrs.fields` does; none of one that is not of attrs."""
    finish(cls)
    attributes: Sequence[Any] = getattr(cls, "__attrs_attrs__", ())
    return attributes


def is_value(cls: type) -> bool:
    """Return whether a class is of attrs, or will be."""
    return cls in _unfinished or hasattr(cls, "__attrs_attrs__")
