"""A person at what tasks have left: logs, frames, arrays, trees and pictures."""

from __future__ import annotations

import pytest

from support.cli import Script
from support.flows import LINEAR, flow_source
from support.stores import make_store

pytestmark = [pytest.mark.browser, pytest.mark.long]

RESULTS = """
for n in range(1200):
    print('epoch', n)
print('the needle is here', file=sys.stderr)
self.frame = pd.DataFrame({'n': range(500), 'word': ['a', 'b'] * 250}, index=[f'r{n}' for n in range(500)])
self.figure, axes = plt.subplots()
axes.plot([1, 2, 3])
self.settings = {'model': {'layers': [{'units': n} for n in range(300)]}, 'note': 'x' * 1000}
self.text = 'one line' + chr(10) + '<script>alert(1)</script>'
"""
HEAD = """
import sys
import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import pandas as pd
from flowstore.store import pictures
pictures.LONGEST_S = 30.0  # on a busy machine
"""
WAITING = """
for n in range(300):
    print('line', n)
print('waiting', flush=True)
while not Path('go on').exists():
    time.sleep(0.05)
print('went on')
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A store with a run that has left something of each kind."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSTORE_HOME", str(folder / "home"))
        script = Script(folder, flow_source(LINEAR, head=HEAD, start=RESULTS))
        script("run")
    return script.db


@pytest.mark.parametrize(("width", "color_scheme"), [(1280, "light"), (400, "dark")])
def test_a_log_is_searched_and_downloaded(visit, results, width, color_scheme):
    """A match leads to the lines around it; the download has all lines."""
    watched = visit(results, width=width, color_scheme=color_scheme)
    page = watched.page
    watched.go("/task/F/1/start/1")
    assert page.locator("#log .line").last.inner_text() == "the needle is here"
    assert page.locator("#log").evaluate("box => Math.abs(box.scrollTop) < 2 && box.scrollHeight > box.clientHeight")
    watched.picture(f"task-{width}")
    page.get_by_label("Search the log").fill("NEEDLE")
    page.get_by_label("Search the log").press("Enter")
    page.wait_for_url("**q=NEEDLE**")
    [line] = page.locator("#log .line").all()
    assert line.inner_text().split() == ["1201", "the", "needle", "is", "here"]
    watched.picture(f"task-search-{width}")
    line.locator("a").click()
    page.wait_for_url("**line=1201**")
    assert "epoch 1199" in page.locator("#log").inner_text()
    page.get_by_role("link", name="end of the log").click()
    page.get_by_role("link", name="earlier lines").click()
    page.wait_for_url("**before=**")
    assert "epoch 500" in page.locator("#log").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all").click()
    assert download.value.path().read_text().count("\n") == 1201
    page.get_by_label("stream").select_option("stderr")
    page.wait_for_url("**stream=stderr**")


def test_a_task_is_watched(flow, visit):
    """New lines are added at the end, which stays in view; who reads further up keeps their place."""
    script = flow(flow_source(LINEAR, start=WAITING))
    with script.start("run") as run:
        while not script.db.exists() or "waiting" not in "".join(script.sql("select text from log_chunks")):
            assert run.poll() is None
        watched = visit(script.db)
        page = watched.page
        watched.go("/task/F/1/start/1")
        page.locator("#head .state.running").wait_for()
        page.locator("#log").get_by_text("waiting").wait_for()
        watched.picture("task-running")
        (script.folder / "go on").touch()
        page.locator("#log").get_by_text("went on").wait_for()
        assert page.locator("#log").evaluate("box => Math.abs(box.scrollTop) < 2")
        page.locator("#head .state.successful").wait_for()
        assert run.wait(60) == 0
        run.communicate()


@pytest.mark.parametrize(("width", "color_scheme"), [(1280, "dark"), (400, "light")])
def test_artifacts_are_looked_at(visit, results, width, color_scheme):
    """A frame page by page, a picture, a tree that is unfolded, text; each can be downloaded."""
    watched = visit(results, width=width, color_scheme=color_scheme)
    page = watched.page
    watched.go("/task/F/1/start/1")
    page.locator("#results").get_by_role("link", name="frame", exact=True).click()
    page.get_by_role("heading", name="frame", exact=True).wait_for()
    page.get_by_role("link", name="next").first.click()
    page.wait_for_url("**page=2**")
    assert page.locator("table.data tbody tr").first.inner_text().split() == ["50", "r50", "50", "a"]
    watched.picture(f"frame-{width}")
    with page.expect_download() as download:
        page.get_by_role("link", name="or .csv").click()
    assert download.value.path().read_text().splitlines()[:2] == [",n,word", "r0,0,a"]
    watched.go("/artifact/F/1/start/1/figure")
    image = page.get_by_role("img", name="Picture of figure")
    assert image.evaluate("image => image.complete && image.naturalWidth") == 640
    watched.picture(f"figure-{width}")
    watched.go("/artifact/F/1/start/1/settings")
    page.get_by_text("layers", exact=True).click()
    page.get_by_role("link", name="all 300").click()
    page.get_by_role("link", name="last").first.click()
    page.wait_for_url("**page=3**")
    assert "299" in page.locator(".tree").first.inner_text()
    page.get_by_role("navigation", name="Parts").get_by_role("link", name="settings").click()
    page.get_by_role("link", name="whole text").click()
    assert page.locator("pre.value").inner_text() == "x" * 1000
    watched.picture(f"tree-{width}")
    watched.go("/artifact/F/1/start/1/text")
    assert page.locator("pre.value").inner_text() == "one line\n<script>alert(1)</script>"
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_results_without_a_script(visit, path):
    """A tree unfolds, and the log is shown."""
    watched = visit(make_store(path), javascript=False)
    watched.go("/artifact/F/1/end/1/x")
    assert "0.5" in watched.page.locator(".tree").inner_text()
    watched.go("/task/F/1/end/1")
    watched.page.get_by_text("Nothing was printed.").wait_for()
