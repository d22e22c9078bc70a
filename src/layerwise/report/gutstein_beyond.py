"""The figures of what Gutstein et al. wanted next: parts of layers, levels that retrain, source classes, a lifetime."""

from collections.abc import Sequence
from itertools import product

import altair as alt
import pandas as pd

from layerwise.report.figures import Figure, curves, given, kept_name
from layerwise.report.summary import CLUSTER, ends, over_clusters
from layerwise.rows import pick
from layerwise.studies.gutstein_beyond import BECAME, CRITERIA
from layerwise.studies.gutstein_beyond_claims import with_numbers, with_parts
from layerwise.studies.gutstein_design import SOURCE_ACCURACY

PARTIAL = ("G8", "G13", "G14", "G15", "G16")  # claims that the figures show
SOURCES = ("G10", "G17", "G18", "G19")
FORGOTTEN, NEW = ("G11", "G12"), ("G20", "G21")
ALONE = "a net for each task"
RETRAINED = {"frozen": "frozen", "tuned": "retrained"}  # what a condition is called


def figures(rows: pd.DataFrame, layers: Sequence[str]) -> tuple[Figure, ...]:
    """The figures of those experiments that were run."""
    found: list[Figure] = []
    for experiment, draw in {"partial": partial, "tuned": tuned, "sources": sources, "lifelong": lifelong}.items():
        here = pick(rows, experiment=experiment)
        if here["trial"].notna().any():
            found += draw(here, layers)
    return tuple(found)


def partial(rows: pd.DataFrame, layers: Sequence[str]) -> list[Figure]:
    """Accuracy against the share of a layer's maps that is kept: a figure a layer, a curve a criterion."""
    values = with_parts(ends(rows))
    series = []
    for criterion, became in product(CRITERIA, BECAME.values()):
        nothing, same = values["kept"] == "none", values["became"] == became
        here = nothing | (same & values["criterion"].isin([criterion, "all"]))
        if (same & (values["criterion"] == criterion)).any():
            series.append(values[here].assign(series=f"{criterion}, {became}"))
    if not series:
        return []
    together = pd.concat(series)
    order = ["none", *sorted(set(together["kept"]) - {"none", "all"}), "all"]
    table = means(together, ["layer", "kept", "series"])
    table = table.sort_values("kept", key=lambda kept: kept.map(order.index), kind="stable", ignore_index=True)
    caption = (
        "The layers below are copied and frozen, those above are fresh. None and all are the ends of every curve. Each "
        "point: the mean over class splits, over all numbers of samples per class. " + given(table)
    )
    found = []
    for layer in table["layer"].unique():
        here = table[table["layer"] == layer].reset_index(drop=True)
        chart = drawn(here, "kept", "series", f"share of the maps of {layer} that is kept", "chosen by")
        found.append(
            Figure(f"Part of {layer} kept: how many of its maps, and which", caption, chart, here, claims=PARTIAL)
        )
    return found


def tuned(rows: pd.DataFrame, layers: Sequence[str]) -> list[Figure]:
    """Accuracy against levels kept, frozen and retrained."""
    values = ends(rows)
    both = []
    for condition, became in RETRAINED.items():
        here = values[values["condition"].isin(["scratch", condition])]
        both.append(here.assign(series=[f"{became}, {k} per class" for k in here["shots"]]))
    table = means(pd.concat(both), ["shots", "series", "n"])
    table.insert(3, "kept", [kept_name(int(n), layers) for n in table["n"]])
    chart = drawn(table, "kept", "series", "layers kept", "kept layers")
    return [
        Figure(
            "The kept levels frozen, or free to retrain",
            "Test accuracy in the end. " + given(table),
            chart,
            table,
            claims=("G9",),
        )
    ]


def sources(rows: pd.DataFrame, layers: Sequence[str]) -> list[Figure]:
    """Accuracy against the number of source classes, at random and chosen: a figure a number of samples."""
    table = means(with_numbers(ends(rows)), ["shots", "classes", "choice"])
    caption = (
        f"All levels are kept but the last one or two (mean of both). Every source class has as many samples, and "
        f"{_trained(rows)}. Choices look at training images alone, before anything is trained. {given(table)}"
    )
    found = []
    for shots in table["shots"].unique():
        here = table[table["shots"] == shots].sort_values(["classes", "choice"], ignore_index=True)
        chart = drawn(here, "classes", "choice", "source classes", "source classes")
        found.append(
            Figure(
                f"What the source has learnt, for targets of {shots} per class", caption, chart, here, claims=SOURCES
            )
        )
    return found


def _trained(rows: pd.DataFrame) -> str:
    """How long the source nets were trained: for as many steps each (`--source-steps`), or to an accuracy."""
    steps = rows[rows["trial"].isna()].groupby("run_key")["step"].max().unique()
    if len(steps) == 1:
        return f"every source is trained for {steps[0]:,} steps: more classes are also more images"
    return (
        f"every source is trained until it is right on {SOURCE_ACCURACY:.0%} of its training samples: more classes are "
        "also more images and more steps"
    ).replace("%", " %")


def lifelong(rows: pd.DataFrame, layers: Sequence[str]) -> list[Figure]:
    """What is lost of earlier tasks, what new ones reach, each task's accuracy after each new one, and the weights that
    are added.
    """
    seen = rows.assign(after=rows["other_net"].str.removeprefix("task "))
    lost = pick(seen[seen["group"] != seen["other_net"]], quantity="forgotten")
    if lost.empty:
        return []
    lost = lost.assign(
        series=[f"{RETRAINED[c]}, {n} levels" for c, n in zip(lost["condition"], lost["n"], strict=True)]
    )
    table = means(lost, ["series", "after"])
    chart = drawn(table, "after", "series", "tasks learnt", "shared levels", "accuracy lost on earlier tasks")
    caption = "How much test accuracy the earlier tasks have lost, with their own top levels on the newest trunk. "
    title = "What new tasks cost the earlier ones"
    found = [Figure(title, caption + given(table), chart, table, "learning", FORGOTTEN), new_tasks(rows)]
    most = int(lost["n"].max())
    for condition, became in RETRAINED.items():
        here = means(pick(seen, quantity="remembered", condition=condition, n=most), ["group", "after"])
        chart = drawn(here, "after", "group", "tasks learnt", "accuracy on", "test accuracy")
        caption = f"{most} levels shared and {became}; each task's own levels above stay as it left them. "
        title = f"Accuracy on every task after each new one, the trunk {became}"
        found.append(Figure(title, caption + given(here), chart, here, "learning"))
    return [*found, weights(rows)]


def new_tasks(rows: pd.DataFrame) -> Figure:
    """The accuracy of each new task when it is learnt: on a shared trunk, and by a net of its own."""
    values = ends(rows)
    series = [
        f"{RETRAINED[c]}, {n} levels" if n else ALONE for c, n in zip(values["condition"], values["n"], strict=True)
    ]
    table = means(values.assign(series=series, task=values["group"].str.removeprefix("task ")), ["series", "task"])
    chart = drawn(table, "task", "series", "new task", "trunk")
    caption = "Each new task just after it was learnt. "
    return Figure("What new tasks reach on a shared trunk", caption + given(table), chart, table, "learning", NEW)


def weights(rows: pd.DataFrame) -> Figure:
    """Weights in all after each task: trunks that are shared, and a net for each task."""
    added = pick(rows, quantity="weights_added").drop_duplicates(["n", "group"]).sort_values(["n", "group"])
    table = added[["n", "group", "value"]].assign(after=added["group"].str.removeprefix("task "))
    table["weights"] = table.groupby("n")["value"].cumsum()
    table["series"] = [f"{n} levels shared" for n in table["n"]]
    alone = table[table["n"] == table["n"].max()].assign(series=ALONE)
    alone["weights"] = alone["value"].iloc[0] * alone["after"].astype(int)
    table = pd.concat([table, alone])[["series", "after", "weights"]].reset_index(drop=True)
    chart = curves(
        table, "after", "weights", "series", x_title="tasks learnt", y_title="weights in all", colour_title="trunk",
        ordered=False, percent=False,
    )  # fmt: skip
    caption = "Weights of the trunk and of the levels that each task has of its own."
    return Figure("Weights that tasks add", caption, chart, table, "learning")


def means(values: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means with intervals over class splits; what repeats within a trial is averaged first."""
    once = values.groupby([*CLUSTER, *by])["value"].mean()
    return over_clusters(once.reset_index(), by).rename(columns={"mean": "accuracy"})


def drawn(
    table: pd.DataFrame, x: str, colour: str, x_title: str, colour_title: str, y_title: str = "test accuracy"
) -> alt.LayerChart:
    """A curve for each value of `colour`, with its band."""
    return curves(
        table, x, "accuracy", colour, "low", "high", x_title=x_title, y_title=y_title, colour_title=colour_title,
        ordered=False, tooltip=["interval"],
    )  # fmt: skip
