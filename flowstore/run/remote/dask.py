"""Tasks on a Dask cluster: `--executor dask`, `dask:tcp://…`, `dask:tls://…`, `dask:scheduler.json`.

A lease is a Dask task that holds one thread of a worker for as long as the run has work for it, so Dask decides where,
shows it on its dashboard, and is fair to others. The first lease at a worker starts a host beside it, as a process of
its own: a worker has threads, and must not fork. The host's stream goes through the worker, in calls of two handlers
over Dask's own connections, so that it needs no port of its own and is as safe as the cluster is.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import os
import socket
import sys
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from flowstore.errors import FlowstoreError
from flowstore.run.executor import Setup, check_package
from flowstore.run.remote.dask_cluster import CONNECT_S, Cluster, bounded, connect, hold, key_of, silence
from flowstore.run.remote.executor import RemoteExecutor
from flowstore.run.remote.host import READ_BYTES
from flowstore.run.remote.hosts import Engine, Granted, Over
from flowstore.run.remote.identity import COMPARED, compare
from flowstore.text import counted

if TYPE_CHECKING:
    import distributed  # which only who uses it has, and which takes half a second to import

CLOSE_S = 5.0
IDLE_S = 15.0  # then a thread that is of no use is left to others; as to its host, so are the inputs that it has
ANSWER_S = 10.0  # for a call to a worker, at most; then it is repeated
AGAIN_S = 0.5  # before that, in which the scheduler notices that a worker is gone
DIRECT_S = 5.0  # for the first answer of a worker; else it is reached by way of the scheduler
RESOURCES = {"cpu": "CPU", "memory": "MEMORY", "gpu": "GPU"}  # as workers declare them

IDENTITY = f"""(lambda util, importlib, metadata, platform: {{
    "python": ".".join(platform.python_version_tuple()[:2]),
    "flowstore": util.find_spec("flowstore") and importlib.import_module("flowstore._version").__version__,
    "packages": {{
        package: found.version
        for package in {COMPARED!r}
        for found in [next(iter(metadata.distributions(name=package)), None)] if found
    }},
}})(*map(__import__("importlib").import_module, ("importlib.util", "importlib", "importlib.metadata", "platform")))"""
# an expression, for workers that may lack flowstore


class DaskExecutor(RemoteExecutor):
    """Runs attempts on the workers of a Dask cluster."""

    name = "dask"

    @classmethod
    def check(cls, address: str, options: Mapping[str, str]) -> None:
        """Check the options, and whether the address is that of a scheduler or the name of its file."""
        check_package(cls.name, "distributed")
        super().check(address, options)
        if address and "://" not in address and not Path(address).is_file():
            raise FlowstoreError(
                f"--executor dask:{address}: this is neither an address, such as tcp://host:8786, nor the file "
                "that dask scheduler --scheduler-file writes."
            )

    def _start_engine(self, setup: Setup) -> Engine:
        silence()
        began = time.monotonic()
        slots = setup.max_workers or os.cpu_count() or 1
        cluster = None if setup.address else Cluster(slots)
        try:
            engine = DaskEngine(setup.address if cluster is None else cluster.address, cluster, self._lease_s)
        except BaseException:
            if cluster is not None:
                cluster.close()
            raise
        if cluster is None:
            self.capacity = engine.threads
        else:
            took = time.monotonic() - began
            self.notice = f"Started a local Dask cluster ({counted(slots, 'slot')}) in {took:.1f} s."
            self.capacity = slots
        return engine


# --- the engine


@attrs.define(eq=False, repr=False)
class _Link:
    """A host's stream on its way through Dask: `theirs` is read and written by the event loop of Dask's client."""

    address: str  # the worker's
    host: str
    theirs: socket.socket
    direct: bool = True


class DaskEngine(Engine):
    """Finds hosts on a Dask cluster.

    Args:
        address: of the scheduler, or the file that names it.
        cluster: a local cluster, which ends with the engine.
        lease_s: how long a host may be out of reach.
    """

    waker: socket.socket

    def __init__(self, address: str, cluster: Cluster | None, lease_s: float) -> None:
        self.idle_s = IDLE_S
        self._cluster = cluster
        self._lease_s = lease_s
        self._run = uuid.uuid4().hex
        self._futures: dict[int, distributed.Future] = {}
        self._shunned: set[str] = set()  # addresses of workers; the thread of Dask's client adds to it, too
        self._granted: dict[int, str] = {}
        self._notices: collections.deque[Granted | Over] = collections.deque()
        self.waker, self._wake = socket.socketpair()
        self.waker.setblocking(False)
        self._wake.setblocking(False)
        self.folder = None if cluster is None else str(Path.cwd())
        self._client = connect(address)
        self._where = f"the Dask cluster at {self._client.scheduler.address}"
        self._calls: set[concurrent.futures.Future[None]] = set()  # that have not ended
        try:
            self._check_workers()
            self._client.subscribe_topic(self._run, self._take_grant)
        except BaseException:
            self._client.close()
            raise

    @property
    def _workers(self) -> Mapping[str, Any]:
        info: list[Mapping[str, Any]] = []
        if (
            not bounded(lambda: info.append(self._client.scheduler_info(n_workers=-1)["workers"]), CONNECT_S)
            or not info
        ):
            raise FlowstoreError(f"The connection to {self._where} was lost.")
        return info[0]

    @property
    def threads(self) -> int:
        """The number of threads of all workers."""
        return sum(worker["nthreads"] for worker in self._workers.values())

    def _check_workers(self) -> None:
        """Refuse workers that can't run this process's tasks, before anything has begun."""
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError:
            raise FlowstoreError(
                f"{self._where[:1].upper()}{self._where[1:]} has no workers. "
                f"Start one: dask worker {self._client.scheduler.address}"
            ) from None
        warnings = set()
        for address, identity in self._identities().items():
            refusal, warning = compare(identity, f"the Dask worker {address}")
            if refusal is not None:
                raise FlowstoreError(refusal[:1].upper() + refusal[1:])
            warnings |= {warning} - {None}
        for warning in sorted(filter(None, warnings)):
            print(warning, file=sys.stderr)

    def _identities(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what each worker says of itself; nothing where one does not answer, since hosts say it again."""

        async def ask() -> Mapping[str, Mapping[str, Any]]:
            answers: Mapping[str, Any] = await asyncio.wait_for(
                self._client.run(eval, IDENTITY, on_error="ignore"), CONNECT_S
            )
            return {address: answer for address, answer in answers.items() if isinstance(answer, dict)}

        try:
            return asyncio.run_coroutine_threadsafe(ask(), self._client.loop.asyncio_loop).result()
        except (OSError, TimeoutError):
            return {}

    def room(self, amounts: Mapping[str, float]) -> int:
        """Return how many attempts with such resources could run at a time if nothing else ran."""
        workers = self._workers
        rooms = [_room(worker, amounts) for worker in workers.values()]
        if sum(rooms) == 0 and workers:
            wanted = ", ".join(f"{name}={amount:g}" for name, amount in amounts.items())
            flags = " ".join(f"{RESOURCES[name]}={amount:g}" for name, amount in amounts.items())
            offers = "; ".join(sorted({_offer(worker) for worker in workers.values()}))
            raise FlowstoreError(
                f"@resources({wanted}) is more than any worker of {self._where} offers. They offer: {offers}. "
                f'Start one that has it: dask worker {self._client.scheduler.address} --resources "{flags}"'
            )
        return sum(rooms)

    def shun(self, host: str) -> None:
        """Submit no more leases to the worker of a host."""
        self._shunned.add(host.partition(" ")[0])

    def request(self, leases: Sequence[int], amounts: Mapping[str, float]) -> None:
        """Submit tasks, each of which holds a thread of a worker with these resources."""
        shunned = self._shunned.copy()
        workers = self._workers if amounts or shunned else {}
        declared = {name for worker in workers.values() for name in worker["resources"]}
        others = sorted(workers.keys() - shunned) if shunned & workers.keys() else None
        needed = {RESOURCES[name]: amount for name, amount in amounts.items() if RESOURCES[name] in declared}
        for lease in leases:
            self._futures[lease] = future = self._client.submit(
                hold,
                self._run,
                lease,
                key=key_of(self._run, lease),
                pure=False,
                resources=needed or None,
                workers=others or None,
            )
            future.add_done_callback(partial(self._take_end, lease))

    def give_back(self, lease: int) -> None:
        """Let a task end that holds a thread, or not begin."""
        future, host = self._futures.pop(lease, None), self._granted.pop(lease, None)
        if future is not None:
            self._start(self._cancel(future))
        if host is not None:
            address, _, ident = host.partition(" ")
            self._start(self._call(_Link(address, ident, self.waker), "release", lease=lease))

    async def _cancel(self, future: distributed.Future) -> None:
        await self._client.cancel([future])

    def notices(self) -> list[Granted | Over]:
        """Return what has happened since the last call."""
        with contextlib.suppress(BlockingIOError):
            while self.waker.recv(4096):
                pass
        notices = []
        while self._notices:
            notices.append(self._notices.popleft())
        return notices

    def _note(self, notice: Granted | Over) -> None:
        self._notices.append(notice)
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def _take_grant(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Note a lease that a worker has begun to hold; called by Dask's client, in its thread."""
        _, message = event
        lease, host = message["lease"], message["host"]
        if isinstance(lease, int) and isinstance(host, str):
            self._granted[lease] = host
            self._note(Granted(lease, host, urlsplit(host.partition(" ")[0]).hostname or "127.0.0.1"))

    def _take_end(self, lease: int, future: distributed.Future) -> None:
        """Note that a lease is over; called in a thread of Dask's client."""
        from distributed.scheduler import KilledWorker

        error = None
        if future.status == "error":
            # `future.exception()` would wait for ever where the client was closed meanwhile.
            raised = future._state.exception
            if not isinstance(raised, KilledWorker):  # whose worker died too often: ask again
                error = f"No task can be started on {self._where}: {type(raised).__name__}: {raised}"
        self._note(Over(lease, error))

    def check(self) -> None:
        """Raise FlowstoreError where the scheduler is gone."""
        if self._client.status != "running" or self._client.scheduler_comm is None:
            raise FlowstoreError(f"The connection to {self._where} was lost.")

    def close(self) -> None:
        """Give all leases back, and end a local cluster."""
        for lease in list(self._futures):
            self.give_back(lease)
        concurrent.futures.wait(set(self._calls), CLOSE_S)  # else threads are held until the hosts miss the driver
        bounded(lambda: self._client.close(timeout=2), CLOSE_S)
        if self._cluster is not None:
            self._cluster.close()
        self.waker.close()
        self._wake.close()

    # --- the streams of hosts

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        call = asyncio.run_coroutine_threadsafe(_quietly(coroutine), self._client.loop.asyncio_loop)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    def open(self, host: str) -> socket.socket:
        """Return one end of a pair of sockets, whose other end is connected with the host by way of Dask."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        address, _, ident = host.partition(" ")
        self._start(self._carry(_Link(address, ident, theirs)))
        return ours

    async def _carry(self, link: _Link) -> None:
        """Carry a stream both ways until either side ends it."""
        try:
            await _answer(self._call(link, "write", at=0, data=b""), DIRECT_S)
        except (OSError, TimeoutError):
            link.direct = False
        ways = [asyncio.ensure_future(self._carry_up(link)), asyncio.ensure_future(self._carry_down(link))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            link.theirs.close()
            await _answer(self._call(link, "drop"), DIRECT_S)

    async def _carry_up(self, link: _Link) -> None:
        loop, at = asyncio.get_running_loop(), 0
        while data := await loop.sock_recv(link.theirs, READ_BYTES):
            await self._repeat(link, "write", at=at, data=data)
            at += len(data)

    async def _carry_down(self, link: _Link) -> None:
        loop, at = asyncio.get_running_loop(), 0
        wait_s = min(ANSWER_S, self._lease_s / 4) / 2
        while (data := await self._repeat(link, "read", at=at, wait_s=wait_s)) is not None:
            await loop.sock_sendall(link.theirs, data)
            at += len(data)

    async def _repeat(self, link: _Link, what: str, **arguments: Any) -> Any:
        """Call a handler of a worker until it answers.

        A call that is cut off, or stays without an answer, is repeated over another connection as long as the scheduler
        has the worker, and until the driver counts the host as lost.
        """
        deadline = time.monotonic() + self._lease_s
        answer_s = min(ANSWER_S, self._lease_s / 4)
        while True:
            try:
                return await _answer(self._call(link, what, **arguments), answer_s)
            except (OSError, TimeoutError):
                if time.monotonic() > deadline:
                    self.shun(link.address)  # whose silence the scheduler may not notice for minutes
                    raise
                await asyncio.sleep(AGAIN_S)
                if not await _answer(self._client.scheduler.ncores(workers=[link.address]), answer_s):
                    raise

    async def _call(self, link: _Link, what: str, **arguments: Any) -> Any:
        """Call a handler of a worker, at its own address or, where that can't be reached, by way of the scheduler."""
        message = {"host": link.host, **arguments}
        if link.direct:
            return await getattr(self._client.rpc(link.address), f"flowstore_{what}")(**message)
        answers = await self._client.scheduler.broadcast(
            msg={"op": f"flowstore_{what}", **message}, workers=[link.address]
        )
        return answers[link.address]


async def _answer(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """Await a call's answer for so long; unlike `wait_for`, not for the call's end, which may close a dead connection.

    Raises:
        TimeoutError: none came.
    """
    call = asyncio.ensure_future(coroutine)
    try:
        if not (await asyncio.wait([call], timeout=seconds))[0]:
            raise TimeoutError
        return call.result()
    finally:
        call.cancel()


async def _quietly(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Await a call to a worker that may be gone: the end of its stream says so."""
    with contextlib.suppress(Exception):
        await coroutine


def _room(worker: Mapping[str, Any], amounts: Mapping[str, float]) -> int:
    """Return how many attempts with such resources a worker can run at a time."""
    room = worker["nthreads"]
    for name, amount in amounts.items():
        declared = worker["resources"].get(RESOURCES[name])
        limit = {"cpu": worker["nthreads"], "memory": worker["memory_limit"] / 1e6 or float("inf"), "gpu": 0}[name]
        if declared is not None:
            room = min(room, int(declared // amount))
        elif amount > limit:
            return 0
    return int(room)


def _offer(worker: Mapping[str, Any]) -> str:
    """Return a text that says what a worker offers."""
    declared = "".join(f", {name}={amount:g}" for name, amount in sorted(worker["resources"].items()))
    memory = f", {worker['memory_limit'] / 1e6:.0f} MB" if worker["memory_limit"] else ""
    return f"{counted(worker['nthreads'], 'thread')}{memory}{declared}"
