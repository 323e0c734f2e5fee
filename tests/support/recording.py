"""Runs as a driver records them, written straight into a store: what a test needs a thousand of in a second."""

from __future__ import annotations

from flowstore.store import blobs, codecs, records, snapshots, tags, trust
from flowstore.store.opening import ensure_store
from flowstore.store.tags import Node

STEPS = ("start", "body", "join", "end")


def store_with(path, *runs):
    """A new store at rest, with a run for each dict of `add_run`'s arguments; gives its path."""
    store = ensure_store(path)
    for options in runs:
        add_run(store, **options)
    store.close()
    return path


def add_run(
    store,
    flow="F",
    *,
    user="tester",
    system=(),
    tags=(),
    parameters=None,
    code=None,
    width=0,
    fails_at=None,
    attempts=1,
    printed="hello\n",
    resumes=None,
    status=None,
    **values,
):
    """Record a run of the steps start, body (in a foreach of `width`), join, end; gives its id.

    Its start sets `values`, a body its `y`, a tuple, which is pickled; join merges `values`. A task of the step
    `fails_at` fails in all its `attempts`, others in all but the last. `resumes` is the run to take over
    from what it has. `status` 'running' leaves the run as it is in the middle of its end task.
    """
    with store.write() as db:
        given = {name: codecs.encode(value) for name, value in (parameters or {}).items()}
        fixed = [(name, "parameter", blobs.put(db, store, item)) for name, item in given.items()]
        shown = {name: records.parameter_json(db, item) for name, item in given.items()}
        code_id = (
            None
            if code is None
            else snapshots.ensure(db, store, snapshots.Program("flow.py"), {"flow.py": code.encode()})
        )
        origin = None if resumes is None else str(resumes)
        new = records.NewRun(flow, user, shown, fixed, code_id, [f"user:{user}", *system], tags, origin)
        trust.claim(db, store.uuid)
        run_id = records.create_run(db, new)
        _Recorder(store, db, run_id, resumes, fails_at, attempts, printed, status, values).record(width)
    return run_id


class _Recorder:
    """Records the tasks of one run, in the caller's transaction."""

    def __init__(self, store, db, run_id, resumes, fails_at, attempts, printed, status, values):
        self.store, self.db, self.run_id, self.resumes = store, db, run_id, resumes
        self.fails_at, self.attempts, self.printed, self.status, self.values = (
            fails_at, attempts, printed, status, values
        )  # fmt: skip
        self.taken = {}

    def record(self, width):
        start = self.task("start", (), None, None, self.values)
        if start is None:
            return self.end("failed")
        last = start
        if width:
            bodies = [self.task("body", (start,), start, str(n), {"y": range(n, 9)}) for n in range(width)]
            if None in bodies:
                return self.end("failed")
            last = self.task("join", bodies, None, None, {}, merged=self.values)
            if last is None:
                return self.end("failed")
        end = self.task("end", (last,), last, None, {"done": True})
        return self.end("failed" if end is None else self.status or "successful")

    def end(self, status):
        if status != "running":
            records.finish_run(self.db, self.run_id, status)

    def task(self, step, parents, base, path, values, merged=()):
        """Record a task; gives its id, or `None` if it failed."""
        step_id = records.ensure_step(self.db, self.run_id, step)
        if (origin := self._origin(step, path)) is not None:
            return records.reuse_task(self.db, self.run_id, step_id, origin, parents, base)
        task_id = records.start_task(self.db, records.NewTask(self.run_id, step_id, parents, base, path))
        for number in range(self.attempts):
            last = number == self.attempts - 1
            attempt_id = records.start_attempt(self.db, task_id, number)
            if self.printed:
                rows = [(attempt_id, stream, records.now_ms(), self.printed) for stream in ("stdout", "stderr")]
                records.append_log(self.db, rows)
            if self.status == "running" and step == "end":
                return task_id
            failed = not last or step == self.fails_at
            artifacts = [(name, self._put(value), 0) for name, value in values.items()]
            artifacts += [(name, self._put(merged[name]), 1) for name in merged]
            records.finish_attempt(
                self.db,
                task_id,
                attempt_id,
                records.AttemptEnd(
                    "failed" if failed else "successful",
                    pid=7,
                    artifacts=artifacts,
                    transition=None if failed else '{"targets": []}',
                    error=("ValueError", "it failed", "Traceback: …") if failed else None,
                    metadata={"resources": {"cpu": 1}},
                ),
            )
        return None if failed else task_id

    def _put(self, value):
        return blobs.put(self.db, self.store, codecs.encode(value))

    def _origin(self, step, path):
        row = self.db.execute(
            """select t.id from tasks t join steps s on s.id = t.step_id
               where t.run_id = ? and s.name = ? and t.foreach_path is ? and t.status = 'successful'""",
            (self.resumes, step, path),
        ).fetchone()
        return None if row is None else row["id"]


def tag_node(store, flow, run_id, tag, step, *, task=False, artifact=""):
    """Tag a step of a run, or its first task, or an artifact of that."""
    step_id = store.value("select id from steps where run_id = ? and name = ?", (run_id, step))
    pathspec, task_id = f"{flow}/{run_id}/{step}", 0
    if task or artifact:
        task_id = store.value("select min(id) from tasks where step_id = ?", (step_id,))
        pathspec = "/".join([pathspec, str(task_id), *([artifact] if artifact else [])])
    tags.change(store, Node(pathspec, run_id, step_id, task_id, artifact), add=[tag])
