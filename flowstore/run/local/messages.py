"""The channel between driver and tasks: messages, and chunks of large artifacts, over a socket.

A frame is a kind byte (`M` message, `D` data), a length in 8 bytes, and that many bytes. A message is a dict of
texts, numbers, bytes, lists, tuples and dicts, written by `marshal`: nothing is pickled, so that the driver never runs
code that a task sent, and both ends are the same Python, which is all that the format asks for. JSON would need base64
for blobs, and its Python code costs a freshly forked process 80 more copied pages a message, a quarter of a
millisecond.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from flowstore.store.codecs import Piece

_HEADER = struct.Struct("!cQ")
MESSAGE, DATA = b"M", b"D"
_LIMIT = 1 << 32
_turn: AbstractContextManager[object] = threading.Lock()


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Send one message, whole: a card that is drawn later comes from a thread, while the step may ask for an input."""
    frame = framed(message)
    with _turn:
        channel.sendall(frame)


def share_channel(turn: AbstractContextManager[object]) -> None:
    """Have `send` take another turn from now on: one that the processes of a step take as well."""
    global _turn  # noqa: PLW0603  # a process has one channel
    _turn = turn


def framed(message: dict[str, Any]) -> bytes:
    """Return one message as it is sent."""
    body = marshal.dumps(message)
    return _HEADER.pack(MESSAGE, len(body)) + body


def send_data(channel: socket.socket, pieces: Iterator[Piece]) -> None:
    """Send chunks of data."""
    for piece in pieces:
        channel.sendall(_HEADER.pack(DATA, memoryview(piece).nbytes))
        channel.sendall(piece)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """Wait for one message; `None` when the other side is gone."""
    header = _exactly(channel, _HEADER.size)
    if header is None:
        return None
    body = _exactly(channel, _HEADER.unpack(header)[1])
    return None if body is None else decode_message(body)


decode_message: Callable[[bytes], dict[str, Any]] = marshal.loads


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    data = channel.recv(count)
    while len(data) < count:
        more = channel.recv(count - len(data))
        if not more:
            return None
        data += more
    return data


class Reader:
    """Frames out of a socket that is read whenever something has arrived."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Take what was received; yield the kind and body of each frame that is now complete."""
        self._buffer += received
        while len(self._buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._buffer)
            if kind not in (MESSAGE, DATA) or length > _LIMIT:
                raise ValueError("a task sent something that is not of flowstore's form")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[_HEADER.size : end])
            del self._buffer[:end]
            yield kind, body


READ_BYTES = 1 << 16


def selectable(pipe: int) -> int | socket.socket:
    """Return what a selector can wait for: the pipe or, on Windows, a socket that a thread feeds from it."""
    if sys.platform != "win32":
        os.set_blocking(pipe, False)
        return pipe
    ours, theirs = socket.socketpair()
    threading.Thread(target=pump, args=(pipe, theirs), daemon=True).start()
    return ours


def pump(pipe: int, target: socket.socket) -> None:
    """Copy a pipe into a socket until the pipe ends."""
    with open(pipe, "rb", buffering=0) as source, target, contextlib.suppress(OSError):
        while data := source.read(READ_BYTES):
            target.sendall(data)


def close(connection: int | socket.socket) -> None:
    """Close what `selectable` returned, or a socket."""
    if isinstance(connection, int):
        os.close(connection)
    else:
        connection.close()


def read_now(pipe: int | socket.socket) -> bytes | None:
    """Read what is there now; `None` if nothing, `b""` at the end."""
    if not isinstance(pipe, int):
        return receive_now(pipe, READ_BYTES)
    try:
        return os.read(pipe, READ_BYTES)
    except BlockingIOError:
        return None


def receive_waiting(connection: socket.socket, count: int) -> bytes:
    """Receive what arrives next; `b""` at the end."""
    try:
        return connection.recv(count)
    except ConnectionError:  # it went away without reading what it had been sent
        return b""


def receive_now(connection: socket.socket, count: int) -> bytes | None:
    """Receive what has arrived; `None` if nothing, `b""` at the end."""
    connection.setblocking(False)
    try:
        return receive_waiting(connection, count)
    except BlockingIOError:
        return None
    finally:
        connection.setblocking(True)
