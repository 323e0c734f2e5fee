"""Many processes, threads and forks on one file, which is one file again at rest; and one that is killed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading

import pytest

from flowstore.sqlite import files
from flowstore.store import opening, records
from support.processes import python, together, told
from support.stores import CREATE_RUN, NEW_RUN, killed_writer, make_store, names_beside, task_with


@pytest.mark.parametrize("wal", [True, False])
def test_eight_processes_make_and_write_one_store_at_once(path, wal):
    """Making a store and writing to it from eight processes: no error, no id twice, one file at rest."""
    body = f"""
store = opening.ensure_store(sys.argv[1])
if {wal}:
    store.use_wal()
print(*[create(store) for _ in range(25)])
store.close()
"""
    ids = [int(word) for said in together(CREATE_RUN, body, path) for word in said.split()]
    assert sorted(ids) == list(range(1, 201))
    assert names_beside(path) == ["flowstore.db"]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        assert connection.execute("pragma journal_mode").fetchone() == ("delete",)
        assert connection.execute("select count(*) from runs").fetchone() == (200,)


def test_reading_before_writing_in_many_processes_is_never_locked(path):
    """A transaction that reads first and then writes waits its turn, and loses nothing."""
    make_store(path)
    body = """
store = opening.open_store(sys.argv[1])
store.use_wal()
for _ in range(100):
    with store.write() as connection:
        count = connection.execute("select last_seen_at from runs where id = 1").fetchone()[0]
        connection.execute("update runs set last_seen_at = ? where id = 1", (count + 1,))
    store.rows("select run_id from run_summary")
store.close()
"""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        before = connection.execute("select last_seen_at from runs").fetchone()[0]
    together(CREATE_RUN, body, path, count=4)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select last_seen_at - ? from runs", (before,)).fetchone() == (400,)


def test_one_file_at_rest_after_eight_processes_open_and_close(path):
    """However many open and close it, readers and writers, the last one leaves one file."""
    make_store(path)
    body = """
import os
for n in range(12):
    store = opening.open_store(sys.argv[1])
    if (n + os.getpid()) % 2:
        store.use_wal()
        create(store)
    store.value("select count(*) from runs")
    store.close()
"""
    together(CREATE_RUN, body, path)
    assert names_beside(path) == ["flowstore.db"]


def test_eight_that_close_at_once_leave_a_file_that_any_medium_serves(path):
    """Those who close at the same moment don't keep each other from the switch back to a rollback journal."""
    make_store(path)
    setup = f"{CREATE_RUN}\nstore = opening.open_store(sys.argv[1]); store.use_wal(); create(store)"
    for _ in range(4):
        together(setup, "store.close()", path)
        assert names_beside(path) == ["flowstore.db"]
        assert path.read_bytes()[18:20] == b"\x01\x01"


def test_an_idle_reader_only_postpones_the_one_file(path):
    """While somebody has the store open the log stays; when the last one closes it is gone."""
    make_store(path)
    reader, writer = opening.open_store(path), opening.open_store(path)
    writer.use_wal()
    with writer.write() as connection:
        records.create_run(connection, NEW_RUN)
    assert reader.value("select count(*) from runs") == 2
    writer.close()
    assert reader.value("select count(*) from runs") == 2
    reader.close()
    assert names_beside(path) == ["flowstore.db"]


@pytest.mark.parametrize(("driver", "most"), [(True, 45 << 20), (False, 80 << 20)], ids=["of a driver", "of others"])
def test_the_log_has_a_bound(path, driver, most):
    """Whoever writes much copies the log before it is long: a run, or others while a notebook keeps the log alive."""
    make_store(path)
    reader, writer = opening.open_store(path), opening.open_store(path)
    with contextlib.closing(reader), contextlib.closing(writer):
        reader.use_wal()
        if driver:
            writer.use_wal()
        for n in range(160):
            with writer.write() as connection:
                records.append_log(connection, [(1, "stdout", n, "x" * (1 << 20))])
        assert files.side_file(path, "-wal").stat().st_size < most
    assert names_beside(path) == ["flowstore.db"]


def test_a_process_that_ends_leaves_one_file(path):
    """A script that never closes anything closes its store when it ends."""
    make_store(path)
    told(python("import flowstore; flowstore.namespace(None); print(list(flowstore.Flows()))", folder=path.parent))
    assert names_beside(path) == ["flowstore.db"]


def test_a_killed_process_leaves_side_files_until_the_next_one(path):
    """What a killed process had committed is there; the next open and close leave one file."""
    make_store(path)
    killed_writer(path)
    store = opening.open_store(path)
    assert store.value("select count(*) from runs") == 2
    store.close()
    assert names_beside(path) == ["flowstore.db"]


def test_what_a_killed_process_had_not_committed_is_gone(path):
    """A transaction that was open when its process was killed never happened."""
    make_store(path)
    new = "records.create_run(connection, records.NewRun('G', 'u', {}, (), None, [], []))"
    killed_writer(path, f"create(store); connection.execute('begin immediate'); {new}")
    store = opening.open_store(path)
    assert store.value("select count(*) from runs") == 2
    assert store.value("pragma integrity_check") == "ok"
    store.close()


FORK = """
import os, signal, threading
def in_child(action):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return pid
def wait(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"the child ended with {status}"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("wal", [True, False])
def test_a_process_with_an_open_store_may_fork(path, wal):
    """Parent and children that use the store after a fork lose nothing and leave one file."""
    code = f"""{CREATE_RUN}{FORK}
store = opening.ensure_store(sys.argv[1])
if {wal}:
    store.use_wal()
def work():
    for _ in range(30):
        create(store)
    store.close()
create(store)
for _ in range(3):
    children = [in_child(work) for _ in range(2)]
    create(store)
    for pid in children:
        wait(pid)
store.close()
"""
    told(python(code, path))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("select count(*) from runs").fetchone() == (1 + 3 * 61,)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    assert names_beside(path) == ["flowstore.db"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_reads(path):
    """A child can use the store although another thread of its parent was reading at the fork."""
    code = f"""{CREATE_RUN}{FORK}
store = opening.ensure_store(sys.argv[1])
create(store)
inside, done = threading.Event(), threading.Event()
def read():
    with store.read() as connection:
        connection.execute("select count(*) from runs").fetchone()
        inside.set()
        done.wait(0.5)
thread = threading.Thread(target=read)
thread.start()
inside.wait()
pid = in_child(lambda: create(store))
done.set()
thread.join()
wait(pid)
assert create(store) == 3
store.close()
"""
    told(python(code, path))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_inside_a_read_leaves_the_child_without_the_connection(path):
    """A child forked in the middle of a read never uses its parent's connection: SQLite forbids it."""
    code = f"""{CREATE_RUN}{FORK}
store = opening.ensure_store(sys.argv[1])
create(store)
with store.read() as connection:
    connection.execute("select count(*) from runs").fetchone()
    def child():
        assert store.connection() is not connection
        assert store.value("select count(*) from runs") == 1
    wait(in_child(child))
    connection.execute("select count(*) from runs").fetchone()
store.close()
"""
    told(python(code, path))


def test_a_second_store_of_one_file_keeps_the_locks_of_the_first(path):
    """Opening a file that this process has open must not drop SQLite's locks, as closing any descriptor of it would."""
    first = opening.ensure_store(path)
    code = (
        "import sqlite3, sys\nfile = sqlite3.connect(sys.argv[1], timeout=0)\n"
        "try: print(file.execute('begin immediate').fetchall())\n"
        "except sqlite3.OperationalError as error: print(error)\nfile.close()"
    )
    with first.write() as connection:
        connection.execute("insert into flows (name) values ('F')")
        second = opening.open_store(path)
        assert "locked" in told(python(code, path))
    second.close()
    first.close()


def test_threads_share_a_store(path):
    """Threads of one process may use one store."""
    store = opening.ensure_store(path)
    ids = []

    def work():
        for _ in range(10):
            with store.write() as connection:
                ids.append(records.create_run(connection, NEW_RUN))
            store.rows("select run_id from run_summary")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids) == list(range(1, 41))
    store.close()


def test_a_reader_sees_one_state(path):
    """All that is read within one `read` is of one moment, whatever others write meanwhile."""
    make_store(path)
    one, two = opening.open_store(path), opening.open_store(path)
    two.use_wal()
    with one.read() as reading:
        assert reading.execute("select count(*) from runs").fetchone()[0] == 1
        with two.write() as writing:
            records.create_run(writing, NEW_RUN)
        assert reading.execute("select count(*) from runs").fetchone()[0] == 1
    assert one.value("select count(*) from runs") == 2
    one.close()
    two.close()


def test_a_write_that_fails_writes_nothing(path):
    """An exception inside `write` undoes all of it, and the store can be used on."""
    store = opening.ensure_store(path)
    with pytest.raises(KeyError), store.write() as connection:  # noqa: PT012
        records.create_run(connection, NEW_RUN)
        raise KeyError("stop")
    assert store.value("select count(*) from runs") == 0
    assert task_with(store, x=1) == 1
    store.close()
