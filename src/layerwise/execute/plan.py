"""What is to be done: the wanted runs and their sources, what of them is missing, in which order, and which together.

Pure. Runs that are trained together are found from the full plan, never from what happens to be missing, so that a
study that was stopped and resumed trains each run beside the same others, and gives the same bits.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from layerwise.prefix import frozen_depth
from layerwise.run import Run, key


@dataclass(frozen=True)
class Unit:
    """What one worker does at one time: a run, or several as a fleet.

    A fleet always has so many places. Those of finished runs, and those beyond the last run, are filled with stand-ins,
    so that every run is computed in the same place of an equally wide fleet, whatever is left to do.
    """

    runs: tuple[Run, ...]
    missing: frozenset[str]  # keys of the runs still to be done
    width: int = 1

    @property
    def todo(self) -> tuple[Run, ...]:
        """The runs still to be done."""
        return tuple(run for run in self.runs if key(run) in self.missing)

    @property
    def sources(self) -> frozenset[str]:
        """Keys of the runs that must be done before."""
        return frozenset(key(run.source) for run in self.todo if isinstance(run.source, Run))


@dataclass(frozen=True)
class Plan:
    """The runs of a study, sources before their targets, and which of them the store lacks."""

    runs: tuple[Run, ...]
    missing: tuple[Run, ...]
    kept: frozenset[str]  # keys of runs whose weights are kept
    units: tuple[Unit, ...] = ()  # of the missing runs, in the order in which they are started
    seconds: Mapping[str, float] = field(default_factory=dict)  # forecast by key: a run's share of its unit

    @property
    def stored(self) -> int:
        """How many runs need no work."""
        return len(self.runs) - len(self.missing)


def plan(wanted: Iterable[Run], has: Callable[[str, bool], bool], *, keep: Collection[str] = ()) -> Plan:
    """Plan the wanted runs, each by itself; `has(key, weights)` says what is stored, `keep` are the keys of runs whose
    weights are kept, as those of sources always are.

    A source is missing where its result is wanted and not stored, or its weights are needed by a missing run.
    """
    wanted_keys: dict[str, None] = {}
    runs: dict[str, Run] = {}
    for run in wanted:
        wanted_keys[key(run)] = None
        for member in reversed(list(run.lineage)):
            runs.setdefault(key(member), member)
    ordered = sorted(runs.values(), key=_level)
    sources = {key(run.source) for run in ordered if isinstance(run.source, Run)}
    needed: set[str] = set()  # sources whose weights a missing run takes
    missing: list[Run] = []
    for run in reversed(ordered):
        name = key(run)
        if (name in wanted_keys and not has(name, name in keep)) or (name in needed and not has(name, True)):
            missing.append(run)
            if isinstance(run.source, Run):
                needed.add(key(run.source))
    kept = frozenset(sources).union(keep)
    return grouped(Plan(tuple(ordered), tuple(reversed(missing)), kept), lambda _run, _count: 1)


def alike(run: Run) -> Hashable:
    """What runs must share to be trained together: net, shapes, recipe, and how much of the net is frozen at first."""
    task, stages = run.task, range(len(run.recipes))
    depths = tuple(frozen_depth(run, stage) for stage in stages)
    return _level(run), run.net, task.data, task.outputs, task.is_bits, run.recipes, depths


def grouped(plan: Plan, width: Callable[[Run, int], int]) -> Plan:
    """The plan with its runs in units; `width(run, count)` is that of units of so many runs like this one."""
    groups: dict[Hashable, list[Run]] = {}
    for run in plan.runs:
        groups.setdefault(alike(run), []).append(run)
    missing = frozenset(map(key, plan.missing))
    units: list[Unit] = []
    for runs in (sorted(group, key=_place) for group in groups.values()):
        size = width(runs[0], len(runs))
        chunks = [tuple(runs[begin : begin + size]) for begin in range(0, len(runs), size)]
        units += [Unit(chunk, missing.intersection(map(key, chunk)), size) for chunk in chunks]
    return replace(plan, units=tuple(unit for unit in units if unit.missing))


def _place(run: Run) -> tuple[str, str, str]:
    """Where a run stands among those like it, in whatever order they were asked for: by source, then by task.

    So that units of different treatments have equal tasks in equal places, and share their images.
    """
    source = key(run.source) if isinstance(run.source, Run) else run.source.digest if run.source else ""
    return source, repr(run.task), key(run)


def ordered(plan: Plan, seconds: Mapping[Unit, float]) -> Plan:
    """The plan with sources first, then the longest units, so that no core is left with a long one at the end."""
    share = {key(run): seconds[unit] / len(unit.missing) for unit in plan.units for run in unit.todo}
    sources = frozenset[str]().union(*(unit.sources for unit in plan.units))

    def place(unit: Unit) -> tuple[int, bool, float]:
        return _level(unit.runs[0]), unit.missing.isdisjoint(sources), -seconds[unit]

    return replace(plan, units=tuple(sorted(plan.units, key=place)), seconds=share)


def _level(run: Run) -> int:
    """How many runs must be done one after the other until this one is."""
    return len(list(run.lineage))
