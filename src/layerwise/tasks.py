"""Tasks: which classes of which data a net learns, from how many samples, towards which targets.

Every image is put once, for all tasks on a data set, into one of three parts: train, validation or test (`Parts`). A
task then takes classes, and from their training part so many samples a class. Samples nest: the one sample of
`shots=1` is among the five of `shots=5`, for equal seeds.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int8

from layerwise.errors import DataError, StudyError
from layerwise.grouping import draw_groups, together
from layerwise.randomness import canonical, generator, seed

TRAIN, VALIDATION, TEST, UNUSED = range(4)


@dataclass(frozen=True)
class Parts:
    """How the images of a data set are put into train, validation and test, once and for all.

    `random` draws `test` images a class; `published` takes the data's own parts; any other name is a column of the data
    (such as `writer`) whose values in `held_out` are the test. From a published or held-out part at most `test` images
    a class are used (0: all of them). Validation images are drawn from the training part, unless published.

    `groups` are columns (a person, a scene, "same pixels") that keep images together: all that share a value of one of
    them, or are linked so through others, are on one side. Of a published or held-out test part they never move images:
    what shares a group with a test image is left out of training and validation. A drawn test or validation part has
    whole groups, until each class has its images; it never takes a class's last group from training.
    """

    by: str = "random"
    test: int = 50  # images a class; 0 is all of a published or held-out part
    held_out: tuple[str, ...] = ()
    validation: int = 0  # images a class
    seed: int = 0
    groups: tuple[str, ...] = ()  # columns whose values stay on one side
    share: float = 0.0  # at most this share of a class is drawn for test, and of the rest for validation; 0: any


@dataclass(frozen=True)
class Task:
    """What is learnt: classes of a data set, samples a class, and how a class is encoded as a target."""

    data: str  # digest of the data set
    classes: tuple[int, ...]
    shots: int | None = None  # training samples a class; null is all
    encoding: str = "onehot"  # or bits:20, a random vector of so many bits for each class
    parts: Parts = Parts()
    seed: int = 0  # draws the samples and the bits
    rest: tuple[int, ...] = ()  # classes that together are one more, the last: the null class

    def __post_init__(self) -> None:
        if not re.fullmatch("onehot|bits:[1-9][0-9]*", self.encoding):
            raise StudyError(f"unknown encoding '{self.encoding}'; write onehot, or bits:20 for 20 random bits a class")

    @property
    def outputs(self) -> int:
        """The width of the net's head."""
        return int(self.encoding.removeprefix("bits:")) if self.is_bits else self.width

    @property
    def width(self) -> int:
        """How many classes are told apart, the null class among them."""
        return len(self.classes) + bool(self.rest)

    @property
    def is_bits(self) -> bool:
        """Are targets random bits, and the predicted class that of the nearest code?"""
        return self.encoding.startswith("bits:")

    @property
    def stream(self) -> str:
        """What names this task in seeds: all but the number of samples, so that runs on 1 and 5 of them are paired."""
        return canonical(described(replace(self, shots=None)))

    @property
    def name(self) -> str:
        """Eight hex digits: equal for tasks of equal data, classes and parts, whatever the samples."""
        return f"{seed(described(replace(self, shots=None, seed=0))) >> 31:08x}"


LATER = {"rest": ()}
"""Fields that came after keys were first made: left out at these values, so that older keys and draws stay."""
PARTS_LATER = {"groups": (), "share": 0.0}  # the same of parts


def described(task: Task) -> dict[str, Any]:
    """The task as plain values, of which keys and seeds are made."""
    parts = _without(asdict(task.parts), PARTS_LATER)
    return {**_without(asdict(task), LATER), "parts": parts}


def _without(values: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


@dataclass(frozen=True)
class Examples:
    """Positions of a task's images in its data set; train, validation and test have none in common."""

    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]


def part(parts: Parts, labels: Int[np.ndarray, " n"], columns: Mapping[str, np.ndarray]) -> Int8[np.ndarray, " n"]:
    """TRAIN, VALIDATION, TEST or UNUSED for every image of a data set."""
    groups = together(columns, parts.groups, len(labels)) if parts.groups else None
    found = _pools(parts, labels, columns, groups)
    if groups is not None:  # published parts may share what they should not
        for kept, others in ((TEST, (TRAIN, VALIDATION)), (VALIDATION, (TRAIN,))):
            found[np.isin(groups, groups[found == kept]) & np.isin(found, others)] = UNUSED
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        order = generator("part", parts.seed, int(label)).permutation(of_class)
        test = order[found[order] == TEST]
        found[test[parts.test :] if parts.test else test[:0]] = UNUSED
        if groups is None and not (found[of_class] == VALIDATION).any():
            train = order[found[order] == TRAIN]
            found[train[len(train) - _drawn(parts, parts.validation, len(train)) :]] = VALIDATION
    if groups is not None and parts.validation and not (found == VALIDATION).any():
        chosen = _groups_for(parts, parts.validation, labels, groups, found == TRAIN, "validation")
        found[chosen & (found == TRAIN)] = VALIDATION
    return found


def _drawn(parts: Parts, wanted: int, there: int) -> int:
    """How many of a class's images are taken from training: so many, one at least, but never all of them."""
    most = there - 1 if not parts.share else min(there - 1, max(1, round(parts.share * there)))
    return max(0, min(wanted, most))


def _groups_for(
    parts: Parts, wanted: int, labels: np.ndarray, groups: np.ndarray, pool: np.ndarray, purpose: str
) -> np.ndarray:
    """Images of the groups that a test or validation part is drawn to have: true for each of them."""
    there = np.bincount(labels[pool], minlength=labels.max() + 1)
    goals = np.array([_drawn(parts, wanted, int(count)) for count in there])
    order = generator("groups", purpose, parts.seed).permutation(np.unique(groups[pool]))
    chosen = draw_groups(labels[pool], groups[pool], goals, order)
    return np.isin(groups, chosen)


def _pools(
    parts: Parts, labels: Int[np.ndarray, " n"], columns: Mapping[str, np.ndarray], groups: np.ndarray | None
) -> Int8[np.ndarray, " n"]:
    """Before any limit on how many: which images may train, validate, test."""
    found = np.full(len(labels), TRAIN, np.int8)
    if parts.by == "random" and groups is not None:
        found[_groups_for(parts, parts.test, labels, groups, found == TRAIN, "test")] = TEST
        return found
    if parts.by == "random":
        for label in np.unique(labels):
            order = generator("part", parts.seed, int(label)).permutation(np.flatnonzero(labels == label))
            found[order[: _drawn(parts, parts.test, len(order)) if parts.share else parts.test]] = TEST
        return found
    column = columns.get("split" if parts.by == "published" else parts.by)
    if column is None:
        raise DataError(f"the data have no column '{parts.by}' to part them by; they have {sorted(columns) or 'none'}")
    if parts.by == "published":
        found[column == "validation"] = VALIDATION
        found[column == "test"] = TEST
        return found
    found[np.isin(column.astype(str), parts.held_out)] = TEST
    if not (found == TEST).any():
        raise DataError(f"no image has {parts.by} in {list(parts.held_out)}, so there is nothing to test on")
    return found


def examples(
    task: Task, labels: Int[np.ndarray, " n"], columns: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> Examples:
    """The images of a task, class after class; raises DataError where a class has fewer than asked for.

    The null class has, in each part, as many images as the largest of the others, or all there are.
    """
    parts = part(task.parts, labels, columns)
    found: dict[int, list[np.ndarray]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for label in task.classes:
        here = np.flatnonzero(labels == label)
        for which in (VALIDATION, TEST):
            found[which].append(here[parts[here] == which])
        pool = here[parts[here] == TRAIN]
        if not len(pool):
            raise DataError(
                f"class '{class_names[label]}' has no training image; add some, keep fewer back to test on, or leave "
                "it out with --classes"
            )
        shots = len(pool) if task.shots is None else task.shots
        if not 0 < shots <= len(pool):
            fewest = min(int(np.sum((labels == one) & (parts == TRAIN))) for one in task.classes)
            raise DataError(
                f"class '{class_names[label]}' has {len(pool)} training images, {shots} were asked for; "
                f"ask for at most {max(1, fewest)}, which every class has, or leave the class out with --classes"
            )
        found[TRAIN].append(generator("samples", task.data, task.seed, label).permutation(pool)[:shots])
    if task.rest:
        for which, own in found.items():
            pool = np.flatnonzero(np.isin(labels, task.rest) & (parts == which))
            drawn_for = task.seed if which == TRAIN else None  # what is tested on does not change with the samples
            drawn = generator("samples", task.data, drawn_for, list(task.rest), which).permutation(pool)
            own.append(drawn[: max(map(len, own))])
            if len(pool) == 0 and which == TRAIN:
                raise DataError("the classes of the null class have no training images; name others with --classes")
    return Examples(*(np.concatenate(found[which]) for which in (TRAIN, VALIDATION, TEST)))


def codes(task: Task) -> Float[np.ndarray, "classes outputs"]:
    """The target of each class: +-1 bits, all different, or one-hot rows.

    Gutstein et al. give each character "a 20 bit random vector": further apart than one-hot targets.
    """
    if not task.is_bits:
        return np.eye(task.width)
    bits = task.outputs
    if task.width > 2**bits:
        raise StudyError(f"{task.width} classes need more than {bits} bits to have different codes")
    for attempt in range(10_000):
        draw = generator("codes", task.data, task.seed, task.classes, bits, attempt)
        drawn = draw.integers(0, 2, (task.width, bits)) * 2.0 - 1.0
        if len(np.unique(drawn, axis=0)) == len(drawn):
            return drawn
    raise StudyError(f"no {task.width} different codes of {bits} bits were found; ask for more bits")


def split_classes(
    classes: Sequence[int], *seeds: Any, most: int = 20, kinds: Sequence[str] | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Source and target classes, drawn without overlap: half of them each, at most `most`.

    Where `kinds` (one per class) is given, the sides are its two values, in alphabetical order, each sampled to equal
    size: Yosinski's dissimilar split.
    """
    if kinds is None:
        order = generator("classes", *seeds).permutation(np.asarray(classes)).tolist()
        size = min(len(order) // 2, most)
        return tuple(sorted(order[:size])), tuple(sorted(order[size : 2 * size]))
    values = sorted({kinds[c] for c in classes})
    if len(values) != 2:
        raise StudyError(f"the column has {len(values)} values for these classes ({', '.join(values)}); two are needed")
    sides = [[c for c in classes if kinds[c] == value] for value in values]
    size = min(*map(len, sides), most)
    drawn = [generator("classes", *seeds, v).permutation(s)[:size] for v, s in zip(values, sides, strict=True)]
    return tuple(sorted(drawn[0].tolist())), tuple(sorted(drawn[1].tolist()))


def choose_classes(text: str | None, class_names: Sequence[str]) -> tuple[int, ...]:
    """The positions that a text such as `0-4,7,cat` means: names, positions, and ranges of either; null is all.

    >>> choose_classes("0-2,cat", ["ant", "bee", "cow", "cat"])
    (0, 1, 2, 3)
    """
    if text is None:
        return tuple(range(len(class_names)))
    names = {name: position for position, name in enumerate(class_names)}
    found: list[int] = []
    for item in filter(None, map(str.strip, text.split(","))):
        ends = [item] if item in names else re.split(r"(?<=.)-(?=.)", item, maxsplit=1)
        first, last = (_position(end, names, class_names) for end in (ends[0], ends[-1]))
        if first > last:
            raise StudyError(f"classes '{item}' run backwards; write '{ends[-1]}-{ends[0]}'")
        found.extend(range(first, last + 1))
    if len(found) != len(set(found)) or not found:
        raise StudyError(f"classes '{text}' name {'a class twice' if found else 'none'}; name each class once")
    return tuple(found)


def _position(name: str, names: Mapping[str, int], class_names: Sequence[str]) -> int:
    if name in names:
        return names[name]
    if name.isascii() and name.isdigit() and int(name) < len(class_names):
        return int(name)
    shown = ", ".join(class_names[:8]) + (", ..." if len(class_names) > 8 else "")
    raise StudyError(f"unknown class '{name}'; there are {len(class_names)} classes: {shown}")
