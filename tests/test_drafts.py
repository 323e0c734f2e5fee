"""Files on their way to their place: what a killed process had begun is swept away, what a living one makes is not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import pytest
from histories import store_with

from flowstore.store import drafts, liveness
from flowstore.store.db import open_store

BEGUN = """
import os, signal, sys, tempfile
from pathlib import Path
from flowstore.store import drafts
with drafts.draft(Path(sys.argv[1])) as path:
    path.with_name(path.name + "-journal").touch()
    Path(tempfile.mkdtemp(prefix=f"flowstore-{drafts.name()}-", dir=sys.argv[2]), "flow.py").touch()
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
    drafts.sweep_folders(tmp_path, "flowstore-")
    assert names(tmp_path) == [".flowstore.db.swp", "flowstore.db"]


def test_what_a_living_process_makes_stays(tmp_path):
    """Neither its draft nor its folder is touched."""
    place = store_with(tmp_path / "flowstore.db")
    with begun(place, "wait") as process, drafts.draft(place):
        before = names(tmp_path)
        open_store(place).close()
        drafts.sweep_folders(tmp_path, "flowstore-")
        assert names(tmp_path) == before
        process.communicate("go\n")


@pytest.mark.parametrize("where", ["elsewhere", "hidden"])
def test_what_can_not_be_told_stays_for_a_day(tmp_path, monkeypatch, where):
    """A draft of another machine, or of a process that the system hides, is rubbish when nobody has written to it."""
    place = tmp_path / "out.db"
    with begun(place) as process:
        process.communicate()
    if where == "elsewhere":
        monkeypatch.setattr(liveness.platform, "node", lambda: "another")
    else:
        monkeypatch.setattr(liveness, "started", lambda pid: "" if pid == process.pid else "1")
    assert [*drafts.abandoned(place)] == []
    for path in tmp_path.glob(".out.db.*"):
        os.utime(path, (time.time() - 90_000,) * 2)
    drafts.sweep(place)
    assert [*tmp_path.glob(".out.db.*")] == []


def test_a_file_is_put_in_place_once(tmp_path):
    """What is there is not replaced unless that is asked for, and nothing stays beside it."""
    place = tmp_path / "place"
    for content, replace in (("one", False), ("two", True)):
        with drafts.draft(place) as draft:
            draft.write_text(content)
            drafts.put_in_place(draft, place, replace=replace)
    with drafts.draft(place) as draft, pytest.raises(FileExistsError):
        drafts.put_in_place(draft, place, replace=False)
    assert (names(tmp_path), place.read_text()) == (["place"], "two")


def test_without_hard_links(tmp_path, monkeypatch):
    """A file system that has none still gets the file, and keeps what is there."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        with drafts.draft(tmp_path / "place") as draft, contextlib.suppress(FileExistsError):
            drafts.put_in_place(draft, tmp_path / "place", replace=False)
    assert names(tmp_path) == ["place"]
