"""Engines: the address at which a listener is reached, and that a start that takes too long leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from flowstore.errors import FlowstoreError
from flowstore.run.remote import dask_cluster
from flowstore.run.remote.slurm_nodes import Node, address_for

NODES = [Node("node1", "127.0.0.1", 4, 4000, 0)]


@pytest.mark.parametrize(
    ("listening_at", "reached_at"),
    [("10.1.0.5", "10.1.0.5"), ("0.0.0.0", "127.0.0.1"), ("::", socket.gethostname()), ("fe80::1%lo", "fe80::1%lo")],
)
def test_where_a_listener_is_reached(listening_at, reached_at):
    """No pilot can connect to "all addresses"."""
    assert address_for(listening_at, NODES) == reached_at


def children():
    """The ids of this process's children."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def test_a_cluster_that_does_not_start(tmp_path, monkeypatch):
    """The message says so after a while, and no process is left."""
    (tmp_path / "distributed.py").write_text("import time\ntime.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(dask_cluster, "START_S", 0.5)
    before = children()
    with pytest.raises(FlowstoreError, match=r"could not be started: it was not ready within 0.5 s"):
        dask_cluster.Cluster(1)
    assert children() == before


def test_a_worker_whose_loop_takes_no_stream(monkeypatch):
    """The host that was started for it is not left behind."""
    monkeypatch.setattr(dask_cluster, "OPEN_S", 0.1)
    before = children()
    loop = asyncio.new_event_loop()
    with pytest.raises(TimeoutError):
        dask_cluster._Hosted(loop)
    assert children() == before
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
