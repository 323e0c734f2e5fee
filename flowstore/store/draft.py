"""A file's draft: written beside its place, under a name that nobody else has, so that it gets there in one step."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A new, empty file to be renamed or linked to `place`; what is left of it is removed.

    Made here rather than by whoever fills it: a file that is there, or a link, is never written through, and SQLite
    would ignore a generous umask.
    """
    path = place.with_name(f".{place.name}.{os.getpid()}-{random.getrandbits(32):08x}")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
    try:
        yield path
    finally:
        for suffix in ("", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
