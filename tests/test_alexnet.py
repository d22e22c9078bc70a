"""The nets of Yosinski's study: Caffe's reference net exactly, and its small relatives."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerwise.costs import layer_parameters
from layerwise.data.dataset import DataSet, make
from layerwise.errors import LayersError
from layerwise.feed import feed, scaled
from layerwise.fleet import train_fleet
from layerwise.layers import layers
from layerwise.nets import NETS, Architecture, build
from layerwise.run import Recipe, Run
from layerwise.start import begin
from layerwise.tasks import Parts, Task
from layerwise.train import Trained, train
from layerwise.treatment import Treatment

SIZES = {  # outputs x (inputs of one group x pixels + 1)
    "conv1": 96 * (3 * 121 + 1), "conv2": 256 * (48 * 25 + 1), "conv3": 384 * (256 * 9 + 1),
    "conv4": 384 * (192 * 9 + 1), "conv5": 256 * (192 * 9 + 1), "fc6": 4_096 * (256 * 36 + 1), "fc7": 4_096 * 4_097,
    "fc8": 1_000 * 4_097,
}  # fmt: skip
SHAPES = [(96, 27, 27), (256, 13, 13), (384, 13, 13), (384, 13, 13), (9_216,), (4_096,), (4_096,), (1_000,)]


@pytest.fixture(scope="module")
def caffenet() -> nn.Module:
    return build("alexnet8", (3, 224, 224), 1_000, 0).eval()


def test_caffes_reference_net_has_its_parameters_and_shapes(caffenet: nn.Module) -> None:
    found = layers(caffenet, torch.zeros(1, 3, 224, 224))
    assert {layer.name: sum(caffenet.get_parameter(p).numel() for p in layer.parameters) for layer in found} == SIZES
    assert sum(SIZES.values()) == 60_965_224
    x, shapes = torch.zeros(1, 3, 224, 224), []
    for layer in caffenet.children():
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == SHAPES


def test_caffes_reference_net_starts_as_in_caffe(caffenet: nn.Module) -> None:
    """Its prototxt: gaussian weights of deviation 0.01, 0.005 in fc6 and fc7; biases 1 in conv2, 4, 5, fc6, fc7."""
    for name, layer in caffenet.named_children():
        module = next(one for one in layer.modules() if isinstance(one, nn.Conv2d | nn.Linear))
        assert module.bias is not None
        assert module.bias.unique().tolist() == [1.0 if name in {"conv2", "conv4", "conv5", "fc6", "fc7"} else 0.0]
        weights = module.weight.flatten()[:30_000]
        assert weights.std().item() == pytest.approx(0.005 if name in {"fc6", "fc7"} else 0.01, rel=0.02)
        assert abs(weights.mean().item()) < 0.0002


def test_with_hes_initialisation_it_is_the_same_net_and_keeps_its_signal() -> None:
    """Deviations sqrt(2 / inputs) of a group, 0.01 in the head; pixels come with deviation 1."""
    net = build("alexnet8he", (3, 224, 224), 100, 0).eval()
    sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in net.named_children()}
    assert sizes == {**SIZES, "fc8": 100 * 4_097}
    for name, layer in net.named_children():
        module = next(one for one in layer.modules() if isinstance(one, nn.Conv2d | nn.Linear))
        inputs = module.weight[0].numel()
        wanted = 0.01 if name == "fc8" else (2 / inputs) ** 0.5
        assert module.weight.flatten()[:30_000].std().item() == pytest.approx(wanted, rel=0.03)
        assert module.bias is not None
        assert module.bias.abs().max() == 0
    assert NETS["alexnet8he"].std != NETS["alexnet8"].std
    with pytest.raises(LayersError, match="net 'alexnet8he' takes 224x224 colour images"):
        build("alexnet8he", (1, 224, 224), 100, 0)


def test_its_first_layer_by_hand(caffenet: nn.Module) -> None:
    """Convolution, ReLU, pooling over windows that reach beyond the edge, then normalisation: in CaffeNet's order."""
    images = 60 * torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    x = F.conv2d(images, caffenet.get_parameter("conv1.0.weight"), None, stride=4).clamp(min=0)
    assert x.shape == (1, 96, 54, 54)
    x = F.pad(x, (0, 1, 0, 1)).unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))  # all are 0 or more
    around = F.pad(x.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
    wanted = x / (1 + 1e-4 / 5 * around) ** 0.75
    assert (wanted - x).abs().max() > 0.01  # or it would be no test of the normalisation
    torch.testing.assert_close(caffenet.get_submodule("conv1")(images), wanted, rtol=1e-5, atol=1e-4)


def test_its_pixels_are_caffes() -> None:
    """Pixels from 0 to 255 less ImageNet's mean, no more: what deviations of 0.01 are made for."""
    pixels = np.full((1, 3, 1, 1), 200, np.uint8)
    found = scaled(pixels, NETS["alexnet8"], "float64").flatten()
    assert found.tolist() == pytest.approx([200 - 122.68, 200 - 116.67, 200 - 104.01])


def test_the_reference_net_trains_with_its_dropout_on_in_frozen_layers() -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 3, 224, 224), dtype=np.uint8)
    data = make("noise", images, np.arange(4) % 2, ["a", "b"])
    task = Task(data.digest, (0, 1), 1, "onehot", Parts("random", 1))
    recipe = Recipe(1, 2, 0.01, weight_decay=5e-4, frozen_dropout=True)
    run = Run("alexnet8", task, Treatment.parse("X7R"), None, (recipe,))
    ends = train(run, feed(task, data, "alexnet8"))
    changed = {name for name, tensor in ends.weights.items() if not torch.equal(tensor, ends.initial[name])}
    assert changed == {"fc8.weight", "fc8.bias"}


# ---------------------------------------------------------------- small8 and small8bn


def former_small8(outputs: int) -> nn.Module:
    """The net as it was when it took 32x32 colour images only: stored runs are of these weights."""
    head = nn.Linear(384, outputs)
    net = nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            conv2=nn.Sequential(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            conv3=nn.Sequential(nn.Conv2d(48, 64, 3, padding=1), nn.ReLU()),
            conv4=nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
            conv5=nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            fc6=nn.Sequential(nn.Linear(256, 384), nn.ReLU()),
            fc7=nn.Sequential(nn.Linear(384, 384), nn.ReLU()),
            fc8=head,
        )
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    nn.init.normal_(head.weight, std=0.01)
    return net


@pytest.mark.parametrize("outputs", [5, 10])
def test_small8_is_to_the_byte_what_it_was(outputs: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        former = former_small8(outputs).state_dict()
    now = build("small8", (3, 32, 32), outputs, 7).state_dict()
    assert list(now) == list(former)
    assert all(torch.equal(tensor, former[name]) for name, tensor in now.items())


@pytest.mark.parametrize(("channels", "side"), [(1, 32), (3, 32), (1, 64), (3, 64)])
@pytest.mark.parametrize("name", ["small8", "small8bn"])
def test_small_relatives_take_grey_and_larger_images(name: str, channels: int, side: int) -> None:
    biases = name == "small8"
    assert layer_parameters(name, (channels, side, side), 10) == {
        "conv1": 24 * (channels * 25 + (1 if biases else 2)), "conv2": 48 * (24 * 9 + (1 if biases else 2)),
        "conv3": 64 * (48 * 9 + (1 if biases else 2)), "conv4": 64 * (64 * 9 + (1 if biases else 2)),
        "conv5": 64 * (64 * 9 + (1 if biases else 2)), "fc6": 384 * (side * side // 4 + (1 if biases else 2)),
        "fc7": 384 * (384 + (1 if biases else 2)), "fc8": 10 * 385,
    }  # fmt: skip


def test_batch_norm_of_small8bn_belongs_to_the_layer_before_it() -> None:
    net = build("small8bn", (3, 32, 32), 10, 0)
    found = layers(net, torch.zeros(1, 3, 32, 32))
    assert [layer.name for layer in found] == [*(f"conv{n}" for n in range(1, 6)), "fc6", "fc7", "fc8"]
    assert [len(layer.buffers) for layer in found] == [3] * 7 + [0]
    assert [[type(one) for one in net.get_submodule(layer).children()][:3] for layer in ("conv3", "fc6")] == [
        [nn.Conv2d, nn.BatchNorm2d, nn.ReLU],
        [nn.Linear, nn.BatchNorm1d, nn.ReLU],
    ]


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        (
            "small8",
            (1, 28, 28),
            "grey and colour 32x32 or 64x64 images, not 28x28 images of 1 channel; pass --resize 32",
        ),
        ("small8bn", (2, 64, 64), "grey and colour 32x32 or 64x64 images, not 64x64 images of 2 channels; pass --grey"),
        ("alexnet8", (3, 32, 32), "224x224 colour images, not 32x32 images of 3 channels; pass --resize 224"),
        (
            "alexnet8",
            (1, 224, 224),
            "224x224 colour images, not 224x224 images of 1 channel; give colour images without --grey",
        ),
    ],
)
def test_images_they_do_not_take_come_with_the_cure(name: str, images: tuple[int, int, int], message: str) -> None:
    with pytest.raises(LayersError) as caught:
        build(name, images, 10, 0)
    assert str(caught.value) == f"net '{name}' takes {message}"


def test_grey_images_are_scaled_by_the_means_over_the_three_colours() -> None:
    pixels = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    found = scaled(pixels, NETS["small8"], "float64").flatten().tolist()
    mean, std = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
    assert found == pytest.approx([-mean / std, (1 - mean) / std])


# ---------------------------------------------------------------- together, as a fleet


def local(channels: int, size: int, outputs: int) -> nn.Module:
    """The modules of alexnet8 that no other net has, in four small layers: groups, response norms, ceiling, dropout."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(
                nn.Conv2d(channels, 8, 5, stride=4), nn.ReLU(), nn.MaxPool2d(3, stride=2, ceil_mode=True),
                nn.LocalResponseNorm(5, alpha=0.1),
            ),
            conv2=nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU(), nn.LocalResponseNorm(5, alpha=0.1), nn.Flatten()
            ),
            fc3=nn.Sequential(nn.Linear(72, 12), nn.ReLU(), nn.Dropout(0.5)),
            fc4=nn.Linear(12, outputs),
        )
    )  # fmt: skip


def together_and_alone(
    data: DataSet, net: str, texts: Sequence[str], recipe: Recipe
) -> tuple[list[Trained], list[Trained]]:
    """Runs of these treatments from one source, by the fleet and one by one."""
    learnt = Task(data.digest, (0, 1, 2), 6, "onehot", Parts("random", 5))
    scratch = Treatment.parse("R*").resolve(len(layer_parameters(net, data.images.shape[1:], 3)))
    source = Run(net, learnt, scratch, None, (recipe,))
    origin = train(source, feed(learnt, data, net, "float64"))
    runs, feeds, sources = [], [], []
    for seed, text in enumerate(texts):
        treatment = Treatment.parse(text).resolve(len(scratch.trained[0]))
        task = Task(data.digest, (3, 4, 5), 6, "onehot", Parts("random", 5), seed)
        given = source if treatment.needs_source else None
        runs.append(Run(net, task, treatment, given, (recipe,), seed, draw=1))
        feeds.append(feed(task, data, net, "float64"))
        sources.append(origin if given else None)
    together = train_fleet(runs, feeds, sources)
    assert all(isinstance(one, Trained) for one in together)
    return together, [train(run, food, given) for run, food, given in zip(runs, feeds, sources, strict=True)]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("net", "texts", "frozen_dropout"),
    [
        ("local", ["R4", "FFRR", "TTRR", "XRRR", "MMRR", "WRRR", "FTRR"], False),
        ("local", ["R4", "F3R", "X3R"], True),
        ("small8bn", ["R*", "F3R*", "T5R*", "X7R"], False),
    ],
)
def test_the_fleet_is_the_reference_trainer(
    blobs: DataSet, monkeypatch: pytest.MonkeyPatch, net: str, texts: list[str], frozen_dropout: bool
) -> None:
    monkeypatch.setitem(NETS, "local", Architecture(local, (0.5,), (0.5,)))
    recipe = Recipe(10, 6, 0.02, weight_decay=5e-4, drops=(0.5,), precision="float64", frozen_dropout=frozen_dropout)
    for one, other in zip(*together_and_alone(blobs, net, texts, recipe), strict=True):
        assert [p.value for p in one.curve] == pytest.approx([p.value for p in other.curve], abs=1e-10)
        for name, tensor in one.weights.items():
            torch.testing.assert_close(tensor, other.weights[name], rtol=1e-10, atol=1e-10)


def test_random_filters_of_small8bn_keep_their_norms_as_they_were_made(blobs: DataSet) -> None:
    task = Task(blobs.digest, (0, 1, 2), 6, "onehot", Parts("random", 5))
    run = Run("small8bn", task, Treatment.parse("X7R"), None, (Recipe(3, 6, 0.02),))
    net = build("small8bn", (1, 32, 32), 3, 0)
    found = layers(net, torch.zeros(1, 1, 32, 32))
    before = begin(run, 0, found, (1, 32, 32), None, None)
    after = train(run, feed(task, blobs, "small8bn")).weights
    frozen = [name for layer in found[:7] for name in layer.parameters + layer.buffers]
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    assert not torch.equal(after["fc8.weight"], before["fc8.weight"])
