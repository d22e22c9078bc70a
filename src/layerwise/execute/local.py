"""The default executor: worker processes on this machine, one thread each, that take one unit at a time.

Workers come from a fork server that has loaded torch once. A worker that dies (killed, out of memory) is replaced, and
its runs are done once more before they count as failed. Workers end with their parent, however that ends.
"""

import multiprocessing as mp
import os
import shutil
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from layerwise.errors import StoreError
from layerwise.execute import forks
from layerwise.execute.plan import Plan, Unit
from layerwise.execute.work import Outcome, Setting, Worker, orphaned
from layerwise.run import key

TRIES = 2


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


class Queue:
    """The missing units: which can start, which another process holds, which were lost with their worker or source."""

    tries = TRIES

    def __init__(self, plan: Plan) -> None:
        self.waiting = deque(plan.units)
        self.busy: deque[Unit] = deque()  # being trained by another process on the same store: these come last
        self.pending = {key(run) for run in plan.missing}
        self.lost: set[str] = set()
        self.deaths: Counter[Unit] = Counter()

    def take(self) -> tuple[Unit, bool] | None:
        """A unit whose sources are not still to be done, and whether to wait for another process that trains it."""
        for queue in (self.waiting, self.busy):
            for unit in queue:
                if self.pending.isdisjoint(unit.sources):
                    queue.remove(unit)
                    return unit, queue is self.busy
        return None

    def settle(self, unit: Unit, answer: Sequence[Outcome] | None) -> list[Outcome]:
        """Take a worker's answer, null if it died; gives the outcomes of runs that are not to be done again."""
        if answer is None:
            self.deaths[unit] += 1
            if self.deaths[unit] < self.tries:
                self.waiting.appendleft(unit)
                return []
            answer = self.died(unit)
        if any(outcome.state == "busy" for outcome in answer):
            self.busy.append(unit)
            return []
        for outcome in answer:
            self._end(outcome)
        return list(answer)

    def orphans(self) -> Iterator[Outcome]:
        """The outcomes of waiting runs whose source was lost; the others of their units go on without them."""
        for queue in (self.waiting, self.busy):
            for unit in list(queue):
                if outcomes := orphaned(unit, self.lost):
                    left = replace(unit, missing=unit.missing - {outcome.key for outcome in outcomes})
                    place = queue.index(unit)
                    queue.remove(unit)
                    if left.missing:
                        queue.insert(place, left)
                    for outcome in outcomes:
                        self._end(outcome)
                    yield from outcomes

    def died(self, unit: Unit) -> list[Outcome]:
        """What is said of a unit that two workers did not survive."""
        why = "its worker died twice (killed, or out of memory); the same command tries again, try fewer --workers"
        return [Outcome(key(run), "failed", f"run {key(run)} ({run.treatment}): {why}") for run in unit.todo]

    def _end(self, outcome: Outcome) -> None:
        self.pending.discard(outcome.key)
        if not outcome.is_stored:
            self.lost.add(outcome.key)


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
