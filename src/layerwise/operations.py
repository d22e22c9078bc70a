"""Operations that `vmap` does slowly on a CPU, done as many members at once should: convolutions and linear maps.

`vmap` makes one grouped convolution of the members' convolutions, for which the CPU has no fast path, and gives the
weights' gradients in a layout that the optimiser then has to copy. Within `members_together()` these functions are
replaced wherever a net calls them, in its own forward pass or in a module's; results are the same up to rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from layerwise.features import is_channels_last


class members_together(TorchFunctionMode):  # noqa: N801 (reads as what it does)
    """While entered, a net's convolutions and linear maps go to the functions of this file."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        replaced = REPLACED.get(function) if args else None
        made = replaced(*args, **kwargs) if replaced and args[0].is_cpu else None
        return function(*args, **kwargs) if made is None else made


def _conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:  # fmt: skip
    if isinstance(padding, str) or x.dim() != 4:
        return None
    stride, padding, dilation = (_pair(value) for value in (stride, padding, dilation))
    return _Convolution.apply(*_cast(x, weight, bias), stride, padding, dilation, groups)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return _Linear.apply(*_cast(x, weight, bias))


REPLACED: dict[Any, Callable[..., Tensor | None]] = {F.conv2d: _conv2d, F.linear: _linear}


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _cast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As autocast does for these functions, which it no longer sees."""
    if not torch.is_autocast_enabled("cpu") or x.dtype == torch.float64:
        return x, weight, bias
    dtype = torch.get_autocast_dtype("cpu")
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class _ByMember(torch.autograd.Function):
    """A function that under `vmap` takes all members at once, each along axis 0; it has no other use."""

    @staticmethod
    def forward(*args: Any) -> Any:
        raise NotImplementedError("only for use under vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


class _Convolution(_ByMember):
    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> tuple[Tensor, int]:
        x, weight, bias = _lead(info.batch_size, in_dims[:3], x, weight, bias)
        _, padding, _, groups = how
        if weight.shape[-2:] == x.shape[-2:] and groups == 1 and not any(padding):  # it covers its input: a linear map
            return _StackedLinear.apply(x.flatten(2), weight.flatten(2), bias)[..., None, None], 0
        return _StackedConvolution.apply(x, weight, bias, *how), 0


class _Linear(_ByMember):
    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int]:
        x, weight, bias = _lead(info.batch_size, in_dims, x, weight, bias)
        y = _StackedLinear.apply(x.flatten(1, -2) if x.dim() > 3 else x.view(len(x), -1, x.shape[-1]), weight, bias)
        return y.view(*x.shape[:-1], weight.shape[1]), 0


def _lead(members: int, in_dims: Sequence[int | None], *tensors: Tensor | None) -> list[Any]:
    """The tensors with the members along axis 0; what all share is repeated without copying."""
    return [
        None if tensor is None else tensor.expand(members, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=True)
    ]


class _StackedConvolution(torch.autograd.Function):
    """Each member's convolution by itself: x (members, batch, channels, height, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how, ctx.biased = how, bias is not None
        biases = bias if bias is not None else [None] * len(weight)
        return _stack([F.conv2d(a, w, b, *how) for a, w, b in zip(x, weight, biases, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2]]
        found = [
            torch.ops.aten.convolution_backward(
                g, a, w, [len(w)], stride, padding, dilation, False, [0, 0], groups, wanted
            )
            for g, a, w in zip(grad, x, weight, strict=True)
        ]
        stacks = (_stack(of) if on else None for of, on in zip(zip(*found, strict=True), wanted, strict=True))
        return *stacks, None, None, None, None


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """The members' tensors in one, each in the memory format that it has."""
    if is_channels_last(tensors[0]):
        return torch.stack([tensor.permute(0, 2, 3, 1) for tensor in tensors]).permute(0, 1, 4, 2, 3)
    return torch.stack(list(tensors))


class _StackedLinear(torch.autograd.Function):
    """x (members, batch, inputs), weight (members, outputs, inputs), bias (members, outputs)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        turned = weight.transpose(1, 2)
        return torch.bmm(x, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, turned)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            torch.bmm(grad, weight) if of_x else None,
            torch.bmm(grad.transpose(1, 2), x) if of_weight else None,
            grad.sum(1) if of_bias else None,
        )
