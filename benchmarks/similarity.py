"""How many times faster are all pairs of layers together than a loop over pairs, by linear CKA, and in what memory?

    python benchmarks/similarity.py [pooled flattened batches] [--examples N] [--repeats 5] [--pairs K] [--folder DIR]

The features are made up, in the shapes that a ResNet-20 gives its 20 layers: pooled over space, or flattened; float32,
each layer in a file that every side maps into memory. The sides take turns, each in a fresh process on one thread:

    library loop     linear_cka (or minibatch_cka) of layerwise for each pair i < j, in float64
    float32 loop     the same written by hand as a good user would: float32 throughout, and whichever of the two forms
                     of CKA is the cheaper for the pair
    all pairs        layerwise.probes.similarity.all_pairs, in float32 with sums in float64

Where loops would take hours they are timed on K pairs evenly spaced among the 190, and scaled by operations. Printed
are medians of the repeats with their range: seconds by the clock, seconds that the process worked (the better figure on
a busy machine), and the process's own memory at its peak, above what it had before (mapped files not counted).
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from layerwise.probes.cka import BATCH, linear_cka, linear_gram, minibatch_cka
from layerwise.probes.similarity import all_pairs

CHANNELS = [16] * 7 + [32] * 6 + [64] * 6  # a ResNet-20's, before its 10 logits
SIDES = {16: 32, 32: 16, 64: 8}  # of its maps
MIB = 1 << 20
BUSY = 0.2  # cores at work for others, above which a reader must know


@dataclass(frozen=True)
class Case:
    """Layers to compare, and how."""

    title: str
    widths: Sequence[int]
    measure: str
    examples: int
    pairs: int  # that the loops are timed on
    memory: int  # budget of all_pairs, in MiB
    loops: dict[str, Callable[[Tensor, Tensor], float]]


def plain_cka(x: Tensor, y: Tensor) -> float:
    """As a good user would write it."""
    (n, p), q = x.shape, y.shape[1]
    x, y = x - x.mean(0), y - y.mean(0)
    if p * p + p * q + q * q <= n * (p + q):
        return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))
    k, m = x @ x.T, y @ y.T
    return float((k * m).sum() / (k.norm() * m.norm()))


def plain_minibatch(x: Tensor, y: Tensor) -> float:
    """As a good user would write it: neighbours in a batch, and sums of a Gram matrix without its diagonal."""
    total = torch.zeros(3, dtype=torch.float64)
    for some, others in zip(x.split(BATCH), y.split(BATCH), strict=True):
        k, m = (linear_gram(side).fill_diagonal_(0) for side in (some, others))
        total += torch.tensor([unbiased(a, b) for a, b in ((k, m), (k, k), (m, m))])
    return float(total[0] / (total[1] * total[2]).sqrt())


def unbiased(k: Tensor, m: Tensor) -> float:
    n, rows, others = len(k), k.sum(1), m.sum(1)
    total = (k * m).sum() + rows.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ others)
    return float(total / (n * (n - 3)))


POOLED = [*CHANNELS, 10]
FLATTENED = [*(channels * SIDES[channels] ** 2 for channels in CHANNELS), 10]
EXACT = {"library loop": linear_cka, "float32 loop": plain_cka}
ALLOWED = {plain_cka: 1e-3, plain_minibatch: 0.05}  # by which these may differ: sums in float32, and other batches
CASES = {
    "pooled": Case("pooled over space", POOLED, "cka", 10_000, 190, 64, EXACT),
    "flattened": Case("flattened", FLATTENED, "cka", 2_000, 10, 512, EXACT),
    "batches": Case(
        f"flattened, in batches of {BATCH}",
        FLATTENED,
        "cka_minibatch",
        2_000,
        10,
        512,
        {"library loop": minibatch_cka, "float32 loop": plain_minibatch},
    ),
}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("cases", nargs="*", metavar=" ".join(CASES))
    asked.add_argument("--examples", type=int, help="other numbers of them than each case has by itself")
    asked.add_argument("--repeats", type=int, default=5)
    asked.add_argument("--pairs", type=int, help="on which loops are timed; by default all 190 of pooled, 10 of others")
    asked.add_argument("--folder", type=Path, help="where features are made and left; by default they are removed")
    asked.add_argument("--side", help=argparse.SUPPRESS)
    options = asked.parse_args()
    if strange := set(options.cases) - set(CASES):
        asked.error(f"there is no case {', '.join(sorted(strange))}")
    if options.side:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory(prefix="layerwise-similarity-") as made:
        for name in options.cases or CASES:
            compare(name, options, options.folder or Path(made))


def compare(name: str, options: argparse.Namespace, folder: Path) -> None:
    """All sides by turns, and what came of them."""
    case = CASES[name]
    examples, pairs = options.examples or case.examples, options.pairs or case.pairs
    fill(case, folder, examples)
    sides = [*case.loops, "all pairs"]
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    others = 0.0
    for repeat in range(options.repeats):
        for side in (*sides[repeat % 3 :], *sides[: repeat % 3]):  # nobody is always the first
            others = max(others, psutil.cpu_percent(interval=0.5) / 100 * (os.cpu_count() or 1))
            words = [__file__, name, "--side", side, "--folder", folder, "--examples", examples, "--pairs", pairs]
            ended = subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True)
            found[side].append(json.loads(ended.stdout))
            print(f"{name}, {side}: {found[side][-1]['seconds']:.2f} s", file=sys.stderr)
    told(case, examples, pairs, found, others)


def fill(case: Case, folder: Path, examples: int) -> None:
    """Features of so many examples that have something in common, as a net's layers have; those there are left."""
    draw = torch.Generator().manual_seed(1)
    for k, width in enumerate(case.widths):
        mix = torch.randn(32, width, generator=draw)
        if (path := where(folder, k, examples, width)).exists():
            continue
        with path.open("wb") as file:
            for begin in range(0, examples, 250):
                common = torch.randn(250, 32, generator=torch.Generator().manual_seed(begin))
                noise = torch.randn(250, width, generator=draw)
                rows = torch.relu(common @ mix / 32**0.5 + 0.5 * noise + 0.3)[: examples - begin]
                file.write(rows.numpy().tobytes())


def where(folder: Path, k: int, examples: int, width: int) -> Path:
    return folder / f"{k}-{examples}x{width}.float32"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One side, in this process: its values by pair, seconds, and memory."""
    torch.set_num_threads(1)
    case = CASES[options.cases[0]]
    action = all_together if options.side == "all pairs" else one_by_one
    action(case, options, 100)  # what libraries do when they are first used
    with peak() as memory:
        start, worked = time.perf_counter(), time.process_time()
        values = action(case, options, options.examples)
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
    return {"values": values, "seconds": seconds, "worked": worked, "memory": memory()}


def one_by_one(case: Case, options: argparse.Namespace, examples: int) -> list[list[float]]:
    """[i, j, value] of evenly spaced pairs; layers are read for each anew, as a loop over stored activations does."""
    loop = case.loops[options.side]
    return [[i, j, loop(*(load(case, options, k)[:examples] for k in (i, j)))] for i, j in spaced(case, options.pairs)]


def all_together(case: Case, options: argparse.Namespace, examples: int) -> list[list[float]]:
    layers = [load(case, options, k)[:examples] for k in range(len(case.widths))]
    values = all_pairs(layers, measure=case.measure, memory=case.memory * MIB).values
    return [[i, j, float(values[i][j] or math.nan)] for i, j in combinations(range(len(layers)), 2)]


def spaced(case: Case, count: int) -> list[tuple[int, int]]:
    every = list(combinations(range(len(case.widths)), 2))
    return [every[k * len(every) // count] for k in range(count)]


def load(case: Case, options: argparse.Namespace, k: int) -> Tensor:
    width = case.widths[k]
    path = where(options.folder, k, options.examples, width)
    return torch.from_file(str(path), shared=True, size=options.examples * width).view(-1, width)


@contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """Looks every few milliseconds how much memory is the process's own; gives the most, in MB above the first."""
    seen, ended = [own_memory()], threading.Event()

    def look() -> None:
        while not ended.wait(0.003):
            seen.append(own_memory())

    watch = threading.Thread(target=look)
    watch.start()
    yield lambda: max(seen) - seen[0]
    ended.set()
    watch.join()


def own_memory() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def operations(case: Case, examples: int, i: int, j: int) -> int:
    """Of the products for one pair, in the cheaper form."""
    p, q = case.widths[i], case.widths[j]
    if case.measure == "cka_minibatch":
        return p + q
    return min(p * p + p * q + q * q, examples * (p + q))


def told(case: Case, examples: int, pairs: int, found: dict[str, list[dict[str, Any]]], others: float) -> None:
    """Print it; ends the benchmark with an error where the sides do not agree."""
    together = found["all pairs"]
    every = sum(operations(case, examples, i, j) for i, j in spaced(case, len(together[0]["values"])))
    scale = every / sum(operations(case, examples, i, j) for i, j in spaced(case, pairs))
    timed = "" if scale == 1 else f"; loops timed on {pairs} of 190 pairs, times {scale:.1f}"
    print(f"\n20 layers of a ResNet-20, {case.title}, {examples:,} examples, budget {case.memory} MiB{timed}")
    print(f"  {'':14}{'seconds':>24}{'worked':>24}{'MB':>7}{'times slower':>24}{'by work':>24}{'differs':>10}")
    values = {(i, j): value for i, j, value in together[0]["values"]}
    wrong = False
    for side, runs in found.items():
        scaled = 1 if side == "all pairs" else scale
        row = [[run[kind] * scaled for run in runs] for kind in ("seconds", "worked")]
        row += [
            [run[kind] * scaled / other[kind] for run, other in zip(runs, together, strict=True)]
            for kind in ("seconds", "worked")
        ]
        differs = max(abs(value - values[i, j]) for i, j, value in runs[0]["values"])
        wrong |= not differs < ALLOWED.get(case.loops.get(side), 1e-5)
        seconds, worked, slower, by_work = map(ranged, row)
        most = max(run["memory"] for run in runs)
        print(f"  {side:14}{seconds:>24}{worked:>24}{most:7.0f}{slower:>24}{by_work:>24}{differs:10.0e}", flush=True)
    if others > BUSY:
        print(f"  others kept up to {others:.1f} cores busy: go by the work")
    if wrong:
        sys.exit("the sides do not agree, so that their times say nothing")


def ranged(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
