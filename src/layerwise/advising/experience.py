"""What was seen elsewhere: how options did beside each other, over many nets and data, and what that says here.

An option's accuracy beside the others' is taken to be linear in the circumstances: how many samples a class there are,
how well a linear probe of the last layer does, and by how much the best layer's probe does better. The coefficients
were learnt from exhaustive searches (`experience.json`, made by `benchmarks/regret.py learn`): they are the mean of a
Gaussian process over options, in which options that treat layers alike at like rates have like coefficients.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
LEVEL, OWN, NOISE = 0.3, 0.3, 0.03  # of a cell; an option's own share of SPREAD; of a cell's mean accuracy


@dataclass(frozen=True)
class Circumstances:
    """What is known of a net and data before any option is tried. Null where probes could not be made."""

    samples: float  # training images a class
    last: float | None = None  # cross-validated accuracy of a linear probe of the last layer in front of the head
    better: float | None = None  # by how much the best layer's probe beats the last's


@dataclass(frozen=True)
class Experience:
    """Coefficients of each option, by policy and rate; features are centred and scaled by `centre` and `scale`."""

    centre: tuple[float, ...]  # of samples (as logarithm), last, better
    scale: tuple[float, ...]
    coefficients: Mapping[str, tuple[float, ...]]  # by "policy, rate"; one for each of FEATURES
    learnt_from: str = ""

    def expected(self, some: Sequence[Option], here: Circumstances) -> Options:
        """Each option's accuracy beside the others': its mean over these options is zero, as is what is not known."""
        unknown = (0.0,) * len(FEATURES)
        found = np.array([self.coefficients.get(_named(one.candidate.policy, one.rate), unknown) for one in some])
        means = found @ self.features(here)
        return np.asarray(means - means.mean())

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
    return Experience(
        tuple(found["centre"]), tuple(found["scale"]),
        {name: tuple(values) for name, values in found["coefficients"].items()}, found["learnt_from"],
    )  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """How options did on one net and data: mean accuracy over draws, by policy and rate."""

    here: Circumstances  # their means
    accuracies: Mapping[tuple[str, float], float]


def learn(seen: Sequence[Seen], learnt_from: str = "") -> Experience:
    """The coefficients that these searches speak for, as a Gaussian process's mean (Rasmussen and Williams 2006, 2.25).

    A search's accuracies are a level of its own, the coefficients times its circumstances, and noise.
    """
    known = np.array([[np.log10(one.here.samples), one.here.last, one.here.better] for one in seen], dtype=float)
    centre = np.nan_to_num(np.nanmean(known, 0))
    scale = np.where((deviation := np.nan_to_num(np.nanstd(known, 0))) > 0, deviation, 1.0)
    empty = Experience(tuple(map(float, centre)), tuple(map(float, scale)), {})
    of_seen = np.array([empty.features(one.here) for one in seen])  # (seen, features)
    at = {(one.candidate.policy, one.rate): k for k, one in enumerate(CANONICAL)}
    rows = [(cell, at[which], value) for cell, one in enumerate(seen) for which, value in one.accuracies.items()]
    cell, option, value = (np.array(column) for column in zip(*rows, strict=True))
    alike = (1 - OWN**2) * likeness(CANONICAL) + OWN**2 * np.eye(len(CANONICAL))
    between = [spread**2 * alike for spread in SPREAD]  # of each feature's coefficients
    same = np.equal.outer(cell, cell)
    whole = LEVEL**2 * same + NOISE**2 * np.eye(len(rows))
    for k, one in enumerate(between):
        whole = whole + one[np.ix_(option, option)] * np.outer(of_seen[cell, k], of_seen[cell, k])
    explained = np.linalg.solve(whole, value - value.mean())
    found = np.array([one[:, option] @ (of_seen[cell, k] * explained) for k, one in enumerate(between)])
    named = {
        _named(one.candidate.policy, one.rate): tuple(round(float(number), 5) for number in found[:, k])
        for k, one in enumerate(CANONICAL)
    }
    return Experience(empty.centre, empty.scale, named, learnt_from)


def _named(policy: str, rate: float) -> str:
    return f"{policy}, {rate:g}"
