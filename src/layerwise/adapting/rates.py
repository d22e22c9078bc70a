"""Which learning rates are tried, on what, and which is best.

Each rate is tried once on a part of the training images, and judged by the others, the validation images: the highest
accuracy there (of equal ones, the least loss) has it. Test images have no say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from layerwise.run import Recipe, Run, key
from layerwise.store import Record
from layerwise.tasks import Task

Recipes = tuple[Recipe, ...]  # one per stage

RATES = (0.003, 0.01, 0.03, 0.1)
ONE_RATE = 0.01  # where there are no images to choose one by
LATER_RATE = 0.1  # of a stage after the first, in its rate: it starts near its end
PASSES, FEWEST_STEPS, MOST_STEPS = 40, 200, 2000
BATCH = 32


def recipes(
    images: int, stages: int, rates: Sequence[float] | None, steps: int | None, batch_size: int | None, augment: str
) -> tuple[Recipes, ...]:
    """A recipe for each stage, for each rate to choose from; null is the usual."""
    batch = min(batch_size or BATCH, images)
    steps = steps or min(max(-(-PASSES * images // batch), FEWEST_STEPS), MOST_STEPS)
    return tuple(
        tuple(
            Recipe(steps, batch, rate * (LATER_RATE if k else 1.0), drops=(0.8,), augment=augment)
            for k in range(stages)
        )
        for rate in rates or RATES
    )


def trial(
    task: Task,
    validation: int,
    choices: tuple[Recipes, ...],
    told: list[str],
    *,
    named: Sequence[float] | None,
    is_own: bool,
) -> tuple[Task | None, tuple[Recipes, ...]]:
    """The task on which rates are compared, if it has validation images, and what is compared.

    `named` are the rates that the user wants; `is_own`: validation images are a part of the data's own.
    """
    if validation == 0:
        rate = named[0] if named else ONE_RATE
        told.append(
            f"there are too few images to choose a rate by validation: it is {rate:g}"
            + (", the first that was named" if named else "")
        )
        return None, (tuple(replace(r, rate=rate * (LATER_RATE if k else 1)) for k, r in enumerate(choices[0])),)
    then = (
        " of the data's own part, which is not trained on" if is_own else "; the best one's net is trained on them too"
    )
    told.append(f"{len(choices)} rates are compared on {validation:,} validation images{then}")
    return task, choices


def tried(runs: Sequence[Run], records: Mapping[str, Record]) -> tuple[dict[str, Any], ...]:
    """What each trial came to on the validation images; one that diverged has no accuracy."""
    found = []
    for run in runs:
        record = records.get(key(run))
        ends = {(split, what): value for _, split, what, value in record.result["curve"]} if record else {}
        values = {what: ends.get(("validation", what)) for what in ("accuracy", "loss")}
        found.append({"rates": [recipe.rate for recipe in run.recipes], **values})
    return tuple(found)


def best(results: Sequence[Mapping[str, Any]]) -> int:
    """The position of the trial of the highest accuracy on validation images; of equal ones that of the least loss."""
    known = [k for k, one in enumerate(results) if one["accuracy"] is not None]
    return max(known, key=lambda k: (results[k]["accuracy"], -results[k]["loss"]))
