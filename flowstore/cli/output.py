"""Rows for people and programs: tables that fit the terminal, JSON and CSV.

A table is aligned by how wide characters are shown, and fitted to the terminal: no line is longer. Free text is
shortened first, ids and times last. Where even that does not fit, each row becomes a block with a line for each of its
cells, since a table that wraps cannot be read.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from flowstore.cli import json_form
from flowstore.client import Run, Step, Task, rows
from flowstore.text import NARROW, columns_of, counted, escaped, no_formula, safe, shorten

Rows = Sequence[Mapping[str, Any]]
Line = Sequence[str]

_GAP = "  "
_SHORT, _ID = 16, 12  # what is no wider is an id, a status, a number: shortened only if nothing else helps
_LEAST = 8  # of what was wider, in a table
_TIME = 19
_WIDEST = 1000  # columns that cells are padded to, where no terminal limits them: a longer cell stands out
_SPACES = str.maketrans({"\n": " ⏎ ", "\t": " "})
_SEEN = 16  # characters for each column of a terminal: more than that are control characters, or no text

RUN = ("run", "status", "user", "created_at", "duration_s", "parameters", "tags", "error")
STEP = ("step", "tasks", "status", "created_at", "duration_s")
TASK = ("task", "status", "attempts", "index", "item", "created_at", "duration_s", "origin")
ARTIFACT = ("artifact", "type", "size_bytes", "codec", "preview")


def echo(rows: Rows, form: str = "table", *, raw: bool = False, columns: Sequence[str] = ()) -> None:
    """Print rows as a 'table', as 'json' (one list of objects) or as 'csv'.

    Args:
        rows: dicts with the same keys.
        form: how.
        raw: keep control characters; JSON keeps them always, escaped.
        columns: the keys, for the head of a CSV without rows.
    """
    if form == "json":
        click.echo(_json(rows))
    elif form == "csv":
        click.echo(_csv(rows, columns, raw=raw), nl=False, color=raw or None)
    else:
        echo_table(rows, raw=raw)


def say(text: str, *, raw: bool = False) -> None:
    """Print text from a store: without control characters, unless `raw`, which is also what click would strip."""
    click.echo(text if raw else safe(text), color=raw or None)


def echo_table(rows: Rows, *, raw: bool = False) -> None:
    """Print a table that fits the terminal; whole cells where it is not printed on one."""
    if not rows:
        click.echo("Nothing found.", err=True)
    else:
        utc = {name for row in rows for name, value in row.items() if isinstance(value, datetime)} | {"last_used"}
        head = [f"{name} (UTC)" if name in utc else name for name in rows[0]]
        echo_cells(head, [[_cell(value) for value in row.values()] for row in rows], raw=raw)


def echo_cells(head: Sequence[str], cells: Sequence[Sequence[str]], *, raw: bool = False) -> None:
    """Print a table of texts."""
    width = terminal_width()
    flat = [[_flat(cell, width, raw=raw) for cell in line] for line in (head, *cells)]
    for line in table_lines(flat[0], flat[1:], width):
        click.echo(line, color=raw or None)


def _flat(cell: str, width: int | None, *, raw: bool) -> str:
    """Return a cell in one line; of one that no terminal shows whole, only as much as may be seen."""
    seen = cell if width is None or len(cell) <= _SEEN * width else cell[: _SEEN * width] + "…"
    return (seen if raw else safe(seen)).translate(_SPACES)


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
    """Return what stands in JSON for a value that it has no form for."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03d}"
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _json(rows: Rows) -> str:
    finite = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]
    return escaped(json_form.dumps(finite, _plain))


def _csv(rows: Rows, columns: Sequence[str], *, raw: bool) -> str:
    """CSV in which no cell can be taken for a formula by a spreadsheet."""
    import csv

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if rows or columns:
        writer.writerow(_csv_cell(name, raw=raw) for name in (rows[0] if rows else columns))
    for row in rows:
        writer.writerow(_csv_cell(value, raw=raw) for value in row.values())
    return out.getvalue()


def _csv_cell(value: Any, *, raw: bool) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        value = json.dumps(value, ensure_ascii=False, default=_plain)
    text: str = value if isinstance(value, str) else _plain(value)
    return no_formula(text if raw else safe(text))


# --- tables


def terminal_width() -> int | None:
    """Return how wide a line may be: as the terminal is; `None` where there is none.

    `$COLUMNS` counts on a terminal only, since a Python that has loaded readline hands it on to all that it starts.
    """
    if not sys.stdout.isatty():
        return None
    import shutil

    return max(shutil.get_terminal_size().columns, 10)


def table_lines(head: Line, cells: Sequence[Line], limit: int | None) -> Iterator[str]:
    """Yield the lines of a table, its head first; none is wider than `limit`.

    >>> list(table_lines(["run", "tags"], [["F/1", "a, b"]], None))
    ['run  tags', 'F/1  a, b']
    >>> list(table_lines(["run", "tags"], [["F/1", "a, very, long, list, of, tags"]], 24))
    ['run  tags', 'F/1  a, very, long, lis…']
    """
    most = _WIDEST if limit is None else limit
    widths = [max(_columns(cell, most) for cell in column) for column in zip(*cells, strict=True)]
    widths = widths or [0] * len(head)
    wanted = [max(width, columns_of(name)) for width, name in zip(widths, head, strict=True)]
    fitted = wanted if limit is None else _fit(wanted, widths, limit - len(_GAP) * (len(head) - 1))
    if fitted is None:
        assert limit is not None
        yield from _blocks(head, cells, limit)
        return
    for line in (head, *cells):
        shown = line if limit is None else [shorten(*cell) for cell in zip(line, fitted, strict=True)]
        yield _GAP.join(_padded(cell, columns) for cell, columns in zip(shown, fitted, strict=True)).rstrip()


def _columns(text: str, most: int) -> int:
    """Return how many columns a text takes, at most `most`; what is very long is not measured, which takes time."""
    return most if len(text) > most * NARROW else min(columns_of(text), most)


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - _columns(text, columns))


def _fit(wanted: Sequence[int], widths: Sequence[int], limit: int) -> Sequence[int] | None:
    """Return the widths of columns that fit: the widest give way first, down to what each must keep."""
    if sum(wanted) <= limit:
        return wanted
    for short, free in ((_SHORT, _LEAST), (_ID, _LEAST), (_ID, _LEAST // 2), (0, _LEAST)):
        floors = [width if width <= short or width == _TIME else min(width, free) for width in widths]
        kept = [min(max(floor, 1), most) for floor, most in zip(floors, wanted, strict=True)]
        for cap in range(max(wanted), 0, -1):
            fitted = [max(floor, min(most, cap)) for floor, most in zip(kept, wanted, strict=True)]
            if sum(fitted) <= limit:
                return fitted
    return None


def _blocks(head: Line, cells: Sequence[Line], limit: int) -> Iterator[str]:
    names = min(max(map(columns_of, head)), limit // 2)
    for n, line in enumerate(cells):
        if n:
            yield ""
        for name, cell in zip(head, line, strict=True):
            yield shorten(f"{_padded(shorten(name, names), names)}{_GAP}{cell}".rstrip(), limit)


# --- rows of objects


def run_rows(runs: Iterable[Run], *, errors: bool = False) -> Rows:
    """Return one row per run; with its first failure, as the view `run_summary` has it, if `errors`."""
    listed = list(runs)
    known = rows.of_runs(listed)
    if not errors:
        return [_run_cells(row) for row in known]
    failures = rows.failures(listed, known)
    return [
        {**_run_cells(row), "error": None if failure is None else failure.error}
        for row, failure in zip(known, failures, strict=True)
    ]


def _run_cells(row: rows.RunRow) -> dict[str, Any]:
    return {
        "run": row.pathspec,
        "status": row.status,
        "user": row.user,
        "created_at": row.created_at,
        "duration_s": row.duration_s,
        "parameters": row.parameters,
        "tags": row.tags,
    }


def run_with_steps(run: Run) -> dict[str, Any]:
    """Return a run's row with more of what is known of it, and its steps."""
    row, code = rows.of_run(run), run.code
    return {
        **run_rows([run], errors=True)[0],
        "finished_at": row.finished_at,
        "origin_run_id": row.origin_run_id,
        "system_tags": row.system_tags,
        "script_name": None if code is None else code.script_name,
        "code_files": {} if code is None else {path: blob.sha.hex() for path, blob in code._files.items()},
        "steps": step_rows(run),
    }


def explanations(run: Run) -> Iterator[str]:
    """Yield what there is to say of a run: why it failed and how to go on, what started it, where it came from."""
    from flowstore.client import events  # of which lists need nothing

    known = rows.explanation(run, rows.of_run(run))
    if known.failure is not None:
        yield f"Failed in {known.failure}"
    if known.resume_command:
        yield f"To go on: {known.resume_command}"
    if (trigger := events.triggered_by(run)) is not None:
        yield f"Started by {trigger}."
    if known.resumed is not None:
        verb = "was" if known.reused == 1 else "were"
        yield f"Resumes {known.resumed}, from which {counted(known.reused, 'task')} {verb} taken over."
    if known.imported_from is not None:
        yield f"Imported from {known.imported_from}."


def runs_with_errors(runs: Sequence[Run]) -> Rows:
    """Return one row per run, with why it failed where one of them did."""
    known = rows.of_runs(runs)
    failures = rows.failures(runs, known)
    if not any(failures):
        return [_run_cells(row) for row in known]
    return [
        {**_run_cells(row), "error": None if failure is None else f"{failure.task}: {failure.error}"}
        for row, failure in zip(known, failures, strict=True)
    ]


def step_rows(run: Run) -> Rows:
    """Return a row a step, in the order in which they began."""
    return [
        {
            "step": step.pathspec,
            "tasks": step.total,
            "status": rows.in_words(step.tasks),
            "created_at": step.created_at,
            "duration_s": step.duration_s,
        }
        for step in rows.of_steps(run, run.status)
    ]


def task_rows(of: Run | Step | Task, *, items: bool = False) -> Rows:
    """Return a row a task, in the order of their ids; with foreach items if `items`, or where there are any."""
    known = rows.of_tasks(rows.tasks_of(of))
    items = items or any(row.item is not None for row in known)
    return [
        {
            "task": row.pathspec,
            "status": row.status,
            "attempts": row.attempts,
            "index": row.index,
            **({"item": row.item} if items else {}),
            "created_at": row.created_at,
            "duration_s": row.duration_s,
            "origin": row.origin_pathspec,
        }
        for row in known
    ]


def artifact_rows(task: Task, *, private: bool = False) -> Rows:
    """Return a row an artifact; those that begin with an underscore only if `private`."""
    return [
        {
            "artifact": row.name,
            "type": row.type,
            "size_bytes": row.size_bytes,
            "codec": row.codec,
            "preview": row.preview,
        }
        for row in rows.of_artifacts(task, private=private)
    ]
