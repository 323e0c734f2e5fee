"""Where imported runs come from: their addresses in other stores, and in Metaflow, by which they are found, too."""

from __future__ import annotations

from collections.abc import Sequence

from flowstore.errors import InvalidPathspec
from flowstore.sqlite.database import Database

METAFLOW = "metaflow"  # in `origins`, where another store's id would stand
_METAFLOW_SINCE = 9  # the schema version


def imported_from(store: Database, run_id: int) -> str | None:
    """Return the other store's uuid and the pathspec there of a run that was imported."""
    if not store.value("select 1 from sqlite_master where name = 'origins'"):  # an older store is read as it is
        return None
    origin: str | None = store.value("select store_uuid || '/' || pathspec from origins where run_id = ?", (run_id,))
    return origin


def find_imported(store: Database, parts: Sequence[str]) -> list[str]:
    """Return the parts of a pathspec, in which the ids of this store stand for those of a run and task in Metaflow."""
    if not _has_metaflow(store):
        return [*parts]
    there = "/".join(parts[:2])
    ids = runs_of_metaflow(store, there)
    if not ids:
        return [*parts]
    if len(ids) > 1:
        runs = " and ".join(f"{parts[0]}/{run_id}" for run_id in ids)
        raise InvalidPathspec(f"{there} is the address in Metaflow of {len(ids)} runs here: {runs}. Name one of these.")
    run_id = ids[0]
    here = [parts[0], str(run_id), *parts[2:]]
    if len(parts) > 3 and (task_id := task_from_metaflow(store, run_id, "/".join(parts[:4]))) is not None:
        here[3] = str(task_id)
    return here


def runs_of_metaflow(store: Database, pathspec: str) -> list[int]:
    """Return the runs that have this pathspec in Metaflow: several where folders disagree on what it stands for."""
    sql = "select run_id from origins where store_uuid = ? and pathspec = ? order by run_id"
    return [row["run_id"] for row in store.rows(sql, (METAFLOW, pathspec))]


def task_from_metaflow(store: Database, run_id: int, pathspec: str) -> int | None:
    """Return the task of a run that has this pathspec in Metaflow."""
    task_id: int | None = store.value(
        """select t.id from steps s join tasks t on t.run_id = s.run_id and t.step_id = s.id
           where s.run_id = ? and s.name = ? and t.imported_from = ?""",
        (run_id, pathspec.split("/")[2], pathspec),
    )
    return task_id


def pathspec_in_metaflow(store: Database, run_id: int, task_id: int | None = None) -> str | None:
    """Return the pathspec that a run, or a task of it, had in Metaflow; `None` where it does not come from there."""
    if not _has_metaflow(store):
        return None
    pathspec: str | None = store.value(
        """select case when ?1 is null then (select pathspec from origins where store_uuid = ?2 and run_id = ?3)
                       else (select imported_from from tasks where run_id = ?3 and id = ?1) end as imported_from""",
        (task_id, METAFLOW, run_id),
    )
    return pathspec


def metaflow_column(store: Database) -> str:
    """Return the SQL of the pathspec that a run `r` had in Metaflow."""
    if not _has_metaflow(store):
        return "null"
    return f"(select o.pathspec from origins o where o.run_id = r.id and o.store_uuid = '{METAFLOW}')"


def _has_metaflow(store: Database) -> bool:
    """Return whether a store can have runs of Metaflow: one of an older version, which is read as it is, has none."""
    return store.version >= _METAFLOW_SINCE
