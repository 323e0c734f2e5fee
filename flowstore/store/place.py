"""What lies at a store's path: which file, and the side files that SQLite keeps beside it."""

from __future__ import annotations

import os
from pathlib import Path


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at a path from any other, or `None` where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # with each commit, so as fast as can be
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def side(path: Path, suffix: str) -> Path:
    """A side file: SQLite follows a link to the store before it names them."""
    return Path(os.path.realpath(path) + suffix)


def beside(path: Path, suffix: str) -> bool:
    """Whether there is such a side file, with something in it."""
    try:
        return side(path, suffix).stat().st_size > 0
    except FileNotFoundError:  # others remove it at any moment
        return False
