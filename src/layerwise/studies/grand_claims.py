"""What Grand et al. claim, R1 to R5, each part as the one contrast that was written before the numbers; and the answer.

What is compared shares the task, the samples, the data order and all fresh weights. Clusters are categories (see
`over_categories`): the jackknife's where a category stands in several pairs, as of all ordered pairs, and of lesions
and drift where pairs go round for lack of categories; else the category that is learnt, with a source of its own.
Claims of the authors' own initialisation, N(0, 1), are R1a and so on; beside them stand those of nets that began with
He's, R1a-He.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from layerwise.claims import LEVELS, Claim, Kind, Mean, by_category, direction, judged, over_clusters, unmeasured
from layerwise.rows import pick
from layerwise.studies.grand_design import ALL, SINGLE
from layerwise.studies.grand_measures import BATCH
from layerwise.studies.sentences import MINUS, between, points

PAPER = "Grand et al."
LINE = ["class_name", "other_class", "repeat"]  # the category learnt, that of the source, the repetition
CONVOLUTIONS_AND_OUTPUT = "111001"
LOW, HIGH = SINGLE[:3], SINGLE[3:]
EARLY = 0.25  # of the training
IMAGES = "accuracy x images"


@dataclass(frozen=True)
class Net:
    """The rows of nets of one architecture and initialisation, and the contrasts in them."""

    name: str
    rows: pd.DataFrame
    layers: tuple[str, ...]

    @property
    def beside(self) -> str:
        """What its claims' ids end with: nothing where the net begins as the authors' did."""
        if self.name.endswith("normal"):
            return ""
        return "-He" if self.name.endswith("40") else f"-{self.name}"

    @property
    def begins(self) -> str:
        """What its weights are before training, in words."""
        return {"": "N(0, 1) as the authors' did", "-He": "He's initialisation"}.get(
            self.beside, f"those of {self.name}"
        )

    @property
    def horizon(self) -> int:
        """Images that a net was trained on."""
        return BATCH * int(self.rows.loc[self.rows["trial"].notna(), "step"].max())

    @cached_property
    def pairs(self) -> dict[str, "pd.Series[float]"]:
        """Of each ordered pair what the transferred net has more than the one from scratch, or less of."""
        first = {c: self.of("speed-up", c, "accuracy", step=0) for c in ("scratch", "transferred")}
        needed = {c: self.of("speed-up", c, "images_to_level") for c in ("scratch", "transferred")}
        return {
            "start": _minus(first["transferred"], first["scratch"]),
            "images": -_minus(needed["transferred"], needed["scratch"]),
            "end": self.of("speed-up", "transferred", "final_gain"),
            "area": self.of("speed-up", "transferred", "area_between"),
        }

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """Mean accuracy over the learning curve: a line per pair of categories, a column per mask."""
        rows = _repeated(pick(self.rows, experiment="lesions", quantity="mean_accuracy"))
        masks = rows["condition"].str.removeprefix("lesion ")
        return rows.assign(mask=masks).pivot(index=LINE, columns="mask", values="value")

    def without(self, masks: Sequence[str]) -> "pd.Series[float] | None":
        """Mean accuracy over these masks' learning curves; null where one of them was not run."""
        if not set(masks) <= set(self.lesions.columns):
            return None
        return self.lesions[list(masks)].mean(axis=1, skipna=False)

    def drift(self, condition: str, quantity: str, part: str, share: float = 1.0) -> pd.DataFrame:
        """A reading of each layer at the last look within so much of the training: a line a net, a column a layer."""
        rows = pick(self.rows, experiment="dynamics", condition=condition, quantity=quantity, part=part)
        rows = _repeated(rows[rows["step"] <= share * rows["step"].max()])
        rows = rows[rows["step"] == rows["step"].max()]
        return rows.pivot(index=LINE, columns="layer", values="value").reindex(columns=list(self.layers))

    def slope(self, table: pd.DataFrame) -> "pd.Series[float]":
        """Least-squares slope of each line on the layers' numbers."""
        number = np.arange(len(self.layers)) - (len(self.layers) - 1) / 2
        return (table * number).sum(axis=1, skipna=False) / (number**2).sum()

    def shorter(self) -> pd.DataFrame:
        """By which share of the way from scratch each layer's weights move less in a transferred net."""
        scratch, transferred = (self.drift(c, "distance", "weights") for c in ("scratch", "transferred"))
        if scratch.empty or transferred.empty:
            return transferred
        own = scratch.droplevel("other_class").reindex(_targets(transferred.index))
        return 1 - transferred / own.set_axis(transferred.index)

    def keys(self, experiment: str, conditions: Sequence[str] = ()) -> tuple[str, ...]:
        """Keys of the runs of an experiment, and of their sources."""
        rows = pick(self.rows[self.rows["trial"].notna()], experiment=experiment)
        rows = pick(rows, condition=list(conditions)) if conditions else rows
        return (*sorted(rows["source_key"].dropna().unique()), *sorted(rows["run_key"].unique()))

    def last(self, condition: str) -> "pd.Series[float]":
        """Test accuracy at the end."""
        return self.of("speed-up", condition, "accuracy", step=self.horizon // BATCH)

    def of(self, experiment: str, condition: str, quantity: str, **where: int) -> "pd.Series[float]":
        """A quantity of each run, by what it is of."""
        rows = pick(self.rows, experiment=experiment, condition=condition, quantity=quantity, **where)
        return _repeated(rows[rows["split"].isna() | (rows["split"] == "test")]).set_index(LINE)["value"]


def _repeated(rows: pd.DataFrame) -> pd.DataFrame:
    """With the repetition that a row is of; what has no source, has a source of no name."""
    repeat = rows["seed"].astype(str) + "-" + rows["trial"].astype(str)
    return rows.assign(repeat=repeat, other_class=rows["other_class"].fillna(""))


def _minus(values: "pd.Series[float]", scratch: "pd.Series[float]") -> "pd.Series[float]":
    """Each pair's value minus that from scratch on its own target, in the same repetition."""
    own = scratch.droplevel("other_class").reindex(_targets(values.index))
    return values - own.to_numpy()


def _targets(pairs: "pd.Index[Any]") -> pd.MultiIndex:
    """The index without its sources."""
    return pd.MultiIndex.from_arrays([pairs.get_level_values(name) for name in ("class_name", "repeat")])


def nets(rows: pd.DataFrame) -> list[Net]:
    """The nets of a table, as they stand in it."""
    sizes = pick(rows, quantity="parameters")
    return [
        Net(str(name), rows[rows["net"] == name], tuple(of_net["layer"]))
        for name, of_net in sizes.groupby("net", sort=False)
    ]


def over_categories(values: "pd.Series[float]", level: float) -> Mean:
    """The mean of values of pairs, or of nets from scratch, over categories; the index is that of LINE.

    Where a category stands in several pairs these are not independent, and a cluster is a category with all its pairs
    (`layerwise.claims.by_category`). Where pairs have nothing in common a cluster is a pair.
    """
    of_pairs = values.groupby(["other_class", "class_name"]).mean()
    named = [category for pair in of_pairs.index for category in pair if category]
    together = len(set(named)) < len(named)
    return by_category(of_pairs, level) if together else over_clusters(values, level, "category")


def claims(rows: pd.DataFrame) -> list[Claim]:
    """R1 to R5 held against the rows, for each initialisation."""
    return [claim for net in nets(rows) for claim in (*_speed_up(net), *_lesions(net), *_dynamics(net))]


def _speed_up(net: Net) -> list[Claim]:
    """R1, over all ordered pairs of categories."""
    over, than = "mean over all ordered pairs of categories", "transferred minus from scratch"
    return [
        _of_pairs(
            net, "start", "R1a: Transferred nets start higher", f"test accuracy before any training, {than}, {over}"
        ),
        _of_pairs(
            net, "images", "R1b: Transferred nets learn faster",
            "images until the accuracy that the net from scratch ends with (all images where it is never reached), "
            f"from scratch minus transferred, {over}", "images", "reached after 2,105 of 10,000 images",
        ),
        _of_pairs(
            net, "end", "R1c: Transferred nets end higher", f"test accuracy at the end, {than}, {over}", "points",
            "+4.9 points (0.664 against 0.615)",
        ),
        _of_pairs(
            net, "area", "R1d: Learning curves of transferred nets lie higher",
            f"area between the learning curves, {than} (right Riemann sum), {over}", IMAGES, "908 over 10,000 images",
        ),
    ]  # fmt: skip


def _lesions(net: Net) -> list[Claim]:
    """R2 and R5, on the area under the learning curve, divided by its width: mean accuracy over the curve."""
    low, high, whole, kept = (net.without(masks) for masks in (LOW, HIGH, (ALL,), (CONVOLUTIONS_AND_OUTPUT,)))
    mean = "mean test accuracy over the learning curve"
    return [
        _claim(
            net, "R2a: Lesions of high layers hurt more than those of low layers",
            f"{mean}, one of layers 1-3 lesioned minus one of layers 4-6", _difference(low, high), (*LOW, *HIGH), 3,
        ),
        _claim(
            net, "R2b: Lesions of low layers hardly hurt", f"{mean}, one of layers 1-3 lesioned minus none",
            _difference(low, whole), (*LOW, ALL), 3, "absence",
        ),
        _claim(
            net, "R5: Keeping the output layer but not the dense ones beats copying all",
            f"{mean}, 111001 minus 111111", _difference(kept, whole), (CONVOLUTIONS_AND_OUTPUT, ALL), 1,
        ),
    ]  # fmt: skip


def _dynamics(net: Net) -> list[Claim]:
    """R3 under four measures, on weights and from scratch; R4."""
    more, slope = "Higher layers change more", "slope on the layer's number of"
    final_distance = "the distance of its weights from their start after training"
    changed = 1 - net.drift("scratch", "cka_to_final", "activations", share=0.0)
    early = net.drift("scratch", "distance_to_final", "weights", share=EARLY)
    shorter = net.shorter()
    return [
        *(
            _of_layers(
                net, f"{name}: {more}, by {by}", f"{slope} {final_distance}, {by}",
                net.slope(net.drift("scratch", quantity, "weights")), unit,
            )
            for name, quantity, by, unit in (
                ("R3a", "distance", "raw Euclidean distance", "a layer"),
                ("R3b", "distance_per_root_size", "distance per square root of their number", "a layer"),
                ("R3c", "distance_to_start_norm", "distance relative to the norm of the start", "a layer"),
            )
        ),
        _of_layers(
            net, f"R3d: {more}, by what they make of images",
            f"{slope} 1 - CKA of what it makes of test images before training and after", net.slope(changed), "a layer",
        ),
        _of_layers(
            net, "R3e: Higher layers change earlier",
            f"{slope} the share of its final distance that its weights have after a quarter of the training",
            net.slope(early), "a layer",
        ),
        _of_layers(
            net, "R4a: Transferred nets change less",
            "1 - transferred / from scratch of the distance of a layer's weights from their start after training, mean "
            "over layers", shorter.mean(axis=1, skipna=False), "of the way from scratch", ("scratch", "transferred"),
        ),
        _of_layers(
            net, "R4b: Transferred nets change less in every layer",
            "the same of the layer in which it is least", shorter.min(axis=1, skipna=False), "of the way from scratch",
            ("scratch", "transferred"),
        ),
    ]  # fmt: skip


def _of_pairs(net: Net, what: str, statement: str, quantity: str, unit: str = "points", published: str = "") -> Claim:
    """A claim of direction over all ordered pairs; repetitions of a pair are averaged first."""
    claim = replace(_stated(net, statement, quantity, unit), published=published)
    return _decided(claim, "direction", net.pairs[what], 1, net.keys("speed-up"))


def _of_layers(
    net: Net, statement: str, quantity: str, contrast: "pd.Series[float]", unit: str,
    conditions: Sequence[str] = ("scratch",),
) -> Claim:  # fmt: skip
    claim = _stated(net, statement, quantity, unit)
    return _decided(claim, "direction", contrast, len(conditions), net.keys("dynamics", conditions))


def _claim(
    net: Net, statement: str, quantity: str, contrast: "pd.Series[float] | None", masks: Sequence[str], pairs: int,
    kind: Kind = "direction",
) -> Claim:  # fmt: skip
    used = net.keys("lesions", [f"lesion {mask}" for mask in masks])
    return _decided(_stated(net, statement, quantity, "points"), kind, contrast, pairs, used)


def _decided(
    claim: Claim, kind: Kind, contrast: "pd.Series[float] | None", pairs_each: int, used: tuple[str, ...]
) -> Claim:
    """The claim with the mean of its contrast over categories; `pairs_each` differences of two runs a value."""
    values = pd.Series(dtype=float) if contrast is None else contrast.dropna()
    if values.empty:
        return judged(claim, kind, None, 0)
    mean = over_categories(values, LEVELS[kind])
    return replace(judged(claim, kind, mean, len(values) * pairs_each), rows=used)


def _stated(net: Net, statement: str, quantity: str, unit: str) -> Claim:
    name, _, says = statement.partition(": ")
    return unmeasured(f"{name}{net.beside}", PAPER, f"{says} ({net.name})", quantity, unit, "category")


def _difference(some: "pd.Series[float] | None", others: "pd.Series[float] | None") -> "pd.Series[float] | None":
    return None if some is None or others is None else some - others


# What the report says of a claim, for each initialisation.
FINDINGS = {
    "R2a": "Lesioning one of the layers 1 to 3 instead of 4 to 6 changes accuracy over the learning curve by {} points",
    "R2b": "Lesioning one of the layers 1 to 3 instead of none changes it by {} points",
    "R5": "Copying the convolutions and the output layer only, instead of all, changes it by {} points",
    "R3a": "With each layer from the input up, weights from scratch move further from their start by {}",
    "R3b": "Per square root of their number they move further by {}",
    "R4a": "In transferred nets the way of a layer's weights is shorter by {} of what it is from scratch",
}


def words(rows: pd.DataFrame, made: Sequence[Claim]) -> tuple[str, tuple[str, ...]]:
    """The answer in one paragraph, and the main findings."""
    found, by = nets(rows), {claim.id: claim for claim in made}
    told = [_told(net) for net in found if not net.pairs["end"].empty]
    basis = (
        "These are means over all ordered pairs of categories; helps and hurts mean that the 95 % interval of the "
        "paired difference, over categories, leaves out zero."
    )
    said = [
        _said(claim, sentence, net)
        for name, sentence in FINDINGS.items()
        for net in found
        if (claim := by[name + net.beside]).estimate is not None
    ]
    return " ".join([*told, basis] if told else ["No transfer of whole nets was measured."]), tuple(said)


def _told(net: Net) -> str:
    """What copying all layers does, for one initialisation."""
    scratch, transferred = (net.last(condition).mean() for condition in ("scratch", "transferred"))
    gain = over_categories(net.pairs["end"].dropna(), LEVELS["direction"])
    effects = {"reproduced": "helps", "contradicted": "hurts", "undecided": "makes no clear difference"}
    effect = effects[direction(gain.bounds, gain.clusters)]
    needed = net.of("speed-up", "transferred", "images_to_level").mean()
    return (
        f"Copying all layers of a net for another category {effect} where nets begin with {net.begins}: they end with "
        f"{transferred:.1%} test accuracy, from scratch with {scratch:.1%}, which they reach after {needed:,.0f} of "
        f"{net.horizon:,} images on average, those that never do counted with all."
    ).replace("%", " %")


def _said(claim: Claim, sentence: str, net: Net) -> str:
    """A finding: the contrast with its interval, and the verdict on the paper's claim."""
    assert claim.estimate is not None

    def number(value: float) -> str:
        """In points where it is a fraction, else with three digits."""
        return points(value) if claim.unit == "points" else f"{value:+.3g}".replace("-", MINUS)

    told = sentence.format(number(claim.estimate)) + f" ({net.begins}"
    if interval := between(claim, number):
        told += f"; {interval}"
    return f"{told}). The paper's claim {claim.id} is {claim.verdict}."
