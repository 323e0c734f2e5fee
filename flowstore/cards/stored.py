"""The cards of tasks that have run: `get_cards`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from flowstore.client import Task, cards
from flowstore.client.cards import CardRow

_SHORT = 1500  # characters without the style sheet, which is the same in all cards: some lines of text, or a bar


class Card:
    """A card of a task.

    Attributes:
        type: of which kind it is.
        id: the id that `@card` has, if it has one.
        hash: SHA-256 of the HTML.
        updated_at: when it was rendered, in UTC.
        pathspec: the task's.
        number: its number among the cards of the task, from 0.
    """

    def __init__(self, task: Task, row: CardRow) -> None:
        self._task = task
        self._row = row
        self._path: str | None = None
        self.pathspec = task.pathspec
        self.type = row.type
        self.id = row.id
        self.number = row.n
        self.updated_at = row.updated_at
        self.hash = row.hash

    def get(self) -> str:
        """Return the HTML.

        Raises:
            StoreCorrupt: its bytes do not match their hash.
        """
        return cards.card_html(self._task, self._row)

    def get_data(self) -> Any:
        """Return what a type of card that is drawn while the task runs has last said: a dict with `data`, or `None`."""
        return None if self._row.data is None else json.loads(self._row.data)

    @property
    def path(self) -> str:
        """The path of a file with the HTML; a temporary one, which is written when it is first asked for."""
        if self._path is None or not Path(self._path).exists():
            name = "-".join(part for part in (self.type, self.id, self.hash[:8]) if part)
            safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
            file = Path(tempfile.mkdtemp(prefix="flowstore-card-")) / f"{safe}.html"
            file.write_text(self.get(), "utf-8")
            self._path = str(file)
        return self._path

    def view(self) -> None:
        """Show the card in the browser."""
        import webbrowser

        webbrowser.open(Path(self.path).as_uri())

    def _repr_html_(self) -> str:
        """Return a frame in which the card can do nothing but show itself."""
        html = self.get()
        height = 200 if len(html) - html.find("<body") < _SHORT else 600  # a frame can't ask its card
        return (
            f'<iframe sandbox="allow-scripts" width="100%" height="{height}" frameborder="0" '
            f'srcdoc="{escape(html, quote=True)}"></iframe>'
        )

    def __repr__(self) -> str:
        name = "" if self.id is None else f", id={self.id!r}"
        return f"Card({self.pathspec!r}, type={self.type!r}{name})"


class Cards(Sequence[Card]):
    """The cards of a task, in the order of their decorators."""

    def __init__(self, cards: Sequence[Card]) -> None:
        self._cards = list(cards)

    def __len__(self) -> int:
        return len(self._cards)

    def __getitem__(self, index: Any) -> Any:
        chosen = self._cards[index]
        return Cards(chosen) if isinstance(chosen, list) else chosen

    def __iter__(self) -> Iterator[Card]:
        return iter(self._cards)

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(repr(card))}</p>{card._repr_html_()}" for card in self._cards)

    def __repr__(self) -> str:
        return f"Cards({self._cards!r})"


def get_cards(task: str | Task, id: str | None = None, type: str | None = None, follow_resumed: bool = True) -> Cards:
    """Return the cards of a task.

    Args:
        task: a task, or the pathspec of one.
        id: the id of the card that is wanted.
        type: the type of those that are wanted.
        follow_resumed: whether a task that a resumed run took over has the cards of the task that it stands for.

    Raises:
        NotFound: there is no such task.
    """
    of = Task(task) if isinstance(task, str) else task
    if not follow_resumed and of.origin_pathspec is not None:
        return Cards([])
    listed = [Card(of, row) for row in cards.of_cards(of)]
    return Cards([card for card in listed if id in (None, card.id) and type in (None, card.type)])
