"""`FlowSpec`: what `self` is inside a step.

Whatever is assigned to `self` is an artifact; whatever is read from `self` and was not assigned in this task
comes from the task before, loaded when it is first read. The instance knows its task only through `Link`,
so that this module needs neither a store nor a process.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, FunctionType
from typing import Any, ClassVar, Protocol

from flowstore import later
from flowstore.context import state
from flowstore.errors import ArtifactError, GraphError, show_uncaught
from flowstore.flow.expressions import Expression, KnownConfig, unwrapped
from flowstore.flow.names import check_name
from flowstore.flow.parameters import Parameter
from flowstore.flow.wrappers import restore_marks

_LINK = "_flowstore_link"
if sys.excepthook is sys.__excepthook__:
    sys.excepthook = show_uncaught


@later.frozen
class Frame:
    """One enclosing foreach, as a task sees it: its place in it, how many there are, and the item."""

    index: int
    count: int
    value: Any


@later.frozen
class Transition:
    """A request of a step, made with `self.next`.

    Attributes:
        targets: the steps that come next.
        foreach: the artifact to fan out over.
        num_parallel: the size of a gang.
        condition: the artifact that a switch looks at.
        cases: a switch's cases.
        code: the code that asked.
    """

    targets: tuple[str, ...]
    foreach: str | None = None
    num_parallel: int | None = None
    condition: str | None = None
    cases: dict[Any, str] | None = None
    code: CodeType | None = None


class Link(Protocol):
    """The connection of a flow's instance to the task that it runs in."""

    step: str
    is_join: bool
    transition: Transition | None
    first_values: dict[str, Any]  # set by the flow's own `__init__`, for what is neither inherited nor assigned

    @property
    def frames(self) -> Sequence[Frame]:
        """The enclosing foreaches, outermost first."""

    def load(self, name: str) -> Any:
        """Return the value of an inherited artifact; KeyError where there is none."""

    def merge(self, own: dict[str, Any], inputs: Inputs, include: Sequence[str], exclude: Sequence[str]) -> None:
        """Carry artifacts of joined tasks over."""

    def names(self) -> Iterable[str]:
        """Return the names of inherited artifacts."""

    def has_first_value(self, name: str) -> bool:
        """Return whether `first_values` holds for a name that is neither inherited nor assigned."""

    def forget(self, name: str) -> bool:
        """Hide an inherited artifact from what follows; False where there is none."""


class _Unstorable:
    """An object that exists only while its task runs, and so can't be stored."""

    _REFUSAL: ClassVar[str]

    def __reduce_ex__(self, protocol: Any) -> Any:
        if state.at_store:
            raise ArtifactError(self._REFUSAL)
        return super().__reduce_ex__(protocol)

    def __setstate__(self, values: Any) -> None:
        if state.at_store:
            raise ArtifactError(
                "It holds a flow, which an earlier version stored by mistake and which cannot be used outside of its "
                "task. Store a value of it instead, as in self.best = best.model, and run that step again."
            )
        attributes, slots = values if isinstance(values, tuple) else (values, None)
        self.__dict__.update({**(attributes or {}), **(slots or {})})


class Inputs(_Unstorable):
    """The tasks that a join joins: by the name of their step, by index, by iteration."""

    _REFUSAL = (
        "inputs cannot be stored, since they exist only while the join runs. Store values of theirs instead, as in "
        "self.scores = [i.score for i in inputs]."
    )

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


class _Failed(threading.local):
    """The error of the property that is being read in this thread."""

    error: AttributeError | None = None


_failed = _Failed()


def _get_described(self: FlowSpec, name: str) -> Any:
    """Read an attribute, and keep an AttributeError from inside a property, which Python takes for a missing name.

    Pickled classes of flows name this function, so its place is part of the file format.
    """
    try:
        return object.__getattribute__(self, name)
    except AttributeError as error:
        if name in _described_names(type(self)):
            _failed.error = error
        raise


class FlowSpec(_Unstorable):
    """The base of every flow: methods marked `@step`, from `start` to `end`, each ending in `self.next(…)`.

    Making an instance in a script, `MyFlow()`, runs the script's command line. A flow may have an `__init__` of its
    own, which calls `super().__init__()`: it runs in every task, and what it sets are initial values, which a step
    reads until a step has assigned that name.
    """

    _flow_decorators: ClassVar[tuple[Any, ...]] = ()
    _REFUSAL = (
        "it is, or holds, the flow itself (self, or one of inputs), which exists only while its task runs. Store the "
        "values that you need instead, as in self.best = best.model."
    )

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        restore_marks(cls)
        if _described_names(cls) and cls.__getattribute__ is object.__getattribute__:
            cls.__getattribute__ = _get_described  # type: ignore[assignment,method-assign]  # costs time at each access

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
        code = sys._getframe(1).f_code
        if link.transition is not None and not _is_overridden(type(self), link.step, link.transition.code):
            raise GraphError(f"Step {link.step} calls self.next twice; it must be the last statement, once.")
        cases = None
        if targets and isinstance(targets[0], dict):
            cases = {case: self._step_name(target) for case, target in targets[0].items()}
            names = tuple(dict.fromkeys(cases.values()))
        else:
            names = tuple(map(self._step_name, targets))
        link.transition = Transition(names, foreach, num_parallel, condition, cases, code)

    def merge_artifacts(
        self, inputs: Inputs, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """Carry over, in a join, each artifact that has the same value, of the same type, in every branch that has it.

        Artifacts that this step has set already are left alone.

        Args:
            inputs: what the join was given.
            exclude: names to leave out; a single text is one name.
            include: names to carry over, and no others.

        Raises:
            ArtifactError: branches disagree (names each), or an included name is missing.
        """
        excluded, included = _names("exclude", exclude), _names("include", include)
        if excluded and included:
            raise ArtifactError("merge_artifacts takes include or exclude, not both.")
        own = {name: value for name, value in vars(self).items() if name != _LINK}
        _link(self).merge(own, inputs, included, excluded)

    def _step_name(self, target: Any) -> str:
        function = getattr(target, "__func__", None)
        if function is None or not getattr(function, "is_step", False):
            step = _link(self).step
            raise GraphError(f"Step {step}: self.next takes steps, as in self.next(self.end), not {target!r}.")
        return str(function.__name__)

    def __getattr__(self, name: str) -> Any:
        error, _failed.error = _failed.error, None
        if error is not None:
            raise error
        return self._load(name)

    def _load(self, name: str) -> Any:
        """Return an inherited artifact."""
        link = self.__dict__.get(_LINK)
        if link is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        try:
            value = link.load(name)
        except KeyError:
            if link.has_first_value(name):
                value = self.__dict__[name] = link.first_values[name]
                return value
            hint = " In a join, read it from inputs, or call self.merge_artifacts(inputs)." if link.is_join else ""
            raise AttributeError(
                f"Flow {type(self).__name__} has no artifact {name!r} in step {link.step}.{hint}"
            ) from None
        if not isinstance(getattr(type(self), name, None), Parameter):  # of a base class, perhaps
            self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        """Return the names of attributes and of inherited artifacts, among which Python looks for a mistyped one's."""
        link = self.__dict__.get(_LINK)
        return [*super().__dir__(), *(() if link is None else link.names())]

    def __setattr__(self, name: str, value: Any) -> None:
        check_assignable(type(self), name)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        link = self.__dict__.get(_LINK)
        was_set = self.__dict__.pop(name, _LINK) is not _LINK
        inherited = link is not None and link.forget(name)
        first = link is not None and link.first_values.pop(name, _LINK) is not _LINK
        if not (was_set or inherited or first):
            raise AttributeError(f"Flow {type(self).__name__} has no artifact {name!r}")

    def __iter__(self) -> Iterator[Any]:
        """Yield the flow's steps, as functions."""
        return (value for value in vars(type(self)).values() if getattr(value, "is_step", False))


def _names(option: str, given: Iterable[str] | None) -> list[str]:
    """Return the names that an option of `merge_artifacts` holds."""
    names = [given] if isinstance(given, str) else list(given or ())
    for name in names:
        if not isinstance(name, str):
            raise ArtifactError(f"merge_artifacts: {option} takes names of artifacts, not {name!r}.")
    return names


def bind(flow: type[FlowSpec], link: Link) -> FlowSpec:
    """Return an instance of `flow` for one task, without running its `__init__`."""
    instance = flow.__new__(flow)
    instance.__dict__[_LINK] = link
    return instance


def artifacts_set_on(instance: FlowSpec) -> dict[str, Any]:
    """Return what has been assigned to an instance or loaded into it."""
    return {name: value for name, value in vars(instance).items() if name != _LINK}


def constants_of(flow: type) -> dict[str, Any]:
    """Class attributes that are plain values, and configs: artifacts of every task that can't be assigned."""
    names = _class_attributes(flow)
    constants = {name: value for name, value in names.items() if is_constant(name, value)}
    configs = {name: value for name, value in names.items() if isinstance(value, KnownConfig)}
    return constants | {name: unwrapped(config.definition.value) for name, config in configs.items()}


def check_assignable(flow: type, name: str) -> None:
    """Refuse to make an artifact of a name that is taken, or that no artifact can have.

    Raises:
        AttributeError: the class has something of this name.
        ArtifactError: no artifact can have the name.
    """
    if name in fixed_names(flow):
        if isinstance(_class_attributes(flow).get(name), Parameter):
            raise AttributeError(f"{name} is a parameter; parameters cannot be assigned. Use another name.")
        if isinstance(_class_attributes(flow).get(name), KnownConfig):
            raise AttributeError(f"{name} is a config; configs cannot be assigned. Use another name.")
        what = "a constant" if name in constants_of(flow) else "a step, a method or a property"
        owner = "FlowSpec" if name in OWN_NAMES else flow.__name__
        raise AttributeError(f"{name} is {what} of {owner} and cannot be assigned. Use another name.")
    check_name(name)


_fixed: dict[type, frozenset[str]] = {}
_described: dict[type, frozenset[str]] = {}


def fixed_names(flow: type) -> frozenset[str]:
    """Return the names that steps must not assign."""
    if flow not in _fixed:
        names = _class_attributes(flow)
        kinds = (FunctionType, Parameter, Expression, KnownConfig)
        fixed = {name for name, value in names.items() if is_constant(name, value) or isinstance(value, kinds)}
        _fixed[flow] = frozenset({*fixed, *dir(FlowSpec), _LINK})
    return _fixed[flow]


def _described_names(flow: type) -> frozenset[str]:
    """Return the names of a flow's own properties, and of what else runs code when it is read."""
    if flow not in _described:
        names = _class_attributes(flow)
        plain = (FunctionType, Parameter, Expression, KnownConfig, staticmethod, classmethod, type)
        _described[flow] = frozenset(
            name
            for name, value in names.items()
            if hasattr(type(value), "__get__") and not isinstance(value, plain) and not name.startswith("__")
        )
    return _described[flow]


def _class_attributes(flow: type) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for cls in reversed(flow.__mro__):
        if cls not in FlowSpec.__mro__:
            attributes.update(vars(cls))
    return attributes


def is_constant(name: str, value: Any) -> bool:
    """Return whether a class attribute is a plain value, and so an artifact."""
    described = callable(value) or hasattr(type(value), "__get__") or isinstance(value, Parameter)
    return not name.startswith("_") and not described


def _link(instance: FlowSpec) -> Any:
    link = instance.__dict__.get(_LINK)
    if link is None:
        raise GraphError("This works only inside a step that is being run: python flow.py run")
    return link


def _is_overridden(flow: type, step: str, code: CodeType | None) -> bool:
    """Return whether code belongs to a step of a base class that the flow overrides, and calls with `super()`."""
    versions = [vars(cls)[step] for cls in flow.__mro__ if step in vars(cls)]
    return any(getattr(inspect.unwrap(version), "__code__", None) is code for version in versions[1:])


OWN_NAMES = frozenset(name for name in vars(FlowSpec) if not name.startswith("_"))
