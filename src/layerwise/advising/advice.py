"""Advice: what to do with each layer, how well it will work, what it costs, how sure that is, and why.

`advice.json` holds all of it; `layerwise adapt --advice advice.json` carries it out.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.advising.reasons import Reason
from layerwise.errors import StudyError
from layerwise.notebook import charts, page
from layerwise.outputs import whole_folder, write_json
from layerwise.report.figures import Figure, curves

VERSION = 1
FILE = "advice.json"
SHOWN = 8  # options of the table in a notebook
SURE = 0.5  # the chance to be the best from which a recommendation is called sure
ALIKE = 0.01  # a difference of accuracy that a runner-up may have and still be as good

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
        told = (
            f"{best.name[0].upper()}{best.name[1:]} ({best.treatment}), at a learning rate of {best.rate:g}. Expected "
            f"accuracy on new images: {_percent(best.accuracy)} ({100 * self.level:.0f} % interval {_percent(low)} to "
            f"{_percent(high)})."
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
        told = [f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items() if names]
        return f"By linear probes, layers of the source are, to these images, {'; '.join(told)}." if told else ""

    def _bill(self) -> str:
        share, whole = self.cost["spent"] / self.cost["exhaustive"], self.cost["exhaustive"]
        training = self.recommended.flops
        return (
            f"Finding this out took {share:.1%} of the arithmetic of trying every option once on all images "
            f"({whole:.2g} operations). Training as advised takes {training:.2g}."
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
        }  # fmt: skip

    def save(self, folder: str | Path) -> Path:
        """Write advice.json and the options as a table into a folder; gives the path of the advice."""
        with whole_folder(Path(folder)) as aside:
            write_json(aside / FILE, self.as_json)
            self.rows.to_csv(aside / "options.csv", index=False)
        return Path(folder) / FILE

    @property
    def figures(self) -> dict[str, Any]:
        """What a linear probe reads from each layer of the source, where it could be computed."""
        known = [one for one in self.reasons if one.accuracy is not None]
        return charts([_probed(known)] if known else [])

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
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is not what `layerwise advise` writes ({error}); ask for advice again") from error


def _probed(reasons: Sequence[Reason]) -> Figure:
    """The accuracy of a linear probe behind each layer."""
    table = pd.DataFrame([{"layer": one.layer, "accuracy": one.accuracy, "of": one.verdict} for one in reasons])
    table = table.assign(series="linear probe")
    chart = curves(
        table, "layer", "accuracy", "series", x_title="layer", y_title="accuracy of a linear probe", colour_title="of",
        ordered=False, tooltip=["of"],
    )  # fmt: skip
    caption = "How well classes are told apart by what a layer gives; on training images, by folds."
    return Figure("What can be read from each layer", caption, chart, table)


def _interval(bounds: Sequence[float]) -> Interval:
    low, high = bounds
    return low, high


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return text.replace("-", "\N{MINUS SIGN}")
