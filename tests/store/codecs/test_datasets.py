"""Datasets of xarray as artifacts: through runs, exports and imports, without trust."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest

import flowstore
from flowstore import context
from flowstore.errors import ArtifactError
from flowstore.maintenance import check
from flowstore.store import codecs
from flowstore.store.opening import open_store
from support.flows import LINEAR, flow_source

xr = pytest.importorskip("xarray")


def ran(path, *args):
    """Run a `flowstore` command on a store."""
    subprocess.run(
        [sys.executable, "-m", "flowstore", "--store", str(path), *args], cwd=path.parent, check=True, timeout=100
    )


HEAD = """
import numpy as np
import pandas as pd
import xarray as xr
"""
START = (
    "self.ds = xr.Dataset({'t': (('time', 'x'), np.arange(6.0).reshape(3, 2), {'units': 'K'})}, "
    "coords={'time': pd.date_range('2024', periods=3), 'x': ['a', 'b']}, attrs={'title': 'test'}); "
    "self.large = xr.Dataset({'v': ('n', np.arange(300_000.0))}); self.array = self.ds['t']"
)
END = (
    "assert self.ds['t'].attrs == {'units': 'K'} and self.ds.indexes['time'].freq is not None; "
    "assert self.array.identical(self.ds['t']); self.mean = float(self.large['v'].mean()); self.ds.attrs['seen'] = True"
)


def test_datasets_flow_through_a_run(flow, tmp_path, monkeypatch):
    """They come back in later steps and from an export; one that is changed in place is stored as changed."""
    script = flow(flow_source(LINEAR, head=HEAD, start=START, end=END))
    script("run")
    rows = script.sql("select name || ' ' || codec || ' ' || type from artifact_values where codec = 'xarray'")
    kinds = {"array": "xarray.core.dataarray.DataArray"}
    names = ["array", "ds", "ds", "large"]
    assert sorted(rows) == [f"{name} xarray {kinds.get(name, 'xarray.core.dataset.Dataset')}" for name in names]
    run = script.client()
    assert run.data.mean == 149_999.5
    run_ds = run.data.ds
    assert (run["start"].task.data.ds.attrs, run_ds.attrs) == ({"title": "test"}, {"title": "test", "seen": True})
    context.state.store.close()
    ran(script.db, "export", "out.db")
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "stranger"))  # where nothing is trusted, and no key is known
    ran(tmp_path / "target.db", "import", str(script.db.parent / "out.db"))
    for path in (script.db, script.db.parent / "out.db", tmp_path / "target.db"):
        with contextlib.closing(open_store(path)) as store:
            assert check.check(store, deep=True).problems == []
    flowstore.use_store(tmp_path / "target.db")
    flowstore.namespace(None)
    assert flowstore.Run("F/1").data.ds.identical(run_ds)


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "Module"}, {"variables": {}}, {"index": ["a", 2, 3]}, {"index": [0, 10**12, 1]}, {"index": "1000Y"},
        {"dims": ["x", "x"]}, {"dims": []}, {"dims": [5]}, {"size_bytes": -1}, {"size_bytes": 2**62}, {"name": 5},
        {"attrs": 5}, {"is_coordinate": "x"}, {"encoding": [1]}, {"index": "D" * 100},
    ],
    ids=str,
)  # fmt: skip
def test_lying_headers_are_one_error(changes):
    """A header that no dataset has is refused, without an array of the size that it claims."""
    from flowstore.store.codecs import typed_json

    content = b"".join(map(bytes, codecs.encode(xr.Dataset({"v": ("x", [1, 2])}, {"x": [3, 4]})).pieces))
    length = int.from_bytes(content[:8], "big")
    header = typed_json.load(content[8 : 8 + length])
    target = header if header.keys() & changes.keys() - {"attrs", "name", "encoding"} else header["variables"][1]
    target.update(changes)
    text = typed_json.dump(header)
    damaged = len(text).to_bytes(8, "big") + text + content[8 + length :]
    with pytest.raises(ArtifactError):
        codecs.decode("xarray", iter([damaged]), len(damaged))
