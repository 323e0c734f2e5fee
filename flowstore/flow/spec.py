"""`FlowSpec`: what `self` is inside a step.

Whatever is assigned to `self` is an artifact; whatever is read from `self` and was not assigned in this task
comes from the task before, loaded when it is first read. The instance knows its task only through `Link`,
so that this module needs neither a store nor a process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any, ClassVar, Protocol

import attrs

from flowstore.context import state
from flowstore.errors import ArtifactError, GraphError
from flowstore.flow.parameters import Parameter

_LINK = "_flowstore_link"


@attrs.frozen(eq=False, repr=False)
class Frame:
    """One enclosing foreach, as a task sees it: its place in it, how many there are, and the item."""

    index: int
    count: int
    value: Any


@attrs.frozen(eq=False, repr=False)
class Transition:
    """What a step asked for with `self.next`.

    Attributes:
        targets: the steps that come next.
        foreach: the artifact to fan out over.
        num_parallel: the size of a gang.
        condition: the artifact that a switch looks at.
        cases: a switch's cases.
    """

    targets: tuple[str, ...]
    foreach: str | None = None
    num_parallel: int | None = None
    condition: str | None = None
    cases: dict[Any, str] | None = None


class Link(Protocol):
    """What connects a flow's instance to the task that it runs in."""

    step: str
    is_join: bool
    transition: Transition | None
    first_values: dict[str, Any]  # set by the flow's own `__init__`, for what is neither inherited nor assigned

    @property
    def frames(self) -> Sequence[Frame]:
        """The enclosing foreaches, outermost first."""

    def load(self, name: str) -> Any:
        """The value of an inherited artifact; KeyError where there is none."""

    def merge(self, own: dict[str, Any], inputs: Inputs, include: Sequence[str], exclude: Sequence[str]) -> None:
        """Carry artifacts of joined tasks over."""

    def forget(self, name: str) -> bool:
        """Hide an inherited artifact from what follows; False where there is none."""


class Inputs:
    """The tasks that a join joins: by the name of their step, by index, by iteration."""

    def __init__(self, tasks: Sequence[FlowSpec], steps: Sequence[str]) -> None:
        self._tasks = tasks
        self._steps = steps

    def __getitem__(self, index: int) -> FlowSpec:
        return self._tasks[index]

    def __iter__(self) -> Iterator[FlowSpec]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __getattr__(self, name: str) -> FlowSpec:
        if not name.startswith("_") and name in self._steps:
            return self._tasks[self._steps.index(name)]
        raise AttributeError(f"inputs has no branch {name!r}; it has: {', '.join(dict.fromkeys(self._steps))}.")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *dict.fromkeys(self._steps)]


class FlowSpec:
    """The base of every flow: methods marked `@step`, from `start` to `end`, each ending in `self.next(…)`.

    Making an instance in a script, `MyFlow()`, runs the script's command line. A flow may have an `__init__` of its
    own, which calls `super().__init__()`: it runs in every task, and what it sets are first values; see `flow.init`.
    """

    flow_decorators: ClassVar[tuple[Any, ...]] = ()

    def __init__(self, use_cli: bool = True) -> None:
        if use_cli and state.main is not None and _LINK not in self.__dict__:  # else a task makes it
            state.main(type(self))

    @property
    def name(self) -> str:
        """The flow's name, which is its class's."""
        return type(self).__name__

    @property
    def index(self) -> int | None:
        """The task's place in the innermost foreach, from 0; `None` outside one."""
        frames = _link(self).frames
        return frames[-1].index if frames else None

    @property
    def input(self) -> Any:
        """The item of the innermost foreach that this task works on; `None` outside one."""
        frames = _link(self).frames
        return frames[-1].value if frames else None

    def foreach_stack(self) -> list[tuple[int, int, Any]]:
        """Index, count and item in each enclosing foreach, outermost first."""
        return [(frame.index, frame.count, frame.value) for frame in _link(self).frames]

    def next(
        self,
        *targets: Any,
        foreach: str | None = None,
        num_parallel: int | None = None,
        condition: str | None = None,
    ) -> None:
        """Say which steps come next; the last statement of every step but `end`.

        Args:
            targets: one step, several (a branch), or a dict of cases (a switch).
            foreach: the artifact whose items each get a task of the next step.
            num_parallel: the size of a gang.
            condition: the artifact that chooses a case.
        """
        link = _link(self)
        if link.transition is not None:
            raise GraphError(f"Step {link.step} calls self.next twice; it must be the last statement, once.")
        cases = None
        if targets and isinstance(targets[0], dict):
            cases = {case: _step_name(link.step, target) for case, target in targets[0].items()}
            names = tuple(dict.fromkeys(cases.values()))
        else:
            names = tuple(_step_name(link.step, target) for target in targets)
        link.transition = Transition(names, foreach, num_parallel, condition, cases)

    def merge_artifacts(self, inputs: Inputs, exclude: Sequence[str] = (), include: Sequence[str] = ()) -> None:
        """Carry over, in a join, the artifacts on which all branches agree.

        What this step has set already is left alone.

        Args:
            inputs: what the join was given.
            exclude: names to leave out.
            include: names to carry over, and no others.

        Raises:
            ArtifactError: branches disagree (names each), or an included name is missing.
        """
        if include and exclude:
            raise ArtifactError("merge_artifacts takes include or exclude, not both.")
        own = {name: value for name, value in vars(self).items() if name != _LINK}
        _link(self).merge(own, inputs, include, exclude)

    def __getattr__(self, name: str) -> Any:
        link = self.__dict__.get(_LINK)
        if link is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        try:
            value = link.load(name)
        except KeyError:
            if name in link.first_values:
                value = self.__dict__[name] = link.first_values[name]
                return value
            hint = " In a join, read it from inputs, or call self.merge_artifacts(inputs)." if link.is_join else ""
            raise AttributeError(
                f"Flow {type(self).__name__} has no artifact {name!r} in step {link.step}.{hint}"
            ) from None
        if not isinstance(vars(type(self)).get(name), Parameter):
            self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in fixed_names(type(self)):
            what = "a constant" if name in constants_of(type(self)) else "a step, a method or a property"
            raise AttributeError(f"{name} is {what} of {type(self).__name__} and can't be assigned. Use another name.")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        link = self.__dict__.get(_LINK)
        was_set = self.__dict__.pop(name, _LINK) is not _LINK
        inherited = link is not None and link.forget(name)
        first = link is not None and link.first_values.pop(name, _LINK) is not _LINK
        if not (was_set or inherited or first):
            raise AttributeError(f"Flow {type(self).__name__} has no artifact {name!r}")

    def __iter__(self) -> Iterator[Any]:
        """The flow's steps, as functions."""
        return (value for value in vars(type(self)).values() if getattr(value, "is_step", False))


def bind(flow: type[FlowSpec], link: Link) -> FlowSpec:
    """An instance of `flow` for one task, without running its `__init__`."""
    instance = flow.__new__(flow)
    instance.__dict__[_LINK] = link
    return instance


def artifacts_set_on(instance: FlowSpec) -> dict[str, Any]:
    """What has been assigned to, or loaded into, an instance."""
    return {name: value for name, value in vars(instance).items() if name != _LINK}


def constants_of(flow: type) -> dict[str, Any]:
    """Class attributes that are plain values: artifacts of every task that can't be assigned."""
    names = _class_attributes(flow)
    return {name: value for name, value in names.items() if _is_constant(name, value)}


_fixed: dict[type, frozenset[str]] = {}


def fixed_names(flow: type) -> frozenset[str]:
    """The names that steps must not assign."""
    if flow not in _fixed:
        names = _class_attributes(flow)
        fixed = {name for name, value in names.items() if _is_constant(name, value) or isinstance(value, FunctionType)}
        own = {name for name, value in vars(FlowSpec).items() if isinstance(value, (FunctionType, property))}
        _fixed[flow] = frozenset(fixed | own)
    return _fixed[flow]


def _class_attributes(flow: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in reversed(flow.__mro__):
        if cls not in (object, FlowSpec):
            found.update(vars(cls))
    return found


def _is_constant(name: str, value: Any) -> bool:
    described = callable(value) or hasattr(type(value), "__get__") or isinstance(value, Parameter)
    return not name.startswith("_") and name != "flow_decorators" and not described


def _link(instance: FlowSpec) -> Any:
    link = instance.__dict__.get(_LINK)
    if link is None:
        raise GraphError("This works only inside a step that is being run: python flow.py run")
    return link


def _step_name(step: str, target: Any) -> str:
    function = getattr(target, "__func__", None)
    if function is None or not getattr(function, "is_step", False):
        raise GraphError(f"Step {step}: self.next takes steps, as in self.next(self.end), not {target!r}.")
    return str(function.__name__)
