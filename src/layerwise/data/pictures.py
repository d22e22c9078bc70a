"""Picture files, and arrays of pixels, as one array of images: decoding, greyscale, size, and what to say on failure.

Only formats that Pillow decodes by itself are opened: some others (EPS) run an outside program.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from layerwise.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
GREY_MODES = ("1", "L", "LA")


@dataclass(frozen=True)
class Options:
    """How the images of any source are made alike."""

    resize: int | None = None  # the side of the square that images become
    grey: bool = False
    skip_unreadable: bool = False


@dataclass(frozen=True)
class Picture:
    """An image that is still encoded: a file, or the bytes of one."""

    name: str  # as an error message calls it: "photos/cat/7.jpg", "row 12 of train.parquet"
    content: Path | bytes | None  # None: a row without an image


class UnreadableError(Exception):
    """A picture cannot be decoded; the text says what it is: "is truncated (...)"."""


def stack(pictures: Sequence[Picture], options: Options) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The images in uint8 (readable, channels, height, width), the positions of the readable pictures, and notes.

    One channel where all are grey, else three. Raises DataError where one is unreadable, or sizes differ.
    """
    images = np.empty((len(pictures), 0, 0, 0), np.uint8)
    kept: list[int] = []
    failures: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for position, picture in enumerate(pictures):
            try:
                pixels = decode(picture.content, options)  # (channels, height, width)
            except UnreadableError as error:
                failures.append(f"{picture.name} {error}")
                continue
            if images.shape[2:] != pixels.shape[1:]:
                if kept:
                    raise DataError(_different_sizes(pictures, pictures[kept[0]].name, images, picture.name, pixels))
                images = np.empty((len(pictures), *pixels.shape), np.uint8)
            elif len(pixels) > images.shape[1]:  # the first in colour: those so far become colour too
                images = np.repeat(images, 3, axis=1)
            images[len(kept)] = pixels  # grey among colour is repeated over the channels
            kept.append(position)
    return images[: len(kept)], np.array(kept, np.int64), _notes(failures, len(pictures), options)


def _notes(failures: list[str], examples: int, options: Options) -> tuple[str, ...]:
    if not failures:
        return ()
    counted = f"{len(failures):,} of {examples:,} images unreadable"
    if len(failures) == examples:
        raise DataError(f"{failures[0]}; {counted}: there is nothing to read")
    if not options.skip_unreadable:
        them = "it" if len(failures) == 1 else "them"
        raise DataError(f"{failures[0]}; {counted}. Remove {them} or pass --skip-unreadable")
    skipped = "1 unreadable image was" if len(failures) == 1 else f"{len(failures):,} unreadable images were"
    return (f"{skipped} skipped (the first: {failures[0]})",)


def decode(content: Path | bytes | None, options: Options) -> np.ndarray:
    """The pixels of one encoded image, uint8 (channels, height, width), turned upright; raises UnreadableError."""
    if content is None or content == b"":
        raise UnreadableError("is empty")
    size = 0
    try:
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as image:
            return pixels_of(image, options)
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's decoders meet damage with many kinds of exception
        raise UnreadableError(_complaint(error, size)) from error


def pixels_of(image: Image.Image, options: Options) -> np.ndarray:
    """The pixels of an opened image, uint8 (channels, height, width), turned upright; raises UnreadableError."""
    return channels_first(np.asarray(resized(_plain(image, options.grey), options.resize)))


def _complaint(error: Exception, size: int) -> str:
    if size == 0 and not isinstance(error, PermissionError | FileNotFoundError):
        return "is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image that can be read"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    if any(word in str(error).lower() for word in ("truncated", "broken png")):
        return f"is truncated (its {size:,} bytes end inside the image)"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _plain(image: Image.Image, grey: bool) -> Image.Image:
    """The image upright in mode L or RGB; what is transparent becomes white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableError(f"has pixels of mode '{image.mode}', not of 8 or 16 bits")
    wanted = "L" if grey or image.mode in GREY_MODES else "RGB"
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(wanted)  # to L: ITU-R 601 luma


def resized(image: Image.Image, side: int | None) -> Image.Image:
    """The square at the image's centre, its side the image's shorter one, at `side` pixels; bilinear, antialiased."""
    if side is None or image.size == (side, side):
        return image
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    return image.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + short, top + short))


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """(height, width) or (height, width, channels) as (channels, height, width)."""
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def fit(images: np.ndarray, options: Options) -> np.ndarray:
    """Images (examples, channels, height, width) in uint8, made grey and resized as the options say."""
    if options.grey and images.shape[1] == 3:
        images = luma(images)
    if options.resize is None or images.shape[2:] == (options.resize, options.resize):
        return images
    result = np.empty((*images.shape[:2], options.resize, options.resize), np.uint8)
    for position, image in enumerate(images):
        for channel, plane in enumerate(image):
            result[position, channel] = np.asarray(resized(Image.fromarray(plane), options.resize))
    return result


def luma(images: np.ndarray) -> np.ndarray:
    """Grey (examples, 1, height, width) of colour images by ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B, as Pillow's."""
    weights = np.array([19595, 38470, 7471], np.uint32)  # in 65536ths
    grey = np.empty((len(images), 1, *images.shape[2:]), np.uint8)
    for position, image in enumerate(images):
        grey[position, 0] = (np.tensordot(weights, image.astype(np.uint32), 1) + 0x8000) >> 16
    return grey


def _different_sizes(
    pictures: Sequence[Picture], first: str, images: np.ndarray, other: str, pixels: np.ndarray
) -> str:
    a, b = (f"{shape[-1]}x{shape[-2]}" for shape in (images.shape, pixels.shape))
    return (
        f"images have different sizes: {first} is {a}, {other} is {b}; "
        f"--resize {median_low(_shorter_sides(pictures))} makes them alike"
    )


def _shorter_sides(pictures: Sequence[Picture]) -> list[int]:
    """The shorter side of each picture whose header can be read."""
    sides = []
    for picture in pictures:
        try:
            source = io.BytesIO(picture.content) if isinstance(picture.content, bytes) else picture.content
            with Image.open(source, formats=FORMATS) as image:  # type: ignore[arg-type]
                sides.append(min(image.size))
        except Exception:  # as in decode; it is reported once the sizes are settled
            continue
    return sides
