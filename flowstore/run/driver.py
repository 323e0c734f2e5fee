"""The loop: plan -> executor -> commit. The driver is its run's only writer.

What has arrived when the loop comes round is committed in one transaction: results of attempts, the tasks
that start because of them, and log lines. An attempt is launched only after it is visible as running, and
its results become visible together with what follows from them.
"""

from __future__ import annotations

import functools
import signal
import sqlite3
import time

from flowstore import later
from flowstore.errors import FlowstoreError
from flowstore.run.attempts import END_S, OVERSTAYED, Waiting, cause_of_death
from flowstore.run.attempts import Finished as _Finished
from flowstore.run.attempts import RunningTask as _Task
from flowstore.run.console import Console
from flowstore.run.executor import (
    Died,
    Ended,
    Event,
    Executor,
    Printed,
    Refreshed,
    Reported,
    Returned,
    Services,
    Started,
)
from flowstore.run.inputs import StoreSource, previews_at_need
from flowstore.run.order_writer import FinishedTask, OrderWriter, RunPlan
from flowstore.run.orders import Report
from flowstore.run.plan import Plan, PlannedTask
from flowstore.run.policies import StepPolicy
from flowstore.run.recorder import Output, Recorder
from flowstore.run.results import StoredResults
from flowstore.run.signals import Stop
from flowstore.sqlite.database import Database
from flowstore.sqlite.liveness import HEARTBEAT_S
from flowstore.store import records
from flowstore.text import one_line

_SUCCESS = "Task finished successfully."
KILL_GRACE_S = 5.0  # after a timeout was raised in the step, and after a stop was asked for
_REPORT_S = 0.02  # a result waits so long for its process to end, so that both are one transaction
_BEGIN_S = 0.02  # the begin of an order that was taken ahead waits so long for its end, for the same reason


class Driver:
    """Runs one run to its end.

    Args:
        store: open, writable.
        run: what to run.
        executor: what runs attempts.
        console: where lines go.
        stop: asks to stop early.
    """

    def __init__(self, store: Database, run: RunPlan, executor: Executor, console: Console, stop: Stop) -> None:
        self._store = store
        self._run = run
        self._executor = executor
        self._console = console
        self._stop = stop
        self._plan = Plan(run.graph)
        self._waiting = Waiting(run.gate)
        self._running: dict[int, _Task] = {}
        self._finished: list[_Finished] = []  # not yet in the store
        self._ending: dict[int, _Finished] = {}  # by number, those with a process that has not ended
        self._followed = False  # something has followed since the last commit
        self._kept: dict[int, functools.partial[_Task]] = {}  # by pid, the last tasks of processes that wait
        self._begun: list[_Task] = []  # orders taken ahead that have begun, not yet in the store
        self._begun_due = 0.0  # when these have to be there
        self._waits = 0  # how many orders the executor has that have not begun
        self._orders = OrderWriter(run)
        self._results = StoredResults(store, run)
        self._recorder = Recorder(store, run, self._orders, self._results)
        self._output = Output(console, store, run)
        self._seen = time.monotonic()
        self._counts = {"done": 0, "failed": 0}
        self.reused = 0  # tasks that were taken over from the origin
        self.failed_task: str | None = None

    def run(self) -> str:
        """Run to the end.

        Returns:
            The run's status: 'successful', 'failed' or 'stopped'.
        """
        source = StoreSource(lambda: self._store, self._run.run_id)
        self._executor.connect(Services(waker=self._stop.waker, results=self._results, source=source))
        self._waiting.ready.append(self._plan.start())
        try:
            status = self._loop()
            try:
                self._end_kept(END_S if self._stop.signal is None else KILL_GRACE_S)
            except (FlowstoreError, OSError) as error:  # the end of the run is in the store, and remains what it is
                self._console.say(f"Note: what tasks printed while their processes ended may be missing. {error}")
            return status
        finally:
            self._results.close()

    def _loop(self) -> str:
        status = None
        while status is None:
            if self._stop.signal is not None:
                return self._stop_tasks()
            with self._console:
                if self._is_due():
                    status = self._commit()
                    continue
                for event in self._executor.wait(self._timeout()):
                    self._handle(event)
                self._console.refresh()
            self._kill_overdue()
        return status

    # --- what is to be done, and when

    def _is_due(self) -> bool:
        """Return whether there is something to commit: results wait for others as long as no process does."""
        now = time.monotonic()
        if self._followed or (self._finished and now >= self._finished[0].due):
            return True
        if self._waits <= self._run.max_workers and any(item.ended for item in self._finished):
            return True
        late = bool(self._begun) and now >= self._begun_due
        return late or self._startable() or self._output.is_due() or self._heartbeat_is_due()

    def _is_free(self, more: int = 0) -> bool:
        """Return whether the executor takes another order, beside those that it has and `more`."""
        return len(self._running) + more < self._run.max_workers + self._executor.ahead

    def _startable(self) -> bool:  # several at once where the executor takes them ahead
        return self.failed_task is None and self._waiting.is_startable(free=self._is_free(self._executor.ahead // 2))

    def _heartbeat_is_due(self) -> bool:
        return time.monotonic() - self._seen >= HEARTBEAT_S

    def _timeout(self) -> float:
        now = time.monotonic()
        due = [self._seen + HEARTBEAT_S, *(item.due for item in self._finished[:1])]
        if self._output.due is not None:
            due.append(self._output.due)
        if self.failed_task is None:
            due += self._waiting.next_at(free=self._is_free(self._executor.ahead // 2))
        if self._begun:
            due.append(self._begun_due)
        due += [task.deadline for task in self._running.values() if task.deadline is not None]
        if self._console.due is not None:
            due.append(self._console.due)
        return max(0.0, min(due) - now)

    # --- events

    def _handle(self, event: Event) -> None:
        task = self._running.get(event.number)
        if task is None:
            return
        if isinstance(event, Started):
            self._begin(task, event)
        elif isinstance(event, Printed):
            self._output.take(task, event.stream, event.data)
        elif isinstance(event, Refreshed):
            self._output.take_card(task, event.card)
        elif isinstance(event, Reported):
            self._end_attempt(task, event.report)
        elif isinstance(event, Ended):
            self._end_process(task, event)
        elif isinstance(event, Returned):
            self._take_back(task)
        else:
            self._end_attempt(task, self._death(task, event))
            self._end_process(task, Ended(event.number))

    def _begin(self, task: _Task, event: Started) -> None:
        task.pid, task.host = event.pid, event.host
        if task.begun_at_ms is None:
            self._note_begin(task, event.at_ms)
        self._console.event(records.now_ms(), self._output.label(task), "Task is starting.", routine=True)

    def _note_begin(self, task: _Task, at_ms: int | None = None) -> None:
        """Have the begin of an order that was taken ahead recorded with the next commit."""
        if not self._begun:
            self._begun_due = time.monotonic() + _BEGIN_S
        self._waits -= 1
        task.begun_at_ms = records.now_ms() if at_ms is None else at_ms
        task.deadline = self._deadline(task)
        self._begun.append(task)

    def _take_back(self, task: _Task) -> None:
        """Have a task start later, since its order was returned."""
        del self._running[task.number]
        self._waits -= 1
        task.attempt -= 1
        self._waiting.try_again(task, 0.0)
        self._followed = True

    def _death(self, task: _Task, event: Died) -> Report:
        if task.begun_at_ms is None:  # there was no process that could begin
            self._note_begin(task)
        if task.stopped:
            return Report(status="stopped")
        cause = cause_of_death(task, event, self._run.policies[task.planned.step].timeout_s)
        self._output.end(task)  # a line that was not ended is the last one, too
        last = "".join(f"\n  {line}" for line in task.last_lines)
        self._output.take(task, "stderr", f"{cause.message}\n".encode())
        text = f"{cause.message} The last it printed:{last}" if last else cause.message
        task.timed_out = False  # which the cause says
        return Report(status="failed", died=True, failure=later.evolve(cause, message=text, traceback=text))

    def _end_attempt(self, task: _Task, report: Report) -> None:
        self._results.finish()
        self._output.drop_cards(task, report)
        now = time.monotonic()
        task.reported, task.deadline = True, now + END_S
        self._ending[task.number] = item = _Finished(task, report, now + _REPORT_S)
        self._finished.append(item)

    def _end_process(self, task: _Task, event: Ended) -> None:
        del self._running[task.number]
        self._output.end(task)
        if task.timed_out and task.reported:
            self._output.take(task, "stderr", OVERSTAYED)
        elif (event.code or event.signal) and self._stop.signal is None:
            self._output.take(task, "stderr", f"{event}\n".encode())
        if event.kept and task.pid is not None:
            ids = {"number": task.number, "attempt_id": task.attempt_id, "pid": task.pid}  # it may be tried again
            self._kept[task.pid] = functools.partial(later.evolve, task, streams={}, **ids)
        task.streams.clear()
        item = self._ending.pop(task.number, None)
        if item is not None:
            item.ended = True
            if item not in self._finished:
                self._follow(item)

    def _follow(self, item: _Finished) -> None:
        """Start what follows from an attempt, once it is in the store and its process has ended."""
        item.follow()
        self._followed = True

    def _kill_overdue(self) -> None:
        for task in self._running.values():
            if task.deadline is not None and time.monotonic() >= task.deadline:
                task.timed_out, task.deadline = True, None
                self._executor.kill(task.number, signal.SIGKILL)

    # --- commits

    def _commit(self) -> str | None:
        """Write what has come, in one transaction, then launch what starts; return the status if the run is over."""
        if self._output.is_due() or self._heartbeat_is_due():
            self._output.settle(self._running.values())
        now = time.monotonic()
        finished = [item for item in self._finished if item.is_due(now)]
        self._finished = [item for item in self._finished if not item.is_due(now)]
        started: list[_Task] = []
        lines: list[tuple[_Task, str]] = []
        self._followed = False
        with self._store.write() as db:
            self._record_begins(db, finished)
            for item in finished:
                lines += self._record(db, item)
                if item.ended:
                    item.follow()
            self._start_ready(db, started)
            self._recorder.reserve(db, started)
            self._recorder.settle(db)
            if started:
                self._recorder.read_tags(db)
            self._output.write(db)
            status = self._status(started)
            if status is not None:
                self._recorder.finish_run(db, status)
            elif self._heartbeat_is_due():
                records.touch_run(db, self._run.run_id)
                self._seen = time.monotonic()
        for task, text in lines:
            self._console.event(records.now_ms(), self._output.label(task), text, routine=text == _SUCCESS)
        for task in started:
            self._launch(task)
        self._show_progress()
        return status

    def _record_begins(self, db: sqlite3.Connection, over: list[_Finished]) -> None:
        begun, self._begun = self._begun, []
        self._recorder.begin_all(db, begun, over)

    def _status(self, started: list[_Task]) -> str | None:
        if self._running or started:
            return None
        if self.failed_task is not None:
            return "failed"
        return "successful" if self._plan.done else None

    def _record(self, db: sqlite3.Connection, finished: _Finished) -> list[tuple[_Task, str]]:
        """Write one attempt's end, and decide what follows from it; return the lines to show."""
        task, report = finished.task, finished.report
        sets_any = self._recorder.end(db, task, report)
        if report.status == "successful":
            finished.follow = functools.partial(self._succeed, task, report, sets_any=sets_any)
            return [(task, f"{_SUCCESS} (an exception was caught)" if report.failure else _SUCCESS)]
        if report.status == "stopped":
            return [(task, "Task was stopped.")]
        return [(task, self._fail(finished, self._run.policies[task.planned.step]))]

    def _succeed(self, task: _Task, report: Report, *, sets_any: bool) -> None:
        assert report.outcome is not None
        base_id = task.id if sets_any else self._orders.base(task.planned)
        done = FinishedTask(task.id, base_id, report.outcome, report.items, lambda: report.shown)
        self._orders.note(task.planned, done, report)
        self._waiting.ready += self._plan.finish(task.planned, report.outcome)
        self._counts["done"] += 1

    def _fail(self, finished: _Finished, policy: StepPolicy) -> str:
        """Decide what follows from a failed attempt; return the line to show."""
        task, report = finished.task, finished.report
        attempts = 1 + policy.retries
        if task.attempt + 1 < attempts and self.failed_task is None:
            finished.follow = functools.partial(self._waiting.try_again, task, time.monotonic() + policy.retry_delay_s)
            wait = f" in {policy.retry_delay_s:g} s" if policy.retry_delay_s else ""
            return f"Task failed. It will be tried again{wait} (attempt {task.attempt + 2} of {attempts})."
        if report.died and policy.catch is not None and task.fallback is None:
            task.fallback = report.failure  # the process could not handle its own death: another one does
            finished.follow = functools.partial(self._waiting.try_again, task, 0.0)
            return "Task failed. @catch will handle it."
        self._counts["failed"] += 1
        if self.failed_task is None:
            self.failed_task = f"{task.planned.step}/{task.id}"
        self._stop_others(task)
        return "Task failed." if task.item is None else f"Task failed. Its foreach item: {one_line(task.item)}"

    def _stop_others(self, failed: _Task) -> None:
        """Withdraw the orders that have not begun, and kill the gang of a task that has failed for good."""
        gang = failed.planned.gang
        for task in self._running.values():
            if task.begun_at_ms is None:
                self._executor.withdraw(task.number)
            elif gang is not None and not task.reported and task.is_in_gang_of(gang.opener):
                task.stopped = True  # a gang waits for its members
                self._executor.kill(task.number, signal.SIGKILL)

    def _start_ready(self, db: sqlite3.Connection, started: list[_Task]) -> None:
        while self.failed_task is None:
            free = self._is_free(len(started))
            task = self._waiting.pop_again(free=free)
            if task is None:
                ready = self._waiting.ready
                if not ready or not (free or ready[0].gang is not None or self._run.origin is not None):
                    return
                if self._take_over(db, ready[0]) or self._waiting.hold():
                    continue
                if not free and ready[0].gang is None:
                    return
                planned = ready.popleft()
                task = _Task(planned, 0, self._orders.item(planned))
            self._prepare(db, task)
            started.append(task)

    def _prepare(self, db: sqlite3.Connection, task: _Task) -> None:
        """Record that a task's next attempt begins, unless its order may wait."""
        task.attempt += 1
        task.attempt_id, task.begun_at_ms = 0, None
        if not self._executor.ahead:
            task.begun_at_ms = records.now_ms()
            self._recorder.begin(db, task)

    def _take_over(self, db: sqlite3.Connection, planned: PlannedTask) -> bool:
        """Reuse the origin's task for a planned one, if it can be."""
        taken = self._run.origin.take(planned) if self._run.origin is not None else None
        if taken is None:
            return False
        self._waiting.skip()
        row, outcome = taken
        task_id = self._recorder.take_over(db, planned, row)
        base_id = task_id if row["sets_any"] else self._orders.base(planned)
        previews = previews_at_need(self._store, row["id"], outcome.items_from, outcome.count)
        self._orders.note(planned, FinishedTask(task_id, base_id, outcome, None, previews))
        self._waiting.ready += self._plan.finish(planned, outcome)
        self.reused += 1
        self._counts["done"] += 1
        return True

    def _launch(self, task: _Task) -> None:
        order = self._orders.order(task.planned, task.id, task.attempt, self._recorder.tags, task.fallback)
        task.number = self._executor.launch(order)
        self._running[task.number] = task
        self._waits += task.begun_at_ms is None
        task.pid = task.host = None
        task.last_lines.clear()
        task.timed_out, task.reported = False, False
        task.deadline = None if task.begun_at_ms is None else self._deadline(task)

    def _deadline(self, task: _Task) -> float | None:
        policy = self._run.policies[task.planned.step]
        return time.monotonic() + policy.timeout_s + policy.cards_s + KILL_GRACE_S if policy.timeout_s else None

    # --- the end

    def _stop_tasks(self) -> str:
        """End what runs, keep what has finished, and record the run as stopped."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            for number in list(self._running):
                self._executor.kill(number, signal.Signals(how))
            deadline = time.monotonic() + KILL_GRACE_S
            while self._running and time.monotonic() < deadline:
                for event in self._executor.wait(0.1):
                    if isinstance(event, (Died, Returned)) and event.number in self._running:
                        self._output.end(self._running.pop(event.number))
                    else:
                        self._handle(event)
        for task in self._running.values():  # which nothing could end
            self._output.end(task)
        finished, self._finished = self._finished, []
        with self._store.write() as db:
            self._record_begins(db, [item for item in finished if item.report.status == "successful"])
            for item in finished:
                if item.report.status == "successful":
                    self._record(db, item)
            for item in {id(item): item for item in (*finished, *self._ending.values())}.values():
                item.follow()
            self._output.write(db)
            done = self._plan.done and not self._running and self.failed_task is None
            status = "successful" if done else "stopped"
            self._recorder.finish_run(db, status)
        return status

    def _end_kept(self, seconds: float) -> None:
        """Let the processes end that waited for another attempt, and take what they still print."""
        kept = {last.keywords["number"]: last for last in self._kept.values()}
        deadline = time.monotonic() + seconds
        for number in self._executor.finish():
            self._running[number] = kept[number](reported=True, timed_out=False, deadline=deadline)
        while self._running:
            for event in self._executor.wait(0.1):
                self._handle(event)
            self._kill_overdue()
        if self._output.waiting:
            with self._store.write() as db:
                self._output.write(db)

    def _show_progress(self) -> None:
        running = sum(task.begun_at_ms is not None for task in self._running.values())
        waiting = len(self._waiting) + len(self._running) - running
        total = self._counts["done"] + self._counts["failed"] + running + waiting
        self._console.progress(done=self._counts["done"], running=running, failed=self._counts["failed"], total=total)
