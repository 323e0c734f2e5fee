"""README and documentation: every example runs, every link leads somewhere, and what is generated is up to date."""

from __future__ import annotations

import json
import re
import runpy
import shutil

import pytest

from flowstore import context
from flowstore.store import codecs
from flowstore.store.codecs import typed_json
from flowstore.store.codecs.typed_scalars import BY_MARK
from flowstore.store.schema import APPLICATION_ID, PUBLIC_VIEWS, SCHEMA_VERSION
from support.cli import command
from support.pages import DOCS, PAGES, README, Reader, anchors, blocks, links, section

TUTORIAL = DOCS / "tutorial.md"
ALONE = [README, *(DOCS / f"{name}.md" for name in ("index", "flows", "decorators", "cards", "teamwork", "events"))]
ALONE += [DOCS / f"{name}.md" for name in ("configs", "spin", "from-python")]
AFTER_THE_TUTORIAL = [DOCS / f"{name}.md" for name in ("results", "production", "shipping", "file-format")]
# How else the blocks of a page are tested: `json` here, `r` and the cookbook's in tests of their own, docstrings as
# doctests, and help texts by being generated. Those in `sh` install flowstore, or wait.
ELSEWHERE = {
    "cookbook.md": {"sql"},
    "r.md": {"r", "python"},
    "python-api.md": {"python"},
    "commands.md": {"text"},
    "notebooks.md": {"python"},  # cells of a real notebook: tests/runner/test_notebooks.py
    "aws.md": {"console", "python", "text"},
    "import-metaflow.md": {"text"},
    "coming-from-metaflow.md": {"python"},  # as in tests/metaflow_name/test_name.py
}
KINDS = {"sh", "python", "console", "sql", "json", "r", "text"}
FORMAT = DOCS / "file-format.md"


@pytest.mark.parametrize("page", ALONE, ids=lambda page: page.stem)
def test_examples(page, tmp_path):
    """A page's flows, commands, Python and SQL do what it says, in an empty folder."""
    Reader(tmp_path).read(page)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    """The folder of a reader who has worked through the tutorial."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FLOWSTORE_USER", "tester")
        patch.setenv("FLOWSTORE_HOME", str(folder / "home"))
        Reader(folder).read(TUTORIAL)
        context.state.store.close()
        context.state.store = None
    return folder


def test_the_tutorial(tutorial):
    """Its examples do what it says, and leave the files that it speaks of."""
    assert {path.name for path in tutorial.iterdir()} >= {"prices.py", "shaky.py", "order.txt", "flowstore.db"}
    assert [path.name for path in tutorial.glob("*.db*")] == ["flowstore.db"]


@pytest.mark.parametrize("page", AFTER_THE_TUTORIAL, ids=lambda page: page.stem)
def test_examples_after_the_tutorial(page, tutorial, tmp_path, monkeypatch):
    """A page's examples do what it says in the folder of the tutorial."""
    shutil.copytree(tutorial, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path / "home"))
    Reader(tmp_path).read(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_example_escapes(page):
    """Each block is of a kind, and on a page, whose examples a test runs."""
    kinds = {block.kind for block in blocks(page)}
    assert kinds <= KINDS
    if page not in (TUTORIAL, *ALONE, *AFTER_THE_TUTORIAL):
        assert kinds - {"sh"} <= ELSEWHERE.get(page.name, set())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    """Each link within the checkout names a file that is there, and a heading or function of it."""
    for path, anchor in links(page):
        assert path.exists(), path
        assert not anchor or anchor in anchors(path), f"{path}#{anchor}"


def test_every_page_can_be_found():
    """The index leads to every page, if need be over one other."""
    reached = {path for path, _ in links(DOCS / "index.md")}
    for page in list(reached):
        reached |= {path for path, _ in links(page)} if page.suffix == ".md" else set()
    assert set(PAGES) - {README, DOCS / "index.md"} <= reached, "link to it in index.md"


def test_the_readme_is_short_and_begins_with_two_commands():
    """It has at most 200 lines; one command installs and runs, the other installs and tests."""
    assert len(README.read_text("utf-8").splitlines()) <= 200
    run, test = (block.text for block in blocks(README) if block.kind == "sh")
    assert run == "python -m venv .venv && .venv/bin/pip install . && .venv/bin/flowstore demo\n"
    assert test == 'python -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest\n'


def test_decisions_are_short():
    """Each has its three parts, in under 40 lines, and is in the list."""
    [listed, *records] = sorted((DOCS / "decisions").glob("*.md"), reverse=True)
    assert {path for path, _ in links(listed)} == set(records)
    for record in records:
        lines = record.read_text("utf-8").splitlines()
        assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]
        assert len(lines) < 40


# --- what is generated


def test_the_python_api_is_up_to_date():
    """The page is what its script writes."""
    script = DOCS / "write_python_api.py"
    written = runpy.run_path(str(script))["page"]()
    assert (DOCS / "python-api.md").read_text("utf-8") == written, f"run: python flowstore/docs/{script.name}"


# --- the file format


def test_the_format_names_the_views_and_their_columns():
    """The table lists what `flowstore schema` prints."""
    command("demo")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", section(FORMAT, "## Views"), re.MULTILINE)
    shown = {view: re.findall(r"`(\w+)`", columns) for view, columns in rows}
    assert shown.keys() == set(PUBLIC_VIEWS)
    printed = command("schema").stdout
    for view, columns in shown.items():
        [line] = re.findall(rf"^{view}\n(?:  .*\n)*?  columns: (.+)$", printed, re.MULTILINE)
        assert columns == line.split(", ")


def test_the_format_names_the_codecs():
    """The table lists all codecs, in the order of preference."""
    shown = re.findall(r"^\| `([\w-]+)` \|", section(FORMAT, "## Codecs"), re.MULTILINE)
    assert shown == [entry.name for entry in codecs.REGISTRY]


def test_the_format_names_the_marks():
    """Each mark of typed-json is there, and the example can be read."""
    text = section(FORMAT, "### typed-json")
    for mark in BY_MARK:
        assert "`$numpy.…`" in text if mark.startswith("numpy.") else f"`${mark}`" in text, mark
    [example] = [block.text for block in blocks(FORMAT) if block.kind == "json"]
    value = typed_json.load(json.dumps(json.loads(example)).encode())
    assert value["folds"] == (3, 4)
    assert value["labels"] == {"a", "b"}


def test_the_format_names_the_versions():
    """The page speaks of the schema's version and the file's application id as they are."""
    text = FORMAT.read_text("utf-8")
    assert f"version {SCHEMA_VERSION} of the\nschema" in text
    assert f"application id is {APPLICATION_ID}" in text
