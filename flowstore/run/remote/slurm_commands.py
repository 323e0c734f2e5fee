"""Slurm's commands, as far as pilots need them: jobs to submit, to look after and to end.

Their output is asked for in columns, which all versions have. A controller may need seconds to answer, so hardly
anything is asked by the thread that keeps hosts alive: that is done by `JobQueue`, in a thread of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import re
import shlex
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from flowstore import later
from flowstore._version import __version__
from flowstore.errors import FlowstoreError
from flowstore.run.remote import pilot

COMMAND_S = 60.0  # for a controller to answer
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "STOPPED")
AWAY = re.compile("unable to contact|connect|timed out|communication|zero bytes", re.IGNORECASE)  # of a controller
AWAY_S = 60.0  # for it to be back
FATE_S = 3.0  # for Slurm to say how a job ended
FIRST_POLL_S, SLOWEST_POLL_S = 0.5, 10.0
WATCH = """read done || for _ in 1 2 3; do scancel --quiet --name="$0"; sleep 2; done"""  # an sbatch may be at work


def environment() -> dict[str, str]:
    """Return the environment of Slurm's commands: without that of a job that this process may run in."""
    kept = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")
    return {name: value for name, value in os.environ.items() if name in kept or not name.startswith("SLURM_")}


def call(
    *command: str, stdin: str = "", timeout_s: float = COMMAND_S, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands.

    Raises:
        FlowstoreError: it isn't there, or did not answer.
    """
    try:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            start_new_session=True,  # so that Ctrl-C ends nothing halfway
            env={**environment(), **(variables or {})},
            check=False,
        )
    except OSError as error:
        raise FlowstoreError(
            f"Slurm's command {command[0]} cannot be run ({error.strerror}). "
            "Run the flow on a machine from which jobs are submitted."
        ) from None
    except subprocess.TimeoutExpired:
        raise FlowstoreError(f"Slurm's command {command[0]} did not answer for {timeout_s:.0f} s.") from None


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a command that failed has to say, as one line without the names of commands."""
    lines = [re.sub(r"^(\w+: )?((error|fatal): )?", "", line) for line in result.stderr.splitlines()]
    lines = [re.sub(r"^(Batch job submission failed|allocation failure): ", "", line).strip(". ") for line in lines]
    return "; ".join(dict.fromkeys(filter(None, lines))) or f"it exited with code {result.returncode}"


# --- jobs


@later.frozen(kw_only=True)
class Job:
    """A job that is to be submitted.

    Attributes:
        number: the pilot's.
        tasks: how many processes it has.
        cpus, memory, gpus: of each.
        flags: for sbatch, of the user's options.
        python: the interpreter.
        ticket: for the pilot.
    """

    number: int
    tasks: int
    cpus: int
    memory: int
    gpus: int
    flags: Sequence[str]
    python: str
    ticket: pilot.Ticket

    def command(self, name: str, *more: str) -> list[str]:
        """Return the command that submits it, under a name."""
        flags = [f"--job-name={name}", f"--ntasks={self.tasks}", f"--cpus-per-task={self.cpus}"]
        if self.memory and self.tasks == 1:
            flags.append(f"--mem={self.memory}M")
        elif self.memory:
            flags.append(f"--mem-per-cpu={math.ceil(self.memory / self.cpus)}M")
        if self.gpus:
            flags.append(f"--gres=gpu:{self.gpus}" if self.tasks == 1 else f"--gpus-per-task={self.gpus}")
        fixed = ["--parsable", "--no-requeue", "--export=ALL", "--chdir=/", "--output=/dev/null"]
        return ["sbatch", *fixed, *flags, *self.flags, *more]

    @property
    def script(self) -> str:
        """Its program."""
        program = shlex.join([self.python, "-c", pilot.PROGRAM])
        if self.tasks > 1:
            program = f"srun --kill-on-bad-exit=1 --wait=0 --cpus-per-task={self.cpus} {program}"
        return f"#!/bin/sh\nexec {program}\n"

    def test(self) -> None:
        """Ask Slurm whether it would take such a job.

        Raises:
            FlowstoreError: it would not.
        """
        result = call(*self.command("flowstore", "--test-only"), stdin=self.script)
        if result.returncode:
            raise FlowstoreError(f"Slurm refuses such a job: {complaint(result)}.")


@later.frozen
class Submitted:
    """A job has been submitted."""

    number: int
    job: str


@later.frozen
class Refused:
    """A job could not be submitted."""

    number: int
    error: str


@later.frozen
class Status:
    """The state of a job whose pilot has not connected.

    Attributes:
        number: the pilot's.
        state: in Slurm's words, such as PENDING.
        reason: why it waits.
        fate: how it has ended, if it has.
    """

    number: int
    state: str
    reason: str
    fate: Fate | None


_HOW_LOST = {
    "BOOT_FAIL": "was lost with its node",
    "CANCELLED": "was cancelled",
    "COMPLETED": "ended",
    "COMPLETING": "ended",
    "FAILED": "failed",
    "DEADLINE": "reached its deadline",
    "NODE_FAIL": "was lost with its node",
    "OUT_OF_MEMORY": "ran out of memory",
    "PREEMPTED": "was preempted",
    "TIMEOUT": "reached its time limit",
}
LISTEN_HINT = "Choose an address that nodes reach, and a port that is open: --executor-option listen=ADDRESS:PORT"
_PYTHON_HINT = "choose another Python: --executor-option python=PATH"


@later.frozen
class Fate:
    """The end of a job.

    Attributes:
        state: in Slurm's words, such as CANCELLED; empty where Slurm no longer knows the job.
        code: its exit code.
        node: where it ran, as far as that is known.
    """

    state: str
    code: int
    node: str

    @property
    def how_lost(self) -> str | None:
        """How hosts in the job were lost, if that says more than that their connection has ended."""
        return _HOW_LOST.get(self.state)

    def no_host(self, job: str | None, python: str, where: str) -> str | None:
        """Return why a job could not become a host, if its exit code says so.

        Args:
            job: Slurm's number.
            python: the interpreter.
            where: where the driver listens.
        """
        node = f"on {self.node or 'its node'}"
        if self.code == pilot.NO_DRIVER:
            return f"Slurm's job {job} {node} could not connect to {where}. {LISTEN_HINT}"
        if self.code == pilot.NOT_INSTALLED:
            return (
                f"flowstore is not installed for {python} {node}. Install it there: "
                f"pip install 'flowstore[slurm]=={__version__}', or {_PYTHON_HINT}"
            )
        if self.code in (126, 127):
            return f"There is no Python at {python} {node}: {_PYTHON_HINT}"
        return None


def fate_of(job: str, timeout_s: float) -> Fate:
    """Return how a job has ended, or is ending after so long; Slurm knows that for some minutes.

    Raises:
        FlowstoreError: Slurm does not answer.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        text = call("scontrol", "--oneliner", "show", "job", job, timeout_s=timeout_s).stdout
        values = dict(word.split("=", 1) for word in text.split() if "=" in word)
        if values.get("JobState") not in ("RUNNING", "COMPLETING") or time.monotonic() > deadline:
            break
        time.sleep(0.05)  # Slurm tells nobody when a job ends
    code = values.get("ExitCode", "0:0").partition(":")[0]
    return Fate(values.get("JobState", ""), int(code), values.get("BatchHost") or values.get("NodeList", ""))


@later.frozen
class _Cancel:
    """A job is to be ended that has not ended by itself until then."""

    job: str
    at: float


Outcome = Submitted | Refused | Status | FlowstoreError


class JobQueue:
    """Does with jobs what takes time, in a thread of its own.

    Whatever becomes of this process, a small shell ends the jobs that are left: it waits for the end of a pipe.

    Args:
        name: of all jobs.
        wake: is called, in that thread, when there are outcomes.
    """

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self.name = name
        self.outcomes: deque[Outcome] = deque()
        self._wake = wake
        self._work: queue.SimpleQueue[Job | _Cancel | None] = queue.SimpleQueue()
        self._unconnected: dict[str, int] = {}  # the number of the pilot, by job
        self._connected: set[int] = set()
        self._cancel_at: dict[str, float] = {}
        self._has_submitted = False
        self._closing = threading.Event()
        self._silent_since: float | None = None
        self._poll_s, self._poll_at = FIRST_POLL_S, 0.0
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, env=environment(),
        )  # fmt: skip
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Submit a job: `Submitted` or `Refused` follows."""
        self._work.put(job)

    def note_connected(self, number: int) -> None:
        """Look no more after a job whose pilot has connected."""
        self._connected.add(number)

    def cancel(self, job: str, after_s: float = 0.0) -> None:
        """End a job that has not ended by itself until then."""
        self._work.put(_Cancel(job, time.monotonic() + after_s))

    def close(self, grace_s: float) -> None:
        """End all jobs, after a moment in which those with pilots end by themselves."""
        self._closing.set()
        self._work.put(None)
        self._thread.join(grace_s + 5)
        done = b""
        with contextlib.suppress(FlowstoreError):
            done = self._end_jobs(grace_s) if self._has_submitted else b"done\n"
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self._watch.communicate(done, timeout=0.5)

    def _end_jobs(self, grace_s: float) -> bytes:
        """End the jobs that are left; return what the shell reads when it has nothing to do."""
        if set(self._unconnected.values()) - self._connected:
            call("scancel", "--quiet", f"--name={self.name}", "--state=PENDING", timeout_s=grace_s + 5)
        deadline = time.monotonic() + grace_s
        left = "squeue", "--noheader", f"--name={self.name}", "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED"
        while (result := call(*left, timeout_s=grace_s + 5)).stdout.strip():
            if time.monotonic() > deadline:
                result = call("scancel", "--quiet", f"--name={self.name}", timeout_s=grace_s + 5)
                break
            time.sleep(0.1)  # Slurm tells nobody when a job ends
        is_done = not result.returncode and not self._thread.is_alive()  # else it may still be submitting one
        return b"done\n" if is_done else b""

    # --- in its thread

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                item = self._work.get(timeout=self._sleep_s())
                if item is None:
                    return
                if isinstance(item, Job):
                    self._submit(item)
                    continue  # all that wait come first
                self._cancel_at[item.job] = item.at
            try:
                self._cancel_due()
                self._poll()
                self._silent_since = None
            except FlowstoreError as error:
                self._note_silence(error)
            except Exception as error:  # else the run would wait for ever
                self._note(FlowstoreError(f"Slurm's answer is not understood ({type(error).__name__}: {error})."))
                return

    def _sleep_s(self) -> float | None:
        """Return how long there is nothing to do."""
        times = [*self._cancel_at.values()]
        if self._watched():
            times.append(self._poll_at)
        return max(0.01, min(times) - time.monotonic()) if times else None

    def _watched(self) -> dict[str, int]:
        self._unconnected = {job: number for job, number in self._unconnected.items() if number not in self._connected}
        return self._unconnected

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._wake()

    def _submit(self, job: Job) -> None:
        if self._closing.is_set():
            return
        self._has_submitted = True
        deadline = time.monotonic() + AWAY_S
        try:
            while True:
                variables = {pilot.VARIABLE: job.ticket.packed()}
                result = call(*job.command(self.name), stdin=job.script, variables=variables)
                is_away = result.returncode and AWAY.search(result.stderr)  # it may have taken the job: then both come
                if not is_away or self._closing.wait(1) or time.monotonic() > deadline:
                    break
        except FlowstoreError as error:
            self._note(Refused(job.number, str(error)))
            return
        ident = result.stdout.strip().partition(";")[0]
        if result.returncode or not ident.isdecimal():
            self._note(Refused(job.number, f"Slurm refuses a job: {complaint(result)}."))
            return
        self._unconnected[ident] = job.number
        self._poll_s = FIRST_POLL_S
        self._poll_at = time.monotonic() + self._poll_s
        self._note(Submitted(job.number, ident))

    def _cancel_due(self) -> None:
        now = time.monotonic()
        due = [job for job, at in list(self._cancel_at.items()) if at <= now]
        result = call("scancel", "--quiet", *due) if due else None
        if result is not None and result.returncode and AWAY.search(result.stderr):
            raise FlowstoreError(f"Slurm does not end its jobs: {complaint(result)}.")  # tried again
        for job in due:
            del self._cancel_at[job]
            self._unconnected.pop(job, None)

    def _poll(self) -> None:
        """Note the states of jobs whose pilots have not connected."""
        watched = dict(self._watched())
        if not watched or time.monotonic() < self._poll_at:
            return
        self._poll_s = min(SLOWEST_POLL_S, self._poll_s * 1.5)
        self._poll_at = time.monotonic() + self._poll_s
        result = call("squeue", "--noheader", "--states=all", f"--name={self.name}", "--format=%i|%T|%r")
        if result.returncode:
            raise FlowstoreError(f"Slurm does not say how its jobs are: {complaint(result)}.")
        rows = dict.fromkeys(watched, ("", ""))
        for line in result.stdout.splitlines():
            job, state, reason = [*line.strip().split("|", 2), "", ""][:3]
            if job in rows:
                rows[job] = state, reason
        for job, (state, reason) in rows.items():
            fate = None if state in ALIVE else fate_of(job, FATE_S)
            if watched[job] not in self._connected:
                self._note(Status(watched[job], state, reason, fate))

    def _note_silence(self, error: FlowstoreError) -> None:
        """Go on for a while where the controller does not answer, as while it is started again."""
        now = time.monotonic()
        self._poll_at = now + self._poll_s
        for job in self._cancel_at:
            self._cancel_at[job] = max(self._cancel_at[job], now + self._poll_s)
        if self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > COMMAND_S and self._watched():
            self._silent_since = None
            self._note(error)
