"""Charts of Vega and Vega-Lite, drawn to SVG in the attempt, so that a card needs no script."""

from __future__ import annotations

import json
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
        specification = json.dumps(self.spec, indent=1, default=str)
        try:
            import vl_convert
        except ImportError:
            return (
                f'<p class="muted">This chart is not drawn, since vl-convert-python is not installed where the task '
                f'ran: {text(_INSTALL)}</p><pre class="code tall">{text(specification)}</pre>'
            )
        if "/vega/" in str(self.spec.get("$schema", "")):
            svg = vl_convert.vega_to_svg(specification, allowed_base_urls=[])
        else:
            svg = vl_convert.vegalite_to_svg(_with_schema(specification, self.spec), allowed_base_urls=[])
        return f"<figure>{svg}</figure>"


def _with_schema(specification: str, spec: Mapping[str, Any]) -> str:
    if "$schema" in spec:
        return specification
    return json.dumps({"$schema": "https://vega.github.io/schema/vega-lite/v5.json", **spec}, default=str)
