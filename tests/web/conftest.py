"""A browser without a screen, at a store."""

from __future__ import annotations

import pytest

from support.web import Browser


@pytest.fixture
def browse(tmp_path):
    """Open a store as pages; gives a `Browser` that has the token. Afterwards the store is one file."""
    opened = []

    def begin(path, **options):
        opened.append(Browser(path, **options))
        return opened[-1]

    yield begin
    for browser in opened:
        browser.close()
