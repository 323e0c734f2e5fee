"""Tags: the rules, editing them, and what is known of those that occur together.

A run's tags are rows of `run_tags`, those of a step, task or artifact rows of `node_tags`. What is set on an object is
inherited by all below it, by the queries and not by copies, so a tag that is added later holds for everything at once.
A namespace is a tag. Nothing here touches a run's time or order.
"""

from __future__ import annotations

import functools
import itertools
import json
import sqlite3
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from flowstore import later
from flowstore.context import is_text
from flowstore.errors import NotFound, TaggingError
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.typed_rows import LATER, PAGE

MAX_LENGTH = 500
RESERVED = ("user:", "production:")
CROWD = 32  # tags of one run; the pairs of more are not worth their rows (as in the migration that made `tag_pairs`)
_FEW = 8  # tags of which each pair is looked up
_PAIRS_SINCE = 4  # the schema version; an older file that can't be written is read without
COUNTS_SINCE = 9  # the pair of a tag with itself counts its runs exactly; before, it was a bound


@later.frozen
class Node:
    """An object with tags: a run or, with more of the fields set, a step, task or artifact of it.

    Attributes:
        pathspec: for messages.
        run_id: the run's row.
        step_id: the step's row, 0 for a run.
        task_id: the task's row, 0 for a run or step.
        artifact: the artifact's name, empty for what is above one.
    """

    pathspec: str
    run_id: int
    step_id: int = 0
    task_id: int = 0
    artifact: str = ""


def checked(tags: Iterable[str]) -> list[str]:
    """Return the tags, each once, if all of them are of a form that can be stored.

    Raises:
        TaggingError: one is empty, not text, too long or not UTF-8.

    Example:
        >>> checked(["a", "b", "a"])
        ['a', 'b']
    """
    if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
        raise TaggingError(f"Give a list of tags, not {tags!r}.")
    return list(dict.fromkeys(_checked(tag) for tag in tags))


def _checked(tag: object) -> str:
    if not isinstance(tag, str):
        raise TaggingError(f"A tag is text, not {tag!r}.")
    if not tag:
        raise TaggingError("A tag cannot be empty.")
    if len(tag) > MAX_LENGTH:
        raise TaggingError(f"A tag has at most {MAX_LENGTH} characters; this one has {len(tag)}: {tag[:40]!r}…")
    if not is_text(tag):
        raise TaggingError(f"The tag {tag!r} cannot be stored: it is not valid Unicode text.")
    return tag


def check_not_reserved(tags: Iterable[str]) -> None:
    """Refuse tags that a user may not set, so that a namespace holds what its name says.

    Raises:
        TaggingError: one begins like a namespace of flowstore's own.
    """
    for tag in tags:
        if tag.startswith(RESERVED):
            raise TaggingError(
                f"The tag {tag!r} cannot be set: tags that begin with user: or production: are set by flowstore alone."
            )


def change(store: Database, node: Node, *, remove: Iterable[str] = (), add: Iterable[str] = ()) -> None:
    """Remove tags from an object, then add others, in one transaction.

    Adding a tag that the object has already, set or inherited, changes nothing; nor does removing one that it
    lacks.

    Raises:
        TaggingError: a tag is not allowed, is a system tag, or is inherited; nothing was changed.
        NotFound: the object was deleted meanwhile.
    """
    removed, added = checked(remove), checked(add)
    with store.write() as db:
        set_on = _tags_above(db, node)
        for tag in removed:
            _check_removable(node, tag, set_on.get(tag, []))
        effective = set_on.keys() - set(removed)
        fresh = [tag for tag in added if tag not in effective]
        check_not_reserved(fresh)
        for tag in removed:
            if tag in set_on:
                _delete(db, node, tag)
        _insert(db, node, [ensure_tag(db, tag) for tag in fresh])


@later.frozen
class _SetOn:
    """Where a tag is set."""

    pathspec: str
    system: bool
    own: bool


def _tags_above(db: sqlite3.Connection, node: Node) -> dict[str, list[_SetOn]]:
    """Return an object's tags, each with the objects, from the run down to itself, that it is set on."""
    by_tag: dict[str, list[_SetOn]] = {}
    parts = node.pathspec.split("/", 4)  # an old artifact's name may hold more slashes
    if db.execute("select 1 from runs where id = ?", (node.run_id,)).fetchone() is None:
        raise NotFound(f"{node.pathspec} was deleted.")
    rows: Sequence[Row] = db.execute(
        """select g.tag, rt.system, 2 as depth from run_tags rt join tags g on g.id = rt.tag_id
           where rt.run_id = :run_id
           union all
           select g.tag, 0, 3 + (n.task_id <> 0) + (n.artifact <> '') from node_tags n join tags g on g.id = n.tag_id
           where n.run_id = :run_id and n.step_id = :step_id and n.task_id in (0, :task_id)
             and n.artifact in ('', :artifact)""",
        later.as_dict(node),
    ).fetchall()
    for row in rows:
        carrier = _SetOn("/".join(parts[: row["depth"]]), bool(row["system"]), row["depth"] == len(parts))
        by_tag.setdefault(row["tag"], []).append(carrier)
    return by_tag


def _check_removable(node: Node, tag: str, carriers: Sequence[_SetOn]) -> None:
    for carrier in carriers:
        if carrier.system:
            raise TaggingError(f"{tag!r} is a system tag of {carrier.pathspec} and cannot be removed.")
        if not carrier.own:
            raise TaggingError(f"{node.pathspec} inherits {tag!r}: it is set on {carrier.pathspec}; remove it there.")


def _delete(db: sqlite3.Connection, node: Node, tag: str) -> None:
    of_run = "run_id = :run_id and tag_id = (select id from tags where tag = :tag)"
    of_node = f"{of_run} and step_id = :step_id and task_id = :task_id and artifact = :artifact"
    names = {**later.as_dict(node), "tag": tag}
    if node.step_id == 0:
        uncount(db, of_run, names)
        db.execute(f"delete from run_tags where {of_run}", names)
    else:
        db.execute(f"delete from node_tags where {of_node}", names)


def _insert(db: sqlite3.Connection, node: Node, fresh: Sequence[int]) -> None:
    if node.step_id != 0:
        db.executemany(
            "insert into node_tags (run_id, step_id, task_id, artifact, tag_id) values (?, ?, ?, ?, ?)",
            [(node.run_id, node.step_id, node.task_id, node.artifact, tag_id) for tag_id in fresh],
        )
    elif fresh:
        db.executemany(
            """insert into run_tags (tag_id, flow_id, created_at, run_id, system, successful)
               select ?, flow_id, created_at, id, 0, status = 'successful' from runs where id = ?""",
            [(tag_id, node.run_id) for tag_id in fresh],
        )
        rows = db.execute("select tag_id, flow_id, created_at from run_tags where run_id = ?", [node.run_id]).fetchall()
        pair_tags(db, rows[0]["flow_id"], rows[0]["created_at"], [row["tag_id"] for row in rows], fresh)


def pair_tags(
    db: sqlite3.Connection,
    flow_id: int,
    created_at: int,
    tag_ids: Collection[int],
    fresh: Collection[int] | None = None,
) -> None:
    """Record which tags met on a run, so that those that never did are not searched for.

    Args:
        db: of an open transaction.
        flow_id: the run's flow.
        created_at: when the run was created.
        tag_ids: all tags of the run.
        fresh: those of them that it did not have before; default: all.
    """
    fresh = tag_ids if fresh is None else fresh
    pairs = {(tag, tag) for tag in fresh}
    if len(tag_ids) <= CROWD:
        pairs |= {(min(tag, other), max(tag, other)) for tag in fresh for other in tag_ids}
    else:
        crowded_before = len(tag_ids) - len(fresh) > CROWD
        pairs |= {(0, tag) for tag in (fresh if crowded_before else tag_ids)}
    db.executemany(
        """insert into tag_pairs (flow_id, a, b, newest_at, runs) values (?, ?, ?, ?, 1)
           on conflict do update set newest_at = max(newest_at, excluded.newest_at), runs = runs + 1""",
        [(flow_id, *pair, created_at) for pair in pairs],
    )


def uncount(db: sqlite3.Connection, condition: str, parameters: dict[str, Any]) -> None:
    """Subtract rows of `run_tags` that are about to be deleted from what is counted of their tags.

    Args:
        db: of an open transaction.
        condition: the SQL condition on these rows.
        parameters: its parameters.
    """
    db.execute(
        f"""update tag_pairs set runs = runs - gone.n
            from (select flow_id, tag_id, count(*) as n from run_tags where {condition} group by flow_id, tag_id) gone
            where tag_pairs.flow_id = gone.flow_id and a = gone.tag_id and b = gone.tag_id""",
        parameters,
    )


def ensure_tag(db: sqlite3.Connection, tag: str) -> int:
    """Return the id of a tag, which is inserted if it is missing."""
    row = db.execute("select id from tags where tag = ?", (tag,)).fetchone()
    if row is None:
        row = db.execute(
            "insert into tags (tag, json) values (?, ?) returning id", (tag, json.dumps(tag, ensure_ascii=False))
        ).fetchone()
    return int(row[0])


def date_tag(at_ms: int) -> str:
    """Return the system tag of a day.

    >>> date_tag(0)
    'date:1970-01-01'
    """
    return f"date:{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"


def runtime_tags(version: str, executor: str = "local") -> list[str]:
    """Return the system tags that say what a run ran with."""
    python_version = sys.version.split()[0]  # as `platform` does, whose import takes longer than all of this module
    return [f"runtime:{executor}", f"python_version:{python_version}", f"flowstore_version:{version}"]


def run_tags(store: Database, run_id: int) -> list[Row]:
    """Return the rows of a run's tags: `tag`, `system`."""
    return store.rows(
        "select g.tag, rt.system from run_tags rt join tags g on g.id = rt.tag_id where rt.run_id = ?", (run_id,)
    )


def tags_of_runs(store: Database, run_ids: Sequence[int]) -> dict[int, list[Row]]:
    """Return the rows of several runs' tags, `tag` and `system`, by run."""
    rows = store.rows(
        """select rt.run_id, g.tag, rt.system from json_each(?) j cross join run_tags rt on rt.run_id = j.value
           join tags g on g.id = rt.tag_id""",
        (json.dumps([*run_ids]),),
    )
    by_run: dict[int, list[Row]] = {run_id: [] for run_id in run_ids}
    for row in rows:
        by_run[row["run_id"]].append(row)
    return by_run


def node_tags(store: Database, run_id: int, step_id: int, task_id: int, artifact: str) -> list[str]:
    """Return the tags set on a step, task or artifact and on the step and task above it."""
    rows = store.rows(
        """select g.tag from node_tags n join tags g on g.id = n.tag_id
           where n.run_id = ? and n.step_id = ? and n.task_id in (0, ?) and n.artifact in ('', ?)""",
        (run_id, step_id, task_id, artifact),
    )
    return [row[0] for row in rows]


def all_of(tags: str, tag_ids: Sequence[int]) -> tuple[str, list[int | str]]:
    """Return an SQL condition that an object has all tags, and its parameters; `tags` are the object's rows, as `o`.

    A tag after the other is looked for, so that the first one that is missing ends it. SQLite takes no thousand of such
    conditions, so those beyond the first few are counted at once.
    """
    few, more = tag_ids[:_FEW], tag_ids[_FEW:]
    checks = f" and exists (select 1 from {tags} and o.tag_id = ?)" * len(few)
    if not more:
        return checks, [*few]
    counted = f"(select count(*) from {tags} and o.tag_id in (select value from json_each(?)))"
    return f"{checks} and {counted} = ?", [*few, json.dumps(more), len(more)]


def last_met(store: Database, flow: str, tags: Sequence[str]) -> tuple[int, list[int]]:
    """Return (newest possible time at which one run carries all tags, or -1; the tags' ids, rarest first)."""
    paired = store.version >= _PAIRS_SINCE
    if len(tags) <= _FEW:
        return _ask_met(store, _meeting(len(tags), "tag", paired=paired), (flow, *tags))
    tag_ids = tag_ids_of(store, tags)
    if tag_ids is None:
        return -1, []
    if not paired:
        return LATER, tag_ids
    tag_ids = _rarest_first(store, flow, tag_ids)  # pairs of those say enough: of all there are as many as the square
    newest_at, few = _ask_met(store, _meeting(_FEW, "id", paired=True), (flow, *tag_ids[:_FEW]))
    return newest_at, [*few, *tag_ids[_FEW:]]


def _ask_met(store: Database, question: str, parameters: Sequence[Any]) -> tuple[int, list[int]]:
    row = store.row(question, parameters)
    if row is None:  # no flow or tag of that name
        return -1, []
    newest_at, *columns = row
    return newest_at, [tag_id for _, tag_id in sorted(zip(columns[1::2], columns[::2], strict=True))]


@functools.cache
def _meeting(count: int, column: str, *, paired: bool) -> str:
    """Return SQL that selects, for `count` tags of one flow, a bound on when they last met, their ids and run counts.

    The `column` says whether they are given as text or as ids. Where no pairs are recorded, there is no bound.
    """
    tags = [f"t{n}" for n in range(count)]
    pairs = [
        (
            _of_pair("newest_at", f"min({a}.id, {b}.id)", f"max({a}.id, {b}.id)"),
            f"min({_of_pair('newest_at', '0', f'{a}.id')}, {_of_pair('newest_at', '0', f'{b}.id')})",
        )
        for a, b in itertools.combinations(tags, 2)
    ]
    met = f"min({', '.join(pair for pair, _ in pairs)}, {LATER})"
    met_in_crowds = f"min({', '.join(f'max({pair}, {crowd})' for pair, crowd in pairs)}, {LATER})"
    crowds = "exists (select 1 from tag_pairs where flow_id = f.id and a = 0)"  # most often there are none
    newest_at = f"iif({crowds}, {met_in_crowds}, {met})" if paired else LATER
    columns = (f"{tag}.id, {_of_pair('runs', f'{tag}.id', f'{tag}.id') if paired else 0} as runs" for tag in tags)
    return f"""select {newest_at} as newest_at, {", ".join(columns)}
               from flows f cross join {" cross join ".join(f"tags {tag}" for tag in tags)}
               where f.name = ? and {" and ".join(f"{tag}.{column} = ?" for tag in tags)}"""


def _of_pair(column: str, a: str, b: str) -> str:
    """Return the SQL of what is recorded of a pair; -1 if nothing is."""
    return f"ifnull((select {column} from tag_pairs where flow_id = f.id and a = {a} and b = {b}), -1)"


def _rarest_first(store: Database, flow: str, tag_ids: Sequence[int]) -> list[int]:
    """Sort tags by an upper bound of their run count in the flow.

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


def tag_ids_of(store: Database, tags: Iterable[str]) -> list[int] | None:
    """Return the ids of tags; `None` if nothing can have all of them, since one was never set, or can't be."""
    wanted = list(dict.fromkeys(tags))
    if not are_texts(wanted):
        return None
    ids: list[int] = []
    for at in range(0, len(wanted), PAGE):  # SQLite allows a limited number of parameters
        part = wanted[at : at + PAGE]
        rows = store.rows(f"select id from tags where tag in ({', '.join('?' * len(part))})", part)
        ids += [row["id"] for row in rows]
    return ids if len(ids) == len(wanted) else None


def are_texts(tags: Iterable[str]) -> bool:
    """Return whether all of them can be tags."""
    return all(isinstance(tag, str) and is_text(tag) for tag in tags)


_NEWEST = "from run_tags n where n.tag_id = u.a and n.flow_id = u.flow_id order by created_at desc, run_id desc limit 1"
_COUNTED = f"""select tag_id, runs, (select system {_NEWEST}), (select created_at {_NEWEST})
  from (select a as tag_id, * from tag_pairs where a = b and runs > 0) u where {{conditions}}"""
# As the rows lie: one pass, without sorting them. Of bare columns beside `max`, SQLite takes those of its row.
_TO_COUNT = """select tag_id, count(*), system, max(created_at) from run_tags u where {conditions}
  group by tag_id"""


def listing(store: Database, *, prefixes: Sequence[str] = (), namespace: str | None = None) -> list[Row]:
    """Return every tag: on how many runs it or something of them has it, when last, and whether flowstore set it then.

    Args:
        store: where to look.
        prefixes: only tags that begin with one of these, which hold nothing that `glob` reads as a pattern.
        namespace: only runs with this tag.
    """
    within = "u.run_id in (select run_id from run_tags where tag_id = (select id from tags where tag = :namespace))"
    globs = {f"prefix{n}": f"{prefix}*" for n, prefix in enumerate(prefixes)}
    named = f"u.tag_id in (select id from tags where {' or '.join(f'tag glob :{name}' for name in globs)})"
    conditions = " and ".join([within if namespace else "true", named if globs else "true"])
    counted = store.version >= COUNTS_SINCE and namespace is None
    of_runs = (_COUNTED if counted else _TO_COUNT).format(conditions=conditions)
    return store.rows(
        f"""with uses (tag_id, runs, system, newest_at) as (
              {of_runs}
              union all
              select u.tag_id, count(distinct u.run_id), 0, max(r.created_at)
              from node_tags u join runs r on r.id = u.run_id
              where not exists (select 1 from run_tags o where o.run_id = u.run_id and o.tag_id = u.tag_id)
                and {conditions}
              group by u.tag_id
            )
            select g.tag, sum(u.runs) as runs, max(u.system) as system,
              strftime('%Y-%m-%d %H:%M:%f', max(u.newest_at) / 1000.0, 'unixepoch') as last_used
            from uses u join tags g on g.id = u.tag_id group by g.id order by g.tag""",
        {"namespace": namespace, **globs},
    )
