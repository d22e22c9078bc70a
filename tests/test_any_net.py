"""Nets of timm, torchvision and transformers, small and without weights: what a layer is, and that training keeps it.

Each is the library's own class with few and narrow blocks, so that all of them together take seconds.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from layerwise.data.dataset import DataSet, make
from layerwise.errors import LayersError, StudyError
from layerwise.execute.work import Worker
from layerwise.feed import Feed, feed
from layerwise.fleet import train_fleet
from layerwise.groups import GRANULARITIES
from layerwise.layers import Layer, layers, spread
from layerwise.nets import NETS, Architecture, build
from layerwise.nets.from_torchvision import imported
from layerwise.prefix import Prefix, split
from layerwise.run import Recipe, Run, key
from layerwise.store import Store
from layerwise.tasks import Parts, Task
from layerwise.train import Trained, train
from layerwise.treatment import Treatment
from layerwise.units import units

from making import planned, setting


def library(name: str) -> Any:
    """A library of nets; where it is not installed, the tests here are skipped by its name."""
    try:
        return imported(name)
    except StudyError:
        pytest.skip(f"{name} is not installed", allow_module_level=True)


timm, models = library("timm"), library("torchvision").models
library("transformers")

SIDE = 32
SHAPE = (3, SIDE, SIDE)
Build = Callable[[int, int, int], nn.Module]


def of_timm(name: str, *, sized: bool = False, **how: Any) -> Build:
    def builder(channels: int, size: int, outputs: int) -> nn.Module:
        told = {"img_size": size} if sized else {}
        return timm.create_model(name, in_chans=channels, num_classes=outputs, **told, **how)

    return builder


def of_torchvision(make: Callable[..., nn.Module], *how: Any, **named: Any) -> Build:
    return lambda _channels, _size, outputs: make(*how, **named, num_classes=outputs)


def of_transformers(kind: str, **how: Any) -> Build:
    def builder(channels: int, size: int, outputs: int) -> nn.Module:
        from layerwise.nets.from_transformers import _classes

        net, configured = _classes(kind, {})
        sized = {"image_size": size} if hasattr(configured(), "image_size") else {}
        return net(configured(num_labels=outputs, num_channels=channels, **sized, **how))

    return builder


def vgg(_channels: int, _size: int, outputs: int) -> nn.Module:
    """torchvision's VGG with narrow maps and dense layers."""
    with torch.device("meta"):  # its own dense layers have a hundred million weights
        net = models.VGG(nn.Identity(), init_weights=False)
    net.features = models.vgg.make_layers([4, "M", 6, 6, "M", 8, "M"], batch_norm=True)
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    net.classifier = nn.Sequential(nn.Linear(32, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, outputs))
    return net


def regnet() -> Build:
    params = models.regnet.BlockParams([1, 2], [8, 16], [8, 8], [1, 1], [2, 2], 0.25)
    return of_torchvision(models.RegNet, params, stem_width=8)


def mobilenet() -> Build:
    block = models.mobilenetv3.InvertedResidualConfig
    settings = [block(16, 3, 16, 16, True, "RE", 2, 1, 1.0), block(16, 3, 32, 24, False, "HS", 2, 1, 1.0)]
    return of_torchvision(models.MobileNetV3, settings, 32)


ANY: dict[str, Build] = {
    "timm-resnet": of_timm("test_resnet"),
    "timm-vit": of_timm("vit_tiny_patch16_224", sized=True, patch_size=8, embed_dim=16, depth=2, num_heads=2),
    "timm-convnext": of_timm("test_convnext", depths=(1, 1, 2, 1)),
    "timm-efficientnet": of_timm("test_efficientnet"),  # its batch norms have their activations inside
    "timm-regnet": of_timm("test_byobnet"),
    "timm-densenet": of_timm("densenet121", growth_rate=8, block_config=(2, 3)),
    "timm-swin": of_timm(
        "swin_tiny_patch4_window7_224", sized=True, window_size=4, embed_dim=12, depths=(2, 1), num_heads=(2, 2)
    ),
    "torchvision-vgg": vgg,
    "torchvision-resnet": of_torchvision(models.ResNet, models.resnet.Bottleneck, [1, 2, 1, 1], width_per_group=4),
    "torchvision-vit": of_torchvision(models.VisionTransformer, SIDE, 8, 2, 2, 16, 32),
    "torchvision-mobilenet": mobilenet(),
    "torchvision-regnet": regnet(),
    "transformers-resnet": of_transformers(
        "resnet", depths=[1, 2], hidden_sizes=[16, 32], embedding_size=8, layer_type="basic"
    ),
    "transformers-vit": of_transformers(
        "vit", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=8
    ),
    "transformers-convnext": of_transformers("convnext", depths=[1, 2], hidden_sizes=[8, 16], num_stages=2),
}

GROUPS = {  # blocks and stages, as the papers have them, with what leads down and the head
    "timm-resnet": (
        "conv1 layer1 layer2 layer3 layer4 fc",
        "conv1 layer1 layer2 layer3 layer4 fc",
    ),
    "timm-vit": (
        "patch_embed blocks.0 blocks.1 head",
        "patch_embed blocks head",
    ),
    "timm-convnext": (
        "stem stages.0 stages.1.downsample stages.1.blocks stages.2.downsample stages.2.blocks.0 "
        "stages.2.blocks.1 stages.3.downsample stages.3.blocks head",
        "stem stages.0 stages.1 stages.2 stages.3 head",
    ),
    "timm-efficientnet": (
        "conv_stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 conv_head classifier",
        "conv_stem..blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 conv_head classifier",
    ),
    "timm-regnet": (
        "stem stages.0 stages.1 stages.2 stages.3 head",
        "stem stages.0 stages.1 stages.2 stages.3 head",
    ),
    "timm-densenet": (
        "features.conv0 features.denseblock1.denselayer1 features.denseblock1.denselayer2 "
        "features.transition1 features.denseblock2.denselayer1 features.denseblock2.denselayer2 "
        "features.denseblock2.denselayer3 classifier",
        "features.conv0 features.denseblock1 features.transition1..features.denseblock2 classifier",
    ),
    "timm-swin": (
        "patch_embed layers.0.blocks.0 layers.0.blocks.1 layers.1.downsample layers.1.blocks head",
        "patch_embed layers.0 layers.1 head",
    ),
    "torchvision-vgg": (
        "features.0 features.4 features.7 features.11 classifier.0 classifier.3",
        "features.0 features.4..features.7 features.11 classifier.0 classifier.3",
    ),
    "torchvision-resnet": (
        "conv1 layer1 layer2.0 layer2.1 layer3 layer4 fc",
        "conv1 layer1 layer2 layer3 layer4 fc",
    ),
    "torchvision-vit": (
        "conv_proj encoder.layers.encoder_layer_0 encoder.layers.encoder_layer_1 heads",
        "conv_proj encoder heads",
    ),
    "torchvision-mobilenet": (
        "features.0 features.1 features.2 features.3 classifier.0 classifier.3",
        "features.0 features.1 features.2 features.3..classifier.0 classifier.3",
    ),
    "torchvision-regnet": (
        "stem trunk_output.block1 trunk_output.block2.block2-0 trunk_output.block2.block2-1 fc",
        "stem trunk_output.block1 trunk_output.block2 fc",
    ),
    "transformers-resnet": (
        "resnet.embedder resnet.encoder.stages.0 resnet.encoder.stages.1.layers.0 "
        "resnet.encoder.stages.1.layers.1 classifier",
        "resnet.embedder resnet.encoder.stages.0 resnet.encoder.stages.1 classifier",
    ),
    "transformers-vit": (
        "vit.embeddings vit.layers.0 vit.layers.1 classifier",
        "vit.embeddings vit.layers classifier",
    ),
    "transformers-convnext": (
        "convnext.embeddings convnext.encoder.stages.0 convnext.encoder.stages.1.downsampling_layer "
        "convnext.encoder.stages.1.layers.0 convnext.encoder.stages.1.layers.1 classifier",
        "convnext.embeddings convnext.encoder.stages.0 convnext.encoder.stages.1 classifier",
    ),
}


@pytest.fixture(autouse=True)
def _nets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, builder in ANY.items():
        monkeypatch.setitem(NETS, name, _architecture(builder))


@cache
def _architecture(builder: Build) -> Architecture:
    return Architecture(builder, (0.5,), (0.25,))


@cache
def built(name: str) -> nn.Module:
    """One net of each kind, in eval mode, for tests that leave it as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ANY[name](3, SIDE, 2).eval()


@cache
def partition(name: str, granularity: str = "layer") -> tuple[Layer, ...]:
    return layers(built(name), torch.zeros(1, *SHAPE), granularity)


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_everything_is_in_one_layer_and_coarse_ones_are_neighbours_joined(name: str, granularity: str) -> None:
    net, fine, found = built(name), partition(name), partition(name, granularity)
    for kind, all_of_them in (("parameters", net.named_parameters()), ("buffers", net.named_buffers())):
        assert sorted(t for layer in found for t in getattr(layer, kind)) == sorted(dict(all_of_them))
        assert [t for layer in found for t in getattr(layer, kind)] == [t for one in fine for t in getattr(one, kind)]
    assert [layer.number for layer in found] == list(range(1, len(found) + 1))
    assert len({layer.name for layer in found}) == len(found)
    assert found[-1].parameters == fine[-1].parameters  # the head is by itself
    assert all(layer.parameters for layer in found)


@pytest.mark.parametrize("name", ANY)
def test_blocks_and_stages_are_those_of_the_papers(name: str) -> None:
    found = {
        granularity: " ".join(layer.name for layer in partition(name, granularity)) for granularity in GRANULARITIES
    }
    assert (found["block"], found["stage"]) == GROUPS[name]


@pytest.mark.parametrize("name", ANY)
def test_a_treatment_over_blocks_is_one_over_their_layers(name: str) -> None:
    fine, coarse = partition(name), partition(name, "block")
    over = spread(Treatment.parse("FX*R"), name, coarse, fine)
    letters = dict(zip((layer.name for layer in fine), over.letters()[0], strict=True))
    for group, letter in zip(coarse, ["F", *"X" * (len(coarse) - 2), "R"], strict=True):
        assert {letters[layer.name] for layer in fine if layer.parameters[0] in group.parameters} == {letter}


def test_a_treatment_that_does_not_fit_names_the_blocks() -> None:
    name = "transformers-vit"
    with pytest.raises(LayersError) as error:
        spread(Treatment.parse("F3R5"), name, partition(name, "block"), partition(name))
    names = "vit.embeddings vit.layers.0 vit.layers.1 classifier"
    assert str(error.value) == f"treatment 'F3R5' is for 8 blocks; net '{name}' has 4: {names}"
    over = spread(Treatment.parse("F*R > T*"), name, partition(name, "block"), partition(name))
    assert str(over) == "F7R > T8"


@pytest.mark.parametrize("name", ANY)
def test_a_net_is_cut_between_its_blocks_and_the_halves_are_the_net_to_the_bit(name: str) -> None:
    """Of a dense block every layer's maps go on to all later ones, so that it is cut at its end alone."""
    net, found = built(name), partition(name)
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    ends = np.cumsum(
        [len([one for one in found if one.parameters[0] in b.parameters]) for b in partition(name, "block")]
    )
    whole, cuts = net(images), 0
    for n in ends[:-1].tolist():
        depth, first, rest = split(net, found, n)
        assert torch.equal(rest(first(images)), whole)
        cuts += depth == n
    assert cuts == (len(ends) - 1 if "densenet" not in name else 4)


# ---------------------------------------------------------------- training

RECIPE = Recipe(2, 4, 0.01, precision="float64", weight_decay=0.01)
LETTERS = ("freeze", "mixed", "part")


@cache
def pictures() -> DataSet:
    """Four classes of noisy colour images."""
    draw, labels = np.random.default_rng(0), np.repeat(np.arange(4), 8)
    images = draw.integers(0, 200, (32, *SHAPE)) + 15 * labels[:, None, None, None]
    return make("pictures", images.astype(np.uint8), labels, list("abcd"))


def treatments(name: str) -> list[Treatment]:
    """Half of the layers frozen; letters of every kind by turns; and half of the units of a layer that has units."""
    found = partition(name)
    depth, net = len(found), build(name, SHAPE, 2, 0)
    mixed = "".join("XMWTRF"[k % 6] for k in range(depth - 1)) + "R"
    parted = next(layer.number for layer in found if _has_units(net, layer))
    part = f"{'T' * (parted - 1)}P(0.5,random,F){'T' * (depth - parted - 1)}R"
    return [Treatment.parse(text) for text in (f"F{depth // 2}R{depth - depth // 2}", mixed, part)]


def _has_units(net: nn.Module, layer: Layer) -> bool:
    try:
        return bool(units(net, layer).count > 1)
    except LayersError:
        return False


@cache
def runs(name: str) -> tuple[list[Run], Feed, Trained]:
    """A run of each treatment, their images, and what training their source has left."""
    data = pictures()
    learnt, task = (Task(data.digest, of, 4, "onehot", Parts("random", 2), seed=of[0]) for of in ((0, 1), (2, 3)))
    source = Run(name, learnt, Treatment.parse("R*").resolve(len(partition(name))), None, (RECIPE,))
    made = [Run(name, task, treatment, source, (RECIPE,), k, draw=1) for k, treatment in enumerate(treatments(name))]
    return made, feed(task, data, name, "float64"), train(source, feed(learnt, data, name, "float64"))


@cache
def alone(name: str) -> list[Trained]:
    """The runs by the serial trainer, through the whole net."""
    made, food, source = runs(name)
    return [train(run, food, source) for run in made]


@pytest.mark.parametrize("name", ANY)
def test_frozen_is_frozen_to_the_byte_and_all_else_moves(name: str) -> None:
    made, _, source = runs(name)
    for run, trained in zip(made, alone(name), strict=True):
        for layer, letter in zip(partition(name), run.treatment.letters()[0], strict=True):
            moved = [t for t in layer.parameters if not torch.equal(trained.initial[t], trained.weights[t])]
            if letter in {"F", "X"}:
                kept = [t for t in layer.parameters + layer.buffers if t in trained.weights]
                assert all(torch.equal(trained.initial[t], trained.weights[t]) for t in kept), (run, layer)
            else:
                assert moved, (run, layer)
            if letter == "F":
                assert all(torch.equal(source.weights[t], trained.weights[t]) for t in kept)
            if letter == "W":
                assert all(torch.equal(source.initial[t], trained.initial[t]) for t in layer.parameters)


@pytest.mark.parametrize("name", ANY)
def test_training_behind_the_frozen_layers_is_training_through_the_whole_net(name: str) -> None:
    made, food, source = runs(name)
    assert_equal(train(made[0], food, source, Prefix().ahead), alone(name)[0])


# Its blocks are dropped at random (`drop_path_rate` is 0.1 unless said otherwise), which cannot be mapped over members.
SERIAL_ONLY = {"timm-swin"}
FLEETS = (  # of each kind of block one: tracing a fleet's step takes seconds
    "timm-vit", "timm-efficientnet", "timm-densenet", "timm-swin", "torchvision-vit", "transformers-vit",
    "transformers-convnext",
)  # fmt: skip


@pytest.mark.parametrize("name", FLEETS)
def test_a_fleet_is_the_serial_trainer_or_is_declined(name: str) -> None:
    made, food, source = runs(name)
    if name in SERIAL_ONLY:
        with pytest.raises(LayersError, match="another in training"):
            train_fleet(made, [food] * len(made), [source] * len(made))
        return
    for one, other in zip(train_fleet(made, [food] * len(made), [source] * len(made)), alone(name), strict=True):
        assert isinstance(one, Trained)
        assert_equal(one, other)


def assert_equal(one: Trained, other: Trained, within: float = 1e-9) -> None:
    assert [point.value for point in one.curve] == pytest.approx([point.value for point in other.curve], abs=within)
    for name, tensor in one.weights.items():
        torch.testing.assert_close(tensor, other.weights[name], rtol=within, atol=within)


def test_a_fleet_that_is_declined_is_trained_run_by_run(tmp_path: Path) -> None:
    """Whatever width was planned: the records are those of the serial trainer, and a note says why."""
    made, _, _ = runs("timm-swin")
    wanted = [made[0].source_run, *made]
    here = setting(tmp_path, pictures(), wanted, "local")
    found = [one for unit in planned(wanted, tmp_path, width=3).units for one in Worker(here).do(unit)]
    assert [one.state for one in found] == ["done"] * 4
    (note,) = {note for one in found for note in one.notes}
    assert note.startswith("3 runs could not be trained together (the net's forward pass is another in training")
    records = Store(tmp_path).records([key(run) for run in made])
    for run, trained in zip(made, alone("timm-swin"), strict=True):
        values = [point[3] for point in records[key(run)].result["curve"]]
        assert values == pytest.approx([point.value for point in trained.curve], abs=1e-9)
