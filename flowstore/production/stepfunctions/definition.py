"""State machines, from what is deployed to Amazon States Language; nothing here calls AWS."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import attrs

from flowstore.production.stepfunctions.messages import QUEUED, RUN, Failure, template
from flowstore.store.deployments import Deployment, scope_of

DEFAULT_HEARTBEAT_S = 60
_SEND = "sqs:sendMessage.waitForTaskToken"
_SENDING = ["SQS.AmazonSQSException", "SQS.SdkClientException"]  # of the message, never of the answer: SQS was busy
_DAYS_S = 24 * 60 * 60
RETENTION_S = 14 * _DAYS_S  # of messages in the queue: the longest that SQS keeps them
_AGAIN_S = 13 * _DAYS_S  # a message is sent again before SQS drops it
FOR_EVER_S = 366 * _DAYS_S  # longer than AWS lets an execution last


@attrs.frozen(kw_only=True)
class Machine:
    """The facts from which a state machine is made.

    Attributes:
        flow: the flow's name.
        scope: that of the deployment.
        version: the deployment's.
        owner: the user who deployed it.
        store: the store's id.
        token_sha256: the hash of the production token, in hexadecimal; `None` before there is one.
        queue_url: where the queue is.
        partition: of AWS, such as `aws` or `aws-cn`.
        heartbeat_s: how long AWS waits for a sign of life of a run.
        max_workers: how many tasks of a run may run at a time.
        steps: whether each step is a state of its own.
    """

    flow: str
    scope: str
    version: int
    owner: str
    store: str
    token_sha256: str | None
    queue_url: str
    partition: str = "aws"
    heartbeat_s: int = DEFAULT_HEARTBEAT_S
    max_workers: int | None = None
    steps: bool = False

    @property
    def tags(self) -> dict[str, str]:
        """The owner, as tags in AWS."""
        return {
            "flowstore:owner": fit_for_a_tag(self.owner),
            "flowstore:store": self.store,
            "flowstore:flow": fit_for_a_tag(self.flow),
            "flowstore:scope": fit_for_a_tag(self.scope),
            "flowstore:version": str(self.version),
            "flowstore:token-sha256": self.token_sha256 or "",
        }

    @property
    def facts(self) -> dict[str, Any]:
        """The part that all messages of the state machine share."""
        return {
            "store": self.store,
            "flow": self.flow,
            "scope": self.scope,
            "version": self.version,
            "heartbeat": self.heartbeat_s,
            "max_workers": self.max_workers,
            **({"steps": True} if self.steps else {}),
        }


def hash_of(text: str) -> str:
    """Return the SHA-256 of a text in hexadecimal; of a production token, nothing else is sent to AWS."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def queue_name(store: str) -> str:
    """Return the name of a store's queue."""
    return f"flowstore-{store}"


def name_of(flow: str, project: str | None, branch: str | None) -> str:
    """Return the name of a flow's state machine.

    Example:
        >>> name_of("HelloFlow", None, None), name_of("TrainFlow", "pricing", "prod")
        ('HelloFlow', 'pricing-prod-TrainFlow')
        >>> name_of("TrainFlow", "pricing", "user.anne")
        'pricing-user-anne-TrainFlow-e5faff'
    """
    full = flow if project is None else f"{project}-{branch}-{flow}"
    plain = re.sub("[^A-Za-z0-9_-]", "-", full)
    if plain == full and len(full) <= 80:
        return full
    unique = hash_of(f"{flow} in {scope_of(flow, project, branch)}")[:6]
    return f"{plain[:73]}-{unique}"


def schedule_name(machine: str) -> str:
    """Return the name of a state machine's schedule, which may be shorter than the machine's."""
    return machine if len(machine) <= 64 else f"{machine[:57]}-{hash_of(machine)[:6]}"


def of_deployment(deployment: Deployment, store: str, **others: Any) -> Machine:
    """Return the state machine of a deployment."""
    return Machine(
        flow=deployment.flow,
        scope=deployment.scope,
        version=deployment.version,
        owner=deployment.deployed_by,
        store=store,
        token_sha256=hash_of(deployment.token),
        **others,
    )


# --- Amazon States Language


def of_run(machine: Machine) -> dict[str, Any]:
    """Return a definition in which one state stands for a whole run."""
    states = {"Queued": queued(machine, "Queued", "Run"), "Run": run(machine, "Queued")}
    return {"Comment": comment(machine), "StartAt": "Queued", "States": states}


def queued(machine: Machine, name: str, following: str) -> dict[str, Any]:
    """Return the state that waits for a worker, called `name`."""
    return {
        **asking(machine, template(QUEUED, machine.facts)),
        "Comment": "Waits until a worker accepts, however long that takes.",
        "ResultPath": None,  # its input goes on
        "TimeoutSeconds": _AGAIN_S,
        "Catch": [{"ErrorEquals": ["States.Timeout"], "ResultPath": None, "Next": name}],
        "Next": following,
    }


def run(machine: Machine, again: str) -> dict[str, Any]:
    """Return the state in which a worker runs the flow; where the worker is lost, it leads to the state `again`."""
    lost = ["States.HeartbeatTimeout", "States.Timeout", *Failure.LATER]
    return {
        **asking(machine, template(RUN, machine.facts)),
        "Comment": "A worker runs it. If the worker dies, the next one resumes the run.",
        "HeartbeatSeconds": machine.heartbeat_s,
        "TimeoutSeconds": FOR_EVER_S,
        "Catch": [{"ErrorEquals": lost, "ResultPath": None, "Next": again}],
        "End": True,
    }


def comment(machine: Machine) -> str:
    """Return what a definition says of itself."""
    hashed = "" if machine.token_sha256 is None else f", production token with SHA-256 {machine.token_sha256}"
    return (
        f"flowstore: {machine.flow} version {machine.version}, deployed by {machine.owner} from store {machine.store}"
        f"{hashed}"
    )


def asking(machine: Machine, body: dict[str, Any]) -> dict[str, Any]:
    """Return a state that sends a message and waits for the answer; `Next` or `End` is to be added."""
    return {
        "Type": "Task",
        "Resource": f"arn:{machine.partition}:states:::{_SEND}",
        "Parameters": {"QueueUrl": machine.queue_url, "MessageBody": body},
        "Retry": [{"ErrorEquals": _SENDING, "IntervalSeconds": 2, "MaxAttempts": 8, "BackoffRate": 2.0}],  # 8 minutes
    }


def fit_for_a_tag(text: str) -> str:
    """Return a text with the characters that values of tags in AWS may have, at most 256 of them."""
    return re.sub(r"[^\w\s.:/=+@-]", "_", text, flags=re.ASCII)[:256]
