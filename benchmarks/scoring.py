"""How good advice was: its regret, what it cost, and whether its intervals were honest.

    searched    a row for every option of every draw of every cell: cell, shots, seed, policy, treatment, rate,
                accuracy (on the test images, after training on the whole training set), flops
    advised     a row for every draw: cell, seed, policy, treatment, rate, and expected, low, high, share

The regret of a choice is what the best option of its cell got more, in points of test accuracy. The best is chosen
on one half of the draws and both are scored on the other, and the other way round: chosen and scored on the same
draws the best would be the luckiest, and its luck would count as regret.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

OPTION = ["policy", "treatment", "rate"]
DRAW = ["cell", "seed"]


@dataclass(frozen=True)
class Score:
    """What choices of one kind cost, in points of test accuracy."""

    draws: int
    mean: float
    worst: float  # of the means of cells
    worst_cell: str
    by_cell: dict[str, float]
    by_draw: pd.Series  # over (cell, seed)


def halves(seeds: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The draws on which the best option is chosen, and those on which it is scored; each of both halves once.

    >>> list(halves([0, 1, 2, 3]))
    [([0, 2], [1, 3]), ([1, 3], [0, 2])]
    """
    even, odd = sorted(seeds)[::2], sorted(seeds)[1::2]
    yield even, odd
    yield odd, even


def best_on_other_half(searched: pd.DataFrame) -> pd.Series:
    """In each draw the accuracy of the option that is the best of its cell on the half of the draws it is not in."""
    found = []
    for cell, rows in searched.groupby("cell", sort=False):
        table = rows.pivot_table(index="seed", columns=OPTION, values="accuracy")
        for chosen_on, scored_on in halves(list(table.index)):
            best = table.loc[chosen_on].mean().idxmax()
            found += [((cell, seed), table.loc[seed, best]) for seed in scored_on]
    index = pd.MultiIndex.from_tuples([draw for draw, _ in found], names=DRAW)
    return pd.Series([accuracy for _, accuracy in found], index, dtype=float).sort_index()


def regret(searched: pd.DataFrame, chosen: pd.DataFrame) -> Score:
    """The regret of one choice in each draw (columns cell, seed, policy, treatment, rate)."""
    told = chosen[DRAW + OPTION].merge(searched, "left", DRAW + OPTION, validate="one_to_one")
    if told["accuracy"].isna().any():
        missing = told[told["accuracy"].isna()].iloc[0]
        raise ValueError(f"no search has {missing['treatment']} at {missing['rate']:g} in {missing['cell']}")
    there = searched.merge(chosen[DRAW], "inner", DRAW)
    by_draw = 100 * (best_on_other_half(there) - told.set_index(DRAW)["accuracy"].sort_index())
    by_cell = by_draw.groupby("cell").mean()
    return Score(
        len(by_draw), float(by_draw.mean()), float(by_cell.max()), str(by_cell.idxmax()), by_cell.to_dict(), by_draw
    )


def fixed(searched: pd.DataFrame, policy: str) -> pd.DataFrame:
    """The same policy in each draw, at the one rate that is the best over all: in hindsight, so to its advantage."""
    rows = searched[searched["policy"] == policy]
    means = rows.groupby(["cell", "rate"])["accuracy"].mean().groupby("rate").mean()
    return rows[rows["rate"] == means.idxmax()]


def hindsight(searched: pd.DataFrame) -> pd.DataFrame:
    """In each cell the option that is the best over all its draws, luck included: what no advice can expect to beat."""
    means = searched.groupby(["cell", *OPTION])["accuracy"].mean()
    best = means.loc[means.groupby("cell").idxmax()].reset_index()[["cell", *OPTION]]
    return best.merge(searched, "left", ["cell", *OPTION])


@dataclass(frozen=True)
class Coverage:
    """How often the accuracy that was got lay in the interval that was told."""

    draws: int
    share: float
    wanted: float
    p: float | None  # of the test over cells that the share is as wanted (Student's t); none over a single cell


def coverage(searched: pd.DataFrame, advised: pd.DataFrame, wanted: float) -> Coverage:
    """Of the intervals for the accuracy of the net that is trained as advised."""
    told = advised.merge(searched[[*DRAW, *OPTION, "accuracy"]], "left", DRAW + OPTION, validate="one_to_one")
    covered = told["accuracy"].between(told["low"], told["high"]).astype(float)
    by_cell = covered.groupby(told["cell"]).mean()
    return Coverage(len(told), float(covered.mean()), wanted, _p(by_cell.to_numpy(), wanted))


def by_confidence(score: Score, advised: pd.DataFrame) -> str:
    """Whether advice that calls itself sure is right more often, in a sentence."""
    sure = advised.set_index(DRAW)["sure"].reindex(score.by_draw.index).astype(bool)
    told = [f"{score.by_draw[those].mean():.2f} points" if those.any() else "nothing" for those in (sure, ~sure)]
    return (
        f"Advice called itself sure in {int(sure.sum())} of {len(sure)} draws: its mean regret was {told[0]} there, "
        f"and {told[1]} in the others."
    )


@dataclass(frozen=True)
class Bar:
    """What advice has to reach, and what it reached."""

    what: str
    wanted: str
    found: str
    met: bool


def bars(advice: Score, fixed_policies: Sequence[Score], cost: float, honest: Coverage) -> list[Bar]:
    """What advice has to reach from five samples a class up."""
    worst, best = float(advice.by_draw.max()), min(one.mean for one in fixed_policies)
    refuted = honest.p is not None and honest.p <= 0.05
    return [
        Bar("draws", "at least 200", str(advice.draws), advice.draws >= 200),
        Bar("mean regret", "at most 1.5", f"{advice.mean:.2f}", advice.mean <= 1.5),
        Bar("worst draw", "at most 5", f"{worst:.1f}", worst <= 5),
        Bar("share of the exhaustive cost", "at most 10 %", f"{cost:.1%}", cost <= 0.1),
        Bar("best fixed policy, its mean regret", "above advice's", f"{best:.2f}", best > advice.mean),
        Bar("intervals of 90 %", "not refuted over cells", f"{honest.share:.1%}", not refuted),
    ]


def interval(by_draw: pd.Series, level: float = 0.95) -> tuple[float, float]:
    """Of the mean over cells: draws of one cell share their source and their pool of images. Unbounded for one cell."""
    by_cell = by_draw.groupby("cell").mean()
    if len(by_cell) < 2:
        return -np.inf, np.inf
    reach = stats.t.ppf((1 + level) / 2, len(by_cell) - 1) * by_cell.std(ddof=1) / np.sqrt(len(by_cell))
    return float(by_cell.mean() - reach), float(by_cell.mean() + reach)


def _p(shares: np.ndarray, wanted: float) -> float | None:
    if len(shares) < 2:
        return None
    if np.ptp(shares) == 0:
        return float(shares[0] == wanted)
    return float(stats.ttest_1samp(shares, wanted).pvalue)
