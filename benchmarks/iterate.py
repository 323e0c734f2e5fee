"""The value of every artifact of a run of 1,000 tasks, inherited ones included, through the Client.

Floor: one hand-written query on the same file, and `json.loads` of each value.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.libraries import FLOWSTORE, Settings
from benchmarks.measure import Failed, Line, call_s, in_turns
from benchmarks.targets import times_floor
from flowstore import Run, namespace, use_store

ARTIFACTS = """
with recursive chain (task_id, depth, attempt_id, base_id) as (
  select id, 0, attempt_id, base_id from tasks where run_id = :run
  union all
  select c.task_id, c.depth + 1, t.attempt_id, t.base_id from chain c join tasks t on t.id = c.base_id
)
select c.task_id, a.name, b.data, min(c.depth) from chain c
join artifacts a on a.attempt_id = c.attempt_id join blobs b on b.id = a.blob_id
group by c.task_id, a.name
union all
select t.id, p.name, b.data, null from tasks t
join run_artifacts p on p.run_id = t.run_id join blobs b on b.id = p.blob_id where t.run_id = :run
"""


def measure(settings: Settings) -> Iterator[Line]:
    tasks = settings.size(1000, 20)
    with settings.folder() as folder:
        FLOWSTORE.run("fanout", folder, "--tasks", tasks)
        store = folder / "flowstore.db"
        with use_store(store), contextlib.closing(sqlite3.connect(store)) as connection:
            namespace(None)
            by_client, by_hand = _by_client(), _by_hand(connection)
            if by_client != by_hand:
                raise Failed(f"iterate: the Client sees {by_client} artifacts, plain SQL {by_hand}")
            contestants = {
                "floor": partial(_ms, partial(_by_hand, connection)),
                "flowstore": partial(_ms, _by_client),
            }
            samples = in_turns(contestants, settings.rounds)
    yield Line(f"iterate, {by_hand} artifacts of {tasks} tasks", "ms", samples, times_floor(5))


def _ms(call: Callable[[], int]) -> float:
    return call_s(call) * 1000


def _by_client() -> int:
    values = [artifact.data for step in Run("Fanout/1") for task in step for artifact in task]
    return len(values)


def _by_hand(connection: sqlite3.Connection) -> int:
    values = [json.loads(data) for _, _, data, _ in connection.execute(ARTIFACTS, {"run": 1})]
    return len(values)
