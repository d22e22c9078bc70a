"""The race: options tried on folds of the training set, the budget given to those still in question.

First a linear probe is tried with every rate, on one fold and then, as far as the budget goes, on all: it costs little
and says how well this net does on these data at all. Then trials are bought one round after another (see
`layerwise.advising.race`), with a quarter of the steps or with all of them. When nothing promises more, the option
ahead is tried on the folds that it was not tried on, as far as the budget goes; enough for one of them is kept, so that
what diverges here is not advised for what it did elsewhere. Every trial is a run like any other: stored, resumed,
trained in fleets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from layerwise.advising.belief import BOTH_WAYS, Belief, Model, Options, Trial
from layerwise.advising.candidates import RATES, Option, recipes
from layerwise.advising.cost import flops
from layerwise.advising.gradient import rates_of, relative_gradients
from layerwise.advising.race import Possible, next_trials
from layerwise.advising.rehearsal import Rehearsal
from layerwise.costs import counted
from layerwise.data.dataset import shape_of
from layerwise.feed import feed
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.result import restore
from layerwise.run import Run, Weights, key
from layerwise.store import Record, Store
from layerwise.tasks import Task

SHARES = (0.25, 1.0)  # of the steps, with which an option may be tried
TOGETHER = 6  # trials a round: enough to fill a fleet on each of two cores
UNTRIED = 0.005  # in accuracy, by which an option has to be ahead to be advised though it was not tried
PROBE = "linear probe"

Train = Callable[[Sequence[Run], bool], dict[str, Record]]  # records by key; are weights kept?


@dataclass
class Race:
    """Options on their way: what was tried, and what it cost."""

    net: str
    source: Weights
    rehearsal: Rehearsal
    options: tuple[Option, ...]
    train: Train
    store: Store
    seed: int = 0
    model: Model = field(init=False)  # what is assumed of the options before any is tried
    trials: list[Trial] = field(default_factory=list)
    spent: float = 0.0  # operations
    rates: tuple[float, ...] = ()  # per layer by gradient signal, of what is advised; see `find_rates`

    def __post_init__(self) -> None:
        self.model = Model(self.options, np.zeros(len(self.options)))

    def expect(self, prior: Options, short: Options, level: float | None = None) -> None:
        """Expect these accuracies beside a level, and this of trainings that are cut short, before any trial."""
        known = replace(self.model, prior=prior, short=short)
        self.model = known if level is None else replace(known, level=level)

    @property
    def examples(self) -> int:
        """Training images."""
        return len(self.rehearsal.data.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return shape_of(self.rehearsal.data)

    @cached_property
    def exhaustive(self) -> float:
        """Operations of training every option once with all steps: the search that advice is to spare."""
        return float(sum(self.flops(self.run(option, self.rehearsal.task)) for option in self.options))

    @property
    def belief(self) -> Belief:
        """What is believed of every option by now."""
        return self._learnt.belief(self.trials)

    @property
    def wide_belief(self) -> Belief:
        """The same by the wider Gaussian, for the accuracy of the option that is chosen."""
        return replace(self._learnt, spread=BOTH_WAYS).belief(self.trials)

    @property
    def advised(self) -> int:
        """The best of the options that were tried with all steps, unless one that was not is better by UNTRIED."""
        mean, best = self.belief.mean, self.belief.best
        close = [option for option in self._tried_whole if mean[option] > mean[best] - UNTRIED]
        return max(close, key=lambda option: mean[option], default=best)

    @property
    def _learnt(self) -> Model:
        """What is assumed of the options after these trials."""
        return self.model.after(self.trials)

    def go(self, budget: float, told: Callable[["Race"], None] = lambda race: None) -> None:
        """Race for a share of the exhaustive search's cost; `told` is called after each round."""
        probes = [k for k, one in enumerate(self.options) if one.candidate.policy == PROBE]
        first = [self._possible(k, fold, 1.0) for fold in self.rehearsal.folds for k in probes]
        afforded = np.cumsum([one.flops for one in first]) <= self.left(budget) - self._kept
        afforded[: len(probes)] = True  # what rates by gradient are taken from
        self.make([one for one, has_room in zip(first, afforded, strict=True) if has_room])
        told(self)
        while chosen := next_trials(self._learnt, self.trials, self.possible, self.left(budget) - self._kept, TOGETHER):
            self.make(chosen)
            told(self)
        while chosen := self._of_the_best(self.left(budget)):
            self.make(chosen)
            told(self)

    def _of_the_best(self, left: float) -> list[Possible]:
        """Trials of the option ahead with all steps, as far as that goes: how well it does is to be seen, not inferred.

        None of another option's are made for that, so what comes out may put another one ahead.
        """
        wanted = self._whole(self.belief.best)
        afforded = np.cumsum([one.flops for one in wanted]) <= left
        return [one for one, has_room in zip(wanted, afforded, strict=True) if has_room]

    @property
    def _kept(self) -> float:
        """Operations kept for a trial of the option ahead with all steps, where it had none."""
        best = self.belief.best
        return 0.0 if best in self._tried_whole else min((one.flops for one in self._whole(best)), default=0.0)

    @property
    def _tried_whole(self) -> set[int]:
        """Options that were tried with all steps."""
        return {trial.option for trial in self.trials if trial.share == 1}

    def _whole(self, option: int) -> list[Possible]:
        """Trials of an option with all steps that were not made."""
        return [one for one in self.possible if one.option == option and one.share == 1]

    def left(self, budget: float) -> float:
        """Operations that may still be spent of a share of the exhaustive search."""
        return budget * self.exhaustive - self.spent

    @property
    def possible(self) -> list[Possible]:
        """Trials that were not made."""
        made = {(trial.option, trial.fold, trial.share) for trial in self.trials}
        every = [
            (k, fold, share) for k in range(len(self.options)) for fold in self.rehearsal.folds for share in SHARES
        ]
        return [self._possible(*one) for one in every if one not in made]

    def make(self, chosen: Sequence[Possible]) -> None:
        """Train what these trials need, and remember what came out."""
        runs = {one: self._tried(one) for one in chosen}
        is_probe = all(self.options[one.option].candidate.policy == PROBE for one in chosen)
        records = self.train(list(runs.values()), is_probe)
        for one, run in runs.items():
            record = records.get(key(run))  # a net that diverged is right by chance
            accuracy = last(record.result["curve"], "accuracy") if record else 1 / run.task.width
            self.trials.append(Trial(one.option, one.fold, one.share, one.examples, accuracy))
            self.spent += one.flops

    def run(self, option: Option, task: Task, share: float = 1.0, rates: tuple[float, ...] = ()) -> Run:
        """The run of an option on a task with this training set, or a part of it."""
        how = recipes(option, self.examples, rates, share)
        treatment = option.candidate.treatment
        source = self.source if treatment.needs_source else None
        return Run(self.net, task, treatment, source, how, self.seed, draw=1)

    @cached_property
    def middle_probe(self) -> Option:
        """The linear probe with the middle rate."""
        return next(one for one in self.options if one.candidate.policy == PROBE and one.rate == RATES[1])

    @cached_property
    def tried_rates(self) -> tuple[float, ...]:
        """Rates per layer by gradient signal that options are tried with: of the first fold's linear probe."""
        return self._rates(self.rehearsal.held_out(self.rehearsal.folds[0]))

    @cached_property
    def whole_probe(self) -> Record | None:
        """The middle linear probe of all training images, trained and paid for; none where it diverged."""
        probe = self.run(self.middle_probe, self.rehearsal.whole)
        self.spent += self.flops(probe)
        return self.train([probe], True).get(key(probe))

    @property
    def unlearnt(self) -> float | None:
        """The training loss that `whole_probe` ends with, over that of guessing; none where it diverged."""
        if self.whole_probe is None:
            return None
        return last(self.whole_probe.result["curve"], "loss", "train") / float(np.log(self.rehearsal.task.width))

    def find_rates(self) -> None:
        """Those by the gradient with `whole_probe` for a head, for the recipe to advise."""
        self.rates = self._rates(self.rehearsal.whole) if self.whole_probe is not None else ()

    def _rates(self, task: Task) -> tuple[float, ...]:
        """By the gradient with a trained linear probe for a head; none, so all layers alike, where that diverged."""
        probe = key(self.run(self.middle_probe, task))
        if not self.store.has(probe, weights=True):
            return ()
        net = build(self.net, self.shape, task.outputs, 0)
        net.load_state_dict(restore(self.store, probe).weights)
        found = layers(net, torch.zeros(1, *self.shape))
        ratios: list[tuple[float, ...]] = []
        fed = feed(task, self.rehearsal.data, self.net)
        self.spent += counted(lambda: ratios.append(relative_gradients(net, found, fed)))
        return rates_of(ratios[0])

    def _tried(self, one: Possible) -> Run:
        option = self.options[one.option]
        rates = self.tried_rates if option.candidate.by_gradient else ()
        return self.run(option, self.rehearsal.held_out(one.fold), one.share, rates)

    def _possible(self, option: int, fold: str, share: float) -> Possible:
        cost = self.flops(self.run(self.options[option], self.rehearsal.held_out(fold), share))
        return Possible(option, fold, share, self.rehearsal.size(fold), cost)

    def flops(self, run: Run) -> float:
        """Operations of training a run, its frozen layers computed once."""
        return float(flops(run, self.shape, self.examples))


def last(curve: Sequence[Sequence[Any]], quantity: str, part: str = "test") -> float:
    """The last value of a quantity on a part of the data."""
    return float([value for _, split, what, value in curve if split == part and what == quantity][-1])
