"""The default executor: worker processes on this machine, one thread each, that take one unit at a time.

A worker that dies (killed, out of memory) is replaced, and its runs are done once more before they count as failed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

from layerwise.execute.hands import hired
from layerwise.execute.plan import Plan, Unit
from layerwise.execute.queue import Queue
from layerwise.execute.work import Outcome, Setting, Worker
from layerwise.features import common_folder


def execute(plan: Plan, setting: Setting, workers: int) -> Iterator[Outcome]:
    """Do the missing runs with so many processes, and give the outcome of each as it ends, in whatever order."""
    queue = Queue(plan, setting)
    workers = min(workers, len(plan.units))
    with common_folder() if workers > 1 else nullcontext() as common:
        setting = replace(setting, common=common)
        with hired(workers, _begin, setting, common=common) as hands:
            while queue.pending:
                yield from queue.orphans()
                for hand in hands.idle:
                    if task := queue.take():
                        hand.give(task)
                for (unit, _), answer in hands.heard() if queue.pending else ():
                    yield from queue.settle(unit, answer)


def _begin(setting: Setting) -> Callable[[tuple[Unit, bool]], Sequence[Outcome]]:
    worker = Worker(setting)
    return lambda task: worker.do(task[0], wait=task[1])
