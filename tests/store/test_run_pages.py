"""Pages of runs: what a plain model finds, in its order, found through indexes."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstore import open_store
from flowstore.client.rows import table_of_runs
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.store import records, run_pages
from flowstore.store.opening import ensure_store
from flowstore.store.run_pages import RunQuery, find_page
from support.recording import add_run

STORES = Path(__file__).parents[1] / "stores"
STATUSES = ("successful", "failed", "stopped", "running", "dead")


@attrs.frozen
class Known:
    """What the model knows of a run; it was recorded as running where it is dead now."""

    run_id: int
    flow: str
    user: str
    tags: frozenset
    status: str
    alpha: object
    score: float | None


runs = st.builds(
    Known,
    st.just(0),
    st.sampled_from(["F", "G"]),
    st.sampled_from(["ann", "bob"]),
    st.frozensets(st.sampled_from(["t", "u", "v"])),
    st.sampled_from(STATUSES),
    st.sampled_from([None, 1, 2, 0.5, "text", True]),
    st.sampled_from([None, 1.0, 2.0, -1.0]),
)
queries = st.builds(
    RunQuery,
    flow=st.sampled_from([None, None, "F", "G", "none"]),
    tags=st.sampled_from([(), (), ("t",), ("t", "u"), ("user:ann",), ("nothing",), ("t", "nothing")]),
    without=st.sampled_from([(), (), ("v",), ("v", "nothing")]),
    namespace=st.sampled_from([None, None, "user:bob"]),
    statuses=st.sampled_from([(), (), ("running",), ("dead",), ("successful",), ("failed", "running"),
                              ("dead", "stopped")]),
    user=st.sampled_from([None, None, "ann"]),
    text=st.sampled_from([None, None, "G/", "TEXT", "V", "f/1"]),
    sort=st.sampled_from([None, "-created_at", "created_at", "score", "-score", "alpha", "-alpha", "user", "-status",
                          "no"]),
    limit=st.sampled_from([1, 2, 7]),
)  # fmt: skip


def record(store, known):
    """Record a run of the model; gives it with its id."""
    running = known.status in ("running", "dead")
    run_id = add_run(
        store, known.flow, user=known.user, tags=sorted(known.tags), parameters={"alpha": known.alpha, "name": "Text"},
        status="running" if running else known.status,
    )  # fmt: skip
    with store.write() as db:
        if known.status == "dead":
            db.execute("update runs set pid_started = 'long ago' where id = ?", (run_id,))
        if known.score is not None:
            [task_id] = db.execute("select min(id) from tasks where run_id = ?", (run_id,)).fetchone()
            number = "insert into numbers (run_id, task_id, artifact, name, magnitude, final) values (?, ?, ?, ?, ?, ?)"
            db.execute(number, (run_id, task_id, "score", "score", known.score, 1))
            db.execute(number, (run_id, task_id, "score", "score", 77.0, 0))
    return attrs.evolve(known, run_id=run_id)


def answer(model, query):
    """The ids of the runs that a query finds, in order."""

    def matches(known):
        tags = known.tags | {f"user:{known.user}"}
        wanted = {*query.tags, *([query.namespace] if query.namespace else [])}
        shown = [f"{known.flow}/{known.run_id}", known.user, *tags, json.dumps({"alpha": known.alpha, "name": "Text"})]
        return (
            query.flow in (None, known.flow)
            and wanted <= tags
            and tags.isdisjoint(query.without)
            and (not query.statuses or known.status in query.statuses)
            and query.user in (None, known.user)
            and (query.text is None or any(query.text.casefold() in text.casefold() for text in shown))
        )

    matching = sorted(filter(matches, model), key=lambda known: known.run_id, reverse=True)
    column, falling = (query.sort or "-created_at").removeprefix("-"), (query.sort or "-").startswith("-")
    if column == "created_at":
        return [known.run_id for known in (matching if falling else reversed(matching))]

    def value(known):
        value = getattr(known, column, None)
        return value if value is None else (isinstance(value, str), value)

    have = [known for known in matching if value(known) is not None]
    if column == "score" and not falling:
        have.reverse()  # of equal numbers, the older first
    have.sort(key=value, reverse=falling)
    return [known.run_id for known in (*have, *(known for known in matching if value(known) is None))]


@pytest.fixture(scope="module", params=[1, 500])
def few(request):
    """How many runs are sorted rather than met on a walk: all of the model's, or next to none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_pages, "_FEW_RUNS", request.param)
        yield


@pytest.mark.long
@settings(max_examples=10, deadline=None)
@given(recorded=st.lists(runs, min_size=1, max_size=12), wanted=st.lists(queries, min_size=12, max_size=12))
def test_pages_are_what_a_model_finds(tmp_path_factory, few, recorded, wanted):
    """Page after page, whichever way it is looked for, each run once."""
    store = ensure_store(tmp_path_factory.mktemp("pages") / "flowstore.db")
    model = [record(store, known) for known in recorded]
    for query in wanted:
        listed, after = [], None
        while True:
            page = find_page(store, attrs.evolve(query, after=after))
            assert len(page.matches) <= query.limit
            listed += [match.run_id for match in page.matches]
            if (after := page.after) is None:
                break
        assert listed == answer(model, query), query
    store.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A store of 3,000 runs; every third one failed."""
    path = tmp_path_factory.mktemp("many") / "flowstore.db"
    store = ensure_store(path)
    with store.write() as db:
        for n in range(3000):
            new = records.NewRun(
                "F" if n % 2 else "G", "me", {"n": str(n)}, [], None, ["user:me"], ["t"] * (n % 3 == 0)
            )
            run_id = records.create_run(db, new)
            records.finish_run(db, run_id, "failed" if n % 3 == 0 else "successful")
    yield store
    store.close()


FIRST_PAGES = {
    "all": RunQuery(),
    "a flow": RunQuery(flow="F"),
    "a tag": RunQuery(tags=("t",)),
    "a status": RunQuery(statuses=("failed",)),
    "a text": RunQuery(text="f/"),
}


@pytest.mark.parametrize("query", FIRST_PAGES.values(), ids=FIRST_PAGES)
def test_a_first_page_looks_at_few_runs(many, query):
    """Its cost does not follow from how many runs there are: so many steps of SQLite's machine."""
    steps = itertools.count()
    many.connection().set_progress_handler(lambda: next(steps) < 0, 100)
    try:
        assert len(find_page(many, query).matches) == 50
    finally:
        many.connection().set_progress_handler(None, 0)
    assert next(steps) * 100 < 150_000


BAD = ("x", "1", "[1]", '["a", 1]', "[1, 2, 3, 4]", f"[1, {2**63}]", "[1.5, 2]", "null", "[[], 1]", "[[], 1, 1]")


@pytest.mark.parametrize("after", BAD)
@pytest.mark.parametrize("sort", [None, "n"])
def test_a_page_that_begins_nowhere(many, after, sort):
    """A changed address is one message."""
    with pytest.raises(FlowstoreError, match="begin at the first page"):
        find_page(many, RunQuery(after=after, sort=sort))


def test_what_cannot_be_sorted_by(many):
    """Whole tags and parameters have no order."""
    with pytest.raises(FlowstoreError, match="cannot be sorted by tags"):
        find_page(many, RunQuery(sort="-tags"))


def test_parameters_that_are_no_json(tmp_path):
    """They are damage, whichever way they are met."""
    store = ensure_store(tmp_path / "flowstore.db")
    add_run(store, parameters={"alpha": 1})
    with store.write() as db:
        db.execute("update runs set parameters = '{'")
    with pytest.raises(StoreCorrupt):
        find_page(store, RunQuery(sort="alpha"))
    store.close()


@pytest.mark.parametrize("version", [1, 6])
def test_an_older_file_is_sorted_too(tmp_path, version):
    """Metrics of a file that has no `numbers` are computed, and nothing is written."""
    path = tmp_path / "flowstore.db"
    path.write_bytes(gzip.decompress((STORES / f"v{version}.db.gz").read_bytes()))
    with open_store(path, namespace=None) as store:
        ids, numbers = [], []
        query = RunQuery(sort="-metrics.accuracy", limit=1)
        while query is not None:
            table = table_of_runs(store._scope, query)
            ids += [row.run_id for row in table.rows]
            numbers += [values.get("metrics.accuracy") for values in table.values]
            query = table.after and attrs.evolve(query, after=table.after)
    assert numbers[0] is not None
    assert numbers == sorted(numbers, key=lambda number: -1 if number is None else number, reverse=True)
    assert sorted(ids) == sorted(set(ids))
    assert path.read_bytes() == gzip.decompress((STORES / f"v{version}.db.gz").read_bytes())
