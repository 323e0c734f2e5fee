"""How things look: the style sheet and the pictures that pages, notebooks, cards and exported files share.

Everything here is made of plain values and returns text, HTML or SVG. It knows no store, so that a card that is
rendered inside a task and a page that is rendered beside the store draw the same things alike.
"""

from __future__ import annotations

import functools
from pathlib import Path

# A state is a shape, a word and a colour, in this order; the classes are in look.css.
SHAPES = {"successful": "✓", "running": "◐", "failed": "✕", "stopped": "■", "dead": "†"}


@functools.cache
def stylesheet() -> str:
    """Return the style sheet of everything that flowstore shows as HTML."""
    return Path(__file__).with_name("look.css").read_text("utf-8")
