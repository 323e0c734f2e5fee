"""Finding runs: the Client against hand-written SQL on the same file, and how both grow with the number of runs.

The stores are filled by SQL, with the real schema: one flow, 8 tags a run, nine of ten runs successful. Every
second run is tagged `even`, every third one `third`. The older half is tagged `early` and the newer one `late`:
each is common and they never meet, the worst case for a search that walks one tag and looks for the other.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import attrs

from benchmarks.libraries import USER, Settings
from benchmarks.measure import Failed, Line, call_s, in_turns
from flowstore import Flow, Run, __version__, namespace, use_store
from flowstore.store import schema
from flowstore.store.migrations import M004_TAG_PAIRS
from flowstore.store.records import date_tag, ensure_tag

DAY_MS = 86_400_000
FIRST_MS = 19_000 * DAY_MS
NAMESPACE = f"user:{USER}"
TAGS = (  # the tag, whether it is a system tag, and the runs that have it
    (NAMESPACE, 1, "true"),
    ("runtime:local", 1, "true"),
    ("python_version:3.11.7", 1, "true"),
    (f"flowstore_version:{__version__}", 1, "true"),
    ("even", 0, "id % 2 = 0"),
    ("odd", 0, "id % 2 = 1"),
    ("third", 0, "id % 3 = 0"),
    ("other", 0, "id % 3 <> 0"),
    ("early", 0, "id <= half"),
    ("late", 0, "id > half"),
)

BY_HAND = """
select r.id, r.status, r.created_at from run_tags w join runs r on r.id = w.run_id
where w.tag_id = (select id from tags where tag = ?) and w.flow_id = (select id from flows where name = 'Bench')"""
ALSO = """
and exists (select 1 from run_tags o where o.tag_id = (select id from tags where tag = ?)
            and o.flow_id = w.flow_id and o.created_at = w.created_at and o.run_id = w.run_id)"""
NEWEST = "order by w.created_at desc, w.run_id desc limit"
SEEK = f"{BY_HAND} and w.run_id <= ? and w.created_at <= ? {NEWEST} 1"


@attrs.frozen
class Query:
    """One question, and how it is asked: both ways give the ids of runs."""

    name: str
    by_client: Callable[[Flow], Sequence[Run | None]]
    by_hand: Callable[[sqlite3.Connection], Sequence[int]]


def _sql(text: str, *tags: str) -> Callable[[sqlite3.Connection], Sequence[int]]:
    return lambda connection: [row[0] for row in connection.execute(text, tags).fetchall()]


def _seek(connection: sqlite3.Connection) -> Sequence[int]:
    """The newest run that is early and late, each tag skipping to where the other one stands."""
    run_id = created_at = 2**62
    while True:
        bounds = []
        for tag in ("early", "late"):
            row = connection.execute(SEEK, (tag, run_id, created_at)).fetchone()
            if row is None:
                return []
            run_id, _, created_at = row
            bounds.append(run_id)
        if bounds[0] == bounds[1]:
            return [run_id]


QUERIES = (
    Query("latest_run", lambda flow: [flow.latest_run], _sql(f"{BY_HAND} {NEWEST} 1", NAMESPACE)),
    Query(
        "latest_successful_run",
        lambda flow: [flow.latest_successful_run],
        _sql(f"{BY_HAND} and w.successful = 1 {NEWEST} 1", NAMESPACE),
    ),
    Query(
        "first with 2 tags",
        lambda flow: list(islice(flow.runs("even", "third"), 1)),
        _sql(f"{BY_HAND} {ALSO} {ALSO} {NEWEST} 1", "third", "even", NAMESPACE),
    ),
    Query("last 20", lambda flow: list(islice(flow.runs(), 20)), _sql(f"{BY_HAND} {NEWEST} 20", NAMESPACE)),
    Query("2 tags that never meet", lambda flow: list(flow.runs("early", "late")), _seek),
)


def measure(settings: Settings) -> Iterator[Line]:
    counts = [settings.size(10_000, 100), settings.size(100_000, 1000)]
    if settings.full:
        counts.append(1_000_000)
    times: dict[str, list[dict[str, list[float]]]] = {query.name: [] for query in QUERIES}
    for runs in counts:
        with settings.folder() as folder:
            store = folder / "flowstore.db"
            fill(store, runs)
            for query in QUERIES:
                found = _times_us(query, store, settings.rounds)
                times[query.name].append(found)
                yield Line(f"query, {query.name}, {runs:,} runs", "us", found, "<= 5 x floor")
    for query in QUERIES:
        first, last = times[query.name][0], times[query.name][-1]
        growth = {name: [statistics.median(last[name]) / statistics.median(first[name])] for name in first}
        yield Line(f"  growth, {query.name}, {counts[0]:,} to {counts[-1]:,}", "x", growth, "<= 1.5 x")


def _times_us(query: Query, store: Path, rounds: int) -> dict[str, list[float]]:
    with use_store(store), contextlib.closing(sqlite3.connect(store, isolation_level=None)) as connection:
        namespace(NAMESPACE)
        flow = Flow("Bench")
        ids = [int(run.id) for run in query.by_client(flow) if run is not None]
        if ids != query.by_hand(connection):
            raise Failed(f"query, {query.name}: the Client and plain SQL find different runs")
        return in_turns(
            {
                "floor": partial(_us, partial(query.by_hand, connection)),
                "flowstore": partial(_us, partial(query.by_client, flow)),
            },
            rounds,
        )


def _us(call: Callable[[], object]) -> float:
    return call_s(call) * 1e6


def fill(path: Path, runs: int) -> None:
    """Make a store with so many runs, a thousand a day."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma synchronous = off")
        schema.create(connection, __version__)
        connection.execute("begin")
        connection.execute("insert into flows (id, name) values (1, 'Bench')")
        connection.execute(
            """with recursive number (id) as (select 0 union all select id + 1 from number where id < :runs - 1),
                 moment (id, at) as (select id + 1, :first_ms + id * :day_ms / 1000 from number)
               insert into runs (id, uuid, flow_id, user, status, created_at, finished_at, last_seen_at,
                                 host, boot, pid, pid_started, parameters)
               select id, lower(hex(randomblob(16))), 1, :user, iif(id % 10, 'successful', 'failed'),
                      at, at + 500, at + 500, 'host', 'boot', 1, '0', '{}' from moment""",
            {"runs": runs, "user": USER, "first_ms": FIRST_MS, "day_ms": DAY_MS},
        )
        for day in range(-(-runs // 1000)):
            _tag(
                connection, date_tag(FIRST_MS + day * DAY_MS), 1, f"id between {day * 1000 + 1} and {day * 1000 + 1000}"
            )
        for tag, system, which in TAGS:
            _tag(connection, tag, system, which.replace("half", str(runs // 2)))
        connection.execute(schema.statements(M004_TAG_PAIRS)[1])
        connection.execute("commit")


def _tag(connection: sqlite3.Connection, tag: str, system: int, which: str) -> None:
    connection.execute(
        f"""insert into run_tags (tag_id, flow_id, created_at, run_id, system, successful)
            select ?, 1, created_at, id, ?, status = 'successful' from runs where {which} order by id""",
        (ensure_tag(connection, tag), system),
    )
