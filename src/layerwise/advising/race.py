"""What to try next: the trial that promises most for its arithmetic, until the budget is spent.

A trial is worth what it is expected to add to the accuracy of the option that would be advised after it: the knowledge
gradient of Frazier, Powell and Dayanik 2009, https://doi.org/10.1287/ijoc.1080.0314, here for options whose accuracies
are believed to go together, and over each trial's cost. Options that are clearly behind, and what is known well enough,
promise nothing and are tried no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from layerwise.advising.belief import Belief, Model, Place, Trial

NODES = norm.ppf((np.arange(64) + 0.5) / 64)  # of the outcome of a trial, equally likely
LEAST = 1e-4  # expected gain in accuracy of all that the rest of the budget could buy, under which it is saved


@dataclass(frozen=True)
class Possible(Place):
    """A trial that could be made, and its cost in operations."""

    flops: float


def next_trials(
    model: Model, done: Sequence[Trial], possible: Sequence[Possible], budget: float, most: int
) -> list[Possible]:
    """Up to so many trials for the budget, each chosen as if those before it had turned out as expected.

    None where nothing that could be bought is worth it.
    """
    chosen: list[Possible] = []
    expected = list(done)
    left = list(possible)
    while len(chosen) < most:
        left = [one for one in left if one.flops <= budget]
        if not left:
            break
        belief = model.belief(expected)
        gains = gains_of(belief, *model.foreseen(expected, left))
        if gains.max() < LEAST:
            break
        best = int(np.argmax(gains / [one.flops for one in left]))
        one = left.pop(best)
        chosen.append(one)
        budget -= one.flops
        mean = model.expected(expected, one)
        expected.append(Trial(one.option, one.fold, one.share, one.examples, mean))
    return chosen


def gains_of(
    belief: Belief, covariance: Float[np.ndarray, "options trials"], variance: Float[np.ndarray, " trials"]
) -> Float[np.ndarray, " trials"]:
    """What each trial is expected to add to the accuracy of the best option.

    `covariance` is that of every option's accuracy with what the trial would show, `variance` that of the latter.
    """
    moves = covariance / np.sqrt(variance)  # of the means, for an outcome one deviation above what is expected
    after = belief.mean[:, None, None] + moves[:, :, None] * NODES  # (options, trials, nodes)
    return np.asarray(after.max(0).mean(1) - belief.mean.max())
