"""The figures of Yosinski's study: the paper's figures 2 and 3 redrawn from the rows, and what they leave out."""

from collections.abc import Callable, Sequence

import altair as alt
import pandas as pd

from layerwise.claims import over_clusters
from layerwise.report.figures import Figure, curves, kept_name, palette, sources
from layerwise.rows import final, pick
from layerwise.studies.yosinski_claims import KINDS
from layerwise.studies.yosinski_nets import BASE, HALF, LINE, OF_HALVES, Nets, losses

LEVEL = 0.95
BANDS = "Bands: 95 % interval of the mean over class splits."
ONE = "One class split: no interval."
FOUR = ("BnB", "BnB+", "AnB", "AnB+")
# The paper's own nets, n = 1 to 7: top-1 accuracies on halves of ImageNet, from its authors' released logs (each the
# mean of the ten best evaluations of a net, then over nets): https://github.com/yosinski/convnet_transfer.
PAPERS_BASE = {"random": 0.625, "natural": 0.653, "man-made": 0.537, "random filters": 0.576}
PAPERS = {
    "BnB": (0.627, 0.624, 0.621, 0.605, 0.594, 0.619, 0.623),
    "AnB": (0.628, 0.624, 0.619, 0.600, 0.578, 0.581, 0.543),
    "natural": (0.657, 0.651, 0.625, 0.582, 0.522, 0.485, 0.399),
    "man-made": (0.539, 0.521, 0.501, 0.462, 0.410, 0.374, 0.291),
    "random filters": (0.492, 0.403, 0.001, 0.019, 0.050, 0.015, 0.015),
}
PAPERS_GAINS = {  # of tuned nets, one or two a cut, each minus the base of its own half
    "AnB+": (0.003, 0.006, 0.013, 0.010, 0.011, 0.012, 0.012),
    "BnB+": (0.003, 0.006, 0.012, 0.014, 0.011, 0.009, 0.012),
}
PAPERS_CHANCE = {"AnB": 1 / 500, "natural": 1 / 449, "man-made": 1 / 551, "random filters": 1 / 1000}
PAPERS_DEPTH = 8  # layers: nets of others have no n in common with it
DASHED = "Dashed: the paper's own nets (eight layers, ImageNet). "


def figures(rows: pd.DataFrame) -> tuple[Figure, ...]:
    """All nets, the two causes of loss, distance and random filters, layers preserved, fresh starts, samples, bases."""
    layers = pick(rows, quantity="parameters")["layer"].tolist()
    nets = Nets.of(rows, *OF_HALVES)
    drawn = (
        _all_nets(nets, layers), _causes(rows, layers), _kept(rows, nets, layers), _preserved(nets, layers),
        _gains(nets, layers), _samples(rows), _learning(rows),
    )  # fmt: skip
    return tuple(figure for figure in drawn if figure)


def _long(grid: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """A line per net: cluster, seed, target_task, trial, condition, n, value."""
    long = grid.melt(ignore_index=False).reset_index().dropna(subset=["value"])
    order = {condition: place for place, condition in enumerate(conditions)}
    long = long[long["condition"].isin(conditions)].astype({"n": "int64", "value": "float64"})
    return long.sort_values(["condition", "n"], key=lambda of: of.map(order) if of.name == "condition" else of)


def _means(values: pd.DataFrame, by: Sequence[str], name: str) -> pd.DataFrame:
    """Mean over class splits with its interval, for each combination of the columns `by`, in their order."""
    found = []
    for group, part in values.groupby(list(by), sort=False):
        mean = over_clusters(part.set_index(LINE)["value"], LEVEL)
        low, high = mean.bounds or (None, None)
        numbers = {name: mean.estimate, "low": low, "high": high, "class_splits": mean.clusters, "nets": len(part)}
        found.append({**dict(zip(by, group, strict=True)), **numbers})
    return pd.DataFrame(found).astype({"low": "float64", "high": "float64"})


def _in_order(table: pd.DataFrame, layers: Sequence[str]) -> pd.DataFrame:
    """The table by n, which the axis follows, each n by series; with `kept`, n and the name of its layer."""
    table = table.sort_values("n", kind="stable", ignore_index=True)
    table.insert(1, "kept", [kept_name(int(n), layers) for n in table["n"]])
    return table


def _drawn(
    table: pd.DataFrame, y: str, colour: str, y_title: str, colour_title: str, *, bands: bool = True
) -> alt.LayerChart:
    low, high = ("low", "high") if bands else (None, None)
    return curves(
        table, "kept", y, colour, low, high, x_title="layers copied", y_title=y_title, colour_title=colour_title,
        ordered=False, tooltip=["class_splits"],
    )  # fmt: skip


def _beside_papers(chart: alt.LayerChart, table: pd.DataFrame, colour: str) -> alt.LayerChart:
    """The chart with the column `the_paper` as dashed lines of the same colours."""
    names = list(dict.fromkeys(table[colour]))
    lines = alt.Chart(table.dropna(subset=["the_paper"])).mark_line(strokeDash=[5, 4], strokeWidth=1.5, opacity=0.7)
    return chart + lines.encode(
        x=chart.layer[0].encoding.x,
        y=alt.Y(field="the_paper", type="quantitative").scale(zero=False),
        color=alt.Color(field=colour, type="nominal", sort=names).scale(domain=names, range=palette(len(names), False)),
        detail=f"{colour}:N",
    )


def _papers_losses(n: int, cause: str) -> float | None:
    """What freezing cost the paper's nets at a cut, by cause."""
    if not 1 <= n <= len(PAPERS["BnB"]):
        return None
    own, other = PAPERS["BnB"][n - 1], PAPERS["AnB"][n - 1]
    return PAPERS_BASE["random"] - own if cause.startswith("co-adaptation") else own - other


def _papers_kept(n: int, group: str) -> float | None:
    """What the paper's nets kept of their base's accuracy above chance; of dissimilar halves the mean of both ways."""
    wanted = {"AnB, random halves": ("AnB",), "AnB, dissimilar halves": ("natural", "man-made")}
    names = wanted.get(group, ("random filters",))
    if not 1 <= n <= len(PAPERS["AnB"]):
        return None
    bases = [PAPERS_BASE["random" if name == "AnB" else name] for name in names]
    kept = [
        (PAPERS[name][n - 1] - PAPERS_CHANCE[name]) / (base - PAPERS_CHANCE[name])
        for name, base in zip(names, bases, strict=True)
    ]
    return sum(kept) / len(kept)


def _papers_gains(n: int, begin: str) -> float | None:
    """What the paper's nets gained where n layers were copied and tuned, by what they were copied from."""
    names = [name for name in PAPERS_GAINS if f"({name})" in begin]
    return PAPERS_GAINS[names[0]][n - 1] if names and 1 <= n <= len(PAPERS_GAINS[names[0]]) else None


def _with_papers(
    chart: alt.LayerChart, table: pd.DataFrame, colour: str, told: Callable[[int, str], float | None], depth: int
) -> tuple[alt.LayerChart, pd.DataFrame, str]:
    """Chart, table and a sentence of the caption, with the paper's own numbers where its nets are as deep."""
    if depth != PAPERS_DEPTH:
        return chart, table, ""
    numbers = [told(int(n), str(of)) for n, of in zip(table["n"], table[colour], strict=True)]
    table = table.assign(the_paper=pd.Series(numbers, table.index, dtype="float64"))
    return _beside_papers(chart, table, colour), table, DASHED


def _basis(table: pd.DataFrame) -> str:
    return BANDS if table["class_splits"].max() > 1 else ONE


def _all_nets(nets: Nets, layers: Sequence[str]) -> Figure | None:
    values = _long(nets.accuracy, FOUR)
    if values.empty:
        return None
    bases = _long(nets.accuracy, BASE[:1]).drop_duplicates(HALF)
    names = list(dict.fromkeys(values["condition"]))
    values = pd.concat([*(bases.assign(condition=name) for name in names), values])
    table = _in_order(_means(values, ["condition", "n"], "test_accuracy"), layers)
    chart = _drawn(table, "test_accuracy", "condition", "test accuracy", "condition", bands=False)
    paint = alt.Color(field="condition", type="nominal", sort=names, title="condition")
    points = alt.Chart(_in_order(values, layers)[["kept", "condition", "value"]]).mark_point(size=14, filled=True)
    points = points.encode(
        x=chart.layer[0].encoding.x,
        y=alt.Y(field="value", type="quantitative", title="test accuracy").scale(zero=False),
        color=paint.scale(domain=names, range=palette(len(names), ordered=False)),
        opacity=alt.value(0.45),
        tooltip=["condition:N", "kept:N", alt.Tooltip("value:Q", format=".1%", title="test accuracy")],
    )
    caption = (
        "Small points: the nets, one each. Lines: their means; at 0 stand the bases of the target halves. BnB: copied "
        "from the target half's own base and frozen; AnB: from the other half's; +: tuned. Intervals are in the table: "
        "they are mostly of how halves differ, which pairs of nets share."
    )
    return Figure(
        "Test accuracy of every net, against layers copied",
        caption,
        chart + points,
        table,
        claims=("Y1", "Y2", "Y3", "Y4"),
    )


def _causes(rows: pd.DataFrame, layers: Sequence[str]) -> Figure | None:
    table = losses(rows).rename(columns={"mean": "loss", "clusters": "class_splits"})
    if table.empty:
        return None
    table = _in_order(table.astype({"low": "float64", "high": "float64"}), layers)
    chart = _drawn(table, "loss", "cause", "loss of test accuracy", "cause")
    caption = (
        "What freezing costs, in two parts. Co-adaptation is lost even where the task stays the same: the layers above "
        "are learnt again, to fit layers that can no longer change. Specificity is what the other task costs besides. "
    )
    chart, table, dashed = _with_papers(chart, table, "cause", _papers_losses, len(layers))
    return Figure(
        "The two causes of loss, layer by layer", caption + dashed + _basis(table), chart, table, claims=("Y7",)
    )


def _kept(rows: pd.DataFrame, nets: Nets, layers: Sequence[str]) -> Figure | None:
    groups = {
        "AnB, random halves": (nets, "AnB"),
        "AnB, dissimilar halves": (Nets.of(rows, "dissimilar"), "AnB"),
        "random filters, all classes": (Nets.of(rows, "random-filters"), "random filters"),
    }
    parts = [_long(group.kept, [condition]).assign(group=name) for name, (group, condition) in groups.items()]
    values = pd.concat([part for part in parts if len(part)] or parts[:1])
    if values.empty or values["group"].nunique() < 2:
        return None
    table = _in_order(_means(values, ["group", "n"], "kept_share"), layers)
    chart = _drawn(table, "kept_share", "group", "kept of the base's accuracy above chance", "nets")
    caption = (
        "Each net's accuracy above chance as a share of its own base's, so that tasks of different difficulty can be "
        "compared: 100 % is as good as the base, 0 is chance. Random filters are layers that were never trained. "
    )
    chart, table, dashed = _with_papers(chart, table, "group", _papers_kept, len(layers))
    told = caption + dashed + _basis(table)
    if "AnB, dissimilar halves" in set(table["group"]):
        told += f" Those of dissimilar halves are given {KINDS}."
    return Figure("Distant tasks and random filters", told, chart, table, claims=("Y5", "Y6"))


def _preserved(nets: Nets, layers: Sequence[str]) -> Figure | None:
    names = {"AnB": "none (AnB)", "preserve 1": "1", "preserve 2": "2", "AnB+": "all copied (AnB+)"}
    values = _long(nets.accuracy, list(names))
    if not {"preserve 1", "preserve 2"} & set(values["condition"]):
        return None
    values = values.assign(tuned=values["condition"].map(names))
    table = _in_order(_means(values, ["tuned", "n"], "test_accuracy"), layers)
    chart = _drawn(table, "test_accuracy", "tuned", "test accuracy", "layers above the cut, copied and tuned")
    caption = (
        "n layers are frozen; of those above, none, one or two more are copied too, and tuned; the rest is fresh. If "
        "freezing breaks up neighbours that had adapted to each other, keeping the next one should mend it. AnB+ tunes "
        "all n that it copies. "
    )
    return Figure("Preserving the layers above the cut", caption + _basis(table), chart, table)


def _gains(nets: Nets, layers: Sequence[str]) -> Figure | None:
    names = {"AnB+": "trained on A (AnB+)", "BnB+": "trained on B (BnB+)", "matched": "fresh, drawn like A's",
             "rewound": "as A began"}  # fmt: skip
    gains = nets.accuracy.sub(nets.accuracy[BASE[0], 0], axis=0)
    values = _long(gains, list(names))
    if values.empty:
        return None
    values = values.assign(begin=values["condition"].map(names))
    table = _in_order(_means(values, ["begin", "n"], "gain"), layers)
    chart = _drawn(table, "gain", "begin", "test accuracy minus the base's", "first n layers begin")
    caption = (
        "Every layer is trained; only where the first n begin differs. Each net minus the base of its own half: above "
        "0 the beginning helps. "
    )
    chart, table, dashed = _with_papers(chart, table, "begin", _papers_gains, len(layers))
    return Figure("Where tuning begins, and what it gains", caption + dashed + _basis(table), chart, table)


def _samples(rows: pd.DataFrame) -> Figure | None:
    ends = pick(final(rows[rows["trial"].notna()]), quantity="accuracy", split="test")
    tasks = ends.loc[ends["experiment"] == "samples", "target_task"]
    values = ends[ends["target_task"].isin(tasks) & ends["condition"].isin(["base", "fewer samples"])]
    if values.empty:
        return None
    values = values.astype({"shots": "int64"}).sort_values("shots").assign(net="base on all classes")
    table = _means(values, ["net", "shots"], "test_accuracy")
    chart = curves(
        table, "shots", "test_accuracy", "net", "low", "high", x_title="samples per class", y_title="test accuracy",
        colour_title="net", ordered=False, tooltip=["class_splits"],
    )  # fmt: skip
    return Figure(
        "Bases from fewer samples", "Nets from scratch on all classes. " + _basis(table), chart, table, "learning"
    )


def _learning(rows: pd.DataFrame) -> Figure | None:
    """Bases while they learn; none of a study that was made when they were looked at in the end alone."""
    found = pick(rows, condition="base", quantity="accuracy", split="test")
    if len(final(found)) == len(found):
        return None
    halves = found["experiment"].map({"transfer": "random halves", "dissimilar": "halves that differ in kind"})
    bands = BANDS if found["cluster"].nunique() > 1 else ONE
    return sources(found.assign(halves=halves.fillna("all classes")), "halves", bands, of_title="classes")
