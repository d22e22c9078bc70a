"""What a workload costs in floating-point operations, and how many of them this machine can do in a second."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from layerwise.costs import step_flops, train_flops
from layerwise.run import Run, key

import plain

SIDE = 1024  # of the matrices whose product is the peak
FEATURES = 64  # of a ResNet-20


def matrix_peak(cores: int) -> float:
    """Operations a second of a product of two float32 matrices on one thread, at its best, times the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = torch.randn(2, SIDE, SIDE)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    return cores * 2 * SIDE**3 / min(seconds)


def operations(runs: Sequence[Run], folder: Path) -> dict[str, int]:
    """Of all training steps, evaluations left out: as plain.py does them, and the least that is needed.

    plain: the whole net forward, and back as far as a layer is trained; for probes, the features of all images once and
    then the heads. least: frozen layers once for each source and image, the rest as in plain.
    """
    planned = json.loads((folder / "plan.json").read_text())
    with np.load(folder / "data.npz") as arrays:
        images = arrays["images"].shape
        trained_on = {name: arrays[name] for name in arrays.files if name.startswith("train")}
    if planned["probes"]:
        frozen = (False,) * len(runs[0].treatment.letters()[0])
        features = images[0] * step_flops(runs[0].net, images[1:], planned["outputs"], frozen, 1)
        heads = sum(4 * run.steps * run.recipes[0].batch_size * FEATURES * planned["outputs"] for run in runs)
        return {"plain": features + heads, "least": features + heads}
    in_full = sum(train_flops(run, images[1:]) for run in runs)
    by_key, seen = {key(run): run for run in runs}, defaultdict(set)
    again = 0  # what frozen layers make of the same images, over and over
    for one in planned["runs"]:
        run = by_key[one["key"]]
        again += run.steps * run.recipes[0].batch_size * frozen_flops(run.net, images[1:], one["frozen"])
        seen[one["source"], run.net, one["frozen"]].update(trained_on[f"train{one['task']}"].tolist())
    once = sum(len(found) * frozen_flops(net, images[1:], n) for (_, net, n), found in seen.items())
    return {"plain": in_full, "least": in_full - again + once}


@lru_cache
def frozen_flops(net: str, shape: tuple[int, int, int], n: int) -> int:
    """What one image costs in the first n layers."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain.NETS[net](2)[:n](torch.zeros(1, *shape))
    return counter.get_total_flops()
