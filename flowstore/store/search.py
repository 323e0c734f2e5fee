"""Search for a text in everything that is written about runs, newest run first, within a time limit.

A run is looked at from what is short to what is long: its address, tags, note, parameters, errors and log. Each
statement reads a bounded number of rows and ends, so that a search never keeps a writer from committing.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator, Sequence

import attrs

from flowstore import later
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.typed_rows import LATER, json_of, texts_of
from flowstore.store import origins
from flowstore.store.runs import NOTHING, Match, newest_first

DEADLINE_S = 10.0
_BATCH = 25  # runs in one query
_LOGS = 100  # logs in one query
_CHUNKS = 64  # of a log, each as much as was read at once
_BEFORE, _BEHIND = 80, 120  # characters of an excerpt


@later.frozen
class Hit:
    """A run that holds the text.

    Attributes:
        run: the run.
        where: `name`, `tag`, `note`, `parameter`, `error` or `log`: the first of them that holds it.
        task: `step/id` of the task that failed or printed it, else `None`.
        excerpt: the text with some of what is around it, in one line.
    """

    run: Match
    where: str
    task: str | None
    excerpt: str


@later.frozen
class Search:
    """The runs that a search has found, and how far it looked.

    Attributes:
        hits: the runs that hold the text, newest first.
        looked_at: how many runs were looked at.
        last: the oldest of them; `None` where there are no runs.
        complete: whether no run is left to look at.
        unread: runs with so long a log that the time was not enough to read it to its end.
    """

    hits: list[Hit]
    looked_at: int
    last: Match | None
    complete: bool
    unread: list[Match]


@later.frozen(kw_only=True)
class Wanted:
    """A text to look for, and where.

    Attributes:
        text: the text, in upper or lower case.
        flow: in runs of this flow; of all for `None`.
        tags: in runs that have all of these tags.
        before: in runs older than this one; from the newest on for `None`.
        limit: at most so many runs are found.
        deadline_s: how long it looks, in seconds.
    """

    text: str
    flow: str | None = None
    tags: tuple[str, ...] = ()
    before: Match | None = None
    limit: int = 50
    deadline_s: float = DEADLINE_S


def search_runs(store: Database, wanted: Wanted) -> Search:
    """Look for a text in runs, newest first, until there are enough of them or the time is over."""
    looking = _Looking(store, wanted)
    last = (LATER, LATER) if wanted.before is None else wanted.before.moment
    runs = newest_first(store, wanted.flow, wanted.tags, NOTHING, last)
    while batch := list(itertools.islice(runs, _BATCH)):
        if not looking.go_on(batch):
            return attrs.evolve(looking.result(), complete=False)
    return looking.result()


class _Looking:
    """A search that is going on."""

    def __init__(self, store: Database, wanted: Wanted) -> None:
        self._store, self._limit = store, wanted.limit
        self._wanted, self._text = wanted.text, wanted.text.casefold()
        self._until = time.monotonic() + wanted.deadline_s
        self._hits: list[Hit] = []
        self._unread: list[Match] = []
        self._looked_at = 0
        self._last: Match | None = None

    def result(self) -> Search:
        """Return what was found up to now, as if there were no more runs."""
        return Search(self._hits, self._looked_at, self._last, True, self._unread)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self._until

    def go_on(self, batch: Sequence[Match]) -> bool:
        """Look at some runs; return whether to look at more."""
        short = dict(self._short(batch))
        errors = self._errors([run for run in batch if run.run_id not in short])
        for run in batch:
            if len(self._hits) == self._limit:
                return False
            hit = short.get(run.run_id) or errors.get(run.run_id)
            if hit is None:
                if self._is_late and self._looked_at:
                    return False
                hit, complete = self._log(run)
                if not complete:
                    if self._looked_at:  # it is the first one that the next search looks at, with all the time
                        return False
                    self._unread.append(run)
            self._looked_at += 1
            self._last = run
            self._hits += [] if hit is None else [hit]
        return True

    def _holds(self, text: str) -> bool:
        return self._text in text.casefold()

    def _hit(self, run: Match, where: str, text: str, task: str | None = None) -> Hit:
        return Hit(run, where, task, excerpt(text, self._text))

    def _short(self, runs: Sequence[Match]) -> Iterator[tuple[int, Hit]]:
        """Yield what holds the text in the addresses, tags, notes and parameters of runs."""
        rows = self._store.rows(
            f"""select r.id, r.parameters, v.note, v.tags, {origins.metaflow_column(self._store)} as there
               from json_each(?) j cross join runs r on r.id = j.value
               join run_summary v on v.run_id = r.id""",
            (json.dumps([run.run_id for run in runs]),),
        )
        by_id = {row["id"]: row for row in rows}
        for run in runs:
            if self._holds(name := f"{run.flow}/{run.run_id}"):
                yield run.run_id, self._hit(run, "name", name)
            elif (row := by_id.get(run.run_id)) is not None:
                if (there := self._address_in_metaflow(row)) is not None:
                    yield run.run_id, self._hit(run, "name", there)
                    continue
                parameters = json_of(row["parameters"], dict)
                texts = [("tag", tag) for tag in texts_of(row["tags"])]
                texts += [("note", row["note"] or "")]
                texts += [("parameter", f"{name} = {_shown(value)}") for name, value in parameters.items()]
                where = next(((where, text) for where, text in texts if self._holds(text)), None)
                if where is not None:
                    yield run.run_id, self._hit(run, *where)

    def _address_in_metaflow(self, row: Row) -> str | None:
        """Return the address that a run had in Metaflow, or a task of it, where that is what is looked for."""
        there: str | None = row["there"]
        if there is None or self._holds(there):
            return there
        is_task = self._wanted.startswith(f"{there}/") and self._wanted.count("/") == 3
        is_there = is_task and origins.task_from_metaflow(self._store, row["id"], self._wanted) is not None
        return self._wanted if is_there else None

    def _errors(self, runs: Sequence[Match]) -> dict[int, Hit]:
        """Return what holds the text in the errors of the attempts of runs, by run."""
        rows = self._store.rows(
            """select t.run_id, t.id, s.name as step, a.error_type, a.error_message
               from json_each(?) j cross join tasks t on t.run_id = j.value join attempts a on a.task_id = t.id
               join steps s on s.id = t.step_id where a.error_type is not null order by a.id desc""",
            (json.dumps([run.run_id for run in runs]),),
        )
        by_id = {run.run_id: run for run in runs}
        texts = ((row, f"{row['error_type']}: {row['error_message'] or ''}") for row in rows)
        return {
            row["run_id"]: self._hit(by_id[row["run_id"]], "error", text, f"{row['step']}/{row['id']}")
            for row, text in texts
            if self._holds(text)
        }

    def _log(self, run: Match) -> tuple[Hit | None, bool]:
        """Return what holds the text in the logs of a run's tasks, and whether they were read to the end."""
        rows = self._store.rows(
            """select t.id, s.name as step, a.log_id from tasks t join attempts a on a.task_id = t.id
               join steps s on s.id = t.step_id where t.run_id = ? order by t.id, a.id""",
            (run.run_id,),
        )
        tasks = {row["log_id"]: f"{row['step']}/{row['id']}" for row in rows}
        logs = list(tasks)
        for at in range(0, len(logs), _LOGS):
            for log_id, text in self._lines(logs[at : at + _LOGS]):
                if self._holds(text):
                    return self._hit(run, "log", text, tasks[log_id]), True
                if self._is_late:
                    return None, False
        return None, True

    def _lines(self, logs: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Yield what logs hold, in pieces that overlap by a line, since a line may be in two chunks."""
        last, unfinished = (-1, 0), dict[tuple[int, str], str]()
        while rows := self._store.rows(
            """select j.key as position, c.id, c.log_id, c.stream, c.text
               from json_each(?) j cross join log_chunks c on c.log_id = j.value
               where j.key > ? or j.key = ? and c.id > ? order by j.key, c.id limit ?""",
            (json.dumps([*logs]), last[0], *last, _CHUNKS),
        ):
            for row in rows:
                key = (row["log_id"], row["stream"])
                text = unfinished.get(key, "") + row["text"]
                unfinished[key] = text[text.rfind("\n") + 1 :][-_BEFORE - len(self._text) :]
                yield row["log_id"], text
            last = rows[-1]["position"], rows[-1]["id"]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def excerpt(text: str, wanted: str) -> str:
    r"""Return the line of a text that holds what is wanted, in upper or lower case, and at most some words around it.

    >>> excerpt("one\ntwo Three\nfour", "three")
    'two Three'
    """
    match = re.search(re.escape(wanted), text, re.IGNORECASE)
    if match is None:  # letters that are several in the other case
        text = next((line for line in text.splitlines() if wanted.casefold() in line.casefold()), text)
    start, end = (0, 0) if match is None else match.span()
    begin = max(text.rfind("\n", 0, start) + 1, start - _BEFORE)
    stop = text.find("\n", end)
    line = text[begin : min(len(text) if stop < 0 else stop, end + _BEHIND)]
    cut_before = begin > 0 and text[begin - 1] != "\n"
    cut_behind = begin + len(line) < len(text) and text[begin + len(line)] != "\n"
    return f"{'…' if cut_before else ''}{line}{'…' if cut_behind else ''}"
