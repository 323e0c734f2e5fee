"""The components that fold: values as trees, and a timeline of events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from flowstore.cards.contract import CardComponent
from flowstore.cards.page import text
from flowstore.text import counted

_MOST_LEAVES = 5000  # of a tree
_MOST_LEVELS = 60
_OPEN = 3  # levels of a tree that are open at first
_THEMES = {"success": "success", "warning": "warning", "error": "error", "info": "info", "primary": "info"}


class JSONViewer(CardComponent):
    """Data as a tree whose branches fold.

    Args:
        data: what JSON can hold, or JSON as text; anything else in it is shown as text.
        collapsible: whether branches fold.
        max_height: accepted for the sake of code that was written for Metaflow; whatever it says, a tree that is higher
            than 400 pixels scrolls.
        show_copy_button: accepted likewise: cards have no script.
        title: what to say above it.
    """

    def __init__(
        self, data: Any, collapsible: bool = True, max_height: str | None = None,
        show_copy_button: bool = True, title: str | None = None,  # noqa: ARG002
    ) -> None:  # fmt: skip
        self.data = data
        self.collapsible = collapsible
        self.max_height = max_height
        self.title = title

    def update(self, data: Any) -> None:
        """Replace the data."""
        self.data = data

    def _value(self) -> Any:
        if isinstance(self.data, str):
            try:
                return json.loads(self.data)
            except ValueError:
                return self.data
        return self.data

    def render(self) -> str:
        """Return the tree."""
        title = f"<p><b>{text(self.title)}</b></p>" if self.title else ""
        tall = "" if self.max_height is None else " tall"
        return f'{title}<div class="tree{tall}">{_Tree(self.collapsible).html(self._value())}</div>'


class YAMLViewer(JSONViewer):
    """Data as a tree, as `JSONViewer` shows it; text is taken for YAML as it is."""

    def _value(self) -> Any:
        return self.data

    def render(self) -> str:
        """Return the tree, or the text."""
        if isinstance(self.data, str):
            title = f"<p><b>{text(self.title)}</b></p>" if self.title else ""
            return f'{title}<pre class="code">{text(self.data)}</pre>'
        return super().render()


class _Tree:
    """One tree on its way into HTML, which stops where it is too large."""

    def __init__(self, collapsible: bool) -> None:
        self._collapsible = collapsible
        self._left = _MOST_LEAVES

    def html(self, value: Any, level: int = 0, key: str = "") -> str:
        """Return a value, after its key, with what is below it."""
        self._left -= 1
        if isinstance(value, Mapping):
            return self._branch("{}", value.items(), len(value), level, key)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._branch("[]", enumerate(value), len(value), level, key)
        kind = "s" if isinstance(value, str) else "n"
        is_plain = isinstance(value, (str, int, float, type(None)))
        return f'{key}<span class="{kind}">{text(json.dumps(value, ensure_ascii=False) if is_plain else value)}</span>'

    def _branch(self, brackets: str, items: Iterable[tuple[Any, Any]], count: int, level: int, key: str) -> str:
        if not count or level > _MOST_LEVELS:
            return f'{key}<span class="muted">{brackets if not count else "…"}</span>'
        lines = []
        for name, value in items:
            if self._left <= 0:
                lines.append("<li>…</li>")
                break
            lines.append(f"<li>{self.html(value, level + 1, f'<span class=key>{text(name)}:</span> ')}</li>")
        inner = f"<ul>{''.join(lines)}</ul>"
        gist = f'<span class="muted">{brackets[0]}{count:,}{brackets[1]}</span>'
        if not self._collapsible:
            return f"{key}{gist}{inner}"
        return f"<details{' open' if level < _OPEN else ''}><summary>{key}{gist}</summary>{inner}</details>"


class EventsTimeline(CardComponent):
    """Events as they happened, the newest first.

    Args:
        title: what to say above them.
        max_events: how many are shown.
    """

    def __init__(self, title: str | None = None, max_events: int = 100) -> None:
        self.title = title
        self.max_events = max_events
        self.finished = False
        self.count = 0
        self._events: list[str] = []

    def update(
        self, event_data: Mapping[str, Any], style_theme: str | None = None, priority: str | None = None,
        payloads: Mapping[str, CardComponent] | None = None, finished: bool | None = None,
    ) -> None:  # fmt: skip
        """Add an event.

        Args:
            event_data: what happened, as names and plain values.
            style_theme: 'success', 'warning', 'error' or 'info'; others look like the default.
            priority: 'low', 'normal', 'high' or 'critical', which is shown in words.
            payloads: components that belong to it, by name.
            finished: whether it was the last one.
        """
        at = datetime.now(UTC)
        data = {**event_data, **({"priority": priority} if priority not in (None, "normal") else {})}
        facts = " ".join(f'<span class="muted">{text(name)}</span> {text(value)}' for name, value in data.items())
        more = "".join(
            f"<details><summary>{text(name)}</summary>{part.render()}</details>"
            for name, part in (payloads or {}).items()
        )
        theme = _THEMES.get(style_theme or "", "")
        time = f'<time datetime="{at.isoformat()}" class="muted">{at:%H:%M:%S} UTC</time>'
        self._events.insert(0, f'<li class="{theme}">{time}<div>{facts}</div>{more}</li>')
        del self._events[self.max_events :]
        self.count += 1
        self.finished = self.finished if finished is None else finished

    def render(self) -> str:
        """Return the events."""
        title = f"<b>{text(self.title)}</b> " if self.title else ""
        state = ", finished" if self.finished else ""
        last = f"the last {len(self._events):,} of " if self.count > len(self._events) else ""
        events = f"{last}{counted(self.count, 'event')}"
        return (
            f'<p>{title}<span class="muted">{events}{state}</span></p><ul class="events">{"".join(self._events)}</ul>'
        )
