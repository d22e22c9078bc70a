"""How many times faster is layerwise than the script that a good user would write?

    python benchmarks/run.py [a b c d e f] [--repeats 3] [--quick] [--shared DIR] [--cache DIR] [--out FILE]

Each repeat runs plain.py on PyTorch's default threads, plain.py on one thread, and ours, by turns and each in a fresh
process, ours with a fresh store that has the sources only; the better of the two plain ones counts. The training phase
is from loaded data to the last result (plain), and from the first plan line to the last stored result (ours).
Printed are the medians of the repeats' ratios, with their range; everything goes to FILE as JSON.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from scipy import stats

from layerwise.errors import LayerwiseError
from layerwise.run import Run, key
from layerwise.store import Store

from arithmetic import matrix_peak, operations
from prepare import HERE, ours, prepare
from workloads import WORKLOADS, Place

PLAIN = {"plain, default threads": "default", "plain, 1 thread": "1"}
OURS = "layerwise"
SIDES = (*PLAIN, OURS)
KINDS = ("training", "process")
OF_THE_STORE = ("e", "f")  # measured by store.py, which has no plain side
CHANCE = 0.001  # of finding in a workload that the two sides learn differently where they do not
BUSY = 0.2  # cores at work for others, above which a reader must know
THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # a user has set none, and neither side gets any


@dataclass(frozen=True)
class Timing:
    """One run of one side."""

    side: str
    training: float  # seconds of the training phase
    process: float  # seconds of the whole process, with the start of Python and imports
    others: float  # cores that somebody else kept busy just before
    forecast: float | None = None  # what layerwise had expected of the training phase


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its seconds, what it printed, and when each line of its standard error came."""

    seconds: float
    output: str
    errors: tuple[tuple[float, str], ...]


def main() -> None:
    asked = arguments()
    place = Place(asked.shared.resolve(), asked.cache.resolve(), asked.quick)
    place.cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(), "quick": asked.quick, "workloads": {}}
    print("{cpu}, {cores} cores, matrix products at {gflops:.0f} GFLOP/s, torch {torch}".format(**found["machine"]))
    try:
        for name in [name for name in asked.workloads if name not in OF_THE_STORE]:
            if missing := [folder for folder in WORKLOADS[name].shared if not (place.shared / folder).is_dir()]:
                print(f"\n({name}) is left out: {place.shared / missing[0]} is not here; name its folder with --shared")
                continue
            found["workloads"][name] = compared = compare(name, place, asked.repeats, found["machine"]["gflops"] * 1e9)
            print(f"\n({name}) {in_words(compared)}", flush=True)
            asked.out.write_text(json.dumps(found, indent=1) + "\n")
        if {*OF_THE_STORE} & {*asked.workloads}:
            found["workloads"]["e, f"] = measure_store(place)
    except LayerwiseError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    asked.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nAll figures: {asked.out}")
    if not all(one.get("agree", True) for one in found["workloads"].values()):
        sys.exit("the two sides do not learn the same, so that their times say nothing")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = (*WORKLOADS, *OF_THE_STORE)
    parser.add_argument("workloads", nargs="*", choices=known, default=[*known], metavar="a b c d e f")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small version of everything, in about a minute")
    shared, cache = HERE.parents[1] / "shared" / "data", HERE.parent / "build" / "benchmarks"
    parser.add_argument("--shared", type=Path, default=shared, help="the folder with cifar10 and pretrained")
    parser.add_argument("--cache", type=Path, default=cache, help="for what is made once, before anything is timed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    asked = parser.parse_args()
    if asked.repeats < 1:
        parser.error(f"--repeats {asked.repeats} is not possible; the least is 1")
    return asked


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0))
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": names[0] if names else "unknown processor",
        "cores": cores,
        "gflops": matrix_peak(cores) / 1e9,
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def compare(name: str, place: Place, repeats: int, peak: float) -> dict[str, Any]:
    """Both sides of a workload, so many times by turns."""
    folder, runs = prepare(name, place)
    timings: dict[str, list[Timing]] = {side: [] for side in SIDES}
    accuracies: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for repeat in range(repeats):
        for side in (*SIDES[repeat % 3 :], *SIDES[: repeat % 3]):  # nobody is always the first
            timing, learnt = measure(side, name, folder, runs, place)
            timings[side].append(timing)
            accuracies[side].append(learnt)
            print(f"({name}) {side}: {timing.training:.2f} s, process {timing.process:.2f} s", file=sys.stderr)
    better = min(PLAIN, key=lambda side: statistics.median(timing.training for timing in timings[side]))
    seconds = {
        side: {kind: spread([getattr(timing, kind) for timing in timings[side]]) for kind in KINDS} for side in SIDES
    }
    pairs = list(zip(timings[better], timings[OURS], strict=True))
    needed = operations(runs, folder)
    learnt = by_treatment(runs, accuracies[better], accuracies[OURS])
    return {
        "title": WORKLOADS[name].title,
        "runs": len(runs),
        "better": better,
        "seconds": seconds,
        "ratios": {kind: spread([getattr(one, kind) / getattr(other, kind) for one, other in pairs]) for kind in KINDS},
        "operations": needed,
        "of_peak": {
            "plain": needed["plain"] / seconds[better]["training"]["median"] / peak,
            "layerwise": needed["plain"] / seconds[OURS]["training"]["median"] / peak,
            "layerwise, least": needed["least"] / seconds[OURS]["training"]["median"] / peak,
        },
        "accuracies": learnt,
        "agree": all(group["agree"] for group in learnt),
        "timings": [asdict(timing) for side in SIDES for timing in timings[side]],
    }


def measure(side: str, name: str, folder: Path, runs: Sequence[Run], place: Place) -> tuple[Timing, dict[str, float]]:
    """One run of one side: its seconds, and by key each run's accuracy on its test images in the end."""
    others = psutil.cpu_percent(interval=0.5) / 100 * (os.cpu_count() or 1)
    if side in PLAIN:
        ended = timed([sys.executable, str(HERE / "plain.py"), str(folder / "plan.json"), "--threads", PLAIN[side]])
        told = json.loads(ended.output)
        # the curve's last point is of the training images
        learnt = {run["key"]: run["curve"][-2][0] for run in told["runs"]}
        return Timing(side, told["training_seconds"], ended.seconds, others), learnt
    with tempfile.TemporaryDirectory(dir=place.cache) as inside:
        store = Path(inside) / "store"
        shutil.copytree(folder / "store", store)
        ended = timed(ours(name, store, place))
        return Timing(side, training_phase(ended), ended.seconds, others, forecast(ended)), stored(store, runs)


def timed(command: Sequence[str]) -> Ended:
    """Run a command, and note when each line of its standard error comes; ends the benchmark where it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_LIMITS}
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stderr is not None
            errors = tuple((time.perf_counter(), line) for line in process.stderr)
        seconds = time.perf_counter() - start
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(line for _, line in errors)}")
        output.seek(0)
        return Ended(seconds, output.read(), errors)


def training_phase(ended: Ended) -> float:
    """From the first plan line to the line that says that the last result is stored: "150/150 runs"."""
    planned = [when for when, line in ended.errors if line.startswith("Plan: ")]
    done = [when for when, line in ended.errors if re.match(r"(\d+)/\1 runs", line)]
    if not planned or not done:
        said = "".join(line for _, line in ended.errors)
        sys.exit(f"layerwise did not say when it had planned and when it had finished:\n{said}")
    return done[-1] - planned[0]


def forecast(ended: Ended) -> float:
    """The seconds of the first plan line: "forecast 2 min 31 s on 2 cores"."""
    planned = next(line for _, line in ended.errors if line.startswith("Plan: "))
    told = re.findall(r"([\d.]+) (h|min|s)\b", planned.partition("forecast")[2].partition(" on ")[0])
    return sum(float(number) * {"h": 3600, "min": 60, "s": 1}[unit] for number, unit in told)


def stored(store: Path, runs: Sequence[Run]) -> dict[str, float]:
    """By key, the accuracy on the test images that each run ended with."""
    opened = Store(store)
    found = {}
    for name in map(key, runs):
        curve = opened.get(name).result["curve"]
        *_, found[name] = (value for _, split, what, value in curve if (split, what) == ("test", "accuracy"))
    return found


def by_treatment(
    runs: Sequence[Run], theirs: Sequence[dict[str, float]], mine: Sequence[dict[str, float]]
) -> list[dict[str, Any]]:
    """Mean test accuracies of the two sides by treatment (of probes, by samples a class), and whether they agree.

    They do unless the runs' differences have a mean too far from 0 for chance, by a t test at CHANCE over all groups.
    """
    is_one = len({run.treatment for run in runs}) == 1
    groups: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        groups[f"{run.treatment}, {run.task.shots} a class" if is_one else str(run.treatment)].append(key(run))
    found = []
    for group, names in groups.items():
        plain, ours = (np.array([[once[name] for name in names] for once in side]).mean(0) for side in (theirs, mine))
        error = stats.sem(ours - plain) if len(names) > 1 else np.inf
        far = stats.t.ppf(1 - CHANCE / 2 / len(groups), len(names) - 1) * error if len(names) > 1 else np.inf
        difference = float((ours - plain).mean())
        found.append({
            "treatment": group,
            "runs": len(names),
            "plain": float(plain.mean()),
            "layerwise": float(ours.mean()),
            "difference": difference,
            "standard_error": float(error),
            "agree": bool(abs(difference) <= far),
        })  # fmt: skip
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def in_words(found: dict[str, Any]) -> str:
    """A workload's comparison, as it is printed."""
    lines = [f"{found['title']}: {found['runs']} runs; median (range) of {len(found['timings']) // 3}"]
    lines.append(f"  {'':26}{'training phase':>28}{'whole process':>28}{'of the peak':>13}")
    shares = {found["better"]: "plain", OURS: "layerwise"}
    for side, seconds in found["seconds"].items():
        share = f"{found['of_peak'][shares[side]]:.1%}" if side in shares else ""
        lines.append(f"  {side:26}" + "".join(f"{ranged(seconds[kind], ' s'):>28}" for kind in KINDS) + f"{share:>13}")
    told = [(timing["forecast"], timing["training"]) for timing in found["timings"] if timing["forecast"] is not None]
    lines.append(f"  {'times faster':26}" + "".join(f"{ranged(found['ratios'][kind]):>28}" for kind in KINDS))
    lines.append("  forecast: " + ", ".join(f"{expected:.0f} s and took {taken:.0f} s" for expected, taken in told))
    counted = {kind: f"{count / 1e12:.3g} TFLOP" for kind, count in found["operations"].items()}
    lines.append(f"  the peak's share is counted by the training steps as plain does them, {counted['plain']};")
    lines.append(
        f"  with frozen layers once it is {counted['least']}, {found['of_peak']['layerwise, least']:.1%} of the peak"
    )
    if (busy := max(timing["others"] for timing in found["timings"])) > BUSY:
        lines.append(f"  others kept up to {busy:.1f} cores busy: these figures are not to be quoted")
    for group in found["accuracies"]:
        verdict = "" if group["agree"] else "  NOT THE SAME"
        lines.append(
            f"  {group['treatment']:26}test accuracy {group['plain']:.3f} plain, {group['layerwise']:.3f} layerwise; "
            f"difference {group['difference']:+.3f}, standard error {group['standard_error']:.3f}{verdict}"
        )
    return "\n".join(lines)


def ranged(values: dict[str, float], unit: str = "") -> str:
    """As "3.14 s (2.9 to 3.3)".

    >>> ranged({"median": 3.1416, "least": 2.9, "most": 12}, " s")
    '3.14 s (2.9 to 12)'
    """
    return f"{values['median']:.3g}{unit} ({values['least']:.3g} to {values['most']:.3g})"


def measure_store(place: Place) -> dict[str, Any]:
    """Planning, listing and reading of a store of many finished runs, as store.py prints it."""
    runs = 500 if place.quick else 10_000
    ended = timed([sys.executable, str(HERE / "store.py"), "--runs", str(runs)])
    print(f"\n(e, f) A store of finished runs\n{ended.output}")
    return {"runs": runs, "output": ended.output.splitlines()}


if __name__ == "__main__":
    main()
