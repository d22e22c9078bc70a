"""Figures from rows: each a chart, what it says in words, and the table it was drawn from.

Charts take no colours from the page: text and axes are set by the page's style, and every palette is safe for
colour-blind readers (viridis for what is ordered, Okabe and Ito's for what is not), with a shape beside each colour.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from layerwise.report.summary import GIVEN, ends, measured, over_clusters

# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/, without black and yellow, which vanish on dark and light paper.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# viridis at eighths, without its yellow end.
VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")

HEIGHT = 320
LONG = 14  # characters of a label, beyond which names are told by what is their own
PERCENT = ".1~%"  # on axes: 92.5%, 93%


@dataclass(frozen=True)
class Figure:
    """A chart with its title, its caption and the table that it was drawn from."""

    title: str
    caption: str
    chart: alt.TopLevelMixin
    table: pd.DataFrame
    section: str = "levels"  # of the report in which it stands
    claims: tuple[str, ...] = ()  # ids of those that it shows; Y1 is also that of "Y1 unpaired", R1 of "R1-He"
    wide: bool = False  # with no other beside it


def palette(count: int, ordered: bool = True) -> list[str]:
    """So many colours: spread evenly over viridis where the series are ordered; repeated where there are too few."""
    if not ordered:
        return [OKABE_ITO[i % len(OKABE_ITO)] for i in range(count)]
    last = len(VIRIDIS) - 1
    return [VIRIDIS[round(i * last / max(count - 1, 1))] for i in range(count)]


def shapes(count: int) -> list[str]:
    """So many shapes, which with the unordered colours of `palette` tell 48 series apart.

    >>> len(set(zip(palette(48, ordered=False), shapes(48), strict=True)))
    48
    """
    together = math.lcm(len(OKABE_ITO), len(SHAPES))  # after so many, shapes move on by one
    return [SHAPES[(i + i // together) % len(SHAPES)] for i in range(count)]


def curves(
    table: pd.DataFrame,
    x: str,
    y: str,
    colour: str,
    low: str | None = None,
    high: str | None = None,
    *,
    x_title: str | None = None,
    y_title: str | None = None,
    colour_title: str | None = None,
    continuous: bool = False,
    ordered: bool = True,
    percent: bool = True,
    size: int = 60,
    tooltip: Sequence[str] = (),
) -> alt.LayerChart:
    """One line with points for each value of `colour`, a band from `low` to `high`; a click in the legend picks lines.

    Categories of x (unless `continuous`) and of colour stand in the order in which the table has them.
    """
    series = list(dict.fromkeys(table[colour].tolist()))
    domain = [str(name) for name in series]
    data = table.assign(**{colour: table[colour].astype(str)})
    legend = alt.selection_point(name="picked", fields=[colour], bind="legend", toggle="true")
    across = _axis(x, x_title, continuous, list(dict.fromkeys(table[x].tolist())))
    number = ".1%" if percent else ".4~g"
    up = alt.Y(field=y, type="quantitative", title=y_title or y).scale(zero=False)
    up = up.axis(format=PERCENT if percent else "~s" if table[y].abs().max() >= 1_000 else ".3~g", tickCount=6)
    named = colour_title or colour
    entries = alt.Legend(symbolLimit=len(domain))  # 30 otherwise
    paint = alt.Color(field=colour, type="nominal", title=named, sort=domain, legend=entries).scale(
        domain=domain, range=palette(len(domain), ordered)
    )
    mark = alt.Shape(field=colour, type="nominal", title=named, sort=domain, legend=entries).scale(
        domain=domain, range=shapes(len(domain))
    )
    base = alt.Chart(data).encode(x=across, color=paint)
    lines = base.mark_line(strokeWidth=2).encode(y=up, opacity=_faded(legend, 1.0, 0.12))
    hover = [
        alt.Tooltip(field=colour, type="nominal", title=named),
        alt.Tooltip(field=x, type="quantitative" if continuous else "nominal", title=x_title or x),
        alt.Tooltip(field=y, type="quantitative", format=number, title=y_title or y),
        *(alt.Tooltip(field=name, type="quantitative", format=number) for name in (low, high) if name),
        *(alt.Tooltip(field=name, type="nominal") for name in tooltip),
    ]
    points = base.mark_point(filled=True, size=size).encode(
        y=up, shape=mark, opacity=_faded(legend, 1.0, 0.12), tooltip=hover
    )
    layers: list[alt.Chart] = [lines.add_params(legend), points]
    if low and high:
        band = base.mark_area().encode(
            y=alt.Y(field=low, type="quantitative", title=y_title or y).scale(zero=False),
            y2=alt.Y2(field=high),
            opacity=_faded(legend, 0.13, 0.02),
        )
        layers.insert(1, band)  # under the points, yet not first: the legend is made from the first layer
    return layered(*layers)


def layered(*charts: alt.Chart) -> alt.LayerChart:
    """Charts over one another, as wide as the page lets them be."""
    return alt.LayerChart(layer=list(charts)).properties(width="container", height=HEIGHT)


def _axis(x: str, title: str | None, continuous: bool, order: list[Any]) -> alt.X:
    if continuous:
        return alt.X(field=x, type="quantitative", title=title or x, axis=alt.Axis(format="~s", grid=False))
    axis = named_axis(order, labelAngle=0, labelLimit=90, grid=False)
    return alt.X(field=x, type="ordinal", title=title or x, sort=order, axis=axis).scale(type="point", padding=0.3)


def named_axis(names: Sequence[Any], **how: Any) -> alt.Axis:
    """An axis of these categories, long ones shortened as `shortened` has them."""
    short = shortened([str(name) for name in names])
    return alt.Axis(labelExpr=f"{json.dumps(short)}[datum.label] || datum.label", **how) if short else alt.Axis(**how)


def shortened(names: Sequence[str]) -> dict[str, str]:
    """Dotted names by their numbers and their last word, where some are long; none where two would be the same.

    >>> shortened(["embedder", "encoder.stages.0.layers.1.layer.0", "blocks.1.attn"])
    {'encoder.stages.0.layers.1.layer.0': '0.1.layer.0', 'blocks.1.attn': '1.attn'}
    >>> shortened(["conv.1", "conv.2"])
    {}
    """
    if max(map(len, names), default=0) <= LONG:
        return {}
    short = {name: _own(name) for name in names if "." in name}
    return short if len({short.get(name, name) for name in names}) == len(set(names)) else {}


def _own(name: str) -> str:
    before, _, dotted = name.rpartition(" ")  # of "3 conv", how many layers are kept
    parts = dotted.split(".")
    last = max((place for place, part in enumerate(parts) if not part.isdigit()), default=0)
    own = ".".join(part for place, part in enumerate(parts) if part.isdigit() or place == last)
    return f"{before} {own}".strip()


def _faded(legend: alt.Parameter, picked: float, other: float) -> Any:
    return alt.when(legend).then(alt.value(picked)).otherwise(alt.value(other))


def kept_name(n: int, layers: Sequence[str] = ()) -> str:
    """How many layers were kept, with the name of the last of them: "0", "1 C1", "2 S2".

    >>> [kept_name(n, ["C1", "S2"]) for n in range(4)]
    ['0', '1 C1', '2 S2', '3']
    """
    return f"{n} {layers[n - 1]}" if 0 < n <= len(layers) else str(n)


def _tidy(table: pd.DataFrame, y: str, layers: Sequence[str]) -> pd.DataFrame:
    """The summary with plain numbers, and `kept`: n with the name of its layer."""
    whole = {name: "int64" for name in ("n", "shots", "step") if name in table}
    table = table.astype(whole).rename(columns={"mean": y})
    table.insert(1, "kept", [kept_name(n, layers) for n in table["n"]])
    return table


def given(table: pd.DataFrame) -> str:
    """The sentence on what the intervals are over."""
    if table.empty:
        return "Nothing was measured."
    if table["clusters"].min() > 1:
        return "Bands: 95 % interval of the mean over class splits, each with its own source net."
    if table["trials"].max() == 1:
        return f"One trial each, {GIVEN}: no interval."
    return f"Bands: {table['interval'].iloc[0]}: they do not say how other classes and sources would do."


def levels(rows: pd.DataFrame, shots: int | None = None, layers: Sequence[str] = ()) -> Figure:
    """Test accuracy against the number of layers kept: one curve per samples per class (the paper's Figure 2).

    With `shots`, the smallest, mean and largest of all trials at that many samples per class (its Figures 3 to 5).
    `layers` are the layers' names in order, for the labels of the axis.
    """
    if shots is not None:
        return _extremes(rows, shots, layers)
    table = _tidy(over_clusters(ends(rows), ["n", "shots"]), "test_accuracy", layers)
    table = table.sort_values(["shots", "n"], ignore_index=True)
    chart = curves(
        table, "kept", "test_accuracy", "shots", "low", "high",
        x_title="layers kept", y_title="test accuracy", colour_title="samples per class", tooltip=["interval"],
    )  # fmt: skip
    caption = "Each point: the mean over class splits of the mean over trials. "
    return Figure("Test accuracy against layers kept", caption + given(table), chart, table)


def _extremes(rows: pd.DataFrame, shots: int, layers: Sequence[str]) -> Figure:
    values = ends(rows)
    table = _tidy(over_clusters(values[values["shots"] == shots], ["n"]), "mean", layers)
    table = table[["n", "kept", "minimum", "mean", "maximum", "clusters", "trials"]]
    long = table.melt(
        ["n", "kept", "trials"], ["maximum", "mean", "minimum"], "statistic", "test_accuracy", ignore_index=True
    )
    chart = curves(
        long, "kept", "test_accuracy", "statistic", x_title="layers kept", y_title="test accuracy",
        colour_title="of all trials", ordered=False, tooltip=["trials"],
    )  # fmt: skip
    caption = "The smallest, mean and largest final test accuracy of all trials. A range, not an interval: it widens "
    title = f"Minimum, mean and maximum with {_samples(shots)} per class"
    return Figure(title, caption + "with the number of trials.", chart, table)


def _samples(shots: int) -> str:
    return "1 sample" if shots == 1 else f"{shots} samples"


def learning(rows: pd.DataFrame, shots: int, layers: Sequence[str] = ()) -> Figure:
    """Test accuracy against training step at so many samples per class, one curve per number of layers kept."""
    values = measured(rows, "accuracy")
    table = _tidy(over_clusters(values[values["shots"] == shots], ["n", "step"]), "test_accuracy", layers)
    chart = curves(
        table, "step", "test_accuracy", "kept", "low", "high", x_title="training step", y_title="test accuracy",
        colour_title="layers kept", continuous=True, size=30, tooltip=["interval"],
    )  # fmt: skip
    title = f"Learning curves with {_samples(shots)} per class"
    return Figure(title, "Mean test accuracy after each step. " + given(table), chart, table, "learning")


def sources(values: pd.DataFrame, of: str, bands: str, *, of_title: str, claims: tuple[str, ...] = ()) -> Figure:
    """Test accuracy of the source nets against training step, a curve for each value of the column `of`, in its order.

    `values` are rows of accuracy at every step; `bands` says what is independent.
    """
    order = list(dict.fromkeys(values[of]))
    table = over_clusters(values, [of, "step"]).rename(columns={"mean": "test_accuracy"})
    table = table[[of, "step", "test_accuracy", "low", "high", "clusters", "interval"]].astype({"step": "int64"})
    table[["low", "high"]] = table[["low", "high"]].astype("float64").clip(0, 1)  # of two nets they reach far beyond
    table = table.sort_values(of, key=lambda names: names.map(order.index), kind="stable", ignore_index=True)
    chart = curves(
        table, "step", "test_accuracy", of, "low", "high", x_title="training step", y_title="test accuracy",
        colour_title=of_title, continuous=True, ordered=False, size=30, tooltip=["interval"],
    )  # fmt: skip
    caption = (
        "Nets that learn from scratch, from which layers are copied, on their own task. One that still climbs where "
        f"its curve ends has not finished learning. {bands}"
    )
    return Figure("Learning curves of the source nets", caption, chart, table, "learning", claims)


def gap(rows: pd.DataFrame, layers: Sequence[str] = ()) -> Figure:
    """Training minus test accuracy at the last step, against layers kept, one curve per samples per class."""
    train = ends(rows, split="train")[["run_key", "value"]]
    both = ends(rows).merge(train, on="run_key", suffixes=("", "_train"))
    both = both.assign(value=both["value_train"] - both["value"])
    table = _tidy(over_clusters(both, ["n", "shots"]), "gap", layers)
    table = table.sort_values(["shots", "n"], ignore_index=True)
    chart = curves(
        table, "kept", "gap", "shots", "low", "high", x_title="layers kept",
        y_title="training minus test accuracy", colour_title="samples per class", tooltip=["interval"],
    )  # fmt: skip
    caption = "How much better a net does on what it was trained on than on what it has not seen, at the end. "
    return Figure("Gap between training and test accuracy", caption + given(table), chart, table, "learning")
