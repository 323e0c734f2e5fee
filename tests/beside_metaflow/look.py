"""Print, as JSON, all that the Client answers about a flow's runs: the same program under Metaflow and flowstore.

Ids and times differ between the two and are left out; tasks are told apart by what is in them.
"""

import itertools
import json
import sys

from metaflow import Metaflow, namespace


def value_of(value):
    """A value as JSON that shows its type."""
    if type(value) in (bool, int, str, type(None)):
        return value
    if type(value) in (list, tuple, set, frozenset):
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return {type(value).__name__: [value_of(item) for item in items]}
    if type(value) is dict:
        return {"dict": [[value_of(key), value_of(item)] for key, item in value.items()]}
    if hasattr(value, "tolist"):
        return {type(value).__name__: value_of(value.tolist())}
    if type(value).__module__ == "builtins" and not callable(value):
        return {type(value).__name__: repr(value)}
    return {"object": type(value).__name__ if type(value).__module__ == "__main__" else "of a library"}


def artifacts_of(task):
    """The values of a task's artifacts, by name."""
    values = {}
    for artifact in task:
        if artifact.id == "name":  # the flow's, which is no artifact here
            continue
        assert artifact.id in task.data
        assert artifact.parent.pathspec == task.pathspec
        values[artifact.id] = value_of(artifact.data)
    assert {artifact.id for artifact in task.artifacts} >= values.keys()
    return dict(sorted(values.items()))


def is_own(line):
    """Return whether a line is outside of a traceback, in which paths and frames differ."""
    of_catch = (
        line.startswith((">", "@catch caught", "Task failed.", "flowstore.errors.")) or " timed out after " in line
    )
    return not line.startswith((" ", "Traceback", "<flow ")) and line.strip() != "" and not of_catch


def answers(**questions):
    """The answer to each question, or the kind of its error."""
    results = {}
    for name, question in questions.items():
        try:
            results[name.replace("_", " ")] = question()
        except Exception as error:
            results[name.replace("_", " ")] = f"raises {type(error).__name__}: {error}"[:100]
    return results


def task_of(task):
    """Return the Client's answers about a task."""
    return answers(
        successful=lambda: task.successful,
        finished=lambda: task.finished or not task.successful,  # in flowstore, what has failed has finished
        has_ended=lambda: task.finished_at is not None,
        exception=lambda: task.exception is not None,
        index=lambda: task.index,
        attempt=lambda: task.current_attempt,
        artifacts=lambda: artifacts_of(task) if went_on(task) else None,
        stdout=lambda: [line for line in task.stdout.splitlines() if is_own(line)],
        stderr=lambda: None if went_on(task) else sorted({x for x in task.stderr.splitlines() if is_own(x)}),
        sizes=lambda: [task.stdout_size >= len(task.stdout), task.stderr_size >= len(task.stderr)],
        parents=lambda: sorted(f"{other.parent.id}[{other.index}]" for other in task.parent_tasks),
        children=lambda: sorted(f"{other.parent.id}[{other.index}]" for other in task.child_tasks),
        parent_pathspecs=lambda: sorted(task.parent_task_pathspecs) == sorted(x.pathspec for x in task.parent_tasks),
        child_pathspecs=lambda: sorted(task.child_task_pathspecs) == sorted(x.pathspec for x in task.child_tasks),
        origin=lambda: origin(task),
        attempts=lambda: sorted(entry.value for entry in task.metadata if entry.name == "attempt"),
        metadata=lambda: sorted({(entry.name, entry.type) for entry in task.metadata if entry.name in NAMES}),
        in_namespace=task.is_in_namespace,
        runtime=lambda: task.runtime_name is not None,
        metadata_values=lambda: {name: task.metadata_dict.get(name) for name in ("attempt", "attempt_ok", "user")},
        origin_run=lambda: task.metadata_dict.get("origin-run-id", "None") != "None",
    )


def went_on(task):
    """Return whether a task succeeded, or `@catch` took its failure, which Metaflow does not call a success."""
    return task.successful or any(
        type(artifact.data).__name__ in EXCEPTIONS for artifact in task if artifact.id != "name"
    )


EXCEPTIONS = {"ExceptionInfo", "MetaflowExceptionWrapper", "FailureHandledByCatch"}


def origin(item):
    """Return the address of the object that this one was taken over from, as names."""
    pathspec = item.origin_pathspec
    if pathspec is None or "/None" in pathspec:  # which is what Metaflow says of a run that is not resumed
        return None
    return [part for part in pathspec.split("/") if not part.isdigit()]


def step_of(step):
    """Return the Client's answers about a step."""
    return answers(
        tasks=lambda: sorted(map(task_of, step), key=lambda task: (task["index"] or 0, json.dumps(task, default=str))),
        one_task=lambda: step.task.pathspec in {task.pathspec for task in step},
        has_ended=lambda: step.finished_at is not None,
        parents=lambda: sorted(other.id for other in step.parent_steps),
        children=lambda: sorted(other.id for other in step.child_steps) if went_on(step.task) else None,
        origin=lambda: origin(step),
        control=lambda: None if step.control_task is None else step.control_task.index,
        controls=lambda: len(list(step.control_tasks())),
    )


def run_of(run):
    """Return the Client's answers about a run."""
    return answers(
        successful=lambda: run.successful,
        finished=lambda: (run.finished and run.finished_at is not None) or not run.successful,
        steps={step.id: step_of(step) for step in run}.copy,
        end=lambda: None if run.end_task is None else run.end_task.parent.id,
        data=lambda: None if run.data is None else all(hasattr(run.data, name.id) for name in run.end_task),
        user_tags=lambda: sorted(run.user_tags),
        kinds_of_tags=lambda: sorted({tag.partition(":")[0] for tag in run.system_tags} - VERSIONS),
        tags=lambda: run.tags == run.user_tags | run.system_tags == next(iter(run)).task.tags,
        origin=lambda: origin(run),
        parent=lambda: run.parent.id,
        pathspec=lambda: run.pathspec == f"{run.parent.id}/{run.id}",
        trigger=lambda: run.trigger is None,
        replaceable=lambda: isinstance(hash(run), int),
    )


NAMES = {"attempt", "attempt-done", "attempt_ok", "python_version", "runtime", "script-name", "user", "origin-task-id"}
VERSIONS = {"metaflow_version", "flowstore_version", "date"}

if __name__ == "__main__":
    namespace(None)
    try:
        flows = [flow for flow in Metaflow() if flow.id == sys.argv[1]]
    except FileNotFoundError:  # nothing has run, so there is no store
        flows = []
    runs = sorted(itertools.chain(*flows), key=lambda run: run.created_at)
    print(json.dumps([run_of(run) for run in runs]))
