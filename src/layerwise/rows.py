"""Rows: every number the product shows, one measurement a line, in one table.

A table, a plot, a claim and a report are all made from rows, never from anything else. What does not apply to a
measurement is null. Accuracies are fractions, not per cent.

    >>> rows = frame([{"study": "gutstein", "treatment": "F5R", "n": 5, "quantity": "accuracy", "value": 0.62}])
    >>> rows[["treatment", "n", "quantity", "value"]].to_dict("records")
    [{'treatment': 'F5R', 'n': 5, 'quantity': 'accuracy', 'value': 0.62}]
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

COLUMNS: dict[str, str] = {
    "run_key": "string",  # which run was measured; see run.key
    "source_key": "string",  # the run its copied layers come from
    "study": "string",
    "experiment": "string",  # of the study, where it has several
    "condition": "string",  # what was done, in the paper's words: AnB+, lesion, scratch; of advice, its verdict
    "net": "string",
    "data": "string",  # the data set's locator as the user wrote it, without its path
    "source_task": "string",  # names of tasks: equal names, equal classes and split
    "target_task": "string",
    "treatment": "string",
    "n": "Int64",  # layers copied
    "layer": "string",
    "part": "string",  # of a layer: weights, biases, norms, buffers, all; activations
    "unit": "Int64",
    "class_name": "string",
    "shots": "Int64",  # training samples per class
    "split": "string",  # train, validation, test
    "trial": "Int64",
    "seed": "Int64",
    "cluster": "string",  # of the independent repetitions (class splits, worlds, categories), which: see claims.HOW
    "step": "Int64",  # optimiser steps taken when it was measured
    "quantity": "string",
    "value": "float64",
    "low": "float64",  # a 95 % interval of the value
    "high": "float64",
    "group": "string",  # of classes: known, unknown, all
    "other_net": "string",  # with which a layer is compared, and in which layer of it
    "other_layer": "string",
    "other_class": "string",  # the one that a class is compared with
    "reason": "string",  # why there is no value
    "picture": "string",  # an image that was measured, as an address that holds it
}


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A table with every column of COLUMNS in order; an unknown column is an error, a missing one is null."""
    table = pd.DataFrame.from_records(list(rows))
    if strange := sorted(set(table.columns) - set(COLUMNS)):
        raise ValueError(f"rows have unknown columns {strange}; known: {list(COLUMNS)}")
    return table.reindex(columns=list(COLUMNS)).astype(COLUMNS)


def write(rows: pd.DataFrame, folder: Path) -> None:
    """Write `rows.parquet` and `rows.csv` into the folder."""
    rows.to_parquet(folder / "rows.parquet", index=False)
    rows.to_csv(folder / "rows.csv", index=False)


def read(folder: Path) -> pd.DataFrame:
    """The rows of a folder that `write` filled, equal to those written; in old ones, seeds are the clusters."""
    written = pd.read_parquet(folder / "rows.parquet")
    found = written.reindex(columns=list(COLUMNS)).astype(COLUMNS)
    if "cluster" in written:
        return found
    return found.assign(cluster=found["class_name"].where(found["study"] == "grand", found["seed"].astype("string")))


def pick(rows: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows whose columns have the wanted values; a list or range means any of them.

    >>> rows = frame([{"n": n, "value": n / 10} for n in range(4)])
    >>> pick(rows, n=[1, 3]).value.tolist()
    [0.1, 0.3]
    """
    for column, value in wanted.items():
        rows = rows[
            rows[column].isin(list(value)) if isinstance(value, list | tuple | range) else rows[column] == value
        ]
    return rows


def final(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last step: the learning curves' ends."""
    return rows[rows["step"] == rows.groupby("run_key")["step"].transform("max")]


def slopes(table: pd.DataFrame, x: Sequence[float]) -> "pd.Series[float]":
    """The least-squares slope of each line's values on x, one number a column; null where a value is."""
    centred = np.asarray(x, float) - np.mean(np.asarray(x, float))
    return (table * centred).sum(axis=1, skipna=False) / (centred**2).sum()
