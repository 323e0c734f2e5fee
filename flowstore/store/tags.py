"""Which tags are allowed, and changing them: all or nothing.

A run's tags are rows of `run_tags`, those of a step, task or artifact rows of `node_tags`. What is set on an
object is inherited by all below it, by the queries and not by copies, so a tag that is added later holds for
everything at once. Nothing here touches a run's time or order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import attrs

from flowstore.context import is_text
from flowstore.errors import NotFound, TaggingError
from flowstore.sqlite.database import Row, Store
from flowstore.store import records

MAX_LENGTH = 500
RESERVED = ("user:", "production:")


@attrs.frozen(eq=False, repr=False)
class Node:
    """What carries tags: a run or, with more of the fields set, a step, task or artifact of it.

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
    """The tags, each once, if all of them are of a form that can be stored.

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
        raise TaggingError("A tag can't be empty.")
    if len(tag) > MAX_LENGTH:
        raise TaggingError(f"A tag has at most {MAX_LENGTH} characters; this one has {len(tag)}: {tag[:40]!r}…")
    if not is_text(tag):
        raise TaggingError(f"The tag {tag!r} can't be stored: it is not valid Unicode text.")
    return tag


def check_not_reserved(tags: Iterable[str]) -> None:
    """Refuse tags that a user may not set, so that a namespace holds what its name says.

    Raises:
        TaggingError: one begins like a namespace of flowstore's own.
    """
    for tag in tags:
        if tag.startswith(RESERVED):
            raise TaggingError(
                f"The tag {tag!r} can't be set: tags that begin with user: or production: are set by flowstore alone."
            )


def check_settable(tags: Iterable[str]) -> None:
    """Check the rules for tags that somebody sets now.

    A new rule belongs here. `checked` and `check_not_reserved` are asked of imported files, too: a rule that becomes
    stricter there would make older stores impossible to import.

    Raises:
        TaggingError: a tag breaks one of them.
    """
    check_not_reserved(tags)


def change(store: Store, node: Node, *, remove: Iterable[str] = (), add: Iterable[str] = ()) -> None:
    """Remove tags from an object, then add others, in one transaction.

    Adding a tag that the object has already, set or inherited, changes nothing; nor does removing one that it
    lacks.

    Raises:
        TaggingError: a tag is not allowed, is a system tag, or is inherited; nothing was changed.
        NotFound: the object was deleted meanwhile.
    """
    removed, added = checked(remove), checked(add)
    records.record_dead_runs(store)
    with store.write() as db:
        set_on = _tags_above(db, node)
        for tag in removed:
            _check_removable(node, tag, set_on.get(tag, []))
        effective = set_on.keys() - set(removed)
        fresh = [tag for tag in added if tag not in effective]
        check_settable(fresh)
        for tag in removed:
            if tag in set_on:
                _delete(db, node, tag)
        _insert(db, node, [records.ensure_tag(db, tag) for tag in fresh])


@attrs.frozen(eq=False, repr=False)
class _SetOn:
    """Where a tag is set."""

    pathspec: str
    system: bool
    own: bool


def _tags_above(db: sqlite3.Connection, node: Node) -> dict[str, list[_SetOn]]:
    """An object's tags, each with the objects, from the run down to itself, that it is set on."""
    found: dict[str, list[_SetOn]] = {}
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
        attrs.asdict(node),
    ).fetchall()
    for row in rows:
        place = _SetOn("/".join(parts[: row["depth"]]), bool(row["system"]), row["depth"] == len(parts))
        found.setdefault(row["tag"], []).append(place)
    return found


def _check_removable(node: Node, tag: str, places: Sequence[_SetOn]) -> None:
    for place in places:
        if place.system:
            raise TaggingError(f"{tag!r} is a system tag of {place.pathspec} and can't be removed.")
        if not place.own:
            raise TaggingError(f"{node.pathspec} inherits {tag!r}: it is set on {place.pathspec}; remove it there.")


def _delete(db: sqlite3.Connection, node: Node, tag: str) -> None:
    if node.step_id == 0:
        db.execute(
            "delete from run_tags where run_id = ? and tag_id = (select id from tags where tag = ?)", (node.run_id, tag)
        )
    else:
        db.execute(
            """delete from node_tags where run_id = ? and step_id = ? and task_id = ? and artifact = ?
               and tag_id = (select id from tags where tag = ?)""",
            (node.run_id, node.step_id, node.task_id, node.artifact, tag),
        )


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
        records.pair_tags(db, rows[0]["flow_id"], rows[0]["created_at"], [row["tag_id"] for row in rows], fresh)


def listing(store: Store, *, prefixes: Sequence[str] = (), namespace: str | None = None) -> list[Row]:
    """Every tag: how many runs have it or something with it, whether flowstore set it, when the last was created.

    Args:
        store: where to look.
        prefixes: only tags that begin with one of these, which hold nothing that `glob` reads as a pattern.
        namespace: only runs with this tag.
    """
    within = """exists (select 1 from run_tags o join tags n on n.id = o.tag_id
                        where n.tag = :namespace and o.run_id = u.run_id)"""
    globs = {f"prefix{n}": f"{prefix}*" for n, prefix in enumerate(prefixes)}
    named = f"u.tag_id in (select id from tags where {' or '.join(f'tag glob :{name}' for name in globs)})"
    asked = " and ".join([within if namespace else "true", named if globs else "true"])
    return store.rows(
        f"""with uses (tag_id, runs, system, newest_at) as (
              select tag_id, count(*), max(system), max(created_at) from run_tags u where {asked}
              group by tag_id  -- as the rows lie: one pass, without sorting them
              union all
              select u.tag_id, count(distinct u.run_id), 0, max(r.created_at)
              from node_tags u join runs r on r.id = u.run_id
              where not exists (select 1 from run_tags o where o.run_id = u.run_id and o.tag_id = u.tag_id) and {asked}
              group by u.tag_id
            )
            select g.tag, sum(u.runs) as runs, max(u.system) as system,
              strftime('%Y-%m-%d %H:%M:%f', max(u.newest_at) / 1000.0, 'unixepoch') as last_used
            from uses u join tags g on g.id = u.tag_id group by g.id order by g.tag""",
        {"namespace": namespace, **globs},
    )
