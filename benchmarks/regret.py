"""The exhaustive search that advice is measured against: every option of every cell and draw, trained and tested.

    python benchmarks/regret.py search SHARED [--store DIR] [--cells TEXT] [--seeds N]    # hours; what is stored stays

Every option (a treatment with a learning rate) is trained on the whole training set and its test accuracy kept, in a
table for each cell under DIR/search. SHARED is the folder of the shared data.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cells import CELLS, ORIGINS, Bench, Cell, task, weights

from layerwise import train_all
from layerwise.advising.candidates import RATES, Option, candidates, options, recipes
from layerwise.advising.gradient import rates_of, relative_gradients
from layerwise.data.dataset import DataSet
from layerwise.feed import feed
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.progress import Quiet
from layerwise.result import restore
from layerwise.run import Run, Weights, key
from layerwise.tasks import Task

GROUPS = {"resnet20": (1, *(2,) * 9, 1), "resnet32": (1, *(2,) * 15, 1)}  # layers a residual block; others have none


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("what", choices=("search",))
    asked.add_argument("shared", type=Path, help="the folder of the shared data")
    asked.add_argument("--store", type=Path, default=Path("layerwise-regret"))
    asked.add_argument("--cells", default="", help="only cells whose names contain this")
    asked.add_argument("--seeds", type=int, help="at most so many draws a cell")
    chosen = asked.parse_args()
    torch.set_num_threads(1)
    bench = Bench(chosen.shared.absolute(), chosen.store.absolute())
    cells = [cell for cell in CELLS if chosen.cells in cell.name]
    for cell in cells:
        search(bench, cell if chosen.seeds is None else replace(cell, seeds=min(chosen.seeds, cell.seeds)))


def search(bench: Bench, cell: Cell) -> None:
    """Train what is missing of a cell's exhaustive search, all draws together, and write its table."""
    begun = time.perf_counter()
    draws = [Draw.of(bench, cell, seed) for seed in range(cell.seeds)]
    data = draws[0].data
    probes = [draw.run(draw.probe) for draw in draws]
    train_all(probes, data, store=bench.store, keep=True, listener=Quiet())
    every = [(draw, option, draw.run(option, draw.rates(bench))) for draw in draws for option in draw.options]
    records = train_all([run for _, _, run in every], data, store=bench.store, listener=Quiet())
    rows = [row(cell, draw.seed, option, run, records[key(run)].result) for draw, option, run in every]
    place = bench.store / "search"
    place.mkdir(exist_ok=True)
    (place / f"{cell.name}.json").write_text(json.dumps(rows, indent=0))
    print(f"{cell.name}: {len(rows)} runs, {time.perf_counter() - begun:.0f} s", flush=True)


def row(cell: Cell, seed: int, option: Option, run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """What became of an option in one draw."""
    return {
        "cell": cell.name,
        "seed": seed,
        "policy": option.candidate.policy,
        "treatment": str(run.treatment),
        "rate": option.rate,
        **{what: value for _, split, what, value in result["curve"] if split == "test"},
        "flops": result["train_flops"],
        "key": key(run),
    }


@dataclass(frozen=True)
class Draw:
    """One draw of a cell: its data and task, its source, and what is done with it."""

    data: DataSet
    task: Task
    net: str
    source: Weights
    seed: int
    options: tuple[Option, ...]

    @classmethod
    def of(cls, bench: Bench, cell: Cell, seed: int) -> "Draw":
        """The draw of this seed."""
        data, learnt = task(bench, cell, seed)
        net, shape = ORIGINS[cell.origin].net, data.images.shape[1:]
        depth = len(layers(build(net, shape, 2, 0), torch.zeros(1, *shape)))
        found = options(candidates(GROUPS.get(net, (1,) * depth)))
        return cls(data, learnt, net, weights(bench, cell.origin), seed, found)

    @property
    def examples(self) -> int:
        """Training images."""
        return len(self.task.classes) * (self.task.shots or 0)

    @property
    def probe(self) -> Option:
        """The linear probe that is the head of the net whose gradients are taken."""
        return next(one for one in self.options if one.candidate.policy == "linear probe" and one.rate == RATES[1])

    def run(self, option: Option, rates: tuple[float, ...] = ()) -> Run:
        """The run that carries an option out on the whole training set."""
        how, treatment = recipes(option, self.examples, rates), option.candidate.treatment
        source = self.source if treatment.needs_source else None
        return Run(self.net, self.task, treatment, source, how, self.seed, draw=1)

    def rates(self, bench: Bench) -> tuple[float, ...]:
        """Rates per layer by the gradient on the training set, with the linear probe for a head."""
        shape = self.data.images.shape[1:]
        net = build(self.net, shape, self.task.outputs, 0)
        net.load_state_dict(restore(bench.shelf, key(self.run(self.probe))).weights)
        found = layers(net, torch.zeros(1, *shape))
        return rates_of(relative_gradients(net, found, feed(self.task, self.data, self.net)))


if __name__ == "__main__":
    main()
