"""The constants of advice's belief, from the exhaustive searches: those under which what came out was most likely.

For every draw the accuracies of all options, less what was expected of them by experience from other nets and data, are
taken to be Gaussian with the covariance of `layerwise.advising.belief` and the noise of so many test images. Draws of a
cell are not independent, but the constants are of one draw.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import multivariate_normal

from layerwise.advising import belief
from layerwise.advising.candidates import Candidate, Option
from layerwise.advising.experience import Circumstances, Experience
from layerwise.treatment import Treatment

NAMES = ("LIKE", "OWN", "FAR", "DECADE")


@dataclass(frozen=True)
class Residual:
    """What a draw's options did beside what was expected of them."""

    options: tuple[Option, ...]
    values: np.ndarray  # (options,), their mean is zero
    noise: float  # variance of a test accuracy that is not common to all options


def residual(rows: pd.DataFrame, known: Experience, tested: int) -> Residual:
    """Of one draw's rows, with experience from elsewhere and so many test images."""
    some = tuple(option(row) for row in rows.to_dict("records"))
    expected = known.expected(some, circumstances(rows))
    accuracy = rows["accuracy"].to_numpy(float)
    typical = float(np.clip(accuracy.mean(), 0.05, 0.95))
    left = accuracy - expected
    return Residual(some, left - left.mean(), belief.NOISE * typical * (1 - typical) / tested)


def lost(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of options that were trained both ways, with how much better a quarter of the steps did than all: `lost`."""
    which = ["cell", "seed", "policy", "treatment", "rate"]
    short, full = rows[rows["share"] < 1], rows[rows["share"] == 1]
    both = short.merge(full[[*which, "accuracy"]], on=which, suffixes=("", "_full"), validate="one_to_one")
    return both.assign(lost=both["accuracy"] - both["accuracy_full"])


def shortfall(rows: pd.DataFrame, known: Experience, tested: int) -> Residual:
    """What a quarter of the steps brought in one draw beside what was expected; of so many test images."""
    both = lost(rows)
    some = tuple(option(row) for row in both.to_dict("records"))
    typical = float(np.clip(both["accuracy_full"].mean(), 0.05, 0.95))
    noise = 2 * belief.NOISE * typical * (1 - typical) / tested
    return Residual(some, both["lost"].to_numpy(float) - known.shortfall(some, circumstances(rows)), noise)


def fitted_short(residuals: list[Residual]) -> dict[str, float]:
    """SHORT of greatest likelihood."""

    def surprise_of(log: float) -> float:
        total = 0.0
        for one in residuals:
            covariance = np.exp(2 * log) * belief.likeness(one.options) + one.noise * np.eye(len(one.options))
            total -= float(multivariate_normal.logpdf(one.values, cov=covariance))
        return total

    found = minimize_scalar(surprise_of, bounds=np.log([0.001, 1.0]), method="bounded")
    return {"SHORT": float(np.exp(found.x))}


def circumstances(rows: pd.DataFrame) -> Circumstances:
    """Their mean over these rows."""
    means = rows[["samples", "last", "better"]].astype(float).mean()
    return Circumstances(*(None if np.isnan(one) else float(one) for one in means))


def option(row: Mapping[str, object]) -> Option:
    """What a row of a search is of."""
    policy = str(row["policy"])
    made = Candidate(policy, policy, Treatment.parse(str(row["treatment"])), policy == "Auto-RGN")
    return Option(made, float(str(row["rate"])))


def fitted(residuals: list[Residual]) -> dict[str, float]:
    """The constants of greatest likelihood, by Nelder and Mead from those that are in use."""
    start = np.log([getattr(belief, name) for name in NAMES])
    found = minimize(
        lambda logs: surprise(residuals, *np.exp(logs)), start, method="Nelder-Mead", options={"xatol": 0.02}
    )
    return dict(zip(NAMES, map(float, np.exp(found.x)), strict=True))


def surprise(residuals: list[Residual], like: float, own: float, far: float, decade: float) -> float:
    """Minus the mean logarithm of the likelihood of a draw's residuals."""
    alike: dict[tuple[Option, ...], np.ndarray] = {}
    total = 0.0
    for one in residuals:
        if one.options not in alike:
            alike[one.options] = belief.likeness(one.options, far, decade)
        count = len(one.options)
        covariance = like**2 * alike[one.options] + (own**2 + one.noise) * np.eye(count) + belief.LEVEL**2
        total -= float(multivariate_normal.logpdf(one.values, cov=covariance))
    return total / len(residuals)
