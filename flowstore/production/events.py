"""The events that start deployments, and the values that they give to parameters.

A deployment waits for conditions: events of a name, successful runs of a flow. Each event sets its condition, the
newest one counts, and once all are set the deployment starts and they are unset. So what starts follows from the
events after the deployment's mark and nothing else, whoever looks, and when.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs

from flowstore.errors import ParameterError
from flowstore.sqlite.database import Database
from flowstore.store import deployments, events
from flowstore.store.deployments import DeployedParameter, Deployment
from flowstore.store.events import Claim, Event

_DAY_MINUTES = 24 * 60


@attrs.frozen
class Start:
    """A deployment that events have made due, and those events in the order of its conditions."""

    deployment: Deployment
    events: list[Event]
    claim: Claim

    def __str__(self) -> str:
        return described(self.events)


def described(used: Sequence[Event]) -> str:
    """Return how messages name events."""
    return ", ".join(events.named(event.kind, event.name, event.payload) for event in used)


def conditions_of(deployment: Deployment) -> list[Mapping[str, Any]]:
    """Return what a deployment waits for; nothing where it waits for no event."""
    conditions: list[Mapping[str, Any]] = (deployment.triggers or {}).get("conditions", [])
    return conditions


def waits_for(deployment: Deployment) -> str | None:
    """Return what starts a deployment beside its schedule, as a line says it."""
    names = [
        f"event {item['name']}" if item["kind"] == events.EVENT else f"end of {_qualified(item)}"
        for item in conditions_of(deployment)
    ]
    return " and ".join(names) or None


def _qualified(condition: Mapping[str, Any]) -> str:
    return ".".join(filter(None, (condition.get("project"), condition.get("branch"), condition["name"])))


def waiting(store: Database) -> dict[int, Deployment]:
    """Return the deployments that the scheduler starts by events: those in AWS, too, which knows nothing of events."""
    return {item.id: item for item in deployments.active(store) if item.triggers is not None}


def next_start(store: Database, deployment: Deployment, mark: int) -> Start | None:
    """Return the first start that is due after a mark, if one is."""
    conditions = conditions_of(deployment)
    reset_at = (deployment.triggers or {}).get("reset_at")
    set_by: dict[int, Event] = {}
    day = None
    for event in _after(store, mark, {item["name"] for item in conditions}):
        concerned = [at for at, item in enumerate(conditions) if _fits(item, event, deployment)]
        if not concerned:
            continue
        if reset_at is not None and day != (day := (event.published_at // 60_000 - reset_at) // _DAY_MINUTES):
            set_by.clear()
        set_by |= dict.fromkeys(concerned, event)
        if len(set_by) == len(conditions):
            used = [set_by[at] for at in range(len(conditions))]
            return Start(deployment, used, Claim(deployment.id, mark, sorted({item.id for item in used})))
    return None


def _after(store: Database, event_id: int, names: Collection[str]) -> Iterator[Event]:
    while page := events.since(store, event_id, names):
        yield from page
        event_id = page[-1].id


def _fits(condition: Mapping[str, Any], event: Event, deployment: Deployment) -> bool:
    if (condition["kind"], condition["name"]) != (event.kind, event.name):
        return False
    if event.kind == events.EVENT:
        return True
    wanted = condition.get("project", deployment.project), condition.get("branch", deployment.branch)
    return wanted == (event.payload.get("project"), event.payload.get("branch"))


# --- values of parameters


def values_of(deployment: Deployment, used: Sequence[Event], parameters: Sequence[DeployedParameter]) -> dict[str, str]:
    """Return the texts of the parameters that events give, by option.

    Raises:
        ParameterError: a field is mapped to a parameter that the deployment does not have.
    """
    options = {item.option for item in parameters}
    values: dict[str, str] = {}
    named = {event.name: event for event in used if event.kind == events.EVENT}
    for condition in conditions_of(deployment):
        event = named.get(condition["name"]) if condition["kind"] == events.EVENT else None
        if event is None:
            continue
        mapping = condition.get("parameters")
        check_mapping(mapping or {}, options)
        pairs = {name: name for name in event.payload if _option(name) in options} if mapping is None else mapping
        values |= {
            _option(name): _text(event.payload[field]) for name, field in pairs.items() if field in event.payload
        }
    return values


def check_mapping(mapping: Mapping[str, str], options: set[str]) -> None:
    """Raise ParameterError where a field is mapped to a parameter that is not there."""
    for name in mapping:
        if _option(name) not in options:
            there = ", ".join(sorted(options)) or "none"
            raise ParameterError(f"@trigger maps a field to the parameter {name!r}, but the flow has: {there}.")


def _option(name: str) -> str:
    return name.replace("_", "-")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
