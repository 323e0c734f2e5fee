"""Resuming: the tasks and parameters of an earlier run that a new one takes over.

A task is taken over when it succeeded, when everything before it was taken over, and when its step is not
to be run again. It is found by what it followed: the same step, after the same tasks, at the same place in
the same foreaches. So no numbering of tasks has to be the same in both runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Any

from flowstore import context, later
from flowstore.errors import FlowstoreError, NotFound, ParameterError, UntrustedArtifact
from flowstore.flow.graph import Graph, Node
from flowstore.flow.parameters import IncludeFile, JSONType, Parameter, parameters_of, shortened
from flowstore.run.inputs import FOREACH_ITEMS
from flowstore.run.plan import Outcome, PlannedTask
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.liveness import is_dead
from flowstore.sqlite.typed_rows import json_of
from flowstore.store import blobs, queries, trust
from flowstore.store.blobs import Blob
from flowstore.store.opening import option_for


class Origin:
    """The run that is resumed.

    Args:
        store: where it is.
        run_id: its id.
        graph: the flow's steps, as they are now.
        from_step: a step that runs again, with all that follows it, whatever came of its tasks.
    """

    def __init__(self, store: Database, run_id: int, graph: Graph, from_step: str | None) -> None:
        self.run_id = run_id
        self._graph = graph
        self._from_step = from_step
        if from_step is not None and from_step not in graph:
            raise NotFound(f"There is no step {from_step!r} to resume from; there are: {', '.join(graph.nodes)}.")
        self._tasks: dict[tuple[str, tuple[int, ...], str | None], Row] = {}  # those that can be taken over
        self._taken: dict[int, int] = {}  # plan's key: the task taken over for it
        parents: dict[int, list[int]] = {}
        for row in store.rows(
            """select p.task_id, p.parent_id from task_parents p join tasks t on t.id = p.task_id
               where t.run_id = ? order by p.task_id, p.parent_id""",
            (run_id,),
        ):
            parents.setdefault(row["task_id"], []).append(row["parent_id"])
        known: set[int] = set()
        for row in store.rows(
            """select t.id, s.name as step, t.foreach_path, t.transition,
                 exists (select 1 from artifacts a where a.attempt_id = t.attempt_id) as sets_any
               from tasks t join steps s on s.id = t.step_id
               where t.run_id = ? and t.status = 'successful' order by t.id""",
            (run_id,),
        ):
            before = tuple(parents.get(row["id"], ()))
            if row["step"] != from_step and known.issuperset(before):
                known.add(row["id"])
                self._tasks[row["step"], before, row["foreach_path"]] = row
        self._check_trust(store, known)

    @property
    def takes_over(self) -> bool:
        """Whether there is anything to take over, or the user wants none of it."""
        start = self._graph[self._graph.start]
        first = self._tasks.get((start.name, (), None))
        return self._from_step == start.name or (
            first is not None and _fitting(start, json_of(first["transition"] or "{}", dict)) is not None
        )

    def parents_of(self, task: PlannedTask) -> tuple[int, ...] | None:
        """Return the earlier tasks before a planned one, in order; `None` where one of them was not taken over."""
        if not all(parent in self._taken for parent in task.parents):
            return None
        return tuple(sorted(self._taken[parent] for parent in task.parents))

    def take(self, task: PlannedTask) -> tuple[Row, Outcome] | None:
        """Return the earlier task to take over for a planned one, and what it asked for."""
        parents = self.parents_of(task)
        if parents is None:
            return None
        row = self._tasks.get((task.step, parents, task.foreach_path))
        if row is None or not self._whole_gang(task, parents):
            return None
        transition = json_of(row["transition"] or "{}", dict)
        outcome = _fitting(self._graph[task.step], transition)
        if outcome is None:
            return None
        self._taken[task.key] = row["id"]
        return row, outcome

    def _whole_gang(self, task: PlannedTask, parents: tuple[int, ...]) -> bool:
        """Return whether all members of a gang can be taken over: it works together, so it runs again as a whole."""
        if task.gang is None or task.foreach_path is None:
            return True
        outer = task.foreach_path.rpartition("/")[0]
        paths = (f"{outer}/{index}".removeprefix("/") for index in range(task.gang.count))
        return all((task.step, parents, path) in self._tasks for path in paths)

    def _check_trust(self, store: Database, task_ids: set[int]) -> None:
        """Refuse before anything starts, rather than in the middle, if a pickle may not be loaded."""
        rows = store.rows(
            """select t.id as task_id, b.id, b.sha, b.codec, a.name
               from tasks t join artifacts a on a.attempt_id = t.attempt_id join blobs b on b.id = a.blob_id
               where t.run_id = :run_id and t.status = 'successful' and b.codec = 'pickle'
               union all
               select 0, b.id, b.sha, b.codec, p.name from run_artifacts p join blobs b on b.id = p.blob_id
               where p.run_id = :run_id and p.kind = 'parameter' and b.codec = 'pickle'""",
            {"run_id": self.run_id},
        )
        visible = {0, *task_ids}  # 0 stands for the run's parameters, which are taken over in any case
        taken = {row["id"]: row for row in rows if row["task_id"] in visible}
        for row in taken.values():
            if not trust.may_load(store, self.run_id, row["id"], row["sha"], row["codec"]):
                raise UntrustedArtifact(
                    f"Run {self.run_id} holds pickles that your own runs did not write, such as {row['name']!r}; "
                    f"resuming it would run their author's code.\nIf you trust the file: {trust.command(store.path)}"
                )


def _fitting(node: Node, transition: Mapping[str, Any]) -> Outcome | None:
    """Return what a task taken over asks for in the flow as it is now; `None` if only running it can tell."""
    targets, count, gang = transition.get("targets", ()), transition.get("count"), bool(transition.get("gang"))
    if not isinstance(targets, (list, tuple)) or not isinstance(count, (int, NoneType)):
        return None
    if node.kind in {"end", "linear", "split"}:
        return Outcome(tuple(node.targets))
    if node.kind == "switch":
        return Outcome(tuple(targets)) if len(targets) == 1 and targets[0] in node.targets else None
    if count is None or gang != (node.kind == "parallel"):
        return None
    if not gang and transition.get("items_from") not in (node.foreach, FOREACH_ITEMS):
        return None
    return Outcome(tuple(node.targets), count, gang, transition.get("items_from"))


def nothing_to_take(store: Database, flow: str, origin: Origin, *, named: bool) -> Iterator[str]:
    """Yield a sentence where a resumed run starts from the beginning: which run would have spared that.

    Args:
        store: where the runs are.
        flow: the flow's name.
        origin: the run that is resumed.
        named: whether the user named it.
    """
    if origin.takes_over:
        return
    from flowstore.store.runs import find_runs  # which a plain run does not need

    sentence = f"Run {flow}/{origin.run_id} has nothing to take over, so everything runs."
    mine = [] if named else find_runs(store, flow, [f"user:{context.username()}"])
    better = next((run_id for run_id in mine if _has_finished_tasks(store, run_id)), None)
    if better is not None:
        command = f"{context.called_as()} resume --origin-run-id {better}{option_for(store.path)}"
        sentence += f" The latest run that has something is {flow}/{better}; to resume that one instead: {command}"
    yield sentence


def _has_finished_tasks(store: Database, run_id: int) -> bool:
    sql = "select 1 from tasks where run_id = ? and status = 'successful' limit 1"
    return store.value(sql, (run_id,)) is not None


def find_origin(store: Database, flow: str, origin_run_id: str | None) -> int:
    """Return the id of the run to resume: the one that was named, else the user's latest.

    Raises:
        NotFound: there is none.
        FlowstoreError: it is still running.
    """
    if origin_run_id is None:
        from flowstore.store.runs import find_runs  # which a plain run does not need

        user = context.username()
        run_id = next(find_runs(store, flow, [f"user:{user}"]), None)
        if run_id is None:
            raise NotFound(f"{user} has no run of {flow} to resume in {store.path}. Name one with --origin-run-id.")
    elif origin_run_id.isdecimal():
        run_id = queries.parse_id("run", origin_run_id)
    else:
        from flowstore.client import addresses  # the Client is no part of a plain run

        pathspec = addresses.with_ids(addresses.Scope(store), [flow, origin_run_id.removeprefix(f"{flow}/")])
        run_id = addresses.number("run", pathspec[1])
    row = queries.find_run(store, flow, run_id)
    if row is None:
        raise NotFound(f"There is no run {flow}/{run_id} in {store.path} to resume.")
    if row["status"] == "running" and not is_dead(row):
        raise FlowstoreError(f"Run {flow}/{run_id} is still running; stop it, or wait, before resuming it.")
    return run_id


def names_of(parameters: Iterable[Row], kind: str) -> dict[str, Row]:
    """Return a run's parameters or constants, by name."""
    return {row["name"]: row for row in parameters if row["kind"] == kind}


@later.frozen
class Kept:
    """The parameters of a resumed run.

    Attributes:
        blobs: the values that stay as they are, by name.
        values: those that are new or were converted.
        notes: sentences that tell the user what has changed.
    """

    blobs: Mapping[str, Blob]
    values: Mapping[str, Any]
    notes: tuple[str, ...]


def parameters_from(store: Database, flow: type, origin_id: int, old: Mapping[str, Row]) -> Kept:
    """Return what the parameters of a flow are in a run that resumes another one.

    Args:
        store: where the origin is.
        flow: the flow's class, as it is now.
        origin_id: the run that is resumed.
        old: its parameters, by name.

    Raises:
        ParameterError: one is new and required, or has a type now that its value does not fit.
    """
    stored = {name: Blob.of(row) for name, row in old.items()}
    defined = parameters_of(flow)
    kept: dict[str, Blob] = {}
    values: dict[str, Any] = {}
    notes = [f"Parameter {name} of run {origin_id} is no longer in the flow: dropped." for name in old.keys() - defined]
    for name, parameter in defined.items():
        if name not in stored:
            values[name] = _new_value(flow, parameter, origin_id)
        elif _fits(parameter, stored[name].type):
            kept[name] = stored[name]
        else:
            value = blobs.load(store, stored[name], name, run_id=origin_id)
            values[name] = _converted(parameter, value, origin_id)
            if type(values[name]) is not type(value):
                shown = shortened(values[name])
                notes.append(f"Parameter {name} is of another type now: {shortened(value)} became {shown}.")
    return Kept(kept, values, tuple(sorted(notes)))


def _new_value(flow: type, parameter: Parameter, origin_id: int) -> Any:
    given = next((os.environ[name] for name in parameter.environment_variables if name in os.environ), None)
    if given is not None:
        return parameter.convert(given)
    if parameter.required and parameter.default is None:
        raise ParameterError(
            f"Parameter {parameter.name} is required, but run {origin_id} has no value for it, and resume takes none. "
            f"Give it a default, or set ${parameter.environment_variables[0]}, or start a new run: "
            f"run --{parameter.name} …"
        )
    return parameter.default_value(flow.__name__, context.username())


def _fits(parameter: Parameter, stored_type: str) -> bool:
    """Return whether a value of a type, by its name, is what the parameter gives."""
    if stored_type == "NoneType":
        return not parameter.required or parameter.type is JSONType
    if isinstance(parameter, IncludeFile):
        return stored_type == ("str" if parameter.is_text else "bytes")
    if parameter.separator is not None:
        return stored_type == "list"
    return stored_type == parameter.type_name or (parameter.type is JSONType and stored_type != "str")


def _converted(parameter: Parameter, value: Any, origin_id: int) -> Any:
    try:
        if isinstance(parameter, IncludeFile):
            return _as_file(parameter, value)
        if parameter.type is str and parameter.separator is None and type(value) in (int, float):
            return str(value)
        if parameter.type is JSONType and isinstance(value, str):
            return _as_json(parameter, value)
        if value is None or isinstance(value, bytes):
            raise ValueError(value)
        return _unchanged(value, parameter.convert(value))
    except (ValueError, TypeError, LookupError):
        raise ParameterError(
            f"Parameter {parameter.name} is {parameter.described_type} now, but its value in run {origin_id} is "
            f"{shortened(value)}. Undo the change of its type, or start a new run."
        ) from None


def _unchanged(value: Any, converted: Any) -> Any:
    """Return a number as it was converted, unless it is another number then."""
    if isinstance(value, (int, float)) and converted != value:
        raise ValueError(value)
    return converted


def _as_json(parameter: Parameter, text: str) -> Any:
    """Return what a text holds where that is a list or a dict; any other text may have been JSON's own kind of text."""
    try:
        value = parameter.convert(text)
    except ParameterError:
        return text
    return value if isinstance(value, (list, dict)) else text


def _as_file(parameter: IncludeFile, value: Any) -> str | bytes:
    """Return a file's content as text or bytes, whichever the parameter gives now."""
    if parameter.is_text and isinstance(value, bytes):
        return value.decode(parameter.encoding)
    if not parameter.is_text and isinstance(value, str):
        return value.encode(parameter.encoding)
    raise TypeError(value)
