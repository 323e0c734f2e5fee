"""Reads the runs of Metaflow's local store from its folder.

A flow has a folder, in it a run, in that a step, in that a task. Each has a record, `_meta/_self.json`. Beside the
task's are its facts, one file each. The task's folder has its attempts: when one began, which artifacts it had, and
what it printed. The step `_parameters` is none: its task has the parameters and constants of the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowstore.context import is_text
from flowstore.errors import ArtifactError
from flowstore.flow.names import check_name
from flowstore.store.preview import MAX_PREVIEW
from flowstore.text import shorten
from flowstore.transfer.metaflow_history import attachments
from flowstore.transfer.metaflow_history.folder import Fields, Folder, Problem, Report, clean
from flowstore.transfer.metaflow_history.lineage import Spot, order_of, parents_of
from flowstore.transfer.metaflow_history.pickles import Outline
from flowstore.transfer.metaflow_history.runs import Attempt, Fact, Run, Task, is_internal
from flowstore.transfer.metaflow_history.values import Artifact, Values, exception_of

PARAMETERS = "_parameters"
_RUN_ID = re.compile("[0-9]{1,18}")
_ENDS = ("start_step", "end_step")
_ATTEMPT_FILE = re.compile(r"([0-9]{1,4})\.(.+)")
_ID = re.compile("[0-9]{1,18}[0-9A-Za-z_-]{0,50}")
_NUMBER = re.compile("[0-9]{1,18}")
_FACT = re.compile("attempt_id:([0-9]{1,4})")
_MOST_ATTEMPTS = 1000
_MOST_ITEMS = 1 << 31
_MOST_FOREACHES = 100  # in each other
_MOST_TARGETS = 1000
_MAX_NAME = 500  # characters
_MAX_ERROR = 256 << 10  # characters


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
        names: list[str] = []
        with self._report.collecting():
            _check_artifact_name(flow, flow)
            names, _ = self._folder.list(flow)
        ids = []
        for name in names:
            if name not in {"_meta", "data"} and self._folder.has(f"{flow}/{name}/_meta/_self.json"):
                with self._report.collecting():
                    ids.append(_checked_id(flow, name))
        return sorted(ids, key=lambda name: (len(name), name))

    def record(self, flow: str, run_id: str) -> Fields:
        """Return the record of a run.

        Raises:
            Problem: it is missing, or is another run's.
        """
        record = self._record(f"{flow}/{run_id}")
        if record.text("flow_id") != flow or record.text("run_number") != run_id:
            raise Problem(record.path, f"it is the record of {record.text('flow_id')}/{record.text('run_number')}")
        return record

    def uuid(self, flow: str, run_id: str) -> str:
        """Return the id by which a run is recognised: a digest of its address, user and time, and of its values.

        Whoever knows an address can write another run under it, but not one with other values and the same id.

        Raises:
            Problem: a record of it is missing or malformed.
        """
        record, path = self.record(flow, run_id), f"{flow}/{run_id}"
        parts: list[Any] = ["metaflow", flow, run_id, record.text("user_name", "unknown"), record.time_ms("ts_epoch")]
        for step in self._folder.list(path)[0]:
            for task_id in self._task_ids(f"{path}/{step}"):
                for number, files in sorted(self._attempt_files(f"{path}/{step}/{task_id}").items()):
                    if "data.json" in files:
                        artifacts = self._artifacts(flow, files["data.json"])
                        parts.append([step, task_id, number, {name: item.sha1 for name, item in artifacts.items()}])
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _record(self, path: str) -> Fields:
        name = f"{path}/_meta/_self.json"
        values = self._folder.json(name)
        if values is None:
            raise Problem(name, "it is missing")
        return Fields(name, values)

    def run(self, flow: str, run_id: str, uuid: str) -> Run:
        """Return a run, whose `uuid` is known; raise Problem where something of it is missing or malformed."""
        record = self.record(flow, run_id)
        path = f"{flow}/{run_id}"
        steps: dict[str, int] = {}
        tasks: list[Task] = []
        for step in self._folder.list(path)[0]:
            if step not in {"_meta", PARAMETERS}:
                _check_artifact_name(f"{path}/{step}", step)
                steps[step] = self._record(f"{path}/{step}").time_ms("ts_epoch")
                ids = self._task_ids(f"{path}/{step}")
                tasks += [self._task(flow, f"{path}/{step}", step, task_id) for task_id in ids]
        tasks.sort(key=_order)
        graph = self._graph(tasks)
        tasks, parents = _with_parents(tasks, graph, path)
        start, end = (name if type(name) is str and name in steps else None for name in map(graph.get, _ENDS))
        return Run(
            flow=flow,
            id=run_id,
            uuid=uuid,
            user=record.text("user_name", "unknown"),
            created_at=record.time_ms("ts_epoch"),
            tags=record.texts("tags"),
            system_tags=record.texts("system_tags"),
            steps=_in_order(steps, tasks),
            tasks=tasks,
            parents=parents,
            parameters=self._parameters(flow, path, graph),
            origin_id=next((origin for task in tasks if (origin := _id_in(task.last.fact("origin-run-id")))), None),
            code=_package(tasks),
            start_step=start or "start",
            end_step=end or "end",
        )

    def _task_ids(self, path: str) -> list[str]:
        return [name for name in self._folder.list(path)[0] if name != "_meta"]

    def _task(self, flow: str, path: str, step: str, task_id: str) -> Task:
        path = f"{path}/{task_id}"
        record = self._record(path)
        created_at = record.time_ms("ts_epoch")
        attempts = self._attempts(flow, path, created_at)
        artifacts, fact = attempts[-1].artifacts, attempts[-1].fact
        indexes, item = self._foreach(artifacts)
        run, task = _id_in(fact("origin-run-id")), _id_in(fact("origin-task-id"))
        # The cards of a task that was taken over are where it first ran.
        with_cards = f"{flow}/{run}/{step}/{task}" if run and task else path
        return Task(
            id=task_id,
            step=step,
            created_at=created_at,
            attempts=self._with_cards(attempts, with_cards),
            indexes=indexes,
            item=item,
            transition=self._transition(artifacts),
            origin=(run, task) if run and task else None,
        )

    def _with_cards(self, attempts: Sequence[Attempt], path: str) -> list[Attempt]:
        """Return the attempts of a task with their cards; one of an attempt that is not recorded is the last one's."""
        infos = {fact.value: a.number for a in attempts for fact in a.facts if fact.type == "card-info"}
        cards = attachments.cards_of(self._folder, path, infos)
        last = attempts[-1].number
        return [
            attrs.evolve(
                a,
                cards=[
                    card for card in cards if card.attempt == a.number or (card.attempt is None and a.number == last)
                ],
            )
            for a in attempts
        ]

    # --- attempts

    def _attempts(self, flow: str, path: str, created_at: int) -> list[Attempt]:
        files = self._attempt_files(path)
        facts = self._facts(f"{path}/_meta")
        last = max([*files, *facts], default=0)
        return [self._attempt(flow, path, created_at, n, files[n], facts[n]) for n in range(last + 1)]

    def _attempt_files(self, path: str) -> dict[int, dict[str, str]]:
        """Return the files of a task's attempts, by number and kind."""
        files: dict[int, dict[str, str]] = defaultdict(dict)
        for name in self._folder.list(path)[1]:
            match = _ATTEMPT_FILE.fullmatch(name)
            if match is not None and int(match[1]) < _MOST_ATTEMPTS:
                files[int(match[1])][match[2]] = f"{path}/{name}"
        return files

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
            text = clean(value) if type(value) is str else json.dumps(value)
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
            error = ("builtins.Exception", "The attempt failed; Metaflow recorded no exception.", "")
        return Attempt(number, status, started_at, finished_at, artifacts, facts, error, _logs(files))

    def _artifacts(self, flow: str, path: str) -> dict[str, Artifact]:
        fields = Fields(path, self._folder.json(path) or {})
        info = fields.get("info")
        artifacts = {}
        for name, sha1 in fields.members("objects").items():
            _check_artifact_name(path, name)
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
        error = exception_of(self._values.outline(artifacts["_exception"]))
        if error is None:
            return None
        kind, message, trace = error
        return kind[:_MAX_NAME], shorten(message, _MAX_ERROR), trace[-_MAX_ERROR:]  # its end says what was raised

    # --- foreaches and branches

    def _foreach(self, artifacts: Mapping[str, Artifact]) -> tuple[tuple[int, ...], str | None]:
        """Return a task's index in each foreach, and its item."""
        if "_foreach_stack" not in artifacts:
            return (), None
        frames = self._values.outline(artifacts["_foreach_stack"])
        if type(frames) is not list or len(frames) > _MOST_FOREACHES:
            return (), None
        indexes, item = [], None
        for frame in frames:
            parts: Any = frame.arguments if type(frame) is Outline else frame
            index = parts[3] if type(parts) is tuple and len(parts) > 3 else None
            if type(index) is not int or not 0 <= index < _MOST_ITEMS:
                return (), None
            indexes.append(index)
            item = clean(parts[4])[:MAX_PREVIEW] if len(parts) > 4 and type(parts[4]) is str else None
        return tuple(indexes), item

    def _transition(self, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
        """Return to which steps a task went."""
        if "_transition" not in artifacts:
            return {}
        stored = self._values.outline(artifacts["_transition"])
        targets = stored[0] if type(stored) is tuple and stored else None
        if type(targets) is not list or len(targets) > _MOST_TARGETS or not all(map(_is_name, targets)):
            return {}
        transition: dict[str, Any] = {"targets": targets, "count": None, "gang": False}
        splits, variable = (
            self._values.outline(artifacts[name]) if name in artifacts else None
            for name in ("_foreach_num_splits", "_foreach_var")
        )
        if type(splits) is int and 0 <= splits < _MOST_ITEMS and _is_name(variable):
            transition |= {"count": splits, "items_from": variable}
        if "_parallel_ubf_iter" in artifacts and variable == "_parallel_ubf_iter":
            gang = self._values.outline(artifacts["_parallel_ubf_iter"])
            size = gang.state.get("num_parallel") if type(gang) is Outline and type(gang.state) is dict else None
            transition |= {"count": size if type(size) is int and 0 <= size < _MOST_ITEMS else None, "gang": True}
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
        constants = {"name", *filter(_is_name, names)}
        return {
            name: ("constant" if name in constants else "parameter", artifact)
            for name, artifact in artifacts.items()
            if not is_internal(name)
        }


def _with_parents(tasks: Sequence[Task], graph: Mapping[str, Any], path: str) -> tuple[list[Task], list[list[int]]]:
    """Return the tasks of a run, each after those before it, and the positions of these."""
    spots = [Spot(task.step, task.indexes, task.transition.get("targets", ())) for task in tasks]
    parents = parents_of(spots, _joins(graph))
    order = order_of(parents)
    if len(order) < len(tasks):
        raise Problem(path, "its tasks follow each other in a circle")
    positions = {old: new for new, old in enumerate(order)}
    return [tasks[old] for old in order], [sorted(positions[parent] for parent in parents[old]) for old in order]


def _joins(graph: Mapping[str, Any]) -> set[str] | None:
    """Return the steps that join others; `None` where the graph is not recorded."""
    steps = graph.get("steps")
    if type(steps) is not dict:
        return None
    return {name for name, node in steps.items() if type(node) is dict and node.get("type") == "join"}


def _order(task: Task) -> tuple[bool, int, int, str]:
    """Return the position of a task in its run: ids are numbers, or begin with one, as in `2_node_1`.

    Tasks that a resumed run has taken over come first, in the order that they had there: it copies them in any order.
    """
    match = _NUMBER.match(task.id if task.origin is None else task.origin[1])
    return task.origin is None, (1 << 62 if match is None else int(match[0])), task.created_at, task.id


def _logs(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the log files of an attempt, by stream."""
    logs: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for name, (stream, paths) in itertools.product(files, logs.items()):
        if name == f"{stream}.log" or name.endswith(f"_{stream}.log"):
            paths.append(files[name])
    return logs


def _checked_id(flow: str, run_id: str) -> str:
    if not _RUN_ID.fullmatch(run_id):
        raise Problem(f"{flow}/{run_id}", "the id of a run is a number")
    return run_id


def _check_artifact_name(path: str, name: str) -> None:
    try:
        check_name(name)
    except ArtifactError as error:
        raise Problem(path, str(error)) from error


def _is_name(value: object) -> bool:
    """Return whether a value can be the name of a step or an artifact."""
    return type(value) is str and len(value) <= _MAX_NAME and is_text(value)


def _id_in(value: str | None) -> str | None:
    """Return the id of a run or task that a fact names; `None` where it names none."""
    return value if value is not None and _ID.fullmatch(value) else None


def _in_order(steps: Mapping[str, int], tasks: Sequence[Task]) -> dict[str, int]:
    """Return the steps in the order in which their first tasks began."""
    first = {task.step: position for position, task in reversed([*enumerate(tasks)])}
    return {name: steps[name] for name in sorted(steps, key=lambda name: first.get(name, len(tasks)))}


def _package(tasks: Sequence[Task]) -> tuple[str, str] | None:
    """Return the address of the package of a run's code, and the path of the flow's file in it."""
    for task in tasks:
        stored, script = task.last.fact("code-package"), task.last.fact("script-name")
        if stored is not None and script is not None:
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                return str(json.loads(stored)["sha"]), script
    return None
