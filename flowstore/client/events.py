"""Events: publishing them, and what started a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flowstore import context, later
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import events
from flowstore.text import one_line, shorten

if TYPE_CHECKING:
    from flowstore.client.run import Run
    from flowstore.sqlite.database import Database

MOST_PAYLOAD_BYTES = 64 << 10
_MOST_LEVELS = 100
_MOST_SHOWN = 300  # columns
_NO_OBJECT = 'The payload of an event is a JSON object, as in {"day": "2026-11-27"}.'


def publish(store: Database, name: str, payload: Mapping[str, Any], user: str) -> int:
    """Publish an event in a store, and return its number.

    Raises:
        FlowstoreError: the name or the payload cannot be that of an event, or the store cannot be written.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable():
        raise FlowstoreError(f"The name of an event is a text of 1 to 200 characters, not {name!r:.100}.")
    too_deep = FlowstoreError(
        f"The payload of event {name} is nested more than {_MOST_LEVELS} levels deep. Publish what is needed of it."
    )
    try:
        text = json.dumps(payload, allow_nan=False, ensure_ascii=False) if isinstance(payload, Mapping) else ""
    except RecursionError:
        raise too_deep from None
    except (TypeError, ValueError):
        text = ""
    if not text or not context.is_text(text) or not all(isinstance(key, str) for key in payload):
        raise FlowstoreError(_NO_OBJECT)
    if len(text) > MOST_PAYLOAD_BYTES:
        raise FlowstoreError(f"The payload of an event has at most {MOST_PAYLOAD_BYTES:,} characters of JSON.")
    if not _fits(payload, _MOST_LEVELS):
        raise too_deep
    with store.write() as db:
        return events.publish(db, events.EVENT, name, payload, user)


def _copied(payload: Any) -> dict[Any, Any]:
    if payload is not None and not isinstance(payload, Mapping):
        raise FlowstoreError(_NO_OBJECT)
    return dict(payload or {})


def _fits(value: Any, levels: int) -> bool:
    """Return whether a value is nested at most so deep; what reads it later may have less of a stack than this."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return levels >= 0 and all(_fits(item, levels - 1) for item in items)


class Event:
    """An event to publish: `flowstore scheduler` starts the deployments that wait for it, `@trigger(event=name)`.

    Args:
        name: what `@trigger` names.
        payload: values that can set parameters of the runs that are started.

    Example:
        Event("data_updated", payload={"day": "2026-11-27"}).publish()
    """

    def __init__(self, name: str, payload: Mapping[str, Any] | None = None, url: str | None = None) -> None:
        if url is not None:
            raise FlowstoreError("An event is published in a store, not at a URL. Leave url out.")
        self.name = name
        self.payload = _copied(payload)

    def add_to_payload(self, key: str, value: Any) -> Event:
        """Add a value to the payload, in place of one that it has under this key."""
        self.payload[key] = value
        return self

    def publish(
        self, payload: Mapping[str, Any] | None = None, *, force: bool = True, ignore_errors: bool = False
    ) -> str | None:
        """Publish it in the store in use.

        Args:
            payload: more values.
            force: publish it also in a run that is not one of a deployment.
            ignore_errors: return `None` where it cannot be published.

        Returns:
            Its number; `None` where it was not published.

        Raises:
            FlowstoreError: it cannot be published.
        """
        if not force and context.state.task and not context.state.task.get("is_deployed"):
            return None
        from flowstore.store.opening import active_store

        try:
            store = active_store()
            return str(publish(store, self.name, {**self.payload, **_copied(payload)}, context.username()))
        except FlowstoreError:
            if ignore_errors:
                return None
            raise

    def safe_publish(self, payload: Mapping[str, Any] | None = None, *, ignore_errors: bool = False) -> str | None:
        """Publish it, but not from a run that somebody tries out on their machine: see `publish`."""
        return self.publish(payload, force=False, ignore_errors=ignore_errors)


ArgoEvent = Event


@later.frozen(eq=True, repr=True)
class TriggerEvent:
    """An event that started a run.

    Attributes:
        name: the event's, or the flow of the run that was successful.
        id: its number.
        timestamp: when it was published, in UTC.
        type: 'event' or 'run'.
        payload: what came with it.
    """

    name: str
    id: str
    timestamp: datetime
    type: str
    payload: Mapping[str, Any] = later.field(repr=False)


_RECORDED = {"id": int, "kind": str, "name": str, "payload": dict, "published_at": int}


def triggered_by(run: Run) -> str | None:
    """Return the events that started a run, in one line for people; `None` where none did."""
    try:
        return None if run.trigger is None else shorten(one_line(str(run.trigger)), _MOST_SHOWN)
    except StoreCorrupt:  # all else of the run can be shown
        return "an event that cannot be read, since that part of the store is damaged"


class Trigger:
    """The events that started a run: `current.trigger`, `Run.trigger`; each is found by name, `trigger["name"]`."""

    def __init__(self, recorded: list[Any], run_of: Callable[[str], Run]) -> None:
        self._run_of = run_of
        for item in recorded:
            if not isinstance(item, Mapping) or any(
                type(item.get(name)) is not kind for name, kind in _RECORDED.items()
            ):
                raise StoreCorrupt.damaged(f"{str(item)[:60]!r} is no event")
        self._events = [
            TriggerEvent(
                item["name"], str(item["id"]), time_of(item["published_at"]), item["kind"], dict(item["payload"])
            )
            for item in recorded
        ]

    @property
    def event(self) -> TriggerEvent | None:
        """The event; of several, the latest."""
        return max(self._events, key=lambda item: int(item.id), default=None)

    @property
    def events(self) -> list[TriggerEvent] | None:
        """All events that started the run."""
        return list(self._events) or None

    @property
    def run(self) -> Run | None:
        """The run whose end started this one; of several, the latest; `None` where it was an event."""
        runs = [item for item in self._events if item.type == events.RUN]
        return self._find(max(runs, key=lambda item: int(item.id))) if runs else None

    @property
    def runs(self) -> list[Run] | None:
        """All runs whose ends started this one."""
        return [self._find(item) for item in self._events if item.type == events.RUN] or None

    def _find(self, event: TriggerEvent) -> Run:
        return self._run_of(str(event.payload.get("pathspec")))

    def __getitem__(self, name: str) -> Run | TriggerEvent:
        for item in self._events:
            if item.name == name:
                return self._find(item) if item.type == events.RUN else item
        raise KeyError(f"Nothing of the name {name!r} started the run; there are: {', '.join(self) or 'none'}.")

    def __contains__(self, name: object) -> bool:
        return name in [*self]

    def __iter__(self) -> Any:
        return iter([item.name for item in self._events])

    def __str__(self) -> str:
        return ", ".join(events.named(item.type, item.name, item.payload) for item in self._events)

    def __repr__(self) -> str:
        return f"Trigger({', '.join(map(repr, self._events))})"
