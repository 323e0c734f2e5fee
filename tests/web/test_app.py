"""Routes, forms of pages, live updates, and pages of errors."""

from __future__ import annotations

from support.stores import make_store, names_beside


def test_a_page_is_html_and_json(browse, path):
    """The same object is a page, and with `.json` data."""
    browser = browse(make_store(path, runs=2))
    assert "F/2" in browser.page("/")
    assert "F/1" in browser.page("/runs")
    assert [run["pathspec"] for run in browser.json("/runs.json")["runs"]] == ["F/2", "F/1"]
    browser.close()
    assert names_beside(path) == [path.name]
