"""Follow what tasks print, for `logs -f`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from flowstore.client import Run, Step, Task
from flowstore.client.task import last_state
from flowstore.sqlite.database import Store
from flowstore.sqlite.typed_rows import time_of

_POLL_S = 0.3
_PAGE = 1000

_NEW = """
select c.id, c.stream, c.written_at, c.text, t.id as task_id, s.name as step
from log_chunks c join attempts a on a.log_id = c.log_id join tasks t on t.id = a.task_id
join steps s on s.id = t.step_id
where c.id > :last and t.run_id = :run_id
  and (:step is null or s.name = :step) and (:task_id is null or t.id = :task_id)
  and (:attempt is null or a.number = :attempt) and (:stream is null or c.stream = :stream)
order by c.id limit :page
"""


@attrs.frozen
class Line:
    """A line that a task printed: when, the task as `step/id`, and the text."""

    at: Any
    task: str
    text: str


def follow(found: Run | Step | Task, streams: Sequence[str], attempt: int | None = None) -> Iterator[Line]:
    """Yield the lines that the tasks of a run, step or task have printed, and print until they end.

    Args:
        found: whose.
        streams: 'stdout', 'stderr' or both.
        attempt: only of this one.
    """
    store, parts = found._store, found.path_components
    run = found if isinstance(found, Run) else Run._at(found._scope, "/".join(parts[:2]))
    asked = {
        "run_id": int(run.id),
        "step": parts[2] if len(parts) > 2 else None,
        "task_id": int(parts[3]) if len(parts) > 3 else None,
        "attempt": attempt,
        "stream": streams[0] if len(streams) == 1 else None,
    }
    last = 0
    rests: dict[tuple[str, str], tuple[Any, str]] = {}
    while True:
        ended = (found if isinstance(found, Task) else run).status != "running"
        for row in _new(store, asked, last):
            last = row["id"]
            key = (f"{row['step']}/{row['task_id']}", row["stream"])
            at = time_of(row["written_at"])
            *lines, rest = (rests.get(key, (at, ""))[1] + row["text"]).split("\n")
            rests[key] = (at, rest)
            yield from (Line(at, key[0], last_state(line)) for line in lines)
        if ended:
            break
        time.sleep(_POLL_S)
    yield from (Line(at, task, last_state(rest)) for (task, _), (at, rest) in rests.items() if rest)


def _new(store: Store, asked: dict[str, Any], last: int) -> Iterator[Any]:
    while rows := store.rows(_NEW, {**asked, "last": last, "page": _PAGE}):
        yield from rows
        last = rows[-1]["id"]
