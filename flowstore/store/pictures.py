"""Pictures of artifacts: what a matplotlib figure or a PIL image looks like, as a small PNG for pages and tables."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

MAX_PICTURE_BYTES = 1_000_000
_MAX_PIXELS = 2000  # of a side
_TRIES = 6


def is_picture(png: bytes) -> bool:
    """Return whether these are the bytes of a PNG of a size that is kept; its pixels are not looked at."""
    return png[:8] == b"\x89PNG\r\n\x1a\n" and len(png) <= MAX_PICTURE_BYTES


def picture(value: Any) -> bytes | None:
    """Return a PNG of at most 1 MB of a figure, axes or image; `None` for everything else.

    Nothing is imported for it: a value of these libraries is there only where they are.
    """
    figure, image = sys.modules.get("matplotlib.figure"), sys.modules.get("PIL.Image")
    try:
        if image is not None and isinstance(value, image.Image):
            return _of_image(value)
        if figure is not None and isinstance(value, figure.Figure):
            return _of_figure(value)
        axes = sys.modules.get("matplotlib.axes")
        if axes is not None and isinstance(value, axes.Axes) and value.figure is not None:
            return _of_figure(value.figure)
    except Exception:  # drawing calls the user's own code, and must not fail the task
        return None
    return None


def _of_figure(figure: Any) -> bytes | None:
    figure = getattr(figure, "figure", figure) or figure  # a part of a figure is shown with the rest of it
    side = max(1e-9, *figure.get_size_inches())
    dots = min(100.0, _MAX_PIXELS / side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs and layouts, which the user has seen where it was drawn
        for _ in range(_TRIES):
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=dots)
            if file.tell() <= MAX_PICTURE_BYTES:
                return file.getvalue()
            dots /= 2
    return None


def _of_image(image: Any) -> bytes | None:
    shown = image.copy()
    shown.thumbnail((_MAX_PIXELS, _MAX_PIXELS))
    if shown.mode not in {"1", "L", "LA", "P", "RGB", "RGBA"}:
        shown = shown.convert("RGB")
    for _ in range(_TRIES):
        file = io.BytesIO()
        shown.save(file, format="PNG")
        if file.tell() <= MAX_PICTURE_BYTES:
            return file.getvalue()
        shown.thumbnail((max(1, shown.width // 2), max(1, shown.height // 2)))
    return None
