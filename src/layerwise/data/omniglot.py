"""Omniglot as it is published: a zip of `SET/ALPHABET/characterNN/NNNN_DD.png` (https://github.com/brendenlake/omniglot).

The archive is read in place: nothing is written to disk, and names in it are never used as paths. What is larger than
the published files ever are is refused before it is unpacked.
"""

import re
import zipfile
import zlib
from pathlib import Path

import numpy as np

from layerwise.data.dataset import DataSet, make
from layerwise.data.folder import natural
from layerwise.data.pictures import Options, Picture, stack
from layerwise.errors import DataError

ENTRY = re.compile(r"(?:[^/]+/)?(?P<alphabet>[^/]+)/(?P<character>character[0-9]+)/[0-9]+_(?P<drawer>[0-9]+)\.png")
MOST_FILES = 200_000  # the published 1,623 characters have 32,460
MOST_BYTES = 100_000  # of a picture; the published ones have some 250
NEEDS = "omniglot:ZIP needs the archive as published, such as images_background.zip"


def read(path: Path, options: Options) -> DataSet:
    """Every drawing; classes are `alphabet/character`, columns the alphabet and the drawer's number."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = drawings(path, archive)
            pictures = [Picture(f"{info.filename} in {path}", unpacked(path, archive, info)) for _, info in entries]
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is damaged or not a zip archive ({error}); fetch it again") from error
    made = stack(pictures, options)
    found = [entry for entry, _ in entries]
    names = [f"{one['alphabet']}/{one['character']}" for one in found]
    class_names = sorted(set(names), key=natural)
    positions = {name: position for position, name in enumerate(class_names)}
    columns = {
        "alphabet": np.array([one["alphabet"] for one in found])[made.kept],
        "drawer": np.array([int(one["drawer"]) for one in found], np.int64)[made.kept],
    }
    labels = np.array([positions[name] for name in names], np.int64)[made.kept]
    kinds = {"alphabet": [name.partition("/")[0] for name in class_names]}
    return make("omniglot", made.images, labels, class_names, columns, kinds, made.notes, made.reading)


def drawings(path: Path, archive: zipfile.ZipFile) -> list[tuple[re.Match[str], zipfile.ZipInfo]]:
    """The entries that are drawings, in natural order of their names; others are passed over."""
    found = [(entry, info) for info in archive.infolist() if (entry := ENTRY.fullmatch(info.filename))]
    found = [(entry, info) for entry, info in found if ".." not in entry.groups() and "__MACOSX" not in info.filename]
    if not found:
        raise DataError(f"{path} has no drawings named ALPHABET/characterNN/NNNN_DD.png; {NEEDS}")
    if len(found) > MOST_FILES:
        raise DataError(f"{path} has {len(found):,} drawings, more than Omniglot's 32,460; {NEEDS}")
    return sorted(found, key=lambda one: natural(one[1].filename))


def unpacked(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of one drawing; never more than a drawing has, whatever the archive says of its size."""
    if info.flag_bits & 1:
        raise DataError(f"{path}: {info.filename} is encrypted; {NEEDS}")
    with archive.open(info) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"{path}: {info.filename} unpacks to more than {MOST_BYTES:,} bytes; {NEEDS}")
    return content
