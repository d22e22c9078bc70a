"""He's CIFAR nets: the published weights fit exactly, and give what an independent forward pass gives."""

import io
import json
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from layerwise.errors import LayersError
from layerwise.feed import Feed, Part
from layerwise.fleet import train_fleet
from layerwise.layers import cut, layers
from layerwise.nets import NETS, architecture, build
from layerwise.nets.weights import net_state, read_weights
from layerwise.run import Recipe, Run
from layerwise.tasks import Task
from layerwise.train import Trained, train
from layerwise.treatment import Treatment

SHAPE = (3, 32, 32)
BLOCKS = {"resnet20": 3, "resnet32": 5}  # a stage
State = dict[str, Tensor]


def published(name: str) -> dict[str, tuple[int, ...]]:
    """The tensors of the published files by name, with their shapes: the table of the files' own description."""
    found = {"conv1.weight": (16, 3, 3, 3), "linear.weight": (10, 64), "linear.bias": (10,)}
    norms = {"bn1": 16}
    before = 16
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range(BLOCKS[name]):
            for conv, inputs in ((1, before), (2, width)):
                found[f"layer{stage}.{block}.conv{conv}.weight"] = (width, inputs, 3, 3)
                norms[f"layer{stage}.{block}.bn{conv}"] = width
            before = width
    for norm, width in norms.items():
        found |= {f"{norm}.{tensor}": (width,) for tensor in ("weight", "bias", "running_mean", "running_var")}
    return found


def plain(state: State, x: Tensor, blocks: int) -> Tensor:
    """The forward pass in eval mode, from the tensors alone and without a module; norms written out."""

    def norm(y: Tensor, name: str) -> Tensor:
        mean, var, gain, shift = (
            state[f"{name}.{tensor}"][:, None, None] for tensor in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (var + 1e-5).sqrt() * gain + shift

    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        for block in range(blocks):
            at, widens = f"layer{stage}.{block}", stage > 1 and block == 0
            y = F.conv2d(x, state[f"{at}.conv1.weight"], stride=2 if widens else 1, padding=1)
            y = F.conv2d(norm(y, f"{at}.bn1").clamp(min=0), state[f"{at}.conv2.weight"], padding=1)
            if widens:
                zeros = torch.zeros_like(y)[:, : y.shape[1] // 4]
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
            x = (norm(y, f"{at}.bn2") + x).clamp(min=0)
    return x.flatten(2).sum(2) / x[0, 0].numel() @ state["linear.weight"].T + state["linear.bias"]


def shuffled(name: str, seed: int = 3) -> torch.nn.Module:
    """A net in float64 whose norms have seen something."""
    net = build(name, SHAPE, 10, seed).double().eval()
    draw = torch.Generator().manual_seed(seed)
    for key, tensor in net.state_dict().items():
        if "bn" in key and "tracked" not in key:
            tensor.copy_(torch.rand(tensor.shape, generator=draw, dtype=torch.float64) + 0.5)
    return net


def images(count: int = 4) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize(("name", "learnt", "tensors"), [("resnet20", 269_722, 97), ("resnet32", 464_154, 157)])
def test_names_and_shapes_are_those_of_the_published_files(name: str, learnt: int, tensors: int) -> None:
    net = build(name, SHAPE, 10, 0)
    found = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items() if "tracked" not in key}
    assert found == published(name)
    assert len(found) == tensors
    assert sum(parameter.numel() for parameter in net.parameters()) == learnt


@pytest.mark.parametrize("name", BLOCKS)
def test_the_forward_pass_is_the_one_written_out(name: str) -> None:
    net = shuffled(name)
    expected = plain(dict(net.state_dict()), images(), BLOCKS[name])
    assert expected.std() > 0.1
    torch.testing.assert_close(net(images()), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", BLOCKS)
def test_layers_are_the_convolutions_in_order_and_the_head(name: str) -> None:
    found = layers(build(name, SHAPE, 10, 0), torch.zeros(1, *SHAPE))
    within = [f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(BLOCKS[name]) for c in (1, 2)]
    assert [layer.name for layer in found] == ["conv1", *within, "linear"]
    assert len(found) == int(name.removeprefix("resnet"))
    for layer in found[:-1]:
        norm = layer.name.replace("conv", "bn")
        assert layer.parameters == (f"{layer.name}.weight", f"{norm}.weight", f"{norm}.bias")
        assert layer.buffers == tuple(f"{norm}.{b}" for b in ("running_mean", "running_var", "num_batches_tracked"))


@pytest.mark.parametrize("name", BLOCKS)
def test_it_can_be_cut_between_blocks_and_not_within(name: str) -> None:
    net = shuffled(name)
    found = layers(net, images(1))
    outputs = net(images())
    for layer in found:
        where = f"the net cannot be cut after layer {layer.number} '{layer.name}': more than one tensor crosses there"
        if ".conv1" in layer.name:
            with pytest.raises(LayersError, match=f"^{where}$"):
                cut(net, found, layer.number)
            continue
        first, rest = cut(net, found, layer.number)
        assert torch.equal(rest(first(images())), outputs)
        if layer.number > 1 and layer.name != "linear":  # the shortcut belongs to the block
            assert first(images()).min() == 0


def test_many_at_once_are_each_alone() -> None:
    """`torch.func.vmap` over stacked weights, shortcuts and their padding included."""
    nets = [shuffled("resnet20", seed) for seed in (1, 2, 3)]
    parameters, buffers = stack_module_state(nets)
    x = torch.stack([images(2) * scale for scale in (0.5, 1, 2)])
    together = vmap(lambda p, b, one: functional_call(nets[0], (p, b), (one,)))(parameters, buffers, x)
    for net, one, outputs in zip(nets, x, together, strict=True):
        torch.testing.assert_close(outputs, net(one), rtol=1e-10, atol=1e-10)


def test_a_fleet_of_resnets_is_each_trained_alone() -> None:
    classes = torch.arange(8) % 2
    part = Part(images(8) + classes[:, None, None, None], torch.arange(8), classes)
    food = Feed({"train": part}, torch.eye(2, dtype=torch.float64), False, "noise")
    recipe, task = Recipe(3, 4, 0.05, weight_decay=0.01, precision="float64"), Task("data", (0, 1))
    base = Run("resnet20", task, Treatment.parse("R20"), None, (recipe,))
    sources = [train(base, food), None]
    runs = [Run("resnet20", task, Treatment.parse("F7T6R7"), base, (recipe,))]
    runs.append(Run("resnet20", task, Treatment.parse("R20"), None, (recipe,), draw=1))
    for run, source, found in zip(runs, sources, train_fleet(runs, [food, food], sources), strict=True):
        assert isinstance(found, Trained)
        alone = train(run, food, source)
        for key, tensor in alone.weights.items():
            torch.testing.assert_close(found.weights[key], tensor, rtol=0, atol=1e-10, msg=lambda m, k=key: f"{k}: {m}")


# ---------------------------------------------------------------- the published weights


def by_hand(content: bytes) -> State:
    """A safetensors file read from its own description: a length, a JSON header, and the tensors' bytes."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    state = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        assert entry["dtype"] == "F32"
        state[name] = torch.from_numpy(np.frombuffer(content[begin:end], "<f4").reshape(entry["shape"]).copy())
    return state


@lru_cache
def test_images(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first rows of CIFAR-10's test file, as uint8 (examples, 3, 32, 32), and their classes."""
    rows = next(pq.ParquetFile(folder / "test-00000-of-00001.parquet").iter_batches(count)).to_pydict()
    pixels = [np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in rows["img"]]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.tensor(rows["label"])


test_images.__test__ = False  # type: ignore[attr-defined]


def right(name: str, shared: Callable[[str], Path], count: int) -> tuple[int, int]:
    """How many of the first test images the net classifies rightly, and how many the pass written out does."""
    content = read_weights(shared("pretrained") / f"{name}.safetensors")
    pixels, classes = test_images(shared("cifar10"), count)
    net = build(name, SHAPE, 10, 0).eval()
    net.load_state_dict(net_state(content, name, SHAPE, name), strict=True)
    used = architecture(name)
    mean, std = (torch.tensor(values)[:, None, None] for values in (used.mean, used.std))
    described = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    found = [0, 0]
    with torch.no_grad():
        for part, truth in zip(pixels.split(100), classes.split(100), strict=True):
            ours = net((part / 255 - mean) / std)
            theirs = plain(by_hand(content), (part / 255 - described[0]) / described[1], BLOCKS[name])
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
            found[0] += int((ours.argmax(1) == truth).sum())
            found[1] += int((theirs.argmax(1) == truth).sum())
    return found[0], found[1]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_published_weights_are_read_to_the_bit(name: str, shared: Callable[[str], Path]) -> None:
    content = read_weights(shared("pretrained") / f"{name}.safetensors")
    net = build(name, SHAPE, 10, 0)
    net.load_state_dict(net_state(content, name, SHAPE, name), strict=True)
    expected = by_hand(content)
    assert {key: tuple(tensor.shape) for key, tensor in expected.items()} == published(name)
    for key, tensor in expected.items():
        assert torch.equal(net.state_dict()[key], tensor)


def test_the_published_resnet20_classifies_as_the_pass_written_out(shared: Callable[[str], Path]) -> None:
    assert right("resnet20", shared, 500) == (399, 399)


@pytest.mark.soak
@pytest.mark.parametrize(("name", "expected"), [("resnet20", 1605), ("resnet32", 1649)])
def test_the_accuracy_is_the_published_one(name: str, expected: int, shared: Callable[[str], Path]) -> None:
    """80.25 and 82.45 % of the first 2,000 test images, as described beside the files."""
    assert right(name, shared, 2000) == (expected, expected)


def test_every_net_for_colour_normalises_as_the_published_weights_want() -> None:
    for name in BLOCKS:
        assert NETS[name].mean == (0.485, 0.456, 0.406)
        assert NETS[name].std == (0.229, 0.224, 0.225)
