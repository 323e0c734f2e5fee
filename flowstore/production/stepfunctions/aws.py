"""AWS as flowstore uses it: Step Functions, SQS and EventBridge Scheduler.

Credentials, region and endpoint are boto3's own affair: its files, its variables, `$AWS_ENDPOINT_URL`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from flowstore._version import __version__
from flowstore.errors import FlowstoreError
from flowstore.production.stepfunctions.calls import AwsDeniedError, AwsError, AwsMissingError, AwsRefusedError, call
from flowstore.production.stepfunctions.definition import RETENTION_S, queue_name
from flowstore.store.state_machines import execution_tag
from flowstore.text import safe

_MACHINE = re.compile(r"arn:(aws[a-z-]*):states:([a-z0-9-]+):([0-9]{12}):stateMachine:([A-Za-z0-9_.-]{1,80})")
_ROLE = re.compile(r"arn:(aws[a-z-]*):iam::([0-9]{12}):role/[\w+=,.@/-]+", re.ASCII)
POLL_S = 10  # how long SQS waits for a message: at most 20, and stopping in good order waits for it
VISIBILITY_S = 10  # how long others do not see a message that was received


@attrs.frozen
class Address:
    """The ARN of a state machine, in its parts."""

    partition: str
    region: str
    account: str
    name: str

    @classmethod
    def parse(cls, arn: str) -> Address:
        """Return the parts of an ARN.

        Raises:
            FlowstoreError: it is none of a state machine.
        """
        match = _MACHINE.fullmatch(arn)
        if match is None:
            raise FlowstoreError(f"{safe(arn)!r} is not the ARN of a state machine.")
        return cls(*match.groups())

    @classmethod
    def beside(cls, role: str, region: str, name: str) -> Address:
        """Return the address of a state machine that has a role, and so is in its account.

        Raises:
            FlowstoreError: it is not the ARN of a role.
        """
        match = _ROLE.fullmatch(role)
        if match is None:
            raise FlowstoreError(
                f"{safe(role)!r} is not the ARN of a role. It looks like arn:aws:iam::123456789012:role/NAME."
            )
        return cls(match[1], region, match[2], name)

    @property
    def arn(self) -> str:
        """The ARN."""
        return f"arn:{self.partition}:states:{self.region}:{self.account}:stateMachine:{self.name}"

    def execution(self, name: str) -> str:
        """Return the ARN of one of its executions."""
        return f"arn:{self.partition}:states:{self.region}:{self.account}:execution:{self.name}:{name}"


@attrs.frozen
class Execution:
    """An execution of a state machine; `error` says why it has failed, where AWS was asked for it alone."""

    arn: str
    name: str
    status: str
    started_at: datetime
    stopped_at: datetime | None
    error: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Execution:
        """Return what AWS says of an execution."""
        error = ": ".join(filter(None, (data.get("error"), data.get("cause"))))
        return cls(data["executionArn"], data["name"], data["status"], data["startDate"], data.get("stopDate"), error)

    @property
    def tag(self) -> str:
        """The tag of its runs."""
        return execution_tag(self.arn, self.started_at)

    @property
    def goes_on(self) -> bool:
        """Whether it is still running, as far as AWS knows."""
        return self.status in {"RUNNING", "PENDING_REDRIVE"}


@attrs.frozen
class Received:
    """A message of the queue; `handle` deletes it, or gives it back."""

    handle: str
    body: str


class Aws:
    """AWS in one region.

    Args:
        region: its name; default: the one that boto3 is set to.

    Raises:
        FlowstoreError: boto3 is missing, or there is no such region.
    """

    def __init__(self, region: str | None = None) -> None:
        try:
            import boto3
        except ModuleNotFoundError:
            raise FlowstoreError(
                "AWS needs the package boto3, which is not installed. Install it with: pip install 'flowstore[aws]'"
            ) from None
        self._session: Any = call("read the settings of AWS", boto3.Session, region_name=region)
        if not self._session.region_name:
            raise FlowstoreError("No AWS region is chosen. Set $AWS_DEFAULT_REGION, or run: aws configure")
        self.region: str = self._session.region_name
        partitions = call("read the settings of AWS", self._session.get_available_partitions)
        known = {
            name for one in partitions for name in self._session.get_available_regions("stepfunctions", one)
        }  # fmt: skip
        if self.region not in known:
            raise FlowstoreError(
                f"There is no AWS region {safe(self.region)!r} with Step Functions that boto3 knows. Set "
                "$AWS_DEFAULT_REGION to one such as eu-central-1; for one that is new, update boto3."
            )

    def _client(self, service: str) -> Any:
        from botocore.config import Config

        config = Config(
            user_agent_extra=f"flowstore/{__version__}",
            retries={"mode": "standard", "max_attempts": 4},
            connect_timeout=10,
            read_timeout=POLL_S + 20,
        )
        return call(f"use {service}", self._session.client, service_name=service, config=config)

    @functools.cached_property
    def _states(self) -> Any:
        return self._client("stepfunctions")

    @functools.cached_property
    def _queues(self) -> Any:
        return self._client("sqs")

    @functools.cached_property
    def _schedules(self) -> Any:
        return self._client("scheduler")

    # --- state machines

    def find_machine(self, arn: str) -> dict[str, Any] | None:
        """Return what AWS says of a state machine; `None` where there is none."""
        try:
            answer: dict[str, Any] = call(
                f"look at the state machine {arn}", self._states.describe_state_machine, stateMachineArn=arn
            )
        except AwsMissingError:
            return None
        return answer

    def machine_tags(self, arn: str) -> dict[str, str]:
        """Return the tags of a state machine."""
        what = f"read the tags of the state machine {arn}"
        tags = call(what, self._states.list_tags_for_resource, resourceArn=arn)["tags"]
        return {tag["key"]: tag["value"] for tag in tags}

    def put_machine(
        self, address: Address, definition: Mapping[str, Any], role: str, tags: Mapping[str, str], *, exists: bool
    ) -> None:
        """Create a state machine, or change the one that is there."""
        text, pairs = json.dumps(definition), [{"key": key, "value": value} for key, value in tags.items()]
        if not exists:
            created = call(
                f"create the state machine {address.name}", self._states.create_state_machine,
                name=address.name, definition=text, roleArn=role, type="STANDARD", tags=pairs,
            )["stateMachineArn"]  # fmt: skip
            if created != address.arn:
                raise AwsError(
                    f"The state machine was created as {created}, not as {address.arn}: the role is in another account "
                    "than your credentials."
                )
            return
        what = f"update the state machine {address.name}"
        call(what, self._states.update_state_machine, stateMachineArn=address.arn, definition=text, roleArn=role)
        call(what, self._states.tag_resource, resourceArn=address.arn, tags=pairs)

    def delete_machine(self, arn: str) -> None:
        """Delete a state machine, if it is there."""
        with contextlib.suppress(AwsMissingError):
            call(f"delete the state machine {arn}", self._states.delete_state_machine, stateMachineArn=arn)

    # --- executions

    def start(self, arn: str, name: str, given: Mapping[str, Any]) -> Execution:
        """Start an execution, and return it."""
        started = call(
            f"start an execution of {arn}", self._states.start_execution,
            stateMachineArn=arn, name=name, input=json.dumps(given),
        )  # fmt: skip
        return Execution.of({"name": name, "status": "RUNNING", **started})

    def executions(self, arn: str, status: str | None = None, limit: int = 100) -> list[Execution]:
        """Return the newest executions of a state machine, newest first."""
        what = f"list the executions of {arn}"
        executions: list[Execution] = []
        more: dict[str, str] = {}
        given = {"stateMachineArn": arn, **({} if status is None else {"statusFilter": status})}
        while True:
            page = call(what, self._states.list_executions, maxResults=100, **given, **more)
            executions += map(Execution.of, page["executions"])
            if "nextToken" not in page or len(executions) >= limit:
                return executions[:limit]
            more = {"nextToken": page["nextToken"]}

    def stop(self, execution: str, cause: str) -> None:
        """Stop an execution."""
        call(
            f"stop the execution {execution}", self._states.stop_execution,
            executionArn=execution, error="Flowstore.Terminated", cause=cause,
        )  # fmt: skip

    def find_execution(self, arn: str) -> Execution | None:
        """Return an execution; `None` where there is none."""
        try:
            return Execution.of(call(f"look at the execution {arn}", self._states.describe_execution, executionArn=arn))
        except AwsMissingError:
            return None

    # --- answers to a task token: each returns whether AWS still waits for it

    def heartbeat(self, token: str) -> bool:
        """Say that work goes on."""
        return self._answer(self._states.send_task_heartbeat, token)

    def succeed(self, token: str, output: Mapping[str, Any]) -> bool:
        """Say that the work is done."""
        return self._answer(self._states.send_task_success, token, output=json.dumps(output))

    def fail(self, token: str, error: str, cause: str) -> bool:
        """Say that the work has failed."""
        return self._answer(self._states.send_task_failure, token, error=error, cause=cause)

    def _answer(self, method: Any, token: str, **given: str) -> bool:
        try:
            call("answer Step Functions", method, taskToken=token, **given)
        except AwsRefusedError:
            return False
        return True

    # --- the queue

    def find_queue(self, store: str) -> str | None:
        """Return the URL of a store's queue, `None` where there is none."""
        try:
            what = f"look for the queue {queue_name(store)}"
            return str(call(what, self._queues.get_queue_url, QueueName=queue_name(store))["QueueUrl"])
        except AwsMissingError:
            return None

    def ensure_queue(self, store: str, tags: Mapping[str, str]) -> str:
        """Return the URL of a store's queue, which is created if it is missing."""
        url = self.find_queue(store)
        if url is None:
            url = str(
                call(
                    f"create the queue {queue_name(store)}", self._queues.create_queue, QueueName=queue_name(store),
                    Attributes={"MessageRetentionPeriod": str(RETENTION_S), "VisibilityTimeout": str(VISIBILITY_S)},
                    tags=dict(tags),
                )["QueueUrl"]
            )  # fmt: skip
        return url

    def delete_queue(self, store: str) -> None:
        """Delete a store's queue, if it is there."""
        url = self.find_queue(store)
        if url is not None:
            call(f"delete the queue {queue_name(store)}", self._queues.delete_queue, QueueUrl=url)

    def receive(self, url: str, wait_s: int) -> list[Received]:
        """Return messages of a queue, as soon as there are any."""
        answer = call(
            "read the queue", self._queues.receive_message,
            QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=wait_s,
        )  # fmt: skip
        return [Received(one["ReceiptHandle"], one["Body"]) for one in answer.get("Messages", [])]

    def drop(self, url: str, message: Received) -> None:
        """Delete a message that was received."""
        call("delete a message", self._queues.delete_message, QueueUrl=url, ReceiptHandle=message.handle)

    def give_back(self, url: str, message: Received, after_s: int = 0) -> None:
        """Let others receive a message, now or after some seconds."""
        call(
            "give a message back", self._queues.change_message_visibility,
            QueueUrl=url, ReceiptHandle=message.handle, VisibilityTimeout=after_s,
        )  # fmt: skip

    # --- the schedule

    def find_schedule(self, name: str, *, may_be_denied: bool = False) -> dict[str, Any] | None:
        """Return what AWS says of a schedule; `None` where there is none.

        Args:
            name: the schedule's.
            may_be_denied: whether the credentials need not allow this, since the flow never had a schedule.
        """
        try:
            answer: dict[str, Any] = call(f"look at the schedule {name}", self._schedules.get_schedule, Name=name)
        except AwsMissingError:
            return None
        except AwsDeniedError:
            if may_be_denied:
                return None
            raise
        return answer

    def put_schedule(self, name: str, cron: str, timezone: str, machine: str, role: str, *, exists: bool) -> None:
        """Create a schedule that starts a state machine, or change the one that is there."""
        method = self._schedules.update_schedule if exists else self._schedules.create_schedule
        call(
            f"{'update' if exists else 'create'} the schedule {name}", method, Name=name, ScheduleExpression=cron,
            ScheduleExpressionTimezone=timezone, FlexibleTimeWindow={"Mode": "OFF"}, State="ENABLED",
            Description=f"flowstore: starts {machine}",
            Target={"Arn": machine, "RoleArn": role, "Input": json.dumps({"parameters": {}})},
        )  # fmt: skip

    def delete_schedule(self, name: str) -> None:
        """Delete a schedule, if it is there."""
        with contextlib.suppress(AwsMissingError):
            call(f"delete the schedule {name}", self._schedules.delete_schedule, Name=name)
