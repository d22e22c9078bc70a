"""What a trainer eats: a task's images and targets as tensors, and the order in which a run sees them.

Tasks share a *pool* of images, and each part of a task says which of them are its own: what frozen layers make of the
pool is then computed once, for all tasks and parts.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from layerwise.augmented import Augmenter
from layerwise.data.dataset import DataSet
from layerwise.features import is_channels_last
from layerwise.nets import Architecture, architecture
from layerwise.randomness import generator
from layerwise.run import Run
from layerwise.tasks import Task, codes, examples

DRAWN = 64  # steps whose data order is drawn at once


@runtime_checkable
class Pool(Protocol):
    """Images, or what frozen layers make of them, by row: a tensor is one."""

    @property
    def shape(self) -> Sequence[int]:
        """(images, ...)."""

    def __getitem__(self, rows: Int[Tensor, " some"]) -> Float[Tensor, "some ..."]:
        """These images."""


def taken(pool: Pool, rows: Int[Tensor, " some"]) -> Float[Tensor, "some ..."]:
    """Some images of a pool. On a CPU `index_select` copies images whole, several times faster than indexing does."""
    if not isinstance(pool, Tensor):
        return pool[rows]
    if is_channels_last(pool):
        return pool.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return pool.index_select(0, rows)


@dataclass(frozen=True)
class Part:
    """Images of one part of a task, with their classes."""

    pool: Pool
    rows: Int[Tensor, " examples"]  # of the pool
    classes: Int[Tensor, " examples"]  # positions in the task's classes

    def images(self, batch: Int[Tensor, " batch"]) -> Float[Tensor, "batch ..."]:
        """The images at these positions of the part."""
        return taken(self.pool, self.rows[batch])

    def chunks(self, size: int) -> Iterator[Float[Tensor, "some ..."]]:
        """All images of the part in order, so many at a time."""
        return (taken(self.pool, rows) for rows in torch.split(self.rows, size))


@dataclass(frozen=True)
class Feed:
    """A task's parts as tensors, and what its outputs aim at."""

    parts: dict[str, Part]  # train, test, and validation where there is one; all of one pool
    codes: Float[Tensor, "classes outputs"]
    is_bits: bool
    name: str  # of what the pool holds: equal names, equal numbers, in all processes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.pool.shape[1:]
        return channels, height, width

    @property
    def pool(self) -> Pool:
        """The images of all parts, and of other tasks."""
        return self.parts["train"].pool

    def loss(self, outputs: Float[Tensor, "examples outputs"], classes: Int[Tensor, " examples"]) -> Float[Tensor, ""]:
        """Mean squared distance of the outputs to the classes' bits, or cross entropy for one-hot targets."""
        return F.mse_loss(outputs, self.codes[classes]) if self.is_bits else F.cross_entropy(outputs, classes)

    def predict(self, outputs: Float[Tensor, "examples outputs"]) -> Int[Tensor, " examples"]:
        """The class whose code is nearest: as all codes are equally long, that of the largest product."""
        return (outputs @ self.codes.T).argmax(1)

    def with_pool(self, name: str, pool: Pool) -> "Feed":
        """The same task with other images in the same rows."""
        return replace(self, name=name, parts={name: replace(part, pool=pool) for name, part in self.parts.items()})


def feed(
    task: Task, data: DataSet, net: str, dtype: str = "float32", channels_last: bool = False, device: str = "cpu"
) -> Feed:
    """The images of a task, scaled as the net wants them."""
    return feeds([task], data, net, dtype, channels_last, device)[0]


def feeds(
    tasks: Sequence[Task],
    data: DataSet,
    net: str,
    dtype: str = "float32",
    channels_last: bool = False,
    device: str = "cpu",
) -> list[Feed]:
    """The feeds of several tasks. Those of the same classes have one pool: their images, in the data set's order."""
    chosen = [vars(examples(task, data.labels, data.columns, data.class_names)) for task in tasks]
    used: dict[tuple[int, ...], list[Int[np.ndarray, " examples"]]] = defaultdict(list)  # by classes, the null's too
    for task, parts in zip(tasks, chosen, strict=True):
        used[task.classes + task.rest] += parts.values()
    wanted = {classes: np.unique(np.concatenate(where)) for classes, where in used.items()}
    form = layout(channels_last=channels_last)
    pools = {
        classes: images(data, where, net, dtype).to(device, memory_format=form) for classes, where in wanted.items()
    }
    names = {
        classes: f"{data.digest} {net} {dtype} {form} {hashlib.sha256(where.tobytes()).hexdigest()}"
        for classes, where in wanted.items()
    }

    def part(task: Task, where: Int[np.ndarray, " examples"]) -> Part:
        positions = np.full(len(data.class_names), -1)
        positions[list(task.rest)] = len(task.classes)
        positions[list(task.classes)] = np.arange(len(task.classes))
        seen = task.classes + task.rest
        rows, classes = np.searchsorted(wanted[seen], where), positions[data.labels[where]]
        return Part(pools[seen], torch.from_numpy(rows).to(device), torch.from_numpy(classes).to(device))

    return [
        Feed(
            {name: part(task, where) for name, where in parts.items() if len(where)},
            torch.from_numpy(codes(task)).to(pools[task.classes + task.rest]),
            task.is_bits,
            names[task.classes + task.rest],
        )
        for task, parts in zip(tasks, chosen, strict=True)
    ]


def layout(*, channels_last: bool) -> torch.memory_format:
    """How images lie in memory."""
    return torch.channels_last if channels_last else torch.contiguous_format


def images(
    data: DataSet, where: Int[np.ndarray, " some"], net: str, dtype: str
) -> Float[Tensor, "some channels height width"]:
    """Images of a data set by position, scaled as the net wants them."""
    return scaled(data.images[where], architecture(net), dtype)


def scaled(
    pixels: UInt8[np.ndarray, "some channels height width"], found: Architecture, dtype: str = "float32"
) -> Float[Tensor, "some channels height width"]:
    """Pixels from 0 to 255 as nets of this architecture take them."""
    kind = getattr(torch, dtype)
    mean, std = (torch.tensor(values, dtype=kind)[:, None, None] for values in found.pixels(pixels.shape[1]))
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(kind).div_(255).sub_(mean).div_(std)


class Order:
    """The order in which a run sees its training examples: one shuffled pass after another, without end.

    A batch may reach from one pass into the next, so that all are equally large, whatever the number of examples.
    """

    def __init__(self, run: Run, stage: int, examples: int) -> None:
        self.size, self.examples = run.recipes[stage].batch_size, examples
        self.draw = generator("order", run.seed, run.task.stream, run.draw, stage)
        self.waiting = np.empty(0, np.int64)

    def take(self, steps: int) -> Int[Tensor, "steps batch"]:
        """Positions of the next steps' training examples."""
        lacking = steps * self.size - len(self.waiting)
        passes = [self.draw.permutation(self.examples) for _ in range(-(-max(lacking, 0) // self.examples))]
        waiting = np.concatenate([self.waiting, *passes])
        taken, self.waiting = np.split(waiting, [steps * self.size])
        return torch.from_numpy(taken).view(steps, self.size)


def batches(run: Run, stage: int, examples: int) -> Iterator[Int[Tensor, " batch"]]:
    """Positions of each step's training examples, without end."""
    order = Order(run, stage, examples)
    while True:
        yield order.take(1)[0]


class Batches:
    """The batches of many runs, a step at a time: images (members, batch, ...) and what their outputs aim at.

    The aims are codes (members, batch, outputs), or the classes themselves (members, batch).
    """

    def __init__(self, runs: Sequence[Run], stage: int, feeds: Sequence[Feed]) -> None:
        self.parts = [feed.parts["train"] for feed in feeds]
        self.codes = [feed.codes if feed.is_bits else None for feed in feeds]
        self.orders = [Order(run, stage, len(part.classes)) for run, part in zip(runs, self.parts, strict=True)]
        self.augmenter = Augmenter(runs, stage, [len(part.classes) for part in self.parts])
        neighbours = groupby(range(len(runs)), lambda k: id(self.parts[k].pool))
        self.pools = [(self.parts[members[0]].pool, members) for members in (list(same) for _, same in neighbours)]
        self.left = 0

    def next(self) -> tuple[Tensor, Tensor]:
        """Images and aims of the next step."""
        if self.left == 0:
            self._draw()
        step, self.left = DRAWN - self.left, self.left - 1
        rows = self.rows[step]
        found = [taken(pool, rows[members[0] : members[-1] + 1].flatten()) for pool, members in self.pools]
        images = found[0] if len(found) == 1 else torch.cat(found)
        if self.augmenter.is_on:
            images = self.augmenter.vary(images, self.drawn[step].flatten(0, 1))
        return images.view(*rows.shape, *images.shape[1:]), self.aims[step]

    def _draw(self) -> None:
        """Rows of the pools and aims for the next steps: (steps, members, batch, ...)."""
        orders = [order.take(DRAWN) for order in self.orders]
        if self.augmenter.is_on:
            numbers = self.augmenter.take(torch.stack([order.flatten() for order in orders]))
            self.drawn = numbers.view(len(orders), *orders[0].shape, -1).transpose(0, 1)  # (steps, members, batch, 6)
        drawn = [order.to(part.rows.device) for order, part in zip(orders, self.parts, strict=True)]
        self.rows = torch.stack([part.rows[at] for part, at in zip(self.parts, drawn, strict=True)], 1)
        classes = [part.classes[at] for part, at in zip(self.parts, drawn, strict=True)]
        aims = [own if codes is None else codes[own] for codes, own in zip(self.codes, classes, strict=True)]
        self.aims = torch.stack(aims, 1)
        self.left = DRAWN
