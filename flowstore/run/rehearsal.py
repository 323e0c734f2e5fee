"""A task of a small flow that a task server runs itself, so that its forks have less to do for the first time.

Python adapts code and fills caches while code runs, and a fork copies each page of memory that it writes to. What has
run before the fork is written to less. The rehearsal calls what every task calls, but neither user code nor anything
that ends the process.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from flowstore import context
from flowstore.flow.decorators import step
from flowstore.flow.graph import Graph, Node
from flowstore.flow.spec import FlowSpec
from flowstore.run import wire
from flowstore.run.ending import Ending, flush_output
from flowstore.run.randomness import Generators
from flowstore.run.task import run_attempt
from flowstore.run.worker import deliver
from flowstore.store import db

_TIMES = 8  # that often, Python 3.11 has called a function when it adapts it


class _Rehearsal(FlowSpec):
    @step
    def only(self) -> None:
        self.value = self.input
        self.next(self.only)


_AFTER_FORK = (threading._after_fork, db._after_fork_in_child)  # type: ignore[attr-defined]  # called in each fork
_GRAPH = Graph(flow="", file="", line=0, doc="", nodes={"only": Node(name="only", kind="linear", targets=("only",))})
_ORDER: dict[str, Any] = {  # as `orders.Orders.order` writes them
    "store": "",
    "trusted": False,
    "run_id": 0,
    "max_num_splits": 1,
    "parameters": {},
    "constants": [],
    "current": {"namespace": None, "tags": [], "parallel": None},
    "step": "only",
    "base_id": 0,
    "frames": [{"kind": "foreach", "index": 0, "count": 1, "opener": 0, "items_from": "", "item": ("json", b"0")}],
    "inputs": [],
    "joined": None,
    "environment": {},
    "timeout_s": None,
    "catch": None,
    "last_attempt": True,
    "fallback": None,
    "reuse": False,
}


def rehearse(generators: Generators, ending: Ending) -> None:
    """Run the task a few times, from its order to its report, which nobody reads."""
    module = context.state.flow_module
    driver, channel = socket.socketpair()
    with driver, channel:
        for _ in range(_TIMES):
            for hook in _AFTER_FORK:
                hook()
            wire.send(driver, _ORDER)
            order = wire.receive(channel)
            assert order is not None
            generators.derive(order["step"], order["frames"])
            product = run_attempt(_Rehearsal, _GRAPH, order, ending)
            flush_output()
            deliver(channel, product, ended=not ending.is_due())
    context.state.flow_module = module
