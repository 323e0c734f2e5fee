"""Write the reference of the Python API from the docstrings of what `flowstore` makes public.

    python flowstore/docs/write_python_api.py

writes `python-api.md` beside this file. Run it again when a public docstring or signature has changed; a test says so.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flowstore
from flowstore.client.artifact import Artifacts, Data
from flowstore.client.code import Code
from flowstore.client.events import Trigger, TriggerEvent
from flowstore.client.facts import Metadata
from flowstore.client.store import Store
from flowstore.context import Current
from flowstore.flow.mutators import Decorated, MutableFlow, MutableStep
from flowstore.runner import ExecutingProcess, ExecutingRun, ExecutingTask
from flowstore.runner.deployer import DeployedFlow, LocalDeployer, StepFunctionsDeployer, TriggeredRun
from flowstore.runner.process import FlowCommands

PAGE = Path(__file__).with_name("python-api.md")
GROUPS = {
    "Flows": ("FlowSpec", "step", "Parameter", "JSONType", "IncludeFile", "Config", "config_expr"),
    "Decorators of steps": ("retry", "catch", "timeout", "environment", "resources", "secrets", "parallel", "card"),
    "Decorators of flows": ("project", "schedule", "exit_hook", "trigger", "trigger_on_finish"),
    "Events": ("Event",),
    "Decorators of your own": ("user_step_decorator", "StepMutator", "FlowMutator"),
    "Helpers for steps": ("parallel_map", "parallel_imap_unordered", "profile"),
    "The task that is running": ("current",),
    "Results": ("Flows", "Flow", "Run", "Step", "Task", "DataArtifact", "ExceptionInfo"),
    "Stores": ("open_store", "Store", "use_store", "get_store"),
    "Runs started from Python": ("Runner", "NBRunner", "inspect_spin", "Deployer", "NBDeployer", "DeployedFlow"),
    "Namespaces": ("namespace", "get_namespace", "default_namespace"),
}
RETURNED = (
    Trigger,
    TriggerEvent,
    MutableFlow,
    MutableStep,
    ExecutingProcess,
    ExecutingRun,
    ExecutingTask,
    LocalDeployer,
    StepFunctionsDeployer,
    TriggeredRun,
    Data,
    Artifacts,
    Code,
    Metadata,
)  # by methods and attributes
NEVER_MADE = (Store, DeployedFlow, *RETURNED[:-1])  # users call none of them
SHARED = """## What the results have in common

Each of them has a `pathspec`, which is its address. Runs, steps, tasks and artifacts can be tagged; a flow can't.
Only runs and tasks have `successful` and `finished`.

"""
WITHOUT_SECTION = {FlowCommands, Decorated}  # bases whose members are listed with those of their subclasses
WITHOUT_MEMBERS = ("Parameter", "IncludeFile", "Config", "use_store")  # users give them, and call nothing of them
HEAD = """# Python API

Every public name of `flowstore`, with its docstring. `from flowstore import *` imports all of them.
[Writing flows](flows.md) and [Finding results](results.md) explain how they belong together.
This page is made from the docstrings by `python flowstore/docs/write_python_api.py`.

"""
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples):$")
_ITEM = re.compile(r"^([\w*`', ]+?): (.*)")


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    grouped = {name for names in GROUPS.values() for name in names}
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n\n")
        parts += [_entry(name, getattr(flowstore, name)) for name in names if name in flowstore.__all__]
    parts += [SHARED, _bullets(flowstore.Run, own=False), "\n## What is returned\n\n"]
    parts += [_class(kind.__name__, kind) for kind in RETURNED]
    errors = [name for name in flowstore.__all__ if name not in grouped]
    parts += ["## Errors\n\n", "| error | is also a | when |\n|---|---|---|\n", *map(_error, errors)]
    return "".join(parts)


def _error(name: str) -> str:
    """Return the row of an exception: the builtin that a caller would catch, and its docstring's first line."""
    error = getattr(flowstore, name)
    assert issubclass(error, flowstore.FlowstoreError), f"{name} is in no group of {Path(__file__).name}"
    builtin = next(base.__name__ for base in error.__mro__ if base.__module__ == "builtins")
    return f"| `{name}` | `{builtin}` | {_doc(error).splitlines()[0]} |\n"


def _entry(name: str, item: Any) -> str:
    """Return the section of a public name."""
    if isinstance(item, type):
        return _class(name, item)
    if callable(item):
        return f"### {name}\n\n```python\n{name}{_signature(item)}\n```\n\n{_markdown(_doc(item))}\n"
    if isinstance(item, Current):
        return f"### {name}\n\n{_markdown(_doc(type(item)))}\n{_bullets(type(item))}\n"
    return f"### {name}\n\n{_markdown(_doc(type(item)))}\n"


def _class(name: str, kind: type) -> str:
    """Return the section of a class: how it is made, its docstring, its attributes and methods."""
    head = "" if kind in NEVER_MADE else f"```python\n{name}{_signature(kind)}\n```\n\n"
    members = "" if name in WITHOUT_MEMBERS else _bullets(kind)
    return f"### {name}\n\n{head}{_markdown(_doc(kind))}\n{members}{chr(10) if members else ''}"


def _bullets(kind: type, *, own: bool = True) -> str:
    """Return the list of a class's public attributes and methods: its own, or those that all results share."""
    named = re.findall(r"^ {4}(\w+): ", _doc(kind).partition("Attributes:")[2], re.MULTILINE)
    rows = [_member(name, item) for name, item in _public(kind, own=own) if name not in named]
    title = "Methods" if named else "Attributes and methods"
    return "".join([f"**{title}**\n\n" if own and rows else "", *rows])


def _public(kind: type, *, own: bool) -> Iterator[tuple[str, Any]]:
    """Yield the public members that a class defines, or those that it inherits from a class of flowstore."""
    seen = {name for name in vars(kind) if not own}
    for cls in kind.__mro__:
        if not cls.__module__.startswith("flowstore") or (cls is kind or cls in WITHOUT_SECTION) != own:
            continue
        for name, item in vars(cls).items():
            described = isinstance(item, (property, classmethod)) or inspect.isfunction(item) or hasattr(item, "func")
            if not name.startswith("_") and name not in seen and described:
                seen.add(name)
                yield name, item


def _member(name: str, item: Any) -> str:
    """Return a bullet: a property by its name, a method by its signature, and the first paragraph of its docstring."""
    function = getattr(item, "fget", None) or getattr(item, "func", None) or getattr(item, "__func__", item)
    is_method = function is item or isinstance(item, classmethod)
    shown = f"{name}{_signature(function)}" if is_method else name
    first, *more = re.split(r"\n\s*\n", _doc(function))
    text = " ".join([first, *(part for part in more if not _SECTION.match(part.splitlines()[0]))])
    return f"- `{shown}`: {' '.join(text.split())}\n"


def _doc(item: Any) -> str:
    text = inspect.getdoc(item)
    assert text, f"{item!r} has no docstring"
    return text


def _signature(item: Callable[..., Any]) -> str:
    """Return the arguments that a caller gives, with types and defaults; of overloads, the last one's."""
    overloads = typing.get_overloads(item) if inspect.isfunction(item) else []
    try:
        signature = inspect.signature(overloads[-1] if overloads else item)
    except ValueError:
        return "()"
    pieces, starred = [], False
    for argument in signature.parameters.values():
        if argument.name == "self":
            continue
        if argument.kind is argument.KEYWORD_ONLY and not starred:
            pieces.append("*")
        starred |= argument.kind in (argument.KEYWORD_ONLY, argument.VAR_POSITIONAL)
        pieces.append(_argument(argument))
    back = (
        ""
        if isinstance(item, type) or signature.return_annotation in (signature.empty, "None")
        else signature.return_annotation
    )
    return f"({', '.join(pieces)}){f' -> {_type(back)}' if back else ''}"


def _argument(argument: inspect.Parameter) -> str:
    star = "*" if argument.kind is argument.VAR_POSITIONAL else "**" if argument.kind is argument.VAR_KEYWORD else ""
    kind = "" if argument.annotation is argument.empty else f": {_type(argument.annotation)}"
    if argument.default is argument.empty:
        return f"{star}{argument.name}{kind}"
    plain = argument.default is None or isinstance(argument.default, (bool, int, float, str))
    default = repr(argument.default) if plain else "…"
    return f"{star}{argument.name}{kind} = {default}" if kind else f"{star}{argument.name}={default}"


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _markdown(text: str) -> str:
    """Return a docstring in Google form as Markdown."""
    parts: list[str] = []
    lines = text.splitlines()
    while lines:
        match = _SECTION.match(lines[0])
        if match is None:
            parts.append(lines.pop(0).rstrip())
            continue
        lines.pop(0)
        body: list[str] = []
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            body.append(lines.pop(0))
        parts += _section(match[1], inspect.cleandoc("\n".join(body)))
    return "\n".join(parts).rstrip() + "\n"


def _section(title: str, body: str) -> list[str]:
    if title.startswith("Example"):
        return ["```python", body, "```", ""]
    return [f"**{title}**", "", *_items(body), ""]


def _items(body: str) -> list[str]:
    """Return a bullet for each `name: text`, with the lines that go on in it; a text without a name stays a text."""
    items: list[str] = []
    for line in body.splitlines():
        match = _ITEM.match(line)
        if match:
            names = ", ".join(f"`{name.strip()}`" for name in match[1].split(","))
            items.append(f"- {names}: {match[2]}")
        elif items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line)
    return items


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(f"{PAGE} is written.")
