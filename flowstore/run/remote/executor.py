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
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowstore.errors import FlowstoreError
from flowstore.run import snapshot
from flowstore.run.executor import Died, Ended, Event, Executor, Reported, Returned, Services, Setup
from flowstore.run.local.interpreter import check_importable
from flowstore.run.orders import Order, encode_order
from flowstore.run.remote.host import Program
from flowstore.run.remote.hosts import (
    CACHE_GIB,
    LEASE_S,
    Amounts,
    Attempt,
    Engine,
    Granted,
    Host,
    Over,
    amounts_by_step,
    by_gang,
    check_number,
    event_of,
    freest,
    lacking_leases,
    seat_gang,
)
from flowstore.run.remote.identity import compare
from flowstore.run.remote.inputs import answered
from flowstore.run.remote.messages import Message
from flowstore.store.description import NewBlob
from flowstore.text import counted

START_S = 300.0  # for a host to import the flow
CLOSE_S = 10.0  # for hosts to end their tasks
PATIENCE_S = 60.0  # while orders wait, nothing runs, and no host is there that could run them
MOVE_S = 0.05  # an order that has waited so long at one host goes to another that is free
AHEAD = 2  # orders that wait at a host that is busy, so that it need not wait for the next


class RemoteExecutor(Executor):
    """Runs attempts on hosts that an engine finds.

    Args:
        setup: of the executor.
    """

    ahead = 4
    own_options: Sequence[str] = ()  # beside those that all have: the lease in seconds, and the cache in GiB

    @classmethod
    def check(cls, address: str, options: Mapping[str, str]) -> None:  # noqa: ARG003  # engines check addresses
        """Check the names of options, and the values of those that all executors of this kind have."""
        known = [*cls.own_options, "lease", "cache"]
        for name, value in options.items():
            if name not in known:
                there_are = ", ".join(known)
                raise FlowstoreError(f"The executor {cls.name!r} has no option {name!r}. There are: {there_are}.")
            if name not in cls.own_options:
                check_number(name, value)

    def __init__(self, setup: Setup) -> None:
        if setup.reuse:
            raise FlowstoreError(f"--reuse-workers does not go together with --executor {self.name}.")
        sources = snapshot.take(setup.flow) if setup.sources is None else setup.sources
        check_importable(setup.flow, sources)
        self._lease_s = float(setup.options.get("lease", LEASE_S))
        self._cache_bytes = int(float(setup.options.get("cache", CACHE_GIB)) * (1 << 30))
        self._setup, self._sources = setup, sources
        self._amounts = amounts_by_step(setup)
        self._pools: list[tuple[Amounts, int]] = [(amounts, 0) for amounts in dict.fromkeys(self._amounts.values())]
        self._warned: set[str] = set()
        self._services: Services
        self._selector = selectors.DefaultSelector()
        self._events: list[Event] = []
        self._attempts: dict[int, Attempt] = {}  # by number
        self._waiting: deque[Attempt] = deque()  # not sent
        self._launched: list[Attempt] = []  # since the last `wait`: members of a gang come together
        self._gangs: deque[list[Attempt]] = deque()
        self._hosts: dict[str, Host] = {}
        self._lost: set[str] = set()  # hosts that were there
        self._leases: dict[int, tuple[int, str | None]] = {}  # by number: pool, host
        self._needed_at: dict[int, float] = {}  # by pool: when it last had no more leases than work
        self._numbers = self._lease_numbers = 0
        self._starving_since: float | None = None  # since when orders wait, and nothing runs
        self._engine = self._start_engine(setup)
        try:
            for step in self._amounts:
                self._room(step)
        except BaseException:
            self._engine.close()
            raise

    @abc.abstractmethod
    def _start_engine(self, setup: Setup) -> Engine:
        """Return the engine, started; raise FlowstoreError where it can't be."""

    def _room(self, step: str) -> int:
        try:
            return self._engine.room(dict(self._amounts[step]))
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
        pool = self._amounts[order.step], order.first_node_id if self._engine.gangs_apart else 0
        if pool not in self._pools:
            self._pools.append(pool)
        attempt = Attempt(self._numbers, without_store, self._pools.index(pool))
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

    def _forget(self, attempt: Attempt) -> None:
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
        for host in self._hosts.values():
            self._flush(host)
        beat_s = min(2.0, self._lease_s / 6)
        wait_s = 0.0 if self._events else beat_s if timeout_s is None else min(beat_s, timeout_s)
        for key, _ in self._selector.select(wait_s):
            if isinstance(key.data, Host):
                self._listen(key.data)
        for notice in self._engine.notices():
            self._take_notice(notice)
        now = time.monotonic()
        for host in list(self._hosts.values()):
            self._look_after(host, now, beat_s)
        self._check_room(now)
        self._place()
        for host in self._hosts.values():
            self._flush(host)
        events, self._events = self._events, []
        return events

    def _listen(self, host: Host) -> None:
        try:
            messages = host.receive()
            if messages is None:
                self._lose(host, self._engine.why_lost(host.key) or "whose connection ended")
            for message in messages or ():
                if host.key in self._hosts:  # not lost meanwhile
                    self._take(host, message)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, FlowstoreError):
                raise
            self._lose(host, f"which sent something that is not a message ({error})")

    def _flush(self, host: Host) -> None:
        """Send what waits for a host, and have `wait` return when it takes the rest."""
        if host.key in self._hosts:
            host.flush()
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if host.waits else 0)
            self._selector.modify(host.connection, wanted, host)

    def _look_after(self, host: Host, now: float, beat_s: float) -> None:
        silent_s = now - host.heard_at
        if silent_s > (self._lease_s if host.ready else START_S):
            self._engine.shun(host.key)
            self._lose(host, f"from which nothing was heard for {silent_s:.0f} s")
            return
        if host.ready and now - host.sent_at > beat_s:
            host.send("beat")
            self._end_idle(host)

    def _check_room(self, now: float) -> None:
        """Raise where orders wait, nothing runs, and there has long been nobody who could run them."""
        waiting = [*self._gangs, [*self._waiting][:1]][0]
        if not waiting or any(attempt.host is not None for attempt in self._attempts.values()):
            self._starving_since = None
            return
        self._engine.check()
        self._starving_since = self._starving_since or now
        if now - self._starving_since > PATIENCE_S:
            self._starving_since = now - PATIENCE_S / 2
            self._check_fits(waiting)

    def _check_fits(self, members: Sequence[Attempt]) -> None:
        """Raise where attempts of a step could never run at the same time, whatever else ends."""
        room = self._room(step := members[0].order.step)
        if room < len(members):
            needed = counted(len(members), "task")
            raise FlowstoreError(f"Step {step} needs {needed} at the same time, but there is room for {room}.")

    # --- leases and hosts

    def _end_idle(self, host: Host) -> None:
        """Give leases back that have long been of no use."""
        wanted = {attempt.pool for attempt in self._attempts.values()}  # members of a gang may still be missing
        over = {pool for pool, (_, is_gang) in enumerate(self._pools) if is_gang and pool not in wanted}
        for lease in host.long_spare(lambda pool: 0.0 if pool in over else self._engine.idle_s):
            pool = host.leases.pop(lease)
            host.send("slots", pool, host.slots(pool))
            self._give_back(lease)

    def _give_back(self, lease: int) -> None:
        del self._leases[lease]
        self._engine.give_back(lease)

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
            self._grant(notice, *known)

    def _grant(self, notice: Granted, pool: int, before: str | None) -> None:
        """Count a lease as one of a host's; one that the engine has granted again belongs to the new host alone."""
        if before is not None and before in self._hosts:
            self._hosts[before].leases.pop(notice.lease, None)
        if notice.host not in self._hosts:
            host = Host(notice.host, notice.address, self._engine.open(notice.host))
            self._hosts[notice.host] = host
            self._selector.register(host.connection, selectors.EVENT_READ, host)
        host = self._hosts[notice.host]
        self._leases[notice.lease] = pool, notice.host
        host.leases[notice.lease] = pool
        if host.ready:
            host.send("slots", pool, host.slots(pool))

    def _set_up(self, host: Host, hello: Mapping[str, Any]) -> None:
        """Check who a host is, and send it the flow."""
        host.name = str(hello["name"])
        refusal, warning = compare(hello, host.name)
        if refusal is not None:
            raise FlowstoreError(refusal)
        if warning is not None and warning not in self._warned:
            self._warned.add(warning)
            print(warning, file=sys.stderr)
        program = Program.of(self._setup, self._sources, self._engine.folder, self._lease_s * 2 / 3, self._cache_bytes)
        host.send("setup", attrs.asdict(program, recurse=False))
        host.send("files", b"".join(self._sources.files.values()))

    def _lose(self, host: Host, how: str) -> None:
        """Forget a host; its attempts have died with it, unless their results are here already."""
        self._lost.add(host.key)
        self._drop(host)
        for attempt in list(host.attempts.values()):
            self._forget(attempt)
            lost = Died(attempt.number, None, None, lost=f"{host.name}, {how}")
            self._events.append(Ended(attempt.number) if attempt.reported else lost)
        for lease in list(host.leases):
            self._give_back(lease)

    # --- what hosts say

    def _take(self, host: Host, message: Message) -> None:
        kind, *values = message
        if kind == "hello":
            self._set_up(host, values[0])
        elif kind == "ready":
            host.ready = True
            for pool in set(host.leases.values()):
                host.send("slots", pool, host.slots(pool))
        elif kind == "failed" and host.ready:
            self._lose(host, "where the task server died")
        elif kind == "failed":
            raise FlowstoreError(f"The flow could not be imported on {host.name}: {values[0]}")
        elif kind == "ask":
            host.send(*answered(self._services.source, *values))
        elif kind != "beat":
            attempt = host.attempts.get(values[0])
            if attempt is not None:
                self._take_event(host, attempt, kind, values)

    def _take_event(self, host: Host, attempt: Attempt, kind: str, values: Sequence[Any]) -> None:
        if kind == "offer":
            wanted = self._services.results.missing(attempt.number, [*map(NewBlob.unpacked, values[1])])
            host.send("send", attempt.number, wanted)
        elif kind == "data":
            self._services.results.take(attempt.number, values[1])
        elif kind == "returned":
            self._take_back(attempt)
        else:
            event = event_of(host, kind, values)
            self._events.append(event)
            attempt.begun, attempt.reported = True, attempt.reported or isinstance(event, Reported)
            if isinstance(event, (Ended, Died)):
                self._forget(attempt)

    def _take_back(self, attempt: Attempt) -> None:
        """Send an order elsewhere that a host has returned, or return it to the driver."""
        self._forget(attempt)
        if attempt.moving:
            attempt.host, attempt.moving = None, False
            self._attempts[attempt.number] = attempt
            self._waiting.appendleft(attempt)
        else:
            self._events.append(Returned(attempt.number))

    # --- placing

    def _place(self) -> None:
        """Send orders to hosts that have room, and ask for more room where it is needed."""
        gangs, self._launched = by_gang(self._launched), []
        for members in gangs:
            self._check_fits(members)
            self._gangs.append(members)
        for members in list(self._gangs):
            seats = seat_gang(members, self._hosts.values())
            if seats is not None:
                self._gangs.remove(members)
                for attempt, seat in seats:
                    self._send(attempt, seat)
            elif not self._engine.gangs_apart:
                break
        if not self._gangs or self._engine.gangs_apart:  # else a gang that waits gets whatever becomes free
            for attempt in list(self._waiting):
                host = freest(self._hosts.values(), attempt.pool, 0 if self._pools[attempt.pool][0] else AHEAD)
                if host is not None:
                    self._waiting.remove(attempt)
                    self._send(attempt, host)
            self._move()
        self._request()

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

    def _send(self, attempt: Attempt, host: Host) -> None:
        attempt.host, attempt.sent_at = host, time.monotonic()
        host.attempts[attempt.number] = attempt
        host.send("order", attempt.pool, attempt.number, encode_order(attempt.order))

    def _request(self) -> None:
        """Ask for as many leases as there is work for; give back those that it no longer waits for."""
        most = self._setup.max_workers or self.capacity or 1
        for pool, lacking in lacking_leases(self._attempts.values(), self._leases.values(), most).items():
            leases = [self._lease_numbers + 1 + i for i in range(lacking)]
            self._lease_numbers += len(leases)
            self._leases.update(dict.fromkeys(leases, (pool, None)))
            amounts, is_gang = self._pools[pool]
            if leases:
                (self._engine.request_gang if is_gang else self._engine.request)(leases, dict(amounts))
            if lacking >= 0:
                self._needed_at[pool] = time.monotonic()
            elif time.monotonic() - self._needed_at[pool] > self._engine.idle_s:
                late = [lease for lease, (other, host) in self._leases.items() if other == pool and host is None]
                for lease in late[:-lacking]:
                    self._give_back(lease)

    # --- the end

    def close(self) -> None:
        """End every attempt, and every host."""
        for host in list(self._hosts.values()):
            if host.ready:
                host.send("close")
                self._flush(host)
            else:
                self._drop(host)
        deadline = time.monotonic() + CLOSE_S
        while self._hosts and time.monotonic() < deadline:
            for key, _ in self._selector.select(0.1):
                if isinstance(key.data, Host):
                    self._drain(key.data)
        for host in self._hosts.values():
            host.connection.close()
        self._selector.close()
        self._engine.close()

    def _drain(self, host: Host) -> None:
        """Take what a host still says before it ends; nothing of it counts any more."""
        self._flush(host)
        with contextlib.suppress(ValueError):
            if host.receive() is None:  # what else it says is not even read
                self._drop(host)

    def _drop(self, host: Host) -> None:
        del self._hosts[host.key]
        self._selector.unregister(host.connection)
        host.connection.close()
