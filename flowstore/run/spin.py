"""`spin`: one step again, in this process, on the inputs that a task of an earlier run has had.

The tasks of that run are taken over as `resume` would, up to the one whose step is to run; their artifacts are its
inputs. Nothing is stored, unless with `persist`: then a new run holds these tasks and the new one. Its owner is
`spin:NAME`, so that it is in no user's namespace.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from flowstore import context, later
from flowstore.errors import NotFound
from flowstore.flow.decorators import Parallel
from flowstore.flow.graph import Graph
from flowstore.flow.parameters import parameters_of
from flowstore.flow.spec import FlowSpec
from flowstore.run import caller, ownership, start
from flowstore.run.attempt import Product, run_attempt
from flowstore.run.attempts import RunningTask
from flowstore.run.console import Console
from flowstore.run.inputs import Source, StoreSource
from flowstore.run.local.ending import Ending
from flowstore.run.order_writer import FinishedTask, OrderWriter, RunPlan
from flowstore.run.orders import Inline, OpenSplit, Order, Report, RunFacts
from flowstore.run.plan import Outcome, Plan, PlannedTask
from flowstore.run.policies import policies_of
from flowstore.run.randomness import Generators
from flowstore.run.recorder import Recorder, redactor_of
from flowstore.run.results import StoredResults
from flowstore.run.resume import Kept, Origin, names_of, parameters_from
from flowstore.sqlite.database import Database, Row
from flowstore.store import queries, records, tags, trust
from flowstore.store.blobs import INLINE_BYTES, Blob, chunks_of
from flowstore.store.codecs import Encoded, encode
from flowstore.store.description import NewBlob
from flowstore.store.opening import option_for
from flowstore.store.runs import find_runs
from flowstore.text import did_you_mean, duration

if TYPE_CHECKING:
    from flowstore.flow.secrets import Redactor

_MOST_RUNS = 100  # that are looked at for one that has got as far as the step


@later.frozen(kw_only=True)
class Wish:
    """The request of a user to `spin`.

    Attributes:
        step: the step to run.
        run_id: the run to take inputs from.
        task_id: the task whose inputs to take; `None` for the first one of the step.
        overrides: values that take the place of inputs, by name.
        persist: whether to store the result.
        skip_decorators: whether the decorators of `--with` are left out, too.
        options: what it has in common with `run`.
    """

    step: str
    run_id: int
    task_id: int | None = None
    overrides: Mapping[str, Any] = later.field(factory=dict)
    persist: bool = False
    skip_decorators: bool = False
    options: start.Options = later.field(factory=start.Options)


@later.frozen
class _Inputs:
    """The inputs of a step.

    Attributes:
        origin: the run that has them.
        before: the tasks that lead to the step, each with its row and what it asked for.
        planned: the task to run.
    """

    origin: Origin
    before: Sequence[tuple[PlannedTask, Row, Outcome]]
    planned: PlannedTask


class _Foreground:
    """Stands for an executor: the attempt runs in this process."""

    name = "local"


def run_id_of(store: Database, flow: type[FlowSpec], graph: Graph, step: str) -> int:
    """Return the latest run in the active namespace that has inputs for a step.

    Raises:
        NotFound: there is none.
    """
    namespace = context.get_namespace()
    runs = find_runs(store, flow.__name__, [] if namespace is None else [namespace])
    for run_id, _ in zip(runs, range(_MOST_RUNS), strict=False):
        if _find(store, graph, step, run_id) is not None:
            return run_id
    where = "" if namespace is None else f" in the namespace {namespace}"
    raise NotFound(
        f"No run of {flow.__name__}{where} has inputs for step {step} in {store.path}. Run the flow first: "
        f"{context.called_as()} run{option_for(store.path)}"
    )


def spin_flow(flow: type[FlowSpec], graph: Graph, wish: Wish, store: Database, generators: Generators) -> int:
    """Run a step again.

    Args:
        flow: its class.
        graph: its checked steps.
        wish: what was asked for, with the run.
        store: where that run is.
        generators: the random generators of the flow.

    Returns:
        The exit code: 0 if the step succeeded, 1 if it failed, 130 after Ctrl-C.

    Raises:
        NotFound: the run has no such inputs.
    """
    inputs = _find(store, graph, wish.step, wish.run_id, wish.task_id)
    if inputs is None:
        raise NotFound(
            f"Run {flow.__name__}/{wish.run_id} has no inputs for step {wish.step}: what comes before it did not "
            "succeed there, or leads elsewhere now. Name another run, or resume that one."
        )
    console = Console(quiet=wish.options.quiet)
    spin = _Spin(flow, graph, wish, store, inputs, console)
    began = time.monotonic()
    report = (spin.persisted if wish.persist else spin.unrecorded)(generators)
    _tell_end(console, wish, report, spin, duration(time.monotonic() - began))
    if report.failure is not None and report.failure.type.endswith("KeyboardInterrupt"):
        return 130
    return 0 if report.status == "successful" else 1


def skip_decorators(flow: type[FlowSpec]) -> None:
    """Remove the decorators of all steps, but for `@parallel`; to be called before anything asks for them."""
    for name in dir(flow):
        decorators = getattr(getattr(flow, name), "__dict__", {}).get("decorators")
        if decorators:
            decorators[:] = [item for item in decorators if isinstance(item, Parallel)]


def _tell_end(console: Console, wish: Wish, report: Report, spin: _Spin, took: str) -> None:
    if report.status == "successful":
        console.banner(f"Done: step {wish.step} was successful after {took}.")
        for name, blob in report.artifacts.items():
            shown = blob.preview if spin.redactor is None else spin.redactor.text(blob.preview)
            console.banner(f"  self.{name} = {shown}")
    else:
        console.say(f"Step {wish.step} failed after {took}.")
    console.banner(
        f"The result is {spin.pathspec}." if wish.persist else "Nothing was stored; to keep the result: --persist"
    )
    console.close()


# --- finding the inputs


def _find(store: Database, graph: Graph, step: str, run_id: int, task_id: int | None = None) -> _Inputs | None:
    """Return the inputs of a step, or of one of its tasks, in a run that has them."""
    origin = Origin(store, run_id, graph, None)
    address = None if task_id is None else _address(store, task_id)
    plan = Plan(graph)
    ready = deque([plan.start()])
    taken: dict[int, tuple[PlannedTask, Row, Outcome]] = {}
    while ready:
        planned = ready.popleft()
        parents = origin.parents_of(planned)
        if planned.step == step and address in {None, (parents, planned.foreach_path)}:
            return _Inputs(origin, [taken[key] for key in sorted(_ancestors(taken, planned))], planned)
        row_and_outcome = origin.take(planned)
        if row_and_outcome is not None:
            taken[planned.key] = planned, *row_and_outcome
            ready += plan.finish(planned, row_and_outcome[1])
    return None


def _ancestors(taken: Mapping[int, tuple[PlannedTask, Row, Outcome]], planned: PlannedTask) -> set[int]:
    """Return the keys of the tasks that lead to one."""
    keys: set[int] = set()
    left = [*planned.parents]
    while left:
        key = left.pop()
        if key not in keys:
            keys.add(key)
            left += taken[key][0].parents
    return keys


def _address(store: Database, task_id: int) -> tuple[tuple[int, ...], str | None]:
    """Return what identifies a task in its run besides its step: the tasks before it, and its index in foreaches."""
    parents = store.rows("select parent_id from task_parents where task_id = ? order by parent_id", (task_id,))
    path = store.value("select foreach_path from tasks where id = ?", (task_id,))
    return tuple(row["parent_id"] for row in parents), path


# --- running it


class _Spin:
    """Runs a step on its inputs."""

    def __init__(
        self, flow: type[FlowSpec], graph: Graph, wish: Wish, store: Database, inputs: _Inputs, console: Console
    ) -> None:
        self._flow, self._graph, self._wish, self._store, self._inputs = flow, graph, wish, store, inputs
        self._console = console
        self._overrides = {name: encode(value) for name, value in wish.overrides.items()}
        user = context.username()
        project = ownership.own(flow, wish.options.branch, production=wish.options.production).project
        self._who = ownership.Identity(user, f"spin:{user}", project)
        executor: Any = _Foreground()
        stop: Any = None  # Ctrl-C is for the step, or for the debugger
        self._session = start.Session(flow, graph, wish.options, executor, store, console, stop)
        self.pathspec = ""
        self.redactor: Redactor | None = None

    def unrecorded(self, generators: Generators) -> Report:
        """Run the step, and forget what it has set."""
        run_id = self._inputs.origin.run_id
        facts = start.facts_of(self._session, self._who, run_id, None)
        kept = self._kept()
        more = {name: Inline.of(encode(value)) for name, value in kept.values.items()}
        run = self._run_plan(attrs.evolve(facts, parameters={**facts.parameters, **more}))
        orders = OrderWriter(run)
        for planned, row, outcome in self._inputs.before:
            _note(orders, planned, row["id"], row, outcome)
        order = orders.order(self._inputs.planned, self._wish.task_id or 0, 0, self._tags(run_id), None)
        caller.announce("", self._store.path)
        return self._attempt(order, generators).report

    def persisted(self, generators: Generators) -> Report:
        """Run the step in a run of its own, which takes over the tasks that lead to it."""
        store, origin, kept = self._store, self._inputs.origin, self._kept()
        store.use_wal()
        trust.user_key()
        with store.write() as db:
            new = {name: encode(value) for name, value in kept.values.items()}
            parameters = start.put_parameters(db, store, kept.blobs, new)
            run_id = start.create(db, self._session, self._who, parameters, str(origin.run_id))
            trust.inherit_unverified(db, run_id, origin.run_id, [blob.id for blob in kept.blobs.values()])
        run = self._run_plan(start.facts_of(self._session, self._who, run_id, origin), origin)
        orders, results = OrderWriter(run), StoredResults(store, run)
        recorder = Recorder(store, run, orders, results)
        task = RunningTask(self._inputs.planned, 0, None, attempt=0, pid=os.getpid(), begun_at_ms=records.now_ms())
        try:
            with store.write() as db:
                for planned, row, outcome in self._inputs.before:
                    _note(orders, planned, recorder.take_over(db, planned, row), row, outcome)
                recorder.begin(db, task)
                recorder.settle(db)
                recorder.read_tags(db)
            self.pathspec = f"{self._flow.__name__}/{run_id}/{self._wish.step}/{task.id}"
            caller.announce(self.pathspec, store.path)
            order = orders.order(self._inputs.planned, task.id, 0, recorder.tags, None)
            product = self._with_overrides(self._attempt(order, generators))
            _hand_over(results, product)
            with store.write() as db:
                recorder.end(db, task, product.report)
                recorder.finish_run(db, product.report.status)
        except BaseException:
            start.record_failure(store, run_id)
            raise
        finally:
            results.close()
        return product.report

    def _kept(self) -> Kept:
        run_id = self._inputs.origin.run_id
        old = names_of(queries.parameters_of(self._store, run_id), "parameter")
        return parameters_from(self._store, self._flow, run_id, old)

    def _tags(self, run_id: int) -> list[str]:
        return [row["tag"] for row in tags.run_tags(self._store, run_id) if not row["system"]]

    def _run_plan(self, facts: RunFacts, origin: Origin | None = None) -> RunPlan:
        with_ = () if self._wish.skip_decorators else self._wish.options.with_
        overridden = {name: None if name in self._overrides else value for name, value in facts.parameters.items()}
        facts = attrs.evolve(facts, with_=with_, parameters=overridden)
        policies = policies_of(self._flow, self._graph, with_, self._console.say)
        run = RunPlan(facts, self._graph, policies, 1, origin)
        self.redactor = redactor_of(run)
        return run

    def _attempt(self, order: Order, generators: Generators) -> Product:
        """Run the attempt in this process, where a debugger can stop it and it can ask for input."""
        order = attrs.evolve(order, last_attempt=True)
        source: Source = StoreSource(lambda: self._store, order.run.run_id)
        if self._overrides:
            self._note_unknown(source, order)
            source = _Overriding(source, self._overrides, self._wish.overrides)
        os.environ.update(order.environment)
        name, origin = self._flow.__name__, self._inputs.origin.run_id
        self._console.banner(f"Step {order.step} runs on inputs of {name}/{origin}.")
        for stream in (sys.stdout, sys.stderr):
            getattr(stream, "reconfigure", lambda **_: None)(line_buffering=True)
        generators.derive(order)
        if self.redactor is None:
            return run_attempt(self._flow, self._graph, order, source, Ending())
        from flowstore.flow.secrets import hidden_output  # which most flows do without

        with hidden_output(self.redactor):
            return run_attempt(self._flow, self._graph, order, source, Ending())

    def _note_unknown(self, source: Source, order: Order) -> None:
        """Say which values replace no input: a mistyped name would go unnoticed."""
        bases = [task_id for task_id, _ in order.inputs] if order.base_id is None else [order.base_id]
        known = {*source.parameters(), *(name for names in source.artifacts(bases).values() for name in names)}
        for name in self._overrides.keys() - known:
            hint = did_you_mean(name, known)
            self._console.say(f"Note: the step inherits no artifact {name!r}, which --artifacts-module sets.{hint}")

    def _with_overrides(self, product: Product) -> Product:
        """Return the product with the values that took the place of inputs, which the task then has set."""
        report, large, parameters = product.report, [*product.large], parameters_of(self._flow)
        artifacts: dict[str, NewBlob] = {}
        for name, encoded in self._overrides.items():
            if name not in report.artifacts and name not in report.deleted and name not in parameters:
                small = encoded.size_bytes <= INLINE_BYTES
                artifacts[name] = NewBlob(
                    encoded.description, None if small else encoded.sha, encoded.content if small else None
                )
                large = large if small else [encoded, *large]
        merged = {name: blob_id for name, blob_id in report.merged.items() if name not in artifacts and blob_id}
        return Product(attrs.evolve(report, artifacts={**artifacts, **report.artifacts}, merged=merged), large)


def _note(orders: OrderWriter, planned: PlannedTask, task_id: int, row: Row, outcome: Outcome) -> None:
    base_id = task_id if row["sets_any"] else orders.base(planned)
    orders.note(planned, FinishedTask(task_id, base_id, outcome))


def _hand_over(results: StoredResults, product: Product) -> None:
    """Stage the large values of an attempt."""
    large = [blob for blob in product.report.blobs if blob.data is None]
    if large:
        for index in results.missing(0, large):
            for chunk in chunks_of(product.large[index].pieces):
                results.take(0, bytes(chunk))
        results.finish()


class _Overriding(Source):
    """A source that answers as another one does, but has other values for some artifacts."""

    def __init__(self, source: Source, encoded: Mapping[str, Encoded], values: Mapping[str, Any]) -> None:
        self._source = source
        self._values = values
        self._blobs = {name: Blob(item.description, 0, item.sha, None) for name, item in encoded.items()}

    def parameters(self) -> Mapping[str, Blob]:
        """Return the run's parameters and constants, by name."""
        return {**self._source.parameters(), **self._blobs}

    def artifacts(self, task_ids: Sequence[int], name: str | None = None) -> Mapping[int, Mapping[str, Blob | None]]:
        """Return the artifacts of tasks, by task and name."""
        added = {key: blob for key, blob in self._blobs.items() if name in {None, key}}
        return {task_id: {**known, **added} for task_id, known in self._source.artifacts(task_ids, name).items()}

    def load(self, blob: Blob, name: str) -> Any:
        """Return the value of a blob."""
        return self._values[name] if blob.id == 0 and name in self._values else self._source.load(blob, name)

    def item(self, split: OpenSplit) -> Any:
        """Return the item of a foreach that a task has."""
        return self._source.item(split)
