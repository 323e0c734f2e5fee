"""Opening a stranger's file is safe: whoever made it chose every byte, and what lies beside it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sqlite3
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

import flowstore
from flowstore import context
from flowstore.errors import ArtifactError, FlowstoreError, NotAStore, StoreCorrupt
from flowstore.sqlite import user_sql
from flowstore.store import codecs, inheritance, schema, trust
from support.canaries import without_types
from support.cli import command
from support.damage import make_original, read_all
from support.flows import MIDDLE, flow_source
from support.hostile import CANARY, TRICKS, UNSAFE, changed
from support.stores import complete, make_store, untouched


@pytest.fixture
def path(tmp_path):
    """A store of this user's, at rest."""
    return make_store(tmp_path / "flowstore.db")


# --- the schema


EXTRAS = {
    "table": "create table notes (x)",
    "view": "create view mine as select 1",
    "index": "create index mine on runs (user)",
    "expression index": "create index mine on runs (abs(id)) where id > 0",
    "generated column": "create table notes (x, y generated always as (abs(x)))",
    "quoted name": 'create table "my notes" (x)',
    "changed bookkeeping": "create table _sqlite_migrations (name)",
}


@pytest.mark.parametrize("kind", EXTRAS)
def test_extras_are_fine_in_one_s_own_store_only(path, stranger, kind):
    """A table, view or index that flowstore did not make: tolerated where this user has run flows, else refused."""
    changed(path, (EXTRAS[kind],))
    flowstore.use_store(path)
    stranger()
    with pytest.raises(StoreCorrupt, match=r"flowstore trust .*flowstore\.db"):
        flowstore.use_store(path)
    flowstore.use_store(path, trust=True)


def test_extras_are_fine_in_a_trusted_store(path, stranger):
    """The command that the refusal prints makes the file readable, and takes it back."""
    changed(path, (EXTRAS["view"],))
    stranger()
    command("trust", path)
    flowstore.use_store(path)
    command("trust", "--revoke", path)
    with pytest.raises(StoreCorrupt):
        flowstore.use_store(path)


def test_statistics_are_fine_in_any_store(path, stranger):
    """`analyze` leaves tables of SQLite's own."""
    changed(path, ("analyze",))
    stranger()
    flowstore.use_store(path)


def test_a_copied_proof_of_ownership_holds_for_one_store_only(path, tmp_path, stranger):
    """The row that says whose a store is proves nothing in another store."""
    other = make_store(tmp_path / "other.db")
    stranger()
    foreign = make_store(tmp_path / "foreign.db")
    os.environ["FLOWSTORE_HOME"] = str(tmp_path / "home")
    with contextlib.closing(sqlite3.connect(other)) as connection:
        rows = connection.execute("select * from owners").fetchall()
    changed(foreign, *[("insert into owners values (?, ?)", *row) for row in rows], (EXTRAS["table"],))
    with pytest.raises(StoreCorrupt, match="notes"):
        flowstore.use_store(foreign)


ROW = "insert into sqlite_master values (?, ?, ?, 0, ?)"
NEVER = {
    "trigger": ("create trigger t after insert on runs begin delete from runs; end",),
    "virtual table": ("create virtual table v using fts5 (x)",),
    "trigger in disguise": (ROW, "table", "t", "runs", "create trigger t after insert on runs begin select 1; end"),
    "trigger in a comment": (ROW, "index", "t", "runs", "create/**/trigger t after insert on runs begin select 1; end"),
    "virtual table in disguise": (ROW, "view", "v", "v", "create virtual table v using fts5 (x)"),
    "view of ours": ("update sqlite_master set sql = replace(sql, 'select', 'select 1 or') where name = 'lineage'",),
    "table of ours": ("update sqlite_master set sql = replace(sql, ' strict', '') where name = 'runs'",),
    "check of ours": ("update sqlite_master set sql = replace(sql, 'check', 'check (1) check') where name = 'runs'",),
    "missing view": ("drop view lineage",),
    "missing stand-in": ("drop view origins",),
    "misplaced index": ("create index tasks_by_step on tasks (run_id, step_id)",),
    "twice": ("insert into sqlite_master select * from sqlite_master where name = 'lineage'",),
}


@pytest.mark.parametrize("kind", NEVER)
def test_what_no_store_of_anybody_holds_is_refused(path, kind):
    """Triggers, virtual tables and changed, doubled or missing definitions of ours: not in one's own store either."""
    changed(path, NEVER[kind])
    with untouched(path.parent), pytest.raises(StoreCorrupt, match=r"not opened|damaged") as caught:
        flowstore.use_store(path)
    assert str(path) in str(caught.value)
    with pytest.raises(StoreCorrupt):
        flowstore.use_store(path, trust=True)


def test_a_store_that_has_grown_has_all_its_indexes(path):
    """One that lacks any is refused: only a new store does without, and without all of them."""
    complete(path)
    flowstore.use_store(path)
    changed(path, ("drop index runs_by_time",))
    with pytest.raises(StoreCorrupt, match="'runs_by_time' is missing"):
        flowstore.use_store(path)


# --- beside the file


def hot_journal(path, super_journal):
    """A journal that SQLite plays back, and that names another file (format: sqlite.org/fileformat)."""
    page = path.read_bytes()[: schema.PAGE_SIZE]
    magic = bytes.fromhex("d9d505f920a163d7")
    header = magic + struct.pack(">IIIII", 1, 7, path.stat().st_size // schema.PAGE_SIZE, 512, schema.PAGE_SIZE)
    checksum = 7 + sum(page[at] for at in range(schema.PAGE_SIZE - 200, 0, -200))
    name = os.fsencode(super_journal)
    tail = struct.pack(">I", 0x40000000 // schema.PAGE_SIZE + 1) + name + struct.pack(">II", len(name), sum(name))
    journal = path.with_name(f"{path.name}-journal")
    journal.write_bytes(
        header.ljust(512, b"\0") + struct.pack(">I", 1) + page + struct.pack(">I", checksum) + tail + magic
    )
    return journal


def test_a_journal_that_names_another_file_deletes_nothing(path, tmp_path):
    """SQLite would delete the file that a hot journal calls its super-journal; the store is not opened."""
    victim = tmp_path / "thesis.txt"
    victim.write_text("precious")
    journal = hot_journal(path, victim)
    (tmp_path / "link.db").symlink_to(path)
    for name in (path, tmp_path / "link.db"):
        with untouched(tmp_path), pytest.raises(StoreCorrupt, match=f"remove {journal.name}"):
            flowstore.use_store(name)
    journal.unlink()
    flowstore.use_store(path)
    journal = hot_journal(path, victim)
    context.state.store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("select * from runs")
    assert not victim.exists(), "the journal of this test is none: SQLite left the file alone"


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_side_file_that_is_none_is_refused(path, tmp_path, suffix, kind):
    """A link in place of a side file would be written through, and a pipe waited for."""
    side = path.with_name(path.name + suffix)
    (tmp_path / "victim").write_bytes(bytes(100))
    if kind == "link":
        side.symlink_to(tmp_path / "victim")
    else:
        os.mkfifo(side)
    with pytest.raises(StoreCorrupt, match=f"{side.name} is a link"):
        flowstore.use_store(path)
    assert (tmp_path / "victim").read_bytes() == bytes(100)


def test_a_pipe_is_no_store(tmp_path):
    """A pipe is refused, not waited for."""
    os.mkfifo(tmp_path / "pipe.db")
    with pytest.raises(NotAStore, match="regular file"):
        flowstore.use_store(tmp_path / "pipe.db")


def test_a_log_can_t_smuggle_in_a_trigger(path):
    """What a stranger's `-wal` adds is compared like the rest."""
    code = f"""
import os, sqlite3
c = sqlite3.connect({str(path)!r}, isolation_level=None)
c.execute('pragma journal_mode = wal')
c.execute('create trigger t after insert on runs begin select 1; end')
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert b"CREATE TRIGGER" in path.with_name(f"{path.name}-wal").read_bytes()
    with pytest.raises(StoreCorrupt, match="trigger"):
        flowstore.use_store(path)


# --- rows that go round and round


def test_circles_end(path):
    """Tasks that are their own parents and bases: every question has an answer."""
    changed(
        path,
        ("insert into task_parents values (1, 1)",),
        ("insert into tasks (id, run_id, step_id, status, started_at, base_id) values (-5, 1, 1, 'running', 0, -5)",),
        ("insert into tasks (run_id, step_id, status, started_at, base_id) values (1, 1, 'running', 0, 1)",),
        ("update tasks set base_id = (select max(id) from tasks), foreach_path = ?", "9" * 100_000),
    )
    began = time.monotonic()
    read_all(path, None)
    assert time.monotonic() - began < 10


def test_a_negative_circle_ends(path):
    """Ids below zero are no way round the bound."""
    changed(path, ("update tasks set id = -1, base_id = -1",), ("update attempts set task_id = -1",))
    flowstore.use_store(path)
    assert inheritance.setter_of(context.state.store, -1, 1, "nothing") is None


ENDLESS = "with recursive c (x) as (select 1 union all select x + 1 from c) select count(*) from c"


def test_an_endless_question_to_a_stranger_s_file_ends(path, stranger, monkeypatch):
    """There is a deadline, and a largest value."""
    monkeypatch.setattr(user_sql, "DEADLINE_S", 0.3)
    stranger()
    store = flowstore.use_store(path) and context.state.store
    with pytest.raises(FlowstoreError, match="took more than"):
        user_sql.ask(store, ENDLESS, untrusted=True)
    with pytest.raises(FlowstoreError, match="too big"):
        user_sql.ask(store, "select hex(zeroblob(100000000))", untrusted=True)
    assert user_sql.ask(store, "select count(*) as n from runs", untrusted=True) == [{"n": 1}]


READS = (
    "select value from run_summary, json_each(tags)", "select name from pragma_table_info('runs')",
    "with recursive c (x) as (select 1 union all select x + 1 from c limit 9) select sum(x) from c",
    "pragma table_info(runs)", "values (1)", "explain select 1",
)  # fmt: skip
WRITES = (
    "delete from runs", "with a as (select 1) delete from runs", "insert into flows values (9, 'x') returning *",
    "update sqlite_master set type = 'view'", "create table x (a)", "create temp table x (a)", "drop view lineage",
    "attach 'other.db' as other", "detach main", "vacuum", "vacuum into 'other.db'", "reindex", "analyze", "begin",
    "commit", "rollback", "savepoint x", "pragma journal_mode = wal", "pragma writable_schema = on",
    "pragma query_only = off", "pragma user_version = 0", "pragma database_list", "select load_extension('x')",
    "select fts3_tokenizer('simple')", "create virtual table x using fts5 (y)", "select writefile('other.db', 'x')", "",
)  # fmt: skip


@pytest.mark.parametrize("own", [True, False], ids=["one's own", "a stranger's"])
def test_sql_reads_and_does_nothing_else(path, stranger, own):
    """Table-valued functions too; all else is one clear error, no byte changes, and no file appears."""
    if not own:
        stranger()
    with untouched(path.parent):
        flowstore.use_store(path)
        for query in READS:
            assert user_sql.ask(context.state.store, query, untrusted=trust.is_foreign(context.state.store)), query
        for query in WRITES:
            with pytest.raises(FlowstoreError, match=r"Only reading is allowed|no such function"):
                user_sql.ask(context.state.store, query, untrusted=trust.is_foreign(context.state.store))
        context.state.store.close()


# --- contents that lie

NPY = b"\x93NUMPY\x01\x00"


def npy(header, data=b""):
    """An .npy file with this header."""
    text = header.encode() + b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return NPY + struct.pack("<H", len(text)) + text + data


def described(descr="'<i8'", order="False", shape="(2,)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def parquet_of(table, **options):
    pq = pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def parquet_bombs():
    """Small files that stand for much, and columns that none of ours have."""
    pa = pytest.importorskip("pyarrow")
    zeros = pa.array(np.zeros(50_000, "i8"))
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, "i4")), pa.array(["x" * 100_000]))
    code = pa.field("a", pa.int64(), metadata={"ARROW:extension:name": "arrow.py_extension_type",
                                              "ARROW:extension:metadata": CANARY})  # fmt: skip
    plain = pa.table({"a": [1]})
    return {
        "parquet of many rows": parquet_of(pa.table({f"c{n}": zeros for n in range(8)})),
        "parquet of a long text": parquet_of(pa.table({"t": long}), store_schema=False),
        "parquet of one text": parquet_of(pa.table({"t": ["x" * 3_000_000]}), compression="zstd"),
        "parquet of lists": parquet_of(pa.table({"t": [[1, 2]]})),
        "parquet with a pickled type": parquet_of(pa.table([[1]], schema=pa.schema([code]))),
        "parquet with deep metadata": parquet_of(plain.replace_schema_metadata({"pandas": "[" * 100_000})),
        "parquet with odd metadata": parquet_of(plain.replace_schema_metadata({"pandas": '{"index_columns": 3}'})),
        "no parquet": b"PAR1" + CANARY + b"PAR1",
    }


LIES = {
    "json that is too deep": ("json", b"[" * 100_000 + b"]" * 100_000),
    "json of some depth": ("json", b"[" * 200 + b"]" * 200),
    "json with a huge number": ("json", b"1" * 100_000),
    "json with a large number": ("json", b"1" * 30),
    "json with NaN": ("json", b"[NaN]"),
    "json with Infinity": ("json", b"-Infinity"),
    "json beyond a float": ("json", b"1e999"),
    "json with a key twice": ("json", b'{"a":1,"a":2}'),
    "json that is not UTF-8": ("json", b'"\xff"'),
    "json in UTF-16": ("json", '"a"'.encode("utf-16")),
    "json with half a character": ("json", b'"\\ud800"'),
    "json that is a pickle": ("json", CANARY),
    "npy of objects": ("npy", npy(described("'|O'"), CANARY)),
    "npy of object fields": ("npy", npy(described("[('a', '|O')]"), CANARY)),
    "npy of many": ("npy", npy(described(shape="(99999999999,)"), bytes(16))),
    "npy of more than fits": ("npy", npy(described(shape="(4294967296, 4294967296, 4)"), bytes(16))),
    "npy of negatives": ("npy", npy(described(shape="(-2,)"), bytes(16))),
    "npy of empty texts": ("npy", npy(described("'<U0'", shape="(999999999999,)"))),
    "npy of no characters": ("npy", npy(described("'<U1'", shape="(1,)"), b"\xff\xff\xff\x7f")),
    "npy of other truths": ("npy", npy(described("'|b1'"), b"\x02\x00")),
    "npy of many dimensions": ("npy", npy(described(shape=f"({'1, ' * 99}1)"), bytes(8))),
    "npy with an expression": ("npy", npy(described("__import__('os').mkdir('exploded')"), bytes(16))),
    "npy that ends early": ("npy", npy(described(), bytes(15))),
    "npy with a long header": ("npy", NPY + b"\xff\xff" + b"{" * 100),
    "npy that is a pickle": ("npy", CANARY),
    "an unknown codec": ("dill", CANARY),
    "a codec in capitals": ("PICKLE", CANARY),
    "no codec": ("", CANARY),
}


def refused(codec, content):
    with pytest.raises(ArtifactError) as caught:
        codecs.decode(codec, iter([content]), len(content))
    assert str(caught.value)


@pytest.mark.parametrize("what", LIES)
def test_a_content_that_lies_is_refused(what, tmp_path):
    """Each is one clear error, soon, and runs nothing."""
    began = time.monotonic()
    refused(*LIES[what])
    assert time.monotonic() - began < 5
    assert not (tmp_path / "exploded").exists()


def test_a_parquet_that_lies_is_refused(tmp_path, monkeypatch):
    """Those too, before they take more memory than their bytes give reason for."""
    bombs = parquet_bombs()
    from flowstore.store.codecs import parquet

    monkeypatch.setattr(parquet, "SMALL_BYTES", 1 << 20)
    assert max(map(len, bombs.values())) < 20_000 + len(bombs["parquet with deep metadata"])
    for what, content in bombs.items():
        began = time.monotonic()
        refused("parquet", content)
        assert time.monotonic() - began < 5, what
    assert not (tmp_path / "exploded").exists()


def test_a_column_of_one_value_comes_back_all_the_same(monkeypatch):
    """A frame that Parquet would hold in no space, past the bound, is stored another way."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    from flowstore.store.codecs import parquet

    monkeypatch.setattr(parquet, "SMALL_BYTES", 1 << 20)
    frame = pd.DataFrame({f"c{n}": np.zeros(50_000, "i1") for n in range(8)})
    encoded = codecs.encode(frame)
    assert encoded.codec == "pickle"
    assert codecs.decode(encoded.codec, iter([encoded.content]), encoded.size_bytes).equals(frame)


def test_a_size_that_lies_takes_no_memory(path):
    """A row that claims four gigabytes is compared with what is there first."""
    changed(path, ("update blobs set size_bytes = 4294967296",))
    flowstore.namespace(None)
    flowstore.use_store(path)
    with pytest.raises(StoreCorrupt, match="4294967296"):
        _ = flowstore.Run("F/1").data.x


def test_sizes_and_ids_that_lie_cost_no_time(path):
    """Sizes that no number holds when they are added up, and ids that are far apart."""
    changed(
        path,
        ("update blobs set size_bytes = 9223372036854775807",),
        ("insert into blobs values (1152921504606846976, x'00', 'bytes', ?, 'x', 'x', null, null)", 2**63 - 1),
        ("update artifacts set blob_id = 1152921504606846976 where name = 'x'",),
        ("insert into artifacts select attempt_id, 'y', (select min(id) from blobs), 0 from artifacts",),
        ("insert into log_chunks values (1152921504606846976, 1152921504606846976, 'stdout', 0, 'x')",),
    )
    command("delete", "--store", path, "--dry-run", "F/1")
    assert "9223372036854775807" in command("export", path.parent / "out.db", "--store", path, expect=1).stderr
    command("check", "--deep", "--store", path, expect=1)
    command("delete", "--store", path, "--yes", "F/1")
    command("vacuum", "--store", path)
    command("check", "--deep", "--store", path)


# --- the flow's own command line


def as_stranger_s(script, *statements):
    """Change the store of a script; gives the environment of somebody else, who looks at it."""
    with without_types(script.db):
        changed(script.db, *statements)
    return {"FLOWSTORE_HOME": str(script.folder / "stranger")}


TEXTS = {
    "runs": ("user", "origin_run_id"), "steps": (), "blobs": ("preview", "type"), "log_chunks": ("text",),
    "artifacts": ("name",), "attempts": ("error_type", "error_message", "traceback"), "tasks": ("origin_pathspec",),
}  # fmt: skip


def test_no_command_of_a_flow_prints_tricks(flow):
    """Names, tags, logs, previews and errors of a stranger's store reach the terminal as plain text."""
    script = flow(flow_source(MIDDLE, start="self.x = {1}; print('hello')"))
    script("run", "--tag", "mine")
    changes = [
        (f"update or ignore {table} set {column} = ?", TRICKS.replace("/", ""))
        for table, columns in TEXTS.items()
        for column in columns
    ]
    env = as_stranger_s(script, *changes, ("update tags set tag = ? where tag = 'mine'", TRICKS))
    for args in (
        "list runs", "list steps", "list tasks", "dump 1/start", "logs show 1", "tag list --run-id 1", "tag list --all",
        "tag list --group-by-tag", "dump 1/start/1 --include nothing",
    ):  # fmt: skip
        result = script(*args.split(), **env)
        assert not UNSAFE.search(result.stdout + result.stderr), args
    script.db.unlink()


def test_messages_and_reprs_play_no_tricks(tmp_path, stranger):
    """In Python, too: an error's text is fit for a terminal, and so is what a prompt shows of an object."""
    path = tmp_path / "flowstore.db"
    make_original(path, small=True)
    changed(
        path,
        ("update blobs set preview = ?, type = ?", TRICKS, TRICKS),
        ("update artifacts set name = name || ?", TRICKS.replace("/", "")),
        ("update flows set name = name || ?", TRICKS.replace("/", "")),
    )
    stranger()
    flowstore.use_store(path)
    flowstore.namespace(None)
    [flow] = flowstore.Flows()
    task = flow.latest_run["start"].task
    shown = [repr(each) for each in (flowstore.Flows(), flow, task, task.artifacts, task.data)]
    [model] = [each for each in task if each.codec == "pickle"]
    for ask in (lambda: model.data, lambda: task[TRICKS], lambda: flowstore.Flow(TRICKS)):
        with pytest.raises(FlowstoreError) as caught:
            ask()
        shown.append(str(caught.value))
    assert [text for text in shown if UNSAFE.search(text) or not text] == []


RESUMED = {
    "a canary": (("update blobs set data = ?, sha = ?, size_bytes = ? where codec = 'pickle'",
                  CANARY, hashlib.sha256(CANARY).digest(), len(CANARY)), "flowstore trust"),
    "a transition that is none": (("update tasks set transition = '[1]'",), "not a JSON dict"),
    "a transition to nowhere": (("""update tasks set transition = '{"targets": 5, "count": "x"}'""",), None),
    "a circle": (("update tasks set base_id = id",), None),
    "a place that is none": (("update tasks set foreach_path = 'a/b'",), None),
}  # fmt: skip


@pytest.mark.parametrize("what", RESUMED)
def test_resuming_a_stranger_s_run_is_safe(flow, what):
    """It is refused because of its pickles, or goes on with what fits: no code of its author runs."""
    failing = "if not Path('mended').exists(): raise ValueError('not yet')"
    value = "range(1)" if what == "a canary" else "1"
    script = flow(flow_source(MIDDLE, start=f"self.x = {value}", middle=failing, end="assert self.x == 1"))
    script("run", expect=1)
    statement, refusal = RESUMED[what]
    env = as_stranger_s(script, statement)
    (script.folder / "mended").touch()
    result = script("resume", "--origin-run-id", "1", expect=0 if refusal is None else 1, **env)
    assert "Traceback" not in result.stdout + result.stderr
    assert refusal is None or refusal in result.stderr
    assert not (script.folder / "exploded").exists()
    script.db.unlink()
