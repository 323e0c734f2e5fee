"""A person at the pages: from the printed address to a run that goes on now, its foreach, tags and note."""

from __future__ import annotations

import re

import pytest

from flowstore.store import opening
from support.flows import FOREACH, flow_source
from support.recording import add_run, store_with
from support.stores import make_store

pytestmark = [pytest.mark.browser, pytest.mark.long]

HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
WAITING = """
while not Path('go on').exists():
    time.sleep(0.05)
"""


def test_the_printed_address_opens_the_runs(visit, path):
    """Whoever opens the address that was printed sees the runs, and the address loses its token."""
    watched = visit(make_store(path, runs=2))
    assert watched.page.url == watched.home
    watched.page.get_by_role("link", name="F/2", exact=True).click()
    watched.page.get_by_role("heading", name="F/2").wait_for()


def test_runs_are_filtered_sorted_and_plotted(visit, path):
    """Filters, order, columns and the plot are in the address, and the address alone brings them back."""
    runs = [{"parameters": {"alpha": n}, "tags": ["even"] if n % 2 == 0 else []} for n in range(6)]
    watched = visit(store_with(path, *runs, {"flow": "G", "fails_at": "start"}))
    page = watched.page
    page.get_by_label("state").select_option("failed")
    page.wait_for_url("**status=failed**")
    assert page.locator("#runs tbody tr").count() == 1
    watched.go("/")
    page.get_by_label("tag", exact=True).fill("even")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**tag=even**")
    assert page.locator("#runs tbody tr").count() == 3
    page.locator("#columns summary").click()
    page.locator("#columns").get_by_label("alpha").check()
    page.get_by_role("button", name="Show these columns").click()
    page.wait_for_url("**columns=alpha**")
    page.locator("#plot svg").wait_for()
    page.get_by_role("link", name="alpha", exact=True).click()
    page.wait_for_url("**sort=**alpha**")
    watched.picture("runs")
    page.reload()
    assert page.locator("#runs tbody tr td:nth-child(2)").all_inner_texts() == ["F/5", "F/3", "F/1"]


def test_a_run_is_seen_to_finish(flow, visit):
    """The page of a run that goes on shows how it ends, without being opened again, and keeps what was opened in it."""
    script = flow(flow_source(FOREACH, start="self.xs = [*range(12)]", body=WAITING))
    with script.start("run", "--max-num-splits", "20") as run:
        while not script.db.exists() or script.counts(where="status = 'running'").get("body", 0) == 0:
            assert run.poll() is None
        watched = visit(script.db)
        page = watched.page
        page.get_by_role("link", name="F/1", exact=True).click()
        page.locator("#head .state.running").wait_for()
        page.locator("#steps-table summary").click()
        watched.picture("run-running")
        (script.folder / "go on").touch()
        page.locator("#head .state.successful").wait_for()
        page.locator("#steps-table[open]").wait_for()
        assert page.title().startswith("F/1")
        watched.picture("run-finished")
        assert run.wait(60) == 0
        run.communicate()
    page.locator("#tasks").get_by_role("link", name=re.compile("body")).click()
    page.wait_for_url("**expand=body**")
    assert page.locator("#tasks a[href^='/task/F/1/body/']").count() == 12
    watched.picture("run-expanded")


def test_tags_and_note_are_edited(visit, path):
    """Tags are added and removed, and a note is written, each with a form."""
    watched = visit(store_with(path, {"tags": ["first"], "fails_at": "end", "code": "pass\n"}))
    page = watched.page
    watched.go("/run/F/1")
    page.get_by_label("New tag").fill("second")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="second", exact=True).wait_for()
    page.get_by_role("button", name="Remove the tag first").click()
    page.get_by_role("link", name="first", exact=True).wait_for(state="detached")
    page.get_by_text("Add a note").click()
    page.get_by_label("Note").fill("It failed.\nTry again.")
    page.get_by_role("button", name="Save").click()
    page.locator(".note").get_by_text("Try again.").wait_for()
    watched.picture("run-failed")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window(visit, path, scheme):
    """No page is wider than a narrow window."""
    long = "a_step_with_a_long_name_" * 3
    runs = [{"width": 30, "user": long, "tags": ["t" * 300], "parameters": {long: long * 5}}, {"fails_at": "end"}]
    watched = visit(store_with(path, *runs), width=400, color_scheme=scheme)
    for name, url in (
        ("runs", "/"),
        ("run", "/run/F/1"),
        ("failed", "/run/F/2"),
        ("flow", "/flow/F"),
        ("flows", "/flows"),
    ):
        watched.go(url)
        watched.picture(f"narrow-{scheme}-{name}")
        assert watched.page.evaluate("() => document.documentElement.scrollWidth") <= 400, url


def test_without_a_script(visit, path):
    """Everything but live updates works in a browser that runs no script."""
    watched = visit(store_with(path, {"width": 30}), javascript=False)
    page = watched.page
    watched.go("/run/F/1")
    page.locator("#tasks").get_by_role("link", name=re.compile("body")).click()
    page.wait_for_url("**expand=body**")
    page.get_by_label("New tag").fill("plain")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("link", name="plain", exact=True).wait_for()
    page.locator("#tasks").get_by_label("state").select_option("failed")
    page.locator("#tasks").get_by_role("button", name="Filter").click()
    page.get_by_text("No such task.").wait_for()


def test_the_keyboard_alone(visit, path):
    """The first stop of the keyboard leads to the page, and every control can be reached."""
    watched = visit(make_store(path))
    page = watched.page
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to content"
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.locator(":focus").get_attribute("href") == "/run/F/1":
            break
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="F/1").wait_for()


def test_runs_are_compared_searched_and_asked_about(visit, path):
    """Three runs are chosen in the list and compared; a log is found by a text; SQL leads to a run and to a file."""
    runs = [
        {"parameters": {"alpha": n, "beta": 1}, "code": f"a = {n}\n", "printed": f"line {n} of it\n"} for n in range(4)
    ]
    watched = visit(store_with(path, *runs))
    page = watched.page
    watched.go("/compare")
    for run in ("F/1", "F/2", "F/4"):
        page.get_by_label(run, exact=True).check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("heading", name="3 runs side by side").wait_for()
    assert page.get_by_role("row", name="alpha").locator("td").all_inner_texts() == ["3", "1", "0"]
    assert page.get_by_role("row", name="beta").count() == 0
    page.get_by_role("link", name="also what is the same").click()
    page.get_by_role("row", name="beta").first.wait_for()
    assert page.locator(".diff .added").all_inner_texts() == ["+a = 1", "+a = 0"]
    watched.picture("compare")
    page.get_by_role("link", name="Without F/1").click()
    page.get_by_role("heading", name="2 runs side by side").wait_for()

    page.get_by_role("searchbox", name="Search the store").fill("LINE 2 OF")
    page.keyboard.press("Enter")
    page.get_by_text("All runs were looked at: 4.").wait_for()
    assert page.locator("mark").all_inner_texts() == ["line 2 of"]
    watched.picture("search")

    page.get_by_role("link", name="SQL", exact=True).click()
    page.get_by_role("textbox", name="Question in SQL").fill("select flow, run_id from run_summary where run_id = 3")
    page.get_by_role("button", name="Ask").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "flowstore.csv"
    watched.picture("sql")
    page.get_by_role("link", name="3", exact=True).click()
    page.get_by_role("heading", name="F/3").wait_for()


def test_a_live_page_keeps_what_somebody_does(visit, path):
    """A list that is replaced while somebody uses it keeps what is checked, and where the focus is."""
    watched = visit(make_store(path, runs=2))
    page = watched.page
    page.get_by_label("Compare F/1").check()
    page.get_by_role("link", name="F/1", exact=True).focus()
    store = opening.open_store(path)
    add_run(store)
    store.close()
    page.get_by_role("link", name="F/3", exact=True).wait_for()
    assert page.get_by_label("Compare F/1").is_checked()
    assert page.locator(":focus").inner_text() == "F/1"
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare?run=F%2F1")


def test_a_hidden_tab_rests(visit, path):
    """A page that nobody sees asks for nothing; it goes on when it is seen again."""
    watched = visit(make_store(path))
    page, requests = watched.page, []
    with page.expect_response(lambda response: response.status == 204):
        pass
    page.evaluate(HIDE, True)
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(2500)
    assert len(requests) <= 1, "one may have been on its way"
    with page.expect_response(lambda response: response.status == 204):
        page.evaluate(HIDE, False)


def test_the_end_of_the_server_is_seen(visit, path):
    """A page whose server was stopped says so by its look, and asks on."""
    watched = visit(make_store(path))
    watched.page.route("**/*", lambda route: route.abort())
    watched.page.locator("html.stale").wait_for(state="attached")
    watched.page.unroute("**/*")
    watched.page.locator("html:not(.stale)").wait_for(state="attached")
    watched.problems.clear()  # the browser has noted what it could not load
