"""Names that artifacts may have.

A name is part of an address, `Flow/run/step/task/name`, and of lines that people read, so it holds no slash and
nothing that can't be shown. Identifiers, which nearly all names are, need no closer look.
"""

from __future__ import annotations

from flowstore.errors import ArtifactError


def check_name(name: object) -> None:
    """Raise where an artifact can't have this name.

    Raises:
        ArtifactError: says what is wrong with the name.

    Example:
        >>> check_name("val loss")
        >>> check_name("val/loss")
        Traceback (most recent call last):
        ...
        flowstore.errors.ArtifactError: An artifact cannot be named 'val/loss': ... Use another name.
    """
    if isinstance(name, str) and name.isidentifier():
        return
    if problem := _problem(name):
        raise ArtifactError(f"An artifact cannot be named {name!r}: {problem}. Use another name.")


def _problem(name: object) -> str | None:
    """Return what is wrong with a name, or `None`."""
    if not isinstance(name, str):
        return f"a name is text, not {type(name).__name__}"
    if not name:
        return "a name has at least one character"
    if name in {".", ".."}:
        return "as a file's name it would be a folder"
    if "/" in name:
        return "a slash separates the parts of an address"
    import unicodedata

    categories = set(map(unicodedata.category, name))
    if "Cc" in categories:
        return "it holds a control character"
    if "Cs" in categories:
        return "it holds a lone surrogate, which is no character"
    return None
