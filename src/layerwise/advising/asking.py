"""A net and data on their way to advice: each layer looked at once, a race within the budget, the conclusion."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from layerwise.advising.advice import Advice, Considered, Labels
from layerwise.advising.candidates import candidates, options, recipes
from layerwise.advising.experience import Circumstances, Experience, experience
from layerwise.advising.labels import Curve, curve, sizes
from layerwise.advising.racing import Race, last
from layerwise.advising.reasons import Reason, reasons
from layerwise.advising.rehearsal import FOLD, FOLDS, GROUP, Rehearsal, rehearsal
from layerwise.costs import counted
from layerwise.data.dataset import DataSet, cached, shape_of
from layerwise.errors import RepresentationError, StudyError
from layerwise.execute.forecast import forecast
from layerwise.execute.plan import Plan, plan
from layerwise.feed import scaled
from layerwise.images import SHOWN
from layerwise.job import Job, Means, counts
from layerwise.layers import Layer, layers
from layerwise.listening import Several
from layerwise.nets import architecture, build
from layerwise.nets.weights import head_width, net_state
from layerwise.norms import normalises
from layerwise.plan_file import contents
from layerwise.probes.activations import activations
from layerwise.probes.linear import LinearProbe, linear_probes
from layerwise.progress import Quiet, duration
from layerwise.run import Recipe, Run, Weights, key
from layerwise.store import Record, Store
from layerwise.tasks import Task, described

LEVEL = 0.9  # of the interval for the adapted net's accuracy
TRAINING = 0.01  # standard deviation of accuracy between trainings that differ in their draws alone
FACTORS = (2, 4)  # multiples of the labels
MOST_PROBED = 2_000  # images whose features are looked at
FEWEST_PROBED = 3  # images of a class, without which it is left out of that


@dataclass
class Asking:
    """A net and data on their way to advice."""

    net: str  # the name of its architecture
    content: bytes  # of the file of its weights
    called: str  # by the user
    data: DataSet
    task: Task
    granularity: str
    store: Store
    means: Means
    listener: Several
    seed: int
    experience: Experience = field(default_factory=experience, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return shape_of(self.data)

    @cached_property
    def source(self) -> Weights:
        """The weights, in the store."""
        return Weights(self.store.put_weights(self.content))

    @cached_property
    def rehearsal(self) -> Rehearsal:
        """The training images alone."""
        return rehearsal(self.data, self.task)

    @property
    def notes(self) -> list[str]:
        """What is to be said of the data before anything is trained."""
        without, names = self.rehearsal.never_held_out, self.rehearsal.data.class_names
        one = "image, or one group of them," if self.task.parts.groups else "image"
        if not self.rehearsal.folds:
            return [f"no class has more than one {one} to train on: nothing can be tried, and what is advised did best "
                    "on other nets and data"]  # fmt: skip
        if not without:
            return []
        told = ", ".join(without[:SHOWN]) + ", ..." * (len(without) > SHOWN)
        return [f"{len(without)} of {len(names)} classes have one {one} to train on ({told}): they are always learnt, "
                "and nothing that is tried tells how well they are predicted"]  # fmt: skip

    @cached_property
    def place(self) -> Path:
        """The folder of the training images, for workers."""
        return cached(self.rehearsal.data, self.store.folder / "data" / self.rehearsal.data.digest)

    @cached_property
    def race(self) -> Race:
        """The options, none tried."""
        net, example = build(self.net, self.shape, self.task.outputs, 0), torch.zeros(1, *self.shape)
        found, coarse = layers(net, example), layers(net, example, self.granularity)
        members = [sum(one.parameters[0] in group.parameters for one in found) for group in coarse]
        every = options(candidates(members))
        if not self.rehearsal.folds:
            every = tuple(one for one in every if not one.candidate.by_gradient)
        return Race(self.net, self.source, self.rehearsal, every, self._train, self.store, self.seed)

    def check(self) -> None:
        """Raise LayersError where the weights do not fit the net."""
        net_state(self.content, self.net, self.shape, self.called)

    def foretold(self, budget: float) -> None:
        """Tell what trying every option would take, and what of it is spent at most."""
        race = self.race
        longest = max(race.options, key=lambda one: race.flops(race.run(one, self.rehearsal.task)))
        run = race.run(longest, self.task)
        size = self._job([run], self.data, Quiet()).size
        alone = forecast(plan([run], has=lambda *_: False), size, 1, self.means.here)  # it may be in the store
        seconds = alone.wall_seconds * race.exhaustive / race.flops(run) / self.means.processes
        self.listener.say(
            f"Plan: {len(race.options)} options for {race.examples} training images; trying each once would take "
            f"{duration(seconds)}, advice at most {budget:.0%} of that: {duration(budget * seconds)}"
        )

    def advice(self, budget: float, notes: tuple[str, ...], command: str) -> Advice:
        """Race, look at the layers, and conclude."""
        begun = time.perf_counter()
        race, known = self.race, self.experience
        here = self.here
        race.expect(known.expected(race.options, here), known.shortfall(race.options, here), here.last)
        if self.rehearsal.folds:
            race.find_rates()
        grown = self._grown(budget) if race.rehearsal.folds else None
        race.go(budget, self._told)
        why = self._why()
        belief, told, best = race.belief, race.wide_belief, race.advised
        samples = race.examples / len(self.task.classes)
        shift = self._shift(grown, samples) + float(told.mean[best] - belief.mean[best])
        chances = belief.chances(np.random.default_rng(self.seed))
        order = sorted(range(len(race.options)), key=lambda k: (k != best, -belief.mean[k]))
        considered = tuple(
            self._considered(k, float(belief.mean[k]) + shift, belief.difference(best, k)[1], float(chances[k]))
            for k in order
        )
        typical = float(np.clip(considered[0].accuracy, 0.02, 0.98))
        tested = counts(self.task, self.data)["test"]
        variance = told.covariance[best, best] + TRAINING**2 + (typical * (1 - typical) / tested if tested else 0.0)
        reach = float(stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance))
        job = self._job([], self.data, Quiet())
        return Advice(
            net=self.called,
            layers=tuple(layer.name for layer in self.source_layers),
            granularity=self.granularity,
            data={
                "name": self.data.name, "digest": self.data.digest,
                "classes": [self.data.class_names[label] for label in self.task.classes],
                "training_images": race.examples, "test_images": tested,
                "task": json.loads(json.dumps(described(self.task))),
            },
            considered=considered,
            interval=(max(0.0, considered[0].accuracy - reach), min(1.0, considered[0].accuracy + reach)),
            level=LEVEL,
            reasons=why,
            labels=_more(grown, samples),
            cost={
                "exhaustive": race.exhaustive, "spent": race.spent, "budget": budget,
                "seconds": time.perf_counter() - begun,
            },
            notes=notes,
            provenance=contents(job, Plan((), (), frozenset()), [], command)["provenance"],
            learning_curve=grown.points if grown else (),
            weights=self.source.digest,
        )  # fmt: skip

    def _considered(self, k: int, accuracy: float, deviation: float, chance: float) -> Considered:
        race, option = self.race, self.race.options[k]
        rates = race.rates if option.candidate.by_gradient else ()
        run = race.run(option, self.task)
        return Considered(
            name=option.candidate.name,
            policy=option.candidate.policy,
            treatment=str(option.candidate.treatment),
            letters=option.candidate.treatment.expanded,
            rate=option.rate,
            recipes=tuple(map(_plain, recipes(option, race.examples, rates))),
            accuracy=min(1.0, max(0.0, accuracy)),
            deviation=deviation,
            chance=chance,
            trials=sum(trial.option == k for trial in race.trials),
            flops=race.flops(run),
        )

    @cached_property
    def _state(self) -> dict[str, torch.Tensor]:
        return net_state(self.content, self.net, self.shape, self.called)

    @cached_property
    def source_net(self) -> torch.nn.Module:
        """The source net with the head that it came with."""
        net = build(self.net, self.shape, head_width(self._state, self.net, self.shape), 0)
        net.load_state_dict(self._state, strict=False)  # batch norm's counters may be absent; net_state looked
        return net

    @cached_property
    def source_layers(self) -> tuple[Layer, ...]:
        """Its layers."""
        return layers(self.source_net, torch.zeros(1, *self.shape))

    @cached_property
    def probed(self) -> dict[str, LinearProbe | None]:
        """A linear probe of each layer in front of the head, cross-validated on the training images; the race pays."""
        names = [layer.name for layer in self.source_layers[:-1]]
        if not self.rehearsal.folds:
            return dict.fromkeys(names)
        there = self.rehearsal.data
        often = np.bincount(there.labels)[there.labels] >= FEWEST_PROBED
        some = np.random.default_rng(self.seed).permutation(np.flatnonzero(often))[:MOST_PROBED]
        images, labels = there.images[np.sort(some)], torch.from_numpy(there.labels[np.sort(some)])
        groups = there.columns.get(GROUP)
        self.listener.say(f"Looking at {len(names)} layers")
        pixels = scaled(images, architecture(self.net))
        seen: dict[str, torch.Tensor] = {}
        self._pay(counted(lambda: seen.update(activations(self.source_net, pixels, found=self.source_layers))))
        try:
            found = linear_probes(
                {name: seen[name] for name in names if name in seen},
                labels,
                folds=int(np.clip(np.unique(labels, return_counts=True)[1].min(), FEWEST_PROBED, FOLDS)),
                groups=None if groups is None else torch.from_numpy(groups[np.sort(some)]),
                spent=self._pay,
            )
        except RepresentationError:
            found = {}  # too few images or groups of a class: nothing can be said of any layer
        return {name: one if isinstance(one := found.get(name), LinearProbe) else None for name in names}

    def _pay(self, operations: int) -> None:
        self.race.spent += operations

    @property
    def here(self) -> Circumstances:
        """What is known before any option is tried."""
        *_, last = (one.accuracy.mean if one else None for one in self.probed.values())
        known = [one.accuracy.mean for one in self.probed.values() if one]
        return Circumstances(
            samples=len(self.rehearsal.data.labels) / len(self.task.classes),
            last=last,
            better=None if last is None else max(known) - last,
            layers=len(self.source_layers),
            normalised=float(normalises(self.source_net)),
            unlearnt=self.race.unlearnt,
        )

    def _why(self) -> tuple[Reason, ...]:
        """What a linear probe says of each layer in front of the head."""
        return reasons(list(self.probed), list(self.probed.values()), 1 / len(self.task.classes))

    def _grown(self, budget: float) -> Curve | None:
        """The learning curve of the linear probe on each fold; none where it would take half of the budget."""
        race, labels = self.race, self.rehearsal.data.labels
        held = self.rehearsal.data.columns[FOLD]
        fewest = min(
            int(np.bincount(labels[held != int(fold)], minlength=len(self.task.classes)).min())
            for fold in self.rehearsal.folds
        )
        samples = sizes(fewest)
        if not samples:
            return None
        runs = {
            (fold, shots): race.run(race.middle_probe, replace(self.rehearsal.held_out(fold), shots=shots))
            for fold in self.rehearsal.folds
            for shots in samples
        }
        cost = sum(race.flops(run) for run in runs.values())
        if cost > race.left(budget) / 2:
            return None
        records = self._train(list(runs.values()), False)
        if any(key(run) not in records for run in runs.values()):
            return None  # one diverged
        race.spent += cost
        right = {
            fold: [last(records[key(runs[fold, shots])].result["curve"], "accuracy") for shots in samples]
            for fold in self.rehearsal.folds
        }
        return curve(right, samples)

    def _shift(self, grown: Curve | None, samples: float) -> float:
        """What a net gains that learns all folds and not all but one."""
        folds = len(self.rehearsal.folds)
        return grown.gain(samples * (folds - 1) / folds, samples)[0] if grown and folds > 1 else 0.0

    def _told(self, race: Race) -> None:
        best = race.options[race.advised]
        self.listener.say(
            f"{len(race.trials)} trials, {race.spent / race.exhaustive:.1%} of trying everything; ahead: {best.name}"
        )

    def _train(self, runs: Sequence[Run], keep: bool) -> dict[str, Record]:
        job = self._job(runs, self.rehearsal.data, self.listener.aside, keep=keep)
        job.complete()
        if job.faults:
            raise StudyError(job.faults[0])
        return job.records

    def _job(self, runs: Sequence[Run], data: DataSet, listener: Quiet, *, keep: bool = False) -> Job:
        kept = frozenset(map(key, runs)) if keep else frozenset()
        return Job(runs, self.store, data, {self.rehearsal.data.digest: self.place}, self.means, listener, kept)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """As JSON gives it back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(recipe).items()}


def _more(grown: Curve | None, samples: float) -> tuple[Labels, ...]:
    if grown is None:
        return ()
    return tuple(Labels(factor, *grown.gain(samples, factor * samples)) for factor in FACTORS)
