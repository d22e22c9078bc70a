"""The layer strip: each layer of the net with what keeping everything up to it does to test accuracy."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerwise.report.summary import NET, changes, ends, over_clusters

KEPT_THEN_FRESH = r"F*\d*\*?R*\d*\*?"  # F3R5, F*R, R8, FFRR: other treatments keep layers in other ways


@dataclass(frozen=True)
class Bar:
    """A change with its interval, and where its bar and whisker stand, in per cent of the cell from the top."""

    change: float
    low: float | None
    high: float | None
    clusters: int
    top: float
    height: float
    whisker_top: float | None
    whisker_height: float | None

    @property
    def label(self) -> float:
        """Where the number stands: at the far end of bar and whisker, above a gain and below a loss."""
        if self.change >= 0:
            return self.top if self.whisker_top is None else min(self.top, self.whisker_top)
        end = self.top + self.height
        if self.whisker_top is None or self.whisker_height is None:
            return end
        return max(end, self.whisker_top + self.whisker_height)


@dataclass(frozen=True)
class Strip:
    """Layers in forward order; under them a line of bars for each number of samples per class."""

    layers: tuple[dict[str, Any], ...]  # name, parameters, share
    lines: tuple[tuple[int, tuple[Bar | None, ...]], ...]  # samples per class, a bar a layer
    zero: float  # where the zero line stands, in per cent from the top


def strip(rows: pd.DataFrame) -> Strip | None:
    """The strip at the fewest and the most samples per class; null without layer rows or without a plain grid of n."""
    sizes = rows[rows["run_key"].isna() & rows["layer"].notna() & (rows["quantity"] == "parameters")]
    if sizes.empty:
        return None
    net = sizes["net"].iloc[0]
    sizes = sizes.drop_duplicates("layer")
    if pd.notna(net):
        rows = rows[rows["net"] == net]
    table = over_clusters(changes(_plain_grid(ends(_kept_then_fresh(rows)))), ["shots", "n"])
    if table.empty:
        return None
    ends_of_scale = table[["mean", "low", "high"]].fillna(0.0)
    bottom, top = min(0.0, float(ends_of_scale.min().min())), max(0.0, float(ends_of_scale.max().max()))
    span = (top - bottom) or 1.0
    total = float(sizes["value"].sum()) or 1.0
    layers = tuple(
        {"name": str(row["layer"]), "parameters": int(row["value"]), "share": float(row["value"]) / total}
        for row in sizes.to_dict("records")
    )
    few_and_many = sorted({int(table["shots"].min()), int(table["shots"].max())})
    lines = tuple((shots, _bars(table[table["shots"] == shots], len(layers), top, span)) for shots in few_and_many)
    return Strip(layers, lines, 100 * top / span)


def _kept_then_fresh(rows: pd.DataFrame) -> pd.DataFrame:
    """Nets that keep layers that have learnt another task, or none."""
    rows = rows[~(rows["source_task"] == rows["target_task"]).fillna(False)]
    return rows[rows["treatment"].str.fullmatch(KEPT_THEN_FRESH).fillna(False)]


def _plain_grid(rows: pd.DataFrame) -> pd.DataFrame:
    """The first experiment with one run for each cluster, trial, number of samples and n.

    In others n alone does not say what was done: layers are copied from several sources, or by several rules.
    """
    for _, part in rows.groupby("experiment", sort=False, dropna=False):
        if not part.duplicated([*NET, "shots", "n"]).any():
            return part
    return rows.head(0)


def _bars(table: pd.DataFrame, layers: int, top: float, span: float) -> tuple[Bar | None, ...]:
    by_n = {int(row["n"]): row for row in table.to_dict("records")}
    return tuple(_bar(by_n[n], top, span) if n in by_n else None for n in range(1, layers + 1))


def _bar(row: dict[Any, Any], top: float, span: float) -> Bar:
    """Where a bar from zero to the mean stands on the common scale."""
    low, high = (None if pd.isna(row[name]) else float(row[name]) for name in ("low", "high"))
    mean = float(row["mean"])
    return Bar(
        mean, low, high, int(row["clusters"]),
        top=100 * (top - max(mean, 0.0)) / span,
        height=100 * abs(mean) / span,
        whisker_top=None if high is None else 100 * (top - high) / span,
        whisker_height=None if high is None or low is None else 100 * (high - low) / span,
    )  # fmt: skip
