"""What a user sees while runs are made: the plan with its forecast first, then runs done and time left."""

import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from layerwise.execute.forecast import Forecast
from layerwise.execute.plan import Plan
from layerwise.execute.work import Outcome


class Quiet:
    """Says nothing; also what a listener is."""

    def say(self, line: str) -> None:
        """Something that the user should know."""

    def planned(self, plan: Plan, forecast: Forecast, workers: int) -> None:
        """The plan is made, nothing has been trained."""

    def ended(self, outcome: Outcome) -> None:
        """A run has ended, one way or another."""

    def close(self) -> None:
        """No more runs will end."""

    def probing(self, name: str) -> Callable[[int, int], None]:
        """A probe begins; what is given is called as it goes on, with how much of how much is done."""
        return lambda done, total: None

    def probed(self, name: str, seconds: float) -> None:
        """A probe is done."""


class Terminal(Quiet):
    """Prints to standard error: a bar that moves where that is a terminal, else a line now and then."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bar: Progress | None = None
        self.seconds: dict[str, float] = {}
        self.done = 0

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)  # a line stays one line where it is piped

    def planned(self, plan: Plan, forecast: Forecast, workers: int) -> None:
        self.say(plan_line(plan, forecast, workers))
        if not plan.missing:
            return
        self.seconds = dict(plan.seconds)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}/{task.fields[runs]} runs"),
            TimeElapsedColumn(),
            TextColumn("left"),
            _Left(),
            console=self.console,
        )
        self.task = self.bar.add_task("training", total=sum(self.seconds.values()), done=0, runs=len(plan.missing))
        self.done = 0
        if sys.stderr.isatty():
            self.bar.start()

    def ended(self, outcome: Outcome) -> None:
        for note in (*outcome.notes, *([outcome.message] if outcome.message else [])):
            self.say(note)
        if self.bar is None:
            return
        self.done += 1
        self.bar.update(self.task, advance=self.seconds.get(outcome.key, 0.0), done=self.done)
        if not sys.stderr.isatty() and self.done in _milestones(len(self.seconds)):
            left = seconds_left(self.bar.tasks[0])
            self.say(f"{self.done}/{len(self.seconds)} runs" + (f", {duration(left)} left" if left else ""))

    def probing(self, name: str) -> Callable[[int, int], None]:
        if not sys.stderr.isatty():
            return super().probing(name)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"), _Left(),
            console=self.console, transient=True,
        )  # fmt: skip
        bar, task = self.bar, self.bar.add_task(name, total=None)
        bar.start()
        return lambda done, total: bar.update(task, completed=done, total=total)

    def probed(self, name: str, seconds: float) -> None:
        self.close()
        self.say(f"{name}: {duration(seconds)}")

    def close(self) -> None:
        if self.bar is not None and self.bar.live.is_started:
            self.bar.stop()
        self.bar = None


def seconds_left(task: Task) -> float | None:
    """At the pace since the beginning: many runs of a fleet end at one moment, which tells nothing about the next."""
    if task.total is None or task.elapsed is None or task.completed <= 0:
        return None
    return task.elapsed * (task.total - task.completed) / task.completed


class _Left(ProgressColumn):
    """The time left, in words."""

    def render(self, task: Task) -> Text:
        left = seconds_left(task)
        return Text("" if left is None else duration(left))


def plan_line(plan: Plan, forecast: Forecast, workers: int) -> str:
    """Runs wanted, stored and missing, and what the missing ones will take."""
    counts = f"Plan: {len(plan.runs)} runs wanted, {plan.stored} stored, {len(plan.missing)} missing"
    if not plan.missing:
        return f"{counts}; nothing to train"
    memory, disk = forecast.memory_bytes / 1e9, forecast.disk_bytes / 1e6
    cores = "1 core" if workers == 1 else f"{workers} cores"
    return (
        f"{counts}; forecast {duration(forecast.wall_seconds)} on {cores}, {memory:.1f} GB memory, {disk:.0f} MB disk"
    )


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(7.4), duration(130), duration(7300)
    ('7 s', '2 min 10 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _milestones(runs: int) -> Sequence[int]:
    """Each tenth of the runs."""
    return [round(runs * tenth / 10) for tenth in range(1, 11)]
