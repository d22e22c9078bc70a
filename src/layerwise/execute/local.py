"""The default executor: worker processes on this machine, one thread each, that take one unit at a time.

Workers come from a fork server that has loaded torch once. A worker that dies (killed, out of memory) is replaced, and
its runs are done once more before they count as failed. Workers end with their parent, however that ends.
"""

import multiprocessing as mp
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from layerwise.errors import StoreError
from layerwise.execute import forks
from layerwise.execute.plan import Plan, Unit
from layerwise.execute.queue import Queue
from layerwise.execute.work import Outcome, Setting, Worker


@dataclass
class _Hand:
    """A worker process, the pipe to it, and what it is doing."""

    process: ForkServerProcess
    pipe: Connection
    unit: Unit | None = None


def execute(plan: Plan, setting: Setting, workers: int) -> Iterator[Outcome]:
    """Do the missing runs with so many processes, and give the outcome of each as it ends, in whatever order."""
    queue = Queue(plan)
    workers = min(workers, len(plan.units))
    common = TemporaryDirectory(prefix="layerwise-features-") if workers > 1 else None
    setting = replace(setting, common=Path(common.name)) if common else setting
    hands = [_hire(setting) for _ in range(workers)]
    try:
        while queue.pending:
            yield from queue.orphans()
            for hand in hands:
                if hand.unit is None and (task := queue.take()):
                    hand.unit = task[0]
                    with suppress(OSError):  # a worker that has died is seen below
                        hand.pipe.send(task)
            for hand in _heard(hands) if queue.pending else []:
                answer, unit = _listen(hand), hand.unit
                hand.unit = None
                if isinstance(answer, StoreError):
                    raise answer
                if answer is None:
                    _dismiss(hand)
                    hands[hands.index(hand)] = _hire(setting)
                if unit:
                    yield from queue.settle(unit, answer)
    finally:
        for hand in hands:
            _dismiss(hand)
        if common:
            common.cleanup()


def _heard(hands: list[_Hand]) -> list[_Hand]:
    """Workers that have answered, or died."""
    ready = wait([hand.pipe for hand in hands] + [hand.process.sentinel for hand in hands])
    return [hand for hand in hands if hand.pipe in ready or hand.process.sentinel in ready]


def _listen(hand: _Hand) -> list[Outcome] | StoreError | None:
    """The worker's answer; null if it died before it gave one."""
    try:
        return hand.pipe.recv() if hand.pipe.poll() else None
    except (EOFError, OSError):
        return None


def _hire(setting: Setting) -> _Hand:
    server = forks.context()
    ours, theirs = server.Pipe()
    process = server.Process(target=_work, args=(setting, theirs), daemon=True)
    with forks.hidden_main(), forks.deaf_to_interrupts():
        process.start()
    theirs.close()
    return _Hand(process, ours)


def _dismiss(hand: _Hand) -> None:
    hand.process.kill()
    hand.process.join()
    hand.pipe.close()


def _work(setting: Setting, pipe: Connection) -> None:
    """The life of a worker: take a unit, do it, say how it ended."""
    threading.Thread(target=_end_with_parent, args=(setting.common,), daemon=True).start()
    try:
        worker = Worker(setting)
        while True:
            unit, wait_for_others = pipe.recv()
            pipe.send(worker.do(unit, wait=wait_for_others))
    except StoreError as error:
        pipe.send(error)
    except (EOFError, OSError):
        return


def _end_with_parent(common: Path | None) -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
    if common:
        shutil.rmtree(common, ignore_errors=True)
    os._exit(1)
