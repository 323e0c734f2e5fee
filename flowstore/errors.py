"""The exception tree: every error says what happened, to what, and what to do.

    FlowstoreError
    ├── StoreNotFound (FileNotFoundError)      no store where one was looked for
    ├── NotAStore (ValueError)                 the file is something else
    ├── StoreCorrupt (ValueError)              the file is damaged, or was tampered with
    ├── StoreTooNew (ValueError)               a newer flowstore wrote it
    ├── NotFound (KeyError)                    no such flow, run, step, task or artifact
    ├── NamespaceMismatch (LookupError)        it exists, in another namespace
    ├── InvalidPathspec (ValueError)           not of the form Flow/run/step/task/artifact
    ├── TaggingError (ValueError)              a tag that can't be added or removed
    ├── ParameterError (ValueError)            a parameter's definition or value
    ├── GraphError (ValueError)                a flow whose steps don't fit together
    ├── TokenError (PermissionError)           a deployment that needs authorization
    ├── UntrustedArtifact (PermissionError)    a pickle that this user did not write
    ├── ArtifactError (ValueError)             a value that can't be stored or read back
    └── TaskFailed (RuntimeError)              a run that ended because a task failed
        └── TimeoutExpired                     an attempt that took longer than its @timeout

Each derives from the builtin that a caller would naturally catch. On a command line each is one
message on stderr, without a traceback, and exit code 1.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from flowstore.text import safe

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_TRANSIENT = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EAGAIN, errno.EMFILE,
        errno.ENFILE, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE,
    }
)  # fmt: skip


class FlowstoreError(Exception):
    """Whatever flowstore refuses or can't do."""

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed later, as when a full disk has room again."""
        return is_transient(self.__cause__)

    def __str__(self) -> str:
        """Return the message, fit to be shown; KeyError's own `str` would quote it."""
        return safe(str(self.args[0])) if self.args else ""


def is_transient(error: BaseException | None) -> bool:
    """Return whether an error is due to a state of the machine that may end, such as a full disk.

    Example:
        >>> is_transient(OSError(errno.ENOSPC, "No space left on device")), is_transient(FileNotFoundError(2, "x"))
        (True, False)
    """
    if isinstance(error, FlowstoreError):  # some of which are OSErrors, too
        return error.transient
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _TRANSIENT)


class StoreNotFound(FlowstoreError, FileNotFoundError):
    """There is no store where one was looked for."""

    transient = True  # a disk is not mounted yet, say


class NotAStore(FlowstoreError, ValueError):
    """The file is not SQLite, or not flowstore's."""


class StoreCorrupt(FlowstoreError, ValueError):
    """The file is damaged, or its schema was changed."""

    @classmethod
    def damaged(cls, problem: object, path: object = "The store") -> StoreCorrupt:
        """Return the error of a damaged file: the problem, and what always helps.

        Example:
            >>> print(StoreCorrupt.damaged("run 3 has no flow", "my.db"))
            my.db is damaged (run 3 has no flow). Restore a copy.
        """
        return cls(f"{path} is damaged ({problem}). Restore a copy.")


class StoreTooNew(FlowstoreError, ValueError):
    """The file was written by a newer flowstore."""


class NotFound(FlowstoreError, KeyError):
    """Nothing in the store has this address."""


class NamespaceMismatch(FlowstoreError, LookupError):
    """The object exists, outside the active namespace.

    Attributes:
        namespaces: those to switch to, a tag or `None` each.
    """

    def __init__(self, what: str, *namespaces: str | None) -> None:
        super().__init__(what, *namespaces)
        self.namespaces = namespaces

    def __str__(self) -> str:
        return self.message(lambda tag: "namespace(None)" if tag is None else f'namespace("{tag}")')

    def message(self, switch: Callable[[str | None], str]) -> str:
        """Render the message; `switch` formats how to change the namespace, in Python or on a command line."""
        return safe(f"{self.args[0]} {' or '.join(map(switch, self.namespaces))}".rstrip())


class InvalidPathspec(FlowstoreError, ValueError):
    """The text is not a pathspec of the expected depth."""


class TaggingError(FlowstoreError, ValueError):
    """A tag that can't be added, replaced or removed."""


class ParameterError(FlowstoreError, ValueError):
    """A parameter is defined wrongly, or its value does not fit."""


class GraphError(FlowstoreError, ValueError):
    """The steps of a flow don't fit together."""


class TokenError(FlowstoreError, PermissionError):
    """A deployment needs an authorization that was not given."""


class UntrustedArtifact(FlowstoreError, PermissionError):
    """Loading would run code that this user did not write and has not trusted."""


class ArtifactError(FlowstoreError, ValueError):
    """A value can't be stored, or can't be read back."""


class TaskFailed(FlowstoreError, RuntimeError):
    """A run ended because a task failed."""


class TimeoutExpired(TaskFailed):
    """An attempt took longer than its `@timeout`."""


_PACKAGE = f"{os.path.dirname(__file__)}{os.sep}"  # noqa: PTH120


def line_of_mistake(error: BaseException) -> str | None:
    """Return the file and line of a mistake in a flow's definition; `None` for any other error."""
    line, trace = None, error.__traceback__
    while trace is not None and isinstance(error, (GraphError, ParameterError)):
        path = trace.tb_frame.f_code.co_filename
        if not path.startswith((_PACKAGE, "<")):  # the latter are methods that attrs has written
            line = f"{path.removeprefix(os.getcwd() + os.sep)}:{trace.tb_lineno}"  # noqa: PTH109
        trace = trace.tb_next
    return line


def show_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error: a mistake in a flow's definition in one line, any other as Python does."""
    line = line_of_mistake(error)
    if line is None or hasattr(sys, "ps1"):  # at a prompt
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"Error: {line}: {error}", file=sys.stderr)
