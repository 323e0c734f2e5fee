"""Charts of Vega and Vega-Lite, drawn to SVG by the attempt, so that a card needs no script.

They are drawn in a process of their own, which the first chart of a task starts and the end of its cards ends: the
package that draws aborts its process over some specifications, and a card must never cost a task its result.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Self

from flowstore.cards.contract import CardComponent
from flowstore.cards.page import text

_INSTALL = 'pip install "flowstore[charts]"'


class VegaChart(CardComponent):
    """A chart that a specification of Vega-Lite or Vega describes.

    It is drawn by the package vl-convert-python. Where that is not installed, the card shows the specification.

    Args:
        spec: the specification, with its data.
        show_controls: accepted for the sake of code that was written for Metaflow: a picture has no controls.
    """

    def __init__(self, spec: Mapping[str, Any], show_controls: bool = False) -> None:  # noqa: ARG002
        self.spec = self._checked(spec)

    @classmethod
    def from_altair_chart(cls, altair_chart: Any) -> Self:
        """Return a chart of Altair, whichever data transformer is active there."""
        try:
            spec = altair_chart.to_dict()
        except ValueError:  # with the transformer 'vegafusion', which has evaluated the data, only Vega can be made
            spec = altair_chart.to_dict(format="vega")
        return cls(spec)

    def update(self, spec: Mapping[str, Any] | None = None) -> None:
        """Replace the specification."""
        self.spec = self._checked(self.spec if spec is None else spec)

    @staticmethod
    def _checked(spec: Any) -> Mapping[str, Any]:
        if not isinstance(spec, Mapping):
            raise TypeError(f"VegaChart takes a specification, which is a dict, not {type(spec).__name__}.")
        return spec

    def render(self) -> str:
        """Return the chart as SVG."""
        if importlib.util.find_spec("vl_convert") is None:
            specification = json.dumps(self.spec, indent=1, default=str)
            return (
                f'<p class="muted">This chart is not drawn, since vl-convert-python is not installed where the task '
                f'ran: {text(_INSTALL)}</p><pre class="code tall">{text(specification)}</pre>'
            )
        pictures = [_drawn(self.spec, theme) for theme in _themes(self.spec)]
        light, *dark = (f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}" for svg in pictures)
        source = "".join(f'<source media="(prefers-color-scheme: dark)" srcset="{url}">' for url in dark)
        title = text(_title(self.spec))
        return f'<figure><picture>{source}<img alt="{title}" src="{light}"></picture></figure>'


def _themes(spec: Mapping[str, Any]) -> list[str | None]:
    """Return the themes to draw a chart in: also one for dark pages, unless its colours are chosen in it."""
    config = spec.get("config")
    chosen = "background" in spec or (isinstance(config, Mapping) and "background" in config)
    return [None] if chosen or _is_vega(spec) else [None, "dark"]


def _is_vega(spec: Mapping[str, Any]) -> bool:
    return "/vega/" in str(spec.get("$schema", ""))


def _drawn(spec: Mapping[str, Any], theme: str | None) -> str:
    """Return the SVG of a chart."""
    full = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", **spec}
    if len(_themes(spec)) > 1:
        full["background"] = None  # the page's own
    return _drawer.draw("vega" if _is_vega(spec) else "vega-lite", json.dumps(full, default=str), theme)


_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import vl_convert
for line in sys.stdin:
    kind, spec, theme = json.loads(line)
    try:
        if kind == "vega":
            answer = {"svg": vl_convert.vega_to_svg(spec, allowed_base_urls=[])}
        else:
            answer = {"svg": vl_convert.vegalite_to_svg(spec, theme=theme, allowed_base_urls=[])}
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""


class _Drawer:
    """The process that draws charts, which loads nothing from elsewhere for it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # the process that started it: a fork of that must not talk to it

    def draw(self, kind: str, spec: str, theme: str | None) -> str:
        """Return the SVG of a specification.

        Raises:
            ValueError: it can't be drawn.
        """
        if self._process is None or self._owner != os.getpid():
            command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)]
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([kind, spec, theme]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BaseException:  # its pipe broke, or the time was up in the middle of an answer
            self.close()
            raise
        if not line:
            self.close()
            raise ValueError("vl-convert-python crashed over this specification.")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return str(answer["svg"])

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()


_drawer = _Drawer()
close = _drawer.close


def _title(spec: Mapping[str, Any]) -> str:
    """Return a name for those who do not see a chart."""
    title = spec.get("title") or spec.get("description") or "chart"
    return str(title.get("text", "chart") if isinstance(title, Mapping) else title)
