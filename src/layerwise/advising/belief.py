"""What is believed of every option after some were tried: a Gaussian process over treatments and learning rates.

The accuracy of an option on a fold is taken to be

    level + prior(option) + g(option) + short(option) + fold + noise

in which `g` is what this net and these data make of the option, alike for options that treat layers alike at like
rates, and the smaller the better the option is expected to be: what does best elsewhere does well nearly everywhere,
and what does badly does so by amounts that differ. Few do much better than expected and some do much worse, which no
Gaussian is like; so there are two: one as wide as options turn out better, by which they are chosen, and a wider one
by which accuracies are told. `short` is what a training that was cut short lacks, more or less than was to be expected
of it, and is left out of what is believed; `fold` is how hard a fold is, and the noise is that of so many images. All
are Gaussian, so the belief is one linear solution (Rasmussen and Williams 2006, equations 2.22 to 2.24).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from layerwise.advising.candidates import Option

# Standard deviations, in accuracy. UPWARDS and BOTH_WAYS were set by races simulated from the tables of searches, and
# by whether intervals held. `benchmarks/regret.py learn` prints those of greatest likelihood; SHORT is near that, and
# for the others likelihood asks for what few options far behind did. FAR and DECADE are of greatest likelihood over the
# first four searches and were not fitted again; LEVEL, OWN, FAILED and NOISE are a judgement.
LEVEL = 0.3  # how well this net does on these data at all
UPWARDS = 0.01, 0.3  # of g, where an option is expected to be the best, and more for what it is behind: to choose by
BOTH_WAYS = 0.05, 0.8  # the same with options that did worse than expected, which may be by far: to tell accuracies by
OWN = 0.3  # of the variance of g and short is an option's own; the rest it shares with those like it
SHORT = 0.13, 0.15  # of short, where nothing is expected to be lacking, and more for what is
FAILED = 3.0  # standard deviations below expectation from which an option failed
NOISE = 0.6  # of the binomial variance is an option's own; the rest are images that are hard for all: the fold's
FAR = 0.43  # root of the share of layers treated otherwise over which options stop being alike
DECADE = 0.59  # powers of ten of the learning rate over which they do

Options = Float[np.ndarray, " options"]
Square = Float[np.ndarray, "options options"]


@dataclass(frozen=True)
class Place:
    """Where an option is tried: by its position, on which fold, with what share of the steps."""

    option: int
    fold: str
    share: float
    examples: int  # in the fold


@dataclass(frozen=True)
class Trial(Place):
    """An option tried on a fold, and the accuracy there."""

    accuracy: float


@dataclass(frozen=True)
class Belief:
    """Mean and covariance of every option's accuracy, trained with all steps, over folds."""

    mean: Options
    covariance: Square

    @property
    def best(self) -> int:
        """The option that is believed to be the best."""
        return int(self.mean.argmax())

    def chances(self, draw: np.random.Generator, draws: int = 4000) -> Options:
        """The probability of each option to be the best."""
        jitter = 1e-10 * np.eye(len(self.mean))
        some = draw.multivariate_normal(self.mean, self.covariance + jitter, draws, method="cholesky")
        return np.bincount(some.argmax(1), minlength=len(self.mean)) / draws

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """Mean and standard deviation of how much better one option is than another."""
        of = self.covariance
        variance = of[one, one] + of[other, other] - 2 * of[one, other]
        return float(self.mean[one] - self.mean[other]), float(np.sqrt(max(0.0, variance)))


@dataclass(frozen=True)
class Model:
    """What is assumed of these options before any is tried."""

    options: tuple[Option, ...]
    prior: Options  # beside the level, which is that of the best
    level: float = 0.5
    short: Options | float = 0.0  # what each gains, mostly less than nothing, where it is cut short
    spread: tuple[float, float] = UPWARDS  # standard deviation of g: of the best, and more for what is behind
    freed: Options | float = 0.0  # the least that it is, of options that failed; see `after`

    def after(self, trials: Sequence[Trial]) -> "Model":
        """The same, but that options whose trials were far below expectation are free to be as bad as they were.

        Far is beyond so many standard deviations, beside the option that did best for what is expected of it: no
        Gaussian has such trials, which are of rates at which a net learns nothing.
        """
        if not trials:
            return replace(self, freed=0.0)
        tried = sorted({trial.option for trial in trials})
        of = [[k for k, trial in enumerate(trials) if trial.option == option] for option in tried]
        seen = self._seen(trials)
        surprise = np.array([seen[those].mean() for those in of])
        images = np.array([sum(trials[k].examples for k in those) for those in of])
        cut = np.array([np.mean([trials[k].share < 1 for k in those]) for those in of])
        typical = self._typical(trials)
        own = self._of_g[tried] ** 2 + (cut * self._of_short[tried]) ** 2
        variance = own + typical * (1 - typical) / images
        best = int(surprise.argmax())
        behind = surprise[best] - surprise
        freed = np.zeros(len(self.options))
        freed[tried] = np.where(behind > FAILED * np.sqrt(variance + variance[best]), behind, 0.0)
        return replace(self, freed=freed)

    def belief(self, trials: Sequence[Trial]) -> Belief:
        """What is believed after these trials."""
        mean, whole = self.level + self.prior, self._whole
        if not trials:
            return Belief(mean, whole)
        at = [trial.option for trial in trials]
        gain = np.linalg.solve(self._of_trials(trials), whole[at]).T  # (options, trials)
        covariance = whole - gain @ whole[at]
        return Belief(mean + gain @ self._seen(trials), (covariance + covariance.T) / 2)

    def foreseen(
        self, trials: Sequence[Trial], others: Sequence[Place]
    ) -> tuple[Float[np.ndarray, "options others"], Float[np.ndarray, " others"]]:
        """After these trials: the covariance of every option with what others would show, and the variance of that."""
        at = [other.option for other in others]
        typical = self._typical(trials)
        covariance = self._whole[:, at]
        variance = np.diag(self._covariance(others, others, typical)) + NOISE * _binomial(others, typical)
        if not trials:
            return covariance, variance
        between = self._covariance(trials, others, typical)
        solved = np.linalg.solve(self._of_trials(trials), between)
        of_options = self._whole[:, [trial.option for trial in trials]]
        return covariance - of_options @ solved, variance - (between * solved).sum(0)

    def expected(self, trials: Sequence[Trial], other: Place) -> float:
        """The accuracy that a trial would show if it turned out as expected."""
        shift = 0.0
        if trials:
            between = self._covariance([other], trials, self._typical(trials))
            shift = float(np.sum(between @ np.linalg.solve(self._of_trials(trials), self._seen(trials))))
        return float(self._usual([other])[0] + shift)

    def _usual(self, places: Sequence[Place]) -> Float[np.ndarray, " places"]:
        """What these trials show before any is made."""
        at = [place.option for place in places]
        lacking = np.broadcast_to(self.short, len(self.options))[at] * [place.share < 1 for place in places]
        return np.asarray((self.level + self.prior)[at] + lacking)

    def _seen(self, trials: Sequence[Trial]) -> Float[np.ndarray, " trials"]:
        """How much better trials were than usual."""
        return np.array([trial.accuracy for trial in trials]) - self._usual(trials)

    @cached_property
    def _alike(self) -> Square:
        """Correlations of g between options."""
        return correlation(self.options)

    @property
    def _of_g(self) -> Options:
        """Its standard deviations, of options that did not fail."""
        least, grows = self.spread
        return np.asarray(least + grows * (self.prior.max() - self.prior))

    @property
    def _of_short(self) -> Options:
        """The standard deviations of short."""
        least, grows = SHORT
        return np.asarray(least + grows * np.abs(np.broadcast_to(self.short, len(self.options))))

    @cached_property
    def _whole(self) -> Square:
        """Covariances of what options are with all steps."""
        deviations = np.maximum(self._of_g, self.freed)
        return np.outer(deviations, deviations) * self._alike + LEVEL**2

    @cached_property
    def _short(self) -> Square:
        """Covariances of short."""
        return np.outer(self._of_short, self._of_short) * self._alike

    def _covariance(
        self, some: Sequence[Place], others: Sequence[Place], typical: float
    ) -> Float[np.ndarray, "some others"]:
        """Of what trials show, their own noise left out."""
        pairs = np.ix_([one.option for one in some], [one.option for one in others])
        short = np.outer([one.share < 1 for one in some], [one.share < 1 for one in others])
        same = np.equal.outer([one.fold for one in some], [one.fold for one in others])
        hard = (1 - NOISE) * _binomial(others, typical)
        return np.asarray(self._whole[pairs] + self._short[pairs] * short + hard * same)

    def _of_trials(self, trials: Sequence[Trial]) -> Float[np.ndarray, "trials trials"]:
        typical = self._typical(trials)
        own = np.diag(NOISE * _binomial(trials, typical))
        return np.asarray(self._covariance(trials, trials, typical) + own)

    def _typical(self, trials: Sequence[Trial]) -> float:
        """The mean accuracy seen, away from the ends where a share has no variance."""
        return float(np.clip(np.mean([trial.accuracy for trial in trials]) if trials else self.level, 0.05, 0.95))


def _binomial(places: Sequence[Place], typical: float) -> Float[np.ndarray, " places"]:
    """The variance of the share of so many images that are got right."""
    return typical * (1 - typical) / np.array([place.examples for place in places])


def correlation(found: Sequence[Option]) -> Square:
    """Of what is a net's own, between options."""
    return (1 - OWN) * likeness(found) + OWN * np.eye(len(found))


def likeness(found: Sequence[Option]) -> Square:
    """How alike options are, from 0 to 1: which layers are copied and which trained, in how many stages, how fast."""
    treated = np.array([_treated(one) for one in found])  # (options, features)
    apart = ((treated[:, None] - treated) ** 2).mean(2) / FAR**2
    decades = np.log10([one.rate for one in found])
    faster = ((decades[:, None] - decades) / DECADE) ** 2
    return np.asarray(np.exp(-(apart + faster) / 2))


def _treated(option: Option) -> list[float]:
    """Zeros and ones: two for each layer, and half as many for stages and for rates by gradient."""
    treatment = option.candidate.treatment
    half = len(treatment.letters()[0]) // 2
    ways = [option.candidate.stages > 1] * half + [option.candidate.by_gradient] * half
    return list(map(float, [*treatment.copied[0], *treatment.trained[-1], *ways]))
