"""The command line of the benchmarks, and their table."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import click

from benchmarks import artifact, crowd, fanout, hello, importing, iterate, passthrough, query, resume, reuse, size
from benchmarks.libraries import Settings, find_metaflow
from benchmarks.measure import Failed, Line
from flowstore import __version__

BENCHMARKS: dict[str, Callable[[Settings], Iterable[Line]]] = {
    module.__name__.rpartition(".")[2]: module.measure
    for module in (importing, hello, fanout, reuse, artifact, passthrough, query, iterate, resume, crowd, size)
}

FORM = "{:<52} {:<10} {:>9} {:>9} {:>7}  {:<28} {}"


@click.command(help=f"Run all benchmarks, or those named: {', '.join(BENCHMARKS)}.")
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How many count.")
@click.option("--smoke", is_flag=True, help="Tiny sizes and one round: does everything work?")
@click.option("--full", is_flag=True, help="Also the sizes that take long.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all samples here.")
@click.option(
    "--metaflow-python", default=sys.executable, metavar="PYTHON", help="One that has Metaflow; default: this one."
)
def main(
    names: Sequence[str], rounds: int, smoke: bool, full: bool, json_file: Path | None, metaflow_python: str
) -> None:
    """Print a table, line by line as it comes."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process would compile what it imports anew
    metaflow = find_metaflow(metaflow_python)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"The machine is busy (load {load:.1f}): figures will be too high, and ratios rough.", file=sys.stderr)
    if smoke:
        print("Tiny sizes: the figures mean nothing.")
    lines: list[Line] = []
    failed = []
    print(FORM.format("benchmark (medians)", "unit", "floor", "flowstore", "ratio", "target", "peer, and its ratio"))
    with tempfile.TemporaryDirectory(prefix="flowstore-benchmarks-") as scratch:
        settings = Settings(Path(scratch), 1 if smoke else rounds, smoke, full, metaflow)
        for name in names or BENCHMARKS:
            started = time.monotonic()
            try:
                for line in BENCHMARKS[name](settings):
                    lines.append(line)
                    print(shown(line), flush=True)
            except Failed as error:  # the others may still tell something
                failed.append(name)
                print(f"{name} failed: {error}", file=sys.stderr)
            print(f"{name} took {time.monotonic() - started:.0f} s", file=sys.stderr)
    if json_file is not None:
        json_file.write_text(
            json.dumps({"machine": machine() | {"load": load}, "lines": list(map(as_json, lines))}, indent=1), "utf-8"
        )
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def shown(line: Line) -> str:
    """A line of the table; a peer's ratio is to flowstore, the other one to the floor."""
    ours, floor = line.median("flowstore"), line.median("floor")
    ratio = f"{ours / floor:.2f}" if ours is not None and floor else ""
    peer = f"{line.missing} is not installed" if line.missing else ""
    if line.peer is not None:
        theirs = line.median(line.peer)
        peer = f"{line.peer} {number(theirs)}"
        if ours and theirs is not None:
            peer += f" ({theirs / ours:.2f} x)"
    return FORM.format(line.benchmark, line.unit, number(floor), number(ours), ratio, line.target, peer).rstrip()


def number(value: float | None) -> str:
    """Three digits that mean something.

    >>> number(1234.5), number(0.01234), number(12.345), number(None)
    ('1234', '0.0123', '12.3', '')
    """
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_json(line: Line) -> dict[str, Any]:
    """A line with its medians."""
    return {**attrs.asdict(line), "medians": {name: line.median(name) for name in line.samples}}


def machine() -> dict[str, Any]:
    """What the times depend on."""
    return {
        "flowstore": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


if __name__ == "__main__":
    main()
