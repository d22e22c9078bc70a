"""The nets of Grand's rows, by initialisation, and what can be compared among them; clusters are categories.

What is compared shares the task, the samples, the data order and all fresh weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from layerwise.claims import Mean, by_category, over_clusters
from layerwise.rows import pick, slopes
from layerwise.studies.grand_measures import BATCH

LINE = ["class_name", "other_class", "repeat"]  # the category learnt, that of the source, the repetition


@dataclass(frozen=True)
class Net:
    """The rows of nets of one architecture and initialisation, and the contrasts in them."""

    name: str
    rows: pd.DataFrame
    layers: tuple[str, ...]

    @property
    def beside(self) -> str:
        """What its claims' ids end with: nothing where the net begins as the authors' did."""
        if self.name.endswith("normal"):
            return ""
        return "-He" if self.name.endswith("40") else f"-{self.name}"

    @property
    def begins(self) -> str:
        """What its weights are before training, in words."""
        return {"": "N(0, 1) as the authors' did", "-He": "He's initialisation"}.get(
            self.beside, f"those of {self.name}"
        )

    @property
    def horizon(self) -> int:
        """Images that a net was trained on."""
        return BATCH * int(self.rows.loc[self.rows["trial"].notna(), "step"].max())

    @cached_property
    def pairs(self) -> dict[str, "pd.Series[float]"]:
        """Of each ordered pair what the transferred net has more than the one from scratch, or less of."""
        first = {c: self.of("speed-up", c, "accuracy", step=0) for c in ("scratch", "transferred")}
        needed = {c: self.of("speed-up", c, "images_to_level") for c in ("scratch", "transferred")}
        return {
            "start": _minus(first["transferred"], first["scratch"]),
            "images": -_minus(needed["transferred"], needed["scratch"]),
            "end": self.of("speed-up", "transferred", "final_gain"),
            "area": self.of("speed-up", "transferred", "area_between"),
        }

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """Mean accuracy over the learning curve: a line per pair of categories, a column per mask."""
        rows = _repeated(pick(self.rows, experiment="lesions", quantity="mean_accuracy"))
        masks = rows["condition"].str.removeprefix("lesion ")
        return rows.assign(mask=masks).pivot(index=LINE, columns="mask", values="value")

    def without(self, masks: Sequence[str]) -> "pd.Series[float] | None":
        """Mean accuracy over these masks' learning curves; null where one of them was not run."""
        if not set(masks) <= set(self.lesions.columns):
            return None
        return self.lesions[list(masks)].mean(axis=1, skipna=False)

    def drift(self, condition: str, quantity: str, part: str, share: float = 1.0) -> pd.DataFrame:
        """A reading of each layer at the last look within so much of the training: a line a net, a column a layer."""
        rows = pick(self.rows, experiment="dynamics", condition=condition, quantity=quantity, part=part)
        rows = _repeated(rows[rows["step"] <= share * rows["step"].max()])
        rows = rows[rows["step"] == rows["step"].max()]
        return rows.pivot(index=LINE, columns="layer", values="value").reindex(columns=list(self.layers))

    def slope(self, table: pd.DataFrame) -> "pd.Series[float]":
        """Least-squares slope of each line on the layers' numbers."""
        return slopes(table, range(len(self.layers)))

    def shorter(self) -> pd.DataFrame:
        """By which share of the way from scratch each layer's weights move less in a transferred net."""
        scratch, transferred = (self.drift(c, "distance", "weights") for c in ("scratch", "transferred"))
        if scratch.empty or transferred.empty:
            return transferred
        own = scratch.droplevel("other_class").reindex(_targets(transferred.index))
        return 1 - transferred / own.set_axis(transferred.index)

    def keys(self, experiment: str, conditions: Sequence[str] = ()) -> tuple[str, ...]:
        """Keys of the runs of an experiment, and of their sources."""
        rows = pick(self.rows[self.rows["trial"].notna()], experiment=experiment)
        rows = pick(rows, condition=list(conditions)) if conditions else rows
        return (*sorted(rows["source_key"].dropna().unique()), *sorted(rows["run_key"].unique()))

    def last(self, condition: str) -> "pd.Series[float]":
        """Test accuracy at the end."""
        return self.of("speed-up", condition, "accuracy", step=self.horizon // BATCH)

    def of(self, experiment: str, condition: str, quantity: str, **where: int) -> "pd.Series[float]":
        """A quantity of each run, by what it is of."""
        rows = pick(self.rows, experiment=experiment, condition=condition, quantity=quantity, **where)
        return _repeated(rows[rows["split"].isna() | (rows["split"] == "test")]).set_index(LINE)["value"]


def _repeated(rows: pd.DataFrame) -> pd.DataFrame:
    """With the repetition that a row is of; what has no source, has a source of no name."""
    repeat = rows["seed"].astype(str) + "-" + rows["trial"].astype(str)
    return rows.assign(repeat=repeat, other_class=rows["other_class"].fillna(""))


def _minus(values: "pd.Series[float]", scratch: "pd.Series[float]") -> "pd.Series[float]":
    """Each pair's value minus that from scratch on its own target, in the same repetition."""
    own = scratch.droplevel("other_class").reindex(_targets(values.index))
    return values - own.to_numpy()


def _targets(pairs: "pd.Index[Any]") -> pd.MultiIndex:
    """The index without its sources."""
    return pd.MultiIndex.from_arrays([pairs.get_level_values(name) for name in ("class_name", "repeat")])


def nets(rows: pd.DataFrame) -> list[Net]:
    """The nets of a table, as they stand in it."""
    sizes = pick(rows, quantity="parameters")
    return [
        Net(str(name), rows[rows["net"] == name], tuple(of_net["layer"]))
        for name, of_net in sizes.groupby("net", sort=False)
    ]


def over_categories(values: "pd.Series[float]", level: float) -> Mean:
    """The mean of values of pairs, or of nets from scratch, over categories; the index is that of LINE.

    Where a category stands in several pairs these are not independent, and a cluster is a category with all its pairs
    (`layerwise.claims.by_category`). Where pairs have nothing in common a cluster is a pair.
    """
    of_pairs = values.groupby(["other_class", "class_name"]).mean()
    named = [category for pair in of_pairs.index for category in pair if category]
    together = len(set(named)) < len(named)
    return by_category(of_pairs, level) if together else over_clusters(values, level, "category")
