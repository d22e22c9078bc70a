"""The runs of an adaptation on their way: rates are compared, and the best one's net is trained on all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from layerwise.adapting.rates import best, tried
from layerwise.adapting.wish import Fitted
from layerwise.errors import StudyError
from layerwise.job import Job, Means
from layerwise.progress import Quiet
from layerwise.result import restore
from layerwise.run import Run, key
from layerwise.store import Store

State = dict[str, Tensor]


@dataclass(frozen=True)
class Training:
    """A fitted wish, and where and by what it is trained."""

    plan: Fitted
    store: Store
    place: Path  # of the data
    means: Means
    listener: Quiet

    def forecast(self) -> None:
        """Tell what all runs will take; the rate that is chosen makes no difference to it."""
        self._job([*self.plan.trials, self.plan.final(self.plan.choices[0])]).plan()

    def carried_out(self) -> tuple[Run, State, tuple[dict[str, Any], ...]]:
        """The run that is kept, its tensors, and what each rate came to on validation images."""
        if self.plan.wish.content is not None:
            self.store.put_weights(self.plan.wish.content)
        results = self._compared()
        at = best(results) if results else 0
        if results:
            found = results[at]
            rates = " then ".join(f"{rate:g}" for rate in found["rates"])
            self.listener.say(f"Rate {rates}: {found['accuracy']:.1%} of validation images, the best of {len(results)}")
        run = self.plan.final(self.plan.choices[at])
        self._complete([run])
        return run, restore(self.store, key(run)).weights, results

    def _compared(self) -> tuple[dict[str, Any], ...]:
        if not self.plan.trials:
            return ()
        job = self._complete(self.plan.trials, needed=False)
        if job.faults:
            raise StudyError(job.faults[0])
        results = tried(self.plan.trials, job.records)
        if all(one["accuracy"] is None for one in results):
            raise StudyError(f"no rate could be trained with ({job.failures[0]}); pass lower ones with --rates")
        return results

    def _complete(self, runs: Sequence[Run], *, needed: bool = True) -> Job:
        job = self._job(runs)
        job.complete()
        if needed and job.failures:
            raise StudyError(job.failures[0])
        return job

    def _job(self, runs: Sequence[Run]) -> Job:
        kept = frozenset({key(self.plan.final(recipes)) for recipes in self.plan.choices})
        return Job(
            runs, self.store, self.plan.data, {self.plan.data.digest: self.place}, self.means, self.listener, kept
        )
