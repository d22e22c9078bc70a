"""Images that stay on disk: a batch is read as bytes while the last one is trained on, and scaled on the device."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from layerwise.data.dataset import DataSet
from layerwise.feed import Feed, Part
from layerwise.nets import architecture
from layerwise.run import Run
from layerwise.tasks import codes, examples

AHEAD = 2  # batches read before they are asked for

Batch = tuple[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]]


@dataclass(frozen=True)
class Rows:
    """One part of a task: which rows of the data, and their classes."""

    rows: Int[Tensor, " examples"]
    classes: Int[Tensor, " examples"]  # positions in the task's classes


@dataclass(frozen=True)
class OnDisk:
    """A pool of images of which some are read whenever they are asked for."""

    images: UInt8[np.ndarray, "examples channels height width"]
    mean: Float[Tensor, "channels 1 1"]
    std: Float[Tensor, "channels 1 1"]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(images, channels, height, width) as the net gets them."""
        examples, channels, height, width = self.images.shape
        return examples, max(channels, len(self.mean)), height, width

    def __getitem__(self, rows: Int[Tensor, " some"]) -> Float[Tensor, "some channels height width"]:
        pixels = torch.from_numpy(self.images[rows.cpu().numpy()]).to(self.mean)
        return (pixels / 255 - self.mean) / self.std


@dataclass(frozen=True)
class Stream:
    """A task's parts on a device; what `layerwise.feed.Feed` is, with the images left where they are."""

    images: UInt8[np.ndarray, "examples channels height width"]
    parts: dict[str, Rows]
    mean: Float[Tensor, "channels 1 1"]
    std: Float[Tensor, "channels 1 1"]
    feed: Feed  # its loss and predictions; its images are read when they are asked for

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image as the net gets it."""
        return self.feed.shape

    def batches(self, split: str, chosen: Iterable[Int[Tensor, " batch"]]) -> Iterator[Batch]:
        """The images and classes at each of these lists of positions in a part, read ahead by a thread."""
        part = self.parts[split]
        waiting: deque[tuple[Future[Tensor], Tensor]] = deque()
        with ThreadPoolExecutor(1) as reader:
            for positions in chosen:
                waiting.append((reader.submit(self._read, part.rows[positions]), part.classes[positions]))
                if len(waiting) > AHEAD:
                    yield self._scaled(*waiting.popleft())
            while waiting:
                yield self._scaled(*waiting.popleft())

    def _read(self, rows: Int[Tensor, " batch"]) -> UInt8[Tensor, "batch channels height width"]:
        pixels = torch.from_numpy(self.images[rows.numpy()])
        return pixels.pin_memory() if self.mean.is_cuda else pixels

    def _scaled(self, pixels: Future[Tensor], classes: Tensor) -> Batch:
        device = self.mean.device
        images = pixels.result().to(device, non_blocking=True).to(self.mean.dtype)
        return (images / 255 - self.mean) / self.std, classes.to(device, non_blocking=True)


def stream(run: Run, data: DataSet, device: torch.device) -> Stream:
    """The images of a run's task, scaled as its net wants them when they are read.

    They are in the type of the weights: `bfloat16` and `tf32` are precisions of the arithmetic.
    """
    dtype = getattr(torch, run.recipes[0].dtype_name)
    chosen = examples(run.task, data.labels, data.columns, data.class_names)
    positions = np.full(len(data.class_names), -1)
    positions[list(run.task.rest)] = len(run.task.classes)
    positions[list(run.task.classes)] = np.arange(len(run.task.classes))
    named = {"train": chosen.train, "validation": chosen.validation, "test": chosen.test}
    parts = {
        name: Rows(torch.from_numpy(rows), torch.from_numpy(positions[data.labels[rows]]))
        for name, rows in named.items()
        if len(rows)
    }
    found = architecture(run.net)
    pixels = found.pixels(data.images.shape[1])
    mean, std = (torch.tensor(values, dtype=dtype, device=device)[:, None, None] for values in pixels)
    pool = OnDisk(data.images, mean, std)
    of_pool = {name: Part(pool, rows.rows, rows.classes) for name, rows in parts.items()}
    feed = Feed(of_pool, torch.from_numpy(codes(run.task)).to(device, dtype), run.task.is_bits, run.task.data)
    return Stream(data.images, parts, mean, std, feed)
