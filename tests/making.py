"""Small real runs for tests of the store and the executors: seconds, not minutes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from layerwise.data.dataset import DataSet, save
from layerwise.execute.plan import Plan, grouped, plan
from layerwise.execute.work import Outcome, Setting, Worker
from layerwise.run import Recipe, Run, key
from layerwise.store import Store
from layerwise.tasks import Parts, Task
from layerwise.treatment import transfer

ON_GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU with CUDA here"))
RECIPE = Recipe(steps=12, batch_size=8, rate=0.05, evaluate_every=6)


def grid(data: DataSet, *, sources: int = 2, recipe: Recipe = RECIPE) -> list[Run]:
    """Source nets on four classes, and targets on the other four with 0, 2 and 5 levels kept."""
    runs: list[Run] = []
    for seed in range(sources):
        tasks = [
            Task(data.digest, classes, 4, "bits:20", Parts("random", 5), seed)
            for classes in ((0, 1, 2, 3), (4, 5, 6, 7))
        ]
        source = Run("lenet5", tasks[0], transfer(6, 0), None, (recipe,), seed)
        targets = [
            Run("lenet5", tasks[1], transfer(6, n), source if n else None, (recipe,), seed, draw=1) for n in (0, 2, 5)
        ]
        runs += [source, *targets]
    return runs


def setting(folder: Path, data: DataSet, runs: list[Run], executor: str = "serial", **more: Any) -> Setting:
    """A store in the folder, the data beside it, sources kept."""
    store = Store(folder)
    place = store.folder / "data" / "blobs"
    if not place.exists():
        save(data, place)
    kept = frozenset(key(run.source) for run in runs if isinstance(run.source, Run))
    return Setting(folder, {data.digest: place}, kept, executor, **more)


def planned(runs: list[Run], folder: Path, *, width: int = 1) -> Plan:
    """What the store lacks of the runs, in units of so many."""
    store = Store(folder)
    made = plan(runs, lambda name, weights: store.has(name, weights=weights))
    return grouped(made, lambda _run, _count: width)


def done_by(
    runs: list[Run], here: Setting, *, width: int = 1, choose: Callable[[Run], bool] = lambda _run: True
) -> list[Outcome]:
    """Do what the store lacks of the runs here, in units of so many: those units whose first run is chosen."""
    worker = Worker(here)
    units = planned(runs, here.store, width=width).units
    return [outcome for unit in units if choose(unit.runs[0]) for outcome in worker.do(unit)]


def contents(folder: Path) -> dict[str, Any]:
    """What the store knows of each run that must not depend on how it was made: curves, steps, and weights' bytes."""
    store = Store(folder)
    found: dict[str, Any] = {}
    for name in store.keys():  # noqa: SIM118 (not a dict)
        result = store.get(name).result
        weights = store.tensors(name, "weights") if store.has(name, weights=True) else None
        found[name] = (result["curve"], result["steps"], result["train_flops"], weights)
    return found


def assert_close(one: dict[str, Any], other: dict[str, Any], within: float = 1e-10) -> None:
    """Contents that are equal up to rounding."""
    assert one.keys() == other.keys()
    for name, (curve, steps, flops, weights) in one.items():
        its_curve, its_steps, its_flops, its_weights = other[name]
        assert (steps, flops, weights is None) == (its_steps, its_flops, its_weights is None)
        assert [point[:3] for point in curve] == [point[:3] for point in its_curve]
        assert [point[3] for point in curve] == pytest.approx([point[3] for point in its_curve], rel=within, abs=within)
        if weights is not None:
            torch.testing.assert_close(load(weights), load(its_weights), rtol=within, atol=within)
