"""Pages of runs: a description of the runs that are wanted and of their order, and the SQL that answers it.

In the order of a metric the index of `numbers` is walked, unless few runs are in question: those are sorted. So the
first page takes the same time in a large store. In the order of a parameter all runs in question are looked at.
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from flowstore import later
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.liveness import Process, is_dead
from flowstore.sqlite.typed_rows import LATER
from flowstore.store.runs import NOTHING, SUCCESSFUL, Condition, Match, newest_first
from flowstore.store.tags import all_of, tag_ids_of

_NUMBERS_SINCE = 7  # the schema version; metrics of an older file that can't be written are computed
_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_FEW_RUNS = 500  # that are sorted rather than met on a walk through an index


@later.frozen(kw_only=True)
class RunQuery:
    """A description of runs: those that are wanted, their order, and the columns to show.

    Attributes:
        flow: of this flow; of all for `None`.
        tags: that have all of these tags, the system's included.
        without: that have none of these.
        namespace: one more tag that they have.
        statuses: with one of these statuses, as they are now; with any where there are none.
        user: of this user.
        since_ms: created at this time or later.
        text: with this text in the pathspec, user, tags, note or parameters, in upper or lower case.
        columns: metrics, parameters and facts to show.
        sort: the column that decides the order, `-NAME` from the largest down; `None` for the newest first. Runs
            without a value in it come last.
        after: where a page begins, as the page before it says.
        limit: how many runs a page has at most.
    """

    flow: str | None = None
    tags: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    namespace: str | None = None
    statuses: tuple[str, ...] = ()
    user: str | None = None
    since_ms: int | None = None
    text: str | None = None
    columns: tuple[str, ...] = ()
    sort: str | None = None
    after: str | None = None
    limit: int = 50

    @property
    def wanted(self) -> tuple[str, ...]:
        """All tags that a run must have."""
        return (*self.tags, *([] if self.namespace is None else [self.namespace]))

    @property
    def is_everything(self) -> bool:
        """Whether no run is left out."""
        chosen = (self.flow, self.user, self.since_ms, self.text)
        return not (self.wanted or self.without or self.statuses or any(value is not None for value in chosen))


@later.frozen
class Page:
    """A part of the runs that a query finds.

    Attributes:
        matches: the runs, in order.
        after: where the next page begins; `None` where no run follows.
    """

    matches: list[Match]
    after: str | None


def ms_ago(text: str) -> int:
    """Return the time that was 45m, 12h, 30d or 2w ago, in milliseconds since 1970.

    Raises:
        FlowstoreError: the text is not such a duration.
    """
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if match is None:
        raise FlowstoreError(f"{text!r} is not a duration: give a number and m, h, d or w, as in 45m, 12h, 30d.")
    return time.time_ns() // 1_000_000 - int(match[1]) * _UNITS_S[match[2]] * 1000


def find_page(store: Database, query: RunQuery) -> Page:
    """Return a page of the runs that a query finds.

    Raises:
        FlowstoreError: the query begins after nothing that a page has named, or nothing can be sorted by its column.
    """
    with store.read():
        condition, order = _condition(store, query), _order_of(store, query)
        if order is None and set(query.statuses) == {"running"}:  # few, whatever else there is
            order = _Order(column="created_at", value=_FACTS["created_at"], falling=True)
        if order is None:
            last = _position(query, 2) if query.after else [LATER, LATER]
            matches = newest_first(store, query.flow, query.wanted, condition, (last[0], last[1]))
            keyed = [(match, list(match.moment)) for match in itertools.islice(matches, query.limit + 1)]
        else:
            keyed = _in_order(store, query, order, condition)
        more = len(keyed) > query.limit
        shown = keyed[: query.limit]
        return Page([match for match, _ in shown], json.dumps(shown[-1][1]) if more else None)


def _position(query: RunQuery, parts: int) -> list[Any]:
    """Return the key of the run that a page begins after."""
    try:
        key = json.loads(query.after or "")
    except ValueError:
        key = None
    is_key = isinstance(key, list) and len(key) == parts and all(type(part) is int for part in key[-2:])
    if not is_key or any(isinstance(part, (list, dict)) or (type(part) is int and abs(part) > LATER) for part in key):
        raise FlowstoreError(f"No page of these runs begins after {query.after!r}: begin at the first page.")
    return list(key)


# --- which runs


_OF_RUN = "run_tags o where o.flow_id = r.flow_id and o.created_at = r.created_at and o.run_id = r.id"


def _condition(store: Database, query: RunQuery) -> Condition:
    """Return the condition for all that a query says of runs, but for their flow and tags."""
    condition = _of_statuses(store, query.statuses)
    if query.user is not None:
        condition &= Condition("r.user = ?", (query.user,))
    if query.since_ms is not None:
        condition &= Condition("r.created_at >= ?", (query.since_ms,))
    if query.without:
        tag_ids = [tag_id for tag in query.without for tag_id in tag_ids_of(store, [tag]) or ()]
        listed = "select value from json_each(?)"
        sql = f"not exists (select 1 from {_OF_RUN} and o.tag_id in ({listed}))"
        condition &= Condition(sql, (json.dumps(tag_ids),))
    return condition & NOTHING if query.text is None else condition & _with_text(store, query.text)


def _of_statuses(store: Database, statuses: Sequence[str]) -> Condition:
    """Return the condition that runs have one of these statuses now; those recorded as running may be dead."""
    chosen = set(statuses)
    if not chosen:
        return NOTHING
    if chosen == {"successful"}:
        return SUCCESSFUL
    recorded = ", ".join(f"'{status}'" for status in sorted(chosen - {"running"}) if status in _RECORDED)
    successful = None if "successful" in chosen else 0
    unfinished = _unfinished(store) if chosen & {"running", "dead"} else {}
    ids = json.dumps([run_id for run_id, dead in unfinished.items() if ("dead" if dead else "running") in chosen])
    now = "r.status = 'running' and r.id in (select value from json_each(?))"
    if not recorded:
        return Condition(now, (ids,), successful)
    if ids == "[]":
        return Condition(f"r.status in ({recorded})", (), successful)
    return Condition(f"(r.status in ({recorded}) or {now})", (ids,), successful)


_RECORDED = frozenset({"successful", "failed", "stopped", "dead"})


def _unfinished(store: Database) -> dict[int, bool]:
    """Return whether the runs that are recorded as running are dead, by id."""
    rows = store.rows(f"select r.id, r.last_seen_at, {Process.columns('r')} from runs r where r.status = 'running'")
    return {row["id"]: is_dead(row) for row in rows}


def _with_text(store: Database, text: str) -> Condition:
    """Return the condition that runs have a text in what is short, in upper or lower case."""
    holds = _holds(text)
    store.connection().create_function("flowstore_holds", 1, holds)
    tag_ids = [row["id"] for row in store.rows("select id, tag from tags") if holds(row["tag"])]
    return Condition(
        f"""(flowstore_holds((select f.name from flows f where f.id = r.flow_id) || '/' || r.id || char(10) || r.user
             || char(10) || ifnull((select v.note from run_summary v where v.run_id = r.id), '')
             || char(10) || r.parameters)
           or exists (select 1 from {_OF_RUN} and o.tag_id in (select value from json_each(?))))""",
        (json.dumps(tag_ids),),
    )


def _holds(text: str) -> Callable[[object], bool]:
    wanted = text.casefold()
    return lambda value: wanted in str(value).casefold()


def _tagged(store: Database, query: RunQuery) -> Condition | None:
    """Return the condition that runs are of the flow and have the tags; `None` where no run can have them."""
    condition = NOTHING
    if query.flow is not None:
        condition &= Condition("r.flow_id = (select id from flows where name = ?)", (query.flow,))
    if query.wanted:
        tag_ids = tag_ids_of(store, query.wanted)
        if tag_ids is None:
            return None
        checks, values = all_of(_OF_RUN, tag_ids)
        condition &= Condition(checks.removeprefix(" and "), tuple(values))
    return condition


# --- in the order of a column


@later.frozen(kw_only=True)
class _Order:
    """A column to sort runs by.

    Attributes:
        column: its name.
        value: its SQL, of a run `r`.
        values: what to bind there.
        falling: whether the largest comes first.
        is_metric: whether it is a metric alone, found in the index of `numbers`.
    """

    column: str
    value: str
    values: tuple[Any, ...] = ()
    falling: bool = False
    is_metric: bool = False

    @property
    def direction(self) -> str:
        """The direction in SQL."""
        return "desc" if self.falling else "asc"


_FACTS = {  # by which runs can be sorted, as SQL
    "run": "(select f.name from flows f where f.id = r.flow_id) || printf('/%020d', r.id)",
    "status": "case when r.status = 'running' and flowstore_is_dead(r.id) then 'dead' else r.status end",
    "user": "r.user",
    "created_at": "r.created_at",
    "duration_s": "r.finished_at - r.created_at",
    "error": "iif(r.status = 'failed', (select v.error from run_summary v where v.run_id = r.id), null)",
}
UNSORTED = ("parameters", "tags", "system_tags")
_FINAL = "from numbers n where n.run_id = r.id and +n.name = ? and n.final = 1"  # `+`: by the run, not by the name


def _order_of(store: Database, query: RunQuery) -> _Order | None:
    """Return how a query sorts; `None` for the newest first."""
    column, falling = (query.sort or "").removeprefix("-"), (query.sort or "").startswith("-")
    if not column or query.sort == "-created_at":
        return None
    if column in UNSORTED:
        raise FlowstoreError(f"Runs cannot be sorted by {column}. Sort by one parameter or metric, by its name.")
    if column in _FACTS:
        if column == "status":
            unfinished = _unfinished(store)
            store.connection().create_function("flowstore_is_dead", 1, lambda run_id: unfinished.get(run_id, False))
        return _Order(column=column, value=_FACTS[column], falling=falling)
    metric = f"(select n.magnitude {_FINAL} order by n.id limit 1)"
    if store.version < _NUMBERS_SINCE:
        metric = "flowstore_metric(r.id, ?)"
        store.connection().create_function("flowstore_metric", 2, _metric_of(store, column))
    if store.value("select 1 from run_artifacts where name = ? limit 1", (column,)) is None or '"' in column:
        is_metric = store.version >= _NUMBERS_SINCE
        return _Order(column=column, value=metric, values=(column,), falling=falling, is_metric=is_metric)
    path = f'$."{column}"'
    if not store.value("select 1 from metrics where name = ? limit 1", (column,)):
        return _Order(column=column, value="json_extract(r.parameters, ?)", values=(path,), falling=falling)
    # A parameter hides a metric of its name.
    value = f"iif(json_type(r.parameters, ?) is null, {metric}, json_extract(r.parameters, ?))"
    return _Order(column=column, value=value, values=(path, column, path), falling=falling)


def _metric_of(store: Database, name: str) -> Callable[[int, str], float | None]:
    """Return a function that looks up a metric of a run in a file that has no `numbers`."""
    rows = store.rows("select run_id, number as magnitude from metrics where name = ? and final = 1", (name,))
    numbers = {row["run_id"]: row["magnitude"] for row in rows}
    return lambda run_id, _name: numbers.get(run_id)


def _in_order(store: Database, query: RunQuery, order: _Order, condition: Condition) -> list[tuple[Match, list[Any]]]:
    """Return the runs of a page, and one more, each with its key."""
    last = _position(query, 3) if query.after else None
    tagged = _tagged(store, query)
    if tagged is None:
        return []
    try:
        if set(query.statuses) == {"running"}:
            return _sorted(store, query, order, tagged & condition, last)
        few = None if query.is_everything else _few_ids(store, query, condition)
        if few is not None:
            return _sorted(store, query, order, few, last)
        if order.is_metric:
            return _by_metric(store, query, order, condition, tagged, last)
        return _sorted(store, query, order, tagged & condition, last)
    except sqlite3.OperationalError as error:  # the statements are ours: what they read is not what it should be
        raise StoreCorrupt.damaged(error, store.path) from error


def _few_ids(store: Database, query: RunQuery, condition: Condition) -> Condition | None:
    """Return the condition that a run is one of those in question, if those are few."""
    matches = newest_first(store, query.flow, query.wanted, condition, (LATER, LATER))
    ids = [match.run_id for match in itertools.islice(matches, _FEW_RUNS + 1)]
    in_question = Condition("r.id in (select value from json_each(?))", (json.dumps(ids),))
    return in_question if len(ids) <= _FEW_RUNS else None


def _keyed(rows: Sequence[Row]) -> list[tuple[Match, list[Any]]]:
    return [
        (Match(row["flow"], row["id"], row["created_at"]), [row["key"], row["tie_1"], row["tie_2"]]) for row in rows
    ]


def _sorted(
    store: Database, query: RunQuery, order: _Order, condition: Condition, last: list[Any] | None
) -> list[tuple[Match, list[Any]]]:
    """Sort all runs in question."""
    beyond = NOTHING
    if last is not None and last[0] is None:
        beyond = Condition("key is null and (tie_1, tie_2) < (?, ?)", tuple(last[1:]))
    elif last is not None:
        further = "<" if order.falling else ">"
        beyond = Condition(f"(key {further} ? or key = ? and (tie_1, tie_2) < (?, ?) or key is null)",
                            (last[0], *last))  # fmt: skip
    ties, tied = "r.created_at, r.id", tuple[Any, ...]()
    if order.is_metric:  # as the index has them
        number = f"(select n.id {_FINAL} order by n.id limit 1)"
        ties, tied = f"ifnull({'' if order.falling else '-'}{number}, r.created_at), r.id", (order.column,)
    rows = store.rows(
        f"""with keyed (id, flow, created_at, key, tie_1, tie_2) as (
              select r.id, f.name, r.created_at, {order.value}, {ties} from runs r join flows f on f.id = r.flow_id
              where {condition.sql or "true"})
            select * from keyed where {beyond.sql or "true"}
            order by key is null, key {order.direction}, tie_1 desc, tie_2 desc limit ?""",
        (*order.values, *tied, *condition.values, *beyond.values, query.limit + 1),
    )
    return _keyed(rows)


def _by_metric(
    store: Database, query: RunQuery, order: _Order, condition: Condition, tagged: Condition, last: list[Any] | None
) -> list[tuple[Match, list[Any]]]:
    """Walk the index of a metric; after its last run come those without it, newest first."""
    page: list[tuple[Match, list[Any]]] = []
    if last is None or last[0] is not None:
        further, at_least, sign = ("<", "<=", "") if order.falling else (">", ">=", "-")
        begin = f"and n.magnitude {at_least} ? and (n.magnitude {further} ? or n.id {further} ?)"
        values = () if last is None else (last[0], last[0], abs(last[1]))
        where = tagged & condition
        rows = store.rows(
            f"""select r.id, f.name as flow, r.created_at, n.magnitude as key, {sign}n.id as tie_1, r.id as tie_2
                from numbers n cross join runs r cross join flows f
                where n.name = ? and n.final = 1 and r.id = n.run_id and f.id = r.flow_id {begin if values else ""}
                  and n.id =
                    (select min(o.id) from numbers o where o.run_id = r.id and +o.name = n.name and o.final = 1)
                  and {where.sql or "true"}
                order by n.magnitude {order.direction}, n.id {order.direction} limit ?""",
            (order.column, *values, *where.values, query.limit + 1),
        )
        page = _keyed(rows)
        last = [None, LATER, LATER]
    without = condition & Condition(f"not exists (select 1 {_FINAL})", (order.column,))
    rest = newest_first(store, query.flow, query.wanted, without, (last[1], last[2]))
    missing = ((match, [None, *match.moment]) for match in itertools.islice(rest, query.limit + 1 - len(page)))
    return [*page, *missing]
