"""The invariants of a store: what holds between its rows, each with a query for what breaks it, and with its repair.

`check` names what breaks them, `repair` runs the repairs, and `import` refuses a file that breaks one. A query names
what a row is about by columns (`run_id`, `task_id`, `attempt_id`, `name`, …); messages and repairs take their values
from there. A repair drops what can't be read, or says less than the broken row did; it never guesses a value. A lost
artifact is recorded as deleted by its task, so that no older value shows instead; a lost name is replaced.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import attrs

from flowstore.store import tables
from flowstore.store.pictures import MAX_PICTURE_BYTES
from flowstore.store.tables import Table

_SANE = "between 0 and 253402300799999"  # until the year 9999, in milliseconds
_STATUSES = "('running', 'successful', 'failed', 'stopped', 'dead')"


@attrs.frozen
class Rule:
    """One invariant.

    Attributes:
        kind: the problem's kind.
        table: what to name where there is no pathspec.
        find: a query for what breaks it.
        problem: what is wrong, with the row's columns in braces.
        statements, repair: statements with the row's columns as named parameters, and what they do, for people.
        deep: whether it reads so much that only a deep check, and import, ask for it.
        tolerated: whether an import takes a file that breaks it, because it writes such rows itself.
        column: a column that it is about; a file of an older schema may lack it.
    """

    kind: str
    table: str
    find: str
    problem: str
    statements: tuple[str, ...]
    repair: str
    deep: bool = False
    tolerated: bool = False
    column: str = ""


# --- references: each row's parent is there

_REPAIRS = {  # of columns whose row is neither dropped, nor just left without a parent
    ("runs", "flow_id"): (
        "insert or ignore into flows (id, name) values (:missing, 'lost_flow_' || :missing)",
        "names the flow lost_flow_N",
    ),
    ("tasks", "step_id"): (
        """insert or ignore into steps (id, run_id, name, created_at)
           select :missing, run_id, 'lost_step_' || :missing, started_at from tasks where id = :task_id""",
        "names the step lost_step_N",
    ),
}
_WITHOUT = {  # what it means that a column is emptied
    ("runs", "code_id"): "leaves the run without code",
    ("tasks", "base_id"): "leaves the task without what it inherits",
    ("artifacts", "blob_id"): "drops the artifact",
    ("deployment_parameters", "blob_id"): "leaves the parameter without a default",
    ("blobs", "staged_by"): "forgets who wrote it",
}


def references(db: sqlite3.Connection) -> Iterator[Rule]:
    """Yield the rule of each column of a store that refers to another row, as SQLite's own constraints name them."""
    for table in tables.TABLES:
        for constraint in db.execute(f"pragma foreign_key_list({table.name})").fetchall():
            yield _reference(db, table, constraint["from"], constraint["table"], constraint["to"] or "id")
    yield _reference(db, tables.BY_NAME["tasks"], "base_id", "tasks", "id")  # has no constraint, to be written first


def _reference(db: sqlite3.Connection, table: Table, column: str, parent: str, key: str) -> Rule:
    columns = db.execute(f"pragma table_info({table.name})").fetchall()
    keys = {row["name"]: _named(table, row["name"]) for row in columns if row["pk"]} or {"rowid": "row_id"}
    is_row = " and ".join(f"{name} = :{named}" for name, named in keys.items())
    if (table.name, column) in _REPAIRS:
        statement, repair = _REPAIRS[table.name, column]
    elif (table.name, column) in _WITHOUT:
        statement, repair = f"update {table.name} set {column} = null where {is_row}", _WITHOUT[table.name, column]
    else:
        statement, repair = f"delete from {table.name} where {is_row}", f"drops the {table.row}"
    names = ", ".join(f"x.{name} as {named}" for name, named in keys.items())
    return Rule(
        "reference",
        table.name,
        f"""select {names}, x.{column} as missing from {table.name} x where x.{column} is not null
            and not exists (select 1 from {parent} p where p.{key} = x.{column})""",
        f"its row in {table.name} refers to a row of {parent} that is not there ({{missing}})",
        (statement,),
        repair,
    )


def _named(table: Table, column: str) -> str:
    """Return what a query calls a column: an id is that of a run, a task and so on."""
    return f"{table.refers['id'].replace(' ', '_')}_id" if column == "id" and "id" in table.refers else column


def without_blob() -> Iterator[str]:
    """Yield the statements that drop the blob `:blob_id`, with what refers to it: artifacts as if they were deleted."""
    for table in tables.TABLES:
        for column in (column for column, kind in table.refers.items() if kind == "blob" and column != "id"):
            if (table.name, column) in _WITHOUT:
                yield f"update {table.name} set {column} = null where {column} = :blob_id"
            else:
                yield f"delete from {table.name} where {column} = :blob_id"
    yield "delete from blobs where id = :blob_id"


def _drop(table: str, *keys: str) -> tuple[str]:
    return (f"delete from {table} where {' and '.join(f'{key} = :{key}' for key in keys)}",)


# --- what rows say


def _status(table: str, key: str, instead: str) -> Rule:
    return Rule(
        "status", table,
        f"select id as {key}, status from {table} where status not in {_STATUSES}",
        "its status is {status!r}, which does not exist",
        (f"update {table} set status = {instead} where id = :{key}",),
        "records it as dead",
    )  # fmt: skip


def _times(table: str, key: str, begin: str) -> Rule:
    return Rule(
        "time", table,
        f"""select id as {key}, {begin} as began, finished_at from {table}
            where not {begin} {_SANE} or not finished_at {_SANE} or finished_at < {begin}""",
        "its times cannot be: from {began} to {finished_at}",
        (
            f"update {table} set {begin} = 0 where id = :{key} and not {begin} {_SANE}",
            f"""update {table} set finished_at = {begin}
                where id = :{key} and (not finished_at {_SANE} or finished_at < {begin})""",
        ),
        "sets them to what is possible",
    )  # fmt: skip


def _object(table: str, column: str, kind: str, instead: str = "null") -> Rule:
    key = f"{table[:-1]}_id"
    return Rule(
        "json", table,
        f"""select id as {key} from {table} where {column} is not null
            and case when json_valid({column}) then json_type({column}) <> '{kind}' else 1 end""",
        f"its column {column} holds no JSON {kind}",
        (f"update {table} set {column} = {instead} where id = :{key}",), f"empties its column {column}", column=column,
    )  # fmt: skip


def _length(table: str, keys: tuple[str, ...], columns: dict[str, int], statements: tuple[str, ...], done: str) -> Rule:
    wrong = " or ".join(f"length({column}) <> {size}" for column, size in columns.items())
    return Rule(
        "signature", table, f"select {', '.join(keys)} from {table} where {wrong}",
        f"its row in {table} is malformed: {' and '.join(columns)} have another length", statements, done,
    )  # fmt: skip


def _id(table: str) -> Rule:
    named = _named(tables.BY_NAME[table], "id")
    return Rule(
        "name", table, f"select id as {named} from {table} where id < 1", f"the id of a row in {table} is below 1",
        (f"delete from {table} where id = :{named}",), f"drops the {tables.BY_NAME[table].row}",
    )  # fmt: skip


def _name(table: str, column: str) -> Rule:
    named = _named(tables.BY_NAME[table], "id")
    slash = f"or instr({column}, '/')" if column == "name" else ""
    return Rule(
        "name", table,
        f"""select id as {named}, {column} as wrong from {table}
            where {column} = '' or instr({column}, char(0)) {slash}""",
        f"a {tables.BY_NAME[table].row} is named {{wrong!r}}",
        (f"update {table} set {column} = 'lost_{table}_' || id where id = :{named}",), "gives it another name",
    )  # fmt: skip


def _incomplete(table: str) -> Rule:
    keys = {"artifacts": "u.attempt_id, u.name, ", "run_artifacts": "u.run_id, u.name, ", "cards": "u.attempt_id, "}
    return Rule(
        "content", table,
        f"select {keys.get(table, '')}u.blob_id from {table} u join blobs b on b.id = u.blob_id where b.sha is null",
        "its bytes were never completely written", tuple(without_blob()), "drops it",
    )  # fmt: skip


ROWS = (
    _status("runs", "run_id", "'dead'"),
    _status("tasks", "task_id", "'dead'"),
    _status("attempts", "attempt_id", "'dead'"),
    Rule(
        "status", "log_chunks",
        """select id as log_chunk, stream, (select min(a.id) from attempts a where a.log_id = c.log_id) as attempt_id
           from log_chunks c where stream not in ('stdout', 'stderr')""",
        "a line of its log is of the stream {stream!r}, which does not exist",
        ("update log_chunks set stream = 'stdout' where id = :log_chunk",), "shows it as stdout",
    ),
    Rule(
        "status", "run_artifacts",
        "select run_id, name, kind from run_artifacts where kind not in ('parameter', 'constant')",
        "it is a {kind!r}, which does not exist",
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
        "it was last seen at {last_seen_at}, which cannot be",
        ("update runs set last_seen_at = max(created_at, 0) where id = :run_id",), "sets it to its run's creation",
    ),
    Rule(
        "time", "runs",
        "select id as run_id, status from runs where (status = 'running') <> (finished_at is null)",
        "it is {status}, but whether it has an end says otherwise",
        ("""update runs set finished_at = case when status = 'running' then null
              else max(created_at, last_seen_at) end where id = :run_id""",), "goes by the status",
    ),
    Rule(
        "time", "steps",
        f"select id as step_id, created_at from steps where not created_at {_SANE}",
        "it was created at {created_at}, which cannot be",
        ("""update steps set created_at = coalesce((select min(started_at) from tasks where step_id = :step_id), 0)
            where id = :step_id""",),
        "sets it to when its first task started",
    ),
    Rule(
        "time", "log_chunks",
        f"""select id as log_chunk, (select min(a.id) from attempts a where a.log_id = c.log_id) as attempt_id
            from log_chunks c where not written_at {_SANE}""",
        "a line of its log was written at a time that cannot be",
        ("update log_chunks set written_at = 0 where id = :log_chunk",), "sets it to 1970",
    ),
    *(_id(table) for table in ("runs", "tasks", "attempts")),
    Rule(
        "name", "attempts", "select id as attempt_id, log_id from attempts where log_id < 1",
        "the id of its log is {log_id}", ("update attempts set log_id = id where id = :attempt_id",),
        "leaves it without a log",
    ),
    *(_name(table, column) for table, column in (("flows", "name"), ("steps", "name"), ("codes", "script_name"))),
    Rule(
        "name", "code_files", "select code_id, path from code_files where path = '' or instr(path, char(0))",
        "a file of the code is named {path!r}", _drop("code_files", "code_id", "path"), "drops the file",
    ),
    *(_incomplete(table) for table in ("artifacts", "cards", "run_artifacts", "code_files", "deployment_parameters")),
    Rule(
        "content", "blobs",
        """select id as blob_id from blobs
           where codec = 'json' and data is not null and not json_valid(cast(data as text))""",
        "its bytes are not JSON", tuple(without_blob()), "drops it", deep=True,
    ),
    _object("runs", "parameters", "object", "'{}'"),
    *(_object("deployments", column, "array", "'[]'") for column in ("tags", "with_decorators")),
    *(_object("deployments", column, "object") for column in ("schedule", "triggers")),
    *(_object(*of, "object") for of in (("runs", "environment"), ("tasks", "transition"), ("attempts", "metadata"))),
    *(_object(*of, "array") for of in (("runs", "trigger_events"), ("deployments", "executor"))),
    Rule(
        "json", "tags",
        """select id as tag_id, tag from tags
           where case when json_valid(json) then json_extract(json, '$') is not tag else 1 end""",
        "the JSON text of the tag {tag!r} is not the tag",
        ("update tags set json = json_quote(tag) where id = :tag_id",), "writes it again",
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
        "records one with what the task says",
    ),
    Rule(
        "attempt", "tasks",
        """select t.id as task_id, t.attempts as recorded, max(a.number) + 1 as attempts
           from tasks t join attempts a on a.task_id = t.id group by t.id having max(a.number) + 1 <> t.attempts""",
        "its count of attempts is {recorded}, and it has had {attempts}",
        ("update tasks set attempts = :attempts where id = :task_id",), "counts them again",
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
    Rule("lineage", "tasks",
         "select t.id as task_id from tasks t join steps s on s.id = t.step_id and s.run_id <> t.run_id",
        "it is in another run than its step",
        ("update tasks set run_id = (select s.run_id from steps s where s.id = tasks.step_id) where id = :task_id",),
        "puts it into the run of its step",
    ),
    Rule("lineage", "tasks",
         "select t.id as task_id from tasks t join tasks b on b.id = t.base_id and b.run_id <> t.run_id",
        "it inherits from a task of another run",
        ("update tasks set base_id = null where id = :task_id",), "leaves it without what it inherits",
    ),
    Rule(
        "lineage", "tasks",  # so that nothing inherits from itself
        "select id as task_id, base_id from tasks where base_id >= id",
        "it inherits from a task ({base_id}) that did not run before it",
        ("update tasks set base_id = null where id = :task_id",), "leaves it without what it inherits",
    ),
    Rule(
        "lineage", "task_parents", "select task_id, parent_id from task_parents where parent_id >= task_id",
        "a task that did not run before it ({parent_id}) is recorded as one before it",
        _drop("task_parents", "task_id", "parent_id"), "drops the link",
    ),
    Rule(
        "lineage", "tasks",
        """select id as task_id, foreach_path as path from tasks where foreach_path glob '*[^0-9/]*'
             or foreach_path glob '*//*' or foreach_path like '/%' or foreach_path like '%/' or foreach_path = ''""",
        "its position in a foreach is malformed ({path!r})",
        ("update tasks set foreach_path = null where id = :task_id",), "leaves it without one",
    ),
    Rule(
        "lineage", "task_parents",
        """select p.task_id, p.parent_id from task_parents p join tasks t on t.id = p.task_id
           join tasks o on o.id = p.parent_id where o.run_id <> t.run_id""",
        "a task of another run ({parent_id}) is recorded as one before it",
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
        "value", "numbers", "select id as number_id, task_id, artifact as name, final from numbers where final & ~1",
        "whether one of its metrics is final is {final!r}, not 0 or 1",
        ("update numbers set final = 0 where id = :number_id",), "says that it is not",
    ),
    Rule(
        "value", "numbers",
        """select id, task_id, artifact as name from numbers
           where length(name) > length(artifact) + 1001 or substr(name, 1, length(artifact)) <> artifact""",
        "the name of one of its metrics is malformed", _drop("numbers", "id"), "drops the metric",
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
        "value", "blob_values",
        "select blob_id from blob_values where length(cast(value as blob)) > 65536 or exact not in (0, 1)",
        "its value as plain JSON is too long, or malformed",
        ("update blob_values set value = null, exact = null, magnitude = null where blob_id = :blob_id",),
        "leaves it without one",
    ),
    Rule(
        "json", "blob_values", "select blob_id from blob_values where value is not null and not json_valid(value)",
        "its value as plain JSON is not JSON",
        ("update blob_values set value = null, exact = null, magnitude = null where blob_id = :blob_id",),
        "leaves it without one", tolerated=True,
    ),
    Rule(
        "value", "blob_values",
        """select blob_id from blob_values where magnitude is not null
           and case when json_valid(value) then json_type(value) not in ('integer', 'real') else 0 end""",
        "its number is not its value as plain JSON",
        ("update blob_values set magnitude = null where blob_id = :blob_id",), "leaves it without one", tolerated=True,
    ),
    Rule(
        "value", "cards",
        f"""select c.attempt_id, c.n from cards c join blobs b on b.id = c.blob_id where b.codec <> 'html' or c.n < 0
              or not c.updated_at {_SANE} or (c.data is not null and not json_valid(cast(c.data as text)))""",
        "its card {n} is malformed", _drop("cards", "attempt_id", "n"), "drops the card",
    ),
    Rule(
        "value", "pictures",
        f"""select blob_id from pictures
            where length(png) > {MAX_PICTURE_BYTES} or substr(png, 1, 8) <> x'89504e470d0a1a0a'""",
        "its picture is no PNG of at most 1 MB", _drop("pictures", "blob_id"), "drops the picture",
    ),
    _length("signatures", ("blob_id", "key_id"), {"key_id": 8, "mac": 32}, _drop("signatures", "blob_id", "key_id"),
            "drops the signature"),
    _length("owners", ("key_id",), {"key_id": 8, "mac": 32}, _drop("owners", "key_id"), "drops it"),
    _length("deployments", ("id as deployment_id",), {"key_id": 8, "mac": 32},
            ("delete from deployment_parameters where deployment_id = :deployment_id",
             "delete from deployments where id = :deployment_id"), "drops the deployment"),
)  # fmt: skip

COUNTS = Rule(
    "tag", "tag_pairs",
    """select p.flow_id, p.a, p.runs as recorded, count(x.run_id) as runs from tag_pairs p left join run_tags x
       on x.tag_id = p.a and x.flow_id = p.flow_id where p.a = p.b group by 1, 2 having p.runs <> count(x.run_id)""",
    "tag {a} is noted on {recorded} runs, and {runs} have it",
    ("update tag_pairs set runs = :runs where flow_id = :flow_id and a = :a and b = :a",), "counts again", deep=True,
)  # fmt: skip
PAIRS = Rule(
    "tag", "tag_pairs",
    """with
         crowds (run_id, crowded) as (select run_id, count(*) > 32 from run_tags group by run_id),
         met (flow_id, a, b, newest_at, runs) as (
           select x.flow_id, x.tag_id, y.tag_id, max(x.created_at), count(*)
           from crowds c join run_tags x on x.run_id = c.run_id join run_tags y on y.run_id = c.run_id
           where y.tag_id = x.tag_id or (y.tag_id > x.tag_id and not c.crowded) group by 1, 2, 3)
       select m.* from met m left join tag_pairs p on p.flow_id = m.flow_id and p.a = m.a and p.b = m.b
       left join tag_pairs z on z.flow_id = m.flow_id and z.a = 0 and z.b = m.a
       where max(coalesce(p.newest_at, -1), coalesce(z.newest_at, -1)) < m.newest_at
         or coalesce(p.runs, 0) + coalesce(z.runs, 0) < m.runs""",
    "tags {a} and {b} met on more or newer runs than is noted, so a search for both may miss some",
    ("""insert into tag_pairs (flow_id, a, b, newest_at, runs) values (:flow_id, :a, :b, :newest_at, :runs)
        on conflict do update set newest_at = max(newest_at, excluded.newest_at), runs = max(runs, excluded.runs)""",),
    "counts them again", deep=True,
)  # fmt: skip
