"""`@environment`: variables are there before the flow is imported in that step's processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.cli import stop
from support.flows import COUNT_IMPORTS, FOREACH, LINEAR, METHODS, every_method, flow_source
from support.processes import alive, wait_for

pytestmark = pytest.mark.fresh


@every_method
@pytest.mark.quick("fork", "reused spawn")
def test_variables_are_there_when_the_flow_is_imported(options, flow, tmp_path):
    """What the import reads, time zones, module paths and threads follow the step's variables, and no other step's."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "shop.py").write_text("NAME = 'theirs'")
    head = """
import time
import numpy as np
np.ones((300, 300)) @ np.ones((300, 300))
MODE = os.environ.get("MODE", "none")
try:
    import shop
except ImportError:
    shop = None
def threads():
    from threadpoolctl import threadpool_info
    return [pool["num_threads"] for pool in threadpool_info() if pool["internal_api"] == "openblas"][0]
def seen(): return [MODE, time.tzname[0], getattr(shop, "NAME", None), threads()]
"""
    variables = {"MODE": "fast", "TZ": "Asia/Tokyo", "PYTHONPATH": "other", "OMP_NUM_THREADS": "1"}
    start = f"@environment(vars={variables!r})\nself.seen = seen(); self.mode = os.environ['MODE']"
    script = flow(flow_source(LINEAR, head=head, start=start, end="self.later = seen()"))
    script("run", *options, PYTHONWARNINGS="default", TZ="UTC", OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="")
    data = script.client().data
    assert data.seen == ["fast", "JST", "theirs", 1]
    assert data.mode == "fast"
    assert data.later[:3] == ["none", "UTC", None]


def test_one_import_for_each_set_of_variables(flow, tmp_path):
    """Tasks of steps with the same variables are forked from one process that has imported the flow with them."""
    same = "@environment(vars={'A': '1', 'B': '2'})\n"
    source = flow_source(
        FOREACH,
        head=COUNT_IMPORTS,
        start=same + "self.xs = range(6); self.a = os.environ['A']",
        body="@environment(vars={'B': 2, 'A': 1})\nself.mine = (os.environ['A'], os.getppid())",
        join="@environment(vars={'A': '3'})\nself.parents = {i.mine for i in inputs}; self.a = os.environ['A']",
    )
    script = flow(source)
    script("run")
    assert (tmp_path / "imported").read_text() == "xxx"  # the driver, and two sets
    assert len(script.client().data.parents) == 1
    assert script.client().data.a == "3"


def test_variables_with_a_retry(flow):
    """A task that is tried again has its variables again."""
    body = """
@environment(vars={"MODE": "fast"})
@retry(times=1, minutes_between_retries=0)
self.mode = MODE
if current.retry_count == 0: os.kill(os.getpid(), signal.SIGKILL)
"""
    script = flow(flow_source(LINEAR, head="MODE = os.environ.get('MODE')", start=body))
    script("run")
    assert script.client().data.mode == "fast"


@pytest.mark.parametrize("options", [METHODS["fork"], METHODS["spawn"]], ids=str)
def test_an_import_that_fails_with_these_variables(options, flow):
    """Where the flow can't be imported with a step's variables, its task fails with the traceback."""
    head = "if os.environ.get('MODE') == 'bad': raise ValueError('bad mode')"
    script = flow(flow_source(LINEAR, head=head, start="@environment(vars={'MODE': 'bad'})"))
    result = script("run", *options, expect=1)
    assert "ValueError: bad mode" in result.stdout
    assert "ValueError: bad mode" in script.client()["start"].task.exception.message


def test_what_the_import_prints_there(flow):
    """What the flow prints while it is imported with a step's variables is in the log of the step's first task."""
    head = "if 'MODE' in os.environ: print('imported', flush=True)"
    script = flow(flow_source(LINEAR, head=head, start="@environment(vars={'MODE': 'x'})\nprint('step')"))
    script("run")
    assert script.client()["start"].task.stdout == "imported\nstep\n"


def test_threads_that_only_these_variables_start(flow):
    """Where the import starts threads with a step's variables only, that step's tasks are spawned."""
    head = """
import threading
ready = threading.Event()
if "MODE" in os.environ:
    def work():
        while True: ready.set(); time.sleep(0.01)
    threading.Thread(target=work, daemon=True).start()
"""
    body = "@environment(vars={'MODE': 'x'})\nready.clear(); self.mine = ready.wait(20)"
    script = flow(
        flow_source(
            FOREACH,
            head=head + COUNT_IMPORTS,
            start="self.xs = range(2)",
            body=body,
            join="self.all = [i.mine for i in inputs]",
        )
    )
    script("run")
    assert script.client().data.all == [True, True]


def test_folders_of_that_import(flow):
    """A temporary folder of an import with a step's variables lasts for all its tasks, and goes with the run."""
    head = "from tempfile import TemporaryDirectory\nHELD = TemporaryDirectory()"
    body = "@environment(vars={'MODE': 'x'})\nself.there = Path(HELD.name).exists(); self.folder = HELD.name"
    source = flow_source(
        FOREACH,
        head=head,
        start="self.xs = range(3)",
        body=body,
        join="self.all = [i.there for i in inputs]; [self.folder] = {i.folder for i in inputs}",
    )
    script = flow(source)
    script("run", PYTHONWARNINGS="default")
    assert script.client().data.all == [True] * 3
    assert not Path(script.client().data.folder).exists()


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_they_end_with_the_run(how, flow):
    """The process that imported with a step's variables, and what it has forked, end with the driver."""
    start = (
        "@environment(vars={'MODE': 'x'})\nPath('pids').write_text(f'{os.getpid()} {os.getppid()}'); time.sleep(300)"
    )
    script = flow(flow_source(LINEAR, start=start))
    pids = script.folder / "pids"
    with script.start("run") as process:
        found = [int(pid) for pid in wait_for(lambda: pids.exists() and pids.read_text()).split()]
        found.append(int(Path(f"/proc/{found[1]}/stat").read_text().rpartition(")")[2].split()[1]))
        stop(process, getattr(signal, how))
    assert os.getpid() not in found
    wait_for(lambda: not any(map(alive, found)))
    script("list", "runs")  # which settles what a killed driver left


def test_an_import_that_hangs_can_be_stopped(flow):
    """A run whose step waits for an import that never ends is stopped by Ctrl-C, and by the step's timeout."""
    head = "if 'MODE' in os.environ: time.sleep(300)"
    script = flow(flow_source(LINEAR, head=head, start="@environment(vars={'MODE': 'x'})\n@timeout(seconds=1)"))
    result = script("run", expect=1)
    assert "longer than its timeout" in result.stdout
    script.rewrite(flow_source(LINEAR, head=head, start="@environment(vars={'MODE': 'x'})"))
    with script.start("run") as process:
        wait_for(lambda: script.sql("select count(*) from tasks") == [2])
        assert stop(process).code == 130


@pytest.mark.parametrize("options", [METHODS["fork"], METHODS["spawn"]], ids=str)
def test_variables_from_the_command_line(options, flow):
    """`--with environment:vars=…` sets variables for every step, before the flow is imported."""
    script = flow(flow_source(LINEAR, head="MODE = os.environ.get('MODE')", start="self.x = MODE", end="self.y = MODE"))
    script("run", *options, "--with", 'environment:vars={"MODE": "fast"}')
    assert (script.client().data.x, script.client().data.y) == ("fast", "fast")
