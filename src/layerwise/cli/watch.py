"""`layerwise watch`: a running study, from another terminal."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from layerwise.cli.options import STORE, open_store
from layerwise.cli.printing import printable
from layerwise.cli.stopping import stoppable
from layerwise.errors import StudyError

if TYPE_CHECKING:
    from layerwise.watching import Best, Command, Picture

REST = 20  # times as long as a look took, until the next: of a large store on a slow disk it takes long
LAST = 8  # failures that are shown


def watch(
    store: Annotated[
        Path, typer.Argument(metavar="[STORE]", help="Folder of finished runs, which others train into.")
    ] = STORE,
    once: Annotated[
        bool, typer.Option("--once", help="Print one picture and stop; so too where the output is no terminal.")
    ] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", help="How often to look.")] = 1.0,
) -> None:
    """Show what is being trained into a store: runs done, pace, forecast, best so far, failures.

    It only looks, from any terminal that sees the store's folder; Ctrl-C ends the looking and nothing else.
    """
    if every <= 0:
        raise StudyError(f"--every {every:g} is not possible; give a number of seconds, such as 1")
    from layerwise.watching import Watch

    console, looking = Console(highlight=False), Watch(open_store(store))
    if once or not console.is_terminal:
        console.print(shown(looking.picture()))
        return
    with stoppable(), Live(shown(looking.picture()), console=console, auto_refresh=False) as live:
        while True:
            begun = time.perf_counter()
            live.update(shown(looking.picture()), refresh=True)
            time.sleep(max(every, REST * (time.perf_counter() - begun)))


def shown(picture: "Picture") -> RenderableType:
    """The picture in words and bars."""
    lines: list[RenderableType] = [Text(f"{picture.store}: {counted(picture.runs, 'run')} at {clock(picture.at)}")]
    for command in picture.commands:
        lines += ["", *_command(command)]
    if picture.strangers:
        told = f"being trained: {counted(len(picture.strangers), 'run')} of which no command tells; of how many is not"
        lines += ["", Text(f"{told} known ({', '.join(picture.strangers[:LAST])})")]
    if not picture.commands:
        lines += ["", Text(_idle(picture))]
    return Group(*lines)


def _idle(picture: "Picture") -> str:
    if picture.latest is None:
        return "no run has finished yet" if picture.strangers else "nothing is being trained"
    told = f"last run finished {span(picture.latest)} ago, {picture.recent} in the last ten minutes"
    return told if picture.strangers else f"nothing is being trained; {told}"


def _command(command: "Command") -> Iterator[RenderableType]:
    plan = command.plan
    yield Text(printable(plan.command), style="bold")
    bar = ProgressBar(total=max(command.total, 1), completed=command.done, width=32)
    stored = f", {len(plan.stored):,} stored before" if plan.stored else ""
    yield _row(bar, Text(f" {command.done:,} of {counted(command.total, 'run')}{stored}"))
    yield Text(_state(command))
    yield Text(_time(command))
    if plan.said:
        yield Text(f"said: {printable(plan.said)}", style="dim")
    if command.best:
        yield _best(command.best)
    if plan.failures:
        yield Text(f"{counted(len(plan.failures), 'run')} failed", style="red")
        yield from (Text(f"  {one.key}: {printable(one.why)}", style="red") for one in plan.failures[-LAST:])


def _state(command: "Command") -> str:
    plan = command.plan
    where = f"process {plan.process} on {printable(plan.machine)}, {counted(plan.workers, 'worker')}"
    if plan.ended is not None:
        return f"ended at {clock(plan.ended)} ({where})"
    if not plan.is_alive:
        return f"it was killed; the same command does the rest ({where})"
    return f"training {counted(len(command.training), 'run')} ({where})"


def _time(command: "Command") -> str:
    """Forecast, taken and left, and the pace; when it was killed nobody knows, and so not how fast it was."""
    forecast, pace = f"forecast {span(command.plan.forecast)}", f"{command.per_minute:.1f} runs a minute"
    if command.plan.ended is not None:
        return f"{forecast}, taken {span(command.passed)}; {pace}"
    if not command.plan.is_alive:
        return forecast
    rest = "" if command.left is None else f", {span(command.left)} left"
    return f"{forecast}, passed {span(command.passed)}{rest}; {pace}"


def _best(found: "tuple[Best, ...]") -> Table:
    """The best of each group; test accuracies are shown, and nothing is chosen by them."""
    table = Table("best so far", "test accuracy", "treatment", "seed", "run", "of", box=None, pad_edge=False)
    for one in found:
        run = one.run
        cells = (str(one.group), f"{run.accuracy:.1%}", run.treatment, str(run.seed), run.key, f"{one.done:,}")
        table.add_row(*map(Text, cells))
    return table


def _row(*parts: RenderableType) -> Table:
    grid = Table.grid()
    grid.add_row(*parts)
    return grid


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "run"), counted(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def span(seconds: float) -> str:
    """A duration as h:mm:ss.

    >>> span(130.2)
    '0:02:10'
    """
    return str(timedelta(seconds=round(seconds)))


def clock(at: float) -> str:
    """A moment as the clock of this machine shows it."""
    return datetime.fromtimestamp(at).strftime("%H:%M:%S")
