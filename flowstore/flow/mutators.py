"""Mutators: classes that change a flow before it runs: its parameters, and the decorators of its steps.

A mutator is written like a decorator. Its `pre_mutate` is called once, before the flow's parameters become options, and
may change those too; its `mutate` is called when `--with` is known, and sees what that adds. Mutators of base classes
come first, and of one class or step the one nearest to it; those of the flow come before those of steps.

Nothing of this changes the functions of the steps, which several flows may share: for each flow, and for what `--with`
adds, the decorators of the steps are computed, once in a process.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any, ClassVar

import attrs

from flowstore.errors import FlowstoreError, GraphError
from flowstore.flow import decorators, own
from flowstore.flow.decorators import (
    FLOW_MUTATORS,
    Card,
    FlowDecorator,
    StepDecorator,
    attributes_of,
    from_name,
    from_text,
    own_decorators,
    project,
    schedule,
    with_others,
)
from flowstore.flow.exit_hooks import exit_hook
from flowstore.flow.expressions import Delayable, Expression, is_delayed
from flowstore.flow.graph import steps_of
from flowstore.flow.parameters import Parameter, parameters_of
from flowstore.flow.triggers import trigger, trigger_on_finish

_FLOW_DECORATORS: dict[str, type[FlowDecorator]] = {
    kind.name: kind for kind in (project, schedule, trigger, trigger_on_finish, exit_hook)
}
_Steps = dict[str, list[StepDecorator]]  # of each step its decorators, outermost first
_prepared: dict[type, _Steps] = {}
_decorated: dict[tuple[type, tuple[str, ...]], _Steps] = {}


class _Mutator:
    """The base of mutators of flows and of steps: arguments, and methods that do nothing unless overridden."""

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    _begun = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Take what the decorator was given; called once, before anything is changed."""

    def pre_mutate(self, target: Any) -> None:
        """Change the flow or the step before its parameters become options."""

    def mutate(self, target: Any) -> None:
        """Change the flow or the step once `--with` is known."""

    def ready(self) -> _Mutator:
        """Return this mutator after `init` has been called."""
        if not self._begun:
            self._begun = True
            self.init(*self.args, **self.kwargs)
        return self


class StepMutator(_Mutator, StepDecorator):
    """The base of mutators of steps, which are written like a decorator, `@dataset(url=…)`.

    Override `init(*args, **kwargs)`, `pre_mutate(mutable_step)` or `mutate(mutable_step)`; see `MutableStep`.

    Example:
        >>> class careful(StepMutator):
        ...     def mutate(self, mutable_step):
        ...         mutable_step.add_decorator("retry", deco_kwargs={"times": 2})
    """

    is_single = False
    is_mutator = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.name = cls.__name__
        decorators.OWN[cls.__name__] = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a mutator; the step itself where this was written above a step, without parentheses."""
        self = super().__new__(cls)
        if len(args) == 1 and not kwargs and isinstance(args[0], FunctionType) and getattr(args[0], "is_step", False):
            return self.attach(args[0])
        return self

    def __call__(self, function: Any) -> Any:
        """Decorate a step."""
        if not getattr(function, "is_step", False):
            raise GraphError(f"@{self.name} decorates steps: write it above @step.")
        return self.attach(function)


class FlowMutator(_Mutator, metaclass=Delayable):
    """The base of mutators of flows, which are written like a decorator of the class, `@robust(times=3)`.

    Override `init(*args, **kwargs)`, `pre_mutate(mutable_flow)` or `mutate(mutable_flow)`; see `MutableFlow`.

    Example:
        >>> class robust(FlowMutator):
        ...     def mutate(self, mutable_flow):
        ...         for name, step in mutable_flow.steps:
        ...             step.add_decorator("retry")
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.name = cls.__name__

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a mutator; the flow itself where this was written above its class, without parentheses."""
        self = super().__new__(cls)
        return self(args[0]) if len(args) == 1 and not kwargs and _is_flow(args[0]) else self

    def __call__(self, flow: Any) -> Any:
        """Decorate a flow."""
        if not _is_flow(flow):
            raise GraphError(f"@{self.name} decorates flows: write it above the class of a flow.")
        setattr(flow, FLOW_MUTATORS, (*vars(flow).get(FLOW_MUTATORS, ()), self))
        return flow


def _is_flow(value: Any) -> bool:
    return isinstance(value, type) and hasattr(value, "_flow_decorators")


def _mutators_of(flow: type) -> list[FlowMutator]:
    """Return the mutators of a flow, those of its bases first, and of one class the lowest first."""
    return [mutator for cls in reversed(flow.__mro__) for mutator in vars(cls).get(FLOW_MUTATORS, ())]


# --- the flow and the steps as a mutator sees them


@attrs.define(eq=False, repr=False)
class _Change:
    """A flow while mutators change it."""

    flow: type
    steps: _Steps
    early: bool = True  # whether parameters and decorators of the flow may change


class Decorated(abc.ABC):
    """The base of flows and steps that a mutator may change: what decorates them."""

    IGNORE, OVERRIDE, ERROR = 1, 2, 3  # the ways to treat a decorator that is there already

    @property
    @abc.abstractmethod
    def _decorators(self) -> list[Any]:
        """The decorators, outermost first."""

    @property
    def decorator_specs(self) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
        """Each decorator: its name, its class as a text, its arguments, and its options."""
        return map(_spec, self._decorators)

    def get_decorator_specs(self, deco_name: str) -> list[tuple[str, str, list[Any], dict[str, Any]]]:
        """Return the decorators of a name, as `decorator_specs` does."""
        return [spec for spec in self.decorator_specs if deco_name in {spec[0], spec[1]}]

    def has_decorator(self, deco_name: str) -> bool:
        """Return whether it has a decorator of a name."""
        return bool(self.get_decorator_specs(deco_name))


class MutableStep(Decorated):
    """A step that a mutator may change."""

    def __init__(self, change: _Change, name: str) -> None:
        self._change, self._name = change, name

    @property
    def flow(self) -> MutableFlow:
        """The step's flow."""
        return MutableFlow(self._change)

    @property
    def _decorators(self) -> list[StepDecorator]:
        return [*self._change.steps[self._name]]

    def add_decorator(
        self,
        deco_type: Any,
        deco_args: Sequence[Any] | None = None,
        deco_kwargs: Mapping[str, Any] | None = None,
        duplicates: int = Decorated.IGNORE,
    ) -> StepDecorator | None:
        """Add a decorator outside of those that the step has.

        Args:
            deco_type: a decorator, such as `retry` or one of your own; its name; or a text as for `--with`.
            deco_args: arguments of a mutator.
            deco_kwargs: its options.
            duplicates: what happens if the step has such a decorator: `IGNORE` this one, `OVERRIDE` that one, or raise
                an `ERROR`. Cards are added in any case.

        Returns:
            The decorator, or `None` where it was ignored.

        Raises:
            GraphError: there is no such decorator, it has no such option, or the step has it.
        """
        added = _build(deco_type, *_known(self._change.flow, [*(deco_args or ())], dict(deco_kwargs or {})))
        same = [item for item in self._decorators if item.name == added.name and not isinstance(item, Card)]
        if same and duplicates == self.IGNORE:
            return None
        if same and duplicates == self.ERROR:
            raise GraphError(f"Step {self._name} has @{added.name} already, so a mutator cannot add it.")
        kept = [item for item in self._decorators if item not in same]
        self._change.steps[self._name] = [added, *kept]
        return added

    def remove_decorator(
        self, deco_name: str, deco_args: Sequence[Any] | None = None, deco_kwargs: Mapping[str, Any] | None = None
    ) -> bool:
        """Remove the decorators of a name, with these arguments where some are given; return whether there was one."""
        kept = [
            item
            for item, (name, full_name, args, options) in zip(self._decorators, self.decorator_specs, strict=True)
            if deco_name not in {name, full_name}
            or (deco_args is not None and [*deco_args] != args)
            or (deco_kwargs is not None and dict(deco_kwargs) != options)
        ]
        removed = len(kept) < len(self._decorators)
        self._change.steps[self._name] = kept
        return removed


class MutableFlow(Decorated):
    """A flow that a mutator may change. Its configurations and class constants are attributes of this, too."""

    def __init__(self, change: _Change) -> None:
        self._change = change

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._change.flow, name)

    @property
    def steps(self) -> list[tuple[str, MutableStep]]:
        """The steps, each with its name."""
        return [(name, MutableStep(self._change, name)) for name in self._change.steps]

    @property
    def parameters(self) -> list[tuple[str, Parameter]]:
        """The parameters, each with its attribute."""
        return [*parameters_of(self._change.flow).items()]

    @property
    def configs(self) -> list[tuple[str, Any]]:
        """The configurations, each with its attribute and its value."""
        from flowstore.flow.configs import configs_of  # which most flows do without

        return [(attribute, item.value) for attribute, item in configs_of(self._change.flow).items()]

    @property
    def _decorators(self) -> list[Any]:
        return [*self._change.flow._flow_decorators]  # type: ignore[attr-defined]

    def add_parameter(self, name: str, value: Parameter, *, overwrite: bool = False) -> None:
        """Add a parameter; in `pre_mutate` only.

        Raises:
            GraphError: it is too late for that, the name is taken, or it is no parameter.
        """
        self._check_early("A parameter can be added")
        if not isinstance(value, Parameter):
            raise GraphError(f"A mutator can add a Parameter or an IncludeFile to a flow, not {value!r}.")
        if hasattr(self._change.flow, name) and not overwrite:
            raise GraphError(f"A mutator cannot add the parameter {name!r}: the flow has something of that name.")
        value.__set_name__(self._change.flow, name)
        setattr(self._change.flow, name, value)
        if Expression.are_used:
            from flowstore.flow.configs import Settling  # which most flows do without

            Settling(self._change.flow).settle(self._change.flow, name, value)

    def remove_parameter(self, name: str) -> bool:
        """Remove a parameter, in `pre_mutate` only; return whether there was one."""
        self._check_early("A parameter can be removed")
        if name not in parameters_of(self._change.flow):
            return False
        if name in vars(self._change.flow):
            delattr(self._change.flow, name)
        if name in parameters_of(self._change.flow):  # of a base class, which other flows may have
            setattr(self._change.flow, name, property(lambda _self: None))
        return True

    def add_decorator(
        self,
        deco_type: Any,
        deco_args: Sequence[Any] | None = None,
        deco_kwargs: Mapping[str, Any] | None = None,
        duplicates: int = Decorated.IGNORE,
    ) -> FlowDecorator | None:
        """Add a decorator to the flow, in `pre_mutate` only; see `MutableStep.add_decorator`."""
        self._check_early("A decorator can be added to the flow")
        name = _name_of(deco_type)
        if name not in _FLOW_DECORATORS:
            raise GraphError(f"There is no decorator of flows {name!r}; there are: {', '.join(_FLOW_DECORATORS)}.")
        if self.has_decorator(name) and duplicates != self.OVERRIDE:
            if duplicates == self.ERROR:
                raise GraphError(f"The flow has @{name} already, so a mutator cannot add it.")
            return None
        args, options = _known(self._change.flow, [*(deco_args or ())], dict(deco_kwargs or {}))
        added: FlowDecorator = _FLOW_DECORATORS[name](*args, **options)
        added(self._change.flow)
        return added

    def remove_decorator(self, deco_name: str) -> bool:
        """Remove the decorators of a name from the flow, in `pre_mutate` only; return whether there was one."""
        self._check_early("A decorator can be removed from the flow")
        flow: Any = self._change.flow
        kept = tuple(item for item in flow._flow_decorators if item.name != deco_name)
        removed = len(kept) < len(flow._flow_decorators)
        flow._flow_decorators = kept
        return removed

    def _check_early(self, what: str) -> None:
        if not self._change.early:
            raise GraphError(f"{what} in pre_mutate only: after that, the options are known already.")


def _spec(decorator: Any) -> tuple[str, str, list[Any], dict[str, Any]]:
    kind = decorator.kind.function if isinstance(decorator, own.OwnDecorator) else type(decorator)
    args = [*decorator.args] if isinstance(decorator, _Mutator) else []
    return decorator.name, f"{kind.__module__}.{kind.__qualname__}", args, attributes_of(decorator)


def _name_of(deco_type: Any) -> str:
    return deco_type if isinstance(deco_type, str) else getattr(deco_type, "__name__", repr(deco_type))


def _known(flow: type, *values: Any) -> Any:
    """Return values whose expressions of configs are evaluated: when a mutator runs, configs have their values."""
    if not is_delayed(values):
        return values
    from flowstore.flow.configs import Settling  # which most flows do without

    return Settling(flow).known(values)


def _build(deco_type: Any, args: Sequence[Any], options: Mapping[str, Any]) -> StepDecorator:
    if isinstance(deco_type, type) and issubclass(deco_type, StepMutator):
        mutator: StepDecorator = deco_type(*args, **options)
        return mutator
    if isinstance(deco_type, own.UserStepDecorator):
        return deco_type.attached(options)
    if isinstance(deco_type, str) and (":" in deco_type or not options):
        return from_text(deco_type)
    return from_name(_name_of(deco_type), options)


# --- the decorators of a flow's steps


def pre_mutate(flow: type) -> None:
    """Let the mutators of a flow change its parameters and decorators, once in a process."""
    change = _Change(flow, {name: [*own_decorators(step)] for name, step in steps_of(flow).items()})
    for mutator in _mutators_of(flow):
        _ask(mutator, "pre_mutate", MutableFlow(change))
    _mutate_steps(change, "pre_mutate")
    change.early = False  # for mutators that keep the flow
    _prepared[flow] = change.steps


def mutated(flow: type, step: str, with_: Sequence[str]) -> Sequence[StepDecorator]:
    """Return the decorators of a step after all mutators, which are asked once in a process for what `--with` adds."""
    key = flow, tuple(with_)
    if key not in _decorated:
        prepared = _prepared.get(flow) or {name: [*own_decorators(item)] for name, item in steps_of(flow).items()}
        change = _Change(flow, {name: with_others(items, with_) for name, items in prepared.items()}, early=False)
        for mutator in _mutators_of(flow):
            _ask(mutator, "mutate", MutableFlow(change))
        _mutate_steps(change, "mutate")
        _decorated[key] = change.steps
    return _decorated[key].get(step, ())


def _mutate_steps(change: _Change, method: str) -> None:
    """Have the mutators of steps do their work, the lowest of a step first, and those that they add after them."""
    for name in change.steps:
        done: list[StepDecorator] = []
        while left := [item for item in change.steps[name] if isinstance(item, StepMutator) and item not in done]:
            done.append(left[-1])
            _ask(left[-1], method, MutableStep(change, name))


def _ask(mutator: _Mutator, method: str, target: MutableFlow | MutableStep) -> None:
    """Call a method of a mutator.

    Raises:
        GraphError: it raised an error; the message says where.
    """
    try:
        getattr(mutator.ready(), method)(target)
    except FlowstoreError:
        raise
    except Exception as error:  # a user's function may raise anything
        import traceback  # only where something has failed

        frame = [*traceback.walk_tb(error.__traceback__)][-1]
        where = f"{frame[0].f_code.co_filename}:{frame[1]}"
        text = f"{type(error).__name__}: {error}"
        raise GraphError(f"{where}: {text}. This was raised by {type(mutator).__name__}.{method}.") from error
