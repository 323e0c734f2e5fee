"""Helpers for the code of steps: functions on several cores, and how long a part takes."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

from flowstore.errors import FlowstoreError

Item = TypeVar("Item")
Value = TypeVar("Value")


def parallel_map(
    func: Callable[[Item], Value],
    iterable: Iterable[Item],
    max_parallel: int | None = None,
    dir: str | None = None,
) -> list[Value]:
    """Return what a function returns for each item, in the items' order, using several cores.

    Args:
        func: any callable, lambdas included. It runs in a process of its own for each item, which has all that this
            one has, and whose changes nobody else sees.
        iterable: the items.
        max_parallel: how many run at a time; default: one per core.
        dir: the folder for temporary files.

    Raises:
        FlowstoreError: the function raised, or its process died; the error of the function is its cause.

    Example:
        >>> parallel_map(lambda number: number**2, [1, 2, 3])
        [1, 4, 9]
    """
    values = dict(_map(func, iterable, max_parallel, dir))
    return [values[number] for number in sorted(values)]


def parallel_imap_unordered(
    func: Callable[[Item], Value],
    iterable: Iterable[Item],
    max_parallel: int | None = None,
    dir: str | None = None,
) -> Iterator[Value]:
    """Yield what a function returns for the items, each as soon as it is there; see `parallel_map`.

    Example:
        >>> sorted(parallel_imap_unordered(str.upper, "ab"))
        ['A', 'B']
    """
    return (value for _, value in _map(func, iterable, max_parallel, dir))


def _map(
    func: Callable[[Item], Value], iterable: Iterable[Item], max_parallel: int | None, folder: str | None
) -> Iterator[tuple[int, Value]]:
    """Yield the number of each item and its value, as they come."""
    most = max(1, max_parallel or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="flowstore-map-", dir=folder) as results:
        running: dict[int, int] = {}
        try:
            for number, item in enumerate(iterable):
                while len(running) >= most:
                    yield _next_value(running, results)
                running[_start(func, item, f"{results}/{number}")] = number
            while running:
                yield _next_value(running, results)
        finally:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
                os.waitpid(pid, 0)


def _start(func: Callable[[Item], Value], item: Item, path: str) -> int:
    """Fork a process that writes the value of an item to a file; return its number."""
    import cloudpickle

    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that the step has threads: forking is what it asked for
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        try:
            result: tuple[bool, Any] = (True, func(item))
        except Exception as error:  # a user's function may raise anything
            import traceback

            traceback.print_exc()
            result = (False, error)
        try:
            data = cloudpickle.dumps(result)
        except Exception as error:
            data = cloudpickle.dumps((False, FlowstoreError(f"its result cannot be pickled: {error}")))
        Path(path).write_bytes(data)
        sys.stdout.flush()
        sys.stderr.flush()
        code = 0
    finally:
        os._exit(code)


def _next_value(running: dict[int, int], results: str) -> tuple[int, Any]:
    """Wait for one of the processes, and return its item's number and value."""
    import pickle

    pid, status = _wait_for_one(running)
    number = running.pop(pid)
    path = Path(results, str(number))
    if status != 0 or not path.exists():
        code = os.waitstatus_to_exitcode(status)
        how = f"exited with code {code}" if code >= 0 else f"was killed by signal {-code}"
        raise FlowstoreError(f"parallel_map: the process of item {number}, counted from 0, {how}.")
    succeeded, value = pickle.loads(path.read_bytes())  # noqa: S301  # what our own process has written
    path.unlink()
    if not succeeded:
        raise FlowstoreError(
            f"parallel_map: the function failed for item {number}, counted from 0: {type(value).__name__}: {value}"
        ) from value
    return number, value


def _wait_for_one(running: dict[int, int]) -> tuple[int, int]:
    """Wait for one of these processes: waiting for any child would take the exit codes of others that the step has."""
    pause_s = 0.0005
    while True:
        for pid in running:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return pid, status
        time.sleep(pause_s)  # no call waits for several children and leaves the others alone
        pause_s = min(2 * pause_s, 0.02)


@contextlib.contextmanager
def profile(label: str, stats_dict: MutableMapping[str, float] | None = None) -> Iterator[None]:
    """Measure how long a block takes, and print it, or add it to a dict.

    Args:
        label: what the block is called.
        stats_dict: where its milliseconds are added up under the label, rather than printed.

    Example:
        >>> took = {}
        >>> with profile("sum", took):
        ...     _ = sum(range(10))
        >>> list(took)
        ['sum']
    """
    if stats_dict is None:
        print(f"PROFILE: {label} starting", flush=True)
    began = time.perf_counter()
    try:
        yield
    finally:
        took_ms = (time.perf_counter() - began) * 1000
        if stats_dict is None:
            print(f"PROFILE: {label} completed in {took_ms:.0f} ms", flush=True)
        else:
            stats_dict[label] = stats_dict.get(label, 0) + took_ms
