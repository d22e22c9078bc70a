"""Groups: images that must be on one side of train, validation and test, as those of one person or one scene."""

from collections.abc import Mapping, Sequence

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

    A group is passed over where none of its classes lacks images any more, and where it would leave one of them without
    an image outside: a class that is one group stays as it is. Groups that overshoot a goal by more than half of it are
    tried last.
    """
    kinds, at = np.unique(groups, return_inverse=True)
    sizes = np.zeros((len(kinds), len(goals)), np.int64)  # images of each class in each group
    np.add.at(sizes, (at.reshape(-1), labels), 1)
    position = {int(kind): k for k, kind in enumerate(kinds)}
    left, lacking = sizes.sum(0), goals.copy()
    chosen: list[int] = []
    for patience in (0.5, np.inf):
        for group in order.tolist():
            own = sizes[position[group]]
            has = own > 0
            wanted = bool((lacking[has] > 0).any()) and group not in chosen
            fits = bool((own[has] <= np.maximum(lacking[has], 0) + patience * np.maximum(goals[has], 1)).all())
            if wanted and fits and bool((left[has] > own[has]).all()):
                chosen.append(group)
                left, lacking = left - own, lacking - own
    return np.array(chosen, np.int64)
