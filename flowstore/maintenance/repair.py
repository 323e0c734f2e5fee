"""Repairs a store: what can't be read is dropped and reported; all else stays.

An index is built again from its table. Rows are repaired by the statements that come with each problem. If a page can't
be read, the rest is saved into a new file (`salvage`). Dropping one thing may show another, as a run's tasks if the run
could not be read, so the store is checked again until nothing is wrong.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from flowstore._version import __version__
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.maintenance import vacuum
from flowstore.maintenance.check import check, from_both_ends
from flowstore.sqlite import files, journal, side_files
from flowstore.sqlite.database import Database
from flowstore.store import schema, tables
from flowstore.store.problems import UNREADABLE, Problem
from flowstore.text import counted

_ROUNDS = 20


@attrs.define
class Repaired:
    """The result of a repair.

    Attributes:
        problems: what was wrong, each with what was done in its `repair`.
        damaged: where the damaged file is, if a new one took its place.
        left: what is still wrong.
    """

    problems: list[Problem] = attrs.field(factory=list)
    damaged: Path | None = None
    left: Sequence[Problem] = ()


def repair(store: Database) -> Repaired:
    """Repair all that a deep check finds.

    Raises:
        FlowstoreError: the store can't be written, or another process uses a file that has to be replaced.
    """
    if not store.writable:
        raise FlowstoreError(f"{store.path} cannot be written, so it cannot be repaired. Copy it to where it can be.")
    done = Repaired()
    reindexed = False
    for _ in range(_ROUNDS):
        done.left = check(store, deep=True).problems
        if not done.left:
            break
        kinds = {problem.kind for problem in done.left}
        repairable = _first(problem for problem in done.left if problem.statements)
        if "page" not in kinds and "index" in kinds and not reindexed:
            reindexed = _reindex(store, done)
        elif ("page" in kinds or not repairable) and done.damaged is None:
            store.close(tidy=False)
            save(store.path, done)
        elif not repairable or not _run(store, repairable, done):
            break
    return done


def _first(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems to fix first: types, then references, because the other rules rely on both."""
    all_of_them = list(problems)
    for kind in ("value", "reference"):
        if of_kind := [problem for problem in all_of_them if problem.kind == kind]:
            return of_kind
    return all_of_them


def save(path: Path, done: Repaired) -> None:
    """Replace a file by what can be read of it; no connection to it may be open here."""
    saved = salvage(path)
    done.damaged = saved.damaged
    done.problems += [
        Problem("page", line.partition(":")[0], line.partition(": ")[2], "", repair="drops what cannot be read")
        for line in saved.lost
    ]


def _reindex(store: Database, done: Repaired) -> bool:
    try:
        with store.write() as db:
            db.execute("reindex")
    except (sqlite3.IntegrityError, StoreCorrupt):
        return True  # the table itself is at fault: the next round saves what can be read
    done.problems += [problem for problem in done.left if problem.kind == "index"]
    return True


def _run(store: Database, problems: Sequence[Problem], done: Repaired) -> bool:
    """Run the repairs of these problems in one transaction; return False if a page turns out to be damaged again."""
    try:
        with vacuum.unlinked(store), store.write() as db:
            schema.complete(db)
            for problem in problems:
                for statement, values in problem.statements:
                    db.execute(statement, values)
    except StoreCorrupt:
        if done.damaged is not None:
            return False
        store.close(tidy=False)
        save(store.path, done)
        return True
    done.problems += problems
    return True


_PATIENCE_S = 5.0


@attrs.frozen
class Saved:
    """The result of a salvage.

    Attributes:
        damaged: where the damaged file is now.
        lost: what could not be read, a line for each.
    """

    damaged: Path
    lost: list[str]


def salvage(path: Path) -> Saved:
    """Replace a damaged store by a new one with all that can be read; no connection of ours may be open.

    Raises:
        FlowstoreError: another process uses the file, or the new one can't be written.
        StoreCorrupt: the list of its tables can't be read.
    """
    files.remove_abandoned(path)
    try:
        with files.temporary_file(path, 0o600) as temporary:
            temporary.chmod(path.stat().st_mode & 0o777)
            with _opened(path) as old, contextlib.closing(_new(temporary)) as new:
                lost = [*_copied(old, new, path)]
            with side_files.exclusively(path) as alone:
                if not alone:
                    raise _in_use(path)
                damaged = _rename(path)
                side_files.install(temporary, path, replace=True)
    except OSError as error:
        raise FlowstoreError(f"{path} cannot be repaired: {error}. It is unchanged.") from error
    return Saved(damaged, lost)


def _in_use(path: Path) -> FlowstoreError:
    return FlowstoreError(f"{path} is in use by another process, and cannot be replaced under it. End that one first.")


def _rename(path: Path) -> Path:
    """Give the damaged file a second name, and its log, which would be taken for one of the new file, another."""
    names = (path.with_name(f"{path.name}.damaged{n}") for n in ("", *(f"-{n}" for n in range(2, 1000))))
    damaged = next(name for name in names if not name.exists())
    try:
        os.link(path, damaged)
    except OSError:  # a file system without hard links: there is no file at the path until the new one is installed
        path.rename(damaged)
    for suffix in side_files.SIDES:
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.rename(damaged.with_name(damaged.name + suffix))
    return damaged


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the damaged file, locked against others."""
    uri = files.uri(path, "mode=rw")
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_PATIENCE_S)) as old:
        old.text_factory = lambda data: data.decode("utf-8", "replace")
        # writable_schema: else SQLite reads nothing of a file whose end is missing
        for pragma in ("trusted_schema = off", "cell_size_check = on", "mmap_size = 0", "writable_schema = on"):
            old.execute(f"pragma {pragma}")
        try:
            old.execute("begin exclusive")
        except UNREADABLE as error:
            if isinstance(error, sqlite3.OperationalError) and journal.is_busy(error):
                raise _in_use(path) from error
            # else the list of tables can't be read, which the next statement reports
        yield old


def _tables(old: sqlite3.Connection, path: Path) -> set[str]:
    """Return the names of the file's tables, without the views that stand for some of ours in a small one.

    Raises:
        StoreCorrupt: the list can't be read, or lacks some of ours.
    """
    try:
        present = dict(old.execute("select name, type from sqlite_master where type <> 'index'").fetchall())
        version = old.execute("pragma user_version").fetchone()[0]
    except UNREADABLE as error:
        raise _unreadable(path, str(error)) from error
    lacking = {name for name in schema.definitions(version) if name in tables.BY_NAME} - present.keys()
    if lacking:
        raise _unreadable(path, f"{min(lacking)} is missing")
    return {name for name, kind in present.items() if kind == "table"}


def _unreadable(path: Path, problem: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"{path} cannot be repaired: the list of its tables is damaged ({problem}). It is unchanged. Restore a copy, "
        f"or see what SQLite itself recovers: sqlite3 {path.name} .recover"
    )


def _new(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    schema.create(connection, __version__, small=False)
    for pragma in ("foreign_keys = off", "ignore_check_constraints = on"):  # `repair` looks at these
        connection.execute(f"pragma {pragma}")
    return connection


def _copied(old: sqlite3.Connection, new: sqlite3.Connection, path: Path) -> Iterator[str]:
    """Copy all tables; yield what is lost."""
    present = _tables(old, path)
    new.execute("begin")
    new.execute("delete from store")
    for table in tables.TABLES:
        if table.name in present:
            yield from _copy_table(old, new, table.name)
    with contextlib.suppress(*UNREADABLE):  # then ids go on after the highest one that was saved
        for name, last in old.execute("select name, seq from sqlite_sequence").fetchall():
            if name in tables.NUMBERED:
                new.execute("delete from sqlite_sequence where name = ? and seq < ?", (name, last))
                new.execute(
                    """insert into sqlite_sequence (name, seq) select ?1, ?2
                       where not exists (select 1 from sqlite_sequence where name = ?1)""",
                    (name, last),
                )
    yield from _copy_extras(old, new)
    new.execute("commit")


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> Iterator[str]:
    """Copy the rows of one of our tables, each value converted to the type of its column."""
    there = {row[1] for row in old.execute(f"pragma table_info({table})").fetchall()}
    columns = [row for row in new.execute(f"pragma table_info({table})").fetchall() if row[1] in there]
    names = ", ".join(row[1] for row in columns)
    values = ", ".join(f"cast(? as {row[2]})" for row in columns)
    key = next((row[1] for row in columns if row[5] == 1), "rowid")  # how the table is stored: its key, or else rowid
    lost: list[str] = []
    read = 0
    for row in from_both_ends(old, f"select {names} from {table} order by {key}", lost):
        read += 1
        new.execute(f"insert or ignore into {table} ({names}) values ({values})", row)
    yield from (f"{table}: rows cannot be read ({error})" for error in dict.fromkeys(lost))
    unfit = read - new.execute(f"select count(*) from {table}").fetchone()[0]
    if unfit > 0 and not lost:
        yield f"{table}: {counted(unfit, 'row')} {'does' if unfit == 1 else 'do'} not fit the schema"


def _copy_extras(old: sqlite3.Connection, new: sqlite3.Connection) -> Iterator[str]:
    """Copy the tables, views and indexes that users added to their store."""
    import sqlite_utils

    ours = {name for (name,) in new.execute("select name from sqlite_master").fetchall()}
    rows = old.execute(
        """select type, name, sql from sqlite_master where type in ('table', 'view', 'index') and sql is not null
           and name not like 'sqlite_%' order by type = 'view', type = 'index'"""
    ).fetchall()
    source, target = (sqlite_utils.Database(connection, execute_plugins=False) for connection in (old, new))
    for kind, name, sql in rows:
        if name in ours or not sql.lower().startswith(("create table", "create view", "create index", "create unique")):
            continue
        try:
            target.execute(sql)
            if kind == "table":
                target.table(name).insert_all(source.table(name).rows)
        except UNREADABLE as error:
            yield f"{kind} {name}: not all of it can be read ({error})"
