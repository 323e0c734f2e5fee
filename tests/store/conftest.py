"""Stores, and runs with metrics."""

from __future__ import annotations

import pytest

from flowstore.store import opening
from support.cli import Script
from support.flows import LINEAR, flow_source
from support.measuring import HEAD, METRICS


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    made = opening.ensure_store(tmp_path / "codecs.db")
    yield made
    made.close()


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """Run a flow in a folder of its own; gives the script."""

    def run(source, *args, **kwargs):
        folder = tmp_path_factory.mktemp("metrics")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FLOWSTORE_HOME", str(folder / "home"))
            patch.setenv("FLOWSTORE_USER", "tester")
            script = Script(folder, source)
            script("run", *args, **kwargs)
        return script

    return run


@pytest.fixture(scope="module")
def measured(run_once):
    """A run with metrics of all kinds."""
    return run_once(flow_source(LINEAR, head=HEAD, members="alpha = Parameter('alpha', default=0.5)", start=METRICS))
