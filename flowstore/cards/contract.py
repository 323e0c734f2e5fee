"""The contract of cards: what a type of card, and a component of a card, has to be.

Both are what Metaflow's are, under further names, so that a class that was written for Metaflow works here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from flowstore.errors import GraphError
from flowstore.text import did_you_mean

ENTRY_POINTS = "flowstore.cards"
RELOAD_POLICY_NEVER, RELOAD_POLICY_ALWAYS, RELOAD_POLICY_ONCHANGE = "never", "always", "onchange"


class FlowstoreCard:
    """The base of types of cards.

    A subclass has a `type`, which `@card(type=…)` names. It is found if it is defined in the flow's own file, or in a
    module that this imports, or if an installed package has an entry point of that name in the group
    `flowstore.cards`. When the step has ended, flowstore makes an object of it and stores what `render` returns.

    Example:
        >>> class Greeting(FlowstoreCard):
        ...     type = "greeting"
        ...     def render(self, task):
        ...         return f"<h1>Hello {self.options.get('name', 'world')}</h1>"
        >>> Greeting(options={"name": "Ada"}).render(None)
        '<h1>Hello Ada</h1>'

    Args:
        options: those of `@card(options=…)`.
        components: the HTML of the components that the step appended, in their order.
        graph: the flow's steps: a dict by name of dicts with `name`, `type`, `next`, `doc` and more.
        flow: the flow's object in the task, for a subclass whose `__init__` takes it.

    Attributes:
        type: the name of the type.
        ALLOW_USER_COMPONENTS: whether a step may append components.
        RUNTIME_UPDATABLE: whether `current.card.refresh` calls `render_runtime` and `refresh`.
        RELOAD_POLICY: accepted for the sake of cards that were written for Metaflow. Here a card is drawn again with
            each refresh, and pages show it as it is.
    """

    type: ClassVar[str] = ""
    ALLOW_USER_COMPONENTS: ClassVar[bool] = False
    RUNTIME_UPDATABLE: ClassVar[bool] = False
    RELOAD_POLICY: ClassVar[str] = RELOAD_POLICY_NEVER
    RELOAD_POLICY_NEVER: ClassVar[str] = RELOAD_POLICY_NEVER
    RELOAD_POLICY_ALWAYS: ClassVar[str] = RELOAD_POLICY_ALWAYS
    RELOAD_POLICY_ONCHANGE: ClassVar[str] = RELOAD_POLICY_ONCHANGE
    scope: ClassVar[str] = "task"

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        components: Sequence[str] = (),
        graph: Mapping[str, Any] | None = None,
        flow: Any = None,
    ) -> None:
        self.options = dict(options or {})
        self.components = components
        self.graph = graph
        self.flow = flow

    def render(self, task: Any) -> str:  # noqa: ARG002  # for those who override it
        """Return the card as HTML.

        Args:
            task: the task, with its `pathspec`, `data`, `artifacts` and whatever else the Client's `Task` has.
        """
        raise TypeError(f"{type(self).__name__} has no render(task): define it, and return HTML.")

    def render_runtime(self, task: Any, data: Any) -> str:  # noqa: ARG002
        """Return the card as HTML while the task runs.

        Args:
            task: the task as it is now.
            data: a dict; under `user` is what `current.card.refresh(…)` was given, under `render_seq` how often the
                card was drawn before.
        """
        raise TypeError(f"{type(self).__name__} has no render_runtime(task, data): define it, and return HTML.")

    def refresh(self, task: Any, data: Any) -> Any:  # noqa: ARG002  # for those who have data
        """Return what `Card.get_data()` answers: anything that JSON can hold. Called like `render_runtime`."""
        return None

    def reload_content_token(self, task: Any, data: Any) -> str:
        """Return a text that changes when the card does; part of `Card.get_data()`."""
        return "final" if task.finished else f"runtime-{data.get('render_seq', 0)}"


class CardComponent:
    """The base of components: something that `current.card.append` takes.

    Example:
        >>> class Rule(CardComponent):
        ...     def render(self):
        ...         return "<hr>"

    Attributes:
        id: under which `current.card.components[id]` finds it, if `append` was given one.
    """

    id: str | None = None

    def render(self) -> Any:
        """Return the component as HTML."""
        raise TypeError(f"{type(self).__name__} has no render(): define it, and return HTML.")

    def update(self, *_args: Any, **_options: Any) -> None:
        """Change what the component shows. Those that can be changed define it."""
        raise TypeError(f"{type(self).__name__} cannot be updated.")


MetaflowCard, MetaflowCardComponent = FlowstoreCard, CardComponent

# --- types by name


def find_type(name: str) -> type[FlowstoreCard]:
    """Return the type of card of a name.

    One that a module of this process defines comes before the entry points of installed packages.

    Raises:
        GraphError: there is none. The import of somebody's package may raise anything else.
    """
    own = [kind for kind in _subclasses(FlowstoreCard) if kind.type == name]
    if own:
        return own[-1]
    entry = _entry_points().get(name)
    if entry is None:
        raise GraphError(_no_type(name))
    kind: type[FlowstoreCard] = entry.load()
    return kind


def check_type(name: str, step: str) -> None:
    """Raise GraphError where a step has a card of a type that there is not; an installed one is not imported yet."""
    if name not in _known_types():
        raise GraphError(f"Step {step} has @card(type={name!r}). {_no_type(name)}")


def _no_type(name: str) -> str:
    known = _known_types()
    return f"There is no type of card {name!r}; there are: {', '.join(known)}.{did_you_mean(name, known)}"


def _known_types() -> list[str]:
    return sorted({*(kind.type for kind in _subclasses(FlowstoreCard) if kind.type), *_entry_points()})


def _subclasses(kind: type[FlowstoreCard]) -> Iterator[type[FlowstoreCard]]:
    importlib.import_module("flowstore.cards.templates")
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
