"""Who hears what becomes of a command's runs: its user, whoever watches its store, and TensorBoard if asked for."""

from collections.abc import Callable, Sequence
from pathlib import Path

from layerwise.execute.forecast import Forecast
from layerwise.execute.plan import Plan
from layerwise.execute.work import Outcome
from layerwise.noting import Noting
from layerwise.progress import Quiet, Terminal
from layerwise.scalars import Scalars
from layerwise.store import Store


class Several(Quiet):
    """Tells several listeners, in their order."""

    def __init__(self, *listeners: Quiet) -> None:
        self.listeners: Sequence[Quiet] = listeners

    @property
    def aside(self) -> "Several":
        """The same without the user, for what a command tells in words of its own."""
        return Several(*(one for one in self.listeners if not isinstance(one, Terminal)))

    def say(self, line: str) -> None:
        for one in self.listeners:
            one.say(line)

    def planned(self, plan: Plan, forecast: Forecast, workers: int) -> None:
        for one in self.listeners:
            one.planned(plan, forecast, workers)

    def ended(self, outcome: Outcome) -> None:
        for one in self.listeners:
            one.ended(outcome)

    def close(self) -> None:
        for one in self.listeners:
            one.close()

    def probing(self, name: str) -> Callable[[int, int], None]:
        ticks = [one.probing(name) for one in self.listeners]

        def tick(done: int, total: int) -> None:
            for one in ticks:
                one(done, total)

        return tick

    def probed(self, name: str, seconds: float) -> None:
        for one in self.listeners:
            one.probed(name, seconds)


def listening(
    store: Store, command: str, *, quiet: bool, dry_run: bool = False, tensorboard: str | Path | None = None
) -> Several:
    """Who is told of a command that trains into this store; of a dry run only its user.

    Raises StudyError where TensorBoard is asked for and cannot be written.
    """
    user = Quiet() if quiet else Terminal()
    if dry_run:
        return Several(user)
    scalars = [] if tensorboard is None else [Scalars(Path(tensorboard), store, user.say)]
    return Several(user, Noting(store.folder, command), *scalars)
