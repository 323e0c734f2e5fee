"""Hosts that misbehave, and the cache of one: what a driver makes of streams that are not what they should be."""

from __future__ import annotations

import hashlib
import socket
import time

import pytest

pytest.importorskip("msgpack")

from flowstore import FlowSpec, step
from flowstore.errors import FlowstoreError
from flowstore.flow.graph import graph_of
from flowstore.run.executor import Died, Services, Setup, Started
from flowstore.run.orders import Order, RunFacts
from flowstore.run.remote.executor import RemoteExecutor
from flowstore.run.remote.hosts import Engine, Granted
from flowstore.run.remote.identity import compare, identity
from flowstore.run.remote.inputs import Cache
from flowstore.run.remote.messages import encode
from flowstore.run.snapshot import Sources


class Flow(FlowSpec):
    """The smallest flow."""

    @step
    def start(self):
        """Go on."""
        self.next(self.end)

    @step
    def end(self):
        """End."""


class OneHost(Engine):
    """An engine with one host, whose end of the stream the test holds."""

    def __init__(self):
        self.waker, self.wake = socket.socketpair()
        self.ours, self.theirs = socket.socketpair()
        self.granted = []
        self.closed = []

    def request(self, leases, amounts):
        self.granted += [Granted(lease, "node7", "10.0.0.7") for lease in leases]

    def give_back(self, lease):
        self.closed.append(lease)

    def shun(self, host):
        self.closed.append(host)

    def notices(self):
        notices, self.granted = self.granted, []
        return notices

    def open(self, host):
        return self.ours

    def room(self, amounts):
        return 1

    def check(self):
        pass

    def close(self):
        for end in (self.waker, self.wake, self.ours, self.theirs):
            end.close()


class OneHostExecutor(RemoteExecutor):
    """The executor of that engine."""

    name = "onehost"

    def _start_engine(self, setup):
        return OneHost()


@pytest.fixture
def executor():
    """An executor that has one order, and a host that has said who it is and is ready."""
    setup = Setup(flow=Flow, graph=graph_of(Flow), sources=Sources(text="pass"), options={"lease": "1"})
    made = OneHostExecutor(setup)
    waker, other = socket.socketpair()
    made.connect(Services(waker=waker, results=None, source=None))
    facts = RunFacts("Flow", 1, "x.db", trusted=True, max_num_splits=1, parameters={}, constants=[], current={})
    made.launch(Order(run=facts, step="start", task_id=1))
    made.wait(0)
    made._engine.theirs.sendall(encode("hello", identity()) + encode("ready", None))
    made.wait(1)
    made.wait(0)
    yield made
    made.close()
    waker.close()
    other.close()


def events_of(executor, data):
    """Return the events that the executor makes of some bytes from its host."""
    executor._engine.theirs.sendall(data)
    return [*executor.wait(1), *executor.wait(0)]


def test_noise_loses_the_host(executor):
    """A host that sends anything but messages is lost, with what it ran."""
    started, died = events_of(executor, encode("started", 1, 42) + b"\0\0\0\4oops")
    assert isinstance(started, Started)
    assert isinstance(died, Died)
    assert "The task was lost with its host" in str(died)
    assert "which sent something that is not a message" in str(died)
    assert executor._engine.closed == [1]


@pytest.mark.parametrize("message", [("reported", 1, [1, 2]), ("card", 1, []), ("offer", 1, [3])])
def test_wrong_values_lose_the_host(executor, message):
    """A message whose values have other types loses its host, too."""
    [died] = events_of(executor, encode(*message))
    assert isinstance(died, Died)


def test_messages_about_other_attempts_count_for_nothing(executor):
    """A host can say something only of the attempts that it was given."""
    assert events_of(executor, encode("started", 7, 42) + encode("ended", 9, 0, None)) == []


def test_an_oversized_message_loses_the_host(executor):
    """A message that is announced to be larger than any may be is not waited for."""
    [died] = events_of(executor, b"\x7f\xff\xff\xff")
    assert "which sent something that is not a message (a message of 2147483647 bytes is announced" in str(died)


def test_a_message_that_never_ends_loses_the_host(executor):
    """A message of which a few bytes come now and then is no sign of life."""
    executor._engine.theirs.sendall(b"\0\xff\xff\xff")
    events = []
    began = time.monotonic()
    while not events and time.monotonic() - began < 10:
        executor._engine.theirs.sendall(b"x")
        events = executor.wait(0.1)
    assert "from which nothing was heard for 1 s" in str(events[0])


def test_silence_loses_the_host(executor):
    """A host that says nothing for as long as its lease is lost, and no lease is asked for there again."""
    events = []
    while not events:
        events = executor.wait(0.2)
    assert "from which nothing was heard for 1 s" in str(events[0])
    assert executor._engine.closed == ["node7", 1]


def test_leases_that_are_of_no_use(executor):
    """A lease is given back that a host no longer needs, or that is granted to none while nobody waits for it."""
    engine = executor._engine
    engine.idle_s = 0.1

    def wait_for_end_of(leases):
        deadline = time.monotonic() + 10
        while engine.closed != leases and time.monotonic() < deadline:
            engine.theirs.sendall(encode("beat"))
            executor.wait(0.1)
        assert engine.closed == leases

    started, ended = events_of(executor, encode("started", 1, 42) + encode("ended", 1, 0, None))
    assert (started.number, ended.number) == (1, 1)
    wait_for_end_of([1])
    engine.request = lambda leases, amounts: None
    facts = RunFacts("Flow", 1, "x.db", trusted=True, max_num_splits=1, parameters={}, constants=[], current={})
    number = executor.launch(Order(run=facts, step="end", task_id=2))
    executor.wait(0)
    executor.withdraw(number)
    wait_for_end_of([1, 2])
    engine.theirs.shutdown(socket.SHUT_RDWR)


def test_a_task_server_that_dies(executor):
    """A host that can start no more tasks is lost; the run goes on elsewhere."""
    [died] = events_of(executor, encode("failed", "The task server died, so no more tasks can be started."))
    assert "where the task server died" in str(died)


def test_a_flow_that_cannot_be_imported(executor):
    """Where a host can't import the flow the run ends with the traceback from there."""
    executor._hosts["node7"].ready = False
    with pytest.raises(FlowstoreError, match=r"could not be imported on .*: No module"):
        events_of(executor, encode("failed", "No module named 'torch'"))


def test_identities():
    """Another version of Python or flowstore is refused; one of another package is a warning."""
    own = identity()
    assert compare(own, "node7") == (None, None)
    assert "node7 has Python 3.1" in compare({**own, "python": "3.1"}, "node7")[0]
    assert "node7 has flowstore 9.9" in compare({**own, "flowstore": "9.9"}, "node7")[0]
    assert "not installed on node7" in compare({**own, "flowstore": None}, "node7")[0]
    refusal, warning = compare({**own, "packages": {**own["packages"], "numpy": "1.0"}}, "node7")
    assert refusal is None
    assert warning.startswith("Warning: node7 has numpy 1.0 instead of ")
    _, warning = compare({**own, "packages": {}}, "node7")
    assert "numpy (none) instead of " in warning


class TestCache:
    """The inputs that a host keeps."""

    def add(self, cache, data):
        """Put bytes into a cache; return their key and path."""
        key = hashlib.sha256(data).digest(), "bytes"
        incoming = cache.begin(key, len(data))
        incoming.write(data[:3])
        assert not incoming.is_complete
        incoming.write(data[3:])
        assert incoming.is_complete
        return key, incoming.finish()

    def test_what_was_not_used_for_long_goes(self, tmp_path):
        """A cache keeps to its size, and keeps what was used last."""
        cache = Cache(tmp_path / "cache", 250)
        first, second = (self.add(cache, byte * 100)[0] for byte in (b"a", b"b"))
        assert cache.find(first).read_bytes() == b"a" * 100
        third, _ = self.add(cache, b"c" * 100)
        assert [cache.find(key) is not None for key in (first, second, third)] == [True, False, True]
        huge, path = self.add(cache, b"d" * 1000)
        assert cache.find(huge) == path
        assert [file.name for file in (tmp_path / "cache").iterdir()] == [path.name]

    def test_damaged_bytes_are_not_kept(self, tmp_path):
        """Bytes that don't match their hash leave nothing behind."""
        cache = Cache(tmp_path / "cache", 1000)
        incoming = cache.begin((b"\0" * 32, "bytes"), 3)
        incoming.write(b"abc")
        assert incoming.finish() is None
        assert list((tmp_path / "cache").iterdir()) == []
