"""The components that need nothing but Python: text, tables, pictures, values, progress, code."""

from __future__ import annotations

import contextlib
import inspect
import io
import textwrap
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from flowstore.cards.contract import CardComponent
from flowstore.cards.page import picture, python, table, text
from flowstore.store.codecs import preview
from flowstore.store.preview import type_name
from flowstore.text import counted, is_number

_MOST_ROWS, _MOST_COLUMNS = 100, 50  # of a data frame that is truncated
_MOST_DIGITS = 10  # of a number, which is rounded if it has more
_DOTS = 120  # a figure's pixels an inch


def html_of(value: Any) -> str:
    """Return a component's HTML, or anything else as text."""
    if isinstance(value, CardComponent):
        return str(value.render())
    if isinstance(value, float) and len(repr(value)) > _MOST_DIGITS:
        return text(f"{value:.6g}")
    return text(value)


class Markdown(CardComponent):
    """Text in Markdown, with tables. HTML in it is shown as it is typed.

    Example:
        >>> Markdown("**bold** <b>").render()
        '<div class="markdown"><p><strong>bold</strong> &lt;b&gt;</p></div>'

    Args:
        text: the text.
    """

    def __init__(self, text: str | None = None) -> None:
        self.text = text

    def update(self, text: str | None = None) -> None:
        """Replace the text."""
        self.text = text

    def render(self) -> str:
        """Return the text as HTML."""
        from flowstore.cards.markdown import to_html

        return f'<div class="markdown">{to_html(textwrap.dedent(self.text or "").strip())}</div>'


def _rows(data: Iterable[Sequence[Any]] | None) -> list[list[Any]]:
    if hasattr(data, "columns"):
        raise TypeError(f"Table: for a {type(data).__name__}, write Table.from_dataframe(…).")
    if data is not None and not isinstance(data, Iterable):
        raise TypeError(f"Table: give a list of rows, each a list of cells, not {data!r}.")
    return [list(row) for row in ([] if data is None else data)]


class Table(CardComponent):
    """A table whose cells are values or components.

    Example:
        >>> "<td>Ada</td>" in Table([["Ada", 36]], headers=["name", "age"]).render()
        True

    Args:
        data: the rows.
        headers: the names of the columns.
        disable_updates: accepted for the sake of code that was written for Metaflow.
    """

    def __init__(
        self, data: Iterable[Sequence[Any]] | None = None, headers: Sequence[str] | None = None,
        disable_updates: bool = False,  # noqa: ARG002
    ) -> None:  # fmt: skip
        self.data = _rows(data)
        self.headers = list(headers or ())
        self._rest = ""

    @classmethod
    def from_dataframe(cls, dataframe: Any = None, truncate: bool = True) -> Self:
        """Return the table of a data frame of pandas or polars.

        Args:
            dataframe: the frame.
            truncate: whether to show the first 100 rows and 50 columns only.
        """
        if dataframe is None:
            return cls()
        if hasattr(dataframe, "to_pandas") and not hasattr(dataframe, "itertuples"):  # polars
            count, columns = dataframe.shape[0], list(dataframe.columns)
            shown = dataframe.head(_MOST_ROWS) if truncate else dataframe
            rows = [list(row) for row in shown.rows()]
        else:
            count, columns = len(dataframe), [*map(str, dataframe.columns)]
            shown = dataframe.head(_MOST_ROWS) if truncate else dataframe
            rows = [list(row) for row in shown.itertuples(index=False, name=None)]
            columns, rows = _with_index(shown, columns, rows)
        most = _MOST_COLUMNS if truncate else len(columns)
        of_frame = cls([row[:most] for row in rows], columns[:most])
        of_frame._rest = _left_out(count - len(rows), len(columns) - most)
        return of_frame

    def update(self, data: Iterable[Sequence[Any]] | None = None, headers: Sequence[str] | None = None) -> None:
        """Replace the rows and, if they are given, the headers."""
        self.data = _rows(data)
        self.headers = self.headers if headers is None else list(headers)

    def render(self) -> str:
        """Return the table."""
        width = max([len(self.headers), *map(len, self.data)], default=0)
        numbers = [
            n for n in range(width) if (cells := [row[n] for row in self.data if n < len(row)]) and _all_numbers(cells)
        ]
        rows = [[html_of(cell) for cell in row] for row in self.data]
        rest = f'<p class="muted">{text(self._rest)}</p>' if self._rest else ""
        return table(self.headers, rows, numbers) + rest


def _all_numbers(cells: Sequence[Any]) -> bool:
    return all(is_number(cell) or cell is None or type_name(cell).startswith("numpy.") for cell in cells)


def _with_index(frame: Any, columns: list[str], rows: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows with the index of a pandas frame, unless that only counts the rows."""
    index = frame.index
    if type(index).__name__ == "RangeIndex":
        return columns, rows
    return [str(index.name or ""), *columns], [[label, *row] for label, row in zip(index, rows, strict=True)]


def _left_out(rows: int, columns: int) -> str:
    parts = [counted(count, f"more {what}") for count, what in ((rows, "row"), (columns, "column")) if count > 0]
    return " and ".join(parts)


class Image(CardComponent):
    """A picture: a PNG, JPEG, GIF, WebP or SVG.

    Args:
        src: its bytes.
        label: a line below it.
        disable_updates: accepted for the sake of code that was written for Metaflow.
    """

    def __init__(
        self, src: bytes | None = None, label: str | None = None, disable_updates: bool = True  # noqa: ARG002
    ) -> None:  # fmt: skip
        if src is not None and not isinstance(src, bytes):
            raise TypeError(f"Image takes the bytes of a picture, not {type_name(src)}: see from_matplotlib.")
        self.src = src
        self.label = label

    @classmethod
    def from_matplotlib(cls, plot: Any, label: str | None = None, disable_updates: bool = False) -> Self:
        """Return the picture of a figure of matplotlib, or of axes or anything else that is in one."""
        return cls(_png_of_figure(plot), label, disable_updates)

    @classmethod
    def from_pil_image(cls, pilimage: Any, label: str | None = None, disable_updates: bool = False) -> Self:
        """Return an image of PIL."""
        return cls(_png_of_image(pilimage), label, disable_updates)

    def update(self, image: Any, label: str | None = None) -> None:
        """Replace the picture by bytes, a figure or an image of PIL."""
        if isinstance(image, bytes):
            self.src = image
        else:
            self.src = _png_of_image(image) if hasattr(image, "save") else _png_of_figure(image)
        self.label = self.label if label is None else label

    def render(self) -> str:
        """Return the picture, with its bytes inside."""
        if self.src is None:
            return f"<figure><figcaption>{text(self.label or '')}</figcaption></figure>"
        return picture(self.src, self.label or "", _kind_of(self.src))


_KINDS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}


def _kind_of(src: bytes) -> str:
    for start, kind in _KINDS.items():
        if src.startswith(start):
            return kind
    if src.lstrip()[:5] in (b"<svg ", b"<?xml"):
        return "image/svg+xml"
    raise ValueError("Image takes the bytes of a PNG, JPEG, GIF, WebP or SVG, and these bytes are none of them.")


def _png_of_figure(plot: Any) -> bytes:
    figure = plot
    if not hasattr(figure, "savefig"):
        figure = plot.get_figure() if hasattr(plot, "get_figure") else getattr(plot, "figure", None)
    if not hasattr(figure, "savefig"):
        raise TypeError(f"Image.from_matplotlib takes a figure, or something that is in one, not {type_name(plot)}.")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS, bbox_inches="tight")
    return file.getvalue()


def _png_of_image(image: Any) -> bytes:
    file = io.BytesIO()
    shown = image if image.mode in {"1", "L", "LA", "P", "RGB", "RGBA"} else image.convert("RGB")
    shown.save(file, format="PNG")
    return file.getvalue()


class Artifact(CardComponent):
    """Any object, as text: its type and a preview of its value.

    Args:
        artifact: the object.
        name: what to call it.
        compressed: whether to shorten what is long.
    """

    def __init__(self, artifact: Any, name: str | None = None, compressed: bool = True) -> None:
        self.artifact = artifact
        self.name = name
        self.compressed = compressed

    def update(self, artifact: Any) -> None:
        """Replace the object."""
        self.artifact = artifact

    def render(self) -> str:
        """Return the object."""
        shown = preview(self.artifact) if self.compressed else repr(self.artifact)
        name = f"<b>{text(self.name)}</b> " if self.name else ""
        return f'{name}<span class="muted">{text(type_name(self.artifact))}</span><pre>{text(shown)}</pre>'


class Error(CardComponent):
    """An exception.

    Args:
        exception: the exception; its traceback is shown if it was raised.
        title: what to say above it.
    """

    def __init__(self, exception: BaseException, title: str | None = None) -> None:
        self.title = title
        self._text = (
            "".join(traceback.format_exception(exception)) if isinstance(exception, BaseException) else str(exception)
        )

    def render(self) -> str:
        """Return the exception."""
        title = f"<b>{text(self.title)}</b>" if self.title else ""
        return f'<div class="error">{title}<pre>{text(self._text.rstrip())}</pre></div>'


class ProgressBar(CardComponent):
    """A bar that shows how far something is.

    Args:
        max: the value at the end.
        label: what it is about.
        value: the value now.
        unit: of the values.
        metadata: what else to say beside it, such as a speed.
    """

    def __init__(
        self, max: float = 100, label: str | None = None, value: float = 0, unit: str | None = None,
        metadata: str | None = None,
    ) -> None:  # fmt: skip
        self.max = max
        self.label = label
        self.value = value
        self.unit = unit
        self.metadata = metadata

    def update(self, new_value: float, metadata: str | None = None) -> None:
        """Set the value and, if it is given, what is said beside it."""
        self.value = new_value
        self.metadata = self.metadata if metadata is None else metadata

    def render(self) -> str:
        """Return the bar, with its values in words."""
        unit = f" {self.unit}" if self.unit else ""
        says = f"{self.value:g}{unit} of {self.max:g}{unit}" + (f", {self.metadata}" if self.metadata else "")
        full = ' class="full"' if self.value >= self.max else ""
        name = text(self.label or "progress")
        return (
            f'<div class="bar"><span>{text(self.label or "")}</span><span class="muted">{text(says)}</span>'
            f'<progress{full} max="{float(self.max):g}" value="{float(self.value):g}" aria-label="{name}">'
            f"{text(says)}</progress></div>"
        )


class ValueBox(CardComponent):
    """A number that matters, large.

    Args:
        title: what it is.
        value: the value.
        subtitle: a line below it.
        theme: 'success', 'warning', 'danger' or 'info'; others look like the default.
        change_indicator: how it has changed.
    """

    def __init__(
        self, title: str | None = None, value: str | float = "", subtitle: str | None = None, theme: str | None = None,
        change_indicator: str | None = None,
    ) -> None:  # fmt: skip
        self.title = title
        self.value: str | float = value
        self.subtitle = subtitle
        self.theme = theme
        self.change_indicator = change_indicator

    def update(
        self, title: str | None = None, value: str | float | None = None, subtitle: str | None = None,
        theme: str | None = None, change_indicator: str | None = None,
    ) -> None:  # fmt: skip
        """Replace what is given."""
        given = {"title": title, "value": value, "subtitle": subtitle, "theme": theme}
        for name, new in {**given, "change_indicator": change_indicator}.items():
            if new is not None:
                setattr(self, name, new)

    def render(self) -> str:
        """Return the box."""
        shown = f"{self.value:,.6g}" if isinstance(self.value, float) else self.value
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            shown = f"{self.value:,}"
        lines = "".join(
            f'<div class="muted">{text(line)}</div>' for line in (self.subtitle, self.change_indicator) if line
        )
        title = f'<div class="muted">{text(self.title)}</div>' if self.title else ""
        theme = self.theme if self.theme in {"success", "warning", "danger", "info"} else ""
        return f'<div class="value {theme}">{title}<b>{text(shown)}</b>{lines}</div>'


class PythonCode(CardComponent):
    """Python code.

    Args:
        code_func: a function, whose source is shown.
        code_string: the code itself.
    """

    def __init__(self, code_func: Callable[..., Any] | None = None, code_string: str | None = None) -> None:
        if code_string is None and code_func is not None:
            with contextlib.suppress(OSError, TypeError):
                code_string = inspect.getsource(code_func)
            code_string = code_string or f"# The source of {getattr(code_func, '__name__', code_func)!r} is not known."
        self.code_string = code_string or ""

    def render(self) -> str:
        """Return the code."""
        return python(textwrap.dedent(self.code_string).strip("\n"))
