"""The attempts of a run, as its driver follows them: those that run, and those that have finished."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs

from flowstore.run.contents import Arriving
from flowstore.run.lines import Lines
from flowstore.run.plan import PlannedTask

LAST_LINES = 5  # of what it printed, an attempt that died is remembered by
END_S = 10.0  # for what a process has to do after its attempt
OVERSTAYED = (
    f"The task's process was killed: {END_S:g} s after it had delivered its result it was still ending, with threads, "
    "atexit hooks or open files. The result is kept.\n"
).encode()


@attrs.define(eq=False, repr=False)
class RunningTask:
    """A task that was started, through all of its attempts."""

    planned: PlannedTask
    id: int
    item: str | None = None  # a preview of its foreach item
    attempt: int = -1
    attempt_id: int = 0
    number: int = 0  # the executor's, of the present attempt
    pid: int | None = None
    deadline: float | None = None
    timed_out: bool = False
    stopped: bool = False
    reported: bool = False
    fallback: Mapping[str, str] | None = None
    measured: Collection[str] = ()  # the artifacts whose metrics its last attempt changed
    streams: dict[str, Lines] = attrs.field(factory=dict)
    last_lines: deque[str] = attrs.field(factory=lambda: deque(maxlen=LAST_LINES))
    arriving: Arriving = attrs.field(factory=Arriving)


@attrs.define(eq=False, repr=False)
class Finished:
    """How an attempt ended, on its way into the store, and what follows from it once its process has ended."""

    task: RunningTask
    report: Mapping[str, Any]
    due: float  # when it is to be in the store at the latest
    ended: bool = False
    follow: Callable[[], None] = lambda: None
