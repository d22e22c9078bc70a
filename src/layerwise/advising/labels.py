"""What more labels would bring: the learning curve of a linear probe over fewer of the images, and what follows it.

A linear probe is cheap enough to be trained on a quarter, a half and all of each fold's images. Its accuracy is taken
to fall short of a limit by b / sqrt(samples a class), as the error of an estimate does; b is fitted in each fold by
itself, and the interval is over folds (Student's t). What it says of more labels is extrapolated, and of a linear
probe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

SHARES = (0.25, 0.5, 1.0)  # of the samples a class
LEVEL = 0.9


@dataclass(frozen=True)
class Curve:
    """How a linear probe's accuracy grows with the samples a class."""

    samples: int  # a class, of a fold's training images
    slopes: tuple[float, ...]  # b of each fold
    points: tuple[tuple[int, float], ...]  # samples a class, mean accuracy

    def gain(self, before: float, after: float) -> tuple[float, tuple[float, float] | None]:
        """What more samples a class would bring, and its interval; none where there is one fold."""
        nearer = 1 / np.sqrt(before) - 1 / np.sqrt(after)
        found = np.array(self.slopes) * nearer
        if len(found) < 2:
            return float(found.mean()), None
        reach = stats.t.ppf((1 + LEVEL) / 2, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
        return float(found.mean()), (float(found.mean() - reach), float(found.mean() + reach))


def sizes(fewest: int) -> tuple[int, ...]:
    """Samples a class at which the curve is looked at; none where there are too few to see one.

    >>> sizes(16), sizes(2)
    ((4, 8, 16), ())
    """
    found = tuple(dict.fromkeys(max(1, round(share * fewest)) for share in SHARES))
    return found if len(found) == len(SHARES) else ()


def curve(accuracies: Mapping[str, Sequence[float]], samples: Sequence[int]) -> Curve:
    """The curve of these accuracies: for each fold one for each number of samples a class, which rise."""
    nearer = -1 / np.sqrt(np.array(samples, float))
    table = np.array(list(accuracies.values()))  # (folds, sizes)
    centred = nearer - nearer.mean()
    slopes = (table - table.mean(1, keepdims=True)) @ centred / (centred @ centred)
    means = table.mean(0)
    return Curve(samples[-1], tuple(map(float, slopes)), tuple(zip(samples, map(float, means), strict=True)))
