"""The logs of tasks as they are stored: chunks of text, each of one stream, in the order in which they were read."""

from __future__ import annotations

from collections.abc import Iterator

from flowstore import later
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.typed_rows import PAGE, onward


def read(store: Database, log_id: int, stream: str | None = None) -> Iterator[Row]:
    """Yield what an attempt printed: `stream`, `written_at`, `text`, in order, a page at a time."""
    last = 0
    while rows := store.rows(
        """select id, stream, written_at, text from log_chunks
           where log_id = ? and id > ? and (? is null or stream = ?) order by id limit ?""",
        (log_id, last, stream, stream, PAGE),
    ):
        yield from rows
        last = -onward(store.path, -last, -rows[-1]["id"])


def size_bytes(store: Database, log_id: int, stream: str) -> int:
    """Return how much an attempt printed on a stream."""
    size: int = store.value(
        "select coalesce(sum(length(cast(text as blob))), 0) from log_chunks where log_id = ? and stream = ?",
        (log_id, stream),
    )
    return size


def read_from(
    store: Database,
    log_id: int,
    stream: str | None,
    position: int | None,
    *,
    with_it: bool,
    newest_first: bool,
    limit: int,
) -> list[Row]:
    """Return some chunks of a log, from one of them on, in either direction.

    Args:
        store: the store.
        log_id: the log.
        stream: of this stream; `None`: of both.
        position: the chunk to begin at; `None`: at the end that comes first.
        with_it: whether that chunk itself is wanted.
        newest_first: the direction.
        limit: the most that are wanted.
    """
    beyond, order = ("<", "desc") if newest_first else (">", "asc")
    begin = (2**63 - 1 if newest_first else 0) if position is None else position
    return store.rows(
        f"""select id, stream, written_at, text from log_chunks
            where log_id = ? and (id {beyond} ? or (? and id = ?)) and (? is null or stream = ?)
            order by id {order} limit ?""",
        (log_id, begin, with_it, begin, stream, stream, limit),
    )


@later.frozen(kw_only=True)
class Followed:
    """The logs of a run that are followed: all, or only those of a step, a task, an attempt or a stream."""

    run_id: int
    step: str | None
    task_id: int | None
    attempt: int | None
    stream: str | None


def read_after(store: Database, query: Followed, last: int) -> Iterator[Row]:
    """Yield what tasks have printed since the chunk `last`, in the order in which it was stored."""
    while rows := store.rows(
        """select c.id, c.stream, c.written_at, c.text, t.id as task_id, s.name as step
           from log_chunks c join attempts a on a.log_id = c.log_id join tasks t on t.id = a.task_id
           join steps s on s.id = t.step_id
           where c.id > :last and t.run_id = :run_id
             and (:step is null or s.name = :step) and (:task_id is null or t.id = :task_id)
             and (:attempt is null or a.number = :attempt) and (:stream is null or c.stream = :stream)
           order by c.id limit :page""",
        {**later.as_dict(query), "last": last, "page": PAGE},
    ):
        yield from rows
        last = rows[-1]["id"]
