"""The figures of Sharma's study: known against unknown classes, his pictures, and the test of his proposal."""

from collections.abc import Iterator

import altair as alt
import pandas as pd

from layerwise.probes.embedding import ABOUT
from layerwise.report.figures import PERCENT, Figure, curves, layered, palette, sources
from layerwise.report.probe import scatter
from layerwise.report.sharma_tables import plain, points, tables
from layerwise.report.summary import over_clusters
from layerwise.rows import final, pick
from layerwise.studies.sharma_claims import DEEP, PICTURE, PIXELS, layers_of
from layerwise.studies.sharma_retraining import ALL, CEILING, DRAW, NONE, OVER, PREDICTORS, WITHIN

DRAWS = "95 % interval of the mean over draws of known and unknown classes, each with its own source net."
OF_DRAW = ["cluster", "seed"]
MOST_POINTS = 1_500  # of a scatter plot
TILE = 56  # pixels of a side of an image in a grid
ROW = 26  # pixels of a forest's line


def figures(rows: pd.DataFrame) -> tuple[Figure, ...]:
    """Those whose experiment was run."""
    return tuple(
        figure
        for draw in (treatments, scattered, forest, spread, inversions, tables, drawn, pictured, learning)
        for figure in draw(rows)
    )


def treatments(rows: pd.DataFrame) -> Iterator[Figure]:
    """Test accuracy after retraining no layer, each alone, and all."""
    found = pick(rows, experiment="retraining", quantity="accuracy", split="test")
    found = found[found["trial"].notna()]
    if found.empty:
        return
    table = over_clusters(found, ["condition", "shots"]).rename(
        columns={"mean": "test_accuracy", "condition": "retrained"}
    )
    order = [NONE, *(name for name in dict.fromkeys(found["condition"]) if name not in (NONE, ALL)), ALL]
    table = plain(table[["retrained", "shots", "test_accuracy", "low", "high", "clusters", "interval"]])
    table = table.sort_values("retrained", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)
    chart = _forest(
        table, "retrained", "shots", "test_accuracy", order, x_title="test accuracy on the unknown classes",
        colour_title="samples per class", percent=True,
    )  # fmt: skip
    caption = (
        "The head is fresh; of the layers below it, copied from a net that knows the known classes, none, one or all "
        f"are retrained. {DRAWS}"
    )
    yield Figure("Retraining no layer, one, or all", caption, chart, table, "levels")


def scattered(rows: pd.DataFrame) -> Iterator[Figure]:
    """The gain of each unknown class from each layer against the decoder's error there."""
    gained = pick(rows, quantity="gain")
    error = pick(rows, quantity="decoder_raw_error", condition="trained", group="unknown").dropna(subset=["value"])
    cell = [*DRAW, "layer", "class_name"]
    both = pd.DataFrame({
        "gain": gained[gained["layer"].notna()].groupby(cell)["value"].mean(),
        "error": error.groupby(cell)["value"].mean(),
    }).dropna()  # fmt: skip
    if both.empty:
        return
    table = plain(both.reset_index().drop(columns="target_task"))
    if len(table) > MOST_POINTS:
        table = table[
            table["seed"].isin(
                sorted(table["seed"].unique())[: max(1, MOST_POINTS * table["seed"].nunique() // len(table))]
            )
        ]
    order = layers_of(rows, quantity="decoder_raw_error")
    chart = points(
        table, "error", "gain", "layer", order, x_title="decoder's error for the class, squared pixels an image",
        y_title="gain in test accuracy", tooltip=["class_name", "seed"],
    )  # fmt: skip
    caption = (
        "Each point: an unknown class in a draw, at a layer; up: what retraining that layer alone gains for it, mean "
        "over trials and samples per class. If the decoder's error told which layer to retrain, points would rise."
    )
    yield Figure("Gain from retraining a layer against the decoder's error there", caption, chart, table, "levels")


def forest(rows: pd.DataFrame) -> Iterator[Figure]:
    """How well each predictor's ranks agree with those of the gains."""
    parts = []
    for quantity, told in ((WITHIN, "of classes, within a layer"), (OVER, "of both together, less layer means")):
        found = pick(rows, quantity=quantity).dropna(subset=["value"])
        found = found.groupby([*OF_DRAW, "condition"], as_index=False)["value"].mean().assign(trial=0)
        if len(found):
            parts.append(over_clusters(found, ["condition"]).assign(ranks=told))
    if not parts:
        return
    table = pd.concat(parts, ignore_index=True).rename(columns={"condition": "predictor", "mean": "rank_correlation"})
    table = plain(table[["predictor", "ranks", "rank_correlation", "low", "high", "clusters", "interval"]])
    chart = _forest(
        table, "predictor", "ranks", "rank_correlation", [*PREDICTORS, CEILING],
        x_title="rank correlation with the gain in test accuracy", colour_title="ranks", percent=False,
    )  # fmt: skip
    caption = (
        f"Spearman's rank correlation in each draw; {DRAWS} Each predictor is turned so that right of 0 it tells what "
        "it should: a high error, or a low accuracy, that retraining pays. Last: the gain of one half of the trials "
        "against that of the other, which is about what could be reached."
    )
    yield Figure(
        "What tells which classes gain from retraining a layer?",
        caption,
        chart,
        table,
        "levels",
        claims=("S4",),
        wide=True,
    )


def spread(rows: pd.DataFrame) -> Iterator[Figure]:
    """The spread of known and unknown classes, layer by layer, of the trained net and before training."""
    found = pick(rows, quantity="relative_spread").dropna(subset=["value"])
    if found.empty:
        return
    order = [PIXELS, *layers_of(found)]
    found = found.groupby([*OF_DRAW, "layer", "group", "condition"], as_index=False)["value"].mean().assign(trial=0)
    table = over_clusters(found, ["layer", "group", "condition"])
    table["classes"] = [_told(*of) for of in table[["group", "condition"]].to_numpy().tolist()]
    table = plain(table.rename(columns={"mean": "relative_spread"}))
    table = table[["layer", "classes", "relative_spread", "low", "high", "clusters", "interval"]]
    table = table.sort_values(["layer"], key=lambda names: names.map(order.index), kind="stable", ignore_index=True)
    chart = curves(
        table, "layer", "relative_spread", "classes", "low", "high", x_title="layer", colour_title="classes",
        y_title="spread, relative to all images", ordered=False, percent=False, tooltip=["interval"],
    )  # fmt: skip
    caption = (
        "The mean distance of a class's images to their mean, as a share of that of all images to the overall mean, in "
        f"the space of all activations of a layer. Bands: {DRAWS}"
    )
    yield Figure("How wide known and unknown classes lie", caption, chart, table, "inside", claims=("S1",))


def _told(group: str, condition: str) -> str:
    return group if condition == "trained" else f"{group}, untrained net"


def inversions(rows: pd.DataFrame) -> Iterator[Figure]:
    """The error of images found by inversion, from trained and untrained nets, shallow and deep."""
    for experiment, depth in (("inversion", "shallow"), (DEEP, "deep")):
        found = pick(rows, experiment=experiment, quantity="inversion_image_error").dropna(subset=["value"])
        if found.empty:
            continue
        net, order = found["net"].iloc[0], layers_of(found)
        found = found.groupby([*OF_DRAW, "layer", "condition", "group"], as_index=False)["value"].mean().assign(trial=0)
        table = over_clusters(found, ["layer", "condition", "group"])
        table["classes"] = [_told(*of) for of in table[["group", "condition"]].to_numpy().tolist()]
        table = plain(table.rename(columns={"mean": "image_error"}))
        table = table[["layer", "classes", "image_error", "low", "high", "clusters", "interval"]]
        table = table.sort_values("layer", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)
        chart = curves(
            table, "layer", "image_error", "classes", "low", "high", x_title="layer", colour_title="classes",
            y_title="squared error per pixel", ordered=False, percent=False, tooltip=["interval"],
        )  # fmt: skip
        caption = (
            "How far images found by descent, until the layer sees in them what it saw in an image, are from that "
            f"image; pixels are from 0 to 1. Bands: {DRAWS}"
        )
        shown = ("S2 deep",) if experiment == DEEP else ("S2", "S2 known")
        title = f"Images found by inversion of the {depth} net, {net}"
        yield Figure(title, caption, chart, table, "inside", claims=shown)


def drawn(rows: pd.DataFrame) -> Iterator[Figure]:
    """An image of each class in the first draw, and what inversion and decoders make of it behind each layer."""
    for experiment, title, how in (
        ("inversion", "Images found by inversion: {net}", "what descent finds that the layer sees as it saw the image"),
        (DEEP, "Images found by inversion of the deep net: {net}", "what descent finds that the layer sees alike"),
        ("decoders", "What decoders draw: {net}", "what a decoder that learnt the known classes draws from the layer"),
    ):
        found = pick(rows, experiment=experiment, quantity=PICTURE)
        if found.empty:
            continue
        beside = found["layer"].fillna("the image") + found["condition"].map({"untrained": ", untrained"}).fillna("")
        table = found.assign(line=beside)[["line", "class_name", "group", "value", "picture"]]
        table = table.rename(columns={"class_name": "class", "value": "squared_error"}).reset_index(drop=True)
        lines = table["line"].unique().tolist()
        classes = table.sort_values("group", kind="stable")["class"].unique().tolist()  # known before unknown
        side = alt.ExprRef(f"min({TILE}, width / {len(classes)}) - 2")
        chart = alt.Chart(table).mark_image(width=side, height=side, smooth=False)
        chart = chart.encode(
            x=alt.X("class:N", sort=classes, title=None, axis=alt.Axis(orient="top", labelAngle=0, grid=False)),
            y=alt.Y("line:N", sort=lines, title=None, axis=alt.Axis(labelLimit=120, grid=False)),
            url="picture:N",
            tooltip=["line:N", "class:N", "group:N", alt.Tooltip("squared_error:Q", format=".3f")],
        )
        caption = (
            f"The upper line has an image of each class, known ones first; the others {how}, of the net as it is and "
            "as it was before it learnt anything. Of the first draw: an illustration; the errors of all draws are in "
            "other figures."
        )
        chart = layered(chart).properties(height=TILE * len(lines))
        title = title.format(net=found["net"].iloc[0])
        yield Figure(title, caption, chart, table.drop(columns="picture"), "inside", wide=True)


def pictured(rows: pd.DataFrame) -> Iterator[Figure]:
    """The t-SNE pictures of the first draw: an illustration, from which nothing is measured."""
    found = pick(rows, quantity="tsne").dropna(subset=["value"])
    if found.empty:
        return
    about = ABOUT["tsne"]
    told = {
        "title": "t-SNE of each layer, in the first draw", "section": "inside", "source": about.source,
        "tells": f"{about.tells} Nothing is measured in this picture.", "misleads": about.misleads,
    }  # fmt: skip
    yield from scatter(found, told, layers_of(found))


def learning(rows: pd.DataFrame) -> Iterator[Figure]:
    """Sources while they learn the known classes; none of a study that looked at them in the end alone."""
    found = pick(rows[rows["trial"].isna()], quantity="accuracy", split="test")
    if len(final(found)) < len(found):
        yield sources(found, "net", f"Bands: {DRAWS}", of_title="net")


def _forest(
    table: pd.DataFrame,
    y: str,
    colour: str,
    x: str,
    order: list[str],
    *,
    x_title: str,
    colour_title: str,
    percent: bool,
) -> alt.LayerChart:
    """A point with its interval for each line of the table, one below the other; colours side by side in a line."""
    series = [str(value) for value in dict.fromkeys(table[colour].tolist())]
    data = table.assign(**{colour: table[colour].astype(str)})
    across = alt.X(field=x, type="quantitative", title=x_title).scale(zero=not percent)
    across = across.axis(format=PERCENT if percent else ".2~f", tickCount=6)
    base = alt.Chart(data).encode(
        y=alt.Y(field=y, type="ordinal", title=None, sort=order, axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset(field=colour, type="nominal", sort=series),
        color=alt.Color(field=colour, type="nominal", title=colour_title, sort=series).scale(
            domain=series, range=palette(len(series), ordered=False)
        ),
    )
    number = ".1%" if percent else ".2f"
    hover = [alt.Tooltip(field=field, type="nominal") for field in (y, colour, "interval")]
    hover += [alt.Tooltip(field=field, type="quantitative", format=number) for field in (x, "low", "high")]
    whiskers = base.mark_rule(strokeWidth=2).encode(x=alt.X(field="low", type="quantitative"), x2=alt.X2(field="high"))
    points = base.mark_point(filled=True, size=70).encode(x=across, tooltip=hover)
    layers = [points, whiskers]
    if not percent:
        zero = alt.Chart(pd.DataFrame({x: [0.0]})).mark_rule(strokeDash=[4, 3], color="currentColor", opacity=0.55)
        layers.append(zero.encode(x=alt.X(field=x, type="quantitative")))
    return layered(*layers).properties(height=max(120, ROW * len(table)))
