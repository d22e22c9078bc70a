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

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def seed_dropout(net: nn.Module, found: Sequence[Layer], run: Run, stage: int) -> None:
    """Give each dropout module of the net (elementwise or by channel) the generator of its layer and stage."""
    for name, draw in dropout_draws(net, found, run, stage).items():
        module = net.get_submodule(name)
        module.forward = partial(_drop, module, draw)  # type: ignore[arg-type]


def dropout_draws(net: nn.Module, found: Sequence[Layer], run: Run, stage: int) -> dict[str, torch.Generator]:
    """The generator of each dropout module, by the module's name."""
    draws: dict[str, torch.Generator] = {}
    for layer in found:
        inside = [
            f"{name}.{inner}" if inner else name
            for name in layer.modules
            for inner, _ in net.get_submodule(name).named_modules()
        ]
        for position, name in enumerate(inside):
            if isinstance(net.get_submodule(name), DROPOUTS):
                purpose = ("dropout", run.seed, run.task.stream, layer.name, position, run.draw, stage)
                draws[name] = torch.Generator().manual_seed(seed(*purpose))
    return draws


def draw_mask(
    module: nn.modules.dropout._DropoutNd, draw: torch.Generator | None, shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """What the module multiplies its input of this shape by: 0, or 1 / (1 - rate); without a generator, 1."""
    size = tuple(shape) if isinstance(module, nn.Dropout) else (*shape[:2], *(1 for _ in shape[2:]))
    if draw is None:
        return torch.ones(size, dtype=dtype)
    keep = torch.rand(size, generator=draw, dtype=torch.float64).ge(module.p).to(dtype)
    return keep / (1 - module.p) if module.p < 1 else keep * 0


def _drop(module: nn.modules.dropout._DropoutNd, draw: torch.Generator, x: Tensor) -> Tensor:
    if not module.training or module.p == 0:
        return x
    return x * draw_mask(module, draw, x.shape, x.dtype).to(x.device)
