"""What was seen elsewhere: how options did beside each other, over many nets and data, and what that says here.

An option's accuracy beside the others' is taken to be linear in the circumstances: how many samples a class there are,
how well a linear probe of the last layer does, and by how much the best layer's probe does better. So is what it lacks
when it is tried with a quarter of the steps. The coefficients were learnt from exhaustive searches (`experience.json`,
made by `benchmarks/regret.py learn`): they are the mean of a Gaussian process over options, in which options that treat
layers alike at like rates have like coefficients.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from layerwise.advising.belief import Options, likeness
from layerwise.advising.candidates import Option, candidates, options

FILE = Path(__file__).with_name("experience.json")
CANONICAL = options(candidates((1,) * 9))  # every policy there is, on a net of eight layers and a head
FEATURES = ("always", "samples", "last", "better")
SPREAD = (0.1, 0.05, 0.05, 0.05)  # standard deviation of the coefficients, for features of unit scale
SHORT_SPREAD = (0.2, 0.1, 0.1, 0.1)  # the same, of what is lacking with a quarter of the steps
LEVEL, OWN, NOISE = 0.3, 0.3, 0.03  # of a cell; an option's own share of SPREAD; of a cell's mean accuracy

Which = tuple[str, float]  # an option by its policy and rate
Coefficients = Mapping[str, tuple[float, ...]]  # of options by "policy, rate"; one for each of FEATURES


@dataclass(frozen=True)
class Circumstances:
    """What is known of a net and data before any option is tried. Null where probes could not be made."""

    samples: float  # training images a class
    last: float | None = None  # cross-validated accuracy of a linear probe of the last layer in front of the head
    better: float | None = None  # by how much the best layer's probe beats the last's


@dataclass(frozen=True)
class Experience:
    """Coefficients of each option; features are centred and scaled by `centre` and `scale`."""

    centre: tuple[float, ...]  # of samples (as logarithm), last, better
    scale: tuple[float, ...]
    coefficients: Coefficients  # of accuracy
    short: Coefficients  # of what a quarter of the steps brings less
    learnt_from: str = ""

    def expected(self, some: Sequence[Option], here: Circumstances) -> Options:
        """Each option's accuracy beside the others': its mean over these options is zero, as is what is not known."""
        means = self._told(self.coefficients, some, here)
        return np.asarray(means - means.mean())

    def shortfall(self, some: Sequence[Option], here: Circumstances) -> Options:
        """What each option gains when it is tried with a quarter of the steps: mostly less than nothing."""
        return self._told(self.short, some, here)

    def _told(self, of: Coefficients, some: Sequence[Option], here: Circumstances) -> Options:
        unknown = (0.0,) * len(FEATURES)
        found = np.array([of.get(_named(one.candidate.policy, one.rate), unknown) for one in some])
        return np.asarray(found @ self.features(here))

    def features(self, here: Circumstances) -> Float[np.ndarray, " features"]:
        """The circumstances as numbers of unit scale; what is not known is as it mostly was."""
        values = [np.log10(here.samples), here.last, here.better]
        scaled = [
            0.0 if value is None else (value - centre) / scale
            for value, centre, scale in zip(values, self.centre, self.scale, strict=True)
        ]
        return np.array([1.0, *scaled])

    def save(self, path: Path = FILE) -> None:
        """Write it where `experience` finds it."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


@cache
def experience() -> Experience:
    """What came with this version."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    of_accuracy, of_short = ({n: tuple(v) for n, v in found[of].items()} for of in ("coefficients", "short"))
    return Experience(tuple(found["centre"]), tuple(found["scale"]), of_accuracy, of_short, found["learnt_from"])


@dataclass(frozen=True)
class Seen:
    """How options did on one net and data: means over draws."""

    here: Circumstances  # their means
    accuracies: Mapping[Which, float]
    short: Mapping[Which, float] = field(default_factory=dict)  # with a quarter of the steps, less that with all


def learn(seen: Sequence[Seen], learnt_from: str = "") -> Experience:
    """The coefficients that these searches speak for; a search's accuracies have a level of its own."""
    known = np.array([[np.log10(one.here.samples), one.here.last, one.here.better] for one in seen], dtype=float)
    centre = np.nan_to_num(np.nanmean(known, 0))
    scale = np.where((deviation := np.nan_to_num(np.nanstd(known, 0))) > 0, deviation, 1.0)
    empty = Experience(tuple(map(float, centre)), tuple(map(float, scale)), {}, {})
    features = np.array([empty.features(one.here) for one in seen])  # (seen, features)
    return replace(
        empty,
        coefficients=_learnt([one.accuracies for one in seen], features, SPREAD, LEVEL),
        short=_learnt([one.short for one in seen], features, SHORT_SPREAD, 0.0),
        learnt_from=learnt_from,
    )


def _learnt(
    values: Sequence[Mapping[Which, float]], features: np.ndarray, spreads: Sequence[float], level: float
) -> Coefficients:
    """The mean of a Gaussian process (Rasmussen and Williams 2006, equation 2.25), given each search's values.

    They are a level of the search's own, where it has one, the coefficients times its features, and noise.
    """
    at = {(one.candidate.policy, one.rate): k for k, one in enumerate(CANONICAL)}
    rows = [(cell, at[which], value) for cell, one in enumerate(values) for which, value in one.items()]
    if not rows:
        return {}
    cell, option, value = (np.array(column) for column in zip(*rows, strict=True))
    alike = (1 - OWN**2) * likeness(CANONICAL) + OWN**2 * np.eye(len(CANONICAL))
    between = [spread**2 * alike for spread in spreads]  # of each feature's coefficients
    whole = level**2 * np.equal.outer(cell, cell) + NOISE**2 * np.eye(len(rows))
    for k, one in enumerate(between):
        whole = whole + one[np.ix_(option, option)] * np.outer(features[cell, k], features[cell, k])
    explained = np.linalg.solve(whole, value - (value.mean() if level else 0.0))
    found = np.array([one[:, option] @ (features[cell, k] * explained) for k, one in enumerate(between)])
    return {
        _named(one.candidate.policy, one.rate): tuple(round(float(number), 5) for number in found[:, k])
        for k, one in enumerate(CANONICAL)
    }


def _named(policy: str, rate: float) -> str:
    return f"{policy}, {rate:g}"
