"""The types of cards that flowstore brings: default, blank, and the one that an error makes."""

from __future__ import annotations

import inspect
import linecache
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from flowstore.cards.contract import FlowstoreCard
from flowstore.cards.page import error_html, page, picture, python, section, table, text
from flowstore.cards.task_view import ArtifactView, TaskView
from flowstore.drawing import SHAPES
from flowstore.store.codecs import preview
from flowstore.text import is_number, size

_MOST_ROWS = 200  # artifacts
_MOST_PICTURES = 2_000_000  # bytes of all pictures of a card
_MOST_LINES = 400  # of a step


class BlankCard(FlowstoreCard):
    """A card that shows what the step appended, and nothing else; `options={"title": …}` adds a heading."""

    type: ClassVar[str] = "blank"
    ALLOW_USER_COMPONENTS: ClassVar[bool] = True
    RUNTIME_UPDATABLE: ClassVar[bool] = True

    def render(self, task: Any) -> str:
        """Return the components."""
        title = str(self.options.get("title") or "")
        head = f"<h1>{text(title)}</h1>" if title else ""
        return page(title or task.pathspec, head + _parts(self.components))

    def render_runtime(self, task: Any, data: Any) -> str:  # noqa: ARG002
        """Return the components as they are now."""
        return self.render(task)


class DefaultCard(FlowstoreCard):
    """A card that shows the task: its components, parameters, artifacts with their pictures, and the step's code."""

    type: ClassVar[str] = "default"
    ALLOW_USER_COMPONENTS: ClassVar[bool] = True
    RUNTIME_UPDATABLE: ClassVar[bool] = True

    def render(self, task: Any) -> str:
        """Return the task."""
        shown = task.set_here()
        pictures, rest = _pictures(shown), len(shown) - _MOST_ROWS
        more = f'<p class="muted">and {rest:,} more</p>' if rest > 0 else ""
        head = f"<h1>{text(task.path_components[-2])}</h1>{_subtitle(task, self.flow)}"
        parameters = [(text(name), _value(value)) for name, value in task.parameters().items()]
        return page(
            task.pathspec,
            head
            + _parts(self.components)
            + section("Pictures", pictures)
            + section("Artifacts set here", (_artifacts(shown[:_MOST_ROWS]) + more) if shown else "")
            + section("Parameters", table(("parameter", "value"), parameters) if parameters else "")
            + section("Code", _code(getattr(type(self.flow), task.path_components[-2], None))),
        )

    def render_runtime(self, task: Any, data: Any) -> str:  # noqa: ARG002
        """Return the task as it is now."""
        return self.render(task)


class ErrorCard(FlowstoreCard):
    """A card that shows an error: what stands for a card that could not be rendered."""

    type: ClassVar[str] = "error"

    def render(self, task: Any, stack_trace: str = "") -> str:
        """Return the error."""
        return error_html(task.pathspec, self.type, stack_trace)


def _parts(components: Sequence[str]) -> str:
    return "".join(f'<div class="part">{html}</div>' for html in components)


def _subtitle(task: TaskView, flow: Any) -> str:
    """Return what the task is: its state, its address, its attempt, and what its step says of itself."""
    state = task.status
    flow_name, run_id, _, task_id = task.path_components
    attempt = f", attempt {task.current_attempt + 1}" if task.current_attempt else ""
    doc = inspect.cleandoc(getattr(getattr(type(flow), task.path_components[-2], None), "__doc__", None) or "")
    about = f'<p class="sub doc">{text(doc)}</p>' if doc else ""
    return (
        f'<p class="sub"><span class="state {state}">{SHAPES[state]} {state}</span> '
        f'<span class="muted">task {text(task_id)} of {text(flow_name)}/{text(run_id)}{attempt}</span></p>{about}'
    )


def _artifacts(artifacts: Iterable[ArtifactView]) -> str:
    rows = []
    for artifact in artifacts:
        known = artifact.description
        rows.append(
            (
                text(artifact.name),
                f"<pre>{text(known.preview)}</pre>",
                f'<span class="muted">{text(known.type)}</span>',
                size(known.size_bytes) if known.size_bytes else "",
            )
        )
    return table(("artifact", "value", "type", "size"), rows, numbers=[3])


def _pictures(artifacts: Iterable[ArtifactView]) -> str:
    """Return the pictures of figures and images, as far as they are not too much for one page."""
    shown, room = [], _MOST_PICTURES
    for artifact in artifacts:
        png = artifact.description.picture
        if png is not None and len(png) <= room:
            room -= len(png)
            shown.append(picture(png, artifact.name))
    return "".join(shown)


def _value(value: Any) -> str:
    shown = value if isinstance(value, str) and len(value) <= 100 else preview(value)
    return text(shown) if is_number(value) else f"<pre>{text(shown)}</pre>"


def _code(step: Any) -> str:
    """Return the source of a step, decorators included, as far as it can be found."""
    code = getattr(inspect.unwrap(step) if step is not None else None, "__code__", None)
    if code is None:
        return ""
    lines = linecache.getlines(code.co_filename)
    last = max((end for _, end, _, _ in _positions(code) if end is not None), default=code.co_firstlineno)
    source = lines[code.co_firstlineno - 1 : min(last, code.co_firstlineno + _MOST_LINES)]
    if not source:
        return ""
    return python(textwrap.dedent("".join(source)).rstrip())


def _positions(code: Any) -> Iterable[tuple[int | None, int | None, int | None, int | None]]:
    yield from code.co_positions()
    for constant in code.co_consts:
        if hasattr(constant, "co_positions"):
            yield from _positions(constant)
