"""Advice: what to do with each layer, how well it will work, what it costs, how sure that is, and why.

`advice.json` holds all of it, and `report.html` shows it; `layerwise adapt --advice advice.json` carries it out.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.advising.reasons import Reason
from layerwise.errors import StudyError
from layerwise.notebook import charts, page
from layerwise.outputs import whole_folder, write_json
from layerwise.report.advice import commands, figures, render_advice
from layerwise.report.words import flops, percent
from layerwise.treatment import Treatment

VERSION = 1
FILE = "advice.json"
SHOWN = 8  # options of the table in a notebook
SPELT = 4  # layers of which nothing is known that a sentence names
SURE = 0.5  # the chance to be the best from which a recommendation is called sure
ALIKE = 0.01  # a difference of accuracy that a runner-up may have and still be as good

TOLD = {"F": "freeze {}", "T": "tune {}", "R": "train {} afresh"}  # what a letter is in a sentence

Interval = tuple[float, float]


@dataclass(frozen=True)
class Considered:
    """An option, and what is believed of it."""

    name: str
    policy: str
    treatment: str  # as short as it can be spelt
    letters: str  # a letter per layer
    rate: float
    recipes: tuple[dict[str, Any], ...]  # one per stage
    accuracy: float  # expected on new images, after training on all training images
    deviation: float  # of its difference to the recommended one
    chance: float  # to be the best of all
    trials: int  # how often it was tried
    flops: float  # of training it on all training images


@dataclass(frozen=True)
class Labels:
    """What a multiple of the labels would bring."""

    factor: int
    gain: float  # of accuracy, as a linear probe gains
    interval: Interval | None


@dataclass(frozen=True)
class Advice:
    """What `layerwise advise` found. In a notebook it shows its answer and what was considered."""

    net: str
    layers: tuple[str, ...]
    granularity: str
    data: dict[str, Any]
    considered: tuple[Considered, ...] = field(repr=False)  # the recommended first, then by expected accuracy
    interval: Interval  # of the recommended one's accuracy on so many new images as `data` tests on
    level: float  # of the interval
    reasons: tuple[Reason, ...] = field(repr=False)
    labels: tuple[Labels, ...] = field(repr=False)
    cost: dict[str, float] = field(repr=False)  # operations: exhaustive, spent; budget and spent as shares
    notes: tuple[str, ...] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)
    learning_curve: tuple[tuple[int, float], ...] = field(repr=False, default=())  # samples a class, a probe's accuracy
    adapt: tuple[str, ...] = field(repr=False, default=())  # the command that carries it out, but for --advice
    weights: str | None = field(repr=False, default=None)  # SHA-256 of the file of the net's weights

    @property
    def recommended(self) -> Considered:
        """The option that is advised."""
        return self.considered[0]

    @property
    def is_sure(self) -> bool:
        """Is the recommended option more likely the best than not?"""
        return self.recommended.chance >= SURE

    @property
    def as_good(self) -> tuple[Considered, ...]:
        """Options of other treatments that are expected to be within a point of the recommended one."""
        best = self.recommended
        near = [
            one
            for one in self.considered[1:]
            if one.treatment != best.treatment and best.accuracy - one.accuracy < ALIKE
        ]
        return tuple({one.treatment: one for one in reversed(near)}.values())[::-1]

    @property
    def answer(self) -> str:
        """The advice, in one paragraph."""
        best = self.recommended
        low, high = self.interval
        done = in_words(self.layers, best.letters)
        told = (
            f"{done[0].upper()}{done[1:]} ({best.name}, {best.treatment}), at a learning rate of {best.rate:g}. "
            f"Expected accuracy on new images: {percent(best.accuracy)} ({100 * self.level:.0f} % interval "
            f"{percent(low)} to {percent(high)}). Training it so takes {flops(best.flops)}."
        )
        if self.is_sure:
            return f"{told} It is the best of {len(self.considered)} options with a chance of {best.chance:.0%}."
        others = "; ".join(f"{one.name} ({one.treatment})" for one in self.as_good[:3])
        as_good = f", and as good within a point may be: {others}" if others else ""
        return f"{told} That it is the very best is not sure (a chance of {best.chance:.0%}){as_good}."

    @property
    def findings(self) -> tuple[str, ...]:
        """Why, what it costs, and what more labels would bring: a sentence or two each."""
        return tuple(filter(None, (self._why(), self._bill(), self._more())))

    def _why(self) -> str:
        by_verdict = {
            verdict: [reason.layer for reason in self.reasons if reason.verdict == verdict]
            for verdict in ("useful", "harmful", "redundant", "unknown")
        }
        unknown = by_verdict["unknown"]
        if len(unknown) > SPELT and len(unknown) < len(self.reasons):
            by_verdict["unknown"] = [f"the other {len(unknown)}"]
        told = [f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items() if names]
        return f"By linear probes, layers of the source are, to these images, {'; '.join(told)}." if told else ""

    def _bill(self) -> str:
        share, whole = self.cost["spent"] / self.cost["exhaustive"], self.cost["exhaustive"]
        return (
            f"Finding this out took {share:.1%} of the arithmetic of trying every option once on all images "
            f"({flops(whole)})."
        )

    def _more(self) -> str:
        if not self.labels:
            return ""
        told = [
            f"{one.factor} times the labels {_points(one.gain)} points"
            + (f" ({_points(one.interval[0])} to {_points(one.interval[1])})" if one.interval else "")
            for one in self.labels
        ]
        return f"More labels, as a linear probe would gain by them: {', '.join(told)}; this is extrapolated."

    @property
    def rows(self) -> pd.DataFrame:
        """A row for each option, the recommended first."""
        return pd.DataFrame([{k: v for k, v in asdict(one).items() if k != "recipes"} for one in self.considered])

    @property
    def as_json(self) -> dict[str, Any]:
        """What advice.json holds."""
        best = asdict(self.recommended)
        return {
            "version": VERSION,
            "net": self.net,
            "weights": self.weights,
            "layers": list(self.layers),
            "granularity": self.granularity,
            "data": self.data,
            "recommended": {
                **best, "treatment": best["letters"], "spelt": best["treatment"],
                "interval": list(self.interval), "level": self.level, "sure": self.is_sure,
            },
            "candidates": [asdict(one) for one in self.considered],
            "layers_why": [asdict(one) for one in self.reasons],
            "more_labels": [asdict(one) for one in self.labels],
            "cost": self.cost,
            "answer": self.answer,
            "findings": list(self.findings),
            "notes": list(self.notes),
            "provenance": self.provenance,
            "learning_curve": [list(point) for point in self.learning_curve],
            "adapt": list(self.adapt),
        }  # fmt: skip

    def commands(self, where: str | Path) -> tuple[tuple[str, str], ...]:
        """What the recommended option and the best of other treatments are, and the commands that carry them out.

        `where` is the advice.json that they read.
        """
        return tuple(commands(self.as_json, Path(where)))

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file, and give its path; its commands read the advice.json beside it."""
        page = render_advice(self.as_json, Path(path).parent / FILE)
        with whole_folder(Path(path).parent) as aside:
            (aside / Path(path).name).write_text(page, encoding="utf-8")
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write advice.json, the options as a table and the report into a folder; gives the path of the advice."""
        with whole_folder(Path(folder)) as aside:
            write_json(aside / FILE, self.as_json)
            self.rows.to_csv(aside / "options.csv", index=False)
        self.report(Path(folder) / "report.html")
        return Path(folder) / FILE

    @property
    def figures(self) -> dict[str, Any]:
        """The report's charts, by their titles."""
        return charts(figures(self.as_json))

    def _repr_html_(self) -> str:
        shown = self.rows[["name", "treatment", "rate", "accuracy", "chance", "trials"]].head(SHOWN)
        percents = {name: [f"{value:.1%}" for value in shown[name]] for name in ("accuracy", "chance")}
        return page(self.answer, self.findings, shown.assign(**percents), self.figures)


def load_advice(path: str | Path) -> Advice:
    """What `save` wrote; raises StudyError where it is not that."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        best = found["recommended"]
        return Advice(
            net=found["net"],
            layers=tuple(found["layers"]),
            granularity=found["granularity"],
            data=found["data"],
            considered=tuple(Considered(**{**one, "recipes": tuple(one["recipes"])}) for one in found["candidates"]),
            interval=_interval(best["interval"]),
            level=best["level"],
            reasons=tuple(
                Reason(**{**one, "interval": one["interval"] and _interval(one["interval"])})
                for one in found["layers_why"]
            ),
            labels=tuple(
                Labels(**{**one, "interval": one["interval"] and _interval(one["interval"])})
                for one in found["more_labels"]
            ),
            cost=found["cost"],
            notes=tuple(found["notes"]),
            provenance=found["provenance"],
            learning_curve=tuple((samples, right) for samples, right in found.get("learning_curve", ())),
            adapt=tuple(found.get("adapt", ("layerwise", "adapt", found["net"], "DATA"))),
            weights=found.get("weights"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is not what `layerwise advise` writes ({error}); ask for advice again") from error


def _interval(bounds: Sequence[float]) -> Interval:
    low, high = bounds
    return low, high


def in_words(layers: Sequence[str], letters: str) -> str:
    """What a treatment does with these layers, neighbours that are treated alike told together.

    >>> in_words(("C1", "C3", "C5", "F6"), "FFTR > TTTT")
    'freeze C1 and C3, tune C5, train F6 afresh, and then tune C1 to F6'
    """
    return ", and then ".join(", ".join(_spans(layers, stage)) for stage in Treatment.parse(letters).letters())


def _spans(layers: Sequence[str], letters: Sequence[str]) -> Iterator[str]:
    for letter, group in groupby(zip(layers, letters, strict=True), key=lambda pair: pair[1]):
        names = [name for name, _ in group]
        joint = " and " if len(names) == 2 else " to "
        yield TOLD[letter].format(names[0] if len(names) == 1 else f"{names[0]}{joint}{names[-1]}")


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return text.replace("-", "\N{MINUS SIGN}")
