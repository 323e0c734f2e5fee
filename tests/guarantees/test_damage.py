"""Whatever happens to a file's bytes, an artifact comes back right or not at all, and all else is an answer or one
clear error: nothing hangs, crashes, runs out of memory or raises anything else.

A longer form tries ten thousand files and prints what came of them: in `tests`, `python -m support.damage [COUNT]`.
"""

from __future__ import annotations

import pytest

from support.damage import SECONDS_A_FILE, make_original, tried

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(("count", "first"), [(10, 1), pytest.param(190, 11, marks=pytest.mark.long)])
def test_damaged_files_give_right_values_or_clear_errors(tmp_path, count, first):
    """Of any damaged file, every artifact is right or refused, everything else an answer or a FlowstoreError."""
    make_original(tmp_path / "original.db")
    found = tried(tmp_path, first, count)
    assert [told for told in found if "error" in told] == []
    assert len(found) == count
    assert sum(bool(told["refused"]) for told in found) > count / 5
    assert max(told["seconds"] for told in found) < SECONDS_A_FILE
