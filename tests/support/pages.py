"""The pages of the documentation: their examples, which run as a reader would paste them, and their links."""

from __future__ import annotations

import doctest
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import attrs

import flowstore

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = Path(flowstore.__file__).parent / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@attrs.frozen
class Block:
    """A fenced block of a page; its kind is the word after the fence, and its title the file that it is saved as."""

    kind: str
    title: str | None
    text: str


def blocks(page):
    """Return the fenced blocks of a page."""
    return [Block(*match.groups()) for match in _BLOCK.finditer(page.read_text("utf-8"))]


def example(page, title):
    """Return the text of the file that a page shows under a title."""
    [text] = [block.text for block in blocks(page) if block.title == title]
    return text


def section(page, heading):
    """Return what follows a heading of a page, up to the next one of its level."""
    marks = heading.split(" ")[0]
    _, found, rest = page.read_text("utf-8").partition(f"\n{heading}\n")
    assert found, heading
    return re.split(rf"^#{{2,{len(marks)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def matches(expected, printed):
    """Return whether a text is what a page shows, in which `...` stands for anything."""
    return doctest.OutputChecker().check_output(expected, printed, _FLAGS)


def with_scripts():
    """Return the variables of a shell in which the environment of this Python is activated."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


class Reader:
    """Somebody who types the examples of pages, one after the other, in one folder and one Python session."""

    def __init__(self, folder):
        self.folder = folder
        self.names = {}

    def read(self, page):
        """Run all examples of a page, and compare what they print with what it shows."""
        for block in blocks(page):
            if block.title:
                (self.folder / block.title).write_text(block.text, "utf-8")
            elif block.kind == "console":
                self._type_commands(block.text)
            elif block.kind == "python" and ">>>" in block.text:
                self._type_python(block.text, page)
            elif block.kind == "python":
                exec(compile(block.text, str(page), "exec"), {"__name__": "example"})
            elif block.kind == "sql":
                self._ask(block.text)

    def _type_commands(self, text):
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            ran = subprocess.run(
                command,
                shell=True,
                cwd=self.folder,
                capture_output=True,
                text=True,
                env=with_scripts(),
                timeout=60,
            )
            errors = [line for line in ran.stderr.splitlines(True) if line.startswith(("Run ", "Error: ", "Wrote "))]
            printed = ran.stdout + "".join(errors)
            assert matches(expected, printed), f"{command}\n{printed}\n{ran.stderr}"

    def _type_python(self, text, page):
        test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
        test.globs = self.names
        runner = doctest.DocTestRunner(optionflags=_FLAGS)
        runner.run(test, clear_globs=False)
        assert runner.failures == 0

    def _ask(self, query):
        with sqlite3.connect(self.folder / "flowstore.db") as database:
            assert database.execute(query).fetchall(), query
        database.close()


def links(page):
    """Return the targets of a page's links within the checkout, each as a path and an anchor."""
    targets = [first or second for first, second in _LINK.findall(_without_blocks(page))]
    local = [target.partition("#") for target in targets if "://" not in target]
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in local]


def anchors(page):
    """Return what can follow `#` in a link to a page: its headings, or the functions of a Python file."""
    text = page.read_text("utf-8")
    if page.suffix == ".py":
        return set(re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE))
    headings = re.findall(r"^#+ (.+)$", _without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _without_blocks(page):
    return _BLOCK.sub("", page.read_text("utf-8"))
