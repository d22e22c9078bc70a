"""Modules whose mode is a value: batch norm and dropout that a fleet can run, each member in its own mode.

Under `vmap` a module cannot be in train mode for one member and in eval mode for another, nor update statistics in
place. Here the mode is a tensor, the statistics that a step leaves are returned, and dropout masks are given.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from layerwise.dropout import DROPOUTS
from layerwise.errors import LayersError
from layerwise.layers import in_eval
from layerwise.norms import behind


class BatchNorm(nn.Module):
    """Batch norm in train mode where `mode` is 1, in eval mode where it is 0; `left` is what a step leaves.

    The mode is one for the layer, or one for each channel; the counter counts as long as some channel trains. Equals
    `nn.BatchNorm1d`, `2d` and `3d`, whose parameters and buffers it takes over by name, and what they have inside.
    """

    weight: Tensor
    bias: Tensor
    mode: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: _BatchNorm, behind: nn.Module) -> None:
        super().__init__()
        self.behind = behind
        self.eps, self.momentum = norm.eps, norm.momentum
        for name, parameter in norm.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.register_buffer("mode", torch.tensor(False), persistent=False)
        self.affine, self.tracks = norm.affine, norm.track_running_stats
        self.left: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        others = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        wide = x if x.dtype == torch.float64 else x.float()  # as nn.BatchNorm does: sums of bfloat16 would be rough
        mean, var = wide.mean(others), wide.var(others, correction=0)
        if self.tracks:
            self._leave(mean, var, x.numel() // x.shape[1])
            mean = torch.where(self.mode, mean, self.running_mean)
            var = torch.where(self.mode, var, self.running_var)
        y = (wide - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)
        return self.behind((y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y).to(x.dtype))

    def _leave(self, mean: Tensor, var: Tensor, count: int) -> None:
        """The running statistics after this step, of what is in train mode; the others stay as they were."""
        seen = self.num_batches_tracked + 1
        share = self.momentum if self.momentum is not None else 1 / seen.to(mean.dtype)
        unbiased = var.detach() * (count / max(count - 1, 1))
        step = {
            "running_mean": self.running_mean + share * (mean.detach() - self.running_mean),
            "running_var": self.running_var + share * (unbiased - self.running_var),
            "num_batches_tracked": seen,
        }
        modes = {"running_mean": self.mode, "running_var": self.mode, "num_batches_tracked": self.mode.any()}
        self.left = {name: torch.where(modes[name], new, getattr(self, name)) for name, new in step.items()}


class Dropout(nn.Module):
    """Dropout by a given mask, already scaled; `shape` is that of the mask for a batch, once one has passed."""

    mask: Tensor

    def __init__(self, dropout: nn.modules.dropout._DropoutNd) -> None:
        super().__init__()
        self.original, self.p = dropout, dropout.p  # attention may ask its dropout for the rate
        self.register_buffer("mask", torch.tensor(1.0), persistent=False)
        self.shape: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        self.shape = tuple(x.shape)
        return x * self.mask


def adapt(net: nn.Module) -> nn.Module:
    """The net with its batch norms and dropouts replaced, in place; LayersError for a norm that cannot be."""
    for name, module in list(net.named_modules()):
        changed: nn.Module | None = None
        if isinstance(module, _BatchNorm):
            changed = BatchNorm(module, behind(name, module))
        elif isinstance(module, DROPOUTS) and module.p > 0:
            changed = Dropout(module)
        elif isinstance(module, DROPOUTS):
            module.eval()  # at a rate of 0 it draws for nothing, and no draw can be mapped
        if changed is not None:
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, changed)
    return net


def refuse_modes(body: nn.Module, images: Tensor) -> None:
    """Raise LayersError where an adapted net still calculates otherwise in training, or changes its own buffers.

    All members of a fleet share one pass, whatever each trains, and what a pass leaves in a buffer is lost.
    """
    before = {name: buffer.clone() for name, buffer in body.named_buffers()}
    calls: list[list[str]] = []
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        for training in (True, False):
            with in_eval(body, training=training), _Noted() as noted:
                body(images)
            calls.append(noted.calls)
    changed = [name for name, buffer in body.named_buffers() if not torch.equal(buffer, before[name])]
    if calls[0] != calls[1]:
        raise LayersError("the net's forward pass is another in training, so that only the serial trainer can train it")
    if changed:
        raise LayersError(f"the net changes its buffer '{changed[0]}', so that only the serial trainer can train it")


class _Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, notes each operation, with the shapes of the tensors and the values of all else that it takes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_map(lambda value: tuple(value.shape) if isinstance(value, Tensor) else value, (args, kwargs))
        self.calls.append(f"{func} {given}")
        return func(*args, **(kwargs or {}))
