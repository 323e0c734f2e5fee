"""`vacuum` drops what a crash left and gives back what it can."""

from __future__ import annotations

import contextlib
import json
import os

from flowstore.maintenance import vacuum
from flowstore.store import blobs, codecs, records, snapshots, tags
from flowstore.store.opening import open_store
from support.cli import command
from support.recording import store_with
from support.stores import rows_of, sql


def test_vacuum_drops_what_a_crash_left(path):
    """Contents, code, logs, tags and flows that nothing uses, and the space they took."""
    store_with(path, {"x": 1})
    with contextlib.closing(open_store(path)) as store, store.write() as connection:
        blobs.put(connection, store, codecs.encode(os.urandom((3 << 20) + 65536)))
        snapshots.ensure(connection, store, snapshots.Program("flow.py"), {"flow.py": b"lost"})
        records.append_log(connection, [(99, "stdout", 0, "of nobody")])
        tags.ensure_tag(connection, "of nobody")
        connection.execute("insert into flows (name) values ('Nobody')")
    before = path.stat().st_size
    [told_] = json.loads(command("vacuum", "--json").stdout)
    assert told_ == {"before_bytes": before, "after_bytes": path.stat().st_size, "why_partly": None}
    assert before - told_["after_bytes"] > 3 << 20
    assert rows_of(path)["codes"] == rows_of(path)["chunks"] == 0
    assert sql(path, "select name from flows") == ["F"]
    assert "of nobody" not in sql(path, "select tag from tags union all select text from log_chunks")


def test_vacuum_while_others_read_gives_back_what_it_can(path, monkeypatch):
    """One message, exit code 0, and no harm to the reader's snapshot."""
    monkeypatch.setattr(vacuum, "PATIENCE_S", 0.1)
    store_with(path, {"x": os.urandom((3 << 20) + 65536)}, {"x": 2})
    with contextlib.closing(open_store(path)) as store:
        store.use_wal()
        with store.read() as reader:
            assert reader.execute("select count(*) from runs").fetchone()[0] == 2
            command("delete", "F/1", "--yes")
            assert "another process uses the store" in command("vacuum").stderr
            assert reader.execute("select count(*) from runs").fetchone()[0] == 2
    assert path.stat().st_size < 2 << 20
