"""Damaged files: made, and read in every way."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import flowstore
from flowstore import context
from flowstore.errors import FlowstoreError
from flowstore.sqlite import user_sql
from flowstore.store import blobs, codecs, opening, records, schema, snapshots, tags, trust
from support.cli import command

MEMORY_BYTES = 3 << 30
SECONDS_A_FILE = 20
ONE_AT_A_TIME = 500  # files that one process reads

ALPHA = 0.5
CODE = {"flow.py": b"print()\n" * 50, "lib/a.py": b"A = 1\n"}
VALUES = {
    "metrics": {"accuracy": 0.5, "names": ["a", "ä"], "nested": [[1, 2], {"x": None}]},
    "model": ["a pickle", range(3)],
    "raw": bytes(range(256)) * 20,
    "array": np.arange(300, dtype="i4").reshape(20, 15),
    "large": np.arange(10_000),
}


def make_original(path, *, small=False):
    """A store with something in most tables, and artifacts of each codec, or of three; gives their values by hash."""
    store = opening.ensure_store(path)
    values = {name: value for name, value in VALUES.items() if not small or name in {"metrics", "model", "large"}}
    if not small:
        with contextlib.suppress(ImportError):
            import pandas as pd

            values["frame"] = pd.DataFrame({"x": [1, 2, 3], "name": ["a", "b", None]})
    for number in range(1 if small else 2):
        with store.write() as connection:
            trust.claim(connection, store.uuid)
            _record_run(connection, store, number, values)
    store.close()
    return {codecs.encode(value).sha: value for value in [*values.values(), ALPHA, *CODE.values()]}


def _record_run(connection, store, number, values):
    put = {name: blobs.put(connection, store, codecs.encode(value)) for name, value in values.items()}
    code_id = snapshots.ensure(connection, store, snapshots.Program("flow.py"), CODE)
    alpha = ("alpha", "parameter", blobs.put(connection, store, codecs.encode(ALPHA)))
    system, user = ["user:tester", "runtime:local"], ["blue", f"number:{number}"]
    run = records.NewRun("F", "tester", {"alpha": ALPHA}, [alpha], code_id, system, user)
    run_id = records.create_run(connection, run)
    steps = [records.ensure_step(connection, run_id, name) for name in ("start", "body", "end")]
    first = _record_task(connection, run_id, steps[0], (), None, None, put)
    failure = ("ValueError", "no", "Traceback …") if number == 1 else None
    middle = [
        _record_task(connection, run_id, steps[1], [first], first, str(index), {"large": put["large"]}, failure)
        for index in range(2 if "raw" in put else 1)
    ]
    _record_task(connection, run_id, steps[2], middle, middle[0], None, {"model": put["model"]})
    tag_id = tags.ensure_tag(connection, "on a task")
    connection.execute("insert into node_tags values (?, ?, ?, '', ?)", (run_id, steps[0], first, tag_id))
    records.finish_run(connection, run_id, "failed" if failure else "successful")


def _record_task(connection, run_id, step_id, parents, base_id, place, artifacts, failure=None):
    task_id = records.start_task(connection, records.NewTask(run_id, step_id, parents, base_id, place))
    attempt_id = records.start_attempt(connection, task_id, 0)
    records.append_log(connection, [(attempt_id, "stdout", records.now_ms(), f"line {n}\n") for n in range(5)])
    end = records.AttemptEnd(
        "failed" if failure else "successful", pid=7, error=failure,
        artifacts=[(name, blob_id, 0) for name, blob_id in artifacts.items()],
        transition=json.dumps({"targets": ["end"]}), metadata={"resources": {"cpu": 1}},
    )  # fmt: skip
    records.finish_attempt(connection, task_id, attempt_id, end)
    return task_id


# --- damage


def _flip(rng, content):
    used = [at for at in range(len(content)) if content[at]]
    for at in rng.sample(used, rng.choice((1, 3, 30, 300))):
        content[at] ^= rng.randrange(1, 256)


def _flip_bit(rng, content):
    at = rng.randrange(len(content))
    content[at] ^= 1 << rng.randrange(8)


def _flip_in_a_page(rng, content):
    """Where it hurts: the first bytes of pages and cells."""
    page = rng.randrange(len(content) // schema.PAGE_SIZE) * schema.PAGE_SIZE
    for _ in range(rng.choice((1, 4))):
        content[page + rng.randrange(rng.choice((8, 64, 400)))] = rng.randrange(256)


def _cut(rng, content):
    del content[rng.randrange(100, len(content)) :]


def _swap_pages(rng, content):
    one, two = (rng.randrange(1, len(content) // schema.PAGE_SIZE) * schema.PAGE_SIZE for _ in range(2))
    size = schema.PAGE_SIZE
    content[one : one + size], content[two : two + size] = content[two : two + size], content[one : one + size]


def _blank(rng, content):
    at, size = rng.randrange(100, len(content)), rng.choice((16, 512, schema.PAGE_SIZE))
    content[at : at + size] = bytes(len(content[at : at + size]))


def _replace_text(rng, content):
    """A record's own bytes, which no structure of the file gives away."""
    at = rng.randrange(len(content) - 64)
    content[at : at + 8] = rng.randbytes(8)


DAMAGES = (_flip, _flip_bit, _flip_in_a_page, _flip_in_a_page, _cut, _swap_pages, _blank, _replace_text)


def damaged(original, seed):
    """One damaged copy of a file's bytes, and the name of what was done; the same for the same seed."""
    rng = random.Random(seed)
    content = bytearray(original)
    damage = rng.choice(DAMAGES)
    damage(rng, content)
    return bytes(content), damage.__name__.strip("_")


# --- reading all of it


def read_all(path, right):
    """Ask everything that can be asked; gives how many answers were refusals, by error class.

    `right` says what artifacts are worth, by hash; for `None` they may be anything.
    """
    refused = collections.Counter()
    with _refusal(refused), flowstore.use_store(path):
        flowstore.namespace(None)
        for view in schema.PUBLIC_VIEWS:
            with _refusal(refused):
                user_sql.ask(context.state.store, f"select * from {view} limit 10000", untrusted=True)
        with _refusal(refused):
            for flow in flowstore.Flows():
                _read_flow(flow, right, refused)
    return refused


@contextlib.contextmanager
def _refusal(refused):
    try:
        yield
    except FlowstoreError as error:
        assert str(error)  # noqa: PT017
        refused[type(error).__name__] += 1


def _read_flow(flow, right, refused):
    with _refusal(refused):
        flow._repr_html_()
    with _refusal(refused):
        list(flow.runs("blue", "user:tester"))
    with _refusal(refused):
        assert flow.latest_successful_run is None or flow.latest_successful_run.status
    seen = set()
    for run in flow:
        for ask in (
            lambda run=run: (run.status, run.created_at, run.finished_at, run.user, run.origin_run_id),
            lambda run=run: (run.parameters, run.tags, run._repr_html_(), repr(run.data)),
            lambda run=run: run.code and (run.code.flowspec, run.code.files),
        ):
            with _refusal(refused):
                ask()
        with _refusal(refused):
            for step in run:
                _read_step(step, right, refused, seen)


def _read_step(step, right, refused, seen):
    with _refusal(refused):
        _ = step.created_at, step.finished_at, step.tags, list(step.parent_steps), list(step.child_steps)
    with _refusal(refused):
        step._repr_html_()
    for task in step:
        for ask in (
            lambda task=task: (task.status, task.created_at, task.finished_at, task.index, task.tags),
            lambda task=task: (task.metadata, task.exception, list(task.parent_tasks), list(task.child_tasks)),
            lambda task=task: (task.stdout, task.stderr, list(task.loglines())),
            lambda task=task: task._repr_html_(),
        ):
            with _refusal(refused):
                ask()
        with _refusal(refused):
            for artifact in task:
                with _refusal(refused):
                    _ = artifact.type, artifact.preview, artifact.size, artifact.created_at, artifact.tags
                with _refusal(refused):
                    _check_value(artifact, right, seen)


def _check_value(artifact, right, seen):
    """Load a content, once as part of each run; the tasks that inherit it have the same."""
    sha = bytes.fromhex(artifact.sha)
    address = (artifact.pathspec.split("/")[1], sha, artifact.codec, artifact.id)
    if address in seen:
        return
    value = artifact.data
    seen.add(address)
    if right is None:
        return
    assert sha in right, "an artifact that nobody wrote"
    assert type(value) is type(right[sha]), "an artifact with a wrong value"
    same = value.equals(right[sha]) if hasattr(value, "equals") else codecs.encode(value, described=False).sha == sha
    assert same, "an artifact with a wrong value"


def read_by_commands(path):
    """The same by the command line: exit code 0 or 1, and never a traceback."""
    for args in (["runs"], ["show", "F/2"], ["tags"], ["logs", "F/2"], ["sql", "select * from run_summary"]):
        assert command("--store", path, *args, expect=None).code in {0, 1}


# --- many files, in processes that may die


def walk(folder, first, count):
    """Read the files of these seeds; prints a line for each, and one before it, so that a death has a culprit."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    original = (folder / "original.db").read_bytes()
    right = make_original(folder / f"again-{first}.db")
    path = folder / f"damaged-{first}.db"
    for seed in range(first, first + count):
        content, damage = damaged(original, seed)
        path.write_bytes(content)
        print(json.dumps({"seed": seed, "damage": damage}), flush=True)
        began = time.monotonic()
        try:
            refused = read_all(path, right)
            if seed % 10 == 0:
                read_by_commands(path)
            told = {"refused": refused, "seconds": time.monotonic() - began}
            if path.read_bytes() != content and content[18:20] == original[18:20]:  # a log must be switched off
                told = {"error": "reading has written"}
        except BaseException as error:  # what must not be
            told = {"error": f"{type(error).__name__}: {error}"[:300]}
        for side in ("-journal", "-wal", "-shm"):
            Path(f"{path}{side}").unlink(missing_ok=True)
        print(json.dumps(told), flush=True)


def tried(folder, first, count):
    """The same in a process of its own; gives a dict a file."""
    found = []
    while count:
        code = (
            f"import pathlib; from support import damage; damage.walk(pathlib.Path({str(folder)!r}), {first}, {count})"
        )
        process = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True,
            timeout=SECONDS_A_FILE * count, check=False,
        )  # fmt: skip
        lines = list(map(json.loads, process.stdout.splitlines()))
        done = [seed | told for seed, told in zip(lines[::2], lines[1::2], strict=False)]
        if len(lines) % 2:
            done.append(lines[-1] | {"error": f"died with {process.returncode}: {process.stderr[-300:]}"})
        assert done, process.stderr
        found += done
        first, count = first + len(done), count - len(done)
    return found


# --- the long form


def soak(folder, count, first):
    """Try many files, on all cores; prints how far it is, and what came of them."""
    make_original(folder / "original.db")
    begins = range(first, first + count, ONE_AT_A_TIME)
    found, began = [], time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(tried, folder, at, min(ONE_AT_A_TIME, first + count - at)) for at in begins]
        for job in concurrent.futures.as_completed(jobs):
            found += job.result()
            wrong = [told for told in found if "error" in told]
            print(f"{len(found)} of {count} files, {time.monotonic() - began:.0f} s, {len(wrong)} wrong", flush=True)
    for told in wrong:
        print(told)
    refused = collections.Counter()
    by_damage = collections.Counter(told["damage"] for told in found)
    for told in found:
        refused.update(told.get("refused", {}))
    print(f"refused something: {sum(bool(told.get('refused')) for told in found)} files; errors: {dict(refused)}")
    print(f"damage: {dict(by_damage)}; slowest file: {max(told.get('seconds', 0) for told in found):.2f} s")
    return not wrong


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"FLOWSTORE_HOME": f"{name}/home", "FLOWSTORE_USER": "tester"}
        given = [*map(int, sys.argv[1:])]
        sys.exit(0 if soak(Path(name), *(given + [10_000, 1][len(given) :])) else 1)
