"""How large a task is, counted without drawing it."""

import pytest

from layerwise.data.dataset import DataSet
from layerwise.errors import DataError
from layerwise.job import counts
from layerwise.tasks import Parts, Task, examples


@pytest.mark.parametrize("shots", [1, 7, None])
@pytest.mark.parametrize("parts", [Parts("random", 5), Parts("random", 9, validation=5), Parts("random", 5, seed=3)])
def test_counted_is_what_is_drawn(blobs: DataSet, parts: Parts, shots: int | None) -> None:
    for classes in ((0, 1, 2), (7, 3)):
        task = Task(blobs.digest, classes, shots, parts=parts)
        drawn = vars(examples(task, blobs.labels, blobs.columns, blobs.class_names))
        assert counts(task, blobs) == {name: len(positions) for name, positions in drawn.items()}


def test_too_few_images_are_told_as_where_they_are_drawn(blobs: DataSet) -> None:
    with pytest.raises(DataError, match="has 25 training images, 26 were asked for"):
        counts(Task(blobs.digest, (0, 1), 26, parts=Parts("random", 5)), blobs)
