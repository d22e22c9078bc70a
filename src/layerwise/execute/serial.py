"""The reference executor: every run in this process, one after the other."""

from collections.abc import Iterator

from layerwise.execute.plan import Plan
from layerwise.execute.work import Outcome, Setting, Worker, orphaned


def execute(plan: Plan, setting: Setting) -> Iterator[Outcome]:
    """Do the missing runs in order, and give the outcome of each as it ends."""
    worker, lost = Worker(setting), set[str]()
    for run in plan.order():
        outcome = orphaned(run, lost) or worker.do(run, wait=True)
        if not outcome.is_stored:
            lost.add(outcome.key)
        yield outcome
