"""The two libraries that run the same flows, the other peers, and what a benchmark is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from benchmarks import measure

FLOWS = Path(__file__).parent / "flows"
PROGRAMS = Path(__file__).parent / "peers"
USER = "bench"


@attrs.frozen
class Library:
    """A library that runs flows.

    Attributes:
        name: as it is imported.
        python: the interpreter that has it.
    """

    name: str
    python: str

    def command(self, flow: str, folder: Path, *arguments: object, verb: str = "run") -> list[str]:
        """Put a flow's file into a folder; return the command line that runs it, two tasks at a time."""
        script = folder / f"{flow}.py"
        if not script.exists():
            text = (FLOWS / script.name).read_text("utf-8")
            script.write_text(text.replace("from flowstore import", f"from {self.name} import"), "utf-8")
        options = ["--max-workers", 2, "--max-num-splits", 10_000, *arguments]
        return [self.python, script.name, "--quiet", verb, *map(str, options)]

    def environment(self, store: Path) -> dict[str, str]:
        """Return the environment in which both keep what they store, and all else, in one folder."""
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
class Peers:
    """The interpreter that other libraries are run with.

    Attributes:
        python: its path.
        versions: of Python, and of each peer that is installed there.
    """

    python: str
    versions: Mapping[str, str]

    def installed(self, *names: str) -> list[str]:
        """Those of the peers that are there."""
        return [name for name in names if name in self.versions]

    def missing(self, *names: str) -> list[str]:
        """Those of the peers that are not."""
        return [name for name in names if name not in self.versions]

    def command(self, program: str, *arguments: object) -> list[str]:
        """Return the command line of a program in `peers/`."""
        return [self.python, "-P", str(PROGRAMS / f"{program}.py"), *map(str, arguments)]

    def run(self, program: str, folder: Path, *arguments: object) -> measure.Process:
        """Run a program in `peers/` to its end, in a folder where it may leave what it likes."""
        return measure.run(self.command(program, *arguments), folder, environment(folder))


PEERS = ("metaflow", "luigi", "distributed", "redun", "joblib", "mlflow", "scikit-learn")


def find_peers(python: str) -> Peers:
    """Return which peers an interpreter has: only their metadata is read, since importing them all takes seconds."""
    code = f"""
import json, platform
from importlib.metadata import PackageNotFoundError, version
found = {{"python": platform.python_version()}}
for name in {PEERS!r}:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))"""
    found = subprocess.run([python, "-c", code], capture_output=True, check=True, text=True)
    return Peers(python, json.loads(found.stdout))


@contextmanager
def asked(peers: Peers, program: str, folder: Path, *arguments: object) -> Iterator[Callable[[str], float]]:
    """Start a program that fills a store, then answers each name of a question with the microseconds it took."""
    folder.mkdir()
    with (folder / "errors.txt").open("w+", encoding="utf-8") as errors:
        command = peers.command(program, *arguments)
        child = subprocess.Popen(
            command, cwd=folder, env=environment(folder), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        questions, answers = child.stdin, child.stdout

        def ask(question: str) -> float:
            print(question, file=questions, flush=True)
            answer = answers.readline()
            if not answer:
                errors.seek(0)
                raise measure.Failed(f"{' '.join(command)} gave no answer\n{errors.read()[-2000:]}")
            return float(answer)

        try:
            yield ask
        finally:
            questions.close()
            child.wait()
            answers.close()


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a peer's program, which keeps all that it writes in one folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONPATH")}
    return inherited | {"USER": USER, "USERNAME": USER, "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}


@attrs.frozen
class Settings:
    """Options of a benchmark.

    Attributes:
        scratch: a folder for all that is written.
        rounds: how often each contestant is measured.
        smoke: tiny sizes, to see that everything works.
        full: also the sizes that take long.
        peers: whom flowstore is measured beside.
    """

    scratch: Path
    rounds: int
    smoke: bool
    full: bool
    peers: Peers

    def size(self, usual: int, smoke: int) -> int:
        """Return the usual size, or the tiny one."""
        return smoke if self.smoke else usual

    @property
    def libraries(self) -> Sequence[Library]:
        """flowstore, and the peer if it is there."""
        return [FLOWSTORE] if self.metaflow is None else [FLOWSTORE, self.metaflow]

    @property
    def metaflow(self) -> Library | None:
        """The peer that runs the same flows, if it is there."""
        return Library("metaflow", self.peers.python) if "metaflow" in self.peers.versions else None

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield a new folder, removed again after use."""
        made = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            yield made
        finally:
            shutil.rmtree(made)
