"""The templates: HTML made of rows, with filters that show times, sizes, states and addresses the same everywhere.

All text is escaped, and goes through `flowstore.text.safe`, whatever a template does with it: names, notes and previews
may come from a stranger's file.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flowstore import drawing
from flowstore.text import counted, duration, is_number, safe, size

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_HERE = Path(__file__).parent
_DEEPEST = 50  # levels of a value that is shown as JSON


@functools.cache
def static_files() -> Mapping[str, tuple[str, bytes]]:
    """Return what pages load, by name: the media type, and the bytes."""
    files = {
        path.name: ("text/javascript" if path.suffix == ".js" else "text/css", path.read_bytes())
        for path in (_HERE / "static").iterdir()
        if path.suffix in {".js", ".css"}
    }
    return {**files, "look.css": ("text/css", drawing.stylesheet().encode())}


@functools.cache
def _address(name: str) -> str:
    """Return the URL of a file that pages load, which changes with it: browsers keep the file for good."""
    return f"/static/{name}?v={hashlib.sha256(static_files()[name][1]).hexdigest()[:12]}"


@functools.cache
def environment() -> Environment:
    """Return the templates, with all filters."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    templates.filters |= {
        "ago": ago,
        "count": count,
        "duration": _unless_none(duration),
        "moment": moment,
        "number": number,
        "pathspec": pathspec,
        "since": since,
        "size": _unless_none(size),
        "state": state,
        "value": value,
    }
    templates.globals |= {"static": _address, "shapes": drawing.SHAPES, "frame": "base.html", "saved": False}
    templates.tests["number"] = is_number
    return templates


def _unless_none(filter_: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return a filter that writes nothing for what is not known."""
    return lambda item: "" if item is None else filter_(item)


def _shown(item: Any) -> Any:
    """Return what a template writes for a value: of text, what plays no tricks; of nothing, nothing."""
    if item is None:
        return ""
    return safe(item) if type(item) is str else item  # markup is of a class of its own


def state(status: str) -> Markup:
    """Return a status as its shape, its word and its colour."""
    from markupsafe import Markup

    if status not in drawing.SHAPES:
        return Markup('<span class="state muted">{}</span>').format(safe(status))  # escaped by format
    text = '<span class="state {}"><span aria-hidden="true">{}</span> {}</span>'
    return Markup(text).format(status, drawing.SHAPES[status], status)  # noqa: S704


def ago(at: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago a time was, in words.

    >>> now = datetime(2026, 11, 27, 12, tzinfo=UTC)
    >>> ago(datetime(2026, 11, 27, 11, 48, tzinfo=UTC), now), ago(datetime(2026, 11, 24, tzinfo=UTC), now)
    ('12 min ago', '3 days ago')
    """
    if at is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    if seconds < 0:
        return f"{at:%Y-%m-%d %H:%M}"
    for size_s, unit in ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour")):
        if seconds >= size_s:
            return f"{counted(int(seconds // size_s), unit)} ago"
    return f"{int(seconds // 60)} min ago" if seconds >= 60 else f"{int(seconds)} s ago"


def since(at: datetime) -> float:
    """Return how many seconds ago a time was."""
    return max(0.0, (datetime.now(UTC) - at).total_seconds())


def moment(at: datetime | None) -> Markup:
    """Return a time as how long ago it was, with the exact time in UTC for whoever points at it, and for scripts."""
    from markupsafe import Markup

    if at is None:
        return Markup("")
    exact = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    text = '<time datetime="{}" title="{}">{}</time>'
    return Markup(text).format(f"{at:%Y-%m-%dT%H:%M:%S}Z", exact, ago(at))  # noqa: S704  # escaped by format


def count(many: int, what: str = "") -> str:
    """Return a number with its thousands separated, and of what.

    >>> count(1234), count(1, "task")
    ('1,234', '1 task')
    """
    return counted(many, what) if what else f"{many:,}"


def number(item: float) -> str:
    """Return a number as people read it: six significant digits of one with a fraction.

    >>> number(1234567), number(0.123456789), number(2.0)
    ('1,234,567', '0.123457', '2.0')
    """
    if isinstance(item, int):
        return f"{item:,}" if abs(item) < 10**18 else f"{item:.6g}" if abs(item) < 10**300 else "a huge number"
    return repr(item) if item.is_integer() and abs(item) < 10**15 else f"{item:.6g}"


def value(item: Any) -> str:
    """Return a parameter's value as text: numbers as they are, texts without quotes, the rest as JSON."""
    if item is None:
        return "None"
    if isinstance(item, (bool, str)):
        return str(item)
    return number(item) if is_number(item) else dumps(item)


def pathspec(address: str, kind: str = "") -> str:
    """Return the URL of an object, by its pathspec; a fifth part, which is an artifact's name, may hold slashes.

    >>> pathspec("F/5"), pathspec("F/5/step/17/a b/c"), pathspec("F")
    ('/run/F/5', '/artifact/F/5/step/17/a%20b%2Fc', '/flow/F')
    """
    parts = address.split("/", 4)
    kind = kind or {1: "flow", 2: "run", 3: "run", 4: "task", 5: "artifact"}[len(parts)]
    if len(parts) == 3:  # a step is the tasks of its run that belong to it
        return f"/run/{quote(parts[0], safe='')}/{quote(parts[1], safe='')}?step={quote(parts[2], safe='')}#tasks"
    return "/".join(["", kind, *(quote(part, safe="") for part in parts)])


# --- JSON


def dumps(item: Any) -> str:
    """Return the JSON of plain values and rows of them. Numbers without a JSON form are null, and times are in UTC."""
    import json

    return json.dumps(plain(item), ensure_ascii=False, allow_nan=False)


def plain(item: Any, depth: int = 0) -> Any:
    """Return what stands in JSON for a value."""
    import attrs

    if depth > _DEEPEST:
        return None
    if isinstance(item, Mapping):
        return {str(key): plain(member, depth + 1) for key, member in item.items()}
    if isinstance(item, (set, frozenset)):
        return sorted(map(str, item))
    if isinstance(item, Sequence) and not isinstance(item, (str, bytes)):
        return [plain(member, depth + 1) for member in item]
    if isinstance(item, float):
        return item if math.isfinite(item) else None
    if isinstance(item, datetime):
        return f"{item:%Y-%m-%d %H:%M:%S}.{item.microsecond // 1000:03d}"
    if attrs.has(type(item)):
        return {field.name: plain(getattr(item, field.name), depth + 1) for field in attrs.fields(type(item))}
    if isinstance(item, bytes):
        return item.hex()
    return item if item is None or isinstance(item, (bool, int, str)) else str(item)
