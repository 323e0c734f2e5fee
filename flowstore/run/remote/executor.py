"""The executor over many hosts: it places attempts, follows their hosts, and answers what tasks ask.

An engine, such as a Dask cluster, decides where: it grants leases, of which each is the right to run one attempt at a
time on one host. Attempts themselves are no work of the engine, since engines repeat work: an order is sent to one
host, once, over a connection that is never opened again, and only what comes from there counts. So each attempt has one
result, whatever becomes of its lease. A host that is lost takes its attempts with it.
"""

from __future__ import annotations

import abc
import contextlib
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowstore.errors import FlowstoreError
from flowstore.run import snapshot
from flowstore.run.executor import Died, Ended, Event, Executor, Printed, Reported, Returned, Services, Setup, Started
from flowstore.run.local.interpreter import check_importable
from flowstore.run.orders import Order, decode_report, encode_order
from flowstore.run.policies import policies_of
from flowstore.run.remote.host import READ_BYTES, identity
from flowstore.run.remote.inputs import pack_blobs
from flowstore.run.remote.messages import Message, Reader, encode
from flowstore.store.description import NewBlob
from flowstore.text import counted

LEASE_S = 30.0
CACHE_GIB = 4.0
START_S = 300.0  # for a host to import the flow
CLOSE_S = 10.0  # for hosts to end their tasks
PATIENCE_S = 60.0  # while no host is there at all
MOVE_S = 0.05  # an order that has waited so long at one host goes to another that is free
AHEAD = 2  # orders that wait at a host that is busy, so that it need not wait for the next

Amounts = tuple[tuple[str, float], ...]  # resources, sorted by name


@attrs.frozen(eq=False, repr=False)
class Granted:
    """A host may run another attempt at a time.

    Attributes:
        lease: the number of the lease.
        host: what the engine calls the host.
    """

    lease: int
    host: str


@attrs.frozen(eq=False, repr=False)
class Over:
    """A lease is over, since it was given back, or its host has ended, or `error` kept it from being granted."""

    lease: int
    error: str | None = None


class Engine(abc.ABC):
    """Finds hosts. All methods are called from one thread.

    Attributes:
        waker: readable when there are notices.
        folder: where hosts run the flow, if they share this machine's files; default: each in a folder of its own.
    """

    waker: socket.socket
    folder: str | None = None

    @abc.abstractmethod
    def request(self, lease: int, amounts: Mapping[str, float]) -> None:
        """Ask for a lease; `Granted` follows when there is room, perhaps several times, or `Over`."""

    @abc.abstractmethod
    def give_back(self, lease: int) -> None:
        """Give a lease back, whether or not it was granted; `Over` may follow."""

    @abc.abstractmethod
    def notices(self) -> list[Granted | Over]:
        """Return what has happened since the last call."""

    @abc.abstractmethod
    def open(self, host: str) -> socket.socket:
        """Return the stream to a host that was granted, to be opened once."""

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
class _Attempt:
    """An order that has not ended.

    Attributes:
        number: the attempt's.
        order: what to run.
        pool: its resources' index.
        host: where it was sent.
        sent_at: when.
        begun: whether it has begun.
        moving: whether it was asked back, to be sent to another host.
    """

    number: int
    order: Order
    pool: int
    host: _Host | None = None
    sent_at: float = 0.0
    begun: bool = False
    moving: bool = False


class _Host:
    """A host, seen from the driver."""

    def __init__(self, key: str, connection: socket.socket) -> None:
        self.key = key
        self.name = key
        self.ready = False
        self.connection = connection
        self.heard_at = self.began_at = self.sent_at = time.monotonic()
        self.leases: dict[int, int] = {}  # lease: pool
        self.attempts: dict[int, _Attempt] = {}  # by number, those that were sent there
        self.address = "127.0.0.1"
        self._out: deque[memoryview] = deque()
        self._reader = Reader()
        connection.setblocking(False)

    def slots(self, pool: int) -> int:
        """Return how many attempts of a pool may run there at a time."""
        return sum(other == pool for other in self.leases.values())

    def has(self, pool: int) -> int:
        """Return how many attempts of a pool it has."""
        return sum(attempt.pool == pool for attempt in self.attempts.values())

    def send(self, kind: str, *values: Any) -> None:
        """Send a message, now or as soon as the host takes more."""
        self._out.append(memoryview(encode(kind, *values)))
        self.sent_at = time.monotonic()
        self.flush()

    def flush(self) -> None:
        """Send what waits; a stream that has ended is noticed by reading."""
        try:
            while self._out:
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

    def receive(self) -> list[Message] | None:
        """Return the messages that have arrived; `None` at the end.

        Raises:
            ValueError: it sent something else.
        """
        try:
            data = self.connection.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.heard_at = time.monotonic()
        return list(self._reader.feed(data))


class RemoteExecutor(Executor):
    """Runs attempts on hosts that an engine finds.

    Args:
        setup: of the executor.
        engine: finds hosts.
    """

    ahead = 4

    @classmethod
    def check(cls, address: str, options: Mapping[str, str]) -> None:  # noqa: ARG003  # engines check addresses
        """Check the options that all executors of this kind have: the lease in seconds, and the cache in GiB."""
        for name, value in options.items():
            if name not in ("lease", "cache"):
                raise FlowstoreError(f"The executor {cls.name!r} has no option {name!r}. There are: lease, cache.")
            with contextlib.suppress(ValueError):
                if float("inf") > float(value) > 0:
                    continue
            raise FlowstoreError(f"--executor-option {name}={value}: this must be a number greater than 0.")

    def __init__(self, setup: Setup) -> None:
        if setup.reuse:
            raise FlowstoreError(f"--reuse-workers does not go together with --executor {self.name}.")
        sources = snapshot.take(setup.flow) if setup.sources is None else setup.sources
        check_importable(setup.flow, sources)
        self._lease_s = float(setup.options.get("lease", LEASE_S))
        self._cache_bytes = int(float(setup.options.get("cache", CACHE_GIB)) * (1 << 30))
        self._setup = setup
        self._sources = sources
        self._amounts = amounts_by_step(setup)
        self._pools: list[Amounts] = list(dict.fromkeys(self._amounts.values()))
        self._warned: set[str] = set()
        self._services: Services | None = None
        self._selector = selectors.DefaultSelector()
        self._events: list[Event] = []
        self._attempts: dict[int, _Attempt] = {}  # by number
        self._waiting: deque[_Attempt] = deque()  # not sent
        self._launched: list[_Attempt] = []  # since the last `wait`: members of a gang come together
        self._gangs: deque[list[_Attempt]] = deque()
        self._hosts: dict[str, _Host] = {}
        self._lost: set[str] = set()  # hosts that were there
        self._leases: dict[int, tuple[int, str | None]] = {}  # by number: pool, host
        self._numbers = self._lease_numbers = 0
        self._alone_since: float | None = None  # since when there is no host
        self._engine = self._start_engine(setup)
        try:
            for step, pool in self._amounts.items():
                self._room(step, pool)
        except BaseException:
            self._engine.close()
            raise

    @abc.abstractmethod
    def _start_engine(self, setup: Setup) -> Engine:
        """Return the engine, started; raise FlowstoreError where it can't be."""

    def _room(self, step: str, amounts: Amounts) -> int:
        try:
            return self._engine.room(dict(amounts))
        except FlowstoreError as error:
            raise FlowstoreError(f"Step {step}: {error}") from None

    def connect(self, services: Services) -> None:
        """Take what the driver offers."""
        self._services = services
        self._selector.register(services.waker, selectors.EVENT_READ, None)
        self._selector.register(self._engine.waker, selectors.EVENT_READ, None)

    def launch(self, order: Order) -> int:
        """Take an order, to be sent to a host as soon as there is room."""
        self._numbers += 1
        without_store = attrs.evolve(order, run=attrs.evolve(order.run, store=""))
        attempt = _Attempt(self._numbers, without_store, self._pools.index(self._amounts[order.step]))
        self._attempts[attempt.number] = attempt
        if order.num_nodes:
            self._launched.append(attempt)
        else:
            self._waiting.append(attempt)
        return attempt.number

    def kill(self, number: int, how: signal.Signals) -> None:
        """Send a signal to an attempt's processes; one that was not sent is returned."""
        self._end(number, how)

    def withdraw(self, number: int) -> None:
        """Take an order back, unless it has begun."""
        self._end(number, None)

    def _end(self, number: int, how: signal.Signals | None) -> None:
        attempt = self._attempts.get(number)
        if attempt is None:
            return
        if attempt.host is None:
            self._forget(attempt)
            self._events.append(Returned(number))
        elif how is not None:
            attempt.moving = False
            attempt.host.send("kill", number, int(how))
        elif not attempt.begun:
            attempt.moving = False
            attempt.host.send("withdraw", number)

    def _forget(self, attempt: _Attempt) -> None:
        self._attempts.pop(attempt.number, None)
        for waiting in (self._waiting, self._launched, *self._gangs):
            if attempt in waiting:
                waiting.remove(attempt)
        if attempt.host is not None:
            attempt.host.attempts.pop(attempt.number, None)

    # --- the loop

    def wait(self, timeout_s: float | None) -> list[Event]:
        """Return what has happened; hosts are looked after as often as their leases need it."""
        self._place()
        beat_s = min(2.0, self._lease_s / 6)
        wait_s = 0.0 if self._events else beat_s if timeout_s is None else min(beat_s, timeout_s)
        for key, _ in self._selector.select(wait_s):
            if isinstance(key.data, _Host):
                self._listen(key.data)
        for notice in self._engine.notices():
            self._take_notice(notice)
        now = time.monotonic()
        for host in list(self._hosts.values()):
            self._look_after(host, now, beat_s)
        self._check_alone(now)
        self._place()
        events, self._events = self._events, []
        return events

    def _listen(self, host: _Host) -> None:
        host.flush()
        self._watch(host)
        try:
            messages = host.receive()
            if messages is None:
                self._lose(host, "whose connection ended")
                return
            for message in messages:
                self._take(host, message)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            self._lose(host, f"which sent something that is not a message ({error})")

    def _watch(self, host: _Host) -> None:
        """Wait for the host to take more where something is to be sent."""
        if host.key in self._hosts:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if host.waits else 0)
            self._selector.modify(host.connection, wanted, host)

    def _look_after(self, host: _Host, now: float, beat_s: float) -> None:
        silent_s = now - host.heard_at
        if silent_s > (self._lease_s if host.ready else START_S):
            self._lose(host, f"from which nothing was heard for {silent_s:.0f} s")
            return
        if host.ready and now - host.sent_at > beat_s:
            host.send("beat")
        self._watch(host)

    def _check_alone(self, now: float) -> None:
        """Raise where orders wait and there has been no host for a while."""
        if self._hosts or not self._attempts:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > PATIENCE_S:
            raise FlowstoreError(f"For {PATIENCE_S:g} s no host has been there that could run tasks.")
        if self._alone_since is not None:
            self._engine.check()

    # --- leases and hosts

    def _take_notice(self, notice: Granted | Over) -> None:
        known = self._leases.get(notice.lease)
        if isinstance(notice, Over):
            if known is None:
                return
            del self._leases[notice.lease]
            host = self._hosts.get(known[1] or "")
            if host is not None:
                host.leases.pop(notice.lease, None)
                host.send("slots", known[0], host.slots(known[0]))
            if notice.error is not None:
                raise FlowstoreError(notice.error)
        elif known is None or notice.host in self._lost:
            self._engine.give_back(notice.lease)
        else:
            self._grant(notice, known)

    def _grant(self, notice: Granted, known: tuple[int, str | None]) -> None:
        """Count a lease as one of a host's; one that the engine has granted again belongs to the new host alone."""
        pool, before = known
        if before is not None and before in self._hosts:
            self._hosts[before].leases.pop(notice.lease, None)
        if notice.host not in self._hosts:
            host = _Host(notice.host, self._engine.open(notice.host))
            self._hosts[notice.host] = host
            self._selector.register(host.connection, selectors.EVENT_READ, host)
        host = self._hosts[notice.host]
        self._leases[notice.lease] = pool, notice.host
        host.leases[notice.lease] = pool
        if host.ready:
            host.send("slots", pool, host.slots(pool))

    def _set_up(self, host: _Host, hello: Mapping[str, Any]) -> None:
        """Check who a host is, and send it the flow."""
        host.name, host.address = str(hello["name"]), str(hello.get("address", "127.0.0.1"))
        refusal, warning = compare(hello, host.name)
        if refusal is not None:
            raise FlowstoreError(refusal)
        if warning is not None and warning not in self._warned:
            self._warned.add(warning)
            print(warning, file=sys.stderr)
        flow, sources = self._setup.flow, self._sources
        program = {
            "flow": [flow.__module__, flow.__qualname__],
            "argv": sys.argv,
            "sources": snapshot.described(sources),
            "sizes": {path: len(data) for path, data in sources.files.items()},
            "folder": self._engine.folder,
            "lease_s": self._lease_s,
            "cache_bytes": self._cache_bytes,
            "method": self._setup.method,
        }
        host.send("setup", program)
        host.send("files", b"".join(sources.files.values()))

    def _lose(self, host: _Host, how: str) -> None:
        """Forget a host; its attempts have died with it."""
        self._lost.add(host.key)
        self._drop(host)
        for attempt in list(host.attempts.values()):
            self._forget(attempt)
            self._events.append(Died(attempt.number, None, None, lost=f"{host.name}, {how}"))
        for lease in list(host.leases):  # the engine may grant them again, elsewhere
            self._leases[lease] = host.leases[lease], None

    # --- what hosts say

    def _take(self, host: _Host, message: Message) -> None:
        kind, *values = message
        if kind == "hello":
            self._set_up(host, values[0])
        elif kind == "ready":
            host.ready = True
            for pool in set(host.leases.values()):
                host.send("slots", pool, host.slots(pool))
        elif kind == "failed":
            where = f"on {host.name}"
            raise FlowstoreError(
                f"The task server {where} died: {values[0]}"
                if host.ready
                else f"The flow could not be imported {where}: {values[0]}"
            )
        elif kind == "ask":
            self._answer(host, *values)
        elif kind != "beat":
            attempt = host.attempts.get(values[0])
            if attempt is not None:
                self._take_event(host, attempt, kind, values)

    def _take_event(self, host: _Host, attempt: _Attempt, kind: str, values: Sequence[Any]) -> None:
        assert self._services is not None
        number, results = attempt.number, self._services.results
        if kind == "started":
            attempt.begun = True
            self._events.append(Started(number, values[1], host.name))
        elif kind == "printed":
            self._events.append(Printed(number, values[1], values[2]))
        elif kind == "offer":
            host.send("send", number, results.missing(number, [*map(NewBlob.unpacked, values[1])]))
        elif kind == "data":
            results.take(number, values[1])
        elif kind == "reported":
            self._events.append(Reported(number, decode_report(values[1])))
        elif kind == "returned":
            self._take_back(attempt)
        else:
            self._forget(attempt)
            self._events.append(Ended(*values) if kind == "ended" else Died(*values))

    def _take_back(self, attempt: _Attempt) -> None:
        """Send an order elsewhere that a host has returned, or return it to the driver."""
        is_moving = attempt.moving
        self._forget(attempt)
        if is_moving:
            attempt.host, attempt.moving = None, False
            self._attempts[attempt.number] = attempt
            self._waiting.appendleft(attempt)
        else:
            self._events.append(Returned(attempt.number))

    def _answer(self, host: _Host, ask: int, what: str, arguments: Sequence[Any]) -> None:
        """Answer a question of a task's, from the store."""
        assert self._services is not None
        source = self._services.source
        try:
            if what == "chunk":
                blob_id, name, n = arguments
                answer: Any = source.chunk(source.find(blob_id), name, n)
            elif what == "artifacts":
                tasks = source.artifacts(*arguments)
                answer = [[task_id, pack_blobs(source.loadable(known))] for task_id, known in tasks.items()]
            else:
                answer = pack_blobs(source.loadable(source.parameters()))
        except FlowstoreError as error:
            host.send("refusal", ask, type(error).__name__, str(error))
            return
        host.send("answer", ask, answer)

    # --- placing

    def _place(self) -> None:
        """Send orders to hosts that have room, and ask for more room where it is needed."""
        self._gather_gangs()
        while self._gangs and self._place_gang(self._gangs[0]):
            self._gangs.popleft()
        if not self._gangs:  # a gang that waits gets whatever becomes free
            for attempt in list(self._waiting):
                host = self._free_host(attempt)
                if host is not None:
                    self._waiting.remove(attempt)
                    self._send(attempt, host)
            self._move()
        self._request()

    def _gather_gangs(self) -> None:
        """Group the members of gangs, which start together, and refuse what can never start."""
        gangs: dict[int, list[_Attempt]] = {}
        for attempt in self._launched:
            gangs.setdefault(attempt.order.first_node_id, []).append(attempt)
        self._launched = []
        for members in gangs.values():
            step = members[0].order.step
            room = self._room(step, self._amounts[step])
            if room < len(members):
                raise FlowstoreError(
                    f"Step {step} needs {counted(len(members), 'task')} at the same time, but there is room for {room}."
                )
            self._gangs.append(members)

    def _place_gang(self, members: list[_Attempt]) -> bool:
        """Send all members of a gang to hosts, or none."""
        if not members:
            return True
        pool = members[0].pool
        free = [host for host in self._hosts.values() if host.ready for _ in range(host.slots(pool) - host.has(pool))]
        if len(free) < len(members):
            return False
        members.sort(key=lambda attempt: attempt.order.node_index or 0)
        first = free[0].address
        for attempt, host in zip(members, free, strict=False):
            if len(members) > 1 or attempt.order.node_index == 0:
                attempt.order = attrs.evolve(attempt.order, main_ip=first)
            self._send(attempt, host)
        return True

    def _free_host(self, attempt: _Attempt) -> _Host | None:
        """Return the host with the most room for an attempt, if there is one; a busy one takes a few orders more."""
        pool, best, most = attempt.pool, None, 0
        for host in self._hosts.values():
            slots = host.slots(pool) if host.ready else 0
            room = slots - host.has(pool)
            if slots and room + (AHEAD if not self._pools[pool] else 0) > 0 and (best is None or room > most):
                best, most = host, room
        return best

    def _move(self) -> None:
        """Ask an order back that waits at a busy host while another is free."""
        now = time.monotonic()
        free = [host for host in self._hosts.values() if host.ready and not host.attempts and host.leases]
        for host in self._hosts.values() if free and not self._waiting else ():
            for attempt in host.attempts.values():
                if not attempt.begun and not attempt.moving and now - attempt.sent_at > MOVE_S and free:
                    attempt.moving = True
                    host.send("withdraw", attempt.number)
                    free.pop()

    def _send(self, attempt: _Attempt, host: _Host) -> None:
        attempt.host, attempt.sent_at = host, time.monotonic()
        host.attempts[attempt.number] = attempt
        host.send("order", attempt.pool, attempt.number, encode_order(attempt.order))

    def _request(self) -> None:
        """Ask for as many leases as there is work for."""
        gangs = {id(attempt) for gang in self._gangs for attempt in gang}
        most = self._setup.max_workers or self.capacity or 1
        for pool in range(len(self._pools)):
            attempts = [attempt for attempt in self._attempts.values() if attempt.pool == pool]
            gang = sum(attempt.order.num_nodes > 0 or id(attempt) in gangs for attempt in attempts)
            wanted = min(most, len(attempts) - gang) + gang
            have = sum(other == pool for other, _ in self._leases.values())
            for _ in range(wanted - have):
                self._lease_numbers += 1
                self._leases[self._lease_numbers] = pool, None
                self._engine.request(self._lease_numbers, dict(self._pools[pool]))

    # --- the end

    def close(self) -> None:
        """End every attempt, and every host."""
        for host in list(self._hosts.values()):
            if host.ready:
                host.send("close")
            else:
                self._drop(host)
        deadline = time.monotonic() + CLOSE_S
        while self._hosts and time.monotonic() < deadline:
            for key, _ in self._selector.select(0.1):
                if isinstance(key.data, _Host):
                    self._drain(key.data)
        for host in self._hosts.values():
            host.connection.close()
        self._selector.close()
        self._engine.close()

    def _drain(self, host: _Host) -> None:
        """Take what a host still says before it ends; nothing of it counts any more."""
        host.flush()
        with contextlib.suppress(ValueError):
            if host.receive() is None:
                self._drop(host)

    def _drop(self, host: _Host) -> None:
        del self._hosts[host.key]
        self._selector.unregister(host.connection)
        host.connection.close()


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


def compare(host: Mapping[str, Any], where: str) -> tuple[str | None, str | None]:
    """Compare what a host says of itself with this process.

    Args:
        host: its identity.
        where: what to call it.

    Returns:
        Why it can't run this driver's tasks, and what may go wrong; `None` each where there is nothing to say.
    """
    own = identity()
    if host.get("flowstore") is None:
        return (
            f"flowstore is not installed on {where}. Install it there: pip install flowstore=={own['flowstore']}",
            None,
        )
    for name, label in (("python", "Python"), ("flowstore", "flowstore")):
        if host.get(name) != own[name]:
            return (
                f"{where} has {label} {host.get(name)}, and this process has {label} {own[name]}: "
                "tasks and driver must have the same. Install it on one of them."
            ), None
    differing = [
        f"{package} {theirs} instead of {own['packages'].get(package) or 'none'}"
        for package, theirs in sorted(dict(host.get("packages", {})).items())
        if theirs != own["packages"].get(package)
    ]
    return None, f"Warning: {where} has {', '.join(differing)}." if differing else None
