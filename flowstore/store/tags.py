"""Which tags are allowed, and changing them: all or nothing."""

from __future__ import annotations

from collections.abc import Iterable

from flowstore.errors import TaggingError

MAX_LENGTH = 500
RESERVED = ("user:", "production:")


def checked(tags: Iterable[str]) -> list[str]:
    """The tags, each once, if all of them may be set by a user.

    Raises:
        TaggingError: one is empty, not text, too long, not UTF-8, or looks like a namespace of flowstore's own.

    Example:
        >>> checked(["a", "b", "a"])
        ['a', 'b']
    """
    if isinstance(tags, (str, bytes)):
        raise TaggingError(f"Give a list of tags, not the text {tags!r}.")
    found = list(dict.fromkeys(_checked(tag) for tag in tags))
    for tag in found:
        if tag.startswith(RESERVED):
            raise TaggingError(
                f"The tag {tag!r} can't be set: tags that begin with user: or production: are set by flowstore alone."
            )
    return found


def _checked(tag: object) -> str:
    if not isinstance(tag, str):
        raise TaggingError(f"A tag is text, not {tag!r}.")
    if not tag:
        raise TaggingError("A tag can't be empty.")
    if len(tag) > MAX_LENGTH:
        raise TaggingError(f"A tag has at most {MAX_LENGTH} characters; this one has {len(tag)}: {tag[:40]!r}…")
    try:
        tag.encode()
    except UnicodeEncodeError:
        raise TaggingError(f"The tag {tag!r} can't be stored: it is not valid Unicode text.") from None
    return tag
