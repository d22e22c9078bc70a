"""The constants of advice's belief, from the exhaustive searches: how far what came out lay from what was expected.

What is expected of a cell is what cells say that share neither its source nor its target. An option that is expected to
be far behind is mostly far behind by another amount, so a deviation is `least` and `grows` times what it is behind.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import norm

from layerwise.advising import belief
from layerwise.advising.candidates import Candidate, Option
from layerwise.advising.experience import Circumstances, Experience
from layerwise.treatment import Treatment

Values = Float[np.ndarray, " values"]


def constants(
    seen: Mapping[str, pd.DataFrame], elsewhere: Callable[[str], Experience]
) -> dict[str, tuple[float, float]]:
    """Those of greatest likelihood over cells (their rows by name), with what was seen elsewhere by name.

    UPWARDS is of the deviations upwards, as half of a Gaussian: an option that did worse than expected did so by far at
    times, where its trainings diverged, and if it were taken to be as free above as it is below, noise would elect it.
    """
    behind, better, lacking, more = [], [], [], []
    for name, rows in seen.items():
        known, here = elsewhere(name), circumstances(rows)
        means = rows[rows["share"] == 1].groupby(["policy", "treatment", "rate"], as_index=False)["accuracy"].mean()
        some = [option(row) for row in means.to_dict("records")]
        expected = known.expected(some, here)
        found = means["accuracy"].to_numpy(float)
        top = np.sort(found)[::-1][: max(1, len(found) // 3)].mean()
        behind.append(expected.max() - expected)
        better.append(found - top - expected)
        short = lost(rows).groupby(["policy", "treatment", "rate"], as_index=False)["lost"].mean()
        some = [option(row) for row in short.to_dict("records")]
        usual = known.shortfall(some, here)
        lacking.append(np.abs(usual))
        more.append(short["lost"].to_numpy(float) - usual)
    up, far = np.concatenate(better), np.concatenate(behind)
    return {
        "UPWARDS": fitted(far[up > 0], up[up > 0], belief.UPWARDS),
        "BOTH_WAYS": fitted(far, up, belief.BOTH_WAYS),
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
    which = ["cell", "seed", "policy", "treatment", "rate"]
    short, full = rows[rows["share"] < 1], rows[rows["share"] == 1]
    both = short.merge(full[[*which, "accuracy"]], on=which, suffixes=("", "_full"), validate="one_to_one")
    return both.assign(lost=both["accuracy"] - both["accuracy_full"])


def circumstances(rows: pd.DataFrame) -> Circumstances:
    """Their mean over these rows."""
    means = rows[["samples", "last", "better"]].astype(float).mean()
    return Circumstances(*(None if np.isnan(one) else float(one) for one in means))


def option(row: Mapping[str, object]) -> Option:
    """What a row of a search is of."""
    policy = str(row["policy"])
    made = Candidate(policy, policy, Treatment.parse(str(row["treatment"])), policy == "Auto-RGN")
    return Option(made, float(str(row["rate"])))
