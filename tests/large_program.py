"""The program of a large run, with a net of the tests' own among the nets."""

import sys
import time
from pathlib import Path

import torch
from torch import nn

from layerwise.large.__main__ import main
from layerwise.nets import NETS, Architecture


def coupled(channels: int, size: int, outputs: int) -> nn.Module:
    """Five layers with all that looks at a whole batch: both dropouts, and batch norms of every kind."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3),
        nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(54, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(8, 8), nn.BatchNorm1d(8, momentum=None), nn.ReLU(),
        nn.Linear(8, outputs),
    )  # fmt: skip


class Keeping(nn.Module):
    """A layer that keeps the mean of what it has seen last: of its share of the batch alone."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(1024, outputs)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = x.mean()
        return self.head(x.flatten(1))


class Slow(nn.Module):
    """A linear net that takes a tenth of a second for each batch."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(1024, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return self.head(x.flatten(1))


OURS = {
    "coupled": Architecture(coupled, (0.3,), (0.7,)),
    "keeping": Architecture(lambda channels, size, outputs: Keeping(outputs), (0.0,), (1.0,)),
    "slow": Architecture(lambda channels, size, outputs: Slow(outputs), (0.0,), (1.0,)),
}

if __name__ == "__main__":
    NETS.update(OURS)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
