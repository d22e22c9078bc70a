"""Figures of what accuracy costs, and of how well the cost was forecast."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from layerwise.report.figures import OKABE_ITO, SHAPES, Figure, kept_name, layered, palette
from layerwise.report.summary import ends, over_clusters


def cost(rows: pd.DataFrame, layers: Sequence[str] = ()) -> Figure:
    """Final test accuracy against the FLOPs of training, with the Pareto frontier drawn through the best buys."""
    flops = over_clusters(ends(rows, "train_flops", None), ["n", "shots"])[["n", "shots", "mean"]]
    table = over_clusters(ends(rows), ["n", "shots"]).rename(columns={"mean": "test_accuracy"})
    table = table.merge(flops.rename(columns={"mean": "train_flops"}), on=["n", "shots"])
    table = table.astype({"n": "int64", "shots": "int64"}).sort_values(["shots", "n"], ignore_index=True)
    table.insert(1, "kept", [kept_name(n, layers) for n in table["n"]])
    table["best_buy"] = frontier(table["train_flops"].tolist(), table["test_accuracy"].tolist())
    caption = (
        "Each point: one number of layers kept (written beside it) at one number of samples per class. The line joins "
        "the best buys, those that nothing cheaper matches. FLOPs are of training the target net, not of its source."
    )
    return Figure("Accuracy against the cost of training", caption, _cost_chart(table), table, "cost")


def frontier(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Which points no other point matches or beats at the same cost or less (the first of equal points counts).

    >>> frontier([1, 2, 3, 4], [0.5, 0.4, 0.6, 0.6])
    [True, False, True, False]
    """
    best, found = float("-inf"), [False] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i])):
        if gains[i] > best:
            best, found[i] = gains[i], True
    return found


def _cost_chart(table: pd.DataFrame) -> alt.LayerChart:
    data = table.assign(shots=table["shots"].astype(str), n=table["n"].astype(str))
    domain = list(dict.fromkeys(data["shots"].tolist()))
    legend = alt.selection_point(name="picked", fields=["shots"], bind="legend", toggle="true")
    faded = alt.when(legend).then(alt.value(1)).otherwise(alt.value(0.12))
    across = alt.X("train_flops:Q", title="FLOPs of training (logarithmic)").scale(type="log", nice=False, padding=14)
    across = across.axis(format="~s", tickCount=5, grid=False)
    up = alt.Y("test_accuracy:Q", title="test accuracy").axis(format=".0%", tickCount=6).scale(zero=False)
    paint = alt.Color("shots:N", title="samples per class", sort=domain).scale(
        domain=domain, range=palette(len(domain))
    )
    mark = alt.Shape("shots:N", title="samples per class", sort=domain).scale(
        domain=domain, range=[SHAPES[i % len(SHAPES)] for i in range(len(domain))]
    )
    hover = [alt.Tooltip("kept:N", title="layers kept"), alt.Tooltip("shots:N", title="samples per class"),
             alt.Tooltip("test_accuracy:Q", format=".1%", title="test accuracy"), "interval:N",
             alt.Tooltip("train_flops:Q", format=".3~s", title="FLOPs of training")]  # fmt: skip
    base = alt.Chart(data).encode(x=across, y=up)
    line = base.transform_filter("datum.best_buy").mark_line(strokeWidth=1.5, strokeDash=[4, 3], color="currentColor")
    line = line.encode(order="train_flops:Q", opacity=alt.value(0.55))
    points = base.mark_point(filled=True, size=70).encode(color=paint, shape=mark, opacity=faded, tooltip=hover)
    names = base.mark_text(dx=9, align="left", fontSize=11, color="currentColor").encode(text="n:N", opacity=faded)
    return layered(line, names, points.add_params(legend))


def forecast(runs: Sequence[dict[str, Any]]) -> Figure | None:
    """Seconds taken against seconds forecast, a point per treatment and samples per class; null if none has run."""
    done = [run for run in runs if run.get("seconds") is not None and run.get("forecast_seconds") is not None]
    if not done:
        return None
    frame = pd.DataFrame(done).reindex(columns=["treatment", "shots", "forecast_seconds", "seconds"])
    grouped = frame.groupby(["treatment", "shots"], dropna=False)
    table = grouped[["forecast_seconds", "seconds"]].mean().reset_index()
    table["runs"] = grouped.size().to_numpy()
    title = "Seconds a run took, against the forecast"
    caption = "Each point: the mean over the runs of one treatment and number of samples. On the line: as forecast."
    return Figure(title, caption, _forecast_chart(table), table, "cost")


def _forecast_chart(table: pd.DataFrame) -> alt.LayerChart:
    both = table[["forecast_seconds", "seconds"]].to_numpy()
    edges = [float(both.min()), float(both.max())]
    scale = alt.Scale(type="log" if edges[0] > 0 else "linear", nice=False, padding=14)
    diagonal = alt.Chart(pd.DataFrame({"forecast_seconds": edges, "seconds": edges})).mark_line(
        strokeDash=[4, 3], strokeWidth=1.5, color="currentColor", opacity=0.55
    )
    points = alt.Chart(table).mark_point(filled=True, size=60, color=OKABE_ITO[0], opacity=0.8)
    points = points.encode(tooltip=[
        "treatment:N", "shots:N", alt.Tooltip("forecast_seconds:Q", format=".3~g", title="forecast"),
        alt.Tooltip("seconds:Q", format=".3~g"), "runs:Q",
    ])  # fmt: skip
    return layered(diagonal, points).encode(
        x=alt.X("forecast_seconds:Q", title="seconds forecast").scale(scale).axis(tickCount=5, grid=False),
        y=alt.Y("seconds:Q", title="seconds taken").scale(scale).axis(tickCount=5),
    )  # fmt: skip
