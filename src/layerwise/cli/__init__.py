"""The command line: parse, call, print. It imports torch only once a command needs it."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from layerwise.cli import runs
from layerwise.cli.adapt import adapt, export, predict
from layerwise.cli.advise import advise
from layerwise.cli.data import data
from layerwise.cli.doctor import doctor
from layerwise.cli.nets import nets
from layerwise.cli.printing import complain, print_findings, print_table
from layerwise.cli.probe import print_probed, probe
from layerwise.cli.study import experiments_of, study
from layerwise.cli.watch import watch
from layerwise.errors import LayerwiseError

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
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What --out of a study or a probe has filled.")],
) -> None:
    """Write the report of a finished study, of several, or of a probe anew, from its rows."""
    from layerwise.outputs import load
    from layerwise.probing.examined import is_examined, load_examined

    if is_examined(folder):
        probed = load_examined(folder)
        print_probed(probed, probed.report(folder / "report.html"))
        return
    found = load(folder)
    print_findings(found, found.report(folder / "report.html"))


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
    print_table(["probe", "quantity", "what it tells", "when it misleads"], rows)
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
