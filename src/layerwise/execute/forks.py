"""The fork server that workers come from. It loads torch once, while the command that asked for it is still loading.

This file needs nothing but the standard library, so that the server can be started first of all.
"""

import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

PRELOADED = ["torch", "torch._dynamo", "layerwise.execute.work"]  # building an optimiser imports torch._dynamo


def context() -> ForkServerContext:
    """How to make worker processes; the fork server is started if it is not running yet."""
    found = mp.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    with hidden_main(), deaf_to_interrupts(), _one_thread():
        forkserver.ensure_running()
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have a process that is started now take one thread; this one stays as it is."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Have the fork server, and so the workers, never hear Ctrl-C: that is the parent's to answer."""
    resource_tracker.ensure_running()  # it would unblock the signal half-way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def hidden_main() -> Iterator[None]:
    """Keep workers from running the user's script again: a child imports the parent's `__main__` if it can find it."""
    main = sys.modules["__main__"]
    kept: dict[str, object] = {}
    for name in ("__file__", "__spec__"):
        if name in vars(main):
            kept[name] = vars(main)[name]
            setattr(main, name, None)
    try:
        yield
    finally:
        vars(main).update(kept)
