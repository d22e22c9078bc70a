"""What Gutstein et al. claim, G1 to G7, each as the one contrast that was written before the numbers; and the answer.

A grid has a line per (seed, trial) and a column per (shots, n), so that every contrast pairs runs of one class split,
one source, one trial: they share samples, codes, fresh weights and data order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from layerwise.claims import RULES, Claim, decide, interval
from layerwise.rows import final, pick

PAPER = "Gutstein et al."
TABLE_1 = {"C1": 156, "S2": 12, "C3": 1_516, "S4": 32, "C5": 48_120, "F6": 2_420}


@dataclass(frozen=True)
class Grids:
    """The finished targets as grids, and what they have in common."""

    accuracy: pd.DataFrame  # on the test part, at the end
    gap: pd.DataFrame  # training minus test accuracy
    steps: pd.DataFrame  # until a run has the final accuracy of its n = 0; all steps for one that never has
    shots: list[int]
    top: int  # the most levels kept: all but the last
    keys: list[str]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Grids":
        targets = rows[rows["trial"].notna()]
        accuracy = _grid(targets, "test")
        shots = sorted({int(k) for k in accuracy.columns.get_level_values("shots")})
        top = max(accuracy.columns.get_level_values("n"), default=0)
        gap = _grid(targets, "train") - accuracy
        return cls(accuracy, gap, _steps_to_level(targets), shots, int(top), targets["run_key"].unique().tolist())

    @property
    def benefit(self) -> pd.DataFrame:
        """Mean test accuracy over n >= 1 minus that of n = 0, a column per number of samples."""
        return pd.DataFrame({k: self.kept(k).mean(axis=1, skipna=False) - self.accuracy[k][0] for k in self.shots})

    def kept(self, shots: int) -> pd.DataFrame:
        """Test accuracy for n >= 1."""
        return _at(self.accuracy, shots).drop(columns=0)

    def gain(self, n: int) -> pd.DataFrame:
        """Test accuracy of n levels kept minus none, a column per number of samples."""
        return pd.DataFrame({k: self.accuracy[k][n] - self.accuracy[k][0] for k in self.shots})


def claims(rows: pd.DataFrame) -> list[Claim]:
    """G1 to G7 held against the rows."""
    grids = Grids.of(rows)
    top, shots = grids.top, grids.shots
    if not grids.keys or not top:
        return [_table_1(rows)]
    few, more = [k for k in (1, 5) if k in shots], [k for k in shots if k > 10]
    many = " and ".join(map(str, more)) or "more"

    def claim(
        name: str, statement: str, quantity: str, contrast: Any, pairs: int, kind: Literal["direction", "absence"]
    ) -> Claim:
        return decide(name, PAPER, statement, quantity, kind, contrast, grids.keys, pairs)

    return [
        _table_1(rows),
        claim(
            "G2",
            "With few samples (1, 5 per class) retaining levels beats starting from scratch",
            f"test accuracy, mean of n = 1..{top} minus n = 0, mean over 1 and 5 samples per class",
            grids.benefit[few].mean(axis=1, skipna=False) if len(few) == 2 else None,
            2 * top,
            "direction",
        ),
        claim(
            "G3",
            "The benefit of transfer shrinks as samples grow",
            f"fall, per doubling of the samples, of (test accuracy, mean of n = 1..{top} minus n = 0)",
            -_slope(grids.benefit, np.log2(shots)) if len(shots) > 1 else None,
            top * len(shots),
            "direction",
        ),
        claim(
            "G4",
            f"With n = {top} accuracy stops growing beyond about 10 samples per class",
            f"test accuracy at n = {top}, mean of {many} samples per class minus 10",
            _growth(grids, more),
            len(more),
            "absence",
        ),
        claim(
            "G5",
            f"Keeping only the bottom {top - 1} levels already helps markedly",
            f"test accuracy, n = {top - 1} minus n = 0, mean over samples per class",
            grids.gain(top - 1).mean(axis=1, skipna=False) if top > 1 else None,
            len(shots),
            "direction",
        ),
        claim(
            "G6",
            "The gap between training and test accuracy shrinks as n grows",
            f"fall, per level kept, of training minus test accuracy, n = 0..{top}, mean over samples per class",
            -_slope_over_n(grids.gap, shots),
            (top + 1) * len(shots),
            "direction",
        ),
        claim(
            "G7",
            "Fewer steps to equal accuracy as n grows",
            f"steps saved per level kept, to the final test accuracy of n = 0 (never reached: all steps), n = 0..{top}",
            -_slope_over_n(grids.steps, shots),
            (top + 1) * len(shots),
            "direction",
        ),
    ]


def _table_1(rows: pd.DataFrame) -> Claim:
    """G1 is a claim about the net, not about training: the parameters of each layer, exactly."""
    found = pick(rows, quantity="parameters").set_index("layer")["value"].astype(int).to_dict()
    about = "free parameters in all, and of each layer"
    says = "C1 156, S2 12, C3 1,516, S4 32, C5 48,120, F6 2,420: 52,256 free parameters"
    if not rows["net"].eq("lenet5").all():
        other = f"{RULES['exact']}; not computed: the claim is about net 'lenet5'"
        return Claim("G1", PAPER, says, about, None, None, None, 0, 0, "undecided", other, ())
    total = float(sum(found.values()))
    verdict: Literal["reproduced", "contradicted"] = "reproduced" if found == TABLE_1 else "contradicted"
    return Claim("G1", PAPER, says, about, total, None, None, 0, 0, verdict, RULES["exact"], ())


def _growth(grids: Grids, more: list[int]) -> "pd.Series[float] | None":
    if 10 not in grids.shots or not more:
        return None
    late = pd.DataFrame({k: grids.accuracy[k][grids.top] for k in more}).mean(axis=1, skipna=False)
    return late - grids.accuracy[10][grids.top]


def _grid(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    """Final accuracies: a line per (seed, trial), a column per (shots, n)."""
    ends = pick(final(rows), quantity="accuracy", split=split)
    return ends.pivot(index=["seed", "trial"], columns=["shots", "n"], values="value").sort_index(axis=1)


def _at(grid: pd.DataFrame, shots: int) -> pd.DataFrame:
    """The part of a grid with so many samples: a column per n."""
    return grid.loc[:, grid.columns.get_level_values("shots") == shots].droplevel("shots", axis=1)


def _slope(table: pd.DataFrame, x: Any) -> "pd.Series[float]":
    """Least-squares slope of each line's values on x."""
    centred = np.asarray(x, float) - np.mean(np.asarray(x, float))
    return (table * centred).sum(axis=1, skipna=False) / (centred**2).sum()


def _slope_on_columns(table: pd.DataFrame) -> "pd.Series[float]":
    return _slope(table, np.asarray(table.columns, float))


def _slope_over_n(table: pd.DataFrame, shots: list[int]) -> "pd.Series[float]":
    """Slope on n, averaged over the numbers of samples."""
    slopes = pd.DataFrame({k: _slope_on_columns(_at(table, k)) for k in shots})
    return slopes.mean(axis=1, skipna=False)


def _steps_to_level(rows: pd.DataFrame) -> pd.DataFrame:
    curve = pick(rows, quantity="accuracy", split="test")
    level = pick(final(curve), n=0).set_index(["seed", "trial", "shots"])["value"].rename("level")
    curve = curve.join(level, on=["seed", "trial", "shots"])
    reached = curve["step"].where(curve["value"] >= curve["level"], curve.groupby("run_key")["step"].transform("max"))
    first = curve.assign(steps=reached.astype(float)).groupby(["seed", "trial", "shots", "n"])["steps"].min()
    return first.unstack(["shots", "n"]).sort_index(axis=1)


def words(rows: pd.DataFrame, made: Sequence[Claim]) -> tuple[str, tuple[str, ...]]:
    """The answer in one paragraph, and three findings; every number is a mean over class splits."""
    grids = Grids.of(rows)
    if not grids.keys or grids.top < 2:
        return "No transfer was measured.", ()
    layers = pick(rows, quantity="parameters")["layer"].tolist()
    top, few, many = grids.top, grids.shots[0], grids.shots[-1]
    by = {claim.id: claim for claim in made}

    def told(n: int) -> str:
        return ", and ".join(at(n, shots) for shots in dict.fromkeys((few, many)))

    def at(n: int, shots: int) -> str:
        here, scratch = (f"{_mean(grids.accuracy[shots][k]):.1%}".replace("%", " %") for k in (n, 0))
        effect = _effect(grids.gain(n)[shots])
        return f"{effect} with {_samples(shots)} per class ({here} test accuracy, {scratch} from scratch)"

    answer = (
        f"Copying and freezing the bottom {top - 1} levels ({layers[0]} to {layers[top - 2]}) {told(top - 1)}. "
        f"Keeping {layers[top - 1]} as well, so that only the last level learns, {told(top)}. These are means over "
        f"{_basis(rows)}; helps and hurts mean that the 95 % interval of the paired difference leaves out zero."
    )
    return answer, (
        _said(by["G2"], "With 1 and 5 samples per class, keeping levels changes test accuracy by {} points on average"),
        _said(by["G3"], "Each doubling of the samples takes {} points from what transfer brings", signed=False),
        _said(
            by["G4"],
            "With only the last level learning, more than 10 samples per class bring {} points of test accuracy",
        ),
    )


def _basis(rows: pd.DataFrame) -> str:
    """What the numbers are means over."""
    targets = rows[rows["trial"].notna()]
    sources, splits = targets["seed"].nunique(), targets["target_task"].nunique()
    if sources == 1:
        return "the trials of one class split and source net"
    return f"{sources} class splits, each with its own source net" if splits > 1 else f"{sources} sources of one split"


def _mean(values: "pd.Series[float]") -> float:
    """Over clusters of the mean over trials."""
    return float(values.groupby(level="seed").mean().mean())


def _effect(gain: "pd.Series[float]") -> str:
    """What the sign of the interval over clusters says of a difference; over trials where there is one cluster."""
    means = gain.groupby(level="seed").mean()
    bounds = interval((means if len(means) > 1 else gain).tolist(), 0.95)
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return "makes no clear difference"
    return "helps" if bounds[0] > 0 else "hurts"


def _samples(shots: int) -> str:
    return "1 sample" if shots == 1 else f"{shots} samples"


def _said(claim: Claim, sentence: str, *, signed: bool = True) -> str:
    """A finding: the contrast in points with its interval, and the verdict on the paper's claim."""
    if claim.estimate is None:
        return f"{claim.statement}: not measured, the runs that it needs were not made."
    form = "{:+.1f}" if signed else "{:.1f}"
    told = sentence.format(form.format(100 * claim.estimate))
    bounds = claim.interval and f" ({claim.level:.0%} interval {{0}} to {{1}})".replace("%", " %").format(
        *(form.format(100 * bound) for bound in claim.interval)
    )
    return f"{told}{bounds or ''}. The paper's claim {claim.id} is {claim.verdict}."
