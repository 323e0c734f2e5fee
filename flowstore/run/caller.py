"""The Python program that started this command line, if one did, as `flowstore.runner` does.

The two processes exchange files in a folder, of which the command line learns from its environment: the program leaves
the values of parameters there, and reads which run or task was started.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowstore import later

VARIABLE = "FLOWSTORE_RUNNER"


@later.frozen
class Started:
    """The run, task or deployment that a command line has started.

    Attributes:
        pathspec: of the run, or of the task; of a deployment, its flow's name and its id.
        store: the path of the store's file.
    """

    pathspec: str
    store: str


class Exchange:
    """The folder through which a program and the command line that it started exchange values.

    Args:
        folder: its path.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def put_values(self, values: Mapping[str, Any]) -> None:
        """Leave the values of parameters for the command line."""
        (self.folder / "values.json").write_text(json.dumps(values, default=_plain), "utf-8")

    def values(self) -> dict[str, Any]:
        """Return the values of parameters that the program left, by the parameters' names."""
        try:
            return dict(json.loads((self.folder / "values.json").read_text("utf-8")))
        except FileNotFoundError:
            return {}

    def put_resume_hint(self, text: str) -> None:
        """Say what the user would write to resume a run, with `{run_id}` in the position of its id."""
        (self.folder / "hint").write_text(text, "utf-8")

    def resume_hint(self, run_id: int) -> str | None:
        """Return what the user would write to resume a run, if the program has said so."""
        try:
            return (self.folder / "hint").read_text("utf-8").format(run_id=run_id)
        except FileNotFoundError:
            return None

    def announce(self, started: Started) -> None:
        """Say what was started; a program that has gone on to something else needs no answer."""
        temporary = self.folder / "started.new"
        try:
            temporary.write_text(json.dumps(later.as_dict(started)), "utf-8")
            temporary.rename(self.folder / "started.json")
        except FileNotFoundError:
            return

    def started(self) -> Started | None:
        """Return what the command line has started, once it has."""
        try:
            return Started(**json.loads((self.folder / "started.json").read_text("utf-8")))
        except FileNotFoundError:
            return None


@functools.cache
def calling() -> Exchange | None:
    """Return the exchange with the program that started this process, if one did; its own children learn nothing of it.

    The first call has to come before anything is started, since it removes the variable.
    """
    folder = os.environ.pop(VARIABLE, None)
    return None if folder is None else Exchange(folder)


def announce(pathspec: str, store: os.PathLike[str]) -> None:
    """Say what was started to the program that started this process, if one did."""
    exchange = calling()
    if exchange is not None:
        exchange.announce(Started(pathspec, os.fspath(store)))


def _plain(value: Any) -> Any:
    """Return a value that JSON lacks as one that it has: numbers and arrays of NumPy, paths, and others as text."""
    for method in ("item", "tolist"):
        if hasattr(value, method):
            try:
                return getattr(value, method)()
            except (TypeError, ValueError):
                continue
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)
