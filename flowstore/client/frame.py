"""Runs as a table: a row a run, for pandas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flowstore.client.base import status_of
from flowstore.errors import FlowstoreError
from flowstore.store import blobs, codecs, metrics

if TYPE_CHECKING:
    import pandas as pd

    from flowstore.client.run import Run

SMALL_BYTES = 65536
KNOWN = ("run_id", "status", "user", "created_at", "finished_at", "duration_s", "tags")


def frame_of(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row a run: what is known of it, its parameters, the small artifacts of its end task, its metrics.

    Raises:
        FlowstoreError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise FlowstoreError('to_dataframe needs pandas: pip install "flowstore[data]"') from None
    listed = list(runs)
    measured = metrics.final(listed[0]._store, [int(run.id) for run in listed]) if listed else {}
    rows = [_row(run, measured[int(run.id)]) for run in listed]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys((*KNOWN, *(name for row in rows for name in row)))))
    for name in ("created_at", "finished_at"):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame


def _row(run: Run, measured: Mapping[str, float]) -> dict[str, Any]:
    row, created_at, finished_at = run._row(), run.created_at, run.finished_at
    known = {
        "run_id": run.id,
        "status": status_of(row),
        "user": row["user"],
        "created_at": created_at,
        "finished_at": finished_at,
        "duration_s": None if finished_at is None else (finished_at - created_at).total_seconds(),
        "tags": sorted(run.user_tags),
    }
    values = run._listed_parameters() | _small_artifacts(run)
    values |= {name: number for name, number in measured.items() if name not in values}
    return known | {(f"{name}_value" if name in known else name): value for name, value in values.items()}


def _small_artifacts(run: Run) -> dict[str, Any]:
    """The values of the end task's small artifacts that are plain values; those that an export left out have none."""
    end = run.end_task
    found = {} if end is None else end._blobs()
    return {
        name: blobs.load(run._store, blob, f"{run.pathspec}: {name}")
        for name, blob in found.items()
        if blob.codec in codecs.NOTATIONS
        and blob.size_bytes <= SMALL_BYTES
        and blob.data is not None
        and name[:1] != "_"
    }
