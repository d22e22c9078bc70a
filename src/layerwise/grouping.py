"""Groups: images that must be on one side of train, validation and test, as those of one person or one scene."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from layerwise.errors import DataError


def together(columns: Mapping[str, np.ndarray], names: Sequence[str], images: int) -> Int[np.ndarray, " images"]:
    """The number of each image's group: equal where images are linked by equal values of any of these columns.

    Two images of one person are, and so is a third of another person that is a copy of either. Raises DataError for a
    column that the data lack.
    """
    edges = []
    for name in names:
        if name not in columns:
            have = ", ".join(sorted(columns)) or "none"
            raise DataError(f"the data have no column '{name}' to group images by; they have: {have}")
        _, first, values = np.unique(columns[name], return_index=True, return_inverse=True)
        edges.append(np.stack([first[values.reshape(-1)], np.arange(images)]))
    start, end = np.concatenate(edges, 1)
    graph = coo_array((np.ones(len(start), bool), (start, end)), (images, images))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def draw_groups(
    labels: Int[np.ndarray, " images"],
    groups: Int[np.ndarray, " images"],
    goals: Int[np.ndarray, " classes"],
    order: Int[np.ndarray, " groups"],
) -> Int[np.ndarray, " chosen"]:
    """Groups, in this order, until each class has as many images as its goal, where that can be.

    First come those that bring nothing beyond the goals, then those of which a quarter, a half, or anything is beyond
    them. None is taken that would leave a class without an image outside: a class that is one group stays as it is.
    """
    if len(groups) == 0:
        return np.empty(0, np.int64)
    found = _drawn(*(np.ascontiguousarray(one, np.int64).tobytes() for one in (labels, groups, goals, order)))
    return np.frombuffer(found, np.int64)


@lru_cache(maxsize=16)  # all tasks of a study part their data alike
def _drawn(*given: bytes) -> bytes:
    labels, groups, goals, order = (np.frombuffer(one, np.int64) for one in given)
    kinds, counts = np.unique(np.stack([groups, labels]), axis=1, return_counts=True)
    cuts = np.flatnonzero(np.diff(kinds[0])) + 1
    sizes = {  # the classes of each group, and how many images it has of each
        int(group[0]): (own, count)
        for group, own, count in zip(*(np.split(one, cuts) for one in (*kinds, counts)), strict=True)
    }
    left, lacking = np.bincount(labels, minlength=len(goals)), goals.copy()
    chosen: dict[int, None] = {}
    for most in (0, 0.25, 0.5, 1):
        for group in order.tolist():
            if not (lacking > 0).any():
                break
            own, count = sizes[group]
            beyond = count.sum() - np.minimum(count, lacking[own].clip(0)).sum()
            fits = group not in chosen and beyond < count.sum() and beyond <= most * count.sum()
            if fits and (left[own] > count).all():
                chosen[group] = None
                left[own] -= count
                lacking[own] -= count
    return np.array(list(chosen), np.int64).tobytes()
