"""Runs: everything that decides a trained net, as one value, and the key that names it.

A run nests its source, and the nesting is the graph of dependencies. What cannot alter the result (device, executor) is
not part of it. Two runs with equal keys are the same experiment, on any machine, at any time.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from layerwise.errors import StudyError
from layerwise.randomness import canonical
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment

SPEC_VERSION = 1
OPTIMISERS = ("sgd", "adam")
PRECISIONS = ("float32", "float64")


@dataclass(frozen=True)
class Recipe:
    """How a stage trains. Its `version` rises whenever the trainer's meaning of an unchanged field does."""

    steps: int
    batch_size: int
    rate: float = 0.01
    optimiser: str = "sgd"
    momentum: float = 0.9  # of sgd; adam has its usual 0.9 and 0.999
    nesterov: bool = False
    weight_decay: float = 0.0
    drops: tuple[float, ...] = ()  # the rate falls to a tenth after each of these shares of the steps
    layer_rates: tuple[float, ...] = ()  # a multiplier per layer; none is 1 for all
    precision: str = "float32"
    frozen_dropout: bool = False  # keep dropout on in frozen layers, as Caffe did
    evaluate_every: int = 0  # steps between two points of the learning curve; 0 is the end only
    stop_at: float | None = None  # end the stage once the accuracy on its own training samples reaches this
    version: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):  # 1 and 1.0 are one recipe, with one key
            value = getattr(self, field.name)
            if field.type in {float, float | None} and value is not None:
                object.__setattr__(self, field.name, float(value))
            elif field.type == tuple[float, ...]:
                object.__setattr__(self, field.name, tuple(map(float, value)))
        if self.optimiser not in OPTIMISERS or self.precision not in PRECISIONS:
            raise StudyError(
                f"unknown optimiser or precision '{self.optimiser}', '{self.precision}'; "
                f"known: {', '.join(OPTIMISERS)}; {', '.join(PRECISIONS)}"
            )
        if self.steps < 0 or self.batch_size < 1 or self.rate <= 0:
            raise StudyError(f"a recipe needs steps >= 0, batch_size >= 1 and rate > 0, not {self}")
        if self.nesterov and self.momentum <= 0:
            raise StudyError(f"nesterov needs a momentum above 0, not {self.momentum}")

    def rate_at(self, step: int) -> float:
        """The learning rate of the step, counted from 0."""
        return self.rate * 0.1 ** sum(step >= share * self.steps for share in self.drops)

    def evaluates_after(self, step: int) -> bool:
        """Is there a point of the learning curve after so many steps?"""
        return step == self.steps or (self.evaluate_every > 0 and step % self.evaluate_every == 0)


@dataclass(frozen=True)
class Run:
    """One net, trained: the unit that is planned, keyed, stored and compared."""

    net: str
    task: Task
    treatment: Treatment  # without `*`
    source: "Run | None"
    recipes: tuple[Recipe, ...]  # one per stage
    seed: int = 0
    draw: int = -1
    """Which draw of fresh weights and data order; by default the nesting depth (0 without a source), so that a
    selffer's fresh layers are not its source's own start. A control without a source sets it to 1 to share the draws
    of the transfers that it is compared with."""

    def __post_init__(self) -> None:
        if self.draw < 0:
            object.__setattr__(self, "draw", self.source.draw + 1 if self.source else 0)
        if self.treatment.needs_source != (self.source is not None):
            needs = (
                "needs a source" if self.treatment.needs_source else "takes nothing from a source, and was given one"
            )
            raise StudyError(f"treatment '{self.treatment}' {needs}")
        if len(self.recipes) != len(self.treatment.letters()):
            raise StudyError(f"'{self.treatment}' has {len(self.treatment.stages)} stages, {len(self.recipes)} recipes")
        if len(precisions := {recipe.precision for recipe in self.recipes}) > 1:
            raise StudyError(f"the stages of a run share one precision, not {' and '.join(sorted(precisions))}")

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages, at most."""
        return sum(recipe.steps for recipe in self.recipes)

    @property
    def lineage(self) -> "Iterator[Run]":
        """The run, its source, its source's source, ..."""
        run: Run | None = self
        while run is not None:
            yield run
            run = run.source


def spec(run: Run) -> dict[str, Any]:
    """The run as plain values: what `spec.json` holds and the key is made of."""
    return {
        "version": SPEC_VERSION,
        "net": run.net,
        "task": asdict(run.task),
        "treatment": run.treatment.expanded,
        "source": spec(run.source) if run.source else None,
        "recipes": [asdict(recipe) for recipe in run.recipes],
        "seed": run.seed,
        "draw": run.draw,
    }


@lru_cache(maxsize=100_000)
def key(run: Run) -> str:
    """Sixteen hex digits that name the run: the head of SHA-256 over its canonical JSON."""
    return hashlib.sha256(canonical(spec(run)).encode()).hexdigest()[:16]


def from_spec(values: Mapping[str, Any]) -> Run:
    """The run that `spec` wrote down: `from_spec(spec(run)) == run`."""
    task = dict(values["task"])
    task["classes"] = tuple(task["classes"])
    task["parts"] = Parts(**{**task["parts"], "held_out": tuple(task["parts"]["held_out"])})
    recipes = [{**recipe, **{k: tuple(recipe[k]) for k in ("drops", "layer_rates")}} for recipe in values["recipes"]]
    return Run(
        net=values["net"],
        task=Task(**task),
        treatment=Treatment.parse(values["treatment"]),
        source=from_spec(values["source"]) if values["source"] else None,
        recipes=tuple(Recipe(**recipe) for recipe in recipes),
        seed=values["seed"],
        draw=values["draw"],
    )
