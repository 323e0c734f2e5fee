"""No command takes what the machine has for a stranger's question, and none writes over a store."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import flowstore
from flowstore.errors import FlowstoreError
from support.cli import command
from support.flows import LINEAR, flow_source
from support.stores import make_store, untouched

NUMBERS = "with recursive n(i) as (select 1 union all select i + 1 from n)"
HEAVY = {
    "one value": "select zeroblob(3000000) || zeroblob(3000000)",
    "equal columns": f"select {', '.join(['z'] * 2000)} from (select zeroblob(4000000) as z)",
    "many rows": f"{NUMBERS} select i, i, i, i from n",
    "long rows": f"{NUMBERS} select zeroblob(1000000) from n",
    "a group": f"{NUMBERS} select group_concat(hex(zeroblob(9999))) from n",
    "a json group": f"{NUMBERS} select json_group_array(hex(zeroblob(9999))) from n",
    "a sort": f"{NUMBERS} select hex(randomblob(9999)) from n limit 90000",
    "a cross join": "select a.sql, b.sql, c.sql from sqlite_master a, sqlite_master b, sqlite_master c",
}


def peak_of(*words, **env):
    """Run a command in a process of its own; return its exit code, what it said, and its peak memory in MB."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'flowstore', *sys.argv[1:]], stdout=subprocess.DEVNULL,"
        " stderr=subprocess.PIPE)\n"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)\n"
        "print(done.stderr.decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=True,
    )
    first, _, said = done.stdout.partition("\n")
    status, peak = map(int, first.split())
    return status, said, peak


@pytest.mark.parametrize("what", HEAVY)
@pytest.mark.quick("one value", "a sort")
def test_a_question_to_a_stranger_s_file_is_bounded(tmp_path, what):
    """It ends with one clear error, and before it has taken a gigabyte."""
    path = make_store(tmp_path / "flowstore.db")
    code, said, peak = peak_of("--store", path, "sql", HEAVY[what], FLOWSTORE_HOME=str(tmp_path / "stranger"))
    assert (code, said.count("Error: "), "Traceback" in said) == (1, 1, False), said
    assert peak < 900


def test_a_stranger_s_file_answers_what_is_asked_in_earnest(tmp_path):
    """The limits leave room for it."""
    path = make_store(tmp_path / "flowstore.db", runs=50)
    for query in ("select * from run_summary", "select * from artifact_values", "select * from sqlite_master"):
        code, said, _ = peak_of("--store", path, "sql", query, FLOWSTORE_HOME=str(tmp_path / "stranger"))
        assert code == 0, said


def test_too_little_memory_is_one_clear_error(tmp_path):
    """Also for one's own file, and whatever the command."""
    path = make_store(tmp_path / "flowstore.db")
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20));"
        "sys.argv[1:] = sys.argv[1:]; runpy.run_module('flowstore', run_name='__main__')"
    )
    query = "with recursive n(i) as (select 1 union all select i + 1 from n) select hex(zeroblob(9999)) from n"
    done = subprocess.run(
        [sys.executable, "-c", code, "--store", path, "sql", query], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "memory" in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


FLOW = flow_source(LINEAR, start="self.x = b'bytes'")
WRITERS = {
    "get": (["get", "F/1/start/1/x", "-o"], "flowstore"),
    "get json": (["get", "F/1/end/2/x", "-o"], "flowstore"),
    "export": (["export"], "flowstore"),
    "dump": (["dump", "1/start", "--file"], "flow"),
    "run-id-file": (["run", "--run-id-file"], "flow"),
    "resume": (["resume", "--run-id-file"], "flow"),
}


def link(path, target):
    path.symlink_to(target)
    return path


def hard_link(path, target):
    path.hardlink_to(target)
    return path


PLACES = {
    "the store": lambda db: db,
    "a link to it": lambda db: link(db.with_name("link"), db),
    "another name of it": lambda db: hard_link(db.with_name("other"), db),
    "its log": lambda db: Path(f"{db}-wal"),
    "its index": lambda db: Path(f"{db}-shm"),
    "its journal": lambda db: Path(f"{db}-journal"),
    "another store": lambda db: make_store(db.with_name("second.db")),
    "a link to another's journal": lambda db: link(
        db.with_name("link"), Path(f"{make_store(db.with_name('second.db'))}-journal")
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.quick(
    "get-the store",
    "export-another name of it",
    "run-id-file-its journal",
    "resume-the store",
    "dump-a link to another's journal",
)
def test_no_command_overwrites_a_store(flow, writer, place):
    """One error, and nothing is written, whichever way the path leads there; no run begins."""
    script = flow(FLOW)
    script("run")
    target = PLACES[place](script.db)
    words, program = WRITERS[writer]
    with untouched(script.folder):
        if program == "flow":
            said = script(*words, target, expect=2 if "--run-id-file" in words else 1).stderr
        else:
            said = command(*words, target, expect=1).stderr
        assert said.count("Error: ") == 1
        assert "Choose another" in said or "there already" in said
    for path in (script.db.with_name("link"), script.db.with_name("other")):
        path.unlink(missing_ok=True)


def test_a_store_that_is_made_by_the_run_is_not_its_id_file(flow):
    """Neither is one that does not exist yet."""
    script = flow(FLOW)
    script("--store", "new.db", "run", "--run-id-file", "new.db", expect=2)
    script("run", "--run-id-file", "flowstore.db-wal", expect=2)
    assert [path.name for path in script.folder.glob("*.db*")] == []


def test_code_is_not_extracted_over_a_store(flow):
    """Nor is any of its files written before that is known."""
    script = flow(FLOW)
    script("run")
    (script.folder / "out").mkdir()
    target = make_store(script.folder / "out" / "flow.py")
    with untouched(script.folder), pytest.raises(FlowstoreError, match="not overwritten"):
        script.client().code.extract(target.parent)


def test_a_file_that_is_no_store_is_replaced(flow):
    """As before, in one step; a link is followed or replaced, and a pipe is written to."""
    script = flow(FLOW)
    script("run")
    out = script.folder / "out"
    for words in (["get", "F/1/start/1/x", "-o"],):
        out.write_text("old")
        command(*words, out)
        assert out.read_bytes() == b"bytes"
    script("dump", "1/start", "--file", out)
    script("run", "--run-id-file", out)
    assert out.read_text() == "2"
    pipe = script.folder / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    command("get", "F/1/start/1/x", "-o", pipe)
    reader.join()
    assert found == [b"bytes"]
    command("get", "F/1/start/1/x", "-o", "/dev/null")
    assert flowstore.get_store() == script.db
