"""Putting a version of a flow into production, and taking it out again: `create` and `delete`.

What authorizes is the token of the flow, or of its project's branch: whoever made it holds it, and gives it to
others. All that one `create` changes, it changes in one transaction, in which the user's own tokens file is
written last. Running what is deployed is `trigger`'s.
"""

from __future__ import annotations

import hmac
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowstore import context
from flowstore.errors import FlowstoreError, NotFound, ParameterError, TokenError
from flowstore.flow import decorators
from flowstore.flow.expressions import Expression
from flowstore.flow.parameters import parameters_of
from flowstore.flow.spec import FlowSpec
from flowstore.flow.triggers import triggers_of
from flowstore.production import events, tokens
from flowstore.production.trigger import check_names, check_trusted, trigger
from flowstore.run import snapshot
from flowstore.run.checks import check_decorators
from flowstore.run.executor import choose
from flowstore.run.ownership import project_of
from flowstore.run.snapshot import Sources
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import blobs, records, snapshots, tags, trust
from flowstore.store import deployments as rows
from flowstore.store import events as event_rows
from flowstore.store.codecs import Encoded, encode
from flowstore.store.deployments import Deployment, NewDeployment
from flowstore.store.opening import activate, active_store, ensure_active_store, open_store

__all__ = [
    "Created", "Deployment", "Options", "check_names", "check_trusted", "create", "delete", "deployments", "find",
    "trigger",
]  # fmt: skip

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike
_RANDOM_LETTERS = 16  # so that nobody guesses a token from its hash, which others may learn


@attrs.frozen(kw_only=True)
class Options:
    """The options of `deploy create`; each attribute is an option of the command line of that name."""

    store: str | None = None
    branch: str | None = None
    production: bool = False
    authorize: str | None = None
    generate_new_token: bool = False
    tags: Sequence[str] = ()
    with_: Sequence[str] = ()
    namespace: str | context.Unset | None = context.UNSET
    suffixes: Sequence[str] = ()
    executor: str | None = None
    executor_options: Sequence[str] = ()


@attrs.frozen
class Created:
    """The result of `create`.

    Attributes:
        deployment: the version that is now in force.
        new_token: whether its token is new.
        moved: the other deployments that a new token moved with it.
    """

    deployment: Deployment
    new_token: bool
    moved: Sequence[Deployment]


def deployments(store: Database) -> list[Deployment]:
    """Return the deployments in force, by flow, project and branch."""
    return rows.active(store)


def find(store: Database, flow: type[FlowSpec], branch: str | None = None, *, production: bool = False) -> Deployment:
    """Return the deployment in force of a flow, or of a branch of its project.

    Raises:
        NotFound: there is none.
    """
    scope = _scope(flow, project_of(flow, branch, production=production))
    deployment = rows.find(store, flow.__name__, scope)
    if deployment is None:
        where = "" if scope.startswith("flow:") else f" in {scope.removeprefix('project:')}"
        others = [other.branch for other in rows.active(store) if other.flow == flow.__name__ and other.branch]
        hint = f" It is in: {', '.join(others)}; choose with --branch and --production." if others and where else ""
        how = f"Deploy it with: {context.called_as()} deploy create"
        raise NotFound(f"{flow.__name__} is not deployed{where} in {store.path}.{hint} {how}")
    return deployment


# --- create and delete


def scope_of(flow: type[FlowSpec], branch: str | None, *, production: bool) -> str:
    """Return the scope of a flow's deployment: its own, or that of its project's branch."""
    return _scope(flow, project_of(flow, branch, production=production))


def check_authorized(store: Database, flow: str, scope: str, authorize: str | None) -> None:
    """Raise unless the user gives or holds the token of a scope.

    Raises:
        TokenError: says who deployed last.
    """
    _authorize(store, flow, scope, rows.find_token(store, scope), authorize)


def create(flow: type[FlowSpec], options: Options) -> Created:
    """Put this version of a flow into production.

    Raises:
        TokenError: somebody else deployed, and the token that authorizes to do so was not given.
        FlowstoreError: it can't be deployed; nothing was changed.
    """
    user = context.username()
    project = project_of(flow, options.branch, production=options.production)
    user_tags = tags.checked(options.tags)
    tags.check_not_reserved(user_tags)
    check_decorators(flow, options.with_)
    choose(options.executor or "local", options.executor_options)
    schedule = schedule_of(flow)
    triggers = triggers_of(flow, user)
    values = [*_defaults(flow, user, scheduled=schedule is not None), *_configs(flow)]
    for condition in [] if triggers is None else triggers["conditions"]:
        events.check_mapping(condition.get("parameters") or {}, {option for _, option, _, _ in values})
    sources = _sources(flow, options)
    scope = _scope(flow, project)
    trust.user_key()  # fails, as an unreadable tokens file does, before a store is made
    tokens.held("", scope)
    store = _store(options)
    records.record_dead_runs(store)
    with store.write() as db:
        new_token = _ensure_token(db, store, flow.__name__, project.get("project_name"), scope, options)
        program = snapshots.Program(sources.script, sources.module, sources.launcher)
        code_id = snapshots.ensure(db, store, program, sources.files)
        new = NewDeployment(
            flow=flow.__name__,
            project=project.get("project_name"),
            branch=project.get("branch_name"),
            deployed_by=user,
            schedule=schedule,
            code_id=code_id,
            at_least=tokens.least_version(store, flow.__name__, scope),
            parameters=[
                (name, option, is_flag, None if value is None else blobs.put(db, store, value))
                for name, option, is_flag, value in values
            ],
            tags=user_tags,
            namespace=options.namespace,
            with_=options.with_,
            executor=[] if options.executor is None else [options.executor, *options.executor_options],
            triggers=triggers,
        )
        deployment = rows.get(store, rows.insert(db, new))
        if triggers is not None:
            event_rows.begin(db, deployment.id, deployment.flow, scope)
        rows.sign(db, store, deployment)
        moved = [other for other in rows.active(store) if other.scope == scope and other.id != deployment.id]
        tokens.keep(store.uuid, scope, deployment.token)
    tokens.note_version(store, deployment.flow, scope, deployment.version)
    return Created(deployment, new_token, moved if new_token else [])


def delete(store: Database, deployment: Deployment, authorize: str | None = None) -> None:
    """Take a deployment out of force. Its runs stay, and what is deployed again goes on in the same namespace.

    Raises:
        TokenError: somebody else deployed it, and its token was not given; nothing was changed.
    """
    with store.write() as db:
        held = rows.find_token(store, deployment.scope)
        _authorize(store, deployment.flow, deployment.scope, held, authorize)
        rows.delete(db, deployment, context.username())
        tokens.keep(store.uuid, deployment.scope, deployment.token)
    tokens.note_version(store, deployment.flow, deployment.scope, deployment.version + 1)


def _sources(flow: type[FlowSpec], options: Options) -> Sources:
    sources = snapshot.take(flow, options.suffixes, whole=True)
    if not sources.script:
        raise FlowstoreError("Only a flow in a file can be deployed: python flow.py deploy create")
    return sources


def _ensure_token(
    db: sqlite3.Connection, store: Database, flow: str, project: str | None, scope: str, options: Options
) -> bool:
    """Make a token for the scope if it has none, or is to have another; return whether it is new."""
    held = rows.find_token(store, scope)
    if held is not None or options.authorize is not None:
        _authorize(store, flow, scope, held, options.authorize)
    if held is not None and not options.generate_new_token:
        return False
    generation = 1 if held is None else held["generation"] + 1
    rows.put_token(db, scope, _new_token(store, project or flow, generation), context.username())
    return True


def _store(options: Options) -> Database:
    """Open the store to deploy to; whoever shows a token has a store to show it in, so none is made."""
    if options.authorize is None:
        return ensure_active_store(options.store)
    return active_store() if options.store is None else activate(open_store(options.store))


def _scope(flow: type[FlowSpec], project: Mapping[str, Any]) -> str:
    return rows.scope_of(flow.__name__, project.get("project_name"), project.get("branch_name"))


def _authorize(store: Database, flow: str, scope: str, held: Row | None, given: str | None) -> None:
    """Raise unless the user gives or holds the token."""
    what = flow if scope.startswith("flow:") else f"{flow} ({scope.removeprefix('project:')})"
    if held is None:
        raise TokenError(
            f"{what} was never deployed in {store.path}, so there is no token to authorize with. "
            "Check --store, --branch and --production, or deploy it first, without --authorize."
        )
    stored = tokens.held(store.uuid, scope)
    for offered in stored if given is None else [given]:
        if hmac.compare_digest(offered.encode("utf-8", "surrogateescape"), held["token"].encode()):
            return
    last = rows.last_in(store, scope)
    at = time_of(last["deployed_at"])
    who = f"{last['deployed_by']} deployed last, at {at:%Y-%m-%d %H:%M} UTC"
    if given is not None:
        raise TokenError(f"{what}: that is not its production token. {who}; ask there for it. Nothing was changed.")
    reason = "your stored token is no longer valid, since a new one was generated" if stored else "you hold no token"
    raise TokenError(
        f"{what} is in production, and {reason}. {who}. Ask there for the production token, and give it once, "
        "with --authorize TOKEN. Nothing was changed."
    )


def _new_token(store: Database, name: str, generation: int) -> str:
    """Return a new token that a person can read and that no other scope has."""
    while True:
        letters = "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM_LETTERS))
        token = f"{name.lower()[:60]}-{generation}-{letters}"
        if not rows.is_taken(store, token):
            return token


def is_guessable(token: str) -> bool:
    """Return whether a token, which an older flowstore made, could be found by trying all with a given hash.

    Example:
        >>> is_guessable("helloflow-1-yc5a7"), is_guessable("helloflow-1-yc5a7b2hmzk8qw3e")
        (True, False)
    """
    return len(token.rpartition("-")[2]) < _RANDOM_LETTERS


def schedule_of(flow: type[FlowSpec]) -> dict[str, Any] | None:
    """Return `@schedule` as cron and zone."""
    from flowstore.flow import cron

    schedules = [item for item in flow._flow_decorators if isinstance(item, decorators.schedule)]
    if not schedules:
        return None
    return cron.schedule_of(schedules[0])


def _configs(flow: type[FlowSpec]) -> list[tuple[str, str, bool, Encoded | None]]:
    """Return each config in the form in which `_defaults` returns parameters."""
    if not Expression.are_used:
        return []
    from flowstore.flow.configs import configs_of
    from flowstore.run import configs

    names = {attribute: item.name for attribute, item in configs_of(flow).items()}
    return [(name, f"{rows.CONFIG}{names[name]}", False, value) for name, value in configs.encoded(flow).items()]


def _defaults(flow: type[FlowSpec], user: str, *, scheduled: bool) -> list[tuple[str, str, bool, Encoded | None]]:
    """Return each parameter's name, option, whether it is a flag, and the default as it is now."""
    defaults: list[tuple[str, str, bool, Encoded | None]] = []
    for name, parameter in parameters_of(flow).items():
        missing = parameter.required and parameter.default is None
        if missing and scheduled:
            raise ParameterError(
                f"Parameter {name} is required and has no default, so nobody gives it a value when @schedule "
                "starts the flow. Give it a default."
            )
        value = None if missing else encode(parameter.default_value(flow.__name__, user))
        defaults.append((name, parameter.name.replace("_", "-"), parameter.is_flag, value))
    return defaults
