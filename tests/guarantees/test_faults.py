"""The README's table of what can go wrong: each row is shown by the tests that its comment names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SECTION = (TESTS.parent / "README.md").read_text("utf-8").partition("## What can go wrong\n")[2].partition("\n## ")[0]
ROWS = [line for line in SECTION.splitlines() if line.startswith("|")][2:]


def test_there_is_such_a_table():
    """It has a row for each thing that can go wrong, of three cells."""
    assert len(ROWS) > 10
    assert {len(row.strip("|").split(" | ")) for row in ROWS} == {3}


@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[0].strip("| ") for row in ROWS])
def test_each_row_is_shown(row):
    """Its comment names tests, as `file.test`, that are there."""
    comment = re.search(r"<!-- (.+?) -->", row)
    assert comment, "a row without the test that shows it"
    for name in comment[1].split():
        file, _, test = name.partition(".")
        [found] = TESTS.rglob(f"{file}.py")
        assert f"\ndef {test}(" in found.read_text("utf-8"), name
