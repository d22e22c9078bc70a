"""Frozen layers computed once: the same bits wherever their features are kept, and nothing beyond the room there is."""

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layerwise.data.dataset import DataSet
from layerwise.features import TAKEN, Shelf
from layerwise.feed import Feed, feed
from layerwise.layers import Layer, layers
from layerwise.nets import NETS, Architecture, build
from layerwise.prefix import Prefix, frozen_depth, split
from layerwise.run import Recipe, Run
from layerwise.tasks import Parts, Task
from layerwise.train import arithmetic, train
from layerwise.treatment import Treatment

RECIPE = Recipe(20, 6, 0.05, precision="float64", evaluate_every=10)
SIZES = {1: 6 * 8 * 8, 2: 4 * 4 * 4, 3: 10}  # numbers of an image's features after so many layers
PASSES = {"first": 0, "second": 0}  # images that have passed through these layers


class Counted(nn.Conv2d):
    """A convolution that counts its images."""

    name = "first"

    def forward(self, input: Tensor) -> Tensor:
        PASSES[self.name] += len(input)
        return super().forward(input)


class SecondCounted(Counted):
    name = "second"


def stack(channels: int, size: int, outputs: int) -> nn.Module:
    """Four layers with batch norm and dropout, that can be cut anywhere."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Sequential(Counted(channels, 6, 4, stride=4), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.2)),
            second=nn.Sequential(SecondCounted(6, 4, 2, stride=2), nn.BatchNorm2d(4), nn.Tanh()),
            third=nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Dropout(0.3)),
            head=nn.Linear(10, outputs),
        )
    )


@pytest.fixture(autouse=True)
def _net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "stack", Architecture(stack, (0.5,), (0.5,)))


def room(memory: int = 2**30, disk: int = 0) -> Prefix:
    """A prefix with so many bytes in memory and in files."""
    return Prefix(Shelf(memory, disk))


def run_of(data: DataSet, text: str, recipe: Recipe = RECIPE, seed: int = 0) -> Run:
    learnt = Task(data.digest, (0, 1, 2, 3), 6, "onehot", Parts("random", 5))
    source = Run("stack", learnt, Treatment.parse("R4"), None, (recipe,))
    task = Task(data.digest, (4, 5, 6, 7), 22, "onehot", Parts("random", 5), seed=1)
    treatment = Treatment.parse(text).resolve(4)
    recipes = (recipe,) * len(treatment.stages)
    return Run("stack", task, treatment, source if treatment.needs_source else None, recipes, seed)


def fed(data: DataSet) -> Feed:
    return feed(run_of(data, "FFFR").task, data, "stack", "float64")


def net_of(seed: int, data: DataSet) -> tuple[nn.Module, tuple[Layer, ...]]:
    """A net whose norms have seen something, and its layers."""
    net = build("stack", (1, 32, 32), 4, seed).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            draw = torch.Generator().manual_seed(seed)
            module.running_mean = torch.randn(module.num_features, generator=draw, dtype=torch.float64)
    return net, layers(net, torch.zeros(1, 1, 32, 32, dtype=torch.float64))


def ahead(prefix: Prefix, data: DataSet, food: Feed, depth: int, seed: int = 0) -> Feed:
    """What comes out of so many frozen layers of a net."""
    before = dict(PASSES)
    net, found = net_of(seed, data)
    PASSES.update(before)
    return prefix.ahead(run_of(data, "F" * depth + "R" * (4 - depth)), 0, net, found, food)[1]


def images(of: Feed) -> Tensor:
    """The training images in an order of their own, some of them twice; all of the test images."""
    part = of.parts["train"]
    rows = torch.randint(len(part.classes), (45,), generator=torch.Generator().manual_seed(3))
    return torch.cat([part.images(rows), *of.parts["test"].chunks(7)])


def where(of: Feed) -> str:
    """Where features are kept."""
    pool = of.parts["train"].pool
    if not isinstance(pool, Tensor):
        return "nowhere"
    return "memory" if pool.untyped_storage().resizable() else "file"


def bytes_of(food: Feed, depth: int) -> int:
    return int(food.parts["train"].pool.shape[0]) * SIZES[depth] * 8


@pytest.fixture(autouse=True)
def _no_passes() -> None:
    PASSES.update(first=0, second=0)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_features_are_the_same_bits_in_memory_in_a_file_and_computed_each_time(blobs: DataSet, depth: int) -> None:
    food = fed(blobs)
    kept = {"memory": room(), "file": room(0, 2**30), "nowhere": room(0, 0)}
    found = {place: ahead(prefix, blobs, food, depth) for place, prefix in kept.items()}
    assert {place: where(one) for place, one in found.items()} == {place: place for place in kept}
    for one in found.values():
        assert torch.equal(images(one), images(found["memory"]))
        assert images(one)[0].numel() == SIZES[depth]
        assert [part.classes.tolist() for part in one.parts.values()] == [
            part.classes.tolist() for part in food.parts.values()
        ]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_features_are_of_the_recipes_precision_wherever_they_are_kept(blobs: DataSet, depth: int) -> None:
    """Bug: those that were kept were float32 for bfloat16 recipes, those computed each time were not."""
    recipe = replace(RECIPE, precision="bfloat16")
    run = run_of(blobs, "F" * depth + "R" * (4 - depth), recipe)
    food = feed(run.task, blobs, "stack")
    net, found = net_of(0, blobs)
    with arithmetic(recipe, food), torch.no_grad():
        kept = [
            images(prefix.ahead(run, 0, net.float(), found, food)[1]) for prefix in (room(), room(0, 2**30), room(0, 0))
        ]
        rest, cut_off = room().ahead(run, 0, net, found, food)
        assert torch.equal(rest.eval()(images(cut_off)), net.eval()(images(food)))
    for one in kept:
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, kept[0])


class Patches(nn.Module):
    """An image's patches as tokens: a tensor that lies in memory otherwise than it is read."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cut = nn.Conv2d(channels, 6, 8, stride=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.cut(x).flatten(2).transpose(1, 2)


def tokens(channels: int, size: int, outputs: int) -> nn.Module:
    """Four layers that pass tokens on: (images, 16, 6), then (images, 16, 5)."""
    return nn.Sequential(
        OrderedDict(
            first=Patches(channels),
            second=nn.Sequential(nn.Linear(6, 5), nn.GELU()),
            third=nn.Sequential(nn.Flatten(), nn.Linear(80, 10), nn.ReLU()),
            head=nn.Linear(10, outputs),
        )
    )


@pytest.mark.parametrize("text", ["FRRR", "FFRR"])
def test_what_crosses_may_be_tokens(blobs: DataSet, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: a tensor of three axes that is not contiguous was taken for channels-last images."""
    monkeypatch.setitem(NETS, "tokens", Architecture(tokens, (0.5,), (0.5,)))
    run = run_of(blobs, text)
    assert run.source_run
    run = replace(run, net="tokens", source=replace(run.source_run, net="tokens"))
    assert run.source_run
    food = feed(run.task, blobs, "tokens", "float64")
    source = train(run.source_run, feed(run.source_run.task, blobs, "tokens", "float64"))
    whole = train(run, food, source)
    for prefix in (room(), room(0, 2**30), room(0, 0)):
        found = train(run, food, source, prefix.ahead)
        assert [p.value for p in whole.curve] == pytest.approx([p.value for p in found.curve], abs=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_rest_goes_on_from_the_features(blobs: DataSet, depth: int) -> None:
    """rest(features) is net(images), everything in eval mode."""
    food = fed(blobs)
    net, found = net_of(0, blobs)
    rest, cut_off = room().ahead(run_of(blobs, "F" * depth + "R" * (4 - depth)), 0, net, found, food)
    torch.testing.assert_close(rest.eval()(images(cut_off)), net.eval()(images(food)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", ["FFRR", "F3R", "XXRR", "FXFR", "XFTR", "FRFR", "F4", "FMRR", "FWRR", "F*R > T*"])
def test_training_behind_features_is_training_through_the_whole_net(blobs: DataSet, text: str) -> None:
    run = run_of(blobs, text)
    food = fed(blobs)
    source = train(run.source, feed(run.source.task, blobs, "stack", "float64")) if run.source_run else None
    whole = train(run, food, source)
    for prefix in (room(), room(0, 2**30), room(0, 0)):
        cut_off = train(run, food, source, prefix.ahead)
        assert whole.steps == cut_off.steps
        assert [p.value for p in whole.curve] == pytest.approx([p.value for p in cut_off.curve], abs=1e-10)
        for name, tensor in whole.weights.items():
            torch.testing.assert_close(cut_off.weights[name], tensor, rtol=1e-10, atol=1e-10)


# What may be computed ahead.


@pytest.mark.parametrize(
    ("text", "depths"),
    [
        ("R4", [0]), ("T4", [0]), ("FFRR", [2]), ("FRFR", [1]), ("RFFF", [0]), ("XXTR", [2]), ("FXRR", [2]),
        ("WFRR", [0]), ("MFRR", [0]), ("F4", [3]), ("F*R > T*", [3, 0]), ("F3R > FT3", [3, 1]),
    ],
)  # fmt: skip
def test_the_leading_layers_that_are_frozen(blobs: DataSet, text: str, depths: list[int]) -> None:
    """By hand; the last layer is never computed ahead, so that something is left to look at."""
    run = run_of(blobs, text)
    assert [frozen_depth(run, stage) for stage in range(len(depths))] == depths
    noisy = run_of(blobs, text, replace(RECIPE, frozen_dropout=True))
    assert [frozen_depth(noisy, stage) for stage in range(len(depths))] == [0] * len(depths)


def test_what_dropout_disturbs_is_not_computed_ahead(blobs: DataSet) -> None:
    """With the recipe's dropout on in frozen layers too, features would be of one mask: each step draws its own."""
    run, food = run_of(blobs, "F3R", replace(RECIPE, frozen_dropout=True)), fed(blobs)
    net, found = net_of(0, blobs)
    rest, same = room().ahead(run, 0, net, found, food)
    assert rest is net
    assert same is food
    source = train(run.source, feed(run.source.task, blobs, "stack", "float64")) if run.source_run else None
    whole, beside = train(run, food, source), train(run, food, source, room().ahead)
    assert whole.curve == beside.curve
    quiet = train(run_of(blobs, "F3R"), food, source)
    assert quiet.curve != whole.curve


def test_features_are_those_of_the_weights_and_not_of_the_net_that_has_them(blobs: DataSet) -> None:
    prefix, food = room(), fed(blobs)
    one, again, other = (ahead(prefix, blobs, food, 2, seed) for seed in (0, 0, 1))
    assert one.parts["train"].pool is again.parts["train"].pool
    assert not torch.equal(images(one), images(other))
    torch.testing.assert_close(images(other), images(ahead(room(), blobs, food, 2, 1)), rtol=0, atol=0)


def test_a_net_is_cut_at_the_deepest_layer_where_it_can_be(blobs: DataSet) -> None:
    net, found = net_of(0, blobs)
    assert split(net, found, 0)[0] == 0
    for most in (1, 2, 3):
        depth, first, rest = split(net, found, most)
        assert depth == most
        x = fed(blobs).parts["test"].images(torch.arange(3))
        torch.testing.assert_close(rest.eval()(first.eval()(x)), net.eval()(x), rtol=1e-12, atol=1e-12)


# What is computed once.


def chunks(food: Feed) -> int:
    """Images in so many whole chunks as the pool needs."""
    return -(-int(food.parts["train"].pool.shape[0]) // 100) * 100


def test_processes_with_a_folder_in_common_go_on_from_each_others_features(blobs: DataSet, tmp_path: Path) -> None:
    """Bug: a process went on from features of its own alone, and passed all images through the layers before again.

    One chunk still passes, to know how the others' features are shaped. Those that are not whole yet are left.
    """
    food = fed(blobs)
    alone = images(ahead(room(), blobs, food, 3))
    shallow = tmp_path / ahead(Prefix(Shelf(0, 2**30, tmp_path)), blobs, food, 2).name

    def passes() -> dict[str, int]:
        """Of images on their way to the third layer, for a process that has nothing itself."""
        PASSES.update(first=0, second=0)
        found = ahead(Prefix(Shelf(0, 2**30, tmp_path)), blobs, food, 3)
        assert torch.equal(images(found), alone)
        (tmp_path / found.name).unlink()
        return dict(PASSES)

    assert passes() == {"first": 100, "second": 100}
    with open(shallow, "r+b") as file:
        file.write(bytes([TAKEN]))  # as if its first chunk were still computed
    assert passes()["first"] > chunks(food)
    shallow.write_bytes(b"")  # as if it had been begun in this moment
    assert passes()["first"] > chunks(food)


@pytest.mark.parametrize("memory", [2**30, 0], ids=["memory", "file"])
def test_all_cuts_of_one_source_share_a_pass(blobs: DataSet, memory: int) -> None:
    """After one layer, then two, then three: each layer sees the pool once (and one chunk to learn its shape)."""
    prefix, food = room(memory, 2**30), fed(blobs)
    found = [ahead(prefix, blobs, food, depth) for depth in (1, 2, 3)]
    assert chunks(food) == 200
    assert PASSES["first"] <= chunks(food) + 100
    assert PASSES["second"] <= chunks(food) + 100
    before = dict(PASSES)
    for depth, one in zip((1, 2, 3), found, strict=True):
        assert torch.equal(images(ahead(prefix, blobs, food, depth)), images(one))
    assert before == PASSES
    for depth, one in zip((1, 2, 3), found, strict=True):
        assert torch.equal(images(ahead(room(), blobs, food, depth)), images(one))


def test_what_is_computed_each_time_is_computed_each_time(blobs: DataSet) -> None:
    food = fed(blobs)
    found = ahead(room(0, 0), blobs, food, 2)
    PASSES.update(first=0)
    for _ in range(3):
        found.parts["train"].images(torch.tensor([4, 2]))
    assert PASSES["first"] == 300  # whole chunks, so that an image's features do not depend on its company


# Room.


def test_the_oldest_features_make_room_and_those_in_use_stay(blobs: DataSet) -> None:
    food = fed(blobs)
    size = bytes_of(food, 2)
    prefix = room(2 * size)
    for seed in (0, 1, 2):  # nobody keeps them
        assert where(ahead(prefix, blobs, food, 2, seed)) == "memory"
    PASSES.update(first=0)
    newest = ahead(prefix, blobs, food, 2, 2)
    middle = ahead(prefix, blobs, food, 2, 1)
    assert PASSES["first"] == 0
    oldest = ahead(prefix, blobs, food, 2, 0)
    assert PASSES["first"] > 0
    assert [where(one) for one in (newest, middle, oldest)] == ["memory", "memory", "nowhere"]
    del newest, middle
    assert where(ahead(prefix, blobs, food, 2, 7)) == "memory"


def test_memory_first_then_files_then_none(blobs: DataSet) -> None:
    food = fed(blobs)
    prefix = room(bytes_of(food, 2), 2 * bytes_of(food, 2))
    found = [ahead(prefix, blobs, food, 2, seed) for seed in range(4)]
    assert [where(one) for one in found] == ["memory", "file", "file", "nowhere"]
    for seed, one in enumerate(found):
        assert torch.equal(images(one), images(ahead(room(), blobs, food, 2, seed)))


def test_files_of_features_are_gone_with_their_process_however_it_ends(
    blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a worker that was killed, as all are in the end, left its features in the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = ahead(room(0, 2**30), blobs, fed(blobs), 2)
    assert where(found) == "file"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_with_less_room_than_was_promised_is_not_used(
    blobs: DataSet, small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: the process was killed by SIGBUS as it wrote where the disk had no room."""
    disk = small_disk("64k")
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    food = fed(blobs)
    assert bytes_of(food, 1) > 64 * 1024
    found = ahead(room(0, 2**30), blobs, food, 1)
    assert where(found) == "nowhere"
    assert torch.equal(images(found), images(ahead(room(), blobs, food, 1)))
