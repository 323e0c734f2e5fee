"""Parameters: what a run is given from outside, by option, by environment variable, or by default.

A parameter is an artifact of the run that can't be assigned. Its value is fixed before anything runs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from flowstore import context
from flowstore.errors import ParameterError
from flowstore.flow.expressions import ConfigValue, Expression

LONGEST_SHOWN = 200  # characters of a value, in a message
_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})


class _JSONType:
    """The type of parameters whose text is JSON."""

    def __repr__(self) -> str:
        return "JSON"


JSONType: Final = _JSONType()


class DeployTimeContext:
    """The argument of a callable default that takes one.

    Attributes:
        flow_name, user_name, parameter_name: text.
        configs: the values of the flow's configs, by name, as attributes and as items.
    """

    def __init__(
        self,
        flow_name: str,
        user_name: str,
        parameter_name: str,
        configs: ConfigValue = ConfigValue(),  # noqa: B008
    ) -> None:
        self.flow_name = flow_name
        self.user_name = user_name
        self.parameter_name = parameter_name
        self.configs = configs


class Parameter:
    """A value that a run is given: `--name value`, `$FLOWSTORE_RUN_NAME`, or the default.

    Args:
        name: of the option.
        default: used where nothing is given; a function is called when the run starts.
        type: `str`, `int`, `float`, `bool` or `JSONType`; by default that of `default`, else `str`.
        required: refuse to run without a value.
        help: shown by `run --help`.
        separator: split the text at it, into a list of texts.
        is_flag: a bool that is set by `--name` alone.

    Raises:
        ParameterError: the definition contradicts itself.
    """

    configs = ConfigValue()  # of the flow, once they are known

    def __init__(
        self,
        name: str,
        default: Any = None,
        type: Any = None,
        required: bool = False,
        help: str = "",
        separator: str | None = None,
        is_flag: bool = False,
        show_default: bool = True,
    ) -> None:
        self.name = name
        self.required = required
        self.help = help
        self.separator = separator
        self.is_flag = is_flag
        self.show_default = show_default
        self.attribute = name
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
            raise ParameterError(f"A parameter's name is an identifier, not {name!r}.")
        self._given_type = type
        self.set_default(default)

    def set_default(self, default: Any) -> None:
        """Set the default, and with it the type where none was given; what is not known yet stands for a text.

        Raises:
            ParameterError: the definition contradicts itself.
        """
        self.default = default
        self.type = self._given_type if self._given_type is not None else self._type_of_default()
        if self.type in (dict, list):
            self.type = JSONType
        self._check()

    def _check(self) -> None:
        if self.type not in (str, int, float, bool, JSONType):
            raise ParameterError(
                f"Parameter {self.name}: the type {self.type!r} is none of str, int, float, bool, JSONType."
            )
        if self.is_flag and self.type is not bool:
            raise ParameterError(f"Parameter {self.name}: is_flag goes with type=bool.")
        if self.separator is not None and self.type is not str:
            raise ParameterError(f"Parameter {self.name}: a separator goes with type=str.")

    def _type_of_default(self) -> Any:
        default = self.default
        if self.is_flag:
            return bool
        if (
            default is None
            or isinstance(default, Expression)
            or callable(default)
            or (isinstance(default, (list, tuple)) and self.separator)
        ):
            return str
        return JSONType if isinstance(default, (dict, list)) else default.__class__

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute

    def __get__(self, flow: Any, owner: type | None = None) -> Any:
        return self if flow is None else flow._load(self.attribute)

    def __set__(self, flow: Any, value: Any) -> None:
        raise AssertionError  # FlowSpec.__setattr__ refuses first; as a data descriptor it is read before vars(flow)

    @property
    def environment_variables(self) -> list[str]:
        """Where a value may also come from: the first that is set."""
        return context.variables(f"RUN_{self.name.upper().replace('-', '_')}")

    @property
    def type_name(self) -> str:
        """For help texts."""
        return "JSON" if self.type is JSONType else str(self.type.__name__)

    @property
    def described_type(self) -> str:
        """The type with its article, for messages."""
        return "a list of texts" if self.separator is not None else _article(self.type_name)

    def convert(self, value: Any) -> Any:
        """Return the value that a given text or default stands for.

        Raises:
            ParameterError: it does not fit the type.
        """
        try:
            return self._convert(value)
        except (ValueError, TypeError, RecursionError) as error:
            if isinstance(error, ParameterError):
                raise
            detail = f" ({error})" if self.type is JSONType else ""
            hint = f" Write type={type(value).__name__}." if self._given_type is None and callable(self.default) else ""
            raise ParameterError(
                f"Parameter {self.name}: {shortened(value)} is not {_article(self.type_name)}{detail}.{hint}"
            ) from None

    def _convert(self, value: Any) -> Any:
        if self.separator is not None:
            return list(value.split(self.separator)) if isinstance(value, str) else [str(item) for item in value]
        if self.type is JSONType:
            return json.loads(value) if isinstance(value, str) else value
        if self.type is bool:
            return _to_bool(value)
        if self.type is int and isinstance(value, float) and not value.is_integer():
            raise ValueError(value)
        if self.type in (int, float) and isinstance(value, bool):
            raise ValueError(value)
        if self.type is str and not isinstance(value, str):
            raise ValueError(value)
        return self.type(value)

    def default_value(self, flow_name: str, user_name: str) -> Any:
        """Return the default, called if it is a function; `None` where there is none.

        Raises:
            ParameterError: the function raised, or its value does not fit the type.
        """
        value = self.default
        if callable(value):
            try:
                value = call_default(value, DeployTimeContext(flow_name, user_name, self.name, self.configs))
            except Exception as error:  # a user's function may raise anything
                raise ParameterError(
                    f"Parameter {self.name}: its default raised {type(error).__name__}: {error}"
                ) from error
        return None if value is None else self.convert(value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, type={self.type_name})"


def call_default(function: Callable[..., Any], given: DeployTimeContext) -> Any:
    """Return the value of a default that is a function, which may take a context."""
    return function(given) if len(inspect.signature(function).parameters) else function()


class IncludeFile(Parameter):
    """A parameter whose value is the content of the file that is named.

    Args:
        name: of the option.
        is_text: whether the content is text (else bytes).
        encoding: of the text, UTF-8 by default.
        required, default, help: as for `Parameter`; the default is a path, relative to the current folder.
    """

    def __init__(
        self,
        name: str,
        default: str | Callable[..., str] | None = None,
        required: bool = False,
        is_text: bool = True,
        encoding: str | None = None,
        help: str = "",
    ) -> None:
        super().__init__(name, default=default, type=str, required=required, help=help)
        self.is_text = is_text
        self.encoding = encoding or "utf-8"

    @property
    def type_name(self) -> str:
        """For help texts."""
        return "path"

    def _convert(self, value: Any) -> str | bytes:
        try:
            data = Path(value).expanduser().read_bytes()
            return data.decode(self.encoding) if self.is_text else data
        except OSError as error:
            raise ParameterError(f"Parameter {self.name}: {value} cannot be read: {error.strerror}.") from None
        except RuntimeError as error:  # ~ or ~name of somebody who has no home
            raise ParameterError(f"Parameter {self.name}: {value} cannot be read: {error}") from None
        except (UnicodeDecodeError, LookupError) as error:
            raise ParameterError(
                f"Parameter {self.name}: {value} is not text in {self.encoding} ({error}). "
                "Give encoding= or is_text=False."
            ) from None


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(value)


def shortened(value: Any) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}" if name != "JSON" else "JSON"


def parameters_of(flow: type) -> dict[str, Parameter]:
    """Return a flow's parameters by attribute, in the order of definition, bases first."""
    parameters: dict[str, Parameter] = {}
    for cls in reversed(flow.__mro__):
        for attribute, value in vars(cls).items():
            if isinstance(value, Parameter):
                parameters[attribute] = value
            elif attribute in parameters:
                del parameters[attribute]
    return parameters


def check_names(parameters: Mapping[str, Parameter], taken: frozenset[str]) -> None:
    """Refuse parameters that share a name with one of `run`'s own options, or with each other.

    Raises:
        ParameterError: names the parameter.
    """
    seen: dict[str, str] = {}
    for parameter in parameters.values():
        option = parameter.name.replace("_", "-").lower()
        if option == "tags":
            raise ParameterError("Parameter tags: $FLOWSTORE_RUN_TAGS holds a run's tags. Choose another name.")
        if option in taken:
            raise ParameterError(
                f"Parameter {parameter.name}: --{option} is an option of run itself. Choose another name."
            )
        if option in seen:
            raise ParameterError(f"Parameters {seen[option]} and {parameter.name} are the same option, --{option}.")
        seen[option] = parameter.name
