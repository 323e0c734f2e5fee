"""One call after the other in a thread, while its caller goes on: for what lets other threads run, as SQLite does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Aside:
    """Runs calls in the order in which they come. Where there is no thread to be had, each runs at once."""

    def __init__(self) -> None:
        try:
            from concurrent.futures import ThreadPoolExecutor  # here, since it takes 6 ms to import

            self._thread: Any = ThreadPoolExecutor(1)
            self._last: Any = self._thread.submit(int)  # starts it
        except RuntimeError:  # a limit on processes is reached, or Python is about to end
            self._thread = self._last = None

    def run(self, call: Callable[..., object], *arguments: Any) -> None:
        """Run a call once the one before is done, so that no more than one waits; raises what that one raised."""
        self.wait()
        try:
            self._last = self._thread and self._thread.submit(call, *arguments)
        except RuntimeError:  # Python began to end
            self._last = None
        if self._last is None:
            call(*arguments)

    def wait(self) -> None:
        """Wait until the last call is done; raises what it raised."""
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        """Wait until the last call is done, whether or not it succeeded, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()
