"""Texts and bytes in pages, taken from anywhere in them. A text is stored as JSON, and cut between its characters."""

from __future__ import annotations

import json
from collections.abc import Iterator

from flowstore.client.values import Node, Pages, Text, Window
from flowstore.store.blob_parts import Part
from flowstore.text import visible

TEXT_BYTES = 64 << 10  # a page
_HEX_BYTES = 4096
_HEX_LINE = 16
_PIECE_BYTES = 1 << 20
_FAR = 4096  # bytes that are looked at before a cut: more backslashes in a row are no text that somebody reads


def of_bytes(part: Part, window: Window) -> Text:
    """Return a page of bytes, 16 in a line, with what they are as text."""
    pages = Pages.of(window.page, part.size_bytes, _HEX_BYTES)
    data = part.read(pages.first, _HEX_BYTES)
    lines = [
        _hex_line(pages.first + at, data[at : at + _HEX_LINE], len(f"{part.size_bytes:x}"))
        for at in range(0, len(data), _HEX_LINE)
    ]
    return Text("\n".join(lines), "bytes", pages)


def _hex_line(at: int, data: bytes, digits: int) -> str:
    shown = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in data)
    return f"{at:0{max(4, digits)}x}  {data[:8].hex(' '):<23}  {data[8:].hex(' '):<23}  {shown}"


def of_text_bytes(part: Part, window: Window) -> Text:
    """Return a page of a text that is stored as JSON."""
    pages = Pages.of(window.page, part.size_bytes, TEXT_BYTES)
    start, end = (_cut(part, at) for at in (pages.first, pages.first + TEXT_BYTES))
    return Text(visible(_unescaped(part.read(start, end - start))), "text", pages)


def of_json_bytes(part: Part, window: Window) -> Text:
    """Return a page of JSON as it is stored."""
    pages = Pages.of(window.page, part.size_bytes, TEXT_BYTES)
    start, end = (_whole_character(part, at) for at in (pages.first, pages.first + TEXT_BYTES))
    return Text(visible(part.read(start, end - start).decode("utf-8", "replace")), "JSON", pages)


def of_leaf(text: str, above: tuple[Node, ...], window: Window) -> Text:
    """Return a page of a text in a tree."""
    pages = Pages.of(window.page, len(text), TEXT_BYTES)
    return Text(visible(text[pages.first : pages.first + TEXT_BYTES]), "text", pages, above)


def unescaped_pieces(part: Part) -> Iterator[bytes]:
    """Yield the UTF-8 of a text that is stored as JSON, piece by piece."""
    start = 1
    for at in range(_PIECE_BYTES, part.size_bytes + _PIECE_BYTES, _PIECE_BYTES):
        end = _cut(part, at)
        yield _unescaped(part.read(start, end - start)).encode("utf-8", "replace")
        start = end


def _unescaped(data: bytes) -> str:
    """Return what a part of a JSON text stands for; where it is none, the part itself."""
    text = data.decode("utf-8", "replace")
    try:
        value = json.loads(f'"{text}"', strict=False)
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def _whole_character(part: Part, at: int) -> int:
    """Return the next offset at which a character begins."""
    for byte in part.read(at, 3):
        if byte & 0xC0 != 0x80:
            break
        at += 1
    return min(at, part.size_bytes)


def _cut(part: Part, at: int) -> int:
    """Return the next offset at which neither a character nor an escape is cut, between the quotes of the text."""
    first, last = 1, part.size_bytes - 1
    if not first < at < last:
        return min(max(first, at), last)
    at = _whole_character(part, at)
    low = max(first, at - _FAR)
    before = part.read(low, at - low)
    escape = before.rfind(b"\\", max(0, len(before) - 5))
    if escape < 0 or (escape + 1 - len(before[: escape + 1].rstrip(b"\\"))) % 2 == 0:
        return min(at, last)
    is_long = part.read(low + escape + 1, 1) == b"u"
    return min(max(at, low + escape + (6 if is_long else 2)), last)
