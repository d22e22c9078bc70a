"""Sharma's question answered in plain words, from rows and claims; every number is a mean over draws of classes."""

from collections.abc import Sequence

import pandas as pd

from layerwise.claims import FEWEST_CLUSTERS, Claim, Mean, direction, over_clusters
from layerwise.rows import pick
from layerwise.studies.sentences import between, points, signed
from layerwise.studies.sharma_retraining import ALL, CEILING, DRAW, PAPERS, PREDICTORS, correlation, flagged

LEVEL = 0.95


def words(rows: pd.DataFrame, made: Sequence[Claim]) -> tuple[str, tuple[str, ...]]:
    """The answer in one paragraph, and the main findings."""
    by = {claim.id: claim for claim in made}
    told = [
        _said(by["S1"], "Relative to all images together, unknown classes spread by {} points more than known ones"),
        _said(by["S2"], "The error of images found by inversion of a shallow net's last convolution, before training "
              "less after, is {} points of their mean"),
        _said(by["S2 deep"], "The same of a deep net's deepest convolution is {} points"),
        _said(by["S3 unknown"], "At the last convolution, decoders draw unknown classes worse by {} squared pixels"),
        _said(by["S4 rule"], "For the classes that the paper's rule would retrain a layer for, retraining gains {} "
              "points more than for the others") + _exceeding(rows),
        _said(by["S5"], "The known class that an unknown one looks like, in pixels, is the nearest one at the last "
              "convolution {} points more often than by chance"),
    ]  # fmt: skip
    return _answer(rows), tuple(filter(None, told))


def _answer(rows: pd.DataFrame) -> str:
    """Does the decoder's error tell what retraining gains? And does anything else?"""
    paper = _mean(correlation(rows, PAPERS))
    if paper is None:
        return "No layer was retrained: whether a decoder's error tells which layer to retrain was not measured."
    verdict = {
        "reproduced": "tells something of",
        "contradicted": "tells the opposite of",
        "undecided": "does not tell",
    }[direction(paper.bounds, paper.clusters)]
    if paper.clusters < FEWEST_CLUSTERS:
        verdict = "cannot yet be said to tell"
    found = {name: mean for name in PREDICTORS if (mean := _mean(correlation(rows, name)))}
    telling = [name for name, mean in found.items() if direction(mean.bounds, mean.clusters) == "reproduced"]
    best = max(found, key=lambda name: found[name].estimate)
    text = (
        f"How badly a decoder draws an unknown class from a layer {verdict} what retraining that layer gains for the "
        f"class: the rank correlation over classes is {_number(paper)}, from {paper.clusters} draws of known and "
        "unknown classes."
    )
    if ceiling := _mean(correlation(rows, CEILING)):
        text += f" The gain itself, measured again with other samples, correlates {_number(ceiling)} with itself"
        if direction(ceiling.bounds, ceiling.clusters) == "reproduced":
            text += "."
        else:
            text += ": gains are so small and noisy here that an interval around zero refutes no predictor."
    told = f"{len(telling)} of {len(found)} predictors have an interval above zero"
    text += f" {told}{': ' * bool(telling)}{', '.join(telling)}; the highest is {best}, {_number(found[best])}."
    return f"{text} {_gained(rows)}".strip()


def _gained(rows: pd.DataFrame) -> str:
    """What retraining gains on average, layer by layer."""
    gained, told = pick(rows, quantity="gain"), []
    for what in dict.fromkeys(gained["condition"].tolist()):
        mean = _mean(gained[gained["condition"] == what].groupby(DRAW)["value"].mean())
        if mean:
            name = "all layers" if what == ALL else f"{what} alone"
            told.append(f"{name} {_number(mean, 100, 1)} points")
    return f"Over all unknown classes, retraining gains: {'; '.join(told)}." if told else ""


def _exceeding(rows: pd.DataFrame) -> str:
    """How often each layer's rule would have a class retrained."""
    share = flagged(rows).groupby("layer").mean()
    order = [layer for layer in dict.fromkeys(rows["layer"].dropna().tolist()) if layer in share.index]
    told = ", ".join(f"{100 * share[layer]:.0f} % of unknown classes at {layer}" for layer in order)
    return f" It would retrain for {told}." if told else ""


def _mean(values: "pd.Series[float] | None") -> Mean | None:
    if values is None or values.empty:
        return None
    return over_clusters(values.to_frame("value").assign(trial=0).set_index("trial", append=True)["value"], LEVEL)


def _number(mean: Mean, times: float = 1, digits: int = 2) -> str:
    if mean.bounds is None:
        return signed(times * mean.estimate, digits)
    low, high = (signed(times * bound, digits) for bound in mean.bounds)
    given = f", {mean.given}" if mean.given else ""
    return f"{signed(times * mean.estimate, digits)} (95 % interval {low} to {high}{given})"


def _said(claim: Claim, sentence: str) -> str:
    """A finding: the contrast with its interval, and the verdict on the paper's claim; nothing if not measured."""
    if claim.estimate is None:
        return ""
    number = points if claim.unit == "points" else signed
    told = sentence.format(number(claim.estimate))
    if interval := between(claim, number):
        told += f" ({interval})"
    return f"{told}. The paper's claim {claim.id} is {claim.verdict}."
