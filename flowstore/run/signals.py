"""Stopping a run from outside, at a moment when nothing is half done."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType


class Stop:
    """Asks the driver to stop, from a signal's handler, at a moment when nothing is half done."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.waker, self._wake = socket.socketpair()
        self._wake.setblocking(False)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM for the duration."""
        try:
            fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        except ValueError:  # not in the main thread: nobody sends signals here
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(fd)
            self.waker.close()
            self._wake.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
