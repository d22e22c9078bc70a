"""Choices of source classes: by hand, and blind to everything but training images."""

from dataclasses import replace

import numpy as np
import torch

from layerwise.data.dataset import DataSet, make
from layerwise.studies.gutstein import design
from layerwise.studies.request import Request
from layerwise.studies.sources import confused, diverse, numbers, similar


def test_similar_are_nearest_to_some_target_class() -> None:
    """On a line: candidates at 0, 10, 21 and 40, target classes at 20 and 41."""
    candidates, target = np.array([[0.0], [10.0], [21.0], [40.0]]), np.array([[20.0], [41.0]])
    assert similar(candidates, target, 2) == [2, 3]
    assert similar(candidates, target, 3) == [2, 3, 1]


def test_diverse_are_the_ends_and_then_what_is_furthest_from_both() -> None:
    candidates = np.array([[0.0], [1.0], [4.0], [6.0], [10.0]])
    assert diverse(candidates, 2) == [0, 4]
    assert diverse(candidates, 3) == [0, 4, 2]  # 4 away from 0, and 6 is 4 away from 10: the first of equals
    assert diverse(candidates, 4)[-1] in {1, 3}


def test_the_probe_counts_whom_the_targets_samples_are_taken_for() -> None:
    """Three candidates of five images each, at 0, 10 and 20; of four target samples three lie at 20 and one at 10."""
    candidates = torch.tensor([0.0, 10.0, 20.0])[:, None, None] + 0.01 * torch.arange(5.0)[None, :, None]
    target = torch.tensor([[20.3, 19.8], [20.1, 10.2]])[:, :, None]
    assert confused(candidates, target, 1) == [2]
    assert confused(candidates, target, 2) == [2, 1]
    assert confused(candidates, target, 3) == [2, 1, 0]


def test_numbers_of_classes() -> None:
    assert numbers(20) == (5, 10, 20)
    assert numbers(4) == (2, 4)
    assert numbers(2) == (2,)


def pictured(columns: dict[str, np.ndarray] | None = None, classes: int = 24, each: int = 60) -> DataSet:
    """Each class a pattern of its own, with noise."""
    draw = np.random.default_rng(0)
    patterns = draw.integers(0, 180, (classes, 1, 32, 32))
    labels = np.repeat(np.arange(classes), each)
    images = (patterns[labels] + draw.integers(0, 60, (len(labels), 1, 32, 32))).astype(np.uint8)
    return make("pictured", images, labels, [f"k{c}" for c in range(classes)], columns)


def test_a_class_that_looks_like_one_of_the_targets_is_chosen() -> None:
    """By its mean image and by the probe, whichever class of the candidates it is."""
    data = pictured()
    own, others = design(Request(data, experiments="levels")).sides(0)
    for twin in own:
        images = data.images.copy()
        images[data.labels == twin] = images[data.labels == others[0]]  # the same pictures under another name
        choices = design(Request(replace(data, images=images), experiments="sources", seeds=1)).chosen[0]
        assert twin in choices["similar 6"]
        assert twin in choices["probe 6"]


def test_a_choice_never_sees_a_test_image() -> None:
    """With other test images, of the target and of the candidates, the choices are the same; with others to train on
    they are not.
    """
    split = np.where(np.arange(24 * 60) % 60 < 20, "test", "train")
    data = pictured(columns={"split": split})

    def chosen(changed: str) -> dict[str, tuple[int, ...]]:
        images = data.images.copy()
        images[split == changed] = np.random.default_rng(1).permutation(images[split == changed])
        return dict(design(Request(replace(data, images=images), experiments="sources", seeds=1)).chosen[0])

    assert chosen("test") == chosen("neither")
    assert chosen("train") != chosen("neither")
