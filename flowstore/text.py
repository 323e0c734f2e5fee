"""Text of anybody's, made fit to be shown: names, previews and messages may come from a stranger's file.

A terminal obeys control characters: they can clear the screen, rename the window, or make a link of a word. So what
is shown goes through here, errors too, whose messages quote what a file holds.
"""

from __future__ import annotations

import re

# Control characters but for tab and line feed, and the marks that make text read in another order than it stands.
_TRICKS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def safe(text: str) -> str:
    r"""Text without what could play tricks on a terminal: control characters, turned reading order.

    >>> safe("a\x1b[31mb")
    'a[31mb'
    """
    return _TRICKS.sub("", text).encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    r"""The same in one line, for lists in which a line is an item.

    >>> one_line("a\nb")
    'a\\nb'
    """
    return safe(text).replace("\n", "\\n").replace("\t", "\\t")
