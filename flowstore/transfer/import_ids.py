"""Chooses the id of each imported row: its own if that was never used here, else a new one.

Ids that were deleted count as used: `sqlite_sequence` remembers the last one. All tasks of a run keep their ids or
none does, and likewise its attempts, so that they stay in order.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from flowstore.errors import StoreCorrupt
from flowstore.sqlite.database import Row
from flowstore.store import tables

LARGEST_KEPT = 2**53  # where JSON's numbers end; a larger one would leave no room for the ids that follow it


class Ids(dict[int, int]):
    """From the ids of one kind there to those here."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__()
        self._path = path
        self._kind = kind

    def __missing__(self, there: int) -> int:
        raise StoreCorrupt(f"{self._path} refers to {self._kind} {there}, which is not there. Nothing was imported.")


class NewIds(Ids):
    """Ids that nothing outside of the store names: each gets the next one when it is first met."""

    def __init__(self, path: Path, kind: str, last: int) -> None:
        super().__init__(path, kind)
        self._last = last

    def __missing__(self, there: int) -> int:
        self._last += 1
        self[there] = self._last
        return self._last


class Numbering:
    """The ids of everything that one file brings, by kind (as in `tables.Table.refers`).

    Args:
        path: the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        kinds = ("run", "task", "attempt", "log", "flow", "tag", "code", "blob")
        self._ids = {kind: Ids(path, kind) for kind in kinds}

    def __getitem__(self, kind: str) -> Ids:
        return self._ids[kind]

    def number(self, there: sqlite3.Connection, here: sqlite3.Connection, run_ids: Collection[int]) -> None:
        """Choose ids for the runs and all of their rows."""
        bound = tables.bound(run_ids)
        tasks = there.execute(
            f"select run_id, id from tasks where run_id in ({tables.RUNS}) order by id",
            bound,
        )
        attempts = there.execute(
            f"""select t.run_id, a.id from attempts a join tasks t on t.id = a.task_id
                where t.run_id in ({tables.RUNS}) order by a.id""",
            bound,
        )
        _assign(self["run"], here, "runs", [[run_id] for run_id in run_ids])
        _assign(self["task"], here, "tasks", _by_run(tasks))
        _assign(self["attempt"], here, "attempts", _by_run(attempts))
        self["task"][0] = 0  # in node_tags: no task
        for table in tables.travelling(here, tables.BOTH):
            if "id" in table.refers and table.name not in tables.NUMBERED:
                last = here.execute(f"select max(id) from {table.name}").fetchone()[0]
                self._ids[table.refers["id"]] = NewIds(self._path, table.refers["id"], last or 0)
        self._number_logs(there, bound)

    def _number_logs(self, there: sqlite3.Connection, bound: dict[str, str]) -> None:
        """Number the logs: by the attempt that wrote each or, if that one isn't imported, the first that shows it."""
        rows = there.execute(
            f"""select log_id, min(id) as attempt_id from attempts where task_id in ({tables.ids("task")})
                group by log_id""",
            bound,
        )
        for log_id, attempt_id in rows:
            self["log"][log_id] = self["attempt"][log_id if log_id in self["attempt"] else attempt_id]


def _by_run(rows: Iterable[Row]) -> list[list[int]]:
    by_run: dict[int, list[int]] = {}
    for row in rows:
        by_run.setdefault(row["run_id"], []).append(row["id"])
    return [*by_run.values()]


def _assign(ids: Ids, here: sqlite3.Connection, table: str, groups: Sequence[Sequence[int]]) -> int:
    """Let groups of ids, each in order, stay as they are if all of the group can, and give others the next ones.

    Returns:
        The last id that was used before.
    """
    before = last = last_id(here, table)
    kept = [group for group in groups if group[0] > last and group[-1] <= LARGEST_KEPT]
    for group in kept:
        ids.update(zip(group, group, strict=True))
    last = max([last, *(group[-1] for group in kept)])
    for group in groups:
        if group[0] not in ids:
            ids.update(zip(group, range(last + 1, last + 1 + len(group)), strict=True))
            last += len(group)
    return before


def last_id(db: sqlite3.Connection, table: str) -> int:
    """Return the last id that a table has ever had."""
    row = db.execute(
        f"""select max(coalesce((select max(seq) from sqlite_sequence where name = ?), 0),
                       coalesce((select max(id) from {table}), 0))""",
        (table,),
    ).fetchone()
    return int(row[0])


_TASK = re.compile(r"([^/]+)/([0-9]{1,18})/([^/]+)/([0-9]{1,18})")
_BY_ID = """select t.id, s.name from tasks t join steps s on s.id = t.step_id where t.run_id = ? order by t.id"""


class Tracing:
    """Translates the names that one file's runs give to their origins.

    Args:
        there: the file.
        here: the store, in a transaction in which the runs have been inserted.
        uuid: the file's identity.
        uuids: the runs of the file, by id.
    """

    def __init__(
        self, there: sqlite3.Connection, here: sqlite3.Connection, uuid: str, uuids: Mapping[int, str]
    ) -> None:
        self._there = there
        self._here = here
        self._uuid = uuid
        self._uuids = uuids
        self._runs: dict[int, int | None] = {}
        self._tasks: dict[int, dict[int, int]] = {}

    def translate(self, run_ids: Collection[int], new: Numbering) -> None:
        """Change the names that these runs and their tasks give."""
        runs = self._there.execute(
            f"""select r.id, f.name as flow, r.origin_run_id from runs r join flows f on f.id = r.flow_id
                where r.id in ({tables.RUNS}) and r.origin_run_id is not null""",
            tables.bound(run_ids),
        )
        self._here.executemany(
            "update runs set origin_run_id = ? where id = ?",
            [(self._run(row["flow"], row["origin_run_id"]), new["run"][row["id"]]) for row in runs],
        )
        tasks = self._there.execute(
            f"select id, origin_pathspec from tasks where run_id in ({tables.RUNS}) and origin_pathspec is not null",
            tables.bound(run_ids),
        )
        self._here.executemany(
            "update tasks set origin_pathspec = ? where id = ?",
            [(self._task(row["origin_pathspec"]), new["task"][row["id"]]) for row in tasks],
        )

    def _run(self, flow: str, text: str) -> str:
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            return text  # named with its store by an earlier import
        run_here = self._run_here(int(text))
        if run_here is not None:
            return str(run_here)
        return f"{self._uuid}/{flow}/{text}"

    def _task(self, pathspec: str) -> str:
        match = _TASK.fullmatch(pathspec)
        if match is None:
            return pathspec
        flow, run, step, task = match[1], int(match[2]), match[3], int(match[4])
        run_here = self._run_here(run)
        if run_here is not None and (task_here := self._tasks_here(run, run_here).get(task)) is not None:
            return f"{flow}/{run_here}/{step}/{task_here}"
        return f"{self._uuid}/{pathspec}"

    def _run_here(self, there: int) -> int | None:
        """Return the id here of a run of the file, or `None` if it isn't in the file, or isn't here."""
        if there not in self._runs:
            row = self._here.execute("select id from runs where uuid = ?", (self._uuids.get(there, ""),)).fetchone()
            self._runs[there] = None if row is None else row["id"]
        return self._runs[there]

    def _tasks_here(self, there: int, here: int) -> dict[int, int]:
        """Return the ids here of a run's tasks, which are in the same order in every store."""
        if there not in self._tasks:
            pairs = zip(
                self._there.execute(_BY_ID, (there,)).fetchall(),
                self._here.execute(_BY_ID, (here,)).fetchall(),
                strict=False,  # it may have gone on after it was copied
            )
            self._tasks[there] = {one["id"]: other["id"] for one, other in pairs if one["name"] == other["name"]}
        return self._tasks[there]
