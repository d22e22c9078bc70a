"""One call for each thing that layerwise does; the command line calls these."""

import os
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from layerwise import __version__
from layerwise.data import open_data
from layerwise.data.dataset import DataSet
from layerwise.errors import StudyError, unknown
from layerwise.execute import local, serial
from layerwise.execute.forecast import Forecast, Size, forecast
from layerwise.execute.plan import Plan, plan
from layerwise.execute.work import Outcome, Setting
from layerwise.outputs import Study, prepare
from layerwise.progress import Quiet, Terminal
from layerwise.rows import frame
from layerwise.run import Run, key
from layerwise.store import Damaged, Record, Store
from layerwise.studies import study_module
from layerwise.studies.request import Request, Result
from layerwise.tasks import examples

EXECUTORS = ("local", "serial")
VERSIONS_OF = ("torch", "numpy", "scipy", "pandas", "pillow", "matplotlib")
ATTEMPTS = 3  # at reading everything back whole


def study(
    name: str,
    *,
    data: str = "glyphs",
    net: str | None = None,
    scale: str = "demo",
    seeds: int | None = None,
    trials: int | None = None,
    shots: Sequence[int] | None = None,
    steps: int | None = None,
    source_steps: int | None = None,
    classes: str | None = None,
    known: str | None = None,
    split: str | None = None,
    hold_out: str | None = None,
    resize: int | None = None,
    grey: bool = False,
    skip_unreadable: bool = False,
    store: str | Path = "layerwise-store",
    out: str | Path | None = None,
    executor: str = "local",
    workers: int | None = None,
    keep: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    command: Sequence[str] | None = None,
) -> Study:
    """Run a study, or what of it the store lacks, and give its rows and claims; see `layerwise study --help`.

    >>> found = study("gutstein", data="glyphs", scale="demo")       # doctest: +SKIP
    >>> found.rows, found.claims, found.report("report.html")        # doctest: +SKIP

    With `out` the report, the rows, the claims and the plan are written there. With `dry_run` nothing is trained: the
    plan and its forecast are in `plan`, and there are no rows. Raises LayerwiseError where an option, the data or the
    store is not usable; an interruption (KeyboardInterrupt) says how many runs are stored.
    """
    listener = Quiet() if quiet else Terminal()
    asked = {
        k: v for k, v in locals().items() if k not in {"listener", "command", "quiet", "dry_run"} and v is not None
    }
    module = study_module(name)
    workers = _workers(executor, workers)
    shelf = Store(Path(store))
    opened, place = open_data(data, shelf.folder / "data", resize=resize, grey=grey, skip_unreadable=skip_unreadable)
    request = Request(
        opened, net, scale, seeds, trials, None if shots is None else tuple(shots), steps, source_steps, classes, known,
        split, hold_out,
    )  # fmt: skip
    design = module.design(request)
    wanted = module.runs(design)
    if out is not None and not dry_run:
        prepare(Path(out))
    for note in (*opened.notes, *design.notes):
        listener.say(f"Note: {note}")
    job = _Job(wanted, shelf, {opened.digest: place}, opened, executor, workers, keep, listener)
    made = job.plan() if dry_run else job.complete()
    rows = frame([]) if dry_run else module.table(design, {k: _result(r) for k, r in job.records.items()})
    written = {
        "runs": [_planned(run, opened, job.forecast, job.records.get(key(run))) for run in made.runs],
        "totals": job.totals(made),
        "notes": [*opened.notes, *design.notes, *([] if dry_run else module.remarks(design, rows))],
        "provenance": _provenance(command or _call(asked), opened, shelf, executor, workers, wanted),
    }
    claims = () if dry_run else tuple(module.claims(rows))
    found = Study(name, rows, claims, written, tuple(job.failures))
    if out is not None and not dry_run:
        found.save(out)
    return found


class _Job:
    """The way from wanted runs to their records, through the store."""

    def __init__(
        self, wanted: Sequence[Run], store: Store, folders: dict[str, Path], data: DataSet,
        executor: str, workers: int, keep: bool, listener: Quiet,
    ) -> None:  # fmt: skip
        self.wanted, self.store, self.folders, self.data = wanted, store, folders, data
        self.executor, self.workers, self.keep, self.listener = executor, workers, keep, listener
        self.records: dict[str, Record] = {}
        self.failures: list[str] = []
        self.forecast = Forecast({}, {}, 0.0, 0, 0)
        self.stored_before = 0
        self.seconds = 0.0

    def plan(self) -> Plan:
        """What is missing, with its forecast, told to the user."""
        bare = plan(self.wanted, lambda name, weights: self.store.has(name, weights=weights), keep=self.keep)
        sizes = {key(run): _size(run, self.data) for run in bare.runs}
        self.forecast = forecast(bare, sizes, self.workers)
        full = Plan(bare.runs, bare.missing, bare.kept, self.forecast.seconds)
        self.stored_before = full.stored
        self.listener.planned(full, self.forecast, self.workers)
        return full

    def complete(self) -> Plan:
        """Do what is missing until every record reads back whole; damaged ones are set aside and done again."""
        first = made = self.plan()
        first_forecast, stored = self.forecast, self.stored_before
        start = time.perf_counter()
        try:
            for _ in range(ATTEMPTS):
                self._execute(made)
                if not self._collect(made):
                    break
                made = self.plan()
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
        setting = Setting(self.store.folder.absolute(), self.folders, made.kept, self.executor, made.seconds)
        try:
            for outcome in self._outcomes(made, setting):
                self.listener.ended(outcome)
                if not outcome.is_stored:
                    self.failures.append(outcome.message)
        finally:
            self.listener.close()

    def _outcomes(self, made: Plan, setting: Setting) -> Iterator[Outcome]:
        if self.executor == "serial":
            return serial.execute(made, setting)
        return local.execute(made, setting, self.workers)

    def _collect(self, made: Plan) -> bool:
        """Read every finished run; gives whether any was damaged."""
        damaged = False
        for name in (key(run) for run in made.runs):
            try:
                self.records[name] = self.store.get(name)
            except KeyError:
                continue  # it failed, and has been told
            except Damaged:
                if told := self.store.mend(name):
                    self.listener.say(told)
                damaged = True
        return damaged


def _workers(executor: str, workers: int | None) -> int:
    if executor not in EXECUTORS:
        raise StudyError(unknown("executor", executor, EXECUTORS))
    if workers is not None and workers < 1:
        raise StudyError(f"--workers {workers} is not possible; the least is 1")
    if executor == "serial" and (workers or 1) > 1:
        raise StudyError(f"--workers {workers} is for --executor local; serial is one process")
    return 1 if executor == "serial" else workers or len(os.sched_getaffinity(0))


def _size(run: Run, data: DataSet) -> Size:
    found = _counts(run, data)
    return Size(data.images.shape[1:], found["train"], found["validation"] + found["test"])


_counted: dict[tuple[str, Any], dict[str, int]] = {}


def _counts(run: Run, data: DataSet) -> dict[str, int]:
    """Images in each part of a run's task; tasks that differ in their seed only are equally large."""
    task = run.task
    alike = (data.digest, (task.classes, task.shots, task.parts))
    if alike not in _counted:
        found = examples(task, data.labels, data.columns, data.class_names)
        _counted[alike] = {name: len(positions) for name, positions in vars(found).items()}
    return _counted[alike]


def _planned(run: Run, data: DataSet, expected: Forecast, record: Record | None) -> dict[str, Any]:
    """A run as plan.json has it."""
    name = key(run)
    return {
        "key": name,
        "source_key": key(run.source) if run.source else None,
        "net": run.net,
        "task": run.task.name,
        "classes": list(run.task.classes),
        "treatment": str(run.treatment),
        "shots": run.task.shots,
        "seed": run.seed,
        "examples": _counts(run, data)["train"],
        "steps": run.steps,
        "batch_size": run.recipes[0].batch_size,
        "forecast_flops": expected.flops.get(name),
        "forecast_seconds": record.result.get("forecast_seconds") if record else expected.seconds.get(name),
        "seconds": record.result["seconds"] if record else None,
    }


def _result(record: Record) -> Result:
    curve = tuple(tuple(point) for point in record.result["curve"])
    return Result(record.key, curve, record.result["train_flops"], record.result["parameters_trained"])


def _provenance(
    command: Sequence[str] | str, data: DataSet, store: Store, executor: str, workers: int, wanted: Sequence[Run]
) -> dict[str, Any]:
    return {
        "command": command if isinstance(command, str) else shlex.join(command),
        "versions": {
            "layerwise": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in VERSIONS_OF},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "executor": f"{executor}, {workers} process{'es' * (workers != 1)} of one thread",
        },
        "data": {
            "name": data.name,
            "digest": data.digest,
            "images": f"{len(data.images):,} of {'x'.join(map(str, data.images.shape[1:]))}",
            "classes": len(data.class_names),
        },
        "seeds": sorted({run.seed for run in wanted}),
        "store": str(store.folder),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _call(asked: dict[str, Any]) -> str:
    """The call in Python that made a study."""
    name = asked.pop("name")
    given = ", ".join(f"{option}={value!r}" for option, value in asked.items() if value is not False)
    return f"layerwise.study({name!r}, {given})"
