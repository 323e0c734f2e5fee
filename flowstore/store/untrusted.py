"""Untrusted files: the files beside a store, and its schema, are checked before anything else is read.

*Beside the file.* A process that was killed leaves `-journal` or `-wal`, and the next one to open the store
recovers what was committed. Nobody can say who wrote them before that: the row that names a store's owner may
itself be in the log, and somebody who shares a store recovers it for its owner. So they are used, also where
a stranger sent them. They hold no more than what a stranger could have written into the file, and the schema is
compared after they have been read. What remains is what SQLite does to *other* files on their word, and that is
refused: a journal may name a super-journal, which SQLite deletes after playing the journal back, whatever file
that is (sqlite.org/atomiccommit, 5.5; flowstore writes to one file at a time, so never makes one), and a link in
place of a side file would be written through. A `-shm` needs no look: the first to open a store empties it.

*The schema.* A trigger runs when we write, a virtual table runs code of its module, a view in place of ours
answers what its author likes: none of these is in a store that flowstore wrote. SQLite goes by the text of a
definition and not by the type beside it, so that is compared, and the type has to agree with it. What people add to
their own store for their questions is fine, since nothing here reads it; in an untrusted file it can only be aimed at
us, as an index is whose expression is evaluated when we write.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sqlite3
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowstore.errors import NotAStore, StoreCorrupt
from flowstore.store import schema
from flowstore.store.migrations import MIGRATIONS

try:  # `hashlib` also loads OpenSSL, which takes longer than the comparison that the digest saves
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

if TYPE_CHECKING:
    from flowstore.sqlite.database import Database

_ALLOWED = r"(?i)create\s+(unique\s+)?(?P<kind>index|table|view)\s"
_SQLITE_S_OWN = r"(?i)create table sqlite_(sequence|stat[1-4])\([\w,]+\)"
_DEFINED = "select type, name, sql from sqlite_master where sql is not null order by name"
_SUPER_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # what ends a journal that names one (sqlite.org/fileformat)


# --- beside the file


def check_file(path: Path) -> None:
    """Raise NotAStore for what is not a regular file: opening a pipe would wait for ever.

    Raises:
        NotAStore: it is a folder, a pipe or a device.
    """
    with contextlib.suppress(OSError):  # missing or forbidden, which reading it reports
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise NotAStore(f"{path} is a folder, not a store.")
        if not stat.S_ISREG(mode):
            raise NotAStore(f"{path} is not a flowstore store: it is not a regular file.")


def check_beside(path: Path) -> None:
    """Refuse side files that would make SQLite change another file.

    Raises:
        StoreCorrupt: names the file that must go.
    """
    real = os.path.realpath(path)  # as SQLite does, for the names of the side files too
    for suffix in ("-journal", "-wal", "-shm"):
        side = Path(real + suffix)
        try:
            mode = side.lstat().st_mode
        except OSError:
            continue
        if not stat.S_ISREG(mode):
            raise StoreCorrupt(f"{side} is a link, a folder or a device, which no process left there. Remove it.")
        if suffix == "-journal" and _names_a_super_journal(side):
            raise StoreCorrupt(
                f"{side} names another file, which SQLite would delete; flowstore never writes such a journal. "
                f"If the store is not yours, remove {side.name} and open it again."
            )


def _names_a_super_journal(journal: Path) -> bool:
    try:
        with journal.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(_SUPER_JOURNAL)))
            return file.read() == _SUPER_JOURNAL
    except OSError:
        return False  # SQLite can't read it either


# --- the schema


def check_schema(connection: sqlite3.Connection, path: Path) -> list[str]:
    """Compare a store's schema with what our migrations make; return the names of what is there beyond it.

    Raises:
        StoreCorrupt: names the trigger, the virtual table, or the definition that was changed or is missing.
    """
    version = connection.execute("pragma user_version").fetchone()[0]
    rows = connection.execute(_DEFINED).fetchall()
    if is_as_made(version, rows):
        return []
    present: dict[str, str] = {}
    for kind, name, sql in rows:
        allowed = re.match(_ALLOWED, sql) if isinstance(sql, str) else None
        if allowed is None or allowed["kind"].lower() != kind:
            what = kind if kind == "trigger" else "definition"
            raise StoreCorrupt(f"{path} holds the {what} {name!r}, which flowstore never makes; it is not opened.")
        if name in present:
            raise StoreCorrupt(f"{path} holds two definitions of {name!r}; it is not opened.")
        if not re.fullmatch(_SQLITE_S_OWN, sql):
            present[name] = _normal(sql)
    small = schema.is_small(connection)
    expected = dict(_as_written(version, small=small))
    if small:  # a table that was needed meanwhile has taken the place of its view
        whole = _as_written(version, small=False)
        needed = [name for name in schema.DEFERRED if present.get(name, "").startswith("table ")]
        expected |= {name: whole[name] for name in needed if name in whole}
    if _wrong(present, expected) and not small:  # another SQLite may write an altered table in another way
        expected = dict(_as_made(version))
    misplaced = [name for name in schema.definitions(version) if name in present and name not in expected]
    for name in (*_wrong(present, expected), *misplaced):
        what = "was changed" if name in present else "is missing"
        raise StoreCorrupt(f"{path}: the definition of {name!r} {what}; it is not opened.")
    return [name for name, sql in present.items() if name not in expected and _bookkeeping().get(name) != _bare(sql)]


def is_as_made(version: int, rows: Sequence[tuple[str, str, str]]) -> bool:
    """Return whether a store is as this version makes one, but for tables that have been needed since.

    Args:
        version: of the schema.
        rows: type, name and statement of each definition, in the order of the names.
    """
    return any(digest(version, defined) in schema.DIGESTS for defined in (rows, map(_as_when_made, rows)))


def digest(version: int, rows: Iterable[tuple[str, str, str]]) -> str:
    """Return a hash of the definitions in a file; comparing it takes a sixth as long as comparing each of them."""
    return blake2b(repr([version, *map(tuple, rows)]).encode(), digest_size=20).hexdigest()


def _as_when_made(row: tuple[str, str, str]) -> tuple[str, str, str]:
    """Return a definition of a store, or the view that stood for a table of ours until it was needed."""
    kind, name, sql = row
    if kind != "table" or name not in schema.DEFERRED or not isinstance(sql, str) or ";" in sql:
        return row
    ours = f"\ncreate table {sql.removeprefix('CREATE TABLE ')};"
    if ours.startswith(f"\ncreate table {name} (") and any(ours in migration.sql for migration in MIGRATIONS):
        return "view", name, schema.stand_in(name, sql).rstrip(";")
    return row


def check_extras(store: Database, extras: Sequence[str]) -> None:
    """Refuse what our migrations don't make, unless the store is the user's own, or trusted.

    Raises:
        StoreCorrupt: names the first of them, and what to do.
    """
    from flowstore.store import trust

    if trust.is_foreign(store):
        raise StoreCorrupt(
            f"{store.path} holds {extras[0]!r}, which flowstore did not make, and no run of yours; it is not opened. "
            f"If you trust whoever made the file: {trust.command(store.path)}"
        )


def _wrong(present: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Return the names of our definitions that a file lacks, or has with other statements than ours."""
    differing = [name for name, sql in expected.items() if present.get(name) != sql]
    return [name for name in differing if without_comments(present.get(name, "")) != without_comments(expected[name])]


def without_comments(sql: str) -> str:
    r"""Return a definition without comments and white space that SQLite skips: older files have other comments.

    Quoted text stays as it is. A NUL character, where SQLite stops reading, is never skipped.

    Example:
        >>> without_comments("create table a (  -- what it is\n  x /* a column */ text default '--')")
        "create table a ( x text default '--')"
    """
    pattern = r"""('(?:[^']|'')*'|"(?:[^"]|"")*")|(?:[ \t\n\f\r]|--[^\n\0]*|/\*[^\0]*?\*/)+"""
    return re.sub(pattern, lambda match: match[1] or " ", sql)


@functools.cache
def _as_written(version: int, *, small: bool) -> Mapping[str, str]:
    """Return our definitions as the text of a version's migrations has them: 5 ms sooner than making them."""
    definitions = schema.small_definitions(version) if small else schema.definitions(version)
    return {name: _normal(sql) for name, sql in definitions.items()}


@functools.cache
def _as_made(version: int) -> Mapping[str, str]:
    """Return our definitions as SQLite has them after the migrations of a version."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for step in range(1, version + 1):
            connection.executescript("\n".join(schema.script(step)))
        rows = connection.execute("select name, sql from sqlite_master where sql is not null").fetchall()
    return {name: _normal(sql) for name, sql in rows if not name.startswith("sqlite_")}


def _normal(sql: str) -> str:
    """Return a definition as SQLite keeps it: it writes the first words its own way."""
    return re.sub(
        schema.CREATE,
        lambda match: f"{match[1] or ''}{match[2]} {match[3]}".lower(),
        sql.strip().rstrip(";"),
        count=1,
    )


def _bare(sql: str) -> str:
    """Return a definition without white space, quotes and case, in which versions of sqlite-utils may differ."""
    return re.sub(r'[\s"]', "", _normal(sql)).lower()


@functools.cache
def _bookkeeping() -> dict[str, str]:
    """Return the tables in which sqlite-utils records which migrations a store has."""
    definitions = schema.statements(schema.BOOKKEEPING)
    return {match[3]: _bare(sql) for sql in definitions if (match := re.match(schema.CREATE, sql))}
