"""Every question that the Client and the command lines ask of the rows; `records` writes them.

A namespace is a tag. Queries by tag walk `run_tags` from the newest run of the rarest tag and check the others
for each run, all through indexes. They begin where all the tags have last met in pairs (`tag_pairs`), which
ends a search at once for tags that never do. Left is a search for three tags that all meet in pairs and never
together: it walks the rarest one, which takes 40 ms where a flow has 100,000 runs and each tag is on two of three.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from flowstore.context import is_text
from flowstore.errors import NotFound, StoreCorrupt
from flowstore.sqlite.database import Row, Store
from flowstore.sqlite.liveness import Process
from flowstore.store.blobs import COLUMNS

PAGE = 256
FEW = 8  # tags of which each pair is looked up
_LARGEST_ID = 2**63 - 1
_LATER = 2**62  # than any time, or id
Key = TypeVar("Key", int, tuple[int, int])
_PAIRS_SINCE = 4  # the schema version; an older file that can't be written is read without

RUN = f"""select r.id, f.name as flow, r.flow_id, r.user, r.status, r.created_at, r.finished_at, r.last_seen_at,
         {Process.columns("r")}, r.origin_run_id, r.parameters, r.code_id, r.uuid
         from runs r join flows f on f.id = r.flow_id"""
STEP = """select s.id, s.run_id, s.name, s.created_at from steps s"""
TASK = """select t.id, t.run_id, t.step_id, s.name as step, t.status, t.started_at, t.finished_at, t.attempts,
          t.attempt_id, t.foreach_path, t.base_id, t.transition, t.origin_pathspec, r.status as run_status
          from tasks t join steps s on s.id = t.step_id join runs r on r.id = t.run_id"""


def parse_id(kind: str, text: str) -> int:
    """Return the id of a run or task as a number.

    Args:
        kind: what has the id, for the message.
        text: what a user gave.

    Raises:
        NotFound: the text is no id, so nothing can have it.
    """
    is_id = text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST_ID))
    if not is_id or text != str(int(text)) or int(text) > _LARGEST_ID:
        raise NotFound(f"There is no {kind} {text[:100]!r}: {kind} ids are numbers.")
    return int(text)


def flow_names(store: Store, tag: str | None) -> list[str]:
    """The flows that have a run with a tag; all that have a run, for `None`."""
    if tag is None:
        has_run = "exists (select 1 from runs r where r.flow_id = f.id)"
    else:
        has_run = """exists (select 1 from run_tags rt where rt.flow_id = f.id
                     and rt.tag_id = (select id from tags where tag = :tag))"""
    rows = store.rows(f"select f.name from flows f where {has_run} order by f.name", {"tag": tag})
    return [row[0] for row in rows]


def has_run(store: Store, flow: str, tag: str | None) -> bool:
    """Whether a flow is among `flow_names`, however many those are."""
    if tag is None:
        sql = "select 1 from runs where flow_id = (select id from flows where name = :flow) limit 1"
    else:
        sql = """select 1 from run_tags where tag_id = (select id from tags where tag = :tag)
                 and flow_id = (select id from flows where name = :flow) limit 1"""
    return store.value(sql, {"flow": flow, "tag": tag}) is not None


def find_run(store: Store, flow: str, run_id: int) -> Row | None:
    """A run's row."""
    return store.row(f"{RUN} where r.id = ? and f.name = ?", (run_id, flow))


def run_ids(store: Store, flow: str, tags: Sequence[str], *, successful: bool = False) -> Iterator[int]:
    """A flow's runs that have all tags, newest first; fetched as they are asked for, one at first, then more."""
    wanted: list[Any] = list(dict.fromkeys(tags))
    if not _are_texts(wanted):
        return
    last = (_LATER, _LATER)
    if len(wanted) > 1:
        newest_at, wanted = _met(store, flow, wanted)
        last = (newest_at, _LATER)
        if newest_at < 0:
            return
    page = 1
    while True:
        rows = _page(store, flow, wanted, successful, last, page)
        for row in rows:
            yield row["id"]
        if len(rows) < page:
            return
        last = _onward(store, last, (rows[-1]["created_at"], rows[-1]["id"]))
        page = min(page * 25, PAGE)


def _onward(store: Store, last: Key, row: Key) -> Key:
    """Where the next page begins: below the last row, unless an index is damaged and would be read round and round."""
    if not row < last:
        raise StoreCorrupt.damaged("rows are out of order", store.path)
    return row


def _page(
    store: Store, flow: str, tags: Sequence[Any], successful: bool, last: tuple[int, int], page: int
) -> list[Row]:
    """The next runs below `last`, of a tag as text, or of several as rows."""
    flow_id = "(select id from flows where name = ?)"
    if not tags:
        where = "and r.status = 'successful'" if successful else ""
        return store.rows(
            f"""select r.id, r.created_at from runs r where r.flow_id = {flow_id} and (r.created_at, r.id) < (?, ?)
                {where} order by r.created_at desc, r.id desc limit ?""",
            (flow, *last, page),
        )
    first, *others = tags
    tag_id = "(select id from tags where tag = ?)" if isinstance(first, str) else "?"
    checks, wanted = _all_of(
        "run_tags o where o.flow_id = w.flow_id and o.created_at = w.created_at and o.run_id = w.run_id", others
    )
    where = "and w.successful = 1" if successful else ""
    return store.rows(
        f"""select w.run_id as id, w.created_at from run_tags w
            where w.tag_id = {tag_id} and w.flow_id = {flow_id} and (w.created_at, w.run_id) < (?, ?) {where} {checks}
            order by w.created_at desc, w.run_id desc limit ?""",
        (first, flow, *last, *wanted, page),
    )


def _all_of(tags: str, tag_ids: Sequence[int]) -> tuple[str, list[int | str]]:
    """A condition: an object has all tags; with its parameters. `tags` are the object's rows, as `o`.

    A tag after the other is looked for, so that the first one that is missing ends it. SQLite takes no thousand of such
    conditions, so those beyond the first few are counted at once.
    """
    few, more = tag_ids[:FEW], tag_ids[FEW:]
    checks = f" and exists (select 1 from {tags} and o.tag_id = ?)" * len(few)
    if not more:
        return checks, [*few]
    counted = f"(select count(*) from {tags} and o.tag_id in (select value from json_each(?)))"
    return f"{checks} and {counted} = ?", [*few, json.dumps(more), len(more)]


def _met(store: Store, flow: str, tags: Sequence[str]) -> tuple[int, list[int]]:
    """After when no run of a flow can have all tags (-1: none ever had), and the rows of these, the rarest first."""
    paired = store.version >= _PAIRS_SINCE
    if len(tags) <= FEW:
        return _ask_met(store, _meeting(len(tags), "tag", paired=paired), (flow, *tags))
    tag_ids = _tag_ids(store, tags)
    if tag_ids is None:
        return -1, []
    if not paired:
        return _LATER, tag_ids
    tag_ids = _rarest_first(store, flow, tag_ids)  # pairs of those say enough: of all there are as many as the square
    newest_at, few = _ask_met(store, _meeting(FEW, "id", paired=True), (flow, *tag_ids[:FEW]))
    return newest_at, [*few, *tag_ids[FEW:]]


def _ask_met(store: Store, question: str, parameters: Sequence[Any]) -> tuple[int, list[int]]:
    row = store.row(question, parameters)
    if row is None:  # no flow or tag of that name
        return -1, []
    newest_at, *found = row
    return newest_at, [tag_id for _, tag_id in sorted(zip(found[1::2], found[::2], strict=True))]


@functools.cache
def _meeting(count: int, column: str, *, paired: bool) -> str:
    """The question after when so many tags of a flow can't all have met, what their rows are, and how frequent each is.

    The `column` says whether they are given as text or as rows. Where nothing is noted of pairs, there is no bound.
    """
    tags = [f"t{n}" for n in range(count)]
    bounds = (
        f"max({_of_pair('newest_at', f'min({a}.id, {b}.id)', f'max({a}.id, {b}.id)')}, "
        f"min({_of_pair('newest_at', '0', f'{a}.id')}, {_of_pair('newest_at', '0', f'{b}.id')}))"
        for a, b in itertools.combinations(tags, 2)
    )
    newest_at = f"min({', '.join(bounds)}, {_LATER})" if paired else _LATER
    found = (f"{tag}.id, {_of_pair('runs', f'{tag}.id', f'{tag}.id') if paired else 0} as runs" for tag in tags)
    return f"""select {newest_at} as newest_at, {", ".join(found)}
               from flows f cross join {" cross join ".join(f"tags {tag}" for tag in tags)}
               where f.name = ? and {" and ".join(f"{tag}.{column} = ?" for tag in tags)}"""


def _of_pair(column: str, a: str, b: str) -> str:
    """What is noted of a pair, -1 if nothing is."""
    return f"ifnull((select {column} from tag_pairs where flow_id = f.id and a = {a} and b = {b}), -1)"


def _rarest_first(store: Store, flow: str, tag_ids: Sequence[int]) -> list[int]:
    """Tags by how many runs of the flow have them at most.

    It says `cross join` since SQLite would else go through all pairs of the flow, and all tags for each.
    """
    rows = store.rows(
        """select p.a, p.runs from json_each(?) j
           cross join tag_pairs p on p.flow_id = (select id from flows where name = ?)
           and p.a = j.value and p.b = j.value""",
        (json.dumps(tag_ids), flow),
    )
    runs = {row["a"]: row["runs"] for row in rows}
    return sorted(tag_ids, key=lambda tag: runs.get(tag, 0))


def _tag_ids(store: Store, tags: Iterable[str]) -> list[int] | None:
    """The rows of tags; `None` if nothing can have all of them, since one was never set, or can't be."""
    wanted = list(dict.fromkeys(tags))
    if not _are_texts(wanted):
        return None
    found: list[int] = []
    for at in range(0, len(wanted), PAGE):  # SQLite allows a limited number of parameters
        part = wanted[at : at + PAGE]
        rows = store.rows(f"select id from tags where tag in ({', '.join('?' * len(part))})", part)
        found += [row["id"] for row in rows]
    return found if len(found) == len(wanted) else None


def _are_texts(tags: Iterable[str]) -> bool:
    """Whether all of them can be tags."""
    return all(isinstance(tag, str) and is_text(tag) for tag in tags)


def imported_from(store: Store, run_id: int) -> str | None:
    """The other store's uuid and the pathspec there of a run that was imported."""
    if not store.value("select 1 from sqlite_master where name = 'origins'"):  # an older store is read as it is
        return None
    found: str | None = store.value("select store_uuid || '/' || pathspec from origins where run_id = ?", (run_id,))
    return found


def run_tags(store: Store, run_id: int) -> list[Row]:
    """A run's tags: `tag`, `system`."""
    return store.rows(
        "select g.tag, rt.system from run_tags rt join tags g on g.id = rt.tag_id where rt.run_id = ?", (run_id,)
    )


def node_tags(store: Store, run_id: int, step_id: int, task_id: int, artifact: str) -> list[str]:
    """The tags set on a step, task or artifact and on the step and task above it."""
    rows = store.rows(
        """select g.tag from node_tags n join tags g on g.id = n.tag_id
           where n.run_id = ? and n.step_id = ? and n.task_id in (0, ?) and n.artifact in ('', ?)""",
        (run_id, step_id, task_id, artifact),
    )
    return [row[0] for row in rows]


def steps(store: Store, run_id: int, tags: Iterable[str] = ()) -> list[Row]:
    """A run's steps that have all tags set on themselves, the latest first."""
    tag_ids = _tag_ids(store, tags)
    if tag_ids is None:
        return []
    checks, wanted = _all_of(
        "node_tags o where o.run_id = s.run_id and o.step_id = s.id and o.task_id = 0 and o.artifact = ''", tag_ids
    )
    found = store.rows(f"{STEP} where s.run_id = ?{checks}", (run_id, *wanted))
    return sorted(found, key=lambda row: row["id"], reverse=True)  # few: not worth an index that each run would write


def find_step(store: Store, flow: str, run_id: int, name: str) -> Row | None:
    """Return a step's row, if there is such a step."""
    return store.row(
        f"""{STEP} where s.run_id = ? and s.name = ? and exists
            (select 1 from runs r join flows f on f.id = r.flow_id where r.id = s.run_id and f.name = ?)""",
        (run_id, name, flow),
    )


def tasks(store: Store, run_id: int, step_id: int, tags: Iterable[str] = ()) -> Iterator[list[Row]]:
    """A step's tasks that have all tags set on themselves, the latest first, in pages."""
    tag_ids = _tag_ids(store, tags)
    if tag_ids is None:
        return
    last = _LATER
    checks, wanted = _all_of(
        "node_tags o where o.run_id = t.run_id and o.step_id = t.step_id and o.task_id = t.id and o.artifact = ''",
        tag_ids,
    )
    while rows := store.rows(
        f"{TASK} where t.run_id = ? and t.step_id = ? and t.id < ?{checks} order by t.id desc limit ?",
        (run_id, step_id, last, *wanted, PAGE),
    ):
        yield rows
        last = _onward(store, last, rows[-1]["id"])


def first_task(store: Store, run_id: int, step_id: int) -> Row | None:
    """The task of a step that began first."""
    return store.row(f"{TASK} where t.run_id = ? and t.step_id = ? order by t.id limit 1", (run_id, step_id))


def end_task(store: Store, run_id: int) -> Row | None:
    """Return the row of a run's end task, whatever its status; `None` where the step `end` has not begun."""
    return store.row(
        f"{TASK} where s.run_id = ? and s.name = 'end' and t.run_id = ? order by t.id limit 1", (run_id,) * 2
    )


def find_task(store: Store, flow: str, run_id: int, step: str, task_id: int) -> Row | None:
    """Return a task's row, if there is such a task."""
    return store.row(
        f"{TASK} join flows f on f.id = r.flow_id where t.id = ? and t.run_id = ? and s.name = ? and f.name = ?",
        (task_id, run_id, step, flow),
    )


def relatives(store: Store, task_id: int, *, children: bool) -> list[Row]:
    """The tasks that ran directly before, or after, a task."""
    near, far = ("parent_id", "task_id") if children else ("task_id", "parent_id")
    return store.rows(f"{TASK} join task_parents p on p.{far} = t.id where p.{near} = ? order by t.id", (task_id,))


def related_steps(store: Store, step_id: int, *, children: bool) -> list[str]:
    """The names of the steps whose tasks ran directly before, or after, a step's."""
    near, far = ("parent_id", "task_id") if children else ("task_id", "parent_id")
    rows = store.rows(
        f"""select distinct o.step_id, s.name from tasks t join task_parents p on p.{near} = t.id
            join tasks o on o.id = p.{far} join steps s on s.id = o.step_id where t.step_id = ? order by s.id""",
        (step_id,),
    )
    return [row["name"] for row in rows]


def find_attempt(store: Store, task_id: int, number: int) -> Row | None:
    """An attempt's row."""
    return store.row("select * from attempts where task_id = ? and number = ?", (task_id, number))


def parameters_of(store: Store, run_id: int) -> list[Row]:
    """A run's parameters and constants, with their blobs."""
    return store.rows(
        f"select p.name, p.kind, {COLUMNS} from run_artifacts p join blobs b on b.id = p.blob_id where p.run_id = ?",
        (run_id,),
    )


def step_began_at(store: Store, run_id: int, step_id: int, created_at: int) -> int:
    """Return when a step's first task started; `created_at` where none did before."""
    [row] = store.rows("select min(started_at) as begun from tasks where run_id = ? and step_id = ?", (run_id, step_id))
    return created_at if row["begun"] is None else min(row["begun"], created_at)


def log(store: Store, log_id: int, stream: str | None = None) -> Iterator[Row]:
    """What an attempt printed: `stream`, `written_at`, `text`, in order, a page at a time."""
    last = 0
    while rows := store.rows(
        """select id, stream, written_at, text from log_chunks
           where log_id = ? and id > ? and (? is null or stream = ?) order by id limit ?""",
        (log_id, last, stream, stream, PAGE),
    ):
        yield from rows
        last = -_onward(store, -last, -rows[-1]["id"])
