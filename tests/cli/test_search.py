"""Runs found by a text, and notes on them."""

from __future__ import annotations

import contextlib
import json
import sqlite3

import pytest

from flowstore import open_store
from flowstore.store import records
from flowstore.store.opening import ensure_store
from flowstore.store.search import Wanted, excerpt, search_runs
from support.cli import command
from support.recording import add_run

HOSTILE = "\x1b]0;title\x07 Needle \u202eturned"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A store with a run for each thing that can hold a text; gives its path."""
    store = ensure_store(tmp_path_factory.mktemp("searched") / "flowstore.db")
    add_run(store, "Logs", printed="first\nin a LONG line a Näedle is hidden\nlast\n", tags=["odd"])
    add_run(store, "Errors", fails_at="join", width=2)
    add_run(store, "Parameters", parameters={"word": "Neeedle", "deep": {"a": ["x", "deepest"]}})
    add_run(store, "Tags", tags=["Needle-tag"])
    with store.write() as db:
        db.execute("update runs set note = ? where id = ?", (HOSTILE, add_run_in(db)))
    store.close()
    return store.path


def add_run_in(db):
    """Add a run of the flow Notes to an open transaction; gives its id."""
    run_id = records.create_run(db, records.NewRun("Notes", "me", {}, [], None, ["user:me"], []))
    records.finish_run(db, run_id, "successful")
    return run_id


def hits_of(path, *words):
    """The rows that `flowstore search WORDS` prints as JSON."""
    return json.loads(command("search", *words, "--json", "--store", path).stdout)


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("NÄEDLE", [("Logs/1", "log", "in a LONG line a Näedle is hidden")]),
        ("it failed", [("Errors/2", "error", "ValueError: it failed")]),
        ("valueerror: IT", [("Errors/2", "error", "ValueError: it failed")]),
        ("neeedle", [("Parameters/3", "parameter", "word = Neeedle")]),
        ("deepest", [("Parameters/3", "parameter", 'deep = {"a": ["x", "deepest"]}')]),
        ("needle", [("Notes/5", "note", HOSTILE), ("Tags/4", "tag", "Needle-tag")]),
        ("tags/", [("Tags/4", "name", "Tags/4")]),
        ("nowhere", []),
    ],
)
def test_where_a_text_is(searched, text, hits):
    """In upper or lower case, newest run first, with what is around it."""
    assert [(row["run"], row["where"], row["excerpt"]) for row in hits_of(searched, text)] == hits


def test_which_task_it_was(searched):
    """An error and a log line say whose they are."""
    [error] = hits_of(searched, "it failed")
    [line] = hits_of(searched, "näedle")
    assert error["task"].startswith("join/")
    assert line["task"] == "start/1"
    assert list(line) == ["run", "status", "created_at", "where", "task", "excerpt"]


def test_only_some_runs(searched):
    """A flow, a tag and a namespace narrow it."""
    assert [row["run"] for row in hits_of(searched, "needle", "Tags")] == ["Tags/4"]
    assert [row["run"] for row in hits_of(searched, "needle", "--namespace", "user:me")] == ["Notes/5"]
    assert hits_of(searched, "needle", "--tag", "odd") == []
    assert "no run of a flow 'Tag'" in command("search", "x", "Tag", "--store", searched, expect=1).stderr
    assert "Give a text" in command("search", "", "--store", searched, expect=2).stderr


def test_a_terminal_is_not_played_with(searched):
    """An excerpt is shown without control characters."""
    out = command("search", "needle", "--store", searched).stdout
    assert "Needle turned" in out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_a_search_that_finds_enough_goes_on(searched):
    """What is printed leads to the rest, and at the end nothing is said."""
    first = command("search", "needle", "--limit", 1, "--store", searched)
    assert "Notes/5" in first.stdout
    assert "To go on: flowstore search needle --before Notes/5" in first.stderr
    rest = command("search", "needle", "--before", "Notes/5", "--store", searched)
    assert ("Tags/4" in rest.stdout, "Notes/5" in rest.stdout, rest.stderr) == (True, False, "")


def test_a_search_without_time_gets_somewhere(searched):
    """It looks at one run at least, says how far it came, and goes on from there to the end."""
    runs, before = [], ()
    for _ in range(5):
        result = command("search", "näedle", *before, "--seconds", 0, "--store", searched)
        runs += [line.split()[0] for line in result.stdout.splitlines()[1:]]
        if "To go on" not in result.stderr:
            break
        assert "Looked at 1 run, back to" in result.stderr
        before = ("--before", result.stderr.split("--before ")[1].split()[0])
    assert runs == ["Logs/1"]


def test_a_long_log_is_not_read_for_ever(tmp_path):
    """A log that takes longer than there is time is left, and that is said; more time finds what is in it."""
    store = ensure_store(tmp_path / "flowstore.db")
    add_run(store, printed="x" * 60_000 + "\n", width=40)
    add_run(store, printed="short\n")
    result = search_runs(store, Wanted(text="missing", deadline_s=0))
    assert (result.looked_at, result.complete) == (1, False)
    result = search_runs(store, Wanted(text="missing", deadline_s=0, before=result.last))
    assert (result.looked_at, result.complete, [run.run_id for run in result.unread]) == (1, True, [1])
    assert search_runs(store, Wanted(text="missing")).unread == []
    assert (
        "--seconds 60" in command("search", "missing", "--before", "F/2", "--seconds", 0, "--store", store.path).stderr
    )
    store.close()


def test_a_line_that_was_read_in_two_pieces(tmp_path):
    """It is found where it was cut."""
    store = ensure_store(tmp_path / "flowstore.db")
    run_id = add_run(store, printed="a nee")
    with store.write() as db:
        [log_id] = db.execute("select log_id from log_chunks order by id desc limit 1").fetchone()
        rows = [(log_id, "stdout", 1, "dle of hay\nand more"), (log_id, "stderr", 1, "other")]
        db.executemany("insert into log_chunks (log_id, stream, written_at, text) values (?, ?, ?, ?)", rows)
    [hit] = search_runs(store, Wanted(text="Needle")).hits
    assert (hit.run.run_id, hit.excerpt) == (run_id, "a needle of hay")
    store.close()


def test_a_search_keeps_nobody_waiting(tmp_path):
    """While one looks, others commit: there is no transaction between its statements."""
    path = tmp_path / "flowstore.db"
    store = ensure_store(path)
    for _ in range(60):
        add_run(store)
    store.close()
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other, open_store(path) as mine:
        inner = mine._scope.store
        original = inner.rows

        def rows(*args):
            result = original(*args)
            other.execute("update runs set note = 'changed' where id = 1")
            return result

        inner.rows = rows
        assert search_runs(inner, Wanted(text="missing")).complete


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        ("a" * 100 + "X" + "b" * 200, "x", "…" + "a" * 80 + "X" + "b" * 120 + "…"),
        ("one\nthe GROSSE\nthree", "groß", "the GROSSE"),
        ("x", "x", "x"),
    ],
)
def test_excerpts(text, wanted, expected):
    """A line, cut where it is long."""
    assert excerpt(text, wanted.casefold()) == expected


# --- notes


def test_a_note(story):
    """It is shown, written, replaced and removed."""
    assert story.flowstore("note", "F/1").stdout == "F/1 has no note.\n"
    assert story.flowstore("note", "F/1", "Hello \x1b[31mthere").stderr == "Noted on F/1.\n"
    assert story.flowstore("note", "F/1").stdout == "Hello there\n"
    assert story.rows("note", "F/1") == [{"run": "F/1", "note": "Hello \x1b[31mthere"}]
    assert [row["run"] for row in story.rows("search", "\x1b[31mthere")] == ["F/1"]
    assert story.sql("select note from run_summary where run_id = 1") == ["Hello \x1b[31mthere"]
    assert "Removed the note on F/1." in story.flowstore("note", "F/1", "").stderr
    assert story.rows("note", "F") == [{"run": "F/3", "note": None}]
    assert "at most 10,000 characters" in story.flowstore("note", "F/1", "x" * 10_001, expect=1).stderr
