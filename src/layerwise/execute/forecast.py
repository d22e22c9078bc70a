"""What a plan will take, from speeds measured on this machine before anything is trained."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heapreplace
from types import MappingProxyType

from layerwise.costs import layer_parameters, train_flops
from layerwise.execute.plan import Plan, Unit
from layerwise.execute.speeds import speed, step_bytes
from layerwise.prefix import frozen_depth
from layerwise.run import Recipe, Run, key

PROCESS_MEGABYTES = 330  # a process that has loaded torch and nothing else
RECORD_BYTES = 12_000  # spec, result and sums of a run, without weights
OVERHEAD_SECONDS = 0.01  # of a run: checking, storing

Classes = tuple[str, tuple[int, ...]]  # of a data set


@dataclass(frozen=True)
class Size:
    """How large a run's task is, in images."""

    shape: tuple[int, int, int]  # (channels, height, width)
    train: int
    others: int  # validation and test
    available: int  # training images of its classes that there are


@dataclass(frozen=True)
class Forecast:
    """What is expected of the missing runs."""

    units: Mapping[Unit, float]  # seconds, on one core
    flops: Mapping[str, int]  # by key, of the training steps
    wall_seconds: float  # of all missing runs together
    memory_bytes: int
    disk_bytes: int


def forecast(
    plan: Plan,
    size: Callable[[Run], Size],
    workers: int,
    device: str = "cpu",
    steps: Mapping[str, int] = MappingProxyType({}),
) -> Forecast:
    """Time, memory and disk that the plan's missing runs will take.

    A run that stops at an accuracy is counted with that share of its steps that finished runs of its net and recipe
    took: `steps` are theirs, by key. Where there are none, it is counted with all: that is what it takes at most.
    """
    pools, shares = _pools(plan, size), _shares(plan, steps)
    units = {
        unit: _seconds(unit, size, device, shares.get((unit.runs[0].net, unit.runs[0].recipes), 1.0))
        for unit in plan.units
    }
    for unit, seconds in _ahead(plan, size, pools, workers, device):
        units[unit] += seconds
    biggest = max((sum(_bytes(size(run), pools[at]) for at, run in _at(unit).items()) for unit in units), default=0)
    return Forecast(
        units=units,
        flops={key(run): train_flops(run, size(run).shape) for run in plan.runs},
        wall_seconds=_wall(units, workers),
        memory_bytes=(workers + 1) * PROCESS_MEGABYTES * 2**20 + workers * 3 * biggest,
        disk_bytes=sum(_disk(run, plan, size(run)) for run in plan.missing),
    )


def unit_bytes(unit: Unit, size: Callable[[Run], Size]) -> int:
    """Memory that the unit's images and one of its steps take: of the main memory, or of a GPU.

    Counted generously: reading images takes them twice more for a moment, and a step's buffers change hands.
    """
    sizes = [size(run) for run in _at(unit).values()]
    images = sum(_bytes(one, one.available + one.others) for one in sizes)
    return 3 * images + 2 * unit.width * step_bytes(unit.runs[0], size(unit.runs[0]).shape)


def _shares(plan: Plan, steps: Mapping[str, int]) -> dict[tuple[str, tuple[Recipe, ...]], float]:
    """The mean share of their steps that finished runs of a net and recipe took."""
    taken: dict[tuple[str, tuple[Recipe, ...]], list[float]] = {}
    for run in plan.runs:
        if key(run) in steps:
            taken.setdefault((run.net, run.recipes), []).append(steps[key(run)] / run.steps)
    return {kind: sum(shares) / len(shares) for kind, shares in taken.items()}


def _seconds(unit: Unit, size: Callable[[Run], Size], device: str, share: float) -> float:
    """A unit at this machine's measured speed: steps (this share of them where they may stop), evaluations, storing."""
    first, todo = unit.todo[0], [size(run) for run in unit.todo]
    total = OVERHEAD_SECONDS * len(todo)
    for stage, recipe in enumerate(first.recipes):
        found = speed(first, stage, todo[0].shape, unit.width, device)
        done = 1.0 if recipe.stop_at is None else share
        points = done * _points(recipe)
        seen = sum(points * s.others + (1 if recipe.stop_at is None else points) * s.train for s in todo)
        total += found.ready + done * recipe.steps * found.step + seen * found.look
    return total


def _pools(plan: Plan, size: Callable[[Run], Size]) -> dict[Classes, int]:
    """Images in the pool of each set of classes: those that some run trains or is evaluated on."""
    sizes = {run.task: (_classes(run), size(run)) for unit in plan.units for run in unit.runs}
    train, most = Counter[Classes](), dict[Classes, Size]()
    for at, one in sizes.values():
        train[at] += one.train
        most[at] = max(one, most.get(at, one), key=lambda size: size.others)
    return {at: min(train[at], one.available) + one.others for at, one in most.items()}


def _ahead(
    plan: Plan, size: Callable[[Run], Size], pools: Mapping[Classes, int], workers: int, device: str
) -> Iterator[tuple[Unit, float]]:
    """What layers computed ahead take: once for each source and pool, by the first units that need it together."""
    users: dict[Hashable, list[tuple[Unit, float]]] = {}
    for unit in plan.units:
        for stage in range(len(unit.runs[0].recipes)):
            if depth := frozen_depth(unit.runs[0], stage):
                for run in unit.todo:
                    seconds = pools[_classes(run)] * speed(run, stage, size(run).shape, unit.width, device).ahead
                    named = run.net, run.source, str(run.treatment), depth, stage, _classes(run)
                    users.setdefault(named, []).append((unit, seconds))
    for using in users.values():
        units = list(dict(using))[:workers]
        yield from ((unit, using[0][1] / len(units)) for unit in units)


def _classes(run: Run) -> Classes:
    return run.task.data, run.task.classes + run.task.rest


def _at(unit: Unit) -> dict[Classes, Run]:
    """A run of each set of classes."""
    return {_classes(run): run for run in unit.runs}


def _points(recipe: Recipe) -> int:
    """Points of the learning curve."""
    return 1 if not recipe.evaluate_every else 1 + -(-recipe.steps // recipe.evaluate_every)


def _wall(units: Mapping[Unit, float], workers: int) -> float:
    """When the last unit ends, if each worker takes the longest that is left, and sources end before targets begin."""
    levels: dict[int, list[float]] = {}
    for unit, seconds in units.items():
        levels.setdefault(len(list(unit.runs[0].lineage)), []).append(seconds)
    free = [0.0] * workers
    for level in sorted(levels):
        free = [max(free)] * workers if level > min(levels) else free
        heapify(free)
        for seconds in sorted(levels[level], reverse=True):
            heapreplace(free, free[0] + seconds)
    return max(free)


def _bytes(size: Size, images: int) -> int:
    """What so many images take."""
    channels, height, width = size.shape
    return images * channels * height * width * 4


def _disk(run: Run, plan: Plan, size: Size) -> int:
    weights = sum(layer_parameters(run.net, size.shape, run.task.outputs).values()) * 4
    return RECORD_BYTES + (2 * weights if key(run) in plan.kept else 0)
