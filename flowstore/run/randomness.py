"""Random generators in tasks: each task draws other numbers, and the same ones whenever the flow seeded its generators.

A task's state of a generator follows from the state after the import, the step and the foreach path. Where the
flow seeded the generator while it was imported, that state is the same in every run, so the task's is; where it did
not, the state is a random one, and so is the task's.

The generators are `random`'s and `numpy.random`'s own, torch's, and those that the flow's modules hold: as globals,
class attributes and defaults of functions, in containers and in instances of their own classes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from flowstore import later

if TYPE_CHECKING:
    from flowstore.run.orders import Order

_CLASSES = {  # of generators, by module
    "random": ("Random",),
    "numpy.random": ("Generator", "RandomState", "BitGenerator"),
    "torch": ("Generator",),
}
_ATOMIC = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS = (list, tuple, set, frozenset, deque)
_STANDARD = f"{Path(os.__file__).parent}{os.sep}"  # the folder of the standard library
_MOST_VALUES = 100_000  # that are looked at: data may be many, generators are few


@later.frozen
class _Generator:
    """One generator: its state after the import, and what sets it to another."""

    state: bytes  # a hash
    reset: Callable[[bytes], None]


class Generators:
    """The generators that the import of a flow has left in this process.

    To be made as soon as the flow is imported, and before a fork, which changes the state of `random`'s.

    Args:
        module: the flow's.
    """

    def __init__(self, module: ModuleType) -> None:
        values = {id(value): value for value in _global()}
        if any(library in sys.modules for library in _CLASSES):
            values |= {id(value): value for value in _held(module)}
        self._all = [kept for value in values.values() if (kept := _kept(value)) is not None]

    def derive(self, order: Order) -> None:
        """Set all of them to the states of a task, which follow from its step and its indexes in foreaches."""
        if not self._all:
            return
        path = "/".join(map(str, order.indexes))
        for generator in self._all:
            generator.reset(_hash(generator.state, order.step.encode(), path.encode()))


def _hash(*parts: bytes) -> bytes:
    data = b"".join(len(part).to_bytes(8) + part for part in parts)
    return hashlib.blake2b(data, digest_size=32).digest()  # without OpenSSL, of which a forked process copies pages


# --- which there are


def _global() -> Iterator[Any]:
    """Yield the generators of libraries, as far as these have been imported."""
    homes = {"random": "_inst", "numpy.random.mtrand": "_rand", "torch": "default_generator"}
    for library, name in homes.items():
        if (value := getattr(sys.modules.get(library), name, None)) is not None:
            yield value


def _held(module: ModuleType) -> Iterator[Any]:
    """Yield the generators that the flow's modules hold."""
    modules = [module, *(other for other in list(sys.modules.values()) if _is_users(other))]
    names = {other.__name__ for other in modules}
    waiting: list[Any] = [dict(vars(other)) for other in modules]
    seen: dict[int, Any] = {}  # holds what was looked at, so that no other object gets its id
    while waiting and len(seen) < _MOST_VALUES:
        value = waiting.pop()
        if type(value) in _ATOMIC or id(value) in seen:
            continue
        seen[id(value)] = value
        if _is_generator(value):
            yield getattr(value, "bit_generator", value)  # which generators may share
        else:
            waiting += _parts(value, names)


def _is_users(module: Any) -> bool:
    """Return whether a module is neither installed nor of the standard library."""
    file = getattr(module, "__file__", None)
    if type(file) is not str or not file.endswith(".py") or "-packages" in file or file.startswith(_STANDARD):
        return False
    name = str(module.__name__)
    return name.partition(".")[0] != "flowstore" and not _is_installed(Path(file).parents[name.count(".")])


@functools.cache
def _is_installed(folder: Path) -> bool:
    """Return whether an installer has put things into a folder, or a folder below it."""
    return any(next(parent.glob("*.dist-info"), None) is not None for parent in (folder, folder.parent))


def _parts(value: Any, names: Collection[str]) -> Iterable[Any]:
    """Return the parts of a value that may hold generators; `names` are the flow's modules."""
    kind = type(value)  # unlike isinstance, runs no code of the value's
    if issubclass(kind, dict):
        return list(value.values())
    if issubclass(kind, _CONTAINERS):
        return [] if _ATOMIC.issuperset(map(type, value)) else list(value)
    if issubclass(kind, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *cells, value.__dict__]
    if issubclass(kind, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if issubclass(kind, (MethodType, BuiltinMethodType, staticmethod, classmethod)):
        return [getattr(value, "__self__", None), getattr(value, "__func__", None)]
    if issubclass(kind, type):
        return list(vars(value).values()) if value.__module__ in names else []
    return [value.__dict__] if kind.__module__ in names and hasattr(value, "__dict__") else []


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # raises where the variable has no value
    except ValueError:
        return False
    return True


def _is_generator(value: Any) -> bool:
    return any(issubclass(type(value), kind) for kind in _kinds())


def _kinds() -> Iterator[type]:
    """Yield the classes of generators, of libraries that are imported."""
    for library, names in _CLASSES.items():
        if (module := sys.modules.get(library)) is not None:
            yield from (getattr(module, name) for name in names if hasattr(module, name))


# --- states


def _kept(value: Any) -> _Generator | None:
    """Return a generator with its present state; `None` for the system's, which has none."""
    if "random" in sys.modules and issubclass(type(value), sys.modules["random"].SystemRandom):
        return None
    return _Generator(_hash(_canonical(_state(value))), _resetting(value))


def _state(value: Any) -> Any:
    if hasattr(value, "getstate"):  # of `random`
        return value.getstate()
    if hasattr(value, "manual_seed"):  # of torch
        return value.get_state().tolist()
    return value.state if hasattr(value, "state") else value.get_state(legacy=False)


def _canonical(state: Any) -> bytes:
    """Return the bytes of a state, which is nested of numbers, texts and arrays."""
    if isinstance(state, dict):
        state = [part for key in sorted(state) for part in (key, state[key])]
    if isinstance(state, (list, tuple)) and not _ATOMIC.issuperset(map(type, state)):
        return _hash(*map(_canonical, state))
    return state.tobytes() if hasattr(state, "tobytes") else repr(state).encode()


def _resetting(value: Any) -> Callable[[bytes], None]:
    """Return a function that sets a generator to the state that follows from a seed."""
    if hasattr(value, "manual_seed"):
        return lambda seed: value.manual_seed(int.from_bytes(seed[:7]))
    if hasattr(value, "getstate"):
        return lambda seed: value.seed(int.from_bytes(seed))
    if hasattr(value, "get_state"):
        return lambda seed: _reset_legacy(value, seed)
    return lambda seed: _reset_bits(value, seed)


def _reset_bits(bits: Any, seed: bytes) -> None:
    """Set a bit generator of NumPy, and its sequence of seeds, from which it spawns others, to those of a new one."""
    new = type(bits)(int.from_bytes(seed))
    bits.__setstate__(new.__getstate__())


def _reset_legacy(state: Any, seed: bytes) -> None:
    """Seed a `RandomState` of NumPy."""
    try:
        state.seed([*struct.unpack("=8I", seed)])
    except TypeError:  # it was made of another bit generator than the usual one
        _reset_bits(state._bit_generator, seed)
        state.set_state({**state.get_state(legacy=False), "has_gauss": 0, "gauss": 0.0})
