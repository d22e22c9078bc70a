"""A workload as a user of layerwise runs it, in a fresh process.

    python benchmarks/ours.py a|b|c|d --store STORE [--quick] [--sources]

(a) is the command `layerwise study gutstein`; the other grids are not those of a study, and are trained from Python.
`--sources` trains and keeps only what the targets start from.
"""

import argparse
import sys
from pathlib import Path

from layerwise import train_all
from layerwise.data import open_data
from layerwise.store import Store

from workloads import WORKLOADS, Place, published_weights, sources


def main() -> None:
    asked = arguments()
    place = Place(asked.shared, asked.cache, asked.quick)
    workload, store = WORKLOADS[asked.workload], Store(asked.store)
    if workload.command and not asked.sources:
        from layerwise import cli

        out = asked.store.with_name(f"{asked.store.name}-out")
        sys.argv = ["layerwise", *workload.command(place), "--store", str(asked.store), "--out", str(out)]
        cli.main()
    data, _ = open_data(workload.locator(place), store.folder / "data")
    runs = workload.runs(data, place)
    if not asked.sources:
        train_all(runs, data, store=asked.store)
    elif wanted := sources(runs):
        train_all(wanted, data, store=asked.store, keep=True)
    else:
        store.put_weights(published_weights(place.shared))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True, help="the folder that has cifar10 and pretrained")
    parser.add_argument("--cache", type=Path, required=True, help="the folder that the benchmark has prepared")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sources", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
