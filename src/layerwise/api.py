"""One call for each thing that layerwise does; the command line calls these."""

import math
import os
import platform
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
from torch import nn

from layerwise import __version__
from layerwise.data import open_data
from layerwise.data.dataset import DataSet, save
from layerwise.data.groups import column_of
from layerwise.errors import LayerwiseError, StudyError, unknown
from layerwise.execute.forecast import Size
from layerwise.execute.plan import Plan
from layerwise.job import Job, Means, counts
from layerwise.measure import measure
from layerwise.nets import named, own_size
from layerwise.nets.weights import parse_net
from layerwise.outputs import Scoreboard, Study, claims, prepare
from layerwise.probes.activations import POOLINGS
from layerwise.probing.examine import chosen, compares, examine
from layerwise.probing.examined import Examined
from layerwise.probing.subject import Asked, fitted, subject
from layerwise.progress import Quiet, Terminal, duration
from layerwise.rows import frame
from layerwise.run import Run, key
from layerwise.store import Record, Store
from layerwise.studies import STUDIES, study_module
from layerwise.studies.request import Request
from layerwise.studies.results import Result

EVERY = "all"  # studies
FLOAT_BYTES = 4
ALONE = ("net", "experiments", "trials", "shots", "steps", "source_steps", "known", "split")  # are options of one study
WITH_DATA = (
    "resize",
    "grey",
    "classes",
    "hold_out",
    "groups",
    "drop_duplicates",
)  # options that need --data where there are many studies
VERSIONS_OF = ("torch", "numpy", "scipy", "pandas", "pillow", "matplotlib")


def study(
    name: str,
    *,
    data: str | None = None,
    net: str | None = None,
    experiments: str | None = None,
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
    groups: str | None = None,
    drop_duplicates: bool = False,
    store: str | Path = "layerwise-store",
    out: str | Path | None = None,
    executor: str = "local",
    address: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    deterministic: bool = False,
    precision: str = "float32",
    channels_last: bool = False,
    augment: str = "",
    keep: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
    command: Sequence[str] | None = None,
) -> Study | Scoreboard:
    """Run a study, or what of it the store lacks, and give its rows and claims; see `layerwise study --help`.

    >>> found = study("gutstein", scale="demo")                      # doctest: +SKIP
    >>> found.rows, found.claims, found.report("report.html")        # doctest: +SKIP

    With `out` the report, the rows, the claims and the plan are written there. With `dry_run` nothing is trained: the
    plan and its forecast are in `plan`, and there are no rows. The study "all" is every study, one after the other, and
    gives a scoreboard of their claims. Raises LayerwiseError where an option, the data or the store is not usable; an
    interruption (KeyboardInterrupt) says how many runs are stored.
    """
    listener = Quiet() if quiet else Terminal()
    asked = {
        k: v
        for k, v in locals().items()
        if k not in {"listener", "command", "quiet", "dry_run"} and v not in (None, "")
    }
    if name == EVERY:
        return _every(asked, listener, dry_run=dry_run, quiet=quiet, command=command)
    module = study_module(name)
    means = Means(executor, workers, device, deterministic, keep, address)
    shelf = Store(Path(store))
    net = net and named(net)
    opened, place = open_data(
        data or module.DATA, shelf.folder / "data", resize=resize or (net and own_size(net)) or module.RESIZE,
        grey=grey or module.GREY, skip_unreadable=skip_unreadable, drop_duplicates=drop_duplicates, groups=groups,
    )  # fmt: skip
    request = Request(
        opened, net, scale, seeds, trials, None if shots is None else tuple(shots), steps, source_steps, classes, known,
        split, hold_out, precision, channels_last, experiments, augment, groups and column_of(groups),
    )  # fmt: skip
    design = module.design(request)
    wanted, looks = module.runs(design), module.measurements(design)
    looked_at = frozenset(key(run) for look in looks for run in look.runs)
    job = Job(wanted, shelf, opened, {opened.digest: place}, means, listener, looked_at)
    if out is not None and not dry_run:
        prepare(Path(out))
    for note in (*opened.notes, *design.notes):
        listener.say(f"Note: {note}")
    made = job.plan() if dry_run else job.complete()
    rows, failures = frame([]), list(job.failures)
    if not dry_run:
        here = [look for look in looks if all(key(run) in job.records for run in look.runs)]
        measured, failed = measure(here, shelf, place, means.processes, listener)
        rows = module.table(design, {k: _result(r) for k, r in job.records.items()}, measured)
        failures += failed
    written = {
        "runs": [_planned(run, opened, job, made, job.records.get(key(run))) for run in made.runs],
        "totals": job.totals(made),
        "notes": [*opened.notes, *design.notes, *([] if dry_run else module.remarks(design, rows))],
        "provenance": _provenance(_command(command, asked), opened, shelf, means, wanted),
    }
    found = Study(name, rows, () if dry_run else claims(name, rows), written, tuple(failures))
    if out is not None and not dry_run:
        found.save(out)
    return found


def _every(
    asked: dict[str, Any], listener: Quiet, *, dry_run: bool, quiet: bool, command: Sequence[str] | None
) -> Scoreboard:
    """Every study with these options; one that fails is told, and harms no other.

    With `data` each that can takes these images, in the size that it needs; in that of `resize` where any will do.
    """
    given = {k: v for k, v in asked.items() if k not in {"name", "out"} and v is not False}
    _check_for_all(given)
    out = Path(asked["out"]) if "out" in asked else None
    made: list[Study] = []
    lost: dict[str, Exception] = {}
    for name in STUDIES:
        listener.say(f"Study {name}")
        try:
            fitting = _fitting(study_module(name), given, listener)
            found = study(name, **fitting, out=out and out / name, dry_run=dry_run, quiet=quiet, command=command)
        except KeyboardInterrupt as interruption:
            told = str(interruption) or "nothing is lost; the same command does the rest"
            raise KeyboardInterrupt(f"in study {name}: {told}") from None
        except Exception as error:
            lost[name] = error
            listener.say(f"Study {name} failed: {_told(error)}")
        else:
            assert isinstance(found, Study)
            made.append(found)
    if not made:
        raise next(iter(lost.values()))
    reasons = [f"study {name} failed ({_told(error)}); run it by itself to see why" for name, error in lost.items()]
    board = Scoreboard.of(made, reasons, _command(command, asked))
    totals = board.plan["totals"]
    counts = f"{totals['runs']} runs wanted, {totals['stored']} stored, {totals['missing']} missing"
    time = f"forecast {duration(totals['forecast_seconds'])}" if totals["missing"] else "nothing to train"
    listener.say(f"All {len(made)} studies: {counts}; {time}")
    if out and not dry_run:
        board.save(out)
    return board


def _fitting(module: ModuleType, given: dict[str, Any], listener: Quiet) -> dict[str, Any]:
    """The options as one of several studies takes them: images in its own size, or its own where no others will do."""
    if not getattr(module, "ANY_DATA", True) and "data" in given:
        listener.say(f"Note: this study has only its own images, {module.DATA}")
        return {k: v for k, v in given.items() if k not in {"data", *WITH_DATA}}
    return {**given, "resize": module.RESIZE or given.get("resize")}


def _check_for_all(given: dict[str, Any]) -> None:
    """Raise StudyError for options that do not mean the same to every study."""
    for option in (*ALONE, *WITH_DATA):
        if option not in given:
            continue
        value = given[option]
        told = "" if value is True else " " + ",".join(map(str, value if isinstance(value, list | tuple) else [value]))
        shown = f"--{option.replace('_', '-')}{told}"
        if option in ALONE:
            raise StudyError(f"{shown} is for one study; run that one by itself, such as: layerwise study gutstein")
        if "data" not in given:
            raise StudyError(f"{shown} needs --data here: without it each study has images of its own")


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, LayerwiseError) else f"{type(error).__name__}: {error}".partition("\n")[0]


def probe(
    net: str | nn.Module,
    data: str,
    *,
    probes: str = "quick",
    known: str | None = None,
    pooling: str = "mean",
    against: str | None = None,
    examples: int = 100,
    classes: str | None = None,
    resize: int | None = None,
    grey: bool = False,
    skip_unreadable: bool = False,
    groups: str | None = None,
    drop_duplicates: bool = False,
    hold_out: str | None = None,
    steps: int = 500,
    batch_size: int = 50,
    rate: float = 0.05,
    shots: int | None = None,
    seed: int = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    memory: int = 1024,
    store: str | Path = "layerwise-store",
    out: str | Path | None = None,
    quiet: bool = False,
    command: Sequence[str] | None = None,
) -> Examined:
    """Look at every layer of a net, and give the rows; see `layerwise probe --help`.

    >>> found = probe("sharma", "digits", resize=32, known="0-4")    # doctest: +SKIP
    >>> found.layers, found.rows, found.report("report.html")        # doctest: +SKIP

    A net without weights (`net` has no `@FILE.safetensors`) is first trained on the known classes, and kept in the
    store. A net of your own is taken as it is, with the mean and deviation that its pixels (from 0 to 1) are to have
    taken off, per channel. `memory` is in megabytes. Raises LayerwiseError where an option, the data or the store is
    not usable.
    """
    listener = Quiet() if quiet else Terminal()
    asked = {k: v for k, v in locals().items() if k not in {"listener", "command", "quiet"} and v is not None}
    names = chosen(probes)
    if pooling not in POOLINGS:
        raise StudyError(unknown("pooling", pooling, POOLINGS))
    if memory < 1:
        raise StudyError(f"--memory {memory} is not possible; the least is 1, in megabytes")
    shelf, means = Store(Path(store)), Means("serial", device="cpu", keep=True)
    own = own_size(parse_net(net)[0]) if isinstance(net, str) and not resize else None
    opened, place = open_data(
        data, shelf.folder / "data", resize=resize or own, grey=grey, skip_unreadable=skip_unreadable,
        drop_duplicates=drop_duplicates, groups=groups,
    )  # fmt: skip
    wish = Asked(
        net, known, classes, examples, shots, steps, batch_size, rate, hold_out, seed, tuple(mean), tuple(std),
        groups and column_of(groups),
    )  # fmt: skip
    wishes = [wish, *([replace(wish, net=against)] if against and compares(names) else [])]
    plans = [fitted(one, opened, beside=wishes[-1 - k]) for k, one in enumerate(wishes)]
    if out is not None:
        prepare(Path(out))
    sized = [f"images are made {own} x {own}, the net's own size; --resize makes them others"] if own else []
    notes = list(dict.fromkeys([*sized, *opened.notes, *(note for plan in plans for note in plan.notes)]))
    for note in notes:
        listener.say(f"Note: {note}")
    wanted = [plan.run for plan in plans if plan.run]
    job = Job(wanted, shelf, opened, {opened.digest: place}, means, listener)
    for run in wanted:
        _check_room(job.size(run))
    made = job.complete() if wanted else Plan((), (), frozenset())
    if job.failures:
        raise StudyError(job.failures[0])
    subjects = [subject(plan, shelf) for plan in plans]
    written = {
        "runs": [_planned(run, opened, job, made, job.records.get(key(run))) for run in made.runs],
        "totals": job.totals(made),
        "notes": notes,
        "provenance": _provenance(_command(command, asked, "probe"), opened, shelf, means, wanted),
    }
    found = examine(
        subjects[0], names, pooling=pooling, memory=memory * 2**20, other=subjects[1] if len(subjects) > 1 else None,
        listener=listener, plan=written,
    )  # fmt: skip
    if out is not None:
        found.save(out)
    return found


def _check_room(size: Size) -> None:
    """Raise StudyError where the images that a run needs have no room in memory, rather than be killed on the way."""
    images, free = size.train + size.others, psutil.virtual_memory().available
    needed = 2 * images * math.prod(size.shape) * FLOAT_BYTES  # as they are read, and as the net takes them
    if needed > free:
        what = f"{images:,} images of {'x'.join(map(str, size.shape))} take {needed / 1e9:.1f} GB"
        raise StudyError(
            f"{what}, and {free / 1e9:.1f} GB are free; pass a smaller --resize, --shots or fewer --classes"
        )


def train_all(
    runs: Sequence[Run],
    data: DataSet,
    *,
    store: str | Path = "layerwise-store",
    executor: str = "local",
    address: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    deterministic: bool = False,
    keep: bool = False,
    listener: Quiet | None = None,
) -> dict[str, Record]:
    """Train runs of your own, or what of them the store lacks, on one data set; gives their records by key.

    Their sources come along. Progress goes to the terminal unless a listener (see `layerwise.progress`) takes it.
    Raises StudyError where runs do not finish, with what became of each.
    """
    shelf = Store(Path(store))
    place = shelf.folder / "data" / data.digest
    if not place.exists():
        save(data, place)
    means = Means(executor, workers, device, deterministic, keep, address)
    job = Job(runs, shelf, data, {data.digest: place}, means, listener or Terminal())
    job.complete()
    if job.failures:
        raise StudyError("; ".join(job.failures))
    return job.records


def _planned(run: Run, data: DataSet, job: Job, made: Plan, record: Record | None) -> dict[str, Any]:
    """A run as plan.json has it."""
    name = key(run)
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
        "examples": counts(run.task, data)["train"],
        "steps": run.steps,
        "batch_size": run.recipes[0].batch_size,
        "forecast_flops": job.forecast.flops.get(name),
        "forecast_seconds": record.result.get("forecast_seconds") if record else made.seconds.get(name),
        "seconds": record.result["seconds"] if record else None,
    }


def _result(record: Record) -> Result:
    curve = tuple(tuple(point) for point in record.result["curve"])
    return Result(record.key, curve, record.result["train_flops"], record.result["parameters_trained"])


def _provenance(command: str, data: DataSet, store: Store, means: Means, wanted: Sequence[Run]) -> dict[str, Any]:
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
        "seeds": sorted({run.seed for run in wanted}),
        "store": str(store.folder),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _command(command: Sequence[str] | None, asked: dict[str, Any], what: str = "study") -> str:
    """The command that made a study or a probe, or the call in Python; a net is told by its class."""
    if command is not None:
        return shlex.join(command)
    told = {k: type(v).__name__ if isinstance(v, nn.Module) else repr(v) for k, v in asked.items() if v is not False}
    given = ", ".join(f"{option}={value}" for option, value in told.items())
    return f"layerwise.{what}({given})"
