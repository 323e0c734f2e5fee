"""An execution that a worker has accepted: its run on this machine, and how that ends.

The store decides, not the worker's memory: which run an execution has, and how it ended, is read from there. So it
makes no difference whether this worker started the run, another one did, or one that is dead by now.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Any

import attrs

from flowstore.errors import FlowstoreError, NotFound
from flowstore.production import deploy
from flowstore.production.stepfunctions import masking
from flowstore.production.stepfunctions.aws import Aws
from flowstore.production.stepfunctions.messages import Failure, Message
from flowstore.production.stepfunctions.step_states import EVENTS_A_TASK, MAX_EVENTS
from flowstore.run import ownership
from flowstore.sqlite.database import Database
from flowstore.sqlite.typed_rows import json_of
from flowstore.store import deployments, records, state_machines
from flowstore.store.deployments import Deployment
from flowstore.store.state_machines import ExecutionRun, FinishedStep
from flowstore.text import one_line, safe, shorten

MAX_RUNS_WITHOUT_PROGRESS = 10  # of one execution, one after the other; then it fails
_MAX_CAUSE = 256  # characters of an error that are sent to AWS, before the command that resumes
_LAST_LINES = 4
BEATS = 3  # signs of life in the time after which AWS misses one
_PAUSE_S = 20.0  # before an execution is given back that could not be started


@attrs.frozen
class Answer:
    """The answer to AWS when an execution is over: a run's pathspec and status, or an error and its cause."""

    output: dict[str, str] | None = None
    error: str = ""
    cause: str = ""
    reason: str = ""  # that is said here, and nothing that AWS learns


class Child:
    """The process that runs a deployment; it dies with this one.

    Args:
        store: where the deployment is.
        deployment: what to run.
        order: what else it has to know, as `worker.main` reads it.
    """

    def __init__(self, store: Database, deployment: Deployment, order: dict[str, Any]) -> None:
        command = [sys.executable, "-P", "-m", "flowstore.production.worker"]
        self._process = subprocess.Popen(
            [*command, str(store.path), str(deployment.id), str(os.getpid())],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C reaches the worker alone, which stops it
        )
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self.pid = self._process.pid
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._reader = threading.Thread(target=self._copy, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stream:  # it has ended: its exit code says so
            stream.write(json.dumps(order).encode())

    def _copy(self, stream: IO[bytes]) -> None:
        """Pass on what it prints to stderr, and keep the last lines."""
        with stream:
            for line in stream:
                sys.stderr.buffer.write(line)
                sys.stderr.flush()
                self._lines.append(line.decode("utf-8", "replace").rstrip())

    @property
    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def last_words(self) -> str:
        """Return the last that an ended process printed to stderr."""
        self._reader.join(1.0)
        return " ".join(self._lines)

    def stop(self, *, kill: bool = False) -> None:
        """Have the run stop in good order; or kill it."""
        self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)


def _output_of(step: FinishedStep) -> dict[str, Any]:
    """Return the answer for a step: how many follow, or which one."""
    transition = json_of(step.transition, dict)
    targets, count = transition.get("targets") or [], transition.get("count")
    if isinstance(count, int):
        return {"members": count} if transition.get("gang") else {"items": list(range(count))}
    return {"next": targets[0] if len(targets) == 1 else None, "members": step.token.members}


class Job:
    """An execution that this worker looks after.

    Args:
        store: where its runs are.
        message: that asks for it.

    Attributes:
        message: the newest one.
        tokens: those that AWS waits for: one, but for a while after AWS has taken the worker for dead.
        child: the process that runs it, if this worker has started one.
        since: when it was accepted, by the monotonic clock.
        beat_at: when the next sign of life is due.
        rests_until: when it is looked after again, since AWS could not be asked.
        answer: what is sent to AWS at last.
        aborted: whether it was stopped in AWS, which therefore waits for no answer.
    """

    def __init__(self, store: Database, message: Message) -> None:
        self._store = store
        self.message = message
        self.tag = message.tag
        self.tokens: list[str] = []
        self.child: Child | None = None
        self.is_begun = False
        self.since = time.monotonic()
        self.beat_at = self.since
        self.rests_until = 0.0
        self.answer: Answer | None = None
        self.aborted = False
        self._origin: ExecutionRun | None = None

    def __str__(self) -> str:
        return safe(f"{self.message.flow} ({self.tag.removeprefix(state_machines.TAG)})")

    def begin(self) -> None:
        """Start the run, or resume it; or go along with one that runs already, or learn how it ended."""
        self.is_begun = True
        try:
            self._begin()
        except (FlowstoreError, OSError) as error:
            if isinstance(error, FlowstoreError) and not error.transient:  # nothing can be run, now or later
                self.answer = self._failed(Failure.NOT_STARTED, str(error))
            else:
                self._give_back(str(error))

    def _give_back(self, reason: str) -> None:
        """Have AWS ask again, in a while, since the machine refuses: its disk is full, say."""
        cause = "The worker's machine could not start the run at the moment. It is tried again."
        self.answer = Answer(error=Failure.NOT_NOW, cause=cause, reason=reason)
        self.rests_until = time.monotonic() + min(_PAUSE_S, self.message.heartbeat_s / BEATS)

    def _begin(self) -> None:
        records.record_dead_runs(self._store)
        run = state_machines.newest_run(self._store, self.tag)
        if run is not None and run.status in {"successful", "failed"}:
            self.answer = self._ending(run)
        elif run is None or run.status != "running":
            self._launch(run)

    def _launch(self, origin: ExecutionRun | None) -> None:
        deployment = deployments.find(self._store, self.message.flow, self.message.scope)
        if deployment is None:
            raise NotFound(f"{self.message.flow} is not deployed in this store any more.")
        deploy.check_trusted(self._store, deployment)
        if origin is not None:
            count = state_machines.runs_without_progress(self._store, self.tag)
            if count >= MAX_RUNS_WITHOUT_PROGRESS:
                raise FlowstoreError(
                    f"The last {count} runs died before any of their tasks had finished; the last one is "
                    f"{origin.pathspec}."
                )
        self._origin = origin
        order = {
            "values": self.message.values(),
            "execution": self.tag,
            "steps": self.message.steps,
            "origin_run_id": None if origin is None else origin.id,
            "max_workers": self.message.max_workers,
        }
        self._store.close()  # the run is to be the last to close it
        self.child = Child(self._store, deployment, order)

    def look(self, *, stopping: bool = False) -> None:
        """See whether the run is over, and decide what to answer then.

        Args:
            stopping: whether this worker has stopped the run, so that the execution is to go on elsewhere.
        """
        if self.answer is not None or not self.is_begun or (self.child is not None and self.child.code is None):
            return
        run = state_machines.newest_run(self._store, self.tag)
        if run is not None and run.status == "running":
            return
        child, self.child = self.child, None
        if child is not None and (run is None or run == self._origin):
            if stopping and child.code:
                self.answer = Answer(error=Failure.WORKER_STOPPED, cause="The worker was stopped.")
                return
            if child.code == ownership.TRANSIENT_CODE:
                self._give_back(child.last_words())
            else:
                self.answer = self._failed(Failure.NOT_STARTED, f"The run did not start. {child.last_words()}")
        elif run is None or (child is None and run.status == "dead"):  # another worker's, which has died
            self.begin()
        else:
            self.answer = self._ending(run, stopping=stopping)

    def answer_steps(self, aws: Aws) -> None:
        """Tell AWS of the tasks that have finished, where each step is a state of its own.

        Raises:
            AwsError: AWS cannot be reached; those that were not answered are answered later.
        """
        run = state_machines.newest_run(self._store, self.tag) if self.message.steps and self.is_begun else None
        if run is None or self.aborted:
            return
        answered = []
        try:
            for step in state_machines.finished_steps(self._store, self.tag, run.id):
                output = _output_of(step)
                if not self._is_too_long(len(output.get("items", ())), step.token.step):
                    aws.succeed(step.token.token, output)
                    answered.append(step.token)
        finally:
            if answered:
                state_machines.note_answered(self._store, answered)

    def _is_too_long(self, items: int, step: str) -> bool:
        """Return whether AWS could not record that many further tasks; the run is stopped then."""
        tasks = state_machines.count_tokens(self._store, self.tag) + items
        if tasks * EVENTS_A_TASK <= MAX_EVENTS:
            return False
        if self.answer is None:
            self.answer = self._failed(
                Failure.TOO_LONG,
                f"After the step {step} there would be {tasks:,} tasks. AWS records {EVENTS_A_TASK} events of each, "
                "and 25,000 at most of an execution. Deploy without --steps.",
            )
            if self.child is not None:
                self.child.stop()
        return True

    def _ending(self, run: ExecutionRun, *, stopping: bool = False) -> Answer:
        """Return the answer for a run that is over."""
        if run.status == "successful":
            return Answer({"run": run.pathspec, "status": run.status})
        if run.status == "dead":
            return Answer(error=Failure.RUN_DIED, cause=f"The process of the run {run.pathspec} was killed.")
        if run.status == "stopped" and stopping:
            return Answer(error=Failure.WORKER_STOPPED, cause=f"The worker was stopped, and with it {run.pathspec}.")
        if run.status == "stopped":
            return self._failed(Failure.RUN_STOPPED, f"The run {run.pathspec} was stopped.", run)
        return self._failed(Failure.RUN_FAILED, f"The run {run.pathspec} failed: {run.error or 'see its log'}", run)

    def _failed(self, error: str, cause: str, run: ExecutionRun | None = None) -> Answer:
        cause = shorten(one_line(masking.mask(self._store, cause)), _MAX_CAUSE)
        deployment = deployments.find(self._store, self.message.flow, self.message.scope)
        if run is not None and deployment is not None:
            cause += f" To go on: {deployment.called_as} resume --origin-run-id {run.id}"
        return Answer(error=error, cause=masking.mask(self._store, cause))
