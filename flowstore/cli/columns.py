"""Runs as a table with columns of the user's choice: parameters and metrics beside what is known of every run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from flowstore.cli import render
from flowstore.client import Run
from flowstore.client.rows import of_runs, values_of
from flowstore.text import safe

_LEFT_OUT = ("parameters", "tags")  # of a table in which columns were chosen


def ordered(runs: Iterable[Run], sort: str) -> list[Run]:
    """Return runs by a column, those without it last; `-NAME` begins with the largest."""
    name = sort.removeprefix("-")
    found = list(runs)
    values = [row[name] for row in _chosen(found, [name])]
    pairs = list(zip(found, values, strict=True))
    known = [(run, value) for run, value in pairs if value is not None]
    known.sort(key=lambda pair: _rank(pair[1]), reverse=sort.startswith("-"))
    if pairs and not known:
        click.echo(safe(f"No run here has a {name!r} to sort by."), err=True)
    return [run for run, _ in known] + [run for run, value in pairs if value is None]


def rows(runs: Sequence[Run], chosen: Sequence[str], *, form: str) -> list[dict[str, Any]]:
    """Return a row a run: what `runs` shows, and the chosen columns after it."""
    known: list[dict[str, Any]] = [dict(row) for row in render.run_rows(runs)]
    if not chosen:
        return known
    left_out = _LEFT_OUT if form == "table" else ()
    return [
        {name: value for name, value in row.items() if name not in left_out or name in chosen}
        | {name: value for name, value in extra.items() if name not in row}
        for row, extra in zip(known, _chosen(runs, chosen), strict=True)
    ]


def _chosen(runs: Sequence[Run], chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Return the values of these columns, a row a run: a metric, a parameter, or what `runs` shows anyway."""
    values = values_of(runs, of_runs(runs))
    known: Sequence[Mapping[str, Any]] = render.run_rows(runs) if set(chosen) & set(render.RUN) else [{}] * len(runs)
    return [{name: {**value, **row}.get(name) for name in chosen} for value, row in zip(values, known, strict=True)]


def _rank(value: Any) -> tuple[int, Any]:
    """Order numbers before everything else, which goes by its text."""
    if isinstance(value, (int, float)):
        return 0, value
    return 1, str(value)
