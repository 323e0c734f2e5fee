"""What imported runs and tasks say of the runs that they resumed, in terms of this store.

A run or task that came along, or was here already, is named as it is called here. One that is in neither keeps
its name as long as its run's id was never used here; else its store's uuid goes before it, so that the name of
what isn't here is never taken for something that is.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Mapping

from flowstore.transfer import tables
from flowstore.transfer.numbering import Numbering

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
        self._last_run = 0

    def translate(self, run_ids: Collection[int], new: Numbering) -> None:
        """Change the names that these runs and their tasks give."""
        self._last_run = new.last_run
        runs = self._there.execute(
            f"""select r.id, f.name as flow, r.origin_run_id from runs r join flows f on f.id = r.flow_id
                where r.id in ({tables.RUNS}) and r.origin_run_id is not null""",  # noqa: S608
            tables.of(run_ids),
        )
        self._here.executemany(
            "update runs set origin_run_id = ? where id = ?",
            [(self._run(row["flow"], row["origin_run_id"]), new["run"][row["id"]]) for row in runs],
        )
        tasks = self._there.execute(
            f"select id, origin_pathspec from tasks where run_id in ({tables.RUNS}) and origin_pathspec is not null",  # noqa: S608
            tables.of(run_ids),
        )
        self._here.executemany(
            "update tasks set origin_pathspec = ? where id = ?",
            [(self._task(row["origin_pathspec"]), new["task"][row["id"]]) for row in tasks],
        )

    def _run(self, flow: str, text: str) -> str:
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            return text  # named with its store by an earlier import
        found = self._run_here(int(text))
        if found is not None:
            return str(found)
        return f"{self._uuid}/{flow}/{text}" if self._is_taken(int(text)) else text

    def _task(self, pathspec: str) -> str:
        match = _TASK.fullmatch(pathspec)
        if match is None:
            return pathspec
        flow, run, step, task = match[1], int(match[2]), match[3], int(match[4])
        found = self._run_here(run)
        if found is not None and (task_here := self._tasks_here(run, found).get(task)) is not None:
            return f"{flow}/{found}/{step}/{task_here}"
        return f"{self._uuid}/{pathspec}" if self._is_taken(run) else pathspec

    def _run_here(self, there: int) -> int | None:
        """The id here of a run of the file; `None` where it isn't in the file, or isn't here."""
        if there not in self._runs:
            row = self._here.execute("select id from runs where uuid = ?", (self._uuids.get(there, ""),)).fetchone()
            self._runs[there] = None if row is None else row["id"]
        return self._runs[there]

    def _tasks_here(self, there: int, here: int) -> dict[int, int]:
        """The tasks of a run, which are in the same order in every store."""
        if there not in self._tasks:
            pairs = zip(
                self._there.execute(_BY_ID, (there,)).fetchall(),
                self._here.execute(_BY_ID, (here,)).fetchall(),
                strict=False,  # it may have gone on after it was copied
            )
            self._tasks[there] = {one["id"]: other["id"] for one, other in pairs if one["name"] == other["name"]}
        return self._tasks[there]

    def _is_taken(self, run_id: int) -> bool:
        """Whether the id is or was that of a run of this store."""
        if run_id <= self._last_run:
            return True
        return self._here.execute("select 1 from runs where id = ?", (run_id,)).fetchone() is not None
