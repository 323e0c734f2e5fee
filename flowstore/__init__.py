"""Workflows whose every run, task, artifact and tag lands in one SQLite file.

A flow is a class whose methods are its steps. `python flow.py run` runs it. A run has steps, a step has tasks (one, or
one for each item of a foreach), and a task has artifacts: the values that it set on `self`, and those that it inherits
from the tasks before it. All of that is found again by address and tag:

    FlowSpec, step            what a flow is made of; Parameter, IncludeFile, retry, catch, timeout, …
    current                   inside a task: which run, step and task it is
    Flow, Run, Step, Task,    results, from the outside to the inside; each is addressed by a pathspec such as
    DataArtifact              "HelloFlow/5/start/17/x", and is iterable over what it contains
    namespace(tag)            limits which results are visible, by default to the user's own
    use_store(path)           chooses the file for this process
    open_store(path)          a `Store` to hold on to: a file and a namespace of its own, beside all others

Example:
    >>> from flowstore import Flow, FlowSpec, step
    >>> class HelloFlow(FlowSpec):
    ...     @step
    ...     def start(self):
    ...         self.greeting = "hello"
    ...         self.next(self.end)
    ...     @step
    ...     def end(self):
    ...         print(self.greeting)

With `if __name__ == "__main__": HelloFlow()` at its end, the file runs with `python hello.py run`, and then
`Flow("HelloFlow").latest_run.data.greeting` is `"hello"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowstore import context as _context
from flowstore._version import __version__ as __version__
from flowstore.context import current, default_namespace, get_namespace, namespace
from flowstore.errors import (
    ArtifactError,
    FlowstoreError,
    GraphError,
    InvalidPathspec,
    NamespaceMismatch,
    NotAStore,
    NotFound,
    ParameterError,
    StoreCorrupt,
    StoreNotFound,
    StoreTooNew,
    TaggingError,
    TaskFailed,
    TimeoutExpired,
    TokenError,
    UntrustedArtifact,
)

if TYPE_CHECKING:
    from flowstore.client import DataArtifact, ExceptionInfo, Flow, Flows, Run, Step, Store, Task, open_store
    from flowstore.client.events import Event
    from flowstore.flow.configs import Config
    from flowstore.flow.decorators import (
        card,
        catch,
        environment,
        parallel,
        project,
        resources,
        retry,
        schedule,
        step,
        timeout,
    )
    from flowstore.flow.exit_hooks import exit_hook
    from flowstore.flow.expressions import config_expr
    from flowstore.flow.helpers import parallel_imap_unordered, parallel_map, profile
    from flowstore.flow.mutators import FlowMutator, StepMutator
    from flowstore.flow.own import user_step_decorator
    from flowstore.flow.parameters import IncludeFile, JSONType, Parameter
    from flowstore.flow.secrets import secrets
    from flowstore.flow.spec import FlowSpec
    from flowstore.flow.triggers import trigger, trigger_on_finish
    from flowstore.runner import Runner, inspect_spin
    from flowstore.runner.deployer import DeployedFlow, Deployer
    from flowstore.runner.notebook import NBDeployer, NBRunner
    from flowstore.store.opening import get_store, use_store

_LATER = {  # by module, names that are loaded at their first use: each program needs some of them
    "flowstore.client": (
        "DataArtifact", "ExceptionInfo", "Flow", "Flows", "Run", "Step", "Store", "Task", "open_store",
    ),
    "flowstore.client.events": ("ArgoEvent", "Event"),
    "flowstore.flow.configs": ("Config",),
    "flowstore.flow.decorators": (
        "card", "catch", "environment", "parallel", "project", "resources", "retry", "schedule", "step", "timeout",
    ),
    "flowstore.flow.exit_hooks": ("exit_hook",),
    "flowstore.flow.expressions": ("config_expr",),
    "flowstore.flow.helpers": ("parallel_imap_unordered", "parallel_map", "profile"),
    "flowstore.flow.mutators": ("FlowMutator", "StepMutator"),
    "flowstore.flow.own": ("USER_SKIP_STEP", "user_step_decorator"),
    "flowstore.flow.parameters": ("IncludeFile", "JSONType", "Parameter"),
    "flowstore.flow.secrets": ("secrets",),
    "flowstore.flow.spec": ("FlowSpec",),
    "flowstore.flow.triggers": ("trigger", "trigger_on_finish"),
    "flowstore.runner": ("Runner", "inspect_spin"),
    "flowstore.runner.deployer": ("DeployedFlow", "Deployer"),
    "flowstore.runner.notebook": ("NBDeployer", "NBRunner"),
    "flowstore.store.opening": ("get_store", "use_store"),
}  # fmt: skip
_MODULES = {name: module for module, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    """Return a name of `_LATER`, whose module is imported at the first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'flowstore' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return all names, those of `_LATER` as well."""
    return sorted({*globals(), *_MODULES})


def _run(pathspec: str) -> Run:
    from flowstore.client import Run

    return Run(pathspec)


def _task(pathspec: str) -> Task:
    from flowstore.client import Task

    return Task(pathspec)


def _trigger(recorded: Any) -> Any:
    from flowstore.client import Run
    from flowstore.client.addresses import Scope, active_scope
    from flowstore.client.events import Trigger

    return Trigger(recorded, lambda pathspec: Run._get(Scope(active_scope().store, None), pathspec))


def _main(flow: type[FlowSpec]) -> None:
    from flowstore.cli.flow import main

    main(flow)


_context.state.make_run = _run
_context.state.make_task = _task
_context.state.make_trigger = _trigger
_context.state.main = _main

__all__ = [
    "ArtifactError",
    "Config",
    "DataArtifact",
    "DeployedFlow",
    "Deployer",
    "Event",
    "ExceptionInfo",
    "Flow",
    "FlowMutator",
    "FlowSpec",
    "Flows",
    "FlowstoreError",
    "GraphError",
    "IncludeFile",
    "InvalidPathspec",
    "JSONType",
    "NBDeployer",
    "NBRunner",
    "NamespaceMismatch",
    "NotAStore",
    "NotFound",
    "Parameter",
    "ParameterError",
    "Run",
    "Runner",
    "Step",
    "StepMutator",
    "Store",
    "StoreCorrupt",
    "StoreNotFound",
    "StoreTooNew",
    "TaggingError",
    "Task",
    "TaskFailed",
    "TimeoutExpired",
    "TokenError",
    "UntrustedArtifact",
    "card",
    "catch",
    "config_expr",
    "current",
    "default_namespace",
    "environment",
    "exit_hook",
    "get_namespace",
    "get_store",
    "inspect_spin",
    "namespace",
    "open_store",
    "parallel",
    "parallel_imap_unordered",
    "parallel_map",
    "profile",
    "project",
    "resources",
    "retry",
    "schedule",
    "secrets",
    "step",
    "timeout",
    "trigger",
    "trigger_on_finish",
    "use_store",
    "user_step_decorator",
]
