"""Figures of what accuracy costs, and of how well the cost was forecast."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from layerwise.claims import plural
from layerwise.data.folder import natural
from layerwise.report.figures import OKABE_ITO, PERCENT, SHAPES, Figure, layered, palette
from layerwise.report.summary import ends, over_clusters

COSTS = {  # column: what it is called. Seconds are the plan's: rows repeat to the bit, and time does not
    "train_flops": "FLOPs of training",
    "seconds": "seconds of training",
    "parameters_trained": "parameters trained",
}
INSIDE = ("layer", "part", "unit")  # columns that the accuracy of a net lacks
MOST_NAMED = 36  # conditions in the legend; all have tooltips


def cost(rows: pd.DataFrame, runs: Sequence[Mapping[str, Any]], cluster: str = "class split") -> Figure | None:
    """Final test accuracy against cost, with the frontier of what nothing cheaper matches; null if unmeasured.

    A point for each experiment, condition (or treatment, where it has no condition), number of layers copied and of
    samples. Points are compared only where net, experiment and samples are the same: that is a `task`, and one is shown
    at a time. `runs` are those of plan.json.
    """
    table = costs_of(rows, runs, cluster)
    known = {name: title for name, title in COSTS.items() if len(table) and (table[name] > 0).any()}
    if not known:
        return None
    caption = (
        "Each point: one condition of one experiment, a mean. The dashed line joins the best buys, those that nothing "
        f"cheaper matches. Whiskers: 95 % intervals over {plural(cluster)}. Costs are of training the net itself, not "
        "of its source. Choose the cost and the task below the picture, conditions in the legend."
    )
    title = "Accuracy against the cost of training"
    return Figure(title, caption, _cost_chart(table, known), table, "cost")


def costs_of(rows: pd.DataFrame, runs: Sequence[Mapping[str, Any]], cluster: str = "class split") -> pd.DataFrame:
    """What each condition costs and reaches: a line for each experiment, condition, n and number of samples.

    Columns: task, condition, n, test_accuracy, low, high, interval (in words), a column for each of COSTS, and for each
    of them `best_by_...`: is it on the frontier of its task?
    """
    found = _of_whole_tasks(ends(rows[rows[list(INSIDE)].isna().all(axis=1)]))
    if found.empty:
        return pd.DataFrame()
    found = found.drop_duplicates(["run_key", "experiment", "condition"])
    found = found.assign(
        task=_tasks(found),
        condition=found["condition"].fillna(found["treatment"]),
        n=found["n"].fillna(-1),
        seed=found["seed"].fillna(-1),
    )
    spent = rows[rows["quantity"].isin(list(COSTS))].drop_duplicates(["run_key", "quantity"])
    spent = spent.pivot(index="run_key", columns="quantity", values="value")
    spent["seconds"] = pd.Series({run["key"]: run.get("seconds") for run in runs}, dtype=float)
    found = found.join(spent.reindex(columns=list(COSTS)), on="run_key")
    by = ["task", "condition", "n"]
    table = over_clusters(found, by, cluster).rename(columns={"mean": "test_accuracy"})
    means = found.groupby(by)[list(COSTS)].mean().reset_index()
    table = table.drop(columns=["minimum", "maximum"]).merge(means, on=by)
    for name in COSTS:
        table[f"best_by_{name}"] = False
        for _, part in table[table[name] > 0].groupby("task"):
            best = frontier(part[name].tolist(), part["test_accuracy"].tolist())
            table.loc[part.index, f"best_by_{name}"] = best
    return table.assign(n=table["n"].astype("Int64").mask(table["n"] < 0))


def _of_whole_tasks(rows: pd.DataFrame) -> pd.DataFrame:
    """Without accuracies of single classes; a net that tells one class from all others has that one's name."""
    names = rows.groupby("run_key")["class_name"].transform("nunique", dropna=False)
    return rows[rows["class_name"].isna() | (names == 1)]


def _tasks(rows: pd.DataFrame) -> "pd.Series[str]":
    """What is compared with one another, in words: net, experiment, samples per class, where there are several."""
    shots = rows["shots"].map(
        lambda k: "1 sample per class" if k == 1 else f"{k} samples per class", na_action="ignore"
    )
    told = [rows["net"], rows["experiment"], shots]
    several = [part.astype("string").fillna("") for part in told if part.nunique() > 1]
    if not several:
        return pd.Series("all", index=rows.index)
    return pd.Series([", ".join(filter(None, parts)) for parts in zip(*several, strict=True)], index=rows.index)


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


def _cost_chart(table: pd.DataFrame, known: Mapping[str, str]) -> alt.LayerChart:
    """The points of one cost and one task at a time, chosen below the picture."""
    choices = {"cost": list(known.values()), "task": sorted(set(table["task"]), key=natural)}
    chosen = [_choice(name, options) for name, options in choices.items() if len(options) > 1]
    legend = alt.selection_point(name="picked", fields=["condition"], bind="legend", toggle="true")
    title = "cost, as chosen below (logarithmic)" if len(known) > 1 else f"{next(iter(known.values()))} (logarithmic)"
    across = alt.X("spent:Q", title=title).scale(type="log", nice=False, padding=36)
    across = across.axis(format="~s", tickCount=5, grid=False)
    up = alt.Y("test_accuracy:Q", title="test accuracy").axis(format=PERCENT, tickCount=6).scale(zero=False)
    entries = alt.Legend(symbolLimit=MOST_NAMED)
    paint = alt.Color("condition:N", title="condition", legend=entries).scale(range=palette(len(OKABE_ITO), False))
    mark = alt.Shape("condition:N", title="condition", legend=entries).scale(range=list(SHAPES))
    hover = [alt.Tooltip("condition:N"), alt.Tooltip("n:N", title="layers copied"), alt.Tooltip("task:N"),
             alt.Tooltip("test_accuracy:Q", format=".1%", title="test accuracy"),
             alt.Tooltip("low:Q", format=".1%"), alt.Tooltip("high:Q", format=".1%"), "interval:N",
             *(alt.Tooltip(f"{name}:Q", format=".3~s", title=title) for name, title in known.items())]  # fmt: skip
    base = alt.Chart(_by_cost(table, known)).encode(x=across)
    for name, options in choices.items():
        if len(options) > 1:
            base = base.transform_filter(f"datum.{name} === {name}_shown")
    best = base.transform_filter("datum.best_buy").encode(y=up)
    line = best.mark_line(strokeWidth=1.5, strokeDash=[4, 3], color="currentColor")
    line = line.encode(order="spent:Q", opacity=alt.value(0.55))
    above = alt.ExprRef("datum.second ? -23 : -11")  # by turns, so that neighbours do not cover each other
    labels = best.mark_text(dy=above, fontSize=11, color="currentColor").encode(
        text="label:N", opacity=_faded(legend, 1, 0.08)
    )
    whiskers = base.mark_rule(strokeWidth=1, color="currentColor").encode(
        y=alt.Y("low:Q", title="test accuracy"), y2="high:Q", opacity=_faded(legend, 0.35, 0.03)
    )
    points = base.mark_point(filled=True, size=70).encode(
        y=up, color=paint, shape=mark, opacity=_faded(legend, 1, 0.08), tooltip=hover
    )
    return layered(points.add_params(legend, *chosen), whiskers, line, labels)


def _choice(name: str, options: Sequence[str]) -> alt.Parameter:
    return alt.param(name=f"{name}_shown", value=options[0], bind=alt.binding_select(options=options, name=f"{name} "))


def _faded(legend: alt.Parameter, picked: float, other: float) -> Any:
    return alt.when(legend).then(alt.value(picked)).otherwise(alt.value(other))


def _by_cost(table: pd.DataFrame, known: Mapping[str, str]) -> pd.DataFrame:
    """A line for each point and cost; what cost nothing has no place on a logarithmic axis."""
    several = table.groupby(["task", "condition"])["n"].transform("nunique") > 1
    label = table["condition"] + (" " + table["n"].astype("string")).where(several, "").fillna("")
    parts = [
        table.assign(label=label, cost=title, spent=table[name], best_buy=table[f"best_by_{name}"])
        for name, title in known.items()
    ]
    long = pd.concat(parts, ignore_index=True)
    long["second"] = long.groupby(["cost", "task", "best_buy"])["spent"].rank(method="first") % 2 == 0
    return long[long["spent"] > 0].drop(columns=[f"best_by_{name}" for name in COSTS])


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
