"""The figures of Grand's study: the paper's figures 5 to 11 redrawn from the rows, and drift by three more measures."""

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
import pandas as pd

from layerwise.report.figures import HEIGHT, OKABE_ITO, PERCENT, Figure, curves, layered
from layerwise.report.summary import LEVEL, over_clusters
from layerwise.rows import pick
from layerwise.studies.grand_measures import BATCH, NEVER
from layerwise.studies.grand_nets import Net, nets, over_categories

BANDS = "Bands: 95 % interval of the mean over the categories that are learnt."
MATRIX = {  # the paper's measures: their titles, how they are printed, and whether more is better
    "final_gain": ("final accuracy gained", "+.1%", True),
    "images_to_level": ("images to the final accuracy from scratch", ",.0f", False),
    "area_between": ("area between the learning curves", "+,.0f", True),
}
SHOWN = ("111111", "000000", "111001", "111000", "100001", "000001")  # the masks of the paper's figures 6 and 7
DRIFT = {
    "distance": ("raw Euclidean distance", "the paper's measure; it grows with the number of weights"),
    "distance_per_root_size": ("distance per square root of size", "the root mean square change of a weight"),
    "distance_to_start_norm": ("distance relative to the start", "none for biases that begin at 0"),
    "cka_to_final": ("similarity to the end", "CKA of what a layer makes of test images with what it does in the end"),
}
ROW = 17  # pixels of a lesion's line
FEW = 8  # categories: of more the cells are too small for numbers


def figures(rows: pd.DataFrame) -> tuple[Figure, ...]:
    """The speed-up matrix, learning curves, lesions sorted by area, and the drift of each layer in four ways."""
    return tuple(_figures(rows))


def _figures(rows: pd.DataFrame) -> Iterator[Figure]:
    found = nets(rows)
    speed_up, lesions, dynamics = (pick(rows, experiment=name) for name in ("speed-up", "lesions", "dynamics"))
    if not speed_up.empty:
        yield matrix(speed_up)
        yield learning(speed_up)
    if not lesions.empty:
        for net in found:
            yield areas(lesions, net.name)
            yield lesioned(lesions, net.name)
    if dynamics["layer"].notna().any():
        for quantity in DRIFT:
            yield drift(dynamics, quantity, found[0].layers)
        yield shorter(found)


def matrix(rows: pd.DataFrame) -> Figure:
    """Every ordered pair of categories by one of the three measures; menus choose the measure and the net."""
    rows = pick(rows, condition="transferred", quantity=list(MATRIX)).assign(
        never=lambda t: t["reason"].eq(NEVER).fillna(False)
    )
    by = ["net", "quantity", "other_class", "class_name"]
    table = rows.groupby(by, sort=False)[["value", "never"]].agg({"value": "mean", "never": "all"}).reset_index()
    table = table.astype({"value": float, "never": bool})
    caption = (
        "Across: the category that is learnt; down: the category of the net that was copied whole. Bright is good for "
        "transfer. Never: the net did not reach that accuracy, and counts with all images."
    )
    return Figure("Every category after every other", caption, _heat(table), table, claims=("R1a", "R1b", "R1c", "R1d"))


def _heat(table: pd.DataFrame) -> alt.LayerChart:
    shown = pd.concat([_graded(part, *MATRIX[str(what)]) for (_, what), part in table.groupby(["net", "quantity"])])
    choices = {"net": list(dict.fromkeys(table["net"])), "measure": [title for title, *_ in MATRIX.values()]}
    menus = [
        alt.param(name=f"matrix_{name}", value=options[0], bind=alt.binding_select(options=options, name=f"{name} "))
        for name, options in choices.items()
    ]
    base = alt.Chart(shown).encode(
        x=alt.X("class_name:N", title="learnt", axis=alt.Axis(labelAngle=0, labelLimit=90)),
        y=alt.Y("other_class:N", title="copied"),
        tooltip=["other_class:N", "class_name:N", "label:N"],
    )
    for name in choices:
        base = base.transform_filter(f"datum.{name} === matrix_{name}")
    squares = base.mark_rect().encode(color=alt.Color("good:Q", scale=alt.Scale(scheme="viridis"), legend=None))
    bright = alt.datum.good > 0.5
    written = base.mark_text(fontSize=10).encode(
        text="label:N", color=alt.when(bright).then(alt.value("black")).otherwise(alt.value("white"))
    )
    few = table["class_name"].nunique() <= FEW
    return layered(squares.add_params(*menus), *([written] if few else []))


def _graded(table: pd.DataFrame, title: str, number: str, more: bool) -> pd.DataFrame:
    """The values of one measure as they are printed, and how good they are for transfer, from 0 to 1."""
    low, high = table["value"].min(), table["value"].max()
    share = (table["value"] - low) / (high - low or 1)
    label = ["never" if row.never else format(row.value, number) for row in table.itertuples()]
    return table.assign(measure=title, label=label, good=share if more else 1 - share)


def learning(rows: pd.DataFrame) -> Figure:
    """Test accuracy against images seen, transferred and from scratch, for each net (the paper's figure 5 in one)."""
    table = _curves(rows, rows["condition"] + ", " + rows["net"])
    caption = "Means over all ordered pairs of categories, and over the nets from scratch. "
    return Figure("Learning from another category and from scratch", caption + BANDS, _chart(table, "nets"), table,
                  "learning")  # fmt: skip


def lesioned(rows: pd.DataFrame, net: str) -> Figure:
    """Learning curves of the masks that the paper shows (its figures 6 and 7)."""
    rows = pick(rows, net=net, condition=[f"lesion {mask}" for mask in SHOWN])
    table = _curves(rows, rows["condition"].str.removeprefix("lesion "))
    chart = _chart(table, "layers copied, a bit each")
    return Figure(f"Learning after lesions ({net})", "1 is copied, 0 is fresh; the input comes first. " + BANDS, chart,
                  table, "learning")  # fmt: skip


def _curves(rows: pd.DataFrame, series: "pd.Series[str]") -> pd.DataFrame:
    rows = pick(rows.assign(series=series), quantity="accuracy", split="test")
    table = over_clusters(rows, ["series", "step"]).rename(columns={"mean": "accuracy"})
    table.insert(1, "images", BATCH * table["step"].astype(int))
    return table[["series", "images", "accuracy", "low", "high", "trials"]]


def _chart(table: pd.DataFrame, title: str) -> alt.LayerChart:
    return curves(
        table, "images", "accuracy", "series", "low", "high", x_title="images", y_title="test accuracy",
        colour_title=title, continuous=True, ordered=False, size=30,
    )  # fmt: skip


def areas(rows: pd.DataFrame, net: str) -> Figure:
    """Mean accuracy over the learning curve of each mask, sorted: the paper's figure 8, divided by its images."""
    rows = pick(rows, net=net, quantity="mean_accuracy")
    rows = rows.assign(mask=rows["condition"].str.removeprefix("lesion "))
    table = over_clusters(rows, ["mask"]).rename(columns={"mean": "accuracy"})
    table = table[["mask", "accuracy", "low", "high", "trials"]].sort_values("accuracy", ascending=False)
    order = table["mask"].tolist()
    base = alt.Chart(table).encode(y=alt.Y("mask:N", title="layers copied", sort=order))
    across = alt.X("accuracy:Q", title="mean test accuracy over the learning curve").scale(zero=False)
    hover = ["mask:N", *(alt.Tooltip(f"{name}:Q", format=".1%") for name in ("accuracy", "low", "high"))]
    dots = base.mark_point(filled=True, size=60, color=OKABE_ITO[0]).encode(
        x=across.axis(format=PERCENT), tooltip=hover
    )
    lines = base.mark_rule(opacity=0.5, color=OKABE_ITO[0]).encode(x=alt.X("low:Q").scale(zero=False), x2="high:Q")
    caption = (
        "A bit per layer, the input first: 1 is copied, 0 is fresh, and everything is trained. The area under the "
        "learning curve divided by its images. Lines: 95 % interval over the categories that are learnt, which differ; "
        "the claims compare masks within each category."
    )
    chart = layered(dots, lines).properties(height=max(HEIGHT, ROW * len(order)))
    return Figure(f"What each lesion leaves ({net})", caption, chart, table, claims=("R2a", "R2b", "R5"))


def drift(rows: pd.DataFrame, quantity: str, layers: Sequence[str]) -> Figure:
    """One measure of how far each layer is from its start, or how near its end; a menu chooses which nets are shown."""
    title, told = DRIFT[quantity]
    rows = pick(rows, quantity=quantity)
    part = rows["part"].where(rows["part"] != "activations", "")
    rows = rows.assign(nets=(rows["net"] + ", " + rows["condition"] + " " + part).str.strip())
    table = rows.groupby(["nets", "layer", "step"])["value"].mean().rename(quantity).dropna().reset_index()
    table["images"] = BATCH * table["step"].astype(int)
    table["layer"] = pd.Categorical(table["layer"], list(layers))
    table = table.sort_values(["nets", "layer", "images"], ignore_index=True)[["nets", "layer", "images", quantity]]
    table = table.astype({"layer": str, quantity: float}).round({quantity: 5})
    options = sorted(table["nets"].unique(), key=lambda name: ("scratch weights" not in name, name))
    menu = alt.param(name=f"nets_{quantity}", bind=alt.binding_select(options=options, name="nets: "), value=options[0])
    chart = curves(
        table, "images", quantity, "layer", x_title="images", y_title=title, continuous=True, percent=False, size=25
    )
    chart = chart.transform_filter(f"datum.nets === nets_{quantity}").add_params(menu)
    caption = f"{told[0].upper()}{told[1:]}. Means over categories; all four measures are of the same nets."
    return Figure(
        f"Drift of each layer: {title}", caption, chart, table, "inside", claims=("R3a", "R3b", "R3c", "R3d", "R3e")
    )


def shorter(found: Sequence[Net]) -> Figure:
    """By how much less each layer moves in a transferred net than from scratch (the paper's figure 11)."""
    made: list[dict[str, Any]] = []
    for net in found:
        for layer, shares in net.shorter().items():
            if len(values := shares.dropna().astype(float)):
                mean = over_categories(values, LEVEL)
                low, high = mean.bounds or (None, None)
                made.append({"layer": layer, "net": net.name, "less": mean.estimate, "low": low, "high": high})
    table = pd.DataFrame(made, columns=["layer", "net", "less", "low", "high"])
    chart = curves(
        table, "layer", "less", "net", "low", "high", x_title="layer", y_title="less change when transferred",
        ordered=False,
    )  # fmt: skip
    caption = (
        "By which share the distance of a layer's weights from their start is shorter in a transferred net than in the "
        "net from scratch on the same category. Bands: 95 % interval of the mean over categories."
    )
    return Figure("Transferred layers change less?", caption, chart, table, "inside", claims=("R4a", "R4b"))
