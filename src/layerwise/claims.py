"""Claims: one contrast named before the numbers, its interval over independent clusters, and a verdict by one rule.

The rule, the same for every claim:

- *direction* ("a beats b"): reproduced if the 95 % interval of the contrast lies above zero, contradicted if below.
- *absence* ("no dip", "stops growing"): reproduced if the 90 % interval lies within +-1 point, contradicted if it lies
  wholly outside.
- *exact*: reproduced if the numbers are equal, else contradicted.
- Fewer than five clusters decide nothing: `undecided`, and one cluster's interval is given that one source.

A cluster is a class split with its source net. Trials of one source are averaged before anything else, then sources of
one class split: they are not replicates of transfer. Under ten clusters the interval is Student's t; from ten on a
bias-corrected and accelerated bootstrap (Efron 1987) over clusters.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

Verdict = Literal["reproduced", "contradicted", "undecided"]
Interval = tuple[float, float]

FEWEST_CLUSTERS = 5
BOOTSTRAP_FROM = 10
ABSENCE_MARGIN = 0.01


@dataclass(frozen=True)
class Claim:
    """What a paper says, what was measured, and whether the two agree."""

    id: str
    paper: str
    statement: str
    quantity: str  # the contrast, in words
    estimate: float | None
    interval: Interval | None
    level: float | None  # of the interval
    pairs: int  # differences of two runs that went in
    clusters: int  # independent class splits with their sources
    verdict: Verdict
    rule: str
    rows: tuple[str, ...]  # keys of the runs that went in, and of their sources
    unit: str = "points"  # of estimate and interval: points are fractions, shown times 100

    def as_json(self) -> dict[str, Any]:
        """The claim as `claims.json` holds it: plain lists, numbers and strings."""
        values = {**asdict(self), "interval": self.interval and list(self.interval), "rows": list(self.rows)}
        del values["unit"]
        return values


def interval(values: Sequence[float], level: float) -> Interval | None:
    """Confidence interval of the mean of independent values; null for fewer than two.

    Student's t under ten values; from ten on the BCa bootstrap with 9,999 resamples and a fixed seed.
    """
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return None
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    if len(sample) < BOOTSTRAP_FROM:
        half = stats.t.ppf((1 + level) / 2, len(sample) - 1) * stats.sem(sample)
        return float(sample.mean() - half), float(sample.mean() + half)
    found = stats.bootstrap((sample,), np.mean, confidence_level=level, n_resamples=9_999, method="BCa", rng=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def direction(bounds: Interval | None, clusters: int) -> Verdict:
    """The verdict on "the contrast is positive"."""
    if bounds is None or clusters < FEWEST_CLUSTERS:
        return "undecided"
    return "reproduced" if bounds[0] > 0 else "contradicted" if bounds[1] < 0 else "undecided"


def absence(bounds: Interval | None, clusters: int) -> Verdict:
    """The verdict on "the contrast is nil", to within one point."""
    if bounds is None or clusters < FEWEST_CLUSTERS:
        return "undecided"
    if max(-bounds[0], bounds[1]) <= ABSENCE_MARGIN:
        return "reproduced"
    return "contradicted" if bounds[0] > ABSENCE_MARGIN or bounds[1] < -ABSENCE_MARGIN else "undecided"


@dataclass(frozen=True)
class Mean:
    """A mean over independent clusters, with the interval of one level."""

    estimate: float
    bounds: Interval | None
    clusters: int  # class splits, each with its source
    given: str = ""  # what the interval is conditional on, where there is one cluster only


def over_clusters(values: "pd.Series[float]", level: float) -> Mean:
    """The mean of values whose index is (target task, seed, trial), over class splits.

    Trials are averaged first, then the sources of one class split. Where there is one split only the interval is over
    its sources, and where there is one source only over its trials; `given` says so.
    """
    by_source = values.groupby(level=[0, 1]).mean()
    by_split = by_source.groupby(level=0).mean()
    estimate = float(by_split.mean())
    if len(by_split) > 1:
        return Mean(estimate, interval(by_split.tolist(), level), len(by_split))
    if len(by_source) > 1:
        return Mean(estimate, interval(by_source.tolist(), level), 1, "given one class split")
    return Mean(estimate, interval(values.tolist(), level), 1, "given one source")


RULES = {
    "direction": "reproduced if the 95 % interval of the contrast lies above 0, contradicted if below",
    "absence": "reproduced if the 90 % interval lies within +-1 point, contradicted if wholly outside",
    "exact": "reproduced if the numbers are equal, else contradicted",
}
LEVELS = {"direction": 0.95, "absence": 0.90}
UNDECIDED = f"; fewer than {FEWEST_CLUSTERS} class splits, each with its own source, decide nothing"


def decide(
    claim: Claim, kind: Literal["direction", "absence"], contrast: "pd.Series[float] | None", pairs_each: int
) -> Claim:
    """Put one contrast through the rule: the claim with estimate, interval and verdict filled in.

    `contrast` has a value for each trial, its index (target task, seed, trial), and `pairs_each` differences of two
    runs went into each. Where it cannot be computed from what was run it is null or empty, and the claim undecided.
    """
    rule, level = RULES[kind] + UNDECIDED, LEVELS[kind]
    values = pd.Series(dtype=float) if contrast is None else contrast.dropna()
    if values.empty:
        return replace(claim, rule=f"{rule}; not computed: the runs that it needs were not made", rows=())
    mean = over_clusters(values, level)
    return replace(
        claim,
        estimate=mean.estimate,
        interval=mean.bounds,
        level=level if mean.bounds else None,
        pairs=len(values) * pairs_each,
        clusters=mean.clusters,
        verdict=(direction if kind == "direction" else absence)(mean.bounds, mean.clusters),
        rule=rule + (f"; this interval is {mean.given}" if mean.given else ""),
    )


def unmeasured(name: str, paper: str, statement: str, quantity: str, unit: str = "points") -> Claim:
    """A claim before any number: what `decide` fills in."""
    return Claim(name, paper, statement, quantity, None, None, None, 0, 0, "undecided", "", (), unit)
