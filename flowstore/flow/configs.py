"""`Config`: values that decide how a flow is built, and so are known before anything of it runs.

`read_values` finds the values: on the command line, in the environment, in files. `settle` puts them in the place of
all expressions in the flow's class. It runs once in a process, before the graph is read and before a task is forked; a
process that imports the flow again settles it with the same values.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

import attrs

from flowstore import context
from flowstore.errors import GraphError, ParameterError
from flowstore.flow.decorators import FLOW_MUTATORS
from flowstore.flow.expressions import (
    ConfigValue,
    Delayed,
    Expression,
    KnownConfig,
    Unpacked,
    evaluate,
    is_delayed,
    unwrapped,
    wrapped,
)
from flowstore.flow.parameters import DeployTimeContext, Parameter, call_default
from flowstore.text import did_you_mean

FILES, VALUES = "FLOW_CONFIG", "FLOW_CONFIG_VALUE"  # environment variables, after a prefix


@attrs.define(eq=False, repr=False)
class Definition:
    """The arguments of a `Config`, whose own attributes stand for keys of its value, and that value once known."""

    name: str
    default: Any
    default_value: Any
    help: str
    required: bool
    parser: Callable[[str], Any] | str | None
    plain: bool
    attribute: str
    value: Any = None


class Config(Expression):
    """Values that a flow is configured with: read from a file or given, before anything runs, and then fixed.

    They can be used in decorators and in the defaults of parameters, as `config.key`; above the class, with
    `config_expr`; and in steps as `self.config`, a dict that is only read and has its keys as attributes. They are
    stored with the run, and with the deployment.

    On the command line, before the command, `--config NAME FILE` names a file, and `--config-value NAME JSON` gives the
    value itself. `$FLOWSTORE_FLOW_CONFIG` and `$FLOWSTORE_FLOW_CONFIG_VALUE` hold JSON objects of these, by name.

    Args:
        name: of the config on the command line.
        default: the path of the file that is read if nothing else is given, relative to the current folder; or a
            function that returns it.
        default_value: the value if there is no file: a dict, a text to parse, or a function that returns one.
        help: a description.
        required: refuse to run without a value. A config without one is `None`.
        parser: returns a dict for a file's text; a function, or its name such as `"yaml.safe_load"`. By default files
            named `.toml` are TOML, and all others JSON.
        plain: keep what the parser returns as it is, whatever its type; without a parser, the text.

    Raises:
        ParameterError: the definition contradicts itself.

    Example:
        >>> from flowstore import Config, FlowSpec, Parameter, step, timeout
        >>> class TrainFlow(FlowSpec):
        ...     config = Config("config", default="train.json")
        ...     epochs = Parameter("epochs", default=config.epochs)
        ...     @timeout(seconds=config.limits.seconds)
        ...     @step
        ...     def start(self):
        ...         print(self.config.model.depth)
        ...         self.next(self.end)
        ...     @step
        ...     def end(self):
        ...         pass
    """

    __slots__ = ("_definition",)

    def __init__(
        self,
        name: str,
        default: str | os.PathLike[str] | Callable[..., str] | None = None,
        default_value: Any = None,
        help: str | None = None,
        required: bool | None = None,
        parser: Callable[[str], Any] | str | None = None,
        plain: bool | None = False,
    ) -> None:
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
            raise ParameterError(f"A config's name is an identifier, not {name!r}.")
        if default is not None and default_value is not None:
            raise ParameterError(f"Config {name}: give either default, a file, or default_value.")
        super().__init__(name, is_code=False)
        self._definition = Definition(
            name, default, default_value, help or "", bool(required), parser, bool(plain), name
        )

    def __set_name__(self, owner: type, attribute: str) -> None:
        self._definition.attribute = attribute

    def __get__(self, flow: Any, owner: type | None = None) -> Any:
        if flow is None:
            return self
        raise GraphError(f"Config {self._definition.name} has no value yet: run the flow.")

    def __set__(self, flow: Any, value: Any) -> NoReturn:
        raise AssertionError  # FlowSpec.__setattr__ refuses first; as a data descriptor it is read before vars(flow)

    def __repr__(self) -> str:
        return f"Config({self._definition.name!r})"


def configs_of(flow: type) -> dict[str, Definition]:
    """Return the definitions of a flow's configs by attribute, in the order of definition, bases first."""
    definitions: dict[str, Definition] = {}
    for cls in reversed(flow.__mro__):
        for attribute, value in vars(cls).items():
            if isinstance(value, Config):
                definitions[attribute] = value._definition
            elif isinstance(value, KnownConfig):
                definitions[attribute] = value.definition
            else:
                definitions.pop(attribute, None)
    return definitions


# --- finding values


def read_values(
    flow: type, files: Mapping[str, str], texts: Mapping[str, str], user: str, stored: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """Return the value of each of a flow's configs, by attribute.

    Args:
        flow: its class.
        files: paths of files, by the names of configs, from the command line.
        texts: values, as text, likewise.
        user: who runs it, for functions that are defaults.
        stored: values by attribute that are known already, as those of a run that is resumed.

    Raises:
        ParameterError: there is no such config, or a value is missing, or cannot be read or parsed.
    """
    definitions = configs_of(flow)
    names = {item.name: item for item in definitions.values()}
    for name in [*files, *texts]:
        _check_name(flow, name, names)
        if name in files and name in texts:
            raise ParameterError(f"Config {name}: give either a file, with --config, or a value, with --config-value.")
    outside = _Outside(files, texts, _from_environment(FILES), _from_environment(VALUES))
    return {
        attribute: stored[attribute] if attribute in stored else _Reader(flow, item, user).read(outside)
        for attribute, item in definitions.items()
    }


def _check_name(flow: type, name: str, names: Mapping[str, Definition]) -> None:
    if name not in names:
        there = f"It has: {', '.join(names)}." if names else "It has none."
        raise ParameterError(f"{flow.__name__} has no config {name!r}.{did_you_mean(name, names)} {there}")


def _from_environment(name: str) -> dict[str, Any]:
    """Return the JSON object in an environment variable."""
    variable = next((item for item in context.variables(name) if os.environ.get(item)), None)
    if variable is None:
        return {}
    text = os.environ[variable]
    try:
        values = json.loads(text)
        if isinstance(values, dict):
            return values
    except ValueError:
        pass
    raise ParameterError(f'${variable} has to be a JSON object with the names of configs, as in {{"config": …}}.')


@attrs.frozen
class _Outside:
    """Files and values by config, as the command line and the environment give them."""

    files: Mapping[str, str]
    texts: Mapping[str, str]
    files_of_environment: Mapping[str, Any]
    values_of_environment: Mapping[str, Any]


class _Reader:
    """Finds the value of one config."""

    def __init__(self, flow: type, definition: Definition, user: str) -> None:
        self._flow = flow
        self._definition = definition
        self._context = DeployTimeContext(flow.__name__, user, definition.name)

    def read(self, outside: _Outside) -> Any:
        """Return the value, from the first of all sources that has one."""
        item = self._definition
        name = item.name
        if name in outside.files:
            return self._of_file(outside.files[name])
        if name in outside.texts:
            return self._parsed(outside.texts[name], "its value")
        if name in outside.files_of_environment and name in outside.values_of_environment:
            raise self._error(f"$FLOWSTORE_{FILES} and $FLOWSTORE_{VALUES} both have it. Set one of them.")
        if name in outside.files_of_environment:
            return self._of_file(str(outside.files_of_environment[name]))
        if name in outside.values_of_environment:
            return self._of_value(outside.values_of_environment[name])
        default, default_value = self._called(item.default), self._called(item.default_value)
        if default is not None:
            return self._of_file(os.fspath(default))
        if default_value is not None:
            return self._of_value(default_value)
        if item.required:
            raise self._error(
                f"it is required. Give a file, --config {name} FILE, or a value, --config-value {name} JSON."
            )
        return None

    def _error(self, problem: str) -> ParameterError:
        return ParameterError(f"Config {self._definition.name}: {problem}")

    def _called(self, default: Any) -> Any:
        if not callable(default):
            return default
        try:
            return call_default(default, self._context)
        except Exception as error:  # a user's function may raise anything
            raise self._error(f"its default raised {type(error).__name__}: {error}") from error

    def _of_file(self, path: str) -> Any:
        try:
            text = Path(path).expanduser().read_text("utf-8")
        except OSError as error:
            hint = f" Name another one: --config {self._definition.name} FILE"
            raise self._error(f"{path} cannot be read: {error.strerror}.{hint}") from None
        except (UnicodeDecodeError, RuntimeError) as error:
            raise self._error(f"{path} cannot be read: {error}.") from None
        return self._parsed(text, path)

    def _of_value(self, value: Any) -> Any:
        """Return a value that may have been parsed already; a parser takes texts only."""
        if isinstance(value, str):
            return self._parsed(value, "its value")
        if self._definition.parser is not None:
            return self._parsed(json.dumps(unwrapped(value)), "its value")
        return self._checked(unwrapped(value), "its value")

    def _parsed(self, text: str, source: str) -> Any:
        item = self._definition
        if item.parser is None and item.plain:
            return text
        parser, form = (item.parser, None) if item.parser is not None else _usual_parser(source)
        try:
            value = _imported(parser, self._flow)(text)
        except ParameterError:
            raise
        except Exception as error:  # a user's parser may raise anything
            problem = f"is not valid {form}" if form else f"was refused by its parser ({type(error).__name__})"
            raise self._error(f"{source} {problem}: {error}") from None
        return self._checked(value, source)

    def _checked(self, value: Any, source: str) -> Any:
        if self._definition.plain or isinstance(value, dict):
            return unwrapped(value)
        raise self._error(
            f"{source} holds {_article(value)}, but a config is a dict, {{…}}. To keep other values, write plain=True."
        )


def _article(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "nothing"}.get(
        type(value), f"the {type(value).__name__} {value!r}"
    )


def _usual_parser(source: str) -> tuple[Callable[[str], Any], str]:
    if source.lower().endswith(".toml"):
        import tomllib

        return tomllib.loads, "TOML"
    return json.loads, "JSON"


def _imported(parser: Callable[[str], Any] | str, flow: type) -> Callable[[str], Any]:
    """Return a parser; one that is named is imported, or taken from the flow's module if its name has no dot."""
    if not isinstance(parser, str):
        return parser
    module, _, function = parser.rpartition(".")
    try:
        imported = importlib.import_module(module) if module else sys.modules[flow.__module__]
        return getattr(imported, function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise ParameterError(f"The parser {parser!r} of a config cannot be imported: {error}.") from None


# --- putting values in the place of expressions


def settle(flow: type, values: Mapping[str, Any]) -> None:
    """Fix the values of a flow's configs, and of all that depends on them.

    Args:
        flow: its class.
        values: the value of each config, by attribute.

    Raises:
        GraphError: something depends on a key that a config does not have, or a decorator refuses its value.
        ParameterError: a parameter refuses its value.
    """
    for attribute, definition in configs_of(flow).items():
        value = values[attribute]
        definition.value = value if definition.plain else wrapped(value)
    settling = Settling(flow)
    for cls in flow.__mro__:
        for name, member in [*vars(cls).items()]:
            settling.settle(cls, name, member)


class Settling:
    """Puts the values of expressions in their place, in a flow whose configs have values."""

    def __init__(self, flow: type) -> None:
        self._scope: dict[str, Any] = {}
        for attribute, definition in configs_of(flow).items():
            self._scope |= {definition.name: definition.value, attribute: definition.value}
        self._names = vars(sys.modules[flow.__module__])
        self._configs = ConfigValue(self._scope)

    def settle(self, cls: type, name: str, member: Any) -> None:
        """Settle a member of a class."""
        if isinstance(member, Config):
            setattr(cls, name, KnownConfig(member._definition))
        elif isinstance(member, FunctionType) and "decorators" in vars(member):
            with _located(f"step {name}"):
                member.decorators[:] = map(self.known, member.decorators)  # type: ignore[attr-defined]
        elif isinstance(member, Parameter):
            member.configs = self._configs
            if is_delayed(member.default):
                member.set_default(unwrapped(self.known(member.default)))
        elif name in {"_flow_decorators", FLOW_MUTATORS}:
            with _located(f"class {cls.__name__}"):
                setattr(cls, name, tuple(map(self.known, member)))
        elif is_delayed(member):
            with _located(f"{cls.__name__}.{name}"):
                setattr(cls, name, self.known(member))

    def known(self, value: Any) -> Any:
        """Return a value with what it contains of expressions known."""
        if isinstance(value, Delayed):
            return value.known(self.known)
        if isinstance(value, Expression):
            return unwrapped(evaluate(value, self._scope, self._names))
        if isinstance(value, Mapping):
            return {key: item for pair in value.items() for key, item in self._items(*pair)}
        return type(value)(map(self.known, value)) if type(value) in (list, tuple) else value

    def _items(self, key: Any, value: Any) -> Iterator[tuple[Any, Any]]:
        known = self.known(value)
        if not isinstance(key, Unpacked):
            yield key, known
        elif isinstance(known, Mapping):
            yield from known.items()
        else:
            raise GraphError(f"**{key} has no keys: its value is {known!r}.")


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """Prefix the message of a GraphError with its location in the flow."""
    try:
        yield
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from None
