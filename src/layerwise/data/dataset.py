"""A data set as arrays with a digest, and its form on disk: npy files that open as memory maps, and one meta.json."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from layerwise.errors import DataError, StoreError

PARTS = ("train", "validation", "test")
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NAMES = "names.json"
COPIES = "same pixels"  # a column that follows from the images: equal for images that are equal pixel for pixel


@dataclass(frozen=True)
class Reading:
    """What was met when pictures were read. It decides nothing, and is no part of the digest."""

    sizes: dict[str, int] = field(default_factory=dict)  # how many were "640x480" (width, height) before any resizing
    grey: int = 0  # pictures without colour
    unreadable: tuple[str, ...] = ()  # which were left out, and why
    names: tuple[str, ...] = ()  # of the images, in their order; in the cache they are a file of their own, see `names`


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images with their classes. Two data sets with the same digest are the same data."""

    name: str  # the locator without its path: "glyphs", "mnist", "npz"
    images: np.ndarray  # uint8 (examples, channels, height, width); a read-only memory map where opened from the cache
    labels: np.ndarray  # int64 (examples,), positions in class_names
    class_names: tuple[str, ...]
    columns: dict[
        str, np.ndarray
    ]  # per example: {"writer": int64 (examples,)}, {"split": "train" | "validation" | ...}
    class_columns: dict[str, tuple[str, ...]]  # per class: {"kind": ("man-made", "natural", ...)}
    digest: str  # 16 hex of SHA-256 over the contents, see `digest`
    notes: tuple[str, ...] = ()  # what a report must say: "3 unreadable images were skipped"
    reading: Reading = Reading()


def shape_of(data: DataSet) -> tuple[int, int, int]:
    """(channels, height, width) of its images."""
    channels, height, width = data.images.shape[1:]
    return channels, height, width


def make(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    columns: Mapping[str, np.ndarray] | None = None,
    class_columns: Mapping[str, Sequence[str]] | None = None,
    notes: Sequence[str] = (),
    reading: Reading = Reading(),
) -> DataSet:
    """A checked data set with its digest; raises DataError where its arrays do not fit together."""
    labels = np.asarray(labels, np.int64)
    columns = dict(columns or {})
    names = tuple(class_names)
    told = {key: tuple(values) for key, values in (class_columns or {}).items()}
    _check_images(name, images, labels)
    _check_classes(name, labels, names, told)
    _check_columns(name, len(images), columns)
    key = digest(images, labels, names, columns, told)
    return DataSet(name, images, labels, names, columns, told, key, tuple(notes), reading)


def _check_images(name: str, images: np.ndarray, labels: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"{name}: images are {images.dtype} {images.shape}; they must be uint8 (examples, channels, height, width)"
        )
    if len(images) == 0:
        raise DataError(f"{name}: there are no images")
    if 0 in images.shape:
        raise DataError(f"{name}: images of shape {images.shape[1:]} have no pixels")
    if labels.shape != (len(images),):
        raise DataError(f"{name}: {len(images):,} images but {labels.size:,} labels; each image needs one")


def _check_classes(
    name: str, labels: np.ndarray, class_names: tuple[str, ...], class_columns: dict[str, tuple[str, ...]]
) -> None:
    if len(class_names) < 2:
        found = f"only one class, '{class_names[0]}'" if class_names else "no class"
        raise DataError(f"{name}: there is {found}; at least 2 classes are needed")
    if twice := sorted({one for one in class_names if class_names.count(one) > 1}):
        raise DataError(f"{name}: class name '{twice[0]}' stands for more than one class; class names must differ")
    if len(outside := np.flatnonzero((labels < 0) | (labels >= len(class_names)))):
        raise DataError(
            f"{name}: {len(outside):,} of {len(labels):,} labels lie outside 0-{len(class_names) - 1} (the first is "
            f"{labels[outside[0]]}, of example {outside[0]}); remove these examples or name more classes"
        )
    for key, values in class_columns.items():
        if len(values) != len(class_names):
            raise DataError(f"{name}: class column '{key}' has {len(values)} values for {len(class_names)} classes")


def _check_columns(name: str, examples: int, columns: dict[str, np.ndarray]) -> None:
    for key, values in columns.items():
        if values.shape != (examples,):
            raise DataError(f"{name}: column '{key}' has {values.size:,} values for {examples:,} images")
        if values.dtype.kind not in "biufU":
            raise DataError(f"{name}: column '{key}' is of type {values.dtype}; it must hold numbers or text")
    if strange := sorted({str(part) for part in np.unique(columns.get("split", ()))} - set(PARTS)):
        raise DataError(f"{name}: column 'split' has '{strange[0]}'; it may hold {', '.join(PARTS)}: rename the column")


def digest(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    columns: Mapping[str, np.ndarray],
    class_columns: Mapping[str, tuple[str, ...]],
) -> str:
    """16 hex of SHA-256 over shapes, pixels, labels, class names and columns; never over paths or names of files."""
    columns = {key: values for key, values in columns.items() if key != COPIES}
    described = {
        "shape": images.shape,
        "class_names": class_names,
        "columns": {key: columns[key].dtype.kind for key in sorted(columns)},
        "class_columns": dict(sorted(class_columns.items())),
    }
    hasher = hashlib.sha256(json.dumps(described).encode() + b"\n")
    for array in (images, labels):
        hasher.update(np.ascontiguousarray(array).data)
    for key in sorted(columns):
        # Text is hashed as UTF-8, so that the width of numpy's strings does not matter; numbers at full width.
        values = columns[key]
        kind = {"b": "u1", "i": "<i8", "u": "<u8", "f": "<f8"}.get(values.dtype.kind)
        hasher.update(values.astype(kind).tobytes() if kind else json.dumps(values.tolist()).encode())
    return hasher.hexdigest()[:16]


def save(dataset: DataSet, folder: Path) -> None:
    """Write the data set into the folder: aside first, then renamed, so that no reader ever sees half of it.

    Where two processes write the same data set to the same folder, the first one's files stay.
    Raises StoreError where the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(dataset, aside / "new")
            _replace(aside / "new", folder, aside, dataset.digest)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        cure = "free some space or pass another --store" if full else "pass another --store"
        raise StoreError(f"the data cache {folder} cannot be written ({error.strerror or error}); {cure}") from error


def cached(dataset: DataSet, folder: Path) -> Path:
    """Have the data set in the folder, written anew where what is there is not whole; gives the folder."""
    if intact(folder) is None:
        save(dataset, folder)
    return folder


def _write(dataset: DataSet, folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "images.npy", dataset.images, allow_pickle=False)
    np.save(folder / "labels.npy", dataset.labels, allow_pickle=False)
    for number, values in enumerate(dataset.columns.values()):
        np.save(folder / f"column{number}.npy", values, allow_pickle=False)
    meta = {
        "name": dataset.name,
        "class_names": dataset.class_names,
        "columns": list(dataset.columns),
        "class_columns": dataset.class_columns,
        "digest": dataset.digest,
        "notes": dataset.notes,
        "sizes": dataset.reading.sizes,
        "grey": dataset.reading.grey,
        "unreadable": dataset.reading.unreadable,
    }
    (folder / NAMES).write_text(json.dumps(dataset.reading.names), encoding="utf-8")
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _replace(new: Path, folder: Path, aside: Path, key: str) -> None:
    """Put `new` in the place of `folder`, unless another process has put the same there.

    What stood there is moved aside, where memory maps of it that are open stay valid.
    """
    for attempt in range(10):
        try:
            os.rename(new, folder)
            return
        except OSError:
            if not folder.exists():
                raise
        found = intact(folder)
        if found is not None and found.digest == key:
            return
        try:
            os.rename(folder, aside / f"old{attempt}")
        except FileNotFoundError:
            continue  # another process has just moved it
    raise OSError(f"{folder} is replaced again and again by other processes")


def load(folder: Path) -> DataSet:
    """The data set that `save` wrote, its images and labels as read-only memory maps; DataError if it is not whole."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        columns = {
            key: np.load(folder / f"column{number}.npy", allow_pickle=False)
            for number, key in enumerate(meta["columns"])
        }
        return DataSet(
            name=meta["name"],
            images=np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
            labels=np.load(folder / "labels.npy", mmap_mode="r", allow_pickle=False),
            class_names=tuple(meta["class_names"]),
            columns=columns,
            class_columns={key: tuple(values) for key, values in meta["class_columns"].items()},
            digest=meta["digest"],
            notes=tuple(meta["notes"]),
            reading=Reading(meta.get("sizes", {}), meta.get("grey", 0), tuple(meta.get("unreadable", ()))),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise DataError(f"the data cache {folder} is damaged or missing ({error}); open the data again") from error


def names(folder: Path) -> tuple[str, ...]:
    """What the images are called in a folder that `save` wrote, in their order; none where they have no names."""
    try:
        return tuple(json.loads((folder / NAMES).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ()


def intact(folder: Path) -> DataSet | None:
    """The data set that `save` wrote if it is there and its contents still have their digest, else None."""
    try:
        dataset = load(folder)
        parts = (dataset.images, dataset.labels, dataset.class_names, dataset.columns, dataset.class_columns)
        return dataset if digest(*parts) == dataset.digest else None
    except (DataError, ValueError, TypeError):
        return None
