"""Small pictures of probed images, on one sheet, which stand in the report for the points of an embedding."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from layerwise.png import address, png

NAME = "thumbnails"  # of the sheet among a probe's pictures, and of its numbers in plan.json
SIZE = 24  # pixels of a side
ACROSS = 40  # pictures in a row of the sheet


def sheet(images: UInt8[np.ndarray, "some channels height width"]) -> bytes:
    """The images made small, in rows from the upper left, as a PNG."""
    grey = images.shape[1] == 1
    high = -(-len(images) // ACROSS)
    made = Image.new("L" if grey else "RGB", (ACROSS * SIZE, high * SIZE))
    for number, pixels in enumerate(images):
        small = Image.fromarray(pixels[0] if grey else pixels.transpose(1, 2, 0)).resize((SIZE, SIZE))
        made.paste(small, _corner(number))
    return png(made)


def cut(content: bytes, numbers: Sequence[int]) -> dict[int, str]:
    """The pictures of a sheet by their numbers, in the sheet's order, as addresses that hold them."""
    whole = Image.open(io.BytesIO(content))
    found = {}
    for place, number in enumerate(numbers):
        left, top = _corner(place)
        found[number] = address(png(whole.crop((left, top, left + SIZE, top + SIZE))))
    return found


def _corner(number: int) -> tuple[int, int]:
    row, column = divmod(number, ACROSS)
    return column * SIZE, row * SIZE
