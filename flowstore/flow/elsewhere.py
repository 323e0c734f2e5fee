"""Names of Metaflow that need a machine or an environment which flowstore does not have.

The decorators among them are accepted: the step runs like any other. The other names raise an error when they are used,
which says what to use instead. They stand here rather than beside the name `metaflow`, since pickled classes of flows
refer to them, and are loaded where that name is Metaflow's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flowstore.errors import FlowstoreError
from flowstore.flow import decorators
from flowstore.flow.decorators import FlowDecorator, StepDecorator


class Elsewhere(StepDecorator):
    """A decorator of a step that names a machine or an environment, such as `@kubernetes`; it changes nothing."""

    is_followed = False

    def __init__(self, name: str, /, **options: Any) -> None:
        self.name = name  # type: ignore[misc]  # one class for several names
        self.options = options


class ElsewhereOfFlow(FlowDecorator):
    """A decorator of a flow that names an environment, such as `@conda_base`; it changes nothing."""

    is_followed = False

    def __init__(self, name: str, /, **options: Any) -> None:
        self.name = name  # type: ignore[misc]  # one class for several names
        self.options = options


def _of_step(name: str) -> Callable[..., Any]:
    def decorate(function: Any = None, **options: Any) -> Any:
        decorator = Elsewhere(name, **options)
        return decorator.attach if function is None else decorator.attach(function)

    return decorate


def _of_flow(name: str) -> Callable[..., Any]:
    def decorate(flow: Any = None, **options: Any) -> Any:
        decorator = ElsewhereOfFlow(name, **options)
        return decorator if flow is None else decorator(flow)

    return decorate


def accept_in_with() -> None:
    """Have `--with` accept the decorators of steps."""
    for name in ("conda", "pypi", "uv", "batch", "kubernetes"):
        decorators.WITH[name] = functools.partial(Elsewhere, name)


conda, pypi, uv = _of_step("conda"), _of_step("pypi"), _of_step("uv")
batch, kubernetes = _of_step("batch"), _of_step("kubernetes")
conda_base, pypi_base, uv_base = _of_flow("conda_base"), _of_flow("pypi_base"), _of_flow("uv_base")


class S3:
    """Metaflow's client for S3, which flowstore does not have."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        raise FlowstoreError("flowstore has no S3. Use boto3.client('s3') instead.")
