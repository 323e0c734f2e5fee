"""The loop: plan -> executor -> commit. The driver is its run's only writer.

What has arrived when the loop comes round is committed in one transaction: results of attempts, the tasks
that start because of them, and log lines. An attempt is launched only after it is visible as running, and
its results become visible together with what follows from them.
"""

from __future__ import annotations

import functools
import heapq
import json
import signal
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs

from flowstore.run.attempts import END_S, OVERSTAYED
from flowstore.run.attempts import Finished as _Finished
from flowstore.run.attempts import RunningTask as _Task
from flowstore.run.console import Console
from flowstore.run.contents import Arriving, Contents
from flowstore.run.executor import Died, Ended, Event, Executor, Offered, Printed, Reported, Sent, Started
from flowstore.run.inputs import later
from flowstore.run.orders import Orders, RunPlan, StepPolicy
from flowstore.run.output import Output
from flowstore.run.plan import Outcome, Plan, PlannedTask
from flowstore.run.signals import Stop
from flowstore.sqlite.database import Store
from flowstore.sqlite.liveness import HEARTBEAT_S
from flowstore.store import metrics, records, tags
from flowstore.text import one_line

_SUCCESS = "Task finished successfully."
KILL_GRACE_S = 5.0  # after a timeout was raised in the step, and after a stop was asked for
_REPORT_S = 0.02  # a result waits so long for its process to end, so that both are one transaction


class Driver:
    """Runs one run to its end.

    Args:
        store: open, writable.
        run: what to run.
        executor: what runs attempts.
        console: where lines go.
        stop: asks to stop early.
    """

    def __init__(self, store: Store, run: RunPlan, executor: Executor, console: Console, stop: Stop) -> None:
        self._store = store
        self._run = run
        self._executor = executor
        self._console = console
        self._stop = stop
        self._plan = Plan(run.graph)
        self._ready: deque[PlannedTask] = deque()
        self._again: list[tuple[float, int, _Task]] = []  # a heap: when, task id, task to try again
        self._running: dict[int, _Task] = {}
        self._finished: list[_Finished] = []  # not yet in the store
        self._ending: dict[int, _Finished] = {}  # by number, those whose process has not ended
        self._followed = False  # something has followed since the last commit
        self._kept: dict[int, _Task] = {}  # by pid, the last tasks of processes that wait for the next one
        self._orders = Orders(run)
        self._contents = Contents(store, run)
        self._step_ids: dict[str, int] = {}
        self._taken: list[tuple[int, int]] = []  # reused tasks, each with its origin
        self._metrics = metrics.RunMetrics(run.run_id)
        self._tags: list[str] = []  # the run's
        self._tags_read: tuple[Any, int] | None = None  # with which connection, and at which of its `data_version`s
        self._output = Output(console, run.run_id)
        self._seen = time.monotonic()
        self._counts = {"done": 0, "failed": 0, "reused": 0}
        self.failed_task: str | None = None

    def run(self) -> str:
        """Run to the end.

        Returns:
            The run's status: 'successful', 'failed' or 'stopped'.
        """
        self._executor.watch(self._stop.waker)
        self._ready.append(self._plan.start())
        try:
            status = self._loop()
            self._end_kept(END_S if self._stop.signal is None else KILL_GRACE_S)
            return status
        finally:
            self._contents.close()

    def _loop(self) -> str:
        status = None
        while status is None:
            if self._stop.signal is not None:
                return self._stop_tasks()
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
        """Return whether there is something to commit."""
        if self._followed or any(item.ended or time.monotonic() >= item.due for item in self._finished):
            return True
        return self._startable() or self._output.is_due() or self._heartbeat_is_due()

    def _startable(self) -> bool:
        if self.failed_task is not None:
            return False
        free = len(self._running) < self._run.max_workers
        if self._again and self._again[0][0] <= time.monotonic() and (free or self._again[0][2].planned.gang):
            return True
        return bool(self._ready) and (free or self._ready[0].gang is not None)

    def _heartbeat_is_due(self) -> bool:
        return time.monotonic() - self._seen >= HEARTBEAT_S

    def _timeout(self) -> float:
        now = time.monotonic()
        due = [self._seen + HEARTBEAT_S, *(item.due for item in self._finished)]
        if self._output.due is not None:
            due.append(self._output.due)
        if self._again and self.failed_task is None:
            free = len(self._running) < self._run.max_workers
            due += [self._again[0][0]] if free or self._again[0][2].planned.gang else []
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
            task.pid = event.pid
            self._console.event(records.now_ms(), self._output.label(task), "Task is starting.", routine=True)
        elif isinstance(event, Printed):
            self._output.take(task, event.stream, event.data)
        elif isinstance(event, Offered):
            self._executor.answer(task.number, {"send": self._contents.offered(task.arriving, event.large)})
        elif isinstance(event, Sent):
            task.arriving.take(event.data)
        elif isinstance(event, Reported):
            self._end_attempt(task, event.report)
        elif isinstance(event, Ended):
            self._end_process(task, event)
        else:
            self._end_attempt(task, self._death(task, event))
            self._end_process(task, Ended(event.number))

    def _death(self, task: _Task, event: Died) -> dict[str, Any]:
        if task.stopped:
            return {"status": "stopped"}
        kind, message = "TaskDied", str(event)
        if task.timed_out:
            limit = self._run.policies[task.planned.step].timeout_s
            kind, message = "TimeoutExpired", f"The task took longer than its timeout of {limit:g} s and was killed."
        self._output.end(task)  # a line that was not ended is the last one, too
        last = "".join(f"\n  {line}" for line in task.last_lines)
        self._output.take(task, "stderr", f"{message}\n".encode())
        told = f"{message} The last it printed:{last}" if last else message
        return {"status": "failed", "died": True, "failure": {"type": kind, "message": told, "traceback": told}}

    def _end_attempt(self, task: _Task, report: Mapping[str, Any]) -> None:
        self._contents.finish()
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
            self._kept[task.pid] = attrs.evolve(task, streams={})
        task.streams.clear()
        item = self._ending.pop(task.number, None)
        if item is not None:
            item.ended = True
            if item not in self._finished:
                self._follow(item)

    def _follow(self, item: _Finished) -> None:
        """Start what follows from an attempt that is in the store and whose process has ended."""
        item.follow()
        self._followed = True

    def _kill_overdue(self) -> None:
        for task in self._running.values():
            if task.deadline is not None and time.monotonic() >= task.deadline:
                task.timed_out, task.deadline = True, None
                self._executor.kill(task.number, signal.SIGKILL)

    # --- commits

    def _commit(self) -> str | None:
        """Write what has come, in one transaction, then launch what starts; gives the status when the run is over."""
        if self._output.is_due() or self._heartbeat_is_due():
            self._output.settle(self._running.values())
        finished, self._finished = self._finished, []
        started: list[_Task] = []
        lines: list[tuple[_Task, str]] = []
        self._followed = False
        with self._store.write() as db:
            for item in finished:
                lines += self._record(db, item)
                if item.ended:
                    item.follow()
            self._start_ready(db, started)
            if self._taken and self._run.origin is not None:
                pairs, self._taken = self._taken, []
                self._metrics.take_over(db, self._run.origin.run_id, pairs)
            if started:
                self._read_tags(db)
            self._output.write(db)
            status = self._status(started)
            if status is not None:
                self._finish_run(db, status)
            elif self._heartbeat_is_due():
                records.touch_run(db, self._run.run_id)
                self._seen = time.monotonic()
        for task, text in lines:
            routine = text == _SUCCESS
            self._console.event(records.now_ms(), self._output.label(task), text, routine=routine)
        for task in started:
            self._launch(task)
        self._show_progress()
        return status

    def _status(self, started: list[_Task]) -> str | None:
        if self._running or started:
            return None
        if self.failed_task is not None:
            return "failed"
        return "successful" if self._plan.done else None

    def _record(self, db: Any, finished: _Finished) -> list[tuple[_Task, str]]:
        """Write one attempt's end, and find out what follows from it; gives the lines to show."""
        task, report = finished.task, finished.report
        policy = self._run.policies[task.planned.step]
        transition = report.get("outcome")
        failure = report.get("failure")
        artifacts = [*self._contents.rows(db, task.arriving, report)]
        self._measure(db, task, report)
        records.finish_attempt(
            db,
            task.id,
            task.attempt_id,
            report["status"],
            pid=task.pid,
            artifacts=artifacts,
            transition=json.dumps(transition) if transition else None,
            failure=records.Failure(**failure) if failure else None,
            metadata=policy.metadata,
        )
        if report["status"] == "successful":
            finished.follow = functools.partial(self._succeed, task, report, sets_any=bool(artifacts))
            return [(task, f"{_SUCCESS} (an exception was caught)" if failure else _SUCCESS)]
        if report["status"] == "stopped":
            return [(task, "Task was stopped.")]
        return [(task, self._fail(finished, policy))]

    def _measure(self, db: Any, task: _Task, report: Mapping[str, Any]) -> None:
        """Record the numbers in what an attempt set."""
        named = {name: blob.description.plain.numbers for name, blob in report.get("artifacts", ())}
        found = {name: numbers for name, numbers in named.items() if numbers and name[:1] != "_"}
        task.measured = self._metrics.record(db, task.id, found, {*named, *report.get("deleted", ())})

    def _succeed(self, task: _Task, report: Mapping[str, Any], *, sets_any: bool) -> None:
        asked = report["outcome"]
        outcome = Outcome(tuple(asked["targets"]), asked["count"], asked["gang"])
        base_id = task.id if sets_any else self._orders.base(task.planned)
        self._orders.note(task.planned, task.id, base_id, asked, report["items"], lambda: report["shown"])
        self._ready += self._plan.finish(task.planned, outcome)
        self._counts["done"] += 1

    def _fail(self, finished: _Finished, policy: StepPolicy) -> str:
        """Decide what follows from a failed attempt; gives the line to show."""
        task, report = finished.task, finished.report
        attempts = 1 + policy.retries
        if task.attempt + 1 < attempts and self.failed_task is None:
            finished.follow = functools.partial(self._try_again, task, time.monotonic() + policy.retry_delay_s)
            wait = f" in {policy.retry_delay_s:g} s" if policy.retry_delay_s else ""
            return f"Task failed. It will be tried again{wait} (attempt {task.attempt + 2} of {attempts})."
        if report.get("died") and policy.catch is not None and task.fallback is None:
            task.fallback = report["failure"]  # the process could not handle its own death: another one does
            finished.follow = functools.partial(self._try_again, task, 0.0)
            return "Task failed. @catch will handle it."
        self._counts["failed"] += 1
        if self.failed_task is None:
            self.failed_task = f"{task.planned.step}/{task.id}"
        gang = task.planned.gang
        for other in self._running.values():
            if gang is None or other.planned.gang is None or other.reported:
                continue
            if other.planned.gang.opener == gang.opener:
                other.stopped = True  # a gang waits for its members
                self._executor.kill(other.number, signal.SIGKILL)
        return "Task failed." if task.item is None else f"Task failed. Its foreach item: {one_line(task.item)}"

    def _try_again(self, task: _Task, when: float) -> None:
        heapq.heappush(self._again, (when, task.id, task))

    # --- starting tasks

    def _start_ready(self, db: Any, started: list[_Task]) -> None:
        while self.failed_task is None:
            running = len(self._running) + len(started)
            free = running < self._run.max_workers
            due = bool(self._again) and self._again[0][0] <= time.monotonic()
            if due and (free or self._again[0][2].planned.gang):  # the others of a gang may wait for this one
                _, _, task = heapq.heappop(self._again)
            elif self._ready and (free or self._ready[0].gang is not None or self._run.origin is not None):
                planned = self._ready[0]
                if self._take_over(db, planned):
                    continue
                if not free and planned.gang is None:
                    return
                task = self._new_task(db, planned)
            else:
                return
            task.attempt += 1
            task.attempt_id = records.start_attempt(db, task.id, task.attempt)
            if task.measured:
                self._metrics.drop(db, task.id, task.measured)
                task.measured = ()
            started.append(task)

    def _new_task(self, db: Any, planned: PlannedTask) -> _Task:
        self._ready.popleft()
        step_id = self._step_id(db, planned.step)
        parents, base_id = self._orders.parents(planned), self._orders.base(planned)
        item = self._orders.item(planned)
        task_id = records.start_task(db, self._run.run_id, step_id, parents, base_id, planned.foreach_path, item)
        return _Task(planned, task_id, item)

    def _take_over(self, db: Any, planned: PlannedTask) -> bool:
        """Reuse the origin's task for a planned one, if it can be."""
        taken = self._run.origin.take(planned) if self._run.origin is not None else None
        if taken is None:
            return False
        self._ready.popleft()
        row, outcome, asked = taken
        step_id = self._step_id(db, planned.step)
        parents, base_id = self._orders.parents(planned), self._orders.base(planned)
        task_id = records.reuse_task(db, self._run.run_id, step_id, row["id"], parents, base_id)
        self._taken.append((task_id, row["id"]))
        shown = later(self._store, row["id"], asked.get("items_from"), outcome.count)
        self._orders.note(planned, task_id, task_id if row["sets_any"] else base_id, asked, None, shown)
        self._ready += self._plan.finish(planned, outcome)
        self._counts["reused"] += 1
        self._counts["done"] += 1
        return True

    def _step_id(self, db: Any, name: str) -> int:
        if name not in self._step_ids:
            self._step_ids[name] = records.ensure_step(db, self._run.run_id, name)
        return self._step_ids[name]

    def _read_tags(self, db: Any) -> None:
        """Have the run's tags as they are now: others may have edited them."""
        now = (db, db.execute("pragma data_version").fetchone()[0])
        if now != self._tags_read:
            self._tags_read = now
            self._tags = [row["tag"] for row in tags.run_tags(self._store, self._run.run_id)]

    def _launch(self, task: _Task) -> None:
        policy = self._run.policies[task.planned.step]
        order = self._orders.order(task.planned, task.id, task.attempt, task.fallback)
        order["current"]["tags"] = self._tags
        task.number = self._executor.launch(order, task.planned.step)
        self._running[task.number] = task
        task.pid = None
        task.last_lines.clear()
        task.arriving, task.timed_out, task.reported = Arriving(), False, False
        task.deadline = time.monotonic() + policy.timeout_s + KILL_GRACE_S if policy.timeout_s else None

    # --- the end

    def _stop_tasks(self) -> str:
        """End what runs, keep what has finished, and record the run as stopped."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            for number in list(self._running):
                self._executor.kill(number, signal.Signals(how))
            deadline = time.monotonic() + KILL_GRACE_S
            while self._running and time.monotonic() < deadline:
                for event in self._executor.wait(0.1):
                    if isinstance(event, Died) and event.number in self._running:
                        self._output.end(self._running.pop(event.number))
                    else:
                        self._handle(event)
        for task in self._running.values():  # which nothing could end
            self._output.end(task)
        finished, self._finished = self._finished, []
        with self._store.write() as db:
            for item in finished:
                if item.report["status"] == "successful":
                    self._record(db, item)
            for item in {id(item): item for item in (*finished, *self._ending.values())}.values():
                item.follow()
            self._output.write(db)
            done = self._plan.done and not self._running and self.failed_task is None
            status = "successful" if done else "stopped"
            self._finish_run(db, status)
        return status

    def _finish_run(self, db: Any, status: str) -> None:
        records.finish_run(db, self._run.run_id, status)
        metrics.settle(db, self._run.run_id)

    def _end_kept(self, seconds: float) -> None:
        """Let the processes end that waited for another attempt, and take what they still print."""
        kept = {task.number: task for task in self._kept.values()}
        deadline = time.monotonic() + seconds
        for number in self._executor.finish():
            self._running[number] = attrs.evolve(kept[number], reported=True, timed_out=False, deadline=deadline)
        while self._running:
            for event in self._executor.wait(0.1):
                self._handle(event)
            self._kill_overdue()
        if self._output.waiting:
            with self._store.write() as db:
                self._output.write(db)

    def _show_progress(self) -> None:
        waiting = len(self._ready) + len(self._again)
        running = len(self._running)
        total = self._counts["done"] + self._counts["failed"] + running + waiting
        self._console.progress(done=self._counts["done"], running=running, failed=self._counts["failed"], total=total)

    @property
    def reused(self) -> int:
        """How many tasks were taken over from the origin."""
        return self._counts["reused"]
