"""The figures of the reverse hierarchy study: the task itself, what carries over, relearning by layer, what moved."""

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from layerwise.data.stimuli import KINDS, arrays, rendered
from layerwise.png import address, png
from layerwise.report.figures import OKABE_ITO, PERCENT, SHAPES, Figure, curves, kept_name, layered, sources
from layerwise.report.summary import ends, over_clusters
from layerwise.rows import pick

SHOWN, SIDE, GAP = 6, 64, 4  # arrays of each kind, their size and distance in pixels
BANDS = "95 % interval of the mean over worlds, each with its own orientations, side and nets."


def figures(rows: pd.DataFrame) -> tuple[Figure, ...]:
    """What was measured of these, in this order."""
    shots = sorted({int(k) for k in pick(rows, experiment="relearning")["shots"].dropna()})
    shown = dict.fromkeys((shots[0], shots[-1])) if shots else ()
    made = (contact_sheet(), untouched(rows), *(relearning(rows, k) for k in shown), learning(rows), drift(rows))
    return tuple(figure for figure in made if len(figure.table))


def contact_sheet() -> Figure:
    """A few arrays of the first kinds: drawn for this page, of no run."""
    shown, tiles = KINDS[:5], []
    for kind in shown:
        angles, shifts, _, _ = next(arrays(kind, 0))
        tiles.append(np.pad(rendered(angles[:SHOWN], shifts[:SHOWN], SIDE), ((0, 0), (GAP, GAP), (GAP, GAP))))
    sheet = Image.fromarray(np.concatenate([np.concatenate(list(line), 1) for line in tiles]))
    chart = alt.Chart(pd.DataFrame({"picture": [address(png(sheet))]}))
    chart = chart.properties(width=sheet.width, height=sheet.height)
    chart = chart.mark_image(align="left", baseline="top", width=sheet.width, height=sheet.height)
    chart = chart.encode(url="picture:N", x=alt.value(0), y=alt.value(0))
    table = pd.DataFrame({"line": range(1, len(shown) + 1), "kind": [kind.name for kind in shown]})
    caption = "A line for each kind of array, with examples drawn anew. Odd: one bar by so many degrees, on that side."
    return Figure("The task: is there an odd one?", caption, alt.layer(chart), table, "learning")


def untouched(rows: pd.DataFrame) -> Figure:
    """Accuracy of the source nets as they are, on their own task and elsewhere."""
    found = pick(rows, quantity="untouched_accuracy")
    table = _named(over_clusters(found, ["condition", "group"]), "accuracy", "group")
    base = alt.Chart(table).encode(
        x=alt.X("group:N", title="tested at", sort=["trained", "new orientations", "new positions"]).axis(labelAngle=0),
        xOffset="condition:N",
        color=alt.Color("condition:N", title="trained on").scale(range=list(OKABE_ITO[:2])),
    )
    up = alt.Y("accuracy:Q", title="test accuracy").scale(zero=False).axis(format=PERCENT)
    spread = base.mark_rule(strokeWidth=2).encode(
        y=alt.Y("low:Q", title="test accuracy").scale(zero=False), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=90).encode(
        y=up,
        shape=alt.Shape("condition:N", legend=None).scale(range=list(SHAPES[:2])),
        tooltip=["condition", "group", *(alt.Tooltip(name, format=".1%") for name in ("accuracy", "low", "high"))],
    )
    chance = alt.Chart(pd.DataFrame({"chance": [0.5]})).mark_rule(strokeDash=[4, 3], opacity=0.6).encode(y="chance:Q")
    caption = f"Nets as training left them, each at its own difference; dashed: chance. Bars: {BANDS}"
    return Figure(
        "What easy and hard training carry over", caption, layered(spread, points, chance), table, claims=("H2", "H3")
    )


def relearning(rows: pd.DataFrame, shots: int) -> Figure:
    """Accuracy elsewhere after so many samples of a class, against layers kept."""
    layers = pick(rows, quantity="parameters")["layer"].tolist()
    found = ends(pick(rows, experiment="relearning", shots=shots))
    found = found.assign(series=found["condition"] + ", " + found["group"])
    table = _named(over_clusters(found, ["series", "n"]), "test_accuracy", "n")
    table.insert(1, "kept", [kept_name(int(n), layers) for n in table["n"]])
    chart = curves(
        table, "kept", "test_accuracy", "series", "low", "high", x_title="layers kept",
        y_title="test accuracy", colour_title="difference, and where", ordered=False,
    )  # fmt: skip
    caption = f"0 layers kept is learning from scratch. Bands: {BANDS}"
    return Figure(
        f"Relearning elsewhere from {shots} samples per class, by layers kept", caption, chart, table, claims=("H5",)
    )


def learning(rows: pd.DataFrame) -> Figure:
    """Learning curves of the source nets."""
    found = pick(rows[rows["trial"].isna()], quantity="accuracy", split="test")
    return sources(found, "condition", f"Bands: {BANDS}", of_title="trained on", claims=("H1",))


def drift(rows: pd.DataFrame) -> Figure:
    """How far each layer's weights went."""
    order = pick(rows, quantity="parameters")["layer"].tolist()
    found = pick(rows, quantity="distance_to_start_norm", part="weights")
    table = _named(over_clusters(found, ["condition", "layer"]), "distance", "layer")
    table = table.sort_values("layer", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)
    chart = curves(
        table, "layer", "distance", "condition", "low", "high", y_title="distance from start, relative to its norm",
        colour_title="trained on", ordered=False, percent=False,
    )  # fmt: skip
    caption = f"The weights of each layer, biases left out. Bands: {BANDS}"
    return Figure("What training changed, layer by layer", caption, chart, table, "inside", claims=("H4",))


def _named(table: pd.DataFrame, value: str, whole: str) -> pd.DataFrame:
    """The summary with its mean by its own name, and plain numbers."""
    table = table.rename(columns={"mean": value}).drop(columns=["interval"])
    return table.astype({whole: "int64"}) if whole in {"n", "step"} else table
