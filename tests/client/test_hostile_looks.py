"""Bytes that no codec of ours wrote: looking at them is one sentence, in bounded memory, and runs nothing."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tracemalloc

import pytest

from flowstore.client import open_store, values
from flowstore.client.values import Window
from flowstore.client.values.downloads import downloads, pieces
from flowstore.errors import StoreCorrupt
from flowstore.store import blobs, opening
from flowstore.store.blobs import CHUNK_BYTES, INLINE_BYTES
from flowstore.store.description import Description
from support.stores import task_with

np = pytest.importorskip("numpy")


@pytest.fixture
def hostile(tmp_path):
    """Write bytes as the artifact of a codec into a store; gives the artifact."""
    opened = []
    numbers = iter(range(10_000))

    def make(codec, data, sha=None):
        path = tmp_path / f"{next(numbers)}.db"
        store = opening.ensure_store(path)
        task_with(store, x=1)
        is_small = len(data) <= INLINE_BYTES
        with store.write() as db:
            row = blobs.insert(
                db,
                Description(codec, len(data), "a.Type", "its preview"),
                sha=sha or hashlib.sha256(data).digest(),
                data=data if is_small else None,
            )
            if not is_small:
                parts = range(0, len(data), CHUNK_BYTES)
                blobs.insert_chunks(db, ((row, n, data[at : at + CHUNK_BYTES]) for n, at in enumerate(parts)))
            db.execute("update artifacts set blob_id = ? where name = 'x'", (row,))
        store.close()
        opened.append(open_store(path, namespace=None))
        return opened[-1].find("F/1/end/1/x")

    yield make
    for store in opened:
        store.close()


def npy(header, data=b""):
    """An array's bytes with any header."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def header(descr="'<i8'", shape="(3,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


BAD = {
    "no array": ("npy", b"hello"),
    "nothing at all": ("npy", b""),
    "a header that is cut off": ("npy", npy(header())[:40]),
    "a huge shape": ("npy", npy(header(shape="(999999999999999999, 99999)"))),
    "a shape that does not fit": ("npy", npy(header(shape="(4,)"), bytes(24))),
    "objects": ("npy", npy(header(descr="'|O'"), bytes(24))),
    "structures": ("npy", npy(header(descr="[('a', '<i8')]"), bytes(24))),
    "code as header": ("npy", npy("__import__('os').system('true')", bytes(24))),
    "many empty texts": ("npy", npy(header(descr="'<U0'", shape="(99999999,)"))),
    "text of no characters": ("npy", npy(header(descr="'<U1'", shape="(1,)"), b"\xff\xff\xff\xff")),
    "JSON that is none": ("json", b"{no"),
    "JSON that is no text": ("json", b"[\xff\xfe]"),
    "empty JSON": ("json", b""),
    "deep JSON": ("json", b"[" * 100_000),
    "deep typed JSON": ("typed-json", b'{"$tuple":[' * 50_000),
    "typed JSON that goes on": ("typed-json", b"[1] 2"),
    "no parquet": ("parquet", b"PAR1PAR1"),
    "a huge footer": ("parquet", b"PAR1" + bytes(100) + (2**31 - 1).to_bytes(4, "little") + b"PAR1"),
    "nothing as parquet": ("parquet", b""),
}


@pytest.mark.parametrize("what", BAD)
def test_damaged_bytes_are_one_sentence(hostile, what):
    """And their preview; they can still be downloaded as they are."""
    artifact = hostile(*BAD[what])
    shown = values.look_at(artifact, Window(page=2, at=(0, 0), index=(5,)))
    assert (shown.look, shown.has_picture) == (None, False)
    assert shown.problem.endswith(".")
    assert "\n" not in shown.problem
    assert len(shown.problem) < 400
    assert downloads(artifact)[0].size_bytes == len(BAD[what][1])


def test_json_of_other_numbers_and_keys_is_shown_as_it_is(hostile):
    """Numbers without end, keys that occur twice, marks that nobody knows."""
    digits = "9" * 100_000
    tree = values.look_at(hostile("json", f'{{"a": {digits}, "a": NaN}}'.encode()), Window()).look
    assert [node.text[:3] for node in tree.root.children] == ["999", "NaN"]
    assert len(tree.root.children[0].text) <= 300
    tree = values.look_at(hostile("typed-json", b'{"$dict": 3, "x": 1}'), Window()).look
    assert tree.root.kind == "object"
    for text in (b'{"$dict": 3}', b'{"$dict": [1, [2]]}', b'{"$evil\\u202e": {"a": [1]}}', b'{"$tuple": {"a": 1}}'):
        shown = values.look_at(hostile("typed-json", text), Window(at=(0, 0)))
        assert shown.problem == ""


def test_a_text_that_is_no_json_is_shown_as_it_is(hostile):
    """Bytes that begin like a text, and are none."""
    for data in (b'"', b'"\\', b'"abc\\q\xff"', b'"' + b"\\" * 200_000, b'"' + b"\x80" * 200_000):
        artifact = hostile("json", data)
        for page in (1, 2, 3):
            shown = values.look_at(artifact, Window(page=page))
            assert (shown.problem, shown.look.kind) == ("", "text")


@pytest.mark.long
def test_a_large_array_is_read_in_part(hostile):
    """A page of 64 MB takes a few MB, in any order of its bytes."""
    for order, shape in (("False", "(4096, 2048)"), ("True", "(4096, 2048)"), ("True", "(16, 512, 1024)")):
        artifact = hostile("npy", npy(header(shape=shape, order=order), bytes(64 << 20)))
        tracemalloc.start()
        table = values.look_at(artifact, Window(page=30, columns=20)).look
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert table.rows[0][0] == "0"
        assert peak < 24 << 20


@pytest.mark.long
def test_rows_that_take_too_much_memory_are_one_sentence(hostile):
    """A few bytes that stand for millions of rows in one group, or for long texts."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    tables = [
        pa.table({"a": pa.array([0]).take(pa.array(np.zeros(20_000_000, "i1")))}),
        pa.table({"a": pa.array(["x" * 100_000]).dictionary_encode().take(pa.array(np.zeros(100_000, "i1")))}),
    ]
    for table in tables:
        file = io.BytesIO()
        pq.write_table(table, file, row_group_size=len(table), store_schema=False)
        assert file.tell() < 1 << 20
        shown = values.look_at(hostile("parquet", file.getvalue()), Window())
        assert shown.look is None
        assert "memory" in shown.problem


def test_names_and_metadata_of_parquet_are_not_trusted(hostile):
    """Control characters, HTML and an index that does not exist; extension types are refused."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def written(table):
        file = io.BytesIO()
        pq.write_table(table, file)
        return file.getvalue()

    stated = json.dumps({"index_columns": ["no", {"kind": "range"}, 5, ["x"]]}).encode()
    table = pa.table({"<b>\x1b[31m\u202e": ["\x1b]0;x\x07"]}).replace_schema_metadata(
        {"pandas": stated, "flowstore": b"\xff"}
    )
    look = values.look_at(hostile("parquet", written(table)), Window()).look
    assert (look.columns[0].name, look.rows[0][0]) == ("<b>␛[31m\\u202e", "␛]0;x␇")
    for metadata in (b"[]", b"{", b'{"index_columns": 3}', b"[" * 100_000):
        shown = values.look_at(
            hostile("parquet", written(table.replace_schema_metadata({"pandas": metadata}))), Window()
        )
        assert (shown.problem, shown.look.rows) == ("", look.rows)
    field = pa.field("a", pa.int64(), metadata={"ARROW:extension:name": "evil"})
    shown = values.look_at(hostile("parquet", written(pa.table([pa.array([1])], schema=pa.schema([field])))), Window())
    assert "unknown type" in shown.problem


@pytest.mark.long
def test_bytes_that_are_changed_anywhere_do_no_harm(hostile):
    """Of arrays and frames: a table, or a sentence."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    pq.write_table(pa.table({"a": [*range(50)], "t": [str(n) for n in range(50)]}), file)
    array = npy(header(shape="(2, 3)"), bytes(48))
    chance = random.Random(7)
    for codec, data in (("parquet", file.getvalue()), ("npy", array)) * 60:
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        shown = values.look_at(hostile(codec, bytes(changed)), Window())
        assert (shown.look is None) == (shown.problem != "")


@pytest.mark.parametrize("size", [40, 500_000])
def test_bytes_that_are_not_those_of_the_hash_are_not_shown(hostile, size):
    """A wrong value is never shown; where only a part was read, that is said."""
    artifact = hostile("npy", npy(header(shape=f"({size // 8},)"), bytes(size)), sha=b"x" * 32)
    shown = values.look_at(artifact, Window())
    assert (shown.look, "do not match their hash" in shown.problem) == (None, True)


@pytest.mark.long
def test_of_a_large_value_is_said_that_only_a_part_was_read(hostile):
    """Since to compare it with its hash takes all of it; a download is compared."""
    artifact = hostile("npy", npy(header(shape="(4000000,)"), bytes(32_000_000)), sha=b"x" * 32)
    assert not values.look_at(artifact, Window()).is_compared
    for form in (".npy", ".csv"):
        with pytest.raises(StoreCorrupt):
            for _ in pieces(artifact, form):
                pass


def test_chunks_that_are_missing_or_short_are_one_sentence(hostile, tmp_path):
    """As the file is damaged; nothing is shown in their stead."""
    artifact = hostile("npy", npy(header(shape="(400000,)"), bytes(3_200_000)))
    store = artifact._store
    with store.write() as db:
        db.execute("update chunks set data = zeroblob(10) where n = 1")
    assert "bytes instead of" in values.look_at(artifact, Window()).problem
    with store.write() as db:
        db.execute(
            "update chunks set data = zeroblob(?) where n = 2", (2 * CHUNK_BYTES - 10 + 3_200_128 - 3 * CHUNK_BYTES,)
        )
    assert values.look_at(artifact, Window(page=4000)).problem != ""
