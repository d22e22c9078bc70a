"""`layerwise adapt`, `predict`, `export`: train a net on the user's images, use it, hand it on."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise.cli.options import (
    AUGMENT_HELP,
    STORE,
    StoreOption,
    data_names,
    net_names,
    whole,
)
from layerwise.cli.printing import complain, print_table
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
    of_data,
    of_running,
)
from layerwise.cli.stopping import resumable
from layerwise.errors import StudyError
from layerwise.execute import forks

MISTAKEN = 2  # exit code: some images cannot be read


def _training(*names: str, **option: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Training", **option)


CodeOption = Annotated[
    str | None,
    typer.Option("--net", metavar="NET", help="The net, where a file or folder of your own makes it."),
]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="NAME", help="Which of the folder's tasks.  [default: the first]")
]


def adapt(
    net: Annotated[
        str,
        typer.Argument(
            metavar="NET",
            help="See `layerwise nets`; NET@FILE.safetensors names its weights. With --onto only DATA is given.",
            autocompletion=net_names,
        ),
    ],
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Images; see `layerwise data`.", autocompletion=data_names)
    ] = None,
    treatment: Annotated[
        str | None,
        _training(
            metavar="S",
            help="A letter for each layer, the head last: F copied and frozen, T copied and tuned, R fresh; `*` fills "
            "up, `>` begins a second training. F*R: a new head only; T*R: fine-tune everything; see docs/language.md.  "
            "[default: `F*R > T*`; `R*` without weights; `F*R` with --onto]",
        ),
    ] = None,
    advice: Annotated[
        Path | None, _training(metavar="FILE", help="Do as `layerwise advise` recommends in its advice.json.")
    ] = None,
    option: Annotated[
        int | None,
        _training(
            metavar="N",
            parser=whole,
            help="Carry out the option with this number in the advice's report.  [default: 1, the best]",
        ),
    ] = None,
    granularity: Annotated[
        str, _training(metavar="layer|block|stage", help="What a letter of the treatment is for.")
    ] = "layer",
    rates: Annotated[
        str | None,
        _training(
            metavar="X,X,...",
            help="Learning rates, compared on validation images where there are several.  [default: 0.003,0.01,0.03,"
            "0.1; a later stage has a tenth]",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        _training(metavar="N", parser=whole, help="Steps of each stage.  [default: 40 passes, 200 to 2,000 steps]"),
    ] = None,
    batch_size: Annotated[
        int | None, _training(metavar="N", parser=whole, help="Images a step.  [default: 32]")
    ] = None,
    augment: Annotated[str, _training(metavar="TEXT", help=AUGMENT_HELP)] = "",
    onto: Annotated[
        Path | None,
        _training(metavar="FOLDER", help="Add DATA as one task more to this adapted net, over its frozen trunk."),
    ] = None,
    task: Annotated[
        str | None, _training(metavar="NAME", help="What the task is called.  [default: after the data]")
    ] = None,
    classes: ClassesOption = None,
    resize: ResizeOption = None,
    grey: GreyOption = False,
    skip_unreadable: UnreadableOption = False,
    hold_out: HoldOutOption = None,
    groups: GroupsOption = None,
    drop_duplicates: DuplicatesOption = False,
    share: ShareOption = 0.2,
    no_test: Annotated[
        bool, of_data("--no-test", help="Keep none back: train on all, and do not know how good the net is.")
    ] = False,
    onnx: Annotated[bool, of_running("--onnx", help="Write the net as ONNX too.")] = False,
    seed: Annotated[int | None, of_running(metavar="N", parser=whole, help="Of every draw.  [default: 0]")] = None,
    store: StoreOption = STORE,
    out: Annotated[
        Path | None, of_running(metavar="DIR", help="Where the adapted net goes.  [default: layerwise-out/adapt]")
    ] = None,
    executor: HereOption = "local",
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    deterministic: DeterministicOption = False,
    tensorboard: TensorboardOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Train a net on your images as a treatment says, and write a folder with the adapted net and its model card.

    Stopped at any moment, the same command does the rest. Then: `layerwise predict FOLDER IMAGE...`.
    """
    name, source = (None, net) if onto is not None and data is None else (net, data)
    if source is None:
        raise StudyError("DATA is missing; write: layerwise adapt NET DATA, such as folder:DIR (see `layerwise data`)")
    with resumable():
        if executor == "local":
            forks.context()  # it loads torch while we do
        from layerwise.adapting.adapt import adapt as carry_out

        found = carry_out(
            name, source, treatment=treatment, advice=advice, option=option, onto=onto, task=task,
            granularity=granularity, classes=classes, resize=resize, grey=grey, skip_unreadable=skip_unreadable,
            hold_out=hold_out, groups=groups, drop_duplicates=drop_duplicates, share=share, no_test=no_test,
            rates=_rates(rates), steps=steps, batch_size=batch_size, augment=augment, seed=seed or 0, onnx=onnx,
            store=store, out=out, executor=executor, workers=workers, device=device, deterministic=deterministic,
            tensorboard=tensorboard, dry_run=dry_run, command=["layerwise", *sys.argv[1:]],
        )  # fmt: skip
    if found is not None:
        _print_adapted(found, onto or out or Path("layerwise-out") / "adapt", name)


def predict(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `layerwise adapt` has made.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of them.")],
    task: TaskOption = None,
    top: Annotated[
        int | None,
        typer.Option(metavar="K", parser=whole, help="The K likeliest classes.  [default: 3; with --json all]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    net: CodeOption = None,
) -> None:
    """Print the likeliest classes of pictures, with their probabilities; exit code 2 if some cannot be read."""
    if top is not None and top < 1:
        raise StudyError(f"--top {top} is not possible; the least is 1")
    from layerwise.adapting.predicting import predict as look

    found = look(folder, images, task=task, net=net)
    if as_json:
        told = [
            {"image": one.image, "error": one.error}
            if one.error
            else {"image": one.image, "class": one.class_name, "probabilities": dict(one.chances[:top])}
            for one in found
        ]
        text = json.dumps(told, indent=1, ensure_ascii=False)
        typer.echo(text.encode(errors="backslashreplace").decode())  # of a name that is no text JSON has an escape
    elif rows := [_row(one, top or 3) for one in found if not one.error]:
        print_table(["image", "class", "probability", "else"], rows)
    for one in found:
        if one.error:
            complain("Unreadable", f"{one.image} {one.error}")
    if any(one.error for one in found):
        raise typer.Exit(MISTAKEN)


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `layerwise adapt` has made.")],
    task: TaskOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where it goes.  [default: into the folder]")] = None,
    net: CodeOption = None,
) -> None:
    """Write an adapted net as ONNX: any number of images in, logits and probabilities out."""
    from layerwise.adapting.exporting import export as write_onnx

    path = write_onnx(folder, task=task, out=out, net=net)
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB): input images; outputs logits, probabilities")


def _rates(text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(rate) for rate in text.split(","))
    except ValueError:
        raise StudyError(f"--rates '{text}' is not a list of numbers such as 0.003,0.01,0.03") from None


def _row(one: Any, top: int) -> list[str]:
    (name, chance), *others = one.chances[:top]
    return [one.image, name, f"{chance:.1%}", ", ".join(f"{other} {less:.1%}" for other, less in others)]


def _print_adapted(found: Any, folder: Path, net: str | None) -> None:
    """What became of it, and what to do next."""
    typer.echo(f"\n{found.answer}")
    name = f" --task {found.task.name}" if len(found.described.tasks) > 1 else ""
    if net and "#" in found.described.net:  # made by a file or folder of the user's, which has to be named again
        name += f" --net {shlex.quote(net.partition('@')[0])}"
    typer.echo(f"\nAdapted net: {folder} (model card: {folder / 'README.md'})")
    typer.echo(f"Use it: layerwise predict {shlex.quote(str(folder))}{name} IMAGE...")
