"""How what was found shows in a notebook: the answer, the findings, a table, and the first of the report's figures.

Everything is in the text itself: names are escaped, the figure is a picture, nothing is loaded and no script runs. So
it shows alike in every notebook, also where it is not trusted. `.figures` has the charts, which a notebook makes
interactive.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from layerwise.report.figures import Figure

WIDTH = 640  # pixels of a figure that takes the width of its page
MOST = 20  # lines of a table that are shown


def charts(figures: Iterable[Figure]) -> dict[str, alt.TopLevelMixin]:
    """The charts of figures by their titles; where several have the same one, the later ones are numbered."""
    found: dict[str, alt.TopLevelMixin] = {}
    for figure in figures:
        same = sum(name == figure.title or name.startswith(f"{figure.title} (") for name in found)
        found[f"{figure.title} ({same + 1})" if same else figure.title] = figure.chart
    return found


def page(
    answer: str, findings: Sequence[str], table: pd.DataFrame, figures: Mapping[str, alt.TopLevelMixin] | None = None
) -> str:
    """The fragment of HTML that a notebook shows."""
    told = "".join(f"<li>{escape(finding)}</li>" for finding in findings)
    parts = [f"<p>{escape(answer)}</p>", f"<ol>{told}</ol>" if told else "", _table(table)]
    for title, chart in list((figures or {}).items())[:1]:
        parts.append(picture(title, chart))
    if others := list(figures or ())[1:]:
        parts.append(f"<p>More in <code>.figures</code>: {escape('; '.join(others))}.</p>")
    return "".join(parts)


def picture(title: str, chart: alt.TopLevelMixin) -> str:
    """A chart as an image in the text itself, with its title as what is read aloud."""
    with alt.data_transformers.enable("default", max_rows=None):
        spec: dict[str, Any] = chart.to_dict()
    if spec.get("width") == "container":
        spec["width"] = WIDTH
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    drawn = vl_convert.vegalite_to_svg(spec, vl_version=version)
    content = base64.b64encode(drawn.encode()).decode()
    shown = escape(title)
    image = f'<img alt="{shown}" src="data:image/svg+xml;base64,{content}">'
    return f"<figure><figcaption>{shown}</figcaption>{image}</figure>"


def _table(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    with pd.option_context("display.max_colwidth", None):
        shown = table.head(MOST).to_html(index=False, border=0, na_rep="")
    return shown if len(table) <= MOST else f"{shown}<p>and {len(table) - MOST:,} lines more</p>"
