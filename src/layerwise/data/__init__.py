"""Data sets by their locators: `glyphs`, `mnist:DIR`, `folder:photos`. Each opens as arrays with a digest.

    >>> dataset, folder = open_data("glyphs:100", Path("cache"))
    >>> dataset.images.shape, len(dataset.class_names), load(folder).digest == dataset.digest
    ((6200, 1, 32, 32), 62, True)

A data set is read once and then opened from a cache as memory maps. Losing the cache costs time, never truth. Nothing
in a data file is ever executed.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerwise.data import folder, hub, idx, listing, npz, omniglot
from layerwise.data.copies import checked
from layerwise.data.dataset import DataSet, intact, load, make, save
from layerwise.data.groups import column_of, is_pattern
from layerwise.data.pictures import Options, fit
from layerwise.errors import DataError, unknown

__all__ = ["READERS", "DataSet", "Options", "Reader", "load", "make", "open_data", "save"]

MADE = ("glyphs", "stimuli", "digits")  # as they are on every machine: copies among them are not looked for
VERSION = 2  # of the readers: raised whenever one gives other arrays for the same files


def read_glyphs(argument: str, options: Options) -> DataSet:
    """The drawn characters: "500:0" is 500 of each class with seed 0."""
    per_class, seed = _counted("glyphs", argument, 500)
    from layerwise.data import glyphs  # it imports torch, which takes seconds

    images, labels = glyphs.draw(per_class, seed)
    return make(_named("glyphs", argument), fit(images, options), labels, tuple(glyphs.CHARACTERS))


def read_stimuli(argument: str, options: Options) -> DataSet:
    """The drawn arrays of bars: "3000:0" is 3,000 of each class with seed 0, at the size asked for."""
    per_class, seed = _counted("stimuli", argument, 3000)
    from layerwise.data import stimuli

    drawn = stimuli.draw(per_class, seed, options.resize or stimuli.SIZE)
    names = [kind.name for kind in stimuli.KINDS]
    name = _named("stimuli", argument)
    return make(name, drawn.images, drawn.labels, names, drawn.columns, stimuli.CLASS_COLUMNS)


def _counted(name: str, argument: str, usual: int) -> tuple[int, int]:
    """Images of each class and the seed, of data that are drawn."""
    numbers = re.fullmatch(r"([1-9][0-9]{0,4})(?::([0-9]{1,18}))?", argument or str(usual))
    if numbers is None:
        raise DataError(
            f"'{name}:{argument}' is not {name}:PER_CLASS:SEED, two whole numbers such as {name}:{usual}:0 "
            "(at most 99999 per class)"
        )
    return int(numbers[1]), int(numbers[2] or 0)


def _named(name: str, argument: str) -> str:
    return f"{name}:{argument}" if argument else name


def read_digits(argument: str, options: Options) -> DataSet:
    """The handwritten digits that scikit-learn carries; their 17 grey levels become 0 to 255."""
    if argument:
        raise DataError(f"'digits:{argument}': digits takes nothing after its name; write digits")
    from sklearn.datasets import load_digits  # slow to import, and needed only here

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None]
    return make("digits", fit(images, options), found.target, [str(name) for name in found.target_names])


def read_parquet(path: Path, options: Options) -> DataSet:
    """All rows of parquet files; see `layerwise.data.parquet`."""
    from layerwise.data import parquet  # pyarrow is slow to import

    return parquet.read(path, options)


@dataclass(frozen=True)
class Reader:
    """A kind of data: how its locator is written, what it is, and the function that reads it."""

    form: str
    help: str
    read: Callable[[Any, Options], DataSet]  # from a Path where the form has one, else from the text after the name

    @property
    def takes_path(self) -> bool:
        return self.form.endswith((":DIR", ":FILE", ":ZIP"))

    @property
    def takes_file(self) -> bool:
        """Must the path be a file?"""
        return self.form.endswith((":FILE", ":ZIP"))


READERS: dict[str, Reader] = {
    "glyphs": Reader("glyphs:PER_CLASS:SEED", "62 characters drawn from fonts, 500 per class; no files", read_glyphs),
    "stimuli": Reader("stimuli:PER_CLASS:SEED", "arrays of bars, with an odd one or none; no files", read_stimuli),
    "digits": Reader("digits", "scikit-learn's 1,797 handwritten digits, 8x8; no files", read_digits),
    "mnist": Reader("mnist:DIR", "MNIST or a relative: its four IDX files, gzipped or not", idx.read),
    "npz": Reader("npz:FILE", "arrays images, labels; optionally class_names and columns", npz.read),
    "parquet": Reader("parquet:DIR", "parquet files in the Hugging Face layout: image and label", read_parquet),
    "folder": Reader("folder:DIR", "a folder of pictures per class, or train/ val/ test/ of them", folder.read),
    "csv": Reader("csv:FILE", "a line per picture: path, label, person, split, ...", listing.read),
    "omniglot": Reader("omniglot:ZIP", "Omniglot's archive as published; classes alphabet/character", omniglot.read),
    "hub": Reader("hub:NAME[:SPLIT,...]", "a data set of the Hugging Face hub, downloaded; or a folder", hub.read),
}


def open_data(
    locator: str,
    cache: Path,
    *,
    resize: int | None = None,
    grey: bool = False,
    skip_unreadable: bool = False,
    drop_duplicates: bool = False,
    groups: str | None = None,
    colour: bool = False,
) -> tuple[DataSet, Path]:
    """The data set and the cache folder it lies in, which workers open again with `load`.

    `resize` gives squares of that side, `grey` one channel, `colour` three, over which grey images are repeated.
    `groups` is a column that the data must have, or a regular expression that makes the column `group` from the paths
    of files (see `layerwise.data.groups`). Images that are equal are noted and linked by a column
    (`layerwise.data.copies`), or dropped. Raises DataError for what cannot be read.
    """
    if resize is not None and not 1 <= resize <= 4096:
        raise DataError(f"resize is {resize}; the side of the images in pixels must be from 1 to 4096")
    name, _, argument = locator.partition(":")
    if name not in READERS and Path(locator).is_dir():
        raise DataError(f"'{locator}' is a folder and no kind of data; write folder:{locator}")
    if name not in READERS:
        raise DataError(unknown("data", name, READERS))
    pattern = groups if groups and is_pattern(groups) else None
    if pattern and name not in ("folder", "csv"):
        raise DataError(f"--groups '{groups}' is for folder: and csv:, whose files have paths; name a column of {name}")
    wanted = groups if name == "parquet" else pattern  # of parquet files columns of text are read where asked for
    reader, options = READERS[name], Options(resize, grey, skip_unreadable, wanted)
    source = existing(argument, name, reader) if reader.takes_path else argument
    place = cache / (request_key(name, source, options, drop_duplicates=drop_duplicates) + "-colour" * colour)
    found = intact(place)
    if found is None:
        read = reader.read(source, options)
        read = in_colour(read) if colour else read
        save(read if name in MADE and not drop_duplicates else checked(read, drop=drop_duplicates), place)
        found = load(place)
    if groups and column_of(groups) not in found.columns:
        have = ", ".join(sorted(found.columns)) or "none"
        raise DataError(f"--groups {groups}: the data have no column '{groups}' (they have: {have})")
    return found, place


def in_colour(data: DataSet) -> DataSet:
    """The same images with three channels; colour images stay as they are."""
    if data.images.shape[1] == 3:
        return data
    images = np.repeat(data.images, 3, axis=1)
    return make(
        data.name, images, data.labels, data.class_names, data.columns, data.class_columns, data.notes, data.reading
    )


def existing(argument: str, name: str, reader: Reader) -> Path:
    """The path in a locator; it must be there."""
    if not argument:
        raise DataError(f"data '{name}' needs a path: write {reader.form}")
    try:
        path = Path(argument).expanduser()
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, nobody's home, a null byte
        raise DataError(f"'{argument}' is no path ({error}); {reader.form} needs an existing one") from error
    if not there:
        raise DataError(f"{path} does not exist; {reader.form} needs an existing path")
    if reader.takes_file and not path.is_file():
        raise DataError(f"{path} is a folder; {reader.form} needs a file")
    if name in ("mnist", "folder") and not path.is_dir():
        raise DataError(f"{path} is a file; {reader.form} needs a folder")
    return path


def request_key(name: str, source: str | Path, options: Options, *, drop_duplicates: bool = False) -> str:
    """16 hex that change when the locator, an option, the readers, or a file's path, size or time of change does."""
    folder, splits = hub.told(str(source)) if name == "hub" else ("", [])
    place = Path(folder) if name == "hub" else source
    is_local = isinstance(place, Path) and place.exists()
    request = {
        "locator": f"{name}:{':'.join([str(place.resolve()), *splits]) if is_local else source}",  # type: ignore[union-attr]
        "options": {**asdict(options), "drop_duplicates": drop_duplicates},
        "version": VERSION,
        "files": sorted(_stamps(name, place)) if is_local else [],  # type: ignore[arg-type]
    }
    return hashlib.sha256(json.dumps(request).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _stamps(name: str, path: Path) -> Iterator[tuple[str, int, int]]:
    """Relative path, size and time of change of each file that is read; what is hidden never is."""
    if name == "csv":
        files = list(listing.files(path))
    elif path.is_file():
        files = [path, path.parent / "classes.csv"]
    else:
        files = [inner / name for inner, names in _walk(path) for name in names]
    for file in files:
        relative = os.path.relpath(file, path)
        if listing.is_file(file):
            state = file.stat()
            yield relative, state.st_size, state.st_mtime_ns


def _walk(path: Path) -> Iterator[tuple[Path, list[str]]]:
    seen: set[tuple[int, int]] = set()  # a link may lead back to where we come from
    for inner, folders, names in os.walk(path, followlinks=True):
        state = os.stat(inner)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield Path(inner), [name for name in names if not name.startswith(".")]
