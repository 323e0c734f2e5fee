"""Policies for IAM: one for each of the four that have to do with a flow in AWS, and no more than needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowstore.production.stepfunctions.aws import Address
from flowstore.production.stepfunctions.definition import queue_name, schedule_name

ROLE, SCHEDULER_ROLE = "flowstore-states", "flowstore-scheduler"


def policies(address: Address, store: str, role: str | None, scheduler_role: str | None) -> dict[str, Any]:
    """Return the policies, and for roles who may take them on.

    Args:
        address: of the state machine; what is not known yet stands there as `${Name}`.
        store: the store's id.
        role: the ARN of the state machine's role; default: one of a usual name.
        scheduler_role: the ARN of the schedule's role; default: one of a usual name.
    """
    arn = f"arn:{address.partition}"
    beside = f"{address.region}:{address.account}"
    queue = f"{arn}:sqs:{beside}:{queue_name(store)}"
    executions = address.execution("*")
    schedule = f"{arn}:scheduler:{beside}:schedule/default/{schedule_name(address.name)}"
    role = role or f"{arn}:iam::{address.account}:role/{ROLE}"
    scheduler_role = scheduler_role or f"{arn}:iam::{address.account}:role/{SCHEDULER_ROLE}"
    on_machine = (
        "CreateStateMachine UpdateStateMachine DescribeStateMachine DeleteStateMachine TagResource "
        "ListTagsForResource StartExecution ListExecutions"
    )
    return {
        "deployer": {
            "policy": _policy(
                _allow("states", on_machine, address.arn),
                _allow("states", "DescribeExecution StopExecution", executions),
                _allow("sqs", "CreateQueue DeleteQueue GetQueueUrl TagQueue", queue),
                _allow("scheduler", "CreateSchedule UpdateSchedule GetSchedule DeleteSchedule", schedule),
                _pass_role(role, "states"),
                _pass_role(scheduler_role, "scheduler"),
            )
        },
        "state machine": {
            "role": role,
            "trust": _trust("states", address, f"{arn}:states:{beside}:stateMachine:*"),
            "policy": _policy(_allow("sqs", "SendMessage", queue)),
        },
        "scheduler": {
            "role": scheduler_role,
            "trust": _trust("scheduler", address, f"{arn}:scheduler:{beside}:schedule-group/default"),
            "policy": _policy(_allow("states", "StartExecution", address.arn)),
        },
        "worker": {
            "policy": _policy(
                _allow("sqs", "GetQueueUrl ReceiveMessage DeleteMessage ChangeMessageVisibility", queue),
                _allow("states", "SendTaskSuccess SendTaskFailure SendTaskHeartbeat", address.arn),
                _allow("states", "DescribeExecution", executions),
            )
        },
    }


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
    """Return who may take a role on: one service, for things of this account alone."""
    return _policy(
        {
            "Effect": "Allow",
            "Principal": {"Service": f"{service}.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {
                "StringEquals": {"aws:SourceAccount": address.account},
                "ArnLike": {"aws:SourceArn": source},
            },
        }
    )
