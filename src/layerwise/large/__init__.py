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
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from layerwise.errors import StudyError, unknown
from layerwise.large.files import Order, ProcessLost, lost, read_failures, read_result, write_order
from layerwise.run import Run, key
from layerwise.train import Trained

__all__ = ["ACCELERATORS", "ProcessLost", "train_large"]

ACCELERATORS = ("cpu", "cuda")
__all__ = ["ACCELERATORS", "ProcessLost", "train_large"]

PROGRAM = (sys.executable, "-m", "layerwise.large")
OF_OTHER_LAUNCHERS = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def train_large(
    run: Run,
    data: Path,
    source: Trained | None = None,
    *,
    devices: int = 2,
    accelerator: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Train a run on several devices of this machine; `data` is the folder of its decoded data set.

    `say` hears a line of progress about once a second. The processes end with this one, however it ends. Raises what
    the reference raises (Diverged, LayersError), StudyError where these devices cannot be had or cannot share a batch,
    and ProcessLost where a process dies.
    """
    _check(run, devices, accelerator)
    with TemporaryDirectory(prefix="layerwise-large-") as made:
        folder = Path(made)
        write_order(folder, Order(run, data, source, devices, accelerator))
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
