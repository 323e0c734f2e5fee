"""What holds between the rows of a store, as queries that find what breaks it, each with what mends it.

A query names what it is about by columns (`run_id`, `task_id`, `attempt_id`, `name`, …): the message and the mending
statements take their values from there. Mending drops what can't be read, or says less than what was wrong did; it
never guesses a value. An artifact that is gone is one that its task deleted, so that no older value of the same name
shows instead. A lost name is replaced, for the sake of the rows below it.
"""

from __future__ import annotations

import attrs

from flowstore.store.pictures import MAX_PICTURE_BYTES

_SANE = "between 0 and 253402300799999"  # until the year 9999, in milliseconds
_STATUSES = "('running', 'successful', 'failed', 'stopped', 'dead')"


@attrs.frozen
class Rule:
    """One thing that holds.

    Attributes:
        kind: the problem's kind.
        table: what to name where there is no pathspec.
        find: a query for what breaks it.
        problem: what is wrong, with the row's columns in braces.
        mend: statements with the row's columns as named parameters.
        repair: what mending does, for people.
    """

    kind: str
    table: str
    find: str
    problem: str
    mend: tuple[str, ...]
    repair: str


# --- references: column -> parent's key; what to do with a row whose parent is gone

DROP_ARTIFACT = "update artifacts set blob_id = null where attempt_id = :attempt_id and name = :name"
DROP_TASK = (
    "delete from artifacts where attempt_id in (select id from attempts where task_id = :task_id)",
    "delete from attempts where task_id = :task_id",
    "delete from task_parents where task_id = :task_id or parent_id = :task_id",
    "delete from node_tags where task_id = :task_id",
    "delete from tasks where id = :task_id",
)


def _lost(table: str, keys: str, column: str, parent: str, mend: tuple[str, ...], done: str) -> Rule:
    """Rows that refer to a row that isn't there; `keys` are the columns that name them."""
    return Rule(
        "reference",
        table,
        f"""select {keys}, x.{column} as missing from {table} x where x.{column} is not null
            and not exists (select 1 from {parent} p where p.{_key(parent)} = x.{column})""",
        f"its row in {table} refers to a row of {parent} that is not there ({{missing}})",
        mend,
        done,
    )


def _key(parent: str) -> str:
    return "scope" if parent == "production_tokens" else "id"


def _drop(table: str, *keys: str) -> tuple[str]:
    return (f"delete from {table} where {' and '.join(f'{key} = :{key}' for key in keys)}",)


REFERENCES = (
    _lost("runs", "x.id as run_id", "flow_id", "flows",
          ("insert or ignore into flows (id, name) values (:missing, 'lost_flow_' || :missing)",),
          "names the flow lost_flow_N"),
    _lost("runs", "x.id as run_id", "code_id", "codes", ("update runs set code_id = null where id = :run_id",),
          "leaves the run without code"),
    _lost("steps", "x.id as step_id", "run_id", "runs", ("delete from steps where id = :step_id",), "drops the step"),
    _lost("tasks", "x.id as task_id", "run_id", "runs", DROP_TASK, "drops the task"),
    _lost("tasks", "x.id as task_id, x.run_id, x.started_at", "step_id", "steps",
          ("""insert or ignore into steps (id, run_id, name, created_at)
              values (:missing, :run_id, 'lost_step_' || :missing, :started_at)""",),
          "names the step lost_step_N"),
    _lost("tasks", "x.id as task_id", "base_id", "tasks", ("update tasks set base_id = null where id = :task_id",),
          "leaves the task without what it inherits"),
    _lost("task_parents", "x.task_id, x.parent_id", "task_id", "tasks",
          _drop("task_parents", "task_id", "parent_id"), "drops the link"),
    _lost("task_parents", "x.task_id, x.parent_id", "parent_id", "tasks",
          _drop("task_parents", "task_id", "parent_id"), "drops the link"),
    _lost("attempts", "x.id as attempt_id", "task_id", "tasks",
          ("delete from artifacts where attempt_id = :attempt_id", "delete from attempts where id = :attempt_id"),
          "drops the attempt"),
    _lost("artifacts", "x.attempt_id, x.name", "attempt_id", "attempts", _drop("artifacts", "attempt_id", "name"),
          "drops the artifact"),
    _lost("artifacts", "x.attempt_id, x.name", "blob_id", "blobs", (DROP_ARTIFACT,), "drops the artifact"),
    _lost("run_artifacts", "x.run_id, x.name", "run_id", "runs", _drop("run_artifacts", "run_id", "name"),
          "drops the parameter"),
    _lost("run_artifacts", "x.run_id, x.name", "blob_id", "blobs", _drop("run_artifacts", "run_id", "name"),
          "drops the parameter"),
    _lost("code_files", "x.code_id, x.path", "code_id", "codes", _drop("code_files", "code_id", "path"),
          "drops the file"),
    _lost("code_files", "x.code_id, x.path", "blob_id", "blobs", _drop("code_files", "code_id", "path"),
          "drops the file"),
    _lost("chunks", "x.blob_id, x.n", "blob_id", "blobs", _drop("chunks", "blob_id", "n"), "drops the piece"),
    _lost("signatures", "x.blob_id, x.key_id", "blob_id", "blobs", _drop("signatures", "blob_id", "key_id"),
          "drops the signature"),
    _lost("run_tags", "x.run_id, x.tag_id", "run_id", "runs",
          ("delete from run_tags where run_id = :run_id and tag_id = :tag_id",), "drops the tag"),
    _lost("run_tags", "x.run_id, x.tag_id", "tag_id", "tags",
          ("delete from run_tags where run_id = :run_id and tag_id = :tag_id",), "drops the tag"),
    *(_lost("node_tags", "x.run_id, x.step_id, x.task_id, x.artifact, x.tag_id", column, parent,
            _drop("node_tags", "run_id", "step_id", "task_id", "artifact", "tag_id"), "drops the tag")
      for column, parent in (("run_id", "runs"), ("step_id", "steps"), ("tag_id", "tags"))),
    _lost("deployments", "x.id as deployment_id", "scope", "production_tokens",
          ("delete from deployment_parameters where deployment_id = :deployment_id",
           "delete from deployments where id = :deployment_id"), "drops the deployment"),
    _lost("deployments", "x.id as deployment_id", "code_id", "codes",
          ("delete from deployment_parameters where deployment_id = :deployment_id",
           "delete from deployments where id = :deployment_id"), "drops the deployment"),
    _lost("deployment_parameters", "x.deployment_id, x.name as parameter", "deployment_id", "deployments",
          ("delete from deployment_parameters where deployment_id = :deployment_id and name = :parameter",),
          "drops the parameter"),
    _lost("deployment_parameters", "x.deployment_id, x.name as parameter", "blob_id", "blobs",
          ("""update deployment_parameters set blob_id = null
              where deployment_id = :deployment_id and name = :parameter""",),
          "leaves the parameter without a default"),
    _lost("due_marks", "x.deployment_id", "deployment_id", "deployments", _drop("due_marks", "deployment_id"),
          "drops the mark"),
    _lost("origins", "x.run_id", "run_id", "runs", _drop("origins", "run_id"), "drops the note"),
    _lost("unverified", "x.run_id, x.blob_id", "run_id", "runs", _drop("unverified", "run_id", "blob_id"),
          "drops the note"),
    _lost("unverified", "x.run_id, x.blob_id", "blob_id", "blobs", _drop("unverified", "run_id", "blob_id"),
          "drops the note"),
    _lost("leases", "x.blob_id", "blob_id", "blobs", _drop("leases", "blob_id"), "drops the lease"),
    _lost("blob_values", "x.blob_id", "blob_id", "blobs", _drop("blob_values", "blob_id"), "drops the value"),
    _lost("pictures", "x.blob_id", "blob_id", "blobs", _drop("pictures", "blob_id"), "drops the picture"),
    _lost("numbers", "x.id as number_id, x.name", "run_id", "runs", ("delete from numbers where id = :number_id",),
          "drops the metric"),
    _lost("numbers", "x.id as number_id, x.name", "task_id", "tasks", ("delete from numbers where id = :number_id",),
          "drops the metric"),
    _lost("blobs", "x.id as blob_id", "staged_by", "runs",
          ("update blobs set staged_by = null where id = :blob_id",), "forgets who wrote it"),
)  # fmt: skip


# --- what the rows say


def _status(table: str, key: str, instead: str) -> Rule:
    return Rule(
        "status", table,
        f"select id as {key}, status from {table} where status not in {_STATUSES}",
        "its status is {status!r}, which is none",
        (f"update {table} set status = {instead} where id = :{key}",),
        "records it as dead",
    )  # fmt: skip


def _times(table: str, key: str, begin: str) -> Rule:
    return Rule(
        "time", table,
        f"""select id as {key}, {begin} as began, finished_at from {table}
            where not {begin} {_SANE} or not finished_at {_SANE} or finished_at < {begin}""",
        "its times can't be: from {began} to {finished_at}",
        (
            f"update {table} set {begin} = 0 where id = :{key} and not {begin} {_SANE}",
            f"""update {table} set finished_at = {begin}
                where id = :{key} and (not finished_at {_SANE} or finished_at < {begin})""",
        ),
        "sets them to what is possible",
    )  # fmt: skip


def _object(table: str, key: str, column: str, kind: str, instead: str) -> Rule:
    return Rule(
        "json", table,
        f"""select id as {key} from {table} where {column} is not null
            and case when json_valid({column}) then json_type({column}) <> '{kind}' else 1 end""",
        f"its {column} are no JSON {kind}",
        (f"update {table} set {column} = {instead} where id = :{key}",),
        f"empties its {column}",
    )  # fmt: skip


def _length(table: str, keys: tuple[str, ...], columns: dict[str, int], mend: tuple[str, ...], done: str) -> Rule:
    wrong = " or ".join(f"length({column}) <> {size}" for column, size in columns.items())
    return Rule(
        "signature", table, f"select {', '.join(keys)} from {table} where {wrong}",
        f"its row in {table} is malformed: {' and '.join(columns)} have another length", mend, done,
    )  # fmt: skip


ROWS = (
    _status("runs", "run_id", "'dead'"),
    _status("tasks", "task_id", "'dead'"),
    _status("attempts", "attempt_id", "'dead'"),
    Rule(
        "status", "log_chunks",
        """select id as log_chunk, stream, (select min(a.id) from attempts a where a.log_id = c.log_id) as attempt_id
           from log_chunks c where stream not in ('stdout', 'stderr')""",
        "a line of its log is of the stream {stream!r}, which is none",
        ("update log_chunks set stream = 'stdout' where id = :log_chunk",), "shows it as stdout",
    ),
    Rule(
        "status", "run_artifacts",
        "select run_id, name, kind from run_artifacts where kind not in ('parameter', 'constant')",
        "it is a {kind!r}, which is none",
        ("update run_artifacts set kind = 'constant' where run_id = :run_id and name = :name",), "makes it a constant",
    ),
    Rule("status", "store", "select id from store where id <> 1", "its number is not 1",
         ("update or ignore store set id = 1", "delete from store where id <> 1"), "numbers it 1"),
    Rule("status", "scheduler", "select id from scheduler where id <> 1", "its number is not 1",
         ("delete from scheduler",), "forgets the scheduler"),
    _times("runs", "run_id", "created_at"),
    _times("tasks", "task_id", "started_at"),
    _times("attempts", "attempt_id", "started_at"),
    Rule(
        "time", "runs",
        f"select id as run_id, last_seen_at from runs where not last_seen_at {_SANE}",
        "it was last seen at {last_seen_at}, which can't be",
        ("update runs set last_seen_at = max(created_at, 0) where id = :run_id",),
        "sets it to when the run was created",
    ),
    Rule(
        "time", "runs",
        "select id as run_id, status from runs where (status = 'running') <> (finished_at is null)",
        "it is {status}, but whether it has an end says otherwise",
        ("""update runs set finished_at = case when status = 'running' then null
              else max(created_at, last_seen_at) end where id = :run_id""",),
        "goes by the status",
    ),
    Rule(
        "time", "steps",
        f"select id as step_id, created_at from steps where not created_at {_SANE}",
        "it was created at {created_at}, which can't be",
        ("""update steps set created_at = coalesce((select min(started_at) from tasks where step_id = :step_id), 0)
            where id = :step_id""",),
        "sets it to when its first task started",
    ),
    Rule(
        "time", "log_chunks",
        f"""select id as log_chunk, (select min(a.id) from attempts a where a.log_id = c.log_id) as attempt_id
            from log_chunks c where not written_at {_SANE}""",
        "a line of its log was written at a time that can't be",
        ("update log_chunks set written_at = 0 where id = :log_chunk",),
        "sets it to 1970",
    ),
    _object("runs", "run_id", "parameters", "object", "'{}'"),
    _object("tasks", "task_id", "transition", "object", "null"),
    _object("attempts", "attempt_id", "metadata", "object", "null"),
    _object("deployments", "deployment_id", "schedule", "object", "null"),
    _object("deployments", "deployment_id", "tags", "array", "'[]'"),
    _object("deployments", "deployment_id", "with_decorators", "array", "'[]'"),
    Rule(
        "json", "tags",
        """select id as tag_id, tag from tags
           where case when json_valid(json) then json_extract(json, '$') is not tag else 1 end""",
        "the JSON text of the tag {tag!r} is not the tag",
        ("update tags set json = json_quote(tag) where id = :tag_id",), "writes it anew",
    ),
    Rule(
        "attempt", "tasks",
        "select t.id as task_id from tasks t where not exists (select 1 from attempts a where a.task_id = t.id)",
        "none of its attempts is there",
        (
            """insert into attempts (task_id, number, status, started_at, finished_at, log_id)
               select id, 0, status, started_at, finished_at, 0 from tasks where id = :task_id""",
            "update attempts set log_id = id where task_id = :task_id",
        ),
        "records one of which the task says all that is known",
    ),
    Rule(
        "attempt", "tasks",
        """select t.id as task_id, t.attempts as told, max(a.number) + 1 as attempts
           from tasks t join attempts a on a.task_id = t.id group by t.id having max(a.number) + 1 <> t.attempts""",
        "its count of attempts is {told}, and it has had {attempts}",
        ("update tasks set attempts = :attempts where id = :task_id",), "counts them anew",
    ),
    Rule(
        "attempt", "tasks",
        """select t.id as task_id, t.attempt_id as other from tasks t
           where t.attempt_id is not (select a.id from attempts a where a.task_id = t.id
                                      order by a.number desc limit 1)""",
        "its last attempt is not the one that it names ({other})",
        ("""update tasks set attempt_id = (select a.id from attempts a where a.task_id = :task_id
                                           order by a.number desc limit 1) where id = :task_id""",),
        "names the last one that is there",
    ),
    Rule(
        "lineage", "tasks",
        """select t.id as task_id from tasks t join steps s on s.id = t.step_id where s.run_id <> t.run_id""",
        "it is in another run than its step",
        ("update tasks set run_id = (select s.run_id from steps s where s.id = tasks.step_id) where id = :task_id",),
        "puts it into the run of its step",
    ),
    Rule(
        "lineage", "tasks",
        """select t.id as task_id from tasks t join tasks b on b.id = t.base_id where b.run_id <> t.run_id""",
        "it inherits from a task of another run",
        ("update tasks set base_id = null where id = :task_id",), "leaves it without what it inherits",
    ),
    Rule(
        "lineage", "tasks",  # a circle has a task whose base is not older
        """select t.id as task_id from tasks t where t.base_id >= t.id and t.id in (
             with recursive above (id) as (
               select t.base_id union select b.base_id from above a join tasks b on b.id = a.id
               where b.base_id is not null)
             select id from above)""",
        "it inherits from itself",
        ("update tasks set base_id = null where id = :task_id",), "leaves it without what it inherits",
    ),
    Rule(
        "lineage", "task_parents",
        """select p.task_id, p.parent_id from task_parents p join tasks t on t.id = p.task_id
           join tasks o on o.id = p.parent_id where o.run_id <> t.run_id""",
        "a task of another run ({parent_id}) is said to be before it",
        _drop("task_parents", "task_id", "parent_id"), "drops the link",
    ),
    Rule(
        "tag", "run_tags",
        """select r.id as run_id, x.tag_id, x.flow_id as old_flow, x.created_at as old_at, r.flow_id, r.created_at,
             x.system, r.status = 'successful' as successful
           from run_tags x join runs r on r.id = x.run_id
           where x.created_at <> r.created_at or x.flow_id <> r.flow_id
             or x.successful <> (r.status = 'successful') or x.system not in (0, 1)""",
        "the row of one of its tags says another flow, time or end than the run's own",
        (
            """delete from run_tags where tag_id = :tag_id and flow_id = :old_flow and created_at = :old_at
               and run_id = :run_id""",
            """insert or replace into run_tags (tag_id, flow_id, created_at, run_id, system, successful)
               values (:tag_id, :flow_id, :created_at, :run_id, :system <> 0, :successful)""",
        ),
        "goes by the run",
    ),
    Rule(
        "tag", "node_tags",
        """select n.run_id, n.step_id, n.task_id, n.artifact, n.tag_id from node_tags n
           join steps s on s.id = n.step_id left join tasks t on t.id = n.task_id
           where s.run_id <> n.run_id or (n.task_id <> 0 and (t.id is null or t.step_id <> n.step_id))""",
        "a tag is set on a task or step that is not where the tag says",
        _drop("node_tags", "run_id", "step_id", "task_id", "artifact", "tag_id"), "drops the tag",
    ),
    Rule(
        "value", "numbers",
        """select id as number_id, task_id, artifact as name, final from numbers where final not in (0, 1)""",
        "whether one of its metrics is final is {final!r}, not 0 or 1",
        ("update numbers set final = 0 where id = :number_id",), "says that it is not",
    ),
    Rule(
        "value", "numbers",
        """select id as number_id, task_id, artifact as name from numbers
           where length(name) > length(artifact) + 1001 or substr(name, 1, length(artifact)) <> artifact""",
        "the name of one of its metrics is malformed",
        ("delete from numbers where id = :number_id",), "drops the metric",
    ),
    Rule(
        "lineage", "numbers",
        """select n.id as number_id, n.task_id, n.artifact as name from numbers n join tasks t on t.id = n.task_id
           where t.run_id <> n.run_id""",
        "one of its metrics is in another run",
        ("update numbers set run_id = (select t.run_id from tasks t where t.id = :task_id) where id = :number_id",),
        "puts it into the run of its task",
    ),
    Rule(
        "json", "blob_values",
        """select blob_id from blob_values where value is not null
           and (length(cast(value as blob)) > 65536 or not json_valid(value))""",
        "its value as plain JSON is no JSON of at most 64 KiB",
        ("update blob_values set value = null, exact = null, magnitude = null where blob_id = :blob_id",),
        "leaves it without one",
    ),
    Rule(
        "value", "blob_values",
        """select blob_id from blob_values where exact not in (0, 1) or (magnitude is not null
           and case when json_valid(value) then json_type(value) not in ('integer', 'real') else 0 end)""",
        "what is said about its value as plain JSON can't be",
        ("update blob_values set exact = exact = 1, magnitude = null where blob_id = :blob_id",), "says less",
    ),
    Rule(
        "value", "pictures",
        f"""select blob_id from pictures
            where length(png) > {MAX_PICTURE_BYTES} or substr(png, 1, 8) <> x'89504e470d0a1a0a'""",
        "its picture is no PNG of at most 1 MB",
        _drop("pictures", "blob_id"), "drops the picture",
    ),
    _length("signatures", ("blob_id", "key_id"), {"key_id": 8, "mac": 32}, _drop("signatures", "blob_id", "key_id"),
            "drops the signature"),
    _length("owners", ("key_id",), {"key_id": 8, "mac": 32}, _drop("owners", "key_id"), "drops it"),
    _length("deployments", ("id as deployment_id",), {"key_id": 8, "mac": 32},
            ("delete from deployment_parameters where deployment_id = :deployment_id",
             "delete from deployments where id = :deployment_id"), "drops the deployment"),
)  # fmt: skip

PAIRS = Rule(
    "tag", "tag_pairs",
    """with
         crowds (run_id, crowded) as (select run_id, count(*) > 32 from run_tags group by run_id),
         met (flow_id, a, b, newest_at, runs) as (
           select x.flow_id, x.tag_id, y.tag_id, max(x.created_at), count(*)
           from crowds c join run_tags x on x.run_id = c.run_id join run_tags y on y.run_id = c.run_id
           where y.tag_id = x.tag_id or (y.tag_id > x.tag_id and not c.crowded)
           group by x.flow_id, x.tag_id, y.tag_id
         )
       select m.flow_id, m.a, m.b, m.newest_at, m.runs from met m
       left join tag_pairs p on p.flow_id = m.flow_id and p.a = m.a and p.b = m.b
       left join tag_pairs z on z.flow_id = m.flow_id and z.a = 0 and z.b = m.a
       where max(coalesce(p.newest_at, -1), coalesce(z.newest_at, -1)) < m.newest_at
         or coalesce(p.runs, 0) + coalesce(z.runs, 0) < m.runs""",
    "tags {a} and {b} met on more or newer runs than is noted, so a search for both may miss some",
    ("""insert into tag_pairs (flow_id, a, b, newest_at, runs) values (:flow_id, :a, :b, :newest_at, :runs)
        on conflict do update set newest_at = max(newest_at, excluded.newest_at), runs = max(runs, excluded.runs)""",),
    "counts them anew",
)  # fmt: skip
