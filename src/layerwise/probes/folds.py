"""Which examples a probe learns from, chooses on and is tested on, and how sure its accuracy is.

All layers are given the same folds, so that differences between layers are paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy import stats
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from layerwise.errors import RepresentationError
from layerwise.randomness import seed as seed_of

LEVEL = 0.95
ROUNDING = 8  # a unit that varies by less than so many steps of its own precision is constant

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Parts:
    """Row numbers of the examples to learn from, to choose on and to report on; no row is in two of them."""

    train: Int64[Tensor, " train"]
    validation: Int64[Tensor, " validation"]
    test: Int64[Tensor, " test"]

    def __post_init__(self) -> None:
        rows = torch.cat([self.train, self.validation, self.test])
        found, times = torch.unique(rows, return_counts=True)
        if len(found) < len(rows):
            twice = int(found[times.argmax()])
            raise RepresentationError(
                f"row {twice} is in the parts {int(times.max())} times; give each row to one part"
            )
        if not (len(self.train) and len(self.validation) and len(self.test)):
            empty = next(name for name, part in vars(self).items() if not len(part))
            raise RepresentationError(f"the {empty} part has no examples; give it some")


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy over the folds, with a 95 % interval, and over the examples of each class; all are fractions."""

    mean: float
    bounds: Bounds
    folds: tuple[float, ...]
    by_class: dict[int, float]  # by label, of the classes that were tested
    examples: int  # tested, each once


@dataclass(frozen=True)
class Classes:
    """Labels as numbers from 0 without gaps, and the labels they stand for, in rising order."""

    of: Int64[Tensor, " examples"]
    labels: tuple[int, ...]
    counts: Int64[Tensor, " classes"]


def classes_of(labels: Tensor, fewest: int) -> Classes:
    """The classes that occur; raises RepresentationError unless there are two or more, of so many examples each."""
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        raise RepresentationError(f"labels are {kind}; give integers, one for each example")
    found, of, counts = torch.unique(labels.long(), return_inverse=True, return_counts=True)
    if len(found) < 2:
        raise RepresentationError(f"all {len(labels)} examples are of one class; give two classes or more")
    if int(counts.min()) < fewest:
        rare = int(counts.argmin())
        raise RepresentationError(
            f"class {int(found[rare])} has {int(counts[rare])} examples, and {fewest} of each class are needed; "
            "give more examples, or leave the class out"
        )
    return Classes(of, tuple(found.tolist()), counts)


def check_features(features: Tensor, examples: int) -> None:
    """Raises RepresentationError unless these are finite floating numbers, examples x units."""
    if features.dim() != 2 or not features.is_floating_point() or not features.shape[1]:
        kind = f"{str(features.dtype).removeprefix('torch.')} of shape {tuple(features.shape)}"
        raise RepresentationError(f"features are {kind}; give a floating tensor of examples x units")
    if len(features) != examples:
        raise RepresentationError(f"{examples} labels for features of {len(features)} examples; give one for each")
    if wrong := int((~features.isfinite()).sum()):
        raise RepresentationError(
            f"{wrong} of {features.numel()} features are not finite; look for the layer where the net diverges"
        )


def constant_units(features: Float[Tensor, "examples units"]) -> Bool[Tensor, " units"]:
    """Units with one value for all examples, to the precision they came in."""
    lowest, highest = features.aminmax(dim=0)
    size = torch.maximum(lowest.abs(), highest.abs())
    return highest - lowest <= ROUNDING * torch.finfo(features.dtype).eps * size


def stratified(
    classes: Classes, folds: int, seed: int, fewest: int = 2, groups: Tensor | None = None
) -> list[Int64[Tensor, "_"]]:
    """The rows of each fold: every example in one fold, every class spread evenly over them, as far as groups let it.

    Raises RepresentationError where a class has fewer examples than there are folds, where there are fewer groups, and
    under `fewest` folds.
    """
    rarest = int(classes.counts.argmin())
    if not fewest <= folds <= int(classes.counts[rarest]):
        raise RepresentationError(
            f"{folds} folds are not possible: there must be {fewest} or more, and of class {classes.labels[rarest]} "
            f"there are {int(classes.counts[rarest])} examples, one for each fold at most"
        )
    of, together = classes.of.cpu().numpy(), None if groups is None else groups.cpu().numpy()
    if together is not None and len(np.unique(together)) < folds:
        raise RepresentationError(f"{folds} folds are not possible: there are {len(np.unique(together))} groups")
    kind = StratifiedKFold if together is None else StratifiedGroupKFold
    dealt = kind(folds, shuffle=True, random_state=seed_of("probe folds", seed) % 2**32)
    return [torch.from_numpy(test).to(classes.of.device) for _, test in dealt.split(np.zeros(len(of)), of, together)]


def accuracy(
    right: Float[Tensor, " examples"], classes: Classes, tests: Sequence[Int64[Tensor, "_"]], trained: int
) -> Accuracy:
    """Sum up what was right (1, 0, or between where a vote was tied) in tests whose probes learnt from `trained` rows.

    The interval is the wider at each end of two. Over folds it is the corrected resampled t-interval, mean +- t
    sqrt((1 / J + tested / trained) s^2) over the means of J folds (Nadeau and Bengio 2003, "Inference for the
    generalization error", section 3, https://doi.org/10.1023/A:1024068626366): folds share training examples, so that
    the plain one is too narrow, and no estimate from one cross-validation is unbiased (Bengio and Grandvalet 2004).
    Over examples it is Wilson's (1927), which also holds with one fold, or where all folds happen to be equal.
    """
    folds = tuple(float(right[test].mean()) for test in tests)
    tested = torch.cat([*tests])
    mean = math.fsum(folds) / len(folds)
    low, high = wilson(float(right[tested].mean()), len(tested))
    if len(folds) > 1:
        half = corrected_half_width(folds, len(tested) / len(folds) / trained)
        low, high = min(low, max(mean - half, 0.0)), max(high, min(mean + half, 1.0))
    by_class = {}
    for number, label in enumerate(classes.labels):
        if len(own := tested[classes.of[tested] == number]):
            by_class[label] = float(right[own].mean())
    return Accuracy(mean, (low, high), folds, by_class, len(tested))


def corrected_half_width(folds: Sequence[float], tested_to_trained: float) -> float:
    """Half the width of Nadeau and Bengio's interval of the mean of these folds."""
    scale = math.sqrt((1 / len(folds) + tested_to_trained) * float(np.var(folds, ddof=1)))
    return float(stats.t.ppf((1 + LEVEL) / 2, len(folds) - 1)) * scale


def wilson(share: float, examples: int) -> Bounds:
    """Wilson's score interval of a share of independent examples; never empty, also at 0 and 1."""
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    spread = z * math.sqrt(share * (1 - share) / examples + (z / examples) ** 2 / 4)
    middle, scale = share + z**2 / examples / 2, 1 + z**2 / examples
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)
