"""Policies for IAM: one for each of the four that have to do with a flow in AWS, and no more than needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from flowstore.production.stepfunctions.aws import Address
from flowstore.production.stepfunctions.definition import queue_name, schedule_name

ROLE = "flowstore-states"


def policies(
    address: Address, store: str, role: str | None, scheduler_role: str | None, *, has_schedule: bool
) -> dict[str, Any]:
    """Return the policies, and for roles who may take them on.

    Args:
        address: of the state machine; what is not known yet stands there as `${Name}`.
        store: the store's id.
        role: the ARN of the state machine's role; default: one of a usual name.
        scheduler_role: the ARN of the schedule's role; default: the state machine's, which then serves both.
        has_schedule: whether there is a schedule; nothing is needed for it otherwise.
    """
    arn = f"arn:{address.partition}"
    beside = f"{address.region}:{address.account}"
    queue = f"{arn}:sqs:{beside}:{queue_name(store)}"
    executions = address.execution("*")
    schedule = f"{arn}:scheduler:{beside}:schedule/default/{schedule_name(address.name)}"
    role = role or f"{arn}:iam::{address.account}:role/{ROLE}"
    by_states = _Role(
        role,
        [_trust("states", address, f"{arn}:states:{beside}:stateMachine:*")],
        [_allow("sqs", "SendMessage", queue)],
    )
    by_scheduler = _Role(
        scheduler_role or role,
        [_trust("scheduler", address, f"{arn}:scheduler:{beside}:schedule-group/default")],
        [_allow("states", "StartExecution", address.arn)],
    )
    if has_schedule and by_scheduler.arn == role:
        by_states = by_scheduler = _Role(
            role, by_states.trust + by_scheduler.trust, by_states.policy + by_scheduler.policy
        )
    on_machine = (
        "CreateStateMachine UpdateStateMachine DescribeStateMachine DeleteStateMachine TagResource "
        "ListTagsForResource StartExecution ListExecutions"
    )
    for_schedule = [
        _allow("scheduler", "CreateSchedule UpdateSchedule GetSchedule DeleteSchedule", schedule),
        _pass_role(by_scheduler.arn, "scheduler"),
    ]
    return {
        "deployer": {
            "policy": _policy(
                _allow("states", on_machine, address.arn),
                _allow("states", "DescribeExecution StopExecution", executions),
                _allow("sqs", "CreateQueue DeleteQueue GetQueueUrl TagQueue", queue),
                _pass_role(role, "states"),
                *(for_schedule if has_schedule else []),
            )
        },
        "state machine": by_states.shown,
        **({"scheduler": by_scheduler.shown} if has_schedule else {}),
        "worker": {
            "policy": _policy(
                _allow("sqs", "GetQueueUrl ReceiveMessage DeleteMessage ChangeMessageVisibility", queue),
                _allow("states", "SendTaskSuccess SendTaskFailure SendTaskHeartbeat", address.arn),
                _allow("states", "DescribeExecution", executions),
            )
        },
    }


@attrs.frozen
class _Role:
    """A role: who may take it on, and what it allows."""

    arn: str
    trust: list[dict[str, Any]]
    policy: list[dict[str, Any]]

    @property
    def shown(self) -> dict[str, Any]:
        """The role as it is printed."""
        return {"role": self.arn, "trust": _policy(*self.trust), "policy": _policy(*self.policy)}


def _policy(*statements: Mapping[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(service: str, actions: str, resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": [f"{service}:{action}" for action in actions.split()], "Resource": resource}


def _pass_role(role: str, service: str) -> dict[str, Any]:
    """Return the statement that lets a deployer hand a role to one service."""
    return {
        **_allow("iam", "PassRole", role),
        "Condition": {"StringEquals": {"iam:PassedToService": f"{service}.amazonaws.com"}},
    }


def _trust(service: str, address: Address, source: str) -> dict[str, Any]:
    """Return the statement that lets a service take a role on, for things of this account alone."""
    return {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {
            "StringEquals": {"aws:SourceAccount": address.account},
            "ArnLike": {"aws:SourceArn": source},
        },
    }
