"""A captured step gives what the step gives, for other values too, and says so of shapes alone."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from layerwise import fleet
from layerwise.captured import capture
from layerwise.data.dataset import DataSet
from layerwise.fleet import train_fleet
from layerwise.train import Trained
from test_fleet import LETTERS, RECIPES, both, runs


@pytest.fixture(autouse=True)
def _nets(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerwise.nets import NETS, Architecture
    from test_fleet import normed

    monkeypatch.setitem(NETS, "normed", Architecture(normed, (0.5,), (0.5,)))


def drawn(*shapes: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes]


def step(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> list[Tensor | None]:
    """Members' losses and the gradients of their weights: (members, 5, 4), (members, 5), (members, batch, 4 | 5)."""
    weight, bias = weight.detach().requires_grad_(), bias.detach().requires_grad_()
    outputs = vmap(lambda w, b, one: F.linear(torch.tanh(one), w, b))(weight, bias, x)
    losses = (outputs - y).square().mean((1, 2))
    return [losses.detach(), *torch.autograd.grad(losses.sum(), [weight, bias]), y.view(y.shape), outputs.mul(1), None]


SHAPES = (3, 5, 4), (3, 5), (3, 6, 4), (3, 6, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_values_give_what_the_step_gives_to_the_bit(dtype: torch.dtype) -> None:
    """Nothing of the example is kept: neither its values nor its results."""
    captured = capture(step, *drawn(*SHAPES, dtype=dtype))
    for seed in range(3):
        given = drawn(*SHAPES, seed=seed, dtype=dtype)
        for one, other in zip(captured(*given), step(*given), strict=True):
            if other is None:
                assert one is None
                continue
            assert torch.equal(one, other.detach())
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            assert not one.requires_grad


def test_what_goes_in_is_left_as_it_was() -> None:
    given = drawn(*SHAPES)
    copies = [tensor.clone() for tensor in given]
    capture(step, *given)(*given)
    assert all(torch.equal(one, other) for one, other in zip(given, copies, strict=True))


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda x: x.expand(4, 2, 3), (4, 2, 3)), (lambda x: x.view(3, 2), (3, 2)), (lambda x: x.mul(3), (2, 3)),
        (lambda x: x.reshape(6), (6,)), (lambda x: x.detach(), (2, 3)), (lambda x: x.view(2, 3), (2, 3)),
        (lambda x: x.mul(1.0), (2, 3)), (lambda x: x.expand(2, 3), (2, 3)), (lambda x: x.t().contiguous().t(), (2, 3)),
    ],
)  # fmt: skip
def test_only_what_changes_nothing_is_left_out(change: object, shape: tuple[int, ...]) -> None:
    assert callable(change)
    captured = capture(lambda x: [change(x) + 1], *drawn((2, 3)))
    (x,) = drawn((2, 3), seed=9)
    (found,) = captured(x)
    assert found.shape == shape
    assert torch.equal(found, change(x) + 1)


def test_a_view_of_another_type_is_no_view_of_nothing() -> None:
    captured = capture(lambda x: [x.view(torch.int32) + 0], *drawn((2, 3)))
    (x,) = drawn((2, 3), seed=1)
    assert captured(x)[0].dtype == torch.int32
    assert torch.equal(captured(x)[0], x.view(torch.int32))


@pytest.mark.parametrize("name", ["nesterov", "noisy"])
def test_a_fleet_is_the_same_with_and_without(blobs: DataSet, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every letter, batch norms in each member's own mode, dropout masks that each step draws."""
    made = runs(blobs, LETTERS, RECIPES[name], "bits:7")
    captured, _ = both(blobs, made)

    def eager(step: object, *_example: Tensor) -> object:
        return lambda *given: [None if found is None else found.detach() for found in call(step, given)]

    def call(step: object, given: Sequence[Tensor]) -> list[Tensor | None]:
        assert callable(step)
        return step(*given)

    monkeypatch.setattr(fleet, "capture", eager)
    by_steps, _ = both(blobs, made)
    assert train_fleet is fleet.train_fleet
    for one, other in zip(captured, by_steps, strict=True):
        assert isinstance(one, Trained)
        assert isinstance(other, Trained)
        assert [p.value for p in one.curve] == pytest.approx([p.value for p in other.curve], abs=1e-12)
        for key, tensor in one.weights.items():
            torch.testing.assert_close(tensor, other.weights[key], rtol=1e-12, atol=1e-12)
