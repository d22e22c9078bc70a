"""What plan.json holds: every run with what it was forecast to take and took, their sums, notes, and what made them."""

import os
import platform
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from torch import nn

from layerwise import __version__
from layerwise.execute.plan import Plan
from layerwise.job import Job, counts
from layerwise.run import Run, key

VERSIONS_OF = ("torch", "numpy", "scipy", "pandas", "pillow", "matplotlib")


def contents(job: Job, made: Plan, notes: Sequence[str], command: str) -> dict[str, Any]:
    """The plan of a job as plain values; seconds and forecasts of its finished runs are those of their records."""
    return {
        "runs": [_planned(run, job, made) for run in made.runs],
        "totals": job.totals(made),
        "notes": list(notes),
        "provenance": _provenance(job, command),
    }


def command_of(command: Sequence[str] | None, asked: dict[str, Any], what: str = "study") -> str:
    """The command that made a study or a probe, or the call in Python; a net is told by its class."""
    if command is not None:
        return shlex.join(command)
    told = {k: type(v).__name__ if isinstance(v, nn.Module) else repr(v) for k, v in asked.items() if v is not False}
    given = ", ".join(f"{option}={value}" for option, value in told.items())
    return f"layerwise.{what}({given})"


def _planned(run: Run, job: Job, made: Plan) -> dict[str, Any]:
    """A run as plan.json has it."""
    name = key(run)
    record = job.records.get(name)
    return {
        "key": name,
        "source_key": key(run.source_run) if run.source_run else None,
        "net": run.net,
        "task": run.task.name,
        "classes": list(run.task.classes),
        "rest": list(run.task.rest),
        "treatment": str(run.treatment),
        "shots": run.task.shots,
        "seed": run.seed,
        "examples": counts(run.task, job.data)["train"],
        "steps": run.steps,
        "batch_size": run.recipes[0].batch_size,
        "forecast_flops": job.forecast.flops.get(name),
        "forecast_seconds": record.result.get("forecast_seconds") if record else made.seconds.get(name),
        "seconds": record.result["seconds"] if record else None,
    }


def _provenance(job: Job, command: str) -> dict[str, Any]:
    """What made it: command, versions, machine, data, seeds."""
    data, means = job.data, job.means
    return {
        "command": command,
        "versions": {
            "layerwise": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in VERSIONS_OF},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "executor": f"{means.executor}, {means.processes} process{'es' * (means.processes != 1)} of one thread",
            "device": means.place,
        },
        "data": {
            "name": data.name,
            "digest": data.digest,
            "images": f"{len(data.images):,} of {'x'.join(map(str, data.images.shape[1:]))}",
            "classes": len(data.class_names),
        },
        "seeds": sorted({run.seed for run in job.wanted}),
        "store": str(job.store.folder),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
