"""The reference executor: every run in this process, one after the other, through the whole net."""

from collections.abc import Iterator

from layerwise.execute.plan import Plan, Unit
from layerwise.execute.processor import as_workers_do
from layerwise.execute.work import Outcome, Setting, Worker, orphaned
from layerwise.run import key


def execute(plan: Plan, setting: Setting) -> Iterator[Outcome]:
    """Do the missing runs in order, and give the outcome of each as it ends."""
    with as_workers_do():
        worker, lost = Worker(setting), set[str]()
        for run in (run for unit in plan.units for run in unit.todo):
            alone = Unit((run,), frozenset({key(run)}))
            for outcome in orphaned(alone, lost) or worker.do(alone, wait=True):
                if not outcome.is_stored:
                    lost.add(outcome.key)
                yield outcome
