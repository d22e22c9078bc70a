"""Convolutions and linear maps of many members at once are those of each by itself."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import vmap
from torch.nn import functional as F

from layerwise import operations
from layerwise.operations import members_together

MEMBERS = 3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def assert_same(function: Callable[..., Tensor], *given: Tensor | None, in_dims: Any = 0) -> None:
    """The function over all members at once, and member by member: outputs and gradients, for a random cotangent."""
    tensors = [tensor for tensor in given if tensor is not None]
    dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(tensors)
    with members_together():
        together = vmap(function, in_dims=dims)(*tensors)
    alone = torch.stack(
        [
            function(*(t if dim is None else t.select(dim, k) for t, dim in zip(tensors, dims, strict=True)))
            for k in range(MEMBERS)
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    toward = torch.randn(alone.shape, generator=torch.Generator().manual_seed(9), dtype=alone.dtype)
    for one, other in zip(
        torch.autograd.grad(together, tensors, toward), torch.autograd.grad(alone, tensors, toward), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stride": {"stride": 2},
    "odd strides": {"stride": (1, 3)},
    "padding": {"padding": 1},
    "odd padding": {"padding": (0, 2)},
    "dilation": {"dilation": 2},
    "odd dilation": {"dilation": (2, 1), "padding": (2, 1)},
    "all": {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    "same": {"padding": "same"},
    "valid": {"padding": "valid", "stride": 2},
    "same, dilated": {"padding": "same", "dilation": (1, 2)},
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, bias: bool) -> None:
    given = [drawn(MEMBERS, 2, 4, 7, 6), drawn(MEMBERS, 5, 4, 3, 3, seed=1), drawn(MEMBERS, 5, seed=2)]
    assert_same(lambda *tensors: F.conv2d(*tensors, **CONVOLUTIONS[name]), *given[: 2 + bias])


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("how", [{}, {"stride": 2, "padding": 1}], ids=["plain", "strided"])
def test_convolutions_in_groups(groups: int, how: dict[str, Any]) -> None:
    weight = drawn(MEMBERS, 8, 4 // groups, 3, 3, seed=1)
    assert_same(lambda x, w: F.conv2d(x, w, None, groups=groups, **how), drawn(MEMBERS, 2, 4, 7, 6), weight)


@pytest.mark.parametrize("how", [{}, {"padding": 1}, {"groups": 2}], ids=["linear", "padded", "groups"])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_that_cover_their_input(how: dict[str, Any], bias: bool) -> None:
    weight = drawn(MEMBERS, 6, 4 // how.get("groups", 1), 5, 5, seed=1)
    given = [drawn(MEMBERS, 2, 4, 5, 5), weight, drawn(MEMBERS, 6, seed=2)]
    assert_same(lambda *tensors: F.conv2d(*tensors, **how), *given[: 2 + bias])


def test_a_covering_convolution_is_one_whatever_its_stride_and_dilation() -> None:
    """One place to stand: the stride has no say. A dilated kernel of one pixel is that pixel."""
    assert_same(lambda x, w: F.conv2d(x, w, stride=3), drawn(MEMBERS, 2, 4, 5, 5), drawn(MEMBERS, 6, 4, 5, 5, seed=1))
    assert_same(lambda x, w: F.conv2d(x, w, dilation=2), drawn(MEMBERS, 2, 4, 1, 1), drawn(MEMBERS, 6, 4, 1, 1, seed=1))


def test_an_image_without_a_batch() -> None:
    assert_same(F.conv2d, drawn(MEMBERS, 4, 7, 6), drawn(MEMBERS, 5, 4, 3, 3, seed=1))


@pytest.mark.parametrize("dims", [(None, 0, 0), (0, None, 0), (1, 0, 0), (0, 2, 1), (2, 0, None)])
def test_what_all_share_and_members_along_other_axes(dims: tuple[int | None, ...]) -> None:
    def placed(tensor: Tensor, dim: int | None) -> Tensor:
        moved = tensor[0] if dim is None else tensor.movedim(0, dim)
        return moved.detach().requires_grad_()

    shapes = [(MEMBERS, 2, 4, 7, 6), (MEMBERS, 5, 4, 3, 3), (MEMBERS, 5)]
    given = [placed(drawn(*shape, seed=k), dim) for k, (shape, dim) in enumerate(zip(shapes, dims, strict=True))]
    assert_same(F.conv2d, *given, in_dims=dims)


def test_linear_maps_along_other_axes() -> None:
    x, weight = drawn(2, MEMBERS, 4), drawn(5, 4, MEMBERS, seed=1)
    assert_same(F.linear, x, weight, in_dims=(1, 2))
    assert_same(F.linear, drawn(2, 4), drawn(MEMBERS, 5, 4), in_dims=(None, 0))


@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 3, 4), (2, 3, 2, 4)], ids=["vector", "batch", "tokens", "heads"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_maps(shape: tuple[int, ...], bias: bool) -> None:
    given = [drawn(MEMBERS, *shape), drawn(MEMBERS, 5, 4, seed=1), drawn(MEMBERS, 5, seed=2)]
    assert_same(F.linear, *given[: 2 + bias])


def test_a_linear_map_of_what_was_turned() -> None:
    assert_same(lambda x, w: F.linear(x.transpose(0, 1), w), drawn(MEMBERS, 4, 6), drawn(MEMBERS, 5, 4, seed=1))
    assert_same(lambda x, w: F.linear(x.transpose(1, 2), w), drawn(MEMBERS, 2, 4, 6), drawn(MEMBERS, 5, 4, seed=1))


@pytest.mark.parametrize("how", [{}, {"stride": 2, "padding": (1, 0), "dilation": (1, 2)}, {"groups": 2}])
def test_gradients_of_convolutions_by_differences(how: dict[str, Any]) -> None:
    given = drawn(2, 2, 2, 5, 4), drawn(2, 4, 2 // how.get("groups", 1), 3, 2, seed=1), drawn(2, 4, seed=2)
    with members_together():
        assert gradcheck(vmap(lambda *tensors: F.conv2d(*tensors, **how)), given)
        covering = given[0], drawn(2, 3, 2, 5, 4, seed=1), drawn(2, 3, seed=2)
        assert gradcheck(vmap(F.conv2d), covering)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 2, 3)])
def test_gradients_of_linear_maps_by_differences(shape: tuple[int, ...]) -> None:
    with members_together():
        assert gradcheck(vmap(F.linear), (drawn(2, *shape), drawn(2, 4, 3, seed=1), drawn(2, 4, seed=2)))


def test_only_the_gradients_that_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of frozen weights no gradient is computed, nor of images."""
    wanted: list[list[bool]] = []
    original = torch.ops.aten.convolution_backward

    def noted(*given: Any) -> Any:
        wanted.append(list(given[-1]))
        return original(*given)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", noted)
    x, weight, bias = drawn(2, 2, 2, 5, 4).detach(), drawn(2, 4, 2, 3, 2, seed=1), drawn(2, 4, seed=2)
    with members_together():
        (found,) = torch.autograd.grad(vmap(F.conv2d)(x, weight, bias.detach()).sum(), [weight])
    assert wanted == [[False, True, False]] * 2
    assert found.shape == weight.shape


def test_modules_and_functions_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net's own calls and its modules' both come here; what is not replaced goes where it always went."""
    seen: list[str] = []
    for function, replacement in list(operations.REPLACED.items()):

        def noted(*given: Any, _of: Any = replacement, _name: str = function.__name__, **more: Any) -> Any:
            seen.append(_name)
            return _of(*given, **more)

        monkeypatch.setitem(operations.REPLACED, function, noted)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(18, 4)).double()
    turned = nn.ConvTranspose2d(2, 2, 1).double()

    def forward(x: Tensor) -> Tensor:
        return net(turned(x)) + F.linear(x.flatten(1)[:, :4], torch.eye(4, dtype=x.dtype) * x.sum())

    assert_same(forward, drawn(MEMBERS, 2, 2, 5, 4))
    assert seen[:3] == ["conv2d", "linear", "linear"]
    count = len(seen)
    net(drawn(2, 2, 5, 4))  # outside, nothing is replaced
    assert len(seen) == count


@pytest.mark.parametrize("function", ["conv2d", "linear"])
def test_autocast_calculates_in_its_own_type(function: str) -> None:
    x, weight = (drawn(MEMBERS, 2, 4, 5, 5), drawn(MEMBERS, 6, 4, 3, 3)) if function == "conv2d" else (
        drawn(MEMBERS, 6, 4), drawn(MEMBERS, 5, 4)
    )  # fmt: skip
    x, weight = x.detach().float(), weight.detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        plain = torch.stack([getattr(F, function)(*of) for of in zip(x, weight, strict=True)])
        with members_together():
            together = vmap(getattr(F, function))(x, weight)
    assert plain.dtype == together.dtype == torch.bfloat16
    torch.testing.assert_close(together, plain, rtol=0.02, atol=0.02)
