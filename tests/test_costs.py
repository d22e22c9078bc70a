"""Arithmetic of training, by hand."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from layerwise.advising.cost import flops as option_flops
from layerwise.costs import layer_parameters, parameters_trained, step_flops, train_flops
from layerwise.nets import NETS, Architecture
from layerwise.run import Recipe, Run, Weights
from layerwise.tasks import Task
from layerwise.treatment import Treatment

BATCH = 5


def costed_linears(channels: int, size: int, outputs: int) -> nn.Module:
    """32 -> 7 -> 3 -> outputs."""
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 7), nn.ReLU(), nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, outputs))


def costed_convs(channels: int, size: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3),  # 6 x 2 x 2
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 2),  # 4 x 1 x 1
        nn.Flatten(),
        nn.Linear(4, outputs),
    )


class CostedAttention(nn.Module):
    def __init__(self, channels: int, size: int, outputs: int) -> None:
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)  # examples, 8 rows of both channels, 4
        return self.head(self.attend(x, x, x, need_weights=False)[0].mean(1))


# Multiply-adds of each layer for one image of 2 x 4 x 4, and 10 outputs.
MACS = {
    "costed_linears": (32 * 7, 7 * 3, 3 * 10),
    "costed_convs": (2 * 4 * 6 * 9, 6 * 4 * 4, 4 * 10),
}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (costed_linears, costed_convs, CostedAttention):
        monkeypatch.setitem(NETS, make.__name__, Architecture(make, (0.0,), (1.0,)))


def flops(net: str, trained: tuple[bool, ...]) -> int:
    return step_flops(net, (2, 4, 4), 10, trained, BATCH)


@pytest.mark.parametrize("net", MACS)
@pytest.mark.parametrize("trained", list(itertools.product([False, True], repeat=3)))
def test_a_step_is_forward_and_backward_as_far_as_a_layer_is_trained(net: str, trained: tuple[bool, ...]) -> None:
    """Two operations a multiply-add; backward, the weights' gradients of trained layers, and the inputs' of all that
    come after the first trained one."""
    forward = sum(MACS[net])
    weights = sum(macs for macs, on in zip(MACS[net], trained, strict=True) if on)
    inputs = sum(macs for k, macs in enumerate(MACS[net]) if any(trained[:k]))
    assert flops(net, trained) == 2 * BATCH * (forward + weights + inputs)


def test_lenet5_forward_by_hand() -> None:
    """The table of C3 saves parameters, but as PyTorch computes it no arithmetic: it is a dense convolution."""
    macs = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 120 * 400 + 120 * 20
    assert step_flops("lenet5", (1, 32, 32), 20, (False,) * 6, 1) == 2 * macs


ROWS, WIDTH = 8, 4  # of what attention sees
ATTENTION = 4 * ROWS * WIDTH * WIDTH + 2 * ROWS * ROWS * WIDTH  # q, k, v, out; scores and their product with v


def test_frozen_attention_costs_its_forward_pass_too() -> None:
    """PyTorch's fast path, which frozen attention takes, is not seen by PyTorch's own counter."""
    rows, width, attention, head = ROWS, WIDTH, ATTENTION, WIDTH * 10
    assert flops("CostedAttention", (False, False)) == 2 * BATCH * (attention + head)
    assert flops("CostedAttention", (False, True)) == 2 * BATCH * (attention + 2 * head)
    backward = attention + rows * width * width + 2 * rows * rows * width  # weights; what goes back into out and scores
    assert flops("CostedAttention", (True, True)) == 2 * BATCH * (attention + head + backward + 2 * head)


def test_frozen_attention_that_is_computed_once_is_paid_for_once() -> None:
    task, how = Task("data", tuple(range(10))), (Recipe(steps=3, batch_size=BATCH),)
    probe = Run("CostedAttention", task, Treatment.parse("FR"), Weights("0" * 64), how)
    assert option_flops(probe, (2, 4, 4), 50) == 50 * 2 * ATTENTION + 3 * BATCH * 2 * (2 * WIDTH * 10)


def test_a_run_costs_its_steps() -> None:
    recipes = (Recipe(steps=10, batch_size=BATCH), Recipe(steps=4, batch_size=BATCH))
    task = Task("data", tuple(range(10)))
    source = Run("costed_linears", task, Treatment.parse("R3"), None, recipes[:1])
    run = Run("costed_linears", task, Treatment.parse("FFR > T3"), source, recipes)
    probe, tune = flops("costed_linears", (False, False, True)), flops("costed_linears", (True,) * 3)
    assert train_flops(run, (2, 4, 4)) == 10 * probe + 4 * tune
    assert train_flops(run, (2, 4, 4), (3, 4)) == 3 * probe + 4 * tune


def test_parameters_by_layer_with_their_norms() -> None:
    sizes = layer_parameters("costed_convs", (2, 4, 4), 10)
    assert sizes == {"0": 2 * 6 * 9 + 6 + 2 * 6, "3": 6 * 4 * 4 + 4, "5": 4 * 10 + 10}


@pytest.mark.parametrize(
    ("letters", "trained"), [("R3", 111), ("F3", 0), ("FXR", 100), ("TFM", 101), ("F3 > FFT", 100), ("R3 > FTF", 10)]
)
def test_the_last_stage_says_what_is_trained(letters: str, trained: int) -> None:
    assert parameters_trained(Treatment.parse(letters), {"a": 1, "b": 10, "c": 100}, {}) == trained


def test_counting_leaves_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    flops("costed_convs", (True, True, True))
    assert torch.equal(torch.get_rng_state(), before)
