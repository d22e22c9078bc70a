"""What a trainer eats: a task's images and targets as tensors, and the order in which a run sees them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from layerwise.data.dataset import DataSet
from layerwise.nets import architecture
from layerwise.randomness import generator
from layerwise.run import Run
from layerwise.tasks import Task, codes, examples


@dataclass(frozen=True)
class Part:
    """Images of one part of a task, with their classes."""

    images: Float[Tensor, "examples ..."]  # (channels, height, width), or what frozen layers make of it
    classes: Int[Tensor, " examples"]  # positions in the task's classes


@dataclass(frozen=True)
class Feed:
    """A task's parts as tensors, and what its outputs aim at."""

    parts: dict[str, Part]  # train, test, and validation where there is one
    codes: Float[Tensor, "classes outputs"]
    is_bits: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.parts["train"].images.shape[1:]
        return channels, height, width

    def loss(self, outputs: Float[Tensor, "examples outputs"], classes: Int[Tensor, " examples"]) -> Float[Tensor, ""]:
        """Mean squared distance of the outputs to the classes' bits, or cross entropy for one-hot targets."""
        return F.mse_loss(outputs, self.codes[classes]) if self.is_bits else F.cross_entropy(outputs, classes)

    def predict(self, outputs: Float[Tensor, "examples outputs"]) -> Int[Tensor, " examples"]:
        """The class whose code is nearest: as all codes are equally long, that of the largest product."""
        return (outputs @ self.codes.T).argmax(1)


def feed(task: Task, data: DataSet, net: str, precision: str = "float32") -> Feed:
    """The images of a task, scaled as the net wants them."""
    chosen = examples(task, data.labels, data.columns, data.class_names)
    positions = np.full(len(data.class_names), -1)
    positions[list(task.classes)] = np.arange(len(task.classes))
    found, dtype = architecture(net), torch.float64 if precision == "float64" else torch.float32  # of the weights
    mean, std = (torch.tensor(values, dtype=dtype)[:, None, None] for values in (found.mean, found.std))

    def part(where: Int[np.ndarray, " examples"]) -> Part:
        pixels = torch.from_numpy(np.ascontiguousarray(data.images[where])).to(dtype)
        return Part((pixels / 255 - mean) / std, torch.from_numpy(positions[data.labels[where]]))

    named = {"train": chosen.train, "validation": chosen.validation, "test": chosen.test}
    return Feed({n: part(w) for n, w in named.items() if len(w)}, torch.from_numpy(codes(task)).to(dtype), task.is_bits)


def batches(run: Run, stage: int, examples: int) -> Iterator[Int[Tensor, " batch"]]:
    """Positions of each step's training examples, without end: one shuffled pass after another.

    A batch may reach from one pass into the next, so that all are equally large, whatever the number of examples.
    """
    size = run.recipes[stage].batch_size
    draw = generator("order", run.seed, run.task.stream, run.draw, stage)
    waiting = np.empty(0, np.int64)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, draw.permutation(examples)])
        yield torch.from_numpy(waiting[:size])
        waiting = waiting[size:]
