"""The report of a probed net: a line for each layer, and a figure for each quantity with when it misleads."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import altair as alt
import pandas as pd

from layerwise.png import address
from layerwise.report import thumbnails
from layerwise.report.figures import Figure, curves, layered, named_axis, palette, shapes
from layerwise.report.page import render, table_json
from layerwise.report.strip import GENERAL, UNKNOWN, Known, Lane, Strip, nothing_known, tiles

SECTIONS = {  # of the page: what each asks
    "features": "What can be read from each layer?",
    "classes": "How does each class fare?",
    "similarity": "Which layers are alike?",
    "scores": "What would each layer be worth to a transfer?",
    "images": "What of the image is left?",
    "units": "Which units matter?",
    "training": "How did each layer get there?",
}
WORDS = {"F*": "this net", "X*": "untrained net"}  # treatments, as the page calls them
READ = {  # quantity, the first that there is: what the strip calls it
    "linear_accuracy": "accuracy of a linear probe behind it",
    "knn_accuracy": "accuracy of its nearest neighbours",
}
NEEDED = {"accuracy_lost_fresh": "accuracy that the net loses where this layer is reset to fresh weights"}
RULE = "What to do with a layer a probe does not tell: it looks at the net as it is; “layerwise advise” tries it out."
INTERVAL = "Whiskers: 95 % intervals."
MOST_SHOWN = 6_000  # points of a scatter plot's layers together, so that the page stays small
MOST_ROWS = 5_000  # of the page's table, without those of classes and pairs where there are more
CELL = 22  # pixels of a heat map's row


def title(plan: Mapping[str, Any]) -> str:
    """Of the report, `plan` as plan.json: the net as its user calls it, without the digest of a file of their own.

    >>> title({"net": "mine.py:small#0123456789abcdef"})
    'What each layer of mine.py:small holds'
    """
    return f"What each layer of {plan['net'].partition('#')[0]} holds"


def render_probe(
    answer: str,
    findings: Sequence[str],
    rows: pd.DataFrame,
    layers: pd.DataFrame,
    pictures: Mapping[str, bytes],
    plan: dict[str, Any],
) -> str:
    """The whole page as text; `layers` is the table with a line for each layer, `plan` as plan.json."""
    small = thumbnails.cut(pictures[thumbnails.NAME], plan[thumbnails.NAME]) if thumbnails.NAME in pictures else {}
    drawn = list(figures(rows, plan["quantities"], plan["layers"], small))
    shown = _shown(rows)
    return render(
        "probe.html", title(plan), drawn,
        {"layers": table_json(layers), "rows": table_json(shown)}, left_out=len(rows) - len(shown),
        answer=answer, findings=findings, notes=[*plan["notes"], *plan["failures"]], facts=plan["facts"],
        strip=strip(rows, plan["layers"]),
        provenance=plan["provenance"],
        sections={name: told for name, told in SECTIONS.items() if any(figure.section == name for figure in drawn)},
        wholes=list(_wholes(rows, plan["quantities"])),
        pictures=[
            (plan["captions"][name], address(content))
            for name, content in pictures.items()
            if name != thumbnails.NAME
        ],
        reasons=_reasons(rows),
    )  # fmt: skip


def strip(rows: pd.DataFrame, order: Sequence[str]) -> Strip:
    """What can be read behind each layer of the classes in question, and how much the net needs the layer."""
    lanes = []
    for title, known in ((GENERAL, READ), ("Needed", NEEDED)):
        quantity = next((name for name in known if (rows["quantity"] == name).any()), None)
        if quantity:
            here = _of_question(rows[rows["quantity"] == quantity])
            cells = {str(row["layer"]): _known(row) for row in here.to_dict("records")}
            several = len(_groups(rows)) > 1 and here["group"].notna().any()
            of = f", of the {here['group'].iloc[0]} classes" if several else ""
            unit: Literal["points", "percent"] = "percent" if known is READ else "points"
            lanes.append(Lane(title, known[quantity] + of, tuple(cells.get(n, UNKNOWN) for n in order), unit))
    return Strip(tiles(order, nothing_known(order)), tuple(lanes), RULE, INTERVAL if lanes else "")


def _groups(rows: pd.DataFrame) -> list[str]:
    return sorted(rows["group"].dropna().unique())


def _of_question(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the net as it is, one row a layer: of the unknown classes where there are such, else of all."""
    here = rows[(rows["treatment"].fillna("F*") == "F*") & rows["value"].notna() & rows["class_name"].isna()]
    groups = _groups(here)
    if groups:
        here = here[here["group"] == ("unknown" if "unknown" in groups else groups[0])]
    if "estimated" in set(here["part"].dropna()):
        here = here[here["part"] == "estimated"]
    return here.drop_duplicates("layer")


def _known(row: Mapping[Any, Any]) -> Known:
    low, high = (None if pd.isna(row[name]) else float(row[name]) for name in ("low", "high"))
    return Known(float(row["value"]), low, high)


def figures(
    rows: pd.DataFrame,
    quantities: Mapping[str, Mapping[str, str]],
    order: Sequence[str],
    pictures: Mapping[int, str] | None = None,
) -> Iterator[Figure]:
    """A figure for each quantity, in the form that `quantities` names for it; `pictures` are images by number."""
    for name, told in quantities.items():
        here = rows[(rows["quantity"] == name) & rows["value"].notna()]
        if len(here) and told["form"] == "scatter":
            yield from scatter(here, told, order, pictures)
        elif len(here) and told["form"] in FORMS:
            yield from FORMS[told["form"]](here, told, order)


def by_layer(rows: pd.DataFrame, told: Mapping[str, str], order: Sequence[str]) -> Iterator[Figure]:
    """The quantity against the layers, a line for each group of classes, way of a reset, or part of a layer."""
    whole = rows[rows["class_name"].isna()]
    table = _in_order(whole, order).assign(series=_series(whole)).dropna(axis=1, how="all")
    table = table[[c for c in ("layer", "series", "value", "low", "high") if c in table]]
    band = ("low", "high") if {"low", "high"} <= set(table) else ()
    chart = curves(
        table, "layer", "value", "series", *band, x_title="layer", y_title=told["title"], colour_title="of",
        ordered=False, percent=told["unit"] == "percent",
    )  # fmt: skip
    yield _figure(told, chart, table)


def by_step(rows: pd.DataFrame, told: Mapping[str, str], order: Sequence[str]) -> Iterator[Figure]:
    """The quantity against the step of training, a line for each layer: a figure for each part of the layers.

    Against the layers where no step is known, as of weights from elsewhere.
    """
    if rows["step"].isna().all():
        yield from by_layer(rows, told, order)
        return
    parts = list(rows.groupby("part", sort=False, dropna=False))
    for number, (name, part) in enumerate(parts):
        part = _in_order(part, order)
        table = part[["step", "layer", "part", "value"]].assign(step=part["step"].astype(float))
        chart = curves(
            table, "step", "value", "layer", x_title="training step", y_title=told["title"], colour_title="layer",
            continuous=True, percent=told["unit"] == "percent", size=30,
        )  # fmt: skip
        yield _figure(told, chart, table, f"of {name}" if len(parts) > 1 else "", number)


def by_class(rows: pd.DataFrame, told: Mapping[str, str], order: Sequence[str]) -> Iterator[Figure]:
    """The quantity for each class and layer, as a heat map: one for each net."""
    rows = _in_order(rows[rows["class_name"].notna()], order)
    for number, (net, part) in enumerate(rows.groupby("treatment", sort=False)):
        columns = ["layer", "class_name", "group", "value", "low", "high", "other_class"]
        table = part[columns].dropna(axis=1, how="all")
        chart = _heat(table, "class_name", "class", order, told, sorted(table["class_name"].unique()))
        yield _figure(told, chart, table, f"of the {WORDS.get(str(net), str(net))}" if number else "", number)


def pairs(rows: pd.DataFrame, told: Mapping[str, str], order: Sequence[str]) -> Iterator[Figure]:
    """The quantity for each pair of layers, as a heat map: one for each net that is compared."""
    for number, (net, part) in enumerate(rows.groupby("other_net", sort=False)):
        table = part[["layer", "other_layer", "value"]]
        chart = _heat(table, "other_layer", "layer", order, told, list(dict.fromkeys(table["other_layer"])))
        yield _figure(told, chart, table, f"with the {WORDS.get(str(net), str(net))}" if number else "", number)


def ticks(rows: pd.DataFrame, told: Mapping[str, str], order: Sequence[str]) -> Iterator[Figure]:
    """The quantity of each unit: a tick a unit, by layer."""
    table = _in_order(rows, order)[["layer", "unit", "value"]]
    axis = named_axis(order, labelAngle=0, labelLimit=90)
    across = alt.X(field="layer", type="ordinal", title="layer", sort=list(order), axis=axis)
    up = alt.Y(field="value", type="quantitative", title=told["title"])
    hover = [alt.Tooltip(field=field, type="nominal") for field in ("layer", "unit")]
    hover.append(alt.Tooltip(field="value", type="quantitative", format=".4~g", title=told["title"]))
    marks = alt.Chart(table).mark_tick(color=palette(1)[0], opacity=0.5, thickness=1.5)
    yield _figure(told, layered(marks.encode(x=across, y=up, tooltip=hover)), table)


def scatter(
    rows: pd.DataFrame, told: Mapping[str, str], order: Sequence[str], pictures: Mapping[int, str] | None = None
) -> Iterator[Figure]:
    """Each image as a point or as itself, a layer at a time: choose the layer below the picture, classes in the legend.

    A class has a colour with a shape; filled and hollow tell the groups of classes apart.

    A point shows its image when it is pointed at, where `pictures` has it by its number.
    """
    axes = rows.pivot_table(
        index=["layer", "unit", "class_name", "group"], columns="part", values="value", observed=True
    )
    table = axes.reset_index()
    most = max(1, MOST_SHOWN // max(1, len(order)))
    shown = rows["unit"].drop_duplicates()[:most]  # they were noted in mixed order
    table = _in_order(table[table["unit"].isin(shown)], order)
    classes = sorted(table["class_name"].unique())
    layer = alt.param(name="shown", value=order[-1], bind=alt.binding_select(options=list(order), name="layer "))
    legend = alt.selection_point(name="picked", fields=["class_name"], bind="legend", toggle="true")
    look: dict[str, Any] = {
        name: channel(field="class_name", type="nominal", title="class").scale(domain=classes, range=drawn)
        for name, channel, drawn in (
            ("stroke", alt.Stroke, palette(len(classes), ordered=False)),
            ("fill", alt.Fill, palette(len(classes), ordered=False)),
            ("shape", alt.Shape, shapes(len(classes))),
        )
    }
    groups = sorted(table["group"].unique())
    if len(groups) > 1:
        hollow = alt.FillOpacity(field="group", type="ordinal", title="group", sort=groups)
        look["fillOpacity"] = hollow.scale(domain=groups, range=[1, *[0] * (len(groups) - 1)])
        told = {**told, "tells": f"{told['tells']} Filled: {groups[0]} classes; hollow: {' and '.join(groups[1:])}."}
    across = alt.X(field="first", type="quantitative", title=None, axis=None).scale(zero=False)
    up = alt.Y(field="second", type="quantitative", title=None, axis=None).scale(zero=False)
    hover: list[Any] = [alt.Tooltip(field=field, type="nominal") for field in ("class_name", "group", "unit")]
    base = alt.Chart(table).transform_filter("datum.layer === shown").encode(x=across, y=up)
    faded = alt.when(legend).then(alt.value(0.8)).otherwise(alt.value(0.06))
    if not pictures:
        points = base.mark_point(size=35).encode(**look, opacity=faded, tooltip=hover)
        yield _figure(told, layered(points.add_params(layer, legend)).properties(height=420), table)
        return
    small = pd.DataFrame([(unit, pictures[unit]) for unit in shown if unit in pictures], columns=["unit", "image"])
    hover.append(alt.Tooltip("image:N"))  # a tooltip draws what has this name
    themselves = alt.param(name="as_images", value=False, bind=alt.binding_checkbox(name="show the images "))
    looked_up = base.transform_lookup(lookup="unit", from_=alt.LookupData(data=small, key="unit", fields=["image"]))
    hidden = alt.when("as_images").then(alt.value(0)).when(legend).then(alt.value(0.8)).otherwise(alt.value(0.06))
    points = looked_up.mark_point(size=35).encode(**look, tooltip=hover, opacity=hidden)
    side = alt.ExprRef("as_images ? 22 : 0")  # a picture without data would have no extent
    images = looked_up.mark_image(width=side, height=side)
    images = images.encode(url="image:N", opacity=faded, tooltip=hover)
    yield _figure(told, layered(points.add_params(layer, legend, themselves), images).properties(height=420), table)


FORMS = {
    "by_layer": by_layer,
    "by_step": by_step,
    "by_class": by_class,
    "pairs": pairs,
    "ticks": ticks,
    "scatter": scatter,
}


def _heat(
    table: pd.DataFrame, up: str, title: str, order: Sequence[str], told: Mapping[str, str], sort: Sequence[str]
) -> alt.Chart:
    number = ".1%" if told["unit"] == "percent" else ".3~g"
    across = alt.X(field="layer", type="ordinal", title="layer", sort=list(order), axis=named_axis(order))
    other = alt.Y(field=up, type="ordinal", title=title, sort=list(sort), axis=named_axis(sort, labelLimit=110))
    named = ("layer", up, *(["other_class"] if "other_class" in table else []))
    hover = [alt.Tooltip(field=field, type="nominal") for field in named]
    hover.append(alt.Tooltip(field="value", type="quantitative", format=number, title=told["title"]))
    colour = alt.Color(field="value", type="quantitative", title=told["title"]).scale(scheme="viridis")
    marks = alt.Chart(table).mark_rect().encode(x=across, y=other, color=colour, tooltip=hover)
    return marks.properties(width="container", height=max(120, CELL * table[up].nunique()))


def _figure(told: Mapping[str, str], chart: Any, table: pd.DataFrame, which: str = "", number: int = 0) -> Figure:
    """`which` tells several figures of one quantity apart; the caption stands under the first, of number 0."""
    title = f"{told['title']}, {which}" if which else told["title"]
    return Figure(title, "As before." if number else _caption(told), chart, table, told["section"])


def _series(rows: pd.DataFrame) -> "pd.Series[str]":
    """What tells the lines of a figure apart, in words."""
    parts = rows[["group", "condition", "part", "treatment"]].astype("string").fillna("")
    varying = [column for column in parts if parts[column].nunique() > 1] or ["group"]
    return parts[varying].replace(WORDS).agg(" ".join, axis=1).str.strip().replace("", "all")


def _wholes(rows: pd.DataFrame, quantities: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str, str, str]]:
    """Section, title, value and caption of each quantity that the net has one of, or one for each of its parts."""
    for name, told in quantities.items():
        here = rows[(rows["quantity"] == name) & rows["value"].notna()]
        if told["form"] == "whole" and len(here):
            values = [
                (f"{100 * value:.1f} %" if told["unit"] == "percent" else f"{value:.4g}")
                + (f" ({part})" if len(here) > 1 else "")
                for value, part in zip(here["value"], here["part"], strict=True)
            ]
            yield told["section"], told["title"], ", ".join(values), _caption(told)


def _caption(told: Mapping[str, str]) -> str:
    return f"{told['tells']} Misleads: {told['misleads']} Source: {told['source']}."


def _in_order(rows: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    positions = {name: position for position, name in enumerate(order)}
    return rows.sort_values("layer", key=lambda names: names.map(positions), kind="stable")


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that the page's table holds; of many not those of single classes and pairs of layers.

    Never those of single images and units. All are in rows.csv.
    """
    shown = rows[rows["unit"].isna()]
    if len(shown) > MOST_ROWS:
        shown = shown[shown["class_name"].isna() & shown["other_layer"].isna()]
    return shown.dropna(axis=1, how="all").drop(columns=["study", "net", "seed"])


def _reasons(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Layer, quantity and reason of what could not be computed."""
    lacking = rows[rows["reason"].notna()].drop_duplicates(["layer", "quantity", "reason"])
    named = lacking["layer"].fillna("every layer")
    return list(zip(named, lacking["quantity"], lacking["reason"], strict=True))
