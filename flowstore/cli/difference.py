"""How two runs differ, for people and programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import click

from flowstore.cli import render
from flowstore.client import Run
from flowstore.client.compare import Difference, text_diff
from flowstore.client.rows import in_words
from flowstore.text import counted, safe, shorten

COLUMNS = ("kind", "name", "left", "right")
_WIDEST = 200  # of a value, where no terminal limits it
_CONTENTS = frozenset({"parameter", "artifact", "set"})
_MOST_ITEMS = 20
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def echo(runs: tuple[Run, Run], found: Sequence[Difference], form: str, *, raw: bool = False) -> None:
    """Print differences: a table, and below it those of the code's text."""
    if form != "table":
        render.echo([attrs.asdict(each) for each in found], form, raw=raw, columns=COLUMNS)
        return
    names = [run.pathspec for run in runs]
    if not found:
        click.echo(f"{names[0]} and {names[1]} do not differ.")
        return
    render.echo_cells(["", "", *names], [cells for each in found for cells in _lines(each)], raw=raw)
    for each in found:
        if each.kind == "code":
            _echo_text(each, raw=raw)


def _lines(each: Difference) -> Iterator[Sequence[str]]:
    """The lines of a difference: one, but for dicts, of which the items that differ are shown."""
    left, right = (side["value"] if each.kind in _CONTENTS and side else None for side in (each.left, each.right))
    if isinstance(left, dict) and isinstance(right, dict):
        differing = [key for key in dict.fromkeys((*left, *right)) if left.get(key) != right.get(key)]
        if 0 < len(differing) <= _MOST_ITEMS:
            for key in differing:
                yield each.kind, f"{each.name}.{key}", _json(left.get(key)), _json(right.get(key))
            return
    yield each.kind, each.name, _shown(each.kind, each.left), _shown(each.kind, each.right)


def _shown(kind: str, value: Any) -> str:
    """One side of a difference in a few words."""
    if value is None:
        return "–"
    if kind == "tag":
        return "yes"
    if kind == "code":
        return f"{counted(value['size_bytes'], 'byte')}, {value['sha'][:8]}"
    if kind == "step":
        return in_words(value)
    if kind not in _CONTENTS:
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    return shorten(value["preview"], _WIDEST) if value["value"] is None else _json(value["value"])


def _json(value: Any) -> str:
    return "–" if value is None else shorten(json.dumps(value, ensure_ascii=False), _WIDEST)


def _echo_text(difference: Difference, *, raw: bool) -> None:
    coloured = sys.stdout.isatty()
    for n, line in enumerate(text_diff(difference)):
        if n == 0:
            click.echo()
        if coloured:
            click.secho(line if raw else safe(line), fg=_COLOURS.get(line[:1]))
        else:
            render.say(line, raw=raw)
