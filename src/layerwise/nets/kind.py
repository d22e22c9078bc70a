"""What a net is before it is built: how to build it, and how it wants its pixels."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Architecture:
    """How to build a net, and how it wants its pixels: `(pixel / 255 - mean) / std`, per channel."""

    build: Callable[[int, int, int], nn.Module]  # (channels, size, outputs); LayersError for an input it does not take
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None = None  # the side of the images that it was made for, where it says so

    @property
    def summary(self) -> str:
        """The first line of the builder's docstring."""
        return (self.build.__doc__ or "").strip().partition("\n")[0]

    def pixels(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation for images of so many channels: of grey ones, the means over the net's three."""
        if channels == 1 < len(self.mean):
            return (sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),)
        return self.mean, self.std
