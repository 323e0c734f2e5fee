"""The page of a task: its error, its attempts, its log, what it has set."""

from __future__ import annotations

import itertools
import time
from urllib.parse import quote

import pytest

from flowstore.client import logs, open_store
from flowstore.store import opening, records
from support.recording import store_with
from support.stores import NEW_RUN, task_with

TASK = "/task/F/1/end/1"


@pytest.fixture
def printed(browse, path):
    """A task that has printed chunks of `(stream, text)`, in a browser."""

    def of(*chunks, status="successful"):
        store = opening.ensure_store(path)
        task_with(store, x=1)
        with store.write() as db:
            rows = [(1, stream, 1_700_000_000_000 + n, text) for n, (stream, text) in enumerate(chunks)]
            db.executemany("insert into log_chunks (log_id, stream, written_at, text) values (?, ?, ?, ?)", rows)
        store.close()
        return browse(path)

    return of


def lines_of(browser, query=""):
    """The lines of a log that a page shows, with their numbers."""
    return [(line["number"], line["text"]) for line in browser.json(f"{TASK}.json{query}")["log"]]


def test_a_task_that_failed_says_why_first(browse, path):
    """Its error, each attempt with its own, what is known of it, the tasks before and after."""
    browser = browse(store_with(path, {"width": 3, "fails_at": "body", "attempts": 2, "a": {"x": 1}}))
    data = browser.json("/task/F/1/body/2.json")
    assert (data["status"], data["parents"], len(data["attempts"])) == ("failed", ["F/1/start/1"], 2)
    assert data["error"] == data["attempts"][1]["error"]
    page = browser.page("/task/F/1/body/2")
    assert page.index(data["exception"]["type"]) < page.index('id="output"') < page.index('id="results"')
    assert 'href="?attempt=0"' in page
    assert 'href="/task/F/1/start/1"' in page
    assert browser.json("/task/F/1/body/2.json?attempt=0")["attempt"] == 0
    browser.page("/task/F/1/body/2?attempt=7", 404)


def test_where_an_attempt_ran(browse, path):
    """The page of a task and the timeline of its run name the machine where that is not the run's own."""
    store_with(path, {"width": 3, "fails_at": "body", "attempts": 2})
    store = opening.ensure_store(path)
    with store.write() as db:
        db.execute("update attempts set ran_on = case number when 0 then 'node7' else 'node<8>' end")
    store.close()
    browser = browse(path)
    assert browser.json("/task/F/1/body/2.json?attempt=0")["host"] == "node7"
    assert "<b>on</b>node&lt;8&gt;" in browser.page("/task/F/1/body/2")
    page = browser.page("/run/F/1")
    assert ", on node7" in page
    assert "on node&lt;8&gt;" in page
    assert "node<8>" not in page


def test_what_a_task_has_set_is_apart_from_what_it_inherits(browse, path):
    """With previews; metrics as numbers."""
    browser = browse(store_with(path, {"width": 2, "a": {"x": 1.5}}))
    page = browser.page("/task/F/1/body/2")
    assert (
        page.index('href="/artifact/F/1/body/2/y"') < page.index("1 inherited") < page.index("/artifact/F/1/body/2/a")
    )
    data = browser.json("/task/F/1/start/1.json")
    assert [row["name"] for row in data["artifacts"]] == ["a"]


def test_the_end_of_a_log_is_shown_and_the_rest_in_pages(printed):
    """Each line once, in order, whatever the size of the chunks."""
    text = "".join(f"line {n}\n" for n in range(1, 3001))
    cuts = [0, 5, 5000, 5003, 20_000, len(text)]
    browser = printed(*(("stdout", text[a:b]) for a, b in itertools.pairwise(cuts)))
    assert lines_of(browser)[-1] == (None, "line 3000")
    task = open_store(browser.path, namespace=None).find("F/1/end/1")
    seen, end = [], None
    while True:
        page = logs.page_before(task, None, end)
        seen[:0] = [line.text for line in page.lines]
        if page.earlier is None:
            break
        end = page.earlier
        assert f"after={end}" in browser.page(f"{TASK}?before={end}")
    assert "".join(f"{line}\n" for line in seen).replace("\n", "") == text.replace("\n", "")
    seen, start = [], logs.Position(0, 0)
    while start is not None:
        page = logs.page_after(task, None, start)
        seen += [line.text for line in page.lines]
        start = page.later
    assert "".join(seen) == text.replace("\n", "")
    assert lines_of(browser, "?after=0.0")[0] == (1, "line 1")
    task._store.close()


def test_a_short_log_is_whole_with_its_numbers(printed):
    """Streams in order; a line that comes in two parts is one."""
    browser = printed(("stdout", "one\ntw"), ("stderr", "oh\n"), ("stdout", "o\r2\nend"))
    assert lines_of(browser) == [(1, "one"), (2, "oh"), (3, "2"), (4, "end")]
    assert lines_of(browser, "?stream=stderr") == [(1, "oh")]
    assert "22:13:20" in browser.page(f"{TASK}?timestamps=1")
    browser.page(f"{TASK}?stream=stdin", 404)
    assert browser.ask(f"{TASK}?download=log").text == "one\ntwoh\no\r2\nend"
    assert "F-1-end-1-0.log" in browser.ask(f"{TASK}?download=log").headers["content-disposition"]


def test_a_log_is_searched(printed):
    """Lines that match in any case, with their numbers, which lead to the lines around."""
    browser = printed(("stdout", "".join(f"line {n}\n" for n in range(1, 1001))), ("stderr", "An ERROR\n"))
    assert lines_of(browser, "?q=error") == [(1001, "An ERROR")]
    assert [number for number, _ in lines_of(browser, "?q=LINE+99")] == [99, *range(990, 1000)]
    page = browser.page(f"{TASK}?q=error")
    assert 'href="?line=1001#L1001"' in page
    assert "1 line matches" in page
    assert "No line matches" in browser.page(f"{TASK}?q=nowhere")
    around = lines_of(browser, "?line=500")
    assert (around[0], around[-1]) == ((376, "line 376"), (625, "line 625"))
    assert "there may be more" in browser.page(f"{TASK}?q=line")


def test_a_log_is_text(printed):
    """Markup is escaped, control characters are dropped, a long line is cut."""
    browser = printed(("stdout", "<script>alert(1)</script>\x1b[2J\u202e\n" + "x" * 100_000 + "\n"))
    page = browser.page(TASK)
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "100,000 characters" in page
    assert len(page) < 20_000


@pytest.mark.long
def test_a_log_of_100_mb_is_calm(printed):
    """Its end in no time and in a small page; a search, and all of it, in a few seconds."""
    lines = "".join(f"{n:09} the quick brown fox jumps over the lazy dog\n" for n in range(1200))
    browser = printed(*([("stdout", lines)] * 1700), ("stdout", "the needle\n"))
    browser.page("/")
    begun = time.monotonic()
    page = browser.page(TASK)
    assert (len(page) < 200_000, time.monotonic() - begun < 1) == (True, True)
    [(number, _)] = lines_of(browser, "?q=NEEDLE")
    assert number == 1700 * 1200 + 1
    with browser.stranger.stream("GET", f"{TASK}?download=log", headers=browser.headers) as answer:
        assert sum(map(len, answer.iter_raw())) == 1700 * len(lines) + 11


def test_a_task_that_runs_is_shown_as_it_goes(browse, path):
    """Unchanged data is not sent again; a new line is."""
    store = opening.ensure_store(path)
    with store.write() as db:
        run_id = records.create_run(db, NEW_RUN)
        step_id = records.ensure_step(db, run_id, "end")
        task_id = records.start_task(db, records.NewTask(run_id, step_id, (), None, None))
        records.start_attempt(db, task_id, 0)
    browser = browse(path)
    answer = browser.ask(TASK)
    assert "data-live" in answer.text
    version = {"x-flowstore-version": answer.headers["x-flowstore-version"]}
    assert browser.ask(TASK, 204, **version).text == ""
    with store.write() as db:
        db.execute("insert into log_chunks (log_id, stream, written_at, text) values (1, 'stdout', 1, 'new line\n')")
    store.close()
    assert "new line" in browser.ask(TASK, **version).text


HOSTILE = "<img src=x onerror=alert(1)>\x1b]0;x\x07\u202e" + "long " * 3000


def test_stored_text_is_only_text(browse, path):
    """Items, errors, tracebacks, previews, types, names and hosts: nothing becomes markup, or is endless."""
    browse_at = store_with(path, {"width": 2, "fails_at": "body", "a": 1})
    store = opening.open_store(path)
    with store.write() as db:
        db.execute("update tasks set item = ?", (HOSTILE,))
        db.execute("update attempts set error_type = ?, error_message = ?, traceback = ?", (HOSTILE,) * 3)
        db.execute("update blobs set type = ?, preview = ?", (HOSTILE, HOSTILE))
        db.execute("update artifacts set name = ?", (HOSTILE[:60],))
        db.execute("update runs set host = ?", (HOSTILE[:100],))
    store.close()
    browser = browse(browse_at)
    for url in ("/task/F/1/body/2", "/task/F/1/start/1"):
        page = browser.page(url)
        assert "<img src=x" not in page
        assert "\x1b" not in page
        assert "\u202e" not in page
        assert len(page) < 150_000
    [row] = browser.json("/task/F/1/start/1.json")["artifacts"]
    page = browser.page(f"/artifact/F/1/start/1/{quote(row['name'], safe='')}")
    assert "<img src=x" not in page
    assert "onerror" in page


@pytest.mark.long
def test_a_task_of_a_large_run_is_as_quick(browse, path):
    """One that opened a foreach of 10,000, one of them, and the join."""
    browser = browse(store_with(path, {"width": 10_000, "a": 1}))
    browser.page("/")
    for url in ("start/1", "body/5000", "join/10002"):
        begun = time.monotonic()
        page = browser.page(f"/task/F/1/{url}")
        assert time.monotonic() - begun < 1
        assert len(page) < 30_000
