"""Large runs: one run on several devices of a machine, for nets and data that outgrow one.

`train_large` keeps the contract of `layerwise.train.train`. A process for each device takes its share of every batch;
the batches are the reference's, in its order, and gradients are averaged. In float64 the result equals the reference's
to 1e-10, batch norm and dropout included. Images stay on disk as bytes and are read a batch at a time.

lightning-fabric (the extra `large`) starts the processes, averages the gradients and sets the precision. To start them
it runs the calling program again, so a large run is a program of its own: see `layerwise.large.__main__`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from layerwise.data.dataset import load
from layerwise.errors import StudyError, unknown
from layerwise.large.files import Order, ProcessLost, lost, read_failures, read_result, write_order
from layerwise.result import record, restore, tensors
from layerwise.run import Run, key
from layerwise.store import Store
from layerwise.train import Trained

__all__ = ["ACCELERATORS", "ProcessLost", "train_large"]

ACCELERATORS = ("cpu", "cuda")

PROGRAM = (sys.executable, "-m", "layerwise.large")
OF_OTHER_LAUNCHERS = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def train_large(
    run: Run,
    data: Path,
    source: Trained | None = None,
    *,
    devices: int = 2,
    accelerator: str = "cpu",
    store: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Train a run on several devices of this machine; `data` is the folder of its decoded data set.

    Where a store is given, a run that it has is read from there, a source that is not given too, and what is trained is
    stored with its weights, as executors store runs. `say` hears a line of progress about once a second. The processes
    end with this one, however it ends. Raises what the reference raises (Diverged, LayersError), StudyError where these
    devices cannot be had or cannot share a batch, ProcessLost where a process dies, and StoreError.
    """
    _check(run, devices, accelerator)
    order = Order(run, data, source, devices, accelerator)
    return _trained(order, say)[0] if store is None else _stored(Store(Path(store)), order, say)


def _stored(store: Store, order: Order, say: Callable[[str], None]) -> Trained:
    """What the store has of the run that is ordered, or else will have."""
    run, of_store = order.run, order.run.source if isinstance(order.run.source, Run) and not order.source else None
    for needed in filter(None, (run, of_store)):
        if told := store.mend(key(needed)):
            say(told)
    with store.lock(key(run), wait=True):
        if store.has(key(run), weights=True):
            return restore(store, key(run))
        if of_store and store.has(key(of_store), weights=True):
            order = replace(order, source=restore(store, key(of_store)))
        start = time.perf_counter()
        trained, provenance = _trained(order, say)
        seconds, shape = time.perf_counter() - start, load(order.data).images.shape[1:]
        result = record(run, trained, shape, seconds, "large", 1, order.accelerator)
        result["provenance"] |= provenance
        store.put(run, result, tensors(trained))
    return trained


def _trained(order: Order, say: Callable[[str], None]) -> tuple[Trained, dict[str, Any]]:
    """Have the program train what is ordered; gives it, and how it was made."""
    run, devices = order.run, order.devices
    with TemporaryDirectory(prefix="layerwise-large-") as made:
        folder = Path(made)
        write_order(folder, order)
        code = _execute(folder, say)
        if code == 0:
            return read_result(folder)
        if failures := read_failures(folder):
            raise failures[0]
        if code < 0:
            raise lost(run, devices, f"was killed by {signal.Signals(-code).name}")
        last = (folder / "log.txt").read_text(errors="replace").strip().rpartition("\n")[2]
        raise ProcessLost(f"run {key(run)} ({run.treatment}): its program ended with code {code}: {last}")


def _check(run: Run, devices: int, accelerator: str) -> None:
    if find_spec("lightning_fabric") is None:
        raise StudyError("a large run needs lightning-fabric, which is not installed; pip install 'layerwise[large]'")
    if accelerator not in ACCELERATORS:
        raise StudyError(unknown("accelerator", accelerator, ACCELERATORS))
    smallest = min(recipe.batch_size for recipe in run.recipes)
    if not 1 <= devices <= smallest:
        raise StudyError(f"{devices} devices cannot share batches of {smallest}; ask for 1 to {smallest} devices")


def _execute(folder: Path, say: Callable[[str], None]) -> int:
    """Run the program on an order to its end, and give its exit code; whatever it started ends with it."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_OTHER_LAUNCHERS}
    environment.setdefault("OMP_NUM_THREADS", "1")
    with (
        open(folder / "log.txt", "wb") as log,
        subprocess.Popen(
            [*PROGRAM, str(folder / "order.json"), str(folder)],
            stdin=subprocess.PIPE,  # never written to: its end tells the processes that we are gone
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is ours to answer, and all of them can be ended at once
        ) as program,
    ):
        try:
            assert program.stdout is not None
            for line in program.stdout:
                say(line.rstrip("\n"))
            return program.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
