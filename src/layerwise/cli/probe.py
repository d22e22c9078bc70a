"""`layerwise probe`: look at every layer of a net, and write the tables and the report."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise.cli.options import (
    STORE,
    StoreOption,
    among,
    data_names,
    net_names,
    probe_names,
    whole,
)
from layerwise.cli.printing import complain, print_table
from layerwise.cli.shared import (
    ClassesOption,
    DuplicatesOption,
    GreyOption,
    GroupsOption,
    HoldOutOption,
    ResizeOption,
    UnreadableOption,
    of_running,
)
from layerwise.cli.stopping import resumable

POOLINGS = {  # a test holds their names to layerwise.probes.activations
    "mean": "the mean over places or tokens",
    "max": "the largest",
    "flatten": "every number",
    "cls": "the first token",
}


def _probed(*names: str, **option: Any) -> Any:
    return typer.Option(*names, rich_help_panel="What is probed", **option)


def _rebuilding(*names: str, **option: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Probes that reconstruct images", **option)


def _training(*names: str, **option: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Training, where the net has no weights", **option)


def probe(
    net: Annotated[
        str,
        typer.Argument(
            metavar="NET",
            help="See `layerwise nets`; NET@FILE.safetensors has weights, else it is trained on the known classes.",
            autocompletion=net_names,
        ),
    ],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Images; see `layerwise data`.", autocompletion=data_names)
    ],
    probes: Annotated[
        str,
        _probed(
            metavar="LIST",
            help="Which probes, such as knn,linear,cka; `quick` and `all` name several. `layerwise probes` says what "
            "each tells.",
            autocompletion=probe_names,
        ),
    ] = "quick",
    known: Annotated[
        str | None, _probed(metavar="LIST", help="Classes the net knows, such as 0-4; the others are unknown to it.")
    ] = None,
    pooling: Annotated[
        str,
        _probed(
            metavar="|".join(POOLINGS),
            autocompletion=among(POOLINGS),
            help="What of a convolution's or a transformer's activation is a feature; "
            + "; ".join(f"{k}: {v}" for k, v in POOLINGS.items())
            + ".",
        ),
    ] = "mean",
    against: Annotated[
        str | None,
        _probed(
            metavar="NET",
            help="Compare its layers with this net's.  [default: itself untrained]",
            autocompletion=net_names,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        _rebuilding(
            metavar="LIST",
            help="Those that inversion and decoder look at, such as conv1,conv3; or all.  [default: all, or 6 of more]",
        ),
    ] = None,
    total_variation: Annotated[
        float, _rebuilding(metavar="X", help="Weight of the prior that the image is smooth; Sharma's is 0.")
    ] = 0.0,
    norm: Annotated[
        float, _rebuilding(metavar="X", help="Weight of the prior that its pixels are near the mean; Sharma's is 0.")
    ] = 0.0,
    examples: Annotated[
        int, _probed(metavar="N", parser=whole, help="Images a class that are looked at, at most.")
    ] = 100,
    classes: ClassesOption = None,
    resize: ResizeOption = None,
    grey: GreyOption = False,
    skip_unreadable: UnreadableOption = False,
    groups: GroupsOption = None,
    drop_duplicates: DuplicatesOption = False,
    hold_out: HoldOutOption = None,
    steps: Annotated[int, _training(metavar="N", parser=whole, help="Training steps.")] = 500,
    batch_size: Annotated[int, _training(metavar="N", parser=whole, help="Images a step.")] = 50,
    rate: Annotated[float, _training(metavar="X", help="Learning rate of SGD with momentum 0.9.")] = 0.05,
    shots: Annotated[
        int | None, _training(metavar="N", parser=whole, help="Training images a class.  [default: all]")
    ] = None,
    seed: Annotated[int, of_running(metavar="N", parser=whole, help="Of every draw.")] = 0,
    memory: Annotated[
        int, of_running(metavar="MB", parser=whole, help="For features, fits, decoders; features beyond go to files.")
    ] = 1024,
    store: StoreOption = STORE,
    out: Annotated[
        Path | None, of_running(metavar="DIR", help="Where the report goes.  [default: layerwise-out/probe]")
    ] = None,
) -> None:
    """Look at every layer of a net: what it holds, what it is like, what it would be worth to a transfer.

    Try `layerwise probe sharma digits --resize 32 --known 0-4`.
    """
    folder = out or Path("layerwise-out") / "probe"
    with resumable("a net that was trained is stored; the same command does the rest"):
        from layerwise import api

        found = api.probe(
            net, data, probes=probes, known=known, pooling=pooling, against=against, layers=layers,
            total_variation=total_variation, norm=norm, examples=examples, classes=classes, resize=resize, grey=grey,
            skip_unreadable=skip_unreadable, groups=groups, drop_duplicates=drop_duplicates, hold_out=hold_out,
            steps=steps, batch_size=batch_size, rate=rate, shots=shots, seed=seed, memory=memory, store=store,
            out=folder, command=["layerwise", *sys.argv[1:]],
        )  # fmt: skip
    print_probed(found, folder / "report.html")
    for failure in found.plan["failures"]:
        complain("Failed", failure)
    if found.plan["failures"]:
        raise typer.Exit(1)


def print_probed(found: Any, path: Path) -> None:
    """The answer, the findings, a line for each layer, and where the report is."""
    typer.echo(f"\n{found.answer}\n")
    for number, finding in enumerate(found.findings, 1):
        typer.echo(f"  {number}. {finding}")
    typer.echo("")
    table = found.layers
    print_table([str(name) for name in table.columns], table.astype(str).to_numpy().tolist())
    typer.echo(f"\nReport: {path}")
