"""Small real runs for tests of the store and the executors: seconds, not minutes."""

from pathlib import Path

from layerwise.data.dataset import DataSet, save
from layerwise.execute.work import Setting
from layerwise.run import Recipe, Run, key
from layerwise.store import Store
from layerwise.tasks import Parts, Task
from layerwise.treatment import transfer

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


def setting(folder: Path, data: DataSet, runs: list[Run], executor: str = "serial") -> Setting:
    """A store in the folder, the data beside it, sources kept."""
    store = Store(folder)
    place = store.folder / "data" / "blobs"
    if not place.exists():
        save(data, place)
    return Setting(folder, {data.digest: place}, frozenset(key(run.source) for run in runs if run.source), executor)


def contents(folder: Path) -> dict[str, object]:
    """What the store knows of each run that must not depend on how it was made: curves, steps, and weights' bytes."""
    store = Store(folder)
    found: dict[str, object] = {}
    for name in store.keys():  # noqa: SIM118 (not a dict)
        result = store.get(name).result
        weights = store.tensors(name, "weights") if store.has(name, weights=True) else None
        found[name] = (result["curve"], result["steps"], result["train_flops"], weights)
    return found
