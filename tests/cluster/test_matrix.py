"""Graphs x behaviours once more, with tasks on a Dask cluster of separate processes.

Each behaviour runs with one graph, and each graph with one behaviour; the others are soaks.
"""

from __future__ import annotations

import pytest

from guarantees.test_matrix import (  # noqa: F401  # pytest finds them here, too
    test_artifacts,
    test_catch,
    test_killed_from_inside,
    test_logs,
    test_parameters,
    test_resume_after_a_failure,
    test_resume_from_each_step,
    test_retry,
    test_timeout,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def _on_dask(shared, monkeypatch):
    """Every command runs its tasks on the shared cluster."""
    monkeypatch.setenv("FLOWSTORE_EXECUTOR", f"dask:{shared.address}")
