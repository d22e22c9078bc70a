"""A csv file with a line for each picture: its path, its label, and whatever else is known of it.

    path,label,person,split
    photos/1.jpg,cat,anna,train
    photos/2.jpg,dog,ben,test

Without a line of these names the first two columns are path and label. Paths are relative to the csv file. Every
further column becomes a column of the data: numbers where all its values are, else text; `split` has the usual names
of parts.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layerwise.data.dataset import PART_NAMES, DataSet, make
from layerwise.data.folder import natural
from layerwise.data.groups import GROUP, grouped
from layerwise.data.pictures import Options, Picture, stack
from layerwise.errors import DataError

PATHS = ("path", "file", "filename", "file_name", "filepath", "image")
LABELS = ("label", "class", "target", "category")
NEEDS = "csv:FILE needs a line for each picture with its path and its label, such as photos/1.jpg,cat"


@dataclass(frozen=True)
class Listing:
    """The lines of a csv file."""

    paths: tuple[str, ...]  # as they are written
    labels: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]


def read(path: Path, options: Options) -> DataSet:
    """The pictures in the order of the lines; class names in natural order."""
    found = listing(path)
    made = stack([Picture(str(path.parent / name), path.parent / name) for name in found.paths], options)
    class_names = sorted(set(found.labels), key=natural)
    positions = {name: position for position, name in enumerate(class_names)}
    labels = np.array([positions[label] for label in found.labels], np.int64)
    columns = {key: parts(path, values) if key == "split" else typed(values) for key, values in found.columns.items()}
    if options.groups:
        columns[GROUP] = grouped(options.groups, found.paths)
    columns = {key: values[made.kept] for key, values in columns.items()}
    kept = labels[made.kept]
    return make("csv", made.images, kept, class_names, columns, notes=made.notes, reading=made.reading)


def files(path: Path) -> Iterator[Path]:
    """The csv file and the pictures that it names: what the data depend on."""
    yield path
    for name in listing(path).paths:
        yield path.parent / name


def listing(path: Path) -> Listing:
    """What the file says; raises DataError where it is no csv file with two columns or more, or lacks a value."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            rows = [row for row in csv.reader(file, delimiter=delimiter, skipinitialspace=True) if any(row)]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start} is not); save it as such") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); {NEEDS}") from error
    if not rows or len(rows[0]) < 2:
        raise DataError(f"{path} has {'no lines' if not rows else 'only one column'}; {NEEDS}")
    heads, begin = header(path, rows[0])
    for number, row in enumerate(rows[begin:], begin + 1):
        if len(row) != len(heads):
            there = f"{len(row)} values for {len(heads)} columns"
            raise DataError(f"{path}: line {number} has {there}; put commas in a value between quotes")
    if len(rows) == begin:
        raise DataError(f"{path} has no lines below its heads; {NEEDS}")
    values = dict(zip(heads, zip(*rows[begin:], strict=True), strict=True))
    image, label = the_column(heads, PATHS, 0), the_column(heads, LABELS, 1)
    for key in (image, label):
        if "" in values[key]:
            line = values[key].index("") + begin + 1
            raise DataError(f"{path}: line {line} has no {key}; add it, or remove the line")
    return Listing(values.pop(image), values.pop(label), values)


def header(path: Path, row: list[str]) -> tuple[list[str], int]:
    """The names of the columns, and how many lines they take: none where the first line already names a picture."""
    if is_file(path.parent / row[0]) and not any(name.lower() in PATHS + LABELS for name in row):
        return ["path", "label", *(f"column{number}" for number in range(3, len(row) + 1))], 0
    heads = [name.strip() for name in row]
    if twice := sorted({name for name in heads if heads.count(name) > 1}):
        raise DataError(f"{path} has two columns '{twice[0]}'; rename one")
    return heads, 1


def is_file(path: Path) -> bool:
    """Is there a file of this name, which may be none that a file can have?"""
    try:
        return path.is_file()
    except OSError:
        return False


def the_column(heads: list[str], usual: tuple[str, ...], otherwise: int) -> str:
    """The column with a usual name, or else the one in this place."""
    named = [name for word in usual for name in heads if name.lower() == word]
    taken = [name for name in heads if name.lower() in PATHS] if usual is LABELS else []
    return named[0] if named else next(name for name in (heads[otherwise], *heads) if name not in taken)


def typed(values: tuple[str, ...]) -> np.ndarray:
    """Whole numbers or numbers where all of them are, else the text as it is."""
    for kind in (np.int64, np.float64):
        try:
            return np.array([kind(value) for value in values], kind)
        except (ValueError, OverflowError):
            continue
    return np.array(values)


def parts(path: Path, values: tuple[str, ...]) -> np.ndarray:
    """The parts that a column `split` names: train, validation, test."""
    found = [PART_NAMES.get(value.strip().lower()) for value in values]
    if None in found:
        strange = values[found.index(None)]
        known = ", ".join(PART_NAMES)
        raise DataError(f"{path}: column 'split' has '{strange}'; it may hold {known}: correct or rename it")
    return np.array(found)
