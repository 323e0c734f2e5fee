"""No room, no permission, no file: a run that can't go on says what is kept and how to go on, and damages nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flowstore.maintenance import check as checking
from flowstore.store import opening
from support.cli import Result, Script, command
from support.flows import FOREACH, MIDDLE, flow_source
from support.processes import wait_for
from support.recording import store_with

pytestmark = pytest.mark.fresh

# A file `room` holds how many pages the store may have, for every process that has the flow's module.
LIMIT = """
from flowstore.sqlite import database as db
_connect = db._connect

def limited(path, **options):
    connection = _connect(path, **options)
    if Path("room").exists():
        connection.execute(f"pragma max_page_count = {Path('room').read_text()}")
    return connection

db._connect = limited
"""
BIG = "self.big = os.urandom(3_000_000)"
SOURCE = flow_source(
    MIDDLE,
    head=LIMIT,
    start="self.kept = 'kept' * 100\nprint('x' * 20_000)",
    middle=f"{BIG}\nprint('y' * 20_000)",
    end="self.answer = (len(self.kept), len(self.big))",
)
WAITS = """
if not Path("go").exists():
    open("here", "w").close()
    with open("gate") as gate: gate.read()
"""
GATED = flow_source(MIDDLE, start="self.kept = 'kept' * 100", middle=f"{WAITS}\n{BIG}", end="self.answer = self.kept")


def check(folder, name="flowstore.db"):
    """Every hash and reference of the store is right."""
    with contextlib.closing(opening.open_store(folder / name)) as store:
        assert checking.check(store, deep=True).problems == []


def ended_clearly(script, result, *, because):
    """One message: what happened, what is kept, how to go on; gives the arguments that go on with the run."""
    assert result.code == 1
    assert "Traceback" not in result.stdout + result.stderr
    [message] = [line for line in result.stderr.splitlines() if not line.startswith("flowstore 0")]
    assert message.startswith("Error: ")
    assert re.search(because, message), message
    assert "kept" in message
    check(script.folder)
    return re.search(r"python flow\.py (.*)$", message)[1].split()


def goes_on(script, arguments):
    """What had finished is not run again, and the end is as it would have been."""
    script(*arguments)
    run = script.client(script.sql("select max(run_id) from run_summary")[0])
    assert run.data.answer in {(400, 3_000_000), "kept" * 100}
    assert run["start"].task.origin_pathspec


def at_the_gate(script, *args, **options):
    """Start the run, and give its process once a task waits; `let_go` lets that go on."""
    os.mkfifo(script.folder / "gate")
    process = begin(script, "run", *args, **options)
    wait_for((script.folder / "here").exists)
    return process


def let_go(script, process):
    """Open the gate; gives how the run ended."""
    (script.folder / "gate").write_text("")
    (script.folder / "go").touch()
    return ended(process)


def begin(script, *args, **options):
    """Begin `python flow.py ARGS`, with options of `Popen`."""
    command = [sys.executable, script.file.name, *map(str, args)]
    return subprocess.Popen(command, cwd=script.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def ended(process):
    """How a command ended, and what it said."""
    stdout, stderr = process.communicate(timeout=60)
    return Result(process.returncode, stdout.decode(), stderr.decode())


def limited_to(most):
    """What gives a process, before it starts its program, a limit on the size of files."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


# --- a full disk


def full_disk(script, pages):
    """Run with room for so many more pages, then with room; both end as they should."""
    opening.ensure_store(script.db).close()
    with contextlib.closing(sqlite3.connect(script.db)) as connection:
        [[there]] = connection.execute("pragma page_count")
    (script.folder / "room").write_text(str(there + pages))
    with script.start("run", "--quiet") as process:
        result = ended(process)
    (script.folder / "room").unlink()
    if result.code == 0:
        return False
    if not script.sql("select count(*) from runs")[0]:  # not even the run itself had room
        assert "the disk is full" in result.stderr
        assert "Traceback" not in result.stderr
        return True
    arguments = ended_clearly(script, result, because="the disk is full")
    if script.sql("select count(*) from task_summary where step = 'start' and status = 'successful'")[0]:
        goes_on(script, arguments)
    else:
        script(*arguments)
    return True


@pytest.mark.parametrize("pages", [0, 4, 30, 300])
def test_a_full_disk_ends_the_run_and_no_more(pages, flow):
    """Wherever a run meets the end of the disk, one message says what is kept; with room again it is resumed."""
    assert full_disk(flow(SOURCE), pages)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_disk_that_is_full_at_every_page(tmp_path):
    """The same for each number of pages, until there is room enough; prints how many were tried."""
    full, pages = 0, 0
    while True:
        folder = tmp_path / str(pages)
        folder.mkdir()
        if not full_disk(Script(folder, SOURCE), pages):
            break
        shutil.rmtree(folder)
        full += 1
        pages += 1 if pages < 40 else 7
    print(f"{full} runs met the end of the disk, up to {pages} pages after the start; each was resumed")
    assert full > 50


@pytest.fixture
def small_disk(monkeypatch):
    """A folder on a file system of 4 MiB, where the system lets one be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="flowstore-test-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True)
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip("mounting a small file system needs root, and a container that permits it")
    monkeypatch.chdir(folder)
    yield folder
    monkeypatch.undo()
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system, which needs root")
def test_a_full_file_system(small_disk):
    """On a disk that is really full a run, an export and an import fail clearly; a delete makes room to go on."""
    ballast = small_disk / "ballast"
    other = store_with(small_disk / "other.db", {"x": os.urandom(700_000)})
    script = Script(small_disk, SOURCE.replace("3_000_000", "300_000"))
    script("run", "--quiet")
    fill(ballast, leave=400_000)
    with script.start("run", "--quiet") as process:
        arguments = ended_clearly(script, ended(process), because="disk is full|disk I/O error")
    for args in (["export", "out.db"], ["import", str(other)]):
        failed = command(*args, folder=small_disk, fresh=True, expect=1)
        assert (failed.stdout + failed.stderr).count("Error") == 1, failed
        check(small_disk)
    ballast.unlink()
    fill(ballast, leave=0)
    for args in (["delete", "F/1", "--yes"], ["vacuum"], ["runs"], ["check", "--deep"]):
        done = command(*args, folder=small_disk, fresh=True, expect=None)
        assert done.code == 0 or (done.stdout + done.stderr).count("Error") == 1, done
    ballast.unlink()
    check(small_disk)
    command("vacuum", folder=small_disk, fresh=True)
    script(*arguments)
    assert script.sql("select status from run_summary order by run_id desc limit 1") == ["successful"]
    assert sorted(path.name for path in small_disk.iterdir()) == ["flow.py", "flowstore.db", "other.db"]


def fill(path, *, leave):
    """Take all room of a small file system but so many bytes."""
    room = os.statvfs(path.parent)
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        file.write(bytes(max(0, room.f_bavail * room.f_bsize - leave)))
        while not leave:
            file.write(bytes(1024))


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on the size of files")
def test_a_limit_on_the_size_of_files(flow):
    """A quota is like a full disk: one message, and the run is resumed without the quota."""
    script = flow(SOURCE)
    opening.ensure_store(script.db).close()
    most = script.db.stat().st_size + 800_000
    process = begin(script, "run", "--quiet", preexec_fn=limited_to(most))
    goes_on(script, ended_clearly(script, ended(process), because="full|reading or writing failed"))


def test_a_limit_on_open_files(flow):
    """More tasks at a time than there are descriptors for is one message, too; fewer at a time go on."""
    script = flow(flow_source(FOREACH, start="self.xs = range(40)", body="print(os.getpid())"))
    limit = (40, 40)
    with begin(
        script,
        "run",
        "--quiet",
        "--max-workers",
        40,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit),
    ) as process:
        arguments = ended_clearly(script, ended(process), because="Too many open files")
    script(*arguments, "--max-workers", 2)
    assert script.client(2).status == "successful"


# --- the file under a running driver


def test_a_store_that_is_deleted_under_a_run(flow):
    """The run notices at its next commit; what it had done is in a file beside, from which it goes on."""
    script = flow(GATED)
    with at_the_gate(script, "--quiet") as process:
        script.db.unlink()
        result = let_go(script, process)
    rescued = script.folder / "flowstore.db.rescued-1"
    assert "was removed or replaced" in result.stderr
    assert [path.name for path in script.folder.glob("*flowstore.db*")] == [rescued.name]
    rescued.rename(script.db)
    arguments = ended_clearly(script, result, because="kept in .*rescued-1")
    script.db.rename(rescued)
    script(*arguments)
    rescued.rename(script.db)
    assert script.client(2)["start"].task.origin_pathspec == "F/1/start/1"


def test_a_store_that_is_replaced_under_a_run(flow):
    """Another store at the same place is not written to, and keeps no log of the first."""
    script = flow(GATED)
    other = store_with(script.folder / "other.db", {"x": 7})
    content = other.read_bytes()
    with at_the_gate(script, "--quiet") as process:
        other.replace(script.db)
        result = let_go(script, process)
    ended_clearly(script, result, because="kept in .*rescued-1")
    assert script.db.read_bytes() == content
    check(script.folder, "flowstore.db.rescued-1")
    (script.folder / "flowstore.db.rescued-1").unlink()


def test_a_folder_that_is_deleted_under_a_run(tmp_path, flow):
    """Where nothing can be rescued the message says that, and nothing hangs."""
    folder = tmp_path / "gone"
    folder.mkdir()
    script = flow(GATED)
    with at_the_gate(script, "--quiet", "--store", folder / "s.db") as process:
        shutil.rmtree(folder)
        result = let_go(script, process)
    assert (result.code, "Traceback" in result.stderr) == (1, False)
    assert "was removed or replaced" in result.stderr
    assert "is lost" in result.stderr


READS = f"{WAITS}\nself.big = self.kept; self.answer = self.kept"


def as_anybody():
    """Give up what lets root ignore the modes of files, before a process starts its program; see capabilities(7)."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="gives up a capability of Linux")
@pytest.mark.parametrize("lost", [(0o000, 0o755), (0o444, 0o555), (0o644, 0o000)], ids=["file", "read-only", "folder"])
def test_a_permission_that_is_lost_under_a_run(tmp_path, lost):
    """A file or folder that may no longer be read or written ends the run at worst; given back, the run goes on."""
    script = Script(tmp_path, flow_source(MIDDLE, start="self.kept = 'kept' * 100", middle=READS))
    inner = tmp_path / "inner"
    inner.mkdir()
    script.db = inner / "flowstore.db"
    with at_the_gate(script, "--quiet", "--store", script.db, preexec_fn=as_anybody) as process:
        script.db.chmod(lost[0])
        inner.chmod(lost[1])
        result = let_go(script, process)
    inner.chmod(0o755)
    script.db.chmod(0o644)
    assert "Traceback" not in result.stderr
    if result.code == 0:  # what it had open it could still write
        assert script.sql("select status from run_summary") == ["successful"]
    else:
        assert result.stderr.count("kept; to go on") == 1
        script("resume", "--store", script.db)
    check(inner)


# --- other files that can't be written


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_nobody_can_write(flow):
    """A full disk under stdout ends no run; a command whose whole output it is says so."""
    script = flow(flow_source(MIDDLE, start="print('hello')"))
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "flow.py", "run", "--quiet"]
        done = subprocess.run(command, cwd=script.folder, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        assert "goes on without it" in done.stderr
        assert script.client()["start"].task.stdout == "hello\n"
        shown = subprocess.run(
            [sys.executable, "-m", "flowstore", "runs"],
            cwd=script.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (shown.returncode, shown.stderr) == (1, "Error: The output cannot be written: No space left on device.\n")


def test_a_failed_run_whose_reader_went_away_has_failed(flow):
    """`run | head` ends with the run's exit code."""
    script = flow(flow_source(MIDDLE, middle="for n in range(100_000): print(n)", end="raise ValueError('it failed')"))
    process = script.start("run", "--quiet")
    process.stdout.readline()
    process.stdout.close()
    assert b"failed in end" in process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1


def test_a_run_id_file_that_cannot_be_written(flow):
    """Its folder is missing: one message, and no run."""
    script = flow(flow_source(MIDDLE))
    told = script("run", "--run-id-file", "no/such/place", expect=2).stderr
    assert "no/such/place: there is no folder no/such" in told
    assert not script.db.exists()


@pytest.mark.parametrize("what", ["export", "import", "delete", "vacuum"])
def test_a_quota_for_a_command(what, tmp_path):
    """A command that runs out of room changes nothing, or at least damages nothing; with room it works."""
    path = store_with(tmp_path / "flowstore.db", {"x": os.urandom(600_000)}, {"x": os.urandom(600_000)})
    other = store_with(tmp_path / "other.db", {"x": os.urandom(3_000_000)})
    args = {
        "export": ["export", "out.db"],
        "import": ["import", str(other)],
        "delete": ["delete", "F/1", "--yes"],
        "vacuum": ["vacuum"],
    }[what]
    most = 400_000 if what == "export" else 100_000 + (path.stat().st_size if what == "import" else 0)
    done = subprocess.run(
        [sys.executable, "-m", "flowstore", *args],
        cwd=tmp_path, capture_output=True, text=True, preexec_fn=limited_to(most),
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode in {0, 1}
    if what in {"export", "import"}:
        assert (done.returncode, done.stderr.count("Error: ")) == (1, 1), done.stderr
        assert not (tmp_path / "out.db").exists()
    check(tmp_path)
    command(*args)
    check(tmp_path)
    drafts = [item.name for item in tmp_path.iterdir() if item.name.startswith(".")]
    assert drafts == []
