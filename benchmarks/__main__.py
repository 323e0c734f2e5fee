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

import click

from benchmarks import (
    anatomy,
    artifact,
    card,
    crowd,
    digits,
    fanout,
    hello,
    importing,
    iterate,
    metrics,
    pages,
    passthrough,
    query,
    remote,
    report,
    resume,
    reuse,
    ship,
    size,
    wide,
)
from benchmarks.libraries import Settings, find_peers
from benchmarks.measure import Failed, Line
from flowstore import __version__

MODULES = (
    importing, hello, fanout, reuse, digits, remote, metrics, wide, artifact, passthrough, query, iterate, resume,
    crowd, card, ship, size, pages, anatomy,
)  # fmt: skip
BENCHMARKS: dict[str, Callable[[Settings], Iterable[Line]]] = {
    module.__name__.rpartition(".")[2]: module.measure for module in MODULES
}

FORM = "{:<52} {:<10} {:>9} {:>9} {:>7}  {:<34} {:<4} {}"
HEAD = ("benchmark (medians)", "unit", "floor", "flowstore", "ratio", "target", "met", "peers, and their ratios")


@click.command(help=f"Run all benchmarks, or those named: {', '.join(BENCHMARKS)}.")
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How many count.")
@click.option("--smoke", is_flag=True, help="Tiny sizes and one round: does everything work?")
@click.option("--full", is_flag=True, help="Also the sizes that take long.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all samples here.")
@click.option("--compare", type=click.Path(exists=True, path_type=Path), help="Set ratios beside those of this file.")
@click.option("--report", "only_report", is_flag=True, help="Only write RESULTS.md anew, from results.json.")
@click.option("--peers-python", default=sys.executable, metavar="PYTHON", help="One with the peers; default: this one.")
def main(
    names: Sequence[str],
    rounds: int,
    smoke: bool,
    full: bool,
    json_file: Path | None,
    compare: Path | None,
    only_report: bool,
    peers_python: str,
) -> None:
    """Print a table, line by line as it comes."""
    if only_report:
        report.write_page()
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process would compile what it imports anew
    peers = find_peers(peers_python)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"The machine is busy (load {load:.1f}): figures will be too high, and ratios rough.", file=sys.stderr)
    if smoke:
        print("Tiny sizes: the figures mean nothing.")
    lines: list[Line] = []
    failed = []
    print(FORM.format(*HEAD))
    with tempfile.TemporaryDirectory(prefix="flowstore-benchmarks-") as scratch:
        settings = Settings(Path(scratch), 1 if smoke else rounds, smoke, full, peers)
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
        about = machine() | {"load": round(load, 2), "peers": dict(peers.versions)}
        found = {"machine": about, "lines": [report.as_json(line) for line in lines]}
        json_file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if compare is not None:
        print("\nratios to the floor, and those of", compare)
        print(*report.compare(lines, json.loads(compare.read_text("utf-8"))), sep="\n")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def shown(line: Line) -> str:
    """Return a line of the table; a peer's ratio is to flowstore, the other one to the floor."""
    medians, target = line.medians, line.target
    ratio = report.ratio(medians)
    return FORM.format(
        line.benchmark,
        line.unit,
        report.number(medians.get("floor")),
        report.number(medians["flowstore"]),
        "" if ratio is None else f"{ratio:.2f}",
        "" if target is None else target.text,
        "" if target is None else ("yes" if target.met(medians) else "no"),
        report.peers(medians, line.missing),
    ).rstrip()


def machine() -> dict[str, Any]:
    """Return what the times depend on."""
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
