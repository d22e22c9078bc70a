"""The way from wanted runs to their records: plan, forecast, train what is missing, read everything back."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from layerwise.data.dataset import DataSet
from layerwise.errors import StudyError, unknown
from layerwise.execute import cluster, forks, local, serial
from layerwise.execute.forecast import PROCESS_MEGABYTES, Forecast, Size, forecast, unit_bytes
from layerwise.execute.plan import Plan, Unit, grouped, ordered, plan
from layerwise.execute.processor import has_bfloat16, room
from layerwise.execute.widths import Widths
from layerwise.execute.work import Outcome, Setting
from layerwise.nets.places import places
from layerwise.progress import Quiet
from layerwise.run import Run, key
from layerwise.store import Damaged, Record, Store
from layerwise.tasks import TEST, TRAIN, VALIDATION, Parts, Task, examples, part

EXECUTORS = ("local", "serial", "cluster")
ATTEMPTS = 3  # at reading everything back whole


@dataclass(frozen=True)
class Means:
    """How runs are to be trained: by what, on what, and what is kept of them. None of it alters a result."""

    executor: str = "local"
    workers: int | None = None  # processes; by default one per core, on a cluster all that it has room for
    device: str = "auto"
    deterministic: bool = False  # on a GPU; a CPU always is
    keep: bool = False  # the weights of every run, not only of sources
    address: str | None = None  # of a cluster: auto, local, HOST:PORT, ray://HOST:PORT

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise StudyError(unknown("executor", self.executor, EXECUTORS))
        if self.workers is not None and self.workers < 1:
            raise StudyError(f"--workers {self.workers} is not possible; the least is 1")
        if self.executor == "serial" and (self.workers or 1) > 1:
            raise StudyError(f"--workers {self.workers} is for --executor local; serial is one process")
        if self.device not in {"auto", "cpu", "cuda"}:
            raise StudyError(unknown("device", self.device, ("auto", "cpu", "cuda")))
        if self.address is not None and self.executor != "cluster":
            raise StudyError(f"--address {self.address} is for --executor cluster; pass both, or neither")
        if self.device == "cuda" and not self.offer[1]:
            where = "no node of the cluster has a GPU" if self.is_elsewhere else "PyTorch finds no GPU here"
            raise StudyError(f"--device cuda: {where}; pass --device cpu")

    @cached_property
    def offer(self) -> tuple[int, int]:
        """How many processors and GPUs there are."""
        if self.is_elsewhere:
            return cluster.offer(self.address or "auto")
        return len(os.sched_getaffinity(0)), torch.cuda.device_count() if torch.cuda.is_available() else 0

    @property
    def is_elsewhere(self) -> bool:
        """Is it for other machines to say what they have and can?"""
        return self.executor == "cluster" and self.address != "local"

    @property
    def place(self) -> str:
        """The device: a GPU if there is one and nothing else was asked for."""
        return "cuda" if self.device != "cpu" and self.offer[1] else "cpu"

    @property
    def here(self) -> str:
        """The device of this machine on which speeds are measured: that of the runs, if there is one here too."""
        return "cuda" if self.place == "cuda" and torch.cuda.is_available() else "cpu"

    @property
    def units(self) -> int:
        """Into how many fleets runs are divided at least, so that nobody is without work, whatever --workers says."""
        if self.is_elsewhere:
            return self.processes
        return self.offer[0] if self.place == "cpu" else 1

    @property
    def processes(self) -> int:
        """How many train at once: one per core, or one for a GPU, which is full with one."""
        if self.executor == "serial":
            return 1
        processors, gpus = self.offer
        return self.workers or max(1, processors if self.place == "cpu" else gpus if self.is_elsewhere else 1)

    @property
    def processes_here(self) -> int:
        """How many measure at once what was trained: that is done on this machine, whoever trained it."""
        return min(self.processes, len(os.sched_getaffinity(0)))


def check_precision(precision: str, means: Means) -> None:
    """Raise StudyError where the device does not calculate like this, and would only imitate it."""
    device = means.place
    if means.is_elsewhere:
        return  # the executor looks at each node
    if precision == "bfloat16" and not has_bfloat16(device):
        which = "processor" if device == "cpu" else "GPU"
        raise StudyError(f"--precision bfloat16: this {which} does not calculate in bfloat16; pass float32")
    if precision == "tf32" and not (device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)):
        raise StudyError("--precision tf32 is for GPUs that have TF32 (Ampere and later); pass float32")


@dataclass
class Job:
    """Wanted runs on their way through the store to their records."""

    wanted: Sequence[Run]
    store: Store
    data: DataSet
    folders: dict[str, Path]  # of data sets, by digest
    means: Means
    listener: Quiet
    kept: frozenset[str] = frozenset()  # keys of runs whose weights are kept, beside those of sources
    records: dict[str, Record] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    diverged: dict[str, str] = field(default_factory=dict)  # of the failures, by key, those whose loss was no number
    forecast: Forecast = field(default_factory=lambda: Forecast({}, {}, 0.0, 0, 0))
    stored_before: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for precision in sorted({recipe.precision for run in self.wanted for recipe in run.recipes}):
            check_precision(precision, self.means)
        if self.means.executor == "local":
            forks.context()  # it loads torch while the plan is made

    def plan(self, *, begins: bool = False) -> Plan:
        """What is missing, with its forecast, told to the user; `begins` says that it is carried out now."""
        keep = frozenset(map(key, self.wanted)) if self.means.keep else self.kept
        made = plan(self.wanted, lambda name, weights: self.store.has(name, weights=weights), keep=keep)
        if made.missing and self.means.executor != "serial":
            shape = self.data.images.shape[1:]
            beside = self.store.folder / "fleets.json"
            widths = Widths(self.means.units, beside=beside, device=self.means.here, begins=begins)
            made = grouped(made, lambda run, count: widths.of(run, count, shape))
        self.forecast = forecast(made, self.size, self.means.processes, self.means.here, self._taken(made))
        made = ordered(made, self.forecast.units)
        self.stored_before = made.stored
        self.listener.planned(made, self.forecast, self.means.processes)
        return made

    def _taken(self, made: Plan) -> dict[str, int]:
        """Steps by key of those of the runs that may stop before their last, and are finished."""
        stopping = [key(run) for run in made.runs if any(recipe.stop_at is not None for recipe in run.recipes)]
        return {name: sum(record.result["steps"]) for name, record in self.store.records(stopping).items()}

    @property
    def faults(self) -> list[str]:
        """The failures that tell nothing of a net, such as short memory: all but those that diverged."""
        return [message for message in self.failures if message not in self.diverged.values()]

    def size(self, run: Run) -> Size:
        """How large a run's task is."""
        found = counts(run.task, self.data)
        available = counts(replace(run.task, shots=None), self.data)["train"]
        return Size(self.data.images.shape[1:], found["train"], found["validation"] + found["test"], available)

    def complete(self) -> Plan:
        """Do what is missing until every record reads back whole; damaged ones are set aside and done again."""
        first = made = self.plan(begins=True)
        first_forecast, stored = self.forecast, self.stored_before
        start = time.perf_counter()
        try:
            for attempt in range(ATTEMPTS):
                if attempt:
                    made = self.plan(begins=True)
                self.failures.clear()
                self.diverged.clear()
                self._execute(made)
                if not self._collect(made):
                    break
        except KeyboardInterrupt:
            stored = sum(self.store.has(key(run)) for run in first.runs)
            raise KeyboardInterrupt(
                f"{stored} of {len(first.runs)} runs are stored; the same command does the rest"
            ) from None
        lost = [name for run in first.runs if (name := key(run)) not in self.records]
        if lost and not self.failures:
            self.failures.append(f"{len(lost)} runs cannot be read back from {self.store.folder}, {lost[0]} among them")
        self.seconds = time.perf_counter() - start
        self.forecast, self.stored_before = first_forecast, stored
        return first

    def totals(self, made: Plan) -> dict[str, Any]:
        """The plan's sums, forecast and taken."""
        return {
            "runs": len(made.runs),
            "stored": self.stored_before,
            "missing": len(made.missing),
            "forecast_seconds": round(self.forecast.wall_seconds, 2),
            "seconds": round(self.seconds, 2),
            "forecast_flops": sum(self.forecast.flops[key(run)] for run in made.missing),
            "forecast_memory_bytes": self.forecast.memory_bytes,
            "forecast_disk_bytes": self.forecast.disk_bytes,
        }

    def _execute(self, made: Plan) -> None:
        means = self.means
        memory, disk = room(means.processes, means.here)
        setting = Setting(
            store=self.store.folder.absolute(),
            data={digest: folder.absolute() for digest, folder in self.folders.items()},
            kept=made.kept,
            executor=means.executor,
            forecast=made.seconds,
            device=means.place,
            deterministic=means.deterministic,
            memory=memory,
            disk=disk,
            tasks=tuple(dict.fromkeys(run.task for run in made.runs)),
            nets=places(run.net for run in made.runs),
        )
        try:
            for outcome in self._outcomes(made, setting):
                self.listener.ended(outcome)
                if not outcome.is_stored:
                    self.failures.append(outcome.message)
                if outcome.state == "diverged":
                    self.diverged[outcome.key] = outcome.message
        finally:
            self.listener.close()

    def _outcomes(self, made: Plan, setting: Setting) -> Iterator[Outcome]:
        if self.means.executor == "serial":
            return serial.execute(made, setting)
        if self.means.executor == "cluster":
            address, workers = self.means.address or "auto", self.means.workers
            return cluster.execute(made, setting, address, memory=self._bytes, workers=workers)
        return local.execute(made, setting, self.means.processes)

    def _bytes(self, unit: Unit) -> int:
        """Bytes that a unit takes of its device: images, steps, and on the CPU the process itself."""
        return unit_bytes(unit, self.size) + (PROCESS_MEGABYTES * 2**20 if self.means.place == "cpu" else 0)

    def _collect(self, made: Plan) -> bool:
        """Read every finished run; gives whether any was damaged."""
        damaged = False
        self.records = self.store.records(map(key, made.runs))
        for name in (key(run) for run in made.runs if key(run) not in self.records):
            try:
                self.records[name] = self.store.get(name)
            except KeyError:
                continue  # it failed, and has been told
            except Damaged:
                if told := self.store.mend(name):
                    self.listener.say(told)
                damaged = True
        return damaged


_counted: dict[tuple[str, Parts], Int[np.ndarray, "parts classes"]] = {}


def counts(task: Task, data: DataSet) -> dict[str, int]:
    """Images in each part of a task, as `layerwise.tasks.examples` would choose them; raises DataError as it does."""
    name = data.digest, task.parts
    if name not in _counted:
        where = part(task.parts, data.labels, data.columns)
        kinds = (TRAIN, VALIDATION, TEST)
        _counted[name] = np.stack(
            [np.bincount(data.labels[where == k], minlength=len(data.class_names)) for k in kinds]
        )
    train, validation, test = _counted[name][:, list(task.classes)]
    if train.min() < (1 if task.shots is None else task.shots):
        examples(task, data.labels, data.columns, data.class_names)  # says which class has too few
    found = np.stack([train if task.shots is None else np.full_like(train, task.shots), validation, test])
    of_rest = _counted[name][:, list(task.rest)].sum(1) if task.rest else np.zeros(3, int)
    sums = found.sum(1) + np.minimum(of_rest, found.max(1))
    return dict(zip(("train", "validation", "test"), map(int, sums), strict=True))
