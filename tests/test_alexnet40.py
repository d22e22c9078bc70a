"""Grand's net: its layers, its response normalisation, its two initialisations, and the same net in a fleet."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerwise.costs import layer_parameters
from layerwise.data.dataset import DataSet, make
from layerwise.errors import LayersError
from layerwise.feed import feed
from layerwise.fleet import train_fleet
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.nets.response import ResponseNorm
from layerwise.run import Recipe, Run
from layerwise.tasks import Parts, Task
from layerwise.train import Trained, train
from layerwise.treatment import Treatment, lesion

GREY = (1, 40, 40)


def test_the_papers_net_has_six_layers_of_these_sizes() -> None:
    sizes = layer_parameters("alexnet40", GREY, 2)
    assert sizes == {  # outputs x (inputs x pixels + 1)
        "conv1": 64 * (9 + 1), "conv2": 128 * (64 * 9 + 1), "conv3": 256 * (128 * 9 + 1),
        "dense1": 1024 * (256 * 25 + 1), "dense2": 1024 * 1025, "output": 2 * 1025,
    }  # fmt: skip
    assert sum(sizes.values()) == 7_975_938
    small = layer_parameters("small40", GREY, 2)
    assert list(small) == list(sizes)
    assert (small["conv3"], small["dense2"]) == (32 * (16 * 9 + 1), 128 * 129)


def test_it_is_the_forward_pass_of_its_tutorial_by_hand() -> None:
    """Convolution, ReLU, pooling, x / (1 + 0.001 / 9 * squares of nine maps)^0.75; dropout is off when it is tested."""
    net = build("small40normal", GREY, 2, 3).double().eval()
    weights = dict(net.named_parameters())
    images = torch.rand(2, *GREY, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = images
    for name in ("conv1", "conv2", "conv3"):
        x = F.conv2d(x, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"], padding=1).clamp(min=0)
        x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        maps = range(x.shape[1])
        around = [sum(x[:, j] ** 2 for j in maps if abs(j - k) <= 4) for k in maps]
        x = x / (1 + 0.001 / 9 * torch.stack(around, 1)) ** 0.75  # type: ignore[arg-type]
    x = x.flatten(1)
    for name in ("dense1", "dense2"):
        x = (x @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"]).clamp(min=0)
    x = x @ weights["output.weight"].T + weights["output.bias"]
    torch.testing.assert_close(net(images), x, rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta", [0.6, 0.75])
@pytest.mark.parametrize("size", [1, 3, 9])
@pytest.mark.parametrize("maps", [1, 5, 16])
def test_response_norm_is_pytorchs(size: int, maps: int, beta: float) -> None:
    """Outputs and gradients; also where there are fewer maps than it reaches over."""
    draw = torch.Generator().manual_seed(size + maps)
    x = torch.randn(2, maps, 4, 3, generator=draw, dtype=torch.float64).mul(30).requires_grad_()
    ours, theirs = ResponseNorm(size, 0.01, beta, 2.0)(x), nn.LocalResponseNorm(size, 0.01, beta, 2.0)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    by_ours, by_theirs = (torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, theirs))
    torch.testing.assert_close(by_ours, by_theirs, rtol=1e-12, atol=1e-12)


def test_the_authors_began_with_weights_and_biases_of_deviation_one() -> None:
    net = build("alexnet40normal", GREY, 2, 0)
    for name, parameter in net.named_parameters():
        if parameter.numel() > 50:
            error = 5 / parameter.numel() ** 0.5
            assert abs(parameter.mean().item()) < error, name
            assert abs(parameter.std().item() - 1) < error, name


def test_their_first_losses_are_ten_thousand_and_more() -> None:
    images = torch.rand(50, *GREY, generator=torch.Generator().manual_seed(2))
    classes = torch.arange(50) % 2
    with torch.no_grad():
        losses = [F.cross_entropy(build("alexnet40normal", GREY, 2, k).eval()(images), classes) for k in range(3)]
        he = F.cross_entropy(build("alexnet40", GREY, 2, 0).eval()(images), classes)
    assert torch.stack(losses).min() > 1e4
    assert he < 5


def test_hes_signal_keeps_its_size() -> None:
    net = build("alexnet40", GREY, 2, 0).eval()
    x = torch.randn(20, *GREY, generator=torch.Generator().manual_seed(2))
    for layer in list(net.children())[:-1]:
        x = layer(x)
        assert 0.3 < x.square().mean().sqrt() < 4
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))


def test_dropout_keeps_four_of_five_behind_convolutions_only() -> None:
    net = build("alexnet40", GREY, 2, 0)
    dropouts = {name: module.p for name, module in net.named_modules() if isinstance(module, nn.Dropout)}
    assert dropouts == {f"conv{k}.4": 0.2 for k in (1, 2, 3)}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((3, 40, 40), "not 40x40 images of 3 channels; pass --grey"),
        ((1, 28, 28), "not 28x28 images of 1 channel; pass --resize 40"),
        ((3, 28, 28), "not 28x28 images of 3 channels; pass --resize 40 --grey"),
    ],
)
@pytest.mark.parametrize("name", ["alexnet40", "alexnet40normal", "small40", "small40normal"])
def test_images_it_does_not_take_come_with_the_cure(name: str, images: tuple[int, int, int], message: str) -> None:
    begin = f"net '{name}' takes grey images whose side is a multiple of 8, "
    with pytest.raises(LayersError, match=f"^{re.escape(begin + message)}$"):
        build(name, images, 2, 0)


@pytest.mark.parametrize(("name", "steps"), [("small40", 10), ("small40normal", 4)])
def test_a_fleet_of_lesions_is_each_of_them_alone(blobs: DataSet, name: str, steps: int) -> None:
    """In float64, with response normalisation, dropout, Adam and a null class; frozen layers too."""
    blobs = make("blobs", blobs.images[:, :, ::2, ::2], blobs.labels, blobs.class_names)
    recipe = Recipe(steps, 6, 1e-3, "adam", precision="float64", evaluate_every=5)
    parts = Parts("random", 5)
    tasks = [Task(blobs.digest, (c,), 10, "onehot", parts, 0, (6, 7)) for c in (0, 1)]
    source = Run(name, tasks[0], lesion("000000"), None, (replace(recipe, steps=5),))
    origin = train(source, feed(tasks[0], blobs, name, "float64"))
    treatments = [lesion(mask) for mask in ("111111", "000000", "111001", "011111")] + [Treatment.parse("FFTRFR")]
    made = [
        Run(name, tasks[1], treatment, source if treatment.needs_source else None, (recipe,), draw=1)
        for treatment in treatments
    ]
    food = feed(tasks[1], blobs, name, "float64")
    sources = [origin if run.source else None for run in made]
    for run, before, one in zip(made, sources, train_fleet(made, [food] * 5, sources), strict=True):
        alone = train(run, food, before)
        assert isinstance(one, Trained)
        assert [p.value for p in one.curve] == pytest.approx([p.value for p in alone.curve], abs=1e-10)
        for tensor, weights in alone.weights.items():
            torch.testing.assert_close(one.weights[tensor], weights, rtol=1e-10, atol=1e-10)


def test_its_layers_are_the_papers(blobs: DataSet) -> None:
    net = build("small40", (1, 32, 32), 2, 0)
    assert [layer.name for layer in layers(net, torch.zeros(1, 1, 32, 32))] == [
        "conv1", "conv2", "conv3", "dense1", "dense2", "output"
    ]  # fmt: skip
