"""Turns of a process that runs one attempt after the other, seen from both ends, and marks in its output.

Orders come over the process's channel. Whose turn it is, the number of the attempt, comes through a socket of its own,
from which the process takes a turn before it begins. The driver keeps a copy of the end that is read: so it can take
turns back however long a step runs, and each turn is taken once, by the one or the other. What the process begins next
it says with the end of the attempt before; the driver knows what a process had begun that was killed.

What attempts print comes through the same pipes. A mark, which the driver has chosen, ends what each has printed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from flowstore.run.local import messages

_TURN = struct.Struct("!q")
_CHANNEL_BYTES = 1 << 18  # the channel holds what is sent to a process that can't read for as long as a step runs
AVAILABLE = hasattr(socket, "MSG_DONTWAIT")  # not on Windows, where no order is handed out ahead


class Turns:
    """The driver's end.

    Args:
        channel: the driver's end of the process's channel.

    Attributes:
        theirs: the other end, a copy of which the process gets.
        mark: what ends the output of an attempt.
    """

    def __init__(self, channel: socket.socket) -> None:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL_BYTES)
        self._ours, self.theirs = socket.socketpair()
        self.mark = b"\0" + os.urandom(16).hex().encode()

    def give(self, numbers: Collection[int]) -> None:
        """Let attempts begin, one after the other."""
        self._ours.sendall(b"".join(map(_TURN.pack, numbers)))

    def take_back(self) -> Collection[int]:
        """Take back the turns that the process has not taken; return their numbers."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := self.theirs.recv(messages.READ_BYTES, socket.MSG_DONTWAIT):
                data += more
        return {number for (number,) in _TURN.iter_unpack(data)}

    def end(self) -> None:
        """Say that there will be no more."""
        self._ours.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both ends."""
        self._ours.close()
        self.theirs.close()


class Inbox:
    """The orders and answers that a process gets.

    Args:
        channel: to the driver.
        turns: where it takes turns; `None`: an order is there when its turn is.
        first: the first message, which has been read.
    """

    def __init__(self, channel: socket.socket, turns: socket.socket | None, first: dict[str, Any]) -> None:
        self._channel = channel
        self._turns = turns
        self._reader = messages.Reader()
        self._arrived = deque([first])

    def next(self, *, wait: bool) -> dict[str, Any] | None:
        """Take a turn, and return its order; `None` where there is no turn now or, if it waits, ever."""
        if self._turns is None:
            return self._message() if wait else None
        try:
            turn = self._turns.recv(_TURN.size, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if len(turn) < _TURN.size:
            return None
        [number] = _TURN.unpack(turn)
        message = self._message()
        while message is not None and message["number"] != number:  # the turn of this one was taken back
            message = self._message()
        return message

    def answer(self) -> dict[str, Any] | None:
        """Return what the driver answers, which comes behind the orders that it sent before."""
        orders = []
        message = self._message()
        while message is not None and "number" in message:
            orders.append(message)
            message = self._message()
        self._arrived.extendleft(reversed(orders))
        return message

    def _message(self) -> dict[str, Any] | None:
        """Return the next message; `None` when the driver is gone."""
        while not self._arrived:
            data = messages.receive_waiting(self._channel, messages.READ_BYTES)
            if not data:
                return None
            self._arrived.extend(messages.decode_message(body) for _, body in self._reader.feed(data))
        return self._arrived.popleft()


class Marks:
    """Ends what an attempt has printed, in those of the streams that still lead to the driver."""

    def __init__(self) -> None:
        self._pipes = {descriptor: _identity(descriptor) for descriptor in (1, 2)}

    def set(self, mark: bytes) -> Sequence[bool]:
        """Write the mark; return of stdout and of stderr whether it is there."""
        return [self._write(descriptor, mark) for descriptor in self._pipes]

    def _write(self, descriptor: int, mark: bytes) -> bool:
        try:  # a step may have closed its streams, or sent them elsewhere
            pipe = _identity(descriptor)
            return pipe is not None and pipe == self._pipes[descriptor] and os.write(descriptor, mark) == len(mark)
        except OSError:
            return False


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Printed:
    """Output of a pipe, in which marks end the parts of attempts.

    Args:
        mark: the mark.
    """

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._data = b""

    def add(self, data: bytes) -> None:
        """Take what was read."""
        self._data += data

    def take(self, *, whole: bool = False) -> bytes:
        """Return what there is up to the first mark, or up to what may become one; `whole`: no more will come."""
        data, mark, rest = self._data.partition(self._mark)
        at = data.rfind(self._mark[:1], -len(self._mark)) if data and not (mark or whole) else -1
        if at >= 0 and self._mark.startswith(data[at:]):
            data, rest = data[:at], data[at:]
        self._data = mark + rest
        return data

    def pass_mark(self) -> bool:
        """Go on behind the mark if that comes next; return whether it does."""
        if not self._data.startswith(self._mark):
            return False
        self._data = self._data[len(self._mark) :]
        return True
