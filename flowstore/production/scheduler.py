"""The scheduler: starts each deployment as its `@schedule` falls due or its events come, as a process of its own.

It polls rather than sleeping until the next due time: so it sees what was deployed or deleted meanwhile, and
a machine that was asleep or whose clock was set. Of the due times that went by unnoticed the last one is run. It is
marked as dealt with before its run is started, so at most once: a run that was lost to a crash shows as dead.

Events are used up by the transaction that creates the run (`store.events`), so that a run is started exactly once for
each, whatever dies when. What starts next for a deployment is started when that has happened.

Runs of one deployment may overlap, as they do with cron. They die with the scheduler, as tasks die with their
run, so that nothing goes on that nobody would stop.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Protocol

import attrs

from flowstore.errors import FlowstoreError, is_transient
from flowstore.production import deploy, events, schedule
from flowstore.production.events import Start
from flowstore.production.schedule import Entry
from flowstore.production.trigger import as_child
from flowstore.run import console, ownership
from flowstore.run.signals import Stop
from flowstore.sqlite import liveness
from flowstore.sqlite.database import Database
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import deployments, records, schedules
from flowstore.store import events as event_rows
from flowstore.store.deployments import Deployment
from flowstore.store.events import Claim

POLL_S = 2.0  # a poll costs 2 ms of processor time
MOST_TRIES = 3  # to start a run for events; each is lost only to what nobody could start
FIRST_REST_S, LONGEST_REST_S = 5.0, 300.0  # after a start that the system refused, which costs no event
SIGN_OF_LIFE_S = liveness.SILENCE_S / 4


class Child(Protocol):
    """The part of `subprocess.Popen` that the scheduler uses."""

    pid: int

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def start_process(store: Database, deployment: Deployment, claim: Claim | None = None) -> Child:
    """Run a deployment in a process of its own. Ctrl-C at a terminal reaches only the scheduler, which stops it."""
    events_used = [] if claim is None else [str(claim.mark), *map(str, claim.ids)]
    command = [
        sys.executable,
        "-P",
        "-m",
        "flowstore.production.scheduler",
        str(store.path),
        str(deployment.id),
        str(os.getpid()),
        *events_used,
    ]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


@attrs.frozen
class _Running:
    child: Child
    entry: Entry
    start: Start | None = None  # where events started it

    def __str__(self) -> str:
        return f"{self.entry} (process {self.child.pid})"


class Scheduler:
    """The one scheduler of a store.

    Args:
        store: where the deployments are.
        say: is given each line for the operator.
        clock: tells the time.
        start: starts a deployment.
    """

    def __init__(
        self,
        store: Database,
        say: Callable[[str], None],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        start: Callable[..., Child] = start_process,
    ) -> None:
        self._store = store
        self._echo = say
        self._clock = clock
        self._start = start
        self._me = liveness.this_process()
        self._running: list[_Running] = []
        self._failures = 0
        self._seen_s = time.monotonic()
        self._known: dict[int, Entry] | None = None
        self._next: tuple[datetime, int] | None = None
        self._waiting: set[int] = set()
        self._tries: dict[tuple[int, int], int] = {}  # by deployment and mark: starts that made no run
        self._rests: dict[int, tuple[float, float]] = {}  # by deployment: until when it rests, and for how long
        self._told: set[str] = set()
        self._trouble: str | None = None

    def run(self, *, once: bool = False) -> int:
        """Work until a signal comes, and return the exit code.

        Args:
            once: only start what is due now, wait for it, and end: with 0, or 1 where a run did not succeed.

        Raises:
            FlowstoreError: the store has a scheduler, or is gone.
        """
        with self._stop.on_signals(), _woken_by_children():
            self.claim()
            try:
                self._serve(once=once)
            finally:
                self._stop_running()
                self.leave()
        return 128 + self._stop.signal if self._stop.signal else min(self._failures, 1)

    @functools.cached_property  # made when it is used: it holds sockets, which `on_signals` closes
    def _stop(self) -> Stop:
        return Stop()

    def claim(self) -> None:
        """Become the scheduler of the store, or raise FlowstoreError: it has one."""
        schedules.claim(self._store, self._me)
        records.record_dead_runs(self._store)
        self._say(f"This is the scheduler of {self._store.path}: process {self._me.pid} on {self._me.host}.")

    def leave(self) -> None:
        """Be the scheduler no longer."""
        with contextlib.suppress(FlowstoreError):  # the store is gone, say; the next one sees that this process is too
            schedules.leave(self._store, self._me)
        self._store.close()

    def _serve(self, *, once: bool) -> None:
        self.look()
        while self._stop.signal is None and not (once and not self._running):
            self._sleep()
            self.reap()
            if once and self._stop.signal is None:
                self._look_for_events()  # what has ended may be what another deployment waits for
            elif self._stop.signal is None:
                self._look_again()

    def _sleep(self) -> None:
        """Wait for a signal, the end of a run, the next due time or the next poll, whatever comes first."""
        self._store.close()  # between polls the store is at rest, as far as the scheduler is concerned
        wait_s = POLL_S if self._next is None else (self._next[0] - self._clock()).total_seconds()
        self._received(min(max(wait_s, 0.01), POLL_S))

    def _received(self, timeout_s: float) -> bytes:
        """Return the numbers of the signals that came."""
        ready, *_ = select.select([self._stop.waker], [], [], timeout_s)
        return self._stop.waker.recv(4096) if ready else b""

    # --- what is due

    def look(self) -> None:
        """Look at the store once: start what has fallen due, and say what comes next."""
        now = self._clock()
        entries = schedule.entries(self._store, of_scheduler=True)
        self._tell_changes(entries)
        coming = []
        for id_, entry in entries.items():
            try:
                coming.append((self._attend(entry, now), id_))
            except _LostError:
                raise
            except FlowstoreError as error:  # not this user's to run, or a line that an older flowstore let pass
                self._say_once(f"{entry} is not run. {error}")
        self._tell_next(min(coming, default=None))
        self._look_for_events()

    def _look_for_events(self) -> None:
        """Start what events have made due, one run of a deployment after the other."""
        waiting = events.waiting(self._store)
        self._tell_waiting(waiting)
        marks = event_rows.marks(self._store)
        for deployment in waiting.values():
            if time.monotonic() < self._rests.get(deployment.id, (0.0, 0.0))[0]:
                continue
            entry = Entry(deployment, time_of(deployment.deployed_at))
            try:
                self._look_for_events_of(entry, marks.get(deployment.id))
            except _LostError:
                raise
            except (FlowstoreError, OSError) as error:  # no room for a process, say
                self._say_once(f"{entry} is not run by its events. {error}")
                if is_transient(error):
                    self._rest(entry)

    def _rest(self, entry: Entry) -> None:
        """Leave a deployment alone for a while, each time for longer, since the system has refused to start it."""
        rest_s = min(2 * self._rests.get(entry.deployment.id, (0.0, FIRST_REST_S / 2))[1], LONGEST_REST_S)
        self._rests[entry.deployment.id] = time.monotonic() + rest_s, rest_s
        self._say(f"Events start {entry} again in {rest_s:g} s at the earliest.")

    def _look_for_events_of(self, entry: Entry, mark: int | None) -> None:
        while mark is not None and not self._is_starting(entry.deployment.id, mark):
            start = events.next_start(self._store, entry.deployment, mark)
            if start is None:
                return
            deploy.check_trusted(self._store, start.deployment)
            self._keep()
            key = start.deployment.id, mark
            if self._tries.get(key, 0) < MOST_TRIES:
                child = self._start(self._store, start.deployment, start.claim)
                self._run_child(_Running(child, entry, start), str(start))
                return
            mark = start.claim.ids[-1]
            with self._store.write() as db:
                event_rows.move_mark(db, *key, mark)
            self._say(f"{entry} is not run by {start}: {MOST_TRIES} attempts made no run. What it printed says why.")

    def _is_starting(self, deployment_id: int, mark: int) -> bool:
        """Return whether a run is on its way that will use up the events after a mark."""
        return any(
            one.start is not None and (one.start.deployment.id, one.start.claim.mark) == (deployment_id, mark)
            for one in self._running
        )

    def _look_again(self) -> None:
        """Look, and go on after a transient error, such as a full disk."""
        try:
            if time.monotonic() - self._seen_s > SIGN_OF_LIFE_S:
                self._keep()
            self.look()
        except _LostError:
            raise
        except FlowstoreError as error:
            if not self._store.path.exists():
                raise
            if str(error) != self._trouble:
                self._say(f"{error} Trying again.")
            self._trouble = str(error)
        else:
            self._trouble = None

    def _attend(self, entry: Entry, now: datetime) -> datetime:
        """Start a deployment if it is due, and return its next due time."""
        due_at = entry.due(now)
        if due_at is not None:
            deploy.check_trusted(self._store, entry.deployment)  # before it is marked: once it is trusted, it runs
            self._keep(entry, due_at)
            self._launch(entry, due_at)
        return entry.next_due(now)

    def _keep(self, entry: Entry | None = None, due_at: datetime | None = None) -> None:
        """Give a sign of life, and mark a due time; but only as long as no other scheduler has taken over."""
        with self._store.write() as db:
            if not schedules.keep(db, self._me):
                raise _LostError(f"{self._store.path} has another scheduler: it took over while this one was silent.")
            if entry is not None and due_at is not None:
                schedules.mark(db, entry.deployment.id, due_at)
        self._seen_s = time.monotonic()

    def _launch(self, entry: Entry, due_at: datetime) -> None:
        try:
            running = _Running(self._start(self._store, entry.deployment), entry)
        except OSError as error:
            self._failures += 1
            self._say(f"{entry}, due at {entry.shown(due_at)}, cannot be started: {error}.")
        else:
            self._run_child(running, f"due at {entry.shown(due_at)}")

    def _run_child(self, running: _Running, reason: str) -> None:
        self._running.append(running)
        self._say(f"Started {running}, {reason}.")

    # --- what runs

    def reap(self) -> None:
        """Take note of the runs that have ended."""
        for running in list(self._running):
            code = running.child.poll()
            if code is not None:
                self._running.remove(running)
                self._failures += code != 0
                ending = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                self._say(f"{running} {'was successful' if code == 0 else ending}.")
                if running.start is not None:
                    self._note_end(running.entry, running.start.claim, code)

    def _note_end(self, entry: Entry, claim: Claim, code: int) -> None:
        """Count an attempt that has made no run; one that the system has refused costs no event."""
        if code == ownership.TRANSIENT_CODE:
            self._rest(entry)
            return
        self._rests.pop(claim.deployment_id, None)
        if code != 0:
            key = claim.deployment_id, claim.mark
            self._tries[key] = self._tries.get(key, 0) + 1

    def _stop_running(self) -> None:
        """Have the runs stop, and wait for that; a further signal kills them."""
        self.reap()
        self._received(0)  # the first one, if it came while nobody waited for it
        if not self._running:
            return
        self._say(f"Stopping {', '.join(map(str, self._running))}. What had finished is kept; once more kills.")
        for running in self._running:
            running.child.terminate()
        while self._running:
            if {signal.SIGINT, signal.SIGTERM} & set(self._received(0.1)):
                for running in self._running:
                    running.child.kill()
            self.reap()

    # --- what it says

    def _say(self, text: str) -> None:
        self._echo(f"{console.clock(int(self._clock().timestamp() * 1000))} {text}")

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)

    def _tell_changes(self, entries: dict[int, Entry]) -> None:
        known = self._known or {}
        for entry in (known[id_] for id_ in known.keys() - entries.keys()):
            self._say(f"No longer scheduled: {entry}.")
        for entry in (entries[id_] for id_ in entries.keys() - known.keys()):
            self._say(f"Scheduled: {entry}, '{entry.cron}' in {entry.timezone or 'UTC'}.")
        if not entries and (known or self._known is None):
            self._say("Waiting for a deployment with a schedule, or for events.")
        self._known = entries

    def _tell_waiting(self, waiting: dict[int, Deployment]) -> None:
        for id_ in waiting.keys() - self._waiting:
            entry = Entry(waiting[id_], time_of(waiting[id_].deployed_at))
            self._say(f"Waiting: {entry}, for {events.waits_for(waiting[id_])}.")
        self._waiting = {*waiting}

    def _tell_next(self, coming: tuple[datetime, int] | None) -> None:
        if coming is not None and coming != self._next and self._known is not None:
            entry = self._known[coming[1]]
            self._say(f"Next is {entry}, due at {entry.shown(coming[0])}.")
        self._next = coming


class _LostError(FlowstoreError):
    """Another process is the scheduler now."""


@contextlib.contextmanager
def _woken_by_children() -> Iterator[None]:
    """Let the end of a child end a wait: a signal that has a handler of Python's writes to the waker."""
    try:
        before = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    except (AttributeError, ValueError):  # Windows, or not the main thread: the next poll sees it
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def main(path: str, deployment_id: str, parent: str, *used: str) -> int:
    """Run one deployment once, in a process that the scheduler started, and return its exit code.

    Args:
        path: of the store.
        deployment_id: the deployment.
        parent: the scheduler, which this process dies with.
        used: where events start it, the last event that it had used up, and then those events.
    """

    def run(store: Database) -> int:
        deployment = deployments.get(store, int(deployment_id))
        if not used:
            return deploy.trigger(store, deployment, quiet=True)
        claim = Claim(deployment.id, int(used[0]), [int(text) for text in used[1:]])
        values = events.values_of(
            deployment, event_rows.by_ids(store, claim.ids), deployments.parameters_of(store, deployment.id)
        )
        return deploy.trigger(store, deployment, values, quiet=True, claim=claim)

    return as_child(parent, path, run)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
