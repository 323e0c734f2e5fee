"""The list of tables: it has each table and column of the schema, and what it says of them is true."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from flowstore.store import migrations, opening, schema, tables
from flowstore.store.migrations import Migration

KINDS = {"INTEGER": int, "TEXT": str, "BLOB": bytes, "REAL": float}


def columns():
    """The columns of the newest schema: table, name, declared type, whether it can't be null; and its references."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        schema.create(db, "1", small=False)
        names = [row[0] for row in db.execute("select name from sqlite_master where type = 'table'")]
        names = [name for name in names if not name.startswith(("sqlite_", "_sqlite_"))]
        found = [(name, *row[1:4]) for name in names for row in db.execute(f"pragma table_info({name})")]
        references = {
            (name, row[3]): row[2] for name in names for row in db.execute(f"pragma foreign_key_list({name})")
        }
        return found, references


def unlisted():
    """The tables that the list lacks or has too many."""
    return {table for table, *_ in columns()[0]} ^ set(tables.BY_NAME)


def test_each_table_is_listed(monkeypatch):
    """A migration that adds a table without an entry in the list is noticed."""
    assert unlisted() == set()
    more = Migration("m999_notes", "a test", "create table notes (text text) strict;")
    monkeypatch.setattr(schema, "MIGRATIONS", (*migrations.MIGRATIONS, more))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", len(migrations.MIGRATIONS) + 1)
    assert unlisted() == {"notes"}


def test_each_column_has_types():
    """What may be read from a column is what its declaration allows, or less than nothing: null, from a join."""
    for table, name, declared, required in columns()[0]:
        assert KINDS[declared] in tables.TYPES[name], (table, name)
        if not required and name not in {"id", "blob_id", "run_id", "deployment_id", "key_id", "scope"}:
            assert type(None) in tables.TYPES[name], (table, name)


def test_each_reference_is_listed():
    """Each column with a constraint on another table is among those that refer to one; owners and keepers refer too."""
    kinds = {table.refers["id"]: table.name for table in tables.TABLES if "id" in table.refers}
    for (table, column), parent in columns()[1].items():
        if parent != "production_tokens":
            assert kinds[tables.BY_NAME[table].refers[column]] == parent
    for table in tables.TABLES:
        assert {*table.owner, *table.keeps} <= table.refers.keys()
        assert not {*table.owner} & {*table.keeps}


@pytest.mark.parametrize("table", [table.name for table in tables.TABLES if table.travels])
def test_each_table_that_travels_is_asked_for_the_rows_of_runs(tmp_path, table):
    """The condition on the rows that belong to runs, or that they share, is SQL that the store answers."""
    with contextlib.closing(opening.ensure_store(tmp_path / "flowstore.db")) as store:
        query = f"select * from {table} where {tables.where(tables.BY_NAME[table])}"
        assert store.rows(query, tables.bound([1, 2])) == []


def test_with_a_run_goes_what_is_its_own():
    """Rows are deleted before those that they refer to; what runs share is not among them."""
    names = [table.name for table in tables.of_a_run()]
    assert names[-1] == "runs"
    assert names.index("artifacts") < names.index("attempts") < names.index("tasks") < names.index("steps")
    assert not {"blobs", "codes", "tags", "flows", "log_chunks", "code_files", "deployments"} & {*names}
