"""Attacks on the pages in a real browser: markup in all that a store can hold, hostile cards, and axe on each page."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sqlite3
from pathlib import Path

import pytest

from support.canaries import full_store, without_types
from support.cards import card_in
from support.hostile import changed
from support.recording import store_with

pytestmark = [pytest.mark.browser, pytest.mark.long]

MARKUP = (
    "</title></textarea></style></script></svg></pre><img src=x onerror=alert(1)><script>alert(1)</script>"
    "<svg onload=alert(1)><iframe srcdoc='<script>parent.fired=1</script>'></iframe><base href=//evil.example>"
    "<meta http-equiv=refresh content=0;url=//evil.example><form action=//evil.example>"
    "<input autofocus onfocus=alert(1)>"
    '" onmouseover="alert(1)" style="x:expression(1)" \'>{{7*7}}{% raw %}${7*7}javascript:alert(1)'
    "\x1b[31m\x07\x00\x9b\u202e\u2066\ufeff&lt;b&gt;&#60;"
)
NAME = MARKUP.replace("/", "|").replace("\x00", "")  # a name with a slash has no page of its own
PAGES = (
    "", "flows", "compare", "sql?q=select+*+from+run_summary", "sql?q=select+*+from+artifact_values", "search?q=alert",
    "sql?q=%3Cscript%3Ealert(1)%3C/script%3E", "search?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", "deployments",
    "run/F/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "?tag=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&columns=%3Cb%3E&plot=%3C",
    "?sort=%3Cscript%3E&user=%22autofocus%20onfocus=alert(1)%20x=%22", "docs/%3Cscript%3E", "%3Cscript%3Ealert(1)",
)  # fmt: skip
LINKS = ", ".join(f"a[href^='/{page}/']" for page in ("run", "flow", "task", "artifact", "code", "cards"))

AXE = """async () => (await axe.run({ iframes: false })).violations.map(
  one => [one.id, one.nodes.slice(0, 3).map(node => node.html.slice(0, 150))])"""
HREFS = "links => links.map(link => link.getAttribute('href').slice(1).split('#')[0])"
CARD = """<!doctype html><meta http-equiv="refresh" content="0;url=http://stranger.example/">
<base target="_top"><form id="f" action="/run/F/1/tags" method="post" target="_top">
<input name="add" value="evil"></form>
<form id="g" action="http://stranger.example/" target="_blank"></form>
<a id="a" href="/runs" target="_top" ping="/x">x</a>
<object data="/runs"></object><embed src="/runs"><iframe src="/runs"></iframe><link rel="prefetch" href="/runs">
<p id="log"></p><script>
for (const id of ["f", "g"]) try { document.getElementById(id).submit(); } catch {}
try { document.getElementById("a").click(); } catch {}
try { top.location = "http://stranger.example/"; } catch {}
try { open("http://stranger.example/"); } catch {}
try { alert(1); } catch {}
try { navigator.sendBeacon("/run/F/1/tags", "add=evil"); } catch {}
try { new WebSocket("ws://" + location.host + "/"); } catch {}
try { new Worker("/static/page.js"); } catch {}
for (let n = 0; n < 20000; n++) parent.postMessage({ type: "resize", height: 1e9, href: "//stranger.example" }, "*");
setTimeout(() => { document.getElementById("log").textContent = "all was tried"; }, 300);
</script>"""


def columns_of_text(path):
    """All columns that hold text, but those that say which rows belong together."""
    kept = {
        "store.uuid",
        "owners.proof",
        "blobs.codec",
        "runs.status",
        "tasks.status",
        "attempts.status",
        "origins.uuid",
    }
    columns = [(table, column) for table, column, kind in full_store(path) if kind == "TEXT"]
    return [(table, column) for table, column in columns if f"{table}.{column}" not in kept]


def hostile_store(path, *, names):
    """A store whose every text is markup; with `names`, those that are in addresses too, of which some are unique."""
    columns = columns_of_text(path)
    in_addresses = {"flows.name", "steps.name", "artifacts.name", "code_files.path", "run_artifacts.name"}
    values = {
        "runs.parameters": json.dumps({MARKUP: MARKUP, "b": [MARKUP]}),
        "attempts.metadata": json.dumps({MARKUP: MARKUP}),
        "deployments.tags": json.dumps([MARKUP]),
    }  # fmt: skip
    with without_types(path):
        for table, column in columns:
            name = f"{table}.{column}"
            if name == "tasks.foreach_path" or (name in in_addresses and not names):
                continue
            with contextlib.suppress(sqlite3.IntegrityError):
                changed(
                    path, (f"update or ignore {table} set {column} = ?", values.get(name, NAME if names else MARKUP))
                )
    return path


def visit_all(watched):
    """Open all pages, and each page that they lead to, once; gives their addresses."""
    watched.page.on("dialog", lambda dialog: watched.problems.append(f"a dialog: {dialog.message}"))
    watched.page.on("popup", lambda popup: watched.problems.append(f"a window: {popup.url}"))
    seen, waiting = set(), [*PAGES]
    while waiting and len(seen) < 45:
        url = waiting.pop(0)
        answer = watched.page.goto(watched.home + url)
        seen.add(url)
        assert answer.status != 500, url
        assert watched.page.url.startswith(watched.home), url
        assert (
            watched.page.locator("main script, main iframe:not(.card), base, main meta, [onerror], [onload]").count()
            == 0
        )
        assert watched.page.locator("body > *:not(a.skip):not(header):not(main)").count() == 0, url
        links = watched.page.locator(LINKS).evaluate_all(HREFS)
        waiting += [link for link in dict.fromkeys(links) if link not in seen | set(waiting)]
        refused = f"the server responded with a status of {answer.status}"  # which the browser notes
        watched.problems = [text for text in watched.problems if answer.ok or refused not in text]
    return seen


@pytest.mark.timeout(600)
@pytest.mark.parametrize("names", [False, True], ids=["texts", "names too"])
def test_markup_in_all_that_a_store_holds(visit, path, names):
    """Nothing fires, no element comes of it, no policy is broken, nothing is asked elsewhere."""
    watched = visit(hostile_store(path, names=names))
    seen = visit_all(watched)
    assert len(seen) > 20, sorted(seen)
    watched.picture(f"markup-{names}")


def test_a_card_that_tries_to_get_out(visit, path):
    """No form, link, window, message or reload of a card reaches the page around it, other pages, or another host."""
    card_in(store_with(path, {"a": 1}), CARD)
    watched = visit(path)
    asked = []
    answered = lambda response: asked.append((response.request.method, response.url))
    watched.page.on("response", answered)  # the browser tells of requests that it then refuses, too
    watched.page.on("dialog", lambda dialog: asked.append(("dialog", dialog.message)))
    watched.page.context.on("page", lambda page: asked.append(("window", page.url)))
    watched.go("task/F/1/start/1")
    frame = watched.page.frame_locator("iframe.card")
    with contextlib.suppress(Exception):  # a frame that its own reload has emptied shows nothing
        frame.locator("#log", has_text="all was tried").wait_for(timeout=3000)
    watched.page.wait_for_timeout(500)
    assert watched.page.url == f"{watched.home}task/F/1/start/1"
    assert watched.page.locator("h1").inner_text().startswith("start/1")
    assert {method for method, _ in asked} == {"GET"}, asked
    assert [url for _, url in asked if not url.startswith(watched.home)] == []
    allowed = ("/task/F/1/start/1", "/card/F/1/start/1/0", "/static/")
    assert [url for _, url in asked if not url.removeprefix(watched.home[:-1]).startswith(allowed)] == []
    watched.go("run/F/1")
    assert watched.page.get_by_text("evil").count() == 0
    watched.problems.clear()  # the browser has refused all of it, aloud


def test_a_huge_card(visit, path):
    """A card of 50 MB keeps the page around it from nothing."""
    card_in(store_with(path, {"a": 1}), "<p>begins</p><!--" + "x" * 50_000_000 + "--><p>ends</p>")
    watched = visit(path)
    watched.go("task/F/1/start/1")
    watched.page.get_by_role("heading", name="start/1").wait_for()
    watched.page.get_by_role("link", name="F", exact=True).click()
    watched.page.wait_for_url("**/flow/F")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_everybody_can_use_the_pages(visit, path, scheme, width):
    """Nothing is wrong for axe: contrast, names, roles, the order of headings."""
    package = importlib.util.find_spec("axe_core_python")
    if package is None:
        pytest.skip("axe is missing: pip install axe-core-python")
    script = Path(package.origin).with_name("axe.min.js").read_text("utf-8")
    runs = [{"width": 30, "parameters": {"a": n}, "tags": ["t"], "code": f"a = {n}\n"} for n in range(3)]
    card_in(store_with(path, *runs, {"fails_at": "end", "code": "pass\n"}), "<html lang=en><title>c</title><p>card")
    watched = visit(path, width=width, color_scheme=scheme, bypass_csp=True)
    wrong = {}
    for url in (
        "", "flows", "flow/F", "run/F/1", "run/F/4", "run/F/1?expand=body", "task/F/1/start/1",
        "artifact/F/1/end/33/done",
        "code/F/1", "cards/F/1", "compare", "compare?run=F/1&run=F/2&run=F/4", "search?q=hello", "deployments", "docs",
        "sql?q=select+*+from+run_summary", "docs/tutorial", "?columns=a&over=a&plot=a",
    ):  # fmt: skip
        watched.go(url)
        watched.page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true; })")
        watched.page.evaluate(f"{script};0")
        found = watched.page.evaluate(AXE)
        if found:
            wrong[url] = found
    assert wrong == {}
