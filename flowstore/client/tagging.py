"""Changing tags: on runs, steps, tasks and artifacts, and so on all that is below them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flowstore.client.base import Object

if TYPE_CHECKING:
    from flowstore.store.tags import Node


class Tagged(Object):
    """An object whose tags can be changed. Each call changes all that it says, or nothing."""

    def _node(self) -> Node:
        """Where its tags are stored."""
        raise AssertionError  # each kind of object defines it

    def add_tag(self, tag: str) -> None:
        """Add a tag; no error if it is there.

        Raises:
            TaggingError: the tag is not allowed.
        """
        self.replace_tags([], [tag])

    def add_tags(self, tags: Iterable[str]) -> None:
        """Add tags; see `add_tag`."""
        self.replace_tags([], tags)

    def remove_tag(self, tag: str) -> None:
        """Remove a tag; no error if it is not there.

        Raises:
            TaggingError: it is a system tag, or inherited from an object above.
        """
        self.replace_tags([tag], [])

    def remove_tags(self, tags: Iterable[str]) -> None:
        """Remove tags; see `remove_tag`."""
        self.replace_tags(tags, [])

    def replace_tag(self, tag_to_remove: str, tag_to_add: str) -> None:
        """Remove one tag and add another."""
        self.replace_tags([tag_to_remove], [tag_to_add])

    def replace_tags(self, tags_to_remove: Iterable[str], tags_to_add: Iterable[str]) -> None:
        """Remove tags, then add others."""
        from flowstore.store import tags  # not before a tag is changed: looking at results needs none of it

        tags.change(self._store, self._node(), remove=tags_to_remove, add=tags_to_add)
