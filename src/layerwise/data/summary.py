"""What is in a data set, as a user wants to see it before training: sizes, classes, parts, columns, what is amiss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerwise.data.dataset import COPIES, PARTS, DataSet

SHOWN = 5  # sizes, and values of a column, that are named


@dataclass(frozen=True)
class Summary:
    """A data set in lines and a table."""

    lines: tuple[tuple[str, str], ...]  # (what, how much)
    heads: list[str]
    classes: tuple[tuple[str, ...], ...]  # a row each: name, images, images in each part
    notes: tuple[str, ...]
    unreadable: tuple[str, ...]


def summary(dataset: DataSet, cure: str = "") -> Summary:
    """What is in the data; `cure` is said beside its sizes."""
    counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    split = dataset.columns.get("split")
    parts = [part for part in PARTS if split is not None and (split == part).any()]
    of_part = [np.bincount(dataset.labels[split == part], minlength=len(counts)) for part in parts]
    heads = ["class", "images", *parts]
    rows = zip(dataset.class_names, counts, *of_part, strict=True)
    return Summary(
        tuple((what, text) for what, text in _lines(dataset, counts, parts, of_part, cure) if text),
        heads,
        tuple((name, *(f"{count:,}" for count in numbers)) for name, *numbers in rows),
        tuple(note for note in dataset.notes if not note.partition(" (")[0].endswith(" skipped")),
        dataset.reading.unreadable,
    )


def _lines(
    dataset: DataSet, counts: np.ndarray, parts: Sequence[str], of_part: Sequence[np.ndarray], cure: str
) -> list[tuple[str, str]]:
    _, channels, height, width = dataset.images.shape
    images = len(dataset.images)
    copies = len(same) - len(np.unique(same)) if (same := dataset.columns.get(COPIES)) is not None else 0
    kind = "grey" if channels == 1 else f"colour, {dataset.reading.grey:,} grey among them" * bool(dataset.reading.grey)
    columns = (_column(key, values) for key, values in dataset.columns.items() if key not in ("split", COPIES))
    class_columns = (f"{key} ({_few(sorted(set(values)))})" for key, values in dataset.class_columns.items())
    unreadable = len(dataset.reading.unreadable)
    return [
        ("images", f"{images:,}, {width}x{height} {kind or 'colour'}"),
        ("sizes", _sizes(dataset, cure)),
        ("classes", f"{len(counts):,}, of {_range(counts)} images"),
        ("imbalance", _imbalance(dataset, counts)),
        (
            "parts",
            ", ".join(f"{part} {of.sum():,} ({_range(of)} a class)" for part, of in zip(parts, of_part, strict=True)),
        ),
        ("columns", "; ".join(columns)),
        ("of classes", "; ".join(class_columns)),
        ("duplicates", f"{copies:,}" if copies else "none"),
        ("unreadable", f"{unreadable:,} of {unreadable + images:,}" if unreadable else "none"),
        ("digest", dataset.digest),
    ]


def _sizes(dataset: DataSet, cure: str) -> str:
    """The sizes before any resizing, the most frequent first."""
    sizes = dataset.reading.sizes
    named = [f"{size} ({count:,})" for size, count in list(sizes.items())[:SHOWN]]
    more = [f"and {len(sizes) - SHOWN:,} more"] if len(sizes) > SHOWN else []
    return "; ".join([", ".join(named + more), *([cure] if cure else [])]) if len(sizes) > 1 else ""


def _imbalance(dataset: DataSet, counts: np.ndarray) -> str:
    """How much larger the largest class is than the smallest; nothing where they are about equal."""
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[least] == 0:
        return f"class '{dataset.class_names[least]}' has no image"
    times = counts[most] / counts[least]
    text = f"'{dataset.class_names[most]}' has {times:.1f} times the images of '{dataset.class_names[least]}'"
    share = counts[most] / counts.sum()
    return f"{text}; to always say '{dataset.class_names[most]}' is {share:.1%} right" if times >= 1.5 else "none"


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _column(key: str, values: np.ndarray) -> str:
    different = np.unique(values)
    return f"{key} ({len(different):,} values: {_few(different.tolist())})"


def _few(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    return f"{shown}, ..." if len(values) > SHOWN else shown
