"""A step once for each item, and gangs."""

from __future__ import annotations

import pytest

from support.cli import failure
from support.flows import FOREACH, GANG, flow_source


@pytest.mark.parametrize("empty", ["[]", "()", "{}", "range(0)", "''"])
def test_a_foreach_over_nothing_fails(empty, flow):
    """A foreach without items fails the task, naming the list."""
    script = flow(flow_source(FOREACH, start=f"self.xs = {empty}"))
    script("run", expect=1)
    assert "'xs' is empty" in failure(script).message
    assert script.counts() == {"start": 1}


ITERABLES = {
    "tuple": ("('a', 'b')", ["a", "b"]),
    "range": ("range(4, 6)", [4, 5]),
    "set": ("{7}", [7]),
    "dict": ("{'k': 1, 'l': 2}", ["k", "l"]),
    "text": ("'xy'", ["x", "y"]),
    "deque": ("__import__('collections').deque([1, None])", [1, None]),
    "array": ("__import__('numpy').arange(2) * 0.5", [0.0, 0.5]),
    "large items": ("['a' * 100_000, 'b' * 100_000]", ["a" * 100_000, "b" * 100_000]),
    "items that are pickled": ("[(1, 2), {3}]", [(1, 2), {3}]),
}


@pytest.mark.parametrize(("text", "items"), ITERABLES.values(), ids=ITERABLES)
def test_what_has_a_length_can_be_fanned_out_over(text, items, flow):
    """Each item gets a task, in order, which a join can ask for it; the list itself comes back as it was."""
    script = flow(
        flow_source(
            FOREACH,
            start=f"self.xs = {text}",
            body="self.mine = self.input",
            join="self.all = [i.mine for i in inputs]; self.same = [(i.input, i.index) for i in inputs]; "
            "self.xs = inputs[0].xs",
        )
    )
    script("run")
    data = script.client().data
    assert data.all == items
    assert data.same == [(item, index) for index, item in enumerate(items)]
    assert list(data.xs) == items


def test_a_generator_is_no_list(flow):
    """A foreach over what has no length says to make a list of it."""
    script = flow(flow_source(FOREACH, start="self.xs = (x for x in 'ab')"))
    script("run", expect=1)
    error = failure(script)
    assert ("'xs'" in error.message, "self.xs = list(" in error.message) == (True, True)


def test_a_foreach_over_what_is_not_set(flow):
    """A foreach over an artifact that nobody set names it."""
    script = flow(flow_source(FOREACH))
    script("run", expect=1)
    assert "'xs' is not set" in failure(script).message


@pytest.mark.untraced  # a tracer writes a file for each of the thousand processes, which takes minutes
def test_a_wide_foreach(flow):
    """A thousand tasks, each with its own item, all joined."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = list(range(1000))",
            body="self.mine = self.input * 2",
            join="self.total = sum(i.mine for i in inputs)",
        )
    )
    script("run", "--quiet", timeout=200)
    assert script.client().data.total == 999_000
    assert script.counts()["body"] == 1000
    assert script.sql("select count(distinct foreach_index) from task_summary where step = 'body'") == [1000]


def test_max_num_splits(flow):
    """A foreach wider than `--max-num-splits` fails before it starts, and says how to raise the limit."""
    script = flow(flow_source(FOREACH, start="self.xs = range(3)"))
    script("run", "--max-num-splits", 2, expect=1)
    assert "--max-num-splits 3" in failure(script).message
    script("run", "--max-num-splits", 3)


@pytest.mark.parametrize("options", [["--max-workers", 1], ["--reuse-workers"], ["--max-workers", 3]])
def test_how_many_run_at_a_time(options, flow):
    """No more tasks run at once than `--max-workers`; only `--reuse-workers` lets tasks share a process."""
    script = flow(
        flow_source(
            FOREACH,
            start="self.xs = range(6)",
            body="begun = time.time(); time.sleep(0.05); self.mine = [begun, time.time(), os.getpid()]",
            join="self.all = [i.mine for i in inputs]",
        )
    )
    script("run", *options)
    spans = script.client().data.all
    together = max(sum(a[0] <= b[0] < a[1] for a in spans) for b in spans)
    pids = {pid for _, _, pid in spans}
    if options[0] == "--reuse-workers":
        assert len(pids) < 6
    else:
        assert together <= options[1]
        assert len(pids) == 6


def test_a_gang_runs_all_at_once(flow):
    """The members of a gang wait for each other without harm, whatever `--max-workers`, and know their places."""
    body = """
@parallel
Path(f"here-{self.index}").touch()
deadline = time.time() + 30
while not (Path("here-0").exists() and Path("here-1").exists() and Path("here-2").exists()):
    assert time.time() < deadline
    time.sleep(0.01)
p = current.parallel
self.mine = [p.node_index, p.num_nodes, p.main_ip, p.control_task_id, self.input]
"""
    tails = {**GANG, "start": "self.next(self.body, num_parallel=3)"}
    script = flow(flow_source(tails, body=body, join="self.all = [i.mine for i in inputs]"))
    script("run", "--max-workers", 1)
    run = script.client()
    first = min((task.id for task in run["body"]), key=int)
    assert run.data.all == [[i, 3, "127.0.0.1", first, i] for i in range(3)]


def test_a_gang_member_is_retried_while_the_others_wait(flow):
    """A retry of a gang's member needs no free worker: the others may be waiting for it."""
    body = """
@parallel
@retry(times=1, minutes_between_retries=0)
if self.index == 0:
    if current.retry_count == 0: raise RuntimeError("once")
    Path("ready").touch()
deadline = time.time() + 5
while not Path("ready").exists():
    assert time.time() < deadline, "the other member was not tried again in time"
    time.sleep(0.01)
"""
    script = flow(flow_source(GANG, body=body))
    script("run", "--max-workers", 1)
    attempts = script.sql("select attempts from task_summary where step = 'body' order by foreach_index")
    assert attempts == [2, 1]


def test_a_gang_ends_together(flow):
    """When one member fails for good, the others are stopped: only the one that failed counts as failed."""
    body = """
@parallel
if self.index == 0: raise RuntimeError("boom")
time.sleep(100)
"""
    script = flow(flow_source(GANG, body=body))
    script("run", expect=1)
    statuses = {task.index: task.status for task in script.client()["body"]}
    assert statuses == {0: "failed", 1: "stopped"}


def test_a_gang_is_taken_over_whole_or_not_at_all(flow):
    """Members of a gang work together, so one that failed is resumed with all the others."""
    body = """
@parallel
print("member", self.index)
if self.index == 1 and not Path("mended").exists(): raise RuntimeError("boom")
Path(f"done-{self.index}").touch()
"""
    script = flow(flow_source(GANG, body=body))
    script("run", expect=1)
    (script.folder / "mended").touch()
    script("resume")
    assert script.sql("select origin_pathspec from task_summary where run_id = 2 and step = 'body'") == [None, None]
