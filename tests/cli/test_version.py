"""The version is stated once, and `--version` prints what a bug report needs."""

from __future__ import annotations

import platform
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flowstore
from flowstore import _version

PACKAGE = Path(flowstore.__file__).parent
ROOT = PACKAGE.parent
FLOW = """\
from flowstore import FlowSpec, step

class F(FlowSpec):
    @step
    def start(self):
        self.next(self.missing)

if __name__ == "__main__":
    F()
"""


def printed(*words, folder):
    """Return what `python WORDS` prints, and what it says on stderr, in a folder with a store that is none."""
    (folder / "flowstore.db").write_text("not a store")
    result = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return result.stdout, result.stderr


def test_the_version_is_stated_once():
    """No file of the package or the project repeats it, and the build reads it where it is stated."""
    assert flowstore.__version__ == _version.__version__
    texts = [*PACKAGE.rglob("*.py"), ROOT / "pyproject.toml", ROOT / "README.md"]
    assert [path.name for path in texts if flowstore.__version__ in path.read_text("utf-8")] == ["_version.py"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["tool"]["hatch"]["version"]["path"] == "flowstore/_version.py"
    assert "version" in project["project"]["dynamic"]


def test_both_command_lines_print_the_versions(tmp_path):
    """The line is one and the same, whatever lies in the folder and however wrong the flow is."""
    (tmp_path / "flow.py").write_text(FLOW)
    line = (
        f"flowstore {flowstore.__version__}, {platform.python_implementation()} {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {platform.platform()}\n"
    )
    for words in (["-m", "flowstore"], ["-m", "flowstore", "--store", "none.db"], ["flow.py"], ["flow.py", "--quiet"]):
        assert printed(*words, "--version", folder=tmp_path) == (line, "")


@pytest.mark.untraced
def test_printing_the_versions_is_light(tmp_path):
    """It loads none of the packages that only some commands need."""
    _, imported = printed("-X", "importtime", "-m", "flowstore", "--version", folder=tmp_path)
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines()}
    assert "click" in modules
    assert not modules & {"sqlite_utils", "pandas", "numpy", "pyarrow", "rich", "cloudpickle", "multiprocessing"}
