"""State machines with a state for each step: the flow's graph, in Amazon States Language.

A run is still one run of one driver. Beside the state that stands for it, a second branch has a state for each step,
which admits a task and is answered when that has finished; so AWS's console shows where a run is.

    waiting --> a Parallel state of: the run, with its heartbeat (as in `definition.of_run`)
                                     the steps: `Map` for a foreach, `Parallel` for a branch, `Choice` for a switch

What goes from state to state is `{"path": "0/3", "result": ANSWER}`: the indexes in the foreaches around a step, and
what the worker answered for the step before: `{"items": [0, 1, …]}` by a foreach, `{"next": STEP}` by a switch,
`{"members": N}` by a gang's start. The members of a gang share a state. States of steps miss no sign of life: their
tokens are kept in the store, where the next worker finds them.

AWS records about eight events a task and stops an execution at 25,000. So a worker fails one that would get there.
"""

from __future__ import annotations

from typing import Any

import attrs

from flowstore.errors import FlowstoreError, GraphError
from flowstore.flow.graph import Graph, Node
from flowstore.production.stepfunctions import definition
from flowstore.production.stepfunctions.definition import Machine
from flowstore.production.stepfunctions.messages import STEP, template

EVENTS_A_TASK = 8
MAX_EVENTS = 24_500  # of 25,000; the rest is for the run's own states
_MAX_NAME = 80
_States = dict[str, dict[str, Any]]


def of_steps(machine: Machine, graph: Graph) -> dict[str, Any]:
    """Return a definition in which each step is a state.

    Raises:
        GraphError: the graph cannot be expressed so.
    """
    again = "Wait for another worker"
    of_run = {
        "StartAt": "The run",
        "States": {"The run": definition.run(machine, again), again: definition.queued(machine, again, "The run")},
    }
    both = {
        "Type": "Parallel",
        "Parameters": {"path": ""},
        "Branches": [of_run, _Compiler(machine, graph).scope(graph.start, None, gang=False)],
        "OutputPath": "$[0]",  # of the run
        "End": True,
    }
    first, second = "Wait for a worker", "Run and steps"  # no step is called so
    states = {first: definition.queued(machine, first, second), second: both}
    return {"Comment": definition.comment(machine), "StartAt": first, "States": states}


@attrs.frozen
class _Compiler:
    """Compiles a graph scope by scope: what lies between a split and its join is a machine inside of a state."""

    machine: Machine
    graph: Graph

    def scope(self, first: str, join: str | None, *, gang: bool) -> dict[str, Any]:
        """Return the states from a step to the join that closes its split, which is left out."""
        states: _States = {}
        todo = [first]
        while todo:
            step = todo.pop()
            if step not in states:
                todo += self._add(states, self.graph[step], join, gang=gang)
        return {"StartAt": first, "States": states}

    def _add(self, states: _States, node: Node, join: str | None, *, gang: bool) -> list[str]:
        """Add the states of a step; return the steps of the same scope that follow."""
        if len(node.name) > _MAX_NAME - len(" (foreach)"):
            raise GraphError(f"The name of the step {node.name[:40]}… is too long for a state: leave out --steps.")
        states[node.name] = self._task(node, gang=gang)
        if node.kind == "end":
            states[node.name]["End"] = True
            return []
        if node.kind == "switch":
            return self._add_switch(states, node, join)
        if node.kind == "linear":
            return _lead(states[node.name], node.targets[0], join)
        after = self._join_of(node)
        if gang and node.kind != "split":
            raise GraphError(
                f"The step {node.name} opens a {node.kind} inside of a gang, which states of AWS cannot express: "
                "leave out --steps."
            )
        name = f"{node.name} ({node.kind})"
        states[node.name]["Next"] = name
        states[name] = self._split(node, after, gang=gang)
        return _lead(states[name], after, join)

    def _task(self, node: Node, *, gang: bool) -> dict[str, Any]:
        about = {"step": node.name, "path.$": "$.path", **({"members.$": "$.result.members"} if gang else {})}
        return {
            **definition.asking(self.machine, template(STEP, self.machine.facts, about)),
            "HeartbeatSeconds": definition.FOR_EVER_S,  # so that a sign of life tells whether AWS knows the token
            "ResultPath": "$.result",
        }

    def _split(self, node: Node, join: str, *, gang: bool) -> dict[str, Any]:
        """Return the state that holds what lies between a split and its join."""
        if node.kind == "split":
            branches = [self.scope(target, join, gang=gang) for target in node.targets]
            return {"Type": "Parallel", "Branches": branches, "ResultPath": None}
        [target] = node.targets
        if node.kind == "parallel":
            return {"Type": "Parallel", "Branches": [self.scope(target, join, gang=True)], "ResultPath": None}
        inner = self.scope(target, join, gang=gang)
        return {
            "Type": "Map",
            "ItemsPath": "$.result.items",
            "ItemSelector": {"path.$": "States.Format('{}/{}', $.path, $$.Map.Item.Value)"},
            "ItemProcessor": {"ProcessorConfig": {"Mode": "INLINE"}, **inner},
            "ResultPath": None,
        }

    def _add_switch(self, states: _States, node: Node, join: str | None) -> list[str]:
        choice, leave = f"{node.name} (switch)", f"{node.name} (leave)"
        states[node.name]["Next"] = choice
        choices = []
        for target in node.targets:
            following = leave if target == join else target
            choices.append({"Variable": "$.result.next", "StringEquals": target, "Next": following})
        states[choice] = {"Type": "Choice", "Choices": choices}
        if join in node.targets:
            states[leave] = {"Type": "Pass", "End": True}
        return [target for target in node.targets if target != join]

    def _join_of(self, node: Node) -> str:
        """Return the join that closes a split: the first one on any way from it that no split between closes."""
        todo = [(target, 0) for target in node.targets]
        seen = set(todo)
        while todo:
            step, depth = todo.pop()
            inner = self.graph[step]
            if inner.is_join:
                if depth == 0:
                    return step
                depth -= 1
            if inner.kind in {"split", "foreach", "parallel"}:
                depth += 1
            following = {(target, depth) for target in inner.targets} - seen
            seen |= following
            todo += following
        raise FlowstoreError(f"The split of the step {node.name} is never joined.")  # which `check` finds first


def _lead(state: dict[str, Any], target: str, join: str | None) -> list[str]:
    """Have a state lead to a step, or end where that is the join of its scope; return the steps that follow."""
    if target == join:
        state["End"] = True
        return []
    state["Next"] = target
    return [target]
