"""Cards: reports in HTML that a task makes of itself, stored beside its artifacts.

    @card
    @step
    def train(self):
        current.card.append(Markdown("## Accuracy"))
        current.card.append(Table.from_dataframe(self.scores))

`@card` makes a card once the step has ended: a *default* one, which shows the task, its parameters, its artifacts with
their pictures, and its code, or a *blank* one, which shows no more than the components that the step appended. A class
of your own that derives from `FlowstoreCard` is a further type. Cards are rendered in the attempt, in Python, to HTML
that needs no script and nothing from elsewhere. A card that fails never fails its task.

    Markdown, Table, Image, VegaChart,      components; `update` changes one, and `current.card.refresh()` shows it
    Artifact, Error, ProgressBar, ValueBox,   while the task runs
    PythonCode, JSONViewer, YAMLViewer,
    EventsTimeline
    CardComponent                           the base of components of your own: `render()` returns HTML
    FlowstoreCard                           the base of types of your own: `render(task)` returns HTML
    get_cards(task)                         the cards of a task that has run
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowstore.cards.charts import VegaChart
    from flowstore.cards.components import Artifact, Error, Image, Markdown, ProgressBar, PythonCode, Table, ValueBox
    from flowstore.cards.contract import CardComponent, FlowstoreCard, MetaflowCard, MetaflowCardComponent
    from flowstore.cards.stored import Card, Cards, get_cards
    from flowstore.cards.templates import BlankCard, DefaultCard, ErrorCard
    from flowstore.cards.viewers import EventsTimeline, JSONViewer, YAMLViewer

_MODULES = {
    "flowstore.cards.charts": ("VegaChart",),
    "flowstore.cards.components": (
        "Artifact", "Error", "Image", "Markdown", "ProgressBar", "PythonCode", "Table", "ValueBox",
    ),
    "flowstore.cards.contract": ("CardComponent", "FlowstoreCard", "MetaflowCard", "MetaflowCardComponent"),
    "flowstore.cards.stored": ("Card", "Cards", "get_cards"),
    "flowstore.cards.templates": ("BlankCard", "DefaultCard", "ErrorCard"),
    "flowstore.cards.viewers": ("EventsTimeline", "JSONViewer", "YAMLViewer"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Return a name of this package; what a flow does not use is not imported."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'flowstore.cards' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


__all__ = [
    "Artifact",
    "BlankCard",
    "Card",
    "CardComponent",
    "Cards",
    "DefaultCard",
    "Error",
    "ErrorCard",
    "EventsTimeline",
    "FlowstoreCard",
    "Image",
    "JSONViewer",
    "Markdown",
    "MetaflowCard",
    "MetaflowCardComponent",
    "ProgressBar",
    "PythonCode",
    "Table",
    "ValueBox",
    "VegaChart",
    "YAMLViewer",
    "get_cards",
]
