"""Means over clusters: the only arithmetic the report does, with the one interval function of `claims`.

A cluster is what is independent, such as a class split with its source net; the rows' column `cluster` says which, and
studies fill it as their claims count. Where there is one only, the interval is over its sources or trials, and says so:
"given one source".
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from layerwise.claims import Mean, plural
from layerwise.claims import over_clusters as clustered
from layerwise.rows import final

CLUSTER = ["cluster", "seed", "trial"]  # what is independent, its sources, their trials
NET = ["target_task", "seed", "trial"]  # with what was done, one net
LEVEL = 0.95
GIVEN = "given one source"


def measured(rows: pd.DataFrame, quantity: str, split: str | None = "test") -> pd.DataFrame:
    """The target nets' rows of one quantity, at every step; source nets, which have no trial, are left out."""
    here = rows["split"].isna() if split is None else rows["split"] == split
    return rows[(rows["quantity"] == quantity) & here & rows["trial"].notna()]


def ends(rows: pd.DataFrame, quantity: str = "accuracy", split: str | None = "test") -> pd.DataFrame:
    """The target nets' rows of one quantity at the last step at which each was measured."""
    return final(measured(rows, quantity, split))


def over_clusters(values: pd.DataFrame, by: Sequence[str], cluster: str = "class split") -> pd.DataFrame:
    """Mean, 95 % interval, minimum and maximum of `value` for each combination of the columns `by`.

    Columns: by, mean, low, high, minimum, maximum, clusters, trials, interval (in words). The mean is over cluster
    means; minimum and maximum are over all trials. Low and high are null where nothing repeats. Values of one trial,
    such as those of several tasks of one class split, are averaged first.

    >>> table = pd.DataFrame({"cluster": ["a", "a", "b"], "seed": [0, 0, 1], "trial": [0, 1, 0], "n": 5})
    >>> table["value"] = [0.2, 0.4, 0.5]
    >>> over_clusters(table, ["n"])[["mean", "minimum", "clusters", "trials", "interval"]].to_dict("records")
    [{'mean': 0.4, 'minimum': 0.2, 'clusters': 2, 'trials': 3, 'interval': '95 % over 2 class splits'}]
    """
    names = [*by, "mean", "low", "high", "minimum", "maximum", "clusters", "trials", "interval"]
    values = values.assign(cluster=values["cluster"].fillna(""))  # those that name none are one
    found = []
    for group, part in values.dropna(subset=["value"]).groupby(list(by), sort=True):
        found.append({**dict(zip(by, group, strict=True)), **_summary(part, cluster)})
    return pd.DataFrame(found, columns=names)


def _summary(part: pd.DataFrame, cluster: str) -> dict[str, Any]:
    trials = part["value"].astype(float)
    once = trials.groupby([part[name] for name in CLUSTER], dropna=False).mean()
    mean = clustered(once, LEVEL, cluster)
    return {
        "mean": mean.estimate,
        "low": mean.bounds[0] if mean.bounds else None,
        "high": mean.bounds[1] if mean.bounds else None,
        "minimum": float(trials.min()),
        "maximum": float(trials.max()),
        "clusters": mean.clusters,
        "trials": len(trials),
        "interval": basis(mean, len(once), cluster),
    }


def basis(mean: Mean, trials: int, cluster: str = "class split") -> str:
    """What an interval is taken over, in words."""
    if mean.clusters > 1:
        return f"95 % over {mean.clusters} {plural(cluster)}"
    return f"95 % over {trials} trials, {mean.given}" if trials > 1 else f"none: one trial, {mean.given}"


def changes(values: pd.DataFrame) -> pd.DataFrame:
    """The rows with n > 0, each minus the n = 0 row of its own class split, seed, trial and samples per class."""
    pair = [*NET, "shots"]
    base = values.loc[values["n"] == 0, [*pair, "value"]]
    both = values[values["n"] > 0].merge(base, on=pair, suffixes=("", "_base"))
    return both.assign(value=both["value"] - both["value_base"]).drop(columns="value_base")
