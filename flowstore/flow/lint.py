"""Every mistake of a graph that can be known before it runs, each as one message that says the fix.

Invariant: a graph that passes has, for each step, one stack of open splits, the same by whatever path the
step is reached; a join closes the innermost of them, and each split is closed by one join, where all its
branches arrive. A run relies on it: a task's place in the foreaches around it follows from its step, a join
knows how many tasks to wait for, and no run ends with a branch left over. `check_nesting` is the traversal
that computes the stacks; the checks before it make sure that it has a whole graph to walk.

A check is a function that yields messages. Those of a later stage take the earlier ones for granted, and only
run when these found nothing: with a step missing, half the flow would be called unreachable.
"""

from __future__ import annotations

import graphlib
from collections import deque
from typing import TYPE_CHECKING

from flowstore import later
from flowstore.errors import GraphError
from flowstore.flow.graph import CHOOSING, SPLITS
from flowstore.flow.spec import OWN_NAMES
from flowstore.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowstore.flow.graph import Graph, Node

    Check = Callable[[Graph], Iterator[str]]
    Stack = tuple[tuple[str, str], ...]  # the open splits, outermost first, each with the branch taken


def check(graph: Graph) -> None:
    """Refuse a graph that can't run.

    Raises:
        GraphError: with the first, most basic mistake.
    """
    for message in _messages(graph):
        raise GraphError(message)


def problems(graph: Graph) -> list[str]:
    """Return all mistakes of the most basic kind that the graph has; empty if it can run."""
    return list(_messages(graph))


def _messages(graph: Graph) -> Iterator[str]:
    for stage in CHECKS:
        has_problem = False
        for check in stage:
            for message in check(graph):
                has_problem = True
                yield message
        if has_problem:
            return


def _at(node: Node, *, tail: bool = False) -> str:
    return f"{node.file}:{node.next_line if tail else node.line}: step {node.name!r}"


# Each step by itself.


def check_has_steps(graph: Graph) -> Iterator[str]:
    """Check that a flow has steps."""
    if not graph.nodes:
        yield (
            f"{graph.file}:{graph.line}: flow {graph.flow!r} has no steps. "
            "Mark its methods with @step, from `start` to `end`."
        )


def check_start(graph: Graph) -> Iterator[str]:
    """Check that a run begins at one step, with nothing to join, to which no other leads."""
    yield from _one(graph, "start", [node for node in graph if "start" in node.parts])
    if graph.start not in graph:
        yield (
            f"{graph.file}:{graph.line}: flow {graph.flow!r} has no step 'start', where a run begins. "
            "Add one, or mark the first step with @step(start=True)."
        )
    elif graph[graph.start].is_join:
        yield f"{_at(graph[graph.start])} takes inputs, but a run begins here. Write `def {graph.start}(self)`."


def check_end(graph: Graph) -> Iterator[str]:
    """Check that a run ends at one step, and only there."""
    yield from _one(graph, "end", [node for node in graph if "end" in node.parts])
    if graph.end not in graph:
        yield (
            f"{graph.file}:{graph.line}: flow {graph.flow!r} has no step 'end', where a run ends. "
            "Add one, or mark the last step with @step(end=True)."
        )
    for node in graph:
        if node.name == graph.end and node.targets:
            yield f"{_at(node, tail=True)} calls self.next, but a run ends here. Remove the call."
        elif node.name != graph.end and node.kind == "end":
            target = graph.end if graph.end in graph else "end"
            yield (
                f"{_at(node, tail=True)} has no self.next(...). Add one as its last statement, such as "
                f"self.next(self.{target})."
            )


def _one(graph: Graph, part: str, marked: list[Node]) -> Iterator[str]:
    """Check that one step is marked as the start or the end, and that no other is named so."""
    for node in marked[1:]:
        yield f"{_at(node)} is marked @step({part}=True), and so is {marked[0].name!r}. Mark one of them."
    if marked and marked[0].name != part and part in graph:
        yield (
            f"{_at(graph[part])} is named like the {part} of a flow, but {marked[0].name!r} is marked "
            f"@step({part}=True). Rename this step, or remove the mark."
        )


def check_names(graph: Graph) -> Iterator[str]:
    """Names that begin with an underscore are flowstore's own."""
    for node in graph:
        if node.name.startswith("_"):
            yield f"{_at(node)} begins with an underscore, which is kept for flowstore. Rename it."


def check_assigned(graph: Graph) -> Iterator[str]:
    """Check that no artifact has a name that `FlowSpec` needs."""
    for node in graph:
        for name, line in node.assigned:
            if name in OWN_NAMES:
                yield (
                    f"{node.file}:{line}: step {node.name!r} assigns self.{name}, but {name!r} is FlowSpec's own name. "
                    "Use another name."
                )


def check_tails(graph: Graph) -> Iterator[str]:
    """Check that each `self.next` is of a form that can be read."""
    for node in graph:
        if node.problem:
            yield f"{_at(node, tail=True)}: {node.problem}"


def check_targets(graph: Graph) -> Iterator[str]:
    """Check that each `self.next` leads to steps of this flow."""
    for node in graph:
        for target in node.targets:
            if target not in graph:
                yield (
                    f"{_at(node, tail=True)} leads to {target!r}, which is no step of {graph.flow}."
                    f"{did_you_mean(target, graph.nodes)} If it is a method, mark it with @step."
                )


# Whether every step lies on a way from the first step to the last.


def check_cycles(graph: Graph) -> Iterator[str]:
    """Only a switch may lead back: any other cycle never ends."""
    certain = {node.name: node.targets for node in graph if node.kind != "switch"}
    try:
        graphlib.TopologicalSorter(certain).prepare()
    except graphlib.CycleError as error:
        cycle = error.args[1][:0:-1]  # reversed, as it takes what leads on for what comes before
        start = cycle.index(next(name for name in graph.nodes if name in cycle))
        cycle = [*cycle[start:], *cycle[:start]]  # reported for the step that comes first in the source
        way = " -> ".join([*cycle, cycle[0]])
        yield (
            f"{_at(graph[cycle[-1]], tail=True)} leads back to {cycle[0]!r} ({way}), so the run never ends. "
            "To go back, use a switch, which can also go on: "
            f'self.next({{True: self.{cycle[0]}, False: self.{graph.end}}}, condition="again").'
        )


def check_reached(graph: Graph) -> Iterator[str]:
    """Check that each step can be reached from the first one."""
    reached = _closure(graph.start, lambda name: graph[name].targets)
    for node in graph:
        if node.name not in reached:
            yield f"{_at(node)} is never reached from {graph.start!r}. Lead a self.next(...) to it, or remove it."


def check_ends(graph: Graph) -> Iterator[str]:
    """From each step, the last one can be reached."""
    ending = _closure(graph.end, graph.parents)
    for node in graph:
        if node.name not in ending:
            yield (
                f"{_at(node, tail=True)} never gets to {graph.end!r}: from here the run goes round for ever. Give a "
                "switch on the way a case that leads out."
            )


def _closure(first: str, following: Callable[[str], tuple[str, ...]]) -> set[str]:
    seen, left = {first}, [first]
    while left:
        new = set(following(left.pop())) - seen
        seen |= new
        left += new
    return seen


# Whether every split is joined.


def check_nesting(graph: Graph) -> Iterator[str]:
    """Check that each step has one stack of open splits, and each split one join."""
    walk = _Walk(graph, {graph.start: ()})
    left, seen = deque([graph.start]), {graph.start}
    reported: set[str] = set()
    while left:
        node = graph[left.popleft()]
        for target in node.targets:
            problem = walk.arrive(node, graph[target])
            if problem and problem not in reported:  # each branch of a split may meet the same mistake
                reported.add(problem)
                yield problem
            if target not in seen:
                seen.add(target)
                left.append(target)


@later.define
class _Walk:
    """The splits that are open at each step met so far, from its first arrival; later ones must agree."""

    graph: Graph
    stacks: dict[str, Stack]
    closes: dict[str, str] = later.field(factory=dict)  # join -> the split it closes
    joined: dict[str, str] = later.field(factory=dict)  # split -> the join that closes it
    unjoined: set[str] = later.field(factory=set)  # splits that are open at `end`

    def arrive(self, node: Node, target: Node) -> str | None:
        """Go along one edge; what is wrong with it, if anything."""
        stack = self.stacks[node.name]
        if node.kind in SPLITS:
            stack = (*stack, (node.name, target.name))
        problem = self._close(node, target, stack) if target.is_join else None
        if target.is_join:
            stack = stack[:-1]
        if target.name == self.graph.end:
            return problem or self._left_open(stack)
        first = self.stacks.setdefault(target.name, stack)
        return problem or (None if first == stack else self._meet(node, target, stack, first))

    def _close(self, node: Node, join: Node, stack: Stack) -> str | None:
        if node.kind in SPLITS:
            return (
                f"{_at(node, tail=True)} leads straight to the join {join.name!r}, so that branch has no "
                "step. Put one in between."
            )
        if not stack:
            return (
                f"{_at(join)} takes inputs, but coming from {node.name!r} no split is open. "
                f"Write `def {join.name}(self)`, or lead only branches of a split to it."
            )
        split = stack[-1][0]
        first = self.closes.setdefault(join.name, split)
        if first != split:
            inner, outer = sorted((split, first), key=lambda name: -len(self.stacks[name]))
            nested = outer in dict(self.stacks[inner])
            return (
                f"{_at(join)} joins branches of two splits, {outer!r} and {'within it ' * nested}{inner!r}. "
                f"Join those of {inner!r} {'first, ' * nested}in a step of their own."
            )
        other = self.joined.setdefault(split, join.name)
        if other != join.name:
            return (
                f"{_at(self.graph[split], tail=True)} splits into branches that arrive at different joins, "
                f"{other!r} and {join.name!r}. Lead all of them to one."
            )
        return None

    def _left_open(self, stack: Stack) -> str | None:
        if not stack or stack[-1][0] in self.unjoined:  # one branch stands for all
            return None
        split = self.graph[stack[-1][0]]
        self.unjoined.add(split.name)
        return (
            f"{_at(split, tail=True)} has a branch, {stack[-1][1]!r}, that gets to {self.graph.end!r} without a join. "
            "Lead it to a step that takes inputs, such as `def join(self, inputs)`, and that one to "
            f"{self.graph.end!r}."
        )

    def _meet(self, node: Node, target: Node, stack: Stack, first: Stack) -> str:
        if [split for split, _ in stack] == [split for split, _ in first]:
            split = next(mine[0] for mine, theirs in zip(stack, first, strict=True) if mine != theirs)
            return (
                f"{_at(target)} is where branches of {split!r} meet, but it does not join them. "
                f"Write `def {target.name}(self, inputs)`."
            )
        return (
            f"{_at(target)} is reached from {node.name!r} {_within(stack)}, but elsewhere {_within(first)}. "
            "On every way to a step the same splits must be open. Join first, or lead to another step."
        )


def _within(stack: Stack) -> str:
    return f"within {' and '.join(repr(split) for split, _ in stack)}" if stack else "outside of any split"


def check_parallel(graph: Graph) -> Iterator[str]:
    """Check that a gang is started by `num_parallel`, and knows itself as one by `@parallel`."""
    for node in graph:
        for target in node.targets:
            gang = "parallel" in graph[target].decorators
            if node.kind == "parallel" and not gang:
                yield f"{_at(graph[target])} is run by num_parallel in {node.name!r}. Add @parallel to it."
            elif gang and node.kind != "parallel":
                yield (
                    f"{_at(node, tail=True)} leads to {target!r}, which is marked @parallel. Write "
                    f"self.next(self.{target}, num_parallel=n), or remove @parallel."
                )
    if "parallel" in graph[graph.start].decorators:
        yield f"{_at(graph[graph.start])} is marked @parallel, but a run begins with one task. Remove @parallel."


def check_catch(graph: Graph) -> Iterator[str]:
    """Check that `@catch` is not on a step that chooses what to fan out over or where to go: a failed one has not."""
    for node in graph:
        if "catch" in node.decorators and node.kind in CHOOSING:
            yield (
                f"{_at(node)} has @catch, but what follows it is chosen while it runs ({node.kind}). "
                "Do the work that may fail in a step of its own before it."
            )


CHECKS: tuple[tuple[Check, ...], ...] = (
    (check_has_steps,),
    (check_start, check_end, check_names, check_assigned, check_tails, check_targets),
    (check_cycles,),
    (check_reached, check_ends),
    (check_nesting, check_parallel, check_catch),
)
