"""What `layerwise.probe` gives: a probed net whose figures can be had one by one, as the report draws them."""

from typing import Any

from layerwise.notebook import charts, page
from layerwise.probing.examined import Examined
from layerwise.report.probe import figures


class Probed(Examined):
    """What the probes of a net found. In a notebook it shows its answer, a line for each layer, and a figure."""

    @classmethod
    def of(cls, found: Examined) -> "Probed":
        """The same, with its figures."""
        return cls(found.rows, found.pictures, found.plan)

    @property
    def figures(self) -> dict[str, Any]:
        """The report's charts, by their titles."""
        return charts(figures(self.rows, self.plan["quantities"], self.plan["layers"]))

    def _repr_html_(self) -> str:
        return page(self.answer, self.findings, self.layers, self.figures)
