"""Yosinski's answer in one paragraph, and the main findings; every number is a mean over class splits."""

from collections.abc import Sequence

import pandas as pd

from layerwise.claims import FEWEST_CLUSTERS, Claim
from layerwise.studies.sentences import between, points
from layerwise.studies.yosinski_nets import losses

WHY = {  # what a cause is in the answer
    "specificity (BnB - AnB)": "because they are specific to those classes",
    "co-adaptation (base - BnB)": "because they were parted from the layers above them (co-adaptation: on their own "
    "classes they lose it too)",
}


def words(rows: pd.DataFrame, made: Sequence[Claim]) -> tuple[str, tuple[str, ...]]:
    """The answer in one paragraph, and the main findings; every number is a mean over class splits."""
    found = losses(rows)
    if found.empty:
        return "No transfer between halves was measured.", ()
    by_n = {int(n): found[found["n"] == n].set_index("cause") for n in found["n"].unique()}
    most = max(by_n)
    whole = [f"by {_points(by_n[most].loc[cause])} {why}" for cause, why in WHY.items() if cause in by_n[most].index]
    fewer = [
        f"at n = {n} {' and '.join(_points(by_n[n].loc[cause]) for cause in WHY if cause in by_n[n].index)}"
        for n in sorted({min(by_n), 4, 5} & by_n.keys() - {most})
    ]
    clusters = int(found["clusters"].max())
    basis = f"{clusters} class splits" if clusters > 1 else "one class split"
    others = f"With n of them: {'; '.join(fewer)}. " if fewer else ""
    answer = (
        f"With the bottom {most} layers copied from a net of other classes and frozen, test accuracy changes, in "
        f"points, {', and '.join(whole)}. {others}Means over {basis}, 95 % "
        f"intervals in brackets{'.' if clusters >= FEWEST_CLUSTERS else f'; under {FEWEST_CLUSTERS} decide nothing.'}"
    )
    by = {claim.id: claim for claim in made}
    return answer, tuple(_said(by[name]) for name in ("Y4", "Y4 self-transfer", "Y2", "Y5", "Y6"))


def _points(mean: "pd.Series[float]") -> str:
    told = points(-mean["mean"])
    return told if pd.isna(mean["low"]) else f"{told} [{points(-mean['high'])} to {points(-mean['low'])}]"


def _said(claim: Claim) -> str:
    """A finding: the contrast in points with its interval, and the verdict."""
    if claim.estimate is None:
        return f"{claim.statement}: not measured, the runs that it needs were not made."
    told = f"{claim.statement}: {points(claim.estimate)} points ({claim.quantity}"
    if interval := between(claim, points):
        told += f"; {interval}"
    return f"{told}). The claim {claim.id} is {claim.verdict}."
