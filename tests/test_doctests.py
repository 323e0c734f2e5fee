"""The examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import flowstore

MODULES = [
    module.name
    for module in pkgutil.walk_packages(flowstore.__path__, "flowstore.")
    if not module.name.startswith(("flowstore.tutorials.", "flowstore.__main__", "flowstore.metaflow"))
]


@pytest.mark.parametrize("name", ["flowstore", *MODULES])
def test_examples(name):
    """The examples of a module pass."""
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
