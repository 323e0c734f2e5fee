"""The worker: runs what AWS Step Functions asks for, beside the store. The protocol is in `stepfunctions`.

One thread waits for messages; everything else happens in the main thread, which starts the runs, gives signs of life
for them and reports how they ended. Runs die with the worker, as tasks die with their run, so that none goes on that
AWS has given up: the next worker resumes it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from flowstore.errors import FlowstoreError
from flowstore.production import deploy
from flowstore.production.stepfunctions.aws import POLL_S, Address, Aws, Received
from flowstore.production.stepfunctions.calls import AwsDeniedError, AwsError, AwsMissingError
from flowstore.production.stepfunctions.job import BEATS, Job
from flowstore.production.stepfunctions.messages import QUEUED, STEP, Failure, Message
from flowstore.production.trigger import as_child
from flowstore.run import console
from flowstore.sqlite import liveness
from flowstore.sqlite.database import Database
from flowstore.store import deployments, records, state_machines
from flowstore.text import safe

ONCE_POLL_S = 2  # how long `--once` waits for a further message
_ASKED_S = 60.0  # how long an accepted execution may take to ask for its run
_TICK_S = 1.0  # how often runs are looked at that this worker has not started
_STEPS_TICK_S = 0.2  # how often it is looked which tasks have finished, where AWS hears of each
_RETRY_S = 5.0  # after a call that AWS did not answer
_FORGET_S = 3600.0  # between two looks for tokens of executions that have ended
_BUSY_S = 2  # how long a message rests that has come while there was no room


def of_store(store: Database, say: Callable[[str], None], max_runs: int) -> Worker:
    """Return a worker for a store.

    Raises:
        FlowstoreError: nothing of this store is in AWS, or AWS cannot be asked.
    """
    machines = state_machines.all_of(store)
    if not machines:
        raise FlowstoreError(
            f"Nothing of {store.path} is in AWS, so there is nothing to work for. Put a flow there with: "
            "python flow.py step-functions create"
        )
    regions = {Address.parse(machine.arn).region for machine in machines}
    aws = Aws(regions.pop() if len(regions) == 1 else None)
    url = aws.find_queue(store.uuid)
    if url is None:
        raise FlowstoreError(
            f"The queue of {store.path} is not there in {aws.region}: somebody has deleted it. Deploy again, to have "
            "it made: python flow.py step-functions create"
        )
    return Worker(store, aws, url, say, max_runs)


@attrs.frozen
class _Event:
    """An event that the main thread waits for: messages, or an error instead of them; a signal; the end of a child."""

    messages: list[Received] | None = None
    error: FlowstoreError | None = None
    signal: int | None = None


class Worker:
    """A worker for one store and its queue.

    Args:
        store: where the deployments are.
        aws: where the queue is.
        url: the queue's.
        say: is given each line for the operator.
        max_runs: how many runs there may be at a time.
    """

    def __init__(self, store: Database, aws: Aws, url: str, say: Callable[[str], None], max_runs: int) -> None:
        self._store = store
        self._aws = aws
        self._url = url
        self._echo = say
        self._max_runs = max_runs
        self._jobs: dict[str, Job] = {}  # by execution
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()  # which a signal's handler may write to
        self._polls: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._is_polling = False
        self._poll_again_at = 0.0
        self._is_empty = False  # the last poll brought nothing
        self._is_refused = False  # the machine refused to start a run
        self._forget_at = 0.0
        self._denied: set[str] = set()
        self._failures = 0
        self._signals: list[int] = []
        self._trouble: str | None = None
        self._fatal: FlowstoreError | None = None

    def run(self, *, once: bool = False) -> int:
        """Work until a signal comes, and return the exit code.

        Args:
            once: only run what is in the queue now, and end: with 0, or 1 where a run did not succeed.

        Raises:
            FlowstoreError: the queue is gone, or AWS refuses.
        """
        self._say(f"Waiting for {self._url.rpartition('/')[2]} in {self._aws.region}, for {self._store.path}.")
        threading.Thread(target=self._poll, daemon=True).start()
        with self._on_signals():
            try:
                self._serve(once=once)
            finally:
                self._stop_all()
                self._store.close()
        if self._signals:
            return 128 + self._signals[0]
        return min(self._failures, 1)

    def _serve(self, *, once: bool) -> None:
        while not self._signals:
            if self._fatal is not None and not self._jobs:
                raise self._fatal
            if once and (self._is_empty or self._is_refused) and not self._jobs:
                self._await_poll()
                return
            if time.monotonic() >= self._forget_at:
                with contextlib.suppress(FlowstoreError):  # another time
                    self._forget_ended()
            self._ask(ONCE_POLL_S if once else POLL_S)
            self._store.close()  # between events the store is at rest, as far as the worker is concerned
            event = self._next_event()
            if event is not None:
                self._handle(event)
            self._look_after_jobs()

    # --- events

    def _poll(self) -> None:
        """Wait for messages whenever the main thread asks for it: the one thing that this thread does."""
        while True:
            wait_s = self._polls.get()
            try:
                self._events.put(_Event(self._aws.receive(self._url, wait_s)))
            except FlowstoreError as error:
                self._events.put(_Event(error=error))

    def _ask(self, wait_s: int) -> None:
        """Ask the other thread for messages where there is room for a run, or a run waits for further tokens."""
        wanted = len(self._jobs) < self._max_runs or any(
            not job.tokens or job.message.steps for job in self._jobs.values()
        )
        if wanted and not self._is_polling and self._fatal is None and time.monotonic() >= self._poll_again_at:
            self._is_polling = True
            self._polls.put(wait_s)

    def _next_event(self) -> _Event | None:
        now = time.monotonic()
        due = [now + POLL_S, *(max(job.beat_at, job.rests_until) for job in self._jobs.values())]
        if self._poll_again_at > now:
            due.append(self._poll_again_at)
        if self._jobs:
            has_steps = any(job.message.steps for job in self._jobs.values())
            due.append(now + (_STEPS_TICK_S if has_steps else _TICK_S))
        with contextlib.suppress(queue.Empty):
            return self._events.get(timeout=max(min(due) - now, 0.01))
        return None

    def _handle(self, event: _Event) -> None:
        if event.signal is not None:  # the end of a child, too
            return
        self._is_polling = False
        if event.error is not None:
            self._miss(event.error)
            return
        self._trouble, self._is_empty = None, not event.messages
        for received in event.messages or []:
            try:
                self._take(received)
            except (FlowstoreError, OSError) as error:  # of AWS, or no room on the disk, say: the message comes again
                if not self._store.path.exists():
                    raise
                self._miss_one(error)

    def _miss_one(self, error: Exception) -> None:
        """Go on with the others where AWS denies a call about one execution: its state machine's policy is missing."""
        if not isinstance(error, AwsDeniedError) or error.operation in {"DeleteMessage", "ChangeMessageVisibility"}:
            self._miss(error)
        elif str(error) not in self._denied:
            self._denied.add(str(error))
            self._failures += 1
            self._say(str(error))

    def _miss(self, error: Exception) -> None:
        """Try again after a transient error, such as a network that is down; else end, once the runs have ended."""
        if not isinstance(error, AwsError) or error.transient:
            self._poll_again_at = time.monotonic() + _RETRY_S
            if str(error) != self._trouble:
                self._say(f"{str(error).rstrip('.')}. Trying again.")
            self._trouble = str(error)
        elif isinstance(error, AwsMissingError):
            self._fatal = FlowstoreError(
                "The queue is gone: the last flow of this store was removed from AWS, or somebody has deleted the "
                "queue. To have it made again: python flow.py step-functions create"
            )
        else:
            self._fatal = error

    # --- messages

    def _take(self, received: Received) -> None:
        try:
            message = Message.parse(received.body)
        except FlowstoreError as error:
            self._say(f"Dropped a message that cannot be understood: {error}.")
            self._aws.drop(self._url, received)
            return
        if message.store != self._store.uuid:
            self._say(f"Refused a message for another store, {safe(message.store)}.")
            self._aws.fail(message.token, Failure.NOT_STARTED, "The message was sent to the worker of another store.")
            self._aws.drop(self._url, received)
            return
        job = self._jobs.get(message.tag)
        if message.state == STEP:
            self._keep(received, message)
        elif job is None and len(self._jobs) >= self._max_runs:
            self._aws.give_back(self._url, received, _BUSY_S)
        elif message.state == QUEUED:
            self._accept(received, message, job)
        else:
            self._begin(received, message, job)

    def _keep(self, received: Received, message: Message) -> None:
        """Keep the token of a step, for whichever worker has the run; one that AWS does not know admits nothing."""
        if self._aws.heartbeat(message.token):
            state_machines.add_token(
                self._store, message.tag, message.step, message.path, message.members, message.token
            )
        self._aws.drop(self._url, received)

    def _accept(self, received: Received, message: Message, job: Job | None) -> None:
        """Take on an execution, which then asks for its run."""
        is_waited_for = self._aws.succeed(message.token, {"worker": liveness.host()})
        self._aws.drop(self._url, received)
        if is_waited_for and job is None:
            self._jobs[message.tag] = Job(self._store, message)

    def _begin(self, received: Received, message: Message, job: Job | None) -> None:
        """Start the run of an execution. AWS sees to its end from now on, so the message has done its duty."""
        is_waited_for = self._aws.heartbeat(message.token)
        self._aws.drop(self._url, received)
        if not is_waited_for:
            return
        if job is None:
            job = self._jobs[message.tag] = Job(self._store, message)
        job.message, job.rests_until, job.beat_at = message, 0.0, time.monotonic() + message.heartbeat_s / BEATS
        if message.token not in job.tokens:
            job.tokens.append(message.token)
        if not job.is_begun:
            job.begin()
            if job.child is not None:
                self._say(f"Started {job}, process {job.child.pid}.")

    # --- jobs

    def _look_after_jobs(self) -> None:
        for job in list(self._jobs.values()):
            if time.monotonic() < job.rests_until:
                continue
            try:
                self._look_after(job)
            except (FlowstoreError, OSError) as error:  # of AWS, or of a machine with no room for a process, say
                if not self._store.path.exists():
                    raise
                job.rests_until = time.monotonic() + min(_RETRY_S, job.message.heartbeat_s / BEATS)
                if isinstance(error, AwsError) and not error.transient and job.answer is not None:
                    del self._jobs[job.tag]  # AWS asks again, once it misses a sign of life
                self._miss_one(error)

    def _look_after(self, job: Job) -> None:
        job.look()
        job.answer_steps(self._aws)
        if job.answer is not None and (job.child is None or job.child.code is not None):
            self._finish(job)
        elif time.monotonic() >= job.beat_at:
            self._beat(job)

    def _beat(self, job: Job) -> None:
        """Give a sign of life. Where AWS no longer waits for it, see whether the execution goes on all the same."""
        job.beat_at = time.monotonic() + job.message.heartbeat_s / BEATS
        if not job.is_begun:
            if time.monotonic() - job.since > _ASKED_S:  # another worker has it
                del self._jobs[job.tag]
            return
        job.tokens = [token for token in job.tokens if self._aws.heartbeat(token)]
        if not job.tokens and not job.aborted and not self._goes_on(job.tag, job.message.execution):
            job.aborted = True
            self._say(f"{job} was stopped in AWS.")
            if job.child is not None:
                job.child.stop()
            else:
                del self._jobs[job.tag]
                state_machines.forget_tokens(self._store, job.tag)

    def _goes_on(self, tag: str, arn: str) -> bool:
        """Return whether an execution still runs, which may be another one of its name by now."""
        execution = self._aws.find_execution(arn)
        return execution is not None and execution.tag == tag and execution.goes_on

    def _forget_ended(self) -> None:
        """Forget the tokens of executions that have ended while no worker looked after them."""
        self._forget_at = time.monotonic() + _FORGET_S
        addresses = {(address := Address.parse(one.arn)).name: address for one in state_machines.all_of(self._store)}
        for tag in set(state_machines.executions_with_tokens(self._store)) - self._jobs.keys():
            machine, name = state_machines.names_of(tag)
            if machine not in addresses or not self._goes_on(tag, addresses[machine].execution(name)):
                state_machines.forget_tokens(self._store, tag)

    def _finish(self, job: Job) -> None:
        """Tell AWS how a run ended."""
        answer = job.answer
        assert answer is not None
        if not job.aborted and not job.tokens and self._goes_on(job.tag, job.message.execution):
            job.rests_until = time.monotonic() + _TICK_S  # AWS has taken the worker for dead, and asks again
            return
        for token in job.tokens if not job.aborted else []:
            if answer.output is not None:
                self._aws.succeed(token, answer.output)
            else:
                self._aws.fail(token, answer.error, answer.cause)
        if job.message.steps and (job.aborted or answer.error not in Failure.LATER):
            state_machines.forget_tokens(self._store, job.tag)
        del self._jobs[job.tag]
        self._is_empty = False  # what follows may be in the queue
        self._is_refused = answer.error == Failure.NOT_NOW
        self._failures += self._is_refused or (answer.output is None and answer.error not in Failure.LATER)
        ending = f"{answer.output['run']} was successful" if answer.output else answer.reason or answer.cause
        self._say(f"{job}: {ending}")

    def _stop_all(self) -> None:
        """Stop all runs and give them back, so that another worker resumes them; a further signal kills."""
        running = [job for job in self._jobs.values() if job.child is not None]
        if running:
            names = ", ".join(map(str, running))
            self._say(f"Stopping {names}. What had finished is kept, and the next worker goes on; once more kills.")
        signals = len(self._signals)
        for job in running:
            assert job.child is not None
            job.child.stop()
        while any(job.child is not None and job.child.code is None for job in running):
            with contextlib.suppress(queue.Empty):
                self._drain(self._events.get(timeout=0.2))
            if len(self._signals) > signals:
                for job in running:
                    assert job.child is not None
                    job.child.stop(kill=True)
        for job in running:
            with contextlib.suppress(FlowstoreError):  # AWS misses the next sign of life, and asks again
                job.look(stopping=True)
                if job.answer is not None:
                    self._finish(job)
        if running:
            self._await_poll()

    def _await_poll(self) -> None:
        """Wait for messages that are on their way, which nobody else would see for a while, unless a signal comes."""
        deadline, signals = time.monotonic() + POLL_S + 1, len(self._signals)
        while self._is_polling and time.monotonic() < deadline and len(self._signals) == signals:
            with contextlib.suppress(queue.Empty):
                self._drain(self._events.get(timeout=0.2))

    def _drain(self, event: _Event) -> None:
        """Give back messages that came too late."""
        self._is_polling = self._is_polling and event.messages is None and event.error is None
        for received in event.messages or []:
            with contextlib.suppress(AwsError):
                self._aws.give_back(self._url, received)

    # --- signals, and what it says

    @contextlib.contextmanager
    def _on_signals(self) -> Iterator[None]:
        def note(number: int, _frame: Any) -> None:
            if number != getattr(signal, "SIGCHLD", None):
                self._signals.append(number)
            self._events.put(_Event(signal=number))

        names = [name for name in ("SIGINT", "SIGTERM", "SIGCHLD") if hasattr(signal, name)]
        before = {name: signal.signal(getattr(signal, name), note) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)

    def _say(self, text: str) -> None:
        self._echo(f"{console.clock(records.now_ms())} {text}")


def main(path: str, deployment_id: str, parent: str) -> int:
    """Run one deployment once, in a process that a worker started, and return its exit code."""

    def run(store: Database) -> int:
        order = json.load(sys.stdin)
        deployment = deployments.get(store, int(deployment_id))
        return deploy.trigger(store, deployment, order.pop("values"), quiet=True, **order)

    return as_child(parent, path, run)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
