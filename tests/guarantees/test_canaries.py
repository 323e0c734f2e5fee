"""A pickle, tricks, nothing or a number in any column of a stranger's file: no code runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.canaries import FORMS


@pytest.mark.parametrize("form", ["pickle", "tricks"])
def test_a_canary_in_each_column_never_sings(tmp_path, form):
    """No code runs, and each answer is right or one error; the commands take turns."""
    assert_silent(tmp_path, form)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", FORMS)
def test_whatever_is_asked_no_canary_sings(tmp_path, form):
    """Every form, in any column, whatever is asked: no code runs, all answers are right."""
    assert_silent(tmp_path, form, thoroughly=True)


def assert_silent(tmp_path, form, *, thoroughly=False):
    """Let a process ask everything of the stores with this form of a canary; nothing is wrong."""
    options = f"pathlib.Path({str(tmp_path)!r}), {form!r}, thoroughly={thoroughly}"
    code = f"import pathlib; from support import canaries; canaries.walk({options})"
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True,
        timeout=3000, check=False,
    )  # fmt: skip
    lines = list(map(json.loads, process.stdout.splitlines()))
    assert process.returncode == 0, (lines[-1:], process.stderr[-2000:])
    found = dict(zip(lines[::2], lines[1::2], strict=True))
    assert len(found) > 30
    assert {what: wrong for what, wrong in found.items() if wrong} == {}
    assert not (tmp_path.parent / "x").exists()
