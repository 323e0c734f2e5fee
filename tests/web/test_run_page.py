"""The page of one run: the error first, the way on, steps, tasks, tags and the note."""

from __future__ import annotations

import re

import pytest

import flowstore
from support.recording import store_with

CODE = "def f():\n    1 / 0\n"


@pytest.fixture
def browser(browse, path):
    """F/1 failed in its end; F/2 resumes it; F/3 has a foreach of 30."""
    runs = [
        {"fails_at": "end", "code": CODE, "parameters": {"alpha": 0.5}, "tags": ["a b"]},
        {"resumes": 1, "code": CODE, "metrics": {"accuracy": 0.75}},
        {"width": 30},
    ]
    return browse(store_with(path, *runs))


def test_the_error_comes_first(browser):
    """Of a failed run the error and the command that goes on stand above everything else."""
    page = browser.page("/run/F/1")
    main = page[page.index("<main") :]
    order = ["✕</span> failed", "ValueError: it failed", "python flow.py resume --origin-run-id 1", "a b", "alpha"]
    assert [main.index(text) for text in order] == sorted(main.index(text) for text in order)


def test_as_json(browser):
    """The data of the page has stable keys."""
    failed, resumed = browser.json("/run/F/1.json"), browser.json("/run/F/2.json")
    assert (failed["status"], failed["run"], failed["run_id"], failed["user"]) == ("failed", "F/1", "1", "tester")
    assert failed["parameters"] == {"alpha": 0.5}
    assert failed["tags"] == ["a b"]
    assert re.fullmatch(r"end/\d+: ValueError: it failed", failed["error"])
    assert [(task["status"], task["task"].split("/")[2]) for task in failed["tasks"]] == [
        ("failed", "end"),
        ("successful", "start"),
    ]
    assert [step["step"] for step in failed["steps"]] == ["start", "end"]
    assert (resumed["status"], resumed["resumes"], resumed["error"]) == ("successful", "F/1", None)
    assert resumed["note"] is None
    assert {"created_at", "duration_s", "metrics", "artifacts", "system_tags"} <= resumed.keys()


def test_a_foreach_is_folded(browser):
    """The tasks of a wide step are one row until it is opened, filtered or both."""
    tasks = r"/task/F/3/body/\d+"
    folded, opened = browser.page("/run/F/3"), browser.page("/run/F/3?expand=body")
    assert "×30" in folded
    assert re.search(tasks, folded[folded.index('id="tasks"') :]) is None
    assert len(set(re.findall(tasks, opened[opened.index('id="tasks"') :]))) == 30
    filtered = browser.json("/run/F/3.json?step=body&status=successful")
    assert len(filtered["tasks"]) == 30
    assert browser.json("/run/F/3.json?status=failed")["tasks"] == []


def test_pages_of_tasks(browse, path):
    """A long list goes on where the page before it ended, those that failed first."""
    browser = browse(store_with(path, {"width": 250}))
    seen, url = [], "?step=body"
    while url:
        page = browser.page(f"/run/F/1{url}")
        seen += re.findall(r'href="/task/F/1/body/(\d+)"', page[page.index('id="tasks"') :])
        following = re.search(r'href="(\?[^"]*)#tasks" rel="next"', page)
        url = following and following[1].replace("&amp;", "&")
    assert len(seen) == len(set(seen)) == 250


def test_tags_and_note_are_edited(browser):
    """Forms change tags and the note, and lead back to the page."""
    answer = browser.send("/run/F/1/tags", add="new & <b>")
    assert answer.headers["location"] == "/run/F/1#notes"
    browser.send("/run/F/1/tags", remove="a b")
    browser.send("/run/F/1/note", note="first\r\nsecond <script>")
    known = browser.json("/run/F/1.json")
    assert (known["tags"], known["note"]) == (["new & <b>"], "first\nsecond <script>")
    assert "<script>" not in browser.page("/run/F/1").replace('<script src="', "")
    browser.send("/run/F/1/note", note="  ")
    assert browser.json("/run/F/1.json")["note"] is None


def test_what_may_not_be_a_tag(browser):
    """A tag that is not allowed is refused with the reason, and changes nothing."""
    assert "set by flowstore alone" in browser.send("/run/F/1/tags", 400, add="user:me").text
    assert browser.json("/run/F/1.json")["tags"] == ["a b"]


@pytest.mark.parametrize("why", ["--read-only", "a stranger's"])
def test_nothing_is_edited_elsewhere(browse, path, stranger, why):
    """With --read-only, and in a store of somebody else, there are no forms, and changes are refused."""
    store_with(path, {"tags": ["a b"]})
    if why == "a stranger's":
        stranger()
    browser = browse(path, read_only=why == "--read-only")
    page = browser.page("/run/F/1")
    assert "a b" in page
    assert 'method="post"' not in page
    browser.send("/run/F/1/tags", 403, add="x")
    browser.send("/run/F/1/note", 403, note="x")


def test_code_with_numbered_lines(browser):
    """The source of a run is shown, and each line has an address."""
    page = browser.page("/code/F/1?file=flow.py")
    assert '<a id="L2" href="#L2">2</a><span>    1 / 0</span>' in page
    browser.page("/code/F/1?file=../flow.py", 404)
    browser.page("/code/F/3", 404)


def test_words_in_addresses(browser):
    """`latest` stands for the newest run, and what is missing is named."""
    assert "F/3" in browser.page("/run/F/latest")
    assert "There is no run F/99" in browser.page("/run/F/99", 404)
    assert "F/99" in browser.json("/run/F/99.json", 404)["error"]


def test_names_that_look_like_markup(browse, path):
    """Whatever is stored is text on the page, without control characters."""
    evil = '<img src=x onerror="alert(1)">\x1b]0;t\x07\u202e'
    browser = browse(
        store_with(path, {"user": evil, "tags": [evil], "parameters": {"p": evil}, "code": evil, "printed": evil})
    )
    with flowstore.open_store(path, namespace=None) as store:
        store.run("F/1").note = evil
    for url in ("/", "/?columns=p", "/run/F/1", "/code/F/1", "/flow/F", "/flows", "/?q=%3Cimg+src%3Dx&user=%3Cimg"):
        page = browser.page(url)
        assert "<img" not in page
        assert not {"\x1b", "\x07", "\u202e"} & set(page)


def test_the_page_of_a_large_run_stays_small(browse, path):
    """However many tasks there are, the page draws what a browser can show."""
    browser = browse(store_with(path, {"width": 1000}))
    small = browse(store_with(path.with_name("small.db"), {"width": 10}))
    assert len(browser.page("/run/F/1")) < 1.5 * len(small.page("/run/F/1"))
    assert len(browser.page("/run/F/1?expand=body")) < 1_500_000
