"""How a process that trains uses its processor: one thread, and memory that it keeps."""

import ctypes
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil
import torch

FEATURES = 0.3  # of the free memory, and of the free disk, for what frozen layers give
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
KEEPING = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**30, M_TOP_PAD: 2**26}
GIVING_BACK = {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26, M_TOP_PAD: 2**17}  # as glibc does after a while


def has_bfloat16(device: str = "cpu") -> bool:
    """Does this processor, or GPU, calculate in bfloat16? Others would imitate it, more slowly than in float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in {"x86_64", "amd64"}:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def room(processes: int, device: str = "cpu") -> tuple[int, int]:
    """Bytes of the device and of disk for what frozen layers give, for each of so many processes on this machine."""
    if device != "cpu":
        return int(FEATURES * torch.cuda.mem_get_info()[0] / processes), 0
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(tempfile.gettempdir()).free
    return int(FEATURES * memory / processes), int(FEATURES * disk / processes)


def settle(*, deterministic: bool = False) -> None:
    """Take one thread, and keep memory that is freed: it is asked for again in the next step.

    `deterministic` has a GPU use only operations that give the same bits each time; one thread of a CPU does so anyway.

    By default glibc gives large blocks back to the system at once, which then fills them with zeros, page by page, for
    each step's tensors: a step of a LeNet-5 took an eighth longer.
    """
    torch.set_num_threads(1)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    _set_allocator(KEEPING)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(psutil.Process().memory_info().rss)


def give_back_memory() -> None:
    """Give the system all memory that is free and was kept."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _set_allocator(settings: Mapping[int, int]) -> None:
    with suppress(OSError, AttributeError):  # another C library keeps its own house
        adjust = ctypes.CDLL(None).mallopt
        for setting, value in settings.items():
            adjust(setting, value)


@contextmanager
def as_workers_do() -> Iterator[None]:
    """Be as a worker is; then have as many threads as before, and give back the memory that was kept, a GPU's too."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    settle()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        _set_allocator(GIVING_BACK)
        give_back_memory()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
