"""Programs that contain a flow without being it: notebooks, test runners, prompts. Their arguments are not its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_KERNELS = frozenset({"ipykernel_launcher.py", "colab_kernel_launcher.py"})


def name_of_host(flow: type) -> str | None:
    """Name the program that has loaded the flow where it is not its own: 'a notebook', 'pytest' and so on.

    A flow's file that a notebook runs with `%run flow.py run`, or that a test runs as `__main__` with arguments of its
    own, is the program.
    """
    module = sys.modules.get(flow.__module__)
    file = getattr(module, "__file__", None)
    is_program = flow.__module__ == "__main__" and file is not None and _is_same(file, sys.argv[0])
    if is_program:
        return None
    if Path(sys.argv[0]).name in _KERNELS or _in_ipython():
        return "a notebook"
    if flow.__module__ != "__main__" and "_pytest.config" in sys.modules and _pytest_runs():
        return "pytest"
    if flow.__module__ != "__main__" and "unittest.main" in sys.modules and _main_name().startswith("unittest"):
        return "unittest"
    return "an interactive Python" if hasattr(sys, "ps1") else None


def message(flow: type, host: str) -> str:
    """The line that says how to run the flow."""
    file = getattr(sys.modules.get(flow.__module__), "__file__", None)
    if file is None:
        guard = f'if __name__ == "__main__": {flow.__name__}()'
        how = f"save it in a file that ends with `{guard}`, and run that: python flow.py run"
    else:
        import shlex

        how = f"run it: python {shlex.quote(os.path.relpath(file))} run"
    return f"{flow.__name__}() made an object and ran nothing, since this is {host}. To run the flow, {how}"


def _is_same(file: str, other: str) -> bool:
    return os.path.realpath(file) == os.path.realpath(other)


def _in_ipython() -> bool:
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and get_ipython() is not None


def _pytest_runs() -> bool:
    """Return whether pytest is more than imported: it says so to its processes since 8.2, and in each test."""
    marks = ("PYTEST_VERSION", "PYTEST_CURRENT_TEST")
    return any(mark in os.environ for mark in marks) or "pytest" in sys.argv[0] or "py.test" in sys.argv[0]


def _main_name() -> str:
    return str(getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None) or "")
