"""What was seen elsewhere: how options did beside each other on other nets and data, and what that says here.

What an option is expected to do here is the mean of what it did in exhaustive searches, the more alike their
circumstances the more they count: how many samples a class there are, how many layers the net has and whether it
normalises, how well a linear probe of the last layer does, by how much the best layer's probe does better, and how much
of its training images a linear probe leaves unlearnt. That and whether it normalises are about learning rates: what
is slow to learn at one wants a greater, which a net that normalises bears and another may not. Options that treat
layers alike at like rates lend each other what few searches cannot tell. So it is with what an option lacks when it is
tried with a quarter of the steps. The searches are in `experience.json`, written by `benchmarks/regret.py learn`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from layerwise.advising.belief import Options, correlation
from layerwise.advising.candidates import Option, candidates, options

FILE = Path(__file__).with_name("experience.json")
CANONICAL = options(candidates((1,) * 9))  # every policy there is, on a net of eight layers and a head
ALIKE = (2.0, 1.0, 0.4, 0.5, 0.5, 0.7)  # circumstances differ over these; counts and what is unlearnt in powers of ten
LEARNT = 0.01  # of the loss of guessing: with less left nothing is slow to learn
OPTIONS = 0.15  # standard deviation of means over options
SEARCHES = 0.05  # of what one search says of an option about what all would say
DIGITS = 4  # of an accuracy that is kept

Which = tuple[str, float]  # an option by its policy and rate


@dataclass(frozen=True)
class Circumstances:
    """What is known of a net and data before any option is tried. Null where probes could not be made."""

    samples: float  # training images a class
    last: float | None = None  # cross-validated accuracy of a linear probe of the last layer in front of the head
    better: float | None = None  # by how much the best layer's probe beats the last's
    layers: float | None = None  # of the net
    normalised: float | None = None  # 1 for a net that normalises its activations, 0 for another
    unlearnt: float | None = None  # training loss of a linear probe with the middle rate, over that of guessing


@dataclass(frozen=True)
class Seen:
    """How options did on one net and data: means over draws."""

    here: Circumstances  # their means
    accuracies: Mapping[Which, float]
    short: Mapping[Which, float] = field(default_factory=dict)  # with a quarter of the steps, less that with all

    @cached_property
    def beside(self) -> Mapping[Which, float]:
        """Accuracies less the mean of the best third: how far behind an option is, whatever became of the worst."""
        found = sorted(self.accuracies.values(), reverse=True)
        top = float(np.mean(found[: max(1, len(found) // 3)]))
        return {name: accuracy - top for name, accuracy in self.accuracies.items()}


@dataclass(frozen=True)
class Experience:
    """Searches of other nets and data."""

    seen: tuple[Seen, ...]
    learnt_from: str = ""

    def expected(self, some: Sequence[Option], here: Circumstances) -> Options:
        """Each option's accuracy beside that of those which mostly do best; zero where nothing was seen."""
        return self._mean([one.beside for one in self.seen], some, here)

    def shortfall(self, some: Sequence[Option], here: Circumstances) -> Options:
        """What each option gains when it is tried with a quarter of the steps: mostly less than nothing."""
        return self._mean([one.short for one in self.seen], some, here)

    def _mean(self, values: Sequence[Mapping[Which, float]], some: Sequence[Option], here: Circumstances) -> Options:
        """Over searches and, the fewer there are the more, over options that treat layers alike at like rates.

        It is the mean of a Gaussian process over options whose values are the means over searches (Rasmussen and
        Williams 2006, equation 2.25).
        """
        weights = np.array([nearness(one.here, here) for one in self.seen])
        table = np.array([[one.get(which(option), np.nan) for option in CANONICAL] for one in values])
        there = ~np.isnan(table).all(0) if len(table) else np.zeros(len(CANONICAL), dtype=bool)
        if not there.any():
            return np.zeros(len(some))
        known = table[:, there]
        counted = weights[:, None] * ~np.isnan(known)
        means = (counted * np.nan_to_num(known)).sum(0) / counted.sum(0)
        searches = counted.sum(0) ** 2 / (counted**2).sum(0)  # as many as count
        alike = OPTIONS**2 * correlation(CANONICAL)
        noise = np.diag(SEARCHES**2 / searches)
        typical = float(np.median(means))
        smooth = typical + alike[:, there] @ np.linalg.solve(alike[np.ix_(there, there)] + noise, means - typical)
        of = {which(option): mean for option, mean in zip(CANONICAL, smooth, strict=True)}
        return np.array([of.get(which(option), typical) for option in some])  # a rate of one's own is not known

    def save(self, path: Path = FILE) -> None:
        """Write it where `experience` finds it."""
        cells = [
            {"here": asdict(one.here), "accuracies": _spelt(one.accuracies), "short": _spelt(one.short)}
            for one in self.seen
        ]
        written = {"learnt_from": self.learnt_from, "seen": cells}
        path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


@cache
def experience() -> Experience:
    """What came with this version."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    seen = [Seen(Circumstances(**one["here"]), _read(one["accuracies"]), _read(one["short"])) for one in found["seen"]]
    return Experience(tuple(seen), found["learnt_from"])


def nearness(one: Circumstances, other: Circumstances) -> float:
    """How alike circumstances are, from 0 to 1; what is not known of one is taken to be as it is in the other."""
    apart = np.nan_to_num((_placed(one) - _placed(other)) / ALIKE)
    return float(np.exp(-(apart @ apart) / 2))


def _placed(one: Circumstances) -> Float[np.ndarray, " circumstances"]:
    """Circumstances as numbers whose differences ALIKE measures; not a number where they are not known."""
    samples, last, better, layers, normalised, unlearnt = np.array(astuple(one), dtype=float)
    return np.array(
        [np.log10(samples), last, better, np.log10(layers), normalised, np.log10(np.maximum(unlearnt, LEARNT))]
    )


def which(option: Option) -> Which:
    """By what an option is known on all nets."""
    return option.candidate.policy, option.rate


def _spelt(values: Mapping[Which, float]) -> dict[str, float]:
    return {f"{policy}, {rate:g}": round(value, DIGITS) for (policy, rate), value in values.items()}


def _read(values: Mapping[str, float]) -> dict[Which, float]:
    spelt = [(name.rsplit(", ", 1), value) for name, value in values.items()]
    return {(policy, float(rate)): value for (policy, rate), value in spelt}
