"""Values that follow from configs, and are not known while a flow's class is made.

A flow's class is made before its command line is read. What a decorator or a default takes from a config is therefore
an `Expression` at first: a note of what to look up later. A decorator that has one among its options is `Delayed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn, Self

from flowstore.errors import GraphError


class ConfigValue(dict[str, Any]):
    """The value of a config: a dict that is only read, with its keys as attributes too, at every depth.

    >>> value = ConfigValue({"model": {"depth": 3}})
    >>> value.model.depth, value["model"]["depth"], value.to_dict()
    (3, 3, {'model': {'depth': 3}})
    """

    def __init__(self, values: Mapping[str, Any] = {}) -> None:  # never changed
        super().__init__({key: wrapped(value) for key, value in values.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            keys = ", ".join(map(str, self)) or "none"
            raise AttributeError(f"The config has no key {name!r}; it has: {keys}.") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(key for key in self if isinstance(key, str))]

    def to_dict(self) -> dict[str, Any]:
        """Return the value as a plain dict, which can be changed."""
        return {key: unwrapped(value) for key, value in self.items()}

    def _refuse(self, *_arguments: Any, **_more: Any) -> NoReturn:
        raise TypeError("A config cannot be changed. Change a copy of it: config.to_dict()")

    __setitem__ = __delitem__ = __ior__ = __setattr__ = __delattr__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, Any]]]:
        return type(self), (self.to_dict(),)


def wrapped(value: Any) -> Any:
    """Return a value with the dicts in it as `ConfigValue`."""
    if isinstance(value, dict):
        return value if isinstance(value, ConfigValue) else ConfigValue(value)
    if type(value) in (list, tuple):
        return type(value)(map(wrapped, value))
    return value


def unwrapped(value: Any) -> Any:
    """Return a value with each `ConfigValue` in it as a plain dict."""
    if isinstance(value, ConfigValue):
        return value.to_dict()
    if type(value) in (list, tuple):
        return type(value)(map(unwrapped, value))
    return value


# --- values that are not known yet


class Unpacked(str):
    """The key that stands for all keys of an expression, in `@retry(**config.retry)`."""

    __slots__ = ()


class Expression:
    """A value that follows from configs, and is not known yet.

    Args:
        root: the name of a config, or code.
        is_code: whether it is code, which may name several configs.
        path: the attributes and items to look up in what that yields.
    """

    __slots__ = ("_is_code", "_path", "_root")
    are_used: ClassVar[bool] = False  # whether this process has made any: most flows have none

    def __init__(self, root: str, *, is_code: bool, path: tuple[tuple[bool, Any], ...] = ()) -> None:
        self._root, self._is_code, self._path = root, is_code, path
        Expression.are_used = True

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("__") or name == "is_step":  # asked of every member of a flow's class
            raise AttributeError(name)
        return Expression(self._root, is_code=self._is_code, path=(*self._path, (True, name)))

    def __getitem__(self, key: Any) -> Expression:
        if isinstance(key, Unpacked):
            return self
        return Expression(self._root, is_code=self._is_code, path=(*self._path, (False, key)))

    def keys(self) -> list[str]:
        """Return the key that stands for all of them, as `**` asks for it."""
        return [Unpacked(repr(self))]

    def __repr__(self) -> str:
        path = "".join(f".{key}" if is_attribute else f"[{key!r}]" for is_attribute, key in self._path)
        return f"{self._root}{path}"

    def _refuse(self, *_arguments: Any) -> NoReturn:
        raise GraphError(
            f"{Expression.__repr__(self)} is not known yet where it is used, since configs have values only once the "
            "command line has been read. Compute with it inside a step, or write the computation as a text: "
            "config_expr('…')"
        )

    # Python would answer these for any object, and wrongly; what it would refuse itself gets the same explanation
    __bool__ = __str__ = __format__ = __iter__ = __contains__ = __eq__ = __ne__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __lt__ = __gt__ = _refuse
    __hash__ = object.__hash__


def evaluate(expression: Expression, scope: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    """Return the value of an expression.

    Args:
        expression: the expression.
        scope: the values of configs, by name and by attribute.
        names: what else code may name.

    Raises:
        GraphError: there is no such value.
    """
    try:
        root = expression._root
        value = eval(root, {**names, **scope}) if expression._is_code else scope[root]  # noqa: S307  # the author's own
        for is_attribute, key in expression._path:
            value = getattr(value, key) if is_attribute else value[key]
    except Exception as error:  # code may raise anything
        detail = str(error) if isinstance(error, AttributeError) else f"{type(error).__name__}: {error}"
        raise GraphError(f"{expression!r} has no value: {detail}") from None
    return value


def is_delayed(value: Any) -> bool:
    """Return whether a value is, or contains, one that is not known yet."""
    if isinstance(value, Expression):
        return True
    if isinstance(value, Mapping) and not isinstance(value, ConfigValue):
        return any(isinstance(key, Unpacked) or is_delayed(item) for key, item in value.items())
    return type(value) in (list, tuple) and any(map(is_delayed, value))


def config_expr(expression: str) -> Any:
    """Return a value that is computed from configs once these are known.

    It stands for a config where that has no name yet, as above a class: `@project(name=config_expr("config.project"))`.
    It may be any expression of Python, with the configs, by their names, and what the flow's module defines.

    Args:
        expression: the expression. Attributes and items of what is returned are looked up later, too.
    """
    if not isinstance(expression, str):
        raise GraphError(f"config_expr takes a text, such as 'config.timeout', not {expression!r}.")
    return Expression(expression, is_code=True)


class Delayed:
    """A decorator with options that are not known yet.

    Args:
        kind: the decorator's class.
        arguments, options: what it is to be called with.
    """

    id = None

    def __init__(self, kind: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.kind, self._arguments, self._options = kind, arguments, options
        self.name, self.is_single = kind.name, getattr(kind, "is_single", True)
        self.is_mutator = self.runs_around = False

    def attach(self, function: Any) -> Any:
        """Add to a step, as the decorator itself would."""
        return self.kind.attach(self, function)

    def __call__(self, flow: Any) -> Any:
        """Add to a flow, as the decorator itself would."""
        return self.kind.__call__(self, flow)

    def known(self, known: Callable[[Any], Any]) -> Any:
        """Return the decorator itself.

        Args:
            known: returns a value with what it contains of expressions known.

        Raises:
            GraphError: it refuses an option.
        """
        options = known(self._options)
        try:
            return self.kind(*known(self._arguments), **options)
        except TypeError as error:
            raise GraphError(f"@{self.name} cannot have the options {', '.join(options)}: {error}") from None


class Delayable(type):
    """The metaclass of decorators, which are `Delayed` where an option is not known yet."""

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        """Make a decorator."""
        if is_delayed(arguments) or is_delayed(options):
            return Delayed(cls, arguments, options)
        return super().__call__(*arguments, **options)


class KnownConfig:
    """The member of a flow's class that takes the place of a `Config` whose value is known.

    Args:
        definition: of the config, with its `value`.
    """

    def __init__(self, definition: Any) -> None:
        self.definition = definition

    def __get__(self, flow: Any, owner: type | None = None) -> Any:
        return self.definition.value

    def __set__(self, flow: Any, value: Any) -> NoReturn:
        raise AssertionError  # FlowSpec.__setattr__ refuses first; as a data descriptor it is read before vars(flow)
