"""What is to be done: the wanted runs and their sources, what of them is missing, and in which order. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from layerwise.run import Run, key


@dataclass(frozen=True)
class Plan:
    """The runs of a study, sources before their targets, and which of them the store lacks."""

    runs: tuple[Run, ...]
    missing: tuple[Run, ...]
    kept: frozenset[str]  # keys of runs whose weights are kept
    seconds: Mapping[str, float] = field(default_factory=dict)  # forecast by key, for one run on one core

    @property
    def stored(self) -> int:
        """How many runs need no work."""
        return len(self.runs) - len(self.missing)

    def order(self) -> tuple[Run, ...]:
        """The missing runs, sources first, then longest first: so that no core is left with one long run at the end."""
        sources = {key(run.source) for run in self.runs if run.source}
        return tuple(
            sorted(
                self.missing,
                key=lambda run: (len(list(run.lineage)), key(run) not in sources, -self.seconds.get(key(run), 0.0)),
            )
        )


def plan(wanted: Iterable[Run], has: Callable[[str, bool], bool], *, keep: bool = False) -> Plan:
    """Plan the wanted runs; `has(key, weights)` says what is stored, and `keep` keeps every run's weights.

    A source is missing where its result is wanted and not stored, or its weights are needed by a missing run.
    """
    wanted_keys: dict[str, None] = {}
    runs: dict[str, Run] = {}
    for run in wanted:
        wanted_keys[key(run)] = None
        for member in reversed(list(run.lineage)):
            runs.setdefault(key(member), member)
    ordered = sorted(runs.values(), key=lambda run: len(list(run.lineage)))
    sources = {key(run.source) for run in ordered if run.source}
    needed: set[str] = set()  # sources whose weights a missing run takes
    missing: list[Run] = []
    for run in reversed(ordered):
        name = key(run)
        if (name in wanted_keys and not has(name, keep)) or (name in needed and not has(name, True)):
            missing.append(run)
            if run.source:
                needed.add(key(run.source))
    kept = frozenset(runs) if keep else frozenset(sources)
    return Plan(tuple(ordered), tuple(reversed(missing)), kept)
