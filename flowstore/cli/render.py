"""Rows for people and programs: tables that fit the terminal, JSON, CSV; and what tasks printed."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from flowstore.cli.shell import safe
from flowstore.client import Run, Step, Task

Rows = Sequence[Mapping[str, Any]]
_WIDEST = 60


def echo(rows: Rows, form: str = "table", *, raw: bool = False) -> None:
    """Print rows as a 'table', as 'json' (one list of objects) or as 'csv'."""
    if form == "json":
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2, default=_plain))
    elif form == "csv":
        click.echo(_csv(rows), nl=False)
    else:
        echo_table(rows, raw=raw)


def echo_table(rows: Rows, *, raw: bool = False) -> None:
    """Print a table: drawn on a terminal, aligned columns elsewhere."""
    clean = str if raw else safe
    cells = [[clean(_cell(value)) for value in row.values()] for row in rows]
    if not rows:
        click.echo("Nothing found.", err=True)
    elif sys.stdout.isatty():
        _echo_rich([*rows[0]], cells)
    else:
        for line in _aligned([[*rows[0]], *cells]):
            click.echo(line)


def _echo_rich(head: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, box=None, header_style="bold", pad_edge=False)
    for line in cells:
        table.add_row(*map(Text, line))
    Console().print(table)


def _aligned(lines: Sequence[Sequence[str]]) -> Iterable[str]:
    flat = [[cell.replace("\n", " ⏎ ") for cell in line] for line in lines]
    widths = [min(max(map(len, column)), _WIDEST) for column in zip(*flat, strict=True)]
    for line in flat:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(sorted(map(str, value)))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON has no form for."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03d}"
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _csv(rows: Rows) -> str:
    """CSV in which no cell can be taken for a formula by a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        cells = (_plain(v) if isinstance(v, (datetime, bytes)) else v for v in row.values())
        plain = (
            json.dumps(v, ensure_ascii=False, default=_plain) if isinstance(v, (list, dict, frozenset)) else v
            for v in cells
        )
        writer.writerow(
            [f"'{v}" if isinstance(v, str) and v.startswith(("=", "+", "-", "@", "\t", "\r")) else v for v in plain]
        )
    return out.getvalue()


# --- rows of objects


def run_rows(runs: Iterable[Run]) -> Rows:
    """A row a run."""
    return [
        {
            "run": run.pathspec,
            "status": run.status,
            "user": run.user,
            "created_at": run.created_at,
            "duration_s": _seconds(run.created_at, run.finished_at),
            "parameters": run.parameters,
            "tags": sorted(run.user_tags),
        }
        for run in runs
    ]


def step_rows(run: Run) -> Rows:
    """A row a step, in the order in which they began."""
    rows = []
    for step in reversed(list(run)):
        states = [task.status for task in step]
        counts = {status: states.count(status) for status in dict.fromkeys(sorted(states))}
        rows.append(
            {
                "step": step.pathspec,
                "tasks": len(states),
                "status": ", ".join(f"{count} {status}" for status, count in counts.items()),
                "created_at": step.created_at,
                "duration_s": _seconds(step.created_at, step.finished_at),
            }
        )
    return rows


def task_rows(tasks: Iterable[Task]) -> Rows:
    """A row a task, in the order of their ids."""
    return [
        {
            "task": task.pathspec,
            "status": task.status,
            "attempts": task.current_attempt + 1,
            "index": task.index,
            "created_at": task.created_at,
            "duration_s": _seconds(task.created_at, task.finished_at),
            "origin": task.origin_pathspec,
        }
        for task in sorted(tasks, key=lambda task: int(task.id))
    ]


def artifact_rows(task: Task) -> Rows:
    """A row an artifact."""
    return [
        {"artifact": item.id, "type": item.type, "size_bytes": item.size, "codec": item.codec, "preview": item.preview}
        for item in task
    ]


def tasks_of(found: Run | Step | Task) -> list[Task]:
    """All tasks of a run, step or task, in the order of their ids."""
    if isinstance(found, Task):
        return [found]
    tasks = list(found) if isinstance(found, Step) else [task for step in found for task in step]
    return sorted(tasks, key=lambda task: int(task.id))


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()


def streams(*, stdout: bool, stderr: bool) -> tuple[str, ...]:
    """Which streams to show: those asked for, or both."""
    both = stdout == stderr
    return tuple(name for name, asked in (("stdout", stdout), ("stderr", stderr)) if asked or both)


def print_log(
    tasks: Sequence[Task],
    streams: Sequence[str],
    *,
    timestamps: bool = False,
    attempt: int | None = None,
    raw: bool = False,
) -> None:
    """Print what tasks printed, in order; where there are several, each line says whose it is."""
    clean = str if raw else safe
    for task in tasks:
        shown = task if attempt is None else Task(task.pathspec, attempt=attempt)
        label = "" if len(tasks) == 1 else f"[{'/'.join(task.path_components[1:])}] "
        for at, line in shown.loglines(*streams):
            time = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} " if timestamps else ""
            click.echo(f"{time}{label}{clean(line)}")
