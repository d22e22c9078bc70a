"""Activations of all layers: by hand on a tiny net, against modules' own outputs, and nothing left behind."""

import json
import mmap
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerwise.data import open_data
from layerwise.errors import RepresentationError
from layerwise.feed import images as scaled
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.nets.weights import net_state
from layerwise.probes import activations as module
from layerwise.probes.activations import activations, pooled, sites


def ones(count: int) -> Tensor:
    return torch.arange(1.0, count + 1).view(count, 1, 1, 1).expand(count, 1, 2, 2).clone()


def doubling() -> nn.Module:
    """A 1x1 convolution that doubles and one that negates, an in-place ReLU after each, and a sum."""
    net = nn.Sequential(
        OrderedDict(
            twice=nn.Conv2d(1, 1, 1, bias=False),
            negate=nn.Conv2d(1, 2, 1, bias=False),
            relu=nn.ReLU(inplace=True),
            flat=nn.Flatten(),
            total=nn.Linear(8, 1, bias=False),
        )
    )
    with torch.no_grad():
        net.twice.weight.fill_(2.0)
        net.negate.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1))
        net.total.weight.fill_(1.0)
    return net


def test_by_hand() -> None:
    found = activations(doubling(), ones(3))
    assert list(found) == ["twice", "negate", "total"]
    assert found["twice"].tolist() == [[2.0], [4.0], [6.0]]
    assert found["negate"].tolist() == [[0.0, 2.0], [0.0, 4.0], [0.0, 6.0]]  # after the ReLU, a number a map
    assert found["total"].tolist() == [[8.0], [16.0], [24.0]]
    assert found.shapes == {"twice": (1, 2, 2), "negate": (2, 2, 2), "total": (1,)}


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [[2.5, 6.5]]), ("max", [[4.0, 8.0]]), ("flatten", [[1.0, 2, 3, 4, 5, 6, 7, 8]])],
)
def test_pooling_of_convolutions(pooling: str, expected: list[list[float]]) -> None:
    made = torch.arange(1.0, 9.0).view(1, 2, 2, 2)
    assert pooled(made, pooling, units=2).tolist() == expected


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [[3.0, 4.0]]), ("max", [[5.0, 6.0]]), ("cls", [[1.0, 2.0]])]
)
def test_pooling_of_tokens(pooling: str, expected: list[list[float]]) -> None:
    made = torch.arange(1.0, 7.0).view(1, 3, 2)
    assert pooled(made, pooling, units=2).tolist() == expected


def test_channels_last_are_told_by_the_layers_width() -> None:
    made = torch.arange(60.0).view(1, 3, 4, 5)
    assert torch.equal(pooled(made, "mean", units=5), made.mean((1, 2)))
    assert torch.equal(pooled(made, "mean", units=3), made.mean((2, 3)))


def test_a_map_that_is_square_is_not_channels_last_by_its_side() -> None:
    """A dense block ends with all its channels at once; its last layer adds so many as the map happens to be wide."""
    made = torch.arange(2.0 * 6 * 4 * 4).view(2, 6, 4, 4)
    assert torch.equal(pooled(made, "mean", units=4), made.mean((2, 3)))
    assert torch.equal(pooled(made.movedim(1, 3), "max", units=6), made.amax((2, 3)))


def test_a_dense_block_is_pooled_over_its_places() -> None:
    """Its second convolution adds 4 channels to 6, on maps of 4 x 4: the features were means of columns."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add = nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, self.add(x)], 1)

    head = nn.Sequential(nn.Conv2d(10, 2, 4), nn.Flatten())
    net = nn.Sequential(OrderedDict(stem=nn.Conv2d(1, 6, 1), dense=Dense(), head=head))
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    found = activations(net, x)
    assert found.shapes["dense"] == (10, 4, 4)
    assert torch.equal(found["dense"], net[:2](x).mean((2, 3)).detach())


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.mark.parametrize("behind", [nn.Identity(), nn.Dropout(0.5), nn.ReLU(), nn.ReLU(inplace=True)])
@pytest.mark.parametrize("flatten", [nn.Flatten(), Flat()])
@pytest.mark.parametrize("within", [True, False])
def test_a_flattened_map_is_pooled_as_the_map_it_was(behind: nn.Module, flatten: nn.Module, within: bool) -> None:
    """Whether the layer flattens its map itself or the next does, and whatever then leaves each number in its place.

    Such a layer was left as it is, thousands of numbers, while its neighbours were pooled.
    """
    conv, head, flat = nn.Conv2d(1, 3, 1), nn.Linear(12, 2), (flatten, behind)
    net = nn.Sequential(nn.Sequential(conv, *flat), head) if within else nn.Sequential(conv, nn.Sequential(*flat, head))
    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        made = behind.eval()(conv(x))
    for pooling, expected in (("mean", made.mean((2, 3))), ("max", made.amax((2, 3))), ("flatten", made.flatten(1))):
        found = activations(net, x, pooling=pooling)
        first, last = found
        assert found.shapes == {first: (3, 2, 2), last: (2,)}
        assert torch.equal(found[first], expected)
        assert found[last].shape == (5, 2)


def test_what_is_no_map_in_a_row_stays_as_it_is() -> None:
    """Of as many numbers as the map, but others; and of a map of one place, which is a row of units already."""

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.movedim(1, 3).flatten(1)

    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(6))
    turned = activations(nn.Sequential(nn.Conv2d(1, 3, 1), Turned(), nn.Linear(12, 2)), x)
    assert turned.shapes["0"] == (12,)
    one = activations(nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3, 2)), x, pooling="cls")
    assert one.shapes["0"] == (3,)


def test_cls_of_a_convolution_is_a_reason_and_not_a_number() -> None:
    found = activations(doubling(), ones(2), pooling="cls")
    assert list(found) == ["total"]
    for layer in ("twice", "negate"):
        with pytest.raises(RepresentationError, match=f"^layer '{layer}': pooling 'cls' is for tokens; an activation"):
            found[layer]


def test_copies_are_taken_before_a_later_relu_in_place() -> None:
    """STYLE's fourth trap: a hook that keeps the tensor sees what the in-place ReLU made of it."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(-torch.eye(2))
    net[2].register_forward_pre_hook(lambda _module, given: given[0].relu_())
    found = activations(net, torch.tensor([[1.0, 2.0]]).view(1, 2), found=layers(net, torch.ones(1, 2)))
    assert found["0"].tolist() == [[-1.0, -2.0]]


def test_a_block_ends_behind_its_sum_and_a_shared_relu_is_seen_where_it_runs_last() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x + self.second(self.relu(self.first(x))))

    net = nn.Sequential(OrderedDict(block=Residual(), head=nn.Linear(2, 3)))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    found = activations(net, x, found=layers(net, x[:1]))
    block = net.block
    assert torch.equal(found["block.first"], torch.relu(block.first(x)).detach())
    assert torch.equal(found["block.second"], block(x).detach())
    assert torch.equal(found["head"], net(x).detach())


def test_resnet_against_its_own_modules() -> None:
    net = build("resnet20", (3, 32, 32), 10, seed=1).eval()
    x = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = activations(net, x)
    with torch.no_grad():
        stem = net.relu(net.bn1(net.conv1(x)))
        inner = net.layer1[0].relu(net.layer1[0].bn1(net.layer1[0].conv1(stem)))
        low = net.layer1(stem)
        high = net.layer3(net.layer2(low))
    names = list(found)
    assert len(names) == 20
    for name, expected in [(names[0], stem), (names[1], inner), (names[6], low), (names[18], high)]:
        torch.testing.assert_close(found[name], expected.mean((2, 3)))
    assert found.shapes[names[6]] == (16, 32, 32)


def test_published_values_end_to_end(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """Features of the published ResNet-20 on stored rows of CIFAR-10; decoders of JPEG differ a little."""
    inputs = np.load(shared("reference_values") / "inputs.npz")
    data, _ = open_data(f"parquet:{shared('cifar10')}", tmp_path)
    test = np.flatnonzero(data.columns["split"] == "test")[inputs["cifar_rows"]]
    assert np.array_equal(data.labels[test], inputs["cifar_labels"])
    net = build("resnet20", (3, 32, 32), 10, seed=0)
    content = (shared("pretrained") / "resnet20.safetensors").read_bytes()
    net.load_state_dict(net_state(content, "resnet20", (3, 32, 32), "resnet20"), strict=False)
    found = activations(net, scaled(data, test, "resnet20", "float32"))
    names = list(found)
    for name, expected in zip(
        [names[6], names[12], names[18], names[19]], ("low", "mid", "high", "logits"), strict=True
    ):
        error = (found[name] - torch.from_numpy(inputs[f"cifar_{expected}"])).abs().max()
        assert error < 2e-3 * found[name].abs().max(), expected


def test_in_files_beyond_the_budget_the_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three layers, 230 rows of 1, 2 and 1 number of 4 bytes: what the budget has no room for is in a file."""
    sizes: list[int] = []

    def spied(file: int, size: int) -> mmap.mmap:
        sizes.append(size)
        return mmap.mmap(file, size)

    monkeypatch.setattr(module, "mmap", SimpleNamespace(mmap=spied))
    x = torch.randn(230, 1, 2, 2, generator=torch.Generator().manual_seed(2))
    inside = activations(doubling(), x)
    assert sizes == []
    for memory, in_files in ((0, [920, 1840, 920]), (920, [1840, 920]), (1840, [1840])):
        outside = activations(doubling(), x, memory=memory)
        assert sizes == in_files
        assert list(inside) == list(outside)
        for name in inside:
            assert torch.equal(inside[name], outside[name])
        sizes.clear()


def test_all_layers_are_seen_in_one_pass() -> None:
    """The net runs once for each batch, and once on one image to find where each layer ends."""
    net, given = doubling(), []
    found = layers(net, ones(1))
    net.register_forward_pre_hook(lambda _module, images: given.append(len(images[0])))
    assert len(activations(net, ones(230), found=found)) == 3
    assert given == [1, 100, 100, 30]


def test_a_file_that_finds_no_room_says_so(small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(small_disk("64k")))
    with pytest.raises(RepresentationError, match=r"need 0 MB in a temporary file \(No space left on device\)"):
        activations(doubling(), torch.ones(40_000, 1, 2, 2), memory=0)


def test_hooks_are_gone_and_modes_are_back_also_when_the_net_raises() -> None:
    class Fails(nn.Module):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            Fails.count += 1
            if Fails.count > 2:
                raise ValueError("no more")
            return x

    net = nn.Sequential(nn.Conv2d(1, 1, 1), Fails(), nn.Flatten(), nn.Linear(4, 2)).train()
    net[0].eval()
    found = layers(net, ones(1))
    with pytest.raises(ValueError, match="no more"):
        activations(net, ones(3), found=found)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert [m.training for m in net.modules()] == [True, False, True, True, True]


def test_what_has_no_row_an_image_has_a_reason() -> None:
    class Transposed(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return F.linear(input, self.weight).sum(0, keepdim=True).expand(3, 2)

    net = nn.Sequential(OrderedDict(mixes=Transposed(2, 2), head=nn.Linear(2, 2)))
    found = activations(net, torch.ones(5, 2), found=layers(net, torch.ones(1, 2)))
    assert list(found) == []
    assert found.reasons["mixes"] == "layer 'mixes': its output is shape (3, 2), not a row for each of 5 images"


def test_several_outputs_count_by_their_first_tensor() -> None:
    class Pair(nn.Linear):
        def forward(self, input: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
            return super().forward(input), None

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.head = Pair(2, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pair(x)[0])

    net, x = Both(), torch.ones(2, 2)
    found = activations(net, x, found=layers(net, x[:1]))
    assert torch.equal(found["pair"], net.pair(x)[0].detach())


def test_no_image_and_unknown_pooling_are_refused() -> None:
    with pytest.raises(RepresentationError, match="there are no images to look at"):
        activations(doubling(), torch.ones(0, 1, 2, 2))
    with pytest.raises(RepresentationError, match="unknown pooling 'men'; did you mean 'mean'"):
        activations(doubling(), ones(1), pooling="men")


def test_sites_name_the_module_and_its_call() -> None:
    net = doubling()
    found = sites(net, layers(net, ones(1)), ones(1))
    assert [(site.module, site.call) for site in found.values()] == [("twice", 0), ("flat", 0), ("", 0)]
    assert json.dumps([site.units for site in found.values()]) == "[1, 2, 1]"
    assert [site.flattened for site in found.values()] == [(), (2, 2, 2), ()]
