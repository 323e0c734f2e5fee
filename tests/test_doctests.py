"""The examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import flowstore

PACKAGE = Path(flowstore.__file__).parent
FILES = sorted(str(file.relative_to(PACKAGE).with_suffix("")) for file in PACKAGE.rglob("*.py"))
MODULES = [  # importing `flowstore.metaflow` changes the process
    ".".join(["flowstore", *file.split("/")]).removesuffix(".__init__")
    for file in FILES
    if not file.startswith(("tutorials/", "docs/", "__main__", "metaflow/"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    """The examples of a module pass."""
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
