"""Near copies: one picture saved twice, in another quality or another size, which is not equal pixel for pixel.

Each image becomes a thumbnail of grey levels; two are near copies where their thumbnails correlate almost perfectly.
What is found is told and left as it is: simple drawings of different things may be as alike. Another crop is not found.
"""

import numpy as np
from jaxtyping import Float, Int

from layerwise.data.dataset import COPIES, PARTS, DataSet
from layerwise.data.pictures import Options, fit

SIDE = 16  # pixels of a thumbnail
# Correlation. Of 4,000 pictures of Tiny ImageNet no two reach 0.94. Of 300 of them that were made smaller by half and
# saved at quality 75, or only saved at quality 30, 99 in 100 stay above 0.994. Of 3,410 drawn characters one in 100 is
# as like another.
ALIKE = 0.99
FLAT = 2.0  # grey levels of deviation below which a thumbnail shows nothing
BLOCK = 1_024  # images compared at once with all before them
MOST = 30_000  # images: every one is compared with every other


def pairs(images: np.ndarray, same: np.ndarray | None = None) -> Int[np.ndarray, "pairs 2"] | None:
    """Positions of images (examples, channels, height, width) that are near copies, the earlier one first.

    Those of equal `same` are left out: they are copies to the pixel. Null where there are more pairs than images: of
    such images likeness at this size tells nothing, and the pairs of many might not fit into memory.
    """
    small = thumbnails(images)
    found, count = [np.empty((0, 2), np.int64)], 0
    for start in range(0, len(small), BLOCK):
        rows = small[start : start + BLOCK]
        later, earlier = np.nonzero(rows @ small[: start + len(rows)].T >= ALIKE)
        later += start
        is_pair = earlier < later
        if same is not None:
            is_pair &= same[earlier] != same[later]
        found.append(np.stack([earlier, later], 1)[is_pair])
        if (count := count + len(found[-1])) > len(images):
            return None
    return np.concatenate(found)


def thumbnails(images: np.ndarray) -> Float[np.ndarray, "examples pixels"]:
    """Small grey images less their mean, of length 1, so that a product is a correlation; 0 where nothing is seen."""
    shrunk = fit(fit(images, Options(SIDE)), Options(grey=True))  # in this order: of large images it takes a tenth
    small = shrunk.reshape(len(images), -1).astype(np.float32)
    small -= small.mean(1, keepdims=True)
    small[small.std(1) < FLAT] = 0
    return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)


def notes(dataset: DataSet, names: tuple[str, ...] = ()) -> list[str]:
    """What is to be said of near copies: how many pairs, an example, and which are on two sides or in two classes."""
    count = len(dataset.images)
    if count > MOST:
        return [f"near copies were not looked for among {count:,} images; that is done up to {MOST:,}"]
    found = pairs(dataset.images, dataset.columns.get(COPIES))
    if found is None:
        return [f"near copies cannot be told: of {count:,} images more pairs are alike at {SIDE}x{SIDE} pixels"]
    if len(found) == 0:
        return []
    split = dataset.columns.get("split", np.full(count, PARTS[0]))
    apart = found[split[found[:, 0]] != split[found[:, 1]]]
    told = [f"{_counted(found, names)}: one picture, perhaps, in another quality or size; none is left out"]
    if len(apart):
        told.append(f"CAUTION: {_counted(apart, names)}, and in different parts: what is measured may be too good")
    if len(odd := found[dataset.labels[found[:, 0]] != dataset.labels[found[:, 1]]]):
        told.append(f"{_counted(odd, names)}, and in different classes")
    return told


def _counted(found: Int[np.ndarray, "pairs 2"], names: tuple[str, ...]) -> str:
    one, other = (names[k] if names else f"image {k}" for k in found[0])
    are = "pair of images is" if len(found) == 1 else "pairs of images are"
    return f"{len(found):,} {are} almost alike (such as {one} and {other})"
