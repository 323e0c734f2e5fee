"""Runs as a table: a row a run, for pandas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flowstore.errors import FlowstoreError

if TYPE_CHECKING:
    import pandas as pd

    from flowstore.client.run import Run

SMALL_BYTES = 65536


def frame_of(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a run: what is known of it, its parameters, and the small JSON artifacts of its end task.

    Raises:
        FlowstoreError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise FlowstoreError('to_dataframe needs pandas: pip install "flowstore[data]"') from None
    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Run) -> dict[str, Any]:
    created_at, finished_at = run.created_at, run.finished_at
    known = {
        "run_id": run.id,
        "status": run.status,
        "user": run.user,
        "created_at": created_at,
        "finished_at": finished_at,
        "duration_s": None if finished_at is None else (finished_at - created_at).total_seconds(),
        "tags": sorted(run.user_tags),
    }
    end = run.end_task
    small = [] if end is None else [item for item in end if item.codec == "json" and item.size <= SMALL_BYTES]
    values = run.parameters | {item.id: item.data for item in small}
    return known | {(f"{name}_value" if name in known else name): value for name, value in values.items()}
