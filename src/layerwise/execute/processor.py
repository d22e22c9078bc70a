"""How a process that trains uses its processor: one thread, and memory that it keeps."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
LARGE = 2**30


def settle() -> None:
    """Take one thread, and keep memory that is freed: it is asked for again in the next step.

    By default glibc gives large blocks back to the system at once, which then fills them with zeros, page by page, for
    each step's tensors: a step of a LeNet-5 took an eighth longer.
    """
    torch.set_num_threads(1)
    with suppress(OSError, AttributeError):  # another C library keeps its own house
        adjust = ctypes.CDLL(None).mallopt
        for setting, value in ((M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, LARGE), (M_TOP_PAD, 2**26)):
            adjust(setting, value)


@contextmanager
def as_workers_do() -> Iterator[None]:
    """Be as a worker is, and then have as many threads as before."""
    before = torch.get_num_threads()
    settle()
    try:
        yield
    finally:
        torch.set_num_threads(before)
