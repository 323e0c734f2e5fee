"""Decorators of a user's own: generator functions that run around a step.

    @user_step_decorator
    def timed(step_name, flow, inputs=None, attributes=None):
        began = time.time()
        yield  # the step runs here
        print(f"{step_name} took {time.time() - began:.1f} s")

What comes before `yield` runs before the step, what comes after it after the step, unless the step fails: then its
exception is raised at `yield`, where it can be caught, or replaced by another one. A decorator that yields a dict skips
the step, and one that yields a function replaces the step by it.

Of several, the outermost one begins first and ends last. Those of `--with` are outside of those in the source.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any

from flowstore.errors import GraphError
from flowstore.flow import decorators
from flowstore.flow.decorators import StepDecorator
from flowstore.flow.spec import _LINK, FlowSpec, Inputs, Transition

if TYPE_CHECKING:
    from flowstore.flow.graph import Node

USER_SKIP_STEP: Mapping[str, Any] = MappingProxyType({})
"""The value that a decorator yields to skip its step."""

_NEXT_OPTIONS = "foreach", "num_parallel", "condition"
_SIGNATURE = "(step_name, flow, inputs=None, attributes=None)"


class OwnDecorator(StepDecorator):
    """A decorator of the user's own as it stands on a step, with its attributes."""

    name = "user_step_decorator"
    is_single = False
    runs_around = True

    def __init__(self, kind: UserStepDecorator, attributes: Mapping[str, Any]) -> None:
        self.kind = kind
        self.name = kind.name  # type: ignore[misc]  # one class for all of them
        self.attributes = dict(attributes)

    def begin(self, step: str, flow: FlowSpec, inputs: Inputs | None) -> Generator[Any, None, Any]:
        """Return the generator, which has not begun yet."""
        arguments = (step, flow, inputs, dict(self.attributes))
        generator: Generator[Any, None, Any] = self.kind.function(*arguments[: self.kind.arguments])
        return generator


class UserStepDecorator:
    """The result of `@user_step_decorator`: `@timed`, `@timed(…)`, and a name for `--with`."""

    def __init__(self, function: FunctionType, arguments: int) -> None:
        self.function = function
        self.arguments = arguments
        self.name = function.__name__
        self.__name__, self.__doc__, self.__module__ = function.__name__, function.__doc__, function.__module__
        decorators.OWN[self.name] = self

    def __call__(self, function: Any = None, /, *others: Any, **attributes: Any) -> Any:
        """Decorate a step, or return what does with these attributes."""
        if function is None and not others:
            return self.attached(attributes).attach
        if others or attributes or not callable(function):
            raise GraphError(f"@{self.name}: attributes are given by name, as in @{self.name}(size=3).")
        if not getattr(function, "is_step", False):
            raise GraphError(f"@{self.name} decorates steps: write it above @step.")
        return self.attached({}).attach(function)

    def attached(self, attributes: Mapping[str, Any]) -> OwnDecorator:
        """Return the decorator of a step."""
        return OwnDecorator(self, attributes)


def user_step_decorator(function: Callable[..., Any]) -> UserStepDecorator:
    """Turn a generator function into a step decorator; it is called with the step's name, the flow, inputs, attributes.

    Args:
        function: yields once. `flow` is what `self` is in the step, `inputs` what a join takes, else `None`, and
            `attributes` the dict of what the decorator was given; the last one may be left out.

    Raises:
        GraphError: it is not a generator function with these parameters.

    Example:
        >>> @user_step_decorator
        ... def announced(step_name, flow, inputs=None, attributes=None):
        ...     print("before", step_name)
        ...     yield
        ...     print("after", step_name)
    """
    if not isinstance(function, FunctionType) or not inspect.isgeneratorfunction(function):
        raise GraphError(f"@user_step_decorator is for functions that yield, which {_name_of(function)} is not.")
    arguments = function.__code__.co_argcount
    if arguments not in {3, 4} or function.__code__.co_kwonlyargcount:
        raise GraphError(f"@user_step_decorator: {function.__name__} must take {_SIGNATURE}.")
    return UserStepDecorator(function, arguments)


def _name_of(value: Any) -> str:
    return str(getattr(value, "__name__", None) or repr(value))


# --- around a step


def call(
    around: Sequence[OwnDecorator], flow: FlowSpec, node: Node, body: Callable[[], Any], inputs: Inputs | None
) -> None:
    """Run a step within decorators, the first one outermost.

    Args:
        around: the decorators of the step.
        flow: the flow of the task.
        node: the step.
        body: runs the step's own code.
        inputs: those of a join.

    Raises:
        GraphError: a decorator did not yield once, or yielded what cannot stand for a step.
    """
    running = _Running(flow, node, body, inputs)
    running.run(around)
    link = flow.__dict__[_LINK]
    if link.transition is None and running.options is not None:
        link.transition = _transition(node, running.options)


class _Running:
    """A step in the course of being run; `options` are those of `self.next`, where the step did not call it itself."""

    def __init__(self, flow: FlowSpec, node: Node, body: Callable[[], Any], inputs: Inputs | None) -> None:
        self._flow, self._node, self._body, self._inputs = flow, node, body, inputs
        self.options: Mapping[str, Any] | None = None

    def run(self, around: Sequence[OwnDecorator]) -> None:
        """Run the step within decorators."""
        if not around:
            self._body()
            return
        decorator = around[0]
        generator = decorator.begin(self._node.name, self._flow, self._inputs)
        try:
            instead = next(generator)
        except StopIteration:
            raise GraphError(
                f"@{decorator.name} ended before it reached `yield`, so step {self._node.name} did not run. "
                "To skip a step, write `yield {}`."
            ) from None
        try:
            self._run_inner(around, instead)
        except BaseException as error:  # whatever a step raises, a decorator may catch
            try:
                generator.throw(error)
            except StopIteration:
                self.options = self.options or {}
                return
        else:
            try:
                next(generator)
            except StopIteration:
                return
        raise GraphError(f"@{decorator.name} must yield once, and yielded twice in step {self._node.name}.")

    def _run_inner(self, around: Sequence[OwnDecorator], instead: Any) -> None:
        if instead is None:
            self.run(around[1:])
        elif isinstance(instead, Mapping):
            self.options = instead
        elif callable(instead):
            answer = instead(self._flow, *([self._inputs] if self._inputs is not None else []))
            self.options = answer if isinstance(answer, Mapping) else {}
        else:
            raise GraphError(
                f"@{around[0].name} yielded {instead!r}. Yield nothing to run the step, a dict to skip it, or a "
                "function that takes the flow to run that instead."
            )


def _transition(node: Node, options: Mapping[str, Any]) -> Transition:
    """Return where a step leads that was skipped or replaced: where its source says."""
    unknown = [name for name in options if name not in _NEXT_OPTIONS]
    if unknown:
        raise GraphError(
            f"Step {node.name}: self.next has no option {unknown[0]!r}; it has: {', '.join(_NEXT_OPTIONS)}."
        )
    return Transition(
        node.targets,
        options.get("foreach", node.foreach),
        options.get("num_parallel"),
        options.get("condition", node.condition),
        node.cases or None,
    )
