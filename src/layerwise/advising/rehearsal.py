"""The training set alone, in folds: all that a race sees. Test images are not in it, so nothing can look at them.

Each fold in turn is held out, to be predicted by a net that has learnt the others. Where the data have a validation
part of their own, that is the one fold. Images of one group, and copies of one picture, stay in one fold.
"""

from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from layerwise.data.dataset import DataSet, make
from layerwise.grouping import together
from layerwise.randomness import seed
from layerwise.tasks import Parts, Task, examples

FOLDS = 5
FOLD = "fold"  # the column of the data


@dataclass(frozen=True)
class Rehearsal:
    """Training images with their folds, as a data set of its own."""

    data: DataSet  # of the task's classes alone, in the task's order
    task: Task  # all of them; `held_out` makes the task of a fold
    folds: tuple[str, ...]  # none where a class has a single image, or a single group

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
    if len(chosen.validation):
        fold = np.isin(positions, chosen.train).astype(np.int64)
        folds: tuple[str, ...] = ("0",)
    else:
        columns = task.parts.groups
        groups = together(data.columns, columns, len(data.labels))[positions] if columns else None
        fold = _folds(labels, groups, task.seed)
        folds = tuple(map(str, np.unique(fold))) if fold.any() else ()
    names = [data.class_names[label] for label in task.classes]
    own = make(f"{data.name} to learn", np.asarray(data.images[positions]), labels, names, {FOLD: fold})
    return Rehearsal(own, Task(own.digest, tuple(range(len(names))), encoding=task.encoding, seed=task.seed), folds)


def _folds(labels: np.ndarray, groups: np.ndarray | None, drawn: int) -> np.ndarray:
    """The fold of each image, stratified by class; all 0 where each fold would take some class from the others."""
    most = min(FOLDS, int(np.bincount(labels).min()), len(labels if groups is None else np.unique(groups)))
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    for count in range(most, 1, -1):
        found = np.zeros(len(labels), np.int64)
        drawing = kind(count, shuffle=True, random_state=seed("folds", drawn) % 2**32)
        for number, (_, held) in enumerate(drawing.split(labels, labels, groups)):
            found[held] = number
        if all(len(np.unique(labels[found != number])) == labels.max() + 1 for number in range(count)):
            return found
    return np.zeros(len(labels), np.int64)
