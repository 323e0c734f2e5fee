"""The messages by which a state machine asks for work, and how a worker answers them.

A message is a JSON object. `template` writes it as the state machine's parameters, in which AWS fills in those that end
in `.$`; `Message.parse` reads what arrives. Whoever may send to the queue may start what is deployed, with parameters
of their choice, and nothing else.

    {"flowstore": 1, "state": "queued", "run" or "step", "store": UUID, "flow": NAME, "scope": SCOPE, "version": N,
     "heartbeat": SECONDS, "max_workers": N or null, "token": TOKEN, "execution": ARN, "started": TIME,
     "input": what the execution got}

Where each step is a state, `"steps": true` is in all of them, and those of a step have its name, the path of indexes in
the foreaches around it, and for a step of a gang how many members that has, in the place of the input:

    {…, "step": NAME, "path": "0/3", "members": N}

The answers are calls of Step Functions with that token: success with `{"run": "HelloFlow/5", "status": "successful"}`,
or failure with one of `Failure`. A token that AWS no longer knows was answered already, was too late, or belongs to an
execution that was stopped: its message is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from flowstore.errors import FlowstoreError, ParameterError
from flowstore.store.state_machines import execution_tag

FORMAT = 1
QUEUED, RUN, STEP = "queued", "run", "step"

_EXECUTION = r"arn:[a-z-]+:states:[a-z0-9-]+:[0-9]{12}:execution:[^:/\s]{1,80}:[^:/\s]{1,80}"


class Failure:
    """The errors with which an execution fails; `LATER` ones lead back to `Queued` instead."""

    RUN_FAILED = "Flowstore.RunFailed"  # a task failed
    RUN_STOPPED = "Flowstore.RunStopped"  # somebody stopped the run, on the machine where it ran
    NOT_STARTED = "Flowstore.NotStarted"  # there was no run: the flow does not start, or is no longer deployed
    WORKER_STOPPED = "Flowstore.WorkerStopped"  # the worker ended in good order before the run did
    RUN_DIED = "Flowstore.RunDied"  # the run's process was killed
    NOT_NOW = "Flowstore.NotNow"  # the worker's machine refused to start the run: its disk is full, say
    TOO_LONG = "Flowstore.HistoryTooLong"  # with a state for each step, AWS could not record all tasks

    LATER = (WORKER_STOPPED, RUN_DIED, NOT_NOW)


def template(state: str, facts: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the body of a message as the parameters of a state.

    Args:
        state: `QUEUED`, `RUN` or `STEP`.
        facts: what is the same in all messages of a state machine.
        about: what is only in those of a step; default: the execution's input.
    """
    return {
        "flowstore": FORMAT,
        "state": state,
        **facts,
        "token.$": "$$.Task.Token",
        "execution.$": "$$.Execution.Id",
        "started.$": "$$.Execution.StartTime",
        **({"input.$": "$$.Execution.Input"} if about is None else about),
    }


@attrs.frozen(kw_only=True)
class Message:
    """A message, checked.

    Attributes:
        state: `QUEUED`, `RUN` or `STEP`.
        store: the id of the store that it is meant for.
        flow: the flow's name.
        scope: that of the deployment.
        heartbeat_s: how long AWS waits for a sign of life.
        max_workers: how many tasks may run at a time.
        token: what an answer has to show.
        execution: the execution's ARN.
        started_at: when the execution was started.
        input: what the execution was started with.
        steps: whether each step is a state of its own.
        step, path, members: of a step's message, see above.
    """

    state: str
    store: str
    flow: str
    scope: str
    heartbeat_s: float
    max_workers: int | None
    token: str
    execution: str
    started_at: datetime
    input: Any = attrs.field(repr=False)
    steps: bool = False
    step: str = ""
    path: str = ""
    members: int = 0

    @classmethod
    def parse(cls, text: str) -> Message:
        """Return what a text holds.

        Raises:
            FlowstoreError: it is not a message of this format.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise FlowstoreError("it is not JSON") from None
        if not isinstance(data, dict) or data.get("flowstore") != FORMAT:
            raise FlowstoreError("it does not come from a state machine that this version of flowstore made")
        for name in ("store", "flow", "scope", "token", "execution"):
            _check(isinstance(data.get(name), str) and 0 < len(data[name]) <= 2048, name)
        _check(data.get("state") in (QUEUED, RUN, STEP), "state")
        heartbeat, workers = data.get("heartbeat"), data.get("max_workers")
        _check(type(heartbeat) is int and 1 <= heartbeat <= 99_999_999, "heartbeat")
        _check(workers is None or (type(workers) is int and workers > 0), "max_workers")
        _check(re.fullmatch(_EXECUTION, data["execution"]) is not None, "execution")
        return cls(
            **{name: data[name] for name in ("state", "store", "flow", "scope", "token", "execution")},
            heartbeat_s=float(data["heartbeat"]),
            max_workers=workers,
            started_at=_time(data.get("started")),
            input=data.get("input"),
            steps=data.get("steps") is True,
            **(_about_step(data) if data["state"] == STEP else {}),
        )

    @property
    def tag(self) -> str:
        """The tag of the execution's runs."""
        return execution_tag(self.execution, self.started_at)

    def values(self) -> dict[str, str]:
        """Return the texts of the parameters in the execution's input, by name.

        Raises:
            ParameterError: they have another form than `{"parameters": {"alpha": 0.5}}`.
        """
        given = self.input.get("parameters") if isinstance(self.input, dict) else None
        if given is None:
            return {}
        if not isinstance(given, dict):
            raise ParameterError('The input of the execution has "parameters" that are not an object: {"alpha": 0.5}')
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}


def _about_step(data: Mapping[str, Any]) -> dict[str, Any]:
    step, path, members = data.get("step"), data.get("path"), data.get("members", 0)
    _check(isinstance(step, str) and 0 < len(step) <= 200, "step")
    _check(isinstance(path, str) and re.fullmatch("[0-9/]{0,200}", path) is not None, "path")
    _check(type(members) is int and members >= 0, "members")
    return {"step": step, "path": str(path).strip("/"), "members": members}


def _time(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise FlowstoreError("its started is wrong or missing") from None


def _check(is_right: bool, name: str) -> None:
    if not is_right:
        raise FlowstoreError(f"its {name} is wrong or missing")
