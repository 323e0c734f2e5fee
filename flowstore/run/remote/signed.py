"""Streams through a network that others use, too: both ends prove that they know a secret, and sign each byte.

A pilot connects to the driver, and the two send each other a nonce and a proof: neither sends the secret, and what was
overheard once is of no use later. Each direction then has a key of its own, under which every record is signed together
with its position. So nobody else can speak for either end, or leave out, repeat or change a byte; a stream that anybody
has touched is a stream that ends. Nothing is encrypted: the secret came by way of the engine, which is not either.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import secrets
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import attrs

from flowstore import later

MAGIC = b"flowst1\n"
NONCE_BYTES = PROOF_BYTES = 32
CHALLENGE_BYTES = len(MAGIC) + NONCE_BYTES
CLAIM_S = 10.0  # for a pilot that has connected to say who it is
MOST_UNKNOWN = 64  # connections that have not said yet
REST_S = 1.0  # after a connection could not be accepted, as for want of descriptors
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
LARGEST_RECORD_BYTES = 1024 << 10
_NAME = struct.Struct("!II")  # of a pilot: its number, and which of its processes this is
_HEADER = struct.Struct("!I16s")  # of a record: its length, its signature
_POSITION = struct.Struct("!QI")
CLAIM_BYTES = _NAME.size + NONCE_BYTES + PROOF_BYTES


def _sign(key: bytes, *parts: bytes | memoryview) -> bytes:
    """Return the HMAC of some bytes: SHA-256 is what processors have instructions for, twice as fast as BLAKE2."""
    signature = hmac.new(key, digestmod="sha256")
    for part in parts:
        signature.update(part)
    return signature.digest()


class SignedSocket(socket.socket):
    """A connected socket whose records are signed. It is used like the plain one that it takes over.

    After a `send` that raises BlockingIOError or returns 0, the same bytes must be sent again, with more or without.

    Args:
        connection: is closed; this object has its descriptor.
        sending, receiving: the keys of both directions.
    """

    def __init__(self, connection: socket.socket, sending: bytes, receiving: bytes) -> None:
        timeout = connection.gettimeout()
        super().__init__(fileno=connection.detach())
        self.settimeout(timeout)
        self._keys = sending, receiving
        self._sent = self._received = 0  # records
        self._buffer = memoryview(bytearray(_HEADER.size + LARGEST_RECORD_BYTES))  # one for all: new pages cost time
        self._filled = 0
        self._outgoing: list[memoryview] = []  # what is left of a record, whose data was not yet reported as sent
        self._reported_later = 0

    def _header(self, data: memoryview) -> bytes:
        signature = _sign(self._keys[0], _POSITION.pack(self._sent, len(data)), data)
        self._sent += 1
        return _HEADER.pack(len(data), signature)  # which keeps the first half of it

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]
        """Send the beginning of some bytes, and return how many have gone; see the class."""
        if not self._outgoing:
            piece = memoryview(data)[:LARGEST_RECORD_BYTES]
            self._outgoing = [memoryview(self._header(piece)), piece]
            self._reported_later = len(piece)
        while self._outgoing:
            sent = self.sendmsg(self._outgoing, (), flags)
            while self._outgoing and sent >= len(self._outgoing[0]):
                sent -= len(self._outgoing.pop(0))
            if self._outgoing:
                self._outgoing[0] = self._outgoing[0][sent:]
        return self._reported_later

    def sendall(self, data: bytes | memoryview, flags: int = 0) -> None:  # type: ignore[override]
        """Send bytes, and wait for that."""
        view = memoryview(data)
        for at in range(0, len(view), LARGEST_RECORD_BYTES):
            self.send(view[at : at + LARGEST_RECORD_BYTES], flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return the bytes of all records that have arrived; none at the end.

        Args:
            size: at most so many bytes are read before.
            flags: of the system's call.

        Raises:
            BlockingIOError: no whole record is there.
            ConnectionAbortedError: somebody else has written to the stream, or changed it.
        """
        while True:
            count = self.recv_into(self._buffer[self._filled :], min(size, len(self._buffer) - self._filled), flags)
            if not count:
                return b""
            self._filled += count
            data = self._take_records()
            if data:
                return data
            if self.gettimeout() == 0:
                raise BlockingIOError

    def close(self) -> None:
        """Close the socket, and free its buffer: a driver keeps the streams of all its pilots."""
        super().close()
        self._buffer, self._filled = memoryview(bytearray()), 0

    def _take_records(self) -> bytes:
        pieces: list[bytes] = []
        at = 0
        while self._filled - at >= _HEADER.size:
            length, signature = _HEADER.unpack_from(self._buffer, at)
            if length > LARGEST_RECORD_BYTES:
                raise ConnectionAbortedError("a record is too large")
            end = at + _HEADER.size + length
            if end > self._filled:
                break
            data = bytes(self._buffer[at + _HEADER.size : end])
            expected = _sign(self._keys[1], _POSITION.pack(self._received, length), data)
            if not hmac.compare_digest(signature, expected[: len(signature)]):
                raise ConnectionAbortedError("a record is not signed by the other end")
            self._received += 1
            pieces.append(data)
            at = end
        self._buffer[: self._filled - at] = self._buffer[at : self._filled]
        self._filled -= at
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@later.frozen
class Claim:
    """A pilot's first words: which one it says that it is, its nonce and its proof.

    Attributes:
        number: of the pilot.
        rank: of its process.
    """

    number: int
    rank: int
    _nonce: bytes
    _proof: bytes
    _challenge: bytes

    @classmethod
    def unpacked(cls, challenge: bytes, data: bytes) -> Claim:
        """Return the claim in `CLAIM_BYTES` that answer a challenge."""
        number, rank = _NAME.unpack_from(data)
        return cls(number, rank, data[_NAME.size : -PROOF_BYTES], data[-PROOF_BYTES:], challenge)

    @property
    def _words(self) -> bytes:
        return self._challenge + _NAME.pack(self.number, self.rank) + self._nonce

    def is_true(self, secret: bytes) -> bool:
        """Return whether it comes from who knows the secret."""
        return hmac.compare_digest(self._proof, _sign(secret, b"pilot", self._words))

    def accept(self, connection: socket.socket, secret: bytes) -> SignedSocket:
        """Return the stream to the pilot, whose first bytes prove that this end knows the secret, too."""
        words = self._words
        with contextlib.suppress(OSError):  # it has gone, which the stream will show
            connection.send(_sign(secret, b"driver", words))  # into an empty buffer
        return SignedSocket(connection, _sign(secret, b"down", words), _sign(secret, b"up", words))


@attrs.define(eq=False, repr=False)
class _Unknown:
    """A connection whose other end has not said who it is."""

    connection: socket.socket
    address: str
    challenge: bytes
    until: float
    received: bytes = b""


@later.frozen
class Arrived:
    """A pilot has connected.

    Attributes:
        number, rank: of the pilot and of its process.
        address: where it is.
        stream: to it.
    """

    number: int
    rank: int
    address: str
    stream: SignedSocket


class Listener:
    """The port of a driver, at which only its own pilots are let in. Nothing here waits.

    Args:
        selector: has a callback for each connection; whoever owns it calls those that are ready.
        address, port: where to listen; port 0 is any.
        secret_of: returns what a pilot must know, of a number and a rank; `None` where none such is expected.
        welcome: is called for each that has proven it.

    Raises:
        OSError: this is no address of this machine, or the port is taken.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        address: str,
        port: int,
        secret_of: Callable[[int, int], bytes | None],
        welcome: Callable[[Arrived], None],
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, port), family=family, backlog=MOST_UNKNOWN)
        self._socket.setblocking(False)
        self.address, self.port = self._socket.getsockname()[:2]
        self._selector = selector
        self._secret_of, self._welcome = secret_of, welcome
        self._unknown: deque[_Unknown] = deque()
        self._rests_until: float | None = None
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        try:
            connection, (address, *_) = self._socket.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:  # the connection would be reported again and again
                self._selector.unregister(self._socket)
                self._rests_until = time.monotonic() + REST_S
            return  # else it has gone again
        connection.setblocking(False)
        challenge = MAGIC + secrets.token_bytes(NONCE_BYTES)
        unknown = _Unknown(connection, address, challenge, time.monotonic() + CLAIM_S)
        with contextlib.suppress(OSError):  # it has gone, which is seen soon
            connection.send(challenge)  # into an empty buffer
        self._unknown.append(unknown)
        self._selector.register(connection, selectors.EVENT_READ, partial(self._hear, unknown))

    def _hear(self, unknown: _Unknown) -> None:
        """Take what somebody says who has connected; who is no pilot of this driver is not answered."""
        try:
            piece = unknown.connection.recv(CLAIM_BYTES - len(unknown.received))
        except BlockingIOError:
            return
        except OSError:  # it has gone, or can no longer be reached
            piece = b""
        unknown.received += piece
        if piece and len(unknown.received) < CLAIM_BYTES:
            return
        self._forget(unknown)
        if not piece or not self._admit(unknown):
            unknown.connection.close()

    def _admit(self, unknown: _Unknown) -> bool:
        claim = Claim.unpacked(unknown.challenge, unknown.received)
        secret = self._secret_of(claim.number, claim.rank)
        if secret is None or not claim.is_true(secret):
            return False
        stream = claim.accept(unknown.connection, secret)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._welcome(Arrived(claim.number, claim.rank, unknown.address, stream))
        return True

    def _forget(self, unknown: _Unknown) -> None:
        self._unknown.remove(unknown)
        self._selector.unregister(unknown.connection)

    def drop_slow(self) -> None:
        """Close connections that have said nothing for long, and the oldest where there are too many.

        It is called every few seconds, so a listener that had to rest goes on here, too.
        """
        now = time.monotonic()
        if self._rests_until is not None and self._rests_until <= now:
            self._rests_until = None
            self._selector.register(self._socket, selectors.EVENT_READ, self._accept)
        while self._unknown and (self._unknown[0].until < now or len(self._unknown) > MOST_UNKNOWN):
            slow = self._unknown[0]
            self._forget(slow)
            slow.connection.close()

    def close(self) -> None:
        """Let nobody in any more."""
        for unknown in [*self._unknown]:
            self._forget(unknown)
            unknown.connection.close()
        if self._rests_until is None:
            self._selector.unregister(self._socket)
        self._socket.close()


def claim(connection: socket.socket, secret: bytes, number: int, rank: int) -> SignedSocket:
    """Return the stream to the driver, after both ends have proven that they know the secret.

    Raises:
        OSError: the other end is no driver, or not the one that submitted this pilot.
    """
    challenge = _receive(connection, CHALLENGE_BYTES)
    if not challenge.startswith(MAGIC):
        raise ConnectionAbortedError("the other end is not flowstore, or another version of it")
    words = challenge + _NAME.pack(number, rank) + secrets.token_bytes(NONCE_BYTES)
    connection.sendall(words[CHALLENGE_BYTES:] + _sign(secret, b"pilot", words))
    if not hmac.compare_digest(_receive(connection, PROOF_BYTES), _sign(secret, b"driver", words)):
        raise ConnectionAbortedError("the other end does not know the secret")
    return SignedSocket(connection, _sign(secret, b"up", words), _sign(secret, b"down", words))


def _receive(connection: socket.socket, size: int) -> bytes:
    """Return exactly so many bytes, and leave what follows in the connection."""
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise ConnectionAbortedError("the other end has closed the connection")
        received += piece
    return received
