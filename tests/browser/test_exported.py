"""An exported page in the browser: from the disk, without a network, years later."""

from __future__ import annotations

import pytest

from support.cards import card_in
from support.cli import command
from support.recording import store_with

pytestmark = [pytest.mark.browser, pytest.mark.long]

HOSTILE = """<h1>A card</h1><script>parent.document.title = "EVIL"; document.body.textContent = "RAN"</script>"""


@pytest.fixture
def exported(tmp_path):
    """A file with a run that failed, whose start has a card."""
    path = store_with(tmp_path / "flowstore.db", {"width": 12, "fails_at": "join", "attempts": 2, "x": "<script>"})
    card_in(path, HOSTILE, attempt=2)
    command("--store", path, "export", "--html", tmp_path / "out.html", "F/1")
    return tmp_path / "out.html"


@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (400, "dark")])
def test_an_exported_page_is_whole_by_itself(chromium, exported, request, width, colours):
    """Nothing is requested for, nothing runs, and a name in the timeline opens its task, with its log and card."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=colours, offline=True)
    page, requested, problems = context.new_page(), [], []
    page.on("request", lambda sent: requested.append(sent.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(exported.as_uri())
    page.locator(".timeline li", has_text="start").locator("a").click()
    start = page.locator("#r1-t1")
    start.wait_for()
    page.locator(".task", has=start).locator(".printed pre").first.wait_for()
    frame = page.frame_locator("iframe.card")
    frame.locator("h1", has_text="A card").wait_for()
    assert "RAN" not in frame.locator("body").inner_text()
    assert page.title() == "F/1 · flowstore.db · flowstore"
    assert page.locator("body").evaluate("body => body.scrollWidth <= window.innerWidth")
    if folder := request.config.getoption("screenshots"):
        page.screenshot(path=f"{folder}/exported-{width}-{colours}.png", full_page=True)
    assert [url.partition("#")[0] for url in requested] == [exported.as_uri()]
    assert problems == []
    context.close()
