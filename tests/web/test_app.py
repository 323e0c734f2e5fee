"""Routes, forms of pages, live updates, and pages of errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading

import pytest

import flowstore
from flowstore.web.app import VERSION
from support.recording import add_run, store_with
from support.stores import make_store, names_beside
from support.web import HOST


def live(browser, url, version):
    """The answer to a page that asks for itself again; gives its code and the version that it shows."""
    answer = browser.stranger.get(url, headers={**browser.headers, VERSION: version})
    return answer.status_code, answer.headers.get(VERSION, version)


def test_a_page_is_html_and_json(browse, path):
    """The same object is a page, and with `.json` data."""
    browser = browse(make_store(path, runs=2))
    assert "F/2" in browser.page("/")
    assert "F/1" in browser.page("/runs")
    assert [run["run"] for run in browser.json("/runs.json")["runs"]] == ["F/2", "F/1"]
    browser.close()
    assert names_beside(path) == [path.name]


def test_numbers_without_a_json_form(browse, path):
    """What JSON has no form for is null, so that every program can read it."""
    browser = browse(store_with(path, {"parameters": {"p": float("nan")}}))
    assert json.loads(browser.page("/run/F/1.json"), parse_constant=pytest.fail)["parameters"]


def test_unchanged_pages_are_not_sent_again(browse, path):
    """A page that asks with the version that it shows is answered 204 until somebody commits something."""
    browser = browse(make_store(path))
    code, version = live(browser, "/", "-")
    assert code == 200
    assert live(browser, "/", version) == (204, version)
    with flowstore.open_store(path, namespace=None) as store:
        store.run("F/1").note = "elsewhere"
    code, newer = live(browser, "/", version)
    assert code == 204, "what is shown did not change"
    assert newer != version
    with flowstore.open_store(path, namespace=None) as store:
        store.run("F/1").add_tag("seen")
    assert live(browser, "/", newer)[0] == 200


def test_own_changes_are_seen(browse, path):
    """A change by one page shows on all that are open."""
    browser = browse(make_store(path))
    _, version = live(browser, "/", "-")
    browser.send("/run/F/1/tags", add="new")
    assert live(browser, "/", version)[0] == 200


@pytest.mark.parametrize(
    "url", ["/nothing", "/run/F/99", "/run/F/x", "/run/G/1", "/flow/G", "/run/F/1/nothing", "/static/x"]
)
def test_what_is_not_there(browse, path, url):
    """A page says that it is not there; as JSON too."""
    browser = browse(make_store(path))
    assert "<h1>Not found</h1>" in browser.page(url, 404)
    assert browser.json(f"{url}.json", 404)["error"]


def test_other_methods(browse, path):
    """HEAD is answered as GET without the text; other methods are refused with a page."""
    browser = browse(make_store(path))
    answer = browser.stranger.head("/", headers=browser.headers)
    assert (answer.status_code, answer.content) == (200, b"")
    for method in ("PUT", "DELETE", "POST"):
        answer = browser.stranger.request(method, "/", headers={**browser.headers, "origin": HOST})
        assert (answer.status_code, "<h1>" in answer.text) == (405, True)


def test_too_large_a_form(browse, path):
    """A form of more than a megabyte is refused."""
    browser = browse(make_store(path))
    assert "at most 1 MiB" in browser.send("/run/F/1/note", 413, note="x" * 2_000_000).text
    assert "at most 10,000 characters" in browser.send("/run/F/1/note", 400, note="x" * 10_001).text


def test_an_empty_store_says_what_fills_it(browse, path):
    """Without runs, the first page shows the command that makes some."""
    browser = browse(store_with(path))
    assert f"flowstore demo --store {path}" in browser.page("/")
    assert browser.json("/runs.json")["runs"] == []
    assert browser.page("/flows")


def test_a_store_that_is_removed_and_replaced(browse, path):
    """A store that goes away under its page is named, and one that comes instead is shown."""
    browser = browse(make_store(path))
    other = make_store(path.with_name("other.db"), runs=3)
    assert "F/1" in browser.page("/")
    path.unlink()
    assert "There is no store at" in browser.page("/", 503)
    assert "There is no store at" in browser.json("/runs.json", 503)["error"]
    shutil.copy(other, path)
    assert "F/3" in browser.page("/")
    browser.close()
    assert names_beside(path) == [path.name]


def test_a_store_that_is_damaged(browse, path):
    """A file that is no store any more is named with what to do."""
    browser = browse(make_store(path))
    path.unlink()
    path.write_bytes(b"not a store at all" * 1000)
    assert "is not a flowstore store" in browser.page("/", 503)


def test_a_read_only_file(browse, path):
    """A file that can't be written is looked at, leaves no file beside it, and offers no change."""
    make_store(path)
    path.chmod(0o400)
    if os.access(path, os.W_OK):
        pytest.skip("the superuser may write every file")
    browser = browse(path)
    assert 'method="post"' not in browser.page("/run/F/1")
    browser.close()
    assert names_beside(path) == [path.name]


def test_many_browsers_beside_a_writer(browse, path):
    """Fifty browsers at once see whole pages while runs are written, and nothing is lost."""
    browser = browse(make_store(path, runs=3))
    codes = []

    def ask(url):
        codes.append(browser.stranger.get(url, headers=browser.headers).status_code)

    urls = ["/", "/run/F/1", "/run/F/2.json", "/flow/F", "/flows"] * 10
    threads = [threading.Thread(target=ask, args=(url,)) for url in urls]
    store = flowstore.open_store(path, namespace=None)
    for n, thread in enumerate(threads):
        thread.start()
        if n % 10 == 0:
            add_run(store._scope.store)
    for thread in threads:
        thread.join()
    store.close()
    assert codes == [200] * 50
    assert len(browser.json("/runs.json")["runs"]) == 8
    browser.close()
    assert names_beside(path) == [path.name]


def test_the_list_goes_on(browse, path):
    """Filters, order and columns are in the URL, and so is where a page begins."""
    runs = [{"parameters": {"alpha": n}, "tags": ["even"] if n % 2 == 0 else []} for n in range(7)]
    browser = browse(store_with(path, *runs, {"flow": "G", "fails_at": "start"}))
    first = browser.json("/runs.json?flow=F&sort=-alpha&limit=3")
    assert [run["parameters"]["alpha"] for run in first["runs"]] == [6, 5, 4]
    params = {"flow": "F", "sort": "-alpha", "limit": 3, "after": first["after"]}
    following = browser.ask("/runs.json", params=params).json()
    assert [run["parameters"]["alpha"] for run in following["runs"]] == [3, 2, 1]
    assert len(browser.json("/runs.json?tag=even")["runs"]) == 4
    assert [run["run"] for run in browser.json("/runs.json?status=failed")["runs"]] == ["G/8"]
    wrong = browser.stranger.get("/runs.json?status=faild", headers=browser.headers)
    assert (wrong.status_code, "'faild' is not a status" in wrong.text) == (400, True)
    assert browser.json("/runs.json?since=1h&user=nobody")["runs"] == []
    assert "is not a duration" in browser.page("/?since=soon", 400)
    page = browser.page("/?columns=alpha&over=alpha")
    assert page.count('href="/run/F/') == 14, "each run in the table and in the plot"


def test_a_flow(browse, path):
    """A flow has its graph, its runs and its deployments."""
    browser = browse(store_with(path, {}, {}, {"flow": "G"}))
    assert [run["run"] for run in browser.json("/flow/F.json")["runs"]] == ["F/2", "F/1"]
    assert [run["flow"] for run in browser.json("/flows.json")["runs"]] == ["F", "G"]
    assert "G/3" not in browser.page("/flow/F")


def test_the_documentation(browse, path):
    """Every page of the documentation is shown, its links lead to pages, and nothing else of the disk does."""
    browser = browse(make_store(path))
    seen, open_pages = set(), ["/docs"]
    while open_pages:
        url = open_pages.pop()
        page = browser.page(url)
        assert "<h1" in page
        assert "style=" not in page
        seen.add(url)
        links = {link.partition("#")[0] for link in re.findall(r'href="(/docs/[^"]*)"', page)}
        open_pages += links - seen - set(open_pages)
    assert {"/docs/tutorial", "/docs/commands", "/docs/file-format"} <= seen
    assert browser.json("/docs/tutorial.json")["text"].startswith("#")
    for name in ("../errors.py", "%2e%2e/errors", "/etc/passwd", "write_commands", "images%2F..%2Findex"):
        browser.ask(f"/docs/{name}", 404)
