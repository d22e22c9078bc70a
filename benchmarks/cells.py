"""The cells on which advice is scored: a net with weights, other data, a number of samples a class.

No cell's target shares images or classes with what its source was trained on. CIFAR-10's ResNets meet only those
classes of Tiny ImageNet that are none of CIFAR-10's; nets trained here on Tiny ImageNet never saw these either, so
that they may meet CIFAR-10.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from layerwise import train_all
from layerwise.data import open_data
from layerwise.data.dataset import DataSet, make
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.progress import Quiet
from layerwise.randomness import generator
from layerwise.result import restore
from layerwise.run import Recipe, Run, Weights, key
from layerwise.store import Store
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment

CLASSES = 10  # of every target, drawn by the seed
# Tiny ImageNet's frogs, birds, dogs, cats, deer's relatives and vehicles: CIFAR-10's classes, or near them.
LIKE_CIFAR = frozenset(
    [2, 3, 11, 18, 19, 21, 22, 23, 24, 25, 26, 27, 28, 29, 38, 51, 60, 71, 77, 80, 81, 84, 88, 89, 93, 102, 110, 116,
     123, 124]
)  # fmt: skip
LEARNT = 80  # classes of Tiny ImageNet that sources learn; the rest are targets


@dataclass(frozen=True)
class Origin:
    """A source: a file of weights, or what trains one here."""

    net: str
    data: str  # what it was trained on
    classes: tuple[int, ...] = ()
    file: str = ""  # of weights, under the shared data
    steps: int = 0


@dataclass(frozen=True)
class Cell:
    """A source, target data, and samples a class; `test` images a class."""

    origin: str
    target: str
    shots: int
    test: int
    seeds: int

    @property
    def name(self) -> str:
        return f"{self.origin} to {self.target}, {self.shots} a class"


ORIGINS = {
    "resnet20 of cifar": Origin("resnet20", "cifar", file="pretrained/resnet20.safetensors"),
    "resnet32 of cifar": Origin("resnet32", "cifar", file="pretrained/resnet32.safetensors"),
    "lenet of mnist": Origin("lenet5relu", "mnist", tuple(range(10)), steps=2000),
    "lenet of letters": Origin("lenet5relu", "glyphs", tuple(range(10, 62)), steps=3000),
    "small8 of letters": Origin("small8", "glyphs", tuple(range(10, 62)), steps=3000),
    "small8bn of tiny": Origin("small8bn", "tiny", steps=4000),
}
CELLS = tuple(  # draws by samples a class: few where a draw takes long
    Cell(origin, target, shots, test, draws)
    for origin, target, test, sizes in [
        ("lenet of mnist", "letters by hand", 30, {1: 14, 5: 14, 20: 14}),
        ("lenet of mnist", "omniglot", 10, {5: 14}),
        ("lenet of letters", "mnist", 100, {1: 14, 5: 14, 20: 14, 100: 14}),
        ("small8 of letters", "mnist", 100, {5: 12, 20: 12}),
        ("small8 of letters", "digits by hand", 30, {5: 12, 20: 12}),
        ("small8bn of tiny", "cifar", 100, {1: 12, 5: 12, 20: 12}),
        ("small8bn of tiny", "rest of tiny", 25, {5: 12, 20: 12}),
        ("small8bn of tiny", "letters by hand", 30, {5: 12, 20: 12}),
        ("resnet20 of cifar", "letters by hand", 30, {5: 6, 20: 4}),
        ("resnet20 of cifar", "rest of tiny", 25, {5: 6, 20: 4}),
        ("resnet32 of cifar", "mnist", 100, {5: 4}),
        ("resnet32 of cifar", "omniglot", 10, {5: 4}),
    ]
    for shots, draws in sizes.items()
)


@dataclass(frozen=True)
class Bench:
    """Where the shared data are, and the store of everything."""

    shared: Path
    store: Path

    @property
    def shelf(self) -> Store:
        return Store(self.store)


@cache
def images(bench: Bench, name: str, channels: int) -> DataSet:
    """A data set by its name here, 32x32, with so many channels: grey images are repeated for colour nets."""
    shared = bench.shared
    locator = {
        "glyphs": "glyphs",
        "mnist": f"mnist:{shared / 'mnist'}",
        "by hand": f"npz:{shared / 'chars74k' / 'chars74k_hnd.npz'}",
        "omniglot": f"omniglot:{shared / 'omniglot' / 'images_background_small1.zip'}",
        "cifar": f"parquet:{shared / 'cifar10'}",
        "tiny": f"parquet:{shared / 'tiny_imagenet'}",
    }[name]
    found, _ = open_data(locator, bench.store / "data", resize=32)
    if found.images.shape[1] == channels:
        return found
    assert found.images.shape[1] == 1, f"{name} is in colour, and the net is for grey images"
    return make(f"{name} in colour", np.repeat(found.images, 3, 1), found.labels, found.class_names, found.columns)


def channels(origin: Origin) -> int:
    return 3 if origin.net.startswith("resnet") or origin.net == "small8bn" else 1


def learnt_of_tiny() -> tuple[int, ...]:
    """The classes of Tiny ImageNet that sources learn."""
    others = [label for label in range(150) if label not in LIKE_CIFAR]
    return tuple(sorted(generator("learnt of tiny").permutation(others)[:LEARNT].tolist()))


def pool(target: str) -> tuple[str, tuple[int, ...]]:
    """The data set of a target, and the classes from which its own are drawn."""
    if target == "rest of tiny":
        return "tiny", tuple(label for label in range(150) if label not in {*LIKE_CIFAR, *learnt_of_tiny()})
    return {
        "letters by hand": ("by hand", tuple(range(10, 62))),
        "digits by hand": ("by hand", tuple(range(10))),
        "mnist": ("mnist", tuple(range(10))),
        "omniglot": ("omniglot", tuple(range(136))),
        "cifar": ("cifar", tuple(range(10))),
    }[target]


def task(bench: Bench, cell: Cell, seed: int) -> tuple[DataSet, Task]:
    """What a cell's net is to learn in one draw: classes, samples."""
    name, labels = pool(cell.target)
    data = images(bench, name, channels(ORIGINS[cell.origin]))
    drawn = generator("cell", cell.origin, cell.target, seed).permutation(labels)[:CLASSES]
    published = "split" in data.columns
    has_test = published and "test" in set(np.unique(data.columns["split"]))
    parts = (
        Parts("published", cell.test)
        if has_test
        else Parts("split", cell.test, ("validation",))
        if published
        else Parts("random", cell.test)
    )
    return data, Task(data.digest, tuple(sorted(map(int, drawn))), cell.shots, parts=parts, seed=seed)


@cache
def weights(bench: Bench, name: str) -> Weights:
    """A source's weights, by digest, in the store; trained here where there is no file."""
    origin = ORIGINS[name]
    if origin.file:
        return Weights(bench.shelf.put_weights((bench.shared / origin.file).read_bytes()))
    data = images(bench, origin.data, channels(origin))
    classes = origin.classes or learnt_of_tiny()
    learnt = Task(data.digest, classes, parts=Parts("random", 5))
    built = build(origin.net, data.images.shape[1:], len(classes), 0)
    depth = len(layers(built, torch.zeros(1, *data.images.shape[1:])))
    recipe = Recipe(origin.steps, 64, 0.02, drops=(0.6, 0.85), weight_decay=5e-4)
    run = Run(origin.net, learnt, Treatment.parse("R*").resolve(depth), None, (recipe,))
    train_all([run], data, store=bench.store, keep=True, executor="serial", listener=Quiet())
    return Weights(bench.shelf.put_weights(save(restore(bench.shelf, key(run)).weights)))
