"""The training set alone, in folds: all that a race sees. Test images are not in it, so nothing can look at them.

Each fold in turn is held out, to be predicted by a net that has learnt the others. Where the data have a validation
part of their own, that is the one fold. Images of one group, and copies of one picture, stay in one fold. A class that
has one image, or one group, is in none: it is always learnt.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from layerwise.data.dataset import DataSet, make
from layerwise.grouping import together
from layerwise.randomness import seed
from layerwise.tasks import Parts, Task, examples

FOLDS = 5
FOLD, GROUP = "fold", "group"  # columns of the data; the latter where images are kept together
ALWAYS = -1  # in place of a fold's number: never held out


@dataclass(frozen=True)
class Rehearsal:
    """Training images with their folds, as a data set of its own."""

    data: DataSet  # of the task's classes alone, in the task's order
    task: Task  # all of them; `held_out` makes the task of a fold
    folds: tuple[str, ...]  # none where every class has a single image, or a single group

    @property
    def never_held_out(self) -> tuple[str, ...]:
        """Names of the classes whose images are always learnt, so that nothing tells how well they are predicted."""
        held = np.unique(self.data.labels[self.data.columns[FOLD] != ALWAYS])
        return tuple(name for label, name in enumerate(self.data.class_names) if label not in held)

    @property
    def whole(self) -> Task:
        """The task that has all images to learn from."""
        return replace(self.task, parts=Parts(test=0))

    def held_out(self, fold: str) -> Task:
        """The task whose test part is this fold."""
        return replace(self.task, parts=Parts(FOLD, 0, (fold,)))

    def size(self, fold: str) -> int:
        """Images that are held out."""
        return int(np.sum(self.data.columns[FOLD] == int(fold)))


def rehearsal(data: DataSet, task: Task) -> Rehearsal:
    """The task's training images in folds; what its parts keep on one side (`task.parts.groups`) is in one fold."""
    chosen = examples(task, data.labels, data.columns, data.class_names)
    positions = np.sort(np.concatenate([chosen.train, chosen.validation]))  # the same with other test images
    numbered = np.full(len(data.class_names), -1)
    numbered[list(task.classes)] = np.arange(len(task.classes))
    labels = numbered[data.labels[positions]]
    columns = task.parts.groups
    groups = together(data.columns, columns, len(data.labels))[positions] if columns else None
    if len(chosen.validation):
        fold = np.where(np.isin(positions, chosen.train), ALWAYS, 0)
    else:
        fold = _folds(labels, groups, task.seed)
    folds = tuple(map(str, np.unique(fold[fold != ALWAYS])))
    names = [data.class_names[label] for label in task.classes]
    about = {FOLD: fold} if groups is None else {FOLD: fold, GROUP: groups}
    own = make(f"{data.name} to learn", np.asarray(data.images[positions]), labels, names, about)
    return Rehearsal(own, Task(own.digest, tuple(range(len(names))), encoding=task.encoding, seed=task.seed), folds)


def _folds(labels: np.ndarray, groups: np.ndarray | None, drawn: int) -> np.ndarray:
    """The fold of each image, stratified by class; ALWAYS for all where folds would take a class from the others.

    A group that has an image of a class in no other group is never held out, whatever else it has.
    """
    units = np.arange(len(labels)) if groups is None else groups
    spread = np.array([len(np.unique(units[labels == label])) for label in range(labels.max() + 1)])
    (those,) = np.nonzero(~np.isin(units, units[spread[labels] == 1]))
    here = labels[those]
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    for count in range(min(FOLDS, spread.max(), len(np.unique(units[those]))), 1, -1):
        found = np.full(len(labels), ALWAYS)
        drawing = kind(count, shuffle=True, random_state=seed("folds", drawn) % 2**32)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")  # it is not in every fold
            for number, (_, held) in enumerate(drawing.split(here, here, None if groups is None else groups[those])):
                found[those[held]] = number
        if all(len(np.unique(labels[found != number])) == labels.max() + 1 for number in range(count)):
            return found
    return np.full(len(labels), ALWAYS)
