"""Rows of deployments and production tokens: all SQL of them.

A deployment is a version of a flow in a scope; a scope is a flow of its own, or a branch of a project, whose
flows share one token. Which token a deployment has is never copied into its row: a new token of the scope
moves all of its deployments at once.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowstore.context import UNSET, Unset
from flowstore.errors import NotFound, StoreCorrupt
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.typed_rows import json_of, texts_of
from flowstore.store import schema, snapshots, trust
from flowstore.store.blobs import COLUMNS, Blob
from flowstore.store.records import now_ms, shown


@attrs.frozen(kw_only=True)
class Deployment:
    """A version of a flow in production.

    Attributes:
        id: its row.
        flow: the flow's name.
        project, branch: of `@project`, else `None`.
        token: its runs are tagged `production:TOKEN`.
        version: 1, 2, … of this flow and branch.
        deployed_by: the user.
        deployed_at: milliseconds since 1970, UTC.
        schedule: `{"cron": "0 * * * *", "timezone": "Europe/Berlin"}`, the zone possibly `None`; `None` without
            `@schedule`.
        code_id: the snapshot's row.
        script_name: of the flow's file in it.
        module, launcher: how its program runs; see `snapshots.Program`.
        triggers: `conditions`, the events that start it, and `reset_at`; `None` where no event does.
        parameters: the defaults by name, unusual and large ones as their previews.
        tags: of its runs.
        namespace: what the Client sees in its runs: a tag, `None` for everything, `UNSET` for their own.
        with_: the decorators that `--with` adds.
        executor: what `--executor` and each `--executor-option` say; empty where they are not given.
    """

    id: int
    flow: str
    project: str | None
    branch: str | None
    token: str
    version: int
    deployed_by: str
    deployed_at: int
    schedule: dict[str, Any] | None
    code_id: int
    script_name: str
    parameters: dict[str, Any]
    tags: list[str]
    namespace: str | Unset | None = UNSET
    with_: list[str] = attrs.field(factory=list)
    module: str | None = None
    triggers: dict[str, Any] | None = None
    executor: list[str] = attrs.field(factory=list)
    launcher: str | None = None

    @property
    def called_as(self) -> str:
        """How its flow's program is called, as one would type it."""
        return self.program.called_as

    @property
    def program(self) -> snapshots.Program:
        """The program of its snapshot."""
        return snapshots.Program(self.script_name, self.module, self.launcher)

    @property
    def scope(self) -> str:
        """The scope of its token."""
        return scope_of(self.flow, self.project, self.branch)

    @property
    def production_namespace(self) -> str:
        """The tag of its runs."""
        return f"production:{self.token}"


CONFIG = "config "  # begins the option of a config


@attrs.frozen
class DeployedParameter:
    """A parameter as it was deployed; `blob` is its default, `None` where it is required and has none.

    A config is kept as one too, and always has a value. No parameter has an option of two words.
    """

    name: str
    option: str
    is_flag: bool
    blob: Blob | None

    @property
    def is_config(self) -> bool:
        """Whether it is a config, whose option is `config NAME`."""
        return self.option.startswith(CONFIG)


@attrs.frozen(kw_only=True)
class NewDeployment:
    """A version before it is in force; see `Deployment`.

    Attributes:
        parameters: name, option, whether it is a flag, and the blob of the default, of each.
        at_least: its version is this one or a later one.
    """

    flow: str
    project: str | None
    branch: str | None
    deployed_by: str
    schedule: Mapping[str, Any] | None
    code_id: int
    at_least: int
    parameters: Sequence[tuple[str, str, bool, int | None]]
    tags: Sequence[str]
    namespace: str | Unset | None
    with_: Sequence[str]
    triggers: Mapping[str, Any] | None = None
    executor: Sequence[str] = ()


def scope_of(flow: str, project: str | None, branch: str | None) -> str:
    """Return what a token is for: a branch of a project, else the flow itself."""
    return f"flow:{flow}" if project is None else f"project:{project}/{branch}"


# --- tokens


def find_token(store: Database, scope: str) -> Row | None:
    """Return a scope's `token`, `generation`, `created_by`, `created_at`."""
    if not _has_tables(store):
        return None
    return store.row("select * from production_tokens where scope = ?", (scope,))


def is_taken(store: Database, token: str) -> bool:
    """Return whether a token, or a run that an import brought with it, is there already."""
    return bool(
        store.value(
            """select exists (select 1 from production_tokens where token = ?)
                 or exists (select 1 from tags where tag = ?)""",
            (token, f"production:{token}"),
        )
    )


def tokens(store: Database) -> list[str]:
    """Return all production tokens that are valid."""
    if not _has_tables(store):
        return []
    return [str(row["token"]) for row in store.rows("select token from production_tokens")]


def put_token(db: sqlite3.Connection, scope: str, token: str, user: str) -> None:
    """Set the first or next token of a scope."""
    schema.complete(db)
    db.execute(
        """insert into production_tokens (scope, token, generation, created_at, created_by) values (?, ?, 1, ?, ?)
           on conflict (scope) do update set token = excluded.token, generation = generation + 1,
             created_at = excluded.created_at, created_by = excluded.created_by""",
        (scope, token, now_ms(), user),
    )


# --- deployments

_ACTIVE = """d.deleted_at is null and d.version =
  (select max(n.version) from deployments n where n.flow = d.flow and n.scope = d.scope)"""
_DEPLOYMENT = """select d.*, t.token, c.script_name from deployments d
  join production_tokens t on t.scope = d.scope join codes c on c.id = d.code_id"""


def active(store: Database) -> list[Deployment]:
    """Return the deployments in force, by flow, project and branch."""
    if not _has_tables(store):
        return []
    with store.read():
        rows = store.rows(f"{_DEPLOYMENT} where {_ACTIVE} order by d.flow, d.project, d.branch")
        return [_deployment(store, row) for row in rows]


def find(store: Database, flow: str, scope: str) -> Deployment | None:
    """Return the deployment in force of a flow in a scope."""
    return next(
        (deployment for deployment in active(store) if (deployment.flow, deployment.scope) == (flow, scope)), None
    )


def get(store: Database, deployment_id: int) -> Deployment:
    """Return a deployment by its row, in force or not.

    Raises:
        NotFound: there is none.
    """
    row = store.row(f"{_DEPLOYMENT} where d.id = ?", (deployment_id,)) if _has_tables(store) else None
    if row is None:
        raise NotFound(f"There is no deployment {deployment_id} in {store.path}.")
    return _deployment(store, row)


def had_schedule(store: Database, flow: str, scope: str) -> bool:
    """Return whether any version of a flow in a scope has or had a schedule."""
    return _has_tables(store) and bool(
        store.value(
            "select 1 from deployments where flow = ? and scope = ? and schedule is not null limit 1", (flow, scope)
        )
    )


def last_in(store: Database, scope: str) -> Row:
    """Return who deployed last in a scope, and when: `deployed_by`, `deployed_at`."""
    row = store.row(
        """select deployed_by, deployed_at from deployments where scope = :scope
           union all select created_by, created_at from production_tokens where scope = :scope
           order by 2 desc limit 1""",
        {"scope": scope},
    )
    assert row is not None  # only asked for scopes that have a token
    return row


def insert(db: sqlite3.Connection, new: NewDeployment) -> int:
    """Insert the next version of a flow, which `sign` has to follow; return its row."""
    scope = scope_of(new.flow, new.project, new.branch)
    row = db.execute(
        """insert into deployments (flow, scope, project, branch, version, deployed_at, deployed_by, schedule, code_id,
             key_id, mac, tags, with_decorators, namespace, executor, triggers)
           values (:flow, :scope, :project, :branch,
             max(:at_least,
               1 + (select coalesce(max(version), 0) from deployments where flow = :flow and scope = :scope)),
             :now, :deployed_by, :schedule, :code_id, x'', x'', :tags, :with_, :namespace, :executor, :triggers)
           returning id""",
        {
            "flow": new.flow,
            "scope": scope,
            "project": new.project,
            "branch": new.branch,
            "now": now_ms(),
            "deployed_by": new.deployed_by,
            "schedule": None if new.schedule is None else _json(new.schedule),
            "code_id": new.code_id,
            "at_least": new.at_least,
            "tags": _json(list(new.tags)),
            "with_": _json(list(new.with_)),
            "namespace": None if isinstance(new.namespace, Unset) else (new.namespace or ""),
            "executor": _json(list(new.executor)) if new.executor else None,
            "triggers": None if new.triggers is None else _json(new.triggers),
        },
    ).fetchone()
    db.executemany(
        "insert into deployment_parameters (deployment_id, name, option, is_flag, blob_id) values (?, ?, ?, ?, ?)",
        [(row[0], *parameter) for parameter in new.parameters],
    )
    return int(row[0])


def delete(db: sqlite3.Connection, deployment: Deployment, user: str) -> None:
    """Put all versions of a flow in a scope out of force; their rows stay, as history."""
    db.execute(
        "update deployments set deleted_at = ?, deleted_by = ? where flow = ? and scope = ? and deleted_at is null",
        (now_ms(), user, deployment.flow, deployment.scope),
    )


def parameters_of(store: Database, deployment_id: int) -> list[DeployedParameter]:
    """Return a deployment's parameters, by name."""
    return [item for item in _values_of(store, deployment_id) if not item.is_config]


def configs_of(store: Database, deployment_id: int) -> list[DeployedParameter]:
    """Return the values of a deployment's configs, by attribute."""
    return [item for item in _values_of(store, deployment_id) if item.is_config]


def _values_of(store: Database, deployment_id: int) -> list[DeployedParameter]:
    rows = store.rows(
        f"""select p.name, p.option, p.is_flag, {COLUMNS} from deployment_parameters p
            left join blobs b on b.id = p.blob_id where p.deployment_id = ? order by p.name""",
        (deployment_id,),
    )
    return [
        DeployedParameter(
            row["name"], row["option"], bool(row["is_flag"]), None if row["blob_id"] is None else Blob.of(row)
        )
        for row in rows
    ]


def _deployment(store: Database, row: Row) -> Deployment:
    parameters = parameters_of(store, row["id"])
    program = snapshots.program_of(store, row["code_id"])
    names = ("id", "flow", "project", "branch", "token", "version", "deployed_by", "deployed_at", "code_id")
    return Deployment(
        **{name: row[name] for name in names},
        script_name=row["script_name"],
        schedule=None if row["schedule"] is None else json_of(row["schedule"], dict),
        parameters={item.name: shown(item.blob) for item in parameters if item.blob is not None},
        tags=texts_of(row["tags"]),
        namespace=UNSET if row["namespace"] is None else (row["namespace"] or None),
        with_=texts_of(row["with_decorators"]),
        module=program.module,
        launcher=program.launcher,
        triggers=_triggers(row["triggers"]) if "triggers" in row.keys() and row["triggers"] else None,  # noqa: SIM118
        executor=texts_of(row["executor"] or "[]") if "executor" in row.keys() else [],  # noqa: SIM118  # of a row
    )


def _triggers(text: str) -> dict[str, Any]:
    """Return what starts a deployment; raise StoreCorrupt where the column holds anything else."""
    triggers = json_of(text, dict)
    conditions, reset_at = triggers.get("conditions"), triggers.get("reset_at")
    if not isinstance(conditions, list) or not isinstance(reset_at, int | None):
        raise StoreCorrupt.damaged(f"{text[:60]!r} is nothing that starts a deployment")
    for item in conditions:
        parts = item if isinstance(item, dict) else {}
        names, mapping = (
            [parts.get("name"), parts.get("project", ""), parts.get("branch", "")],
            parts.get("parameters", {}),
        )
        texts = [*names, *mapping, *mapping.values()] if isinstance(mapping, dict) else [None]
        if parts.get("kind") not in ("event", "run") or not all(isinstance(one, str) for one in texts):
            raise StoreCorrupt.damaged(f"{text[:60]!r} is nothing that starts a deployment")
    return triggers


# --- the signature


def sign(db: sqlite3.Connection, store: Database, deployment: Deployment) -> None:
    """Sign a deployment, in the caller's transaction, as it is now."""
    signed_by, mac = trust.sign_deployment(store.uuid, digest(store, deployment))
    db.execute("update deployments set key_id = ?, mac = ? where id = ?", (signed_by, mac, deployment.id))


def signature(store: Database, deployment_id: int) -> tuple[bytes, bytes]:
    """Return which key signed a deployment, and the signature."""
    row = store.row("select key_id, mac from deployments where id = ?", (deployment_id,))
    if row is None:
        raise NotFound(f"There is no deployment {deployment_id} in {store.path}.")
    return bytes(row["key_id"]), bytes(row["mac"])


def digest(store: Database, deployment: Deployment) -> bytes:
    """Return a hash of all that decides what a deployment runs and which version it is.

    It is made from what the deployment says and from the rows of its code and defaults as they are now. The token is
    left out: a new one moves the deployments of others too, whose keys nobody else has.
    """
    one = deployment
    seen = "" if isinstance(one.namespace, Unset) else [one.namespace]
    facts = [
        [one.id, one.flow, one.project, one.branch, one.version, one.deployed_by],
        [one.schedule, one.tags, one.with_, seen],
        [
            [item.name, item.option, item.is_flag, item.blob and [_hex(item.blob.sha), item.blob.codec]]
            for item in _values_of(store, one.id)
        ],
        snapshots.facts(store, one.code_id),
        *([one.executor] if one.executor else []),  # so that what had none keeps its hash
        *([one.triggers] if one.triggers else []),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _hex(sha: bytes | None) -> str:
    return (sha or b"").hex()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _has_tables(store: Database) -> bool:
    """Return whether the store has them: not an older one, which is read as it is, nor a small one."""
    return bool(store.value("select 1 from sqlite_master where type = 'table' and name = 'deployments'"))
