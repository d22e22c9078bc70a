"""Grand's answer in one paragraph, and the main findings, for each initialisation."""

from collections.abc import Sequence

import pandas as pd

from layerwise.claims import LEVELS, Claim, direction
from layerwise.studies.grand_nets import Net, nets, over_categories
from layerwise.studies.sentences import MINUS, between, points

FINDINGS = {
    "R2a": "Lesioning one of the layers 1 to 3 instead of 4 to 6 changes accuracy over the learning curve by {} points",
    "R2b": "Lesioning one of the layers 1 to 3 instead of none changes it by {} points",
    "R5": "Copying the convolutions and the output layer only, instead of all, changes it by {} points",
    "R3a": "With each layer from the input up, weights from scratch move further from their start by {}",
    "R3b": "Per square root of their number they move further by {}",
    "R4a": "In transferred nets the way of a layer's weights is shorter by {} of what it is from scratch",
}


def words(rows: pd.DataFrame, made: Sequence[Claim]) -> tuple[str, tuple[str, ...]]:
    """The answer in one paragraph, and the main findings."""
    found, by = nets(rows), {claim.id: claim for claim in made}
    told = [_told(net) for net in found if not net.pairs["end"].empty]
    basis = (
        "These are means over all ordered pairs of categories; helps and hurts mean that the 95 % interval of the "
        "paired difference, over categories, leaves out zero."
    )
    said = [
        _said(claim, sentence, net)
        for name, sentence in FINDINGS.items()
        for net in found
        if (claim := by[name + net.beside]).estimate is not None
    ]
    return " ".join([*told, basis] if told else ["No transfer of whole nets was measured."]), tuple(said)


def _told(net: Net) -> str:
    """What copying all layers does, for one initialisation."""
    scratch, transferred = (net.last(condition).mean() for condition in ("scratch", "transferred"))
    gain = over_categories(net.pairs["end"].dropna(), LEVELS["direction"])
    effects = {"reproduced": "helps", "contradicted": "hurts", "undecided": "makes no clear difference"}
    effect = effects[direction(gain.bounds, gain.clusters)]
    needed = net.of("speed-up", "transferred", "images_to_level").mean()
    return (
        f"Copying all layers of a net for another category {effect} where nets begin with {net.begins}: they end with "
        f"{transferred:.1%} test accuracy, from scratch with {scratch:.1%}, which they reach after {needed:,.0f} of "
        f"{net.horizon:,} images on average, those that never do counted with all."
    ).replace("%", " %")


def _said(claim: Claim, sentence: str, net: Net) -> str:
    """A finding: the contrast with its interval, and the verdict on the paper's claim."""
    assert claim.estimate is not None

    def number(value: float) -> str:
        """In points where it is a fraction, else with three digits."""
        return points(value) if claim.unit == "points" else f"{value:+.3g}".replace("-", MINUS)

    told = sentence.format(number(claim.estimate)) + f" ({net.begins}"
    if interval := between(claim, number):
        told += f"; {interval}"
    return f"{told}). The paper's claim {claim.id} is {claim.verdict}."
