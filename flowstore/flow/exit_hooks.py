"""`@exit_hook`: functions that are called once a run has ended, whichever way."""

from __future__ import annotations

import inspect
import itertools
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from flowstore import context, later
from flowstore.errors import GraphError
from flowstore.flow.decorators import FlowDecorator

if TYPE_CHECKING:
    from flowstore.flow.spec import FlowSpec


def _functions(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, (list, tuple)) or not all(map(callable, value)):
        raise GraphError(f"@{instance.name}: {attribute.name} must be a list of functions, not {value!r}.")


@later.frozen(kw_only=True)
class exit_hook(FlowDecorator):  # noqa: N801  # used as a decorator
    """Call functions when a run of the flow has ended, in the process that ran it.

    A function is called without arguments or, if it takes one, with the `Run`. What it raises is printed, and changes
    nothing: the run has ended.

    Args:
        on_success: functions to call where the run succeeded.
        on_error: functions to call where it failed or was stopped.
        options: accepted for Metaflow's sake.
    """

    name: ClassVar[str] = "exit_hook"
    on_success: Sequence[Callable[..., Any]] = later.field(factory=tuple, validator=_functions)
    on_error: Sequence[Callable[..., Any]] = later.field(factory=tuple, validator=_functions)
    options: Mapping[str, Any] = later.field(factory=dict)


def call(flow: type[FlowSpec], pathspec: str, *, successful: bool) -> None:
    """Call the functions that a flow wants to be called at the end of a run."""
    hooks = [item for item in flow._flow_decorators if isinstance(item, exit_hook)]
    for function in itertools.chain.from_iterable(hook.on_success if successful else hook.on_error for hook in hooks):
        try:
            with context.within(None):
                takes_run = bool(inspect.signature(function).parameters)
                function(*([context.state.make_run(pathspec)] if takes_run and context.state.make_run else []))
        except Exception:  # a user's function may raise anything
            traceback.print_exc()
    sys.stdout.flush()
