"""Runs: everything that decides a trained net, as one value, and the key that names it.

A run nests its source, and the nesting is the graph of dependencies; where a graph begins with weights that no run of
ours made, the source is their digest. What cannot alter the result (device, executor) is not part of a run. Two runs
with equal keys are the same experiment, on any machine, at any time.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

from layerwise.augment import Augmentation
from layerwise.errors import StudyError, unknown
from layerwise.randomness import canonical
from layerwise.tasks import LATER, PARTS_LATER, Parts, Task
from layerwise.treatment import Treatment

SPEC_VERSION = 2
OPTIMISERS = ("sgd", "adam")
PRECISIONS = ("float32", "float64", "bfloat16", "tf32")


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
    """Of the arithmetic. `bfloat16` is autocast, and `tf32` is TF32 matrix products on GPUs that have them; both have
    weights in float32."""
    channels_last: bool = False  # images and filters with the channels innermost, which some processors are faster on
    frozen_dropout: bool = False  # keep dropout on in frozen layers, as Caffe did
    evaluate_every: int = 0  # steps between two points of the learning curve; 0 is the end only
    stop_at: float | None = None  # end the stage once the accuracy on its own training samples reaches this
    augment: str = ""  # how training images are varied, such as crop:4,flip,jitter:0.2; see layerwise.augment
    version: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):  # 1, 1.0 and True are one number, with one key
            value = getattr(self, field.name)
            if field.type in {float, float | None} and value is not None:
                object.__setattr__(self, field.name, float(value))
            elif field.type == tuple[float, ...]:
                object.__setattr__(self, field.name, tuple(map(float, value)))
            elif field.type in {int, bool} and field.type(value) == value:
                object.__setattr__(self, field.name, field.type(value))
        for what, value, known in (
            ("optimiser", self.optimiser, OPTIMISERS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise StudyError(unknown(what, value, known))
        if self.stop_at is not None and self.evaluate_every < 1:
            raise StudyError(f"stop_at {self.stop_at:g} is looked at where the net is; pass evaluate_every > 0 as well")
        if self.steps < 0 or self.batch_size < 1 or self.rate <= 0:
            raise StudyError(f"a recipe needs steps >= 0, batch_size >= 1 and rate > 0, not {self}")
        if self.nesterov and self.momentum <= 0:
            raise StudyError(f"nesterov needs a momentum above 0, not {self.momentum}")
        object.__setattr__(self, "augment", Augmentation.parse(self.augment).spell())  # one text for one meaning

    @property
    def dtype_name(self) -> str:
        """The type of the weights, as torch calls it."""
        return "float64" if self.precision == "float64" else "float32"

    def rate_at(self, step: int) -> float:
        """The learning rate of the step, counted from 0."""
        return self.rate * 0.1 ** sum(step >= share * self.steps for share in self.drops)

    def evaluates_after(self, step: int) -> bool:
        """Is there a point of the learning curve after so many steps?"""
        return step == self.steps or (self.evaluate_every > 0 and step % self.evaluate_every == 0)


@dataclass(frozen=True)
class Weights:
    """Weights that no run of ours made, as a source: the SHA-256 of a safetensors file's bytes."""

    digest: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{64}", self.digest):
            raise StudyError(
                f"weights '{self.digest}' are not named by 64 hex digits (0-9, a-f): the SHA-256 of a safetensors "
                "file, as `sha256sum FILE` prints it"
            )


@dataclass(frozen=True)
class Run:
    """One net, trained: the unit that is planned, keyed, stored and compared."""

    net: str
    task: Task
    treatment: Treatment  # without `*`
    source: "Run | Weights | None"
    recipes: tuple[Recipe, ...]  # one per stage
    seed: int = 0
    draw: int = -1
    """Which draw of fresh weights and data order; by default the nesting depth (0 without a source, 1 above weights by
    digest), so that a selffer's fresh layers are not its source's own start. A control without a source sets it to 1
    to share the draws of the transfers that it is compared with."""

    def __post_init__(self) -> None:
        if self.draw < 0:
            below = self.source.draw if isinstance(self.source, Run) else 0
            object.__setattr__(self, "draw", below + 1 if self.source else 0)
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
    def source_run(self) -> "Run | None":
        """The source, where it is a run."""
        return self.source if isinstance(self.source, Run) else None

    @property
    def lineage(self) -> "Iterator[Run]":
        """The run, its source, its source's source, ...; weights by digest are no run."""
        run: Run | None = self
        while run is not None:
            yield run
            run = run.source_run

    def __hash__(self) -> int:
        """That of the key: the hash of all fields would walk the whole lineage each time."""
        return hash(self._key)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what is remembered is quickly made again, and would double what is sent to a worker."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _key(self) -> str:
        return key_of(_text(self))

    @cached_property
    def _as_source(self) -> str:
        """Its text, remembered as part of the texts of all runs that it is the source of."""
        return _text(self)


NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in (Recipe, Task, Parts)}
ADDED: dict[type, Mapping[str, Any]] = {Recipe: {"augment": ""}, Task: LATER, Parts: PARTS_LATER}
"""Fields that came after keys were first made: left out at these values, so that older keys stay."""


def spec(run: Run) -> dict[str, Any]:
    """The run as plain values: what `spec.json` holds and the key is made of."""
    return {
        "version": SPEC_VERSION,
        "net": run.net,
        "task": _plain(run.task),
        "treatment": run.treatment.expanded,
        "source": spec(run.source) if isinstance(run.source, Run) else _outside(run.source),
        "recipes": [_plain(recipe) for recipe in run.recipes],
        "seed": run.seed,
        "draw": run.draw,
    }


def key(run: Run) -> str:
    """Sixteen hex digits that name the run: the head of SHA-256 over the canonical JSON of its spec."""
    return run._key  # made once


def key_of(text: str) -> str:
    """The key of the run whose spec has this canonical JSON, whichever version wrote it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_spec(values: Mapping[str, Any]) -> Run:
    """The run that `spec` wrote down: `from_spec(spec(run)) == run`; StudyError where a newer layerwise wrote it."""
    if values["version"] > SPEC_VERSION:
        raise StudyError(
            f"a run of version {values['version']} cannot be read by this layerwise, which knows up to {SPEC_VERSION}; "
            "upgrade layerwise"
        )
    return Run(
        net=values["net"],
        task=_task(canonical(values["task"])),
        treatment=_treatment(values["treatment"]),
        source=values["source"] and _source(canonical(values["source"])),
        recipes=tuple(_recipe(canonical(recipe)) for recipe in values["recipes"]),
        seed=values["seed"],
        draw=values["draw"],
    )


def _text(run: Run) -> str:
    """canonical(spec(run)), around the remembered text of its source: keys are sorted, "source" before "task"."""
    before = {"draw": run.draw, "net": run.net, "recipes": [_plain(r) for r in run.recipes], "seed": run.seed}
    source = run.source._as_source if isinstance(run.source, Run) else canonical(_outside(run.source))
    after = {"task": _plain(run.task), "treatment": run.treatment.expanded, "version": SPEC_VERSION}
    return f'{canonical(before)[:-1]},"source":{source},{canonical(after)[1:]}'


def _outside(source: Weights | None) -> dict[str, str] | None:
    """A source that is no run."""
    return {"weights": source.digest} if source else None


def _plain(value: Recipe | Task | Parts) -> dict[str, Any]:
    """The fields by name, parts within a task too; `asdict` copies every number, and takes far longer."""
    added = ADDED[type(value)]
    found = {name: getattr(value, name) for name in NAMES[type(value)]}
    found = {name: field for name, field in found.items() if name not in added or field != added[name]}
    return {name: _plain(field) if isinstance(field, Parts) else field for name, field in found.items()}


# Runs read back share what they have in common, as runs made by a study do. Texts differ where equal values may not.


@lru_cache(maxsize=4096)
def _task(text: str) -> Task:
    return task_from(json.loads(text))


def task_from(task: Mapping[str, Any]) -> Task:
    """The task that `layerwise.tasks.described` has told, as JSON gives it back."""
    listed = {name: tuple(task["parts"][name]) for name in ("held_out", "groups") if name in task["parts"]}
    parts = Parts(**_known(Parts, {**task["parts"], **listed}))
    classes = {name: tuple(task[name]) for name in ("classes", "rest") if name in task}
    return Task(**_known(Task, {**task, **classes, "parts": parts}))


def _known(kind: type[Recipe | Task | Parts], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a recipe or task; StudyError where a newer layerwise has one that this does not know."""
    if strange := sorted(values.keys() - set(NAMES[kind])):
        raise StudyError(f"a run with '{strange[0]}' cannot be read by this layerwise; upgrade layerwise")
    return values


@lru_cache(maxsize=4096)
def _recipe(text: str) -> Recipe:
    recipe = json.loads(text)
    return Recipe(**_known(Recipe, {**recipe, **{name: tuple(recipe[name]) for name in ("drops", "layer_rates")}}))


@lru_cache(maxsize=4096)
def _source(text: str) -> Run | Weights:
    source = json.loads(text)
    return Weights(source["weights"]) if "weights" in source else from_spec(source)


@lru_cache(maxsize=4096)
def _treatment(text: str) -> Treatment:
    return Treatment.parse(text)
