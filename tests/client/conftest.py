"""A store with five runs of two people, which each test opens."""

from __future__ import annotations

import attrs
import pytest

import flowstore
from flowstore import namespace, use_store
from support.cli import Script
from support.flows import LINEAR, flow_source
from support.history import BODIES, MEMBERS, SHAPE


@attrs.frozen
class Story:
    """A store with five runs: F/1 anne's, F/2 will's, G/3 anne's, F/4 anne's that fails, F/5 resumes it."""

    folder: object
    path: object


@pytest.fixture(scope="module")
def history(copy_of):
    """Made once; each test opens it."""
    folder = copy_of("history", _record)
    return Story(folder, folder / "flowstore.db")


def _record(folder):
    source = flow_source(SHAPE, members=MEMBERS, **BODIES)
    script = Script(folder, source)
    anne, will = ({"FLOWSTORE_USER": name, "FLOWSTORE_HOME": str(folder / "home")} for name in ("anne", "will"))
    script("run", "--tag", "blue", "--tag", "old", "--alpha", "0.1", **anne)
    script("run", "--tag", "blue", **will)
    other = flow_source(LINEAR, start='@catch(var="problem")\nraise KeyError("caught")')
    script.rewrite(other.replace("class F(", "class G(").replace("    F()", "    G()"))
    script("run", **anne)
    script.rewrite(flow_source(SHAPE, members=MEMBERS, **{**BODIES, "end": "assert not self.fail, 'on purpose'"}))
    script("run", "--fail", "true", "--tag", "late", expect=1, **anne)
    script.rewrite(source)
    script("resume", **anne)


@pytest.fixture
def everyone(history, monkeypatch):
    """The history's store, opened by anne, looking at everything."""
    monkeypatch.setenv("FLOWSTORE_USER", "anne")
    monkeypatch.setenv("FLOWSTORE_HOME", str(history.folder / "home"))
    use_store(history.path)
    namespace(None)
    return history


@pytest.fixture
def anne(everyone):
    """The same in anne's own namespace."""
    flowstore.default_namespace()
    return everyone
