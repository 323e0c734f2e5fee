"""The HTML of cards: pages, facts, tables and code, with the look of everything else that flowstore shows.

What goes into a page is escaped here. A page needs no script and asks for nothing from elsewhere, so it can be mailed.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from flowstore.drawing import stylesheet
from flowstore.text import safe


def text(value: object) -> str:
    """Return a value as text that is safe in HTML.

    >>> text("<b>")
    '&lt;b&gt;'
    """
    return escape(safe(str(value)))


@functools.cache
def _styles() -> str:
    """Return the style sheet of cards, without comments and needless space."""
    css = stylesheet() + Path(__file__).with_name("card.css").read_text("utf-8")
    return re.sub(r"\s*([{};,>])\s*", r"\1", re.sub(r"/\*.*?\*/|\s+", " ", css, flags=re.DOTALL)).strip()


def page(title: str, body: str) -> str:
    """Return a whole page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>{text(title)}</title><style>{_styles()}</style></head>'
        f"<body><main>{body}</main></body></html>"
    )


def section(title: str, body: str) -> str:
    """Return a part of a page under a heading; nothing where there is nothing in it."""
    return f"<section><h2>{text(title)}</h2>{body}</section>" if body else ""


def table(head: Sequence[object], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """Return a table whose cells are HTML.

    Args:
        head: the names of the columns, as text; none for a table without a head.
        rows: the cells.
        numbers: the columns that hold numbers, which are aligned at the right.
    """
    right = {*numbers}

    def line(cells: Iterable[str], tag: str) -> str:
        inner = (f"<{tag}{' class=number' if n in right else ''}>{cell}</{tag}>" for n, cell in enumerate(cells))
        return f"<tr>{''.join(inner)}</tr>"

    top = f"<thead>{line(map(text, head), 'th')}</thead>" if head else ""
    return f'<div class="wide"><table>{top}<tbody>{"".join(line(row, "td") for row in rows)}</tbody></table></div>'


def picture(data: bytes, label: str = "", kind: str = "image/png") -> str:
    """Return a picture with its label; its bytes are in the page."""
    caption = f"<figcaption>{text(label)}</figcaption>" if label else ""
    encoded = base64.b64encode(data).decode()
    return f'<figure><img alt="{text(label or "picture")}" src="data:{kind};base64,{encoded}">{caption}</figure>'


_WORDS = (
    "and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|"
    "lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield|None|True|False|self"
)
_TOKENS = (
    r'(?P<s>(?:\b[rRbBfFuU]{1,2})?(?:"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'))'
    rf"|(?P<c>\#[^\n]*)|(?P<k>\b(?:{_WORDS})\b)|(?P<d>@[\w.]+)"
)


def python(source: str) -> str:
    """Return Python code, with strings, comments and keywords marked."""
    parts: list[str] = []
    at = 0
    for match in re.finditer(_TOKENS, source):
        parts.append(text(source[at : match.start()]))
        parts.append(f'<span class="{match.lastgroup}">{text(match[0])}</span>')
        at = match.end()
    return f'<pre class="code">{"".join(parts)}{text(source[at:])}</pre>'


def error_html(pathspec: str, kind: str, message: str) -> str:
    """Return the page that stands for a card that could not be rendered."""
    return page(
        f"{pathspec}: card {kind}",
        f"<h1>{text(pathspec)}</h1>"
        f'<div class="error"><b>The card “{text(kind)}” could not be rendered.</b> The task itself is not affected.'
        f"<pre>{text(message)}</pre></div>",
    )
