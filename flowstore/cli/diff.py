"""How two runs differ, for people and programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import click

from flowstore.cli import output
from flowstore.cli.app import command, completed_by
from flowstore.cli.settings import FORM, NAMESPACE, STORE, with_raw
from flowstore.client import Run
from flowstore.client.compare import VALUES, Difference, Row, by_key, compare, text_diff
from flowstore.client.rows import in_words
from flowstore.client.store import active_store
from flowstore.text import counted, safe, shorten

COLUMNS = ("kind", "name", "left", "right")
_WIDEST = 200  # of a value, where no terminal limits it
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@command(STORE, NAMESPACE, FORM)
@click.argument("left", metavar="RUN", shell_complete=completed_by("runs"))
@click.argument("right", metavar="RUN", shell_complete=completed_by("runs"))
@click.option("--no-code", is_flag=True, help="Say which files differ, but not how.")
@with_raw
def diff(left: str, right: str, no_code: bool, raw: bool, form: str) -> None:
    """Compare two runs, and show what differs.

    Parameters, code, tags, steps, artifacts and timings are compared. RUN is F/5, or F/latest for the newest.

    Example:
        flowstore diff HelloFlow/4 HelloFlow/5
    """
    store = active_store()
    runs = store.run(left), store.run(right)
    _echo(runs, compare(*runs, code=not no_code), form, raw=raw)


def _echo(runs: tuple[Run, Run], differences: Sequence[Difference], form: str, *, raw: bool) -> None:
    """Print differences: a table, and below it those of the code's text."""
    if form != "table":
        output.echo([attrs.asdict(one) for one in differences], form, raw=raw, columns=COLUMNS)
        return
    names = [run.pathspec for run in runs]
    if not differences:
        click.echo(f"{names[0]} and {names[1]} do not differ.")
        return
    output.echo_cells(["", "", *names], [cells for one in differences for cells in _lines(one)], raw=raw)
    for one in differences:
        if one.kind == "code":
            _echo_text(one, raw=raw)


def _lines(difference: Difference) -> Iterator[Sequence[str]]:
    """Yield the lines of a difference: one, but for dicts, of which the items that differ are shown."""
    for row in by_key(Row(difference.kind, difference.name, [difference.left, difference.right], True)):
        yield row.kind, row.name, *(_shown(row.kind, side) for side in row.values)


def _shown(kind: str, value: Any) -> str:
    """Return one side of a difference in a few words."""
    if value is None:
        return "–"
    if kind == "tag":
        return "yes"
    if kind == "code":
        return f"{counted(value['size_bytes'], 'byte')}, {value['sha'][:8]}"
    if kind == "step":
        return in_words(value)
    if kind not in VALUES:
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    return shorten(value["preview"], _WIDEST) if value["value"] is None else _json(value["value"])


def _json(value: Any) -> str:
    return "–" if value is None else shorten(json.dumps(value, ensure_ascii=False), _WIDEST)


def _echo_text(difference: Difference, *, raw: bool) -> None:
    coloured = sys.stdout.isatty()
    for n, line in enumerate(text_diff(difference.name, difference.left, difference.right)):
        if n == 0:
            click.echo()
        if coloured:
            click.secho(line if raw else safe(line), fg=_COLOURS.get(line[:1]))
        else:
            output.say(line, raw=raw)
