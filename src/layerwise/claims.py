"""Claims: one contrast named before the numbers, its interval over independent clusters, and a verdict by one rule.

The rule, the same for every claim:

- *direction* ("a beats b"): reproduced if the 95 % interval of the contrast lies above zero, contradicted if below.
- *absence* ("no dip", "stops growing"): reproduced if the 90 % interval lies within +-1 point, contradicted if it lies
  wholly outside.
- *exact*: reproduced if the numbers are equal, else contradicted.
- Fewer than five clusters decide nothing: `undecided`, and one cluster's interval is given that one source.

A cluster is a class split with its source net. Trials of one source are averaged before anything else: they are not
replicates of transfer. Under ten clusters the interval is Student's t; from ten on a bias-corrected and accelerated
bootstrap (Efron 1987) over clusters.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
    rows: tuple[str, ...]  # keys of the runs that went in

    def as_json(self) -> dict[str, Any]:
        """The claim as `claims.json` holds it: plain lists, numbers and strings."""
        return {**asdict(self), "interval": self.interval and list(self.interval), "rows": list(self.rows)}


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


RULES = {
    "direction": "reproduced if the 95 % interval of the contrast lies above 0, contradicted if below",
    "absence": "reproduced if the 90 % interval lies within +-1 point, contradicted if wholly outside",
    "exact": "reproduced if the numbers are equal, else contradicted",
}
LEVELS = {"direction": 0.95, "absence": 0.90}
UNDECIDED = f"; fewer than {FEWEST_CLUSTERS} class splits with their own source decide nothing"


def decide(
    name: str,
    paper: str,
    statement: str,
    quantity: str,
    kind: Literal["direction", "absence"],
    contrast: "pd.Series[float] | None",
    keys: Sequence[str],
    pairs_each: int,
) -> Claim:
    """Put one contrast through the rule.

    `contrast` has a value for each trial, its index (cluster, trial); trials of a cluster are averaged. Where it cannot
    be computed from what was run, it is null and the claim undecided. One cluster's interval is over its trials, given
    that source, and decides nothing.
    """
    rule, level = RULES[kind] + UNDECIDED, LEVELS[kind]
    values = pd.Series(dtype=float) if contrast is None else contrast.dropna()
    if values.empty:
        nothing = f"{rule}; not computed: the runs that it needs were not made"
        return Claim(name, paper, statement, quantity, None, None, None, 0, 0, "undecided", nothing, ())
    means = values.groupby(level=0).mean()
    clusters = len(means)
    if clusters == 1:
        rule += "; this interval is over trials, given one source"
    bounds = interval((means if clusters > 1 else values).tolist(), level)
    verdict = (direction if kind == "direction" else absence)(bounds, clusters)
    return Claim(
        id=name,
        paper=paper,
        statement=statement,
        quantity=quantity,
        estimate=float(means.mean()),
        interval=bounds,
        level=level if bounds else None,
        pairs=len(values) * pairs_each,
        clusters=clusters,
        verdict=verdict,
        rule=rule,
        rows=tuple(sorted(set(keys))),
    )
