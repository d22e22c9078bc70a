"""Data sets of the Hugging Face hub by their library: `hub:ylecun/mnist`, `hub:NAME:train,test`, `hub:FOLDER`.

They are downloaded, since they are asked for by name; a local folder that `datasets` can load is not. Nothing of them
is executed: from version 4 on `datasets` runs no scripts. Pictures are decoded here, as those of all other readers.
"""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from layerwise.data.dataset import PART_NAMES, DataSet, make
from layerwise.data.pictures import Options, Picture, stack
from layerwise.errors import DataError

LABELS = ("label", "labels", "fine_label", "class")
IMAGES = ("image", "img")


def read(argument: str, options: Options) -> DataSet:
    """The splits asked for, or all that are named for train, validation or test."""
    name, splits = told(argument)
    loaded = load(name)
    if lacking := [split for split in splits if split not in loaded]:
        raise DataError(f"hub:{name} has no split '{lacking[0]}'; it has {', '.join(loaded)}")
    chosen = splits or [split for split in loaded if split.lower() in PART_NAMES] or list(loaded)
    tables = [loaded[split] for split in chosen]
    image, label = columns_of(name, tables[0])
    pictures = [one for split, table in zip(chosen, tables, strict=True) for one in encoded(name, split, table, image)]
    made = stack(pictures, options)
    class_names, labels = classes(name, label, tables)
    columns = {key: values[made.kept] for key, values in numbers(tables, {image, label}).items()}
    if len(chosen) > 1 or chosen[0].lower() == "test":
        split_of = np.repeat([PART_NAMES.get(split.lower(), split) for split in chosen], [len(t) for t in tables])
        columns["split"] = split_of[made.kept]
    left = sorted(set(loaded) - set(chosen))
    notes = [*made.notes, *([f"split {', '.join(left)} of hub:{name} is not used"] if left else [])]
    return make("hub", made.images, labels[made.kept], class_names, columns, notes=notes, reading=made.reading)


def told(argument: str) -> tuple[str, list[str]]:
    """The data set's name, or a folder, and the splits asked for."""
    if not argument:
        raise DataError("data 'hub' needs a name: write hub:NAME, such as hub:ylecun/mnist, or hub:FOLDER")
    if Path(argument).expanduser().is_dir():
        return str(Path(argument).expanduser()), []
    name, _, splits = argument.partition(":")
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name, [split for split in splits.split(",") if split]


def load(name: str) -> Any:
    """All splits by name; DataError, in one line, where they cannot be had."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"hub:{name} needs the library `datasets` ({error}); pip install 'layerwise[hub]'") from error
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise DataError(
            f"hub:{name} needs `datasets` 4 or later, which runs no scripts, and {datasets.__version__} is installed; "
            "pip install --upgrade datasets"
        )
    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):  # they tell each attempt at a network that is not there
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        return datasets.load_dataset(name)
    except Exception as error:  # of the network, of the hub, or of a file: there are dozens of kinds
        line = " ".join(str(error).split())[:200] or type(error).__name__
        where = "a folder that datasets can load" if Path(name).is_dir() else "its name and the network"
        raise DataError(f"hub:{name} cannot be loaded ({line}); check {where}") from error


def columns_of(name: str, table: Any) -> tuple[str, str]:
    """The columns of the images and of their classes."""
    import datasets

    kinds = table.features
    images = [key for key, kind in kinds.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [key for key in kinds if key in LABELS]
    return the_one(name, "image", images, IMAGES, list(kinds)), the_one(name, "label", labels, LABELS, list(kinds))


def the_one(name: str, kind: str, found: list[str], usual: tuple[str, ...], every: list[str]) -> str:
    """The only column of its kind, or the one with the most usual name."""
    named = [key for key in usual if key in found]
    if len(found) == 1 or named:
        return found[0] if len(found) == 1 else named[0]
    text = f"several {kind} columns ({', '.join(found)})" if found else f"no {kind} column"
    raise DataError(f"hub:{name} has {text} among {', '.join(every)}; save it with one, named '{kind}'")


def encoded(name: str, split: str, table: Any, image: str) -> list[Picture]:
    """The pictures of a split as they are stored; a path in them is a file of the local cache or folder."""
    import datasets

    rows = table.cast_column(image, datasets.Image(decode=False))[image]
    found = []
    for number, row in enumerate(rows):
        content = row and (row.get("bytes") or (Path(row["path"]) if row.get("path") else None))
        found.append(Picture(f"row {number} of {split} of hub:{name}", content or None))
    return found


def classes(name: str, label: str, tables: list[Any]) -> tuple[list[str], np.ndarray]:
    """Class names and each row's position in them; rows without a label (-1, null) are an error."""
    import datasets

    raw = [value for table in tables for value in table[label]]
    if lacking := sum(value is None or value == -1 for value in raw):
        raise DataError(f"hub:{name}: {lacking:,} rows have no '{label}'; name the splits that have, hub:{name}:train")
    kind = tables[0].features[label]
    if isinstance(kind, datasets.ClassLabel):
        return list(kind.names), np.array(raw, np.int64)
    values, positions = np.unique(np.array(raw), return_inverse=True)
    return [str(value) for value in values.tolist()], positions.astype(np.int64)


def numbers(tables: list[Any], used: set[str]) -> dict[str, np.ndarray]:
    """The other columns that hold numbers, truth values or text in every row of every split."""
    found = {}
    for key in sorted(set.intersection(*(set(table.features) for table in tables)) - used):
        dtype = str(getattr(tables[0].features[key], "dtype", ""))
        if dtype == "string" or dtype.startswith(("int", "uint", "float", "bool")):
            values = [value for table in tables for value in table[key]]
            if None not in values:
                found[key] = np.array(values)
    return found
