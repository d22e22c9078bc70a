"""What a user asks of a study, and how much of it the data can give."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from layerwise.data.dataset import DataSet
from layerwise.errors import StudyError, unknown
from layerwise.tasks import TRAIN, Parts, choose_classes, part, split_classes

GROUP_COLUMNS = ("writer", "group")  # columns whose values are kept on one side without being asked
FORMS = "--split is random:SEED or column:NAME"


@dataclass(frozen=True)
class Request:
    """The options of a study; null is the scale's own."""

    data: DataSet
    net: str | None = None
    scale: str = "demo"
    seeds: int | None = None  # independent class splits, each with its own source
    trials: int | None = None  # of each source
    shots: tuple[int, ...] | None = None
    steps: int | None = None  # of a target
    source_steps: int | None = None  # of a source, then trained for just so many
    classes: str | None = None
    known: str | None = None  # the source's classes
    split: str | None = None  # random:SEED or column:NAME
    hold_out: str | None = None  # COLUMN:VALUES whose images are the test


@dataclass(frozen=True)
class Result:
    """A finished run's record, as far as rows are made of it."""

    key: str
    curve: tuple[tuple[int, str, str, float], ...]  # (step, split, quantity, value)
    train_flops: int
    parameters_trained: int


def scaled(request: Request, scales: Mapping[str, Any]) -> Any:
    """The scale's sizes, with what the request says instead."""
    if request.scale not in scales:
        raise StudyError(unknown("scale", request.scale, scales))
    asked = {name: getattr(request, name) for name in ("seeds", "trials", "shots", "steps")}
    for name, value in asked.items():
        if value is not None and min(value if isinstance(value, tuple) else (value,), default=0) < 1:
            raise StudyError(f"--{name} {value} is not possible; the least is 1")
    if len(set(request.shots or ())) != len(request.shots or ()):
        raise StudyError(f"--shots {','.join(map(str, request.shots or ()))} names a number twice")
    return replace(scales[request.scale], **{name: value for name, value in asked.items() if value is not None})


def fit_parts(request: Request, test: int, largest_shots: int) -> tuple[Parts, list[str]]:
    """How the data's images are parted for about so many test images a class, and what was fitted to do it.

    Published parts are kept. A `writer` or `group` column keeps each of its values on one side: the first so many train
    as the largest training set needs, the others test. Else images are drawn, and where a class has few, at most a
    quarter of them test.
    """
    data = request.data
    if request.hold_out is not None:
        column, values = _held_out(request.hold_out, data)
        return Parts(column, test, values), [f"test images: {column} {request.hold_out.partition(':')[2]}"]
    if "split" in data.columns:
        return Parts("published", test), [f"test images: at most {test} a class of the data's own test part"]
    for column in GROUP_COLUMNS:
        if column in data.columns and (held := _spare_groups(data, column, largest_shots)):
            kept = f"{column} {held[0]} to {held[-1]} are tested on, so that every test {column} is unseen"
            return Parts(column, test, tuple(map(str, held))), [f"test images: {kept}"]
    fewest = int(np.bincount(data.labels, minlength=len(data.class_names))[_chosen(request)].min())
    fitted = min(test, max(1, fewest // 4))
    notes = [f"test images: {fitted} a class, not {test}: the smallest class has {fewest} images"] * (fitted < test)
    return Parts("random", fitted), notes


def available(request: Request, parts: Parts) -> int:
    """Training images of the smallest of the classes in question."""
    data = request.data
    train = part(parts, data.labels, data.columns) == TRAIN
    return int(np.bincount(data.labels[train], minlength=len(data.class_names))[_chosen(request)].min())


def sides(request: Request, name: str, seed: int, most: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Source and target classes of one class split."""
    data, chosen = request.data, _chosen(request)
    form, _, value = (request.split or "random:0").partition(":")
    if request.known is not None:
        if request.split is not None:
            raise StudyError("--known fixes the source's classes and --split draws them; pass one of them")
        known = choose_classes(request.known, data.class_names)
        others = tuple(c for c in chosen if c not in known)
        if len(others) < 2 or len(known) < 2:
            raise StudyError(f"--known {request.known} leaves {len(others)} classes to the target; both sides need 2")
        return known, others[:most]
    if form == "column":
        if value not in data.class_columns:
            have = ", ".join(sorted(data.class_columns)) or "none"
            raise StudyError(f"--split column:{value}: the classes have no such column (they have: {have})")
        return split_classes(chosen, name, data.digest, seed, most=most, kinds=data.class_columns[value])
    if form != "random" or not re.fullmatch("[0-9]{1,9}", value):
        raise StudyError(f"--split {request.split} is not understood; {FORMS}")
    if len(chosen) < 4:
        raise StudyError(f"{len(chosen)} classes cannot be split into source and target; at least 4 are needed")
    return split_classes(chosen, name, data.digest, int(value), seed, most=most)


def _chosen(request: Request) -> list[int]:
    """The classes in question: all, or those of --classes."""
    names = request.data.class_names
    return list(range(len(names))) if request.classes is None else list(choose_classes(request.classes, names))


def _held_out(text: str, data: DataSet) -> tuple[str, tuple[str, ...]]:
    column, _, values = text.partition(":")
    if column not in data.columns or not values:
        have = ", ".join(sorted(data.columns)) or "none"
        raise StudyError(f"--hold-out {text} is not COLUMN:VALUES of the data, such as writer:40-54 (columns: {have})")
    known = sorted({str(value) for value in data.columns[column].tolist()}, key=_natural)
    return column, tuple(known[position] for position in choose_classes(values, known))


def _spare_groups(data: DataSet, column: str, shots: int) -> list[Any]:
    """The groups that are not needed for a training part of so many images in every class."""
    groups = np.unique(data.columns[column]).tolist()
    for enough in range(1, len(groups)):
        train = np.isin(data.columns[column], groups[:enough])
        if np.bincount(data.labels[train], minlength=len(data.class_names)).min() >= shots:
            return groups[enough:]
    return []


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdigit() else (0, piece) for piece in re.split(r"(\d+)", text)]
