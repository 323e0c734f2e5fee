"""The machine that pickles are programs for, as far as it builds builtins; `pickles` has its instructions.

What is bounded: the bytes, the instructions, the depth of tuples and frozen sets, whose hash Python computes by
recursion, the copies that a short program can make of a long value, the places where it can put one, since each is
a copy as soon as the value is written as JSON, and the keys and members that share a hash.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

MAX_BYTES = 16 << 20
MAX_STEPS = 4_000_000  # instructions, and the parts of tuples that are hashed
MAX_DEPTH = 100  # of tuples and frozen sets
_MAX_COPIED = 16 << 20  # bytes that instructions copy
_MAX_REPEATED = 64 << 20  # bytes of values that stand in more than one place
_MOST_REPEATED = 16  # members of a tuple that `codecs.typed_json` writes in several places
_MEMBER_BYTES = 32  # that a member of a copied list counts for
_MOST_ALIKE = 100  # keys or members of one hash
_MAX_KEY_BITS = 4096
STOP = ord(".")


class NotPlain(Exception):  # an answer rather than an error
    """A pickle is malformed, too large, or builds something else than builtins."""


@attrs.define(eq=False)
class Outline:
    """An object of a class that is not known here.

    Attributes:
        name: the class or function, as `module.name`.
        arguments: what it was built from.
        state: what was set on it afterwards.
    """

    name: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None


MARK = object()


class Machine:
    """The machine that a pickle is a program for.

    Args:
        data: the pickle.
        instructions: by code, what each does.
        outlines: whether objects of other classes become outlines.
    """

    def __init__(
        self, data: bytes, instructions: Mapping[int, Callable[[Machine], object]], *, outlines: bool = False
    ) -> None:
        if len(data) > MAX_BYTES:
            raise NotPlain(f"it has {len(data)} bytes")
        self._data = data
        self._instructions = instructions
        self._at = 0
        self._outlines = outlines
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._steps = 0
        self._copied = 0
        self._repeated = 0
        self._nested: dict[int, tuple[int, int, Any]] = {}  # tuples and frozen sets by id: depth, parts, and itself
        self._hashes: dict[int, tuple[Any, Counter[int]]] = {}  # by the id of a dict or set: itself, and its hashes

    def run(self) -> Any:
        """Return what the program builds."""
        data, instructions = self._data, self._instructions
        while True:
            code = data[self._at]
            self._at += 1
            self._charge(1)
            if code == STOP:
                break
            instruction = instructions.get(code)
            if instruction is None:
                raise NotPlain(f"it has the instruction {code:#04x}")
            instruction(self)
        if self._at != len(data) or len(self._stack) != 1 or self._stack[0] is MARK:
            raise NotPlain("it does not end where it should")
        return self._stack[0]

    def _charge(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise NotPlain("it has too many instructions")

    def _copy(self, size: int) -> None:
        self._copied += size
        if self._copied > _MAX_COPIED:
            raise NotPlain("it copies too much")

    def _repeat(self, value: Any) -> None:
        """Push a value that stands elsewhere, too."""
        is_constant = type(value) in {tuple, frozenset} and len(value) <= _MOST_REPEATED
        self._repeated += sum(map(_scalar_bytes, value)) if is_constant else _scalar_bytes(value)
        if self._repeated > _MAX_REPEATED:
            raise NotPlain("it repeats too much")
        self.push(value)

    # --- reading

    def take(self, count: int) -> bytes:
        """Return the next bytes of the program."""
        end = self._at + count
        if count < 0 or end > len(self._data):
            raise NotPlain("it is cut off")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def number(self, width: int) -> int:
        """Return the next number, without a sign."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        """Return the rest of a line, without its end."""
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise NotPlain("it is cut off")
        return self.take(end + 1 - self._at)[:-1]

    # --- the stack

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the topmost value off the stack."""
        value = self._stack.pop()
        if value is MARK:
            raise NotPlain("a mark stands where a value belongs")
        return value

    def top(self) -> Any:
        """Return the topmost value."""
        value = self._stack[-1]
        if value is MARK:
            raise NotPlain("a mark stands where a value belongs")
        return value

    def duplicate(self) -> None:
        """Push the topmost value once more."""
        self._repeat(self.top())

    def items(self) -> list[Any]:
        """Take all values above the last mark off the stack, and the mark."""
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise NotPlain("a mark is missing")
        items = stack[at + 1 :]
        del stack[at:]
        self._charge(len(items))
        return items

    # --- the memo

    def memoize(self, key: int | None = None) -> None:
        """Remember the topmost value."""
        self._memo[len(self._memo) if key is None else key] = self.top()

    def recall(self, key: int) -> None:
        """Push a value that is remembered."""
        self._repeat(self._memo[key])

    # --- building

    def build_tuple(self, items: Sequence[Any]) -> None:
        """Push a tuple."""
        self._push_nested(tuple(items), items)

    def _push_nested(self, value: Any, items: Sequence[Any]) -> None:
        depth, parts = 1, 1 + len(items)
        for item in items:
            if id(item) in self._nested:
                below, size, _ = self._nested[id(item)]
                depth, parts = max(depth, below + 1), parts + size
        if depth > MAX_DEPTH:
            raise NotPlain("it is nested too deeply")
        self._nested[id(value)] = depth, parts, value
        self.push(value)

    def append(self, items: Sequence[Any]) -> None:
        """Append to the list on the stack."""
        target = self.top()
        if type(target) is not list:
            raise NotPlain("it appends to something else than a list")
        target.extend(items)

    def set_items(self, items: Sequence[Any]) -> None:
        """Set keys of the dict on the stack."""
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise NotPlain("it sets keys of something else than a dict")
        keys = items[::2]
        self._check_keys(target, keys)
        target.update(zip(keys, items[1::2], strict=True))

    def add_items(self, items: Sequence[Any]) -> None:
        """Add to the set on the stack."""
        target = self.top()
        if type(target) is not set:
            raise NotPlain("it adds to something else than a set")
        self._check_keys(target, items)
        target.update(items)

    def build_frozenset(self, items: Sequence[Any]) -> None:
        """Push a frozen set."""
        self._check_keys(None, items)
        self._push_nested(frozenset(items), items)

    def _check_keys(self, target: Any, keys: Sequence[Any]) -> None:
        """Refuse keys or members whose hashes take long to compute, or are made to be equal."""
        if set(map(type, keys)) <= {str}:  # their hashes are random and remembered
            return
        crafted = []
        for key in keys:
            kind = type(key)
            if kind not in _HASHABLE:
                raise NotPlain(f"a key is of the type {kind.__name__}")
            if kind in _CRAFTED or (kind is int and abs(key) >= _HASH_MODULUS):
                crafted.append(key)
                self._charge(self._nested[id(key)][1] if id(key) in self._nested else 1)
            if kind is int and key.bit_length() > _MAX_KEY_BITS:
                raise NotPlain("a key is too large a number")
        if not crafted:
            return
        counts = Counter[int]() if target is None else self._hashes.setdefault(id(target), (target, Counter()))[1]
        counts.update(map(hash, crafted))
        if max(counts[hash(key)] for key in crafted) > _MOST_ALIKE:
            raise NotPlain("too many keys share a hash")

    # --- classes

    def name(self, module: Any, name: Any) -> None:
        """Push a class or function, which is no more than its name here."""
        if type(module) is not str or type(name) is not str:
            raise NotPlain("a class has no name")
        full = f"{module}.{name}"
        if full not in _KNOWN and not self._outlines:
            raise NotPlain(f"it names {full[:100]}")
        self.push(Outline(full))

    def call(self) -> None:
        """Build an object from a class and its arguments."""
        arguments, callee = self.pop(), self.pop()
        if type(callee) is not Outline or callee.arguments is not None or type(arguments) is not tuple:
            raise NotPlain("it calls something that is no class")
        builder = _KNOWN.get(callee.name)
        if builder is not None:
            self._copy(sum(_weight(part) for part in arguments))
            builder(self, arguments)
        elif self._outlines:
            self.push(Outline(callee.name, arguments))
        else:
            raise NotPlain(f"it calls {callee.name[:100]}")

    def set_state(self) -> None:
        """Set the state of an object of another class."""
        state, target = self.pop(), self.top()
        if type(target) is not Outline or target.arguments is None or target.state is not None:
            raise NotPlain("it sets the state of a builtin")
        target.state = state


_CRAFTED = frozenset({complex, tuple, frozenset})  # of which many different ones can be made to have one hash
_HASHABLE = frozenset({int, float, bool, type(None), bytes, str, *_CRAFTED})
_HASH_MODULUS = sys.hash_info.modulus


def _scalar_bytes(value: Any) -> int:
    """Return about how many bytes a text, bytes or a number has; 0 for a container."""
    if type(value) in {str, bytes}:
        return len(value)
    return value.bit_length() // 8 if type(value) is int else 0


def _weight(part: Any) -> int:
    """Return how many bytes a copy of an argument counts for."""
    if type(part) in {str, bytes, bytearray}:
        return len(part)
    return _MEMBER_BYTES * len(part) if type(part) in {list, tuple} else 0


def _set(machine: Machine, arguments: tuple[Any, ...]) -> None:
    (items,) = arguments or ([],)
    if type(items) not in {list, tuple}:
        raise NotPlain("a set is built from something else than a list")
    target: set[Any] = set()
    machine.push(target)
    machine.add_items(items)


def _frozenset(machine: Machine, arguments: tuple[Any, ...]) -> None:
    (items,) = arguments or ([],)
    if type(items) not in {list, tuple}:
        raise NotPlain("a set is built from something else than a list")
    machine.build_frozenset(items)


def _complex(machine: Machine, arguments: tuple[Any, ...]) -> None:
    if len(arguments) != 2 or set(map(type, arguments)) != {float}:
        raise NotPlain("a complex number is built from something else than two numbers")
    machine.push(complex(*arguments))


def _bytearray(machine: Machine, arguments: tuple[Any, ...]) -> None:
    if any(type(part) is not bytes for part in arguments) or len(arguments) > 1:
        raise NotPlain("a bytearray is built from something else than bytes")
    machine.push(bytearray(*arguments))


def _bytes(machine: Machine, arguments: tuple[Any, ...]) -> None:
    if arguments:
        raise NotPlain("bytes are built from something")
    machine.push(b"")


def _encode(machine: Machine, arguments: tuple[Any, ...]) -> None:
    """Build bytes from a text with a character for each, as protocol 2 writes them."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        raise NotPlain("a text is encoded in another way")
    machine.push(arguments[0].encode("latin1"))


_KNOWN: dict[str, Callable[[Machine, tuple[Any, ...]], None]] = {
    f"{module}.{name}": builder
    for module in ("builtins", "__builtin__")
    for name, builder in {
        "set": _set, "frozenset": _frozenset, "complex": _complex, "bytearray": _bytearray, "bytes": _bytes,
    }.items()
} | {"_codecs.encode": _encode}  # fmt: skip
