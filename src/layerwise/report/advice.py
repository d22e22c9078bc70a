"""The report of an advice: what to do with each layer, what was tried, and the commands that carry it out.

Everything is from `advice.json`, as `layerwise.advising.advice` writes it.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from layerwise.report import words
from layerwise.report.costs import frontier
from layerwise.report.figures import PERCENT, Figure, curves, layered, palette, shapes
from layerwise.report.page import render, table_json
from layerwise.report.strip import GENERAL, UNKNOWN, Deed, Known, Lane, Strip, tiles
from layerwise.treatment import Treatment

REACH = 1.645  # standard deviations: nine tenths of a normal distribution
RUNNERS_UP = 3
ROW = 45  # pixels of an option's line
OPTIONS = {  # column of the table: what it is called on the page, how it is printed
    "option": ("option", "number"),
    "name": ("what is done", "text"),
    "treatment": ("treatment", "text"),
    "rate": ("learning rate", "number"),
    "accuracy": ("expected accuracy", "percent"),
    "deviation": ("deviation", "percent"),
    "chance": ("chance to be best", "percent"),
    "trials": ("trials", "number"),
    "flops": ("FLOPs of training", "flops"),
}
RULE = (
    "What to do with each layer is what the recommended option does. Useful: classes can be told apart better behind "
    "the layer than before it (interval above 0); harmful: worse; redundant: the difference is surely under two "
    "points; else unknown."
)
INTERVAL = "Whiskers: 90 % intervals over folds of the training images."


def render_advice(advice: Mapping[str, Any], where: Path) -> str:
    """The whole page as text; `advice` as advice.json, which lies at `where`."""
    table, drawn = options(advice), list(figures(advice))
    return render(
        "advice.html", f"What to do with each layer of {short(advice['net'])}", drawn,
        {"options": table_json(table, OPTIONS)},
        answer=advice["answer"], findings=advice["findings"], notes=advice["notes"], facts=list(facts(advice)),
        provenance=advice["provenance"], strip=strip(advice), carry_out=list(commands(advice, where)),
        is_sure=advice["recommended"]["sure"], option_count=len(table),
        has_labels=any(figure.section == "labels" for figure in drawn),
    )  # fmt: skip


def strip(advice: Mapping[str, Any]) -> Strip:
    """What the recommended option does with each layer, and what a linear probe says of it."""
    recommended, names = advice["recommended"], advice["layers"]
    stages = Treatment.parse(recommended["treatment"]).letters()
    rates = next((recipe["layer_rates"] for recipe in recommended["recipes"] if recipe["layer_rates"]), ())
    notes = [f"rate ×{rate:.2g}" for rate in rates] or [""] * len(names)
    deeds = [Deed("".join(of), note) for of, note in zip(zip(*stages, strict=True), notes, strict=True)]
    by_layer = {reason["layer"]: reason for reason in advice["layers_why"]}
    cells = [_known(by_layer[name]) if name in by_layer else "new head" for name in names]
    lane = Lane(GENERAL, "what a linear probe gains behind it, over the layer before", tuple(cells))
    return Strip(tiles(names, [_merged(deed) for deed in deeds]), (lane,), RULE, INTERVAL)


def _known(reason: Mapping[str, Any]) -> Known | str:
    if reason["gain"] is None:
        return UNKNOWN
    low, high = reason["interval"] or (None, None)
    return Known(reason["gain"], low, high, word=reason["verdict"])


def _merged(deed: Deed) -> Deed:
    """A layer that is treated alike in every stage has one letter."""
    return Deed(deed.letters[0], deed.note) if len(set(deed.letters)) == 1 else deed


def options(advice: Mapping[str, Any]) -> pd.DataFrame:
    """A line for each option, numbered as in options.csv, the recommended first."""
    table = pd.DataFrame(list(advice["candidates"]))
    table.insert(0, "option", range(1, len(table) + 1))
    return table.reindex(columns=list(OPTIONS))


def commands(advice: Mapping[str, Any], where: Path) -> Iterator[tuple[str, str]]:
    """The recommended option and the best of doing otherwise: what each is, and the command that carries it out."""
    command = [*advice["adapt"], "--advice", str(where)]
    for row in options(advice).drop_duplicates("name").to_dict("records")[: 1 + RUNNERS_UP]:
        what = f"{row['name']} ({row['treatment']}), rate {row['rate']:g}: {words.percent(row['accuracy'])} expected"
        number = [] if row["option"] == 1 else ["--option", str(row["option"])]
        yield what, shlex.join([*command, *number])


def facts(advice: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The sizes of what was done."""
    data, cost, made = advice["data"], advice["cost"], advice["candidates"]
    yield "training images", f"{data['training_images']:,}"
    yield "classes", f"{len(data['classes']):,}"
    yield "options", f"{len(made):,}"
    yield "trials", f"{sum(one['trials'] for one in made):,}"
    yield "of trying everything", words.percent(cost["spent"] / cost["exhaustive"])
    if cost.get("seconds"):
        yield "taken the last time", words.seconds(cost["seconds"])


def figures(advice: Mapping[str, Any]) -> Iterator[Figure]:
    """The options from best to worst, their cost, the probe of each layer, and what more labels would bring."""
    table = _spread(options(advice))
    yield _ranked(table, *advice["recommended"]["interval"])
    yield _priced(table)
    if layers := [reason for reason in advice["layers_why"] if reason["accuracy"] is not None]:
        yield _probed(layers)
    if advice.get("learning_curve") and advice["more_labels"]:
        yield _labels(advice)


def _spread(table: pd.DataFrame) -> pd.DataFrame:
    """With the interval of each option's difference to the recommended one, and in words whether it was tried."""
    reach = REACH * table["deviation"]
    return table.assign(
        low=(table["accuracy"] - reach).clip(0, 1), high=(table["accuracy"] + reach).clip(0, 1),
        tried=["tried" if trials else "believed from others" for trials in table["trials"]],
        rate=[f"{rate:g}" for rate in table["rate"]],
        is_advised=table["option"] == 1,
    )  # fmt: skip


HOVER: list[Any] = [
    alt.Tooltip("name:N", title="what is done"), "treatment:N", alt.Tooltip("rate:N", title="learning rate"),
    alt.Tooltip("accuracy:Q", format=".1%", title="expected accuracy"), alt.Tooltip("low:Q", format=".1%"),
    alt.Tooltip("high:Q", format=".1%"), alt.Tooltip("chance:Q", format=".0%", title="chance to be best"),
    alt.Tooltip("trials:Q"), alt.Tooltip("flops:Q", format=".3~s", title="FLOPs of training"),
]  # fmt: skip
WHISKERS = (
    "Whiskers: where nine in ten of its differences to the recommended option lie. Hollow: not tried itself, but "
    "believed from options like it. Click rates in the legend."
)


def _encoded(table: pd.DataFrame) -> tuple[alt.Parameter, dict[str, Any], list[str]]:
    """The legend's choice, the channels that tell rates apart, and the rates."""
    rates = sorted(set(table["rate"]), key=float)
    legend = alt.selection_point(name="picked", fields=["rate"], bind="legend", toggle="true")
    seen = {
        "color": alt.Color("rate:N", title="learning rate", sort=rates).scale(domain=rates, range=palette(len(rates))),
        "shape": alt.Shape("rate:N", title="learning rate", sort=rates).scale(domain=rates, range=shapes(len(rates))),
    }
    return legend, seen, rates


def _dimmed(legend: alt.Parameter, picked: float, other: float) -> Any:
    return alt.when(legend).then(alt.value(picked)).otherwise(alt.value(other))


def _ranked(table: pd.DataFrame, low: float, high: float) -> Figure:
    """A line for each treatment, the best first, a point for each rate; and the interval of the recommended one."""
    legend, seen, rates = _encoded(table)
    order = list(dict.fromkeys(table["name"]))
    up = alt.Y("name:N", sort=order, title=None).axis(None).scale(paddingInner=0.55, paddingOuter=0.5)
    across = alt.X("accuracy:Q", title="expected accuracy on new images").axis(format=PERCENT, tickCount=6)
    apart = alt.YOffset("rate:N", sort=rates)
    base = alt.Chart(table).encode(y=up, yOffset=apart)
    whiskers = base.mark_rule(strokeWidth=1.2).encode(
        x=alt.X("low:Q", title="expected accuracy on new images").scale(zero=False), x2="high:Q", color=seen["color"],
        opacity=_dimmed(legend, 0.6, 0.05),
    )  # fmt: skip
    points = base.mark_point(size=55, strokeWidth=1.6).encode(
        x=across.scale(zero=False), **seen, tooltip=HOVER, opacity=_dimmed(legend, 1, 0.1),
        fill=alt.when("datum.trials > 0").then(seen["color"]).otherwise(alt.value("transparent")),
    )  # fmt: skip
    advised = base.transform_filter("datum.is_advised").mark_point(size=230, color="currentColor", strokeWidth=1.6)
    band = base.transform_filter("datum.is_advised").transform_calculate(from_=str(low), to=str(high))
    band = band.mark_rule(strokeWidth=9, color="currentColor", opacity=0.18).encode(
        x=alt.X("from_:Q", title="expected accuracy on new images"), x2="to:Q"
    )
    names = alt.Chart(table.drop_duplicates("name")).mark_text(
        align="left", dy=-ROW / 3, color="currentColor", limit=alt.ExprRef("width")
    )
    names = names.encode(y=up, text="name:N", x=alt.value(0))
    chart = layered(points.add_params(legend), whiskers, band, advised.encode(x=across), names)
    chart = chart.properties(height=max(160, ROW * len(order)))
    caption = (
        "A line for each treatment, a point for each learning rate. Ring and broad bar: the recommended one, and the "
        f"interval in which its accuracy on new images is expected. {WHISKERS}"
    )
    return Figure("Every option, from best to worst", caption, chart, table, "options")


def _priced(table: pd.DataFrame) -> Figure:
    """Expected accuracy against the cost of training, with what nothing cheaper is expected to match."""
    legend, seen, rates = _encoded(table)
    best = frontier(table["flops"].tolist(), table["accuracy"].tolist())
    table = table.assign(best_buy=best, place=[rates.index(rate) - (len(rates) - 1) / 2 for rate in table["rate"]])
    title = "FLOPs of training on all images (logarithmic)"
    across = alt.X("spent:Q", title=title).scale(type="log", nice=False, padding=36)
    across = across.axis(format="~s", tickCount=5, grid=False)
    up = (
        alt.Y("accuracy:Q", title="expected accuracy on new images").axis(format=PERCENT, tickCount=6).scale(zero=False)
    )
    base = alt.Chart(table).transform_calculate(spent="datum.flops * pow(1.04, datum.place)").encode(x=across)
    whiskers = base.mark_rule(strokeWidth=1, color="currentColor").encode(
        y=alt.Y("low:Q", title="expected accuracy on new images"), y2="high:Q", opacity=_dimmed(legend, 0.3, 0.03)
    )
    points = base.mark_point(size=70, strokeWidth=1.6).encode(
        y=up, **seen, tooltip=HOVER, opacity=_dimmed(legend, 1, 0.08),
        fill=alt.when("datum.trials > 0").then(seen["color"]).otherwise(alt.value("transparent")),
    )  # fmt: skip
    buys = base.transform_filter("datum.best_buy").encode(y=up)
    line = buys.mark_line(strokeWidth=1.5, strokeDash=[4, 3], color="currentColor")
    labels = buys.mark_text(dy=-12, fontSize=11, color="currentColor").encode(text="treatment:N")
    chart = layered(
        points.add_params(legend), whiskers, line.encode(order="spent:Q", opacity=alt.value(0.55)), labels
    )  # fmt: skip
    caption = (
        "The dashed line joins the best buys, those that nothing cheaper is expected to match. Rates of one treatment "
        f"cost the same; they stand side by side to be seen. {WHISKERS}"
    )
    return Figure("Expected accuracy against what training costs", caption, chart, table, "options")


def _probed(reasons: Sequence[Mapping[str, Any]]) -> Figure:
    """The linear probe's accuracy behind each layer."""
    table = pd.DataFrame([{"layer": r["layer"], "accuracy": r["accuracy"], "of": "linear probe"} for r in reasons])
    chart = curves(
        table, "layer", "accuracy", "of", x_title="layer", y_title="accuracy of a linear probe", colour_title="of",
        ordered=False,
    )  # fmt: skip
    caption = (
        "How well a linear classifier of the layer's features tells the new classes apart, over folds of the training "
        "images. What the layer adds, with its interval, is in the strip above. It misleads where the layers above "
        "would have put to use what a linear probe cannot read."
    )
    return Figure("What can be read behind each layer", caption, chart, table, "layers")


def _labels(advice: Mapping[str, Any]) -> Figure:
    """The learning curve of the linear probe as measured, and what it would have more labels bring to the advised."""
    measured = [
        {"samples": samples, "accuracy": right, "low": None, "high": None, "of": "linear probe, measured"}
        for samples, right in advice["learning_curve"]
    ]
    now, best = advice["data"]["training_images"] / len(advice["data"]["classes"]), advice["recommended"]["accuracy"]
    told = [{"factor": 1, "gain": 0.0, "interval": (0.0, 0.0)}, *advice["more_labels"]]
    expected = [
        {
            "samples": one["factor"] * now, "accuracy": min(1.0, best + one["gain"]),
            **dict(zip(("low", "high"), (min(1.0, best + end) for end in one["interval"] or ()), strict=False)),
            "of": "as advised, extrapolated",
        }
        for one in told
    ]  # fmt: skip
    table = pd.DataFrame(measured + expected).astype({"samples": float, "low": float, "high": float})
    chart = curves(
        table, "samples", "accuracy", "of", "low", "high", x_title="labelled images a class", y_title="accuracy",
        colour_title="of", continuous=True, ordered=False,
    )  # fmt: skip
    caption = (
        "Measured: a linear probe trained on a quarter, a half and all of each fold's images. Extrapolated: the "
        "recommended option's expected accuracy with what the probe would gain by two and four times the labels "
        "(band: 90 % interval of that gain alone)."
    )
    return Figure("What more labels would bring", caption, chart, table, "labels")


def short(net: str) -> str:
    """The net without the path of its weights.

    >>> short("resnet20@/home/me/best.safetensors")
    'resnet20 with best.safetensors'
    """
    name, _, weights = net.partition("@")
    return f"{name} with {Path(weights).name}" if weights else name
