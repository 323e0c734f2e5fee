"""Print, as JSON, what Metaflow's Client answers about the runs of the current folder; flowstore is asked the same."""

import collections
import hashlib
import json


def pathspec(item, attribute):
    """An object's address in Metaflow."""
    return getattr(item, attribute)


def text(value):
    """A fact's value as text."""
    return value if isinstance(value, str) else json.dumps(value)


def moment(at):
    """A time in milliseconds."""
    return None if at is None else int(at.timestamp()) * 1000 + at.microsecond // 1000


def shown(value):
    """A value as text that shows its types; large ones by their hash."""
    if isinstance(value, bytes) and len(value) > 1000:
        return f"{len(value)} bytes {hashlib.sha256(value).hexdigest()}"
    if hasattr(value, "stacktrace"):
        return [value.type, value.exception, value.stacktrace]
    if isinstance(value, collections.OrderedDict):  # whose repr has changed with Python 3.12
        return f"OrderedDict {list(value.items())}"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__} {sorted(value)}"
    return f"{type(value).__name__} {value!r}"


def cards_of(task, get_cards):
    """The cards of a task, by the hash of their HTML; Metaflow raises where there are none."""
    try:
        return sorted(
            [card.type, str(card.id), hashlib.sha256(card.get().encode()).hexdigest()] for card in get_cards(task)
        )
    except Exception as error:
        if "ard not found" in str(error):
            return []
        raise


def task_of(task, attribute, get_cards):
    """The answers about a task."""
    attempts = range(task.current_attempt + 1)
    failure = task.exception
    return {
        "successful": task.successful,
        "created": moment(task.created_at),
        "finished": moment(task.finished_at),
        "index": task.index,
        "attempts": len(attempts),
        "artifacts": {artifact.id: shown(artifact.data) for artifact in task},
        "stdout": task.stdout,
        "stderr": sorted(task.stderr.splitlines()),
        "lines": sorted([moment(at), line] for at, line in task.loglines("stdout")),
        "failure": None if failure is None else [failure.type, failure.exception, failure.stacktrace],
        "parents": sorted(pathspec(other, attribute) for other in task.parent_tasks),
        "children": sorted(pathspec(other, attribute) for other in task.child_tasks),
        "facts": sorted([fact.name, text(fact.value), fact.type] for fact in task.metadata),
        "user_tags": sorted(task.user_tags),
        "cards": cards_of(task, get_cards),
    }


def run_of(run, attribute, get_cards):
    """The answers about a run."""
    return {
        "successful": run.successful,
        "created": moment(run.created_at),
        "finished": moment(run.finished_at) if run.successful else None,
        "user_tags": sorted(run.user_tags),
        "system_tags": sorted(tag for tag in run.system_tags if not tag.startswith("date:")),
        "code": None if run.code is None else [run.code.script_name, run.code.flowspec],
        "end": pathspec(run.end_task, attribute) if run.successful else None,
        "data": sorted(artifact.id for artifact in run.end_task) if run.successful else None,
        "steps": sorted(step.id for step in run),
        "tasks": {pathspec(task, attribute): task_of(task, attribute, get_cards) for step in run for task in step},
    }


def ask(client, get_cards, attribute):
    """The answers about all runs, by address in Metaflow."""
    client.namespace(None)
    flows = client.Metaflow() if hasattr(client, "Metaflow") else client.Flows()
    answers = {pathspec(run, attribute): run_of(run, attribute, get_cards) for flow in flows for run in flow}
    latest = {}
    for user in ("anne", "will"):
        client.namespace(f"user:{user}")
        for name in sorted({address.split("/")[0] for address in answers}):
            try:
                latest[f"{user} {name}"] = pathspec(client.Flow(name).latest_run, attribute)
            except Exception as error:
                latest[f"{user} {name}"] = "not in the namespace" if "amespace" in type(error).__name__ else repr(error)
    client.namespace(None)
    return {"runs": answers, "latest": latest}


if __name__ == "__main__":
    import metaflow
    from metaflow.cards import get_cards

    print(json.dumps(ask(metaflow, get_cards, "pathspec"), default=bytes.decode))
