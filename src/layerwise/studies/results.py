"""Finished runs as rows: what every study tells of a run in the same way."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from layerwise.run import Run, key

COSTS = ("train_flops", "parameters_trained")


@dataclass(frozen=True)
class Result:
    """A finished run's record, as far as rows are made of it."""

    key: str
    curve: tuple[tuple[int, str, str, float], ...]  # (step, split, quantity, value)
    train_flops: int
    parameters_trained: int


def rows_of(run: Run, result: Result, **about: Any) -> Iterator[dict[str, Any]]:
    """The learning curve and the cost of a run; `about` says where it stands in its study: n, trial, seed, ..."""
    told = {
        "run_key": result.key,
        "source_key": key(run.source_run) if run.source_run else None,
        "source_task": run.source_run.task.name if run.source_run else None,
        "target_task": run.task.name,
        "treatment": str(run.treatment),
        "shots": run.task.shots,
        **about,
    }
    for step, split, quantity, value in result.curve:
        yield {**told, "step": step, "split": split, "quantity": quantity, "value": value}
    for quantity in COSTS:
        yield {**told, "step": result.curve[-1][0], "quantity": quantity, "value": float(getattr(result, quantity))}
