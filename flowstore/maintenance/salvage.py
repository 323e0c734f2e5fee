"""Saving what can be read of a file with damaged pages: a new store takes its place, the old one stays beside it.

Rows are copied table by table, around what can't be read, into a store of the newest schema that is made next to the
file. Nobody may write meanwhile. The damaged file is then given the name FILE.damaged, never overwritten, before the
new one takes its old name, so that a process that dies in between leaves no place empty; what no longer fits together
in the new one is for `repair` to mend.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from flowstore._version import __version__
from flowstore.errors import FlowstoreError, StoreCorrupt
from flowstore.maintenance import islands
from flowstore.maintenance.check import OURS
from flowstore.maintenance.problems import UNREADABLE
from flowstore.sqlite import files, journal, side_files
from flowstore.store import schema
from flowstore.text import counted

_SIDES = ("-wal", "-journal", "-shm")
_PATIENCE_S = 5.0


@attrs.frozen
class Saved:
    """What came of it.

    Attributes:
        damaged: where the damaged file is now.
        lost: what could not be read, a line for each.
    """

    damaged: Path
    lost: Sequence[str]


def salvage(path: Path) -> Saved:
    """Put a new store with what can be read in the place of a damaged one; no connection of ours may be open.

    Raises:
        FlowstoreError: another process uses the file, or the new one can't be written.
        StoreCorrupt: nothing can be read.
    """
    files.remove_abandoned(path)
    try:
        with files.temporary_file(path, 0o600) as draft:
            draft.chmod(path.stat().st_mode & 0o777)
            with _old(path) as old, contextlib.closing(_new(draft)) as new:
                lost = [*_copied(old, new)]
            damaged = _replace(path, draft)
    except OSError as error:
        raise FlowstoreError(f"{path} can't be repaired: {error}. It is as it was.") from error
    return Saved(damaged, lost)


def _replace(path: Path, draft: Path) -> Path:
    """Give the new store the damaged one's name; returns the name that the damaged one has now."""
    with side_files.exclusively(path) as alone:
        if not alone:
            raise _in_use(path)
        damaged = _kept(path)
        side_files.install(draft, path, replace=True)
    return damaged


def _in_use(path: Path) -> FlowstoreError:
    return FlowstoreError(f"{path} is in use by another process, and can't be replaced under it. End that one first.")


def _kept(path: Path) -> Path:
    """A second name of the damaged file; its log, which must not be taken for one of the new file, has no other."""
    damaged = _free_name(path)
    _name_too(path, damaged)
    for suffix in _SIDES:
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.rename(damaged.with_name(damaged.name + suffix))
    return damaged


def _name_too(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links: the place is empty until the next line but one
        path.rename(other)


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.damaged{n}") for n in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(name for name in names if not name.exists())


@contextlib.contextmanager
def _old(path: Path) -> Iterator[sqlite3.Connection]:
    """The damaged file, locked against others as far as it lets itself be; a copy of it where its schema is damaged."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(contextlib.closing(_opened(path)))
        try:
            old.execute("begin exclusive")
        except sqlite3.OperationalError as error:
            if journal.is_busy(error):
                raise _in_use(path) from error
            # else the schema can't be read, and then nobody else can use the file either
        except UNREADABLE as error:
            raise _nothing(path, error) from error
        try:
            whole = _definitions(old) >= _definitions(stack.enter_context(contextlib.closing(_empty())))
        except UNREADABLE:
            whole = False
        yield old if whole or _is_older(old) else stack.enter_context(_redefined(path))


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=rw", uri=True, isolation_level=None, timeout=_PATIENCE_S
    )
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    # writable_schema: else nothing is read of a file whose end is missing, or with one definition that is damaged
    for pragma in ("trusted_schema = off", "cell_size_check = on", "mmap_size = 0", "writable_schema = on"):
        connection.execute(f"pragma {pragma}")
    return connection


def _nothing(path: Path, error: Exception) -> StoreCorrupt:
    return StoreCorrupt(f"Nothing of {path} can be read ({error}), so nothing can be saved. Restore a copy.")


def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.create(connection, __version__)
    return connection


def _definitions(db: sqlite3.Connection) -> set[tuple[str, str]]:
    rows = db.execute("select name, sql from sqlite_master where sql is not null and name not like '%sqlite_%'")
    return set(rows.fetchall())


def _is_older(old: sqlite3.Connection) -> bool:
    """Whether the file is of an older schema, which is read as it is."""
    try:
        return bool(old.execute("pragma user_version").fetchone()[0] < schema.SCHEMA_VERSION)
    except UNREADABLE:
        return False


@contextlib.contextmanager
def _redefined(path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the file in which our definitions stand instead of the damaged ones."""
    copy = path.with_name(f".{path.name}.{files.temporary_name()}")
    try:
        for suffix in ("", "-wal", "-journal"):
            side = path.with_name(path.name + suffix)
            if side.exists():
                shutil.copyfile(side, copy.with_name(copy.name + suffix))
        with contextlib.closing(_opened(copy)) as old, contextlib.closing(_empty()) as ours:
            _redefine(old, ours)
        with contextlib.closing(_opened(copy)) as old:
            old.execute("select count(*) from sqlite_master").fetchone()
            yield old
    except UNREADABLE as error:
        raise _nothing(path, error) from error
    finally:
        for suffix in ("", *_SIDES):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def _redefine(old: sqlite3.Connection, ours: sqlite3.Connection) -> None:
    """Write our definitions over those that are there: by name, or by their place where the name is damaged.

    What only helps to search is left out of the copy; the indexes that go with a table's definition stay.
    """
    rows = ours.execute("select rowid, type, name, tbl_name, sql from sqlite_master where sql is not null").fetchall()
    tables = [row for row in rows if row[1] == "table" and "sqlite_" not in row[2]]
    names = {name for (name,) in old.execute("select name from sqlite_master").fetchall()}
    for rowid, kind, name, table, sql in tables:
        place = ("name = ?", name) if name in names else ("rowid = ?", rowid)
        old.execute(
            f"update sqlite_master set type = ?, name = ?, tbl_name = ?, sql = ? where {place[0]}",
            (kind, name, table, sql, place[1]),
        )
    keep = [row[2] for row in tables]
    marks = ", ".join("?" * len(keep))
    old.execute(
        f"""delete from sqlite_master where sql is not null and name not like 'sqlite_%' and name not in ({marks})""",
        keep,
    )


def _new(draft: Path) -> sqlite3.Connection:
    """An empty store."""
    connection = sqlite3.connect(draft, isolation_level=None)
    schema.create(connection, __version__)
    for pragma in ("foreign_keys = off", "ignore_check_constraints = on"):  # `repair` looks at these
        connection.execute(f"pragma {pragma}")
    return connection


def _copied(old: sqlite3.Connection, new: sqlite3.Connection) -> Iterator[str]:
    """Copy all tables; gives what is lost."""
    new.execute("begin")
    new.execute("delete from store")
    there = {name for (name,) in old.execute("select name from sqlite_master where type = 'table'").fetchall()}
    for table in sorted(OURS & there):
        yield from _copy_table(old, new, table)
    with contextlib.suppress(*UNREADABLE):  # then the highest id that was saved has to do
        for name, last in old.execute("select name, seq from sqlite_sequence").fetchall():
            new.execute("update sqlite_sequence set seq = max(seq, ?) where name = ?", (last, name))
            new.execute(
                """insert into sqlite_sequence (name, seq) select :name, :last
                   where :name in ('runs', 'tasks', 'attempts', 'deployments')
                     and not exists (select 1 from sqlite_sequence where name = :name)""",
                {"name": name, "last": last},
            )
    yield from _copy_own(old, new)
    new.execute("commit")


def _copy_table(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> Iterator[str]:
    columns = new.execute(f"pragma table_info({table})").fetchall()
    names = ", ".join(name for _, name, *_ in columns)
    kinds = [kind for _, _, kind, *_ in columns]
    insert = f"insert or ignore into {table} ({names}) values ({', '.join('?' * len(columns))})"
    lost: list[str] = []
    unfit = 0
    for values in _readable(old, new, table, names, lost):
        unfit += not _inserted(new, insert, values, kinds)
    yield from (f"{table}: rows can't be read ({error})" for error in lost)
    if unfit:
        yield f"{table}: {counted(unfit, 'row')} {'does' if unfit == 1 else 'do'} not fit the schema"


def _readable(
    old: sqlite3.Connection, new: sqlite3.Connection, table: str, names: str, lost: list[str]
) -> Iterator[tuple[Any, ...]]:
    key = _integer_key(new, table)
    if key is not None:
        for row in islands.rows(old, table, key, f"{key}, {names}", lost):
            yield row[1:]
        return
    for order in ("", "desc"):  # what both ends reach
        try:
            first = names.split(", ", maxsplit=1)[0]
            yield from old.execute(f"select {names} from {table} order by {first} {order}")
        except UNREADABLE as error:
            lost.append(str(error))
        else:
            return


def _integer_key(db: sqlite3.Connection, table: str) -> str | None:
    """What orders a table as it is stored: the row's id, else the first column of its key if that is a number."""
    with contextlib.suppress(sqlite3.OperationalError):
        db.execute(f"select rowid from {table} limit 0")
        return "rowid"
    first = next(row for row in db.execute(f"pragma table_info({table})").fetchall() if row[5] == 1)
    return first[1] if first[2] == "INTEGER" else None


def _inserted(new: sqlite3.Connection, insert: str, values: Sequence[Any], kinds: Sequence[str]) -> bool:
    """Insert a row, its values turned into what their columns hold where they have to be."""
    try:
        new.execute(insert, values)
    except sqlite3.IntegrityError:
        try:
            new.execute(insert, [_turned(value, kind) for value, kind in zip(values, kinds, strict=True)])
        except sqlite3.IntegrityError:
            return False
    return True


def _turned(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "INTEGER":
        try:
            return int(value)
        except (ValueError, OverflowError):
            return 0
    if kind == "REAL":
        return float(value) if isinstance(value, int) else None
    if kind == "TEXT":
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return value if isinstance(value, bytes) else str(value).encode()


def _copy_own(old: sqlite3.Connection, new: sqlite3.Connection) -> Iterator[str]:
    """Copy the tables, views and indexes that people added for their questions."""
    made = {name for (name,) in new.execute("select name from sqlite_master").fetchall()}
    rows = old.execute(
        """select type, name, sql from sqlite_master where type in ('table', 'view', 'index') and sql is not null
           and name not like 'sqlite_%' order by type = 'view', type = 'index'"""
    ).fetchall()
    for kind, name, sql in rows:
        if name in made or not sql.lower().startswith(("create table", "create view", "create index", "create unique")):
            continue
        try:
            new.execute(sql)
            if kind == "table":
                quoted = '"' + name.replace('"', '""') + '"'
                for values in old.execute(f"select * from {quoted}"):
                    new.execute(f"insert into {quoted} values ({', '.join('?' * len(values))})", values)
        except UNREADABLE as error:
            yield f"{kind} {name}: not all of it can be read ({error})"
