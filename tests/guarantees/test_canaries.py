"""A pickle, tricks, nothing or a number in any column of a stranger's file: no code runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.canaries import FORMS


@pytest.mark.parametrize(
    "forms",
    [["pickle"], ["tricks"], pytest.param(sorted(FORMS), marks=[pytest.mark.large, pytest.mark.timeout(3600)])],
    ids=["pickle", "tricks", "all of them, thoroughly"],
)
def test_a_canary_in_each_column_never_sings(tmp_path, forms):
    """A pickle, tricks, nothing or a number in any column: no code runs, and each answer is right or one error."""
    code = f"import pathlib; from support import canaries; canaries.walk(pathlib.Path({str(tmp_path)!r}), {forms})"
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True,
        timeout=3000, check=False,
    )  # fmt: skip
    lines = list(map(json.loads, process.stdout.splitlines()))
    assert process.returncode == 0, (lines[-1:], process.stderr[-2000:])
    found = dict(zip(lines[::2], lines[1::2], strict=True))
    assert len(found) > 50
    assert {what: wrong for what, wrong in found.items() if wrong} == {}
    assert not (tmp_path.parent / "x").exists()
