"""Pictures are drawn in a child, for a second at most: whatever drawing does, the task keeps its result."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import time
from pathlib import Path

import pytest

from flowstore.store import pictures
from flowstore.store.pictures import is_picture, picture

image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="draws with matplotlib")


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """A busy machine may need longer than a second for any of these; tests that wait for the end choose their own."""
    monkeypatch.setattr(pictures, "LONGEST_S", 30.0)


def figure_that(act):
    """A figure with a part that does something when it is drawn."""
    from matplotlib import figure, lines  # which take half a second to import, in each worker that collects these tests

    class Drawn(lines.Line2D):
        def draw(self, renderer):
            act()
            super().draw(renderer)

    drawn = figure.Figure(figsize=(1, 1))
    drawn.add_artist(Drawn([0, 1], [0, 1]))
    return drawn


def test_a_figure_and_its_axes_have_a_picture():
    """It is a PNG; what is no figure or image has none."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(2, 1))
    axes = drawn.subplots()
    assert [is_picture(picture(value) or b"") for value in (drawn, axes)] == [True, True]
    assert [picture(value) for value in (1, [drawn], None)] == [None, None, None]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "F", "I", "I;16", "YCbCr"])
def test_images_of_every_mode_have_one(mode):
    """Where PNG lacks a mode, the picture is of another."""
    assert is_picture(picture(image.new(mode, (30, 20))))


def test_a_large_picture_is_made_smaller():
    """Until it has at most 1 MB, and 2000 pixels a side."""
    noise = picture(image.frombytes("RGB", (700, 700), os.urandom(700 * 700 * 3)))
    wide = picture(image.new("RGB", (9000, 3)))
    assert (is_picture(noise), is_picture(wide)) == (True, True)


@pytest.mark.parametrize("act", [lambda: time.sleep(60), lambda: ctypes.CDLL(None).sleep(60)])
def test_drawing_is_given_up(act, monkeypatch):
    """Also where it does not come back from a C library."""
    monkeypatch.setattr(pictures, "LONGEST_S", 0.2)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        picture(figure_that(act))
    assert time.monotonic() - start < 2


def test_of_one_attempt_only_one_picture_is_waited_for(monkeypatch):
    """The log names the one that was given up; those before it are kept."""
    monkeypatch.setattr(pictures, "LONGEST_S", 0.2)
    said = []
    album = pictures.Pictures(said.append)
    slow, none = figure_that(lambda: time.sleep(60)), pictures.Description("pickle", 1, "x", "x")
    start = time.monotonic()
    assert [album.added_to(none, name, slow).picture for name in ("one", "two", "three")] == [None] * 3
    assert time.monotonic() - start < 3
    assert said == ["one is stored without a picture: drawing it takes longer than 0.2 s.\n"]


@pytest.mark.parametrize("act", [lambda: os.kill(os.getpid(), 9), lambda: os._exit(0), lambda: {}[0]])
def test_drawing_that_crashes_leaves_no_picture(act):
    """The process that sets the value goes on."""
    assert picture(figure_that(act)) is None


def test_drawing_says_nothing_and_changes_nothing(capfd):
    """What it prints is not part of the log, and what it sets stays in the child."""
    seen = []
    assert is_picture(picture(figure_that(lambda: (seen.append(1), os.write(1, b"drawn"), os.write(2, b"drawn")))))
    assert (seen, capfd.readouterr()) == ([], ("", ""))


def test_nothing_is_left_of_the_child():
    """No process and no descriptor."""

    def held():
        own = Path("/proc/self")
        return len([*own.glob("fd/*")]), sorted(file.read_text() for file in own.glob("task/*/children"))

    before = held()
    for _ in range(3):
        picture(image.new("L", (2, 2)))
    assert held() == before


def test_where_no_child_can_be_made_a_thread_draws(monkeypatch):
    """As on Windows; it is waited for as long."""
    monkeypatch.setattr(pictures.sys, "platform", "win32")
    monkeypatch.setattr(pictures, "LONGEST_S", 0.2)
    with pytest.raises(TimeoutError):
        picture(figure_that(lambda: time.sleep(0.5)))
    monkeypatch.setattr(pictures, "LONGEST_S", 20)
    assert picture(figure_that(lambda: {}[0])) is None
    assert is_picture(picture(image.new("L", (2, 2))))


def test_a_picture_of_more_pixels_than_are_kept_is_none():
    """A viewer would make room for all that a few bytes claim to have."""
    png = picture(image.new("L", (2, 2)))
    bomb = png[:16] + (60000).to_bytes(4) + (60000).to_bytes(4) + png[24:]
    assert [is_picture(data) for data in (png, bomb, b"<svg>", png[:20])] == [True, False, False, False]
