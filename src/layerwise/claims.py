"""Claims: one contrast named before the numbers, its interval over independent clusters, and a verdict by one rule.

The rule, the same for every claim:

- *direction* ("a beats b"): reproduced if the 95 % interval of the contrast lies above zero, contradicted if below.
- *absence* ("no dip", "stops growing"): reproduced if the 90 % interval lies within +-1 point, contradicted if it lies
  wholly outside.
- *exact*: reproduced if the numbers are equal, else contradicted.
- Fewer than five clusters decide nothing: `undecided`, and one cluster's interval is given that one source.

A cluster is a class split with its source net. Trials of one source are averaged before anything else, then sources of
one class split: they are not replicates of transfer. Under ten clusters the interval is Student's t; from ten on a
bias-corrected and accelerated bootstrap (Efron 1987) over clusters. Of transfers between all pairs of categories the
clusters are the categories (see `by_category`).

A report with many claims finds some by chance. Beside each verdict stands whether it outlasts Benjamini and Hochberg's
correction (1995) for all claims of the report, at a false discovery rate of 5 % (`corrected`).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

Verdict = Literal["reproduced", "contradicted", "undecided"]
Kind = Literal["direction", "absence"]
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
    published: str = ""  # the paper's own number for this contrast, where it has one
    p: float | None = None  # two-sided, of "the contrast is 0"; of "it is a point or more" for claims of absence
    adjusted: float | None = None  # p, corrected for all claims of the report

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
    values: tuple[float, ...] = ()  # of the clusters


def over_clusters(values: "pd.Series[float]", level: float) -> Mean:
    """The mean of values whose index is (class split, source, trial), over class splits.

    The first level of the index names what is independent, the second what repeats within it, the third repetitions
    of that; what the levels are called makes no difference.

    Trials are averaged first, then the sources of one class split. Where there is one split only the interval is over
    its sources, and where there is one source only over its trials; `given` says so.
    """
    by_source = values.groupby(level=[0, 1]).mean()
    by_split = by_source.groupby(level=0).mean()
    estimate = float(by_split.mean())
    if len(by_split) > 1:
        means = tuple(by_split.tolist())
        return Mean(estimate, interval(means, level), len(means), values=means)
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


def decide(claim: Claim, kind: Kind, contrast: "pd.Series[float] | None", pairs_each: int) -> Claim:
    """Put one contrast through the rule: the claim with estimate, interval and verdict filled in.

    `contrast` has a value for each trial, its index as `over_clusters` wants it, and `pairs_each` differences of two
    runs went into each. Where it cannot be computed from what was run it is null or empty, and the claim undecided.
    """
    values = pd.Series(dtype=float) if contrast is None else contrast.dropna()
    mean = None if values.empty else over_clusters(values, LEVELS[kind])
    return judged(claim, kind, mean, len(values) * pairs_each)


def judged(claim: Claim, kind: Kind, mean: Mean | None, pairs: int) -> Claim:
    """The claim with this mean (at the level of its kind) of its contrast; null where it was not measured."""
    rule = RULES[kind] + UNDECIDED
    if mean is None:
        return replace(claim, rule=f"{rule}; not computed: the runs that it needs were not made", rows=())
    return replace(
        claim,
        estimate=mean.estimate,
        interval=mean.bounds,
        level=LEVELS[kind] if mean.bounds else None,
        pairs=pairs,
        clusters=mean.clusters,
        verdict=(direction if kind == "direction" else absence)(mean.bounds, mean.clusters),
        rule=rule + (f"; this interval is {mean.given}" if mean.given else ""),
        p=p_value(mean.values, kind) if mean.clusters >= FEWEST_CLUSTERS else None,
    )


def p_value(values: Sequence[float], kind: Kind) -> float | None:
    """Student's t test over clusters: two-sided, that the mean is 0; for absence, that it is a point or more.

    The latter is the larger p of two one-sided tests (Schuirmann 1987). Null for fewer than two values.
    """
    sample = np.asarray(values, float)
    if len(sample) < 2:
        return None
    mean, error = float(sample.mean()), max(float(stats.sem(sample)), 1e-12)  # of equal values: as good as none
    if kind == "direction":
        return 2 * float(stats.t.sf(abs(mean) / error, len(sample) - 1))
    return float(stats.t.sf((ABSENCE_MARGIN - abs(mean)) / error, len(sample) - 1))


def corrected(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """The claims with their p corrected for there being so many of them (Benjamini and Hochberg 1995)."""
    tested = [claim for claim in claims if claim.p is not None]
    if not tested:
        return tuple(claims)
    found = dict(zip(map(id, tested), stats.false_discovery_control([claim.p for claim in tested]), strict=True))
    return tuple(replace(claim, adjusted=float(found[id(claim)])) if id(claim) in found else claim for claim in claims)


def by_category(values: "pd.Series[float]", level: float) -> Mean:
    """The mean of values of pairs, whose index is (source category, target category), over categories.

    All transfers between C categories are not C(C - 1) independent ones: each category is a source and a target many
    times. A cluster is a category, its value the jackknife's pseudo-value, C mean - (C - 1) mean without its pairs
    (Tukey 1958; of data on pairs: Frank and Snijders 1994).
    """
    sources, targets = (values.index.get_level_values(k) for k in (0, 1))
    categories = sorted(set(sources) | set(targets))
    count, mean = len(categories), float(values.mean())
    without = [float(values[(sources != one) & (targets != one)].mean()) for one in categories]
    pseudo = [count * mean - (count - 1) * rest for rest in without if not math.isnan(rest)]
    if len(pseudo) < 3:
        return Mean(mean, None, len(pseudo), "given these categories")
    half = [end - float(np.mean(pseudo)) for end in interval(pseudo, level) or (0.0, 0.0)]
    return Mean(mean, (mean + half[0], mean + half[1]), count, values=tuple(pseudo))


def unpaired(some: Sequence[float], others: Sequence[float], level: float) -> Mean:
    """Mean of some minus mean of others, which share nothing: Welch's interval. Clusters are the fewer of the two."""
    estimate, fewer = float(np.mean(some) - np.mean(others)), min(len(some), len(others))
    if fewer < 2:
        return Mean(estimate, None, fewer, "given one net on a side")
    errors = [float(np.var(group, ddof=1)) / len(group) for group in (some, others)]  # squared, of each mean
    if not any(errors):  # as of nets that have all learnt nothing
        return Mean(estimate, (estimate, estimate), fewer)
    freedom = sum(errors) ** 2 / sum(e**2 / (len(g) - 1) for e, g in zip(errors, (some, others), strict=True))
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(sum(errors))
    return Mean(estimate, (estimate - half, estimate + half), fewer)


def unmeasured(name: str, paper: str, statement: str, quantity: str, unit: str = "points") -> Claim:
    """A claim before any number: what `decide` fills in."""
    return Claim(name, paper, statement, quantity, None, None, None, 0, 0, "undecided", "", (), unit)
