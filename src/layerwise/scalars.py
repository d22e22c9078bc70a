"""A listener that writes the learning curves of finished runs for TensorBoard (the extra `tensorboard`).

    DIR/7d0c4b1f9a3e5512 F3R3/    a folder for each run: its curve as scalars such as `test/accuracy` against the step,
                                  and its net, treatment, samples, seed and task as hyperparameters

Runs that the store had before are written too, and none is written twice: the same folder serves a study that is
stopped and resumed, and several studies. Look at it with `tensorboard --logdir DIR`.
"""

import os
import shutil
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from layerwise.errors import StudyError
from layerwise.execute.forecast import Forecast
from layerwise.execute.plan import Plan
from layerwise.execute.work import Outcome
from layerwise.progress import Quiet
from layerwise.run import Run, key
from layerwise.store import Damaged, Record, Store

ABANDONED = 60.0  # seconds after which a run that is not whole was left so by a command that was killed


class Scalars(Quiet):
    """Writes each run once it is stored. Raises StudyError where TensorBoard is not installed, or DIR not writable."""

    def __init__(self, folder: Path, store: Store, say: Callable[[str], None] = lambda line: None) -> None:
        self.tensorboard = _tensorboard()
        self.folder = folder
        self.store = store
        self.say_to_user = say
        self.is_broken = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"--tensorboard {folder} cannot be written ({error.strerror}); pass another") from error
        for aside in folder.glob(".*-*"):
            if _age(aside) > ABANDONED:
                shutil.rmtree(aside, ignore_errors=True)

    def planned(self, plan: Plan, forecast: Forecast, workers: int) -> None:
        missing = set(map(key, plan.missing))
        for run in plan.runs:
            if key(run) not in missing:
                self._write(key(run))

    def ended(self, outcome: Outcome) -> None:
        if outcome.is_stored:
            self._write(outcome.key)

    def _write(self, run_key: str) -> None:
        if self.is_broken:
            return
        try:
            self._add(self.store.get(run_key))
        except (KeyError, Damaged):
            return  # the job tells of it, and makes the run anew
        except OSError as error:
            self.is_broken = True
            self.say_to_user(f"--tensorboard {self.folder} cannot be written ({error.strerror}); runs go on without it")

    def _add(self, record: Record) -> None:
        """Write a run aside and rename it, so that it is there whole or not at all."""
        run = record.run
        place = self.folder / f"{record.key} {run.treatment}"
        if place.exists():
            return
        aside = self.folder / f".{record.key}-{os.getpid()}"
        try:
            self._write_events(aside, run, record.result["curve"])
            aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _write_events(self, folder: Path, run: Run, curve: list[list[Any]]) -> None:
        with self.tensorboard.SummaryWriter(log_dir=str(folder)) as writer:
            for step, split, quantity, value in curve:
                writer.add_scalar(f"{split}/{quantity}", value, step)
            last = {f"{split}/{quantity}": value for _, split, quantity, value in curve}
            for told in self.tensorboard.summary.hparams(hyperparameters(run), last):
                writer.file_writer.add_summary(told)


def _age(path: Path) -> float:
    """Seconds since something was made in this folder; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def hyperparameters(run: Run) -> dict[str, str | int]:
    """What TensorBoard may sort and filter runs by."""
    return {
        "net": run.net,
        "treatment": str(run.treatment),
        "samples a class": "all" if run.task.shots is None else run.task.shots,
        "seed": run.seed,
        "task": run.task.name,
        "steps": run.steps,
    }


def _tensorboard() -> Any:
    """torch.utils.tensorboard; StudyError, with what to install, where TensorBoard is not there."""
    if find_spec("tensorboard") is None:
        raise StudyError(
            "--tensorboard needs tensorboard, which is not installed; pip install 'layerwise[tensorboard]'"
        )
    try:
        return import_module("torch.utils.tensorboard")
    except Exception as error:  # whatever a broken installation may raise
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise StudyError(
            f"--tensorboard: tensorboard cannot be imported ({why}); "
            "pip install --force-reinstall 'layerwise[tensorboard]'"
        ) from error
