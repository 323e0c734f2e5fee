"""`@step`, and the small values that decorate steps and flows.

A decorator says what is wanted; the driver and the task do it. Each is a frozen value whose `name` is what
`--with` calls it. On a step, the innermost `@step` marks the function and the others add themselves to its
`decorators`; on a flow they add themselves to the class's `_flow_decorators`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, overload

from flowstore import later
from flowstore.errors import GraphError
from flowstore.flow.expressions import Delayable

FLOW_MUTATORS = "_flow_mutators"  # the attribute of a class that holds the mutators written above it
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


@overload
def step(function: F) -> F: ...
@overload
def step(*, start: bool = False, end: bool = False) -> Callable[[F], F]: ...
def step(function: Any = None, *, start: bool = False, end: bool = False) -> Any:
    """Mark a method of a flow as one of its steps.

    A run begins at the step `start` and ends at the step `end`. Others can take their parts: `@step(start=True)` and
    `@step(end=True)`. The only step of a flow is both.

    Args:
        function: the step, where used without parentheses.
        start: whether a run begins here.
        end: whether a run ends here.
    """
    parts = (*["start"] * bool(start), *["end"] * bool(end))
    marks = {"is_step": True, **({"parts": parts} if parts else {})}

    def mark(function: F) -> F:
        vars(function).update(marks)
        return function

    return mark if function is None else mark(function)


class _Decorator(metaclass=Delayable):
    """The base of all decorators, with one text for people; generated in each class, it would slow imports down."""

    is_followed: ClassVar[bool] = True  # or only accepted, as it names what flowstore does not have

    def __repr__(self) -> str:
        options = (f"{name}={value!r}" for name, value in (attributes_of(self) or vars(self)).items())
        return f"{type(self).__qualname__}({', '.join(options)})"


class StepDecorator(_Decorator):
    """The base of step decorators, which have a name and add themselves to a function."""

    name: ClassVar[str]
    is_single: ClassVar[bool] = True  # whether a step may have one alone
    is_mutator: ClassVar[bool] = False
    runs_around: ClassVar[bool] = False  # whether it is code around the step

    def attach(self, function: F) -> F:
        """Add to a step, once unless there may be several."""
        if isinstance(function, type):
            raise GraphError(f"@{self.name} is for steps: write it above @step, not above the class.")
        attached: list[StepDecorator] = function.__dict__.setdefault("decorators", [])
        if self.is_single and any(other.name == self.name for other in attached):
            raise GraphError(f"Step {function.__name__} has two @{self.name} decorators; keep one.")
        attached.append(self)
        return function


_MOST_LETTERS = 200
_MOST = 1e9  # seconds, minutes or attempts: more than any run lasts, and no more than timers can count


def _amount(instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
        raise GraphError(f"@{instance.name}: {attribute.name} must be a number from 0 to {_MOST:,.0f}, not {value!r}.")


def _count(instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise GraphError(f"@{instance.name}: {attribute.name} must be a whole number, 0 or more, not {value!r}.")


def _of_type(kind: type, what: str) -> Callable[[Any, Any, Any], None]:
    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, kind) and value is not attribute.default:
            raise GraphError(f"@{instance.name}: {attribute.name} must be {what}, not {value!r}.")

    return check


def _text(instance: Any, attribute: Any, value: Any) -> None:
    is_short = isinstance(value, str) and 0 < len(value) <= _MOST_LETTERS and value.isprintable()
    if not is_short and value is not attribute.default:
        raise GraphError(f"@{instance.name}: {attribute.name} must be a short text, not {value!r}.")


@later.frozen(kw_only=True)
class Retry(StepDecorator):
    """Try a failed task again."""

    name: ClassVar[str] = "retry"
    times: int = later.field(default=3, validator=_count)
    minutes_between_retries: float = later.field(default=0, validator=_amount)


@later.frozen(kw_only=True)
class Catch(StepDecorator):
    """Let the run go on when a task has failed for good."""

    name: ClassVar[str] = "catch"
    var: str | None = later.field(default=None, validator=_of_type(str, "a name"))
    print_exception: bool = later.field(default=True, validator=_of_type(bool, "True or False"))


@later.frozen(kw_only=True)
class Timeout(StepDecorator):
    """Fail an attempt that takes too long."""

    name: ClassVar[str] = "timeout"
    seconds: float = later.field(default=0, validator=_amount)
    minutes: float = later.field(default=0, validator=_amount)
    hours: float = later.field(default=0, validator=_amount)

    def __attrs_post_init__(self) -> None:
        if self.total_s == 0:
            raise GraphError("@timeout needs seconds, minutes or hours.")

    @property
    def total_s(self) -> float:
        """The sum, in seconds."""
        return self.seconds + 60 * self.minutes + 3600 * self.hours


@later.frozen(kw_only=True)
class Environment(StepDecorator):
    """Set environment variables for the step's tasks."""

    name: ClassVar[str] = "environment"
    vars: Mapping[str, str] = later.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.vars, Mapping):
            raise GraphError(f"@environment: vars must be a dict of names and values, not {self.vars!r}.")
        for name, value in self.vars.items():
            if not str(name) or "=" in str(name) or "\0" in f"{name}{value}":
                raise GraphError(f"@environment: {name!r}={value!r} cannot be a variable of a process.")


class Resources(StepDecorator):
    """Resources that the step asks for: recorded in the task's metadata, not enforced on one machine."""

    name: ClassVar[str] = "resources"

    def __init__(self, **amounts: Any) -> None:
        self.amounts = amounts


@later.frozen(kw_only=True)
class Card(StepDecorator):
    """Have each task of the step make a card; a step may have several."""

    name: ClassVar[str] = "card"
    is_single = False
    type: str = later.field(default="default", validator=_text)
    id: str | None = later.field(default=None, validator=_text)
    timeout: float = later.field(default=45, validator=_amount)
    save_errors: bool = later.field(default=True, validator=_of_type(bool, "True or False"))
    customize: bool = later.field(default=False, validator=_of_type(bool, "True or False"))
    options: Mapping[str, Any] = later.field(factory=dict, validator=_of_type(Mapping, "a dict"))
    refresh_interval: float = later.field(default=5, validator=_amount)

    def attach(self, function: F) -> F:
        """Add to a step, beside the cards that it has."""
        cards = [other.id for other in getattr(function, "decorators", ()) if isinstance(other, Card)]
        if self.id is not None and self.id in cards:
            raise GraphError(f"Step {function.__name__} has two cards with the id {self.id!r}; give each its own.")
        return super().attach(function)


@later.frozen
class Parallel(StepDecorator):
    """The step runs as a gang, started with `self.next(…, num_parallel=n)`."""

    name: ClassVar[str] = "parallel"


@overload
def retry(function: F) -> F: ...
@overload
def retry(*, times: int = 3, minutes_between_retries: float = 0) -> Callable[[F], F]: ...
def retry(function: Any = None, **options: Any) -> Any:
    """Try a failed task of this step again.

    Args:
        function: the step, where used without parentheses.
        options: `times`, how often after the first attempt; `minutes_between_retries`, by default none.
    """
    return decorate(Retry, function, options)


@overload
def catch(function: F) -> F: ...
@overload
def catch(*, var: str | None = None, print_exception: bool = True) -> Callable[[F], F]: ...
def catch(function: Any = None, **options: Any) -> Any:
    """Let the run go on when a task of this step has failed for good.

    Args:
        function: the step, where used without parentheses.
        options: `var`, the artifact that gets a `flowstore.ExceptionInfo`, `None` where nothing failed;
            `print_exception`, whether the traceback is printed.
    """
    return decorate(Catch, function, options)


@overload
def timeout(function: F) -> F: ...
@overload
def timeout(*, seconds: float = 0, minutes: float = 0, hours: float = 0) -> Callable[[F], F]: ...
def timeout(function: Any = None, **options: Any) -> Any:
    """Fail an attempt of this step that takes longer than `seconds` + `minutes` + `hours`."""
    return decorate(Timeout, function, options)


def environment(function: Any = None, **options: Any) -> Any:
    """Set environment variables, `vars={"NAME": "value"}`, for this step's tasks."""
    return decorate(Environment, function, options)


def resources(function: Any = None, **options: Any) -> Any:
    """Record the resources that this step needs, such as `cpu=4, memory=16000`, and request them from Dask or Slurm."""
    return decorate(Resources, function, options)


def card(function: Any = None, **options: Any) -> Any:
    """Have each task of this step make a card: a report in HTML that is stored with the task.

    A step may have several. Inside the step, `current.card.append(…)` adds components from `flowstore.cards`.

    Args:
        function: the step, where used without parentheses.
        options: `type`, 'default', 'blank' or a type of your own; `id`, which `current.card["id"]` finds it by;
            `timeout`, the seconds after which rendering it is given up, by default 45; `save_errors`, whether an error
            is shown as a card; `customize`, whether `current.card.append` means this one of several; `options`, a dict
            for the card's class; `refresh_interval`, the seconds between two updates while the task runs, if more
            than 5.
    """
    return decorate(Card, function, options)


def parallel(function: Any = None, **options: Any) -> Any:
    """Mark a step as a gang, started with `self.next(…, num_parallel=n)`."""
    return decorate(Parallel, function, options)


def decorate(kind: Callable[..., StepDecorator], function: Any, options: dict[str, Any]) -> Any:
    """Decorate a step, or return what does, as the function of each decorator does."""
    if function is not None and not callable(function):
        raise GraphError(f"@{kind.name}: options are given by name, as in {_example(kind)}.")  # type: ignore[attr-defined]
    try:
        decorator = kind(**options)
    except TypeError:
        raise GraphError(_unknown_option(kind, options)) from None
    return decorator.attach if function is None else decorator.attach(function)


def _option_names(kind: Any) -> list[str]:
    """Return the names of options as users write them."""
    return [str(field.alias) for field in later.fields(kind)]


def _example(kind: Any) -> str:
    return "".join([f"@{kind.name}", *(f"({name}=…)" for name in _option_names(kind)[:1])])


def _unknown_option(kind: Any, options: Mapping[str, Any]) -> str:
    unknown = ", ".join(sorted(set(options) - set(_option_names(kind))))
    problem = f"has no option {unknown}" if unknown else "needs more options"
    return f"@{kind.name} {problem}; it has: {', '.join(_option_names(kind)) or 'none'}."


WITH: dict[str, Any] = {kind.name: kind for kind in (Retry, Catch, Timeout, Environment, Resources, Card)}


def from_text(text: str) -> StepDecorator:
    """Return a decorator from `--with`'s form, `name` or `name:option=value,…`.

    >>> from_text("retry:times=4,minutes_between_retries=0")
    Retry(times=4, minutes_between_retries=0)
    """
    import json

    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for pair in _pairs(rest):
        key, equals, value = pair.partition("=")
        if not equals:
            raise GraphError(f"{text}: {pair!r} is not of the form option=value.")
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = {"True": True, "False": False, "None": None}.get(value, value)
    return from_name(name, options)


def from_name(name: str, options: Mapping[str, Any]) -> StepDecorator:
    """Return a decorator of a step by its name, one of flowstore's or of the user's own.

    Raises:
        GraphError: there is none of that name, or it has no such option.
    """
    kind = WITH.get(name) or _own(_LATER.get(name, name))
    if kind is None:
        names = ", ".join([*WITH, *_LATER, *sorted(OWN)])
        raise GraphError(f"There is no decorator {name!r}; there are: {names}. Name one of a module as module.name.")
    try:
        return kind.attached(options) if hasattr(kind, "attached") else kind(**options)  # type: ignore[no-any-return]
    except TypeError:
        raise GraphError(_unknown_option(kind, options)) from None


_LATER = {"secrets": "flowstore.flow.secrets.Secrets"}  # flowstore's that few flows need
OWN: dict[str, Any] = {}  # the decorators and mutators of the user's own that this process has defined, by name


def _own(name: str) -> Any:
    """Return a decorator or mutator of the user's own, by its name or as `module.name`; `None` where there is none."""
    module, dot, attribute = name.rpartition(".")
    if not dot:
        return OWN.get(name)
    import importlib

    try:
        value = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks something itself
        return None
    return value if name in _LATER.values() or any(value is kind for kind in OWN.values()) else None


def attributes_of(decorator: Any) -> dict[str, Any]:
    """Return the options of a decorator, with defaults for those that were not given."""
    if later.is_value(type(decorator)):
        return {field.alias: getattr(decorator, field.name) for field in later.fields(type(decorator))}
    for name in ("attributes", "amounts", "options", "kwargs"):
        if isinstance(value := getattr(decorator, name, None), Mapping):
            return dict(value)
    return {}


def _pairs(text: str) -> list[str]:
    """Split at commas that are not inside brackets, so that `vars={"A": "1", "B": "2"}` is one pair."""
    pairs, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            pairs.append("")
        else:
            pairs[-1] += character
    return [pair for pair in pairs if pair]


def own_decorators(step: Any) -> Sequence[StepDecorator]:
    """Return the decorators of a step as they stand in the source, from top to bottom."""
    attached: Sequence[StepDecorator] = getattr(step, "decorators", ())
    return attached[::-1]


def with_others(own: Sequence[StepDecorator], with_: Sequence[str]) -> list[StepDecorator]:
    """Return the decorators of a step together with those of `--with` that it has not, the last of these outermost."""
    names = {item.name for item in own}
    added: list[StepDecorator] = []
    cards: list[StepDecorator] = []
    for item in map(from_text, with_):
        if isinstance(item, Card):
            cards.append(item)
        elif item.name not in names:
            added = [item, *(other for other in added if other.name != item.name)]
    return [*added, *own, *cards]


# --- decorators of flows


class _OptionsByName(Delayable):
    """The metaclass of flow decorators, which says what they do not take."""

    def __call__(cls, *arguments: Any, **options: Any) -> Any:  # noqa: N805  # of a metaclass
        """Make a decorator."""
        if arguments and later.is_value(cls):  # not of those that only stand for Metaflow's
            raise GraphError(f"@{cls.__name__}: options are given by name, as in {_example(cls)}.")
        try:
            return super().__call__(*arguments, **options)
        except TypeError:
            raise GraphError(_unknown_option(cls, options)) from None


class FlowDecorator(_Decorator, metaclass=_OptionsByName):
    """The base of flow decorators, which add themselves to a class."""

    name: ClassVar[str]

    def __call__(self, flow: C) -> C:
        """Add to a flow, once; a subclass's own decorator replaces its base's."""
        if not isinstance(flow, type):
            raise GraphError(f"@{self.name} is for flows: write it above the class, not above @step.")
        own = {other.name: other for other in getattr(flow, "_flow_decorators", ())}
        flow._flow_decorators = (*({**own, self.name: self}).values(),)  # type: ignore[attr-defined]
        return flow


@later.frozen(kw_only=True)
class project(FlowDecorator):  # noqa: N801  # used as a decorator
    """Put a flow into a project, whose flows find each other's results in production.

    Args:
        name: lower-case letters, digits and underscores.
    """

    name: ClassVar[str] = "project"
    project_name: str = later.field(alias="name")

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.project_name, str) or not re.fullmatch(r"[a-z0-9_]{1,128}", self.project_name):
            raise GraphError(f"@project: {self.project_name!r}: use lower-case letters, digits and underscores.")


@later.frozen(kw_only=True)
class schedule(FlowDecorator):  # noqa: N801  # used as a decorator
    """Say when a deployed flow runs: `hourly`, `daily` (the default), `weekly`, or a `cron` line; in `timezone`."""

    name: ClassVar[str] = "schedule"
    hourly: bool = False
    daily: bool | None = None
    weekly: bool = False
    cron: str | None = None
    timezone: str | None = None

    def __attrs_post_init__(self) -> None:
        if sum(map(bool, (self.hourly, self.daily, self.weekly, self.cron))) > 1:
            raise GraphError("@schedule: give one of hourly, daily, weekly and cron.")
