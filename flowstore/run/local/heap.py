"""The heap of the task server, before it forks.

Imports leave free pieces all over the memory of `malloc`. A forked task takes them for the first that it allocates,
each on a page that it then has to copy: in a process that has imported scikit-learn, SQLite copies 700 pages more when
it reads the schema of the store. So the server takes these pieces before it forks, and what a task allocates is on new
pages, close together.
"""

from __future__ import annotations

import ctypes

_LARGEST, _LEAST = 1 << 16, 24  # bytes: what is larger than the first is pages of its own, and no piece is smaller
_SMALL = 1032  # bytes: of each size up to this one, glibc keeps a few pieces beside, which it gives first
_MANY = 32
_COUNTS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Mallinfo(ctypes.Structure):
    """See mallinfo2(3)."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in _COUNTS.split())


def fill_holes() -> None:
    """Take the free pieces of this process's heap, for good; do nothing where its `malloc` is not glibc's."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return
    libc.mallinfo2.restype = _Mallinfo
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    size, free = _LARGEST, _free_bytes(libc)
    while size >= _LEAST:
        for _ in range(_MANY if size <= _SMALL else 1):
            libc.malloc(size)
        before, free = free, _free_bytes(libc)
        if free >= before:  # no piece of this size was left
            size = size * 3 // 4


def _free_bytes(libc: ctypes.CDLL) -> int:
    info = libc.mallinfo2()
    return int(info.fordblks - info.keepcost)  # without what is at the end of the heap
