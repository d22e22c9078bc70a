"""`layerwise advise`: what to do with each layer of a pretrained net on the user's images."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise.cli.options import (
    STORE,
    StoreOption,
    data_names,
    net_names,
    whole,
)
from layerwise.cli.printing import print_table
from layerwise.cli.shared import (
    ClassesOption,
    DeterministicOption,
    DeviceOption,
    DryRunOption,
    DuplicatesOption,
    GreyOption,
    GroupsOption,
    HereOption,
    HoldOutOption,
    ResizeOption,
    ShareOption,
    TensorboardOption,
    UnreadableOption,
    WorkersOption,
    of_running,
)
from layerwise.cli.stopping import resumable
from layerwise.errors import StudyError
from layerwise.execute import forks

SHOWN = 8  # options of the table on the screen


def _asked(*names: str, **option: Any) -> Any:
    return typer.Option(*names, rich_help_panel="What is asked", **option)


def advise(
    net: Annotated[
        str,
        typer.Argument(
            metavar="NET@WEIGHTS",
            help="A net with weights, such as resnet20@FILE.safetensors; see `layerwise nets`.",
            autocompletion=net_names,
        ),
    ],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Images; see `layerwise data`.", autocompletion=data_names)
    ],
    budget: Annotated[
        str, _asked(metavar="X%", help="How much may be spent, as a share of trying every option once on all images.")
    ] = "10%",
    shots: Annotated[
        int | None, _asked(metavar="K", parser=whole, help="Use only K training images a class.  [default: all]")
    ] = None,
    granularity: Annotated[
        str, _asked(metavar="layer|block|stage", help="What is frozen, tuned or reset as one.")
    ] = "block",
    classes: ClassesOption = None,
    resize: ResizeOption = None,
    grey: GreyOption = False,
    skip_unreadable: UnreadableOption = False,
    hold_out: HoldOutOption = None,
    groups: GroupsOption = None,
    drop_duplicates: DuplicatesOption = False,
    share: ShareOption = 0.2,
    seed: Annotated[int | None, of_running(metavar="N", parser=whole, help="Of every draw.  [default: 0]")] = None,
    store: StoreOption = STORE,
    out: Annotated[
        Path | None, of_running(metavar="DIR", help="Where advice and report go.  [default: layerwise-out/advise]")
    ] = None,
    executor: HereOption = "local",
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    tensorboard: TensorboardOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Say what to do with each layer of a pretrained net on your images: freeze, tune, re-initialise.

    Options (treatments with learning rates) are tried in short trainings on parts of the training images; those still
    in question are tried more, within the budget. Images kept back to test on are not looked at. Carry it out with
    `layerwise adapt NET@WEIGHTS DATA --advice layerwise-out/advise/advice.json`.
    """
    folder = out or Path("layerwise-out") / "advise"
    with resumable():
        if executor == "local":
            forks.context()  # it loads torch while we do
        from layerwise.advising.advise import advise as ask

        found = ask(
            net, data, budget=_share(budget), shots=shots, granularity=granularity, classes=classes, resize=resize,
            grey=grey, skip_unreadable=skip_unreadable, drop_duplicates=drop_duplicates, groups=groups,
            hold_out=hold_out, share=share, seed=seed or 0, store=store, out=folder, executor=executor, workers=workers,
            device=device, deterministic=deterministic, tensorboard=tensorboard, dry_run=dry_run,
            command=["layerwise", *sys.argv[1:]],
        )  # fmt: skip
    if found is not None:
        print_advice(found)
        typer.echo(f"\nReport: {folder / 'report.html'}")
        typer.echo(f"Advice: {folder / 'advice.json'}")
        typer.echo(f"Carry it out: {found.commands(folder / 'advice.json')[0][1]}")


def _share(text: str) -> float:
    """The share that `5%` or `0.05` means."""
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise StudyError(f"--budget '{text}' is not a share such as 10% or 0.1") from None


def print_advice(found: Any) -> None:
    """The answer, the findings, and the first options."""
    typer.echo(f"\n{found.answer}\n")
    for number, finding in enumerate(found.findings, 1):
        typer.echo(f"  {number}. {finding}")
    rows = [
        [one.name, one.treatment, f"{one.rate:g}", f"{one.accuracy:.1%}", f"{one.chance:.0%}", str(one.trials)]
        for one in found.considered[:SHOWN]
    ]
    typer.echo("")
    print_table(["option", "treatment", "rate", "expected", "best", "trials"], rows)
    if len(found.considered) > SHOWN:
        typer.echo(f"and {len(found.considered) - SHOWN} more in options.csv")
