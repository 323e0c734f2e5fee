"""Finding runs: the Client against hand-written SQL on the same file, and how both grow with the number of runs.

The stores are those of `filled`: 8 tags a run, and two tags that never meet.
Peers: MLflow's `search_runs` on SQLite, at the smaller sizes; its rows are copies, made by SQL, of a run that MLflow
wrote. With `--full` also Metaflow, in the smallest size, with a tenth of the runs, which it has to execute for that.
The view `object_tags` is counted in a store whose runs have three tasks and two artifacts each, 72 rows a run. Floor:
the same rows copied to a table and counted there. The first page of a list of runs is fetched as commands and pages do.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import attrs

from benchmarks.filled import NAMESPACE, fill
from benchmarks.libraries import Settings, asked
from benchmarks.measure import Failed, Line, call_s, in_turns
from benchmarks.targets import at_most, times_floor
from flowstore import Flow, Run, namespace, open_store, use_store
from flowstore.client.rows import table_of_runs
from flowstore.client.store import Store
from flowstore.store.run_pages import RunQuery

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
    """Return the newest run that is early and late, each tag skipping to where the other one stands."""
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
    counts = [settings.size(1000, 20), settings.size(10_000, 100), settings.size(100_000, 1000)]
    if settings.full:
        counts.append(1_000_000)
    times: dict[str, list[dict[str, list[float]]]] = {query.name: [] for query in QUERIES}
    for runs in counts:
        with settings.folder() as folder, contextlib.ExitStack() as stack:
            fill(folder / "flowstore.db", runs)
            peers = _peers(settings, stack, folder, runs, smallest=runs == counts[0]) if runs in counts[:2] else {}
            missing = settings.peers.missing("mlflow") if runs in counts[:2] else []
            for query in QUERIES:
                asking = {name: partial(ask, query.name) for name, ask in peers.items()}
                found = _times_us(query, folder / "flowstore.db", settings.rounds, asking)
                times[query.name].append(found)
                yield Line(f"query, {query.name}, {runs:,} runs", "us", found, times_floor(5), missing)
    for query in QUERIES:
        first, last = times[query.name][0], times[query.name][-1]
        growth = {
            name: [statistics.median(last[name]) / statistics.median(first[name])] for name in ("floor", "flowstore")
        }
        name = f"query, growth, {query.name}, {counts[0]:,} to {counts[-1]:,}"
        yield Line(name, "x", growth, at_most(1.5, "x"))
    yield from _first_pages(settings, counts[0], counts[2])
    yield from _all_tags(settings)


PAGES = {
    "the newest": RunQuery(),
    "of a flow": RunQuery(flow="Bench"),
    "with a tag": RunQuery(tags=("third",)),
    "that failed": RunQuery(statuses=("failed",)),
    "best by a metric": RunQuery(sort="-accuracy"),
    "by a parameter": RunQuery(sort="alpha"),
}
MEASURED = (
    """insert into numbers (run_id, task_id, artifact, name, magnitude, final)
       select id, id, 'accuracy', 'accuracy', (id * 7919 % 100003) / 100003.0, 1 from runs""",
    """update runs set parameters = '{"alpha": ' || ((id % 1000) / 1000.0) || '}'""",
    "insert into blobs (id, sha, codec, size_bytes, type, preview) values (1, x'00', 'json', 3, 'float', '0.5')",
    "insert into run_artifacts select id, 'alpha', 'parameter', 1 from runs",
)


def _first_pages(settings: Settings, few: int, many: int) -> Iterator[Line]:
    """Yield how the time for a first page of runs grows with the number of runs, its rows included."""
    times: dict[str, list[float]] = {name: [] for name in PAGES}
    for runs in (few, many):
        with settings.folder() as folder:
            path = folder / "flowstore.db"
            fill(path, runs)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                for statement in MEASURED:
                    connection.execute(statement)
            with open_store(path, namespace=None) as store:
                calls = {name: partial(_page_ms, store, query) for name, query in PAGES.items()}
                for name, samples in in_turns(calls, settings.rounds).items():
                    times[name].append(statistics.median(samples))
                    yield Line(f"query, page of runs, {name}, {runs:,} runs", "ms", {"flowstore": samples})
    for name, (first, last) in times.items():
        target = None if name == "by a parameter" else at_most(1.5, "x")  # all runs in question are looked at
        yield Line(
            f"query, growth, page of runs, {name}, {few:,} to {many:,}", "x", {"flowstore": [last / first]}, target
        )


def _page_ms(store: Store, query: RunQuery) -> float:
    return call_s(lambda: table_of_runs(store._scope, query)) * 1e3


def _all_tags(settings: Settings) -> Iterator[Line]:
    """Yield what counting the tags of all objects takes."""
    runs = settings.size(20_000, 20)
    with settings.folder() as folder:
        path = folder / "flowstore.db"
        fill(path, runs, contents=True)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("create temporary table copied as select * from object_tags")
            count = partial(_count_ms, connection)
            samples = in_turns(
                {"floor": partial(count, "copied"), "flowstore": partial(count, "object_tags")}, settings.rounds
            )
    yield Line(f"query, count of object_tags, {runs:,} runs", "ms", samples, at_most(1000, "ms"))


def _count_ms(connection: sqlite3.Connection, table: str) -> float:
    return call_s(lambda: connection.execute(f"select count(*) from {table}").fetchone()) * 1e3


def _peers(
    settings: Settings, stack: contextlib.ExitStack, folder: Path, runs: int, *, smallest: bool
) -> dict[str, Callable[[str], float]]:
    """Return the peers, each with its own store, ready to be asked until the stack is closed."""
    found = {}
    if settings.peers.installed("mlflow"):
        found["mlflow"] = stack.enter_context(asked(settings.peers, "query_mlflow", folder / "mlflow", runs))
    if settings.full and smallest and settings.peers.installed("metaflow"):
        fewer = runs // 10
        name = f"metaflow at {fewer} runs"
        found[name] = stack.enter_context(asked(settings.peers, "query_metaflow", folder / "metaflow", fewer))
    return found


def _times_us(
    query: Query, store: Path, rounds: int, peers: Mapping[str, Callable[[], float]]
) -> dict[str, list[float]]:
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
                **peers,
            },
            rounds,
        )


def _us(call: Callable[[], object]) -> float:
    return call_s(call) * 1e6
