"""The flows that come with the package run, and what `flowstore demo` prints can be pasted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowstore


@pytest.mark.parametrize("activated", [True, False], ids=["activated", "not activated"])
def test_demo_says_what_works(tmp_path, activated):
    """The lines that `flowstore demo` prints can be pasted, whether or not its environment is activated."""
    folders = [str(Path(sys.executable).parent)] if activated else []
    environment = {**os.environ, "PATH": os.pathsep.join([*folders, "/usr/bin", "/bin"])}
    ran = subprocess.run(
        [sys.executable, "-m", "flowstore", "demo"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line.strip() for line in ran.stdout.split("can be pasted:")[1].splitlines() if line.strip()]
    assert len(lines) >= 7
    *others, pages = lines
    for line in others:
        pasted = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert pasted.returncode == 0, (line, pasted.stderr)
        assert pasted.stdout.strip(), line
    with subprocess.Popen(
        f"exec {pages} --no-browser", shell=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout.readline().startswith("http://127.0.0.1:")
        server.terminate()
    assert [path.name for path in tmp_path.glob("*.db*")] == ["flowstore.db"]


@pytest.mark.parametrize("name", ["penguins", "digits"])
@pytest.mark.quick("penguins")
def test_tutorials(tmp_path, name):
    """The tutorials run, and their metrics can be asked for in SQL."""
    if name == "digits":
        pytest.importorskip("sklearn")
    command = [sys.executable, "-m", f"flowstore.tutorials.{name}", "--quiet", "run"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    with flowstore.use_store(tmp_path / "flowstore.db"):
        [flow] = flowstore.Flows()
        assert flow.latest_run.data.metrics["accuracy"] > 0.9
