"""Tasks in jobs of Slurm: `--executor slurm`.

A pilot is a job that becomes a host: it is submitted with sbatch, waits in the queue as any job does, connects to the
driver, and runs attempts as long as there are any. A pilot of steps without `@resources` has room for several; one
that was asked for with resources has room for one attempt, which therefore has them for itself. A gang is one job.

Pilots connect to a port of the driver. The alternative needs no port: a stream through `srun --overlap` into the job.
It was as reliable, 100 MB of random bytes both ways, but took three to four times as long as a signed connection; it
costs a process with several threads for each pilot on a login node; and a job whose driver has died would not end
with its last host. srun needs ports that nodes reach as well, and encrypts as little: see `signed`.
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
import selectors
import shutil
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence

import attrs

from flowstore.errors import FlowstoreError
from flowstore.run.executor import Setup, check_package
from flowstore.run.remote import signed
from flowstore.run.remote.executor import RemoteExecutor
from flowstore.run.remote.hosts import LEASE_S, Engine, Granted, Over, check_number
from flowstore.run.remote.pilot import Ticket
from flowstore.run.remote.slurm_commands import LISTEN_HINT, Fate, Job, JobQueue, Outcome, Refused, Submitted, fate_of
from flowstore.run.remote.slurm_nodes import Node, address_for, address_towards, nodes_of
from flowstore.text import counted

FLAGS = ("partition", "account", "time", "qos", "constraint", "reservation")  # of sbatch, with the same meaning
OPTIONS = (*FLAGS, "pilots", "idle", "python", "listen")
TIME = re.compile(r"\d+|\d+:\d+(:\d+)?|\d+-\d+(:\d+){0,2}")
MOST_WORKERS = 32  # by default
FEWEST_PILOTS = 4  # among which these are spread, by default
IDLE_S = 60.0
CONNECT_S = 120.0  # for a job that runs to connect
MOST_FAILURES = 5  # jobs one after the other that end without a word
CLOSE_S = 3.0  # for jobs to end by themselves when the run ends
END_S = 10.0  # the same when it does not
AGAIN_S = 60.0  # after a job was refused, while others run
BUDGET_S = 10.0  # in which a tenth of the lease may be spent on that while hosts wait
PATIENCE_S = 10.0  # with a job that waits for the usual reasons
NEVER = re.compile(  # reasons in Slurm's queue that no waiting changes
    r"Job's .*|(Assoc|QOS)Max\w+PerJob\w*|(Account|QOS)NotAllowed|Invalid(Account|QOS)|BadConstraints|"
    r"Partition(Down|Inactive|NodeLimit|TimeLimit)|ReservationDeleted"
)
USUAL = ("", "None", "Priority", "Resources", "Prolog", "BeginTime", "JobLaunchFailure", "Cleaning")


class SlurmExecutor(RemoteExecutor):
    """Runs attempts in jobs of Slurm."""

    name = "slurm"
    own_options = OPTIONS

    @classmethod
    def check(cls, address: str, options: Mapping[str, str]) -> None:
        """Check the options, and whether this machine can submit jobs."""
        if address:
            raise FlowstoreError(f"The executor {cls.name!r} takes no address, so not {address!r}.")
        check_package(cls.name, "msgpack")
        super().check(address, options)
        for name in ("pilots", "idle"):
            if name in options:
                check_number(name, options[name])
        if not float(options.get("pilots", 1)).is_integer():
            raise FlowstoreError(f"--executor-option pilots={options['pilots']}: this must be a whole number.")
        if not TIME.fullmatch(options.get("time", "1")):
            raise FlowstoreError(
                f"--executor-option time={options['time']}: this must be minutes, or HOURS:MINUTES:SECONDS, "
                "or DAYS-HOURS, as sbatch takes it."
            )
        _listener_of(options.get("listen", ""))
        if shutil.which("sbatch") is None:
            raise FlowstoreError(
                "The executor 'slurm' needs the command sbatch, which is not on the PATH. "
                "Run the flow on a machine from which jobs are submitted, such as a login node."
            )

    def _start_engine(self, setup: Setup) -> Engine:
        nodes = nodes_of(setup.options.get("partition"))
        self.capacity = min(MOST_WORKERS, sum(node.cpus for node in nodes))
        return SlurmEngine(setup.flow.__name__, setup.options, nodes, setup.max_workers or self.capacity)


def _listener_of(text: str) -> tuple[str, int]:
    """Return the address and the port in `--executor-option listen=ADDRESS[:PORT]`; 0 is any port."""
    address, _, port = text.rpartition(":") if re.search(r"(^[^:]*|\]):\d+$", text) else (text, "", "0")
    if int(port) > 65535 or re.search(r"[\s/]", text):
        raise FlowstoreError(
            f"--executor-option listen={text}: this must be an address of this machine, or ADDRESS:PORT."
        )
    return address.strip("[]"), int(port)


@attrs.define(eq=False, repr=False)
class _Pilot:
    """A job, its hosts and their leases.

    Attributes:
        number: ours.
        amounts: the resources of each attempt.
        tasks: how many hosts it has: as many as a gang has members.
        slots: how many attempts each may run at a time.
        secret: what it must know.
        leases: in a gang, one for each host, in their order.
        job: Slurm's number, once it was submitted.
        streams: of its hosts, by rank.
        addresses: of these.
        since: when it was submitted.
        running_since: when it was first seen to run.
        is_over: whether it was ended, or has ended.
        fate: how its hosts were lost.
    """

    number: int
    amounts: Mapping[str, float]
    tasks: int
    slots: int
    secret: bytes
    leases: list[int]
    job: str | None = None
    streams: dict[int, signed.SignedSocket] = attrs.field(factory=dict)
    addresses: dict[int, str] = attrs.field(factory=dict)
    since: float = attrs.field(factory=time.monotonic)
    running_since: float | None = None
    is_over: bool = False
    fate: str | None = None

    def takes(self, amounts: Mapping[str, float]) -> bool:
        """Return whether it is for single attempts with such resources."""
        return self.tasks == 1 and not self.is_over and self.amounts == amounts

    def key(self, rank: int) -> str:
        """Return what a host of it is called: such keys are in the order of their ranks."""
        return f"{self.number}.{rank:06}"


class SlurmEngine(Engine):
    """Finds hosts by submitting jobs.

    Args:
        flow: its name, for the names of jobs.
        options: of `--executor-option`.
        nodes: where jobs may run.
        workers: how many attempts may run at a time.
    """

    gangs_apart = True
    waker: selectors.DefaultSelector

    def __init__(self, flow: str, options: Mapping[str, str], nodes: Sequence[Node], workers: int) -> None:
        self.idle_s = float(options.get("idle", IDLE_S))
        self._nodes = nodes
        self._flags = [f"--{name}={options[name]}" for name in FLAGS if name in options]
        self._python = options.get("python", sys.executable)
        self._most_pilots = int(float(options["pilots"])) if "pilots" in options else None
        most_cpus = max(node.cpus for node in nodes)
        self._slots = min(math.ceil(workers / (self._most_pilots or FEWEST_PILOTS)), most_cpus)
        self._pilots: dict[int, _Pilot] = {}
        self._by_lease: dict[int, _Pilot] = {}
        self._unplaced: deque[tuple[int, Mapping[str, float]]] = deque()  # leases for which no more jobs are allowed
        self._numbers = self._failures = 0
        self._fate_s = float(options.get("lease", LEASE_S)) / 10
        self._budget_at = self._budget_s = 0.0
        self._tested: set[str] = set()
        self._shown: set[str] = set()
        self._again: deque[tuple[float, _Pilot]] = deque()  # pilots that were refused, and when to try again
        self._notices: list[Granted | Over] = []
        self.waker = selectors.DefaultSelector()
        self._listener = self._listen(*_listener_of(options.get("listen", "")))
        self._address = address_for(self._listener.address, nodes)
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self.waker.register(self._woken, selectors.EVENT_READ, lambda: self._woken.recv(4096))
        plain = re.sub(r"[^A-Za-z0-9_]", "_", flow)
        self._queue = JobQueue(f"flowstore-{plain}-{secrets.token_hex(6)}", self._wake_up)

    def _listen(self, address: str, port: int) -> signed.Listener:
        address = address or address_towards(self._nodes)
        try:
            return signed.Listener(self.waker, address, port, self._secret_of, self._welcome)
        except OSError as error:
            text = f"This run cannot listen at {address}:{port} ({error.strerror}). {LISTEN_HINT}"
            raise FlowstoreError(text) from None

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):  # it is awake
            self._wake.send(b"x")

    # --- leases

    def room(self, amounts: Mapping[str, float]) -> int:
        """Return how many attempts with such resources could run at a time if nothing else ran."""
        room = sum(node.room(amounts) for node in self._nodes)
        wanted = ", ".join(f"{name}={amount:g}" for name, amount in amounts.items())
        if not room:
            offers = "; ".join(sorted({str(node) for node in self._nodes}))
            raise FlowstoreError(f"@resources({wanted}) is more than any node of Slurm offers. They offer: {offers}.")
        if wanted not in self._tested:
            self._tested.add(wanted)
            self._job(_Pilot(0, amounts, 1, self._slots_for(amounts), b"", [])).test()
        return room

    def _slots_for(self, amounts: Mapping[str, float]) -> int:
        return 1 if amounts else self._slots

    def _job(self, pilot: _Pilot) -> Job:
        return Job(
            number=pilot.number,
            tasks=pilot.tasks,
            cpus=pilot.slots * math.ceil(pilot.amounts.get("cpu", 1)),
            memory=math.ceil(pilot.amounts.get("memory", 0)),
            gpus=math.ceil(pilot.amounts.get("gpu", 0)),
            flags=self._flags,
            python=self._python,
            ticket=Ticket(self._address, self._listener.port, pilot.number, pilot.secret),
        )

    def _submit(self, leases: Sequence[int], amounts: Mapping[str, float], tasks: int, slots: int) -> None:
        self._numbers += 1
        new = _Pilot(self._numbers, amounts, tasks, slots, secrets.token_bytes(32), [*leases])
        self._pilots[new.number] = new
        self._by_lease.update(dict.fromkeys(leases, new))
        self._queue.submit(self._job(new))

    def request(self, leases: Sequence[int], amounts: Mapping[str, float]) -> None:
        """Take room in pilots that are there, and submit others as far as `pilots=` allows."""
        self._unplaced += [(lease, amounts) for lease in leases]
        self._place()

    def request_gang(self, leases: Sequence[int], amounts: Mapping[str, float]) -> None:
        """Submit a job with a process for each lease."""
        self._submit(leases, amounts, len(leases), 1)

    def _place(self) -> None:
        waiting, self._unplaced = self._unplaced, deque()
        for lease, amounts in waiting:
            fitting = [one for one in self._pilots.values() if one.takes(amounts)]
            free = next((one for one in fitting if len(one.leases) < one.slots), None)
            if free is not None:
                free.leases.append(lease)
                self._by_lease[lease] = free
                if free.streams:
                    self._grant(free, 0, lease)
            elif self._most_pilots is None or len(fitting) < self._most_pilots:
                self._submit([lease], amounts, 1, self._slots_for(amounts))
            else:
                self._unplaced.append((lease, amounts))

    def _grant(self, to: _Pilot, rank: int, lease: int) -> None:
        self._notices.append(Granted(lease, to.key(rank), to.addresses[rank]))

    def give_back(self, lease: int) -> None:
        """Take a lease back; a pilot without one ends."""
        self._unplaced = deque(waiting for waiting in self._unplaced if waiting[0] != lease)
        self._notices.append(Over(lease))
        pilot = self._by_lease.pop(lease, None)
        if pilot is not None:
            pilot.leases.remove(lease)
            if not pilot.leases:
                self._end(pilot)
        self._wake_up()

    def _end(self, ended: _Pilot) -> None:
        """End a pilot; one with hosts ends with these, or else is ended."""
        ended.is_over = True
        for stream in ended.streams.values():
            with contextlib.suppress(OSError):  # the executor has closed it
                stream.shutdown(socket.SHUT_RDWR)
        self._queue.note_connected(ended.number)
        if ended.job is not None:
            self._queue.cancel(ended.job, END_S if len(ended.streams) == ended.tasks else 0.0)

    def shun(self, host: str) -> None:
        """End the job of a host that has not been heard of."""
        pilot, _ = self._pilot_of(host)
        pilot.is_over = True
        if pilot.job is not None:
            self._queue.cancel(pilot.job)

    def why_lost(self, host: str) -> str | None:
        """Return what Slurm says of a job whose connection has ended."""
        pilot, _ = self._pilot_of(host)
        if pilot.is_over or pilot.job is None:
            return pilot.fate
        pilot.is_over = True
        if pilot.tasks > 1:
            self._queue.cancel(pilot.job, END_S)
        began = time.monotonic()
        if began - self._budget_at > BUDGET_S:
            self._budget_at, self._budget_s = began, self._fate_s
        if self._budget_s <= 0:
            return None
        try:
            how = fate_of(pilot.job, self._budget_s).how_lost
        except FlowstoreError:
            how = None
        self._budget_s -= time.monotonic() - began
        pilot.fate = None if how is None else f"whose job {pilot.job} {how}"
        return pilot.fate

    def _pilot_of(self, host: str) -> tuple[_Pilot, int]:
        number, _, rank = host.partition(".")
        return self._pilots[int(number)], int(rank)

    def open(self, host: str) -> socket.socket:
        """Return the stream to a host, over which its pilot has connected."""
        pilot, rank = self._pilot_of(host)
        return pilot.streams[rank]

    def check(self) -> None:
        """Raise nothing: what goes wrong is raised by `notices`."""

    def close(self) -> None:
        """End all jobs."""
        self._listener.close()
        self._queue.close(CLOSE_S)
        self.waker.close()
        self._woken.close()
        self._wake.close()

    # --- what happens

    def notices(self) -> list[Granted | Over]:
        """Return what has happened since the last call.

        Raises:
            FlowstoreError: no job can become a host, and why.
        """
        for key, _ in self.waker.select(0):
            with contextlib.suppress(BlockingIOError):
                key.data()
        self._listener.drop_slow()
        while self._again and self._again[0][0] < time.monotonic():
            _, refused = self._again.popleft()
            if not refused.is_over:
                self._queue.submit(self._job(refused))
        while self._queue.outcomes:
            self._take(self._queue.outcomes.popleft())
        self._place()
        notices, self._notices = self._notices, []
        return notices

    def _secret_of(self, number: int, rank: int) -> bytes | None:
        pilot = self._pilots.get(number)
        if pilot is None or pilot.is_over or rank >= pilot.tasks or rank in pilot.streams:
            return None
        return pilot.secret

    def _welcome(self, arrived: signed.Arrived) -> None:
        """Take a host of a pilot, which has the room that was asked for."""
        pilot, rank = self._pilots[arrived.number], arrived.rank
        pilot.streams[rank], pilot.addresses[rank] = arrived.stream, arrived.address
        self._failures = 0
        if len(pilot.streams) == pilot.tasks:
            self._queue.note_connected(pilot.number)
        for lease in pilot.leases if pilot.tasks == 1 else pilot.leases[rank : rank + 1]:
            self._grant(pilot, rank, lease)

    def _take(self, outcome: Outcome) -> None:
        if isinstance(outcome, FlowstoreError):
            raise outcome
        pilot = self._pilots[outcome.number]
        if isinstance(outcome, Submitted):
            pilot.job = outcome.job
            if pilot.is_over:
                self._queue.cancel(pilot.job)
        elif pilot.is_over or len(pilot.streams) == pilot.tasks:
            return
        elif isinstance(outcome, Refused):  # a limit on the number of jobs, perhaps
            self._tell(outcome.error, fatal=not self._has_hosts)
            self._again.append((time.monotonic() + AGAIN_S, pilot))
        elif outcome.fate is not None:
            self._take_end(pilot, outcome.fate)
        elif outcome.state == "PENDING":
            self._take_reason(pilot, outcome.reason)
        elif outcome.state in ("RUNNING", "CONFIGURING"):
            self._take_running(pilot, outcome.state)

    @property
    def _has_hosts(self) -> bool:
        """Whether the run can go on where it is."""
        return any(one.streams and not one.is_over for one in self._pilots.values())

    def _tell(self, text: str, kind: str = "", *, fatal: bool = False) -> None:
        """Tell the user something, once, or end the run with it."""
        if fatal:
            raise FlowstoreError(text)
        if (kind or text) not in self._shown:
            self._shown.add(kind or text)
            print(text, file=sys.stderr)

    def _take_reason(self, pilot: _Pilot, reason: str) -> None:
        """Say why a job waits; end the run where it will for ever, and nothing else runs."""
        if NEVER.fullmatch(reason):
            self._tell(f"Slurm will not start job {pilot.job}: {reason}.", reason, fatal=not self._has_hosts)
            return
        kind = re.split(r"[^A-Za-z]", reason)[0]
        if kind not in USUAL or time.monotonic() - pilot.since > PATIENCE_S:
            self._tell(f"Job {pilot.job} waits in Slurm's queue: {reason}.", kind)

    def _take_running(self, pilot: _Pilot, state: str) -> None:
        now = time.monotonic()
        pilot.running_since = now if state != "RUNNING" else pilot.running_since or now
        if now - pilot.running_since > CONNECT_S:
            self._failures += 1
            self._tell(
                f"Slurm's job {pilot.job} has been running for {CONNECT_S:.0f} s, but has not connected to "
                f"{self._where}. {LISTEN_HINT}",
                fatal=not self._has_hosts or self._failures >= MOST_FAILURES,
            )
            for lease in [*pilot.leases]:  # which ends the job
                self.give_back(lease)

    @property
    def _where(self) -> str:
        return f"{self._address}:{self._listener.port}"

    def _take_end(self, pilot: _Pilot, fate: Fate) -> None:
        """Try again where a job has ended without becoming a host, or end the run with the reason."""
        self._failures += 1
        text = fate.no_host(pilot.job, self._python, self._where)
        is_last = self._failures >= MOST_FAILURES
        if is_last or (text is not None and not self._has_hosts):
            raise FlowstoreError(
                text
                or f"{counted(self._failures, 'job')} in a row ended before a task could begin. The last one, job "
                f"{pilot.job} on {fate.node or 'no node'}, is {fate.state or 'gone'}, with exit code {fate.code}."
            )
        pilot.is_over = True
        for lease in [*pilot.leases]:
            self.give_back(lease)
