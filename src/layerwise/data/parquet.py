"""Parquet files in the layout of Hugging Face data sets: a column of encoded images, and one of labels.

A `classes.csv` beside the files may tell more of each class: its column `label` is the class's name or position, every
other column becomes a class column, and `words` ("goldfish, Carassius auratus") gives more readable class names.
"""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from layerwise.data.dataset import PART_NAMES, DataSet, make
from layerwise.data.folder import NOT_DATA
from layerwise.data.pictures import Options, Picture, stack
from layerwise.errors import DataError

ClassColumns = dict[str, tuple[str, ...]]


def read(path: Path, options: Options) -> DataSet:
    """All rows of the files in the order of their names; numeric columns beside image and label are kept."""
    files = parquet_files(path)
    tables = [table(file) for file in files]
    image, label = image_column(path, tables[0]), label_column(path, tables[0])
    for file, one in zip(files, tables, strict=True):
        if lacking := {image, label} - set(one.column_names):
            raise DataError(
                f"{file} has no column '{min(lacking)}', {files[0].name} has; keep files of one kind in {path}"
            )
    pictures = [one for file, rows in zip(files, tables, strict=True) for one in encoded(file, rows[image])]
    if not pictures:
        raise DataError(f"{path}: the parquet files have no rows")
    raw = [value for rows in tables for value in rows[label].to_pylist()]
    positions, names = classes(path, label, raw, features(tables[0]).get(label, {}).get("names"))
    names, class_columns = described(path if path.is_dir() else path.parent, names)
    columns = (
        numbers(tables, {image, label}) | texts(tables, options.groups) | split(files, [len(rows) for rows in tables])
    )
    made = stack(pictures, options)
    columns = {key: values[made.kept] for key, values in columns.items()}
    labels = positions[made.kept]
    return make("parquet", made.images, labels, names, columns, class_columns, made.notes, made.reading)


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or the visible parquet files in the folder and below, in the order of their names."""
    if path.is_file():
        return [path]
    inner = [one for one in path.rglob("*.parquet") if one.is_file() and not _is_passed_over(one.relative_to(path))]
    if not inner:
        raise DataError(f"{path} has no parquet files; parquet:DIR needs files such as train-00000-of-00001.parquet")
    return sorted(inner)


def _is_passed_over(relative: Path) -> bool:
    """Is it hidden, or what layerwise made: a store, a report?"""
    return any(part.startswith(NOT_DATA) for part in relative.parts)


def table(file: Path) -> pa.Table:
    """One file's rows."""
    try:
        with pq.ParquetFile(file) as opened:
            return opened.read()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file} is truncated or not a parquet file ({reason}); fetch it again") from error


def features(rows: pa.Table) -> dict[str, Any]:
    """What the `datasets` library noted of the columns in the schema; empty where it did not write the file."""
    try:
        found = json.loads((rows.schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, dict)} if isinstance(found, dict) else {}


def image_column(path: Path, rows: pa.Table) -> str:
    """The column of encoded images: binary, or a struct with a binary field `bytes`."""
    found = [field.name for field in rows.schema if _is_binary(field.type) or _is_image(field.type)]
    return the_one(path, "image", found, rows, [key for key in found if key in ("image", "img")])


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_image(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(field.name == "bytes" and _is_binary(field.type) for field in kind)


def label_column(path: Path, rows: pa.Table) -> str:
    """The column of labels: the one noted as ClassLabel, else the one called label, else the only one of that kind."""
    noted = [key for key, feature in features(rows).items() if feature.get("_type") == "ClassLabel"]
    kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    found = noted or [field.name for field in rows.schema if any(is_kind(field.type) for is_kind in kinds)]
    return the_one(path, "label", found, rows, [key for key in found if key in ("label", "labels")])


def the_one(path: Path, kind: str, found: list[str], rows: pa.Table, preferred: list[str]) -> str:
    """The only column found, or the only one with a usual name."""
    for candidates in (found, preferred):
        if len(candidates) == 1:
            return candidates[0]
    text = f"more than one column could be the {kind} ({', '.join(found)})" if found else f"no {kind} column"
    raise DataError(f"{path}: {text} among {', '.join(rows.column_names)}; name the column '{kind}'")


def encoded(file: Path, column: pa.ChunkedArray) -> list[Picture]:
    """The bytes of each row's image."""
    values = (row.get("bytes") if isinstance(row, dict) else row for row in column.to_pylist())
    return [Picture(f"row {number} of {file}", value) for number, value in enumerate(values)]


def classes(path: Path, column: str, labels: list[Any], names: list[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Positions (examples,) and class names; numbers count into the names that the schema has."""
    if lacking := sum(label is None for label in labels):
        raise DataError(
            f"{path}: {lacking:,} rows have no '{column}' (the first is row {labels.index(None)}); remove them"
        )
    if names and not isinstance(labels[0], str):
        return np.array(labels, np.int64), tuple(str(name) for name in names)
    values, positions = np.unique(np.array(labels), return_inverse=True)
    return positions.astype(np.int64), tuple(str(value) for value in values.tolist())


def numbers(tables: list[pa.Table], used: set[str]) -> dict[str, np.ndarray]:
    """The other columns that hold a number or truth value in every row of every file."""
    shared = set.intersection(*(set(rows.column_names) for rows in tables)) - used
    columns = {}
    for key in sorted(shared):
        whole = (
            pa.chunked_array([chunk for rows in tables for chunk in rows[key].chunks]) if _alike(tables, key) else None
        )
        if whole is not None and whole.null_count == 0:
            columns[key] = whole.to_numpy()
    return columns


def texts(tables: list[pa.Table], asked: str | None) -> dict[str, np.ndarray]:
    """The column asked for, where it holds text in every row; captions and the like stay where they are."""
    found = [value for rows in tables for value in rows[asked].to_pylist()] if _is_text(tables, asked) else []
    return {str(asked): np.array(found)} if found and None not in found else {}


def _is_text(tables: list[pa.Table], key: str | None) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string)
    return all(
        key in rows.column_names and any(is_kind(rows.schema.field(key).type) for is_kind in kinds) for rows in tables
    )


def _alike(tables: list[pa.Table], key: str) -> bool:
    kinds = {rows.schema.field(key).type for rows in tables}
    kind = next(iter(kinds))
    return len(kinds) == 1 and any(
        is_kind(kind) for is_kind in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    )


def split(files: list[Path], lengths: list[int]) -> dict[str, np.ndarray]:
    """The part that each row's file is named for; nothing where a file is named for none."""
    parts = [PART_NAMES.get(re.split(r"[-_.]", file.name)[0].lower(), "") for file in files]
    return {"split": np.repeat(np.array(parts), lengths)} if all(parts) else {}


def described(folder: Path, names: tuple[str, ...]) -> tuple[tuple[str, ...], ClassColumns]:
    """Class names and class columns by `classes.csv`, where there is one."""
    path = folder / "classes.csv"
    if not path.is_file():
        return names, {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file, restval=""))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    if not lines or "label" not in lines[0]:
        raise DataError(
            f"{path} has no column 'label'; add one with the name or position of each class, or remove the file"
        )
    by_label = {line["label"]: line for line in lines}
    keys = names if set(names) <= set(by_label) else tuple(str(position) for position in range(len(names)))
    if lacking := [name for name, key in zip(names, keys, strict=True) if key not in by_label]:
        raise DataError(f"{path} has no line for class '{lacking[0]}'; add it or remove the file")
    fields = [field for field in lines[0] if field not in (None, "label")]
    columns = {field: tuple(by_label[key][field] for key in keys) for field in fields}
    return readable(names, columns["words"]) if "words" in columns else names, columns


def readable(names: tuple[str, ...], words: tuple[str, ...]) -> tuple[str, ...]:
    """The first of each class's words; with the published name behind it where two classes have the same."""
    first = [text.split(",")[0].strip() or name for name, text in zip(names, words, strict=True)]
    count = Counter(first)
    return tuple(word if count[word] == 1 else f"{word} ({name})" for word, name in zip(first, names, strict=True))
