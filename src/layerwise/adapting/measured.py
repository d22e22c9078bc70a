"""How good an adapted net is on images that it has not seen: what its model card says."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import binomtest

BINS = 15  # as many as Guo et al. take
LEVEL = 0.9  # of the interval


@dataclass(frozen=True)
class Measured:
    """Accuracy and its like on test images; all but `support` are fractions. Classes without test images have none."""

    examples: int
    accuracy: float
    interval: tuple[float, float]  # of the accuracy, at LEVEL: Wilson 1927, images taken as independent
    balanced_accuracy: float  # the mean of the classes' recalls
    calibration_error: float
    precision: tuple[float | None, ...]  # per class; null for a class that was never predicted
    recall: tuple[float | None, ...]  # per class; null for a class without test images
    support: tuple[int, ...]  # test images per class
    confusion: tuple[tuple[int, ...], ...]  # images by class (rows) and predicted class (columns)


def measured(probabilities: Float[np.ndarray, "examples classes"], classes: Int[np.ndarray, " examples"]) -> Measured:
    """What these predictions for images of these classes are worth.

    Raises ValueError where there are no images: nothing is known then.
    """
    examples, width = probabilities.shape
    if examples == 0:
        raise ValueError("there are no test images to measure on")
    predicted = probabilities.argmax(1)
    confusion = np.zeros((width, width), int)
    np.add.at(confusion, (classes, predicted), 1)
    right, support, guesses = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    found = binomtest(int(right.sum()), examples).proportion_ci(LEVEL, method="wilson")
    recall = _shares(right, support)
    known = [one for one in recall if one is not None]
    return Measured(
        examples=examples,
        accuracy=float(right.sum() / examples),
        interval=(float(found.low), float(found.high)),
        balanced_accuracy=sum(known) / len(known),
        calibration_error=calibration_error(probabilities, classes),
        precision=_shares(right, guesses),
        recall=recall,
        support=tuple(support.tolist()),
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def calibration_error(
    probabilities: Float[np.ndarray, "examples classes"], classes: Int[np.ndarray, " examples"], bins: int = BINS
) -> float:
    """Expected calibration error: how far confidence is from accuracy, over bins of equal width of confidence.

    `sum_m |B_m| / n * |acc(B_m) - conf(B_m)|` over bins ((m - 1) / bins, m / bins]: Guo et al. 2017, eq. 3,
    https://arxiv.org/abs/1706.04599. Of few images it is biased upwards: each bin's accuracy is noisy.
    """
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == classes
    number = np.ceil(confidence * bins).astype(int)
    gaps = [abs(right[number == m].sum() - confidence[number == m].sum()) for m in np.unique(number)]
    return float(sum(gaps) / len(classes))


def _shares(parts: Int[np.ndarray, " classes"], wholes: Int[np.ndarray, " classes"]) -> tuple[float | None, ...]:
    pairs: Sequence[tuple[int, int]] = list(zip(parts.tolist(), wholes.tolist(), strict=True))
    return tuple(part / whole if whole else None for part, whole in pairs)
