"""Cards in pages: listed with their task, and served so that a browser gives them no origin."""

from __future__ import annotations

import pytest

from flowstore.store.codecs import encode
from support.cards import card_in
from support.recording import store_with

START = "/task/F/1/start/1"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def browser(browse, path):
    """A store whose first task has a hostile card, and one with an id."""
    card_in(store_with(path, {"a": 1}), HOSTILE)
    card_in(path, "<p>fine", n=1, card_id="<id>")
    return browse(path)


def test_a_task_lists_its_cards(browser):
    """Each in a frame that may run scripts and has no origin; the page itself holds nothing of the HTML."""
    page = browser.page(START)
    assert page.count('sandbox="allow-scripts"') == 2
    assert 'src="/card/F/1/start/1/1?hash=' in page
    assert HOSTILE not in page
    assert "&lt;id&gt;" in page
    assert [(card["number"], card["id"]) for card in browser.json(f"{START}.json")["cards"]] == [(0, None), (1, "<id>")]
    assert "<iframe" not in browser.page("/task/F/1/end/2")


def test_a_card_is_served_without_an_origin(browser):
    """Whoever opens it, in a frame or in a tab of its own; it can load nothing and send nothing."""
    answer = browser.ask("/card/F/1/start/1/0")
    assert answer.text.startswith(HOSTILE)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert browser.stranger.get("/card/F/1/start/1/0").status_code == 403
    assert browser.ask("/card/F/1/start/1/1?attempt=0").text.startswith("<p>fine")
    for missing in ("/card/F/1/start/1/7", "/card/F/1/start/1/x", "/card/F/1/end/2/0", "/card/F/9/start/1/0"):
        browser.ask(missing, 404)


def test_a_card_that_is_something_else_is_not_served(browse, path):
    """A row that names a pickle, or bytes that are no text."""
    store_with(path, {"a": 1})
    card_in(path, encode(print))
    card_in(path, b"\xff\xfe", n=1)
    browser = browse(path)
    assert "is not a card" in browser.page("/card/F/1/start/1/0", 503)
    browser.page("/card/F/1/start/1/1", 400)


def test_the_cards_of_a_run(browser):
    """The newest first, each under its task; as many as are asked for."""
    page = browser.page("/cards/F/1")
    assert page.count("<iframe") == 2
    assert page.count('href="/task/F/1/start/1"') == 2
    assert 'data-every="1"' in page
    assert browser.page("/cards/F/latest?most=1&every=7").count("<iframe") == 1
    assert [card["task"] for card in browser.json("/cards/F/1.json")["cards"]] == ["F/1/start/1"] * 2
    browser.page("/cards/F/9", 404)
    assert 'href="/cards/F/1"' in browser.page("/run/F/1")


def test_a_run_without_cards(browse, path):
    """It has no link to them, and its page says how to make one."""
    browser = browse(store_with(path, {"a": 1}))
    assert "/cards/" not in browser.page("/run/F/1")
    assert "No task of this run made a card." in browser.page("/cards/F/1")
