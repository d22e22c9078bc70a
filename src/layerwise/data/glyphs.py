"""Glyphs: as many images as wanted of the 62 characters 0-9 A-Z a-z, drawn from the fonts that matplotlib ships.

Each sample has its own font, stroke width, slant, rotation, scale, place and smooth deformation (in the manner of
Simard et al. 2003, "Best practices for convolutional neural networks applied to visual document analysis"), so the task
is neither solved by comparing pixels nor out of a small network's reach. Every character is rendered once per font and
stroke at four times the final size; the samples are warps of these, CHUNK at a time.

Sample i of a class is a function of (seed, class, i) alone: fewer samples are a prefix of more.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Every face here has all 62 characters and shows each as that character (cmex10, cmsy10 and LastResort do not; cmmi10's
# digits hang below the line).
FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
SIZE = 32  # pixels of a side
FINE = 4  # pixels of a rendered character per pixel of the final image
CAPITAL = 16.5  # height of an H in final pixels, whatever the font calls its size
STROKES = (-1, 0, 1, 2)  # fine pixels by which the ink is grown on each side; -1 thins it
CHUNK = 128  # samples warped at once, always: a fixed shape gives the same bits however many are asked for

SLANT = 0.2  # greatest horizontal shift per pixel of height
TURN = 8.0  # greatest rotation in degrees
SCALE = (0.85, 1.1)  # smallest and greatest scale, of each axis by itself within STRETCH of the other
STRETCH = 0.1
SHIFT = 1.6  # greatest shift in final pixels
KNOTS = 5  # the deformation is a smooth surface through KNOTS x KNOTS random displacements
WOBBLE = 0.9  # their standard deviation in final pixels


def draw(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (62 * per_class, 1, 32, 32) in uint8, white ink (255) on black, and their labels, class by class."""
    images = np.empty((len(CHARACTERS), per_class, 1, SIZE, SIZE), np.uint8)
    for label, character in enumerate(CHARACTERS):
        renderings = rendered(character)  # (faces * strokes, 128, 128)
        start = 0
        for chunk in warps(renderings, seed, label):
            images[label, start : start + CHUNK] = chunk[: per_class - start]
            start += CHUNK
            if start >= per_class:
                break
    return images.reshape(-1, 1, SIZE, SIZE), np.repeat(np.arange(len(CHARACTERS)), per_class)


def rendered(character: str) -> torch.Tensor:
    """The character in every face and stroke, (faces * strokes, 128, 128), ink 1 on 0, its line at the same height."""
    plainly = torch.from_numpy(np.stack([np.asarray(plain(character, face)) for face in FACES])).float() / 255
    return torch.cat([grown(plainly, stroke) for stroke in STROKES])


def plain(character: str, face: str) -> Image.Image:
    """The character in one face, centred in its width; an H stands a pixel above the middle, room for descenders."""
    font = scaled(face)
    left, _, right, _ = font.getbbox(character, anchor="ls")
    side = SIZE * FINE
    picture = Image.new("L", (side, side))
    place = ((side - left - right) / 2, (side + CAPITAL * FINE) / 2 - FINE)
    ImageDraw.Draw(picture).text(place, character, fill=255, font=font, anchor="ls")
    return picture


@functools.cache
def scaled(face: str) -> ImageFont.FreeTypeFont:
    """The face at the size at which its H is CAPITAL pixels high."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    _, top, _, bottom = ImageFont.truetype(str(path), 1000).getbbox("H", anchor="ls")
    return ImageFont.truetype(str(path), 1000 * CAPITAL * FINE / (bottom - top))


def grown(pictures: torch.Tensor, stroke: int) -> torch.Tensor:
    """The ink grown by `stroke` pixels on each side, or thinned, never below the half of what it was (hairlines)."""
    if stroke < 0:
        return torch.maximum(1 - grown(1 - pictures, -stroke), pictures / 2)
    return F.max_pool2d(pictures[:, None], 1 + 2 * stroke, 1, stroke)[:, 0]


def warps(renderings: torch.Tensor, seed: int, label: int) -> Iterator[np.ndarray]:
    """Endless chunks (CHUNK, 1, 32, 32) of samples of one class, in uint8."""
    uniform = np.random.default_rng([seed, label, 0])
    normal = np.random.default_rng([seed, label, 1])
    while True:
        draws = uniform.random((CHUNK, 7))
        which = torch.from_numpy((draws[:, 0] * len(renderings)).astype(np.int64))
        matrix, shift = pose(2 * draws[:, 1:] - 1)
        knots = WOBBLE * normal.standard_normal((CHUNK, 2, KNOTS, KNOTS))
        places = sampled(*(torch.from_numpy(part).float() for part in (matrix, shift, knots)))
        fine = F.grid_sample(renderings[which, None], places, align_corners=False)  # (CHUNK, 1, 64, 64)
        yield (F.avg_pool2d(fine, 2) * 255).round().to(torch.uint8).numpy()


def pose(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From numbers in [-1, 1], (samples, 6): the matrices (samples, 2, 2) from image to rendering, and the shifts."""
    turn, slant, size, stretch = np.radians(TURN) * draws[:, 0], SLANT * draws[:, 1], draws[:, 2], STRETCH * draws[:, 3]
    scale = np.exp(np.interp(size, [-1, 1], np.log(SCALE)))
    wide, high = 1 / (scale * np.exp(stretch)), 1 / (scale * np.exp(-stretch))
    cosine, sine = np.cos(turn), np.sin(turn)
    rows = [[wide * (cosine + slant * sine), wide * (slant * cosine - sine)], [high * sine, high * cosine]]
    return np.moveaxis(np.array(rows), -1, 0), SHIFT * draws[:, 4:]


def sampled(matrix: torch.Tensor, shift: torch.Tensor, knots: torch.Tensor) -> torch.Tensor:
    """Where in the rendering each point of an image of twice the final size comes from, (samples, 64, 64, 2)."""
    ticks = (torch.arange(2 * SIZE) + 0.5) / 2 - SIZE / 2  # final pixels from the middle
    x, y = ticks.expand(2 * SIZE, -1)[None], ticks[:, None].expand(-1, 2 * SIZE)[None]
    wobble = F.interpolate(knots, size=SIZE, mode="bicubic", align_corners=True)
    wobble = F.interpolate(wobble, scale_factor=2, mode="bilinear")  # (samples, 2, 64, 64)
    x, y = (axis - shift[:, i, None, None] + wobble[:, i] for i, axis in enumerate((x, y)))
    a = matrix[:, :, :, None, None]
    return torch.stack([a[:, 0, 0] * x + a[:, 0, 1] * y, a[:, 1, 0] * x + a[:, 1, 1] * y], -1) / (SIZE / 2)
