"""The owner of a run: a user, or a deployment.

That decides the tag that says which namespace it is in, the project's branch, and what the Client sees inside.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowstore import context, later
from flowstore.errors import FlowstoreError, TokenError, UntrustedArtifact
from flowstore.flow import decorators
from flowstore.flow.spec import FlowSpec
from flowstore.run.local.worker import die_with_parent
from flowstore.sqlite.database import Database
from flowstore.store.tags import MAX_LENGTH

if TYPE_CHECKING:
    from flowstore.store.deployments import Deployment
    from flowstore.store.events import Claim


@later.frozen
class Identity:
    """The owner of a run.

    Attributes:
        user: the user's name; for a deployment's run, the name of the user who deployed it.
        tag: `user:NAME` or `production:TOKEN`.
        project: what `current` says of the project.
        deployment: of a production run.
        execution: the tag of the execution in AWS that a production run belongs to.
        claim: the events that start a production run.
    """

    user: str
    tag: str
    project: Mapping[str, Any]
    deployment: Deployment | None = None
    execution: str | None = None
    claim: Claim | None = None

    @property
    def system_tags(self) -> list[str]:
        """The tags that name the owner, and what the run belongs to."""
        own = [self.tag] if self.execution is None else [self.tag, self.execution]
        if self.project.get("project_name") is None:
            return own
        branch = self.project["branch_name"]
        return [*own, f"project:{self.project['project_name']}", f"project_branch:{branch}"]

    def sees(self, namespace: str | context.Unset | None) -> str | None:
        """Return the namespace inside the run's tasks: the given one, else the deployment's, else its own."""
        if isinstance(namespace, context.Unset) and self.deployment is not None:
            namespace = self.deployment.namespace
        return self.tag if isinstance(namespace, context.Unset) else namespace


def own(flow: type[FlowSpec], branch: str | None, *, production: bool) -> Identity:
    """Return this user as the owner of a run."""
    user = context.username()
    identity = Identity(user, f"user:{user}", project_of(flow, branch, production=production))
    longest = max(identity.system_tags, key=len)
    if len(longest) > MAX_LENGTH:
        fits = len(user) - (len(longest) - MAX_LENGTH)
        name = (
            f"A user name has at most {fits}: set $FLOWSTORE_USER."
            if user in longest
            else "Shorten the project's name."
        )
        raise FlowstoreError(f"The tag {longest[:40]!r}… of the run has more than {MAX_LENGTH} characters. {name}")
    return identity


class _NewTokenError(TokenError):
    transient = True


class _ChangedError(UntrustedArtifact):
    transient = True  # whoever tries again checks it again


def deployed(store: Database, assigned: Assigned) -> Identity:
    """Return the deployment that this process is to run.

    Raises:
        NotFound, TokenError, UntrustedArtifact: there is none, or it was given another token or changed while this
            process started.
    """
    from flowstore.store import deployments

    deployment = deployments.get(store, assigned.deployment_id)
    if assigned.token != deployment.token:
        raise _NewTokenError(
            f"{deployment.flow} was given a new production token while it was being started. Trigger it again."
        )
    if assigned.digest != deployments.digest(store, deployment).hex():
        raise _ChangedError(f"The deployment of {deployment.flow} was changed while it was being started.")
    project = {
        **(_project(deployment.flow, deployment.project, deployment.branch or "") if deployment.project else {}),
        "is_production": deployment.branch is None or is_production(deployment.branch),
    }
    return Identity(
        deployment.deployed_by,
        deployment.production_namespace,
        project,
        deployment,
        assigned.execution,
        assigned.claim(),
    )


def project_of(flow: type[FlowSpec], branch: str | None, *, production: bool) -> dict[str, Any]:
    """Return what `current` says of the flow's project; empty without one."""
    projects = [item for item in flow._flow_decorators if isinstance(item, decorators.project)]
    if not projects:
        if branch or production:
            raise FlowstoreError("--branch and --production need a flow with @project(name=…).")
        return {}
    if branch and not re.fullmatch(r"[a-z0-9_]{1,128}", branch):  # as Metaflow's; it is part of a tag, and of a name
        raise FlowstoreError(
            f"--branch {branch!r}: a branch has at most 128 lower-case letters, digits and underscores."
        )
    if production:
        name = f"prod.{branch}" if branch else "prod"
    else:
        name = f"test.{branch}" if branch else f"user.{context.username()}"
    return _project(flow.__name__, projects[0].project_name, name)


def is_production(branch: str) -> bool:
    """Return whether a branch was made with `--production`."""
    return branch == "prod" or branch.startswith("prod.")


def _project(flow: str, project: str, branch: str) -> dict[str, Any]:
    return {
        "project_name": project,
        "branch_name": branch,
        "project_flow_name": f"{project}.{branch}.{flow}",
        "is_production": is_production(branch),
        "is_user_branch": branch.startswith("user."),
    }


VARIABLE = "FLOWSTORE_DEPLOYMENT"  # holds the JSON of an `Assigned`
TRANSIENT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the disk is full, say, and the same may succeed later


@later.frozen
class Assigned:
    """A deployment that a process was started to run.

    Attributes:
        deployment_id: its row.
        parent: the process that started this one, which ends with it.
        digest: of the deployment, as it was checked.
        token: its token at that time.
        execution: the tag of the execution in AWS that asked for the run.
        steps: whether AWS admits each of its tasks.
        events: the events that start the run, if some do.
        mark: the last event that the deployment had used up before.
    """

    deployment_id: int
    parent: int
    digest: str
    token: str
    execution: str | None = None
    steps: bool = False
    events: Sequence[int] = ()
    mark: int = 0

    @property
    def is_asked_for(self) -> bool:
        """Whether an event or an execution in AWS asks for the run, and so again after a transient error."""
        return self.execution is not None or bool(self.events)

    def claim(self) -> Claim | None:
        """Return the events that start the run."""
        if not self.events:
            return None
        from flowstore.store.events import Claim

        return Claim(self.deployment_id, self.mark, self.events)

    def text(self) -> str:
        """Return it as the environment carries it."""
        return json.dumps(later.as_dict(self))


def assigned_deployment() -> Assigned | None:
    """Return the deployment assigned through the environment, if any, and remove it there.

    This process then ends with the process that assigned it.
    """
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        assigned = Assigned(**json.loads(text))
        die_with_parent(int(assigned.parent))
        if assigned.is_asked_for:
            context.state.transient_code = TRANSIENT_CODE
    except (ValueError, TypeError):
        raise FlowstoreError(f"${VARIABLE} is set by deploy trigger, and by nobody else. Unset it.") from None
    return assigned
