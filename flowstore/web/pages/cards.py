"""The cards of a run, and one card by itself, which is served so that a browser gives it no origin."""

from __future__ import annotations

from flowstore.client import Run, cards
from flowstore.errors import NotFound
from flowstore.web.pages import Download, Page, View
from flowstore.web.pages.task import at_attempt

_MOST = 30  # cards on a page
_LARGEST = 1000

# What a browser lets a card do: show itself. It has no origin, so it reaches neither our pages nor its parent, even in
# a tab of its own. Scripts of the user's own types of cards run, and can ask for nothing.
_CARD_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "font-src data:; media-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)

# Follows each card, and says how high it is, so that page.js makes its frame as high. A card that fills its window is
# resized by that, which is not said again: it would grow without end.
_HEIGHT = b"""<script>(() => {
  let resized = false, width = innerWidth;
  const say = () => {
    if (resized) return;
    const range = document.createRange();
    range.selectNodeContents(document.body);
    parent.postMessage({ flowstoreCardHeight: Math.ceil(range.getBoundingClientRect().bottom + scrollY) + 16 }, "*");
  };
  addEventListener("resize", () => {
    resized = innerWidth === width;
    width = innerWidth;
    requestAnimationFrame(() => setTimeout(() => { resized = false; }));
  });
  if (parent !== self) addEventListener("load", () => new ResizeObserver(say).observe(document.body));
})();</script>"""


def card(view: View, flow: str, run_id: str, step: str, task_id: str, n: str) -> Download:
    """Return the HTML of a card of a task, for a frame that has no origin."""
    item = at_attempt(view, flow, run_id, step, task_id)
    row = next((row for row in cards.of_cards(item) if str(row.n) == n), None)
    if row is None:
        raise NotFound(f"Task {item.pathspec} has no card {n[:40]}.")
    html = cards.card_html(item, row).encode()
    return Download(
        f"{row.type}.html", "text/html; charset=utf-8", [html, _HEIGHT], inline=True,
        headers={"content-security-policy": _CARD_POLICY},
    )  # fmt: skip


def of_run(view: View, flow: str, run_id: str) -> Page:
    """Return the newest cards of a run, which may be the latest one of its flow."""
    run = view.store.find(f"{flow}/{run_id}", Run)
    listed = cards.of_run(run, view.query.whole("most", _MOST, _LARGEST))
    data = {
        "run": run.pathspec,
        "status": run.status,
        "cards": listed,
        "every": view.query.whole("every", 1, 3600) or 1,
    }
    return Page(
        "cards.html",
        f"Cards of {run.pathspec}",
        data,
        lambda: {"run": run.pathspec, "cards": [{"task": item.task, **item.row.as_json()} for item in listed]},
        runs_now=run.status == "running",
    )
