"""Rows of cards, for whatever shows them: lists, pages, commands, notebooks. The HTML is loaded when it is asked for.

The HTML of a card is whatever its author wrote. It belongs into a frame without an origin, and nowhere else.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from flowstore.sqlite.database import Row
from flowstore.sqlite.typed_rows import time_of
from flowstore.store import cards
from flowstore.store.blobs import Blob

if TYPE_CHECKING:
    from flowstore.client.run import Run
    from flowstore.client.task import Task


@attrs.frozen
class CardRow:
    """A card of a task, without its HTML.

    Attributes:
        n: its number among the cards of the attempt, from 0.
        type: of which kind it is.
        id: the id that `@card` has, if it has one.
        attempt: the number of the attempt.
        blob: the HTML's; `card_html` loads it.
        updated_at: when it was rendered, in UTC.
        data: JSON that its `refresh` returned.
    """

    n: int
    type: str
    id: str | None
    attempt: int
    blob: Blob = attrs.field(repr=False)
    updated_at: datetime
    data: bytes | None = attrs.field(default=None, repr=False)

    @property
    def hash(self) -> str:
        """SHA-256 of the HTML."""
        return self.blob.sha.hex()

    def as_json(self) -> dict[str, Any]:
        """Return what a list of cards says of it."""
        return {"number": self.n, "type": self.type, "id": self.id, "hash": self.hash, "updated_at": self.updated_at}


@attrs.frozen
class TaskCard:
    """A card of one of a run's tasks: the pathspec of the task, and the card's row."""

    task: str
    row: CardRow


def of_cards(task: Task) -> list[CardRow]:
    """Return the rows of a task's cards, those of its last attempt or of the one that is looked at."""
    attempt = task._attempt_row()
    return [_row(row, attempt["number"]) for row in cards.of_attempt(task._store, attempt["id"])]


def of_run(run: Run, most: int) -> list[TaskCard]:
    """Return the cards of a run's tasks, those that were rendered last first."""
    rows = cards.of_run(run._store, int(run.id), most)
    return [TaskCard(f"{run.pathspec}/{row['step']}/{row['task_id']}", _row(row, row["attempts"] - 1)) for row in rows]


def are_in(run: Run) -> bool:
    """Return whether any task of a run has a card."""
    return cards.are_in(run._store, int(run.id))


def _row(row: Row, attempt: int) -> CardRow:
    return CardRow(
        n=row["n"],
        type=row["type"] or "",
        id=row["card_id"],
        attempt=attempt,
        blob=Blob.of(row),
        updated_at=time_of(row["updated_at"]),
        data=row["refreshed"] if isinstance(row["refreshed"], bytes) else None,
    )


def card_html(task: Task, row: CardRow) -> str:
    """Return the HTML of a card, which is hostile: show it in a frame without an origin only.

    While its task runs, that is its newest state: the one that `row` stands for may be gone.

    Raises:
        StoreCorrupt: its bytes do not match their hash, or are no card's.
        ArtifactError: it was left out of this file.
    """
    with task._store.read():
        newest = {(card.attempt, card.n): card.blob for card in of_cards(task)}
        return cards.html(task._store, newest.get((row.attempt, row.n), row.blob), f"card {row.n} of {task.pathspec}")
