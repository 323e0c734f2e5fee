"""Finding the runs of a flow, newest first, by walking an index.

A search by tags walks `run_tags` from the newest run of the rarest tag, where all tags last met in pairs
(`tags.last_met`), and checks the others for each run. Three tags that all meet in pairs and never together are the
worst case: 40 ms where a flow has 100,000 runs and each tag is on two of three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flowstore import later
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.typed_rows import LATER, PAGE, onward
from flowstore.store.tags import all_of, are_texts, last_met


@later.frozen
class Match:
    """A run that was found.

    Attributes:
        flow: its flow.
        run_id: its id.
        created_at: in milliseconds since 1970.
    """

    flow: str
    run_id: int
    created_at: int

    @property
    def pathspec(self) -> str:
        """Its pathspec."""
        return f"{self.flow}/{self.run_id}"

    @property
    def moment(self) -> tuple[int, int]:
        """Its position among all runs, by time."""
        return self.created_at, self.run_id


@later.frozen
class Condition:
    """An SQL condition on a run `r`, and its parameters.

    Attributes:
        sql: the condition.
        values: what to bind.
        successful: what it says of the column `successful` of `run_tags`, if anything.
        of_tags: whether that says all.
    """

    sql: str
    values: tuple[Any, ...] = ()
    successful: int | None = None
    of_tags: bool = False

    def __and__(self, other: Condition) -> Condition:
        if not other.sql or not self.sql:
            return self if not other.sql else other
        successful = other.successful if self.successful is None else self.successful
        return Condition(f"{self.sql} and {other.sql}", (*self.values, *other.values), successful)


NOTHING = Condition("")
SUCCESSFUL = Condition("r.status = 'successful'", (), 1, of_tags=True)


def find_runs(store: Database, flow: str, tags: Sequence[str], *, successful: bool = False) -> Iterator[int]:
    """Yield a flow's runs that have all tags, newest first; fetched as they are asked for, one at first, then more."""
    condition = SUCCESSFUL if successful else NOTHING
    return (match.run_id for match in _of_flow(store, flow, tags, condition, (LATER, LATER)))


def newest_first(
    store: Database, flow: str | None, tags: Sequence[str], condition: Condition, last: tuple[int, int]
) -> Iterator[Match]:
    """Yield the runs of a flow, or of all, that have all tags, newest first: those of each flow, merged.

    Args:
        store: where to look.
        flow: the flow; `None` for all.
        tags: the tags.
        condition: what else holds for the runs.
        last: the time and id of the run that they are older than.
    """
    flows = [flow] if flow is not None else [row["name"] for row in store.rows("select name from flows")]
    matches = (_of_flow(store, name, tags, condition, last) for name in flows)
    import heapq  # most questions have one condition

    return heapq.merge(*matches, key=lambda match: match.moment, reverse=True)


def _of_flow(
    store: Database, flow: str, tags: Sequence[str], condition: Condition, last: tuple[int, int]
) -> Iterator[Match]:
    """Yield a flow's runs below `last` that have all tags, newest first; one is fetched at first, then more."""
    wanted: list[Any] = list(dict.fromkeys(tags))
    if not are_texts([flow, *wanted]):
        return
    if len(wanted) > 1:
        newest_at, wanted = last_met(store, flow, wanted)
        last = min(last, (newest_at, LATER))
        if newest_at < 0:
            return
    page = 1
    while True:
        rows = _page(store, flow, wanted, condition, last, page)
        for row in rows:
            yield Match(flow, row["id"], row["created_at"])
        if len(rows) < page:
            return
        last = onward(store.path, last, (rows[-1]["created_at"], rows[-1]["id"]))
        page = min(page * 25, PAGE)


def _page(
    store: Database, flow: str, tags: Sequence[Any], condition: Condition, last: tuple[int, int], page: int
) -> list[Row]:
    """Return the next runs below `last`; a single tag is given as text, several as ids."""
    flow_id = "(select id from flows where name = ?)"
    where = f"and {condition.sql}" if condition.sql else ""
    if not tags:
        return store.rows(
            f"""select r.id, r.created_at from runs r where r.flow_id = {flow_id} and (r.created_at, r.id) < (?, ?)
                {where} order by r.created_at desc, r.id desc limit ?""",
            (flow, *last, *condition.values, page),
        )
    first, *others = tags
    tag_id = "(select id from tags where tag = ?)" if isinstance(first, str) else "?"
    checks, wanted = all_of(
        "run_tags o where o.flow_id = w.flow_id and o.created_at = w.created_at and o.run_id = w.run_id", others
    )
    join = "" if condition.of_tags or not condition.sql else "cross join runs r"
    where = f"and r.id = w.run_id {where}" if join else ""
    ended = "" if condition.successful is None else f"and w.successful = {condition.successful}"
    return store.rows(
        f"""select w.run_id as id, w.created_at from run_tags w {join}
            where w.tag_id = {tag_id} and w.flow_id = {flow_id} and (w.created_at, w.run_id) < (?, ?) {ended} {checks}
            {where} order by w.created_at desc, w.run_id desc limit ?""",
        (first, flow, *last, *wanted, *(condition.values if join else ()), page),
    )


def environment_of(store: Database, run_id: int) -> str | None:
    """Return the versions of the distributions that a run imported, as a JSON object; `None` where they are unknown."""
    row = store.row("select * from runs where id = ?", (run_id,))
    if row is None or "environment" not in row.keys():  # noqa: SIM118  # a row's values are not its keys
        return None
    text: str | None = row["environment"]
    return text
