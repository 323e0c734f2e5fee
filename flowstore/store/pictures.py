"""Pictures of artifacts: what a matplotlib figure or a PIL image looks like, as a small PNG for pages and tables.

A picture is drawn once, in the attempt that sets the value, after the value was encoded. Drawing runs the user's code
and may take minutes in a single call of a C library, so it happens in a forked child, which the kernel ends after a
second. A timer in the attempt itself could not interrupt such a call, a thread could not be ended, and both would share
what drawing changes, prints or crashes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from flowstore import later
from flowstore.sqlite.database import Database
from flowstore.store.description import Description

MAX_PICTURE_BYTES = 1_000_000
LONGEST_S = 1.0  # that a picture may take
_MAX_PIXELS = 2000  # of a side
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TRIES = 6

Draw = Callable[[], bytes | None]


def is_picture(png: bytes) -> bool:
    """Return whether these are the bytes of a PNG of a size that is kept; its pixels are not looked at.

    The number of pixels is: a viewer makes room for as many as the file claims to have.
    """
    width, height = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
    small = 0 < width <= _MAX_PIXELS and 0 < height <= _MAX_PIXELS
    return png[:8] == _SIGNATURE and png[12:16] == b"IHDR" and small and len(png) <= MAX_PICTURE_BYTES


def find_picture(store: Database, blob_id: int) -> bytes | None:
    """Return the picture that was kept of a blob; `None` where there is none, or what is there is not one."""
    if not _has_table(store):
        return None
    png: bytes | None = store.value(
        "select png from pictures where blob_id = ? and length(png) <= ?", (blob_id, MAX_PICTURE_BYTES)
    )
    return png if png is not None and is_picture(png) else None


def with_pictures(store: Database, blob_ids: Iterable[int]) -> set[int]:
    """Return those blobs of which a picture was kept."""
    if not _has_table(store):
        return set()
    rows = store.rows(
        "select p.blob_id from json_each(?) j join pictures p on p.blob_id = j.value", (json.dumps([*blob_ids]),)
    )
    return {row["blob_id"] for row in rows}


def _has_table(store: Database) -> bool:
    """Return whether pictures can be kept in this file, which an older version may have written."""
    return store.value("select 1 from pragma_table_info('pictures')") is not None


class Pictures:
    """The pictures of one attempt, which are drawn until one takes too long: a task waits for no second such one.

    Args:
        complain: called with a line for the task's log.
    """

    def __init__(self, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._gave_up = False

    def added_to(self, description: Description, name: str, value: Any) -> Description:
        """Return the description of an artifact with its picture, if it has one."""
        if self._gave_up:
            return description
        try:
            png = picture(value)
        except TimeoutError:
            self._gave_up = True
            self._complain(f"{name} is stored without a picture: drawing it takes longer than {LONGEST_S:g} s.\n")
            return description
        return description if png is None else later.evolve(description, picture=png)


def picture(value: Any) -> bytes | None:
    """Return a PNG of at most 1 MB of a figure, axes or image; `None` for all else, and where it can't be drawn.

    Nothing is imported for it: a value of these libraries is there only where they are.

    Raises:
        TimeoutError: drawing it takes longer than a second.
    """
    draw = _drawing_of(value)
    if draw is None:
        return None
    try:
        return _draw_in_thread(draw) if sys.platform in {"win32", "darwin"} else _draw_in_child(draw)
    except TimeoutError:
        raise
    except Exception:  # there are no processes or memory left: that must not fail the task
        return None


def _drawing_of(value: Any) -> Draw | None:
    """Return a function that draws a value, if it is one that can be drawn."""
    figure, image = sys.modules.get("matplotlib.figure"), sys.modules.get("PIL.Image")
    if image is not None and isinstance(value, image.Image):
        return lambda: _of_image(value)
    if figure is not None and isinstance(value, figure.Figure):
        return lambda: _of_figure(value)
    axes = sys.modules.get("matplotlib.axes")
    if axes is not None and isinstance(value, axes.Axes) and value.figure is not None:
        return lambda: _of_figure(value.figure)
    return None


def _draw_in_child(draw: Draw) -> bytes | None:
    ours, theirs = os.pipe()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads that a fork leaves out: a child that waits for one is ended
            child = os.fork()
        if child == 0:
            _be_child(draw, theirs)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        with os.fdopen(ours, "rb", buffering=0) as pipe:
            return _received(pipe)
    finally:
        with contextlib.suppress(OSError):  # the user's code may have waited for all children
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _be_child(draw: Draw, pipe: int) -> NoReturn:
    """Draw, write the picture to a pipe, and end without anything that belongs to the parent."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.setitimer(signal.ITIMER_REAL, 2 * LONGEST_S)  # should the parent be killed meanwhile
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # what drawing says is not part of the log
            os.dup2(nowhere, descriptor)
        png = draw()
        with open(pipe, "wb", closefd=False) as file:
            file.write(png or b"")
        os._exit(0)
    finally:
        os._exit(1)


def _received(pipe: io.FileIO) -> bytes | None:
    """Return the picture that comes through a pipe."""
    end = time.monotonic() + LONGEST_S
    pieces: list[bytes] = []
    poll = select.poll()  # a descriptor may be larger than `select` takes
    poll.register(pipe, select.POLLIN)
    while poll.poll(max(0.0, end - time.monotonic()) * 1000):
        piece = pipe.read(1 << 16)
        if not piece:
            png = b"".join(pieces)
            return png if is_picture(png) else None
        pieces.append(piece)
    raise TimeoutError


def _draw_in_thread(draw: Draw) -> bytes | None:
    """Draw where a fork is impossible or unsafe: what takes too long goes on, until the process of the attempt ends."""
    import threading

    drawn: list[bytes | None] = []

    def run() -> None:
        with contextlib.suppress(Exception):
            drawn.append(draw())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONGEST_S)
    if thread.is_alive():
        raise TimeoutError
    return drawn[0] if drawn and is_picture(drawn[0] or b"") else None


def _of_figure(figure: Any) -> bytes | None:
    figure = getattr(figure, "figure", figure) or figure  # a part of a figure is shown with the rest of it
    side = max(1e-9, *figure.get_size_inches())
    dots = min(100.0, _MAX_PIXELS / side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs and layouts, which the user has seen where it was drawn
        for _ in range(_TRIES):
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=dots)
            if is_picture(file.getvalue()):
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
        shown.save(file, format="PNG", compress_level=1 if shown.width * shown.height > 1 << 20 else 6)
        if file.tell() <= MAX_PICTURE_BYTES:
            return file.getvalue()
        factor = min(0.8, 0.9 * (MAX_PICTURE_BYTES / file.tell()) ** 0.5)
        shown.thumbnail((max(1, int(shown.width * factor)), max(1, int(shown.height * factor))))
    return None
