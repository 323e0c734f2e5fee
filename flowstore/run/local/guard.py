"""A program that outlives a driver for a moment, to kill the process groups that were reported to it.

It reads a line for each group: its number when it begins, and the same with a minus when its leader has ended. It
imports nothing of flowstore, so that it costs little.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Read until the driver's end of the pipe is closed, by the system if need be."""
    groups: set[int] = set()
    for line in sys.stdin:
        number = int(line)
        if number > 0:
            groups.add(number)
        else:
            groups.discard(-number)
    for group in groups:
        with contextlib.suppress(OSError):  # all of it ended by itself
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
