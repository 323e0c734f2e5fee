"""The two libraries that run the same flows, and what a benchmark is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from benchmarks import measure

FLOWS = Path(__file__).parent / "flows"
USER = "bench"


@attrs.frozen
class Library:
    """What runs a flow.

    Attributes:
        name: as it is imported.
        python: the interpreter that has it.
    """

    name: str
    python: str

    def command(self, flow: str, folder: Path, *arguments: object, verb: str = "run") -> list[str]:
        """The command line that runs a flow, two tasks at a time, after putting the flow's file into a folder."""
        script = folder / f"{flow}.py"
        if not script.exists():
            text = (FLOWS / script.name).read_text("utf-8")
            script.write_text(text.replace("from flowstore import", f"from {self.name} import"), "utf-8")
        options = ["--max-workers", 2, "--max-num-splits", 10_000, *arguments]
        return [self.python, script.name, "--quiet", verb, *map(str, options)]

    def environment(self, store: Path) -> dict[str, str]:
        """The environment in which both keep what they store, and all else, in one folder."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("FLOWSTORE", "METAFLOW"))
        }
        if self.name == "flowstore":
            inherited["PYTHONPATH"] = str(measure.ROOT)  # the one beside the benchmarks, whichever is installed
        return inherited | {
            "USER": USER,
            "USERNAME": USER,
            "FLOWSTORE_STORE": str(store / "flowstore.db"),
            "FLOWSTORE_HOME": str(store / "home"),
            "METAFLOW_HOME": str(store / "home"),
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(store),
            "METAFLOW_DEFAULT_DATASTORE": "local",
            "METAFLOW_DEFAULT_METADATA": "local",
        }

    def run(self, flow: str, store: Path, *arguments: object, verb: str = "run", expect: int = 0) -> measure.Process:
        """Run a flow to its end, with its file and its store in one folder."""
        command = self.command(flow, store, *arguments, verb=verb)
        return measure.run(command, store, self.environment(store), expect=expect)


FLOWSTORE = Library("flowstore", sys.executable)


@attrs.frozen
class Settings:
    """What a benchmark is asked for.

    Attributes:
        scratch: a folder for all that is written.
        rounds: how often each contestant is measured.
        smoke: tiny sizes, to see that everything works.
        full: also the sizes that take long.
        metaflow: the peer, if it is installed.
    """

    scratch: Path
    rounds: int
    smoke: bool
    full: bool
    metaflow: Library | None

    def size(self, usual: int, smoke: int) -> int:
        """The usual size, or the tiny one."""
        return smoke if self.smoke else usual

    @property
    def libraries(self) -> Sequence[Library]:
        """flowstore, and the peer if it is there."""
        return [FLOWSTORE] if self.metaflow is None else [FLOWSTORE, self.metaflow]

    @property
    def missing(self) -> str | None:
        """The peer's name, if it is not there."""
        return "metaflow" if self.metaflow is None else None

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new folder, removed again after use."""
        made = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            yield made
        finally:
            shutil.rmtree(made)


def find_metaflow(python: str) -> Library | None:
    """The peer, if that interpreter can import it."""
    code = "import metaflow"
    found = subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
    return Library("metaflow", python) if found else None
