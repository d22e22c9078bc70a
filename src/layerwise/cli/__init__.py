"""The command line: parse, call, print. It imports torch only once a command needs it."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from layerwise.cli import runs
from layerwise.cli.adapt import adapt, export, predict
from layerwise.cli.advise import advise, print_advice
from layerwise.cli.data import data
from layerwise.cli.doctor import doctor
from layerwise.cli.nets import nets
from layerwise.cli.printing import complain, print_compared, print_entries, print_findings, print_table
from layerwise.cli.probe import print_probed, probe
from layerwise.cli.study import experiments_of, study
from layerwise.cli.watch import watch
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
app.add_typer(runs.app, name="runs")
app.command()(study)
app.command()(probe)
app.command()(advise)
app.command()(adapt)
app.command()(predict)
app.command()(export)
app.command()(watch)
app.command()(data)
app.command()(nets)
app.command()(doctor)
MISTAKEN = 2  # exit code


def _version(asked: bool) -> bool:
    if asked:
        from layerwise.cli.version import version

        typer.echo("\n".join(version()))
        raise typer.Exit
    return asked


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions and device, and stop.")
    ] = False,
) -> None: ...


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What --out of a study, probe or advice has filled.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[OTHER]", help="Another such folder, to be shown side by side.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the two go.  [default: layerwise-out/compared]")
    ] = None,
) -> None:
    """Write the report of a finished study, of several, of a probe or of advice anew; or of two, side by side."""
    from layerwise.advising.advice import Advice
    from layerwise.comparing import compare, load_finished
    from layerwise.probing.examined import Examined

    if other is not None:
        both = compare(folder, other, shlex.join(["layerwise", *sys.argv[1:]]))
        print_compared(both, both.report((out or Path("layerwise-out") / "compared") / "report.html"))
        return
    if out is not None:
        raise StudyError(f"--out {out} is for two folders side by side; the report of one goes into its own folder")
    found = load_finished(folder)
    path = found.report(folder / "report.html")
    if isinstance(found, Examined):
        print_probed(found, path)
    elif isinstance(found, Advice):
        print_advice(found)
        typer.echo(f"\nReport: {path}")
    else:
        print_findings(found, path)


@app.command()
def studies() -> None:
    """List the studies, and the experiments that each consists of (see `layerwise study --experiments`)."""
    from layerwise.studies import STUDIES

    rows = []
    for name, summary in STUDIES.items():
        rows += [[name, "", summary], *([name, *one] for one in experiments_of(name).items())]
    rows.append(["all", "", "Every study, and a scoreboard of all their claims"])
    print_table(["study", "experiment", "what it does"], rows)


@app.command()
def probes() -> None:
    """List the probes: what each tells, and when it misleads."""
    from layerwise.probing.probes import PROBES, QUICK

    rows = [
        [name, title, about.tells, about.misleads] for name, found in PROBES.items() for title, about in found.abouts()
    ]
    heads = ["probe", "quantity", "what it tells", "when it misleads"]
    print_entries(heads, rows) if sys.stdout.isatty() else print_table(heads, rows)
    typer.echo(f"\n--probes quick: {','.join(QUICK)}")


def main() -> None:
    """Run a command; a user's mistake is one line and exit code 2, an interruption 130."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except LayerwiseError as error:
        complain(type(error).__name__, str(error))
    except TyperException as error:  # empty where typer has printed the help
        if message := error.format_message():
            complain("UsageError", f"{message} (see `{_help_of(error)}`)")
    sys.exit(MISTAKEN)


def _help_of(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'layerwise'} --help"
