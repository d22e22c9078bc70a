"""The four classic IDX files of MNIST and its relatives (http://yann.lecun.com/exdb/mnist), gzipped or not."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from layerwise.data.dataset import DataSet, make
from layerwise.data.pictures import Options, fit
from layerwise.errors import DataError

FILES = {"train": "train", "test": "t10k"}  # the part, and how its files begin
DIGITS = tuple("0123456789")


def read(folder: Path, options: Options) -> DataSet:
    """Training images first, then test images, in the files' order; columns["split"] tells which is which."""
    images, labels, split = [], [], []
    for part, start in FILES.items():
        images.append(array(found(folder, f"{start}-images-idx3-ubyte"), 3))
        labels.append(array(found(folder, f"{start}-labels-idx1-ubyte"), 1))
        if len(images[-1]) != len(labels[-1]):
            raise DataError(
                f"{folder}: {len(images[-1]):,} {part} images but {len(labels[-1]):,} labels; fetch the files again"
            )
        split.append(np.full(len(labels[-1]), part))
    if images[0].shape[1:] != images[1].shape[1:]:
        raise DataError(f"{folder}: training images are {images[0].shape[1:]}, test images {images[1].shape[1:]}")
    pixels = fit(np.concatenate(images)[:, None], options)
    return make("mnist", pixels, np.concatenate(labels), DIGITS, {"split": np.concatenate(split)})


def found(folder: Path, name: str) -> Path:
    """The file of this name in the folder, with or without .gz."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder} has no {name} or {name}.gz; mnist:DIR needs the four classic IDX files in one folder")


def array(path: Path, axes: int) -> np.ndarray:
    """The unsigned bytes of one IDX file as an array of that many axes."""
    raw = contents(path)
    start = 4 + 4 * axes
    if len(raw) < start or raw[:4] != bytes([0, 0, 8, axes]):
        raise DataError(
            f"{path} is not an IDX file of bytes with {axes} axes "
            f"(it begins with {raw[:4].hex() or 'nothing'}, not 000008{axes:02x}); fetch it again"
        )
    shape = tuple(int(length) for length in np.frombuffer(raw, ">u4", axes, 4))
    if len(raw) != start + math.prod(shape):
        raise DataError(
            f"{path} holds {len(raw):,} bytes where its header tells of {start + math.prod(shape):,}; fetch it again"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def contents(path: Path) -> bytes:
    """The file's bytes, unpacked where its name ends in .gz."""
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}); fetch it again") from error
