"""From a flow and what the user asked for to a run: `run_flow` and `resume_flow`.

The order of things matters. The executor was made while the store was closed, and before this module was imported;
the run is visible, and its id in the run id file, before the first task starts.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowstore import context, later
from flowstore._version import __version__
from flowstore.errors import ArtifactError, FlowstoreError
from flowstore.flow import spec
from flowstore.flow.graph import Graph
from flowstore.flow.parameters import parameters_of
from flowstore.flow.spec import FlowSpec
from flowstore.run import caller, environment, ownership, snapshot
from flowstore.run.console import Console
from flowstore.run.driver import Driver
from flowstore.run.executor import Executor
from flowstore.run.order_writer import FinishEvent, RunPlan
from flowstore.run.orders import Inline, RunFacts
from flowstore.run.ownership import Assigned, Identity
from flowstore.run.policies import policies_of
from flowstore.run.resume import Origin, find_origin, names_of, nothing_to_take, parameters_from
from flowstore.run.signals import Stop
from flowstore.run.snapshot import Sources
from flowstore.sqlite import outputs
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.typed_rows import json_of
from flowstore.store import blobs, queries, records, snapshots, tags, trust
from flowstore.store.blobs import Blob
from flowstore.store.codecs import Encoded, encode
from flowstore.store.opening import ensure_active_store, option_for
from flowstore.text import counted, duration

if TYPE_CHECKING:
    from flowstore.run.gate import Gate
    from flowstore.store.deployments import Deployment

EXIT_CODES = {"successful": 0, "failed": 1}


@later.frozen(kw_only=True)
class Options:
    """The options of `run` and `resume`; each attribute is an option of the command line of that name."""

    store: str | None = None
    quiet: bool = False
    namespace: str | context.Unset | None = context.UNSET
    with_: Sequence[str] = ()
    durable: bool = False
    branch: str | None = None
    production: bool = False
    tags: Sequence[str] = ()
    max_workers: int | None = None
    max_num_splits: int = 10_000
    run_id_file: str | None = None
    sources: Sources = later.field(factory=Sources)
    triggers: Sequence[str] = ()
    deployment: Assigned | None = None  # not an option: what `ownership.assigned_deployment` returned


@later.frozen
class Session:
    """The objects that a run works with, from its beginning to its end."""

    flow: type[FlowSpec]
    graph: Graph
    options: Options
    executor: Executor
    store: Database
    console: Console
    stop: Stop


@later.frozen
class _Parameters:
    """The parameters of a new run: the blob of each, and its JSON for the `run_summary` view."""

    blobs: Mapping[str, int]
    shown: Mapping[str, str]


def run_flow(
    flow: type[FlowSpec], graph: Graph, values: Mapping[str, Any], options: Options, executor: Executor
) -> int:
    """Run a flow.

    Args:
        flow: its class.
        graph: its checked steps.
        values: the parameters, by attribute; of a deployment, only those that were given.
        options: what else was asked for.
        executor: what runs its tasks; closed at the end.

    Returns:
        The exit code: 0 when the run succeeded, 1 when it failed, 128 + the signal that stopped it.
    """
    with _session(flow, graph, options, executor) as opened:
        store = opened.store
        with store.read():  # so that what was signed is what runs
            who, options = _identity(store, flow, options)
            deployed = {} if who.deployment is None else _deployed_values(store, who.deployment, values)
        session = later.evolve(opened, options=options)
        if who.deployment is not None:
            values = {**_defaults(flow, {*values, *deployed}), **values}
        encoded = {name: _encode("Parameter", name, value) for name, value in values.items()}
        with store.write() as db:
            parameters = put_parameters(db, store, deployed, encoded)
            run_id = create(db, session, who, parameters, None)
        return _drive(session, who, run_id, None)


def resume_flow(
    flow: type[FlowSpec],
    graph: Graph,
    step: str | None,
    origin_run_id: str | None,
    options: Options,
    executor: Executor,
    *,
    named: bool,
) -> int:
    """Start a run that takes over what succeeded in an earlier one, which the user may have named; see `run_flow`."""
    with _session(flow, graph, options, executor) as opened:
        store = opened.store
        with store.read():
            who, options = _identity(store, flow, options)
        session = later.evolve(opened, options=options)
        origin_id = find_origin(store, flow.__name__, origin_run_id)
        origin = Origin(store, origin_id, graph, step)
        old = names_of(queries.parameters_of(store, origin_id), "parameter")
        kept = parameters_from(store, flow, origin_id, old)
        encoded = {name: _encode("Parameter", name, value) for name, value in kept.values.items()}
        for note in (*kept.notes, *nothing_to_take(store, flow.__name__, origin, named=named)):
            session.console.say(note)
        with store.write() as db:
            parameters = put_parameters(db, store, kept.blobs, encoded)
            run_id = create(db, session, who, parameters, str(origin_id))
            trust.inherit_unverified(db, run_id, origin_id, [blob.id for blob in kept.blobs.values()])
        return _drive(session, who, run_id, origin)


def put_parameters(
    db: sqlite3.Connection, store: Database, known: Mapping[str, Blob], encoded: Mapping[str, Encoded]
) -> _Parameters:
    """Return a run's parameters: those that have a blob already, and new values, which are stored."""
    ids = {name: blob.id for name, blob in known.items()}
    ids |= {name: blobs.put(db, store, item) for name, item in encoded.items()}
    shown = {name: records.parameter_json(db, blob) for name, blob in known.items()}
    shown |= {name: records.parameter_json(db, item) for name, item in encoded.items()}
    return _Parameters(ids, shown)


def _identity(store: Database, flow: type[FlowSpec], options: Options) -> tuple[Identity, Options]:
    """Return the run's owner, and the options together with what the deployment adds to them."""
    if options.deployment is None:
        return ownership.own(flow, options.branch, production=options.production), options
    who = ownership.deployed(store, options.deployment)
    deployment = who.deployment
    assert deployment is not None
    tags, with_ = (*deployment.tags, *options.tags), (*deployment.with_, *options.with_)
    return who, later.evolve(options, tags=tags, with_=with_)


def _deployed_values(store: Database, deployment: Deployment, given: Container[str]) -> dict[str, Blob]:
    """Return the deployed defaults of the parameters that were not given."""
    from flowstore.store.deployments import parameters_of as deployed_parameters

    deployed = deployed_parameters(store, deployment.id)
    return {item.name: item.blob for item in deployed if item.blob is not None and item.name not in given}


def _defaults(flow: type[FlowSpec], given: Container[str]) -> dict[str, Any]:
    """Return the defaults of the other parameters, as they are now."""
    return {
        name: parameter.default_value(flow.__name__, context.username())
        for name, parameter in parameters_of(flow).items()
        if name not in given
    }


@contextlib.contextmanager
def _session(flow: type[FlowSpec], graph: Graph, options: Options, executor: Executor) -> Iterator[Session]:
    console = Console(quiet=options.quiet)
    stop = Stop()
    store = None
    if executor.notice is not None:
        console.say(executor.notice)
    try:
        ownership.project_of(flow, options.branch, production=options.production)
        store = ensure_active_store(options.store)
        store.durable = options.durable
        store.use_wal()
        if store.warning:
            console.say(store.warning)
        trust.user_key()  # if a key can't be made, nothing runs
        records.record_dead_runs(store)
        with stop.on_signals():
            yield Session(flow, graph, options, executor, store, console, stop)
    finally:
        console.close()
        executor.close()
        if store is not None:
            store.close()


def create(
    db: sqlite3.Connection, session: Session, who: Identity, parameters: _Parameters, origin_run_id: str | None
) -> int:
    """Insert the run; return its id."""
    store, options = session.store, session.options
    constants = {name: _encode("Constant", name, value) for name, value in spec.constants_of(session.flow).items()}
    artifacts = [(name, "parameter", blob_id) for name, blob_id in parameters.blobs.items()]
    artifacts += [(name, "constant", blobs.put(db, store, item)) for name, item in constants.items()]
    system_tags = [*who.system_tags, *tags.runtime_tags(__version__, session.executor.name)]
    user_tags = [tag for tag in tags.checked([*options.tags, *_environment_tags()]) if tag not in system_tags]
    tags.check_not_reserved(user_tags)
    run = records.NewRun(
        flow=session.flow.__name__,
        user=who.user,
        parameters=parameters.shown,
        artifacts=artifacts,
        code_id=_code(db, store, options.sources) if who.deployment is None else who.deployment.code_id,
        system_tags=system_tags,
        tags=user_tags,
        origin_run_id=origin_run_id,
        environment=environment.imported(),
        start_step=None if session.graph.start == "start" else session.graph.start,
        end_step=None if session.graph.end == "end" else session.graph.end,
        trigger_events=_trigger_events(db, session, who, origin_run_id),
    )
    if who.execution is not None:
        from flowstore.store import state_machines  # which a plain run does not need

        state_machines.check_only(db, run.system_tags, origin_run_id)
    trust.claim(db, store.uuid)
    return records.create_run(db, run)


def _trigger_events(db: sqlite3.Connection, session: Session, who: Identity, origin_run_id: str | None) -> str | None:
    """Return the events that start the run, which are used up by that; of a resumed run those of its origin."""
    store, triggers = session.store, session.options.triggers
    if who.claim is None and origin_run_id is None and not triggers:
        return None
    from flowstore.store import events  # which a plain run does not need

    if triggers:
        return events.recorded(events.ends_of(store, triggers))
    if who.claim is not None:
        who.claim.take(db)
        return events.recorded(events.by_ids(store, who.claim.ids))
    return events.of_run(store, int(origin_run_id or 0))


def _environment_tags() -> list[str]:
    return [tag.strip() for tag in os.environ.get("FLOWSTORE_RUN_TAGS", "").split(",") if tag.strip()]


def _code(db: sqlite3.Connection, store: Database, sources: Sources) -> int | None:
    if sources.files:
        program = snapshots.Program(sources.flow_file, sources.module, sources.launcher)
        return snapshots.ensure(db, store, program, sources.files)
    if sources.text is not None:
        return snapshots.ensure(
            db, store, snapshots.Program(snapshot.COMMAND), {snapshot.COMMAND: sources.text.encode()}
        )
    return None


def _encode(kind: str, name: str, value: Any) -> Encoded:
    try:
        return encode(value)
    except ArtifactError as error:
        hint = " Begin its name with an underscore to keep it out of the store." if kind == "Constant" else ""
        raise ArtifactError(f"{kind} {name!r} cannot be stored: {error}.{hint}") from None


def _drive(session: Session, who: Identity, run_id: int, origin: Origin | None) -> int:
    """Run a run that was created; return the exit code."""
    store, console, options, name = session.store, session.console, session.options, session.flow.__name__
    resumed = "" if origin is None else f", which resumes {name}/{origin.run_id}"
    console.banner(f"flowstore {__version__}: running {name}/{run_id} for {who.user} in {store.path}{resumed}")
    run = RunPlan(
        facts=facts_of(session, who, run_id, origin),
        graph=session.graph,
        policies=policies_of(session.flow, session.graph, options.with_, console.say),
        max_workers=options.max_workers or session.executor.capacity or os.cpu_count() or 1,
        origin=origin,
        finished=_finished(who, name, run_id),
        gate=_gate(store, who, options.deployment),
    )
    driver = Driver(store, run, session.executor, console, session.stop)
    began = time.monotonic()  # the clock may be set back meanwhile
    try:
        caller.announce(f"{name}/{run_id}", store.path)
        if options.run_id_file:
            with outputs.replaced(Path(options.run_id_file)) as file:
                file.write_text(str(run_id), "utf-8")
        status = driver.run()
    except (FlowstoreError, OSError) as error:
        raise FlowstoreError(_end_early(store, who, name, run_id, error)) from error
    except BaseException:
        record_failure(store, run_id)
        raise
    console.close()
    took = duration(time.monotonic() - began)
    if origin is not None:
        console.banner(
            f"{counted(driver.reused, 'task')} {'was' if driver.reused == 1 else 'were'} taken over from "
            f"{name}/{origin.run_id}."
        )
    ending = {"successful": "was successful", "failed": f"failed in {driver.failed_task}", "stopped": "was stopped"}
    text = f"{name}/{run_id} {ending[status]} after {took}."
    if status == "successful":
        console.banner(f"Done: {text}")
    else:
        console.say(f"Run {text} What had finished is kept; to go on: {_resume(who, run_id, store.path)}")
    if any(item.name == "exit_hook" for item in session.flow._flow_decorators):
        from flowstore.flow import exit_hooks

        exit_hooks.call(session.flow, f"{name}/{run_id}", successful=status == "successful")
    return EXIT_CODES[status] if status in EXIT_CODES else 128 + (session.stop.signal or 0)


def _gate(store: Database, who: Identity, assigned: Assigned | None) -> Gate | None:
    """Return where tasks wait that AWS admits one by one."""
    if assigned is None or not assigned.steps or who.execution is None:
        return None
    from flowstore.run.gate import Gate

    return Gate(store, who.execution)


def _resume(who: Identity, run_id: int, path: Path) -> str:
    """Return the command that goes on with a run of the store at a path."""
    exchange = caller.calling()
    hint = None if exchange is None else exchange.resume_hint(run_id)
    if hint is not None:
        return hint
    deployed = who.deployment  # runs from a temporary copy, which nobody can resume
    script = context.called_as() if deployed is None else deployed.called_as
    return f"{script} resume --origin-run-id {run_id}{option_for(path)}"


def _end_early(store: Database, who: Identity, flow: str, run_id: int, error: FlowstoreError | OSError) -> str:
    """End a run that can't go on, for want of disk space, say; return a message that says what is kept."""
    message = f"{_sentence(error)} Run {flow}/{run_id} ended there"
    if store.in_place:
        record_failure(store, run_id)
        go_on = _resume(who, run_id, store.path)
        return f"{message}. What had finished is kept; to go on, once that is repaired: {go_on}"
    rescued = store.path.with_name(f"{store.path.name}.rescued-{run_id}")
    try:
        store.rescue(rescued)
    except FlowstoreError as second:
        return f"{message}, and is lost: {second}"
    go_on = _resume(who, run_id, rescued)
    return f"{message}. What had finished is kept in {rescued}; to go on: {go_on}"


def _sentence(error: FlowstoreError | OSError) -> str:
    """Return a sentence that says what went wrong, and with which file."""
    if isinstance(error, FlowstoreError):
        return str(error)
    return f"{error.filename}: {error.strerror}." if error.filename is not None else f"{error.strerror or error}."


def record_failure(store: Database, run_id: int) -> None:
    """Record that a run could not go on, if the store still can; if not, it will be seen as dead."""
    with contextlib.suppress(FlowstoreError), store.write() as db:
        if db.execute("select status from runs where id = ?", (run_id,)).fetchone()[0] == "running":
            records.finish_run(db, run_id, "failed")


def _recorded_events(store: Database, run_id: int) -> list[Any]:
    """Return the events that started a run, as it keeps them."""
    from flowstore.store import events

    return json_of(events.of_run(store, run_id) or "[]", list)


def _finished(who: Identity, flow: str, run_id: int) -> FinishEvent | None:
    """Return the event that the run publishes when it succeeds; only runs of deployments start others."""
    if who.deployment is None:
        return None
    where = {"project": who.deployment.project, "branch": who.deployment.branch}
    return FinishEvent(flow, {"pathspec": f"{flow}/{run_id}", **where}, who.user)


def facts_of(session: Session, who: Identity, run_id: int, origin: Origin | None) -> RunFacts:
    """Return what all orders of the run share."""
    store, name = session.store, session.flow.__name__
    artifacts = queries.parameters_of(store, run_id)
    current = {
        "flow_name": name,
        "run_id": str(run_id),
        "origin_run_id": None if origin is None else str(origin.run_id),
        "namespace": who.sees(session.options.namespace),
        "username": who.user,
        "project_name": None,
        "branch_name": None,
        "project_flow_name": None,
        "is_production": None,
        "is_deployed": who.deployment is not None,
        "trigger": _recorded_events(store, run_id) if who.claim or origin or session.options.triggers else [],
        "is_user_branch": None,
        **who.project,
    }
    return RunFacts(
        flow=name,
        run_id=run_id,
        store=str(store.path),
        trusted=store.trusted,
        max_num_splits=session.options.max_num_splits,
        parameters={name: _inline(row) for name, row in names_of(artifacts, "parameter").items()},
        constants=sorted(names_of(artifacts, "constant")),
        current=current,
        with_=session.options.with_,
    )


def _inline(row: Row) -> Inline | None:
    """Return a parameter that is small enough to travel with every task."""
    blob = Blob.of(row)
    if blob.data is None or blob.size_bytes > records.SMALL_PARAMETER_BYTES or blob.codec == "pickle":
        return None
    return Inline(blob.codec, blob.data)
