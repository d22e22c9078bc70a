"""What Gutstein et al. claim, G1 to G7, each as the one contrast that was written before the numbers.

A grid has a line per (class split, source, trial) and a column per (shots, n), so that every contrast pairs runs of one
class split, one source, one trial: they share samples, codes, fresh weights and data order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from layerwise.claims import RULES, Claim, Kind, decide, unmeasured
from layerwise.rows import final, pick, slopes
from layerwise.studies.gutstein_beyond_claims import beyond_claims

PAPER = "Gutstein et al."
TABLE_1 = {"C1": 156, "S2": 12, "C3": 1_516, "S4": 32, "C5": 48_120, "F6": 2_420}
LINE, COLUMN = ["cluster", "seed", "trial"], ["shots", "n"]


@dataclass(frozen=True)
class Grids:
    """The finished targets as grids; a run that was lost is null in each of them."""

    accuracy: pd.DataFrame  # on the test part, at the end
    gap: pd.DataFrame  # training minus test accuracy, at the end
    steps: pd.DataFrame  # until the test accuracy that every n of the same trial and samples ends with
    keys: pd.DataFrame
    sources: tuple[str, ...]  # keys
    shots: list[int]
    top: int  # the most levels kept: all but the last

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Grids":
        """The grids of a table; there are as many n as the net has levels."""
        targets = levels(rows)
        shots = sorted({int(k) for k in targets["shots"]})
        depth = len(pick(rows, quantity="parameters"))
        columns = pd.MultiIndex.from_product([shots, range(depth)], names=COLUMN)

        def grid(table: pd.DataFrame, value: str = "value") -> pd.DataFrame:
            return table.pivot(index=LINE, columns=COLUMN, values=value).reindex(columns=columns)

        ends = pick(final(targets), quantity="accuracy")
        test, train = (pick(ends, split=split) for split in ("test", "train"))
        return cls(
            accuracy=grid(test),
            gap=grid(train) - grid(test),
            steps=grid(_steps_to_common_level(pick(targets, quantity="accuracy", split="test"))),
            keys=grid(test, "run_key"),
            sources=tuple(targets["source_key"].dropna().unique()),
            shots=shots,
            top=depth - 1,
        )

    def gain(self, n: int) -> pd.DataFrame:
        """Test accuracy of n levels kept minus none, a column per number of samples."""
        return pd.DataFrame({k: self.accuracy[k, n] - self.accuracy[k, 0] for k in self.shots})

    def benefit(self) -> pd.DataFrame:
        """Mean of `gain` over n >= 1, a column per number of samples."""
        return sum((self.gain(n) for n in range(2, self.top + 1)), self.gain(1)) / self.top

    def slope_on_n(self, grid: pd.DataFrame) -> "pd.Series[float]":
        """Least-squares slope of a grid on n, averaged over the numbers of samples."""
        levels = range(self.top + 1)
        found = {k: slopes(pd.DataFrame({n: grid[k, n] for n in levels}), levels) for k in self.shots}
        return pd.DataFrame(found).mean(axis=1, skipna=False)


def levels(rows: pd.DataFrame) -> pd.DataFrame:
    """The target nets of the paper's grid."""
    return rows[rows["trial"].notna() & rows["experiment"].fillna("levels").eq("levels")]


def claims(rows: pd.DataFrame) -> list[Claim]:
    """The paper's claims, then ours on what its authors wanted next, held against the rows."""
    return [*paper_claims(rows), *beyond_claims(rows)]


def paper_claims(rows: pd.DataFrame) -> list[Claim]:
    """G1 to G7."""
    grids = Grids.of(rows)
    top, shots, every = grids.top, grids.shots, list(range(grids.top + 1))
    if not shots or top < 2:
        return [_table_1(rows)]
    more = [k for k in shots if k > 10]
    many = " and ".join(map(str, more)) or "more"
    few = {1, 5} <= set(shots)
    return [
        _table_1(rows),
        _claim(
            grids,
            "G2: With few samples (1, 5 per class) retaining levels beats starting from scratch",
            f"test accuracy, mean of n = 1..{top} minus n = 0, mean over 1 and 5 samples per class",
            grids.benefit()[[1, 5]].mean(axis=1, skipna=False) if few else None,
            ([1, 5], every),
            2 * top,
        ),
        _claim(
            grids,
            "G3: The benefit of transfer shrinks as samples grow",
            "interaction of transfer with log2(samples per class): fall, per doubling of the samples, of "
            f"(test accuracy, mean of n = 1..{top} minus n = 0); a slope for each class split",
            -slopes(grids.benefit(), np.log2(shots).tolist()) if len(shots) > 1 else None,
            (shots, every),
            top * len(shots),
        ),
        _claim(
            grids,
            f"G4: With n = {top} accuracy stops growing beyond about 10 samples per class",
            f"test accuracy at n = {top}, mean of {many} samples per class minus 10",
            _growth(grids, more),
            ([10, *more], [top]),
            len(more),
            "absence",
        ),
        _claim(
            grids,
            f"G5: Keeping only the bottom {top - 1} levels already helps markedly",
            f"test accuracy, n = {top - 1} minus n = 0, mean over samples per class",
            grids.gain(top - 1).mean(axis=1, skipna=False),
            (shots, [0, top - 1]),
            len(shots),
        ),
        _claim(
            grids,
            "G6: The gap between training and test accuracy shrinks as n grows",
            f"fall, per level kept, of training minus test accuracy, n = 0..{top}, mean over samples per class",
            -grids.slope_on_n(grids.gap),
            (shots, every),
            top * len(shots),
        ),
        _claim(
            grids,
            "G7: Fewer steps to equal accuracy as n grows",
            f"steps saved, per level kept, to the test accuracy that all of n = 0..{top} end with (their least)",
            -grids.slope_on_n(grids.steps),
            (shots, every),
            top * len(shots),
            unit="steps",
        ),
    ]


def _claim(
    grids: Grids,
    statement: str,
    quantity: str,
    contrast: "pd.Series[float] | None",
    cells: tuple[Sequence[int], Sequence[int]],  # the shots and the n that go in
    pairs: int,
    kind: Kind = "direction",
    unit: str = "points",
) -> Claim:
    name, _, says = statement.partition(": ")
    claim = decide(unmeasured(name, PAPER, says, quantity, unit), kind, contrast, pairs)
    if contrast is None or claim.estimate is None:
        return claim
    used = grids.keys.loc[contrast.dropna().index, [(k, n) for k in cells[0] for n in cells[1]]]
    keys = {key for key in used.to_numpy().ravel().tolist() if isinstance(key, str)}
    return replace(claim, rows=(*grids.sources, *sorted(keys)))


def _table_1(rows: pd.DataFrame) -> Claim:
    """G1 is a claim about the net, not about training: the parameters of each layer, exactly."""
    found = pick(rows, quantity="parameters").set_index("layer")["value"].astype(int).to_dict()
    says = "C1 156, S2 12, C3 1,516, S4 32, C5 48,120, F6 2,420: 52,256 free parameters"
    claim = unmeasured("G1", PAPER, says, "free parameters in all, and of each layer", "parameters")
    if not rows["net"].eq("lenet5").all():
        return replace(claim, rule=f"{RULES['exact']}; not computed: the claim is about net 'lenet5'")
    verdict: Literal["reproduced", "contradicted"] = "reproduced" if found == TABLE_1 else "contradicted"
    return replace(claim, estimate=float(sum(found.values())), verdict=verdict, rule=RULES["exact"])


def _growth(grids: Grids, more: list[int]) -> "pd.Series[float] | None":
    if 10 not in grids.shots or not more:
        return None
    late = pd.DataFrame({k: grids.accuracy[k, grids.top] for k in more}).mean(axis=1, skipna=False)
    return late - grids.accuracy[10, grids.top]


def _steps_to_common_level(curve: pd.DataFrame) -> pd.DataFrame:
    """Steps until a run first has the least of the final accuracies of its trial and samples: every run gets there."""
    group = [*LINE, "shots"]
    level = final(curve).groupby(group)["value"].min().rename("level")
    curve = curve.join(level, on=group)
    reached = curve[curve["value"] >= curve["level"]]
    return reached.groupby([*LINE, *COLUMN])["step"].min().astype(float).rename("value").reset_index()
