"""The figures of Gutstein's study: the paper's figures 2 to 5 redrawn from the rows, and what they leave out."""

from dataclasses import replace

import pandas as pd

from layerwise.report import gutstein_beyond
from layerwise.report.figures import Figure, gap, learning, levels
from layerwise.rows import pick


def figures(rows: pd.DataFrame) -> tuple[Figure, ...]:
    """The paper's grid, and the experiments that its authors wanted next: those that were run."""
    layers = pick(rows, quantity="parameters")["layer"].tolist()
    return (
        *grid(rows[rows["experiment"].fillna("levels").eq("levels")], layers),
        *gutstein_beyond.figures(rows, layers),
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
        *(learning(rows, k, layers) for k in sorted({shots[0], shots[-1]})),
        replace(gap(rows, layers), claims=("G6",)),
    )
