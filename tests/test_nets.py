"""What holds for every net by name, and the small relative of AlexNet."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerwise.costs import layer_parameters
from layerwise.data.dataset import DataSet, make
from layerwise.errors import LayersError, StudyError
from layerwise.feed import feed
from layerwise.layers import cut, layers
from layerwise.nets import NETS, architecture, build
from layerwise.run import Recipe, Run
from layerwise.tasks import Parts, Task
from layerwise.train import train
from layerwise.treatment import Treatment

COLOUR = (3, 32, 32)


def shape(name: str) -> tuple[int, int, int]:
    """Of images that the net takes: its normalisation says how many channels."""
    side = 224 if name.startswith("alexnet8") else 32
    return len(NETS[name].mean), side, side


@pytest.mark.parametrize("name", NETS)
def test_weights_come_from_the_seed_alone_and_the_global_stream_is_left_alone(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build(name, shape(name), 20, 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = build(name, shape(name), 20, 7).state_dict(), build(name, shape(name), 20, 8).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in one.state_dict().items())
    drawn = [key for key, parameter in one.named_parameters() if parameter.min() < parameter.max()]
    assert len(drawn) >= len(layers(one, torch.zeros(1, *shape(name))))
    assert not any(torch.equal(one.state_dict()[key], other[key]) for key in drawn)


@pytest.mark.parametrize("name", NETS)
def test_every_net_says_what_it_is_and_normalises_its_channels(name: str) -> None:
    found = NETS[name]
    assert found.summary.endswith(".")
    assert 20 < len(found.summary) < 120
    assert len(found.mean) == len(found.std)
    assert all(std > 0 for std in found.std)


def test_an_unknown_net_names_the_nearest() -> None:
    message = f"unknown net 'lenet'; did you mean 'lenet5'? (known: {', '.join(sorted(NETS))})"
    with pytest.raises(StudyError, match=f"^{re.escape(message)}$"):
        architecture("lenet")


CURE = "give colour images without --grey"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((3, 64, 64), "net 'NET' takes 32x32 colour images, not 64x64 images of 3 channels; pass --resize 32"),
        ((1, 32, 32), f"net 'NET' takes 32x32 colour images, not 32x32 images of 1 channel; {CURE}"),
        ((3, 32, 24), "net 'NET' takes square images, not 32x24; pass --resize 24"),
        (
            (1, 28, 28),
            f"net 'NET' takes 32x32 colour images, not 28x28 images of 1 channel; pass --resize 32 and {CURE}",
        ),
    ],
)
@pytest.mark.parametrize("name", ["resnet20", "resnet32"])
def test_images_it_does_not_take_come_with_the_cure(name: str, images: tuple[int, int, int], message: str) -> None:
    with pytest.raises(LayersError, match=f"^{re.escape(message.replace('NET', name))}$"):
        build(name, images, 10, 0)


# ---------------------------------------------------------------- sharma


def test_sharmas_net_is_two_convolutions_and_a_linear_classifier_by_hand() -> None:
    """Its classifier is a convolution that covers its input: a linear layer on the flattened maps."""
    net = build("sharma", (1, 32, 32), 5, 0).double()
    assert layer_parameters("sharma", (1, 32, 32), 5) == {
        "conv1": 16 * (25 + 1), "conv2": 32 * (16 * 25 + 1), "classifier": 5 * (32 * 64 + 1)
    }  # fmt: skip
    weights = dict(net.named_parameters())
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x, found = images, layers(net, images)
    for n, layer in enumerate(("conv1", "conv2"), 1):
        x = F.conv2d(x, weights[f"{layer}.0.weight"], weights[f"{layer}.0.bias"], padding=2).clamp(min=0)
        x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        first, rest = cut(net, found, n)
        torch.testing.assert_close(first(images), x, rtol=0, atol=1e-12)
        assert torch.equal(rest(first(images)), net(images))
    outputs = x.flatten(1) @ weights["classifier.0.weight"].flatten(1).T + weights["classifier.0.bias"]
    torch.testing.assert_close(net(images), outputs, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- small8


def test_small8_has_alexnets_eight_layers() -> None:
    sizes = layer_parameters("small8", COLOUR, 10)
    assert sizes == {  # outputs x (inputs x pixels + 1)
        "conv1": 24 * (3 * 25 + 1), "conv2": 48 * (24 * 9 + 1), "conv3": 64 * (48 * 9 + 1),
        "conv4": 64 * (64 * 9 + 1), "conv5": 64 * (64 * 9 + 1),
        "fc6": 384 * (64 * 4 + 1), "fc7": 384 * 385, "fc8": 10 * 385,
    }  # fmt: skip
    assert sum(sizes.values()) == 364186
    x, shapes = torch.zeros(3, *COLOUR), []
    for layer in build("small8", COLOUR, 10, 0).children():
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(24, 8, 8), (48, 4, 4), (64, 4, 4), (64, 4, 4), (256,), (384,), (384,), (10,)]


def test_small8_is_the_forward_pass_by_hand_and_is_cut_anywhere() -> None:
    net = build("small8", COLOUR, 5, 3).double()
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(2, *COLOUR, generator=draw, dtype=torch.float64)
    weights = dict(net.named_parameters())
    x = images
    for n, pools in enumerate((True, True, False, False, True), 1):
        stride, padding = (2, 2) if n == 1 else (1, 1)
        x = F.conv2d(x, weights[f"conv{n}.0.weight"], weights[f"conv{n}.0.bias"], stride, padding).clamp(min=0)
        x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)) if pools else x
    x = x.reshape(2, 256)
    for n in (6, 7):
        x = (x @ weights[f"fc{n}.0.weight"].T + weights[f"fc{n}.0.bias"]).clamp(min=0)
    x = x @ weights["fc8.weight"].T + weights["fc8.bias"]
    torch.testing.assert_close(net(images), x, rtol=0, atol=1e-12)
    found = layers(net, images)
    for n in range(1, 9):
        first, rest = cut(net, found, n)
        assert torch.equal(rest(first(images)), net(images))


def test_small8s_signal_keeps_its_size_through_eight_layers() -> None:
    """He's initialisation: mean squares neither vanish nor explode, and the head's outputs begin near 0."""
    net = build("small8", COLOUR, 10, 0)
    x = torch.randn(200, *COLOUR, generator=torch.Generator().manual_seed(2))
    sizes = []
    for layer in net.children():
        x = layer(x)
        sizes.append(x.square().mean().sqrt().item())
    assert all(0.5 < size < 8 for size in sizes[:-1])
    assert sizes[-1] < 1
    biases = [module.bias for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert not any(bias.any() for bias in biases)


def stripes() -> DataSet:
    """Two classes of noisy colour images: horizontal and vertical stripes in any colour, at any place."""
    draw = torch.Generator().manual_seed(7)
    labels = torch.arange(400) % 2
    wave = (torch.arange(32)[None] + torch.randint(0, 8, (400, 1), generator=draw)).mul(2 * torch.pi / 8).sin()
    across = wave[:, None, :].expand(-1, 32, -1)
    wave = torch.where(labels[:, None, None].bool(), across, across.mT)
    colour = torch.randn(400, 3, 1, 1, generator=draw)
    images = 128 + 40 * colour * wave[:, None] + 30 * torch.randn(400, 3, 32, 32, generator=draw)
    return make("stripes", images.clamp(0, 255).byte().numpy(), labels.numpy(), ["lying", "standing"])


def test_small8_learns_what_only_its_convolutions_can_see() -> None:
    data = stripes()
    task = Task(data.digest, (0, 1), 100, "onehot", Parts("random", 100))
    food = feed(task, data, "small8")
    run = Run("small8", task, Treatment.parse("R8"), None, (Recipe(60, 32, 0.02),))
    accuracy = {p.split: p.value for p in train(run, food).curve if p.quantity == "accuracy"}
    assert accuracy["train"] > 0.98
    assert accuracy["test"] > 0.95
