"""The versions of what a run imported: recorded, asked for, compared."""

from __future__ import annotations

import contextlib
import sqlite3
import sys

import numpy as np
import pytest

import flowstore
from flowstore import Run
from flowstore.client.compare import compare
from support.flows import LINEAR, every_method, flow_source


@every_method
def test_a_run_knows_the_versions_of_what_it_imported(options, flow):
    """Those that the flow imports at its top, and those that only a step imports."""
    script = flow(flow_source(LINEAR, head="import attrs", start="import sklearn.tree"))
    script("run", *options)
    environment = script.client().environment
    assert environment["flowstore"] == flowstore.__version__
    assert environment["numpy"] == np.__version__
    assert {"attrs", "scikit-learn"} <= environment.keys()
    assert not environment.keys() & {"sys", "os", "json", "polars"}
    [task] = script.client()["start"]
    assert task.environment_info == task.parent.environment_info == environment
    assert task.metadata_dict["python_version"] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.fresh
def test_diff_compares_them(flow):
    """A package that only one run imported is a difference; those that both have are not."""
    script = flow(flow_source(LINEAR, head="if os.environ.get('MORE'): import markdown_it"))
    script("run")
    script("run", MORE="1")
    found = {item.name: (item.left, item.right) for item in compare(Run("F/1"), Run("F/2")) if item.kind == "package"}
    left, right = found["markdown-it-py"]
    assert left is None
    assert right.count(".") == 2
    assert "attrs" not in found
    assert "markdown-it-py" in script.flowstore("diff", "F/1", "F/2").stdout


def test_a_file_of_an_older_version_says_nothing(flow):
    """Where it was not recorded, it is `None`."""
    script = flow(flow_source(LINEAR))
    script("run")
    with contextlib.closing(sqlite3.connect(script.db)) as db, db:
        db.execute("update runs set environment = null")
    assert Run("F/1").environment is None
