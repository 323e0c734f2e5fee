"""Reading, without waiting, what tasks write: from pipes and sockets that a selector watches."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

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


def receive(connection: socket.socket, count: int) -> bytes:
    """Receive what arrives next; `b""` at the end."""
    try:
        return connection.recv(count)
    except ConnectionError:  # it went away without reading what it had been sent
        return b""


def receive_now(connection: socket.socket, count: int) -> bytes | None:
    """Receive what has arrived; `None` if nothing, `b""` at the end."""
    connection.setblocking(False)
    try:
        return receive(connection, count)
    except BlockingIOError:
        return None
    finally:
        connection.setblocking(True)
