"""The parameters of a resumed run: its origin's values, as far as the flow still has such parameters.

A value whose parameter has another type now is converted where that says the same, as the command line would read
it. What can't be converted, and what is new and required, is refused before the run exists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import attrs

from flowstore import context
from flowstore.errors import ParameterError
from flowstore.flow.parameters import IncludeFile, JSONType, Parameter, parameters_of, shortened
from flowstore.store import blobs
from flowstore.store.blobs import Blob
from flowstore.store.db import Row, Store


@attrs.frozen(eq=False, repr=False)
class Kept:
    """The parameters of a resumed run.

    Attributes:
        blobs: the values that stay as they are, by name.
        values: those that are new or were converted.
        notes: sentences that tell the user what has changed.
    """

    blobs: Mapping[str, Blob]
    values: Mapping[str, Any]
    notes: tuple[str, ...]


def parameters_from(store: Store, flow: type, origin_id: int, old: Mapping[str, Row]) -> Kept:
    """Return what the parameters of a flow are in a run that resumes another one.

    Args:
        store: where the origin is.
        flow: the flow's class, as it is now.
        origin_id: the run that is resumed.
        old: its parameters, by name.

    Raises:
        ParameterError: one is new and required, or has a type now that its value does not fit.
    """
    stored = {name: Blob.of(row) for name, row in old.items()}
    defined = parameters_of(flow)
    kept: dict[str, Blob] = {}
    values: dict[str, Any] = {}
    notes = [f"Parameter {name} of run {origin_id} is no longer in the flow: dropped." for name in old.keys() - defined]
    for name, parameter in defined.items():
        if name not in stored:
            values[name] = _new_value(flow, parameter, origin_id)
        elif _fits(parameter, stored[name].type):
            kept[name] = stored[name]
        else:
            value = blobs.load(store, stored[name], name, run_id=origin_id)
            values[name] = _converted(parameter, value, origin_id)
            if type(values[name]) is not type(value):
                shown = shortened(values[name])
                notes.append(f"Parameter {name} is of another type now: {shortened(value)} became {shown}.")
    return Kept(kept, values, tuple(sorted(notes)))


def _new_value(flow: type, parameter: Parameter, origin_id: int) -> Any:
    variable = parameter.environment_variable
    if variable in os.environ:
        return parameter.convert(os.environ[variable])
    if parameter.required and parameter.default is None:
        raise ParameterError(
            f"Parameter {parameter.name} is required, but run {origin_id} has no value for it, and resume takes none. "
            f"Give it a default, or set ${variable}, or start a new run: run --{parameter.name} …"
        )
    return parameter.default_value(flow.__name__, context.username())


def _fits(parameter: Parameter, stored_type: str) -> bool:
    """Return whether a value of a type, by its name, is what the parameter gives."""
    if stored_type == "NoneType":
        return not parameter.required or parameter.type is JSONType
    if isinstance(parameter, IncludeFile):
        return stored_type == ("str" if parameter.is_text else "bytes")
    if parameter.separator is not None:
        return stored_type == "list"
    return stored_type == parameter.type_name or (parameter.type is JSONType and stored_type != "str")


def _converted(parameter: Parameter, value: Any, origin_id: int) -> Any:
    try:
        if isinstance(parameter, IncludeFile):
            return _as_file(parameter, value)
        if parameter.type is str and parameter.separator is None and type(value) in (int, float):
            return str(value)
        if parameter.type is JSONType and isinstance(value, str):
            return _as_json(parameter, value)
        if value is None or isinstance(value, bytes):
            raise ValueError(value)
        return _unchanged(value, parameter.convert(value))
    except (ValueError, TypeError, LookupError):
        raise ParameterError(
            f"Parameter {parameter.name} is {parameter.described_type} now, but its value in run {origin_id} is "
            f"{shortened(value)}. Undo the change of its type, or start a new run."
        ) from None


def _unchanged(value: Any, converted: Any) -> Any:
    """Return a number as it was converted, unless it is another number then."""
    if isinstance(value, (int, float)) and converted != value:
        raise ValueError(value)
    return converted


def _as_json(parameter: Parameter, text: str) -> Any:
    """Return what a text holds where that is a list or a dict; any other text may have been JSON's own kind of text."""
    try:
        value = parameter.convert(text)
    except ParameterError:
        return text
    return value if isinstance(value, (list, dict)) else text


def _as_file(parameter: IncludeFile, value: Any) -> str | bytes:
    """Return a file's content as text or bytes, whichever the parameter gives now."""
    if parameter.is_text and isinstance(value, bytes):
        return value.decode(parameter.encoding)
    if not parameter.is_text and isinstance(value, str):
        return value.encode(parameter.encoding)
    raise TypeError(value)
