"""Stimuli: arrays of oriented light bars on dark, all alike or with an odd one.

Ahissar and Hochstein 1997, "Task difficulty and the specificity of perceptual learning", Nature 387, had people say
whether one bar of a 7x7 array was of another orientation than all others. The difference in orientation sets the
difficulty; the orientation of the others, and where the odd one may stand, are what learning may be specific to.

A class is a kind of array: `even 0-90` has no odd bar, and `odd 30 left 0-90` has one in the left half, turned by 30
degrees either way. The bars' common orientation is drawn from the class's quarter turn, 0 to 90 degrees here, so that
which orientation is odd differs from array to array. A task is an odd class against the even class of its quarter turn;
of what it does not share, two tasks differ in nothing else. Quarter turns that begin 90 degrees apart are complements.

Sample i of a class is a function of (seed, class, i) alone, and an array is the same at every size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from layerwise.errors import DataError
from layerwise.randomness import generator

SIZE = 32  # pixels of a side, which the small nets for grey images here take
ELEMENTS = 5  # bars in a row, and rows; 7 of them, as people saw, have under 5 pixels each
STARTS = (0, 45, 90, 135)  # of the quarter turns, in degrees counterclockwise from horizontal
DIFFERENCES = (30, 16)  # degrees; easy and hard
SIDES = ("left", "right")  # the columns before and after the middle one
LENGTH, WIDTH, JITTER = 0.9, 0.3, 0.03  # of a bar, and its shift at most: in distances from bar to bar
FINEST = 4  # pixels from bar to bar, below which orientations can no longer be seen
CHUNK = 100  # arrays drawn at once, always: a fixed shape gives the same bits however many are asked for


@dataclass(frozen=True)
class Kind:
    """A class: what its arrays have in common."""

    start: int  # of the quarter turn that the common orientation is drawn from
    difference: int = 0  # of the odd bar from the others; 0 where there is none
    side: str = "none"  # on which the odd bar stands

    @property
    def orientations(self) -> str:
        return f"{self.start}-{self.start + 90}"

    @property
    def name(self) -> str:
        what = f"odd {self.difference} {self.side}" if self.difference else "even"
        return f"{what} {self.orientations}"

    @property
    def even(self) -> "Kind":
        """The same without an odd bar."""
        return Kind(self.start)

    @property
    def label(self) -> int:
        """Its class in the data set."""
        return KINDS.index(self)


KINDS = tuple(
    kind
    for start in STARTS
    for kind in (Kind(start), *(Kind(start, difference, side) for difference in DIFFERENCES for side in SIDES))
)
CLASS_COLUMNS = {
    "array": tuple("odd" if kind.difference else "even" for kind in KINDS),
    "difference": tuple(str(kind.difference) for kind in KINDS),
    "orientations": tuple(kind.orientations for kind in KINDS),
    "side": tuple(kind.side for kind in KINDS),
}


@dataclass(frozen=True)
class Drawn:
    """Arrays, class by class, and per array what it was drawn with."""

    images: UInt8[np.ndarray, "examples 1 size size"]  # light 255 on dark
    labels: np.ndarray
    columns: dict[str, np.ndarray]  # difference and orientation in degrees; position in rows from the top left, or -1


def draw(per_class: int, seed: int, size: int = SIZE) -> Drawn:
    """So many arrays of each kind; DataError where bars would be too small to have an orientation."""
    if size < FINEST * ELEMENTS:
        raise DataError(
            f"stimuli of {size}x{size} pixels have bars of under {FINEST}; pass --resize {FINEST * ELEMENTS} or more"
        )
    images = np.empty((len(KINDS), per_class, 1, size, size), np.uint8)
    orientation, position = np.empty((len(KINDS), per_class)), np.empty((len(KINDS), per_class), np.int64)
    for label, kind in enumerate(KINDS):
        start = 0
        for angles, shifts, common, odd in arrays(kind, seed):
            part, left = slice(start, start + CHUNK), per_class - start
            images[label, part, 0] = rendered(angles, shifts, size)[:left]
            orientation[label, part], position[label, part] = common[:left] % 180, odd[:left]
            start += CHUNK
            if start >= per_class:
                break
    difference = np.repeat([float(kind.difference) for kind in KINDS], per_class)
    columns = {"difference": difference, "orientation": orientation.ravel(), "position": position.ravel()}
    return Drawn(images.reshape(-1, 1, size, size), np.repeat(np.arange(len(KINDS)), per_class), columns)


def arrays(kind: Kind, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Endless chunks of arrays of a kind: angles of the bars in degrees (CHUNK, rows, columns), their shifts right and
    down (CHUNK, rows, columns, 2), the common orientations (CHUNK) and the odd bars' positions (CHUNK), -1 for none."""
    stream = generator("stimuli", seed, kind.name)
    while True:
        draws = stream.random((CHUNK, 3 + 2 * ELEMENTS**2))
        common = kind.start + 90 * draws[:, 0]
        angles = np.repeat(common, ELEMENTS**2).reshape(CHUNK, -1)
        odd = np.full(CHUNK, -1)
        if kind.difference:
            allowed = positions(kind.side)
            odd = allowed[(draws[:, 2] * len(allowed)).astype(np.int64)]
            angles[np.arange(CHUNK), odd] += np.where(draws[:, 1] < 0.5, -kind.difference, kind.difference)
        shifts = JITTER * (2 * draws[:, 3:] - 1)
        form = (CHUNK, ELEMENTS, ELEMENTS)
        yield angles.reshape(form), shifts.reshape(*form, 2), common, odd


def positions(side: str) -> np.ndarray:
    """Where an odd bar may stand on this side, counted in rows from the top left."""
    column = np.arange(ELEMENTS**2) % ELEMENTS
    half = ELEMENTS // 2
    return np.flatnonzero(column < half if side == "left" else column >= ELEMENTS - half)


def rendered(
    angles: Float[np.ndarray, "arrays rows rows"], shifts: Float[np.ndarray, "arrays rows rows 2"], size: int
) -> UInt8[np.ndarray, "arrays size size"]:
    """Pictures of arrays; a pixel is as light as the share of it that its bar covers, along the bar times across."""
    pitch = size / angles.shape[1]
    middles = np.arange(size) + 0.5
    cell = (middles / pitch).astype(np.int64)  # the row, or column, of bars that a row of pixels belongs to
    offset = (middles - (cell + 0.5) * pitch).astype(np.float32)
    turned = np.radians(angles)
    cosine, sine, right, down = (
        part.astype(np.float32)[:, cell[:, None], cell]
        for part in (np.cos(turned), np.sin(turned), pitch * shifts[..., 0], pitch * shifts[..., 1])
    )
    x, y = offset - right, offset[:, None] - down  # from the bar's middle to the pixel's, y downwards
    along, across = x * cosine - y * sine, x * sine + y * cosine
    light = covered(along, LENGTH * pitch) * covered(across, WIDTH * pitch)
    return np.rint(255 * light).astype(np.uint8)


def covered(distance: Float[np.ndarray, "*any"], length: float) -> Float[np.ndarray, "*any"]:
    """The share of a pixel at this distance from the middle of an interval of so many pixels that lies in it.

    >>> covered(np.array([0.0, 1.0, 1.5, 2.0]), 3.0).tolist()
    [1.0, 1.0, 0.5, 0.0]
    """
    return np.clip(np.minimum(distance + 0.5, length / 2) - np.maximum(distance - 0.5, -length / 2), 0, 1)
