"""One trunk for a lifetime: task after task, each reusing what the one before left, and adding levels of its own.

The source net of a class split learns the first task. Each later one copies the bottom n levels of the net before it
and adds its own levels on top: with the copied levels frozen (F^n R), or free to retrain (T^n R). What is left of an
earlier task is seen by putting its own top levels on the newest trunk: frozen, nothing can be lost; retrained, the
levels above no longer fit the ones below. A net of its own for each task, from scratch, stands beside both.

A cluster is a class split, whose target classes are parted into tasks in an order of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.curve import evaluate
from layerwise.feed import Feed
from layerwise.layers import layers
from layerwise.measure import Bench, Measurement, Row
from layerwise.randomness import generator
from layerwise.run import Run, key
from layerwise.studies.gutstein_beyond import source_cells, top_levels
from layerwise.studies.gutstein_design import Cell, Design
from layerwise.studies.request import TRIAL_STRIDE
from layerwise.tasks import Task
from layerwise.treatment import transfer

NEW_TASKS = 4  # after the first


@dataclass(frozen=True)
class Chain:
    """The nets of one lifetime, oldest first; the first is the source net."""

    runs: tuple[Run, ...]
    seed: int
    trial: int
    condition: str  # frozen or tuned
    n: int  # levels shared

    @property
    def about(self) -> dict[str, Any]:
        """Where its rows stand."""
        first = self.runs[0].task.name
        return {"experiment": "lifelong", "condition": self.condition, "n": self.n, "seed": self.seed,
                "trial": self.trial, "source_task": first, "shots": self.runs[-1].task.shots}  # fmt: skip


def tasks(design: Design, seed: int, trial: int) -> list[Task]:
    """The new tasks of a class split in their order: its target classes, parted; the most samples per class."""
    classes = np.asarray(design.sides(seed)[1])
    count = max(1, min(NEW_TASKS, len(classes) // 2))
    order = generator("order of tasks", design.request.data.digest, seed).permutation(classes)
    parts = order[: len(order) // count * count].reshape(count, -1)
    draw, shots = seed + TRIAL_STRIDE * trial, max(design.scale.shots)
    return [design.task(tuple(sorted(part.tolist())), shots, draw) for part in parts]


def chains(design: Design) -> Iterator[Chain]:
    """Every lifetime: class split, trial, levels shared, frozen or tuned."""
    for seed, trial in product(range(design.beyond.seeds), range(design.beyond.trials)):
        source = design.source_net(design.sides(seed)[0], seed)
        for n, condition in product(top_levels(design), ("frozen", "tuned")):
            runs = [source]
            for before, task in enumerate(tasks(design, seed, trial), 1):
                treatment = transfer(design.depth, n, tuned=condition == "tuned")
                runs.append(design.target_net(task, treatment, runs[-1], before))
            yield Chain(tuple(runs), seed, trial, condition, n)


def cells(design: Design) -> Iterator[Cell]:
    """The nets of every lifetime, and for each new task one from scratch, with the same fresh weights and order."""
    yield from source_cells(design, "lifelong")
    for chain in chains(design):
        for number, run in enumerate(chain.runs[1:], 2):
            yield Cell(run, chain.seed, chain.trial, chain.n, "lifelong", chain.condition, group=f"task {number}")
    for seed, trial in product(range(design.beyond.seeds), range(design.beyond.trials)):
        source = design.source_net(design.sides(seed)[0], seed)
        for before, task in enumerate(tasks(design, seed, trial), 1):
            run = design.target_net(task, transfer(design.depth, 0), source, before)
            yield Cell(run, seed, trial, 0, "lifelong", "scratch", group=f"task {before + 1}")


def looks(chain: Chain) -> list[Measurement]:
    """What is measured of a lifetime: after each task, all tasks so far."""
    options = (("levels", chain.n),)
    return [
        Measurement("gutstein", "remembered", chain.runs[:count], options) for count in range(1, len(chain.runs) + 1)
    ]


def remembered(bench: Bench, *runs: Run, levels: int) -> list[Row]:
    """What the newest of the runs, oldest first, leaves of each task: its own top levels on the newest trunk.

    For each task the accuracy on its test images (`remembered`), how much less that is than with the trunk that it was
    learnt on (`forgotten`), and how many numbers of the trunk are no longer the same bytes (`trunk_changed`).
    """
    newest = bench.trained(runs[-1]).weights
    trunk = _trunk(bench, runs[-1], levels)
    found: list[Row] = []
    for number, run in enumerate(runs, 1):
        net, feed, own = bench.fresh(run), bench.feed(run), bench.trained(run).weights
        learnt = accuracy(net, feed, own)
        now = accuracy(net, feed, {**own, **{name: newest[name] for name in trunk}})
        changed = sum(changed_numbers(own[name], newest[name]) for name in trunk)
        about = {"run_key": key(run), "target_task": run.task.name, "treatment": str(run.treatment), "split": "test"}
        about |= {"group": f"task {number}", "other_net": f"task {len(runs)}"}
        found += [
            {**about, "quantity": quantity, "value": float(value)}
            for quantity, value in {"remembered": now, "forgotten": learnt - now, "trunk_changed": changed}.items()
        ]
    return found


def accuracy(net: nn.Module, feed: Feed, weights: Mapping[str, Tensor]) -> float:
    """Of a net with these weights on a task's test images."""
    net.load_state_dict(weights)
    return next(point.value for point in evaluate(net, feed, 0, ["test"]) if point.quantity == "accuracy")


def changed_numbers(before: Tensor, after: Tensor) -> int:
    """How many of a tensor's numbers are not the same bytes."""
    old, new = (t.contiguous().view(-1, 1).view(torch.uint8) for t in (before, after))
    return int((old != new).any(1).sum())


def _trunk(bench: Bench, run: Run, levels: int) -> list[str]:
    """The names of the tensors in the bottom levels of a run's net."""
    net = bench.fresh(run)
    state = net.state_dict()
    found = layers(net, torch.zeros(1, *bench.data.images.shape[1:]))[:levels]
    return [name for layer in found for name in layer.parameters + layer.buffers if name in state]


def rows(design: Design, measured: Mapping[str, Sequence[Row]]) -> Iterator[dict[str, Any]]:
    """What was measured of every lifetime, and the weights that each of its tasks added: those of its own levels."""
    sizes = list(design.sizes.values())
    for chain in chains(design):
        for look in looks(chain):
            yield from ({**row, **chain.about} for row in measured.get(look.key, ()))
        for number, run in enumerate(chain.runs, 1):
            added = sum(sizes[chain.n * (number > 1) :])
            about = {"run_key": key(run), "target_task": run.task.name, "treatment": str(run.treatment)}
            yield {
                **about,
                **chain.about,
                "group": f"task {number}",
                "quantity": "weights_added",
                "value": float(added),
            }
