"""The cards of one attempt: `current.card` while the step runs, and their HTML once it has ended.

Nothing in here raises: a card that can't be made says so in the task's log and, unless `save_errors` is off, as a card.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flowstore import alarm, context
from flowstore.cards.contract import CardComponent, FlowstoreCard, find_type
from flowstore.cards.page import error_html, page, python
from flowstore.cards.task_view import TaskView
from flowstore.flow.decorators import Card
from flowstore.flow.graph import Graph
from flowstore.store.blobs import INLINE_BYTES
from flowstore.store.cards import RenderedCard
from flowstore.store.codecs import Encoded, encode
from flowstore.store.codecs.hypertext import Html as StoredHtml
from flowstore.store.description import NewBlob

_PAUSE_S = 0.1  # at least, between two states that are sent; the driver writes one a second
_SHARE = 10  # drawing a card again takes at most one part in so many of the step's time
_DEFAULT_INTERVAL_S = 5
_MOST_SHOWN = 16 << 20  # bytes of a state; a larger one comes with the report
_MOST_DATA = 1 << 20  # bytes of what `refresh` returned


class _TooLate(BaseException):  # so that no `except Exception` in a card keeps it
    """Rendering a card took longer than its timeout."""


def _warn(text: str) -> None:
    """Write a line to the task's log, if the step has left it open."""
    with contextlib.suppress(ValueError, OSError, AttributeError):
        print(f"card: {text}", file=sys.stderr, flush=True)


class CardParts:
    """The components of one card: `current.card["id"]`.

    Args:
        cards: those of the attempt.
        n: the number of the card; `None` for what stands for a card that is not there, which all calls leave alone.
        is_editable: whether it takes components.
    """

    def __init__(self, cards: TaskCards, n: int | None, *, is_editable: bool = True) -> None:
        self._cards = cards
        self._n = n
        self._is_editable = is_editable
        self._parts: list[CardComponent] = []
        self.components = Components(self)

    def append(self, component: Any, id: str | None = None) -> None:
        """Add a component.

        Args:
            component: one of `flowstore.cards`, or of your own; any other object is shown as an `Artifact`.
            id: under which `components[id]` finds it later.
        """
        if self._n is None or not self._is_editable:
            if self._n is not None:
                _warn(f"a card of the type {self._cards.wanted[self._n].type!r} takes no components.")
            return
        if not isinstance(component, CardComponent):
            from flowstore.cards.components import Artifact

            component = Artifact(component)
        if id is not None:
            if id in self.components:
                _warn(f"another component has the id {id!r} already, so the new one has none.")
            else:
                component.id = id
        self._parts.append(component)

    def extend(self, components: Iterable[Any]) -> None:
        """Add several components."""
        for component in components:
            self.append(component)

    def clear(self) -> None:
        """Remove all components."""
        self._parts.clear()

    def refresh(self, data: Any = None, force: bool = False) -> None:
        """Show the card as it is now while the task goes on.

        It may be called as often as you like: the store gets the newest state, at most once a second.

        Args:
            data: for `render_runtime` and `refresh` of a type of your own.
            force: draw it now, however little time has passed since it was drawn last.
        """
        if self._n is not None:
            self._cards.draw(self._n, data, force=force)

    def __iter__(self) -> Iterator[CardComponent]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class Components:
    """The components of a card that have an id, by id."""

    def __init__(self, parts: CardParts) -> None:
        self._parts = parts

    def __getitem__(self, id: str) -> CardComponent:
        for component in self._parts:
            if component.id == id:
                return component
        _warn(f"there is no component with the id {id!r}. Give it one: current.card.append(…, id={id!r})")
        return _Nothing()

    def __contains__(self, id: object) -> bool:
        return any(component.id == id for component in self._parts)

    def __iter__(self) -> Iterator[str]:
        return (component.id for component in self._parts if component.id is not None)


class _Nothing(CardComponent):
    """Stands for a component that is not there."""

    def update(self, *_args: Any, **_options: Any) -> None: ...


class CurrentCards:
    """`current.card`: the cards of the step that runs.

    `append` and its siblings mean the *default editable* card: the only one that takes components, else the one with
    `customize=True`, else the only one without an id. `current.card["id"]` means the one with this id.
    """

    def __init__(self, cards: TaskCards) -> None:
        self._wanted = cards.wanted
        self._editable = cards.editable
        self._parts = cards.parts
        self._nothing = CardParts(cards, None)

    def _default(self, call: str) -> CardParts:
        customized = [n for n in self._editable if self._wanted[n].customize]
        nameless = [n for n in self._editable if self._wanted[n].id is None]
        for choice in (self._editable, customized, nameless):
            if len(choice) == 1:
                return self._parts[choice[0]]
        many = bool(self._editable)
        why = "several cards of the step take components" if many else "no card of the step takes components"
        hint = ' Give each an id and write current.card["id"], or give one of them customize=True.' if many else ""
        _warn(f"current.card.{call} had no effect, since {why}.{hint}")
        return self._nothing

    def append(self, component: Any, id: str | None = None) -> None:
        """Add a component to the default editable card; see `CardParts.append`."""
        self._default("append").append(component, id=id)

    def extend(self, components: Iterable[Any]) -> None:
        """Add several components to the default editable card."""
        self._default("extend").extend(components)

    def clear(self) -> None:
        """Remove all components of the default editable card."""
        self._default("clear").clear()

    def refresh(self, data: Any = None, force: bool = False) -> None:
        """Show the only card, or the default editable one, as it is now; see `CardParts.refresh`."""
        parts = self._parts[0] if len(self._parts) == 1 else self._default("refresh")
        parts.refresh(data, force=force)

    @property
    def components(self) -> Components:
        """The components of the default editable card that have an id, by id."""
        return self._default("components").components

    def get(self, type: str | None = None) -> list[CardParts]:
        """Return the cards of a type; all without one."""
        return [parts for parts, card in zip(self._parts, self._wanted, strict=True) if type in (None, card.type)]

    def __getitem__(self, id: str) -> CardParts:
        for n, card in enumerate(self._wanted):
            if card.id == id:
                return self._parts[n]
        _warn(f"the step has no card with the id {id!r}, so what goes there is dropped. Write @card(id={id!r}).")
        return self._nothing

    def __setitem__(self, id: str, components: Iterable[Any]) -> None:
        parts = self[id]
        parts.clear()
        parts.extend(components)

    def __contains__(self, id: object) -> bool:
        return any(card.id == id for card in self._wanted)

    def __iter__(self) -> Iterator[CardComponent]:
        return iter(self._default("components"))

    def __len__(self) -> int:
        return len(self._default("components"))


class TaskCards:
    """The cards of one attempt, from the step's first line to the report.

    Args:
        wanted: the cards that the step has.
        task: the task as cards see it.
        graph: the flow's steps.
        show: hands the state of a card to the driver.

    Attributes:
        wanted: as above.
        parts: the components of each.
        editable: the numbers of those that take components.
    """

    def __init__(
        self, wanted: Sequence[Card], task: TaskView, graph: Graph, show: Callable[[RenderedCard], None]
    ) -> None:
        self.wanted = wanted
        self._task = task
        self._graph = graph
        self._show = show
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._is_over = False
        self._kinds = [_kind(card.type) for card in wanted]
        self.editable = [n for n, kind in enumerate(self._kinds) if getattr(kind, "ALLOW_USER_COMPONENTS", False)]
        self.parts = [CardParts(self, n, is_editable=n in self.editable) for n in range(len(wanted))]
        self._drawn = [0] * len(wanted)  # how often each was drawn while the step runs
        self._next_at = [0.0] * len(wanted)  # when each may be drawn again
        self._waiting: dict[int, Any] = {}  # those that were not drawn, with the data of the newest call
        self._later: threading.Timer | None = None  # draws these when it is time
        self._broken: set[int] = set()  # those that could not be drawn
        self.current = CurrentCards(self)

    # --- while the step runs

    def draw(self, n: int, data: Any, *, force: bool = False) -> None:
        """Draw a card as it is now and hand it to the driver; a moment later if that was done a moment ago."""
        if os.getpid() != self._process:  # a child of the step's, in which nobody may hold the lock any more
            return
        with self._lock:
            if self._is_over or n in self._broken:
                return
            began = time.monotonic()
            if not force and began < self._next_at[n]:
                self._waiting[n] = data
                self._draw_later()
                return
            self._waiting.pop(n, None)
            is_first = not self._drawn[n]
            self._draw(n, data)
            took = 0 if is_first else time.monotonic() - began  # the first one imports what later ones have
            interval_s = self.wanted[n].refresh_interval
            least_s = interval_s if interval_s > _DEFAULT_INTERVAL_S else _PAUSE_S
            self._next_at[n] = began + max(least_s, _SHARE * took)

    def _draw_later(self) -> None:
        """Have what waits drawn when it is time, since the step may not call again for long."""
        if self._later is not None and self._later.is_alive():
            return
        due = min(self._next_at[n] for n in self._waiting)
        self._later = threading.Timer(max(0.0, due - time.monotonic()), self._draw_waiting)
        self._later.daemon = True
        self._later.start()

    def _draw_waiting(self) -> None:
        with self._lock:
            self._later = None
            for n, data in list(self._waiting.items()):
                self.draw(n, data)

    def _draw(self, n: int, data: Any) -> None:
        kind = self._kinds[n]
        if not (isinstance(kind, type) and kind.RUNTIME_UPDATABLE):
            return
        message = self._message(n, data, "render_runtime")
        self._drawn[n] += 1
        try:
            card = self._card_of(n, kind)
            html = card.render_runtime(self._task, message)
            rendered, encoded = self._packed(n, html, self._data(card, message))
        except Exception:
            self._broken.add(n)
            self._complain(n, traceback.format_exc(), "could not be drawn while the step runs")
            return
        if encoded.size_bytes <= _MOST_SHOWN:  # a state travels whole, whatever its size
            blob = NewBlob(encoded.description, data=encoded.content)
            self._show(RenderedCard(n, rendered.type, rendered.card_id, blob, rendered.data))

    def _end_drawing(self) -> None:
        self._is_over = True
        if self._later is not None:
            self._later.cancel()

    def abandon(self) -> None:
        """Send what was not drawn for want of time: the attempt has failed, so there will be no other state."""
        with self._lock:
            for n, data in list(self._waiting.items()):
                self.draw(n, data, force=True)
            self._end_drawing()
        self._end_charts()

    # --- once it has ended

    def finish(self, described: Mapping[str, NewBlob]) -> Iterator[tuple[RenderedCard, Encoded]]:
        """Render all cards, each within its timeout; yield those that are to be stored.

        Args:
            described: what the step has set.
        """
        with self._lock:
            self._end_drawing()
        self._task.finished = True
        self._task.described = {name: blob.description for name, blob in described.items()}
        for n, wanted in enumerate(self.wanted):
            limit = f"Rendering took longer than the card's timeout of {wanted.timeout:g} s."
            try:
                with alarm.limited(wanted.timeout, _TooLate(limit)):
                    rendered = self._final(n)
            except (Exception, SystemExit, _TooLate) as error:
                text = f"{limit}\n" if isinstance(error, _TooLate) else traceback.format_exc()
                self._complain(n, text, "could not be rendered")
                if not wanted.save_errors:
                    continue
                rendered = self._packed(n, error_html(self._task.pathspec, wanted.type, text), None)
            yield rendered
        self._end_charts()

    @staticmethod
    def _end_charts() -> None:
        if "flowstore.cards.charts" in sys.modules:
            from flowstore.cards import charts

            charts.close()

    def _final(self, n: int) -> tuple[RenderedCard, Encoded]:
        kind = self._kinds[n]
        if not isinstance(kind, type):
            raise kind
        card = self._card_of(n, kind)
        html = card.render(self._task)
        has_new_data = kind.RUNTIME_UPDATABLE and self._drawn[n] and n in self._waiting
        data = self._data(card, self._message(n, self._waiting[n], "render")) if has_new_data else None
        return self._packed(n, html, data)

    def _message(self, n: int, data: Any, mode: str) -> dict[str, Any]:
        """Return what `render_runtime` and `refresh` of a card are called with."""
        return {"user": data, "render_seq": self._drawn[n], "mode": mode, "components": {}}

    def _card_of(self, n: int, kind: type[FlowstoreCard]) -> FlowstoreCard:
        """Return an object of a type of card, made with as many arguments as its `__init__` takes."""
        given = {
            "options": dict(self.wanted[n].options),
            "components": [component_html(part) for part in self.parts[n]],
            "graph": _graph_dict(self._graph),
            "flow": self._task.flow_object,
        }
        code = getattr(kind.__init__, "__code__", None)
        if code is not None and not code.co_flags & 0x08:  # it has no **options
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            given = {name: value for name, value in given.items() if name in names}
        return kind(**given)

    def _data(self, card: FlowstoreCard, message: Mapping[str, Any]) -> bytes | None:
        """Return what `Card.get_data()` is to answer, as JSON; `None` where the card has no data."""
        data = card.refresh(self._task, message)
        if data is None:
            return None
        token = card.reload_content_token(self._task, message)
        text = json.dumps({"reload_token": token, "data": data, "created_on": time.time()}, default=str)
        return text.encode() if len(text) <= _MOST_DATA else None

    def _packed(self, n: int, html: Any, data: bytes | None) -> tuple[RenderedCard, Encoded]:
        if not isinstance(html, str):
            raise TypeError(f"render(task) must return HTML as text, not {html!r:.100}.")
        if context.state.hide is not None:  # the step has secrets
            html = context.state.hide(html)
            data = None if data is None else context.state.hide(data.decode()).encode()
        encoded = encode(StoredHtml(html))
        small = encoded.size_bytes <= INLINE_BYTES
        blob = NewBlob(encoded.description, None if small else encoded.sha, encoded.content if small else None)
        wanted = self.wanted[n]
        return RenderedCard(n, wanted.type, wanted.id, blob, data), encoded

    def _complain(self, n: int, text: str, what: str) -> None:
        wanted = self.wanted[n]
        with_id = "" if wanted.id is None else f" with the id {wanted.id!r}"
        _warn(f"the card {wanted.type!r}{with_id} {what}. The task goes on.\n{text.rstrip()}")


def _kind(name: str) -> type[FlowstoreCard] | Exception:
    """Return a type of card or, where there is none, the error to show in place of the card."""
    try:
        return find_type(name)
    except Exception as error:  # the import of somebody's package may raise anything
        return error


def warm_up(file: str) -> None:
    """Do once what the first card of each process would do, so that processes forked from this one need not.

    Args:
        file: the flow's, whose source cards show.
    """
    page("", python("x"))
    encode(StoredHtml(""))
    linecache.getlines(file)


def component_html(component: CardComponent) -> str:
    """Return the HTML of a component, or of the error that it raises."""
    from flowstore.cards.components import Error

    try:
        html = component.render()
        if not isinstance(html, str):
            raise TypeError(f"{type(component).__name__}.render() must return HTML as text, not {html!r:.100}.")
    except Exception as error:
        _warn(f"a component could not be rendered.\n{traceback.format_exc().rstrip()}")
        return Error(error, title=f"{type(component).__name__} could not be rendered").render()
    return html


def _graph_dict(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return the flow's steps as the constructors of cards take them."""
    return {
        node.name: {
            "name": node.name,
            "type": "join" if node.is_join else node.kind,
            "next": list(node.targets),
            "line": node.line,
            "doc": node.doc,
            "foreach_artifact": node.foreach,
            "condition": node.condition,
        }
        for node in graph
    }
