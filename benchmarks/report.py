"""Results in files: as JSON, compared with those of another time, and as a page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmarks.measure import Line

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parent / "RESULTS.md"
MARK = "<!-- `python -m benchmarks --report` writes what follows. -->"


def as_json(line: Line) -> dict[str, Any]:
    """Return a line with its medians, and whether they keep to the target."""
    target = line.target
    return attrs.asdict(line) | {
        "target": None if target is None else target.text,
        "met": None if target is None else target.met(line.medians),
        "medians": line.medians,
    }


def number(value: float | None) -> str:
    """Three digits that mean something.

    >>> number(1234.5), number(0.01234), number(12.345), number(None)
    ('1234', '0.0123', '12.3', '')
    """
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(medians: Mapping[str, float]) -> float | None:
    """Flowstore's median to the floor's, or `None` where one of them is missing or nothing."""
    floor, ours = medians.get("floor"), medians.get("flowstore")
    return ours / floor if ours is not None and floor else None


def peers(medians: Mapping[str, float], missing: Sequence[str]) -> str:
    """Return what the peers took, each with its ratio to flowstore.

    >>> peers({"flowstore": 2.0, "luigi": 3.0, "redun": 30.0}, ["metaflow"])
    'luigi 3 (1.5 x), redun 30 (15 x); not installed: metaflow'
    """
    ours = medians["flowstore"]
    others = {name: median for name, median in medians.items() if name not in {"floor", "flowstore"}}
    ratios = [
        f"{name} {number(median)}" + (f" ({number(median / ours)} x)" if ours else "")
        for name, median in others.items()
    ]
    parts = [", ".join(ratios), f"not installed: {', '.join(missing)}" if missing else ""]
    return "; ".join(part for part in parts if part)


def compare(lines: Iterable[Line], committed: Mapping[str, Any]) -> Iterator[str]:
    """Each line's ratio to its floor beside the committed one: ratios travel from machine to machine, times do not."""
    known = {(line["benchmark"], line["unit"]): ratio(line["medians"]) for line in committed["lines"]}
    for line in lines:
        name, now = f"{line.benchmark} ({line.unit})", ratio(line.medians)
        before = known.get((line.benchmark, line.unit))
        if now is None:
            continue
        if before is None:
            yield f"{name:<60} {now:>7.2f}  not in the file"
        else:
            yield f"{name:<60} {now:>7.2f}  was {before:>7.2f}  {now / before:>6.2f} x"


def write_page(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Renew the page below its mark; what people wrote above stays."""
    introduction = page.read_text("utf-8").partition(MARK)[0].rstrip()
    tables = "\n".join(_tables(json.loads(results.read_text("utf-8"))))
    page.write_text(f"{introduction}\n\n{MARK}\n\n{tables}\n", "utf-8")


def _tables(results: Mapping[str, Any]) -> Iterator[str]:
    yield from _row("", "")
    yield from _row("---", "---")
    for name, value in results["machine"].items():
        shown = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
        yield from _row(name, str(shown))
    yield ""
    yield from _row("benchmark", "unit", "floor", "flowstore", "ratio", "target", "met", "peers, and their ratios")
    yield from _row("---", "---", "--:", "--:", "--:", "---", "---", "---")
    for line in results["lines"]:
        medians = line["medians"]
        met = {True: "yes", False: "**no**", None: ""}[line["met"]]
        to_floor = ratio(medians)
        yield from _row(
            line["benchmark"],
            line["unit"],
            number(medians.get("floor")),
            number(medians["flowstore"]),
            "" if to_floor is None else f"{to_floor:.2f}",
            line["target"] or "",
            met,
            peers(medians, line["missing"]),
        )


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"
