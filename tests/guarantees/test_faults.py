"""The table of what can go wrong: each row links to the tests that show it."""

from __future__ import annotations

import re

import pytest

from support.pages import DOCS, section

ROWS = [line for line in section(DOCS / "guarantees.md", "## What can go wrong").splitlines() if line.startswith("|")][
    2:
]


def test_there_is_such_a_table():
    """It has a row for each thing that can go wrong, of four cells."""
    assert len(ROWS) > 10
    assert {len(row.strip("|").split(" | ")) for row in ROWS} == {4}


@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[0].strip("| ") for row in ROWS])
def test_each_row_is_shown(row):
    """Its last cell links to tests; that they are there is tested with all links."""
    cell = row.strip("| ").split(" | ")[3]
    assert re.fullmatch(r"(\[\d\]\(\.\./\.\./tests/\w+/test_\w+\.py#test_\w+\) ?)+", cell), cell
