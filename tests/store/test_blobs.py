"""Contents of any size: in chunks, found damaged, shown short, stored once, staged, never twice in memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import sys

import numpy as np
import pytest

from flowstore.errors import StoreCorrupt
from flowstore.store import blobs, codecs, records
from flowstore.store.description import Description
from flowstore.store.staging import Staging
from support.blobs import VALUES, blob_of, frame, put
from support.flows import LINEAR, flow_source
from support.processes import python, told
from support.sameness import same
from support.stores import task_with

MIB = 1 << 20


def stage(store, value):
    """Store a value as a task's large artifact is stored: staged in chunks, then published."""
    encoded = codecs.encode(value)
    staging = Staging(store)
    incoming = staging.begin(encoded.sha, encoded.description)
    for chunk in blobs.chunks_of(encoded.pieces):
        incoming.add(bytes(chunk))
    staging.wait()
    with store.write() as connection:
        blob_id = incoming.publish(connection)
        incoming.sign(connection, blob_id)
    staging.close()
    return blob_of(store, blob_id)


# --- chunks

SIZES = [0, 1, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 5, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1]


def value_of_size(codec, size):
    """A value whose content has exactly this size."""
    rng = random.Random(size)
    if codec == "bytes":
        return rng.randbytes(size)
    if codec == "json":
        return ("".join(rng.choices("abcdefgh", k=1000)) * (size // 1000 + 1))[: size - 2]
    if codec == "npy":
        return np.frombuffer(rng.randbytes(size - 128), np.uint8)
    rough = bytearray(rng.randbytes(size))
    return rough[: size - (codecs.encode(rough).size_bytes - size)]


@pytest.mark.parametrize("keep", [put, stage])
@pytest.mark.parametrize("codec", ["bytes", "json", "npy", "pickle"])
@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_the_limits(store, codec, size, keep):
    """Contents of every size around 64 KiB, whole MiB and a batch come back, in chunks of a MiB but for the last."""
    if codec != "bytes" and size < 1000:
        pytest.skip("too small for a header")
    if keep is stage and size == 0:
        pytest.skip("an empty blob has no chunk")
    value = value_of_size(codec, size)
    blob = keep(store, value)
    if codec != "pickle":
        assert (blob.codec, blob.size_bytes) == (codec, size)
    assert same(blobs.load(store, blob, "x"), value)
    chunks = [row[0] for row in store.rows("select length(data) from chunks where blob_id = ? order by n", (blob.id,))]
    if blob.size_bytes <= 65536:
        assert chunks == []
    else:
        assert blob.data is None
        assert sum(chunks) == blob.size_bytes
        assert set(chunks[:-1]) <= {MIB}


LARGE = {
    "json": ["abc" * 500_000, "d"],
    "bytes": os.urandom(2 * MIB + 77),
    "npy": np.arange(300_000.0),
    "parquet": frame(a=np.random.default_rng(1).random(300_000)),
    "typed-json": ("abc" * 300_000, ["d" * 300_000]),
    "pickle": (bytes(MIB), bytearray(MIB)),
}


@pytest.mark.parametrize("codec", VALUES)
def test_a_flipped_byte_in_a_small_content(store, codec):
    """Any changed byte is StoreCorrupt when the value is loaded, before anything is made of it that runs code."""
    blob = put(store, VALUES[codec])
    assert blob.codec == codec
    rng = random.Random(codec)
    for at in {0, blob.size_bytes - 1, *(rng.randrange(blob.size_bytes) for _ in range(60))}:
        content = bytearray(blob.data)
        content[at] ^= 1 << rng.randrange(8)
        with store.write() as connection:
            connection.execute("update blobs set data = ? where id = ?", (bytes(content), blob.id))
        with pytest.raises(StoreCorrupt, match="F/1/end/1/x"):
            blobs.load(store, blob_of(store, blob.id), "F/1/end/1/x")


DAMAGES = {
    "a flipped byte": "update chunks set data = cast(x'ff' || substr(data, 2) as blob) where n = 1",
    "a flipped last byte": "update chunks set data = cast(substr(data, 1, length(data) - 1) || x'ee' as blob)",
    "a longer chunk": "update chunks set data = cast(data || x'00' as blob) where n = 0",
    "a longer last chunk": "update chunks set data = cast(data || x'00' as blob) where n = (select max(n) from chunks)",
    "a shorter chunk": "update chunks set data = substr(data, 1, 1000) where n = 0",
    "an empty chunk": "update chunks set data = x'' where n = 0",
    "no first chunk": "delete from chunks where n = 0",
    "no last chunk": "delete from chunks where n = (select max(n) from chunks)",
    "no chunks": "delete from chunks",
    "another order": "update chunks set n = 1 - n + 100 where n < 2; update chunks set n = n - 100 where n > 50",
    "a chunk too many": (
        "insert into chunks select blob_id, (select max(n) + 1 from chunks), data from chunks where n = 0;"
        "update blobs set size_bytes = size_bytes + 1048576"
    ),
    "a smaller size": "update blobs set size_bytes = 70000",
}


@pytest.mark.parametrize("codec", LARGE)
def test_damage_in_a_large_content(store, codec):
    """Changed, cut, lost, added or swapped chunks are StoreCorrupt, in every codec."""
    blob = put(store, LARGE[codec])
    assert blob.codec == codec
    chunks = [tuple(row) for row in store.rows("select * from chunks")]
    assert len(chunks) > 1
    wrong = []
    for name, sql in DAMAGES.items():
        with store.write() as connection:
            for statement in sql.split(";"):
                connection.execute(statement)
        try:
            blobs.load(store, blob_of(store, blob.id), "x")
            wrong.append((name, "loaded"))
        except StoreCorrupt:
            pass
        except Exception as error:
            wrong.append((name, repr(error)))
        with store.write() as connection:
            connection.execute("delete from chunks")
            connection.executemany("insert into chunks values (?, ?, ?)", chunks)
            connection.execute("update blobs set size_bytes = ?", (blob.size_bytes,))
    assert wrong == []


# --- the view's text


def test_json_text_is_shown_up_to_64_kib(store):
    """`artifact_values.value` is there for what plain JSON of at most 64 KiB can say."""
    task_with(store, small={"a": [1]}, limit="x" * 65534, over="x" * 65535, text=b'{"a": 1}', pair=(1,), none=None)
    rows = {row["name"]: row for row in store.rows("select name, codec, size_bytes, type, value from artifact_values")}
    assert {name: row["codec"] for name, row in rows.items()} == {
        "small": "json", "limit": "json", "over": "json", "text": "bytes", "pair": "typed-json", "none": "json",
    }  # fmt: skip
    assert rows["small"]["value"] == '{"a":[1]}'
    assert rows["limit"]["size_bytes"] == 65536
    assert json.loads(rows["limit"]["value"]) == "x" * 65534
    assert rows["none"]["value"] == "null"
    assert [rows[name]["value"] for name in ("over", "text", "pair")] == [None, None, "[1]"]
    assert store.value("select value ->> '$.a[0]' from artifact_values where name = 'small'") == 1


def test_previews_are_short_and_safe():
    """A preview is short text for any value, also where a repr raises or is endless, and names the shape of tables."""

    class Rude:
        def __repr__(self):
            raise RuntimeError("no")

    for value in (Rude(), "x" * 10**6, [[1] * 1000] * 1000, {n: n for n in range(10**5)}, "\ud800", np.zeros((9, 9))):
        text = codecs.encode(value).preview
        assert len(text) <= 400
        text.encode()
    assert "3 rows × 2 columns" in codecs.encode(VALUES["parquet"]).preview
    assert "[5, 10]" in codecs.encode(VALUES["npy"]).preview


# --- one copy


def counts(store):
    return tuple(store.row("select (select count(*) from blobs), (select count(*) from chunks)"))


def test_the_same_content_is_stored_once(store):
    """Equal values of equal type are one row, however they came; the codec is part of the address."""
    first = put(store, {"a": 1})
    assert put(store, {"a": 1}).id == first.id
    assert put(store, b'{"a":1}').id != first.id
    big = os.urandom(3 * MIB)
    first = put(store, big)
    before = counts(store)
    assert put(store, big).id == stage(store, big).id == first.id
    assert counts(store) == before


def test_a_value_that_flows_through_is_stored_once(flow):
    """An artifact that a later task never touches is no row of that task."""
    script = flow(flow_source(LINEAR, start="self.big = os.urandom(1 << 20)"))
    script("run")
    assert script.sql("select count(*) from artifacts where name = 'big'") == [1]
    assert script.client().data.big == script.client()["start"].task.data.big


@pytest.fixture
def staging(store):
    """What brings blobs into the store; closed at the end."""
    with contextlib.closing(Staging(store)) as opened:
        yield opened


def begin(staging, content):
    """Announce a blob of these bytes."""
    return staging.begin(hashlib.sha256(content).digest(), Description("bytes", len(content), "bytes", ""))


def stage_all(staging, content):
    """Bring a blob of these bytes, without publishing it."""
    incoming = begin(staging, content)
    for at in range(0, len(content), MIB):
        incoming.add(content[at : at + MIB])
    staging.wait()
    return incoming


def abandoned(store):
    """Make all leases those of a process that is gone."""
    with store.write() as connection:
        connection.execute("update leases set pid_started = 'long ago'")


def running(store):
    """A run that hasn't ended."""
    with store.write() as connection:
        return records.create_run(connection, records.NewRun("F", "u", {}, (), None, [], []))


def test_a_staged_blob_is_invisible_until_it_is_published(store, staging):
    """Chunks on their way in have no hash, but a lease; publishing makes them one blob, without a lease."""
    content = os.urandom(20 * MIB + 3)
    incoming = stage_all(staging, content)
    assert incoming.is_complete
    assert counts(store) == (1, 21)
    with store.read() as connection:
        assert blobs.find(connection, incoming.sha, "bytes") is None
    assert store.value("select count(*) from leases") == 1
    with store.write() as connection:
        blob_id = incoming.publish(connection)
    assert blobs.load(store, blob_of(store, blob_id), "x") == content
    assert store.value("select count(*) from leases") == 0
    assert counts(store) == (1, 21)


def test_a_dropped_blob_leaves_nothing(store, staging):
    """A task that fails in the middle gives its space back, before and after the first batch."""
    for size in (MIB, 17 * MIB):
        incoming = stage_all(staging, bytes(size))
        for _ in range(2):
            with store.write() as connection:
                incoming.drop(connection)
        assert counts(store) == (0, 0)
        assert store.value("select count(*) from leases") == 0


def test_closing_drops_what_was_not_published(store):
    """Neither rows nor leases are left of what nobody asked for, and what was published stays."""
    staging = Staging(store)
    published, left = stage_all(staging, os.urandom(2 * MIB)), stage_all(staging, os.urandom(2 * MIB))
    with store.write() as connection:
        blob_id = published.publish(connection)
    assert left.blob_id != blob_id
    staging.close()
    assert [row["id"] for row in store.rows("select id from blobs")] == [blob_id]
    assert counts(store) == (1, 2)
    assert store.value("select count(*) from leases") == 0


def test_two_that_stage_the_same_blob_leave_one(store, staging):
    """The second to publish drops its copy and points at the first."""
    content = os.urandom(17 * MIB)
    ids = []
    for incoming in [stage_all(staging, content) for _ in range(2)]:
        with store.write() as connection:
            ids.append(incoming.publish(connection))
    assert ids[0] == ids[1]
    assert counts(store) == (1, 17)
    assert blobs.load(store, blob_of(store, ids[0]), "x") == content


def test_a_publication_that_is_undone_can_be_repeated(store, staging):
    """If the transaction that publishes fails, publishing again makes the blob complete."""
    content = os.urandom(MIB)
    incoming = stage_all(staging, content)
    with pytest.raises(ZeroDivisionError), store.write() as connection:  # noqa: PT012
        incoming.publish(connection)
        1 / 0  # noqa: B018
    with store.write() as connection:
        blob_id = incoming.publish(connection)
    assert blobs.load(store, blob_of(store, blob_id), "x") == content


def test_an_undone_publication_never_drops_another_s_blob(store, staging):
    """Dropping after an undone publication removes nothing that got the same row since."""
    incoming = stage_all(staging, os.urandom(MIB))
    with pytest.raises(ZeroDivisionError), store.write() as connection:  # noqa: PT012
        incoming.publish(connection)
        1 / 0  # noqa: B018
    other = put(store, {"someone": "else's"})
    with store.write() as connection:
        incoming.drop(connection)
    assert blobs.load(store, blob_of(store, other.id), "x") == {"someone": "else's"}


def test_orphans_are_dropped(store, staging):
    """What a dead process had begun to write goes, what living ones write stays, and so does what is published."""
    kept = put(store, b"kept")
    dead = stage_all(staging, bytes(16 * MIB)).blob_id
    abandoned(store)
    alive = stage_all(staging, bytes(16 * MIB)).blob_id
    records.record_dead_runs(store)
    assert sorted(row["id"] for row in store.rows("select id from blobs")) == [kept.id, alive] != [kept.id, dead]
    assert store.value("select count(*) from chunks") == 16


def test_what_older_versions_were_writing_is_dropped_with_their_runs(store):
    """Version 0.1.0 wrote no lease but its run's number: what a living run of it writes stays."""
    alive, ended = running(store), running(store)
    with store.write() as connection:
        for run_id in (alive, ended, None):
            connection.execute(
                "insert into blobs (codec, size_bytes, type, preview, staged_by) values ('bytes', 9, '', '', ?)",
                (run_id,),
            )
        records.finish_run(connection, ended, "failed")
    records.record_dead_runs(store)
    assert [row["staged_by"] for row in store.rows("select staged_by from blobs")] == [alive]


def test_a_held_blob_is_not_deleted_until_it_is_released(store, staging):
    """A lease protects it as long as somebody counts on it, however often it was asked for."""
    blob = put(store, os.urandom(100_000))
    for _ in range(2):
        with store.write() as connection:
            assert staging.hold(connection, blob.sha, blob.codec)
    for left in (1, 0):
        with store.write() as connection:
            assert staging.release(connection, blob.sha, blob.codec) == blob.id
        assert store.value("select count(*) from leases") == left
    with store.write() as connection:
        assert staging.hold(connection, blob.sha, blob.codec)
    staging.close()
    assert store.value("select count(*) from leases") == 0


def test_a_lease_has_one_holder(store, staging):
    """Who finds a blob held by another brings a copy of its own, and leaves the other's lease alone."""
    blob = put(store, os.urandom(100_000))
    with contextlib.closing(Staging(store)) as other:
        with store.write() as connection:
            assert other.hold(connection, blob.sha, blob.codec)
            assert not staging.hold(connection, blob.sha, blob.codec)
            staging.release(connection, blob.sha, blob.codec)
        staging.close()
        assert store.value("select count(*) from leases") == 1
        abandoned(store)
        with store.write() as connection:
            assert staging.hold(connection, blob.sha, blob.codec)
            assert staging.release(connection, blob.sha, blob.codec) == blob.id
    assert store.value("select count(*) from leases") == 0


# --- memory

MEMORY = """
import sys
import numpy as np
from flowstore.store import blobs, codecs, opening
from flowstore.store.staging import Staging
def peak_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) >> 10
store = opening.ensure_store("codecs.db")
what = sys.argv[1]
base = peak_mib()
if sys.argv[2] == "store":
    value = bytes(256 << 20) if what == "bytes" else np.zeros(32 << 20)
    if what == "npy":
        value += 1
    encoded = codecs.encode(value)
    staging = Staging(store)
    incoming = staging.begin(encoded.sha, encoded.description)
    for chunk in blobs.chunks_of(encoded.pieces):
        incoming.add(bytes(chunk))
    staging.wait()
    with store.write() as connection:
        incoming.publish(connection)
    staging.close()
else:
    blob = blobs.Blob.of(store.row(f"select {blobs.COLUMNS} from blobs b where codec = ?", (what,)))
    value = blobs.load(store, blob, "x")
    assert (len(value) if what == "bytes" else value.nbytes) == 256 << 20
print(peak_mib() - base)
store.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("codec", ["bytes", "npy"])
def test_a_large_value_never_stands_in_memory_twice_over(tmp_path, codec):
    """Storing and loading 256 MiB takes less than two copies and 150 MiB each."""
    for action in ("store", "load"):
        assert int(told(python(MEMORY, codec, action, folder=tmp_path))) < 2 * 256 + 150
    (tmp_path / "codecs.db").unlink()
