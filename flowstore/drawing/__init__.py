"""How things look: the style sheet and the pictures that pages, notebooks, cards and exported files share.

Everything here is made of plain values and returns text, HTML or SVG. It knows no store, so that a card that is
rendered inside a task and a page that is rendered beside the store draw the same things alike.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

# A state is a shape, a word and a colour, in this order; the classes are in look.css.
SHAPES = {"successful": "✓", "running": "◐", "failed": "✕", "stopped": "■", "dead": "†"}


@functools.cache
def stylesheet() -> str:
    """Return the style sheet of everything that flowstore shows as HTML."""
    return Path(__file__).with_name("look.css").read_text("utf-8")


# JupyterLab and VS Code say which theme they show; elsewhere the browser does. The class is named twice, so that these
# rules count for more than the ones that notebooks have for the tables and links of a piece.
_SCOPE = ".flowstore.flowstore"
_LIGHT, _DARK = ('[data-jp-theme-light="true"]', ".vscode-light"), ('[data-jp-theme-light="false"]', ".vscode-dark")


@functools.cache
def scoped_stylesheet() -> str:
    """Return the style sheet with rules that reach nothing outside of an element of the class 'flowstore'.

    A notebook shows such elements among others. The colours are those of its theme.
    """
    css = re.sub(r"(?s)/\*.*?\*/", "", stylesheet())
    [light] = re.findall(r"(?m)^:root \{(.*?)\}", css, re.DOTALL)
    [dark] = re.findall(r"(?m)^  :root \{(.*?)\}", css, re.DOTALL)
    themes = [(_LIGHT, light), (_DARK, dark)]
    rules = [_scoped(css), *(f"{','.join(f'{at} {_SCOPE}' for at in where)}{{{tokens}}}" for where, tokens in themes)]
    return re.sub(r"\s+", " ", "".join(rules))


def _scoped(css: str) -> str:
    """Return rules with the scope before each selector; those of the whole page become those of the element."""
    scoped = []
    for head, body in re.findall(r"([^{}]+)\{((?:[^{}]|\{[^{}]*\})*)\}", css):
        if head.strip().startswith("@media"):
            scoped.append(f"{head.strip()}{{{_scoped(body)}}}")
            continue
        selectors = [selector.strip() for selector in head.split(",")]
        named = [_SCOPE if selector in {":root", "body"} else f"{_SCOPE} {selector}" for selector in selectors]
        scoped.append(f"{','.join(named)}{{{body}}}")
    return "".join(scoped)
