"""Files on their way to their place: what a killed process had begun is swept away, what a living one makes is not."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from flowstore.maintenance import check
from flowstore.sqlite import files, liveness
from flowstore.store import schema
from flowstore.store.opening import open_store
from support.flows import LINEAR, flow_source
from support.recording import store_with

BEGUN = """
import os, signal, sys, tempfile
from pathlib import Path
from flowstore.sqlite import files
with files.temporary_file(Path(sys.argv[1])) as path:
    path.with_name(path.name + "-journal").touch()
    Path(tempfile.mkdtemp(prefix=f"flowstore-{files.temporary_name()}-", dir=sys.argv[2]), "flow.py").touch()
    print(path, flush=True)
    if sys.argv[3:]:
        sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def begun(place, *more):
    """A process that has begun a draft of `place`, and a folder beside it."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGUN, str(place), str(place.parent), *more],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline()
    return process


def test_what_a_killed_process_had_begun_is_swept_away(tmp_path):
    """Whoever closes the store leaves one file, whatever died beside it."""
    place = store_with(tmp_path / "flowstore.db")
    with begun(place) as process:
        process.communicate()
    assert len(names(tmp_path)) == 4
    (tmp_path / ".flowstore.db.swp").touch()  # an editor's
    open_store(place).close()
    files.remove_abandoned_folders(tmp_path, "flowstore-")
    assert names(tmp_path) == [".flowstore.db.swp", "flowstore.db"]


def test_what_a_living_process_makes_stays(tmp_path):
    """Neither its draft nor its folder is touched."""
    place = store_with(tmp_path / "flowstore.db")
    with begun(place, "wait") as process, files.temporary_file(place):
        before = names(tmp_path)
        open_store(place).close()
        files.remove_abandoned_folders(tmp_path, "flowstore-")
        assert names(tmp_path) == before
        process.communicate("go\n")


@pytest.mark.parametrize("where", ["elsewhere", "hidden"])
def test_what_can_not_be_told_stays_for_a_day(tmp_path, monkeypatch, where):
    """A draft of another machine, or of a process that the system hides, is rubbish when nobody has written to it."""
    place = tmp_path / "out.db"
    with begun(place) as process:
        process.communicate()
    if where == "elsewhere":
        monkeypatch.setattr(liveness, "host", lambda: "another")
    else:
        monkeypatch.setattr(liveness, "started", lambda pid: "" if pid == process.pid else "1")
    files.remove_abandoned(place)
    assert len([*tmp_path.glob(".out.db.*")]) == 2
    for path in tmp_path.glob(".out.db.*"):
        os.utime(path, (time.time() - 90_000,) * 2)
    files.remove_abandoned(place)
    assert [*tmp_path.glob(".out.db.*")] == []


def test_a_file_is_put_in_place_once(tmp_path):
    """What is there is not replaced unless that is asked for, and nothing stays beside it."""
    place = tmp_path / "place"
    for content, replace in (("one", False), ("two", True)):
        with files.temporary_file(place) as draft:
            draft.write_text(content)
            files.move_to(draft, place, replace=replace)
    with files.temporary_file(place) as draft, pytest.raises(FileExistsError):
        files.move_to(draft, place, replace=False)
    assert (names(tmp_path), place.read_text()) == (["place"], "two")


def test_without_hard_links(tmp_path, monkeypatch):
    """A file system that has none still gets the file, and keeps what is there."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        with files.temporary_file(tmp_path / "place") as draft, contextlib.suppress(FileExistsError):
            files.move_to(draft, tmp_path / "place", replace=False)
    assert names(tmp_path) == ["place"]


KILLED_INSTEAD = """
import os, runpy, signal, sys
from flowstore.production import tokens
from flowstore.sqlite import files
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "keep":
    write = tokens.keep
    tokens.keep = lambda *args: (write(*args), die())
else:
    files.move_to = die
sys.argv[:2] = []
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
"""


def killed_instead(of, *command, cwd):
    """Run a Python command that dies once it has written a token, or where it should move a temporary file."""
    done = subprocess.run([sys.executable, "-c", KILLED_INSTEAD, of, *map(str, command)], cwd=cwd, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_token_outlives_a_process_that_dies_before_its_commit(flow):
    """Its file is there already; the next deployment has a token of its own, and a third one needs no other."""
    script = flow(flow_source(LINEAR))
    killed_instead("keep", script.file, "deploy", "create", cwd=script.folder)
    assert script.sql("select version from deployments") == []
    script("deploy", "create")
    script("deploy", "create")
    assert script.sql("select version from deployments") == [1, 2]
    assert names(script.folder / "home") == ["deployed", "key", "tokens"]


def test_what_died_with_another_name_is_swept_away_too(flow):
    """A token and a record of trust have names of their own each, to which nobody may come again."""
    script = flow(flow_source(LINEAR))
    script("run")
    tokens, trusted = script.folder / "home" / "tokens", script.folder / "home" / "trusted"
    killed_instead("put", script.file, "deploy", "create", cwd=script.folder)
    killed_instead("put", "flowstore", "trust", script.db, cwd=script.folder)
    assert [len([*folder.glob(".*")]) for folder in (tokens, trusted)] == [1, 1]
    script("deploy", "create")
    script.flowstore("export", "other.db")
    script.flowstore("trust", "other.db")
    assert [len([*folder.glob(".*")]) for folder in (tokens, trusted)] == [0, 0]
    killed_instead("put", script.file, "deploy", "create", "--generate-new-token", cwd=script.folder)
    script("deploy", "create")  # with the token that is there
    assert [*tokens.glob(".*")] == []


def test_a_killed_repair_leaves_no_place_empty(tmp_path):
    """Until the new file is there the damaged one is, and has its second name already."""
    place = store_with(tmp_path / "flowstore.db", {"x": 1})
    with contextlib.closing(sqlite3.connect(place)) as connection:
        page = connection.execute("select rootpage from sqlite_master where name = 'log_chunks'").fetchone()[0]
    with place.open("r+b") as file:
        file.seek((page - 1) * schema.PAGE_SIZE)
        file.write(b"\xff" * schema.PAGE_SIZE)
    damaged = place.read_bytes()
    killed_instead("put", "flowstore", "check", "--repair", "--store", place, cwd=tmp_path)
    assert place.read_bytes() == (tmp_path / "flowstore.db.damaged").read_bytes() == damaged
    done = subprocess.run([sys.executable, "-m", "flowstore", "check", "--repair", "--store", place], check=False)
    assert done.returncode == 0
    with contextlib.closing(open_store(place)) as store:
        assert check.check(store, deep=True).problems == []
        assert store.value("select count(*) from runs") == 1


COLD = bytes(512) + b"what a page was before"  # a journal whose header was never completed: nobody plays it back


def test_a_journal_that_nobody_needs_is_removed(tmp_path):
    """A process that died before it changed a page leaves a journal that SQLite leaves alone; closing removes it."""
    place = store_with(tmp_path / "flowstore.db", {"x": 1})
    (tmp_path / "flowstore.db-journal").write_bytes(COLD)
    open_store(place).close()
    assert names(tmp_path) == ["flowstore.db", "home"]


def test_a_journal_that_somebody_needs_stays(tmp_path):
    """While another process is writing, its journal is its own."""
    place = store_with(tmp_path / "flowstore.db", {"x": 1})
    with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as other:
        other.execute("pragma cache_size = 1")
        other.execute("begin immediate")
        other.execute("update runs set user = 'another'")
        assert (tmp_path / "flowstore.db-journal").exists()
        open_store(place).close()
        assert (tmp_path / "flowstore.db-journal").exists()
        other.execute("rollback")
        assert other.execute("select user from runs").fetchone() == ("tester",)
