"""A folder of class folders of pictures, or of train/, val/ and test/ folders of class folders.

Parts may be spelt training, valid, validation, dev and testing too. Hidden files, and those that desktops leave behind,
are passed over; whatever else is in a class folder must be a picture.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from layerwise.data.dataset import PART_NAMES, DataSet, make
from layerwise.data.groups import GROUP, grouped
from layerwise.data.pictures import Options, Picture, stack
from layerwise.errors import DataError

NOT_DATA = (".", "__MACOSX", "layerwise-store", "layerwise-out")  # how such folders begin
LEFT_BEHIND = ("thumbs.db", "ehthumbs.db", "desktop.ini")
LAYOUT = "folder:DIR needs a folder for each class with its pictures in it, such as DIR/cat/1.jpg"


def read(folder: Path, options: Options) -> DataSet:
    """Every file in the class folders, class by class in natural order; hidden files and folders are passed over."""
    parts = part_folders(folder)
    places = [(part, inner) for part, outer in parts for inner in subfolders(outer)]
    class_names = sorted({inner.name for _, inner in places}, key=natural)
    if not class_names:
        raise DataError(f"{folder} has no class folders; {LAYOUT}")
    if len(class_names) == 1:
        raise DataError(f"{folder} has only one class folder, '{class_names[0]}'; at least 2 classes are needed")
    files = [(file, part, inner.name) for part, inner in places for file in visible_files(inner)]
    if not files:
        raise DataError(f"{folder} has class folders but no files in them; {LAYOUT}")
    if lacking := sorted(set(class_names) - {name for _, _, name in files}, key=natural):
        raise DataError(f"class folder '{lacking[0]}' in {folder} is empty; remove it or put pictures into it")
    made = stack([Picture(str(file), file) for file, _, _ in files], options)
    labels = np.array([class_names.index(name) for _, _, name in files], np.int64)
    columns = {"split": np.array([part for _, part, _ in files])} if parts[0][0] else {}
    if options.groups:
        columns[GROUP] = grouped(options.groups, [file.relative_to(folder).as_posix() for file, _, _ in files])
    columns = {key: values[made.kept] for key, values in columns.items()}
    return make("folder", made.images, labels[made.kept], class_names, columns, notes=made.notes, reading=made.reading)


def part_folders(folder: Path) -> list[tuple[str, Path]]:
    """The parts (train, validation, test) and their folders; one nameless part where the folder has class folders."""
    inner = subfolders(folder)
    parts = [one for one in inner if one.name.lower() in PART_NAMES and subfolders(one)]
    if not parts:
        return [("", folder)]
    for one in inner:
        if one.name.lower() in PART_NAMES and one not in parts:
            raise DataError(
                f"part '{one.name}' of {folder} has no class folders; "
                "sort its pictures into class folders or move it elsewhere"
            )
    if others := [one.name for one in inner if one not in parts]:
        raise DataError(
            f"{folder} has the part '{parts[0].name}' and beside it '{others[0]}'; "
            "keep either class folders or only train, val and test in it"
        )
    return [(PART_NAMES[one.name.lower()], one) for one in parts]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that can be data, in natural order: not hidden ones, nor those that layerwise made."""
    try:
        inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(NOT_DATA)]
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from error
    return sorted(inner, key=lambda path: natural(path.name))


def visible_files(folder: Path) -> list[Path]:
    """The files in a folder and the folders in it, in natural order, without hidden ones."""

    def walk() -> Iterator[Path]:
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in relative.parts) or path.name.lower() in LEFT_BEHIND
            if not hidden and path.is_file():
                yield path

    return sorted(walk(), key=lambda path: natural(str(path.relative_to(folder))))


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key by which 'class2' comes before 'class10'."""
    pieces = re.split(r"([0-9]+)", name)
    return [(int(piece), "") if piece.isdecimal() and piece.isascii() else (-1, piece) for piece in pieces], name
