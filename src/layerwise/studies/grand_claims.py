"""What Grand et al. claim, R1 to R5, each part as the one contrast that was written before the numbers.

Clusters are categories (see `grand_nets.over_categories`): the jackknife's where a category stands in several pairs, as
of all ordered pairs, and of lesions and drift where pairs go round for lack of categories; else the category that is
learnt, with a source of its own.
Claims of the authors' own initialisation, N(0, 1), are R1a and so on; beside them stand those of nets that began with
He's, R1a-He.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from layerwise.claims import LEVELS, Claim, Kind, judged, unmeasured
from layerwise.studies.grand_design import ALL, SINGLE
from layerwise.studies.grand_nets import Net, nets, over_categories

PAPER = "Grand et al."
CONVOLUTIONS_AND_OUTPUT = "111001"
LOW, HIGH = SINGLE[:3], SINGLE[3:]
EARLY = 0.25  # of the training
IMAGES = "accuracy x images"


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
