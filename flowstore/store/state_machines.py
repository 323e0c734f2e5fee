"""Rows of state machines in AWS Step Functions, and the runs that their executions started.

A row is written before anything is made in AWS, and removed after everything was removed there: so whatever is
interrupted, what is there can be found. A run says in a system tag which execution it belongs to. The tag is written
in the transaction that creates the run, which checks that the execution has no other run that goes on.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime

import attrs

from flowstore.errors import FlowstoreError
from flowstore.sqlite.database import Database, Row
from flowstore.sqlite.liveness import is_dead
from flowstore.store import schema
from flowstore.store.records import now_ms

TAG = "sfn:"


@attrs.frozen
class StateMachine:
    """A flow of this store in AWS.

    Attributes:
        flow: the flow's name.
        scope: that of its deployment.
        arn: the state machine's.
        created_by: the user who deployed it there last.
    """

    flow: str
    scope: str
    arn: str
    created_by: str


def find(store: Database, flow: str, scope: str) -> StateMachine | None:
    """Return the state machine of a flow in a scope."""
    return next((one for one in all_of(store) if (one.flow, one.scope) == (flow, scope)), None)


def all_of(store: Database) -> list[StateMachine]:
    """Return all state machines of the store, by flow and scope."""
    if not store.value("select 1 from sqlite_master where type = 'table' and name = 'state_machines'"):
        return []
    rows = store.rows("select * from state_machines order by flow, scope")
    return [StateMachine(row["flow"], row["scope"], row["arn"], row["created_by"]) for row in rows]


def put(db: sqlite3.Connection, machine: StateMachine) -> None:
    """Insert a state machine, or replace that of its flow and scope."""
    schema.complete(db)
    db.execute(
        "insert or replace into state_machines (flow, scope, arn, created_at, created_by) values (?, ?, ?, ?, ?)",
        (machine.flow, machine.scope, machine.arn, now_ms(), machine.created_by),
    )


def remove(db: sqlite3.Connection, machine: StateMachine) -> None:
    """Remove the row of a state machine; with the last one, tokens that no worker will look at any more."""
    db.execute("delete from state_machines where flow = ? and scope = ?", (machine.flow, machine.scope))
    db.execute("delete from step_tokens where not exists (select 1 from state_machines)")


# --- runs of executions


def execution_tag(arn: str, started_at: datetime) -> str:
    """Return the tag of an execution's runs: readable, and with a hash, since names of executions are used again.

    AWS allows that after 90 days, or once the state machine was deleted; another region may have the same names, too.

    Example:
        >>> at = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
        >>> execution_tag("arn:aws:states:eu-central-1:123456789012:execution:HelloFlow:4fe1", at)
        'sfn:HelloFlow/4fe1/80d5333a'
    """
    unique = hashlib.sha256(f"{arn} {started_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}".encode()).hexdigest()[:8]
    return TAG + "/".join([*arn.split(":")[-2:], unique])


def names_of(tag: str) -> tuple[str, str]:
    """Return the names of the state machine and of the execution in a tag, empty where it has none."""
    machine, name, *_ = [*tag.removeprefix(TAG).split("/"), "", ""]
    return machine, name


@attrs.frozen
class ExecutionRun:
    """A run of an execution.

    Attributes:
        id: its row.
        flow: the flow's name.
        status: as it was recorded, but `dead` where its process is gone.
        error: its first failure, in one line.
    """

    id: int
    flow: str
    status: str
    error: str | None

    @property
    def pathspec(self) -> str:
        """Its address."""
        return f"{self.flow}/{self.id}"


_RUNS = """select r.id, r.status, r.host, r.boot, r.pid, r.pid_started, r.last_seen_at, f.name as flow
  from tags t join run_tags rt on rt.tag_id = t.id join runs r on r.id = rt.run_id join flows f on f.id = r.flow_id
  where t.tag = ? and rt.system = 1 order by r.id desc"""


def newest_run(store: Database, tag: str) -> ExecutionRun | None:
    """Return the newest run of an execution."""
    row = store.row(f"{_RUNS} limit 1", (tag,))
    if row is None:
        return None
    error = None
    if row["status"] == "failed":
        error = store.value("select error from run_summary where run_id = ?", (row["id"],))
    return ExecutionRun(row["id"], row["flow"], _status(row), error)


def execution_of(store: Database, run_id: int) -> str | None:
    """Return the tag that says which execution a run belongs to."""
    tag = store.value(
        """select t.tag from run_tags rt join tags t on t.id = rt.tag_id
           where rt.run_id = ? and rt.system = 1 and t.tag like 'sfn:%'""",
        (run_id,),
    )
    return None if tag is None else str(tag)


def runs_without_progress(store: Database, tag: str) -> int:
    """Return how many of an execution's newest runs ended without a task of their own that succeeded."""
    rows = store.rows(
        """select exists (select 1 from tasks k where k.run_id = rt.run_id and k.status = 'successful'
             and k.origin_pathspec is null) as successful
           from tags t join run_tags rt on rt.tag_id = t.id
           where t.tag = ? and rt.system = 1 order by rt.run_id desc limit 100""",
        (tag,),
    )
    return next((number for number, row in enumerate(rows) if row["successful"]), len(rows))


def check_only(db: sqlite3.Connection, tags: Sequence[str], origin_run_id: str | None) -> None:
    """Raise where another run of the same execution goes on, or has ended and is not the one to resume.

    Args:
        db: a transaction, in which the new run is then created.
        tags: the new run's.
        origin_run_id: the run that it resumes.

    Raises:
        FlowstoreError: names that run.
    """
    tag = next((tag for tag in tags if tag.startswith(TAG)), None)
    row = None if tag is None else db.execute(f"{_RUNS} limit 1", (tag,)).fetchone()
    if row is not None and (str(row["id"]) != origin_run_id or _status(row) in {"running", "successful"}):
        raise FlowstoreError(f"The execution {tag} has the run {row['flow']}/{row['id']}, which is {_status(row)}.")


def _status(row: Row) -> str:
    return "dead" if row["status"] == "running" and is_dead(row) else str(row["status"])


# --- tokens of tasks, where each step is a state of its own


@attrs.frozen
class StepToken:
    """A token by which AWS admits a task, or the members of a gang.

    Attributes:
        id: its row.
        step, path: the step, and the index in each enclosing foreach.
        members: how many tasks it admits, the members of a gang; 0 for a task outside of gangs.
        token: what an answer has to show.
    """

    id: int
    step: str
    path: str
    members: int
    token: str


@attrs.frozen
class FinishedStep:
    """A token whose tasks have finished, and what the last of them asked for: JSON."""

    token: StepToken
    transition: str


def add_token(store: Database, execution: str, step: str, path: str, members: int, token: str) -> None:
    """Keep a token; one that is there already is the same message again."""
    with store.write() as db:
        schema.complete(db)
        db.execute(
            "insert or ignore into step_tokens (execution, step, path, members, token) values (?, ?, ?, ?, ?)",
            (execution, step, path, members, token),
        )


def tokens_by_step(store: Database, execution: str) -> dict[tuple[str, str], int]:
    """Return how many tokens have come for each step and path."""
    rows = store.rows(
        "select step, path, count(*) as n from step_tokens where execution = ? group by step, path", (execution,)
    )
    return {(str(row["step"]), row["path"]): row["n"] for row in rows}


def finished_steps(store: Database, execution: str, run_id: int) -> list[FinishedStep]:
    """Return the tokens that are to be answered, since their tasks have finished in a run."""
    tokens = store.rows("select * from step_tokens where execution = ? order by id", (execution,))
    if all(row["answered"] for row in tokens):
        return []
    transitions = _transitions(store, run_id)
    finished: list[FinishedStep] = []
    earlier: dict[tuple[str, str], int] = {}
    for row in tokens:
        key = str(row["step"]), row["path"]
        last = earlier[key] = earlier.get(key, 0) + max(row["members"], 1)
        done = transitions.get((*key, row["members"] > 0), [])
        if not row["answered"] and len(done) >= last:
            token = StepToken(row["id"], key[0], row["path"], row["members"], row["token"])
            finished.append(FinishedStep(token, done[last - 1]))
    return finished


def _transitions(store: Database, run_id: int) -> dict[tuple[str, str, bool], list[str]]:
    """Return what the finished tasks of a run asked for, by step, path, and whether its last index is left out."""
    transitions: dict[tuple[str, str, bool], list[str]] = {}
    for row in store.rows(
        """select s.name as step, t.foreach_path, t.transition from tasks t join steps s on s.id = t.step_id
           where t.run_id = ? and t.status = 'successful' order by t.id""",
        (run_id,),
    ):
        path = row["foreach_path"] or ""
        for key in ((str(row["step"]), path, False), (str(row["step"]), path.rpartition("/")[0], True)):
            transitions.setdefault(key, []).append(row["transition"] or "{}")
    return transitions


def note_answered(store: Database, tokens: Sequence[StepToken]) -> None:
    """Record that AWS knows of the tasks of some tokens."""
    with store.write() as db:
        db.executemany("update step_tokens set answered = 1 where id = ?", [(token.id,) for token in tokens])


def count_tokens(store: Database, execution: str) -> int:
    """Return how many tokens of an execution have come."""
    return int(store.value("select count(*) from step_tokens where execution = ?", (execution,)))


def executions_with_tokens(store: Database) -> list[str]:
    """Return the tags of executions that have tokens."""
    return [row["execution"] for row in store.rows("select distinct execution from step_tokens")]


def forget_tokens(store: Database, execution: str) -> None:
    """Remove the tokens of an execution, which is over."""
    if store.value("select 1 from step_tokens where execution = ? limit 1", (execution,)):
        with store.write() as db:
            db.execute("delete from step_tokens where execution = ?", (execution,))
