"""Sharma's experiments class by class, in tables laid out like the paper's: a line a class, a column a layer.

The paper has one draw of known and unknown classes. Its columns are those of our first draw, which on ten classes is
the paper's own (0-4 known, 5-9 unknown); beside them stand means over all draws, of each class while it is known and
while it is unknown, and the paper's numbers where class and layers are its own.
"""

from collections.abc import Iterator, Mapping, Sequence

import altair as alt
import pandas as pd

from layerwise.report.figures import Figure, layered, palette, shapes
from layerwise.rows import pick
from layerwise.studies.sharma_claims import DECODERS, DEEP, INVERSIONS, PIXELS, layers_of
from layerwise.studies.sharma_retraining import DRAW

GROUPS = {"known": "circle", "unknown": "triangle-up"}  # shapes
LINE = ["class_name", "group"]
PAPERS_KNOWN = "01234"
TABLE = (
    " In the table the columns of layers are those of the first draw, laid out as the paper's; beside them are means "
    "over the draws in which the class is known, or unknown."
)
Columns = Mapping[str, tuple[str, str]]  # title: layer and net


def tables(rows: pd.DataFrame) -> Iterator[Figure]:
    """The paper's experiments 1 to 3 for each class, those that were run."""
    yield from _spreads(rows)
    yield from _nearest(rows)
    yield from _inversions(rows)
    yield from _decoders(rows)


def pivoted(found: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """A line for each class and group, those of the first draw first; the columns of that draw, then means over draws.

    `found` has a value for each draw, class, layer and net (condition).
    """
    titles = {where: title for title, where in columns.items()}
    where = zip(found["layer"], found["condition"], strict=True)
    found = found.assign(title=[titles.get(one, "") for one in where])
    found = found[found["title"] != ""].sort_values("seed", kind="stable")
    lines = pd.MultiIndex.from_frame(found[LINE].drop_duplicates())

    def wide(some: pd.DataFrame) -> pd.DataFrame:
        means = some.groupby([*LINE, "title"])["value"].mean().unstack("title")
        return means.reindex(index=lines, columns=list(columns))

    first, means = wide(found[found["seed"] == found["seed"].min()]), wide(found).add_prefix("mean ")
    draws = found.groupby(LINE)["seed"].nunique().reindex(lines).rename("draws")
    return plain(pd.concat([first, means, draws], axis=1).reset_index())


def _with_papers(table: pd.DataFrame, papers: Mapping[str, tuple[float, ...]], titles: Sequence[str]) -> pd.DataFrame:
    """With the paper's own numbers of each digit, while it is what it was there; as it is where no class is a digit."""
    if not set(table["class_name"]) & set(papers):
        return table
    is_papers = [
        name in papers and (group == "known") == (name in PAPERS_KNOWN)
        for name, group in table[LINE].to_numpy().tolist()
    ]
    for place, title in enumerate(titles):
        told = [papers[name][place] if it else None for name, it in zip(table["class_name"], is_papers, strict=True)]
        table = table.assign(**{f"paper {title}": pd.Series(told, table.index, dtype="float64")})
    return table


def _beside_papers(chart: alt.LayerChart, table: pd.DataFrame, order: list[str]) -> alt.LayerChart:
    """The chart with the columns of the paper's numbers as dashes of the layers' colours."""
    titles = {f"paper {layer}": layer for layer in order}
    papers = table[["class_name", *titles]].rename(columns=titles)
    papers = plain(papers.melt("class_name", var_name="layer", value_name="the_paper").dropna(subset=["the_paper"]))
    first = chart.layer[0].encoding
    dashes = alt.Chart(papers).mark_tick(orient="horizontal", thickness=2, size=26).encode(
        x=first.x,
        y=alt.Y(field="the_paper", type="quantitative").scale(zero=False),
        color=first.color,
        tooltip=[
            *(alt.Tooltip(field=field, type="nominal") for field in ("class_name", "layer")),
            alt.Tooltip(field="the_paper", type="quantitative", format=".4~g", title="the paper"),
        ],
    )  # fmt: skip
    return chart + dashes


def _by_class(found: pd.DataFrame, y: str, y_title: str) -> alt.LayerChart:
    """Means over draws of the trained net's values: classes side by side, a colour a layer, a shape a group."""
    order = list(dict.fromkeys(found["layer"].tolist()))
    means = pick(found, condition="trained").groupby(["layer", *LINE], sort=False)["value"].agg(["mean", "size"])
    means = plain(means.reset_index().rename(columns={"mean": y, "size": "draws"}))
    return points(
        means, "class_name", y, "layer", order, x_title="class", y_title=y_title, shape="group", tooltip=["draws"]
    )


def _decoders(rows: pd.DataFrame) -> Iterator[Figure]:
    """Experiment 3: the error of each class at each layer."""
    for quantity, title, told in (
        ("decoder_raw_error", "The decoder's error for each class", "squared pixels an image"),
        ("decoder_normalised_error", "The same, as a share of the class's own variance", "share that is lost"),
    ):
        found = pick(rows, quantity=quantity, condition="trained").dropna(subset=["value"])
        if found.empty:
            continue
        order = layers_of(found)
        table, chart = pivoted(found, {layer: (layer, "trained") for layer in order}), _by_class(found, "error", told)
        caption = (
            "Decoders learn the known classes only. Circles: the class is known; triangles: it is unknown. Means over "
            "the draws in which it is either."
        )
        if quantity == "decoder_raw_error" and len(order) == 2:
            table = _with_papers(table, DECODERS, order)
            if any(str(name).startswith("paper ") for name in table):
                chart = _beside_papers(chart, table, order)
                caption += (
                    " Dashes: the paper's own numbers, of one draw; it names no unit, and they are as large as squared "
                    "pixels an image are."
                )
        yield Figure(title, caption + TABLE, chart, table, "inside", claims=("S3",))


def _inversions(rows: pd.DataFrame) -> Iterator[Figure]:
    """Experiment 2: the errors by class and layer, and of the untrained net at the last; of a deep net at all."""
    for experiment, claims in (("inversion", ("S2", "S2 known")), (DEEP, ("S2 deep",))):
        found = pick(rows, experiment=experiment, quantity="inversion_image_error").dropna(subset=["value"])
        if found.empty:
            continue
        order = layers_of(found)
        untrained = order if experiment == DEEP else order[-1:]
        columns = {layer: (layer, "trained") for layer in order}
        columns |= {f"{layer} untrained": (layer, "untrained") for layer in untrained}
        table = pivoted(found, columns)
        if experiment != DEEP and len(order) == 2:
            table = _with_papers(table, INVERSIONS, list(columns))
        title = f"Images found by inversion of {found['net'].iloc[0]}, for each class"
        caption = "The image error of the trained net; the table has that of the untrained one too." + TABLE
        if any(str(name).startswith("paper ") for name in table):
            caption += " The paper's unit is another: compare its columns with each other."
        chart = _by_class(found, "image_error", "squared error per pixel")
        yield Figure(title, caption, chart, table, "inside", claims)


def _spreads(rows: pd.DataFrame) -> Iterator[Figure]:
    """Experiment 1 in numbers: the spread of each class in pixels and in each layer."""
    found = pick(rows, quantity="relative_spread", condition="trained").dropna(subset=["value"])
    if found.empty:
        return
    order = [PIXELS, *layers_of(found)]
    found = found.sort_values("layer", key=lambda names: names.map(order.index), kind="stable")
    table = pivoted(found, {layer: (layer, "trained") for layer in order if layer in set(found["layer"])})
    caption = "Circles: the class is known; triangles: it is unknown. Means over draws." + TABLE
    chart = _by_class(found, "relative_spread", "spread, relative to all images")
    yield Figure("How wide each class lies", caption, chart, table, "inside", claims=("S1",))


def _nearest(rows: pd.DataFrame) -> Iterator[Figure]:
    """Experiment 1 in numbers: which known class each unknown one lies nearest to, in pixels and in each layer."""
    found = pick(rows, quantity="nearest_known", condition="trained").dropna(subset=["other_class"])
    if PIXELS not in set(found["layer"]):
        return
    order = layers_of(found)
    found = found.sort_values("seed", kind="stable")
    named = found.pivot_table(index=[*DRAW, "class_name"], columns="layer", values="other_class", aggfunc="first")
    classes = list(dict.fromkeys(found["class_name"].tolist()))
    here = named[named.index.get_level_values("seed") == found["seed"].min()].droplevel(DRAW)
    agree = named[order].eq(named[PIXELS], axis=0).groupby(level="class_name").mean().add_prefix("as in pixels at ")
    draws = found.groupby("class_name")["seed"].nunique().rename("draws")
    parts = [part.reindex(classes) for part in (here[[PIXELS, *order]], agree, draws)]
    table = plain(pd.concat(parts, axis=1).rename_axis("class_name").reset_index())
    caption = (
        "The known class that is commonest among the nearest known images of an unknown class's, in the first draw; "
        "that in pixels is the one it looks like. The table has beside it the share of all draws in which the two are "
        "the same. The paper: 8 lies near 0."
    )
    yield Figure(
        "Which known class each unknown one lies nearest to", caption, _named(here, order), table, "inside",
        claims=("S5",),
    )  # fmt: skip


def _named(here: pd.DataFrame, order: list[str]) -> alt.LayerChart:
    """The nearest known class by name: a line a class, a column a layer; coloured where it is that in pixels."""
    long = here[[PIXELS, *order]].melt(ignore_index=False, var_name="layer", value_name="nearest").reset_index()
    long = plain(long.merge(here[PIXELS].rename("in_pixels").reset_index(), on="class_name"))
    long["is_it"] = (long["nearest"] == long["in_pixels"]).map({True: "as in pixels", False: "another"})
    base = alt.Chart(long).encode(
        x=alt.X(field="layer", type="ordinal", title=None, sort=[PIXELS, *order], axis=alt.Axis(labelAngle=0)),
        y=alt.Y(field="class_name", type="ordinal", title="unknown class"),
        tooltip=[alt.Tooltip(field=name, type="nominal") for name in ("class_name", "layer", "nearest")],
    )
    names = ["as in pixels", "another"]
    paint = alt.Color(field="is_it", type="nominal", title="nearest known class", sort=names)
    boxes = base.mark_rect(opacity=0.35).encode(color=paint.scale(domain=names, range=palette(2, ordered=False)))
    return layered(boxes, base.mark_text(fontSize=13).encode(text=alt.Text(field="nearest", type="nominal")))


def points(
    table: pd.DataFrame, x: str, y: str, colour: str, order: list[str], *, x_title: str, y_title: str,
    tooltip: list[str], shape: str | None = None,
) -> alt.LayerChart:  # fmt: skip
    """A point for each line of the table; x is a number, or a class where it is text."""
    continuous = pd.api.types.is_numeric_dtype(table[x])
    legend = alt.selection_point(name="picked", fields=[colour], bind="legend", toggle="true")
    across = (
        alt.X(field=x, type="quantitative", title=x_title).scale(zero=False)
        if continuous
        else alt.X(field=x, type="ordinal", title=x_title, axis=alt.Axis(labelAngle=0))
    )
    paint = alt.Color(field=colour, type="nominal", title=colour, sort=order)
    paint = paint.scale(domain=order, range=palette(len(order), ordered=False))
    form = shape or colour
    named, drawn = (list(GROUPS), list(GROUPS.values())) if shape else (order, shapes(len(order)))
    mark = alt.Shape(field=form, type="nominal", title=form, sort=named).scale(domain=named, range=drawn)
    hover = [alt.Tooltip(field=field, type="nominal") for field in (colour, *([shape] if shape else []), *tooltip)]
    hover += [
        alt.Tooltip(field=field, type="quantitative", format=".4~g") for field in ((x, y) if continuous else (y,))
    ]
    points = alt.Chart(table).mark_point(filled=True, size=55).encode(
        x=across, y=alt.Y(field=y, type="quantitative", title=y_title).scale(zero=False), color=paint, shape=mark,
        opacity=alt.when(legend).then(alt.value(0.75)).otherwise(alt.value(0.08)), tooltip=hover,
    )  # fmt: skip
    return layered(points.add_params(legend))


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """With numbers and text as plain as a page's script wants them."""
    whole, text = ("shots", "seed", "clusters", "draws"), pd.api.types.is_string_dtype
    kinds = {name: "int64" if name in whole else "object" for name in table if name in whole or text(table[name])}
    return table.astype(kinds)
