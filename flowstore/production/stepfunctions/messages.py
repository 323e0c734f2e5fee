"""The messages by which a state machine asks for work, and how a worker answers them.

A message is a JSON object. `template` writes it as the state machine's parameters, in which AWS fills in those that end
in `.$`; `Message.parse` reads what arrives. Whoever may send to the queue may start what is deployed, with parameters
of their choice, and nothing else.

    {"flowstore": 1, "state": "queued" or "run", "store": UUID, "flow": NAME, "scope": SCOPE, "version": N,
     "heartbeat": SECONDS, "max_workers": N or null, "token": TOKEN, "execution": ARN, "input": what the execution got}

The answers are calls of Step Functions with that token: success with `{"run": "HelloFlow/5", "status": "successful"}`,
or failure with one of `Failure`. A token that AWS no longer knows was answered already, was too late, or belongs to an
execution that was stopped: its message is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import attrs

from flowstore.errors import FlowstoreError, ParameterError

FORMAT = 1
QUEUED, RUN = "queued", "run"
MAX_MESSAGE_BYTES = 1 << 20  # SQS takes no larger one

_EXECUTION = r"arn:[a-z-]+:states:[a-z0-9-]+:[0-9]{12}:execution:[^:/\s]{1,80}:[^:/\s]{1,80}"


class Failure:
    """The errors with which an execution fails; `LATER` ones lead back to `Queued` instead."""

    RUN_FAILED = "Flowstore.RunFailed"  # a task failed
    RUN_STOPPED = "Flowstore.RunStopped"  # somebody stopped the run, on the machine where it ran
    NOT_STARTED = "Flowstore.NotStarted"  # there was no run: the flow does not start, or is no longer deployed
    WORKER_STOPPED = "Flowstore.WorkerStopped"  # the worker ended in good order before the run did
    RUN_DIED = "Flowstore.RunDied"  # the run's process was killed

    LATER = (WORKER_STOPPED, RUN_DIED)


def template(state: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a message as the parameters of a state.

    Args:
        state: `QUEUED` or `RUN`.
        facts: what is the same in all messages of a state machine.
    """
    return {
        "flowstore": FORMAT,
        "state": state,
        **facts,
        "token.$": "$$.Task.Token",
        "execution.$": "$$.Execution.Id",
        "input.$": "$$.Execution.Input",
    }


@attrs.frozen(kw_only=True)
class Message:
    """A message, checked.

    Attributes:
        state: `QUEUED` or `RUN`.
        store: the id of the store that it is meant for.
        flow: the flow's name.
        scope: that of the deployment.
        heartbeat_s: how long AWS waits for a sign of life.
        max_workers: how many tasks may run at a time.
        token: what an answer has to show.
        execution: the execution's ARN.
        input: what the execution was started with.
    """

    state: str
    store: str
    flow: str
    scope: str
    heartbeat_s: float
    max_workers: int | None
    token: str
    execution: str
    input: Any = attrs.field(repr=False)

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
        _check(data.get("state") in (QUEUED, RUN), "state")
        heartbeat, workers = data.get("heartbeat"), data.get("max_workers")
        _check(type(heartbeat) is int and 1 <= heartbeat <= 99_999_999, "heartbeat")
        _check(workers is None or (type(workers) is int and workers > 0), "max_workers")
        _check(re.fullmatch(_EXECUTION, data["execution"]) is not None, "execution")
        return cls(
            **{name: data[name] for name in ("state", "store", "flow", "scope", "token", "execution")},
            heartbeat_s=float(data["heartbeat"]),
            max_workers=workers,
            input=data.get("input"),
        )

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


def _check(is_right: bool, name: str) -> None:
    if not is_right:
        raise FlowstoreError(f"its {name} is wrong or missing")
