"""Reads the runs of Metaflow's local store from its folder.

A flow has a folder, in it a run, in that a step, in that a task. Each has a record, `_meta/_self.json`. Beside the
task's are its facts, one file each. The task's folder has its attempts: when one began, which artifacts it had, and
what it printed. The step `_parameters` is none: its task has the parameters and constants of the run.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowstore.errors import ArtifactError
from flowstore.flow.names import check_name
from flowstore.transfer.metaflow_history.folder import Fields, Folder, Problem, Report
from flowstore.transfer.metaflow_history.lineage import Spot, parents_of
from flowstore.transfer.metaflow_history.pickles import Outline
from flowstore.transfer.metaflow_history.runs import Attempt, Fact, Run, Task, is_internal
from flowstore.transfer.metaflow_history.values import Artifact, Values

PARAMETERS = "_parameters"
_RUN_ID = re.compile("[0-9]{1,18}")
_ATTEMPT_FILE = re.compile(r"([0-9]{1,4})\.(.+)")
_FACT = re.compile("attempt_id:([0-9]{1,4})")
_MOST_ATTEMPTS = 1000


class Reader:
    """Reads the runs of one folder.

    Args:
        folder: the folder.
        values: reads what is stored by its hash.
        report: collects what is wrong.
    """

    def __init__(self, folder: Folder, values: Values, report: Report) -> None:
        self._folder = folder
        self._values = values
        self._report = report

    def run_ids(self, flow: str) -> list[str]:
        """Return the ids of a flow's runs, the oldest first."""
        try:
            names, _ = self._folder.list(flow)
        except Problem as problem:
            self._report.add(problem)
            return []
        return sorted((name for name in names if _RUN_ID.fullmatch(name)), key=lambda name: (len(name), name))

    def record(self, flow: str, run_id: str) -> Fields:
        """Return the record of a run.

        Raises:
            Problem: it is missing, or is another run's.
        """
        record = self._record(f"{flow}/{run_id}")
        if record.text("flow_id") != flow or record.text("run_number") != run_id:
            raise Problem(record.path, f"it is the record of {record.text('flow_id')}/{record.text('run_number')}")
        return record

    def _record(self, path: str) -> Fields:
        name = f"{path}/_meta/_self.json"
        values = self._folder.json(name)
        if values is None:
            raise Problem(name, "it is missing")
        return Fields(name, values)

    def run(self, flow: str, run_id: str) -> Run:
        """Return a run; raise Problem where something of it is missing or malformed."""
        record = self.record(flow, run_id)
        path = f"{flow}/{run_id}"
        names, _ = self._folder.list(path)
        steps: dict[str, int] = {}
        tasks: list[Task] = []
        for step in names:
            if step in {"_meta", PARAMETERS}:
                continue
            _check(check_name, f"{path}/{step}", step)
            steps[step] = self._record(f"{path}/{step}").time_ms("ts_epoch")
            tasks += [self._task(flow, f"{path}/{step}", step, name) for name in self._task_ids(f"{path}/{step}")]
        tasks.sort(key=_order)
        graph = self._graph(tasks)
        return Run(
            flow=flow,
            id=run_id,
            user=record.text("user_name", "unknown"),
            created_at=record.time_ms("ts_epoch"),
            tags=record.texts("tags"),
            system_tags=record.texts("system_tags"),
            steps=dict(
                sorted(
                    steps.items(),
                    key=lambda item: min([t.created_at for t in tasks if t.step == item[0]], default=item[1]),
                )
            ),
            tasks=tasks,
            parents=parents_of(
                [Spot(t.step, t.indexes, t.transition.get("targets", ())) for t in tasks], _joins(graph)
            ),
            parameters=self._parameters(flow, path, graph),
        )

    def _task_ids(self, path: str) -> list[str]:
        return [name for name in self._folder.list(path)[0] if name != "_meta"]

    def _task(self, flow: str, path: str, step: str, task_id: str) -> Task:
        path = f"{path}/{task_id}"
        record = self._record(path)
        created_at = record.time_ms("ts_epoch")
        attempts = self._attempts(flow, path, created_at)
        task = Task(task_id, step, created_at, attempts)
        artifacts = task.last.artifacts
        indexes, item = self._foreach(artifacts)
        return attrs.evolve(task, indexes=indexes, item=item, transition=self._transition(artifacts))

    # --- attempts

    def _attempts(self, flow: str, path: str, created_at: int) -> list[Attempt]:
        files: dict[int, dict[str, str]] = defaultdict(dict)
        for name in self._folder.list(path)[1]:
            match = _ATTEMPT_FILE.fullmatch(name)
            if match is not None and int(match[1]) < _MOST_ATTEMPTS:
                files[int(match[1])][match[2]] = f"{path}/{name}"
        facts = self._facts(f"{path}/_meta")
        last = max([*files, *facts], default=0)
        return [self._attempt(flow, path, created_at, n, files[n], facts[n]) for n in range(last + 1)]

    def _facts(self, path: str) -> dict[int, list[Fact]]:
        """Return the facts of a task, by attempt."""
        by_attempt: dict[int, list[Fact]] = defaultdict(list)
        for name in self._folder.list(path)[1]:
            if not name.startswith("sysmeta_") or not name.endswith(".json"):
                continue
            values = self._folder.json(f"{path}/{name}")
            fields = Fields(f"{path}/{name}", values or {})
            numbers = (_FACT.fullmatch(tag) for tag in fields.texts("tags"))
            number = next((int(match[1]) for match in numbers if match is not None), 0)
            value = fields.get("value")
            text = value if type(value) is str else json.dumps(value)
            fact = Fact(fields.text("field_name"), text, fields.text("type", ""), fields.time_ms("ts_epoch"))
            if number < _MOST_ATTEMPTS:
                by_attempt[number].append(fact)
        for facts in by_attempt.values():
            facts.sort(key=lambda fact: fact.at_ms)
        return by_attempt

    def _attempt(
        self, flow: str, path: str, created_at: int, number: int, files: Mapping[str, str], facts: Sequence[Fact]
    ) -> Attempt:
        artifacts = self._artifacts(flow, files["data.json"]) if "data.json" in files else {}
        latest = {fact.name: fact for fact in facts}
        began = self._folder.json(files["attempt.json"]) if "attempt.json" in files else None
        started_at = created_at
        if began is not None and type(began.get("time")) in {int, float} and 0 <= began["time"] < 1e11:
            started_at = int(began["time"] * 1000)
        status = self._status(artifacts, latest)
        finished_at = max([started_at, *(fact.at_ms for fact in facts)])
        if "_task_ok" in artifacts:
            record = self._folder.json(f"{path}/_meta/{number}_artifact__task_ok.json")
            if record is not None:
                finished_at = max(started_at, Fields(path, record).time_ms("ts_epoch"))
        error = self._error(artifacts) if status == "failed" else None
        if status == "failed" and error is None:
            error = ("Exception", "The attempt failed; Metaflow recorded no exception.", "")
        return Attempt(number, status, started_at, finished_at, artifacts, facts, error, _logs(files))

    def _artifacts(self, flow: str, path: str) -> dict[str, Artifact]:
        fields = Fields(path, self._folder.json(path) or {})
        info = fields.get("info")
        artifacts = {}
        for name, sha1 in fields.members("objects").items():
            _check(check_name, path, name)
            about = info.get(name) if type(info) is dict else None
            about = about if type(about) is dict else {}
            size = about.get("size")
            if type(sha1) is not str or (size is not None and (type(size) is not int or size < 0)):
                raise Problem(path, f"its record of {name} is malformed")
            artifacts[name] = Artifact(flow, sha1, size, str(about.get("type", ""))[:600])
        return artifacts

    def _status(self, artifacts: Mapping[str, Artifact], facts: Mapping[str, Fact]) -> str:
        if "attempt_ok" in facts:
            return "successful" if facts["attempt_ok"].value == "True" else "failed"
        for name in ("_task_ok", "_success"):
            if name in artifacts:
                return "successful" if self._values.outline(artifacts[name]) is True else "failed"
        return "dead"

    def _error(self, artifacts: Mapping[str, Artifact]) -> tuple[str, str, str] | None:
        """Return why an attempt failed, of what Metaflow has stored in the place of the exception."""
        if "_exception" not in artifacts:
            return None
        stored = self._values.outline(artifacts["_exception"])
        state = stored.state if type(stored) is Outline else None
        if type(state) is not dict:
            return None
        kind, message, trace = (state.get(name) for name in ("type", "exception", "stacktrace"))
        kind = kind.removeprefix("builtins.") if type(kind) is str else "Exception"
        return kind, message if type(message) is str else "", trace if type(trace) is str else ""

    # --- foreaches and branches

    def _foreach(self, artifacts: Mapping[str, Artifact]) -> tuple[tuple[int, ...], str | None]:
        """Return a task's index in each foreach, and its item."""
        if "_foreach_stack" not in artifacts:
            return (), None
        frames = self._values.outline(artifacts["_foreach_stack"])
        indexes, item = [], None
        for frame in frames if type(frames) is list else []:
            parts = frame.arguments if type(frame) is Outline else frame
            if type(parts) is not tuple or len(parts) < 4 or type(parts[3]) is not int:
                return (), None
            indexes.append(max(0, parts[3]))
            item = parts[4] if len(parts) > 4 and type(parts[4]) is str else None
        return tuple(indexes), item

    def _transition(self, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
        """Return to which steps a task went."""
        if "_transition" not in artifacts:
            return {}
        stored = self._values.outline(artifacts["_transition"])
        targets = stored[0] if type(stored) is tuple and stored else None
        if type(targets) is not list or not all(type(target) is str for target in targets):
            return {}
        transition: dict[str, Any] = {"targets": targets, "count": None, "gang": False}
        splits, variable = (
            self._values.outline(artifacts[name]) if name in artifacts else None
            for name in ("_foreach_num_splits", "_foreach_var")
        )
        if type(splits) is int and type(variable) is str:
            transition |= {"count": splits, "items_from": variable}
        return transition

    def _graph(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return what Metaflow has recorded of the flow's graph."""
        stored = next((a["_graph_info"] for t in tasks if "_graph_info" in (a := t.last.artifacts)), None)
        graph = None if stored is None else self._values.outline(stored)
        return graph if type(graph) is dict else {}

    def _parameters(self, flow: str, path: str, graph: Mapping[str, Any]) -> dict[str, tuple[str, Artifact]]:
        """Return what all tasks of a run have."""
        ids = self._task_ids(f"{path}/{PARAMETERS}")
        if not ids:
            return {}
        artifacts = self._task(flow, f"{path}/{PARAMETERS}", PARAMETERS, ids[0]).last.artifacts
        listed = graph.get("constants")
        names = (member.get("name") for member in listed if type(member) is dict) if type(listed) is list else ()
        constants = {"name", *names}
        return {
            name: ("constant" if name in constants else "parameter", artifact)
            for name, artifact in artifacts.items()
            if not is_internal(name)
        }


def _joins(graph: Mapping[str, Any]) -> set[str] | None:
    """Return the steps that join others; `None` where the graph is not recorded."""
    steps = graph.get("steps")
    if type(steps) is not dict:
        return None
    return {name for name, node in steps.items() if type(node) is dict and node.get("type") == "join"}


def _order(task: Task) -> tuple[int, int, str]:
    number = int(task.id) if _RUN_ID.fullmatch(task.id) else 0
    return (number, 0, "") if number else (1 << 62, task.created_at, task.id)


def _logs(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the log files of an attempt, by stream."""
    logs: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for name, (stream, paths) in itertools.product(files, logs.items()):
        if name == f"{stream}.log" or name.endswith(f"_{stream}.log"):
            paths.append(files[name])
    return logs


def _check(check: Any, path: str, name: str) -> None:
    try:
        check(name)
    except ArtifactError as error:
        raise Problem(path, str(error)) from error
