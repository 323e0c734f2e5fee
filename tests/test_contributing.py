"""What `.github/` says of the repository holds: the map and the recipes name files that are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / ".github" / "CONTRIBUTING.md").read_text("utf-8")
SECURITY = (ROOT / ".github" / "SECURITY.md").read_text("utf-8")
WORKFLOW = (ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RECIPES = dict(re.findall(r"^### (Add [^\n]+)\n(.*?)(?=^##|\Z)", CONTRIBUTING, re.MULTILINE | re.DOTALL))
PATH = re.compile(r"`((?:flowstore|tests|benchmarks|\.ci|\.github)/[\w./]*|\w+\.(?:md|toml))`")


def paths(text):
    """Return the paths of the repository that a text names in code quotes, without repetition."""
    return dict.fromkeys(PATH.findall(text))


@pytest.mark.parametrize("text", [CONTRIBUTING, SECURITY, *RECIPES.values()], ids=["map", "security", *RECIPES])
def test_named_paths_exist(text):
    """A path in code quotes is there."""
    assert [path for path in paths(text) if not (ROOT / path).exists()] == []


def test_the_map_names_every_folder_of_the_package():
    """A folder that is a package has a line in the map."""
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("flowstore/*/**/__init__.py")}
    assert folders - set(paths(CONTRIBUTING)) == set()


def test_there_are_recipes_for_what_is_added_most():
    """An executor, a page, a codec, a command, a tag rule and a migration."""
    nouns = ["executor", "page", "codec", "command", "rule", "migration"]
    assert [noun for noun in nouns if not any(noun in title for title in RECIPES)] == []


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_names_few_files(title):
    """Whoever follows a recipe opens at most four files."""
    assert 1 <= len([path for path in paths(RECIPES[title]) if not path.endswith("/")]) <= 4


def test_the_workflow_tests_the_python_versions_that_are_claimed():
    """The matrix is the classifiers' list, and the scripts that it calls are there."""
    claimed = re.findall(r"Programming Language :: Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.+)\]", WORKFLOW)[1]) == claimed
    for script in re.findall(r"run: (\.ci/\w+)", WORKFLOW):
        assert (ROOT / script).stat().st_mode & 0o100, f"{script} cannot be run"
