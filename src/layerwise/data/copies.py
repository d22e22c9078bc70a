"""Copies: images that are equal pixel for pixel, within a data set and across its published parts.

Images are compared as they are used, decoded and resized: so equal files are found, and equal pictures in different
files. What is merely alike is not.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from layerwise.data.dataset import COPIES, PARTS, DataSet, digest

CURE = "--drop-duplicates leaves them out"


def firsts(images: np.ndarray) -> Int[np.ndarray, " examples"]:
    """The position of the first image that has the same pixels: its own, where an image is no copy."""
    seen: dict[bytes, int] = {}
    return np.array(
        [
            seen.setdefault(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest(), position)
            for position, image in enumerate(images)
        ],
        np.int64,
    )


def checked(dataset: DataSet, *, drop: bool = False) -> DataSet:
    """The data set with a note of its copies and a column by which they are kept together, or without them.

    Dropped are, from training, what validation or test have too, and all but the first of those that training has more
    than once; from validation what test has too. A test part is left as it was published.
    """
    same = firsts(dataset.images)
    if (same == np.arange(len(same))).all():
        return dataset
    split = dataset.columns.get("split", np.full(len(same), PARTS[0]))
    notes = [*dataset.notes, *_shared(dataset, same, split, drop=drop)]
    if drop:
        keep = ~superfluous(same, split)
        left = f"{np.sum(~keep):,} copies were left out: {np.sum(keep):,} of {len(keep):,} images are used"
        return _only(dataset, keep, [*notes, left])
    return replace(dataset, columns={**dataset.columns, COPIES: same}, notes=(*notes, _told(dataset, same)))


def superfluous(same: Int[np.ndarray, " examples"], split: np.ndarray) -> Bool[np.ndarray, " examples"]:
    """Which images to drop, so that no image is in two parts, nor twice in training."""
    train, validation, test = (split == part for part in PARTS)
    repeated = np.ones(len(same), bool)
    repeated[np.flatnonzero(train)[np.unique(same[train], return_index=True)[1]]] = False
    shared = np.isin(same, same[test]) & ~test | np.isin(same, same[validation]) & train
    return shared | train & repeated


def _shared(dataset: DataSet, same: np.ndarray, split: np.ndarray, *, drop: bool) -> list[str]:
    """What two published parts have in common, loudly."""
    told = []
    for one, other in (("train", "test"), ("validation", "test"), ("train", "validation")):
        both = np.isin(same, same[split == one]) & (split == other)
        if both.any():
            last = int(np.argmax(both))
            first = int(np.argmax((same == same[last]) & (split == one)))
            told.append(
                f"CAUTION: {np.sum(both):,} of {np.sum(split == other):,} {other} images are in {one} too, pixel for "
                f"pixel (such as {_name(dataset, first)} and {_name(dataset, last)}): what is measured on them is too "
                f"good" + ("" if drop else f"; {CURE} of {one}")
            )
    return told


def _told(dataset: DataSet, same: np.ndarray) -> str:
    """How many copies there are, and two examples."""
    copy = int(np.argmax(same != np.arange(len(same))))
    count = int(np.sum(same != np.arange(len(same))))
    pair = f"{_name(dataset, int(same[copy]))} and {_name(dataset, copy)}"
    text = f"{count:,} image{'s are copies' if count > 1 else ' is a copy'} of others, pixel for pixel (such as {pair})"
    if len(odd := np.flatnonzero(dataset.labels != dataset.labels[same])):
        one, other = (dataset.class_names[dataset.labels[k]] for k in (same[odd[0]], odd[0]))
        pair = f"{_name(dataset, int(same[odd[0]]))} is '{one}', {_name(dataset, int(odd[0]))} is '{other}'"
        text += f"; {len(odd):,} of them in another class ({pair})"
    return f"{text}; where images are parted at random, copies stay on one side; {CURE}"


def _name(dataset: DataSet, position: int) -> str:
    return dataset.reading.names[position] if dataset.reading.names else f"image {position}"


def _only(dataset: DataSet, keep: np.ndarray, notes: list[str]) -> DataSet:
    """Some of the images, with the digest that they have."""
    images, labels = dataset.images[keep], dataset.labels[keep]
    columns: Mapping[str, np.ndarray] = {key: values[keep] for key, values in dataset.columns.items()}
    names = tuple(name for name, is_kept in zip(dataset.reading.names, keep, strict=False) if is_kept)
    return replace(
        dataset, images=images, labels=labels, columns=dict(columns), notes=tuple(notes),
        digest=digest(images, labels, dataset.class_names, columns, dataset.class_columns),
        reading=replace(dataset.reading, names=names),
    )  # fmt: skip
