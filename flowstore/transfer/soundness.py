"""Whether another store's file keeps the rules that our own keeps by the way it is written.

Types, references and hashes are compared where rows and contents are copied. Here is the rest: what would make
the Client go round in circles, show one run's artifacts in another, or put ours out of order. An import asks all
of it before it writes anything.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from flowstore.errors import StoreCorrupt
from flowstore.store.pictures import MAX_PICTURE_BYTES
from flowstore.transfer import tables

_LATEST_MS = 253_402_300_799_999  # the end of the year 9999

_SET_BY_USERS = "select tag_id from run_tags where system = 0 union select tag_id from node_tags"

# What is wrong with the rows that each query returns.
_RULES = {
    "holds an id below 1": """
        select 1 from runs where id < 1 union all select 1 from tasks where id < 1
        union all select 1 from attempts where id < 1 or log_id < 1""",
    "holds a flow or step without a proper name": """
        select 1 from flows where name = '' or instr(name, '/') or instr(name, char(0))
        union all select 1 from steps where name = '' or instr(name, '/') or instr(name, char(0))""",
    "holds an artifact or a file whose content is not whole": """
        select 1 from blobs b where b.sha is null and (exists (select 1 from artifacts u where u.blob_id = b.id)
          or exists (select 1 from run_artifacts u where u.blob_id = b.id)
          or exists (select 1 from code_files u where u.blob_id = b.id))""",
    "holds a task in a step of another run": """
        select 1 from tasks t left join steps s on s.id = t.step_id where s.run_id is not t.run_id""",
    "holds a task that starts from one that did not run before it in its run": """
        select 1 from tasks t left join tasks b on b.id = t.base_id
        where t.base_id is not null and (b.run_id is not t.run_id or b.id >= t.id)""",
    "holds a task that ran after one that did not run before it in its run": """
        select 1 from task_parents p left join tasks t on t.id = p.task_id left join tasks b on b.id = p.parent_id
        where t.id is null or b.run_id is not t.run_id or b.id >= t.id""",
    "holds a task whose last attempt is another's": """
        select 1 from tasks t left join attempts a on a.id = t.attempt_id
        where t.attempt_id is not null and a.task_id is not t.id""",
    "holds an attempt of an unknown status": """
        select 1 from attempts where status not in ('running', 'successful', 'failed', 'stopped', 'dead')""",
    "holds a place in a foreach that is none": """
        select 1 from tasks where foreach_path glob '*[^0-9/]*' or foreach_path glob '*//*'
          or foreach_path like '/%' or foreach_path like '%/' or foreach_path = ''""",
    # What no version let a user set. The rules of today are not asked: tightened, they would keep old stores out.
    "holds an empty tag": "select 1 from tags where tag = ''",
    "holds a tag of more than 500 characters that a user set": f"""
        select 1 from tags where length(tag) > 500 and id in ({_SET_BY_USERS})""",  # their names were of any length
    "holds a tag that only flowstore sets as one that a user set": f"""
        select 1 from tags where id in ({_SET_BY_USERS}) and (tag glob 'user:*' or tag glob 'production:*')""",
    "holds a tag that does not fit its run": """
        select 1 from run_tags t left join runs r on r.id = t.run_id
        where r.flow_id is not t.flow_id or r.created_at is not t.created_at
          or t.successful is not (r.status = 'successful') or t.system not in (0, 1)""",
    "holds a tag of something in another run": """
        select 1 from node_tags n left join steps s on s.id = n.step_id left join tasks t on t.id = n.task_id
        where s.run_id is not n.run_id or (n.task_id <> 0 and t.step_id is not n.step_id)""",
    "holds text that is not the JSON that it should be": """
        select 1 from runs where not json_valid(parameters)
          or case when json_valid(parameters) then json_type(parameters) <> 'object' end
        union all select 1 from tasks where transition is not null and (not json_valid(transition)
          or case when json_valid(transition) then json_type(transition) <> 'object' end)
        union all select 1 from attempts where metadata is not null and (not json_valid(metadata)
          or case when json_valid(metadata) then json_type(metadata) <> 'object' end)
        union all select 1 from blobs where codec = 'json' and data is not null
          and not json_valid(cast(data as text))""",
    "holds times that no clock can have shown": """
        select 1 from runs where created_at not between 0 and :latest or last_seen_at not between 0 and :latest
          or coalesce(finished_at, 0) not between 0 and :latest
        union all select 1 from steps where created_at not between 0 and :latest
        union all select 1 from tasks where started_at not between 0 and :latest
          or coalesce(finished_at, 0) not between 0 and :latest
        union all select 1 from attempts where started_at not between 0 and :latest
          or coalesce(finished_at, 0) not between 0 and :latest
        union all select 1 from log_chunks where written_at not between 0 and :latest""",
    "holds a metric of another run's task, or of a malformed name": """
        select 1 from numbers n left join tasks t on t.id = n.task_id
        where t.run_id is not n.run_id or length(n.name) > length(n.artifact) + 1001
          or substr(n.name, 1, length(n.artifact)) <> n.artifact or n.final not in (0, 1)""",
    "holds a value of an artifact that is too long, or malformed": """
        select 1 from blob_values where length(cast(value as blob)) > 65536 or exact not in (0, 1)
          or typeof(value) not in ('text', 'null') or typeof(magnitude) not in ('real', 'null')""",
    "holds a picture that is none, or too large": f"""
        select 1 from pictures
        where length(png) > {MAX_PICTURE_BYTES} or substr(png, 1, 8) <> x'89504e470d0a1a0a'""",
    "holds a code snapshot with an improper name": """
        select 1 from codes where instr(script_name, char(0))
        union all select 1 from code_files where path = '' or instr(path, char(0))""",
}


def check(db: sqlite3.Connection, path: Path) -> None:
    """Look at the whole file.

    Raises:
        StoreCorrupt: it is damaged, or breaks a rule that flowstore keeps; says which.
    """
    told = db.execute("pragma quick_check(1)").fetchone()[0]
    if told != "ok":
        raise StoreCorrupt(f"{path} is damaged ({told}). Nothing was imported.")
    wrong = db.execute("pragma foreign_key_check").fetchone()
    if wrong is not None:
        raise StoreCorrupt(f"{path}: a row of {wrong['table']} refers to one that is not there. Nothing was imported.")
    for problem, sql in _RULES.items():
        if not _has_tables(db, sql):
            continue
        if db.execute(f"{sql} limit 1", {"latest": _LATEST_MS}).fetchone() is not None:
            raise StoreCorrupt(f"{path} {problem}, which no run of flowstore wrote. Nothing was imported.")
    for table in ("flows", "tags", "codes", "code_files", *(each.name for each in tables.of_runs(db))):
        _exhaust(db.execute(f"select * from {table}"))  # each value is of its type, and text is UTF-8
    _exhaust(db.execute("select sha, codec, size_bytes, type, preview from blobs"))


def _has_tables(db: sqlite3.Connection, sql: str) -> bool:
    """Return whether a file has the tables of a rule: an older one lacks the newest."""
    return all(tables.has(db, name) for name in ("numbers", "blob_values", "pictures") if f"from {name}" in sql)


def _exhaust(rows: sqlite3.Cursor) -> None:
    with contextlib.closing(rows):  # an error would keep it half read, and the file locked for as long as it is held
        for _ in rows:
            pass
