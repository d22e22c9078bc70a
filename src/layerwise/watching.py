"""What can be seen of a store while other processes train into it. Nothing in it is altered, and no torch is needed.

Finished runs are those in the store. Runs being trained are those whose lock somebody holds. Of how many, by what
command, and at what forecast, the commands say (see `layerwise.running`); where none does, it is not known.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from layerwise.errors import LayerwiseError
from layerwise.running import Running, is_held, running
from layerwise.store import KEY, Damaged, Record, Store

RECENT = 600.0  # seconds over which the rate is taken of runs that no command tells of
MOST = 200  # such runs that are looked at


@dataclass(frozen=True)
class Group:
    """Runs whose test accuracies may be compared: of one net, number of classes, and samples."""

    net: str
    classes: int
    shots: int | None  # training images a class; null: all

    def __str__(self) -> str:
        samples = "all images" if self.shots is None else f"{self.shots} a class"
        return f"{self.net}, {self.classes} classes, {samples}"


@dataclass(frozen=True)
class Seen:
    """A finished run as the picture needs it."""

    key: str
    group: Group
    treatment: str
    seed: int
    accuracy: float | None  # on test images, at the end


@dataclass(frozen=True)
class Best:
    """The best of the finished runs of a group, by test accuracy."""

    group: Group
    done: int
    run: Seen


@dataclass(frozen=True)
class Command:
    """How far a command is; seconds."""

    plan: Running
    done: int  # of the missing runs
    training: tuple[str, ...]  # keys of those that are being trained
    passed: float  # since it began, until now or its end
    left: float | None  # at the pace so far; null before the first run is done, or when it has ended
    per_minute: float  # runs
    best: tuple[Best, ...]  # of all its runs, a line for each group

    @property
    def total(self) -> int:
        """How many runs were missing when it began."""
        return len(self.plan.missing)


@dataclass(frozen=True)
class Picture:
    """A store at one moment."""

    store: Path
    at: float  # seconds since 1970
    runs: int  # finished, in all
    commands: tuple[Command, ...]
    strangers: tuple[str, ...]  # keys of runs being trained of which no command tells
    recent: int  # runs that finished within RECENT; counted where no command tells of any
    latest: float | None  # seconds since the last run finished; as `recent`


@dataclass
class Watch:
    """Looks at a store again and again, and reads each finished run once."""

    store: Store
    seen: dict[str, Seen | None] = field(default_factory=dict)

    def picture(self) -> Picture:
        """The store now."""
        at, plans = time.time(), running(self.store.folder)
        held = [name for name in self._begun() if is_held(self.store.folder / "locks" / name)]
        commands = tuple(self._command(plan, held, at) for plan in plans)
        told = {name for plan in plans for name in (*plan.missing, *plan.stored)}
        ages = [] if commands else self._ages(at)
        return Picture(
            self.store.folder, at, sum(1 for _ in self.store.keys()), commands,  # noqa: SIM118 (not a dict)
            strangers=tuple(name for name in held if name not in told),
            recent=sum(age <= RECENT for age in ages),
            latest=min(ages, default=None),
        )  # fmt: skip

    def _command(self, plan: Running, held: Iterable[str], at: float) -> Command:
        done = [name for name in plan.missing if self.store.has(name)]
        passed = max((plan.ended or at) - plan.begun, 1e-9)
        return Command(
            plan,
            done=len(done),
            training=tuple(name for name in held if name in plan.missing),
            passed=passed,
            left=None if plan.ended else left(plan.missing, done, passed),
            per_minute=60 * len(done) / passed,
            best=best(found for name in (*plan.stored, *done) if (found := self._look(name))),
        )

    def _begun(self) -> list[str]:
        """Keys of runs that somebody has begun to train, and that are not finished; locks of finished ones stay."""
        with suppress(OSError):
            names = sorted(path.name for path in (self.store.folder / "locks").iterdir())
            return [name for name in names if KEY.fullmatch(name) and not self.store.has(name)]
        return []

    def _ages(self, at: float) -> list[float]:
        """Seconds since the runs that finished last did."""
        ages = []
        for name in self.store.newest(MOST):
            with suppress(OSError):
                ages.append(at - (self.store.path(name) / "result.json").stat().st_mtime)
        return ages

    def _look(self, name: str) -> Seen | None:
        if name not in self.seen:
            try:
                self.seen[name] = seen(self.store.get(name))
            except (KeyError, Damaged):
                return None  # it is being made anew
            except LayerwiseError:  # a newer layerwise wrote it
                self.seen[name] = None
        return self.seen[name]


def seen(record: Record) -> Seen:
    """What the picture needs of a finished run."""
    run, curve = record.run, record.result["curve"]
    tested = [value for _, split, quantity, value in curve if (split, quantity) == ("test", "accuracy")]
    group = Group(run.net, len(run.task.classes), run.task.shots)
    return Seen(record.key, group, str(run.treatment), run.seed, tested[-1] if tested else None)


def best(found: Iterable[Seen]) -> tuple[Best, ...]:
    """The best run of each group, the groups in the order of net, classes and samples; of equals the first key."""
    groups: dict[Group, list[Seen]] = {}
    for one in found:
        if one.accuracy is not None:
            groups.setdefault(one.group, []).append(one)
    order = sorted(groups, key=lambda group: (group.net, group.classes, group.shots or 2**62))
    return tuple(Best(group, len(groups[group]), min(groups[group], key=_rank)) for group in order)


def _rank(run: Seen) -> tuple[float, str]:
    return -(run.accuracy or 0.0), run.key


def left(missing: Mapping[str, float], done: Iterable[str], passed: float) -> float | None:
    """Seconds until all missing runs are done, at the pace so far; a run counts as it was forecast.

    >>> left({"a": 10.0, "b": 30.0}, ["a"], passed=20.0)
    60.0
    """
    share, whole = sum(missing[name] for name in done), sum(missing.values())
    return passed * (whole - share) / share if share > 0 else None
