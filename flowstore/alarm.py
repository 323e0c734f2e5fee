"""A limit on how long a block of code may take, where the system has timers that interrupt it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def limited(seconds: float, error: BaseException) -> Iterator[None]:
    """Raise an error in a block when its time is up.

    What does not return to Python is not interrupted, nor is anything outside the main thread or on Windows.

    Args:
        seconds: how long it may take.
        error: what to raise.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise error

    handler = signal.signal(signal.SIGALRM, expire)
    left_s, interval_s = signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left_s:  # a timer of the user's own goes on; one that fell due meanwhile fires now
            signal.setitimer(signal.ITIMER_REAL, max(left_s - (time.monotonic() - began), 1e-6), interval_s)
