"""Text of unknown origin, made fit to be shown: names, previews and messages may come from a stranger's file.

A terminal acts on control characters: they can clear the screen, rename the window, or make a link of a word. So what
is shown goes through here, errors too, whose messages quote what a file holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# Sequences as terminals read them (ECMA-48). One that never ends hides nothing: only its beginning is taken for one.
_SEQUENCE = (
    "(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x00-\x08\n-\x1f\x7f-\x9f]*(?:\x07|\x1b\\\\|\x9c)"  # titles, links, images
    "|\x1b\\[[0-?]*[ -/]*[@-~]|\x9b[0-?]+[ -/]*[@-~]"  # colours, and moves of the cursor
    "|\x1b[ -/]*[0-~]"
)
# Marks that turn the order of reading, and characters without a shape (those that join letters and emoji remain).
_UNSEEN = "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_TRICKS = f"{_SEQUENCE}|[\x00-\x08\x0b-\x1f\x7f-\x9f{_UNSEEN}]"
_COLOUR = "\x1b\\[[0-9;:]*m"
_RESETS = frozenset({"\x1b[m", "\x1b[0m"})
_UNESCAPED = f"[\x7f-\x9f{_UNSEEN}]"


NARROW = 8  # characters, some of them without a width, that may share a column of a terminal


def safe(text: str) -> str:
    r"""Return text without what could play tricks on a terminal: control sequences, turned reading order.

    >>> safe("a\x1b[31mb\x1b]0;title\x07")
    'ab'
    """
    return text if text.isprintable() else re.sub(_TRICKS, "", text).encode("utf-8", "replace").decode()


def coloured(text: str) -> str:
    r"""Return one line of safe text that keeps its colours, and ends without one.

    >>> coloured("\x1b[31mred\x1b[2J")
    '\x1b[31mred\x1b[0m'
    """
    if text.isprintable():
        return text
    last = None

    def keep(match: re.Match[str]) -> str:
        nonlocal last
        if re.fullmatch(_COLOUR, match[0]) is None:
            return ""
        last = match[0]
        return last

    kept = re.sub(_TRICKS, keep, text).encode("utf-8", "replace").decode()
    return kept if last is None or last in _RESETS else f"{kept}\x1b[0m"


def escaped(json: str) -> str:
    r"""Return JSON in which the characters that `safe` would drop are escaped.

    >>> escaped('"\x9b\u202e"')
    '"\\u009b\\u202e"'
    """
    return re.sub(_UNESCAPED, _escape, json)


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


_PICTURES = {code: 0x2400 + code for code in range(32) if code not in {9, 10}}


def visible(text: str) -> str:
    r"""Return text with signs for what nobody sees, tabs and ends of lines excepted: nothing is dropped.

    >>> visible("a\x1b[31m\u202e")
    'a␛[31m\\u202e'
    """
    if text.isprintable():
        return text
    return escaped(text.encode("utf-8", "replace").decode()).translate(_PICTURES)


def one_line(text: str) -> str:
    r"""Return safe text in one line, for lists in which a line is an item.

    >>> one_line("a\nb")
    'a\\nb'
    """
    return safe(text).replace("\n", "\\n").replace("\t", "\\t")


def no_formula(text: str) -> str:
    """Return a cell of CSV that no spreadsheet takes for a formula.

    >>> no_formula("=1+1"), no_formula("1+1")
    ("'=1+1", '1+1')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes.

    >>> columns_of("abc"), columns_of("日本")
    (3, 4)
    """
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # not before a text needs it

    return cell_len(text)


def shorten(text: str, columns: int) -> str:
    """Return a text in at most so many columns, with … where it was cut.

    >>> shorten("abcdef", 4), shorten("日本語", 4), shorten("ab", 4)
    ('abc…', '日…', 'ab')
    """
    if len(text) <= columns * NARROW and columns_of(text) <= columns:
        return text
    text = text[: columns * NARROW]
    low, high = 0, len(text)
    while low < high:  # the longest beginning that leaves room for the sign
        middle = (low + high + 1) // 2
        low, high = (middle, high) if columns_of(text[:middle]) < columns else (low, middle - 1)
    return text[:low] + "…"


def is_number(value: object) -> bool:
    """Return whether a value is shown as a number, right-aligned.

    >>> is_number(1.5), is_number(True), is_number("1")
    (True, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def counted(count: int, what: str) -> str:
    """Return how many there are, in words.

    >>> counted(1, "run"), counted(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def did_you_mean(name: str, known: Iterable[str], shown: Callable[[str], object] = str) -> str:
    """Return a question that names what a wrong name may stand for, after a space; nothing where none is near.

    Args:
        name: the wrong one.
        known: the right ones.
        shown: formats the name that is shown for a right one.

    >>> did_you_mean("shwo", ["runs", "show"]), did_you_mean("x", ["runs"])
    (" Did you mean 'show'?", '')
    """
    import difflib  # not before a name is wrong

    near = difflib.get_close_matches(name, known, n=2)
    return f" Did you mean {' or '.join(repr(shown(match)) for match in near)}?" if near else ""


def duration(seconds: float) -> str:
    """Return a time span for people, with three significant digits or in two units.

    >>> duration(0.01234), duration(5.2), duration(184), duration(7380), duration(200000)
    ('12.3 ms', '5.20 s', '3 min 04 s', '2 h 03 min', '2 d 7 h')
    """
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:#.3g}".rstrip(".") + " ms"
    if seconds < 99.95:
        return f"{seconds:#.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400:,} d {whole % 86400 // 3600} h"


def size(count: int) -> str:
    """Return a number of bytes, for people.

    >>> size(999), size(1500), size(2_500_000_000)
    ('999 bytes', '1.5 kB', '2.5 GB')
    """
    if count < 1000:
        return counted(count, "byte")
    amount, unit = count / 1e3, "kB"
    for larger in ("MB", "GB", "TB"):
        if amount >= 999.95:
            amount, unit = amount / 1e3, larger
    return f"{amount:.1f} {unit}"
