"""Pages in a real browser."""

from __future__ import annotations

import pytest

from support.stores import make_store

pytestmark = [pytest.mark.browser, pytest.mark.long]


def test_the_printed_address_opens_the_runs(visit, path):
    """Whoever opens the address that was printed sees the runs, and the address loses its token."""
    watched = visit(make_store(path, runs=2))
    assert watched.page.url == watched.home
    watched.page.get_by_role("link", name="F/2", exact=True).click()
    watched.page.get_by_role("heading", name="F/2").wait_for()
