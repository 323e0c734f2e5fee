"""Steps that decorators of the user's own have wrapped.

A decorator that returns another function hides the name and the marks of the step that it wraps. Both are restored when
the class is defined, so that the decorator may stand above `@step` or below it, with `functools.wraps` or without.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any


def restore_marks(flow: type) -> None:
    """Give wrappers around a flow's own steps the name and the marks of the steps that they wrap."""
    for name, value in list(vars(flow).items()):
        if isinstance(value, FunctionType) and not _is_marked(value, name):
            chain = _chain(value, name)
            if any(getattr(function, "is_step", False) for function in chain):
                _copy_marks(chain)


def hidden_step(value: object, name: str) -> FunctionType | None:
    """Return the step inside an object that is no function, as a class used as a decorator makes one."""
    if isinstance(value, (FunctionType, type)):
        return None
    parts = [*getattr(value, "__dict__", {}).values(), getattr(value, "func", None)]
    for part in parts:
        if isinstance(part, FunctionType) and part.__name__ == name:
            marked = getattr(part, "is_step", False) or getattr(value, "__dict__", {}).get("is_step", False)
            return part if marked else None
    return None


def _is_marked(function: FunctionType, name: str) -> bool:
    return function.__name__ == name and getattr(function, "is_step", False)


def _chain(function: FunctionType, name: str) -> list[FunctionType]:
    """Return the functions from a wrapper down to the one of this name that it wraps; empty if it wraps none."""
    left: list[list[FunctionType]] = [[function]]
    seen = {function}
    while left:
        chain = left.pop()
        for inner in _enclosed(chain[-1]):
            if inner.__name__ == name:
                return [*chain, inner]
            if inner not in seen:
                seen.add(inner)
                left.append([*chain, inner])
    return []


def _enclosed(function: FunctionType) -> Iterator[FunctionType]:
    if isinstance(wrapped := getattr(function, "__wrapped__", None), FunctionType):
        yield wrapped
    for cell in function.__closure__ or ():
        try:
            value: Any = cell.cell_contents
        except ValueError:  # not filled yet, as that of the class that is being made
            continue
        if isinstance(value, FunctionType):
            yield value


def _copy_marks(chain: list[FunctionType]) -> None:
    outer, inner = chain[0], chain[-1]
    attached = [item for function in reversed(chain) for item in getattr(function, "decorators", ())]
    decorators = {item.name if item.is_single else id(item): item for item in attached}
    marks: dict[str, Any] = {}
    for function in reversed(chain):
        marks.update(vars(function))
    outer.__dict__.update({**marks, "is_step": True, "__wrapped__": inner})
    if decorators:
        outer.__dict__["decorators"] = list(decorators.values())
    outer.__name__, outer.__qualname__, outer.__doc__ = inner.__name__, inner.__qualname__, inner.__doc__
