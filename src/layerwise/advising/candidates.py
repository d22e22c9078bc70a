"""Candidates: what can be done with a pretrained net on new data, as the field does it, each one a treatment.

They are made for groups of layers (layers, blocks or stages), of which the last is the head. The head is always fresh:
the new classes are not the source's.

    >>> for one in candidates((1, 2, 2, 1))[:4]:
    ...     print(f"{one.name}: {one.treatment}")
    linear probe: F5R
    freeze 1 of 3, tune the rest: FT4R
    freeze 2 of 3, tune the rest: F3TTR
    fine-tune everything: T5R
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from layerwise.errors import LayersError
from layerwise.run import Recipe
from layerwise.treatment import Treatment

RATES = (0.002, 0.01, 0.05)  # of SGD with momentum: every candidate is tried with each
BATCH = 32
EPOCHS, FEWEST_STEPS, MOST_STEPS = 20, 100, 600
LONGER = 5  # times as many steps where one layer learns, the head: they cost next to nothing, and it learns slowly
FALLS = (0.7,)  # the rate falls to a tenth after this share of the steps


@dataclass(frozen=True)
class Candidate:
    """A treatment that is considered, and whether its layers learn at rates of their own."""

    name: str
    policy: str  # the family that it is of, by which candidates of several nets are compared
    treatment: Treatment
    by_gradient: bool = False  # rates per layer in proportion to the gradient's size over the weights'

    @property
    def stages(self) -> int:
        """How many trainings follow one another."""
        return len(self.treatment.stages)


@dataclass(frozen=True)
class Option:
    """A candidate with a learning rate: what is raced."""

    candidate: Candidate
    rate: float

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.candidate.name}, rate {self.rate:g}"


def candidates(groups: Sequence[int]) -> tuple[Candidate, ...]:
    """The candidates for a net whose groups have so many layers each, the head last.

    Raises LayersError where there is nothing in front of the head.
    """
    body = len(groups) - 1
    if body < 1:
        raise LayersError("a net of one layer has nothing to transfer; name one with layers before its head")
    quarters = [max(1, round(k * body / 4)) for k in (1, 2, 3)]
    named = {n: f"{k}/4" for k, n in reversed(list(enumerate(quarters, 1)))}  # the same for deep and shallow nets
    made = [_made("linear probe", "linear probe", groups, "F" * body + "R")]
    for n in dict.fromkeys(n for n in quarters if n < body):
        made.append(_made(f"freeze {n} of {body}, tune the rest", f"freeze {named[n]}", groups,
                          "F" * n + "T" * (body - n) + "R"))  # fmt: skip
    made.append(_made("fine-tune everything", "fine-tune", groups, "T" * body + "R"))
    made.append(_made("linear probe, then fine-tune everything", "LP-FT", groups, "F" * body + "R", "T" * (body + 1)))
    for k in dict.fromkeys(quarters[:2]):
        made.append(_made(f"re-initialise the top {k} of {body}, tune the rest", f"reset {named[k]}", groups,
                          "T" * (body - k) + "R" * (k + 1)))  # fmt: skip
    n = body - quarters[1]
    made.append(_made(f"freeze {n} of {body}, re-initialise the rest", "freeze and reset", groups,
                      "F" * n + "R" * (body - n + 1)))  # fmt: skip
    for k, which in dict.fromkeys([(0, "first"), (body // 2, "middle"), (body - 1, "last")]):
        if body > 1:
            made.append(_made(f"tune only {k + 1} of {body}", f"only the {which}", groups,
                              "F" * k + "T" + "F" * (body - 1 - k) + "R"))  # fmt: skip
    tuned = _made("rates by gradient signal", "Auto-RGN", groups, "T" * body + "R")
    made.append(replace(tuned, by_gradient=True))
    made.append(_made("from scratch", "scratch", groups, "R" * (body + 1)))
    found: dict[tuple[Treatment, bool], Candidate] = {}
    for one in made:
        found.setdefault((one.treatment, one.by_gradient), one)
    return tuple(found.values())


def options(found: Sequence[Candidate]) -> tuple[Option, ...]:
    """Every candidate with every rate."""
    return tuple(Option(one, rate) for one in found for rate in RATES)


def recipes(option: Option, examples: int, rates: tuple[float, ...] = (), share: float = 1.0) -> tuple[Recipe, ...]:
    """How an option is trained on so many examples; `share` of the steps where it is only tried.

    Stages share the steps; one in which a single layer learns has `LONGER` times its part, and where another follows
    it the middle rate. `rates` are the multipliers per layer of a candidate that learns by gradient signal.
    """
    treatment, batch = option.candidate.treatment, batch_for(examples)
    steps = share * steps_for(examples) / option.candidate.stages
    layer_rates = rates if option.candidate.by_gradient else ()
    found = []
    for stage, trained in enumerate(treatment.trained):
        is_probe, is_last = sum(trained) == 1, stage == option.candidate.stages - 1
        count = max(1, round(steps * (LONGER if is_probe else 1)))
        rate = option.rate if is_last else RATES[1]
        found.append(Recipe(count, batch, rate, drops=FALLS, layer_rates=layer_rates))
    return tuple(found)


def steps_for(examples: int) -> int:
    """Optimiser steps for so many training examples: twenty times through them, within bounds."""
    return int(np.clip(round(EPOCHS * examples / batch_for(examples)), FEWEST_STEPS, MOST_STEPS))


def batch_for(examples: int) -> int:
    """Images a step: small for few examples, so that they are not all of every step."""
    return int(np.clip(examples // 3, 1, BATCH))


def _made(name: str, policy: str, groups: Sequence[int], *stages: str) -> Candidate:
    spread = ["".join(letter * count for letter, count in zip(stage, groups, strict=True)) for stage in stages]
    return Candidate(name, policy, Treatment.parse(" > ".join(spread)))
