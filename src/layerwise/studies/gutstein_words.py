"""What a run of Gutstein's study says: the answer in one paragraph, and the findings, each with its interval."""

from collections.abc import Sequence

import pandas as pd

from layerwise.claims import FEWEST_CLUSTERS, Claim, direction, over_clusters
from layerwise.rows import pick
from layerwise.studies.gutstein_claims import PAPER, Grids, levels
from layerwise.studies.sentences import between, points

SENTENCES = {  # of the claims that are findings, in their order
    "G2": "With 1 and 5 samples per class, keeping levels changes test accuracy by {} points on average",
    "G3": "With each doubling of the samples, what transfer brings changes by {} points",
    "G4": "With only the last level learning, more than 10 samples per class bring {} points of accuracy",
    "G8": "Where part of a layer is kept, choosing its maps by saliency and not at random changes test accuracy by {} "
    "points",
    "G14": "Keeping half of a layer, its most salient maps, and not all of it changes test accuracy by {} points",
    "G9": "Letting the kept levels retrain and not freezing them changes test accuracy by {} points",
    "G10": "Source classes most similar to the target's, and not drawn at random, change test accuracy by {} points",
    "G19": "Each doubling of the number of source classes changes test accuracy by {} points",
    "G11": "On one frozen trunk for all tasks, new tasks change the accuracy on earlier ones by {} points",
    "G12": "On a trunk that retrains for each task, new tasks change the accuracy on earlier ones by {} points",
}
FALLS = ("G3", "G11", "G12")  # contrasts that are falls, told as changes


def words(rows: pd.DataFrame, made: Sequence[Claim]) -> tuple[str, tuple[str, ...]]:
    """The answer in one paragraph, and the findings; every number is a mean over class splits."""
    by = {claim.id: claim for claim in made}
    findings = tuple(
        _said(by[name], sentence, sign=-1 if name in FALLS else 1) for name, sentence in SENTENCES.items() if name in by
    )
    grids = Grids.of(rows)
    if not grids.shots or grids.top < 2:
        if not findings:
            return "No transfer was measured.", ()
        return f"The paper's own grid was not run. {findings[0]}", findings
    layers, top = pick(rows, quantity="parameters")["layer"].tolist(), grids.top
    answer = (
        f"Copying and freezing the bottom {top - 1} levels ({layers[0]} to {layers[top - 2]}) {_told(grids, top - 1)}. "
        f"Keeping {layers[top - 1]} as well, so that only the last level learns, {_told(grids, top)}. {_basis(rows)}"
    )
    return answer, findings


def _told(grids: Grids, n: int) -> str:
    """What keeping n levels does with the fewest and the most samples."""
    return ", and ".join(_effect(grids, n, shots) for shots in dict.fromkeys((grids.shots[0], grids.shots[-1])))


def _effect(grids: Grids, n: int, shots: int) -> str:
    """One difference in words: helps and hurts are verdicts, by the rule of all claims."""
    gain, samples = grids.gain(n)[shots].dropna(), "1 sample" if shots == 1 else f"{shots} samples"
    if gain.empty:
        return f"was not measured with {samples} per class"
    mean = over_clusters(gain, 0.95)
    here, scratch = (
        f"{over_clusters(grids.accuracy[shots, k][gain.index], 0.95).estimate:.1%}".replace("%", " %") for k in (n, 0)
    )
    if mean.clusters < FEWEST_CLUSTERS:
        return f"gives {here} test accuracy with {samples} per class, against {scratch} from scratch"
    effects = {"reproduced": "helps", "contradicted": "hurts", "undecided": "makes no clear difference"}
    effect = effects[direction(mean.bounds, mean.clusters)]
    return f"{effect} with {samples} per class ({here} test accuracy, {scratch} from scratch)"


def _basis(rows: pd.DataFrame) -> str:
    """What the numbers are means over, and what they can tell."""
    targets = levels(rows)
    splits, sources = targets["cluster"].nunique(), targets["seed"].nunique()
    if splits >= FEWEST_CLUSTERS:
        return (
            f"These are means over {splits} class splits, each with its own source net; helps and hurts mean that the "
            "95 % interval of the paired difference leaves out zero."
        )
    basis = f"{splits} class splits" if splits > 1 else "one class split"
    nets = f"{sources} source nets" if sources > 1 else "one source net"
    return f"These are means over {basis} and {nets}: under {FEWEST_CLUSTERS} class splits decide nothing."


def _said(claim: Claim, sentence: str, *, sign: int = 1) -> str:
    """A finding: the contrast (times the sign) in points with its interval, and the verdict on the claim."""
    if claim.estimate is None:
        return f"{claim.statement}: not measured, the runs that it needs were not made."
    told = sentence.format(points(sign * claim.estimate))
    if interval := between(claim, points, sign=sign):
        told += f" ({interval})"
    whose = "The paper's" if claim.paper == PAPER else "Our"
    return f"{told}. {whose} claim {claim.id} is {claim.verdict}."
