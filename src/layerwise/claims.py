"""Claims: one contrast named before the numbers, its interval over independent clusters, and a verdict by one rule.

The rules are `HOW`, written once: every report shows them. A study makes a claim by `unmeasured` before any number, and
`decide` or `judged` fills in estimate, interval, verdict and p. `corrected` looks at all claims of a report together.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

Verdict = Literal["reproduced", "contradicted", "undecided"]
Kind = Literal["direction", "absence"]
Interval = tuple[float, float]

FEWEST_CLUSTERS = 5
BOOTSTRAP_FROM = 10
RESAMPLES = 9_999
ABSENCE_MARGIN = 0.01
FALSE_DISCOVERIES = 0.05

RULES = {
    "direction": "reproduced if the 95 % interval of the contrast lies above 0, contradicted if below",
    "absence": "reproduced if the 90 % interval lies within ±1 point, contradicted if wholly outside",
    "exact": "reproduced if the numbers are equal, else contradicted",
}
LEVELS = {"direction": 0.95, "absence": 0.90}
HOW = {
    "One contrast": "Each claim is one difference between runs, written down before the numbers; never the largest of "
    "several. Runs that are compared share classes and samples, so that differences are those of pairs, unless a claim "
    "says that it is unpaired. They share fresh weights and the order of the data too, but where one is itself a "
    "source, as Yosinski's bases are: what is copied from a source and what is fresh must not have begun together.",
    "Direction": f"“A beats B” is {RULES['direction']}, else undecided.",
    "Absence": f"“No dip” or “stops growing” is {RULES['absence']}, else undecided: to have seen nothing does not show "
    "that there is nothing.",
    "Exact": f"A claim about plain numbers is {RULES['exact']}.",
    "Clusters": "What counts is how often the whole experiment was repeated independently: with other classes and "
    "another source net (a class split), with another draw of known classes, or with another category. Trials within "
    f"one of these are averaged first. Fewer than {FEWEST_CLUSTERS} decide nothing, whatever the numbers.",
    "Intervals": f"Student's t over clusters; from {BOOTSTRAP_FROM} different ones on, its distribution is drawn from "
    "the values themselves (bootstrap-t), so that it follows their skew. Of transfers between all pairs of "
    "categories, one category with all its pairs is left out at a time (jackknife). Unpaired groups: Welch's t.",
    "p": "From the same distribution as the interval: 0.05 or less exactly where the verdict is reproduced or "
    "contradicted. It is two-sided for a direction; for an absence it is one-sided, of the two one-sided tests "
    "(within the point, or outside it) that the estimate speaks for.",
    "As the paper counted": "Where a paper pooled all its nets as if they were independent, its contrast is shown so "
    "too (“unpaired”), with the verdict that this would give. The nets share halves and bases, and the interval is too "
    "narrow: such a claim stands beside the paired one, without a p, in neither the tally nor the correction.",
    "Many claims": "Of many claims some come out by chance. Beside each verdict stands whether it outlasts Benjamini "
    f"and Hochberg's correction for all tested claims of the report, at {100 * FALSE_DISCOVERIES:.0f} % false "
    "discoveries. Claims of one study share runs: they err together, and the correction does not make them "
    "independent evidence.",
}


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
    clusters: int  # independent repetitions of the experiment
    verdict: Verdict
    rule: str
    rows: tuple[str, ...]  # keys of the runs that went in, and of their sources
    unit: str = "points"  # of estimate and interval: points are fractions, shown times 100
    published: str = ""  # the paper's own number for this contrast, where it has one
    p: float | None = None  # 0.05 or less where the verdict is decided; see HOW
    adjusted: float | None = None  # p, corrected for all claims of the report
    cluster: str = "class split"  # what a cluster is: a category, a draw of known classes
    given: str = ""  # what the interval is conditional on: a single cluster, the two kinds that classes are of

    tallied: bool = True  # else the same contrast as a paper counted it, shown beside: no p, and no claim more

    @property
    def outlasts(self) -> bool | None:
        """Does the verdict outlast the correction for all claims? Null where there is nothing to correct."""
        decided = self.verdict != "undecided" and self.adjusted is not None
        return self.adjusted <= FALSE_DISCOVERIES if decided and self.adjusted is not None else None

    def as_json(self) -> dict[str, Any]:
        """The claim as `claims.json` holds it: plain lists, numbers and strings."""
        values = {**asdict(self), "interval": self.interval and list(self.interval), "rows": list(self.rows)}
        del values["unit"]
        return values


@dataclass(frozen=True, eq=False)
class Student:
    """A mean, and how it would vary were all repeated: its interval and its p come from one distribution.

    (estimate - truth) / error follows Student's t, or `drawn`: the same quotient of resamples (bootstrap-t, Hall 1988).
    Of the mean of twelve normal or exponential values 95 % intervals so drawn cover 96 and 92 %, those of Student's t
    95 and 88 %, those of a bias-corrected bootstrap (BCa) 92 and 86 %.
    """

    estimate: float
    error: float  # standard error of the mean
    freedom: float
    drawn: Float[np.ndarray, " resamples"] | None = None  # in ascending order

    @classmethod
    def of(cls, values: Sequence[float]) -> "Student":
        """That of independent values, two at least; resampled from ten different ones on, with a fixed seed."""
        sample = np.asarray(values, dtype=float)
        if np.ptp(sample) == 0:
            return cls(float(sample[0]), 0.0, len(sample) - 1)
        error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
        different = len(np.unique(sample.round(12)))  # of few that repeat, some resamples would have no error at all
        drawn = _drawn(sample) if different >= BOOTSTRAP_FROM else None
        return cls(float(sample.mean()), error, len(sample) - 1, drawn)

    def interval(self, level: float) -> Interval:
        """The confidence interval of the mean."""
        ends = (1 + level) / 2, (1 - level) / 2
        low, high = stats.t.ppf(ends, self.freedom) if self.drawn is None else _quantiles(self.drawn, ends)
        return self.estimate - float(low) * self.error, self.estimate - float(high) * self.error

    def above(self, null: float) -> float:
        """p of "the true mean is at most this": small where the estimate lies well above."""
        if self.error == 0:
            return float(self.estimate <= null)
        quotient = (self.estimate - null) / self.error
        if self.drawn is None:
            return float(stats.t.sf(quotient, self.freedom))
        return (1 + len(self.drawn) - int(np.searchsorted(self.drawn, quotient, "left"))) / (len(self.drawn) + 1)

    def below(self, null: float) -> float:
        """p of "the true mean is at least this"."""
        drawn = None if self.drawn is None else -self.drawn[::-1]
        return Student(-self.estimate, self.error, self.freedom, drawn).above(-null)

    def p(self, kind: Kind) -> float:
        """0.05 or less exactly where the verdict by this kind's rule is not undecided; see HOW."""
        if kind == "direction":
            return min(1.0, 2 * min(self.above(0.0), self.below(0.0)))
        within = max(self.above(-ABSENCE_MARGIN), self.below(ABSENCE_MARGIN))  # two one-sided tests: Schuirmann 1987
        return min(within, self.above(ABSENCE_MARGIN), self.below(-ABSENCE_MARGIN))


def _drawn(sample: Float[np.ndarray, " values"]) -> Float[np.ndarray, " resamples"]:
    """Student's t of resamples about the sample's mean, in ascending order."""
    draw = np.random.default_rng(0)
    again = sample[draw.integers(0, len(sample), (RESAMPLES, len(sample)))]
    errors = again.std(axis=1, ddof=1) / math.sqrt(len(sample))
    return np.sort((again.mean(axis=1) - sample.mean()) / np.maximum(errors, 1e-12 * np.ptp(sample)))


def _quantiles(drawn: Float[np.ndarray, " resamples"], ends: tuple[float, float]) -> Float[np.ndarray, "2"]:
    """The k-th of so many drawn stands at k / (count + 1): so p counts them too."""
    return np.quantile(drawn, ends, method="weibull")


def interval(values: Sequence[float], level: float) -> Interval | None:
    """Confidence interval of the mean of independent values; null for fewer than two."""
    return Student.of(values).interval(level) if len(values) > 1 else None


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
    clusters: int
    given: str = ""  # what the interval is conditional on, as a claim has it
    values: tuple[float, ...] = ()  # of the clusters
    student: Student | None = None  # where its distribution is not that of `values`


def over_clusters(values: "pd.Series[float]", level: float, cluster: str = "class split") -> Mean:
    """The mean of values whose index is (class split, source, trial), over class splits.

    The first level of the index names what is independent (`cluster` says what that is), the second (or all up to the
    last) what repeats within it, the last repetitions of that; what the levels are called makes no difference.

    Trials are averaged first, then the sources of one class split. Where there is one split only the interval is over
    its sources, and where there is one source only over its trials; `given` says so.
    """
    by_source = values.groupby(level=list(range(values.index.nlevels - 1))).mean()
    by_split = by_source.groupby(level=0).mean()
    estimate = float(by_split.mean())
    if len(by_split) > 1:
        means = tuple(by_split.tolist())
        return Mean(estimate, interval(means, level), len(means), values=means)
    if len(by_source) > 1:
        return Mean(estimate, interval(by_source.tolist(), level), 1, f"given one {cluster}")
    return Mean(estimate, interval(values.tolist(), level), 1, "given one source")


def decide(claim: Claim, kind: Kind, contrast: "pd.Series[float] | None", pairs_each: int) -> Claim:
    """Put one contrast through the rule: the claim with estimate, interval and verdict filled in.

    `contrast` has a value for each trial, its index as `over_clusters` wants it, and `pairs_each` differences of two
    runs went into each. Where it cannot be computed from what was run it is null or empty, and the claim undecided.
    """
    values = pd.Series(dtype=float) if contrast is None else contrast.dropna()
    mean = None if values.empty else over_clusters(values, LEVELS[kind], claim.cluster)
    return judged(claim, kind, mean, len(values) * pairs_each)


def judged(claim: Claim, kind: Kind, mean: Mean | None, pairs: int) -> Claim:
    """The claim with this mean (at the level of its kind) of its contrast; null where it was not measured."""
    rule = f"{RULES[kind]}; fewer than {FEWEST_CLUSTERS} {plural(claim.cluster)} decide nothing"
    if mean is None:
        return replace(claim, rule=f"{rule}; not computed: the runs that it needs were not made", rows=())
    student = mean.student or (Student.of(mean.values) if len(mean.values) > 1 else None)
    return replace(
        claim,
        estimate=mean.estimate,
        interval=mean.bounds,
        level=LEVELS[kind] if mean.bounds else None,
        pairs=pairs,
        clusters=mean.clusters,
        verdict=(direction if kind == "direction" else absence)(mean.bounds, mean.clusters),
        rule=rule + (f"; this interval is {mean.given}" if mean.given else ""),
        p=student.p(kind) if student and mean.clusters >= FEWEST_CLUSTERS and claim.tallied else None,
        given=mean.given,
    )


def plural(cluster: str) -> str:
    """Several of what a cluster is.

    >>> plural("class split"), plural("category")
    ('class splits', 'categories')
    """
    return f"{cluster[:-1]}ies" if cluster.endswith("y") else f"{cluster}s"


def corrected(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """The claims with their p corrected for there being so many of them (Benjamini and Hochberg 1995).

    Those without a p were not tested, and do not count. The rate of false discoveries is proven for independent tests;
    that it holds for two-sided tests that share runs is known by simulation (Reiner-Benaim 2007), and tested here.
    """
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
    pseudo = tuple(count * mean - (count - 1) * rest for rest in without if not math.isnan(rest))
    if len(pseudo) < 3:
        return Mean(mean, None, len(pseudo), "given these categories")
    student = replace(Student.of(pseudo), estimate=mean)
    return Mean(mean, student.interval(level), len(pseudo), values=pseudo, student=student)


def unpaired(some: Sequence[float], others: Sequence[float], level: float) -> Mean:
    """Mean of some minus mean of others, which share nothing: Welch's interval. Clusters are the fewer of the two."""
    estimate, fewer = float(np.mean(some) - np.mean(others)), min(len(some), len(others))
    if fewer < 2:
        return Mean(estimate, None, fewer, "given one net on a side")
    sides = Student.of(some), Student.of(others)
    error = math.hypot(*(side.error for side in sides))
    weights = sum(side.error**4 / side.freedom for side in sides)  # Welch 1947
    student = Student(estimate, error, error**4 / weights if weights else fewer - 1)
    return Mean(estimate, student.interval(level), fewer, student=student)


def unmeasured(
    name: str, paper: str, statement: str, quantity: str, unit: str = "points", cluster: str = "class split"
) -> Claim:
    """A claim before any number: what `decide` fills in."""
    before = Claim(name, paper, statement, quantity, None, None, None, 0, 0, "undecided", "", (), unit)
    return replace(before, cluster=cluster)
