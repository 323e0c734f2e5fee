"""Policies of steps, from their decorators: retries, a time limit, `@catch`, variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowstore import later
from flowstore.flow import decorators
from flowstore.flow.attached import decorators_of
from flowstore.flow.graph import CHOOSING, Graph, Node
from flowstore.flow.spec import FlowSpec


@later.frozen
class StepPolicy:
    """The policy of a step, from its decorators.

    Attributes:
        retries: how many more attempts may follow one that failed.
        retry_delay_s: how long to wait before each of them.
        timeout_s: how long an attempt may take; 0 for no limit.
        catch: the step's `@catch`, if it has one.
        environment: variables that the step's processes have from their beginning.
        secrets: variables that the step has, and whose values are hidden.
        metadata: what else is recorded with each attempt.
        cards_s: how long rendering its cards may take after the step has ended.
    """

    retries: int = 0
    retry_delay_s: float = 0
    timeout_s: float = 0
    catch: decorators.Catch | None = None
    environment: Mapping[str, str] = later.field(factory=dict)
    secrets: Mapping[str, str] = later.field(factory=dict)
    metadata: Mapping[str, Any] = later.field(factory=dict)
    cards_s: float = 0


def policies_of(
    flow: type[FlowSpec], graph: Graph, with_: Sequence[str], say: Callable[[str], None]
) -> dict[str, StepPolicy]:
    """Return the policy of each step.

    Args:
        flow: the flow's class; its steps have decorators.
        graph: its steps.
        with_: the decorators of `--with`, which the step's own override.
        say: tells the user which of these is left out.
    """
    decorated = {node.name: decorators_of(flow, node.name, with_) for node in graph}
    attached = {node.name: _attached(node, decorated[node.name], say) for node in graph}
    used = [*flow._flow_decorators, *(item for items in attached.values() for item in items.values())]
    others = sorted({f"@{item.name}" for item in used if not item.is_followed})
    if others:
        say(f"{', '.join(others)}: flowstore has none of these, and runs such steps like all others, in this Python.")
    return {
        name: _policy(name, items, sum(item.timeout for item in decorated[name] if isinstance(item, decorators.Card)))
        for name, items in attached.items()
    }


def _attached(
    node: Node, decorated: Sequence[decorators.StepDecorator], say: Callable[[str], None]
) -> dict[str, decorators.StepDecorator]:
    """Return the decorators of a step, by name."""
    attached = {item.name: item for item in decorated}
    if "catch" in attached and node.kind in CHOOSING:  # in the source, the check of the graph has refused it
        del attached["catch"]
        say(f"--with catch: not for step {node.name}, where what follows is chosen while it runs ({node.kind}).")
    return attached


def _policy(step: str, attached: Mapping[str, decorators.StepDecorator], cards_s: float) -> StepPolicy:
    retry, catch, timeout = attached.get("retry"), attached.get("catch"), attached.get("timeout")
    environment, resources = attached.get("environment"), attached.get("resources")
    variables = (
        {str(k): str(v) for k, v in environment.vars.items()} if isinstance(environment, decorators.Environment) else {}
    )
    return StepPolicy(
        retries=int(retry.times) if isinstance(retry, decorators.Retry) else 0,
        retry_delay_s=60 * retry.minutes_between_retries if isinstance(retry, decorators.Retry) else 0,
        timeout_s=timeout.total_s if isinstance(timeout, decorators.Timeout) else 0,
        catch=catch if isinstance(catch, decorators.Catch) else None,
        environment=variables,
        secrets=attached["secrets"].values(step, variables) if "secrets" in attached else {},  # type: ignore[attr-defined]
        metadata={"resources": resources.amounts} if isinstance(resources, decorators.Resources) else {},
        cards_s=cards_s,
    )
