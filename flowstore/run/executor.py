"""The contract of executors, which run attempts: seven methods and a few events.

    launch(order, step) -> number     start an attempt
    wait(timeout_s) -> [event]        what attempts did since the last call: `Started` first, or `Died` and no more
    answer(number, message)           reply to an offer
    kill(number, signal)              end an attempt, with its process group
    watch(socket)                     let `wait` return as soon as the socket can be read
    finish() -> [number]              let processes end that wait for attempts; their last attempts' `Ended` follows
    close()                           end everything

The driver knows no more than this, so that tasks can run elsewhere than on this machine (`run.local`), too.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from flowstore.store.description import NewBlob

LOST_CONNECTION = 74  # the exit code of a process that could not send its report: EX_IOERR of sysexits(3)


@attrs.frozen(eq=False, repr=False)
class Started:
    """An attempt runs, in the process `pid`."""

    number: int
    pid: int


@attrs.frozen(eq=False, repr=False)
class Printed:
    """An attempt wrote to `stream`."""

    number: int
    stream: str
    data: bytes


@attrs.frozen(eq=False, repr=False)
class Offered:
    """An attempt has large contents; it waits for an answer that says which to send."""

    number: int
    large: list[NewBlob]


@attrs.frozen(eq=False, repr=False)
class Sent:
    """The next chunk of the contents that were asked for."""

    number: int
    data: bytes


@attrs.frozen(eq=False, repr=False)
class Reported:
    """An attempt is over, and says how. Its process goes on until `Ended`, as a script does after its last line."""

    number: int
    report: dict[str, Any]


@attrs.frozen(eq=False, repr=False)
class Ended:
    """The process of an attempt that has reported has done what was left to do, or died meanwhile.

    `code`, `signal`: how it died, if it did not end by itself.
    `kept`: it waits for the next attempt of its step.
    """

    number: int
    code: int = 0
    signal: int | None = None
    kept: bool = False

    def __str__(self) -> str:
        how = f"exited with code {self.code}" if self.signal is None else f"was killed by {signal_name(self.signal)}"
        return f"The task's process {how} after it had delivered its result, while it was ending. The result is kept."


@attrs.frozen(eq=False, repr=False)
class Died:
    """An attempt's process ended without a report: `signal` killed it, or it exited with `code`.

    `garbled`: it had sent something that is no message, so the executor killed it.
    `refused`: the errno with which the system refused to start it, so that there was none.
    """

    number: int
    code: int | None
    signal: int | None
    garbled: bool = False
    refused: int | None = None

    def __str__(self) -> str:
        if self.refused is not None:
            name = errno.errorcode.get(self.refused, self.refused)
            return (
                f"The task's process could not be started ({name}: {os.strerror(self.refused)}): a limit on processes "
                "or memory is reached. Run fewer tasks at a time, with --max-workers, or raise the limit "
                "(ulimit -u, or the container's)."
            )
        if self.garbled:
            return "The task's process was killed, since it wrote to the connection that flowstore uses itself."
        if self.code == LOST_CONNECTION:
            return (
                f"The task's process exited with code {self.code}: its connection to the driver was closed, "
                "by the step perhaps, so that its results could not be sent."
            )
        if self.signal is not None:
            name = signal_name(self.signal)
            hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
            return f"The task's process was killed by {name}{hint}."
        return f"The task's process exited with code {self.code} before the step had finished."


Event = Started | Printed | Offered | Sent | Reported | Ended | Died


def signal_name(number: int) -> str:
    """The name of a signal, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Executor(Protocol):
    """An executor: it runs attempts and reports what they do.

    Attributes:
        notice: what to tell the user about how it runs them, if there is something.
    """

    notice: str | None

    def launch(self, order: Mapping[str, Any], step: str) -> int: ...
    def wait(self, timeout_s: float | None) -> list[Event]: ...
    def answer(self, number: int, message: dict[str, Any]) -> None: ...
    def kill(self, number: int, how: signal.Signals) -> None: ...
    def watch(self, waker: socket.socket) -> None: ...
    def finish(self) -> list[int]: ...
    def close(self) -> None: ...
