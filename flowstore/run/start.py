"""From a flow and what the user asked for to a run: `run_flow` and `resume_flow`.

The order of things matters. The executor was made while the store was closed, and before this module was imported;
the run is visible, and its id in the run id file, before the first task starts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from flowstore import context
from flowstore._version import __version__
from flowstore.errors import ArtifactError, FlowstoreError, NotFound
from flowstore.flow import decorators, spec
from flowstore.flow.graph import CHOOSING, Graph, Node
from flowstore.flow.parameters import parameters_of
from flowstore.flow.spec import FlowSpec
from flowstore.run import ownership, snapshot
from flowstore.run.console import Console, duration
from flowstore.run.driver import Driver
from flowstore.run.executor import Executor
from flowstore.run.local.messages import Small
from flowstore.run.orders import RunPlan, StepPolicy
from flowstore.run.ownership import Identity
from flowstore.run.resume import Origin, names_of, nothing_to_take
from flowstore.run.signals import Stop
from flowstore.run.snapshot import Sources
from flowstore.sqlite import outputs
from flowstore.sqlite.database import Store
from flowstore.sqlite.liveness import is_dead
from flowstore.store import blobs, queries, records, tags, trust
from flowstore.store.blobs import Blob
from flowstore.store.codecs import Encoded, encode
from flowstore.store.opening import ensure_active_store
from flowstore.text import counted

if TYPE_CHECKING:
    from flowstore.store.deployments import Deployment

EXIT_CODES = {"successful": 0, "failed": 1}


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Options:
    """What `run` and `resume` were asked for; each is an option of the command line of that name."""

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
    sources: Sources = attrs.field(factory=Sources)
    deployment: str | None = None  # not an option: what `assignment.told_deployment` gave


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
    with _prepared(flow, options, executor) as (store, console, stop):
        with store.read():  # so that what was signed is what runs
            who, options = _identity(store, flow, options)
            deployed = {} if who.deployment is None else _deployed_values(store, who.deployment, values)
        if who.deployment is not None:
            values = {**_defaults(flow, {*values, *deployed}), **values}
        encoded = {name: _encode("Parameter", name, value) for name, value in values.items()}
        with store.write() as db:
            parameters = {name: blob.id for name, blob in deployed.items()}
            parameters |= {name: blobs.put(db, store, item) for name, item in encoded.items()}
            shown = {name: records.parameter_json(db, item) for name, item in (deployed | encoded).items()}
            run_id = _create(db, store, flow, options, who, parameters, shown, None)
        return _drive(store, flow, graph, options, who, executor, console, stop, run_id, None)


def resume_flow(
    flow: type[FlowSpec],
    graph: Graph,
    step: str | None,
    origin_run_id: str | None,
    options: Options,
    executor: Executor,
) -> int:
    """Start a run that takes over what succeeded in an earlier one; see `run_flow`."""
    from flowstore.run.resume import parameters_from

    with _prepared(flow, options, executor) as (store, console, stop):
        who = ownership.own(flow, options.branch, production=options.production)
        origin_id = _origin_id(store, flow.__name__, origin_run_id)
        origin = Origin(store, origin_id, graph, step)
        old = names_of(queries.parameters_of(store, origin_id), "parameter")
        kept = parameters_from(store, flow, origin_id, old)
        encoded = {name: _encode("Parameter", name, value) for name, value in kept.values.items()}
        for note in (*kept.notes, *nothing_to_take(store, flow.__name__, origin, asked=origin_run_id is not None)):
            console.say(note)
        with store.write() as db:
            parameters = {name: blob.id for name, blob in kept.blobs.items()}
            parameters |= {name: blobs.put(db, store, item) for name, item in encoded.items()}
            shown = {name: records.parameter_json(db, item) for name, item in (dict(kept.blobs) | encoded).items()}
            run_id = _create(db, store, flow, options, who, parameters, shown, str(origin_id))
            trust.inherit_unverified(db, run_id, origin_id, [blob.id for blob in kept.blobs.values()])
        return _drive(store, flow, graph, options, who, executor, console, stop, run_id, origin)


def _identity(store: Store, flow: type[FlowSpec], options: Options) -> tuple[Identity, Options]:
    """Whose the run is, and the options together with what the deployment adds to them."""
    if options.deployment is None:
        return ownership.own(flow, options.branch, production=options.production), options
    who = ownership.deployed(store, options.deployment)
    deployment = who.deployment
    assert deployment is not None
    tags, with_ = (*deployment.tags, *options.tags), (*deployment.with_, *options.with_)
    return who, attrs.evolve(options, tags=tags, with_=with_)


def _deployed_values(store: Store, deployment: Deployment, given: Container[str]) -> dict[str, Blob]:
    """The deployed defaults of the parameters that were not given."""
    from flowstore.store.deployments import parameters_of as deployed_parameters

    found = deployed_parameters(store, deployment.id)
    return {item.name: item.blob for item in found if item.blob is not None and item.name not in given}


def _defaults(flow: type[FlowSpec], given: Container[str]) -> dict[str, Any]:
    """The defaults of the other parameters, as they are now."""
    return {
        name: parameter.default_value(flow.__name__, context.username())
        for name, parameter in parameters_of(flow).items()
        if name not in given
    }


@contextlib.contextmanager
def _prepared(flow: type[FlowSpec], options: Options, executor: Executor) -> Iterator[tuple[Store, Console, Stop]]:
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
        trust.user_key()  # a key that can't be made is told before anything runs
        records.record_dead_runs(store)
        with stop.on_signals():
            yield store, console, stop
    finally:
        console.close()
        executor.close()
        if store is not None:
            store.close()


def _create(
    db: Any,
    store: Store,
    flow: type[FlowSpec],
    options: Options,
    who: Identity,
    parameters: Mapping[str, int],
    shown: Mapping[str, str],
    origin_run_id: str | None,
) -> int:
    constants = {name: _encode("Constant", name, value) for name, value in spec.constants_of(flow).items()}
    artifacts = [(name, "parameter", blob_id) for name, blob_id in parameters.items()]
    artifacts += [(name, "constant", blobs.put(db, store, item)) for name, item in constants.items()]
    system_tags = [*who.system_tags, *tags.runtime_tags(__version__)]
    user_tags = [tag for tag in tags.checked([*options.tags, *_environment_tags()]) if tag not in system_tags]
    tags.check_not_reserved(user_tags)
    run = records.NewRun(
        flow=flow.__name__,
        user=who.user,
        parameters=shown,
        artifacts=artifacts,
        code_id=_code(db, store, options.sources) if who.deployment is None else who.deployment.code_id,
        system_tags=system_tags,
        tags=user_tags,
        origin_run_id=origin_run_id,
    )
    trust.claim(db, store.uuid)
    return records.create_run(db, run)


def _environment_tags() -> list[str]:
    return [tag.strip() for tag in os.environ.get("FLOWSTORE_RUN_TAGS", "").split(",") if tag.strip()]


def _code(db: Any, store: Store, sources: Sources) -> int | None:
    if sources.files:
        return records.ensure_code(db, store, sources.flow_file, sources.files, sources.module)
    if sources.text is not None:
        return records.ensure_code(db, store, snapshot.COMMAND, {snapshot.COMMAND: sources.text.encode()})
    return None


def _encode(kind: str, name: str, value: Any) -> Encoded:
    try:
        return encode(value)
    except ArtifactError as error:
        hint = " Begin its name with an underscore to keep it out of the store." if kind == "Constant" else ""
        raise ArtifactError(f"{kind} {name!r} can't be stored: {error}.{hint}") from None


def _origin_id(store: Store, flow: str, asked: str | None) -> int:
    if asked is None:
        user = context.username()
        run_id = next(tags.find_runs(store, flow, [f"user:{user}"]), None)
        if run_id is None:
            raise NotFound(f"{user} has no run of {flow} to resume in {store.path}. Name one with --origin-run-id.")
    elif asked.isdecimal():
        run_id = queries.parse_id("run", asked)
    else:
        from flowstore.client import addresses  # the Client is no part of a plain run

        pathspec = addresses.with_ids(addresses.Scope(store), [flow, asked.removeprefix(f"{flow}/")])
        run_id = addresses.number("run", pathspec[1])
    found = queries.find_run(store, flow, run_id)
    if found is None:
        raise NotFound(f"There is no run {flow}/{run_id} in {store.path} to resume.")
    if found["status"] == "running" and not is_dead(found):
        raise FlowstoreError(f"Run {flow}/{run_id} is still running; stop it, or wait, before resuming it.")
    return run_id


def _drive(
    store: Store,
    flow: type[FlowSpec],
    graph: Graph,
    options: Options,
    who: Identity,
    executor: Executor,
    console: Console,
    stop: Stop,
    run_id: int,
    origin: Origin | None,
) -> int:
    name = flow.__name__
    resumed = "" if origin is None else f", which resumes {name}/{origin.run_id}"
    console.banner(f"flowstore {__version__}: running {name}/{run_id} for {who.user} in {store.path}{resumed}")
    run = RunPlan(
        flow=name,
        run_id=run_id,
        graph=graph,
        policies={node.name: _policy(flow, node, options.with_, console) for node in graph},
        template=_template(store, flow, options, who, run_id, origin),
        max_workers=options.max_workers or os.cpu_count() or 1,
        origin=origin,
    )
    driver = Driver(store, run, executor, console, stop)
    began = time.monotonic()  # the clock may be set back meanwhile
    try:
        if options.run_id_file:
            with outputs.replaced(Path(options.run_id_file)) as place:
                place.write_text(str(run_id), "utf-8")
        status = driver.run()
    except (FlowstoreError, OSError) as error:
        raise FlowstoreError(_end_early(store, who, name, run_id, error)) from error
    except BaseException:
        _record_failure(store, run_id)
        raise
    console.close()
    took = duration(time.monotonic() - began)
    if origin is not None:
        console.banner(
            f"{counted(driver.reused, 'task')} {'was' if driver.reused == 1 else 'were'} taken over from "
            f"{name}/{origin.run_id}."
        )
    _tell_end(console, who, name, run_id, status, took, driver.failed_task)
    return EXIT_CODES[status] if status in EXIT_CODES else 128 + (stop.signal or 0)


def _tell_end(
    console: Console, who: Identity, flow: str, run_id: int, status: str, took: str, failed: str | None
) -> None:
    resume = _resume(who, run_id)
    if status == "successful":
        console.banner(f"Done: {flow}/{run_id} was successful after {took}.")
    elif status == "failed":
        console.say(
            f"Run {flow}/{run_id} failed in {failed} after {took}. What had finished is kept; to go on: {resume}"
        )
    else:
        console.say(f"Run {flow}/{run_id} was stopped after {took}. What had finished is kept; to go on: {resume}")


def _resume(who: Identity, run_id: int, options: str = "") -> str:
    """The command that goes on with a run."""
    deployed = who.deployment  # runs from a temporary copy, which nobody can resume
    script = context.called_as() if deployed is None else deployed.called_as
    return f"{script}{options} resume --origin-run-id {run_id}"


def _end_early(store: Store, who: Identity, flow: str, run_id: int, error: FlowstoreError | OSError) -> str:
    """The driver itself can't go on, for want of disk space, say; gives what to tell: what is kept, and what to do."""
    told = f"{_told(error)} Run {flow}/{run_id} ended there"
    if store.in_place:
        _record_failure(store, run_id)
        go_on = _resume(who, run_id)
        return f"{told}. What had finished is kept; to go on, once that is mended: {go_on}"
    import shlex

    rescued = store.path.with_name(f"{store.path.name}.rescued-{run_id}")
    try:
        store.rescue(rescued)
    except FlowstoreError as second:
        return f"{told}, and is lost: {second}"
    go_on = _resume(who, run_id, f" --store {shlex.quote(str(rescued))}")
    return f"{told}. What had finished is kept in {rescued}; to go on: {go_on}"


def _told(error: FlowstoreError | OSError) -> str:
    """A sentence: what went wrong, and with which file."""
    if isinstance(error, FlowstoreError):
        return str(error)
    return f"{error.filename}: {error.strerror}." if error.filename is not None else f"{error.strerror or error}."


def _record_failure(store: Store, run_id: int) -> None:
    """Record the end of a run, if the store still can; if not, it will be seen as dead, and can be resumed, too."""
    with contextlib.suppress(FlowstoreError), store.write() as db:
        records.finish_run(db, run_id, "failed")


def _template(
    store: Store, flow: type[FlowSpec], options: Options, who: Identity, run_id: int, origin: Origin | None
) -> dict[str, Any]:
    """What every order of the run holds."""
    artifacts = queries.parameters_of(store, run_id)
    parameters = {name: _inline(row) for name, row in names_of(artifacts, "parameter").items()}
    current = {
        "flow_name": flow.__name__,
        "run_id": str(run_id),
        "origin_run_id": None if origin is None else str(origin.run_id),
        "namespace": who.sees(options.namespace),
        "username": who.user,
        "project_name": None,
        "branch_name": None,
        "project_flow_name": None,
        "is_production": None,
        **who.project,
    }
    return {
        "store": str(store.path),
        "trusted": store.trusted,
        "run_id": run_id,
        "max_num_splits": options.max_num_splits,
        "parameters": parameters,
        "constants": sorted(names_of(artifacts, "constant")),
        "current": current,
    }


def _inline(row: Any) -> Small | None:
    """A parameter that is small enough to travel with every task."""
    blob = Blob.of(row)
    if blob.data is None or blob.size_bytes > records.SMALL_PARAMETER_BYTES or blob.codec == "pickle":
        return None
    return blob.codec, blob.data


def _policy(flow: type[FlowSpec], node: Node, with_: Sequence[str], console: Console) -> StepPolicy:
    """What a step's own decorators and those of `--with` ask for; the step's own win."""
    attached = {item.name: item for item in map(decorators.from_text, with_)}
    if "catch" in attached and node.kind in CHOOSING:
        del attached["catch"]
        console.say(
            f"--with catch: not for step {node.name}, where what follows is chosen while it runs ({node.kind})."
        )
    attached |= {item.name: item for item in getattr(getattr(flow, node.name), "decorators", ())}
    retry, catch, timeout = attached.get("retry"), attached.get("catch"), attached.get("timeout")
    environment, resources = attached.get("environment"), attached.get("resources")
    return StepPolicy(
        retries=int(retry.times) if isinstance(retry, decorators.Retry) else 0,
        retry_delay_s=60 * retry.minutes_between_retries if isinstance(retry, decorators.Retry) else 0,
        timeout_s=timeout.total_s if isinstance(timeout, decorators.Timeout) else 0,
        catch=attrs.asdict(catch) if isinstance(catch, decorators.Catch) else None,
        environment={str(k): str(v) for k, v in environment.vars.items()}
        if isinstance(environment, decorators.Environment)
        else {},
        metadata={"resources": resources.amounts} if isinstance(resources, decorators.Resources) else {},
    )
