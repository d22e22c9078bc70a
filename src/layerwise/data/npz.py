"""One npz file: `images`, `labels`, optionally `class_names`, and a column for every other value per image.

np.savez("mine.npz", images=images, labels=labels, writer=writer)   # then: npz:mine.npz
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from layerwise.data.dataset import DataSet, make
from layerwise.data.pictures import Options, fit
from layerwise.errors import DataError


def read(path: Path, options: Options) -> DataSet:
    """The file's arrays as a data set; labels that are not 0..K-1 become positions, their text the class names."""
    arrays = contents(path)
    if lacking := sorted({"images", "labels"} - set(arrays)):
        raise DataError(
            f"{path} has no array '{lacking[0]}' (it has {', '.join(sorted(arrays)) or 'none'}); save it with "
            "np.savez(FILE, images=..., labels=...)"
        )
    images = fit(shaped(path, bytewise(path, arrays.pop("images"))), options)
    labels, names = classes(path, arrays.pop("labels"), arrays.pop("class_names", None))
    if len(labels) != len(images):
        raise DataError(f"{path} has {len(images):,} images but {len(labels):,} labels; each image needs one")
    columns = {key: values for key, values in sorted(arrays.items()) if values.shape == (len(images),)}
    return make("npz", images, labels, names, columns)


def contents(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file; nothing in it is ever unpickled."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{path} is truncated or not an npz file; save it again with np.savez")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {key: _array(path, archive, key) for key in archive.files}
    except (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path} is damaged ({error}); save it again with np.savez") from error
    except MemoryError as error:
        raise DataError(f"{path} is damaged, or larger than the memory ({error}); save it in pieces") from error


def _array(path: Path, archive: "np.lib.npyio.NpzFile", key: str) -> np.ndarray:
    try:
        values = archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"{path}: array '{key}' holds Python objects, which could run code when read; "
            f"save it as numbers or text, such as np.array({key}.tolist())"
        ) from error
    if not isinstance(values, np.ndarray):
        raise DataError(f"{path}: '{key}' is not an array; save it again with np.savez")
    return values


def bytewise(path: Path, images: np.ndarray) -> np.ndarray:
    """Pixels as uint8; fractions in [0, 1] are scaled to 0..255 and rounded."""
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise DataError(f"{path}: images are {images.dtype}; save them as uint8, or as fractions from 0 to 1")
    result = np.empty(images.shape, np.uint8)
    bad, first = 0, None
    for position, image in enumerate(images):
        wrong = int(np.count_nonzero(~((image >= 0) & (image <= 1))))  # so counts what is not a number, too
        if wrong:
            bad, first = bad + wrong, position if first is None else first
        else:
            result[position] = np.rint(image.astype(np.float64) * 255)
    if bad:
        raise DataError(
            f"{path}: {bad:,} pixels are not numbers from 0 to 1 (NaN, infinite or out of range), the first in example "
            f"{first}; clean them, or save the images as uint8"
        )
    return result


def shaped(path: Path, images: np.ndarray) -> np.ndarray:
    """Images as (examples, channels, height, width); the axis of length 1 or 3 is the channels."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4:
        first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
        if first != last:
            return images if first else np.ascontiguousarray(np.moveaxis(images, 3, 1))
        if first:
            raise DataError(
                f"{path}: images are {images.shape}: axis 1 and axis 3 could both be the channels; drop one"
            )
    raise DataError(
        f"{path}: images are {images.shape}; they must be (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3"
    )


def classes(path: Path, labels: np.ndarray, names: np.ndarray | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Positions (examples,) and class names."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels are {labels.dtype} {labels.shape}; they must be whole numbers, one per image "
            "(labels.argmax(1) of one-hot codes, labels.astype(int) of fractions)"
        )
    if names is not None:
        return labels.astype(np.int64), tuple(str(name) for name in names.reshape(-1).tolist())
    values, positions = np.unique(labels, return_inverse=True)
    return positions.astype(np.int64), tuple(str(value) for value in values.tolist())
