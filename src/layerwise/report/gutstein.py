"""The figures of Gutstein's study: the paper's table 1 and figures 2 to 5 from the rows, and what they leave out."""

from dataclasses import replace

import altair as alt
import pandas as pd

from layerwise.report import gutstein_beyond
from layerwise.report.figures import OKABE_ITO, Figure, gap, layered, learning, levels
from layerwise.rows import pick
from layerwise.studies.gutstein_claims import TABLE_1


def figures(rows: pd.DataFrame) -> tuple[Figure, ...]:
    """The paper's grid, the experiments that its authors wanted next (those that were run), and the net itself."""
    layers = pick(rows, quantity="parameters")["layer"].tolist()
    return (
        *grid(rows[rows["experiment"].fillna("levels").eq("levels")], layers),
        *gutstein_beyond.figures(rows, layers),
        parameters(rows),
    )


def grid(rows: pd.DataFrame, layers: list[str]) -> tuple[Figure, ...]:
    """Accuracy against levels kept, its range over trials, learning curves, and the gap."""
    shots = sorted({int(k) for k in rows.loc[rows["trial"].notna(), "shots"]})
    if not shots:
        return ()
    shown = sorted({shots[0], shots[len(shots) // 2], shots[-1]})  # the paper shows 1, 10 and 40
    trials = rows.loc[rows["trial"].notna(), ["seed", "trial"]].drop_duplicates()
    if len(trials) == 1:
        shown = []  # a range needs two
    return (
        replace(levels(rows, layers=layers), claims=("G2", "G3", "G4", "G5")),
        *(levels(rows, k, layers) for k in shown),
        *(replace(learning(rows, k, layers), claims=("G7",)) for k in sorted({shots[0], shots[-1]})),
        replace(gap(rows, layers), claims=("G6",)),
    )


def parameters(rows: pd.DataFrame) -> Figure:
    """Free parameters of each layer and of all; of the paper's own net beside the paper's numbers."""
    counts = pick(rows, quantity="parameters").set_index("layer")["value"].astype(int).to_dict()
    table = pd.DataFrame([*counts.items(), ("all", sum(counts.values()))], columns=["layer", "parameters"])
    caption = "On a logarithmic axis; the last point is all layers together."
    if papers := bool(rows["net"].eq("lenet5").all()):
        table["paper"] = table["layer"].map({**TABLE_1, "all": sum(TABLE_1.values())})
        caption += " Rings: the paper's table 1."
    base = alt.Chart(table).encode(x=alt.X("layer:N", title="layer", sort=table["layer"].tolist()).axis(labelAngle=0))
    up, hover = alt.Y("parameters:Q", title="free parameters").scale(type="log"), ["layer:N", "parameters:Q"]
    here = base.mark_point(filled=True, size=70, color=OKABE_ITO[0]).encode(y=up.axis(format="~s"), tooltip=hover)
    theirs = base.mark_point(size=220, color=OKABE_ITO[1]).encode(y=alt.Y("paper:Q"), tooltip=["layer:N", "paper:Q"])
    chart = layered(here, theirs) if papers else layered(here)
    return Figure("Free parameters of each layer", caption, chart, table, "inside", claims=("G1",))
