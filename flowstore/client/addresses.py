"""Addresses: the pathspecs of objects, and the shorter forms that people type.

    FlowName                          a flow; where a run is meant, its latest run
    FlowName/RUN                      a run: its id, `latest` or `latest-successful`
    FlowName/RUN/step                 a step
    FlowName/RUN/step/TASK            a task: its id, or `latest`
    FlowName/RUN/step/TASK/artifact   an artifact
    FlowName/RUN/artifact             an artifact of the run's end task; a step of that name comes first

What was imported from Metaflow also has the address that it had there, as in FlowName/1795762421095488/start/1.
`latest` looks in the namespace of whoever asks. Ids of runs and tasks are digits, so a word is never an id.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flowstore import context, later
from flowstore.context import UNSET, Unset, is_text
from flowstore.errors import InvalidPathspec, NamespaceMismatch, NotFound
from flowstore.sqlite.database import Database, Row
from flowstore.store import origins, queries
from flowstore.store.inheritance import visible_artifacts
from flowstore.store.opening import active_store
from flowstore.store.runs import find_runs
from flowstore.text import did_you_mean

LATEST = "latest"
LATEST_SUCCESSFUL = "latest-successful"
KINDS = {1: "flow", 2: "run", 3: "step", 4: "task", 5: "artifact"}  # by the number of parts in a pathspec
FORMS = {
    1: "FlowName",
    2: "FlowName/run_id",
    3: "FlowName/run_id/step",
    4: "FlowName/run_id/step/task_id",
    5: "FlowName/run_id/step/task_id/name",
}
_WORDS = {
    2: f"run_id may be {LATEST} or {LATEST_SUCCESSFUL}",
    4: f"task_id may be {LATEST}",
    5: "FlowName/run_id/name is an artifact of the end task",
}
_LATEST = {"run": [LATEST, LATEST_SUCCESSFUL], "task": [LATEST]}
_METAFLOW_DIGITS = 16  # of its run ids: microseconds since 1970
_MOST_NAMES = 1000  # that a mistyped one is compared with


@later.frozen
class Scope:
    """The view of an object: a store, and a namespace of it.

    Attributes:
        store: the open file.
        chosen: a tag, or `None` for everything; `UNSET` for the namespace that is active in this process at the time.
    """

    store: Database
    chosen: str | Unset | None = UNSET

    @property
    def namespace(self) -> str | None:
        """The namespace: a tag, or `None` where everything is visible."""
        return context.get_namespace() if isinstance(self.chosen, Unset) else self.chosen

    def mismatch(self, what: str, why_switch: str, *others: str) -> NamespaceMismatch:
        """Return the error for what the namespace leaves out.

        Args:
            what: the beginning of the message, which the namespace follows.
            why_switch: what another namespace is for, if this process can switch to it.
            others: namespaces that hold it, beside the global one.
        """
        if isinstance(self.chosen, Unset):
            return NamespaceMismatch(f"{what} the active namespace, {self.namespace!r}. {why_switch}", *others, None)
        calls = " or ".join(f"namespace={tag!r}" for tag in (*others, None))
        return NamespaceMismatch(f"{what} the namespace {self.chosen!r} of this store. Open the store with {calls}.")

    def exempts(self, run: list[str]) -> bool:
        """Return whether this is the run that asks, which sees itself in whatever namespace it looks at."""
        running: str = context.state.task.get("pathspec", "")
        return isinstance(self.chosen, Unset) and running.split("/")[:2] == run


def active_scope() -> Scope:
    """Return what this process looks at: its store, and whichever namespace is active in it.

    Raises:
        StoreNotFound: there is no store; the message names the paths that were tried.
    """
    return Scope(active_store())


def number(kind: str, text: str) -> int:
    """Return the id of a run or task as a number.

    Raises:
        NotFound: the text is no id, so nothing can have it.
    """
    try:
        return queries.parse_id(kind, text)
    except NotFound as error:
        raise NotFound(f"{error}{did_you_mean(text[:100], _LATEST[kind])}") from None


def split(pathspec: object, depth: int) -> list[str]:
    """Return the parts of a pathspec of one kind.

    Args:
        pathspec: what a user gave.
        depth: how many parts it must have. A fifth part, an artifact's name, may hold slashes: version 0.1.0 let it.

    Raises:
        InvalidPathspec: it is not text, or has another number of parts.
    """
    if not isinstance(pathspec, str):
        raise InvalidPathspec(f"Address {_a(depth)} by text of the form {FORMS[depth]}, not {pathspec!r}.")
    parts = pathspec.split("/", 4 if depth == 5 else -1)
    if len(parts) != depth or not all(parts) or not is_text(pathspec):
        raise InvalidPathspec(f"{pathspec!r} does not address {_a(depth)}: give {FORMS[depth]}.")
    return parts


def _a(depth: int) -> str:
    return f"{'an' if depth == 5 else 'a'} {KINDS[depth]}"


def with_ids(scope: Scope, parts: Sequence[str]) -> list[str]:
    """Return the parts of a pathspec with the ids of what `latest`, `latest-successful`, and Metaflow's ids stand for.

    Raises:
        NotFound: there is no such run or task.
        NamespaceMismatch: there is none in the namespace.
    """
    parts = list(parts)
    if len(parts) > 1 and parts[1] in {LATEST, LATEST_SUCCESSFUL}:
        parts[1] = _latest_run(scope, parts[0], successful=parts[1] == LATEST_SUCCESSFUL)
    elif len(parts) > 1 and len(parts[1]) >= _METAFLOW_DIGITS:
        parts = origins.find_imported(scope.store, parts)
    if len(parts) > 3 and parts[3] == LATEST:
        parts[3] = _latest_task(scope.store, parts)
    return parts


def _latest_run(scope: Scope, flow: str, *, successful: bool) -> str:
    store, namespace = scope.store, scope.namespace
    tags = [] if namespace is None else [namespace]
    run_id = next(find_runs(store, flow, tags, successful=successful), None)
    if run_id is not None:
        return str(run_id)
    if not queries.has_run(store, flow, None):
        raise missing(store, [flow])
    kind = "successful run" if successful else "run"
    if namespace is not None and next(find_runs(store, flow, [], successful=successful), None) is not None:
        raise scope.mismatch(f"Flow {flow} has no {kind} in", "To see all runs:")
    raise NotFound(f"Flow {flow} has no {kind} in {store.path}.")


def _latest_task(store: Database, parts: Sequence[str]) -> str:
    step = _step(store, parts)
    if step is None:
        raise missing(store, parts[:3])
    page = next(queries.tasks(store, step["run_id"], step["id"]), None)
    if page is None:
        raise NotFound(f"Step {'/'.join(parts[:3])} has no task yet.")
    return str(page[0]["id"])


def _step(store: Database, parts: Sequence[str]) -> Row | None:
    return queries.find_step(store, parts[0], number("run", parts[1]), parts[2])


def resolve(scope: Scope, text: str, depths: Collection[int] = tuple(KINDS)) -> str:
    """Return the pathspec of the object that an address stands for.

    Args:
        scope: where to look; `latest` looks in its namespace.
        text: the address.
        depths: the kinds of objects that are wanted, as the numbers of parts in their pathspecs.

    Raises:
        InvalidPathspec: it is not an address of such an object; the message shows the forms.
        NotFound: it leads through something that does not exist.
        NamespaceMismatch: `latest` has nothing to stand for in the namespace.
    """
    parts = text.split("/", 4)
    if not all(parts) or not is_text(text):
        raise _invalid(text, depths)
    if len(parts) == 1 and 1 not in depths and 2 in depths:
        parts.append(LATEST)
    short = len(parts) == 3 and 5 in depths
    if len(parts) not in depths and not short:
        raise _invalid(text, depths)
    parts = with_ids(scope, parts)
    if short and (3 not in depths or _step(scope.store, parts) is None):
        parts = _in_end_task(scope.store, parts, may_be_step=3 in depths)
    return "/".join(parts)


def _in_end_task(store: Database, parts: Sequence[str], *, may_be_step: bool) -> list[str]:
    """Return the parts of the pathspec of an artifact of a run's end task."""
    flow, run, name = parts
    run_id = number("run", run)
    if queries.find_run(store, flow, run_id) is None:
        raise missing(store, [flow, run])
    end = queries.end_task(store, run_id)
    steps = [row["name"] for row in queries.steps(store, run_id)] if may_be_step else []
    if end is None or end["status"] != "successful":
        problem = f"step {name!r}" if may_be_step else f"artifact {name!r}"
        hint = did_you_mean(name, steps) or " It has no end task, so an artifact needs its step and task too."
        raise NotFound(f"Run {flow}/{run} has no {problem}.{hint}")
    with store.read() as db:
        names = visible_artifacts(db, {end["id"]: end["attempt_id"]})[end["id"]].keys()
    if name not in names:
        problem = f"{'step and no ' if may_be_step else ''}artifact {name!r} at its end"
        raise NotFound(f"Run {flow}/{run} has no {problem}.{did_you_mean(name, [*steps, *names])}")
    return [flow, run, str(end["step"]), str(end["id"]), name]


def _invalid(text: str, depths: Collection[int]) -> InvalidPathspec:
    """Return the error for an address of none of the forms that are wanted."""
    kinds = [_a(depth) for depth in depths]
    forms = [FORMS[depth] for depth in depths]
    words = [words for depth, words in _WORDS.items() if max(depths) >= depth and (depth != 5 or 5 in depths)]
    notes = f"; {'; '.join(words)}" if words else ""
    return InvalidPathspec(f"{text!r} does not address {_or(kinds)}: give {_or(forms)}{notes}.")


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def missing(store: Database, parts: Sequence[str], names: Collection[str] = ()) -> NotFound:
    """Return the error for a pathspec that leads to nothing: it says from which part on, and what is called alike.

    Args:
        store: where it was looked for.
        parts: the parts of the pathspec.
        names: of an artifact, what its task has.
    """
    flow, *below = parts
    if not queries.has_run(store, flow, None):
        hint = did_you_mean(flow, queries.flow_names(store, None)[:_MOST_NAMES])
        if not below:
            return NotFound(f"There is no run of a flow {flow!r} in {store.path}.{hint}")
        return _nothing(store, parts, f": there is no run of a flow {flow!r}.{hint}")
    if len(parts) > 2:
        run_id = number("run", parts[1])
        if queries.find_run(store, flow, run_id) is None:
            return _nothing(store, parts, f": there is no run {flow}/{run_id}.")
        if _step(store, parts) is None:
            hint = did_you_mean(parts[2], [row["name"] for row in queries.steps(store, run_id)])
            return _nothing(store, parts, f".{hint}" if len(parts) == 3 else f": there is no step {parts[2]!r}.{hint}")
        if len(parts) == 5 and queries.find_task(store, flow, run_id, parts[2], number("task", parts[3])) is None:
            return _nothing(store, parts, f": there is no task {'/'.join(parts[:4])}.")
    return _nothing(store, parts, f".{did_you_mean(parts[-1], [*names][:_MOST_NAMES])}")


def _nothing(store: Database, parts: Sequence[str], reason: str) -> NotFound:
    return NotFound(f"There is no {KINDS[len(parts)]} {'/'.join(parts)} in {store.path}{reason}")
