"""The command line: parse, call, print. It imports torch only once a command needs it."""

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise import __version__
from layerwise.errors import LayerwiseError, StudyError

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per process: with more, small nets are slower

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which layers transfer, which do not, why, and what to do with each layer.\n\n"
    "Begin with `layerwise study gutstein`: it needs no data, and ends in a report that opens in a browser.",
)
runs_app = typer.Typer(no_args_is_help=True, help="The finished runs in a store: list, show, verify, clean up.")
app.add_typer(runs_app, name="runs")

StoreOption = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder of finished runs.")]
STORE = Path("layerwise-store")


class Scale(str, Enum):  # noqa: UP042 (typer reads it)
    """How much of a paper's design is run."""

    demo = "demo"
    paper = "paper"


class Executor(str, Enum):  # noqa: UP042
    """Where runs are trained; the results are the same."""

    local = "local"
    serial = "serial"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"layerwise {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None: ...


def _study_names(incomplete: str) -> list[str]:
    from layerwise.studies import STUDIES

    return [name for name in STUDIES if name.startswith(incomplete)]


def _data_names(incomplete: str) -> list[str]:
    from layerwise.data import READERS

    return [name for name in READERS if name.startswith(incomplete)]


def _net_names(incomplete: str) -> list[str]:
    from layerwise.nets import NETS

    return [name for name in NETS if name.startswith(incomplete)]


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Which study; see `layerwise studies`.", autocompletion=_study_names)],
    data: Annotated[
        str, typer.Option(metavar="DATA", help="Images; see `layerwise data`.", autocompletion=_data_names)
    ] = "glyphs",
    net: Annotated[
        str | None,
        typer.Option(
            metavar="NET", help="Net; the paper's own by default. See `layerwise nets`.", autocompletion=_net_names
        ),
    ] = None,
    scale: Annotated[Scale, typer.Option(help="demo: minutes. paper: the paper's own design.")] = Scale.demo,
    seeds: Annotated[
        int | None, typer.Option(metavar="K", help="Independent class splits, each with its own source net.")
    ] = None,
    trials: Annotated[int | None, typer.Option(metavar="K", help="Trials of each source.")] = None,
    shots: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Training samples per class, such as 1,5,10.")
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Training steps of a target.")] = None,
    source_steps: Annotated[
        int | None, typer.Option(metavar="N", help="Train sources for just so many steps, whatever their accuracy.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="LIST", help="Use these classes only, such as 0-4,7,cat.")
    ] = None,
    known: Annotated[
        str | None, typer.Option(metavar="LIST", help="The source's classes; the others are the target's.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="How classes are split: random:SEED, or column:NAME (its two values)."),
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(metavar="COLUMN:VALUES", help="Test on images with these values, such as writer:40-54."),
    ] = None,
    resize: Annotated[int | None, typer.Option(metavar="N", help="Make all images N x N pixels.")] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Make all images grey.")] = False,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and say so.")
    ] = False,
    store: StoreOption = STORE,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the report goes.  [default: layerwise-out/NAME]")
    ] = None,
    executor: Annotated[Executor, typer.Option(help="local: a process per core. serial: this one.")] = Executor.local,
    workers: Annotated[
        int | None, typer.Option(metavar="K", help="Processes of the local executor.  [default: cores]")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the weights of every run, not only of sources.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its forecast, and stop.")] = False,
) -> None:
    """Run a study, or what the store lacks of it, and write its report.

    Stopped at any moment, the same command does the rest. Try `layerwise study gutstein --dry-run` first.
    """
    from layerwise import api

    found = api.study(
        name, data=data, net=net, scale=scale.value, seeds=seeds, trials=trials, shots=_numbers("--shots", shots),
        steps=steps, source_steps=source_steps, classes=classes, known=known, split=split, hold_out=hold_out,
        resize=resize, grey=grey, skip_unreadable=skip_unreadable, store=store, executor=executor.value,
        workers=workers, keep=keep, dry_run=dry_run, command=["layerwise", *sys.argv[1:]],
    )  # fmt: skip
    if dry_run:
        return
    path = found.save(out or Path("layerwise-out") / name)
    _print_findings(found, path)
    if found.failures:
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What --out of a study has filled.")],
) -> None:
    """Write the report of a finished study anew, from its rows."""
    from layerwise.outputs import load

    found = load(folder)
    _print_findings(found, found.save(folder))


@app.command()
def studies() -> None:
    """List the studies."""
    from layerwise.studies import STUDIES

    _table(["study", "what it does"], [[name, summary] for name, summary in STUDIES.items()])


@app.command()
def nets(
    net: Annotated[str | None, typer.Argument(help="Show the layers of this one.", autocompletion=_net_names)] = None,
) -> None:
    """List the nets, or the layers of one."""
    from layerwise.nets import NETS, architecture

    if net is None:
        _table(["net", "what it is"], [[name, found.summary] for name, found in NETS.items()])
        return
    architecture(net)
    from layerwise.costs import layer_parameters

    sizes = layer_parameters(net, (1, 32, 32), 20)
    rows = [[str(number), name, f"{size:,}"] for number, (name, size) in enumerate(sizes.items(), 1)]
    _table(["layer", "name", "parameters (20 outputs)"], [*rows, ["", "in all", f"{sum(sizes.values()):,}"]])


@app.command()
def data() -> None:
    """List the kinds of data and how to name them."""
    from layerwise.data import READERS

    _table(["--data", "what it is"], [[reader.form, reader.help] for reader in READERS.values()])


@runs_app.command("ls")
def runs_ls(store: StoreOption = STORE) -> None:
    """List the finished runs."""
    from layerwise.store import Damaged

    shelf, rows = _open(store), []
    for run_key in shelf.keys():  # noqa: SIM118 (not a dict)
        try:
            record = shelf.get(run_key)
        except Damaged as error:
            rows.append([run_key, f"damaged: {error}", "", "", "", "", ""])
            continue
        run, result = record.run, record.result
        kept = "kept" if shelf.has(run_key, weights=True) else ""
        shots = "all" if run.task.shots is None else str(run.task.shots)
        accuracy = next(
            (value for _, split, what, value in reversed(result["curve"]) if (split, what) == ("test", "accuracy")),
            None,
        )
        shown = "" if accuracy is None else f"{accuracy:.1%}"
        rows.append(
            [
                run_key,
                run.net,
                str(run.treatment),
                run.task.name,
                shots,
                str(run.seed),
                shown,
                f"{result['seconds']:.1f}",
                kept,
            ]
        )
    _table(["key", "net", "treatment", "task", "shots", "seed", "test", "seconds", "weights"], rows)
    typer.echo(f"{len(rows)} runs in {store}")


@runs_app.command("show")
def runs_show(
    run_key: Annotated[str, typer.Argument(metavar="KEY", help="A run's key, or how it begins.")],
    store: StoreOption = STORE,
) -> None:
    """Print a run whole: what it was, its learning curve, its cost, where it was made."""
    import json

    from layerwise.run import spec
    from layerwise.store import Damaged

    shelf = _open(store)
    found = [name for name in shelf.keys() if name.startswith(run_key)]  # noqa: SIM118
    if len(found) != 1:
        which = "no run" if not found else f"{len(found)} runs, {', '.join(found[:4])} among them,"
        raise StudyError(f"{which} in {store} begin{'s' * (not found)} with '{run_key}'; see `layerwise runs ls`")
    try:
        record = shelf.get(found[0])
    except Damaged as error:
        raise StudyError(f"{error}; the study that needs it sets it aside and computes it again") from error
    typer.echo(json.dumps({"key": record.key, "spec": spec(record.run), "result": record.result}, indent=1))


@runs_app.command("verify")
def runs_verify(store: StoreOption = STORE) -> None:
    """Check every file of every run against its checksum; exit code 1 if any is damaged."""
    shelf = _open(store)
    names = list(shelf.keys())
    damaged = [wrong for wrong in map(shelf.verify, names) if wrong]
    for wrong in damaged:
        typer.echo(wrong)
    typer.echo(f"{len(names) - len(damaged)} of {len(names)} runs are whole")
    if damaged:
        typer.echo("The studies that need the damaged ones set them aside and compute them again")
        raise typer.Exit(1)


@runs_app.command("gc")
def runs_gc(
    store: StoreOption = STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove what no run needs: half-written runs, damaged ones set aside, locks that nobody holds."""
    import shutil

    found = _open(store).litter()
    for path in found:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {path}")
        if not dry_run:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    typer.echo(f"{len(found)} things {'to remove' if dry_run else 'removed'}; finished runs are untouched")


def main() -> None:
    """Run a command; a user's mistake is one line and exit code 2, an interruption 130."""
    try:
        app(standalone_mode=True)
    except LayerwiseError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("Interrupted. Finished runs are stored; the same command does the rest", err=True)
        sys.exit(130)


def _open(store: Path) -> Any:
    from layerwise.store import Store

    if not store.is_dir():
        raise StudyError(f"there is no store {store}; name one with --store")
    return Store(store)


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(sorted(int(number) for number in text.split(",")))
    except ValueError:
        raise StudyError(f"{option} '{text}' is not a list of whole numbers such as 1,5,10") from None


def _print_findings(found: Any, path: Path) -> None:
    typer.echo(f"\n{found.answer}\n")
    for number, finding in enumerate(found.findings, 1):
        typer.echo(f"  {number}. {finding}")
    typer.echo(f"\nReport: {path}")


def _table(heads: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as they need to be: a table that can be read, cut and grepped."""
    widths = [max(len(row[k]) if k < len(row) else 0 for row in [heads, *rows]) for k in range(len(heads))]
    for row in [heads, *rows]:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())
