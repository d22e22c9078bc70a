"""The program that trains a large run: `python -m layerwise.large ORDER.json OUT`.

    ORDER.json  {"run": spec of the run, "data": folder of the decoded data set, "source": safetensors file of the
                source's weights or null, "rewound": of its weights before training or null, "devices": 2,
                "accelerator": "cpu" or "cuda", "nets": files that make nets by the nets' names, if any}
    OUT         a folder; receives weights.safetensors, initial.safetensors and last result.json (curve, steps, units
                that P copied, provenance), or failure-RANK.json where something went wrong

Progress goes to standard output, a line at a time. Where standard input is a pipe, the program ends when that does.
"""

import os
import platform
import signal
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import distributed

from layerwise import __version__
from layerwise.data.dataset import load
from layerwise.errors import StudyError
from layerwise.large.files import Order, lost, read_order, write_failure, write_result
from layerwise.large.trainer import train_share

GRACE = 3.0  # seconds in which the system tells that a process has died whose connection has closed
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


class OneMachine(DDPStrategy):
    """Processes of one machine that find each other by a file and talk over loopback: no port is open to others."""

    def __init__(self, meeting: Path, backend: str) -> None:
        super().__init__(process_group_backend=backend, broadcast_buffers=False)
        self.meeting, self.backend = meeting, backend

    def setup_environment(self) -> None:
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        distributed.init_process_group(
            self.backend,
            init_method=self.meeting.resolve().as_uri(),
            rank=self.local_rank,
            world_size=self.num_processes,
            device_id=self.root_device if self.root_device.type == "cuda" else None,
        )
        super().setup_environment()  # which finds them connected


def main(order_file: Path, out: Path) -> None:
    """Train what is ordered, in a process for each device: this program is run again for all but the first."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    say = _voice(rank)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    order = read_order(order_file)
    fabric: Fabric | None = None
    try:
        fabric = _fabric(order, out / f"meeting-{os.getppid() if rank else os.getpid()}")
        fabric.launch()
        trained = train_share(fabric, order.run, load(order.data), order.source, say)
        if rank == 0:
            write_result(out, trained, _provenance(order, fabric))
        distributed.barrier()
        distributed.destroy_process_group()
    except Exception as error:
        traceback.print_exc()
        if not _is_lost_connection(error):
            write_failure(out, rank, error)
        elif rank == 0:  # the others leave it to the first to say what became of whom
            _blame(order, out, fabric, error)
        sys.stderr.flush()
        os._exit(1)  # what is connected to the others may wait for them for ever


def _voice(rank: int) -> Callable[[str], None]:
    """Says a line on standard output, if it is the first process's; what else is printed goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if rank == 0:
        return lambda line: print(line, file=channel)
    channel.close()
    return lambda line: None


def _end_with_parent() -> None:
    """End when whoever holds the other end of standard input does, where that is a pipe."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        while os.read(0, 4096):
            pass
        os._exit(1)


def _fabric(order: Order, meeting: Path) -> Fabric:
    precision, on_gpu = order.run.recipes[0].precision, order.accelerator == "cuda"
    if on_gpu and order.devices > torch.cuda.device_count():
        raise StudyError(f"{order.devices} GPUs were asked for, and this machine has {torch.cuda.device_count()}")
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    else:
        torch.set_num_threads(1)
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, loopback)
    return Fabric(
        accelerator=order.accelerator,
        devices=order.devices,
        strategy=OneMachine(meeting, BACKENDS[order.accelerator]),
        # Types are ours to choose otherwise: "64-true" would round the outputs to float32.
        precision="bf16-mixed" if precision == "bfloat16" else "32-true",
        plugins=[LightningEnvironment()],
    )


def _provenance(order: Order, fabric: Fabric) -> dict[str, Any]:
    return {
        "layerwise": __version__,
        "torch": torch.__version__,
        "lightning_fabric": metadata.version("lightning-fabric"),
        "device": torch.cuda.get_device_name() if fabric.device.type == "cuda" else "cpu",
        "devices": order.devices,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _is_lost_connection(error: Exception) -> bool:
    """Is it another process's end that has ended this one?"""
    text = str(error).lower()
    return isinstance(error, distributed.DistError) or "gloo" in text or "peer" in text


def _blame(order: Order, out: Path, fabric: Fabric | None, error: Exception) -> None:
    """Write which process's death has closed the connection; one that could say why has written that itself."""
    launched = getattr(fabric and fabric.strategy.launcher, "procs", [])
    until = time.monotonic() + GRACE
    while not any(process.poll() for process in launched) and time.monotonic() < until:
        time.sleep(0.05)
    codes = [process.returncode for process in launched if process.returncode]
    if killed := [-code for code in codes if code < 0]:
        write_failure(out, 0, lost(order.run, order.devices, f"was killed by {signal.Signals(killed[0]).name}"))
    elif not codes:
        write_failure(out, 0, error)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
