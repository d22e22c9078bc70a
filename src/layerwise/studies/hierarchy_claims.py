"""What reverse hierarchy theory foretells, H1 to H5, each as the one contrast that was written before the numbers.

Every contrast is easy minus hard within one world: a quarter turn of orientations with a side, and its two source nets.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from layerwise.claims import FEWEST_CLUSTERS, Claim, decide, unmeasured
from layerwise.rows import final, pick
from layerwise.studies.sentences import between, points, signed

PAPER = "Ahissar and Hochstein 1997 (wanted by Grand et al.)"
CHANCE = 0.5
LEARNT = 0.6  # right on new images of its own task; of a net that learnt less, what it keeps is a ratio of noise
ELSEWHERE = ("new orientations", "new positions")
KEPT = (
    "share of its accuracy above chance that a net keeps, untouched, at {}, easy minus hard; worlds in which both nets "
    f"learnt their own task to {100 * LEARNT:.0f} %"
)


def claims(rows: pd.DataFrame) -> list[Claim]:
    """H1 to H5 held against the rows."""
    carried = [
        _claim(
            rows,
            f"{name}: Easy training carries over to {place}, hard training is specific",
            KEPT.format(place),
            kept(rows, place),
        )
        for name, place in zip(("H2", "H3"), ELSEWHERE, strict=True)
    ]
    return [
        _claim(
            rows,
            "H1: Easy conditions are learnt sooner and better than hard ones",
            "test accuracy on the own task, mean over the learning curve, easy minus hard",
            learning(rows),
        ),
        *carried,
        _claim(
            rows,
            "H4: What hard training changes lies lower than what easy training changes",
            "mean number of the layers, from 1 at the input, each weighted by how far its weights went relative to the "
            "norm of their start, easy minus hard",
            depth(rows),
            unit="layers",
        ),
        _claim(
            rows,
            "H5: Layers kept from easy training help relearning elsewhere more than layers kept from hard training",
            "test accuracy after few samples, mean of n >= 1 layers kept minus n = 0, mean over samples, new "
            "orientations and new positions, easy minus hard",
            relearning(rows),
            targets=True,
        ),
    ]


def learning(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of the source nets' learning curves after step 0: a line per seed, a column per difficulty."""
    curves = pick(rows[rows["trial"].isna() & (rows["step"] > 0)], quantity="accuracy", split="test")
    return _by_difficulty(curves)


def kept(rows: pd.DataFrame, place: str) -> pd.DataFrame:
    """What the source nets keep at a place, a share; null where one learnt too little of its own task."""
    found = pick(rows, quantity="untouched_accuracy")
    own, elsewhere = (_by_difficulty(pick(found, group=group)) for group in ("trained", place))
    return ((elsewhere - CHANCE) / (own - CHANCE)).where(own >= LEARNT)


def depth(rows: pd.DataFrame) -> pd.DataFrame:
    """At which layer, on average, what the weights changed lies: sum(layer x change) / sum(change)."""
    order = pick(rows, quantity="parameters")["layer"].tolist()
    changes = pick(rows, quantity="distance_to_start_norm", part="weights")
    number = changes["layer"].map({layer: float(k) for k, layer in enumerate(order, 1)})
    weighted = _by_difficulty(changes.assign(value=changes["value"] * number.astype(float)))
    return weighted / _by_difficulty(changes)


def relearning(rows: pd.DataFrame) -> pd.DataFrame:
    """What kept layers bring, a column per difficulty; a line of which any run was lost is null."""
    ends = pick(final(rows[rows["trial"].notna()]), quantity="accuracy", split="test", experiment="relearning")
    grid = ends.pivot(index=["seed", "trial"], columns=["condition", "group", "shots", "n"], values="value")
    if grid.empty:
        return pd.DataFrame()
    scratch = grid.xs(0, axis=1, level="n")
    gains = grid.drop(columns=0, level="n").T.groupby(level=["condition", "group", "shots"]).mean()
    complete = grid.notna().all(axis=1)
    return (gains.T - scratch)[complete].T.groupby(level="condition").mean().T


def _by_difficulty(found: pd.DataFrame) -> pd.DataFrame:
    """Means: a line per seed and a column per difficulty."""
    return found.astype({"value": float}).pivot_table(index="seed", columns="condition", values="value")


def _claim(
    rows: pd.DataFrame,
    statement: str,
    quantity: str,
    found: pd.DataFrame,
    unit: str = "points",
    targets: bool = False,  # do the targets go in, beside the sources
) -> Claim:
    name, _, says = statement.partition(": ")
    claim = unmeasured(name, PAPER, says, quantity, unit, "world")
    if not {"easy", "hard"} <= set(found.columns):
        return decide(claim, "direction", None, 0)
    contrast = (found["easy"] - found["hard"]).astype(float).dropna()
    seeds = contrast.index.get_level_values("seed")
    trials = contrast.index.get_level_values("trial") if targets else [0] * len(seeds)
    contrast.index = pd.MultiIndex.from_arrays([seeds, seeds, trials])
    used = rows[rows["seed"].isin(list(seeds)) & (rows["trial"].isna() | targets)]
    pairs = (
        len(used[(used["n"] > 0) & (used["quantity"] == "parameters_trained")]) // max(len(contrast), 1)
        if targets
        else 1
    )
    claim = decide(claim, "direction", contrast, pairs)
    return claim if claim.estimate is None else replace(claim, rows=tuple(sorted(used["run_key"].dropna().unique())))


def words(rows: pd.DataFrame, made: Sequence[Claim]) -> tuple[str, tuple[str, ...]]:
    """The answer in one paragraph, and what was found of each claim; every number is a mean over worlds."""
    ends = pick(final(rows[rows["trial"].isna()]), quantity="accuracy", split="test")
    if ends.empty:
        return "No net was trained.", ()
    elsewhere = pick(rows, quantity="untouched_accuracy", group=ELSEWHERE)
    means = {group: _by_difficulty(pick(elsewhere, group=group)).mean() for group in ELSEWHERE}
    told = []
    own = _by_difficulty(ends).mean()
    for one in map(str, own.index):
        there = [f"{_percent(mean[one])} at {place}" for place, mean in means.items() if one in mean]
        untouched = f"; untouched, they are right on {' and '.join(there)}" * bool(there)
        told.append(
            f"Nets that learnt the {one} difference are right on {_percent(own[one])} of new images{untouched}."
        )
    worlds = ends["seed"].nunique()
    decide_nothing = f": under {FEWEST_CLUSTERS} decide nothing" * (worlds < FEWEST_CLUSTERS)
    basis = f"Chance is 50 %. These are means over {worlds} worlds, each with its own orientations, side and nets"
    return " ".join([*told, f"{basis}{decide_nothing}."]), tuple(_said(claim) for claim in made)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _said(claim: Claim) -> str:
    """A finding: the contrast with its interval, and the verdict on the claim."""
    if claim.estimate is None:
        return f"{claim.statement}: not measured, the runs that it needs were not made."
    told = points if claim.unit == "points" else partial(signed, digits=2)
    interval = between(claim, told)
    given = f" ({interval})" if interval else ""
    change = f"easy minus hard is {told(claim.estimate)} {claim.unit}{given}"
    return f"{claim.statement}: {change}. {claim.id} is {claim.verdict}."
