"""Stores to export from and to import into."""

from __future__ import annotations

import pytest

from flowstore.store.opening import open_store
from support.recording import store_with, tag_node


@pytest.fixture
def source(tmp_path):
    """A store with a run of each kind, ids 1 to 5; run 4 resumes run 3."""
    path = store_with(
        tmp_path / "source.db",
        {"tags": ["blue", "red"], "x": 1, "parameters": {"alpha": 0.5}, "code": "print('one')"},
        {"flow": "G", "width": 2, "attempts": 2, "x": range(2), "user": "anne", "code": "print('two')"},
        {"width": 3, "fails_at": "join", "x": {"a": [1]}, "tags": ["blue"]},
        {"width": 3, "resumes": 3, "x": {"a": [1]}},
        {"x": "y" * 70_000, "status": "stopped", "printed": ""},
    )
    store = open_store(path)
    tag_node(store, "F", 1, "of a step", "start")
    tag_node(store, "F", 3, "of a task", "body", task=True)
    tag_node(store, "F", 1, "of an artifact", "start", artifact="x")
    store.close()
    return path


@pytest.fixture
def out(tmp_path):
    """Where something is exported to."""
    return tmp_path / "out.db"


@pytest.fixture
def target(tmp_path):
    """A store with runs of its own, ids 1 and 2, to import into."""
    return store_with(tmp_path / "target.db", {"x": range(2), "tags": ["green"]}, {"width": 2, "x": 2})
