"""One call for each thing that layerwise does; the command line calls these."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from torch import nn

from layerwise.data.dataset import DataSet, cached
from layerwise.errors import StudyError, unknown
from layerwise.every import every
from layerwise.execute.forecast import Size
from layerwise.execute.plan import Plan
from layerwise.images import Images, open_images
from layerwise.job import Job, Means
from layerwise.listening import listening
from layerwise.measure import Measurement, measure
from layerwise.nets import named, own_size
from layerwise.nets.weights import parse_net, read_weights
from layerwise.outputs import Scoreboard, Study, claims, prepare
from layerwise.plan_file import command_of, contents
from layerwise.probed import Probed
from layerwise.probes.activations import POOLINGS
from layerwise.probes.inversion import in_pixels
from layerwise.probing.examine import chosen, compares, examine
from layerwise.probing.reconstruction import Reconstruction
from layerwise.probing.subject import Asked, Subject, fitted, subject
from layerwise.progress import Quiet, Terminal
from layerwise.report import thumbnails
from layerwise.rows import frame
from layerwise.run import Run, key
from layerwise.store import Record, Store
from layerwise.studies import study_module
from layerwise.studies.given_net import given_net
from layerwise.studies.request import Request, without_weights
from layerwise.studies.results import Result

EVERY = "all"  # studies
FLOAT_BYTES = 4
EMBEDDINGS = ("tsne", "pca")  # quantities that place images in a plane


def study(
    name: str,
    *,
    data: str | None = None,
    net: str | None = None,
    deep: str | None = None,
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
    tensorboard: str | Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    command: Sequence[str] | None = None,
) -> Study | Scoreboard:
    """Run a study, or what of it the store lacks, and give its rows and claims; see `layerwise study --help`.

    >>> found = study("gutstein", scale="demo")                      # doctest: +SKIP
    >>> found.rows, found.claims, found.report("report.html")        # doctest: +SKIP

    With `out` the report, the rows, the claims and the plan are written there, and with `tensorboard` the curves of
    finished runs. With `dry_run` nothing is trained: the plan and its forecast are in `plan`, and there are no rows.
    The study "all" is every study, one after the other, and gives a scoreboard of their claims. Raises LayerwiseError
    where an option, the data or the store is not usable; an interruption (KeyboardInterrupt) says how many runs are
    stored.
    """
    asked = {k: v for k, v in locals().items() if k not in {"command", "quiet", "dry_run"} and v not in (None, "")}
    told = command_of(command, asked)
    if deep and (name == EVERY or not getattr(study_module(name), "TAKES_DEEP", False)):
        raise StudyError(f"--deep {deep} is for the study sharma alone; run: layerwise study sharma --deep {deep}")
    if name == EVERY:
        one = partial(study, dry_run=dry_run, quiet=quiet, command=command)
        return every(one, asked, Quiet() if quiet else Terminal(), dry_run=dry_run, command=told)
    module, shelf = study_module(name), Store(Path(store))
    listener = listening(shelf, told, quiet=quiet, dry_run=dry_run, tensorboard=tensorboard)
    means = Means(executor, workers, device, deterministic, keep, address)
    net = net and named(without_weights(net))
    usual = (net and own_size(net)) or module.RESIZE
    images = Images(
        data or module.DATA, classes, usual if resize is None else resize, grey or module.GREY, skip_unreadable,
        drop_duplicates, groups, hold_out,
    )  # fmt: skip
    opened, place = images.open(shelf.folder / "data")
    request = Request(
        opened, net, scale, seeds, trials, None if shots is None else tuple(shots), steps, source_steps, classes, known,
        split, hold_out, precision, channels_last, experiments, augment, images.group_column,
        given_net(deep) if deep else None,
    )  # fmt: skip
    design = module.design(request)
    wanted, looks = module.runs(design), module.measurements(design)
    looked_at = frozenset(key(run) for look in looks for run in look.runs)
    job = Job(wanted, shelf, opened, {opened.digest: place}, means, listener, looked_at)
    if out is not None and not dry_run:
        prepare(Path(out))
    for note in (*opened.notes, *design.notes):
        listener.say(f"Note: {note}")
    if dry_run:
        return Study(name, frame([]), (), contents(job, job.plan(), [*opened.notes, *design.notes], told))
    if request.deep:
        shelf.put_weights(request.deep.content)
    found = _done(name, design, job, looks, told)
    if out is not None:
        found.save(out)
    return found


def _done(name: str, design: Any, job: Job, looks: Sequence[Measurement], command: str) -> Study:
    """Train what is missing and measure what is wanted; gives the study of what has come of it."""
    module, data = study_module(name), job.data
    made = job.complete()
    here = [look for look in looks if all(key(run) in job.records for run in look.runs)]
    measured, failed = measure(here, job.store, job.folders[data.digest], job.means.processes_here, job.listener)
    rows = module.table(design, {k: result_of(r) for k, r in job.records.items()}, measured)
    notes = [*data.notes, *design.notes, *module.remarks(design, rows)]
    return Study(name, rows, claims(name, rows), contents(job, made, notes, command), (*job.failures, *failed))


def probe(
    net: str | nn.Module,
    data: str,
    *,
    probes: str = "quick",
    known: str | None = None,
    pooling: str = "mean",
    against: str | None = None,
    layers: str | None = None,
    total_variation: float = 0.0,
    norm: float = 0.0,
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
) -> Probed:
    """Look at every layer of a net, and give the rows; see `layerwise probe --help`.

    >>> found = probe("sharma", "digits", resize=32, known="0-4")    # doctest: +SKIP
    >>> found.layers, found.rows, found.report("report.html")        # doctest: +SKIP

    A net without weights (`net` has no `@FILE.safetensors`) is first trained on the known classes, and kept in the
    store. A net of your own is taken as it is, with the mean and deviation that its pixels (from 0 to 1) are to have
    taken off, per channel. `memory` is in megabytes. `layers` are those that are inverted and decoded, by default 6 of
    a deeper net; `total_variation` and `norm` are weights of the inversions' priors, as those of
    `layerwise.probes.inversion.Search`. Raises LayerwiseError where an option, the data or the store is
    not usable.
    """
    asked = {k: v for k, v in locals().items() if k not in {"command", "quiet"} and v is not None}
    told = command_of(command, asked, "probe")
    names = chosen(probes)
    if pooling not in POOLINGS:
        raise StudyError(unknown("pooling", pooling, POOLINGS))
    if memory < 1:
        raise StudyError(f"--memory {memory} is not possible; the least is 1, in megabytes")
    reconstruction = Reconstruction(layers, total_variation, norm)
    reconstruction.check(names)
    shelf, means = Store(Path(store)), Means("serial", device="cpu", keep=True)
    listener = listening(shelf, told, quiet=quiet)
    name, path = parse_net(net) if isinstance(net, str) else (None, None)
    images = Images(data, classes, resize, grey, skip_unreadable, drop_duplicates, groups, hold_out)
    opened = open_images(images, shelf.folder / "data", name, read_weights(path) if path else None, str(net))
    wish = Asked(
        net, known, classes, examples, shots, steps, batch_size, rate, hold_out, seed, tuple(mean), tuple(std),
        images.group_column,
    )  # fmt: skip
    wishes = [wish, *([replace(wish, net=against)] if against and compares(names) else [])]
    plans = [fitted(one, opened.data, beside=wishes[-1 - k]) for k, one in enumerate(wishes)]
    if layers is not None:
        reconstruction.numbers(plans[0].layers)  # a wrong name is told before anything is trained
    if out is not None:
        prepare(Path(out))
    notes = list(dict.fromkeys([*opened.data.notes, *(note for plan in plans for note in plan.notes)]))
    for note in notes:
        listener.say(f"Note: {note}")
    wanted = [plan.run for plan in plans if plan.run]
    job = Job(wanted, shelf, opened.data, {opened.data.digest: opened.place}, means, listener)
    for run in wanted:
        _check_room(job.size(run))
    made = job.complete() if wanted else Plan((), (), frozenset())
    if job.failures:
        raise StudyError(job.failures[0])
    subjects = [subject(plan, shelf) for plan in plans]
    found = Probed.of(examine(
        subjects[0], names, pooling=pooling, memory=memory * 2**20, other=subjects[1] if len(subjects) > 1 else None,
        listener=listener, plan=contents(job, made, notes, told), reconstruction=reconstruction,
    ))  # fmt: skip
    found = _with_thumbnails(found, subjects[0])
    if out is not None:
        found.save(out)
    return found


def _with_thumbnails(found: Probed, looked: Subject) -> Probed:
    """With small pictures of the images that stand in embeddings; there may be none."""
    points = found.rows.loc[found.rows["quantity"].isin(EMBEDDINGS), "unit"].dropna()
    units = [int(unit) for unit in points.drop_duplicates()]
    if not units:
        return found
    mean, std = looked.kind.pixels(looked.images.shape[1])
    pixels = in_pixels(looked.images[units], mean, std).clamp(0, 1).mul(255).round().byte().numpy()
    captions = {**found.plan["captions"], thumbnails.NAME: "The images that stand in embeddings, in the rows' order."}
    pictures = {**found.pictures, thumbnails.NAME: thumbnails.sheet(pixels)}
    return replace(found, pictures=pictures, plan={**found.plan, "captions": captions, thumbnails.NAME: units})


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

    Their sources come along. Progress goes to the terminal and to `layerwise watch`, unless a listener (see
    `layerwise.progress`) takes it.
    Raises StudyError where runs do not finish, with what became of each.
    """
    shelf = Store(Path(store))
    place = cached(data, shelf.folder / "data" / data.digest)
    means = Means(executor, workers, device, deterministic, keep, address)
    told = listener or listening(shelf, "layerwise.train_all(...)", quiet=False)
    job = Job(runs, shelf, data, {data.digest: place}, means, told)
    job.complete()
    if job.failures:
        raise StudyError("; ".join(job.failures))
    return job.records


def result_of(record: Record) -> Result:
    """What `layerwise.studies.results.rows_of` makes rows of."""
    curve = tuple(tuple(point) for point in record.result["curve"])
    return Result(record.key, curve, record.result["train_flops"], record.result["parameters_trained"])
