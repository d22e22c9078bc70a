"""What a large run is told, and what it leaves: JSON and safetensors in a folder."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from layerwise import errors
from layerwise.curve import Point
from layerwise.layers import Layer
from layerwise.nets.places import places, remember
from layerwise.run import Run, from_spec, key, spec
from layerwise.train import Trained
from layerwise.units import Chosen, Units


class ProcessLost(Exception):
    """A process of a large run ended without saying why: it was killed, or ran out of memory."""


def lost(run: Run, devices: int, how: str) -> ProcessLost:
    """The error that says how a process of the run ended."""
    return ProcessLost(
        f"run {key(run)} ({run.treatment}, seed {run.seed}): one of its {devices} processes {how}; "
        "if it was out of memory, a smaller batch needs less"
    )


@dataclass(frozen=True)
class Order:
    """A run to be trained, and on what."""

    run: Run
    data: Path  # folder of the decoded data set
    source: Trained | None
    devices: int
    accelerator: str  # cpu or cuda


def write_order(folder: Path, order: Order) -> None:
    """Write `order.json`, and the source's tensors beside it."""
    if order.source:
        save_file(order.source.weights, folder / "source.safetensors")
        save_file(order.source.initial, folder / "rewound.safetensors")
    told = {
        "run": spec(order.run),
        "data": str(order.data.resolve()),
        "source": str(folder / "source.safetensors") if order.source else None,
        "rewound": str(folder / "rewound.safetensors") if order.source else None,
        "devices": order.devices,
        "accelerator": order.accelerator,
        "nets": {name: str(path) for name, path in places([order.run.net]).items()},
    }
    (folder / "order.json").write_text(json.dumps(told, indent=1))


def read_order(path: Path) -> Order:
    """The order that `write_order` wrote, or somebody by hand; paths are relative to where the program runs."""
    told = json.loads(path.read_text())
    remember({name: Path(place) for name, place in told.get("nets", {}).items()})
    source = None
    if told["source"]:
        rewound = load_file(told["rewound"]) if told.get("rewound") else {}
        source = Trained(rewound, load_file(told["source"]), (), ())
    return Order(from_spec(told["run"]), Path(told["data"]), source, told["devices"], told["accelerator"])


def write_result(folder: Path, trained: Trained, provenance: dict[str, Any]) -> None:
    """Write what was trained; `result.json` comes last."""
    save_file(trained.initial, folder / "initial.safetensors")
    save_file(trained.weights, folder / "weights.safetensors")
    curve = [[p.step, p.split, p.quantity, p.value] for p in trained.curve]
    chosen = [{layer: asdict(one) for layer, one in stage.items()} for stage in trained.chosen]
    result = {"curve": curve, "steps": trained.steps, "chosen": chosen, "provenance": provenance}
    (folder / "result.json").write_text(json.dumps(result, indent=1, default=torch.Tensor.tolist))


def read_result(folder: Path) -> tuple[Trained, dict[str, Any]]:
    """What `write_result` wrote: what was trained, and how it was made."""
    result = json.loads((folder / "result.json").read_text())
    trained = Trained(
        load_file(folder / "initial.safetensors"),
        load_file(folder / "weights.safetensors"),
        tuple(Point(*point) for point in result["curve"]),
        tuple(result["steps"]),
        tuple({layer: _chosen(told) for layer, told in stage.items()} for stage in result["chosen"]),
    )
    return trained, result["provenance"]


def _chosen(told: Mapping[str, Any]) -> Chosen:
    """The units that were copied of a layer, from their JSON."""
    of_layer = told["units"]
    layer = of_layer["layer"]
    names = {name: tuple(layer[name]) for name in ("parameters", "buffers", "modules")}
    rows = {name: torch.tensor(numbers) for name, numbers in of_layer["rows"].items()}
    units = Units(
        Layer(layer["name"], layer["number"], **names), of_layer["module"], of_layer["count"], rows,
        tuple(of_layer["counters"]),
    )  # fmt: skip
    return Chosen(units, tuple(told["picked"]), told["is_frozen"])


def write_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Write why the process of this rank cannot go on, whole or not at all."""
    line = " ".join(str(error).split()) or "no reason was given"
    aside = folder / f"failure-{rank}.new"
    aside.write_text(json.dumps({"kind": type(error).__name__, "line": line}))
    os.replace(aside, folder / f"failure-{rank}.json")


def read_failures(folder: Path) -> list[Exception]:
    """The errors that were written, the first of them first; ours as they were raised, others by their names."""
    ours = {**vars(errors), "ProcessLost": ProcessLost}
    found: list[Exception] = []
    for path in sorted(folder.glob("failure-*.json"), key=lambda path: path.stat().st_mtime_ns):
        told = json.loads(path.read_text())
        kind, line = told["kind"], told["line"]
        found.append(ours[kind](line) if kind in ours else RuntimeError(f"{kind}: {line}"))
    return found
