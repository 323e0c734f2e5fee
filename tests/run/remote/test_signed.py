"""Signed streams: what a driver and its pilots make of a network that others write to as well."""

from __future__ import annotations

import os
import random
import resource
import selectors
import socket
import struct
import threading
import time
from types import SimpleNamespace

import pytest

from flowstore.run.remote import signed
from flowstore.run.remote.hosts import Host
from flowstore.run.remote.messages import encode
from flowstore.run.remote.signed import CHALLENGE_BYTES, CLAIM_BYTES, Listener, SignedSocket, claim

SECRET = b"s" * 32


class Door:
    """A listener that expects pilot 7, with two processes, and what has come through it."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.arrived = []
        self.listener = Listener(self.selector, "127.0.0.1", 0, self.secret_of, self.arrived.append)

    def secret_of(self, number, rank):
        return SECRET if number == 7 and rank < 2 else None

    def serve(self, until):
        """Let in who comes until something is so."""
        for _ in range(200):
            if until():
                return
            for key, _ in self.selector.select(0.05):
                key.data()
        raise AssertionError("it did not come")

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.listener.port), 10)

    @property
    def unknown(self):
        return len(self.selector.get_map()) - 1


@pytest.fixture
def door():
    """A door, closed in the end."""
    opened = Door()
    yield opened
    for arrived in opened.arrived:
        arrived.stream.close()
    opened.listener.close()
    opened.selector.close()


def pair(sending=b"a" * 32, receiving=b"b" * 32):
    """Return both ends of a signed stream."""
    left, right = socket.socketpair()
    return SignedSocket(left, sending, receiving), SignedSocket(right, receiving, sending)


def sent_by(words, key=b"a" * 32):
    """Return the bytes on the line for some sends, each a record."""
    left, right = socket.socketpair()
    with SignedSocket(left, key, b"") as signing, right:
        records = []
        for text in words:
            signing.sendall(text)
            records.append(right.recv(1 << 20))
        return records


class TestRecords:
    """A stream delivers what was sent, or nothing."""

    def test_any_bytes_in_any_pieces(self):
        """Messages of all sizes arrive as they were sent, however little the network takes at a time."""
        rng = random.Random(3)
        ours, theirs = pair()
        with ours, theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
            host = Host("node1", "127.0.0.1", ours)
            texts = [rng.randbytes(rng.choice([0, 1, 100, 70_000])) for _ in range(40)] + [bytes(2_500_000)]
            expected = b"".join(encode("printed", 1, "stdout", text) for text in texts)
            received = bytearray()

            def read():
                while len(received) < len(expected):
                    received.extend(theirs.recv(rng.choice([20, 4_000, 1 << 20, 1 << 20])))

            thread = threading.Thread(target=read)
            thread.start()
            with selectors.DefaultSelector() as selector:
                selector.register(ours, selectors.EVENT_WRITE)
                for text in texts:
                    host.send("printed", 1, "stdout", text)
                    host.flush()
                while host.waits:
                    selector.select(1)
                    host.flush()
            thread.join(20)
            assert received == expected

    def test_both_ways_at_once(self):
        """A hundred megabytes each way, as a stream through srun was tried with."""
        ours, theirs = pair()
        data = random.Random(1).randbytes(1 << 20)
        with ours, theirs:
            senders = [
                threading.Thread(target=lambda end=end: [end.sendall(data) for _ in range(100)])
                for end in (ours, theirs)
            ]
            counts = {ours: 0, theirs: 0}

            def read(end):
                last = b""
                while counts[end] < 100 << 20:
                    last += end.recv(1 << 20)
                    while len(last) >= len(data):
                        assert last.startswith(data)
                        last = last[len(data) :]
                        counts[end] += len(data)

            threads = [*senders, *(threading.Thread(target=read, args=(end,)) for end in counts)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert set(counts.values()) == {100 << 20}

    @pytest.mark.parametrize("at", [0, 3, 4, 19, 20, 25])
    def test_a_changed_byte(self, at):
        """A byte that was changed, in the length, the signature or the data, ends the stream."""
        [record] = sent_by([b"deploy"])
        changed = bytearray(record)
        changed[at] ^= 1
        assert self.received(bytes(changed) + b"x" * 3) is None

    def received(self, line):
        """Return what a stream reads from these bytes: `None` where it ends."""
        left, right = socket.socketpair()
        with left, SignedSocket(right, b"", b"a" * 32) as reading:
            left.sendall(line)
            left.shutdown(socket.SHUT_WR)
            try:
                return reading.recv(1 << 20)
            except ConnectionAbortedError:
                return None

    def test_records_in_another_order(self):
        """Records that are repeated, left out, exchanged, or of the other direction end the stream."""
        one, two = sent_by([b"one", b"two"])
        assert self.received(one + two) == b"onetwo"
        for line in (one + one, two, two + one, *sent_by([b"one"], b"b" * 32)):
            assert self.received(line) is None

    def test_a_huge_record(self):
        """A length that no record has is not waited for."""
        assert self.received(struct.pack("!I16s", 1 << 31, b"") + b"x") is None


class TestDoor:
    """Only the pilots of a run come in."""

    def test_a_pilot_and_its_second_process(self, door):
        """Both ends can speak once each has proven that it knows the secret."""
        for rank in (0, 1):
            with door.connect() as connection:
                streams = []
                thread = threading.Thread(
                    target=lambda streams, *claimed: streams.append(claim(*claimed)),
                    args=(streams, connection, SECRET, 7, rank),
                )
                thread.start()
                door.serve(lambda count=rank + 1: len(door.arrived) == count)
                thread.join(10)
                arrived = door.arrived[rank]
                assert (arrived.number, arrived.rank, arrived.address) == (7, rank, "127.0.0.1")
                with streams[0] as stream:
                    arrived.stream.sendall(b"down")
                    stream.sendall(b"up")
                    arrived.stream.settimeout(10)
                    assert (stream.recv(100), arrived.stream.recv(100)) == (b"down", b"up")

    @pytest.mark.parametrize(("secret", "number", "rank"), [(b"x" * 32, 7, 0), (SECRET, 8, 0), (SECRET, 7, 2)])
    def test_others(self, door, secret, number, rank):
        """Who has another secret, or is nobody that is expected, gets no answer."""
        with door.connect() as connection:
            refused = []

            def knock():
                try:
                    claim(connection, secret, number, rank)
                except ConnectionAbortedError as error:
                    refused.append(str(error))

            thread = threading.Thread(target=knock)
            thread.start()
            door.serve(lambda: not thread.is_alive())
            assert refused == ["the other end has closed the connection"]
        assert door.arrived == []

    def test_what_was_overheard(self, door):
        """The words of a pilot are of no use a second time, since each connection has a challenge of its own."""
        with door.connect() as first, door.connect() as second:
            overheard = {}

            def listen():
                left, right = socket.socketpair()
                with left, right:
                    challenge = first.recv(CHALLENGE_BYTES)
                    right.sendall(challenge)
                    pilot = threading.Thread(target=self.try_to_claim, args=(left,))
                    pilot.start()
                    overheard["claim"] = right.recv(CLAIM_BYTES)
                    right.close()
                    pilot.join()

            thread = threading.Thread(target=listen)
            thread.start()
            door.serve(lambda: "claim" in overheard)
            thread.join()
            second.sendall(overheard["claim"])
            door.serve(lambda: door.unknown == 1)
            assert door.arrived == []

    def try_to_claim(self, connection):
        """Claim over a connection that ends before there is an answer."""
        with pytest.raises(OSError, match="closed"):
            claim(connection, SECRET, 7, 0)

    def test_another_driver(self):
        """A pilot does not take for its driver who lets it in without knowing the secret."""
        left, right = socket.socketpair()
        with left, right:
            right.sendall(b"flowst1\n" + b"n" * 32 + b"p" * 32)
            with pytest.raises(ConnectionAbortedError, match="does not know the secret"):
                claim(left, SECRET, 7, 0)

    def test_something_else_listens_there(self):
        """A port that belongs to another program is not answered."""
        left, right = socket.socketpair()
        with left, right:
            right.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 and more\n")
            with pytest.raises(ConnectionAbortedError, match="is not flowstore"):
                claim(left, SECRET, 7, 0)

    def test_there_are_no_more_descriptors(self, door, monkeypatch):
        """The listener rests instead of being woken without end, and then lets in who waits."""
        monkeypatch.setattr(signed, "REST_S", 0.0)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with door.connect() as connection:
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                door.serve(lambda: door.unknown == -1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert door.selector.select(0) == []
            door.listener.drop_slow()
            door.serve(lambda: door.unknown == 1)
            assert connection.recv(len(signed.MAGIC)) == signed.MAGIC

    def test_a_crowd_that_says_nothing(self, door, monkeypatch):
        """Connections that say nothing are closed; however many there are, a pilot comes in."""
        crowd = []
        for count in range(1, signed.MOST_UNKNOWN + 21):
            crowd.append(door.connect())
            door.serve(lambda count=count: door.unknown == count)
        crowd[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
        door.listener.drop_slow()
        assert door.unknown == signed.MOST_UNKNOWN
        with door.connect() as connection:
            thread = threading.Thread(target=lambda: claim(connection, SECRET, 7, 0).close())
            thread.start()
            door.serve(lambda: door.arrived)
            thread.join()
        late = time.monotonic() + signed.CLAIM_S
        monkeypatch.setattr(signed, "time", SimpleNamespace(monotonic=lambda: late))
        door.listener.drop_slow()
        assert door.unknown == 0
        for connection in crowd:
            connection.close()
