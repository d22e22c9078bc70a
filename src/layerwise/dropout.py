"""Dropout whose masks come from a generator of its own: the same for a run whatever is trained, and wherever.

PyTorch's dropout draws from one global stream, so that freezing a layer would change every later layer's masks. What
else draws from that stream (dropout within `nn.MultiheadAttention`, a net's own noise) repeats itself from run to run,
but does depend on what is frozen.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from layerwise.layers import Layer
from layerwise.randomness import seed
from layerwise.run import Run


def seed_dropout(net: nn.Module, found: Sequence[Layer], run: Run, stage: int) -> None:
    """Give each dropout module of the net (elementwise or by channel) the generator of its layer and stage."""
    for layer in found:
        modules = [module for name in layer.modules for module in net.get_submodule(name).modules()]
        for position, module in enumerate(modules):
            if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d):
                purpose = ("dropout", run.seed, run.task.stream, layer.name, position, run.draw, stage)
                forward = partial(_drop, module, torch.Generator().manual_seed(seed(*purpose)))
                module.forward = forward  # type: ignore[method-assign]


def _drop(module: nn.modules.dropout._DropoutNd, draw: torch.Generator, x: Tensor) -> Tensor:
    rate = module.p
    if not module.training or rate == 0:
        return x
    shape = x.shape if isinstance(module, nn.Dropout) else x.shape[:2] + (1,) * (x.dim() - 2)
    keep = torch.rand(shape, generator=draw, dtype=torch.float64).ge(rate).to(x.device, x.dtype)
    return x * keep / (1 - rate) if rate < 1 else x * 0
