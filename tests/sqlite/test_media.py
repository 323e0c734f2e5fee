"""Media that refuse: read-only files, no shared memory, network file systems, a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from flowstore.errors import FlowstoreError
from flowstore.sqlite import journal
from flowstore.store import opening
from flowstore.store.description import Description
from flowstore.store.staging import Staging
from support.processes import AS_NOBODY, python, told
from support.stores import CREATE_RUN, killed_writer, make_store, names_beside, task_with, untouched

READ_ALL = """
os.chdir("/")
flowstore.use_store(sys.argv[1])
flowstore.namespace(None)
[run] = list(flowstore.Flow("F"))
print(run.status, run.data.x["accuracy"], sorted(run.user_tags))
try:
    opening.ensure_store(sys.argv[1])
except flowstore.FlowstoreError as error:
    print(error)
"""


def refusal(path, use):
    """The one clear error that an ordinary user gets for a path; anything else fails the test."""
    body = f"try:\n    {use}(sys.argv[1])\nexcept flowstore.FlowstoreError as error:\n    print(error)"
    return told(python(AS_NOBODY + body, path))


@pytest.mark.parametrize("header", ["rollback", "log"])
@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)])
@pytest.mark.quick("292-511-rollback", "438-365-log")
def test_a_read_only_file_or_folder_can_be_read(open_folder, file_mode, folder_mode, header):
    """The Client reads a store that can't be written, also one that was left in WAL mode; writing says why."""
    path = make_store(open_folder / "flowstore.db")
    if header == "log":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("pragma journal_mode = wal")
        assert names_beside(path) == ["flowstore.db"]
    path.chmod(file_mode)
    open_folder.chmod(folder_mode)
    with untouched(open_folder):
        said = told(python(AS_NOBODY + READ_ALL, path)).splitlines()
    assert said[0] == "successful 0.5 ['blue']"
    assert "cannot be written" in said[1]


def test_a_log_beside_a_read_only_file_is_a_clear_error(open_folder):
    """A store that needs recovery, where that can't be done, says so and what to do."""
    path = make_store(open_folder / "flowstore.db")
    killed_writer(path)
    (open_folder / "flowstore.db-shm").unlink()
    path.chmod(0o444)
    (open_folder / "flowstore.db-wal").chmod(0o444)
    open_folder.chmod(0o555)
    with untouched(open_folder):
        said = refusal(path, "flowstore.use_store")
    assert "needs recovery" in said
    assert "flowstore.db-wal" in said


@pytest.mark.parametrize("what", ["new store", "store that is there"])
def test_a_store_in_a_forbidden_folder_is_one_clear_error(open_folder, what):
    """A folder that may not be entered is one clear error, for reading and for writing."""
    inner = open_folder / "private"
    inner.mkdir()
    if what != "new store":
        make_store(inner / "flowstore.db")
    inner.chmod(0o700 if os.geteuid() == 0 else 0o000)
    said = [refusal(inner / "flowstore.db", use) for use in ("flowstore.use_store", "opening.ensure_store")]
    inner.chmod(0o755)
    assert all(str(inner) in message for message in said)


def test_no_store_is_made_in_a_read_only_folder(open_folder):
    """Where no file can be made, that is one clear error."""
    open_folder.chmod(0o555)
    assert "cannot be created" in refusal(open_folder / "flowstore.db", "opening.ensure_store")
    assert list(open_folder.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o000, 0o666)])
@pytest.mark.quick("63-384", "0-438")
def test_the_file_mode_follows_the_umask(path, umask, mode):
    """A new store's mode is what the umask leaves, so that a group can share it."""
    told(python(f"{CREATE_RUN}\nopening.ensure_store(sys.argv[1]).close()", path, umask=umask))
    assert oct(path.stat().st_mode & 0o777) == oct(mode)


NO_SHARED_MAPS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static int is_index(int fd) {
  char link[64], name[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, name, sizeof name - 1);
  if (n < 4) return 0;
  name[n] = 0;
  return strcmp(name + n - 4, "-shm") == 0;
}
void *mmap64(void *at, size_t size, int access, int flags, int fd, off_t offset) {
  static void *(*real)(void *, size_t, int, int, int, off_t);
  if (!real) real = dlsym(RTLD_NEXT, "mmap64");
  if (fd >= 0 && (flags & MAP_SHARED) && is_index(fd)) { errno = ENODEV; return MAP_FAILED; }
  return real(at, size, access, flags, fd, offset);
}
void *mmap(void *at, size_t size, int access, int flags, int fd, off_t offset) {
  return mmap64(at, size, access, flags, fd, offset);
}
"""


@pytest.mark.skipif(not shutil.which("cc") or sys.platform != "linux", reason="needs a C compiler and LD_PRELOAD")
def test_without_shared_memory_a_store_falls_back_to_a_rollback_journal(tmp_path, path):
    """On a file system without shared maps (here refused below SQLite) a run writes all the same, with a warning."""
    make_store(path)
    (tmp_path / "shim.c").write_text(NO_SHARED_MAPS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"], check=True)
    body = """
store = opening.ensure_store(sys.argv[1])
store.use_wal()
print(store.warning)
print(create(store), store.value("pragma journal_mode"))
store.close()
"""
    said = told(python(CREATE_RUN + body, path, env={**os.environ, "LD_PRELOAD": str(tmp_path / "shim.so")}))
    assert said.splitlines()[0].startswith(f"{path} cannot use a write-ahead log")
    assert said.splitlines()[1:] == ["2 delete"]
    assert names_beside(path) == ["flowstore.db"]


def test_on_a_network_file_system_a_store_keeps_its_rollback_journal(path, monkeypatch):
    """Where a shared log is unsafe it isn't tried, and the warning says so."""
    monkeypatch.setattr(journal, "on_network", lambda _: True)
    store = opening.ensure_store(path)
    store.use_wal()
    assert "network file system" in store.warning
    assert task_with(store, x=1) == 1
    assert store.value("pragma journal_mode") == "delete"
    store.close()


def test_a_full_disk_is_one_clear_error_and_loses_nothing(path):
    """When the file can't grow, the write fails as a whole; what was committed stays, and later writes work."""
    store = opening.ensure_store(path)
    task_with(store, x=1)
    pages = store.value("pragma page_count")
    store.value(f"pragma max_page_count = {pages + 3}")
    with pytest.raises(FlowstoreError, match="disk is full"):
        task_with(store, big=os.urandom(1 << 20))
    assert store.value("select count(*) from runs") == 1
    assert store.value("pragma integrity_check") == "ok"
    store.value("pragma max_page_count = 1000000")
    assert task_with(store, big=os.urandom(1 << 20)) == 2
    store.close()


def test_a_full_disk_in_a_staged_content_is_the_same_error(path):
    """A large artifact that doesn't fit leaves no trace."""
    store = opening.ensure_store(path)
    task_with(store, x=1)
    store.value(f"pragma max_page_count = {store.value('pragma page_count') + 40}")
    staging = Staging(store)
    incoming = staging.begin(bytes(32), Description("bytes", 64 << 20, "bytes", ""))
    with pytest.raises(FlowstoreError, match="disk is full"):  # noqa: PT012
        for _ in range(64):
            incoming.add(bytes(1 << 20))
        staging.wait()
    with store.write() as connection:
        incoming.drop(connection)
    staging.close()
    assert store.value("select count(*) from blobs where sha is null") == 0
    assert store.value("select count(*) from chunks") == 0
    store.close()
