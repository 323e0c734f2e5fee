"""A pilot: the program of a Slurm job. It connects to the driver that submitted it, and becomes one of its hosts.

What it must know comes in one variable of its environment, which it removes at once: tasks never see it. Where there is
nothing to connect to, since the driver has ended, it ends at once. It says by its exit code why it could not become a
host: a job has no other way to tell, since it need not share a folder with the driver.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import sys
from types import FrameType

from flowstore import later

VARIABLE = "FLOWSTORE_PILOT"
NOT_INSTALLED = 72  # exit codes
NO_DRIVER = 73
CONNECT_S = 30.0

PROGRAM = f"""import sys
sys.path[:] = filter(None, sys.path)
try:
    from flowstore.run.remote.pilot import main
except ModuleNotFoundError:
    sys.exit({NOT_INSTALLED})
main()"""  # the argument of `python -c`; no module may come from the job's folder


@later.frozen
class Ticket:
    """Everything that a pilot must know.

    Attributes:
        address, port: where the driver listens.
        number: the pilot's.
        secret: what both ends know.
    """

    address: str
    port: int
    number: int
    secret: bytes

    def packed(self) -> str:
        """Return it as the value of an environment variable."""
        return f"{self.address} {self.port} {self.number} {self.secret.hex()}"

    @classmethod
    def unpacked(cls, text: str) -> Ticket:
        """Return the ticket in the value of a variable."""
        address, port, number, secret = text.split()
        return cls(address, int(port), int(number), bytes.fromhex(secret))


def main() -> None:
    """Connect to the driver, and run a host until it has no more work."""
    ticket = Ticket.unpacked(os.environ.pop(VARIABLE))
    if importlib.util.find_spec("msgpack") is None:
        sys.exit(NOT_INSTALLED)
    from flowstore.run.remote import host, signed

    try:
        connection = socket.create_connection((ticket.address, ticket.port), CONNECT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = signed.claim(connection, ticket.secret, ticket.number, int(os.environ.get("SLURM_PROCID", "0")))
    except OSError as error:
        print(f"No driver at {ticket.address}:{ticket.port}: {error}", file=sys.stderr)
        sys.exit(NO_DRIVER)
    stream.set_inheritable(False)
    _end_at_signals(stream)
    host.serve(stream)


def _end_at_signals(stream: socket.socket) -> None:
    """Have Slurm's signals, which come seconds before it kills a job, end the stream, and with it host and tasks."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # of a protocol
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
