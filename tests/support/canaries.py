"""A stranger's stores, with something in each column that no flowstore wrote, and all that one can do with them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import flowstore
from flowstore import context
from flowstore.errors import FlowstoreError
from support.cli import command
from support.damage import make_original, read_all
from support.flows import FOREACH, flow_source
from support.hostile import CANARY, TRICKS, UNSAFE, changed
from support.stores import make_store


def full_store(path):
    """A store with a row in every table; gives all columns of all tables."""
    make_original(path, small=True)
    me = ("host", "boot", 1, "x", 0)
    changed(
        path,
        ("insert into production_tokens values ('flow:F', 'tok', 1, 0, 'tester')",),
        (
            """insert into deployments values (1, 'F', 'flow:F', null, null, 1, 0, 'tester', null, null,
               '{"cron": "0 * * * *", "timezone": null}', 1, x'00', x'00', '[]', '[]', null, null, null)""",
        ),
        ("insert into events values (1, 'event', 'new_data', '{}', 0, 'tester')",),
        ("insert into event_marks values (1, 1)",),
        ("insert into state_machines values ('F', 'flow:F', 'arn:aws:states:x:1:stateMachine:F', 0, 'tester')",),
        ("insert into step_tokens values (1, 'execution:x', 'start', '', 0, 'token', 0)",),
        ("insert into deployment_parameters values (1, 'alpha', 'alpha', 0, 1)",),
        ("insert into scheduler values (1, ?, ?, ?, ?, 0, ?)", *me),
        ("insert into due_marks values (1, 0)",),
        ("insert into origins values (1, 'uuid', 'F/9', 0)",),
        ("insert into unverified select 1, id from blobs where codec = 'pickle'",),
        ("insert into leases values (1, ?, ?, ?, ?, ?)", *me),
        ("insert or ignore into blob_values values (1, '1', 1, 1.0)",),
        ("insert into pictures values (1, x'89504e470d0a1a0a')",),
        (
            """insert into blobs (id, sha, codec, size_bytes, type, preview, data)
               values (77, x'33f2799467177287a29260780a107ac98ea63dd6165f67fcc0d74767d0a82090', 'html',
                 3, 'Html', 'HTML', x'3c703e')""",
        ),
        ("insert into cards values (1, 0, 'blank', 'id', 77, x'7b7d', 0)",),
        ("insert into numbers (run_id, task_id, artifact, name, magnitude, final) values (1, 1, 'x', 'x', 1.0, 0)",),
        ("insert into backlog values (1, 1)",),
    )
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        ours = [name for name in tables if not name.startswith(("sqlite_", "_sqlite"))]
        counts = {name: connection.execute(f"select count(*) from {name}").fetchone()[0] for name in ours}
        assert all(counts.values()), counts
        return [(name, row[1], row[2]) for name in ours for row in connection.execute(f"pragma table_info({name})")]


@contextlib.contextmanager
def without_types(path):
    """While its tables are not strict, a file takes anything; afterwards its schema reads as before."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        kept = connection.execute("select name, sql from sqlite_master where type = 'table'").fetchall()
    changed(path, ("update sqlite_master set sql = replace(replace(sql, ' strict,', ''), ' strict', '')",))
    yield
    changed(path, *[("update sqlite_master set sql = ? where name = ?", sql, name) for name, sql in kept])


FORMS = {
    "pickle": CANARY,
    "tricks": f"{TRICKS}\n../../x",
    "empty": "",
    "number": -(2**63),
    "nothing": None,
}


SPECIALS = {
    "deployments.schedule": (
        '{"cron": "no"}', "{}", '{"cron": "* * * * *", "timezone": "../../etc/passwd"}', '{"cron": 5}', "[]",
    ),
    "deployments.deployed_at": (-(2**63), 2**62),
    "deployments.tags": ("[1, {}]", "{}"),
    "deployments.with_decorators": ("[1, {}]", "{}"),
    "runs.parameters": ("[]", '{"a": ' + "[" * 100_000, '{"<b>": "\\ud800"}', '{"a": NaN}', "1" * 5000),
    "attempts.metadata": ("[1]", "null", '{"a": "\\ud800"}'),
    "tasks.foreach_path": ("a/b", "/", "1" * 5000, "-1", "²"),
    "steps.name": ("a/b", "/", " "),
    "flows.name": ("a/b", "/"),
    "artifacts.name": ("a/b", "__class__", "_x"),
    "code_files.path": ("../../x", "/tmp/x", "C:/x", "..\\x", "a\0b", ".", "a/../../x", "a" * 300),
}  # fmt: skip


def hostile_stores(good, folder, form, every=1):
    """A store for each column: all rows of it hold the canary of this form, as far as the column takes it."""
    columns = [found for found in full_store(good) if form not in {"tricks", "empty"} or found[2] == "TEXT"]
    for table, column, _ in columns[::every]:
        path = folder / "hostile.db"
        shutil.copy(good, path)
        with without_types(path), contextlib.suppress(sqlite3.IntegrityError):
            changed(path, (f"update or ignore {table} set {column} = ?", FORMS[form]))
        yield f"{table}.{column} {form}", path
    for place, values in SPECIALS.items() if form == "pickle" else ():
        for value in values:
            path = folder / "hostile.db"
            shutil.copy(good, path)
            table, column = place.split(".")
            changed(path, (f"update or ignore {table} set {column} = ?", value))
            yield f"{place} codec {str(value)[:40]}", path
    for codec in ("json", "bytes", "npy", "parquet", "pickle", "dill", "pickle\0", "") if form == "pickle" else ():
        path = folder / "hostile.db"
        shutil.copy(good, path)
        sha = hashlib.sha256(CANARY).digest()
        with without_types(path):
            changed(
                path,
                ("delete from chunks",),
                ("insert into blobs values (99, ?, ?, ?, 'x', 'x', ?, null)", sha, codec, len(CANARY), CANARY),
                ("update artifacts set blob_id = 99",),
                ("update run_artifacts set blob_id = 99",),
                ("update code_files set blob_id = 99",),
            )  # fmt: skip
        yield f"codec {codec!r}", path


LOOKING = (
    ["runs"], ["runs", "--json"], ["runs", "--csv"], ["show", "F"], ["show", "F/1"], ["show", "F/1/start"],
    ["show", "F/1/start/1"], ["tags"], ["namespaces"], ["logs", "F/1"], ["get", "F/1/start/1/metrics"],
    ["get", "F/1/start/1/model"], ["sql", "select * from artifact_values"], ["sql", "select * from run_summary"],
    ["schema"], ["schema", "--sql"], ["deployments"], ["check"], ["diff", "F/1", "F/1"], ["delete", "--dry-run", "F/1"],
    ["get", "F/1/start/1/large", "-o", "large.npy"], ["get", "F/1/start/1/model", "-o", "model.json"],
)  # fmt: skip
TAKING = (
    ["export", "out.db", "--force"], ["import", "hostile.db", "--store", "mine.db"], ["delete", "--yes", "F"],
)  # fmt: skip
MENDING = (["check", "--deep"], ["vacuum"], ["check", "--repair"], ["check", "--deep", "--json"])


def ask(path, args):
    """Run a command; gives what should not have been."""
    try:
        result = command(*(args if "--store" in args else ["--store", path, *args]), expect=None)
    except Exception as error:  # what no message tells
        yield f"{args}: {error!r}"
        return
    text = result.stdout + result.stderr
    if (found := UNSAFE.search(text)) and args[0] != "get":
        yield f"{args} prints {found[0]!r}: {text[max(0, found.start() - 40) : found.end() + 40]!r}"


def look_at_everything(path):
    """The Client, with reprs and tables."""
    read_all(path, None)
    with contextlib.suppress(FlowstoreError), flowstore.use_store(path):
        flowstore.namespace(None)
        for flow in flowstore.Flows():
            with contextlib.suppress(FlowstoreError):
                repr(flow), flow.to_dataframe()
            for run in flow:
                with contextlib.suppress(FlowstoreError):
                    if run.code:
                        run.code.extract(path.parent / "code")
    context.state.store = None


RESUMED_FLOW = flow_source(FOREACH, members="alpha = Parameter('alpha', default=0.5)", start="self.xs = [1]")


def resume(path):
    """Go on with a run of the store, from a step of it, too; gives what should not have been."""
    for step in ((), ("body",)):
        shutil.copy(path, "resumed.db")
        words = [sys.executable, "flow.py", "--store", "resumed.db", "resume", *step, "--origin-run-id", "1"]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        if ran.returncode not in {0, 1, 2} or "Traceback" in ran.stderr or UNSAFE.search(ran.stdout + ran.stderr):
            yield f"resume {step}: {ran.returncode}, {ran.stdout[-300:]} {ran.stderr[-300:]}"


def ask_everything(path):
    """The Client and all of the command line; gives what should not have been."""
    look_at_everything(path)
    yield from resume(path)
    for args in (*LOOKING, *MENDING[:2], *TAKING[:2], *MENDING[2:], *TAKING[2:]):
        yield from ask(path, args)


def ask_in_turn(path, what, number):
    """The Client or a few of the commands, others for each store; gives the same."""
    if "tricks" in what:
        commands = LOOKING[number % 4 :: 4]
    else:
        look_at_everything(path)
        commands = LOOKING if "codec" in what else TAKING[number % 6 :][:1]
    for args in commands:
        yield from ask(path, args)


def walk(folder, form, *, thoroughly=False):
    """Ask everything of each hostile store; print a line for each before and after, for whoever may outlive it.

    Args:
        folder: where the stores are made.
        form: what their columns hold, a key of `FORMS`.
        thoroughly: whether every command is given to each store, and runs are resumed.
    """
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    Path("flow.py").write_text(RESUMED_FLOW)
    make_store(folder / "target.db")
    for number, (what, path) in enumerate(hostile_stores(folder / "good.db", folder, form)):
        print(json.dumps(what), flush=True)
        os.environ["FLOWSTORE_HOME"] = str(folder / "stranger")
        shutil.copy("target.db", "mine.db")
        began = time.monotonic()
        try:
            wrong = list(ask_everything(path) if thoroughly else ask_in_turn(path, what, number))
        except Exception as error:
            import traceback

            wrong = [f"{type(error).__name__}: {error}", traceback.format_exc()[-600:]]
        os.environ["FLOWSTORE_HOME"] = str(folder / "home")
        if (folder / "exploded").exists():
            (folder / "exploded").rmdir()
            wrong.append("the canary's code ran")
        if time.monotonic() - began > 10:
            wrong.append("it took more than 10 s")
        for rest in (*folder.glob("hostile.db.*"), *folder.glob("out.db*")):
            rest.unlink()
        print(json.dumps(wrong), flush=True)
