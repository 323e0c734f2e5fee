"""The rows of a run's tasks. The driver decides what happens and when it is committed; this module writes it."""

from __future__ import annotations

import functools
import json
import sqlite3
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flowstore.run.attempts import LAST_LINES, Finished, RunningTask
from flowstore.run.console import Console
from flowstore.run.lines import Lines
from flowstore.run.order_writer import OrderWriter, RunPlan
from flowstore.run.orders import Report
from flowstore.run.plan import PlannedTask
from flowstore.run.results import StoredResults
from flowstore.sqlite.database import Database, Row
from flowstore.store import blobs, cards, metrics, records, tags
from flowstore.store.cards import RenderedCard
from flowstore.store.codecs import Encoded

if TYPE_CHECKING:
    from flowstore.flow.secrets import Redactor


class Recorder:
    """Writes the rows of one run's tasks. All methods but `tags` are called inside the driver's transaction.

    Args:
        store: the run's.
        run: the run.
        orders: knows the tasks that have finished.
        results: takes what attempts have set.

    Attributes:
        tags: the run's, as `read_tags` has last read them.
    """

    def __init__(self, store: Database, run: RunPlan, orders: OrderWriter, results: StoredResults) -> None:
        self._store = store
        self._run = run
        self._orders = orders
        self._results = results
        self._step_ids: dict[str, int] = {}
        self._taken: list[tuple[int, int]] = []  # reused tasks, each with its origin
        self._metrics = metrics.RunMetrics(run.run_id)
        self._whole: set[int] = set()  # attempts that are in the store with their ends, but for what they set
        self._artifacts: list[tuple[int, str, int | None, int]] = []  # of attempts, for `settle`
        self._tags_read: tuple[Any, int] | None = None  # with which connection, and at which of its `data_version`s
        self.tags: list[str] = []

    def step_id(self, db: sqlite3.Connection, name: str) -> int:
        """Return the row of a step, which is inserted before the first of its tasks."""
        if name not in self._step_ids:
            self._step_ids[name] = records.ensure_step(db, self._run.run_id, name)
        return self._step_ids[name]

    def reserve(self, db: sqlite3.Connection, tasks: Iterable[RunningTask]) -> None:
        """Reserve the ids of tasks and of their next attempts, which nobody sees until they have begun."""
        tasks = [task for task in tasks if task.begun_at_ms is None]
        new = [task for task in tasks if not task.id]
        if new:
            for task, row in zip(new, records.reserve_ids(db, "tasks", len(new)), strict=True):
                task.id = row
        if tasks:
            for task, row in zip(tasks, records.reserve_ids(db, "attempts", len(tasks)), strict=True):
                task.attempt_id = row

    def begin_all(self, db: sqlite3.Connection, tasks: Iterable[RunningTask], over: Iterable[Finished]) -> None:
        """Record that attempts have begun; `over`: those that have ended, of which `end` follows at once."""
        reports = {item.task.attempt_id: item.report for item in over}
        whole: list[records.WholeTask] = []
        for task in tasks:
            report = reports.get(task.attempt_id)
            if report is None or task.is_recorded:
                self.begin(db, task)
            else:
                task.is_recorded = True
                self._whole.add(task.attempt_id)
                whole.append(records.WholeTask(self._new(db, task), task.attempt_id, self._end(task, report)))
        if whole:
            records.add_whole_tasks(db, whole)

    def begin(self, db: sqlite3.Connection, task: RunningTask) -> None:
        """Record that an attempt has begun, at `begun_at_ms`, with the ids that were reserved, if any were."""
        if not task.is_recorded:
            task.is_recorded = True
            task.id = records.start_task(db, self._new(db, task))
        number = task.attempt
        task.attempt_id = records.start_attempt(db, task.id, number, task.attempt_id or None, task.begun_at_ms)
        if task.measured:
            self._metrics.drop(db, task.id, task.measured)
            task.measured = ()

    def _new(self, db: sqlite3.Connection, task: RunningTask) -> records.NewTask:
        """Return a task as it is when its first attempt begins."""
        planned = task.planned
        return records.NewTask(
            self._run.run_id,
            self.step_id(db, planned.step),
            self._orders.parents(planned),
            self._orders.base(planned),
            planned.foreach_path,
            task.item,
            task.id or None,
            task.begun_at_ms,
        )

    def end(self, db: sqlite3.Connection, task: RunningTask, report: Report) -> bool:
        """Record how an attempt ended, and what it set; return whether it set anything."""
        published = self._results.publish(db, task.number, report)
        self._measure(task, report)
        if report.imported:
            records.add_to_environment(db, self._run.run_id, report.imported)
        if task.attempt_id in self._whole:
            self._whole.remove(task.attempt_id)
        else:
            records.finish_attempt(db, task.id, task.attempt_id, self._end(task, report))
        self._artifacts += [(task.attempt_id, *artifact) for artifact in published.artifacts]
        for card, blob_id in published.cards:
            cards.put(db, task.attempt_id, card, blob_id, records.now_ms())
        return bool(published.artifacts)

    def _end(self, task: RunningTask, report: Report) -> records.AttemptEnd:
        """Return how an attempt ended, without what it set."""
        failure, outcome = report.failure, report.outcome
        metadata = self._run.policies[task.planned.step].metadata
        if failure is not None and failure.module:
            metadata = {**metadata, "exception-type": failure.full_type}
        return records.AttemptEnd(
            report.status,
            pid=task.pid,
            host=task.host,
            transition=None
            if outcome is None
            else _transition(outcome.targets, outcome.count, outcome.gang, outcome.items_from),
            error=None if failure is None else (failure.type, failure.message, failure.traceback),
            metadata=metadata,
        )

    def _measure(self, task: RunningTask, report: Report) -> None:
        """Note the numbers in what an attempt set."""
        numbers = {name: blob.description.plain.numbers for name, blob in report.artifacts.items()}
        public = {name: values for name, values in numbers.items() if values and name[:1] != "_"}
        task.measured = self._metrics.record(task.id, public, {*numbers, *report.deleted})

    def take_over(self, db: sqlite3.Connection, planned: PlannedTask, row: Row) -> int:
        """Record that an earlier run's task stands for a planned one; return the new row."""
        parents, base_id = self._orders.parents(planned), self._orders.base(planned)
        step_id = self.step_id(db, planned.step)
        task_id = records.reuse_task(db, self._run.run_id, step_id, row["id"], parents, base_id)
        self._taken.append((task_id, row["id"]))
        return task_id

    def settle(self, db: sqlite3.Connection) -> None:
        """Write what the attempts of a transaction have set, and the metrics of the tasks that it has taken over."""
        records.add_artifacts(db, self._artifacts)
        self._artifacts = []
        self._metrics.write(db)
        if self._taken and self._run.origin is not None:
            pairs, self._taken = self._taken, []
            self._metrics.take_over(db, self._run.origin.run_id, pairs)

    def read_tags(self, db: sqlite3.Connection) -> None:
        """Read the run's tags as they are now, since others may have edited them."""
        now = (db, db.execute("pragma data_version").fetchone()[0])
        if now != self._tags_read:
            self._tags_read = now
            rows = tags.run_tags(self._store, self._run.run_id)
            self.tags = [row["tag"] for row in rows if not row["system"]]

    def finish_run(self, db: sqlite3.Connection, status: str) -> None:
        """Record how the run ended."""
        self.settle(db)
        records.finish_run(db, self._run.run_id, status)
        metrics.settle(db, self._run.run_id)
        finished = self._run.finished
        if finished is not None and status == "successful":
            from flowstore.store import events  # which a plain run does not need

            events.publish(db, events.RUN, finished.flow, finished.payload, finished.user)


@functools.lru_cache(maxsize=64)  # tasks of a step ask for the same
def _transition(targets: tuple[str, ...], count: int | None, gang: bool, items_from: str | None) -> str:
    """Return what `next` asked for, as JSON."""
    transition = {"targets": list(targets), "count": count, "gang": gang}
    return json.dumps(transition if items_from is None else {**transition, "items_from": items_from})


LOG_INTERVAL_S = 0.5
_LOG_BYTES = 4 << 20  # wait for no interval
CARD_INTERVAL_S = 1.0  # between two states of the cards of running tasks


def redactor_of(run: RunPlan) -> Redactor | None:
    """Return what hides the secrets of a run's steps; `None` where there are none."""
    values = [value for policy in run.policies.values() for value in policy.secrets.values()]
    if not values:
        return None
    from flowstore.flow.secrets import Redactor

    return Redactor(values) or None


class Output:
    """Takes what the tasks of a run show while they run: what they print, and the newest state of each card.

    Args:
        console: where lines are shown.
        store: the run's.
        run: what runs.

    Attributes:
        due: when what has come is to be in the store, if anything has.
    """

    def __init__(self, console: Console, store: Database, run: RunPlan) -> None:
        self._console = console
        self._store = store
        self._run_id = run.run_id
        self._redactor = redactor_of(run)
        self._cards: dict[tuple[int, int], RenderedCard] = {}  # by attempt and number
        self._cards_at = 0.0  # when cards were written last
        self._log: list[tuple[int, str, int, str]] = []
        self._bytes = 0
        self.due: float | None = None

    @property
    def waiting(self) -> bool:
        """Whether there is anything that the store does not have."""
        return bool(self._log or self._cards)

    def is_due(self) -> bool:
        """Return whether it is time to write."""
        return self.due is not None and (time.monotonic() >= self.due or self._bytes > _LOG_BYTES)

    def label(self, task: RunningTask) -> str:
        """Return the name of a task in front of its lines."""
        process = f"pid {task.pid}" if task.pid is not None else "no process"
        if task.host is not None:
            process = f"{process} on {task.host}"
        return f"{self._run_id}/{task.planned.step}/{task.id} ({process})"

    def take(self, task: RunningTask, stream: str, data: bytes, *, end: bool = False) -> None:
        """Take what a task has written to a stream."""
        now = time.monotonic()
        for other, lines in task.streams.items():
            if other != stream and lines.waiting:  # what was ended there comes first
                self._take_lines(task, other, *lines.settle(now))
        if stream not in task.streams:
            task.streams[stream] = Lines()
        if self._redactor is not None:
            if stream not in task.hidden:
                task.hidden[stream] = self._redactor.stream()
            data = task.hidden[stream].feed(data, end=end)
        self._take_lines(task, stream, *task.streams[stream].feed(data, now, end=end))

    def end(self, task: RunningTask) -> None:
        """Take the lines that were not ended."""
        for stream in task.streams:
            self.take(task, stream, b"", end=True)

    def settle(self, tasks: Iterable[RunningTask]) -> None:
        """Take the lines that became whole by the mere passing of time."""
        self.due = None
        now = time.monotonic()
        for task in tasks:
            for stream, lines in task.streams.items():
                self._take_lines(task, stream, *lines.settle(now))

    def take_card(self, task: RunningTask, card: RenderedCard) -> None:
        """Take a card as it is now."""
        self._cards[task.attempt_id, card.n] = card
        at = max(time.monotonic(), self._cards_at + CARD_INTERVAL_S)
        self.due = at if self.due is None else min(self.due, at)

    def drop_cards(self, task: RunningTask, report: Report) -> None:
        """Forget the states of cards that come with the report of an attempt."""
        for card in report.cards:
            self._cards.pop((task.attempt_id, card.n), None)

    def write(self, db: sqlite3.Connection) -> None:
        """Write to the log, and the cards, in a transaction."""
        records.append_log(db, self._log)
        self._log, self._bytes = [], 0
        waiting, self._cards = self._cards, {}
        for (attempt_id, _), card in waiting.items():
            blob_id = blobs.put(db, self._store, Encoded(card.blob.description, [card.blob.data or b""]))
            cards.put(db, attempt_id, card, blob_id, records.now_ms())
        if waiting:
            self._cards_at = time.monotonic()

    def _take_lines(self, task: RunningTask, stream: str, text: str, whole: list[str]) -> None:
        """Keep text for the log, and show lines."""
        at = records.now_ms()
        label = self.label(task)
        lines = task.streams[stream]
        self._console.lines([(at, label, line) for line in whole])
        self._console.change((task.id, stream), label, lines.changing, lines.ended)
        task.last_lines.extend(line[:200] for line in whole[-LAST_LINES:])
        if text:
            self._log.append((task.attempt_id, stream, at, text))
            self._bytes += len(text)
        if self.due is None and (text or lines.waiting):
            self.due = time.monotonic() + LOG_INTERVAL_S
