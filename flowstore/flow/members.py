"""Mistakes in a flow's class: names that `FlowSpec` needs, and steps that can't be recognised as such."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from flowstore.errors import ArtifactError, GraphError
from flowstore.flow.decorators import Catch
from flowstore.flow.expressions import Expression, KnownConfig
from flowstore.flow.names import check_name
from flowstore.flow.parameters import Parameter
from flowstore.flow.spec import OWN_NAMES, FlowSpec, check_assignable, is_constant
from flowstore.flow.wrappers import hidden_step


def check_members(flow: type) -> None:
    """Refuse a flow whose class holds what can't work.

    Raises:
        GraphError: the first mistake, with its file and line.
    """
    for cls in flow.__mro__:
        if cls not in FlowSpec.__mro__:
            for name, value in vars(cls).items():
                for problem in (*_problems(name, value), *_catch_problems(flow, value)):
                    raise GraphError(f"{_where(cls, name, value)}: {problem}")


def _problems(name: str, value: Any) -> Iterator[str]:
    kind = _kind(name, value)
    if kind is not None and name in OWN_NAMES:
        yield f"the {kind} {name!r} is named like FlowSpec's own {name!r}, and would hide it. Use another name."
    if kind is not None:
        try:
            check_name(name)
        except ArtifactError as error:
            yield str(error)
    if hidden_step(value, name) is not None:
        made_by = type(value).__qualname__
        yield (
            f"step {name!r} is hidden inside an object of {made_by}, made by a decorator. Write that decorator as a "
            "function that returns a function, marked @functools.wraps, and put @step below it."
        )


def check_catch(flow: type, catch: Catch) -> None:
    """Refuse `@catch(var=…)` with a name that no artifact of the flow can have.

    Raises:
        GraphError: says what is wrong with the name.
    """
    if catch.var is not None:
        try:
            check_assignable(flow, catch.var)
        except (AttributeError, ArtifactError) as error:
            raise GraphError(f"@catch(var={catch.var!r}): {error}") from None


def _catch_problems(flow: type, value: Any) -> Iterator[str]:
    for decorator in getattr(value, "decorators", ()) if isinstance(value, FunctionType) else ():
        if isinstance(decorator, Catch):
            try:
                check_catch(flow, decorator)
            except GraphError as error:
                yield str(error)


def _kind(name: str, value: Any) -> str | None:
    """Return what a member of the class is called in messages; `None` for what may hide a name on purpose."""
    if isinstance(value, FunctionType):
        return "step" if getattr(value, "is_step", False) else None
    if isinstance(value, Parameter):
        return "parameter"
    if isinstance(value, (Expression, KnownConfig)):
        return "config"
    return "constant" if is_constant(name, value) else None


def _where(cls: type, name: str, value: Any) -> str:
    """Return file and line of a member, as far as the source tells."""
    import textwrap

    if isinstance(function := hidden_step(value, name) or value, FunctionType):
        code = inspect.unwrap(function).__code__
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:
        file = inspect.getsourcefile(cls) or "<unknown>"
        lines, first = inspect.getsourcelines(cls)
        [definition] = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # typed at a prompt, or the file has changed
        return f"class {cls.__qualname__}"
    return f"{file}:{first - 1 + _line_of(name, definition)}"


def _line_of(name: str, definition: ast.stmt) -> int:
    """Return the line, from 1, that gives `name` its value in a class; that of the class where none does."""
    line = definition.lineno
    for statement in getattr(definition, "body", ()):
        targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
        names = {node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)}
        if name in names or getattr(statement, "name", None) == name:
            line = statement.lineno
    return line
