"""What a large run is told, and what it leaves: JSON and safetensors in a folder."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from layerwise import errors
from layerwise.curve import Point
from layerwise.nets.places import places, remember
from layerwise.run import Run, from_spec, key, spec
from layerwise.train import Trained


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
    result = {"curve": curve, "steps": trained.steps, "provenance": provenance}
    (folder / "result.json").write_text(json.dumps(result, indent=1))


def read_result(folder: Path) -> Trained:
    """What `write_result` wrote."""
    result = json.loads((folder / "result.json").read_text())
    return Trained(
        load_file(folder / "initial.safetensors"),
        load_file(folder / "weights.safetensors"),
        tuple(Point(*point) for point in result["curve"]),
        tuple(result["steps"]),
    )


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
