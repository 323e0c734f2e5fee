"""The public types, as a user's type checker sees them. Nothing here is executed: `mypy` checks it.

A line that no longer holds is a change that users see: it needs a line in the changelog.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import flowstore
from flowstore import (
    DataArtifact,
    ExceptionInfo,
    Flow,
    Flows,
    FlowSpec,
    IncludeFile,
    JSONType,
    Parameter,
    Run,
    Step,
    Task,
    catch,
    current,
    retry,
    step,
)

if TYPE_CHECKING:
    import pandas as pd


class TypedFlow(FlowSpec):
    """A flow whose author writes types."""

    alpha = Parameter("alpha", default=0.1, type=float, help="a rate")
    options = Parameter("options", type=JSONType, default={})
    table = IncludeFile("table", required=False)

    @retry(times=2)
    @catch(var="problem")
    @step
    def start(self) -> None:
        """Set artifacts of any type."""
        self.numbers = [1, 2, 3]
        assert_type(self.index, int | None)
        assert_type(self.foreach_stack(), list[tuple[int, int, Any]])
        self.next(self.end)

    @step
    def end(self) -> None:
        """Read them: their types are what the flow's author declares."""
        assert_type(self.numbers, list[int])


def check_decorators() -> None:
    """A decorator leaves the type of what it decorates as it is."""

    def number() -> int:
        return 1

    assert_type((step(number)(), retry(number)(), retry(times=2)(number)()), tuple[int, int, int])
    assert_type((catch(number)(), catch(var="problem")(number)()), tuple[int, int])


def check_containers() -> None:
    """Each object holds those of the next kind, iterates over them, and finds them by id."""
    assert_type(list(Flows()), list[Flow])
    flow = Flow("TypedFlow")
    run, one_step, task = flow["5"], flow[5]["start"], flow[5]["start"][17]
    assert_type((run, one_step, task, task["numbers"]), tuple[Run, Step, Task, DataArtifact])
    assert_type((list(flow), list(run), list(one_step), list(task)),
                tuple[list[Run], list[Step], list[Task], list[DataArtifact]])  # fmt: skip
    assert_type(flow.runs("a", "b"), Iterator[Run])
    assert_type(run.steps(), Iterator[Step])
    assert_type(one_step.tasks("a"), Iterator[Task])
    assert_type((task.parent, one_step.parent, run.parent, flow.parent), tuple[Step, Run, Flow, None])


def check_what_may_be_missing() -> None:
    """A flow may have no run, a run no end, a step no task: these are `None`, and nothing else is."""
    flow = Flow("TypedFlow")
    assert_type(flow.latest_run, Run | None)
    assert_type(flow.latest_successful_run, Run | None)
    run = flow["latest"]
    assert_type(run.end_task, Task | None)
    assert_type(run.finished_at, datetime | None)
    assert_type(run.origin_run_id, str | None)
    assert_type(run.note, str | None)
    assert_type(run["start"].task, Task | None)
    assert_type(run["start"][1].exception, ExceptionInfo | None)


def check_values() -> None:
    """Times are aware datetimes, ids are text, artifacts are of any type."""
    run = Run("TypedFlow/5")
    assert_type((run.id, run.pathspec, run.status, run.user), tuple[str, str, str, str])
    assert_type((run.created_at, run.successful, run.finished), tuple[datetime, bool, bool])
    assert_type(run.parameters, dict[str, Any])
    assert_type(run.metrics, dict[str, float])
    assert_type(run.tags, frozenset[str])
    task = Task("TypedFlow/5/start/17", attempt=0)
    assert_type((task.stdout, task.stderr), tuple[str, str])
    assert_type(task.loglines("stdout"), Iterator[tuple[datetime, str]])
    assert_type(task.data.numbers, Any)
    artifact = DataArtifact("TypedFlow/5/start/17/numbers")
    assert_type((artifact.data, artifact.size, artifact.sha, artifact.codec), tuple[Any, int, str, str])


def check_functions() -> None:
    """The functions of the package, and `current`."""
    assert_type(flowstore.__version__, str)
    assert_type(flowstore.namespace(None), str | None)
    assert_type(flowstore.get_namespace(), str | None)
    assert_type(flowstore.get_store(), Path)
    with flowstore.use_store("flowstore.db", trust=False):
        frame: pd.DataFrame = Flow("TypedFlow").to_dataframe("a")
    frame.describe()
    assert_type(current.run_id, Any)  # `None` outside of tasks
