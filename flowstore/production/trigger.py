"""Running a deployment: its snapshot, in a process of its own, with the store closed in this one.

A snapshot is code. It runs only if this user signed it, or trusts the store. The process that runs it learns
from its environment which deployment that is (`run.ownership`), stops when this one is asked to, and dies with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowstore import context
from flowstore.client.addresses import Scope
from flowstore.client.code import Code
from flowstore.errors import FlowstoreError, ParameterError, UntrustedArtifact, is_transient
from flowstore.production import tokens
from flowstore.run import ownership
from flowstore.run.local.worker import die_with_parent
from flowstore.sqlite import files
from flowstore.sqlite.database import Database
from flowstore.store import deployments as rows
from flowstore.store import trust
from flowstore.store.deployments import DeployedParameter, Deployment
from flowstore.store.events import Claim
from flowstore.store.opening import active_store, use_store
from flowstore.text import safe

_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def trigger(
    store: Database,
    deployment: Deployment,
    values: Mapping[str, str] | None = None,
    *,
    quiet: bool = False,
    durable: bool = False,
    namespace: str | context.Unset | None = context.UNSET,
    max_workers: int | None = None,
    execution: str | None = None,
    steps: bool = False,
    origin_run_id: int | None = None,
    claim: Claim | None = None,
) -> int:
    """Run a deployment now, in the foreground, with this process's stdout and stderr.

    Args:
        store: where it is deployed.
        deployment: from `deployments` or `find`.
        values: texts of parameters, by name, instead of the deployed defaults.
        quiet: no banner and no progress.
        durable: lose nothing at a power cut either.
        namespace: what the Client sees inside, instead of what the deployment says.
        max_workers: how many of its tasks run at a time; default: as many as there are cores.
        execution: the tag of the execution in AWS that asks for the run.
        steps: whether AWS admits each of its tasks.
        origin_run_id: the run to resume, with its own values.
        claim: the events that start the run.

    Returns:
        The run's exit code. Where events or an execution ask for the run, it is `ownership.TRANSIENT_CODE` after a
        transient error.

    Raises:
        UntrustedArtifact: this user neither deployed it nor trusts the store; nothing was run.
        ParameterError: it has no parameter of that name.
    """
    options, environment = _parameters(store, deployment, values or {})
    before = [flag for flag, is_set in (("--quiet", quiet), ("--durable", durable)) if is_set]
    if not isinstance(namespace, context.Unset):
        before += ["--namespace", namespace or ""]
    files.remove_abandoned_folders(Path(tempfile.gettempdir()), "flowstore-")  # those of triggers that were killed
    temporary = tempfile.TemporaryDirectory(prefix=f"flowstore-{files.temporary_name()}-", ignore_cleanup_errors=True)
    with _passing_on_signals() as child, temporary as folder:
        with store.read():  # so that what is checked is what is taken
            digest = check_trusted(store, deployment)
            Code(Scope(store), deployment.code_id).extract(folder)
        store.close()  # opened again when it is used; the run is to be the last to close it
        command = ["run", *options] if origin_run_id is None else ["resume", "--origin-run-id", str(origin_run_id)]
        if max_workers is not None:
            command += ["--max-workers", str(max_workers)]
        command += [f"--executor{'-option' * (i > 0)}={text}" for i, text in enumerate(deployment.executor)]
        command = [*_program(deployment, folder), "--store", str(store.path), *before, *command]
        assigned = ownership.Assigned(deployment.id, os.getpid(), digest.hex(), deployment.token, execution, steps)
        if claim is not None:
            assigned = attrs.evolve(assigned, events=claim.ids, mark=claim.mark)
        assignment = {ownership.VARIABLE: assigned.text()}
        return _run(
            child, command, {**_outside_parameters(), **_paths(deployment, folder), **environment, **assignment}
        )


def as_child(parent: str, path: str, call: Callable[[Database], int]) -> int:
    """Call something in a process that a scheduler or worker has started, and return the exit code.

    Args:
        parent: the process that started this one, which dies with it.
        path: of the store.
        call: is given the store; its errors are printed.
    """
    die_with_parent(int(parent))
    try:
        use_store(path)
        return call(active_store())
    except (FlowstoreError, OSError) as error:
        print(f"Error: {safe(str(error))}", file=sys.stderr)
        return ownership.TRANSIENT_CODE if is_transient(error) else 1


def _program(deployment: Deployment, folder: str) -> list[str]:
    """Return the command that runs the flow.

    A module is not looked for in the current folder, which may have a newer one.
    """
    if deployment.module is None:
        program = attrs.evolve(deployment.program, script_name=str(Path(folder, deployment.script_name)))
        return [sys.executable, *program.words]
    return [sys.executable, "-P", *deployment.program.words]


def _paths(deployment: Deployment, folder: str) -> dict[str, str]:
    """Return the folders of modules: the snapshot; for what it lacks, where that was imported from, or this one."""
    if deployment.module is None:
        return {}
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")]), str(Path.cwd())]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def check_trusted(store: Database, deployment: Deployment) -> bytes:
    """Refuse what this user neither deployed nor trusts; return the digest of what may run.

    Raises:
        UntrustedArtifact: says what is wrong, and which command trusts the file.
    """
    digest = rows.digest(store, deployment)
    if store.trusted or trust.is_trusted(store.path, store.uuid):
        return digest
    signed_by, mac = rows.signature(store, deployment.id)
    if not trust.signed_deployment(store, digest, signed_by, mac):
        problem = (
            f"was changed after you made it, or made by flowstore 0.1.0, which signed only the code. Look at it with "
            f"deploy show, and deploy {deployment.flow} again"
            if trust.is_key_of(signed_by)
            else f"says it was made by {deployment.deployed_by}, not by you; starting it would run that code"
        )
    elif deployment.version < (least := tokens.least_version(store, deployment.flow, deployment.scope)):
        problem = (
            f"is version {deployment.version}, and you have replaced or deleted all versions before {least} here: the "
            f"file is an older copy, or somebody has changed it. To run {deployment.flow}, deploy it again"
        )
    else:
        return digest
    raise UntrustedArtifact(
        f"The deployment of {deployment.flow} {problem}.\nIf you trust the file: {trust.command(store.path)}"
    )


def _parameters(store: Database, deployment: Deployment, values: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return values as options and, for flags, which no option takes back, as environment variables."""
    known = check_names(store, deployment, values)
    options: list[str] = []
    environment: dict[str, str] = {}
    for name, text in values.items():
        parameter = known[name.replace("_", "-")]
        if parameter.is_flag:
            environment[variable(parameter)] = text
        else:
            options.append(f"--{parameter.option}={text}")
    return options, environment


def check_names(store: Database, deployment: Deployment, names: Iterable[str]) -> dict[str, DeployedParameter]:
    """Return the parameters of a deployment by option.

    Raises:
        ParameterError: it has none of one of the names.
    """
    known = {item.option: item for item in rows.parameters_of(store, deployment.id)}
    for name in names:
        if name.replace("_", "-") not in known:
            there = ", ".join(f"--{option}" for option in known) or "none"
            raise ParameterError(f"The deployment of {deployment.flow} has no parameter {name!r}; it has: {there}.")
    return known


def variable(parameter: DeployedParameter) -> str:
    """Return the environment variable that gives a parameter's value."""
    return f"FLOWSTORE_RUN_{parameter.option.upper().replace('-', '_')}"


def _outside_parameters() -> dict[str, str]:
    """Return the environment without parameters: those of a deployment come from it, or from who triggers it."""
    prefixes, tags_variable = ("FLOWSTORE_RUN_", "METAFLOW_RUN_"), "FLOWSTORE_RUN_TAGS"
    return {name: text for name, text in os.environ.items() if not name.startswith(prefixes) or name == tags_variable}


class _Child:
    """The process that runs the deployment, once it is there."""

    process: subprocess.Popen[bytes] | None = None

    def stop(self, number: int, _frame: Any) -> None:
        """Handle a signal that asks to stop: the run marks itself as stopped, if it has begun."""
        if self.process is None:
            sys.exit(128 + number)
        if sys.platform != "win32":  # where Ctrl-C reaches all, and nothing else can be sent
            self.process.send_signal(number)


def _run(child: _Child, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    with subprocess.Popen(command, env=environment) as process:
        child.process = process
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _passing_on_signals() -> Iterator[_Child]:
    """Pass signals on. A terminal's Ctrl-C reaches both processes, `kill` only this one; a second one is harmless."""
    child = _Child()
    if threading.current_thread() is not threading.main_thread():
        yield child
        return
    before = {number: signal.signal(number, child.stop) for number in _STOPPING}
    try:
        yield child
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
