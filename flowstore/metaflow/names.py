"""The modules that stand under the name `metaflow`, and what their names refer to.

Modules are made when they are imported, and names are looked up when they are read, so that a flow loads what it uses.
A module of these is pickled as the one of flowstore that it stands for: what a flow stores can be read where nobody
has heard of this one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from flowstore import context, later
from flowstore.errors import FlowstoreError
from flowstore.flow import elsewhere

NAME = "metaflow"
_VALUES = ("--metadata", "--environment", "--datastore", "--datastore-root", "--event-logger", "--monitor")
_FLAGS = ("--pylint/--no-pylint", "--not-quiet", "--force-rebuild-environments", "--coverage")  # mean nothing here
VERSION = "2.19"  # of Metaflow's documentation that these names follow


class NameTakenError(FlowstoreError, ImportError):
    """The real `metaflow` is imported already, and objects of both would meet."""


@later.frozen
class _Module:
    """The meaning of a module.

    Attributes:
        targets: the modules of flowstore that have its names, the one that it is pickled as first.
        names: names that those lack, or have in another meaning, as "module:name".
    """

    targets: tuple[str, ...]
    names: Mapping[str, str] = later.field(factory=dict)


_CLIENT = {name: f"flowstore:{name}" for name in ("namespace", "get_namespace", "default_namespace")} | {
    "Metaflow": "flowstore:Flows",
    "metadata": "flowstore.client.providers:metadata",
    "get_metadata": "flowstore.client.providers:get_metadata",
    "default_metadata": "flowstore.client.providers:default_metadata",
    "MetaflowData": "flowstore.client.artifact:Data",
    "MetaflowCode": "flowstore.client.code:Code",
    "MetaflowArtifacts": "flowstore.client.artifact:Artifacts",
}
_DECORATORS = ("conda", "conda_base", "pypi", "pypi_base", "uv", "uv_base", "batch", "kubernetes")
_ELSEWHERE = {name: f"flowstore.flow.elsewhere:{name}" for name in (*_DECORATORS, "S3")}
_EXCEPTIONS = {
    "MetaflowException": "FlowstoreError",
    "MetaflowInternalError": "FlowstoreError",
    "MetaflowNotFound": "NotFound",
    "MetaflowNamespaceMismatch": "NamespaceMismatch",
    "MetaflowInvalidPathspec": "InvalidPathspec",
    "MetaflowTaggingError": "TaggingError",
    "InvalidNextException": "GraphError",
    "InvalidDecoratorAttribute": "GraphError",
    "ParameterFieldFailed": "ParameterError",
    "UnhandledInMergeArtifactsException": "ArtifactError",
    "MissingInMergeArtifactsException": "ArtifactError",
}
_CARDS = _Module(("flowstore.cards",))
MODULES: Mapping[str, _Module] = {
    "": _Module(("flowstore",), _CLIENT | _ELSEWHERE),
    "cards": _CARDS,
    "plugins": _Module(("flowstore",), _ELSEWHERE),
    "plugins.cards": _CARDS,
    "plugins.cards.card_modules": _CARDS,
    "plugins.cards.card_modules.card": _CARDS,
    "plugins.cards.card_modules.components": _CARDS,
    "plugins.cards.card_client": _CARDS,
    "client": _Module(("flowstore.client",), _CLIENT),
    "client.core": _Module(("flowstore.client",), _CLIENT),
    "metaflow_current": _Module(("flowstore",)),
    "decorators": _Module(("flowstore",), _ELSEWHERE),
    "exception": _Module(
        ("flowstore.errors",), {name: f"flowstore.errors:{other}" for name, other in _EXCEPTIONS.items()}
    ),
    "events": _Module(
        ("flowstore.client.events",),
        {
            "MetaflowEvent": "flowstore.client.events:TriggerEvent",
            "MetaflowTrigger": "flowstore.client.events:Trigger",
        },
    ),
    "datatools": _Module(("flowstore",), _ELSEWHERE),
    "flowspec": _Module(("flowstore",)),
    "integrations": _Module(("flowstore",)),
    "includefile": _Module(("flowstore",)),
    "multicore_utils": _Module(("flowstore",)),
    "runner": _Module(("flowstore", "flowstore.runner")),
    "runner.deployer": _Module(("flowstore", "flowstore.runner")),
    "runner.metaflow_runner": _Module(("flowstore", "flowstore.runner")),
    "runner.nbrun": _Module(("flowstore", "flowstore.runner")),
    "parameters": _Module(("flowstore",), {"DeployTimeContext": "flowstore.flow.parameters:DeployTimeContext"}),
    "user_decorators": _Module(("flowstore",)),
    "user_decorators.mutable_flow": _Module(("flowstore.flow.mutators",)),
    "user_decorators.mutable_step": _Module(("flowstore.flow.mutators",)),
    "user_decorators.user_flow_decorator": _Module(("flowstore.flow.mutators",)),
    "user_decorators.user_step_decorator": _Module(("flowstore.flow.mutators", "flowstore.flow.own")),
}


def install() -> None:
    """Have the name `metaflow` stand for flowstore in this process.

    Raises:
        NameTakenError: it stands for Metaflow itself already.
    """
    taken = sys.modules.get(NAME)
    if isinstance(taken, Alias):
        return
    if taken is not None:
        raise NameTakenError(
            f"{taken.__name__} is already imported, from {getattr(taken, '__file__', None) or 'elsewhere'}, so that "
            "its name cannot stand for flowstore in this process. Start a new one (in a notebook: restart the "
            "kernel), and import flowstore.metaflow first."
        )
    sys.meta_path.insert(0, _Finder())
    context.state.prefixes = (*context.state.prefixes, "METAFLOW")
    context.state.add_options = _add_options
    elsewhere.accept_in_with()


def _add_options(group: Any) -> None:
    """Add to a flow's command line what Metaflow's has, and have all of its options read from `$METAFLOW_…` as well.

    This is called where there is a command line, which a task has not.
    """
    import click

    group.params += [click.Option([name], hidden=True, expose_value=False) for name in _VALUES]
    group.params += [click.Option([name], is_flag=True, hidden=True, expose_value=False) for name in _FLAGS]
    group.params += [click.Option(["--package-suffixes"], multiple=True, hidden=True)]
    log_size = click.Option(["--max-log-size"], type=int, hidden=True, expose_value=False)
    group.added = {command: [log_size] for command in ("run", "resume")}
    group.context_settings["auto_envvar_prefix"] = "METAFLOW"


class _Finder:
    """Finds `metaflow` and its modules; also those that it lacks, which must not come from Metaflow itself."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module; see `importlib.abc.MetaPathFinder`."""
        first, _, rest = fullname.partition(".")
        if first != NAME:
            return None
        if rest not in MODULES:
            raise ModuleNotFoundError(
                f"flowstore has no module {fullname}: it stands for the names that Metaflow's documentation imports.",
                name=fullname,
            )
        return ModuleSpec(fullname, _Loader(), is_package=True)


class _Loader(Loader):
    """Makes modules."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is: its names are looked up when they are read."""


class Alias(ModuleType):
    """A module under the name `metaflow`."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "The names of Metaflow's documentation, which stand for flowstore here.")
        self._path_inside = name.partition(".")[2]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in {"__version__", "__all__"}:
            raise AttributeError(name)
        value = self._find(name)
        vars(self)[name] = value
        return value

    def _find(self, name: str) -> Any:
        module = MODULES[self._path_inside]
        if name == "__all__":
            return [*dict.fromkeys([*module.names, *importlib.import_module(module.targets[0]).__all__])]
        if name == "__version__":
            return VERSION
        if name in module.names:
            target, _, attribute = module.names[name].partition(":")
            return getattr(importlib.import_module(target), attribute)
        for target in module.targets:
            value = getattr(importlib.import_module(target), name, None)
            if value is not None and not name.startswith("_"):
                return value
        inner = f"{self._path_inside}.{name}".removeprefix(".")
        if inner in MODULES:
            return importlib.import_module(f"{NAME}.{inner}")
        raise AttributeError(f"module {self.__name__!r}, which stands for flowstore here, has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._find("__all__")]

    def __reduce__(self) -> Any:
        return importlib.import_module, (MODULES[self._path_inside].targets[0],)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()
