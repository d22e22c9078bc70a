"""How long does a store of many finished runs take to plan, to list and to read back, and in how much memory?

    python benchmarks/store.py [--runs 10000] [--folder DIR]

The runs are those of the study gutstein on made-up images of 62 classes, their records made up and as large as real
ones. Each measurement has a process of its own and begins once everything is imported; memory is the peak above what
the process then had. In a DIR that an earlier call has filled, nothing is filled again.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from layerwise import api, cli, costs
from layerwise.data import open_data
from layerwise.execute.plan import Plan, plan
from layerwise.run import Run, key
from layerwise.store import Store
from layerwise.studies import gutstein
from layerwise.studies.request import Request

RUNS_A_SEED = 25  # a source, and for each of four numbers of samples six depths
IMAGES_A_CLASS = 160
REPEATS = 3


def main() -> None:
    """Fill, measure, print; or measure one thing, in a process that `main` has started."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--runs", type=int, default=10_000, help="finished runs in the store")
    asked.add_argument("--folder", type=Path, help="where the store is made and left; by default it is removed")
    asked.add_argument("--measure", choices=MEASURED, help=argparse.SUPPRESS)
    options = asked.parse_args()
    seeds = -(-options.runs // RUNS_A_SEED)
    if options.measure:
        print(json.dumps(measure(MEASURED[options.measure], options.folder, seeds)))
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="layerwise-store-"))
    try:
        fill(folder, seeds)
        print(f"{seeds * RUNS_A_SEED:,} runs in {folder}, {disk(folder / 'store'):.0f} MB; median of {REPEATS}\n")
        print(f"{'':55}{'seconds':>9}{'worked':>9}{'ms a run':>10}{'MB above imports':>18}{'whole':>7}")
        for name, action in MEASURED.items():
            found = [in_a_process(name, folder, options.runs) for _ in range(REPEATS)]
            seconds, worked = (statistics.median(one[kind] for one in found) for kind in ("seconds", "worked"))
            above, whole = (max(one[kind] for one in found) for kind in ("above", "whole"))
            print(
                f"{action.__doc__:55}{seconds:9.2f}{worked:9.2f}{seconds * 1000 / found[0]['runs']:10.3f}"
                f"{above:18.0f}{whole:7.0f}",
                flush=True,
            )
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def fill(folder: Path, seeds: int) -> None:
    """Make the data and the finished runs, where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data.npz").exists():
        labels = np.repeat(np.arange(62), IMAGES_A_CLASS)
        images = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32), dtype=np.uint8)
        np.savez(folder / "data.npz", images=images, labels=labels)
    store, runs = Store(folder / "store"), wanted(folder, seeds)
    os.fsync = lambda descriptor: None  # type: ignore[assignment] # nobody will miss these runs after a power cut
    sources = {key(run.source) for run in runs if run.source_run}
    for number, run in enumerate(runs):
        if not store.has(key(run)):
            kept = key(run) in sources
            store.put(run, made_up(run, number), {"weights": bytes(1000), "initial": bytes(1000)} if kept else {})


def wanted(folder: Path, seeds: int) -> list[Run]:
    """The grid."""
    data, _ = open_data(f"npz:{folder / 'data.npz'}", folder / "store" / "data")
    return gutstein.runs(gutstein.design(Request(data, seeds=seeds, experiments="levels")))


def made_up(run: Run, number: int) -> dict[str, Any]:
    """A record such as layerwise.result writes, with numbers that nobody has measured."""
    draw = np.random.default_rng(number)
    steps = range(0, run.steps + 1, run.recipes[0].evaluate_every)
    points = [(step, split) for step in steps for split in ("train", "test") if split == "test" or step == run.steps]
    return {
        "curve": [[*point, what, float(draw.random())] for point in points for what in ("accuracy", "loss")],
        "forecast_seconds": float(draw.random()),
        "parameters": 52256,
        "parameters_trained": 52088,
        "provenance": {"device": "cpu", "executor": "serial", "layerwise": "0", "machine": "none", "threads": 1},
        "seconds": float(draw.random()),
        "steps": [run.steps],
        "train_flops": 10**9 + number,
    }


def in_a_process(name: str, folder: Path, runs: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--measure", name, "--folder", str(folder), "--runs", str(runs)]
    ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def measure(action: Callable[[Path, int], int], folder: Path, seeds: int) -> dict[str, float]:
    """Seconds, those that the processor worked, and the peak of memory in MB, in all and above what was there."""
    costs.step_flops("lenet5", (1, 32, 32), gutstein.BITS, (True,) * 6, 20)  # PyTorch imports half of itself for this
    if action is plan_new:
        action(folder, 1)  # speeds are measured once, whatever the number of runs
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    start, worked = time.perf_counter(), time.process_time()
    runs = action(folder, seeds)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    return {
        "seconds": seconds,
        "worked": worked,
        "above": memory("VmHWM") - before,
        "whole": memory("VmHWM"),
        "runs": runs,
    }


def memory(kind: str) -> float:
    """In MB, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1000


def disk(folder: Path) -> float:
    """In MB."""
    return sum(path.lstat().st_blocks for path in folder.rglob("*")) * 512 / 1e6


def planned(folder: Path, seeds: int) -> Plan:
    runs, store = wanted(folder, seeds), Store(folder / "store")
    return plan(runs, lambda name, weights: store.has(name, weights=weights))


def plan_stored(folder: Path, seeds: int) -> int:
    """the grid, its keys and its plan, all stored"""
    made = planned(folder, seeds)
    assert not made.missing
    return len(made.runs)


def plan_new(folder: Path, seeds: int) -> int:
    """the grid, its keys, its plan, fleets and forecast, none stored"""
    with tempfile.TemporaryDirectory() as empty:
        made = study(folder, seeds, dry_run=True, store=empty)
    return len(made.plan["runs"])


def list_all(folder: Path, seeds: int) -> int:
    """layerwise runs ls"""
    return lines_of("runs", "ls", "--store", str(folder / "store")) - 2


def collect_first(folder: Path, seeds: int) -> int:
    """all records, their index lost"""
    shutil.rmtree(folder / "store" / "index", ignore_errors=True)
    return collect(folder, seeds)


def collect(folder: Path, seeds: int) -> int:
    """all records"""
    store = Store(folder / "store")
    return len([record.result["curve"] for record in store.records(store.keys()).values()])


def dry_run(folder: Path, seeds: int) -> int:
    """layerwise study gutstein --dry-run, all stored"""
    study(folder, seeds, dry_run=True)
    return seeds * RUNS_A_SEED


def again(folder: Path, seeds: int) -> int:
    """layerwise study gutstein, all stored, and its rows"""
    return len(set(study(folder, seeds).rows["run_key"].dropna()))


def study(folder: Path, seeds: int, **more: Any) -> Any:
    how = {"store": folder / "store", "experiments": "levels", **more}
    return api.study("gutstein", data=f"npz:{folder / 'data.npz'}", seeds=seeds, quiet=True, **how)


def lines_of(*words: str) -> int:
    """How many lines a command prints."""
    printed, sys.argv = io.StringIO(), ["layerwise", *words]
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main()
    return printed.getvalue().count("\n")


MEASURED = {
    "new": plan_new,
    "plan": plan_stored,
    "collect-first": collect_first,
    "collect": collect,
    "list": list_all,
    "dry-run": dry_run,
    "again": again,
}

if __name__ == "__main__":
    main()
