"""Stores with many runs, filled by SQL with the real schema.

One flow, a thousand runs a day, 8 tags a run, nine of ten runs successful. Every second run is tagged `even`, every
third one `third`. The older half is tagged `early` and the newer one `late`: each is common and they never meet, the
worst case for a search that walks one tag and looks for the other. With contents, each run also has three tasks in a
line, two artifacts, one of which no other run has, and a line of log, as a run of `flows/hello.py` leaves them.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path

from benchmarks.libraries import USER
from flowstore import __version__
from flowstore.store import schema
from flowstore.store.migrations import MIGRATIONS
from flowstore.store.tags import date_tag, ensure_tag

DAY_MS = 86_400_000
FIRST_MS = 19_000 * DAY_MS
NAMESPACE = f"user:{USER}"
TAGS = (  # the tag, whether it is a system tag, and the runs that have it
    (NAMESPACE, 1, "true"),
    ("runtime:local", 1, "true"),
    ("python_version:3.11.7", 1, "true"),
    (f"flowstore_version:{__version__}", 1, "true"),
    ("even", 0, "id % 2 = 0"),
    ("odd", 0, "id % 2 = 1"),
    ("third", 0, "id % 3 = 0"),
    ("other", 0, "id % 3 <> 0"),
    ("early", 0, "id <= half"),
    ("late", 0, "id > half"),
)

# Ids count on: run 5 has the steps, tasks and attempts 13, 14 and 15, so that no insert needs to look one up.
CONTENTS = """
create temporary table places (n integer primary key, name text, transition text);
insert into places values (0, 'start', '{"targets": ["work"], "count": null, "gang": false}'),
  (1, 'work', '{"targets": ["end"], "count": null, "gang": false}'), (2, 'end', null);
create temporary table units
  (id integer primary key, run_id integer, n integer, at integer, name text, transition text);
insert into units select 3 * (r.id - 1) + p.n + 1, r.id, p.n, r.created_at + 100 * p.n, p.name, p.transition
  from runs r, places p;
insert into steps (id, run_id, name, created_at) select id, run_id, name, at from units;
insert into tasks (id, run_id, step_id, status, started_at, finished_at, attempt_id, base_id, transition)
  select id, run_id, id, 'successful', at, at + 50, id, iif(n, id - 1, null), transition from units;
insert into task_parents select id, id - 1 from units where n > 0;
insert into attempts (id, task_id, number, status, started_at, finished_at, pid, log_id)
  select id, id, 0, 'successful', at, at + 50, 1, id from units;
insert into log_chunks (log_id, stream, written_at, text) select id, 'stdout', at + 20, run_id || char(10)
  from units where n = 2;
insert into blobs (id, sha, codec, size_bytes, type, preview, data)
  select id, sha256(value), 'json', length(value), 'str', value, cast(value as blob)
  from (select id, '"run ' || id || '"' as value from runs);
insert into blobs (sha, codec, size_bytes, type, preview, data) values (sha256('1'), 'json', 1, 'int', '1', x'31');
insert into artifacts (attempt_id, name, blob_id) select id, 'x', last_insert_rowid() from units where n = 0;
insert into artifacts (attempt_id, name, blob_id) select id, 'y', run_id from units where n = 1;
drop table units;
drop table places;
"""


def fill(path: Path, runs: int, *, contents: bool = False) -> None:
    """Make a store with so many runs."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma synchronous = off")
        schema.create(connection, __version__, small=False)  # as a store is that has grown by itself
        connection.execute("begin")
        _runs(connection, runs)
        if contents:
            connection.create_function("sha256", 1, lambda text: hashlib.sha256(text.encode()).digest())
            for statement in schema.statements(CONTENTS):
                connection.execute(statement)
        connection.execute("commit")


def _runs(connection: sqlite3.Connection, runs: int) -> None:
    connection.execute("insert into flows (id, name) values (1, 'Bench')")
    connection.execute(
        """with recursive number (id) as (select 0 union all select id + 1 from number where id < :runs - 1),
             moment (id, at) as (select id + 1, :first_ms + id * :day_ms / 1000 from number)
           insert into runs (id, uuid, flow_id, user, status, created_at, finished_at, last_seen_at,
                             host, boot, pid, pid_started, parameters)
           select id, lower(hex(randomblob(16))), 1, :user, iif(id % 10, 'successful', 'failed'),
                  at, at + 500, at + 500, 'host', 'boot', 1, '0', '{}' from moment""",
        {"runs": runs, "user": USER, "first_ms": FIRST_MS, "day_ms": DAY_MS},
    )
    for day in range(-(-runs // 1000)):
        which = f"id between {day * 1000 + 1} and {day * 1000 + 1000}"
        _tag(connection, date_tag(FIRST_MS + day * DAY_MS), 1, which)
    for tag, system, which in TAGS:
        _tag(connection, tag, system, which.replace("half", str(runs // 2)))
    connection.execute(schema.statements(MIGRATIONS[3].sql)[1])


def _tag(connection: sqlite3.Connection, tag: str, system: int, which: str) -> None:
    connection.execute(
        f"""insert into run_tags (tag_id, flow_id, created_at, run_id, system, successful)
            select ?, 1, created_at, id, ?, status = 'successful' from runs where {which} order by id""",
        (ensure_tag(connection, tag), system),
    )
