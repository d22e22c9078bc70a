"""Why: what each layer is worth to the new data, as far as a linear probe of its features can tell.

A layer is *useful* where classes can be told apart better behind it than before it, *harmful* where worse, *redundant*
where the difference is surely small, and *unknown* else. Fragile and specific are not said: they need selffer runs, and
these the source's data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from layerwise.probes.linear import LinearProbe

SMALL = 0.02  # a difference of accuracy that makes none
LEVEL = 0.9


@dataclass(frozen=True)
class Reason:
    """What is said of a layer."""

    layer: str
    verdict: str  # useful, harmful, redundant or unknown
    accuracy: float | None  # of a linear probe of its features
    gain: float | None  # over the layer before; of the first, over chance
    interval: tuple[float, float] | None


def reasons(names: Sequence[str], probed: Sequence[LinearProbe | None], chance: float) -> tuple[Reason, ...]:
    """The layers in front of the head; a layer that could not be probed is unknown, and so is the one behind it."""
    found = []
    before: Sequence[float] | None = None
    for position, (name, probe) in enumerate(zip(names, probed, strict=True)):
        folds = probe.accuracy.folds if probe else None
        if position == 0 and folds:
            before = [chance] * len(folds)
        found.append(_reason(name, before, folds, probe.accuracy.mean if probe else None))
        before = folds
    return tuple(found)


def _reason(name: str, before: Sequence[float] | None, after: Sequence[float] | None, mean: float | None) -> Reason:
    if before is None or after is None:
        return Reason(name, "unknown", mean, None, None)
    gains = np.array(after) - np.array(before)
    reach = stats.t.ppf((1 + LEVEL) / 2, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    low, high = float(gains.mean() - reach), float(gains.mean() + reach)
    return Reason(name, _verdict(low, high), mean, float(gains.mean()), (low, high))


def _verdict(low: float, high: float) -> str:
    """
    >>> _verdict(0.01, 0.05), _verdict(-0.05, -0.01), _verdict(-0.01, 0.015), _verdict(-0.01, 0.2)
    ('useful', 'harmful', 'redundant', 'unknown')
    """
    if low > 0:
        return "useful"
    if high < 0:
        return "harmful"
    return "redundant" if low > -SMALL and high < SMALL else "unknown"
