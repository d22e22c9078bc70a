"""The page: every text escaped by the template, every number for the scripts in one packed block, no network by policy.

The page forbids itself the network (Content-Security-Policy `default-src 'none'`) and any script but its own two,
which are named by their digests: text that slipped through as a script would not run.
"""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from layerwise.report import words
from layerwise.report.figures import OKABE_ITO, VIRIDIS, Figure

DIGITS = 7  # of a number on the page, all that single precision has; rows.csv has every one


def render(
    template: str,
    title: str,
    figures: Sequence[Figure],
    tables: Mapping[str, dict[str, Any]],
    claims: Mapping[str, Sequence[str]] | None = None,
    commands: Mapping[str, Sequence[str]] | None = None,
    **words_and_numbers: Any,
) -> str:
    """The whole page as text: a template's sections, these figures and tables, and what else the template names.

    `tables` are as `table_json` gives them; `claims` are the run keys of each claim, `commands` those that show
    and make a run, by what they do: the parts between which its key stands, or the one part of those without it.
    """
    numbers = {f"figure-{i}": table_json(figure.table) for i, figure in enumerate(figures)}
    charts = [spec(figure.chart) for figure in figures]
    data = {
        "charts": charts,
        "datasets": _taken_out(charts, numbers),
        "tables": {**numbers, **tables},
        "claims": {name: list(keys) for name, keys in (claims or {}).items()},
        "commands": {what: list(parts) for what, parts in (commands or {}).items()},
    }
    scripts = [_inline(vega()), _inline(_part("page.js"))]
    return _environment().get_template(template).render(
        title=title, figures=list(enumerate(figures)), css=Markup(_part("page.css")),
        scripts=[Markup(script) for script in scripts], policy=policy(scripts), data=packed(data),
        words=words, **words_and_numbers,
    )  # fmt: skip


def table_json(table: pd.DataFrame, columns: dict[str, tuple[str, str]] | None = None) -> dict[str, Any]:
    """A table for the page's script: columns with title and kind, rows of plain values, null where unknown."""
    named = columns or {str(name): (str(name).replace("_", " "), _kind(table[name])) for name in table.columns}
    return {
        "columns": [{"name": name, "title": title, "kind": kind} for name, (title, kind) in named.items()],
        "rows": [[_plain(value) for value in row] for row in table.itertuples(index=False, name=None)],
    }


def _kind(column: "pd.Series[Any]") -> str:
    return "number" if pd.api.types.is_numeric_dtype(column) else "text"


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if hasattr(value, "item"):
        value = value.item()
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) and abs(value) < 1e6 else value


def spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as Vega-Lite, its colours replaceable by the style sheet, its background that of the page."""
    with alt.data_transformers.enable("default", max_rows=None):
        found: dict[str, Any] = chart.to_dict()
    found.pop("$schema", None)  # the only address in it; the page says which library reads it
    found["config"] = {}
    recoloured: dict[str, Any] = _recolour(found)
    return recoloured


def _recolour(value: Any) -> Any:
    """Palette colours become `var(--c-0072b2, #0072B2)`, so that dark paper can lighten them."""
    if isinstance(value, dict):
        return {name: part if name == "datasets" else _recolour(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_recolour(part) for part in value]
    return f"var(--c-{value[1:].lower()}, {value})" if value in (*OKABE_ITO, *VIRIDIS) else value


def _taken_out(charts: Sequence[dict[str, Any]], tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The data of all charts by name, which leaves each chart with its names: what is drawn twice is held once.

    Data that are a figure's table are the name of that table, of which the page's script makes them.
    """
    names = {_content([c["name"] for c in table["columns"]], table["rows"]): name for name, table in tables.items()}
    found: dict[str, Any] = {}
    for chart in charts:
        for name, records in chart.get("datasets", {}).items():
            rows = [[_plain(value) for value in record.values()] for record in records]
            found[name] = names.get(_content(list(records[0]) if records else [], rows), records)
        chart["datasets"] = list(chart.get("datasets", {}))
    return found


def _content(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return json.dumps([columns, rows])


def packed(data: Any) -> str:
    """JSON, compressed, in letters that no string in it can turn into markup; `unpacked` in page.js reads it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


@cache
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed of the version that altair writes for; of its names the page sees one."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return f"(() => {{{bundle}}})();"


def _inline(script: str) -> str:
    """The script without what would end its element: in JavaScript's strings and patterns `<\\/` equals `</`."""
    return script.replace("</script", "<\\/script").replace("<!--", "\\x3c!--").replace("\r\n", "\n")


def policy(scripts: Sequence[str]) -> str:
    """The page's own Content-Security-Policy: nothing is loaded, and only these scripts run."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _part(name: str) -> str:
    return (files("layerwise.report") / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(_part)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters["unbroken"] = words.unbroken
    return environment
