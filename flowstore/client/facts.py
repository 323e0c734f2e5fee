"""Facts about tasks that are no artifacts: who ran them, with what, in which attempt."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flowstore import later
from flowstore.sqlite.database import Row
from flowstore.sqlite.typed_rows import json_of, time_of

if TYPE_CHECKING:
    from flowstore.client.task import Task

FROM_METAFLOW = "metaflow"  # in `attempts.metadata`: of an imported attempt, name, value, type and time of each fact
_LATEST_MS = 253402300800000  # the year 10000
_OF_RUNS = ("runtime:", "python_version:", "flowstore_version:")  # the beginnings of system tags that every run has
_AT_THE_END = frozenset({"attempt_ok", "attempt-done"})  # recorded when the attempt ends
_TYPES = {"attempt_ok": "internal_attempt_status"}  # of names whose type is another text


@later.frozen(eq=True, repr=True)
class Metadata:
    """One fact about a task's attempt.

    Attributes:
        name, value, type: text.
        created_at: when it was recorded, in UTC.
        task: the task.
    """

    name: str
    value: str
    created_at: datetime
    type: str
    task: Task


@later.frozen
class Origin:
    """The part of a task's facts that its run has, or the task that it stands for.

    Attributes:
        run: the run's row.
        tags: the run's system tags.
        script: the file of the flow.
        pathspec: of the task that it stands for.
    """

    run: Row
    tags: Collection[str]
    script: str | None
    pathspec: str | None


def metadata_of(task: Task, attempts: Sequence[Row], origin: Callable[[], Origin]) -> Iterator[Metadata]:
    """Yield the facts about a task, attempt by attempt; those of Metaflow need no `origin`, which takes queries."""
    origin = functools.cache(origin)
    for attempt in attempts:
        if (recorded := _from_metaflow(attempt)) is not None:
            yield from (Metadata(name, value, time_of(at_ms), kind, task) for name, value, kind, at_ms in recorded)
            continue
        at = time_of(attempt["started_at"])
        ended_at = at if attempt["finished_at"] is None else time_of(attempt["finished_at"])
        for name, value in facts_of(attempt, origin()).items():
            yield Metadata(name, value, ended_at if name in _AT_THE_END else at, _TYPES.get(name, name), task)


def facts_of(attempt: Row, origin: Origin) -> dict[str, str]:
    """Return the facts about an attempt that ran here, by name; all values are text."""
    run, pathspec = origin.run, origin.pathspec
    ended = attempt["finished_at"] is not None
    facts: dict[str, Any] = {
        "attempt": attempt["number"],
        "attempt_ok": attempt["status"] == "successful" if ended else None,
        "attempt-done": attempt["number"] if ended else None,
        "pid": attempt["pid"],
        "host": dict(attempt).get("ran_on") or run["host"],  # older files have no such column
        "user": run["user"],
        **dict(tag.split(":", 1) for tag in origin.tags if tag.startswith(_OF_RUNS)),
        "script-name": origin.script,
        "origin-task": pathspec,
        "origin-task-id": None if pathspec is None else pathspec.rpartition("/")[2],
        "origin-run-id": run["origin_run_id"],
        **json_of(attempt["metadata"] or "{}", dict),
    }
    return {name: _as_text(value) for name, value in facts.items() if value is not None}


def is_from_metaflow(attempt: Row) -> bool:
    """Return whether an attempt was imported from Metaflow, with its facts."""
    return _from_metaflow(attempt) is not None


def _from_metaflow(attempt: Row) -> list[tuple[str, str, str, int]] | None:
    """Return what Metaflow has recorded of an attempt; `None` where it does not come from there."""
    recorded = json_of(attempt["metadata"] or "{}", dict).get(FROM_METAFLOW)
    if not isinstance(recorded, list):
        return None
    return [tuple(fact) for fact in recorded if isinstance(fact, list) and _is_sound(fact)]


def _is_sound(fact: list[Any]) -> bool:
    return list(map(type, fact)) == [str, str, str, int] and 0 <= fact[3] < _LATEST_MS


def _as_text(value: Any) -> str:
    return str(value) if isinstance(value, (str, bool)) else json.dumps(value)
