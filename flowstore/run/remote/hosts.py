"""Engines, which find hosts, and the hosts as a driver sees them.

An engine, such as a Dask cluster, decides where attempts run: it grants leases, of which each is the right to run one
attempt at a time on one host. Where a new engine comes from: a class that fulfils `Engine`, and a `RemoteExecutor` that
starts it.
"""

from __future__ import annotations

import abc
import contextlib
import math
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from flowstore import later
from flowstore.errors import FlowstoreError
from flowstore.run.executor import Died, Ended, Event, Printed, Refreshed, Reported, Setup, Started
from flowstore.run.orders import Order, decode_report
from flowstore.run.policies import policies_of
from flowstore.run.remote.host import READ_BYTES
from flowstore.run.remote.messages import Message, Reader, encode
from flowstore.store.cards import RenderedCard

Amounts = tuple[tuple[str, float], ...]  # resources, sorted by name
LEASE_S = 30.0
PROGRESS_BYTES = 64 << 10  # of a message, within a lease: less is what no network is so slow to carry
CACHE_GIB = 4.0


@later.frozen
class Granted:
    """A host may run another attempt at a time.

    Attributes:
        lease: the number of the lease.
        host: what the engine calls the host.
        address: where other machines reach that one.
    """

    lease: int
    host: str
    address: str


@later.frozen
class Over:
    """A lease is over, since it was given back, or its host has ended, or `error` kept it from being granted."""

    lease: int
    error: str | None = None


class Wakeable(Protocol):
    """Something that a selector can wait for."""

    def fileno(self) -> int:
        """Return its descriptor."""


class Engine(abc.ABC):
    """Finds hosts. All methods are called from one thread.

    Attributes:
        waker: readable when there are notices.
        folder: where hosts run the flow, if they share this machine's files; default: each in a folder of its own.
        idle_s: how long a lease may be of no use before it is given back; default: until the run ends.
        gangs_apart: whether each gang has leases of its own, so that a gang that waits keeps no others waiting.
    """

    waker: Wakeable
    folder: str | None = None
    idle_s: float = math.inf
    gangs_apart: bool = False

    @abc.abstractmethod
    def request(self, leases: Sequence[int], amounts: Mapping[str, float]) -> None:
        """Ask for leases; `Granted` follows for each when there is room, perhaps several times, or `Over`."""

    def request_gang(self, leases: Sequence[int], amounts: Mapping[str, float]) -> None:
        """Ask for the leases of a gang, where gangs are apart."""
        self.request(leases, amounts)

    @abc.abstractmethod
    def give_back(self, lease: int) -> None:
        """Give a lease back, whether or not it was granted; `Over` may follow."""

    @abc.abstractmethod
    def shun(self, host: str) -> None:
        """Ask for no more leases where a host is that has not been heard of, though the engine may not notice."""

    @abc.abstractmethod
    def notices(self) -> list[Granted | Over]:
        """Return what has happened since the last call."""

    @abc.abstractmethod
    def open(self, host: str) -> socket.socket:
        """Return the stream to a host that was granted, to be opened once."""

    def why_lost(self, host: str) -> str | None:  # noqa: ARG002  # optional
        """Return how a host was lost whose stream has ended, such as `whose job was cancelled`, where that is known."""
        return None

    @abc.abstractmethod
    def room(self, amounts: Mapping[str, float]) -> int:
        """Return how many attempts with such resources could run at a time if nothing else ran.

        Raises:
            FlowstoreError: nobody offers these resources.
        """

    @abc.abstractmethod
    def check(self) -> None:
        """Raise FlowstoreError where the engine is gone, or can't be reached."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give everything back, and end what was started."""


@attrs.define(eq=False, repr=False)
class Attempt:
    """An order that has not ended.

    Attributes:
        number: the attempt's.
        order: what to run.
        pool: its resources' index.
        host: where it was sent.
        sent_at: when.
        begun, reported: whether it has begun, and whether it is over, but for its process.
        moving: whether it was asked back, to be sent to another host.
    """

    number: int
    order: Order
    pool: int
    host: Host | None = None
    sent_at: float = 0.0
    begun: bool = False
    reported: bool = False
    moving: bool = False


class Host:
    """A host, seen from the driver."""

    def __init__(self, key: str, address: str, connection: socket.socket) -> None:
        self.key = self.name = key
        self.address = address
        self.ready = False
        self.connection = connection
        self.heard_at = self.began_at = self.sent_at = time.monotonic()
        self.leases: dict[int, int] = {}  # lease: pool
        self.attempts: dict[int, Attempt] = {}  # by number, those that were sent there
        self._spare: dict[int, tuple[float, int]] = {}  # by pool: since when that many leases at least were of no use
        self._out: deque[memoryview] = deque()
        self._reader = Reader()
        self._progress_bytes = 0
        connection.setblocking(False)

    def slots(self, pool: int) -> int:
        """Return how many attempts of a pool may run there at a time."""
        return sum(other == pool for other in self.leases.values())

    def has(self, pool: int) -> int:
        """Return how many attempts of a pool it has."""
        return sum(attempt.pool == pool for attempt in self.attempts.values())

    def long_spare(self, idle_s: Callable[[int], float]) -> list[int]:
        """Return the leases that have been of no use for so long, as far as calls every few seconds can see.

        Args:
            idle_s: returns how long, of a pool.
        """
        now = time.monotonic()
        long_spare: list[int] = []
        for pool in set(self.leases.values()):
            spare = self.slots(pool) - self.has(pool)
            since, least = self._spare.get(pool, (now, spare))
            if spare > 0:
                self._spare[pool] = since, min(least, spare)
            else:
                self._spare.pop(pool, None)
            if spare > 0 and now - since > idle_s(pool):
                del self._spare[pool]
                long_spare += [lease for lease, other in self.leases.items() if other == pool][-min(least, spare) :]
        return long_spare

    def send(self, kind: str, *values: Any) -> None:
        """Send a message with the next `flush`: those that belong together arrive together."""
        self._out.append(memoryview(encode(kind, *values)))
        self.sent_at = time.monotonic()

    def flush(self) -> None:
        """Send what waits, as far as the host takes it; a stream that has ended is noticed by reading."""
        try:
            while self._out:
                if len(self._out) > 1 and sum(map(len, self._out)) < READ_BYTES:
                    self._out = deque([memoryview(b"".join(self._out))])
                sent = self.connection.send(self._out[0])
                self._out[0] = self._out[0][sent:]
                if not self._out[0]:
                    self._out.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._out.clear()

    @property
    def waits(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._out)

    def receive(self) -> Iterable[Message] | None:
        """Return the messages that have arrived; `None` at the end. Iterating raises ValueError at what is none."""
        try:
            data = self.connection.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        return self._heard(data)

    def _heard(self, data: bytes) -> Iterable[Message]:
        """Yield messages; one that never ends, and hardly gets on, counts as silence."""
        self._progress_bytes += len(data)
        if self._progress_bytes > PROGRESS_BYTES:
            self.heard_at, self._progress_bytes = time.monotonic(), 0
        for message in self._reader.feed(data):
            self.heard_at, self._progress_bytes = time.monotonic(), 0
            yield message


def check_number(name: str, value: str) -> None:
    """Raise FlowstoreError unless an option's value is a number greater than 0."""
    with contextlib.suppress(ValueError):
        if float("inf") > float(value) > 0:
            return
    raise FlowstoreError(f"--executor-option {name}={value}: this must be a number greater than 0.")


def by_gang(attempts: Iterable[Attempt]) -> list[list[Attempt]]:
    """Return attempts, which were launched together, by their gangs."""
    gangs: dict[int, list[Attempt]] = {}
    for attempt in attempts:
        gangs.setdefault(attempt.order.first_node_id, []).append(attempt)
    return list(gangs.values())


def seat_gang(members: Sequence[Attempt], hosts: Iterable[Host]) -> list[tuple[Attempt, Host]] | None:
    """Return where each member of a gang is to run; `None` as long as there is no room for all of them.

    Args:
        members: attempts of one pool, some of which may have gone meanwhile.
        hosts: all of them.
    """
    pool = members[0].pool if members else 0
    by_key = sorted((host for host in hosts if host.ready), key=lambda host: host.key)
    free = [host for host in by_key for _ in range(host.slots(pool) - host.has(pool))]
    if len(free) < len(members):
        return None
    for attempt in members:
        if len(members) > 1 or attempt.order.node_index == 0:
            attempt.order = attrs.evolve(attempt.order, main_ip=free[0].address)
    return [*zip(sorted(members, key=lambda attempt: attempt.order.node_index or 0), free, strict=False)]


def event_of(host: Host, kind: str, values: Sequence[Any]) -> Event:
    """Return the event that a host tells of.

    Raises:
        ValueError, TypeError, IndexError, KeyError, AttributeError: the values are not what they stand for.
    """
    if kind == "started":
        return Started(values[0], values[1], host.name)
    if kind == "printed":
        return Printed(*values)
    if kind == "card":
        return Refreshed(values[0], RenderedCard.unpacked(values[1]))
    if kind == "reported":
        return Reported(values[0], decode_report(values[1]))
    return Ended(*values) if kind == "ended" else Died(*values)


def lacking_leases(attempts: Iterable[Attempt], leases: Iterable[tuple[int, str | None]], most: int) -> dict[int, int]:
    """Return how many leases more each pool has work for than it has; negative where there are too many.

    Args:
        attempts: all that have not ended.
        leases: the pool of each, and its host.
        most: how many attempts may run at a time, the members of gangs aside.
    """
    have = Counter(pool for pool, _ in leases)
    wanted = Counter(attempt.pool for attempt in attempts if attempt.order.num_nodes)
    plain = Counter(attempt.pool for attempt in attempts if not attempt.order.num_nodes)
    return {pool: min(most, plain[pool]) + wanted[pool] - have[pool] for pool in sorted({*have, *wanted, *plain})}


def freest(hosts: Iterable[Host], pool: int, ahead: int) -> Host | None:
    """Return the host with the most room for an attempt of a pool, if there is one.

    Args:
        hosts: all of them.
        pool: the attempt's.
        ahead: how many orders a host takes beyond those that it runs.
    """
    best, most = None, 0
    for host in hosts:
        slots = host.slots(pool) if host.ready else 0
        room = slots - host.has(pool)
        if slots and room + ahead > 0 and (best is None or room > most):
            best, most = host, room
    return best


def amounts_by_step(setup: Setup) -> dict[str, Amounts]:
    """Return the resources that each step asks for.

    Raises:
        FlowstoreError: one is no number.
    """
    policies = policies_of(setup.flow, setup.graph, setup.with_, lambda _text: None)
    amounts: dict[str, Amounts] = {}
    for step, policy in policies.items():
        wanted = policy.metadata.get("resources", {})
        try:
            numbers = {name: float(value) for name, value in wanted.items() if name in ("cpu", "memory", "gpu")}
        except (TypeError, ValueError):
            raise FlowstoreError(f"Step {step}: @resources has an amount that is no number: {wanted}.") from None
        amounts[step] = tuple(sorted((name, value) for name, value in numbers.items() if value > 0))
    return amounts
