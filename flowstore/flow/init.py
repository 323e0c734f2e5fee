"""A flow's own `__init__`, and the attributes that it sets.

Every task makes its own flow object, so `__init__` runs in every task, without arguments. What it sets on `self` are
first values: a step reads them until a step before it has assigned the name, and from then on that value, as with any
artifact. They are stored with the first task, and with a join that nothing carried them over to. What can't be stored,
such as a database connection, is left out, since every task makes its own.

`__init__` reads parameters, but no artifacts. Where it calls `super().__init__()` in the flow's own script, the command
line runs there, as in a flow without an `__init__`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from flowstore import context
from flowstore.errors import GraphError
from flowstore.flow.parameters import parameters_of
from flowstore.flow.spec import _LINK, FlowSpec, Frame, Inputs, Transition


def has_own(flow: type[FlowSpec]) -> bool:
    """Return whether a flow, or a class that it inherits from, defines `__init__`."""
    return flow.__init__ is not FlowSpec.__init__


def run(instance: FlowSpec, parameter: Callable[[str], Any]) -> dict[str, Any]:
    """Run the `__init__` of an instance that `spec.bind` made.

    Args:
        instance: of the flow; it is left as it was.
        parameter: returns the value of a parameter by its attribute; KeyError where there is none.

    Returns:
        The attributes that it set.
    """
    names = instance.__dict__
    before = dict(names)
    names.clear()
    names[_LINK] = _Making(parameter)
    try:
        type(instance).__init__(instance, **_arguments(type(instance)))
        return {name: value for name, value in names.items() if name != _LINK}
    finally:
        names.clear()
        names.update(before)


def check(flow: type[FlowSpec]) -> None:
    """Check that `__init__` can run in a task, by running it with the defaults of the parameters.

    Raises:
        GraphError: it has arguments without defaults, or raises.
    """
    if not has_own(flow):
        return
    where = _where(flow)
    required = _required(flow)
    if required:
        raise GraphError(
            f"{where}{flow.__name__}.__init__ has to be given {', '.join(required)}, but every task calls it without "
            "arguments. Give them defaults, or make them parameters: Parameter(…)."
        )
    parameters = parameters_of(flow)
    instance = flow.__new__(flow)
    try:
        run(instance, lambda name: parameters[name].default_value(flow.__name__, context.username()))
    except (Exception, SystemExit) as error:  # a user's function may raise anything
        raise GraphError(
            f"{where}{flow.__name__}.__init__ raised {type(error).__name__}: {error}. It runs in every task, where it "
            "can read parameters, but no artifacts."
        ) from error


def _arguments(flow: type[FlowSpec]) -> dict[str, Any]:
    """Return the arguments for `__init__`, which keep it from starting the command line."""
    return {"use_cli": False} if "use_cli" in _parameters(flow) else {}


def _required(flow: type[FlowSpec]) -> list[str]:
    kinds = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return [
        name
        for name, item in _parameters(flow).items()
        if item.default is inspect.Parameter.empty and item.kind not in kinds and name != "use_cli"
    ]


def _parameters(flow: type[FlowSpec]) -> dict[str, inspect.Parameter]:
    """Return the parameters of `__init__`, without `self`."""
    return dict([*inspect.signature(flow.__init__).parameters.items()][1:])


def _where(flow: type[FlowSpec]) -> str:
    code = getattr(inspect.unwrap(flow.__init__), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}: "


class _Making:
    """Stands for the task while `__init__` runs (see `spec.Link`): there are parameters, and nothing else."""

    step = "__init__"
    is_join = False
    frames: Sequence[Frame] = ()

    def __init__(self, parameter: Callable[[str], Any]) -> None:
        self.first_values: dict[str, Any] = {}
        self.transition: Transition | None = None
        self.load = parameter

    def merge(self, _own: dict[str, Any], _inputs: Inputs, _include: Sequence[str], _exclude: Sequence[str]) -> None:
        """Refuse: there is nothing to merge yet."""
        raise GraphError("merge_artifacts works in a join only, a step that takes inputs.")

    def names(self) -> tuple[str, ...]:
        """There is nothing inherited."""
        return ()

    def has_first_value(self, _name: str) -> bool:
        """There are none before it has run."""
        return False

    def forget(self, _name: str) -> bool:
        """There is nothing inherited."""
        return False
