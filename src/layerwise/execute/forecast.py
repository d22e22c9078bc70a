"""What a plan will take: measured on this machine in about a second, before anything is trained."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional as F

from layerwise.costs import layer_parameters, train_flops
from layerwise.execute.plan import Plan
from layerwise.layers import layers, set_modes
from layerwise.nets import build
from layerwise.run import Run, key
from layerwise.train import EVALUATION_BATCH

WARM_UP, TIMED = 3, 9
PROCESS_MEGABYTES = 330  # a process that has loaded torch and nothing else
RECORD_BYTES = 12_000  # spec, result and sums of a run, without weights
OVERHEAD_SECONDS = 0.05  # of a run: reading data, checking, storing


@dataclass(frozen=True)
class Size:
    """How large a run's task is, in images."""

    shape: tuple[int, int, int]  # (channels, height, width)
    train: int
    others: int  # validation and test


@dataclass(frozen=True)
class Forecast:
    """What is expected of the missing runs; the times of single runs are for one core."""

    seconds: Mapping[str, float]  # by key
    flops: Mapping[str, int]  # by key, of the training steps
    wall_seconds: float  # of all missing runs together
    memory_bytes: int
    disk_bytes: int


def forecast(plan: Plan, sizes: Mapping[str, Size], workers: int) -> Forecast:
    """Time, memory and disk that the plan's missing runs will take; `sizes` by key.

    A run that stops at an accuracy is counted with all its steps: the forecast is what it takes at most.
    """
    with _one_thread():
        seconds = {key(run): _seconds(run, sizes[key(run)]) for run in plan.missing}
    flops = {key(run): train_flops(run, sizes[key(run)].shape) for run in plan.runs}
    longest = max(seconds.values(), default=0.0)
    biggest = max((_feed_bytes(sizes[key(run)]) for run in plan.missing), default=0)
    return Forecast(
        seconds=seconds,
        flops=flops,
        wall_seconds=max(sum(seconds.values()) / workers, longest),
        memory_bytes=(workers + 1) * PROCESS_MEGABYTES * 2**20 + workers * 3 * biggest,
        disk_bytes=sum(_disk(run, plan, sizes[key(run)]) for run in plan.missing),
    )


def _seconds(run: Run, size: Size) -> float:
    """Steps and evaluations of a run at this machine's measured speed."""
    total = OVERHEAD_SECONDS
    for recipe, trained in zip(run.recipes, run.treatment.trained, strict=True):
        step, look = _speed(run.net, size.shape, run.task.outputs, trained, recipe.batch_size)
        points = sum(recipe.evaluates_after(k) for k in range(recipe.steps + 1))
        looked_at = points * size.others + (points if recipe.stop_at is not None else 1) * size.train
        total += recipe.steps * step + looked_at * look
    return total


@lru_cache(maxsize=1024)
def _speed(
    net: str, shape: tuple[int, int, int], outputs: int, trained: tuple[bool, ...], batch: int
) -> tuple[float, float]:
    """Measured seconds of a training step, and of looking at one image in an evaluation."""
    built = build(net, shape, outputs, seed=0)
    found = layers(built, torch.zeros(1, *shape))
    set_modes(built, found, trained)
    weights = [
        built.get_parameter(name).requires_grad_(on)
        for layer, on in zip(found, trained, strict=True)
        for name in layer.parameters
    ]
    learnt = [weight for weight in weights if weight.requires_grad]
    optimiser = torch.optim.SGD(learnt, lr=1e-6, momentum=0.9) if learnt else None
    images, targets = torch.randn(batch, *shape), torch.randn(batch, outputs)
    many = torch.randn(EVALUATION_BATCH, *shape)

    def step() -> None:
        loss = F.mse_loss(built(images), targets)
        if optimiser:
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    def look() -> None:
        with torch.no_grad():
            built(many)

    return _median_seconds(step), _median_seconds(look, repeats=3) / len(many)


def _median_seconds(action: Callable[[], None], repeats: int = TIMED) -> float:
    times = []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return sorted(times[WARM_UP:])[repeats // 2]


def _feed_bytes(size: Size) -> int:
    channels, height, width = size.shape
    return (size.train + size.others) * channels * height * width * 4


def _disk(run: Run, plan: Plan, size: Size) -> int:
    weights = sum(layer_parameters(run.net, size.shape, run.task.outputs).values()) * 4
    return RECORD_BYTES + (2 * weights if key(run) in plan.kept else 0)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Measure as the workers will run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
