"""The nodes of a Ray cluster: what each has and sees, and what a task may ask of them."""

import fcntl
import math
import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from layerwise import __version__
from layerwise.errors import StoreError, StudyError
from layerwise.execute.processor import has_bfloat16
from layerwise.execute.work import Setting

LOOK_SECONDS = 120  # for a node to start a process that says what it sees
CUDA_BYTES = 800 * 2**20  # of GPU memory that a process takes before its first tensor (an estimate, on the high side)

ONE_THREAD = {"env_vars": {"OMP_NUM_THREADS": "1"}}  # of a task's process, set before it imports anything

Request = dict[str, Any]  # what a task asks for, in ray's words: num_cpus, num_gpus, memory, accelerator_type


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that can do work."""

    identity: str  # ray's
    name: str
    cpus: float
    memory: float  # bytes that its tasks may ask for
    gpus: float = 0.0
    gpu_kind: str = ""  # ray's name for its GPUs, such as A100
    gpu_bytes: int = 0  # memory of its smallest GPU; 0 where that cannot be learnt

    def can_give(self, request: Request) -> bool:
        """Could it ever run such a task, were it idle?"""
        return (
            request["num_cpus"] <= self.cpus
            and request.get("num_gpus", 0) <= self.gpus
            and request.get("memory", 0) <= self.memory
            and request.get("accelerator_type", self.gpu_kind) == self.gpu_kind
        )


def living(ray: Any) -> list[Node]:
    """The nodes that are there now and have a processor to give."""
    return [
        Node(
            identity=found["NodeID"],
            name=f"{found['NodeManagerHostname']} ({found['NodeManagerAddress']})",
            cpus=found["Resources"]["CPU"],
            memory=found["Resources"].get("memory", 0.0),
            gpus=found["Resources"].get("GPU", 0.0),
            gpu_kind=next((k.partition(":")[2] for k in found["Resources"] if k.startswith("accelerator_type:")), ""),
        )
        for found in ray.nodes()
        if found["Alive"] and found["Resources"].get("CPU", 0) >= 1
    ]


def survey(ray: Any, setting: Setting, precisions: Collection[str], mark: str) -> tuple[list[Node], tuple[str, ...]]:
    """Look at the store and the folders of data from every node: the nodes with their GPUs, and notes on them.

    `mark` names a lock that this process holds in the store. Raises StoreError, StudyError with the node's name where
    it does not see the same store and data, has another layerwise or torch, or cannot calculate as precisely as asked.
    """
    store = setting.store
    asked = (str(store), mark, sorted(map(str, setting.data.values())))
    ours, nodes, found, notes = look(*asked), living(ray), [], []
    strategy = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    task = ray.remote(num_cpus=0, max_retries=0, runtime_env=ONE_THREAD)(look)
    sent = {
        task.options(scheduling_strategy=strategy(node.identity, soft=False)).remote(*asked): node for node in nodes
    }
    if sent:
        ray.wait(list(sent), num_returns=len(sent), timeout=LOOK_SECONDS)
    for reference, node in sent.items():
        try:
            theirs = ray.get(reference, timeout=0)
        except ray.exceptions.GetTimeoutError as error:
            raise StudyError(
                f"node {node.name} has not answered in {LOOK_SECONDS} s; take it out, or try again"
            ) from error
        except ray.exceptions.RayError as error:
            if node.identity not in {other.identity for other in living(ray)}:
                continue  # it was lost meanwhile
            raise StudyError(
                f"node {node.name} cannot import layerwise {__version__}; install the same environment on all nodes "
                f"({_last_line(error)})"
            ) from error
        _check_versions(node, ours["versions"], theirs["versions"])
        _check_sight(node, store, theirs)
        _check_precisions(node, precisions, setting.device, theirs)
        if theirs["locked"] is False:
            notes.append(
                f"node {node.name} does not see the locks that others hold on store {store}: what two studies "
                "want at once may be trained twice; the results are right all the same"
            )
        found.append(Node(**{**vars(node), "gpu_bytes": theirs["gpu_bytes"]}))
    return found, tuple(notes)


def look(store: str, mark: str, folders: Sequence[str]) -> dict[str, Any]:
    """What a node has and sees; runs there."""
    return {
        "versions": {"layerwise": __version__, "torch": metadata.version("torch").partition("+")[0]},
        "sees": os.path.exists(os.path.join(store, "locks", mark)),
        "locked": _is_locked(os.path.join(store, "locks", mark)),
        "lacks": [folder for folder in folders if not os.path.isdir(folder)],
        "bfloat16": has_bfloat16(),
        **_gpus(),
    }


def _is_locked(path: str) -> bool | str:
    """Does somebody hold the lock? The system's words where it cannot be tried."""
    try:
        with open(path, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.strerror or str(error)
    return False


def _gpus() -> dict[str, float]:
    """Memory and compute capability of the least GPU of this machine; 0 where there is none, or they are not known."""
    command = ["nvidia-smi", "--query-gpu=memory.total,compute_cap", "--format=csv,noheader,nounits"]  # memory in MiB
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        found = [[float(word) for word in line.split(",")] for line in told.splitlines()]
        return {"gpu_bytes": int(min(row[0] for row in found)) * 2**20, "capability": min(row[1] for row in found)}
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return {"gpu_bytes": 0, "capability": 0}


def _check_precisions(node: Node, wanted: Collection[str], device: str, theirs: Mapping[str, Any]) -> None:
    """The check that one machine makes of itself, for a node: it is not to imitate what it cannot do."""
    if "bfloat16" in wanted and device == "cpu" and not theirs["bfloat16"]:
        raise StudyError(
            f"--precision bfloat16: node {node.name} does not calculate in bfloat16; pass float32, or take the node out"
        )
    if "tf32" in wanted and (device == "cpu" or (node.gpus and 0 < theirs["capability"] < 8)):
        which = "its processor" if device == "cpu" else "an older GPU"
        raise StudyError(
            f"--precision tf32: node {node.name} would train on {which}, and TF32 is for GPUs (Ampere and later); "
            "pass float32"
        )


def _check_versions(node: Node, ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    for package, wanted in ours.items():
        if theirs[package] != wanted:
            raise StudyError(
                f"node {node.name} has {package} {theirs[package]}, and this machine {wanted}; "
                "install the same environment on all nodes"
            )


def _check_sight(node: Node, store: Path, theirs: Mapping[str, Any]) -> None:
    if not theirs["sees"]:
        raise StoreError(not_seen(node.name, store))
    if isinstance(theirs["locked"], str):
        raise StoreError(
            f"node {node.name} cannot lock files in store {store} ({theirs['locked']}); "
            "mount its file system writable and with flock"
        )
    if theirs["lacks"]:
        raise StudyError(
            f"node {node.name} does not see the data in {theirs['lacks'][0]}; put them where all nodes see them"
        )


def not_seen(node: str, store: Path) -> str:
    """The text of the error about a node for which the store is not there."""
    return (
        f"node {node} does not see the store {store}; "
        "pass a --store that all nodes share, at the same path, such as a folder on NFS"
    )


def request(needed: int, device: str, nodes: Sequence[Node], what: str) -> Request:
    """What a task that needs so many bytes (0: not known) asks for; `what` names it in errors.

    On the CPU: one processor, and the bytes as main memory. On a GPU: one processor, and the share of a GPU's memory,
    or a whole GPU where either size is not known. Raises StudyError where no node could ever give that.
    """
    asked = _gpu_request(needed, nodes, what) if device.startswith("cuda") else {"memory": needed} if needed else {}
    asked = {"num_cpus": 1, **asked}
    if any(node.can_give(asked) for node in nodes):
        return asked
    if not nodes:
        raise StudyError("the cluster has no node with a processor to give; start one with `ray start --address ...`")
    largest = max(nodes, key=lambda node: node.memory)
    raise StudyError(
        f"{what} needs {_size(needed)} of memory; the most that a node of the cluster gives is "
        f"{_size(largest.memory)}, {largest.name}; add a larger node, or ask for less: smaller batches, a smaller net"
    )


def _gpu_request(needed: int, nodes: Sequence[Node], what: str) -> Request:
    with_gpu = [node for node in nodes if node.gpus]
    if not with_gpu:
        names = ", ".join(node.name for node in nodes) or "none"
        raise StudyError(f"--device cuda: no node of the cluster has a GPU (its nodes: {names}); pass --device cpu")
    if not needed or not all(node.gpu_bytes for node in with_gpu):
        return {"num_gpus": 1}
    sizes: dict[str, int] = {}
    for node in with_gpu:
        sizes[node.gpu_kind] = min(node.gpu_bytes, sizes.get(node.gpu_kind, node.gpu_bytes))
    smallest, taken = min(sizes.values()), needed + CUDA_BYTES
    fits = [(size, kind) for kind, size in sizes.items() if taken <= size and (kind or size == smallest)]
    if not fits:
        largest = max(with_gpu, key=lambda node: node.gpu_bytes)
        raise StudyError(
            f"{what} needs {_size(taken)} of a GPU's memory; the largest GPU of the cluster has "
            f"{_size(largest.gpu_bytes)}, {largest.name}; add a larger one, or pass --device cpu"
        )
    size, kind = min(fits)
    share = {"num_gpus": math.ceil(taken / size * 10_000) / 10_000}  # ray counts no finer
    return share if size == smallest else {**share, "accelerator_type": kind}


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GB"


def _last_line(error: BaseException) -> str:
    """The last line of a traceback."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
