"""Copies that take long show how far they have come, on a terminal only."""

from __future__ import annotations

from support.cli import Script, command, on_terminal
from support.stores import make_store

ALL_IS_LARGE = "from flowstore import progress; progress.LARGE_BYTES = 0"


def test_a_large_copy_has_a_bar_on_a_terminal(path, tmp_path):
    """It says what is being done, and how much of it is done."""
    make_store(path)
    calls = ("export copy.db", "import copy.db --store other.db")
    exported, imported = on_terminal(Script(tmp_path, ""), 100, *calls, before=ALL_IS_LARGE)
    for lines, what in ((exported, "Exporting"), (imported, "Importing")):
        [bar, *_] = [line for line in lines if what in line]
        assert "bytes" in bar or "kB" in bar
    assert "Exporting" not in command("export", "third.db").stderr
