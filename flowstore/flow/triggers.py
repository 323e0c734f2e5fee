"""`@trigger` and `@trigger_on_finish`: the events that start a deployment of a flow.

They do not concern a run on one's own machine. `triggers_of` returns them as a deployment stores them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from flowstore import later
from flowstore.errors import GraphError
from flowstore.flow.decorators import FlowDecorator
from flowstore.flow.parameters import DeployTimeContext, call_default

_MOST_LETTERS = 200


class _Trigger(FlowDecorator):
    """The base of both: a condition, or a list of conditions, and when they are forgotten."""

    _one: ClassVar[str]  # the option of one condition; that of several has an s
    options: Mapping[str, Any]

    def __attrs_post_init__(self) -> None:
        _check(self.name, self._one, getattr(self, self._one), getattr(self, f"{self._one}s"))
        _reset_at(self.name, self.options)
        for item in self._all():
            if not callable(item):
                _CONDITIONS[self._one](item)

    def _all(self) -> list[Any]:
        single = getattr(self, self._one)
        return [*([] if single is None else [single]), *getattr(self, f"{self._one}s")]

    def conditions(self, flow: str, user: str) -> list[dict[str, Any]]:
        """Return what it waits for, for a deployment."""
        return [_CONDITIONS[self._one](_called(self.name, item, flow, user)) for item in self._all()]


@later.frozen(kw_only=True)
class trigger(_Trigger):  # noqa: N801  # used as a decorator
    """Start a deployment of the flow when an event is published; of several, when all of them have been.

    Args:
        event: a name, or `{"name": …, "parameters": {parameter: field of the payload}}`. Without such a dict, fields
            that are named like a parameter give it its value. A function is called when the flow is deployed.
        events: a list of these, instead.
        options: `{"reset_at": {"hour": 0, "minute": 0}}` forgets, each day at that time (UTC), the events of several
            that have come while others have not.
    """

    name: ClassVar[str] = "trigger"
    _one: ClassVar[str] = "event"
    event: Any = None
    events: Sequence[Any] = ()
    options: Mapping[str, Any] = later.field(factory=dict)


@later.frozen(kw_only=True)
class trigger_on_finish(_Trigger):  # noqa: N801  # used as a decorator
    """Start a deployment of the flow when a run of another deployed flow was successful; of several, when all were.

    Args:
        flow: its name, in the same project and branch as this one; `project.branch.Flow`; or a dict of `name`,
            `project` and `project_branch`.
        flows: a list of these, instead.
        options: as for `@trigger`.
    """

    name: ClassVar[str] = "trigger_on_finish"
    _one: ClassVar[str] = "flow"
    flow: Any = None
    flows: Sequence[Any] = ()
    options: Mapping[str, Any] = later.field(factory=dict)


def triggers_of(flow: Any, user: str) -> dict[str, Any] | None:
    """Return what starts a deployment of a flow: `conditions`, and the minute of the day that resets them.

    Args:
        flow: its class.
        user: who deploys it.

    Raises:
        GraphError: a function returned no event, or two conditions are the same.
    """
    decorators = [item for item in flow._flow_decorators if isinstance(item, _Trigger)]
    conditions = [condition for item in decorators for condition in item.conditions(flow.__name__, user)]
    for at, condition in enumerate(conditions):
        if any(_same(condition, other) for other in conditions[:at]):
            raise GraphError(f"{flow.__name__} waits for {condition['name']} twice. Name it once.")
    resets = [reset for item in decorators if (reset := _reset_at(item.name, item.options)) is not None]
    return {"conditions": conditions, "reset_at": resets[0] if resets else None} if conditions else None


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("kind", "name", "project", "branch"))


def _called(decorator: str, item: Any, flow: str, user: str) -> Any:
    if not callable(item):
        return item
    try:
        return call_default(item, DeployTimeContext(flow, user, "trigger"))
    except Exception as error:  # a user's function may raise anything
        name = getattr(item, "__name__", repr(item))
        raise GraphError(
            f"{flow}: the function {name} of @{decorator} raised {type(error).__name__}: {error}. "
            "Correct it, and deploy again."
        ) from error


def _check(decorator: str, one: str, single: Any, several: Any) -> None:
    if isinstance(several, str) or not isinstance(several, Sequence):
        raise GraphError(f"@{decorator}: {one}s is a list, as in {one}s=['a', 'b'].")
    if (single is None) == (not several):
        raise GraphError(f"@{decorator} needs either {one} or {one}s.")


def _reset_at(decorator: str, options: Any) -> int | None:
    """Return the minute of the day at which events are forgotten."""
    if not isinstance(options, Mapping) or set(options) - {"reset_at"}:
        raise GraphError(f"@{decorator}: options is a dict, which may have reset_at.")
    if not options:
        return None
    at = options["reset_at"]
    hour, minute = (at.get("hour", 0), at.get("minute", 0)) if isinstance(at, Mapping) else (-1, -1)
    if not (isinstance(hour, int) and isinstance(minute, int) and 0 <= hour < 24 and 0 <= minute < 60):
        raise GraphError(f"@{decorator}: reset_at is a time of the day, as in {{'hour': 2, 'minute': 30}}.")
    return 60 * hour + minute


def check_name(name: Any) -> str:
    """Return the name of an event or a flow.

    Raises:
        GraphError: it cannot be a name.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _MOST_LETTERS or not name.isprintable():
        raise GraphError(f"The name of an event is a text of 1 to {_MOST_LETTERS} characters, not {name!r:.100}.")
    return name


def _event(event: Any) -> dict[str, Any]:
    if isinstance(event, str):
        return {"kind": "event", "name": check_name(event)}
    if not isinstance(event, Mapping) or set(event) - {"name", "parameters"}:
        raise GraphError(f"@trigger: an event is a name, or a dict of name and parameters, not {event!r:.100}.")
    parameters = event.get("parameters")
    mapped = {} if parameters is None else {"parameters": _mapping(parameters)}
    return {"kind": "event", "name": check_name(event.get("name")), **mapped}


def _mapping(parameters: Any) -> dict[str, str]:
    """Return which field of the payload gives each parameter its value."""
    pairs: list[Any] = [parameters]
    if isinstance(parameters, Mapping):
        pairs = [*parameters.items()]
    elif isinstance(parameters, (list, tuple)):
        pairs = [(item, item) if isinstance(item, str) else item for item in parameters]
    if all(isinstance(pair, (list, tuple)) and [type(text) for text in pair] == [str, str] for pair in pairs):
        return dict(pairs)
    raise GraphError(
        "@trigger: parameters is a dict of parameters and fields of the payload, or a list of names that are both, "
        f"not {parameters!r:.100}."
    )


def _flow(flow: Any) -> dict[str, Any]:
    if isinstance(flow, str):
        project, *branch, name = flow.split(".") if "." in flow else ("", flow)
        flow = {"name": name, **({"project": project, "project_branch": ".".join(branch)} if project else {})}
    if not isinstance(flow, Mapping) or set(flow) - {"name", "project", "project_branch"}:
        raise GraphError(
            f"@trigger_on_finish: a flow is a name, or a dict of name, project and project_branch, not {flow!r:.100}."
        )
    condition = {"kind": "run", "name": check_name(flow.get("name"))}
    for key, option in (("project", "project"), ("branch", "project_branch")):
        if flow.get(option):
            condition[key] = check_name(flow[option])
    return condition


_CONDITIONS: dict[str, Callable[[Any], dict[str, Any]]] = {"event": _event, "flow": _flow}
