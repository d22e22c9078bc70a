"""What the benchmark trains: four grids of runs, each in a small version too."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from layerwise.data import open_data
from layerwise.data.dataset import DataSet
from layerwise.run import Recipe, Run, Weights, key
from layerwise.studies import gutstein
from layerwise.studies.request import Request
from layerwise.tasks import Parts, Task, split_classes
from layerwise.treatment import transfer

LENET_LAYERS, SMALL_LAYERS, RESNET_LAYERS = 6, 8, 20
CLASSES = range(10)  # CIFAR-10's


@dataclass(frozen=True)
class Place:
    """Where the shared data are, and the cache that the benchmark fills."""

    shared: Path
    cache: Path
    quick: bool  # the small version of everything


@dataclass(frozen=True)
class Workload:
    """A grid of targets. Their sources are stored on both sides before anything is timed."""

    title: str
    locator: Callable[[Place], str]  # of the data
    runs: Callable[[DataSet, Place], list[Run]]
    command: Callable[[Place], list[str]] | None = None  # what a user types for it, where there is a command
    shared: tuple[str, ...] = ()  # folders of the shared data that it needs


def sources(runs: list[Run]) -> list[Run]:
    """The runs that the targets start from; weights from a file are no run."""
    return list({key(run.source_run): run.source_run for run in runs if run.source_run}.values())


def glyphs(place: Place) -> str:
    return "glyphs:120" if place.quick else "glyphs"


def gutstein_request(data: DataSet, place: Place) -> Request:
    request = Request(data, scale="paper", experiments="levels")
    return replace(request, trials=2, shots=(1, 5), steps=60, source_steps=100) if place.quick else request


def gutstein_command(place: Place) -> list[str]:
    grid = ["study", "gutstein", "--experiments", "levels", "--data", glyphs(place), "--scale", "paper"]
    small = ["--trials", "2", "--shots", "1,5", "--steps", "60", "--source-steps", "100"]
    return grid + small if place.quick else grid


def gutstein_runs(data: DataSet, place: Place) -> list[Run]:
    """The runs of `gutstein_command`: n = 0..5, five numbers of samples, five trials."""
    design = gutstein.design(gutstein_request(data, place))
    return [cell.run for cell in gutstein.cells(design) if cell.trial is not None]


def deep_runs(data: DataSet, place: Place) -> list[Run]:
    """Those of them that train only the last one or two layers."""
    deep = {transfer(LENET_LAYERS, n) for n in (4, 5)}
    return [run for run in gutstein_runs(data, place) if run.treatment in deep]


def cifar(place: Place) -> str:
    return f"parquet:{place.shared / 'cifar10'}"


def yosinski_runs(data: DataSet, place: Place) -> list[Run]:
    """AnB, BnB, AnB+ and BnB+: for each split of the classes two bases, and from each of them n = 1..7 onto B.

    600 steps are what one pass of plain can take in ten minutes.
    """
    splits, depths, shots, test, steps = (1, (2, 5), 100, 20, 20) if place.quick else (4, range(1, 8), 2000, 200, 600)
    recipe = Recipe(steps, batch_size=64, rate=0.02, momentum=0.9, drops=(0.8,), channels_last=True)  # as in plain.py
    runs = []
    for seed in range(splits):
        halves = split_classes(CLASSES, "benchmark", seed)
        a, b = (Task(data.digest, half, shots, parts=Parts("published", test), seed=seed) for half in halves)
        scratch = transfer(SMALL_LAYERS, 0)
        for base in (Run("small8", task, scratch, None, (replace(recipe, steps=2 * steps),), seed) for task in (a, b)):
            for tuned in (False, True):
                runs += [
                    Run("small8", b, transfer(SMALL_LAYERS, n, tuned=tuned), base, (recipe,), seed) for n in depths
                ]
    return runs


def probe_images(place: Place) -> str:
    """Of each class 200 images to train on and 100 to test, all of CIFAR-10's test part, unknown to the weights."""
    train, test = (40, 20) if place.quick else (200, 100)
    file = place.cache / f"probes-{train}-{test}.npz"
    if not file.exists():
        whole, _ = open_data(cifar(place), place.cache / "data")
        unseen = np.flatnonzero(whole.columns["split"] == "test")
        chosen = np.concatenate([unseen[whole.labels[unseen] == label][: train + test] for label in CLASSES])
        part = np.tile(np.repeat(["train", "test"], [train, test]), len(CLASSES))
        aside = file.with_suffix(".aside.npz")
        np.savez(aside, images=whole.images[chosen], labels=whole.labels[chosen], split=part)
        aside.rename(file)
    return f"npz:{file}"


def published_weights(shared: Path) -> bytes:
    return (shared / "pretrained" / "resnet20.safetensors").read_bytes()


def probe_runs(data: DataSet, place: Place) -> list[Run]:
    """Linear probes of a published ResNet-20: so many samples a class, each seed with samples and a head of its own."""
    shots, seeds, steps = ((5, 20), 3, 100) if place.quick else ((10, 25, 50, 100, 200), 40, 1000)
    recipe = Recipe(steps, batch_size=50, rate=0.01, momentum=0.9, channels_last=True)  # as in plain.py
    weights = Weights(sha256(published_weights(place.shared)).hexdigest())
    probe = transfer(RESNET_LAYERS, RESNET_LAYERS - 1)
    return [
        Run("resnet20", Task(data.digest, tuple(CLASSES), k, parts=Parts("published", 0), seed=seed), probe, weights,
            (recipe,), seed)
        for seed in range(seeds)
        for k in shots
    ]  # fmt: skip


WORKLOADS = {
    "a": Workload("Gutstein's study at the paper's scale", glyphs, gutstein_runs, gutstein_command),
    "b": Workload("Gutstein's targets with n = 4 and 5, which train two layers or one", glyphs, deep_runs),
    "c": Workload("Yosinski's grid on halves of CIFAR-10", cifar, yosinski_runs, shared=("cifar10",)),
    "d": Workload("linear probes of a ResNet-20", probe_images, probe_runs, shared=("cifar10", "pretrained")),
}
