"""Claims of our own on what Gutstein et al. wanted next, G8 to G21, each one contrast written before any number.

A contrast is a sum of test accuracies with weights, and so is paired: all that it adds and subtracts is of one class
split and one trial. Where any of its runs is lost, the trial is left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from layerwise.claims import RULES, Claim, decide, unmeasured
from layerwise.rows import final, pick
from layerwise.studies.gutstein_beyond import CRITERIA, FEWEST_SHOTS, HALF, SHARES

PAPER = "beyond Gutstein et al."
SPLIT = ["cluster", "seed", "trial"]
CHOSEN = {
    "similar": "most similar to the target's",
    "diverse": "most diverse",
    "probe": "that the target's samples are taken for, chosen by a probe,",
}
PART = r"(?P<kept>none|all|[0-9]+%) of (?P<layer>[^ ,]+)(?: by (?P<criterion>\w+))?(?:, (?P<became>\w+))?"
Column = tuple[Any, ...]
Weights = Mapping[Column, float]


@dataclass(frozen=True)
class Table:
    """One number for each line (class split, seed, trial) and column (what was done)."""

    values: pd.DataFrame
    keys: pd.DataFrame  # of the runs
    sources: tuple[str, ...]  # keys

    @classmethod
    def of(cls, rows: pd.DataFrame, line: list[str], columns: list[str]) -> "Table":
        """The table of rows that have one value for each line and column."""
        return cls(
            rows.pivot(index=line, columns=columns, values="value"),
            rows.pivot(index=line, columns=columns, values="run_key"),
            tuple(rows["source_key"].dropna().unique()),
        )

    def claim(self, statement: str, quantity: str, weights: Weights) -> Claim:
        """The claim that the weighted sum is above 0; not measured where a column is lacking."""
        name, _, says = statement.partition(": ")
        claim = unmeasured(name, PAPER, says, quantity)
        if not weights:
            return decide(claim, "direction", None, 0)
        columns = pd.MultiIndex.from_tuples(list(weights))
        contrast = (self.values.reindex(columns=columns) * list(weights.values())).sum(axis=1, skipna=False)
        claim = decide(claim, "direction", contrast, sum(weight > 0 for weight in weights.values()))
        if claim.estimate is None:
            return claim
        used = self.keys.reindex(columns=columns).loc[contrast.dropna().index].to_numpy().ravel()
        return replace(claim, rows=(*self.sources, *sorted(set(used.tolist()))))


def mean_difference(some: Iterable[Column], others: Iterable[Column]) -> dict[Column, float]:
    """The weights of "mean of some minus mean of others"."""
    some, others = list(some), list(others)
    return {at: 1 / len(some) for at in some} | {at: -1 / len(others) for at in others}


def beyond_claims(rows: pd.DataFrame) -> list[Claim]:
    """The claims on those experiments that were run."""
    made = {"partial": _partial, "tuned": _tuned, "sources": _sources, "lifelong": _lifelong}
    found: list[Claim] = []
    for experiment, claims in made.items():
        here = pick(rows, experiment=experiment)
        if here["trial"].notna().any():
            found += claims(here)
    return sorted(found, key=lambda claim: int(claim.id.removeprefix("G")))


def tested(rows: pd.DataFrame) -> pd.DataFrame:
    """The test accuracy of each target net in the end."""
    return pick(final(rows[rows["trial"].notna()]), quantity="accuracy", split="test")


def with_parts(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `partial` with what their condition says: `layer`, `kept`, `criterion` (or none, all), `became`."""
    told = rows["condition"].str.extract(PART)
    return rows.assign(
        layer=told["layer"],
        kept=told["kept"],
        criterion=told["criterion"].fillna(told["kept"]),
        became=told["became"].fillna("frozen"),
    )


def with_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `sources` with what their condition says: the `choice` of source classes, and how many `classes`."""
    told = rows["condition"].str.split(" ", expand=True)
    return rows.assign(choice=told[0], classes=told[1].astype("Int64"))


def _partial(rows: pd.DataFrame) -> Iterator[Claim]:
    ends = with_parts(tested(rows))
    table = Table.of(ends, SPLIT, ["criterion", "became", "layer", "kept", "shots"])
    parted, shots = ends["layer"].unique().tolist(), sorted(ends["shots"].unique())
    shares, half = ([f"{share:.0%}" for share in some] for some in (SHARES, (HALF,)))
    where = f"mean over {' and '.join(parted)}, shares of their maps and samples per class"

    def parts(
        criteria: Sequence[str], became: str = "frozen", kept: Sequence[str] = shares, few: int = 1
    ) -> list[Column]:
        columns = product(criteria, [became], parted, kept, shots)
        return [at for at in columns if at[-1] >= max(few, FEWEST_SHOTS.get(at[0], 1))]

    for name, criterion in (("G8", "saliency"), ("G13", "information")):
        few = FEWEST_SHOTS.get(criterion, 1)
        yield table.claim(
            f"{name}: Maps chosen by {criterion} transfer better than maps drawn at random",
            f"test accuracy, {criterion} minus random, copied maps frozen, {where}" + f" from {few} on" * (few > 1),
            mean_difference(parts([criterion]), parts(["random"], few=few)),
        )
    for name, end in (("G14", "all"), ("G15", "none")):
        yield table.claim(
            f"{name}: Keeping half of a layer, the most salient maps, beats keeping {end} of it",
            f"test accuracy, half of the maps kept minus {end}, frozen, mean over {' and '.join(parted)} and samples",
            mean_difference(parts(["saliency"], kept=half), parts([end], kept=[end])),
        )
    yield table.claim(
        "G16: Copied maps that may retrain beat copied maps that are frozen",
        f"test accuracy, half of the maps kept, retrained minus frozen, mean over {' and '.join(parted)}, criteria and "
        "samples per class",
        mean_difference(parts(CRITERIA, "retrained", half), parts(CRITERIA, kept=half)),
    )


def _tuned(rows: pd.DataFrame) -> Iterator[Claim]:
    ends = tested(rows)
    shots, kept = sorted(ends["shots"].unique()), sorted(n for n in ends["n"].unique() if n > 0)
    yield Table.of(ends, SPLIT, ["condition", "n", "shots"]).claim(
        "G9: Letting the kept levels retrain beats freezing them",
        f"test accuracy, T^n R minus F^n R, mean of n = 1..{kept[-1]} and samples per class",
        mean_difference(*(product([condition], kept, shots) for condition in ("tuned", "frozen"))),
    )


def _sources(rows: pd.DataFrame) -> Iterator[Claim]:
    ends = with_numbers(tested(rows))
    table = Table.of(ends, SPLIT, ["choice", "classes", "n", "shots"])
    kept, shots = sorted(ends["n"].unique()), sorted(ends["shots"].unique())
    tried = sorted(map(int, pick(ends, choice="random")["classes"].unique()))
    number = max(map(int, ends.loc[ends["choice"] != "random", "classes"]), default=0)
    where = f"mean of {' and '.join(map(str, kept))} levels kept and samples per class"
    for name, choice in (("G10", "similar"), ("G17", "diverse"), ("G18", "probe")):
        sides = (product([one], [number], kept, shots) for one in (choice, "random"))
        yield table.claim(
            f"{name}: Source classes {CHOSEN[choice]} beat classes drawn at random",
            f"test accuracy, {choice} minus random source classes, {number} of them, {where}",
            mean_difference(*sides) if number else {},
        )
    weights = {
        ("random", m, n, k): by / len(kept) / len(shots)
        for m, by in zip(tried, slope_on_doublings(tried), strict=True)
        for n, k in product(kept, shots)
    }
    yield table.claim(
        "G19: More source classes, each with as many samples, transfer better",
        f"rise of test accuracy per doubling of the source classes ({', '.join(map(str, tried))}, at random), {where}",
        weights if len(tried) > 1 else {},
    )


def slope_on_doublings(numbers: Sequence[int]) -> list[float]:
    """The weights with which values at these numbers sum to their least-squares slope on log2 of the numbers."""
    if len(numbers) < 2:
        return [0.0] * len(numbers)
    centred = np.log2(numbers) - np.mean(np.log2(numbers))
    return [float(weight) for weight in centred / (centred**2).sum()]


def _lifelong(rows: pd.DataFrame) -> Iterator[Claim]:
    tasks = sorted(rows["group"].dropna().unique())
    kept = sorted(n for n in rows["n"].dropna().unique() if n > 0)
    where = f"mean of {' and '.join(map(str, kept))} levels shared"
    yield _unchanged(rows)
    lost = pick(rows, quantity="forgotten", condition="tuned", other_net=tasks[-1], group=tasks[:-1])
    yield Table.of(lost, SPLIT, ["n", "group"]).claim(
        "G12: A trunk that retrains for each new task forgets the earlier ones",
        f"test accuracy when learnt minus after the last of {len(tasks)} tasks, mean of the earlier tasks, {where}",
        {at: 1 / len(kept) / len(tasks[:-1]) for at in product(kept, tasks[:-1])},
    )
    table = Table.of(tested(rows), SPLIT, ["condition", "n", "group"])
    frozen = list(product(["frozen"], kept, tasks[1:]))
    yield table.claim(
        "G20: On the frozen trunk of an earlier task new tasks are learnt better than from scratch",
        f"test accuracy of each new task, frozen trunk minus a net of its own, mean of the new tasks, {where}",
        mean_difference(frozen, product(["scratch"], [0], tasks[1:])),
    )
    yield table.claim(
        "G21: A trunk that may retrain learns new tasks better than a frozen one",
        f"test accuracy of each new task, trunk retrained minus frozen, mean of the new tasks, {where}",
        mean_difference(product(["tuned"], kept, tasks[1:]), frozen),
    )


def _unchanged(rows: pd.DataFrame) -> Claim:
    """G11 is exact: no accuracy, and no byte of the trunk, differs."""
    says = "A frozen trunk forgets nothing, whatever is learnt on it later"
    quantity = "test accuracy when learnt minus after each later task, mean; and every byte of the shared levels"
    claim = unmeasured("G11", PAPER, says, quantity)
    seen = pick(rows, condition="frozen", quantity=["forgotten", "trunk_changed"])
    seen = seen[seen["group"] != seen["other_net"]]
    if seen.empty:
        return replace(claim, rule=f"{RULES['exact']}; not computed: the nets that it needs were not made")
    lost = pick(seen, quantity="forgotten")
    return replace(
        claim,
        estimate=float(lost["value"].mean()),
        pairs=len(lost),
        clusters=lost["cluster"].nunique(),
        verdict="reproduced" if seen["value"].eq(0).all() else "contradicted",
        rule=RULES["exact"],
        rows=tuple(sorted(lost["run_key"].unique())),
    )
