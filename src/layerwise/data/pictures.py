"""Picture files, and arrays of pixels, as one array of images: decoding, greyscale, size, and what to say on failure.

Only formats that Pillow decodes by itself are opened: some others (EPS) run an outside program.
"""

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import numpy as np
import psutil
from PIL import Image, ImageOps, UnidentifiedImageError

from layerwise.data.dataset import Reading
from layerwise.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
GREY_MODES = ("1", "L", "LA")
APPLE = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}


@dataclass(frozen=True)
class Options:
    """How the images of any source are made alike."""

    resize: int | None = None  # the side of the square that images become
    grey: bool = False
    skip_unreadable: bool = False
    groups: str | None = None  # a regular expression for paths of files, or a column that is read only where asked for


@dataclass(frozen=True)
class Picture:
    """An image that is still encoded: a file, or the bytes of one."""

    name: str  # as an error message calls it: "photos/cat/7.jpg", "row 12 of train.parquet"
    content: Path | bytes | None  # None: a row without an image


@dataclass(frozen=True)
class Stack:
    """Pictures as one array."""

    images: np.ndarray  # uint8 (readable, channels, height, width)
    kept: np.ndarray  # int64 (readable,), the positions of the readable pictures
    notes: tuple[str, ...]
    reading: Reading


@dataclass(frozen=True)
class Decoded:
    """One picture."""

    pixels: np.ndarray  # uint8 (channels, height, width)
    size: str  # "640x480", upright, before any resizing
    is_grey: bool


class SizesError(DataError):
    """Images are of different sizes, and none was asked for; `side` is one that would do."""

    def __init__(self, text: str, side: int) -> None:
        super().__init__(text)
        self.side = side


class UnreadableError(Exception):
    """A picture cannot be decoded; the text says what it is: "is truncated (...)"."""


def stack(pictures: Sequence[Picture], options: Options) -> Stack:
    """All readable pictures, what must be said of them, and what was met.

    One channel where all are grey, else three. Raises DataError where one is unreadable, sizes differ, or there is not
    the memory to hold them.
    """
    images = np.empty((len(pictures), 0, 0, 0), np.uint8)
    kept: list[int] = []
    failures: list[str] = []
    sizes: Counter[str] = Counter()
    grey = 0
    for position, picture in enumerate(pictures):
        try:
            found = decoded(picture.content, options)
        except UnreadableError as error:
            failures.append(f"{picture.name} {error}")
            continue
        pixels = found.pixels
        sizes[found.size] += 1
        grey += found.is_grey
        if images.shape[2:] != pixels.shape[1:]:
            if kept:
                raise _different_sizes(pictures, pictures[kept[0]].name, images, picture.name, pixels)
            images = _room(len(pictures), pixels)
        elif len(pixels) > images.shape[1]:  # the first in colour: those so far become colour too
            images = np.repeat(images, 3, axis=1)
        images[len(kept)] = pixels  # grey among colour is repeated over the channels
        kept.append(position)
    notes = (*_notes(failures, len(pictures), options), *_made_alike(sizes, grey, len(kept), options))
    names = tuple(pictures[position].name for position in kept)
    reading = Reading(dict(sizes.most_common()), grey, tuple(failures), names)
    return Stack(images[: len(kept)], np.array(kept, np.int64), notes, reading)


def _room(examples: int, pixels: np.ndarray) -> np.ndarray:
    """An array for so many images like this one; DataError where the machine has not the memory."""
    free, needed = psutil.virtual_memory().available, examples * pixels.nbytes
    if needed > free:
        size = f"{pixels.shape[2]}x{pixels.shape[1]}"
        raise DataError(
            f"{examples:,} images of {size} take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free; "
            "pass a smaller --resize, such as --resize 224"
        )
    return np.empty((examples, *pixels.shape), np.uint8)


def _made_alike(sizes: Counter[str], grey: int, readable: int, options: Options) -> tuple[str, ...]:
    """What was done to pictures that differ: a user should know of it."""
    told = []
    if len(sizes) > 1:
        most, count = sizes.most_common(1)[0]
        told.append(
            f"images of {len(sizes):,} sizes ({most} is the most frequent, {count:,} times) became "
            f"{options.resize}x{options.resize}: the square in the middle, scaled"
        )
    if 0 < grey < readable and not options.grey:
        are = "image is" if grey == 1 else "images are"
        told.append(f"{grey:,} grey {are} among {readable - grey:,} in colour; grey becomes three equal channels")
    return tuple(told)


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
    return decoded(content, options).pixels


def decoded(content: Path | bytes | None, options: Options) -> Decoded:
    """One encoded image, turned upright, of an animation the first frame; raises UnreadableError."""
    if content is None or content == b"":
        raise UnreadableError("is empty")
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    with _told(content), Image.open(source, formats=FORMATS) as image:
        plain = _plain(image, options.grey)
        pixels = channels_first(np.asarray(resized(plain, options.resize)))
        return Decoded(pixels, f"{plain.width}x{plain.height}", image.mode in GREY_MODES or image.mode[0] in "IF")


def pixels_of(image: Image.Image, options: Options) -> np.ndarray:
    """The pixels of an opened image, uint8 (channels, height, width), turned upright; raises UnreadableError."""
    with _told(None):
        return channels_first(np.asarray(resized(_plain(image, options.grey), options.resize)))


@contextmanager
def _told(content: Path | bytes | None) -> Iterator[None]:
    """What goes wrong with a picture as one UnreadableError, and nothing of what Pillow warns of but bombs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableError(_other_kind(content) or _complaint(error, content)) from error
    except Exception as error:  # Pillow's decoders meet damage with many kinds of exception
        raise UnreadableError(_complaint(error, content)) from error


def _other_kind(content: Path | bytes | None) -> str:
    """What is to be said of a picture from a telephone that is of no kind read here; nothing of others."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            content = file.read(12)
    kind = APPLE.get(content[8:12]) if content and content[4:8] == b"ftyp" else None
    return f"is a {kind} picture, which is not read here; save it as JPEG or PNG" if kind else ""


def _complaint(error: Exception, content: Path | bytes | None) -> str:
    size = _size(content)
    if size == 0:
        return "is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image that can be read"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    if any(word in str(error).lower() for word in ("truncated", "broken png")):
        return f"is truncated ({f'its {size:,} bytes end' if size else 'it ends'} inside the image)"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _size(content: Path | bytes | None) -> int | None:
    """The bytes of an encoded image; null where that is not known, as of what is no file."""
    try:
        return content.stat().st_size if isinstance(content, Path) else None if content is None else len(content)
    except (OSError, ValueError):
        return None


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
) -> SizesError:
    a, b = (f"{shape[-1]}x{shape[-2]}" for shape in (images.shape, pixels.shape))
    side = median_low(_shorter_sides(pictures))
    text = f"images have different sizes: {first} is {a}, {other} is {b}; --resize {side} makes them alike"
    return SizesError(text, side)


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
