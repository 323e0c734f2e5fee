"""Random graphs: what is well nested passes, reads back, and runs to its end."""

from __future__ import annotations

import random

from hypothesis import event, given
from hypothesis import strategies as st

from flowstore.flow import lint
from flowstore.flow.graph import describe, graph_of
from support.graphs import Plan, blocks, play


@given(blocks, st.randoms(use_true_random=False))
def test_a_well_nested_graph_passes_and_reads_back(block, chance):
    """Whatever is nested properly is legal, is read as it was written, and needs each of its joins."""
    plan = Plan(block)
    order = [*plan.steps]
    chance.shuffle(order)
    graph = graph_of(plan.flow(order))
    lint.check(graph)
    assert {node.name: (node.kind, node.targets, node.is_join) for node in graph} == plan.steps
    assert [node.name for node in graph] == order
    assert {node.name for node in graph if node.decorators} == plan.parallel
    assert describe(graph).count("=>") == len(order) - 1
    for node in graph:
        assert set(graph.parents(node.name)) == {name for name in order if node.name in plan.steps[name][1]}
    if joins := [name for name in order if plan.steps[name][2]]:
        assert lint.problems(graph_of(plan.flow(order, but=chance.choice(joins))))


@given(blocks, st.data())
def test_what_passes_runs_to_its_end(block, data):
    """Whichever edge is bent: a graph that still passes never gets stuck or ends with a branch left over."""
    plan = Plan(block)
    name = data.draw(st.sampled_from([name for name, (kind, _, _) in plan.steps.items() if kind != "end"]))
    kind, targets, join = plan.steps[name]
    bent = data.draw(st.sampled_from(targets))
    other = data.draw(st.sampled_from([*plan.steps]))
    plan.steps[name] = (
        kind,
        tuple(dict.fromkeys(other if target == bent else target for target in targets)),
        join,
    )
    graph = graph_of(plan.flow(plan.steps))
    if not lint.problems(graph):
        event("passes, bent" if other != bent else "passes, as it was")
        assert play(graph, random.Random(0)) == "end"
