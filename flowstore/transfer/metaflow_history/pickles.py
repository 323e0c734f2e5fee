"""Reads the pickles of builtins by their opcodes, without an `Unpickler`: nothing that a pickle names is ever imported.

A pickle is a program for a small machine. `load` runs those of its instructions that build builtins: numbers, texts,
bytes, lists, tuples, dicts and sets. Of the classes and functions that a pickle can name, it knows a few by
heart, which older protocols need for sets, bytes and complex numbers. With any other the pickle stays a pickle.

`outline` also shows the objects of other classes, as `Outline`s: their names and what they were built from. It is for
what Metaflow itself stores, such as the exception of a task.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from flowstore.transfer.metaflow_history.machine import MARK, MAX_BYTES, Machine, NotPlain, Outline

__all__ = ["MAX_BYTES", "NotPlain", "Outline", "load", "outline", "payload_of"]

_TAIL = 16  # bytes behind the payload of a pickle of bytes


def load(data: bytes) -> Any:
    """Return the value of a pickle of builtins.

    Raises:
        NotPlain: it is not one; the message says why.

    Example:
        >>> import pickle
        >>> load(pickle.dumps({"a": [1, (2.5, None)]}))
        {'a': [1, (2.5, None)]}
        >>> load(pickle.dumps(print))
        Traceback (most recent call last):
        flowstore.transfer.metaflow_history.machine.NotPlain: it names builtins.print
    """
    return _run(Machine(data, _INSTRUCTIONS))


def outline(data: bytes) -> Any:
    """Return the value of a pickle, with an `Outline` for each object of a class that is not known here.

    Raises:
        NotPlain: it is malformed or too large.
    """
    return _run(Machine(data, _INSTRUCTIONS, outlines=True))


def payload_of(head: bytes, tail: bytes, size_bytes: int) -> tuple[int, int] | None:
    """Return where the bytes are in a pickle of nothing but bytes, as offset and length; `None` in another.

    Args:
        head: the first bytes of the pickle, at least 32 of them if there are so many.
        tail: the last ones.
        size_bytes: its length.
    """
    at = 2 if head[:1] == b"\x80" else 0
    if head[at : at + 1] == b"\x95":
        at += 9
    widths = {b"C": 1, b"B": 4, b"\x8e": 8}
    width = widths.get(head[at : at + 1])
    if width is None or len(head) < at + 1 + width:
        return None
    begin = at + 1 + width
    length = int.from_bytes(head[at + 1 : begin], "little")
    rest = size_bytes - begin - length
    if not 0 < rest <= min(_TAIL, len(tail)):
        return None
    end = tail[len(tail) - rest :]
    if end[:1] == b"\x95":
        end = end[9:]
    return (begin, length) if end in (b".", b"\x94.", b"q\x00.") else None


def _run(machine: Machine) -> Any:
    try:
        return machine.run()
    except NotPlain:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError, struct.error) as error:
        raise NotPlain(f"it is malformed: {type(error).__name__}") from error
    except (RecursionError, MemoryError) as error:
        raise NotPlain("it is nested too deeply, or too large") from error


def _integer(text: bytes) -> Any:
    if text in (b"00", b"01"):
        return text == b"01"
    return _decimal(text)


def _decimal(text: bytes) -> int:
    digits = text.removesuffix(b"L")
    if len(digits) > 4000 or not digits.removeprefix(b"-").isdigit():
        raise NotPlain("a number is malformed")
    return int(digits)


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _float(text: bytes) -> float:
    if len(text) > 100 or b"_" in text:
        raise NotPlain("a number is malformed")
    return float(text)


def _dict(machine: Machine) -> None:
    items = machine.items()
    machine.push({})
    machine.set_items(items)


def _appended(machine: Machine) -> None:
    item = machine.pop()
    machine.append([item])


def _item_set(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _named(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _last(machine: Machine, count: int) -> list[Any]:
    return [machine.pop() for _ in range(count)][::-1]


_INSTRUCTIONS: dict[int, Callable[[Machine], object]] = {
    ord(code): instruction
    for code, instruction in {
        # what says nothing about the value
        "\x80": lambda m: m.take(1),
        "\x95": lambda m: m.take(8),
        # values
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": lambda m: m.push(_integer(m.line())),
        "L": lambda m: m.push(_decimal(m.line())),
        "J": lambda m: m.push(_signed(m.take(4))),
        "K": lambda m: m.push(m.number(1)),
        "M": lambda m: m.push(m.number(2)),
        "\x8a": lambda m: m.push(_signed(m.take(m.number(1)))),
        "\x8b": lambda m: m.push(_signed(m.take(m.number(4)))),
        "F": lambda m: m.push(_float(m.line())),
        "G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        "V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
        "X": lambda m: m.push(_text(m.take(m.number(4)))),
        "\x8c": lambda m: m.push(_text(m.take(m.number(1)))),
        "\x8d": lambda m: m.push(_text(m.take(m.number(8)))),
        "C": lambda m: m.push(m.take(m.number(1))),
        "B": lambda m: m.push(m.take(m.number(4))),
        "\x8e": lambda m: m.push(m.take(m.number(8))),
        "\x96": lambda m: m.push(bytearray(m.take(m.number(8)))),
        # containers
        "]": lambda m: m.push([]),
        "}": lambda m: m.push({}),
        "\x8f": lambda m: m.push(set()),
        ")": lambda m: m.build_tuple(()),
        "(": lambda m: m.push(MARK),
        "l": lambda m: m.push(m.items()),
        "t": lambda m: m.build_tuple(m.items()),
        "\x85": lambda m: m.build_tuple(_last(m, 1)),
        "\x86": lambda m: m.build_tuple(_last(m, 2)),
        "\x87": lambda m: m.build_tuple(_last(m, 3)),
        "d": _dict,
        "a": _appended,
        "e": lambda m: m.append(m.items()),
        "s": _item_set,
        "u": lambda m: m.set_items(m.items()),
        "\x90": lambda m: m.add_items(m.items()),
        "\x91": lambda m: m.build_frozenset(m.items()),
        # the stack and the memo
        "0": lambda m: m.pop(),
        "1": lambda m: m.items(),
        "2": lambda m: m.duplicate(),
        "\x94": lambda m: m.memoize(),
        "p": lambda m: m.memoize(_decimal(m.line())),
        "q": lambda m: m.memoize(m.number(1)),
        "r": lambda m: m.memoize(m.number(4)),
        "g": lambda m: m.recall(_decimal(m.line())),
        "h": lambda m: m.recall(m.number(1)),
        "j": lambda m: m.recall(m.number(4)),
        # classes
        "c": lambda m: m.name(_text(m.line()), _text(m.line())),
        "\x93": _named,
        "R": lambda m: m.call(),
        "\x81": lambda m: m.call(),
        "b": lambda m: m.set_state(),
    }.items()
}
