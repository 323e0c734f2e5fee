"""Reads files below one folder, whoever wrote it: no link leads out of it, and nothing is read without a limit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from flowstore.context import is_text
from flowstore.errors import FlowstoreError
from flowstore.text import counted, one_line

MAX_JSON = 64 << 20
_SMALL = 65536
_MOST_SHOWN = 10  # problems in one message
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f/]{1,255}")


class Problem(Exception):  # nobody but this package sees it
    """A file is not as Metaflow writes it.

    Args:
        path: the file, relative to the folder.
        what: what is wrong with it.
    """

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path or '.'}: {what}")


def clean(text: str) -> str:
    """Return a text that can be stored and shown, whatever it was: without NUL characters and lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()


class Folder:
    """A folder whose files are read; paths are relative to it, with slashes.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = os.fspath(root)
        self._sound: set[str] = set()  # folders that are no links

    def _full(self, path: str) -> str:
        return f"{self._prefix}/{path}" if path else self._prefix

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the files in a folder, in order; both are empty where it is missing.

        Raises:
            Problem: a name in it is not text, a link or something else is there, or it cannot be read.
        """
        folders, files = [], []
        try:
            if not self._is_folder(path):
                return [], []
            with os.scandir(self._full(path)) as entries:
                for entry in entries:
                    if not _NAME.fullmatch(entry.name) or not is_text(entry.name):
                        raise Problem(path, f"it holds the name {entry.name!r}")
                    if entry.is_file(follow_symlinks=False):
                        files.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    else:
                        raise Problem(f"{path}/{entry.name}", "it is a link or something else that is no file")
        except OSError as error:
            raise Problem(path, error.strerror or str(error)) from error
        self._sound.update(f"{path}/{name}" if path else name for name in folders)
        return sorted(folders), sorted(files)

    def _is_folder(self, path: str) -> bool:
        """Return whether a folder is there.

        Raises:
            Problem: it, or a folder above it, is a link.
        """
        if not path or path in self._sound:
            return True
        above, _, _ = path.rpartition("/")
        if not self._is_folder(above):
            return False
        try:
            mode = os.lstat(self._full(path)).st_mode
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Problem(path, error.strerror or str(error)) from error
        if not stat.S_ISDIR(mode):
            raise Problem(path, "it is no folder")
        self._sound.add(path)
        return True

    def has(self, path: str) -> bool:
        """Return whether there is a file, or anything else, at a path."""
        return os.path.lexists(self._full(path))

    def open(self, path: str) -> BinaryIO | None:
        """Return a file, opened to be read; `None` where it is missing.

        Raises:
            Problem: it, or a folder above it, is a link or no file, or cannot be read.
        """
        file = self._open(path)
        return None if file is None else os.fdopen(file, "rb")

    def _open(self, path: str) -> int | None:
        if not self._is_folder(path.rpartition("/")[0]):
            return None
        try:
            file = os.open(self._full(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Problem(path, f"it cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise Problem(path, "it is no file")
        return file

    def json(self, path: str) -> dict[str, Any] | None:
        """Return the JSON object in a file; `None` where it is missing.

        Raises:
            Problem: it cannot be read, or is not a JSON object.
        """
        file = self._open(path)
        if file is None:
            return None
        try:
            data = os.read(file, _SMALL)  # without a file object, which takes longer to make than these files to read
            while len(data) >= _SMALL and len(data) <= MAX_JSON and (more := os.read(file, MAX_JSON)):
                data += more
        finally:
            os.close(file)
        if len(data) > MAX_JSON:
            raise Problem(path, f"it has more than {counted(MAX_JSON, 'byte')}")
        try:
            value = _DECODER.decode(data.decode())
        except (ValueError, RecursionError) as error:
            raise Problem(path, "it is not JSON" if data else "it is empty") from error
        if type(value) is not dict:
            raise Problem(path, "it is not a JSON object")
        return value

    def newest_change(self, path: str) -> float:
        """Return when a folder, or one in it, has changed last, in seconds since 1970."""
        folders = (folder for folder, _, _ in os.walk(self._full(path), followlinks=False))
        return max((os.lstat(folder).st_mtime for folder in folders), default=0.0)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


class Fields:
    """The fields of one JSON object, whose types are checked as they are read.

    Args:
        path: its file, for messages.
        values: the object.
    """

    def __init__(self, path: str, values: dict[str, Any]) -> None:
        self.path = path
        self._values = values

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text; raise Problem where it is something else, or missing without a default."""
        value = self._values.get(name, default)
        if type(value) is int and name != "type":
            value = str(value)
        if type(value) is not str or not is_text(value):
            raise self.wrong(name)
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of texts; raise Problem where it is something else. None are none."""
        values = self._values.get(name) or []
        if type(values) is not list or not all(type(value) is str and is_text(value) for value in values):
            raise self.wrong(name)
        return values

    def time_ms(self, name: str) -> int:
        """Return a time in milliseconds since 1970; raise Problem where it is none."""
        value: Any = self._values.get(name)
        if type(value) not in {int, float} or not 0 <= value < 253402300800000:
            raise self.wrong(name)
        return int(value)

    def members(self, name: str) -> dict[str, Any]:
        """Return an object; raise Problem where it is something else."""
        value = self._values.get(name)
        if type(value) is not dict:
            raise self.wrong(name)
        return value

    def get(self, name: str) -> Any:
        """Return any value; `None` where it is missing."""
        return self._values.get(name)

    def wrong(self, name: str) -> Problem:
        """Return the problem that a field is missing or of another type."""
        return Problem(self.path, f"its {name} is missing or malformed")


class Report:
    """Collects the problems of a folder, so that one message names them.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._problems: list[str] = []

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Add the problem that ends this context, if one does."""
        try:
            yield
        except Problem as problem:
            self._problems.append(one_line(str(problem)))  # a path or an id in it may hold anything

    def check(self) -> None:
        """Raise FlowstoreError if there is a problem."""
        if not self._problems:
            return
        first = self._problems[:_MOST_SHOWN]
        more = len(self._problems) - len(first)
        lines = [f"  {problem}" for problem in first] + ([f"  and {more} more"] if more else [])
        raise FlowstoreError(
            f"{self._root} is damaged, or was written only in part. Nothing was imported.\n"
            + "\n".join(lines)
            + "\nMove the folders of these runs away, or restore them, and import again."
        )


def root_of(folder: Path) -> Path:
    """Return the folder that holds Metaflow's runs: the one that is named, or `.metaflow` in it.

    Raises:
        FlowstoreError: neither holds any.
    """
    if not folder.is_dir():
        raise FlowstoreError(f"There is no folder {folder}. Name the .metaflow folder, or the one that it is in.")
    for root in (folder, folder / ".metaflow"):
        if root.is_dir() and any(True for _ in flow_folders(root)):
            return root.resolve()
    raise FlowstoreError(f"{folder} holds no runs of Metaflow. Name the .metaflow folder, or the one that it is in.")


def flow_folders(root: Path) -> Iterator[str]:
    """Yield the names of the folders that look like those of flows, in order."""
    try:
        entries = sorted(entry.name for entry in root.iterdir())
    except OSError as error:
        raise FlowstoreError(f"{root} cannot be read: {error.strerror}.") from error
    for name in entries:
        if (root / name).is_dir() and os.path.lexists(root / name / "_meta" / "_self.json"):
            yield name
