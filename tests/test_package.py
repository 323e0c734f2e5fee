"""The package keeps its shape: a small fast import, layers that point down, modules that explain themselves."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
from pathlib import Path

import pytest

import flowstore
from flowstore import context
from support.processes import python, told

PACKAGE = Path(flowstore.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(file.relative_to(PACKAGE)) for file in FILES]

# Each may import its own kind and what its list names; `__init__` gathers the public names.
LAYERS = {
    "text": set(),
    "errors": {"text"},
    "context": {"errors", "text"},
    "store": {"context", "errors", "text"},
    "flow": {"context", "errors", "text"},
    "client": {"store", "context", "errors", "text"},
    "run": {"client", "flow", "store", "context", "errors", "text"},
    "tokens": {"store", "context", "errors", "text"},
    "timetable": {"flow", "store", "context", "errors", "text"},
    "scheduler": {"deploy", "timetable", "run", "client", "flow", "store", "context", "errors", "text"},
    "deploy": {"tokens", "timetable", "run", "client", "flow", "store", "context", "errors", "text"},
    "transfer": {"run", "client", "flow", "store", "context", "errors", "text"},
    "cli": {
        "scheduler",
        "timetable",
        "tokens",
        "deploy",
        "transfer",
        "run",
        "client",
        "flow",
        "store",
        "context",
        "errors",
        "text",
    },
}
ANYWHERE = {"_version"}  # what any layer may import


def imported(source):
    """The modules of the package that a source imports, inside functions too, with the names taken from each."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "flowstore")
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module.split(".")[0] == "flowstore":
                yield from ((node.module, alias.name) for alias in node.names)


def layers_used(source):
    """The layers that a source imports."""
    for module, name in imported(source):
        parts = module.split(".")
        layer = parts[1] if len(parts) > 1 else name or "flowstore"
        if layer not in ANYWHERE:
            yield layer


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_down(name):
    """cli -> deploy, transfer -> run -> client | flow | store -> context -> errors -> text; flow, store never meet."""
    layer = name.removesuffix(".py").split("/")[0]
    used = set(layers_used((PACKAGE / name).read_text("utf-8")))
    if layer == "tutorials":  # written as users write them
        assert used <= set(flowstore.__all__) | {"tutorials"}
    elif layer not in {"__init__", "__main__", "docs", *ANYWHERE}:  # scripts in docs write its pages
        assert layer in LAYERS, "a new layer: say here and in ARCHITECTURE what it may import"
        assert used <= LAYERS[layer] | {layer}


def test_the_package_reaches_up_in_one_place_only():
    """`__init__` imports what it makes public, and the command line in the hook `_main` alone."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    [hook] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_main"]
    assert set(layers_used(ast.unparse(hook))) == {"cli"}
    tree.body.remove(hook)
    assert set(layers_used(ast.unparse(tree))) <= {"client", "context", "errors", "flow", "store"}


@pytest.mark.parametrize("name", NAMES)
def test_modules_explain_themselves(name):
    """Every module begins with a docstring."""
    assert (ast.get_docstring(ast.parse((PACKAGE / name).read_text("utf-8"))) or "").strip()


@pytest.mark.parametrize("name", NAMES)
def test_modules_are_short(name):
    """A module of more than 450 lines holds two ideas."""
    assert len((PACKAGE / name).read_text("utf-8").splitlines()) <= 450


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_for_later(name):
    """No line says that something is still to be done."""
    found = re.findall(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b", (PACKAGE / name).read_text("utf-8"))
    assert found == []


def test_the_public_names():
    """__all__ is sorted, without duplicates, and each name is there."""
    assert flowstore.__all__ == sorted(set(flowstore.__all__))
    for name in flowstore.__all__:
        assert hasattr(flowstore, name)


def test_all_modules_can_be_imported():
    """Each module can be imported by itself, in a fresh interpreter, without a warning."""
    modules = ["flowstore." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in NAMES]
    modules = [name for name in modules if "tutorials." not in name and not name.endswith(("__init__", "__main__"))]
    with contextlib.ExitStack() as stack:
        for process in [stack.enter_context(python(f"import {module}")) for module in modules]:
            told(process)
    for module in modules:
        assert importlib.import_module(module).__doc__


def test_errors_are_public_and_of_one_family():
    """Every error class is importable from the package and derives from FlowstoreError and a builtin's."""
    errors = importlib.import_module("flowstore.errors")
    classes = [item for item in vars(errors).values() if isinstance(item, type)]
    documented = {
        "FlowstoreError", "StoreNotFound", "NotAStore", "StoreCorrupt", "StoreTooNew", "NotFound", "NamespaceMismatch",
        "InvalidPathspec", "TaggingError", "ParameterError", "GraphError", "TokenError", "UntrustedArtifact",
        "ArtifactError", "TaskFailed",
    }  # fmt: skip
    assert {item.__name__ for item in classes} == documented
    for item in classes:
        assert issubclass(item, errors.FlowstoreError)
        assert getattr(flowstore, item.__name__) is item
        assert str(item("a message\nof two lines")) == "a message\nof two lines"


def test_importing_is_light():
    """`import flowstore` loads no package that only some commands need."""
    heavy = "sqlite_utils pandas numpy pyarrow rich click cloudpickle platformdirs multiprocessing asyncio dask"
    code = f"import sys, flowstore; print(*sorted(set(sys.modules) & set({heavy.split()!r})))"
    assert told(python(code)).split() == []


def test_importing_touches_nothing(tmp_path):
    """`import flowstore` opens no store and writes no file."""
    told(python("import flowstore; assert flowstore.context.state.store is None", folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_users_folder_is_the_platforms(monkeypatch, tmp_path):
    """Without $FLOWSTORE_HOME a user's key and tokens are where `platformdirs` has it, wherever data is kept."""
    from platformdirs import user_data_path

    monkeypatch.delenv("FLOWSTORE_HOME", raising=False)
    for value in (None, "", str(tmp_path)):
        if value is None:
            monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_DATA_HOME", value)
        assert context.home() == user_data_path("flowstore", appauthor=False)
