"""`layerwise study`: run a study, or what the store lacks of it, and write its report."""

import ast
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise.cli.options import (
    ADDRESSES,
    AUGMENT_HELP,
    EXECUTORS,
    PRECISIONS,
    SCALES,
    STORE,
    StoreOption,
    addresses,
    among,
    data_names,
    net_names,
    numbers,
    precisions,
    study_names,
    whole,
)
from layerwise.cli.printing import complain, print_findings
from layerwise.cli.shared import (
    ClassesOption,
    DeterministicOption,
    DeviceOption,
    DryRunOption,
    DuplicatesOption,
    GreyOption,
    GroupsOption,
    HoldOutOption,
    ResizeOption,
    TensorboardOption,
    UnreadableOption,
    of_data,
    of_running,
    one_of,
)
from layerwise.cli.stopping import resumable
from layerwise.execute import forks
from layerwise.studies import STUDIES


def _design(*names: str, **option: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Design", **option)


def experiments_of(study: str) -> dict[str, str]:
    """The experiments of a study, read from its text: to import it would load torch."""
    return _written(f"layerwise.studies.{study}", "EXPERIMENTS") if study in STUDIES else {}


def _written(module: str, name: str) -> dict[str, str]:
    """A dictionary of texts as a module has it written, or as the module has that it is imported from."""
    place = find_spec(module)
    text = Path(place.origin).read_text(encoding="utf-8") if place and place.origin else ""
    for line in ast.parse(text).body:
        if isinstance(line, ast.ImportFrom) and name in {alias.name for alias in line.names}:
            return _written(str(line.module), name)
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == name:
            return {str(key): str(told) for key, told in ast.literal_eval(line.value).items()}
    return {}


def experiment_names(context: typer.Context, incomplete: str) -> list[str]:
    """Lists of the study's experiments that begin so: the last name of the list is completed."""
    before, comma, last = incomplete.rpartition(",")
    words = context.params.get("name"), *context.args  # while an option lacks its value, arguments are not yet named
    known = experiments_of(next((str(word) for word in words if word in STUDIES), ""))
    return [before + comma + name for name in among(known)(last)]


def every_name(incomplete: str) -> list[str]:
    """Studies whose names begin so, and `all`."""
    return [*study_names(incomplete), *among(["all"])(incomplete)]


def study(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Which study, or `all` for every one and a scoreboard of their claims; see `layerwise studies`.",
            autocompletion=every_name,
        ),
    ],
    data: Annotated[
        str | None,
        of_data(
            metavar="DATA", help="Images; see `layerwise data`.  [default: the study's]", autocompletion=data_names
        ),
    ] = None,
    resize: ResizeOption = None,
    grey: GreyOption = False,
    skip_unreadable: UnreadableOption = False,
    groups: GroupsOption = None,
    drop_duplicates: DuplicatesOption = False,
    classes: ClassesOption = None,
    hold_out: HoldOutOption = None,
    experiments: Annotated[
        str | None,
        _design(
            metavar="LIST",
            help="Which of its experiments; see `layerwise studies`.  [default: all of them]",
            autocompletion=experiment_names,
        ),
    ] = None,
    scale: Annotated[str, _design(**one_of(SCALES))] = "demo",
    net: Annotated[
        str | None,
        _design(metavar="NET", help="See `layerwise nets`.  [default: the paper's own]", autocompletion=net_names),
    ] = None,
    deep: Annotated[
        str | None,
        _design(
            metavar="NET@FILE",
            help="Of `sharma`: the deep net that is inverted beside its own, with weights such as VGG-19's: "
            "torchvision:vgg19@pretrained.  [default: a smaller one, trained here]",
            autocompletion=net_names,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        _design(
            metavar="K",
            parser=whole,
            help="Independent repetitions: class splits (of `hierarchy` worlds), each with its own source net; of "
            "`grand`, whose clusters are categories, repetitions with the same ones.  [default: the scale's]",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        _design(
            metavar="K",
            parser=whole,
            help="Targets from each source, with other samples and fresh weights; averaged.  [default: the scale's]",
        ),
    ] = None,
    shots: Annotated[
        str | None, _design(metavar="N,N,...", help="Training samples per class of the target, such as 1,5,10.")
    ] = None,
    steps: Annotated[int | None, _design(metavar="N", parser=whole, help="Training steps of each target.")] = None,
    source_steps: Annotated[
        int | None,
        _design(metavar="N", parser=whole, help="Training steps of each source, whatever its accuracy then."),
    ] = None,
    known: Annotated[
        str | None, _design(metavar="LIST", help="The source's classes; the others are the target's.")
    ] = None,
    split: Annotated[
        str | None,
        _design(
            metavar="RULE",
            help="How classes are split: random:SEED, or column:NAME, whose two values are source and target.",
        ),
    ] = None,
    precision: Annotated[
        str,
        _design(
            metavar="|".join(PRECISIONS),
            autocompletion=precisions,
            help="Arithmetic of the recipe; " + "; ".join(f"{k}: {v}" for k, v in PRECISIONS.items()) + ".",
        ),
    ] = "float32",
    channels_last: Annotated[
        bool, _design("--channels-last", help="Have convolutions keep an image's channels together, in the recipe.")
    ] = False,
    augment: Annotated[str, _design(metavar="TEXT", help=AUGMENT_HELP)] = "",
    store: StoreOption = STORE,
    out: Annotated[
        Path | None, of_running(metavar="DIR", help="Where the report goes.  [default: layerwise-out/NAME]")
    ] = None,
    executor: Annotated[str, of_running(**one_of(EXECUTORS))] = "local",
    address: Annotated[
        str | None,
        of_running(
            metavar="ADDRESS",
            autocompletion=addresses,
            help="Where the cluster is; " + "; ".join(f"{k}: {v}" for k, v in ADDRESSES.items()) + ".  [default: auto]",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        of_running(
            metavar="K",
            parser=whole,
            help="Processes at once.  [default: one per core; on a cluster, all that it has room for]",
        ),
    ] = None,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    keep: Annotated[bool, of_running("--keep", help="Keep the weights of every run, not only of sources.")] = False,
    tensorboard: TensorboardOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Run a study, or what the store lacks of it, and write its report.

    Stopped at any moment, the same command does the rest. Try `layerwise study gutstein --dry-run` first.
    """
    folder = out or Path("layerwise-out") / name
    with resumable():
        if executor == "local":
            forks.context()  # it loads torch while we do
        from layerwise import api

        found = api.study(
            name, data=data, net=net, deep=deep, experiments=experiments, scale=scale,
            seeds=seeds, trials=trials, shots=numbers("--shots", shots),
            steps=steps, source_steps=source_steps, classes=classes, known=known, split=split, hold_out=hold_out,
            resize=resize, grey=grey, skip_unreadable=skip_unreadable, groups=groups,
            drop_duplicates=drop_duplicates, augment=augment, store=store, out=folder, executor=executor,
            address=address, workers=workers, device=device, deterministic=deterministic, precision=precision,
            channels_last=channels_last, keep=keep, tensorboard=tensorboard, dry_run=dry_run,
            command=["layerwise", *sys.argv[1:]],
        )  # fmt: skip
        if not dry_run:
            print_findings(found, folder / "report.html")
    for failure in found.failures:
        complain("Failed", failure)
    if found.failures:
        raise typer.Exit(1)
