"""Which file is the store: the option, the variable, the folder, its parents; and what is none is refused."""

from __future__ import annotations

import contextlib
import json
import sqlite3

import pytest

import flowstore
from flowstore import context
from flowstore.errors import FlowstoreError, NotAStore, StoreCorrupt, StoreNotFound, StoreTooNew
from flowstore.store import opening, schema
from support.flows import LINEAR, flow_source
from support.stores import killed_writer, make_store, names_beside, untouched

# --- which file


def test_the_nearest_file_of_a_parent_is_the_store_and_said_on_stderr(tmp_path, path, monkeypatch, capsys):
    """The nearest flowstore.db upwards is the store; its path is told when it is not in the current folder."""
    make_store(path)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert flowstore.get_store() == path
    out, err = capsys.readouterr()
    assert out == ""
    assert str(path) in err


def test_the_store_of_the_current_folder_is_used_without_a_word(path, capsys):
    """A store in the current folder needs no announcement."""
    make_store(path)
    assert flowstore.get_store() == path
    assert capsys.readouterr() == ("", "")


def test_the_variable_goes_before_the_nearest_file(tmp_path, path, monkeypatch, capsys):
    """$FLOWSTORE_STORE wins over a flowstore.db in the current folder."""
    make_store(path)
    other = make_store(tmp_path / "other.db")
    monkeypatch.setenv("FLOWSTORE_STORE", "other.db")
    assert flowstore.get_store() == other
    assert capsys.readouterr().err == ""


def test_the_option_goes_before_the_variable(flow, tmp_path):
    """--store wins over $FLOWSTORE_STORE, before the command and after it."""
    script = flow(flow_source(LINEAR))
    wrong = str(tmp_path / "wrong.db")
    script("--store", "one.db", "run", FLOWSTORE_STORE=wrong)
    script("run", "--store", "one.db", FLOWSTORE_STORE=wrong)
    assert sorted(item.name for item in tmp_path.glob("*.db")) == ["one.db"]
    with contextlib.closing(sqlite3.connect(tmp_path / "one.db")) as connection:
        assert connection.execute("select count(*) from run_summary where status = 'successful'").fetchone() == (2,)


@pytest.mark.parametrize("name", ["a?b#c%41 é.db", "\udcff.db", "//"], ids=["signs", "bytes", "two slashes"])
@pytest.mark.quick("signs", "two slashes")
def test_the_path_of_a_store_may_hold_any_characters(flow, name):
    """Characters with a meaning in SQLite's URIs, bytes that are not UTF-8, and two leading slashes."""
    script = flow(flow_source(LINEAR))
    path = f"/{script.db}" if name == "//" else name
    script("run", "--store", path)
    for command in (["check", "--deep"], ["check", "--repair"], ["vacuum"], ["export", "--force", "copy.db"]):
        script.flowstore(*command, "--store", path)
    flowstore.use_store(script.folder / path)
    assert flowstore.Run("F/1").successful
    script("resume", "--store", path, "start", "--origin-run-id", "1")
    listed = script.flowstore("runs", "--store", path, "--json")
    assert [run["status"] for run in json.loads(listed.stdout)] == ["successful", "successful"]


def test_a_missing_store_is_an_error_that_names_the_places(tmp_path, monkeypatch):
    """StoreNotFound lists every place that was looked at, and is a FileNotFoundError."""
    deep = tmp_path / "a"
    deep.mkdir()
    monkeypatch.chdir(deep)
    with pytest.raises(StoreNotFound) as caught:
        flowstore.get_store()
    for folder in (deep, *deep.parents):
        assert str(folder / "flowstore.db") in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert list(deep.iterdir()) == []


def test_a_missing_store_of_the_variable_is_the_only_place_named(tmp_path, path, monkeypatch):
    """Where $FLOWSTORE_STORE points nowhere, nothing else is taken instead."""
    make_store(path)
    monkeypatch.setenv("FLOWSTORE_STORE", str(tmp_path / "gone.db"))
    with pytest.raises(StoreNotFound) as caught:
        flowstore.Flows()
    assert "gone.db" in str(caught.value)
    assert str(path) not in str(caught.value)


def test_the_store_is_chosen_at_first_use(tmp_path, path, monkeypatch):
    """Going elsewhere afterwards doesn't change the store of the process."""
    make_store(path)
    assert flowstore.get_store() == path
    (tmp_path / "elsewhere").mkdir()
    make_store(tmp_path / "elsewhere" / "flowstore.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert flowstore.get_store() == path


def test_writing_where_there_is_none_makes_one_in_the_current_folder(tmp_path, path):
    """The default of writing commands is ./flowstore.db."""
    assert opening.ensure_active_store().path == path
    assert names_beside(path) == ["flowstore.db"]


def test_writing_below_a_store_uses_it(tmp_path, path, monkeypatch, capsys):
    """A store of a parent folder is written to, and said."""
    make_store(path)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert opening.ensure_active_store().path == path
    assert str(path) in capsys.readouterr().err


def test_use_store_switches_the_process(tmp_path):
    """Called as a function, use_store switches for good."""
    one, two = make_store(tmp_path / "one.db"), make_store(tmp_path / "two.db", runs=2)
    flowstore.namespace(None)
    flowstore.use_store(one)
    assert flowstore.get_store() == one
    assert [run.id for run in flowstore.Flow("F")] == ["1"]
    flowstore.use_store(str(two))
    assert flowstore.get_store() == two
    assert [run.id for run in flowstore.Flow("F")] == ["2", "1"]


def test_use_store_for_a_block(tmp_path):
    """As a context manager it gives the path, nests, and restores what was there, after an error too."""
    one, two = make_store(tmp_path / "one.db"), make_store(tmp_path / "two.db")
    flowstore.use_store(one)
    with pytest.raises(ZeroDivisionError), flowstore.use_store(two) as path:  # noqa: PT012
        assert path == flowstore.get_store() == two
        with flowstore.use_store(one):
            assert flowstore.get_store() == one
        assert flowstore.get_store() == two
        1 / 0  # noqa: B018
    assert flowstore.get_store() == one


def test_use_store_for_a_block_in_a_process_without_one(tmp_path, path):
    """After the block, the usual rule holds again."""
    other = make_store(tmp_path / "other.db")
    with flowstore.use_store(other):
        pass
    make_store(path)
    assert flowstore.get_store() == path


def test_a_failed_switch_changes_nothing(tmp_path, path):
    """Opening errors are raised at once, and the store of before stays."""
    make_store(path)
    flowstore.use_store(path)
    with pytest.raises(StoreNotFound, match="gone"):
        flowstore.use_store(tmp_path / "gone.db")
    assert flowstore.get_store() == path
    assert not (tmp_path / "gone.db").exists()


def test_a_store_in_a_missing_folder_is_one_clear_error(tmp_path):
    """A store is not made in a folder that isn't there."""
    with pytest.raises(FlowstoreError, match="no folder"):
        opening.ensure_store(tmp_path / "missing" / "flowstore.db")
    assert list(tmp_path.iterdir()) == []


def test_paths_with_special_characters(tmp_path):
    """A path is a path, whatever a URI would make of it."""
    for name in ("a b.db", "100%25?mode=memory#x.db", "ä&ö;.db", "-v.db"):
        make_store(tmp_path / name)
        assert opening.open_store(tmp_path / name).value("select count(*) from runs") == 1


# --- wrong files


def other_sqlite(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table t (x)")


def shortened(path, size):
    path.write_bytes(path.read_bytes()[:size])


def overwritten(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


WRONG = {
    "text": (lambda path: path.write_text("name,age\nann,3\n" * 40), NotAStore, "not an SQLite file"),
    "empty": (lambda path: path.write_bytes(b""), NotAStore, "not an SQLite file"),
    "sqlite of others": (other_sqlite, NotAStore, "not a flowstore store"),
    "folder": (lambda path: path.mkdir(), NotAStore, "folder"),
    "header only": (lambda path: (make_store(path), shortened(path, 99)), NotAStore, "not an SQLite file"),
    "cut in half": (lambda path: (make_store(path), shortened(path, 20 * schema.PAGE_SIZE)), StoreCorrupt, "damaged"),
    "cut by a page": (lambda path: (make_store(path), shortened(path, -schema.PAGE_SIZE)), StoreCorrupt, "damaged"),
    "page size": (lambda path: (make_store(path), overwritten(path, 16, b"\0\0")), StoreCorrupt, "damaged"),
    "schema page": (lambda path: (make_store(path), overwritten(path, 100, b"\xff" * 4000)), StoreCorrupt, "damaged"),
    "newer": (
        lambda path: (make_store(path), overwritten(path, 60, (schema.SCHEMA_VERSION + 1).to_bytes(4, "big"))),
        StoreTooNew,
        "pip install",
    ),
    "missing": (lambda path: None, StoreNotFound, "no store at"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused_and_not_written(path, kind):
    """Each kind of wrong file has its error, naming the file; not one byte is written, whether reading or writing."""
    make, error, words = WRONG[kind]
    make(path)
    with untouched(path.parent):
        with pytest.raises(error, match=words) as caught:
            flowstore.use_store(path)
        assert str(path) in str(caught.value)
        if kind != "missing":
            with pytest.raises(error, match=words):
                opening.ensure_store(path)
    assert context.state.store is None


def test_a_newer_schema_in_the_log_is_not_written(path):
    """A newer schema that is still in the write-ahead log is refused, and the log stays as it is."""
    make_store(path)
    killed_writer(path, f"connection.execute('pragma user_version = {schema.SCHEMA_VERSION + 1}')")
    before = path.read_bytes(), (path.parent / "flowstore.db-wal").read_bytes()
    with pytest.raises(StoreTooNew):
        flowstore.use_store(path)
    assert (path.read_bytes(), (path.parent / "flowstore.db-wal").read_bytes()) == before
