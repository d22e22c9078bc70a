"""The page: every text escaped by the template, every number for the scripts in one JSON block, no network by policy.

The page forbids itself the network (Content-Security-Policy `default-src 'none'`) and any script but its own two,
which are named by their digests: text that slipped through as a script would not run.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import altair as alt
import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from layerwise.report import words
from layerwise.report.costs import forecast
from layerwise.report.figures import OKABE_ITO, VIRIDIS, Figure
from layerwise.report.strip import strip
from layerwise.report.summary import CLUSTER, ends
from layerwise.rows import final

MARKS = {"reproduced": "✓", "contradicted": "✗", "undecided": "?"}
RUN_COLUMNS = {  # name in the table: what it is called on the page, how it is printed
    "key": ("run", "key"),
    "treatment": ("treatment", "text"),
    "shots": ("samples", "number"),
    "seed": ("seed", "number"),
    "trial": ("trial", "number"),
    "test_accuracy": ("test accuracy", "percent"),
    "seconds": ("seconds", "seconds"),
    "forecast_seconds": ("forecast", "seconds"),
    "task": ("task", "text"),
    "net": ("net", "text"),
    "source_key": ("source", "key"),
}


def render(
    title: str,
    answer: str,
    findings: Sequence[str],
    rows: pd.DataFrame,
    claims: Sequence[dict[str, Any]],
    figures: Sequence[Figure],
    plan: dict[str, Any],
    provenance: dict[str, Any],
    notes: Sequence[str],
) -> str:
    """The whole page as text; see `Report` for what goes in."""
    forecasts = forecast(plan["runs"])
    drawn = [*figures, forecasts] if forecasts else list(figures)
    runs = run_table(plan["runs"], rows)
    tables = {f"figure-{i}": table_json(figure.table) for i, figure in enumerate(drawn)}
    data = {
        "charts": [spec(figure.chart) for figure in drawn],
        "tables": {**tables, "runs": table_json(runs, RUN_COLUMNS)},
        "claims": {claim["id"]: list(claim["rows"]) for claim in claims},
    }
    scripts = [_inline(vega()), _inline(_part("page.js"))]
    return _environment().get_template("page.html").render(
        title=title, answer=answer, findings=findings, notes=notes, provenance=provenance,
        claims=list(zip(claims, words.forests(claims), strict=True)),
        papers=len({claim["paper"] for claim in claims}),
        tally=[(verdict, sum(claim["verdict"] == verdict for claim in claims)) for verdict in MARKS],
        figures=[(i, figure) for i, figure in enumerate(drawn)],
        strip=strip(rows), facts=facts(rows, plan), totals=plan["totals"], run_count=len(runs),
        css=Markup(_part("page.css")), scripts=[Markup(script) for script in scripts],
        policy=policy(scripts), data=Markup(json_block(data)), marks=MARKS, words=words,
    )  # fmt: skip


def facts(rows: pd.DataFrame, plan: dict[str, Any]) -> list[tuple[str, str]]:
    """The sizes of what was done: runs, class splits, trials, time."""
    totals, last = plan["totals"], ends(rows)
    counts = [
        (totals.get("runs", len(plan["runs"])), "run", "runs"),
        (len(last.drop_duplicates(CLUSTER)), "class split with its source", "class splits, each with its source"),
        (len(last.drop_duplicates([*CLUSTER, "trial"])), "trial in all", "trials in all"),
    ]
    found = [(one if count == 1 else many, f"{count:,}") for count, one, many in counts if count]
    if totals.get("seconds"):
        found.append(("of training", words.seconds(totals["seconds"])))
    return found


def run_table(runs: Sequence[dict[str, Any]], rows: pd.DataFrame) -> pd.DataFrame:
    """The planned runs with the trial and the final test accuracy that their rows have; source nets included."""
    wanted = [name for name in RUN_COLUMNS if name not in ("trial", "test_accuracy")]
    table = pd.DataFrame(list(runs)).reindex(columns=wanted).astype({"key": "string"})
    accuracy = final(rows[(rows["quantity"] == "accuracy") & (rows["split"] == "test")])
    accuracy = accuracy.drop_duplicates("run_key").rename(columns={"run_key": "key", "value": "test_accuracy"})
    table = table.merge(accuracy[["key", "trial", "test_accuracy"]], on="key", how="left")
    return table.reindex(columns=list(RUN_COLUMNS))


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
    return round(value, 9) if isinstance(value, float) and abs(value) < 1e6 else value


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


def json_block(data: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


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
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def _part(name: str) -> str:
    return (files("layerwise.report") / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(_part)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters["unbroken"] = words.unbroken
    return environment
