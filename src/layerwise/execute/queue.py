"""The units that wait for somebody who does them: which can start, which are held, which are lost."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from layerwise.execute.plan import Plan, Unit
from layerwise.execute.work import Outcome, Setting, orphaned
from layerwise.run import key
from layerwise.store import Store

TRIES = 2


class Queue:
    """The missing units: which can start, which another process holds, which were lost with their worker or source."""

    tries = TRIES

    def __init__(self, plan: Plan, setting: Setting) -> None:
        self.store, self.kept = Store(setting.store), setting.kept
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
            answer = self._died(unit)
        if any(outcome.state == "busy" for outcome in answer):
            self.busy.append(unit)
            return []
        for outcome in answer:
            self._end(outcome)
        return list(answer)

    def orphans(self) -> Iterator[Outcome]:
        """The outcomes of waiting runs whose source was lost; the others of their units go on without them."""
        if not self.lost:
            return
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

    def why(self, unit: Unit) -> str:
        """What is said of a unit that was lost too often."""
        return "its worker died twice (killed, or out of memory); the same command tries again, try fewer --workers"

    def _died(self, unit: Unit) -> list[Outcome]:
        """The outcomes of a unit that was lost too often; what of it was stored before that is stored."""
        why = self.why(unit)
        return [
            Outcome(name, "stored")
            if self.store.has(name := key(run), weights=name in self.kept)
            else Outcome(name, "failed", f"run {name} ({run.treatment}): {why}")
            for run in unit.todo
        ]

    def _end(self, outcome: Outcome) -> None:
        self.pending.discard(outcome.key)
        if not outcome.is_stored:
            self.lost.add(outcome.key)
