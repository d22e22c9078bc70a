"""What Gutstein et al. claim, G1 to G7, each as the one contrast that was written before the numbers; and the answer.

A grid has a line per (target task, seed, trial) and a column per (shots, n), so that every contrast pairs runs of one
class split, one source, one trial: they share samples, codes, fresh weights and data order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from layerwise.claims import FEWEST_CLUSTERS, RULES, Claim, Kind, decide, direction, over_clusters, unmeasured
from layerwise.rows import final, pick

PAPER = "Gutstein et al."
TABLE_1 = {"C1": 156, "S2": 12, "C3": 1_516, "S4": 32, "C5": 48_120, "F6": 2_420}
LINE, COLUMN = ["target_task", "seed", "trial"], ["shots", "n"]


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
        targets = rows[rows["trial"].notna()]
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
        slopes = {k: _slope(pd.DataFrame({n: grid[k, n] for n in levels}), levels) for k in self.shots}
        return pd.DataFrame(slopes).mean(axis=1, skipna=False)


def claims(rows: pd.DataFrame) -> list[Claim]:
    """G1 to G7 held against the rows."""
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
            f"fall, per doubling of the samples, of (test accuracy, mean of n = 1..{top} minus n = 0)",
            -_slope(grids.benefit(), np.log2(shots)) if len(shots) > 1 else None,
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


def _slope(table: pd.DataFrame, x: Any) -> "pd.Series[float]":
    """Least-squares slope of each line's values on x."""
    centred = np.asarray(x, float) - np.mean(np.asarray(x, float))
    return (table * centred).sum(axis=1, skipna=False) / (centred**2).sum()


def _steps_to_common_level(curve: pd.DataFrame) -> pd.DataFrame:
    """Steps until a run first has the least of the final accuracies of its trial and samples: every run gets there."""
    group = [*LINE, "shots"]
    level = final(curve).groupby(group)["value"].min().rename("level")
    curve = curve.join(level, on=group)
    reached = curve[curve["value"] >= curve["level"]]
    return reached.groupby([*LINE, *COLUMN])["step"].min().astype(float).rename("value").reset_index()


def words(rows: pd.DataFrame, made: Sequence[Claim]) -> tuple[str, tuple[str, ...]]:
    """The answer in one paragraph, and three findings; every number is a mean over class splits."""
    grids = Grids.of(rows)
    if not grids.shots or grids.top < 2:
        return "No transfer was measured.", ()
    layers = pick(rows, quantity="parameters")["layer"].tolist()
    top = grids.top
    answer = (
        f"Copying and freezing the bottom {top - 1} levels ({layers[0]} to {layers[top - 2]}) {_told(grids, top - 1)}. "
        f"Keeping {layers[top - 1]} as well, so that only the last level learns, {_told(grids, top)}. {_basis(rows)}"
    )
    by = {claim.id: claim for claim in made}
    return answer, (
        _said(by["G2"], "With 1 and 5 samples per class, keeping levels changes test accuracy by {} points on average"),
        _said(by["G3"], "With each doubling of the samples, what transfer brings changes by {} points", sign=-1),
        _said(
            by["G4"], "With only the last level learning, more than 10 samples per class bring {} points of accuracy"
        ),
    )


def _told(grids: Grids, n: int) -> str:
    """What keeping n levels does with the fewest and the most samples."""
    return ", and ".join(_effect(grids, n, shots) for shots in dict.fromkeys((grids.shots[0], grids.shots[-1])))


def _effect(grids: Grids, n: int, shots: int) -> str:
    """One difference in words: helps and hurts are verdicts, by the rule of all claims."""
    gain, samples = grids.gain(n)[shots].dropna(), "1 sample" if shots == 1 else f"{shots} samples"
    if gain.empty:
        return f"was not measured with {samples} per class"
    mean = over_clusters(gain, 0.95)
    here, scratch = (
        f"{over_clusters(grids.accuracy[shots, k][gain.index], 0.95).estimate:.1%}".replace("%", " %") for k in (n, 0)
    )
    if mean.clusters < FEWEST_CLUSTERS:
        return f"gives {here} test accuracy with {samples} per class, against {scratch} from scratch"
    effects = {"reproduced": "helps", "contradicted": "hurts", "undecided": "makes no clear difference"}
    effect = effects[direction(mean.bounds, mean.clusters)]
    return f"{effect} with {samples} per class ({here} test accuracy, {scratch} from scratch)"


def _basis(rows: pd.DataFrame) -> str:
    """What the numbers are means over, and what they can tell."""
    targets = rows[rows["trial"].notna()]
    splits, sources = targets["target_task"].nunique(), targets["seed"].nunique()
    if splits >= FEWEST_CLUSTERS:
        return (
            f"These are means over {splits} class splits, each with its own source net; helps and hurts mean that the "
            "95 % interval of the paired difference leaves out zero."
        )
    basis = f"{splits} class splits" if splits > 1 else "one class split"
    nets = f"{sources} source nets" if sources > 1 else "one source net"
    return f"These are means over {basis} and {nets}: under {FEWEST_CLUSTERS} class splits decide nothing."


def _points(value: float) -> str:
    """A change in percentage points; one that would round to nothing has a digit more."""
    digits = 2 if 0.005 <= abs(100 * value) < 0.05 else 1
    return f"{100 * value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _said(claim: Claim, sentence: str, *, sign: int = 1) -> str:
    """A finding: the contrast (times the sign) in points with its interval, and the verdict on the paper's claim."""
    if claim.estimate is None:
        return f"{claim.statement}: not measured, the runs that it needs were not made."
    told = sentence.format(_points(sign * claim.estimate))
    if claim.interval:
        low, high = map(_points, sorted(sign * bound for bound in claim.interval))
        given = claim.rule.partition("this interval is ")[2]
        told += f" ({100 * (claim.level or 0):.0f} % interval {low} to {high}{', ' * bool(given)}{given})"
    return f"{told}. The paper's claim {claim.id} is {claim.verdict}."
