"""A clock that is set back, or jumps: ids, order, durations and logs don't depend on it, and nothing dies of it."""

from __future__ import annotations

import os

import pytest

import flowstore
from support.flows import FOREACH, flow_source

# A clock that is so many seconds off as the file says, whenever it is asked; or stands at what `at` says.
SITE = """
import os, time
_time_ns = time.time_ns

def shifted():
    try:
        with open(os.environ["CLOCK"]) as file:
            text = file.read()
    except OSError:
        text = "0"
    return int(text[2:]) * 10**9 if text.startswith("at") else _time_ns() + int(text or 0) * 10**9

time.time_ns = shifted
time.time = lambda: shifted() / 1e9
"""
SOURCE = flow_source(
    FOREACH,
    members="jump = Parameter('jump', default=0)\nwhen = Parameter('when', default='')",
    start="print('before'); self.xs = [1, 2, 3]",
    body="Path('clock').write_text(str(self.jump * self.index)); print('after')",
    join="self.n = len(inputs)",
)


@pytest.fixture
def clocked(flow, tmp_path):
    """Run the flow with a clock that its tasks can set; gives a function that also sets it before."""
    script = flow(SOURCE)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)

    def run(*args, clock="0", **env):
        (tmp_path / "clock").write_text(clock)
        places = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
        return script(*args, PYTHONPATH=places, CLOCK=str(tmp_path / "clock"), **env)

    return script, run


def test_a_clock_that_is_set_back(clocked):
    """Between runs and within one, by a second, a day and ten years: ids grow, order stays, no time is negative."""
    script, run = clocked
    told = [
        run("run"),
        run("run", "--jump", "-3600", clock="-86400"),
        run("resume", clock="-315360000"),
        run("run", "--jump", "-1", clock="5"),
        run("run", "--jump", "600", clock="-30"),
    ]
    runs = script.sql("select run_id, created_at, finished_at, duration_s from run_summary order by run_id")
    assert [row[0] for row in runs] == [1, 2, 3, 4, 5]
    assert [row[1] for row in runs] == sorted(row[1] for row in runs)
    assert min(row[3] for row in runs) >= 0
    assert script.sql("select count(*) from task_summary where duration_s < 0 or finished_at < started_at") == [0]
    assert script.sql("select distinct status from run_summary") == ["successful"]
    assert [line for result in told for line in result.stderr.splitlines() if " -" in line.partition("after")[2]] == []
    flowstore.use_store(script.db)
    assert [each.id for each in flowstore.Flow("F")] == ["5", "4", "3", "2", "1"]
    assert flowstore.Flow("F").latest_run.id == "5"
    for each in flowstore.Flow("F"):
        assert each.finished_at >= each.created_at
        assert each["start"].task.stdout == "before\n"
        assert [task.stdout for task in each["body"]] == ["after\n"] * 3
    assert script("list", "runs").stdout.count("successful") == 5


def test_a_run_is_alive_whatever_the_clock_says(clocked):
    """A clock that leaps a day ahead makes no running run of this machine a dead one."""
    script, run = clocked
    script.rewrite(SOURCE.replace("print('after')", "self.status = Run(f'F/{current.run_id}').status"))
    run("run", "--jump", "86400", "--max-workers", 1)
    assert {task.data.status for task in script.client()["body"]} == {"running"}


def test_an_hour_that_comes_twice(clocked):
    """Where daylight saving ends, the lines show local time, and the store has UTC, in which no hour comes twice."""
    script, run = clocked
    last = 1_729_990_799  # 2024-10-27 00:59:59 UTC is 02:59:59 in Berlin, a second before it is two o'clock again
    shown = [run("run", clock=f"at{at}", TZ="Europe/Berlin").stdout.split()[1][:8] for at in (last, last + 1)]
    assert shown == ["02:59:59", "02:00:00"]
    created = script.sql("select substr(created_at, 1, 19) from run_summary order by run_id")
    assert created == ["2024-10-27 00:59:59", "2024-10-27 01:00:00"]


@pytest.mark.parametrize("text", ["2016-12-31T23:59:60Z", "2024-03-31T02:30:00+01:00"])
def test_texts_that_look_like_times_stay_texts(text, clocked):
    """A leap second and an hour that no clock showed are a parameter's text, as it was given."""
    script, run = clocked
    run("run", "--when", text)
    assert script.client().data.when == text
    assert script.sql("select parameters ->> '$.when' from run_summary") == [text]
