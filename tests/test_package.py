"""The package keeps its shape: a small fast import, layers that point down, modules that explain themselves."""

from __future__ import annotations

import ast
import collections
import functools
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

# From below to above: a module may import its own folder and what stands before it; `flow` and `store` never meet.
LAYERS = (
    "_version", "alarm", "later", "text", "errors", "progress", "drawing", "context", "sqlite", "store", "flow",
    "client", "cards", "run",
)  # fmt: skip
TOGETHER = ("production", "transfer", "maintenance")  # above `run`, each on its own
MAY_IMPORT = {layer: set(LAYERS[:at]) for at, layer in enumerate(LAYERS)}
MAY_IMPORT["flow"] -= {"store", "sqlite"}
MAY_IMPORT |= {layer: set(LAYERS) for layer in TOGETHER}
MAY_IMPORT["runner"] = {*LAYERS, "production"}
MAY_IMPORT["web"] = {*LAYERS, *TOGETHER}
MAY_IMPORT["cli"] = {*LAYERS, *TOGETHER, "web"}
MAY_IMPORT["metaflow"] = {*LAYERS, *TOGETHER, "cli"}
NAME_EACH_OTHER = {"flowstore.client.run", "flowstore.client.task", "flowstore.client.artifact"}
LONGEST_FILE = 450
LONGEST_FUNCTION_OF_95_IN_100 = 25
MODULES_A_FRAGMENT = 8  # at least so many modules to one that only one other imports


def module_of(name):
    """The module of a file of the package."""
    return ".".join(["flowstore", *Path(name).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_of(name): name for name in NAMES}


def imports_of(tree):
    """The modules of the package that a source imports, inside functions too; not those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "flowstore")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module.split(".")[0] == "flowstore":
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                yield from {name if name in MODULES else node.module for name in names}
        elif not isinstance(node, ast.expr):  # most nodes are expressions, and none of them imports
            yield from imports_of(node)


@functools.cache
def tree_of(name):
    """The source of a file of the package, parsed."""
    return ast.parse((PACKAGE / name).read_text("utf-8"))


def layer_of(module):
    """The folder of a module, or the module itself where it stands beside the folders."""
    return module.split(".")[1] if "." in module else "flowstore"


@functools.cache
def graph():
    """The modules that each module imports."""
    return {module: set(imports_of(tree_of(name))) - {module} for module, name in MODULES.items()}


FREE = {"flowstore", "flowstore.__main__"}  # the public names, and the program: `test_the_package_reaches_up…`


def test_imports_point_down():
    """Modules import what stands below them in `LAYERS`, and nothing above."""
    for module in sorted(MODULES):
        layer, used = layer_of(module), {layer_of(other) for other in graph()[module]}
        if layer == "tutorials":  # written as users write them
            assert used <= {"flowstore", "cards", "tutorials"}, module
        elif module not in FREE and layer != "docs":  # scripts in docs write its pages
            assert layer in MAY_IMPORT, "a new layer: say here and in .github/CONTRIBUTING.md what it may import"
            assert used <= MAY_IMPORT[layer] | {layer}, module


def circles():
    """Groups of modules that import each other, in whatever function (Tarjan's algorithm)."""
    index, low, stack = {}, {}, []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph().get(module, ()):
            if other not in index:
                yield from visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            yield set(group)

    for module in MODULES:
        if module not in index:
            yield from (group for group in visit(module) if len(group) > 1)


def test_no_imports_in_circles():
    """No module imports itself by way of others, but for run, task and artifact, which name each other."""
    assert [group for group in circles() if not group <= NAME_EACH_OTHER] == []


def strings_in(tree):
    """The texts of a source, such as the names of modules in a registry."""
    return (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_few_modules_have_one_visitor():
    """A module that only one other imports is usually a fragment of it; what a registry loads by name is not one."""
    visitors = collections.Counter(other for used in graph().values() for other in used)
    by_name = {text.partition(":")[0] for name in NAMES for text in strings_in(tree_of(name))}
    fragments = [module for module in MODULES if visitors[module] == 1 and module not in by_name]
    assert len(fragments) * MODULES_A_FRAGMENT <= len(MODULES)


def test_functions_are_short():
    """95 in 100 functions fit in one look."""
    functions = [node for name in NAMES for node in ast.walk(tree_of(name)) if isinstance(node, ast.FunctionDef)]
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in functions)
    assert lengths[int(len(lengths) * 0.95)] <= LONGEST_FUNCTION_OF_95_IN_100


def test_the_package_reaches_up_in_one_place_only():
    """`__init__` imports what it makes public, and the command line in the hook `_main` alone."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    [hook] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_main"]
    assert {layer_of(module) for module in imports_of(hook)} == {"cli"}
    tree.body.remove(hook)
    assert {layer_of(module) for module in imports_of(tree)} <= {
        "_version",
        "client",
        "context",
        "errors",
        "flow",
        "runner",
        "store",
    }


def test_modules_explain_themselves():
    """Every module begins with a docstring."""
    assert [name for name in NAMES if not (ast.get_docstring(tree_of(name)) or "").strip()] == []


def test_modules_are_short():
    """A module of more than 450 lines holds two ideas."""
    lengths = {name: len((PACKAGE / name).read_text("utf-8").splitlines()) for name in NAMES}
    assert [name for name, length in lengths.items() if length > LONGEST_FILE] == []


def test_nothing_is_left_for_later():
    """No line says that something is still to be done."""
    later = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b")
    assert [name for name in NAMES if later.search((PACKAGE / name).read_text("utf-8"))] == []


def test_the_public_names():
    """__all__ is sorted, without duplicates, and each name is there."""
    assert flowstore.__all__ == sorted(set(flowstore.__all__))
    for name in flowstore.__all__:
        assert hasattr(flowstore, name)


IMPORT_EACH = """
import os, sys
import attrs, click, cloudpickle, jinja2, numpy, pandas, pyarrow, sqlite_utils, starlette.applications  # slow
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        __import__(name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


@pytest.mark.untraced  # takes minutes under a tracer
def test_all_modules_can_be_imported():
    """Each module can be imported by itself, before any other, without a warning."""
    modules = ["flowstore." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in NAMES]
    modules = [name for name in modules if "tutorials." not in name and not name.endswith(("__init__", "__main__"))]
    told(python(IMPORT_EACH, *modules))
    assert all(ast.get_docstring(tree_of(name)) for name in NAMES if not name.endswith("__main__.py"))


def test_errors_are_public_and_of_one_family():
    """Every error class is importable from the package and derives from FlowstoreError and a builtin's."""
    errors = importlib.import_module("flowstore.errors")
    classes = [item for item in vars(errors).values() if isinstance(item, type)]
    documented = {
        "FlowstoreError", "StoreNotFound", "NotAStore", "StoreCorrupt", "StoreTooNew", "NotFound", "NamespaceMismatch",
        "InvalidPathspec", "TaggingError", "ParameterError", "GraphError", "TokenError", "UntrustedArtifact",
        "ArtifactError", "TaskFailed", "TimeoutExpired",
    }  # fmt: skip
    assert {item.__name__ for item in classes} == documented
    for item in classes:
        assert issubclass(item, errors.FlowstoreError)
        assert getattr(flowstore, item.__name__) is item
        assert str(item("a message\nof two lines")) == "a message\nof two lines"


@pytest.mark.untraced
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
