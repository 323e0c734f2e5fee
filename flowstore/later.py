"""`attrs.frozen` and `attrs.define` for classes that attrs completes only when that pays.

attrs writes and compiles methods for each class, which takes 0.4 ms, and importing attrs takes 14 ms. A command defines
a hundred classes and makes a few objects of some of them. So a class declared here only remembers its declaration. Its
first objects get their fields from that, in 2 µs instead of 1, and once there are so many that attrs would have been
quicker, attrs completes the class. It does so at once where an object needs more than values for its fields, such as
validators, and where anybody asks for what attrs adds, such as `attrs.fields`. The class stays the same object, so it
has a `__dict__` instead of slots.

Most of these values are never compared or printed, so `eq` and `repr` have to be asked for.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from attrs import define, evolve, field, frozen

__all__ = ["as_dict", "complete", "complete_all", "define", "evolve", "field", "fields", "frozen", "is_value", "names"]

WORTHWHILE = 300  # objects, which without attrs take as much longer as attrs takes for their class
_SIMPLE = {"default", "factory", "repr"}  # options of a field that need no attrs
_METHODS = {"eq": ("__eq__", "__ne__", "__hash__"), "repr": ("__repr__",)}  # what attrs writes for an option

_declared: dict[type, _Declaration] = {}
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child would find the lock of a thread that it lacks, and half a class
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class _Field:
    """The options of a field, for attrs."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options


class _Declaration:
    """The declaration of a class, from which its objects are made until attrs has completed it.

    Attributes:
        make, options: the name of attrs' decorator, and its options.
        is_complete: whether attrs has completed it.
        is_simple: whether an object only takes values for its fields.
        is_kw_only: whether any field is given by its name alone.
        names: its fields and those of its bases.
        defaults, factories: of the fields that have one.
        count: how many objects were made.
    """

    def __init__(self, make: str, cls: type, options: dict[str, Any]) -> None:
        bases = [_declared.get(base) for base in reversed(cls.__mro__[1:-1])]
        known = [base for base in bases if base is not None and base.is_simple]
        self.make, self.options = make, options
        self.is_complete, self.count = False, 0
        self.is_simple: bool = len(known) == len(bases) and not hasattr(cls, "__attrs_post_init__")
        self.is_kw_only: bool = options.get("kw_only", False) or any(base.is_kw_only for base in known)
        self.names: dict[str, None] = {}
        self.defaults: dict[str, Any] = {}
        self.factories: dict[str, Callable[[], Any]] = {}
        for base in known:
            self.names |= base.names
            self.defaults |= base.defaults
            self.factories |= base.factories
        for name, kind in getattr(cls, "__annotations__", {}).items():
            if "ClassVar" not in str(kind):
                self._add(name, vars(cls).get(name, _field()))

    def _add(self, name: str, value: Any) -> None:
        options = value.options if isinstance(value, _Field) else {"default": value}
        is_simple = _SIMPLE.issuperset(options) and not name.startswith("_")  # attrs takes `_name` as `name`
        self.is_simple = self.is_simple and is_simple and name not in self.names
        self.names[name] = None
        if "default" in options:
            self.defaults[name] = options["default"]
        if "factory" in options:
            self.factories[name] = options["factory"]

    def values(self, args: Sequence[Any], given: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the fields of an object; `None` where attrs has to make it, or to say what is wrong."""
        self.count += 1
        if not self.is_simple or self.count > WORTHWHILE or (args and self.is_kw_only):
            return None
        first = dict(zip(self.names, args, strict=False))
        produced = {name: factory() for name, factory in self.factories.items() if name not in given}
        values = {**self.defaults, **produced, **first, **given}
        is_called_well = len(first) == len(args) and first.keys().isdisjoint(given)
        return values if is_called_well and values.keys() == self.names.keys() else None


def _declare(make: str, cls: type | None = None, **options: Any) -> Any:
    if cls is None:
        return functools.partial(_declare, make, **options)
    declaration = _declared[cls] = _Declaration(make, cls, options)

    def make_early(self: Any, *args: Any, **given: Any) -> None:
        values = declaration.values(args, given)
        if values is not None:
            self.__dict__.update(values)
        else:
            complete(cls)
            cls.__init__(self, *args, **given)  # type: ignore[misc]

    cls.__init__ = make_early  # type: ignore[misc]
    asked_for = [name for option in options for name in _METHODS.get(option, ())]
    for name in ("__attrs_attrs__", "__signature__", *asked_for):
        setattr(cls, name, _OfAttrs(name))
    if make == "frozen":
        cls.__setattr__ = cls.__delattr__ = _refuse  # type: ignore[method-assign]
    return cls


class _OfAttrs:
    """Has attrs complete a class when what it adds to the class is asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, cls: type) -> Any:
        complete(cls)
        return getattr(cls if instance is None else instance, self.name)


def _refuse(*_: object) -> NoReturn:
    from attrs.exceptions import FrozenInstanceError

    raise FrozenInstanceError


def _field(**options: Any) -> Any:
    return _Field(options)


def _evolve(value: Any, **changes: Any) -> Any:
    declaration = _declared.get(type(value))
    if declaration is not None and declaration.is_simple:
        return type(value)(**{**{name: getattr(value, name) for name in declaration.names}, **changes})
    import attrs

    return attrs.evolve(value, **changes)


if not TYPE_CHECKING:
    field, evolve = _field, _evolve
    define, frozen = functools.partial(_declare, "define"), functools.partial(_declare, "frozen")


def complete(*classes: type) -> None:
    """Have attrs complete classes, and those that they derive from."""
    with _lock:
        for kind in classes:
            for cls in reversed(kind.__mro__):
                declaration = _declared.get(cls)
                if declaration is not None and not declaration.is_complete:
                    _complete(cls, declaration)


def _complete(cls: type, declaration: _Declaration) -> None:
    import attrs

    for name, value in list(vars(cls).items()):
        if isinstance(value, _Field):
            setattr(cls, name, attrs.field(**value.options))
    usual = {"init": True, "eq": False, "repr": False, "slots": False}
    make = getattr(attrs, declaration.make)
    make(cls, auto_detect=False, **{**usual, **declaration.options})  # overwrites each stand-in in place
    del cls.__signature__  # type: ignore[attr-defined]  # the only stand-in that attrs leaves
    declaration.is_complete = True


def complete_all(*modules: str) -> None:
    """Complete the classes of these modules, or of all: before a process forks often, since each fork would again."""
    complete(*(cls for cls in list(_declared) if not modules or cls.__module__ in modules))


def fields(cls: type) -> Sequence[Any]:
    """Return the attributes of a class as `attrs.fields` does; none of one that is not of attrs."""
    attributes: Sequence[Any] = getattr(cls, "__attrs_attrs__", ())
    return attributes


def names(cls: type) -> Sequence[str]:
    """Return the names of the fields of a class."""
    declaration = _declared.get(cls)
    if declaration is not None and declaration.is_simple:
        return [*declaration.names]
    return [field.name for field in fields(cls)]


def as_dict(value: object) -> dict[str, Any]:
    """Return the fields of an object by their names; objects in it stay as they are."""
    return {name: getattr(value, name) for name in names(type(value))}


def is_value(cls: type) -> bool:
    """Return whether a class is of attrs, or will be."""
    return cls in _declared or hasattr(cls, "__attrs_attrs__")
