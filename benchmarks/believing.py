"""The constants of advice's belief, from the exhaustive searches: how far what came out lay from what was expected.

What is expected of a cell is what cells say that share neither its source nor its target. An option that is expected to
be far behind is mostly far behind by another amount, so a deviation is `least` and `grows` times what it is behind.
"""

from collections.abc import Iterable
from dataclasses import fields

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import norm

from layerwise.advising import belief
from layerwise.advising.experience import CANONICAL, Circumstances, Experience, Seen, which

Values = Float[np.ndarray, " values"]


def constants(cells: Iterable[tuple[Seen, Experience]]) -> dict[str, tuple[float, float]]:
    """Those of greatest likelihood over cells, each with what was seen elsewhere.

    UPWARDS is of the deviations upwards, as half of a Gaussian: an option that did worse than expected did so by far at
    times, where its trainings diverged, and if it were taken to be as free above as it is below, noise would elect it.
    """
    behind, better, lacking, more = [], [], [], []
    for seen, elsewhere in cells:
        some = [one for one in CANONICAL if which(one) in seen.accuracies]
        expected = elsewhere.expected(some, seen.here)
        behind.append(expected.max() - expected)
        better.append(np.array([seen.beside[which(one)] for one in some]) - expected)
        some = [one for one in CANONICAL if which(one) in seen.short]
        usual = elsewhere.shortfall(some, seen.here)
        lacking.append(np.abs(usual))
        more.append(np.array([seen.short[which(one)] for one in some]) - usual)
    far, deviations = np.concatenate(behind), np.concatenate(better)
    up = deviations > 0
    return {
        "UPWARDS": fitted(far[up], deviations[up], belief.UPWARDS),
        "BOTH_WAYS": fitted(far, deviations, belief.BOTH_WAYS),
        "SHORT": fitted(np.concatenate(lacking), np.concatenate(more), belief.SHORT),
    }


def fitted(sizes: Values, deviations: Values, start: tuple[float, float]) -> tuple[float, float]:
    """`least` and `grows` under which these deviations are most likely, Gaussian with `least + grows * size`."""

    def surprise(logs: np.ndarray) -> float:
        least, grows = np.exp(logs)
        return -float(norm.logpdf(deviations, scale=least + grows * sizes).sum())

    least, grows = np.exp(minimize(surprise, np.log(start), method="Nelder-Mead").x)
    return float(least), float(grows)


def lost(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of options that were trained both ways, with how much better a quarter of the steps did than all: `lost`."""
    of = ["cell", "seed", "policy", "treatment", "rate"]
    short, full = rows[rows["share"] < 1], rows[rows["share"] == 1]
    both = short.merge(full[[*of, "accuracy"]], on=of, suffixes=("", "_full"), validate="one_to_one")
    return both.assign(lost=both["accuracy"] - both["accuracy_full"])


def circumstances(rows: pd.DataFrame) -> Circumstances:
    """Their mean over these rows."""
    means = rows[[one.name for one in fields(Circumstances)]].astype(float).mean()
    return Circumstances(*(None if np.isnan(one) else float(one) for one in means))
