"""The images that Sharma's measurements look at: seen by neither the net nor its decoders, and by no target's test.

Of known classes they are from the test part, of unknown ones from the training part.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from layerwise.feed import scaled
from layerwise.layers import layers
from layerwise.measure import Bench, Row
from layerwise.nets import architecture
from layerwise.run import Run
from layerwise.tasks import examples

TRAINED, UNTRAINED = "trained", "untrained"  # conditions of a net


@dataclass(frozen=True, eq=False)
class Seen:
    """The images looked at, of known and unknown classes."""

    images: Float[Tensor, "examples channels height width"]  # scaled as the net takes them
    labels: Int[Tensor, " examples"]  # as the data number their classes
    known: tuple[int, ...]
    unknown: tuple[int, ...]
    names: tuple[str, ...]  # of all classes

    def about(self, label: int) -> Row:
        """The class and its group, as rows have them."""
        return {"class_name": self.names[label], "group": "known" if label in self.known else "unknown"}

    def of_unknown(self) -> tuple[Tensor, Tensor]:
        """Rows of the unknown classes' images, and their labels."""
        rows = torch.isin(self.labels, torch.tensor(self.unknown)).nonzero().flatten()
        return rows, self.labels[rows]


def seen(bench: Bench, source: Run, unknown: str, most: int, net: str | None = None, channels: int = 1) -> Seen:
    """At most so many images a class; `unknown` are the unknown classes' numbers, such as `5,6,7`.

    They are as the source takes them, or another net, over whose channels grey ones are repeated.
    """
    data, task, others = bench.data, source.task, tuple(map(int, unknown.split(",")))
    known = examples(task, data.labels, data.columns, data.class_names).test
    firsts = [known[data.labels[known] == label][:most] for label in task.classes]
    drawn = examples(replace(task, classes=others, shots=most), data.labels, data.columns, data.class_names).train
    rows = np.concatenate([*firsts, drawn])
    pixels = data.images[rows]
    if pixels.shape[1] < channels:
        pixels = pixels.repeat(channels, axis=1)
    images = scaled(pixels, architecture(net or source.net))
    return Seen(images, torch.from_numpy(data.labels[rows]).long(), task.classes, others, tuple(data.class_names))


def chosen(net: nn.Module, looked_at: Seen, at: str) -> list[str]:
    """The names of the layers of these numbers."""
    found = layers(net, looked_at.images[:1])
    return [found[number - 1].name for number in numbers(at)]


def numbers(at: str) -> list[int]:
    """The numbers in a text such as `1,2`."""
    return [int(number) for number in at.split(",")]
