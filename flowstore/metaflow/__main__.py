"""`python -m flowstore.metaflow flow.py …`: run a program in which the name `metaflow` stands for flowstore."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

import flowstore.metaflow
from flowstore import context
from flowstore.errors import line_of_mistake, show_uncaught

_LAUNCHER = flowstore.metaflow.__name__
_USAGE = f"""Usage: python -m {_LAUNCHER} FLOW.py [OPTIONS] COMMAND [ARGUMENTS]
       python -m {_LAUNCHER} -m MODULE [OPTIONS] COMMAND [ARGUMENTS]

Run a flow that was written for Metaflow, as it is.

Example:
  python -m {_LAUNCHER} flow.py run"""


def main(arguments: Sequence[str]) -> None:
    """Run the program that the arguments begin with."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(_USAGE)
        return
    if not arguments or arguments == ["-m"] or (arguments[0].startswith("-") and arguments[0] != "-m"):
        print(_USAGE, file=sys.stderr)
        sys.exit(2)
    context.state.launcher = _LAUNCHER
    sys.excepthook = _show_without_launcher
    if arguments[0] == "-m":
        program, code = _module(arguments[1])
        sys.argv[:] = [str(program.__file__), *arguments[2:]]
    else:
        program, code = _script(arguments[0])
        sys.argv[:] = arguments
    sys.modules[f"{_LAUNCHER}.__main__"] = sys.modules["__main__"]  # which holds what still runs here
    sys.modules["__main__"] = program
    exec(code, vars(program))  # noqa: S102  # the user's own program


def _script(path: str) -> tuple[ModuleType, CodeType]:
    """Return a script as the module that it is to be, and its code."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # as Python takes the path
            source = file.read()
    except OSError as error:
        _refuse(f"{path}: {error.strerror}.")
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))  # noqa: PTH120  # instead of the current folder
    program = ModuleType("__main__")
    vars(program).update(__file__=path, __cached__=None, __builtins__=__builtins__)
    return program, compile(source, path, "exec", dont_inherit=True)


def _module(name: str) -> tuple[ModuleType, CodeType]:
    """Return a module of a package, or the `__main__` of one, as the module that it is to be, and its code."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        _refuse(f"-m {name}: {error}.")
    code = None if spec is None or spec.loader is None else spec.loader.get_code(spec.name)  # type: ignore[attr-defined]
    if spec is None or code is None:
        _refuse(f"-m {name}: there is no such module, or it cannot be run.")
    program = ModuleType("__main__")
    facts: dict[str, Any] = {"__file__": spec.origin, "__cached__": spec.cached, "__loader__": spec.loader}
    vars(program).update(facts, __package__=spec.parent, __spec__=spec, __builtins__=__builtins__)
    return program, code


def _refuse(message: str) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


def _show_without_launcher(kind: type[BaseException], error: BaseException, shown: TracebackType | None) -> None:
    """Print what `python flow.py` does: one message of a mistake in a flow, else a traceback of the user's own code."""
    if line_of_mistake(error) is not None:
        show_uncaught(kind, error, shown)
        return
    first = shown
    while first is not None and first.tb_frame.f_code.co_filename != __file__:
        first = first.tb_next
    while first is not None and first.tb_frame.f_code.co_filename == __file__:
        first = first.tb_next
    traceback.print_exception(kind, error, first or shown)


if __name__ == "__main__":
    main(sys.argv[1:])
