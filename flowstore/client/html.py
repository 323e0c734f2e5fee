"""How objects look in a notebook: tables made of previews, so that looking never loads anything."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from flowstore.client import diagram
from flowstore.store import overview

if TYPE_CHECKING:
    from flowstore.client.artifact import DataArtifact
    from flowstore.client.run import Flow, Run, Step
    from flowstore.client.task import Task

MOST_ROWS = 20


def flow(found: Flow) -> str:
    """Its newest runs in the active namespace."""
    return _page(found, {}, _table(("run", "status", "created (UTC)", "tags"), map(_run_cells, found)))


def _run_cells(run: Run) -> Sequence[Any]:
    return run.id, run.status, f"{run.created_at:%Y-%m-%d %H:%M:%S}", ", ".join(sorted(run.user_tags))


def run(found: Run) -> str:
    """Its status, tags, parameters and steps, drawn and as a table, and what its end has."""
    status = found.status
    why = overview.first_failure(found._store, int(found.id)) if status == "failed" else None
    origin = found.origin_run_id
    facts = {
        "status": status,
        "failed in": "" if why is None else str(why),
        "to go on": "" if status in {"running", "successful"} else overview.resume_command(found._store, int(found.id)),
        "resumes": "" if origin is None else f"{found.path_components[0]}/{origin}",
        "created": f"{found.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "parameters": ", ".join(f"{name}={value!r}" for name, value in found._listed_parameters().items()),
        "tags": ", ".join(sorted(found.tags)),
    }
    steps = overview.steps(found._store, int(found.id), dead=facts["status"] == "dead")
    edges = overview.edges(found._store, int(found.id))
    rows = ((step.name, _counts(step), _after(step.name, edges), step.duration_s) for step in steps)
    table = _table(("step", "tasks", "after", "seconds"), rows)
    end = found.end_task
    artifacts = "" if end is None else _artifacts(end)
    return _page(found, facts, f"<div>{diagram.svg(steps, edges)}</div>{table}{artifacts}")


def _counts(step: overview.StepState) -> str:
    return ", ".join(f"{count} {status}" for status, count in step.tasks.items())


def _after(name: str, edges: Iterable[tuple[str, str]]) -> str:
    return ", ".join(before for before, after in edges if after == name)


def step(found: Step) -> str:
    """Its tasks."""
    items = overview.items(found._store, int(found.path_components[1]))
    cells = ((task.id, task.status, task.index, items.get(int(task.id))) for task in found)
    return _page(found, {}, _table(("task", "status", "index", "item"), cells))


def task(found: Task) -> str:
    """How it went, and its artifacts."""
    why = found.exception
    item = overview.items(found._store, int(found.path_components[1])).get(int(found.id), "")
    facts = {"status": found.status, "item": item, "exception": "" if why is None else f"{why.type}: {why.message}"}
    return _page(found, facts, _artifacts(found))


def _artifacts(found: Task) -> str:
    public = ((name, blob) for name, blob in found._blobs().items() if not name.startswith("_"))
    cells = ((name, blob.type, blob.size_bytes, blob.preview) for name, blob in public)
    return _table(("artifact", "type", "bytes", "preview"), cells)


def artifact(found: DataArtifact) -> str:
    """What it is."""
    return _page(found, {"type": found.type, "bytes": found.size, "codec": found.codec, "preview": found.preview}, "")


def _page(found: Any, facts: Mapping[str, Any], table: str) -> str:
    lines = "".join(f"<br>{escape(name)}: {_cell(value)}" for name, value in facts.items() if value != "")
    return f"<div><b>{escape(repr(found))}</b>{lines}{table}</div>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    shown = list(itertools.islice(rows, MOST_ROWS + 1))
    body = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in shown[:MOST_ROWS])
    more = "<tr><td>…</td></tr>" if len(shown) > MOST_ROWS else ""
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}{more}</table>"


def _cell(value: Any) -> str:
    return "" if value is None else escape(str(value)).replace("\n", "<br>")
