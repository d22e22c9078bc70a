"""What both sides are given before anything is timed: data, and the sources of all targets.

CACHE/NAME/store/           our store, with the sources in it and the data decoded
CACHE/NAME/plan.json        the same runs for plain.py, with data.npz and sourceN.safetensors beside it
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from layerwise.data import open_data
from layerwise.data.dataset import DataSet
from layerwise.nets import architecture, build
from layerwise.run import Run, Weights, key
from layerwise.store import Store
from layerwise.tasks import Task, codes, examples

import plain
from workloads import WORKLOADS, Place, published_weights, sources

HERE = Path(__file__).parent
AGREE = 1e-4  # outputs of the two sides' nets with the same weights, relative to the largest


def prepare(name: str, place: Place) -> tuple[Path, list[Run]]:
    """The folder of a workload, filled where it is not yet, and its runs."""
    workload = WORKLOADS[name]
    folder = place.cache / (f"{name}-quick" if place.quick else name)
    store = Store(folder / "store")
    data, _ = open_data(workload.locator(place), store.folder / "data")
    runs = workload.runs(data, place)
    plan = folder / "plan.json"
    if not plan.exists() or {run["key"] for run in json.loads(plan.read_text())["runs"]} != {key(run) for run in runs}:
        subprocess.run([*ours(name, store.folder, place), "--sources"], check=True)
        write_plan(folder, runs, data, store, place.shared)
    return folder, runs


def ours(name: str, store: Path, place: Place) -> list[str]:
    """Our side's command."""
    words = [sys.executable, str(HERE / "ours.py"), name, "--store", str(store)]
    return [*words, "--shared", str(place.shared), "--cache", str(place.cache), *["--quick"] * place.quick]


def write_plan(folder: Path, runs: list[Run], data: DataSet, store: Store, shared: Path) -> None:
    """The runs for plain.py; raises where they are not of the kind that it can do."""
    (net, recipe), *others = {(run.net, run.recipes) for run in runs}
    assert not others
    (recipe,) = recipe
    tasks = list(dict.fromkeys(run.task for run in runs))
    given = sources(runs)
    for number, source in enumerate(given):
        state = safetensors.torch.load(store.tensors(key(source), "weights"))
        safetensors.torch.save_file(translated(net, state, source, data), folder / f"source{number}.safetensors")
    is_probing = isinstance(runs[0].source, Weights)
    if is_probing:
        (folder / "source0.safetensors").write_bytes(published_weights(shared))
        same_features(published_weights(shared), net, data)
    write_data(folder / "data.npz", tasks, data)
    numbers = {key(source): number for number, source in enumerate(given)}
    found = architecture(net)
    plan = {
        "net": net,
        "outputs": runs[0].task.outputs,
        "mean": found.mean,
        "std": found.std,
        "data": "data.npz",
        "sources": [f"source{number}.safetensors" for number in range(len(given) + is_probing)],
        "probes": is_probing,
        "recipe": {
            "steps": recipe.steps,
            "batch_size": recipe.batch_size,
            "rate": recipe.rate,
            "momentum": recipe.momentum,
            "drops": [ceil(share * recipe.steps) for share in recipe.drops],
            "evaluate_every": recipe.evaluate_every,
        },
        "runs": [
            {
                "key": key(run),
                "task": tasks.index(run.task),
                "source": numbers[key(run.source_run)] if run.source_run else None,
                **depths(run),
                "seed": number,
            }
            for number, run in enumerate(sorted(runs, key=lambda run: tasks.index(run.task)))
        ],
    }
    aside = folder / "plan.json.aside"
    aside.write_text(json.dumps(plan, indent=1))
    aside.rename(folder / "plan.json")


def depths(run: Run) -> dict[str, int]:
    """How many first layers are copied, and how many of them frozen: all that plain.py knows of treatments."""
    letters = "".join(run.treatment.letters()[0])
    copied = len(letters) - len(letters.lstrip("FT"))
    assert letters in {kind * copied + "R" * (len(letters) - copied) for kind in "FT"}
    return {"copied": copied, "frozen": letters.count("F")}


def write_data(file: Path, tasks: Sequence[Task], data: DataSet) -> None:
    """The images that the tasks use, and for each task its positions among them, its classes and its codes."""
    found = [examples(task, data.labels, data.columns, data.class_names) for task in tasks]
    used = np.unique(np.concatenate([part for one in found for part in (one.train, one.test)]))
    arrays: dict[str, Any] = {"images": data.images[used]}
    for number, (task, one) in enumerate(zip(tasks, found, strict=True)):
        for part, positions in (("train", one.train), ("test", one.test)):
            arrays[f"{part}{number}"] = np.searchsorted(used, positions)
            arrays[f"{part}_classes{number}"] = np.searchsorted(task.classes, data.labels[positions])
        if task.is_bits:
            arrays[f"codes{number}"] = codes(task).astype(np.float32)
    np.savez(file, **arrays)


def translated(net: str, state: dict[str, Tensor], source: Run, data: DataSet) -> dict[str, Tensor]:
    """The source's weights by the names and shapes of plain's net, checked to give the same outputs."""
    theirs = plain.NETS[net](source.task.outputs)
    mine = build(net, data.images.shape[1:], source.task.outputs, seed=0)
    mine.load_state_dict(state)
    found = {}
    for (name, wanted), tensor in zip(theirs.state_dict().items(), mine.state_dict().values(), strict=True):
        if net == "lenet5" and name == "2.0.weight":  # the table's connections
            found[name] = torch.zeros(wanted.shape)
            pairs = [(out, seen) for out, row in enumerate(plain.C3_TABLE) for seen in row]
            found[name][tuple(torch.tensor(pairs).T)] = tensor
        else:
            found[name] = tensor.reshape(wanted.shape).contiguous()
    theirs.load_state_dict(found)
    with torch.no_grad():
        images = pixels(net, data)
        same_outputs(mine.eval()(images), theirs.eval()(images))
    return found


def same_features(weights: bytes, net: str, data: DataSet) -> None:
    """Raises where the published weights give other outputs in plain's ResNet than in ours."""
    state = safetensors.torch.load(weights)
    mine = build(net, data.images.shape[1:], len(state["linear.bias"]), seed=0)
    mine.load_state_dict(state, strict=False)
    images = pixels(net, data)
    theirs = plain.features(images, state) @ state["linear.weight"].T + state["linear.bias"]
    with torch.no_grad():
        same_outputs(mine.eval()(images), theirs)


def pixels(net: str, data: DataSet) -> Tensor:
    """A few images as the net wants them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (architecture(net).mean, architecture(net).std))
    return (torch.from_numpy(data.images[:20].copy()) / 255 - mean) / std


def same_outputs(mine: Tensor, theirs: Tensor) -> None:
    distance = float((mine - theirs).abs().max() / mine.abs().max())
    if distance > AGREE:
        raise SystemExit(
            f"the two sides' nets are not the same: with the same weights their outputs differ by {distance:.1e}"
        )
