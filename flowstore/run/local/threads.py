"""Threads of this process that its forked children lack, and that are missed there.

A fork copies one thread. Libraries that know this end their threads before a fork and start them again after it, as
OpenBLAS does, or start them again in the child, as jemalloc and Arrow do. Others wait in the child for ever for
threads that are not there: the pools of OpenMP and polars, a `ThreadPoolExecutor`. So the threads that count are those
that are still there after a fork, without those of jemalloc and Arrow.

The system says on which stack a waiting thread is. The return addresses there say to which libraries it belongs.
"""

from __future__ import annotations

import bisect
import os
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flowstore import later

_TASKS = Path("/proc/self/task")
_SURVIVING_NAMES = frozenset({"jemalloc_bg_thd"})  # started again in the child by jemalloc
_DISPENSABLE_MODULES = frozenset({"tqdm._monitor"})  # redraws bars that have not moved for 10 s
# Patterns are compiled where there are threads, which is rare.
_NEUTRAL = r"/(libc|libpthread|libstdc\+\+|libgcc_s|libm|ld-linux.*|ld-musl.*|libc\.musl.*)[.-][^/]*$"
_SURVIVING_LIBRARY = r"/libarrow\.[^/]*$"
_INSTALLED = r"/(site|dist)-packages/"
_OPENMP = r"/lib(gomp|omp|iomp5)\b[^/]*$"
_STACK_BYTES = 16 << 10  # of a stack, from its top, where a waiting thread's innermost calls are
_LAG_S = 0.05  # a thread that has been joined may be listed for a moment longer


@later.frozen
class _Mappings:
    """A map of the memory: the files of its executable parts, and the end of each part."""

    starts: list[int]
    ends: list[int]
    files: list[str]  # empty for code that is in no file

    def file_at(self, address: int) -> str:
        """Return the file that has its code at an address; empty where there is none."""
        at = bisect.bisect_right(self.starts, address) - 1
        return self.files[at] if at >= 0 and address < self.ends[at] else ""

    def end_after(self, address: int) -> int:
        """Return the end of the mapping that holds an address."""
        at = bisect.bisect_right(self.starts, address) - 1
        return self.ends[at] if at >= 0 and address < self.ends[at] else address


def missed_after_fork() -> list[str]:
    """Describe the threads that a child of this process would miss, to be called after a fork.

    Returns:
        A text for each kind of thread, such as `2 of OpenMP (scikit_learn)`; empty where a fork is safe.
    """
    if not _TASKS.is_dir():  # no Linux: there are no more to be seen than Python's own
        return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    deadline = time.monotonic() + _LAG_S
    while (kinds := _kinds()) and time.monotonic() < deadline:
        time.sleep(_LAG_S / 10)  # the kernel announces no end of a thread
    return [kind if count == 1 else f"{count} of {kind}" for kind, count in kinds.items()]


def notice(missed: Sequence[str], *, forked: bool) -> str:
    """Return the message about such threads, where tasks are forked all the same, or spawned instead."""
    which = f"({', '.join(missed)})"
    if forked:
        return (
            f"Warning: the import of the flow started threads that forked tasks miss {which}. A task that needs them "
            "hangs. Leave out --start-method fork, or start them in steps only."
        )
    return (
        f"The import of the flow started threads that forked tasks would miss {which}, so each task starts a fresh "
        "Python, which imports the flow again. Tasks start sooner where such threads are started in steps only."
    )


def _kinds() -> Counter[str]:
    """Return how many threads of each kind would be missed."""
    idents = [ident for ident in (int(task.name) for task in _TASKS.iterdir()) if ident != os.getpid()]
    if not idents:
        return Counter()
    known = {thread.native_id: thread for thread in threading.enumerate()}
    mappings = _mappings()
    kinds = [_python_kind(known[ident]) if ident in known else _kind(ident, mappings) for ident in idents]
    return Counter(kind for kind in kinds if kind is not None)


def _python_kind(thread: threading.Thread) -> str | None:
    """Return the name of a thread of Python's; `None` for one that a child does not miss."""
    return None if type(thread).__module__ in _DISPENSABLE_MODULES else thread.name


def _kind(ident: int, mappings: _Mappings) -> str | None:
    """Name the owner of a thread; `None` for one that survives a fork, or that has ended."""
    try:
        name = (_TASKS / str(ident) / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return None
    if name in _SURVIVING_NAMES:
        return None
    files = [file for file in _files_on_stack(ident, mappings) if not re.search(_NEUTRAL, file)]
    if files and all(re.search(_SURVIVING_LIBRARY, file) for file in files):
        return None
    return _label(files) or f"thread {name}"


def _label(files: Sequence[str]) -> str:
    """Return the usual name of the library that the stack shows most often."""
    for file, _ in Counter(files).most_common():
        package = _package(file)
        if re.search(_OPENMP, file):
            return f"OpenMP ({package})" if package else "OpenMP"
        if package:
            return package
    return ""


def _package(file: str) -> str:
    """Return the installed package of a library: `polars` for `…/site-packages/_polars_runtime_32/….so`."""
    *_, below = re.split(r"/(?:site|dist)-packages/", file) if re.search(_INSTALLED, file) else [""]
    return re.sub(r"\.libs$|\.cpython.*|\.abi3.*|_runtime.*", "", below.split("/")[0]).strip("_")


def _files_on_stack(ident: int, mappings: _Mappings) -> list[str]:
    """Return the files of the code that called a waiting thread; none for one that runs."""
    try:
        fields = (_TASKS / str(ident) / "syscall").read_text("ascii").split()
        pointer = int(fields[-2], 16)  # fails for "running"
        size = min(mappings.end_after(pointer) - pointer, _STACK_BYTES)
        with Path("/proc/self/mem").open("rb", buffering=0) as memory:
            memory.seek(pointer)
            stack = memory.read(size - size % 8)
    except (OSError, ValueError, IndexError):  # it ended, or this system does not tell
        return []
    return [file for (address,) in struct.iter_unpack("=Q", stack) if (file := mappings.file_at(address))]


def _mappings() -> _Mappings:
    mappings = _Mappings([], [], [])
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        span, rights, _, _, _, *file = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        mappings.starts.append(start)
        mappings.ends.append(end)
        mappings.files.append(file[0] if file and "x" in rights and file[0].startswith("/") else "")
    return mappings
