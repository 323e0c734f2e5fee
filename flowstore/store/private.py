"""Files of this user's own, in `$FLOWSTORE_HOME`: read only where nobody else can have written them."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

from flowstore.errors import FlowstoreError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read(path: Path, what: str, *, secret: bool = False) -> bytes | None:
    """Return the bytes of a file, `None` where there is none.

    Args:
        path: the file, directly below its folder.
        what: what to call it in messages, as in `key`.
        secret: whether nobody else may read it either; a file that others can read is made private.

    Raises:
        OSError: it can't be read.
        FlowstoreError: it is not a regular file, or others can write it or its folder.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, for ever
        raise FlowstoreError(f"Your {what} {path} is not a regular file. Remove it.")
    if sys.platform != "win32":
        check_folder(path.parent)
        _check(path, status, f"Your {what} {path}")
        if secret and status.st_mode & _OTHERS:
            _make_private(path, what)
    return path.read_bytes()


def check_folder(folder: Path) -> None:
    """Refuse a folder for the user's own files that others can write.

    Raises:
        FlowstoreError: names it, and says what to do.
    """
    if sys.platform != "win32":
        with contextlib.suppress(FileNotFoundError):
            _check(folder, folder.stat(), f"The folder {folder}")


def _check(path: Path, status: os.stat_result, what: str) -> None:
    """Raise FlowstoreError where another account owns a file, or may write it; the user's own group may."""
    if status.st_uid not in _owners():
        raise FlowstoreError(
            f"{what} belongs to another account (number {status.st_uid}), so it is not used. "
            "Set $FLOWSTORE_HOME to a folder of your own."
        )
    own_group = status.st_gid == os.getegid()
    if status.st_mode & (stat.S_IWOTH if own_group else stat.S_IWOTH | stat.S_IWGRP):
        raise FlowstoreError(
            f"{what} can be written by other accounts, so it is not used. If you know that nobody has changed it, "
            f"make it your own: chmod go-w {path}"
        )


def _owners() -> set[int]:
    """Return the accounts whose files this user trusts: the own one, root, and who called sudo."""
    own = {os.geteuid(), 0}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        own.add(int(os.environ["SUDO_UID"]))
    return own


def _make_private(path: Path, what: str) -> None:
    with contextlib.suppress(OSError):  # of a medium that can't be written: then the message comes again next time
        path.chmod(0o600)
    print(
        f"Your {what} {path} could be read by other accounts; it is private now. If somebody may have copied it, "
        "remove it: a new one is made, and what the old one signed has to be trusted or deployed again.",
        file=sys.stderr,
    )
