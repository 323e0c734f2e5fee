"""The page for R: each line is run by a real R, through reticulate."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import DOCS, Reader, blocks, matches

REQUIRED = "FLOWSTORE_TEST_R" in os.environ  # read before a test's own environment is cleared
BETWEEN = "\n--- end of a block ---\n"


def missing():
    """Return why R can't use flowstore here, or `None`."""
    if shutil.which("Rscript") is None:
        return "Rscript is not installed"
    program = 'stopifnot(requireNamespace("reticulate")); invisible(reticulate::py_config())'
    done = run(["-e", program], Path.cwd())
    said = [*done.stderr.strip().splitlines(), "it does not say why"]
    return None if done.returncode == 0 else f"R cannot use {sys.executable}: {said[0]}"


def run(arguments, folder):
    """Run R, with the Python of this process."""
    environment = {**os.environ, "RETICULATE_PYTHON": sys.executable}
    return subprocess.run(
        ["Rscript", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_page_for_r(tmp_path, monkeypatch):
    """Its lines print what it says, in the store of the story that it goes on from."""
    reason = missing()
    if reason is not None and REQUIRED:
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)
    Reader(tmp_path).read(DOCS / "teamwork.md")
    monkeypatch.setenv("FLOWSTORE_USER", "anne")
    page = blocks(DOCS / "r.md")
    for block in page:
        if block.title:
            (tmp_path / block.title).write_text(block.text, "utf-8")
    lines = [block.text.splitlines() for block in page if block.kind == "r"]
    code = ["\n".join(line for line in block if not line.startswith("#>")) for block in lines]
    (tmp_path / "page.R").write_text("".join(f"{text}\ncat({BETWEEN!r})\n" for text in code), "utf-8")
    done = run(["page.R"], tmp_path)
    assert done.returncode == 0, done.stderr
    for block, printed in zip(lines, done.stdout.split(BETWEEN), strict=False):
        expected = "\n".join(line.removeprefix("#>").strip() for line in block if line.startswith("#>"))
        assert matches(expected, printed.strip()), printed
