"""Graphs of runs and flows: their steps as the source has them, with what is recorded of each.

The graph of a run is not stored, but its source is. That is parsed here, and never run: so a step that has not
started is known, and a stranger's file can be looked at. A run without source has the steps that began, and the
arrows that its tasks took.

    draw(of_run(run, rows.of_run(run)), link=lambda pathspec: f"/run/{pathspec}")
"""

from __future__ import annotations

import ast
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import attrs

from flowstore.client import rows
from flowstore.client.rows import RunRow, StepRow
from flowstore.drawing import SHAPES
from flowstore.drawing.graph import Arrow, Box, graph
from flowstore.errors import FlowstoreError
from flowstore.flow.graph import SPLITS, Node, part_of, read_step, step_mark
from flowstore.store import steps
from flowstore.text import counted, duration, shorten

if TYPE_CHECKING:
    from flowstore.client.code import Code
    from flowstore.client.run import Flow, Run

MOST_SOURCE_BYTES = 1_000_000  # of a file that is parsed
_WORST_FIRST = ("failed", "dead", "stopped", "running", "successful")


@attrs.frozen
class GraphStep:
    """A step of a graph.

    Attributes:
        name: its name.
        targets: the steps that it leads to.
        kind: how it leads there: 'linear', 'split', 'foreach', 'parallel', 'switch', 'end'; 'unknown' where only tasks
            say so.
        is_join: whether it takes `inputs`.
        iterates: the artifact, or 'num_parallel', that the foreach or gang goes over whose tasks these are.
        condition: of a switch, the name of the artifact that it looks at.
        doc: its docstring.
        row: what is recorded of it; `None` where it has not started.
        expected: how many tasks it will have, as far as that is known.
        run_status: the status of the run; empty in a flow by itself.
    """

    name: str
    targets: tuple[str, ...] = ()
    kind: str = "unknown"
    is_join: bool = False
    iterates: str | None = None
    condition: str | None = None
    doc: str = ""
    row: StepRow | None = None
    expected: int | None = None
    run_status: str = ""

    @property
    def begun(self) -> int:
        """How many of its tasks have started."""
        return 0 if self.row is None else self.row.total

    @property
    def not_started(self) -> int:
        """How many more tasks are expected."""
        return max(0, (self.expected or 0) - self.begun)

    @property
    def absence(self) -> str:
        """The words for a step without tasks. A run that succeeded did not need it: a switch passed it by."""
        return "not needed" if self.run_status == "successful" else "not started"

    @property
    def state(self) -> str | None:
        """The worst state of its tasks; `None` where it has not started, or was left before all tasks started."""
        if self.row is None or not self.begun:
            return None
        worst = next((state for state in _WORST_FIRST if state in self.row.tasks), None)
        if worst == "successful" and self.not_started:
            return "running" if self.run_status == "running" else None
        return worst


def of_run(run: Run, row: RunRow, step_rows: Sequence[StepRow] | None = None) -> list[GraphStep]:
    """Return the steps of a run's graph, those that have not started included, from `start` on.

    Args:
        run: the run.
        row: its row.
        step_rows: its steps that began, where they are known already.
    """
    began = {step.name: step for step in (rows.of_steps(run, row.status) if step_rows is None else step_rows)}
    nodes = _nodes(run.code, row.flow)
    whole = bool(nodes) and began.keys() <= nodes.keys() and all(node.kind != "invalid" for node in nodes.values())
    taken = [] if whole else steps.edges(run._store, int(run.id))
    many = [node.name for node in nodes.values() if node.kind in {"foreach", "parallel"}]
    announced = steps.announced(run._store, int(run.id), many) if many else {}
    expected = _expected(nodes, announced)
    return [
        attrs.evolve(step, row=began.get(step.name), expected=expected.get(step.name), run_status=row.status)
        for step in _steps(nodes, list(began), taken)
    ]


def of_flow(flow: Flow) -> list[GraphStep]:
    """Return the steps of a flow as its newest run has them."""
    run = flow.latest_run
    if run is None:
        return []
    return [attrs.evolve(step, row=None, expected=None, run_status="") for step in of_run(run, rows.of_run(run))]


def draw(graph_steps: Sequence[GraphStep], link: Callable[[GraphStep], str | None] | None = None, *, label: str) -> str:
    """Return a graph as HTML, made of classes in look.css.

    Args:
        graph_steps: its steps, as `of_run` or `of_flow` returns them.
        link: returns the address that a step leads to, or `None`; without it there are no links.
        label: the accessible name of the picture, such as 'Steps of PricesFlow/41'.
    """
    boxes = [_box(step, None if link is None else link(step)) for step in graph_steps]
    arrows = [Arrow(step.name, target, _why(step)) for step in graph_steps for target in step.targets]
    return graph(boxes, arrows, label=label)


def _box(step: GraphStep, href: str | None) -> Box:
    total = max(step.begun, step.expected or 0)
    state = step.state if step.run_status else "plain"
    title = shorten("\n".join(part for part in (_kind(step), step.doc) if part), 500)
    note = note_of(step) if step.run_status else _kind(step)
    return Box(step.name, state, f"×{total:,}" if total > 1 else "", note, title, href)


def note_of(step: GraphStep) -> str:
    """Return in a line how far a step of a run is: '31 ✓ · 1 ✕ · 8 not started', '1 task · 0.4 s'."""
    if step.row is None or not step.begun:
        return step.absence
    took = duration(step.row.duration_s if step.row.duration_s is not None else _since(step.row))
    if step.not_started or (step.begun > 1 and set(step.row.tasks) != {"successful"}):
        counts = [f"{step.row.tasks[state]:,} {shape}" for state, shape in SHAPES.items() if state in step.row.tasks]
        return " · ".join([*counts, *([f"{step.not_started:,} not started"] if step.not_started else [])])
    return f"{counted(step.begun, 'task') if step.state == 'successful' else step.state} · {took}"


def _since(row: StepRow) -> float:
    return time.time() - row.created_at.timestamp()


def _kind(step: GraphStep) -> str:
    parts = [
        "a join" if step.is_join else "",
        f"for each of {step.iterates}" if step.iterates not in {None, "num_parallel"} else "",
        "a gang" if step.iterates == "num_parallel" else "",
        f"switch on {step.condition}" if step.condition else "",
    ]
    return ", ".join(part for part in parts if part)


def _why(step: GraphStep) -> str:
    return {"switch": f"where {step.condition} says so", "foreach": "for each item"}.get(step.kind, "")


def _steps(nodes: Mapping[str, Node], began: Sequence[str], taken: Iterable[tuple[str, str]]) -> list[GraphStep]:
    """Return the steps of a source and those that began, with the arrows of both."""
    targets = {name: list(node.targets) for name, node in nodes.items()} | {n: [] for n in began if n not in nodes}
    for before, after in taken:
        if before in targets and after in targets and after not in targets[before]:
            targets[before].append(after)
    iterated = {
        target: node.foreach or "num_parallel"
        for node in nodes.values()
        if node.kind in {"foreach", "parallel"}
        for target in node.targets
    }
    first = part_of(nodes, "start")
    return [
        GraphStep(
            name,
            tuple(targets[name]),
            nodes[name].kind if name in nodes else "unknown",
            name in nodes and nodes[name].is_join,
            iterated.get(name),
            nodes[name].condition if name in nodes else None,
            nodes[name].doc if name in nodes else "",
        )
        for name in sorted(targets, key=lambda name: name != first)
    ]


# --- how many tasks a step will have


def _expected(nodes: Mapping[str, Node], announced: Mapping[str, int]) -> dict[str, int]:
    """Return how many tasks each step will have, but for those that a switch may pass by or repeat."""
    scopes = _scopes(nodes)
    chosen = {_scope_of_items(scopes[name], nodes) for name in scopes if nodes[name].kind == "switch"}
    return {
        name: _instances(scope, nodes, announced)
        for name, scope in scopes.items()
        if _scope_of_items(scope, nodes) not in chosen
    }


def _scopes(nodes: Mapping[str, Node]) -> dict[str, tuple[str, ...]]:
    """Return the splits that are open where each step begins, outermost first."""
    scopes: dict[str, tuple[str, ...]] = {first: ()} if (first := part_of(nodes, "start")) in nodes else {}
    queue = list(scopes)
    for name in queue:
        node = nodes[name]
        inner = (*scopes[name], name) if node.kind in SPLITS else scopes[name]
        for target in node.targets:
            if target in nodes and target not in scopes:
                scopes[target] = inner[:-1] if nodes[target].is_join else inner
                queue.append(target)
    return scopes


def _scope_of_items(scope: tuple[str, ...], nodes: Mapping[str, Node]) -> tuple[str, ...]:
    """Return the scope as far as its last foreach or gang: within it, each branch has one task an item."""
    while scope and nodes[scope[-1]].kind == "split":
        scope = scope[:-1]
    return scope


def _instances(scope: tuple[str, ...], nodes: Mapping[str, Node], announced: Mapping[str, int]) -> int:
    items = _scope_of_items(scope, nodes)
    return announced.get(items[-1], 0) if items else 1


# --- the source


@attrs.frozen(eq=False)
class _Class:
    """A class in a file: the names of its bases, and its steps."""

    bases: tuple[str, ...]
    steps: dict[str, Node]


@attrs.frozen(eq=False)
class _File:
    """The classes of a file, and what it imports: by the name here, the level, module and name there."""

    classes: dict[str, _Class]
    imports: dict[str, tuple[int, str, str]]


def _nodes(code: Code | None, flow: str) -> dict[str, Node]:
    """Return the steps of a flow as a snapshot of its source has them; none where they cannot be read."""
    if code is None:
        return {}
    try:
        return _steps_of_class(code, code.script_name, flow, [])
    except FlowstoreError:  # damaged or left out: the graph of what began is still worth seeing
        return {}


def _steps_of_class(code: Code, path: str, name: str, seen: list[tuple[str, str]]) -> dict[str, Node]:
    """Return the steps of a class, those of its bases first; `seen` are the classes on the way to it."""
    if (path, name) in seen or len(seen) > 50:
        return {}
    seen = [*seen, (path, name)]
    file = _parse(code.source(path, MOST_SOURCE_BYTES) or "")
    if name not in file.classes:
        origin = _origin(file, path, name, code.files)
        return {} if origin is None else _steps_of_class(code, *origin, seen)
    inherited: dict[str, Node] = {}
    for base in reversed(file.classes[name].bases):
        origin = (path, base) if base in file.classes else _origin(file, path, base, code.files)
        if origin is not None:
            inherited |= _steps_of_class(code, *origin, seen)
    return inherited | {step: _completed(node, inherited.get(step)) for step, node in file.classes[name].steps.items()}


def _completed(node: Node, base: Node | None) -> Node:
    """Return a step with the targets of its base's version, where it has none of its own."""
    if node.kind != "end" or base is None:
        return node
    return attrs.evolve(base, doc=node.doc or base.doc, is_join=node.is_join, line=node.line)


def _origin(file: _File, path: str, written: str, files: Sequence[str]) -> tuple[str, str] | None:
    """Return the path and the name of a class that a file imports; `None` where the snapshot does not have it."""
    alias, _, attribute = written.rpartition(".")
    imported = file.imports.get(alias or written)
    if imported is None:
        return None
    level, module, name = imported
    folder = PurePosixPath(path).parent
    for _ in range(level - 1):
        folder = folder.parent
    way = [*filter(None, module.split(".")), *([name] if alias else [])]
    for root in (folder, PurePosixPath()):
        for end in (".py", "/__init__.py"):
            if (candidate := f"{root.joinpath(*way)}{end}") in files:
                return candidate, attribute if alias else name
    return None


@functools.lru_cache(maxsize=32)
def _parse(source: str) -> _File:
    """Return the classes of a source; none where it cannot be parsed, or is too deep for that."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of '\\d', which concern whoever runs the source
            tree = ast.parse(source)
        classes = {node.name: _class(node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _File({}, {})
    imports: dict[str, tuple[int, str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imports |= {alias.asname or alias.name: (node.level, node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                module, _, last = alias.name.rpartition(".")
                imports[alias.asname or alias.name] = (0, module, last)
    return _File(classes, imports)


def _class(node: ast.ClassDef) -> _Class:
    marked = [child for child in node.body if isinstance(child, ast.FunctionDef) and step_mark(child) is not None]
    bases = tuple(ast.unparse(base) for base in node.bases if isinstance(base, ast.Name | ast.Attribute))
    return _Class(bases, {child.name: read_step(child) for child in marked})
