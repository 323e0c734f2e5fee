"""Every test has a folder, a home and a user of its own, and leaves a sound store behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from harness import Script
from hypothesis import settings

from flowstore import context

settings.register_profile("steady", deadline=None, derandomize=True)  # the same examples on each machine, however slow
settings.load_profile("steady")


def pytest_xdist_auto_num_workers():
    """One worker more than there are cores: a test mostly waits for the processes that it started."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    """No test sees the user's own files, settings or store, nor what another test chose."""
    for name in [name for name in os.environ if name.startswith("FLOWSTORE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLOWSTORE_USER", "tester")
    monkeypatch.chdir(tmp_path)
    yield
    _close()
    context.state.namespace = context.DEFAULT
    context.state.task = {}
    context.state.flow_module = None


def _close():
    if context.state.store is not None:
        context.state.store.close()
        context.state.store = None


@pytest.fixture
def flow(tmp_path):
    """Write a flow's source into the test's folder; gives the `Script`, whose store is checked at the end."""
    made = []

    def write(source):
        made.append(Script(tmp_path, source))
        return made[-1]

    yield write
    _close()
    for script in made:
        script.check()


@pytest.fixture
def open_folder():
    """A folder that other accounts may look into, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="flowstore-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)
