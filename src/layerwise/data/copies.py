"""Copies: images that are equal pixel for pixel, within a data set and across its published parts.

Images are compared as they are used, decoded and resized: so equal files are found, and equal pictures in different
files. What is merely alike is not: see `layerwise.data.alike`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from layerwise.data.dataset import COPIES, PARTS, DataSet, digest


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
    if drop:
        keep = ~superfluous(same, split)
        were = "copy was" if np.sum(~keep) == 1 else "copies were"
        left = f"{np.sum(~keep):,} {were} left out: {np.sum(keep):,} of {len(keep):,} images are used"
        fewer = _only(dataset, keep, [*dataset.notes, left])
        return fewer if (same := same[keep]).size == len(np.unique(same)) else _with_copies(fewer)
    notes = (*dataset.notes, *_shared(dataset, same, split), *_repeated(dataset, same, split))
    return replace(dataset, columns={**dataset.columns, COPIES: same}, notes=notes)


def _with_copies(dataset: DataSet) -> DataSet:
    """What is left of copies once they are dropped is in a published test part."""
    same = firsts(dataset.images)
    count = len(same) - len(np.unique(same))
    note = f"the test part has {count:,} cop{'y' if count == 1 else 'ies'} of its own images, and is left as published"
    return replace(dataset, columns={**dataset.columns, COPIES: same}, notes=(*dataset.notes, note))


def superfluous(same: Int[np.ndarray, " examples"], split: np.ndarray) -> Bool[np.ndarray, " examples"]:
    """Which images to drop, so that no image is in two parts, nor twice in training."""
    train, validation, test = (split == part for part in PARTS)
    repeated = np.ones(len(same), bool)
    repeated[np.flatnonzero(train)[np.unique(same[train], return_index=True)[1]]] = False
    shared = np.isin(same, same[test]) & ~test | np.isin(same, same[validation]) & train
    return shared | train & repeated


def _shared(dataset: DataSet, same: np.ndarray, split: np.ndarray) -> list[str]:
    """What two published parts have in common, loudly."""
    told = []
    for one, other in (("train", "test"), ("validation", "test"), ("train", "validation")):
        both = np.isin(same, same[split == one]) & (split == other)
        if both.any():
            last = int(np.argmax(both))
            first = int(np.argmax((same == same[last]) & (split == one)))
            some = f"{np.sum(both):,} of {np.sum(split == other):,} {other} images"
            pair = f"{_name(dataset, first)} and {_name(dataset, last)}"
            are = "is" if np.sum(both) == 1 else "are"
            told.append(
                f"CAUTION: {some} {are} in {one} too, pixel for pixel (such as {pair}): what is measured on {other} is "
                f"too good; --drop-duplicates leaves them out of {one}"
            )
    return told


def _repeated(dataset: DataSet, same: np.ndarray, split: np.ndarray) -> list[str]:
    """How many copies one part has, or data without parts, and two examples; copies in two classes are worse."""
    parts = np.unique(split, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([parts, same]), axis=1, return_index=True, return_inverse=True)
    before = pairs[1][pairs[2].reshape(-1)]  # the first copy in the same part
    told = []
    if len(copies := np.flatnonzero(before != np.arange(len(same)))):
        are = "image is a copy" if len(copies) == 1 else "images are copies"
        pair = f"{_name(dataset, int(before[copies[0]]))} and {_name(dataset, int(copies[0]))}"
        text = f"{len(copies):,} {are} of another, pixel for pixel (such as {pair})"
        kept = "" if "split" in dataset.columns else "; where images are parted at random, copies stay on one side"
        told.append(f"{text}{kept}; --drop-duplicates leaves all but one out")
    if len(odd := np.flatnonzero(dataset.labels != dataset.labels[same])):
        one, other = (dataset.class_names[dataset.labels[k]] for k in (same[odd[0]], odd[0]))
        pair = f"{_name(dataset, int(same[odd[0]]))} is '{one}', {_name(dataset, int(odd[0]))} is '{other}'"
        told.append(f"equal images are in different classes, {len(odd):,} in all: {pair}")
    return told


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
