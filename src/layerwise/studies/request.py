"""What a user asks of a study, and how much of it the data can give."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from layerwise.augment import Augmentation, check_kornia
from layerwise.data.dataset import COPIES, DataSet
from layerwise.data.folder import natural
from layerwise.errors import DataError, StudyError, unknown
from layerwise.randomness import generator
from layerwise.studies.given_net import GivenNet
from layerwise.tasks import TEST, TRAIN, UNUSED, Parts, choose_classes, part, split_classes

GROUP_COLUMNS = ("writer", "group")  # columns whose values are kept on one side without being asked
EVERY = 10**9  # images a class: all there are
FORMS = "--split is random:SEED or column:NAME"
TRIAL_STRIDE = 1_000  # between the seeds of a source's trials, so that asking for more of them renames none


@dataclass(frozen=True)
class Request:
    """The options of a study; null is the scale's own."""

    data: DataSet
    net: str | None = None
    scale: str = "demo"
    seeds: int | None = None  # independent class splits, each with its own source
    trials: int | None = None  # of each source
    shots: tuple[int, ...] | None = None
    steps: int | None = None  # of a target
    source_steps: int | None = None  # of a source, then trained for just so many
    classes: str | None = None
    known: str | None = None  # the source's classes
    split: str | None = None  # random:SEED or column:NAME
    hold_out: str | None = None  # COLUMN:VALUES whose images are the test
    precision: str = "float32"
    channels_last: bool = False
    experiments: str | None = None  # which of the study's, such as levels,partial
    augment: str = ""  # of all recipes, such as crop:4,flip
    groups: str | None = None  # a column whose values are kept on one side of train and test
    deep: GivenNet | None = None  # beside the nets that are trained, in a study that looks at one

    def __post_init__(self) -> None:
        check_kornia(Augmentation.parse(self.augment))

    @property
    def chosen(self) -> tuple[int, ...]:
        """The classes in question: all, or those of --classes."""
        return choose_classes(self.classes, self.data.class_names)

    @property
    def how(self) -> dict[str, Any]:
        """What it says of every recipe."""
        return {"precision": self.precision, "channels_last": self.channels_last, "augment": self.augment}


def without_weights(net: str) -> str:
    """The net that a study is asked for; StudyError where weights for it are named too."""
    name, at, _ = net.partition("@")
    if at:
        raise StudyError(
            f"--net {net}: a study trains its own sources, as for each seed they must know other classes than its "
            f"targets; pass --net {name}, or look at these weights with: layerwise probe {net} DATA"
        )
    return net


def experiments(request: Request, known: Mapping[str, str]) -> tuple[str, ...]:
    """The experiments asked for, in the study's order; all of them by default. StudyError for one that it has not."""
    names = list(known) if request.experiments is None else [n.strip() for n in request.experiments.split(",")]
    if strange := [name for name in names if name not in known]:
        raise StudyError(unknown("experiment", strange[0], known))
    return tuple(name for name in known if name in names)


def scaled(request: Request, scales: Mapping[str, Any]) -> Any:
    """The scale's sizes, with what the request says instead."""
    if request.scale not in scales:
        raise StudyError(unknown("scale", request.scale, scales))
    names = ("seeds", "trials", "shots", "steps", "source_steps")
    asked = {name: value for name in names if (value := getattr(request, name)) is not None}
    for name, value in asked.items():
        numbers = value if isinstance(value, tuple) else (value,)
        shown = f"--{name.replace('_', '-')} {','.join(map(str, numbers)) or 'of no numbers'}"
        if min(numbers, default=0) < 1:
            raise StudyError(f"{shown} is not possible; the least is 1")
        if len(set(numbers)) < len(numbers):
            raise StudyError(f"{shown} names a number twice; name each once")
    asked.pop("source_steps", None)  # what the source has at most is the scale's; fixed steps are the request's
    return replace(scales[request.scale], **asked)


def fit_parts(request: Request, test: int, largest_shots: int) -> tuple[Parts, list[str]]:
    """How the data's images are parted for about so many test images a class, and what was fitted to do it.

    Published parts are kept; where there is no test part, the validation part is it. `groups` is a column whose values
    are drawn for one side or the other. Unasked, a `writer` or `group` column keeps each of its values on one side: the
    first so many train as the largest training set needs (or three quarters of them), the others test. Else images are
    drawn, copies of one image together, and where a class has few, at most a quarter of them test.
    """
    data = request.data
    groups = _groups(request)
    if (given := _given_parts(request, test)) is not None:
        return given
    for column in () if request.groups else GROUP_COLUMNS:
        if column in data.columns:
            held = _spare_groups(request, column, largest_shots)
            kept = f"{column} {held[0]} to {held[-1]} are tested on, so that every test {column} is unseen"
            return Parts(column, test, tuple(map(str, held))), [f"test images: {kept}"]
    counts = np.bincount(data.labels, minlength=len(data.class_names))
    smallest = min(request.chosen, key=lambda c: int(counts[c]))
    fewest = int(counts[smallest])
    fitted = min(test, max(1, fewest // 4))
    why = f"the smallest class, '{data.class_names[smallest]}', has {fewest} images (leave it out with --classes)"
    notes = [f"test images: {fitted} a class, not {test}: {why}"] * (fitted < test)
    parts = Parts("random", fitted, groups=groups)
    return parts, [*notes, *_kept_together(request, parts)]


def share_out(request: Request, share: float = 0.2, seed: int = 0) -> tuple[Parts, list[str]]:
    """How all images of a user's own data are parted: none is spared, and every class keeps some to train on.

    Parts that the data have are kept, all of their images. What they lack is drawn: a test part of this share of each
    class, and a validation part of this share of the rest, each of one image at least; of two images a class has none
    to validate on, of one none to test on either. Groups and copies are on one side: training images that the data's
    own test part has too are left out. Raises StudyError where the share is none.
    """
    if not 0 < share < 1:
        raise StudyError(f"--share {share:g} is not between 0 and 1; pass the part to test on, such as 0.2")
    if (given := _given_parts(request, 0)) is not None:
        copies = tuple(column for column in _groups(request) if column == COPIES)
        groups = (*given[0].groups, *copies)
        parts = replace(given[0], validation=EVERY, share=share, seed=seed, groups=groups)
        return parts, [given[1][0], *_kept_together(request, parts)]
    columns = [column for column in GROUP_COLUMNS if column in request.data.columns and not request.groups]
    parts = Parts("random", EVERY, (), EVERY, seed, (*columns[:1], *_groups(request)), share)
    return parts, _kept_together(request, parts)


def _given_parts(request: Request, test: int) -> tuple[Parts, list[str]] | None:
    """The parts that the user or the data say; nothing where a test part is still to be drawn."""
    data = request.data
    asked = (request.groups,) if request.groups else ()
    at_most = f"at most {test} a class of" if test else "all of"
    if request.hold_out is not None:
        column, values = _held_out(request.hold_out, data)
        parts, told = Parts(column, test, values, groups=asked), f"{column} {request.hold_out.partition(':')[2]}"
    elif "test" in (published := set(np.unique(data.columns.get("split", ())).tolist())):
        parts, told = Parts("published", test, groups=asked), f"{at_most} the data's own test part"
    elif "validation" in published:
        told = f"{at_most} the data's validation part; a test part it has not"
        parts = Parts("split", test, ("validation",), groups=asked)
    else:
        return None
    return parts, [f"test images: {told}", *(_kept_together(request, parts) if asked else [])]


def _groups(request: Request) -> tuple[str, ...]:
    """The columns that keep images together in parts that are drawn: the one asked for, and that of copies."""
    return (*([request.groups] if request.groups else []), *([COPIES] if COPIES in request.data.columns else []))


def _kept_together(request: Request, parts: Parts) -> list[str]:
    """What is to be said of groups: how many are tested on, and what had to be left out."""
    data = request.data
    if not parts.groups:
        return []
    where = part(parts, data.labels, data.columns)
    notes = []
    named = [column for column in parts.groups if column != COPIES]
    for column in named:
        tested, trained = (len(np.unique(data.columns[column][where == k])) for k in (TEST, TRAIN))
        notes.append(f"groups: every {column} is on one side; {tested:,} are tested on, {trained:,} are trained on")
    if parts.by != "random":
        alone = part(replace(parts, groups=(), validation=0), data.labels, data.columns)
        if emptied := sorted(set(data.labels[alone == TRAIN].tolist()) - set(data.labels[where == TRAIN].tolist())):
            name = data.class_names[emptied[0]]
            what = f"every {named[0]} of class '{name}'" if named else f"every image of class '{name}'"
            cure = "leave out --groups, or rename the column split" if named else "correct the parts"
            raise DataError(f"{what} is among the images that the data's own parts test or validate on; {cure}")
        if out := int(np.sum((alone == TRAIN) & (where == UNUSED))):
            whose = f"whose {named[0]} is among" if named else "which are copies of"
            notes.append(f"groups: {out:,} training images are left out, {whose} the test or validation images")
    return notes


def available(request: Request, parts: Parts) -> int:
    """Training images of the smallest of the classes in question; DataError where one has none, or none to test."""
    data, chosen = request.data, request.chosen
    found = part(parts, data.labels, data.columns)
    for which, purpose in ((TRAIN, "train"), (TEST, "test")):
        counts = np.bincount(data.labels[found == which], minlength=len(data.class_names))[list(chosen)]
        if counts.min() == 0:
            first = chosen[int(counts.argmin())]
            images = int(np.sum(data.labels == first))
            held = f" beside --hold-out {request.hold_out}" if request.hold_out else ""
            held += f" with every {request.groups} on one side" if request.groups else ""
            raise DataError(
                f"class '{data.class_names[first]}' ({images} in all) has no image to {purpose} on"
                f"{held}, as have {int(np.sum(counts == 0))} of {len(chosen)} classes; add some, or choose others "
                "with --classes"
            )
    return int(np.bincount(data.labels[found == TRAIN], minlength=len(data.class_names))[list(chosen)].min())


def fit_shots(request: Request, shots: tuple[int, ...], most: int) -> tuple[tuple[int, ...], list[str]]:
    """Numbers of samples per class, as far as the smallest class has so many, and a note where it has not.

    Raises StudyError where it is the request that asks for more.
    """
    if max(shots) <= most or request.shots is not None:
        check_shots(shots, most)
        return shots, []
    shots = tuple(k for k in shots if k <= most) or (most,)
    return shots, [f"samples per class: up to {max(shots)}; the smallest class has {most} to train on"]


def check_shots(shots: tuple[int, ...], most: int) -> None:
    """Raise StudyError where the smallest class has fewer training images than the most of these numbers."""
    if max(shots) > most:
        raise StudyError(f"--shots {max(shots)}: the smallest class has {most} training images; ask for at most that")


def sides(request: Request, name: str, seed: int, most: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Source and target classes of one class split."""
    data, chosen = request.data, request.chosen
    form, _, value = (request.split or "random:0").partition(":")
    if request.known is not None:
        if request.split is not None:
            raise StudyError("--known fixes the source's classes and --split draws them; pass one of them")
        known = choose_classes(request.known, data.class_names)
        others = tuple(c for c in chosen if c not in known)
        if strange := [data.class_names[c] for c in known if c not in chosen]:
            raise StudyError(
                f"--known {request.known} has class '{strange[0]}', which --classes {request.classes} leaves out; "
                "name it in both"
            )
        if len(others) < 2 or len(known) < 2:
            raise StudyError(
                f"--known {request.known} gives the source {len(known)} classes and the target {len(others)}; "
                "both need 2"
            )
        drawn = generator("classes", name, data.digest, seed).permutation(others)[:most]
        return known, tuple(sorted(drawn.tolist()))
    if form == "column":
        if value not in data.class_columns:
            have = ", ".join(sorted(data.class_columns)) or "none"
            raise StudyError(f"--split {request.split}: the classes have no column '{value}' (they have: {have})")
        known, others = split_classes(chosen, name, data.digest, seed, most=most, kinds=data.class_columns[value])
        if len(known) < 2:
            raise StudyError(f"--split {request.split} gives each side {len(known)} class of these; both need 2")
        return known, others
    if form != "random" or not re.fullmatch("[0-9]{1,9}", value):
        raise StudyError(f"--split '{request.split}' is not understood; {FORMS}")
    if len(chosen) < 4:
        raise StudyError(f"{len(chosen)} classes cannot be split into source and target; at least 4 are needed")
    return split_classes(chosen, name, data.digest, int(value), seed, most=most)


def _held_out(text: str, data: DataSet) -> tuple[str, tuple[str, ...]]:
    """The column and its values that a text such as `writer:40-54` means; a range goes by the values there are."""
    column, _, values = text.partition(":")
    if column not in data.columns or not values:
        have = ", ".join(sorted(data.columns)) or "none"
        raise StudyError(
            f"--hold-out '{text}' is not COLUMN:VALUES of the data, such as writer:40-54 (columns: {have})"
        )
    known = sorted({str(value) for value in data.columns[column].tolist()}, key=natural)
    found: set[str] = set()
    for item in values.split(","):
        ends = [item] if item in known else re.split(r"(?<=.)-(?=.)", item, maxsplit=1)
        if strange := [end for end in ends if end not in known]:
            there = f"{known[0]} to {known[-1]}" if len(known) > 8 else ", ".join(known)
            raise StudyError(f"--hold-out '{text}': no image has {column} '{strange[0]}' (there are {there})")
        found.update(known[known.index(ends[0]) : known.index(ends[-1]) + 1])
    return column, tuple(value for value in known if value in found)


def _spare_groups(request: Request, column: str, shots: int) -> list[Any]:
    """The groups that are not needed for a training part of so many images in every class, or the last quarter."""
    data, chosen = request.data, request.chosen
    groups = np.unique(data.columns[column][np.isin(data.labels, chosen)]).tolist()
    if len(groups) < 2:
        raise DataError(f"all images have one {column}; test images need another: pass --hold-out or rename the column")
    for enough in range(1, len(groups)):
        train = np.isin(data.columns[column], groups[:enough])
        if np.bincount(data.labels[train], minlength=len(data.class_names))[list(chosen)].min() >= shots:
            return groups[enough:]
    return groups[-max(1, len(groups) // 4) :]
