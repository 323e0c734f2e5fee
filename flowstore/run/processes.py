"""How the processes of tasks are started on this machine: task servers, which fork them, and fresh interpreters."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flowstore.flow.graph import Graph
from flowstore.flow.spec import FlowSpec
from flowstore.run import server, servers, threads
from flowstore.run.randomness import Generators
from flowstore.run.servers import TaskServer

if TYPE_CHECKING:
    from flowstore.run.interpreter import Interpreters
    from flowstore.run.snapshot import Sources
    from flowstore.run.spawn import Spawner


def default_start_method() -> str:
    """`fork` where it is there and safe, else `spawn`."""
    return "fork" if hasattr(os, "fork") and sys.platform != "darwin" else "spawn"


class Processes:
    """Starts what runs the tasks of a flow.

    Args:
        flow: its class, as this process imported it.
        graph: its steps.
        sources: its snapshot.
    """

    def __init__(self, flow: type[FlowSpec], graph: Graph, sources: Sources) -> None:
        self._flow = flow
        self._graph = graph
        self._sources = sources
        self._spawner: Spawner | None = None
        self._interpreters: Interpreters | None = None

    def fork_server(self, method: str | None, generators: Generators | None) -> tuple[TaskServer | None, str | None]:
        """Fork this process into a task server.

        Returns:
            The server, `None` where tasks are to be spawned; and what to tell the user about that.
        """
        if (method or default_start_method()) != "fork":
            self.spawner()
            return None, None
        generators = generators or Generators(sys.modules[self._flow.__module__])
        control, pid = server.start(self._flow, self._graph, generators)
        main = TaskServer(control, pid=pid)
        missed = threads.missed_after_fork()
        if missed and method is None:
            main.close(kill=True)  # it may hang, too
            self.spawner()
            return None, threads.notice(missed, forked=False)
        return main, threads.notice(missed, forked=True) if missed else None

    def import_server(self, environment: Mapping[str, str], ends: Sequence[int]) -> TaskServer:
        """Start the server for a step's variables; `ends` is where the import of the flow prints."""
        if self._interpreters is None:
            from flowstore.run.interpreter import Interpreters

            self._interpreters = Interpreters(self._flow, self._sources)
        return servers.start(self._interpreters, environment, *ends)

    def spawner(self) -> Spawner:
        """Return the spawner, which starts interpreters that run tasks themselves."""
        if self._spawner is None:
            from flowstore.run.spawn import Spawner

            self._spawner = Spawner(self._flow, self._sources)
        return self._spawner

    @property
    def spawns(self) -> bool:
        """Whether there is, or was, a process that `spawner` started."""
        return self._spawner is not None

    def close(self) -> None:
        """Wait until all interpreters have ended."""
        if self._spawner is not None:
            self._spawner.close()
        if self._interpreters is not None:
            self._interpreters.close()
