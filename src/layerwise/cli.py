"""The command line: parse, call, print. It imports torch only once a command needs it."""

import os
import shutil
import signal
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

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

StoreOption = Annotated[
    Path, typer.Option("--store", metavar="DIR", help="Folder of finished runs.", rich_help_panel="Running")
]
STORE = Path("layerwise-store")
MISTAKEN, INTERRUPTED = 2, 130  # exit codes
NET_NAMES = ("lenet5", "lenet5relu")  # for completion, without torch; a test holds them to layerwise.nets
SCALES = {"demo": "minutes", "paper": "the paper's own design"}
EXECUTORS = {"local": "a process per core", "serial": "this process alone"}


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"layerwise {__version__}")
        raise typer.Exit
    return asked


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

    return [name + ":" * reader.takes_path for name, reader in READERS.items() if name.startswith(incomplete)]


def _net_names(incomplete: str) -> list[str]:
    return [name for name in NET_NAMES if name.startswith(incomplete)]


def _scales(incomplete: str) -> list[str]:
    return [name for name in SCALES if name.startswith(incomplete)]


def _executors(incomplete: str) -> list[str]:
    return [name for name in EXECUTORS if name.startswith(incomplete)]


def _whole(text: str) -> int:
    """The number in an option; typer names the option."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a whole number") from None


def _data(*names: str, **option: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Data", **option)


def _design(*names: str, **option: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Design", **option)


def _running(*names: str, **option: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Running", **option)


@app.command()
def study(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Which study; see `layerwise studies`.", autocompletion=_study_names)
    ],
    data: Annotated[
        str, _data(metavar="DATA", help="Images; see `layerwise data`.", autocompletion=_data_names)
    ] = "glyphs",
    resize: Annotated[int | None, _data(metavar="N", parser=_whole, help="Make all images N x N pixels.")] = None,
    grey: Annotated[bool, _data("--grey", help="Make all images grey.")] = False,
    skip_unreadable: Annotated[
        bool, _data("--skip-unreadable", help="Leave out images that cannot be read, and say so.")
    ] = False,
    classes: Annotated[
        str | None, _data(metavar="LIST", help="Only these classes, by name or number from 0, such as 0-4,7,cat.")
    ] = None,
    hold_out: Annotated[
        str | None,
        _data(metavar="COLUMN:VALUES", help="Test on the images with these values, such as writer:40-54."),
    ] = None,
    scale: Annotated[
        str,
        _design(
            metavar="|".join(SCALES), autocompletion=_scales, help="; ".join(f"{k}: {v}" for k, v in SCALES.items())
        ),
    ] = "demo",
    net: Annotated[
        str | None,
        _design(metavar="NET", help="See `layerwise nets`.  [default: the paper's own]", autocompletion=_net_names),
    ] = None,
    seeds: Annotated[
        int | None,
        _design(metavar="K", parser=_whole, help="Independent class splits, each with its own source net."),
    ] = None,
    trials: Annotated[int | None, _design(metavar="K", parser=_whole, help="Trials of each source.")] = None,
    shots: Annotated[
        str | None, _design(metavar="N,N,...", help="Training samples per class of the target, such as 1,5,10.")
    ] = None,
    steps: Annotated[int | None, _design(metavar="N", parser=_whole, help="Training steps of each target.")] = None,
    source_steps: Annotated[
        int | None,
        _design(metavar="N", parser=_whole, help="Training steps of each source, whatever its accuracy then."),
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
    store: StoreOption = STORE,
    out: Annotated[
        Path | None, _running(metavar="DIR", help="Where the report goes.  [default: layerwise-out/NAME]")
    ] = None,
    executor: Annotated[
        str,
        _running(
            metavar="|".join(EXECUTORS),
            autocompletion=_executors,
            help="; ".join(f"{k}: {v}" for k, v in EXECUTORS.items()),
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        _running(metavar="K", parser=_whole, help="Processes of the local executor.  [default: one per core]"),
    ] = None,
    keep: Annotated[bool, _running("--keep", help="Keep the weights of every run, not only of sources.")] = False,
    dry_run: Annotated[bool, _running("--dry-run", help="Print the plan and its forecast, and stop.")] = False,
) -> None:
    """Run a study, or what the store lacks of it, and write its report.

    Stopped at any moment, the same command does the rest. Try `layerwise study gutstein --dry-run` first.
    """
    folder = out or Path("layerwise-out") / name
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt_once)
    try:
        from layerwise import api

        found = api.study(
            name, data=data, net=net, scale=scale, seeds=seeds, trials=trials, shots=_numbers("--shots", shots),
            steps=steps, source_steps=source_steps, classes=classes, known=known, split=split, hold_out=hold_out,
            resize=resize, grey=grey, skip_unreadable=skip_unreadable, store=store, out=folder, executor=executor,
            workers=workers, keep=keep, dry_run=dry_run, command=["layerwise", *sys.argv[1:]],
        )  # fmt: skip
    except KeyboardInterrupt as interruption:
        _complain("Interrupted", str(interruption) or "nothing is lost; the same command does the rest")
        raise typer.Exit(INTERRUPTED) from None
    if dry_run:
        return
    _print_findings(found, folder / "report.html")
    for failure in found.failures:
        _complain("Failed", failure)
    if found.failures:
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What --out of a study has filled.")],
) -> None:
    """Write the report of a finished study anew, from its rows."""
    from layerwise.outputs import load

    found = load(folder)
    _print_findings(found, found.report(folder / "report.html"))


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
    """List the finished runs: those with weights first, then by task, samples, seed and treatment."""
    from layerwise.store import Damaged

    shelf, damaged, listed = _open(store), [], []
    for run_key in shelf.keys():  # noqa: SIM118 (not a dict)
        try:
            record = shelf.get(run_key)
        except Damaged as error:
            damaged.append(f"damaged: {error}")
            continue
        run, result = record.run, record.result
        kept = shelf.has(run_key, weights=True)
        about = (run.net, not kept, run.task.name, run.task.shots or 0, run.seed, str(run.treatment))
        listed.append((about, [
            run_key, run.net, about[-1], run.task.name, "all" if run.task.shots is None else str(run.task.shots),
            str(run.seed), _test_accuracy(result), f"{result['seconds']:.1f} s",
            "kept" if kept else "",
        ]))  # fmt: skip
    rows = [row for _, row in sorted(listed)]
    _table(["key", "net", "treatment", "task", "shots", "seed", "test", "time", "weights"], rows)
    for line in [*damaged, f"{len(rows) + len(damaged)} runs in {store}"]:
        typer.echo(line)


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
    found = _open(store).clean(dry_run=dry_run)
    for path in found:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {path}")
    typer.echo(f"{len(found)} things {'to remove' if dry_run else 'removed'}; finished runs are untouched")


def main() -> None:
    """Run a command; a user's mistake is one line and exit code 2, an interruption 130."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except LayerwiseError as error:
        _complain(type(error).__name__, str(error))
    except TyperException as error:  # empty where typer has printed the help
        if message := error.format_message():
            _complain("UsageError", f"{message} (see `{_help_of(error)}`)")
    sys.exit(MISTAKEN)


def _help_of(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'layerwise'} --help"


def _complain(kind: str, message: str) -> None:
    """One line on standard error, whatever is in the message: names of classes and files may hold line breaks."""
    shown = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in f"{kind}: {message}")
    typer.echo(shown, err=True)


def _interrupt_once(*_signal: object) -> None:
    """Answer Ctrl-C, and no second one: workers are being ended, which takes a moment."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    raise KeyboardInterrupt


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


def _test_accuracy(result: dict[str, Any]) -> str:
    """The last one of a run, in per cent."""
    measured = [value for _, split, what, value in result["curve"] if (split, what) == ("test", "accuracy")]
    return f"{measured[-1]:.1%}" if measured else ""


def _print_findings(found: Any, path: Path) -> None:
    typer.echo(f"\n{found.answer}\n")
    for number, finding in enumerate(found.findings, 1):
        typer.echo(f"  {number}. {finding}")
    typer.echo("")
    _table(["claim", "verdict", "estimate", "interval"], [_claim_row(claim) for claim in found.claims])
    typer.echo(f"\nReport: {path}")


def _claim_row(claim: Any) -> list[str]:
    from layerwise.report import words

    told = {**claim.as_json(), "unit": claim.unit}
    return [claim.id, claim.verdict, words.estimate(told), words.bounds(told)]


def _table(heads: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as they need to be, to be cut and grepped; on a terminal the last one is wrapped to fit."""
    *widths, _ = (max(map(len, column)) for column in zip(heads, *rows, strict=True))
    indent = sum(widths) + 2 * len(widths)
    room = max(20, shutil.get_terminal_size().columns - indent) if sys.stdout.isatty() else sys.maxsize
    for row in [heads, *rows]:
        first, *more = textwrap.wrap(row[-1], room) or [""]
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        typer.echo("\n".join(["  ".join([*cells, first]).rstrip(), *(" " * indent + line for line in more)]))
