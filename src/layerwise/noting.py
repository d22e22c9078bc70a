"""A listener that leaves in the store what it hears, so that `layerwise watch` can show it in another terminal."""

import os
import platform
import time
from pathlib import Path
from typing import TextIO

from layerwise import running
from layerwise.execute.forecast import Forecast
from layerwise.execute.plan import Plan
from layerwise.execute.work import Outcome
from layerwise.progress import Quiet
from layerwise.run import key


class Noting(Quiet):
    """Notes each plan that has something to train, from then until its last run has ended."""

    def __init__(self, store: Path, command: str) -> None:
        self.store = store
        self.command = command
        self.said = ""
        self.file: TextIO | None = None

    def say(self, line: str) -> None:
        self.said = line
        running.add(self.file, {"said": line})

    def planned(self, plan: Plan, forecast: Forecast, workers: int) -> None:
        self.close()
        running.forget_ended(self.store)  # the last one is shown until the next begins
        if not plan.missing:
            return
        missing = {key(run): plan.seconds.get(key(run), 0.0) for run in plan.missing}
        told = {
            "command": self.command,
            "process": os.getpid(),
            "machine": platform.node(),
            "begun": time.time(),
            "workers": workers,
            "forecast": forecast.wall_seconds,
            "stored": [key(run) for run in plan.runs if key(run) not in missing],
            "missing": missing,
            "said": self.said,
        }
        self.file = running.begin(self.store, told)

    def ended(self, outcome: Outcome) -> None:
        if not outcome.is_stored:
            running.add(self.file, {"failed": outcome.key, "why": outcome.message or outcome.state})

    def close(self) -> None:
        running.end(self.file, time.time())
        self.file = None
