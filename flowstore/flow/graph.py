"""The steps of a flow and the edges between them, read from its source.

Invariant: a graph depends on the source alone. No step is run to learn where it leads, so a flow can be
checked and drawn before its first task, and every process that loads the file sees the same graph. That is
why a step ends in one `self.next(...)` that names its targets literally. A badly written step raises nothing
here: its node carries the `problem`, so that `lint` can name every mistake of a flow with its line.
"""

from __future__ import annotations

import ast
import inspect
import json
import linecache
from contextlib import suppress
from functools import cached_property, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from flowstore import later
from flowstore.context import command_text
from flowstore.errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import CodeType

SPLITS = frozenset({"split", "foreach", "parallel"})  # the kinds that open branches, for a join to close
CHOOSING = frozenset({"foreach", "parallel", "switch"})  # what follows is chosen while the step runs

_NOT_PLAIN = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_SWITCH = 'self.next({"x": self.a, "y": self.b}, condition="name")'


@later.frozen(kw_only=True)
class Node:
    """A step: what it is called, where it is written and where it leads."""

    name: str
    kind: str  # end (no self.next), linear, split, foreach, parallel, switch; or invalid, see `problem`
    targets: tuple[str, ...] = ()  # the next steps in the order written; those of a switch once each
    is_join: bool = False  # it takes `inputs`
    parts: tuple[str, ...] = ()  # 'start' and 'end', as `@step(start=True)` says
    foreach: str | None = None  # name of the artifact that a foreach iterates over
    condition: str | None = None  # name of the artifact that a switch looks at
    cases: dict[Any, str] = later.field(factory=dict)  # the step of each of a switch's values
    file: str = ""  # that of a base class, where the step is inherited
    line: int = 0  # of its `def`
    next_line: int = 0  # of its `self.next`, or of its last statement where there is none
    doc: str = ""  # dedented
    decorators: tuple[str, ...] = ()  # names of the step decorators attached to it
    assigned: tuple[tuple[str, int], ...] = ()  # names that it gives to artifacts literally, each with its line
    problem: str | None = None  # what is wrong with the step by itself, and what to write instead


@later.frozen
class Graph:
    """The steps of one flow, in source order: those of base classes first."""

    flow: str
    file: str
    line: int
    doc: str
    nodes: dict[str, Node]

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def __contains__(self, name: object) -> bool:
        return name in self.nodes

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    @cached_property
    def start(self) -> str:
        """The name of the step where a run begins, which may be missing."""
        return part_of(self.nodes, "start")

    @cached_property
    def end(self) -> str:
        """The name of the step where a run ends, which may be missing."""
        return part_of(self.nodes, "end")

    def parents(self, name: str) -> tuple[str, ...]:
        """Names of the steps whose `self.next` leads to `name`, in source order."""
        return self._parents.get(name, ())

    @cached_property
    def _parents(self) -> dict[str, tuple[str, ...]]:
        parents: dict[str, list[str]] = {}
        for node in self:
            for target in node.targets:
                parents.setdefault(target, []).append(node.name)
        return {target: tuple(names) for target, names in parents.items()}


def part_of(nodes: Mapping[str, Node], part: str) -> str:
    """Return the name of the step that is a flow's start or end: the one marked so, or the only one, or that name."""
    for node in nodes.values():
        if part in node.parts or (len(nodes) == 1 and node.kind == "end"):
            return node.name
    return part


def steps_of(flow: type) -> dict[str, FunctionType]:
    """Return the steps of a flow class by name, those of base classes first."""
    steps: dict[str, FunctionType] = {}
    for base in reversed(flow.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, FunctionType) and getattr(value, "is_step", False):
                steps[name] = value
            else:
                steps.pop(name, None)  # overridden by something that is no step
    return steps


def graph_of(flow: type) -> Graph:
    """Read the graph of a flow class, without running or even instantiating it.

    Args:
        flow: a class whose steps are marked `@step`, in itself or in its bases.

    Raises:
        GraphError: the source of a step can't be found. A mistake *in* a graph raises in `lint.check`.
    """
    steps = steps_of(flow)
    sources = _Sources(flow)
    nodes: dict[str, Node] = {}
    where = None
    for name, func in steps.items():
        code = inspect.unwrap(func).__code__  # a decorator of the user's own may have wrapped it
        tree, class_line = sources.find(name, func)
        nodes[name] = _node(name, func, tree, sources)
        if not where and name in vars(flow):
            where = code.co_filename, class_line or tree.lineno
    file, line = where or _position(flow)
    return Graph(flow.__name__, file, line, inspect.cleandoc(flow.__doc__ or ""), nodes)


_Step = ast.FunctionDef | ast.AsyncFunctionDef
_Def = tuple[_Step, int]  # with the line of the class around it


class _Sources:
    """The sources of a flow's steps, each file parsed once."""

    def __init__(self, flow: type) -> None:
        self.flow = flow
        self._files: dict[str, dict[tuple[int, str], _Def]] = {}

    def find(self, name: str, func: FunctionType) -> _Def:
        """Return the `def` of a step.

        Raises:
            GraphError: there is no source.
        """
        inner = inspect.unwrap(func)
        code = inner.__code__
        try:
            if code.co_filename not in self._files:
                self._files[code.co_filename] = _definitions(inner)
            return self._files[code.co_filename][code.co_firstlineno, code.co_name]
        except (OSError, SyntaxError, KeyError):
            advice = "Write steps as `def` in a file or a notebook cell; if the file has changed, load it again."
            if code.co_filename == "<stdin>":
                advice = "Save the flow in a file, and run that: python flow.py run"
            where = f"{code.co_filename}:{code.co_firstlineno}"
            raise GraphError(f"{where}: no source for step {name!r} of {self.flow.__name__}. {advice}") from None

    def overridden(self, name: str, func: FunctionType, base: str | None) -> FunctionType | None:
        """Return the version of a step that one of its versions calls: by `super()`, or by the name of a base."""
        versions = [(cls, vars(cls)[name]) for cls in self.flow.__mro__ if name in vars(cls)]
        after = next((at for at, (_, version) in enumerate(versions) if version is func), len(versions))
        for cls, version in versions[after + 1 :]:
            if (base is None or cls.__name__ == base) and isinstance(version, FunctionType):
                return version
        return None


def _definitions(func: FunctionType) -> dict[tuple[int, str], _Def]:
    """Return every `def` of the file that holds `func`, by what a code object knows: first line and name.

    The pair is exact, also where a file defines a class twice; and one parse serves all steps of a file,
    whereas `inspect.getsource` would tokenize its way to each of them again.
    """
    linecache.checkcache(func.__code__.co_filename)
    lines = linecache.getlines(func.__code__.co_filename, func.__globals__)  # also notebook cells, zip files
    if not lines and func.__code__.co_filename == "<string>":
        lines = (command_text() or "").splitlines(keepends=True)
    definitions: dict[tuple[int, str], _Def] = {}
    scopes: list[tuple[ast.AST, int]] = [(ast.parse("".join(lines or inspect.findsource(func)[0])), 0)]
    while scopes:
        scope, class_line = scopes.pop()
        for child in _substatements(scope):
            if isinstance(child, _Step):
                first = child.decorator_list[0].lineno if child.decorator_list else child.lineno
                definitions[first, child.name] = child, class_line
            scopes.append((child, child.lineno if isinstance(child, ast.ClassDef) else class_line))
    return definitions


def _position(flow: type) -> tuple[str, int]:
    """File and line of a class without steps of its own."""
    try:
        return inspect.getfile(flow), inspect.findsource(flow)[1] + 1
    except (OSError, TypeError):  # typed at a prompt; as this only labels messages, it need not be known
        return "<unknown>", 1


def _substatements(node: ast.AST) -> Iterator[ast.AST]:
    """Statements directly inside one; expressions hold none, and are most of a tree."""
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        yield from getattr(node, field, ())


class _TailError(ValueError):
    """A mistake of a single step, which becomes the node's `problem`."""


def _node(name: str, func: FunctionType, tree: _Step, sources: _Sources) -> Node:
    code = inspect.unwrap(func).__code__
    me = _self_name(code)
    calls = list(_next_calls(me, tree))
    by_super = _super_calls(me, name, tree)
    try:
        tail = _tail(name, func, tree, sources)
    except _TailError as error:
        tail = {"kind": "invalid", "problem": str(error)}
    ending = [*(call for call, _ in by_super), *calls]
    return Node(
        name=name,
        is_join=code.co_argcount == 2,
        parts=getattr(func, "parts", ()),
        file=code.co_filename,
        line=tree.lineno,
        next_line=ending[-1].lineno if ending else tree.body[-1].lineno,
        doc=inspect.cleandoc(func.__doc__ or ""),
        decorators=tuple(decorator.name for decorator in getattr(func, "decorators", ())),
        assigned=tuple(_assigned(me, tree)),
        **tail,
    )


def read_step(tree: _Step) -> Node:
    """Return the node of a step of which there is only the `def`, in a source that is looked at and never run.

    A step that leaves `self.next` to the version of a base class is of the kind 'end' here.
    """
    names = [argument.arg for argument in tree.args.args]
    me = names[0] if names else "self"
    calls = list(_next_calls(me, tree))
    try:
        tail = _read_next(me, calls[-1]) if calls else {"kind": "end"}
    except _TailError as error:
        tail = {"kind": "invalid", "problem": str(error)}
    parts = tuple(
        option.arg
        for option in getattr(step_mark(tree), "keywords", ())
        if option.arg in {"start", "end"} and getattr(option.value, "value", False)
    )
    doc = ast.get_docstring(tree) or ""
    return Node(name=tree.name, is_join=len(names) == 2, doc=doc, line=tree.lineno, parts=parts, **tail)


def step_mark(tree: _Step) -> ast.expr | None:
    """Return what marks a `def` as a step, `@step` or `@step(…)`; `None` where it is none."""
    for mark in tree.decorator_list:
        name = mark.func if isinstance(mark, ast.Call) else mark
        if "step" in {getattr(name, "id", None), getattr(name, "attr", None)}:
            return mark
    return None


def _self_name(code: CodeType) -> str:
    return code.co_varnames[0] if code.co_argcount else "self"


def _tail(name: str, func: FunctionType, tree: _Step, sources: _Sources) -> dict[str, Any]:
    """Read where a step leads: by its own `self.next`, else by that of the version of a base that it calls."""
    code = inspect.unwrap(func).__code__
    me = _self_name(code)
    calls = list(_next_calls(me, tree))
    if not calls:
        for _, base in _super_calls(me, name, tree):
            version = sources.overridden(name, func, base)
            if version is not None:
                return _tail(name, version, sources.find(name, version)[0], sources)
        if name not in {"end", code.co_name} and "end" not in getattr(func, "parts", ()):
            maker = code.co_qualname.partition(".<locals>")[0]
            raise _TailError(
                f"its source is not seen, since {maker!r} put its function {code.co_name!r} in its place. Mark that "
                "function with @functools.wraps(…), giving it the step's own."
            )
    return _read_tail(me, code, tree, calls)


def _super_calls(me: str, name: str, step: ast.AST) -> list[tuple[ast.Call, str | None]]:
    """Return the statements that call a base's version of the step, each with the base where it is named."""
    calls: list[tuple[ast.Call, str | None]] = []
    for statement in _substatements(step):
        match getattr(statement, "value", None):
            case ast.Call(func=ast.Attribute(attr=attr, value=base), args=args) as call if attr == name:
                match base:
                    case ast.Call(func=ast.Name(id="super")):
                        calls.append((call, None))
                    case ast.Name(id=cls) | ast.Attribute(attr=cls) if args and ast.unparse(args[0]) == me:
                        calls.append((call, cls))
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            calls += _super_calls(me, name, statement)
    return calls


def _assigned(me: str, step: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each name that a statement of a step gives to an artifact, as in `self.x = …`, with its line."""
    for statement in _substatements(step):
        targets = [*getattr(statement, "targets", ()), getattr(statement, "target", None)]
        targets += [item.optional_vars for item in getattr(statement, "items", ())]
        while targets:
            match targets.pop():
                case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner == me:
                    if not isinstance(statement, ast.Delete):
                        yield name, statement.lineno  # type: ignore[attr-defined]
                case ast.Tuple(elts=parts) | ast.List(elts=parts):
                    targets += parts
                case ast.Starred(value=part):
                    targets.append(part)
        yield from _assigned(me, statement)


def _next_calls(me: str, step: ast.AST) -> Iterator[ast.Call]:
    """Yield every `self.next(...)` that is a statement's value, also inside blocks, in source order."""
    for statement in _substatements(step):
        match getattr(statement, "value", None):
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="next")) as call if owner == me:
                yield call
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _next_calls(me, statement)


def _read_tail(me: str, code: CodeType, tree: _Step, calls: list[ast.Call]) -> dict[str, Any]:
    if code.co_flags & _NOT_PLAIN or code.co_kwonlyargcount or code.co_argcount not in {1, 2}:
        names = ", ".join(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        given = "" if code.co_flags & _NOT_PLAIN else f"it takes ({names}); "
        raise _TailError(f"{given}a step is no generator, not async, and takes (self) or, as a join, (self, inputs).")
    if not calls:
        return {"kind": "end"}
    last = tree.body[-1]
    if len(calls) > 1 or not isinstance(last, ast.Expr) or last.value is not calls[0]:
        raise _TailError(
            f"line {calls[0].lineno} calls {me}.next early. Call it once, as the last statement, outside "
            f"of any block and without `return`; to choose between steps, write {_SWITCH}."
        )
    return _read_next(me, calls[0])


def _read_next(me: str, call: ast.Call) -> dict[str, Any]:
    options = {keyword.arg or "**": keyword.value for keyword in call.keywords}
    if len(options) > 1 or not options.keys() <= {"foreach", "num_parallel", "condition"}:
        raise _TailError(f"{me}.next has {', '.join(options)}. Write foreach=, num_parallel= or condition=.")
    if "condition" in options or any(isinstance(arg, ast.Dict) for arg in call.args):
        return _read_switch(me, call.args, options.get("condition"))
    targets = tuple(_target(me, arg) for arg in call.args)
    if not targets:
        raise _TailError(f"{me}.next names no step. Write {me}.next({me}.a).")
    if twice := sorted({target for target in targets if targets.count(target) > 1}):
        raise _TailError(f"{me}.next names {twice[0]!r} twice. Name each step once; for many, use foreach=.")
    if options and len(targets) > 1:
        raise _TailError(f"{next(iter(options))}= leads to one step, not {len(targets)}. Let that one split.")
    if "foreach" in options:
        return {"kind": "foreach", "targets": targets, "foreach": _artifact("foreach", options["foreach"])}
    kind = "parallel" if options else "linear" if len(targets) == 1 else "split"
    return {"kind": kind, "targets": targets}


def _read_switch(me: str, args: list[ast.expr], condition: ast.expr | None) -> dict[str, Any]:
    if condition is None or len(args) != 1 or not isinstance(args[0], ast.Dict) or not args[0].keys:
        raise _TailError(f"a switch takes one dict of cases, and condition=. Write {_SWITCH}.")
    cases: dict[Any, str] = {}
    for key, value in zip(args[0].keys, args[0].values, strict=True):
        case = _literal(key)
        if case in cases:
            raise _TailError(f"two cases equal {case!r} (True equals 1), so one is never met. Remove one.")
        cases[case] = _target(me, value)
    name, targets = _artifact("condition", condition), tuple(dict.fromkeys(cases.values()))
    return {"kind": "switch", "targets": targets, "condition": name, "cases": cases}


def _literal(key: ast.expr | None) -> Any:
    text = "**" if key is None else ast.unparse(key)
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(text)
        if isinstance(value, str | bytes | int | float | None):
            return value
    raise _TailError(f"the case {text} is no literal. Write a string, a number, True, False or None.")


def _artifact(option: str, value: ast.expr) -> str:
    match value:
        case ast.Constant(value=str(name)) if name.isidentifier():
            return name
    how = f"Write it literally: {option}='name'. Set self.name before."
    raise _TailError(f"{option}={ast.unparse(value)} names no artifact. {how}")


def _target(me: str, arg: ast.expr) -> str:
    match arg:
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner == me:
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)) if owner == me:
            hint = f"Name the step without calling it: {me}.{name}"
        case ast.Name(id=name) | ast.Constant(value=str(name)):
            hint = f"Write {me}.{name}"
        case _:
            hint = f"Name each step literally: {me}.next({me}.a, {me}.b)"
    raise _TailError(f"{me}.next is given {ast.unparse(arg)}, which is no step. {hint}.")


_quoted = partial(json.dumps, ensure_ascii=False)  # Graphviz escapes the same way


def describe(graph: Graph) -> str:
    """Return the graph as text: each step with its docstring, and an arrow to the next ones."""
    blocks = ["\n".join([graph.flow, *graph.doc.splitlines()])]
    for node in graph:
        head = " ".join([node.name, *["(join)"] * node.is_join, *(f"@{name}" for name in node.decorators)])
        arrows = ", ".join(f"{target} {_label(node, target)}".rstrip() for target in node.targets)
        blocks.append("\n    ".join([head, *node.doc.splitlines(), *[f"=> {arrows}"] * bool(arrows)]))
    return "\n\n".join(blocks) + "\n"


def to_dot(graph: Graph) -> str:
    """Return the graph in Graphviz' language, for `dot -Tsvg`."""
    lines = [f"digraph {_quoted(graph.flow)} {{", "  node [shape=box, style=rounded];"]
    for node in graph:
        name = _quoted(node.name)
        lines.append(f"  {name} [tooltip={_quoted(node.doc)}];")
        edges = ((_quoted(target), _quoted(_label(node, target))) for target in node.targets)
        lines.extend(f"  {name} -> {target} [label={label}];" for target, label in edges)
    return "\n".join([*lines, "}"]) + "\n"


def _label(node: Node, target: str) -> str:
    """Return the label of an edge; empty for a plain one."""
    if node.kind == "switch":
        values = [repr(value) for value, name in node.cases.items() if name == target]
        return f"if {node.condition} is {' or '.join(values)}"
    return {"foreach": f"(foreach {node.foreach})", "parallel": "(num_parallel)"}.get(node.kind, "")
