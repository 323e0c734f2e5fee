"""Runs with tags, written straight into a store."""

from __future__ import annotations

from flowstore.store import blobs, records
from flowstore.store.codecs import encode
from flowstore.store.opening import active_store

SYSTEM = ("runtime:local", "python_version:3", "flowstore_version:0")


def add_run(db, store, *, flow="F", user="tester", given=(), status="successful", steps=(("start", 2), ("end", 1))):
    """Insert a run with its steps, so many tasks of each, and an artifact `x` of each task; gives its id."""
    new = records.NewRun(flow, user, {}, [], None, [f"user:{user}", *SYSTEM], given)
    run_id = records.create_run(db, new)
    for name, count in steps:
        step_id = records.ensure_step(db, run_id, name)
        for _ in range(count):
            task_id = records.start_task(db, records.NewTask(run_id, step_id, [], None, None))
            blob_id = blobs.put(db, store, encode(name))
            attempt_id = records.start_attempt(db, task_id, 0)
            records.finish_attempt(
                db, task_id, attempt_id, records.AttemptEnd("successful", artifacts=[("x", blob_id, 0)])
            )
    if status != "running":
        records.finish_run(db, run_id, status)
    return run_id


def new_run(**what):
    """Insert a run into the active store."""
    store = active_store()
    with store.write() as db:
        return add_run(db, store, **what)
