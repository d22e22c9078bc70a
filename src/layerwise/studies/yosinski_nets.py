"""The nets of Yosinski's rows: test accuracy by condition and cut, and what co-adaptation and specificity cost."""

from dataclasses import dataclass

import pandas as pd

from layerwise.claims import LEVELS, over_clusters
from layerwise.rows import final, pick

LINE, COLUMN = ["cluster", "seed", "target_task", "trial"], ["condition", "n"]
HALF = LINE[:-1]  # with a net's own base
OF_HALVES = ("transfer", "preserve", "matched", "rewound")  # experiments on random halves, which share their bases
Cells = tuple[str, tuple[int, ...]]  # a condition, and its cuts; none is every cut that was run
BASE: Cells = ("base", (0,))
LAST = -1  # the cut below the last layer
CAUSES = {"co-adaptation (base - BnB)": ("base", "BnB"), "specificity (BnB - AnB)": ("BnB", "AnB")}


@dataclass(frozen=True)
class Nets:
    """Final test accuracies, a line per (class split, seed, target half, trial), a column per (condition, n)."""

    accuracy: pd.DataFrame  # a base stands in every trial of its half
    kept: pd.DataFrame  # the share of the own base's accuracy above chance: 1 is all of it, 0 is chance
    keys: pd.DataFrame
    sources: pd.DataFrame  # keys
    depth: int

    @classmethod
    def of(cls, rows: pd.DataFrame, *experiments: str) -> "Nets":
        """The nets of these experiments, which share their bases; a net that was lost is null."""
        here = pick(rows[rows["trial"].notna()], experiment=experiments)
        ends = pick(final(here), quantity="accuracy", split="test")
        accuracy, keys, sources = (
            ends.pivot(index=LINE, columns=COLUMN, values=of) for of in ("value", "run_key", "source_key")
        )
        for grid in (accuracy, keys):
            own = grid.get((BASE[0], 0), pd.Series(index=grid.index, dtype=object))
            grid[BASE[0], 0] = own.groupby(level=HALF).transform("first")
        chance = pick(here, quantity="chance").set_index(HALF)["value"]
        least = pd.Series([chance.get(line[:-1]) for line in accuracy.index], accuracy.index, dtype=float)
        above = accuracy.astype(float).sub(least, axis=0)
        own = above[BASE[0], 0]
        kept = above.div(own.where(own > 0), axis=0)  # of a base that learnt nothing there is no share
        return cls(accuracy.astype(float), kept, keys, sources, len(pick(rows, quantity="parameters")))

    def cells(self, grid: pd.DataFrame, wanted: Cells) -> pd.DataFrame:
        """The columns of a grid that are of a condition's cuts; empty ones where they were not run."""
        condition, cuts = wanted
        run = [int(column[1]) for column in grid.columns if column[0] == condition]
        found = [self.depth - 1 if n == LAST else n for n in cuts] or run
        return grid.reindex(columns=pd.MultiIndex.from_product([[condition], sorted(found)], names=COLUMN))

    def mean(self, grid: pd.DataFrame, wanted: Cells) -> "pd.Series[float]":
        """A condition's mean over its cuts in each line; null where one that is named is lost."""
        return self.cells(grid, wanted).mean(axis=1, skipna=not wanted[1])

    def at(self, condition: str, n: int) -> "pd.Series[float]":
        """A condition's accuracies at a cut, or the bases' beside it."""
        return self.mean(self.accuracy, BASE if condition == BASE[0] else (condition, (n,)))

    def pooled(self, grid: pd.DataFrame, wanted: Cells) -> list[float]:
        """The values of all nets of a condition, each net once."""
        values, keys = (self.cells(table, wanted).to_numpy().ravel() for table in (grid, self.keys))
        nets = pd.DataFrame({"key": keys, "value": values}).dropna().drop_duplicates("key")
        return nets["value"].astype(float).tolist()

    def runs(self, lines: pd.Index, *wanted: Cells) -> tuple[str, ...]:
        """Keys of the nets in these lines, and of their sources."""
        grids = [self.cells(grid, one).loc[lines] for grid in (self.sources, self.keys) for one in wanted]
        return tuple(dict.fromkeys(k for grid in grids for k in grid.to_numpy().ravel().tolist() if isinstance(k, str)))


def losses(rows: pd.DataFrame) -> pd.DataFrame:
    """What co-adaptation and specificity cost at each cut: n, cause, mean, low, high (95 %), clusters."""
    nets = Nets.of(rows, *OF_HALVES)
    found = []
    for n in sorted({int(column[1]) for column in nets.accuracy.columns if column[0] in {"BnB", "AnB"}}):
        for cause, (some, others) in CAUSES.items():
            loss = (nets.at(some, n) - nets.at(others, n)).dropna()
            if len(loss):
                mean = over_clusters(loss, LEVELS["direction"])
                low, high = mean.bounds or (None, None)
                told = {"mean": mean.estimate, "low": low, "high": high, "clusters": mean.clusters}
                found.append({"n": n, "cause": cause, **told})
    return pd.DataFrame(found, columns=["n", "cause", "mean", "low", "high", "clusters"])
