"""One batch in several processes: what looks at a whole batch sees the whole of it, from each process's own share.

Dropout draws the masks of the whole batch in every process, and each takes the rows of its share. Batch norm sums over
all shares, in the backward pass too. So what a process holds of the batch decides nothing but who computes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from layerwise.dropout import draw_mask, dropout_draws
from layerwise.errors import LayersError
from layerwise.layers import Layer
from layerwise.run import Run


@dataclass(frozen=True)
class Share:
    """The examples of a batch that one process takes: equally many each, but for one."""

    rank: int
    processes: int
    batch: int

    @property
    def start(self) -> int:
        return self.batch * self.rank // self.processes

    @property
    def stop(self) -> int:
        return self.batch * (self.rank + 1) // self.processes

    @property
    def size(self) -> int:
        return self.stop - self.start

    def of(self, batch: Tensor) -> Tensor:
        """The share's rows of what has rows for the whole batch, equally many for each example."""
        rows = len(batch) // self.batch
        return batch[self.start * rows : self.stop * rows]


class _Total(torch.autograd.Function):
    """The sum of a tensor over the processes; of its gradient too, since every process's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same in each to the bit."""
    x = x.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(x)
    return x


def _total(x: Tensor) -> Tensor:
    """`total`, with a gradient."""
    return _Total.apply(x)  # type: ignore[no-untyped-call]


def see_whole_batches(net: nn.Module, found: Sequence[Layer], run: Run, stage: int, share: Share) -> None:
    """Have the net's dropouts and batch norms act, on a share of a batch, as the reference's do on all of it."""
    for name, draw in dropout_draws(net, found, run, stage).items():
        dropout = net.get_submodule(name)
        dropout.forward = partial(_drop, dropout, draw, share)  # type: ignore[arg-type]
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_normalise, module)  # type: ignore[method-assign]


def _drop(module: nn.modules.dropout._DropoutNd, draw: torch.Generator, share: Share, x: Tensor) -> Tensor:
    if not module.training or module.p == 0:
        return x
    if len(x) % share.size:
        raise LayersError(f"dropout sees {len(x)} rows for {share.size} examples: the rows of an example are not known")
    rows = len(x) // share.size * share.batch
    return x * share.of(draw_mask(module, draw, (rows, *x.shape[1:]), x.dtype)).to(x.device)


def _normalise(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Batch norm over the whole batch; as `layerwise.batched.BatchNorm`, but for the sums."""
    of_batch = norm.training or norm.running_mean is None
    if not of_batch or not torch.is_grad_enabled():  # what is evaluated is not shared
        return type(norm).forward(norm, x)
    others, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
    y = x if x.dtype == torch.float64 else x.float()  # sums of many, under autocast too
    count = total(torch.tensor(y.numel() // y.shape[1], device=x.device)).item()
    mean = _total(y.sum(others)) / count
    centred = y - mean.view(shape)
    var = _total(centred.square().sum(others)) / count
    if norm.training and norm.running_mean is not None:
        _track(norm, mean.detach(), var.detach() * (count / max(count - 1, 1)))
    y = centred / torch.sqrt(var.view(shape) + norm.eps)
    return (y * norm.weight.view(shape) + norm.bias.view(shape) if norm.affine else y).to(x.dtype)


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, var: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
    norm.running_mean += share * (mean - norm.running_mean)
    norm.running_var += share * (var - norm.running_var)


def check_agreement(state: Mapping[str, Tensor]) -> None:
    """Raises LayersError where the processes hold different tensors: a module kept something of its share alone."""
    for name, ours in state.items():
        first = ours.clone()
        distributed.broadcast(first, 0)
        if total(torch.tensor(int(not torch.equal(first, ours)), device=ours.device)):
            raise LayersError(f"'{name}' is updated from a share of the batch alone; train this net on one device")
