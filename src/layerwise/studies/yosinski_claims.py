"""What Yosinski et al. claim, Y1 to Y7, each as the one contrast that was written before the numbers.

Each contrast is taken twice. *Paired*: a net is compared with nets of its own target half and class split, intervals
are over class splits. *Unpaired*, as the paper's figures do: all nets of a condition are pooled and count as if they
were independent (Welch's interval), although they share halves and bases, and conditions may be of other halves: shown
beside the paired claims, and not counted. Y5 compares two independent groups of class splits, each net with its own
base; only its twin pools nets.
"""

from dataclasses import dataclass, replace

import pandas as pd

from layerwise.claims import LEVELS, Claim, Kind, decide, judged, over_clusters, unmeasured, unpaired
from layerwise.studies.yosinski_nets import BASE, LAST, OF_HALVES, Cells, Nets

PAPER = "Yosinski et al."
DEPTH = 8  # of the nets whose middle is at n = 4 and 5
LOGS = "{} points (released logs)"
KINDS = "these two kinds of classes"  # which all class splits of dissimilar halves have in common
POOLED = "; unpaired, as in the paper's figures: all nets pooled as if they were independent, the clusters are nets"


@dataclass(frozen=True)
class Contrast:
    """The mean over cuts of one condition's test accuracy, minus that of another's."""

    name: str
    says: str
    quantity: str
    some: Cells
    others: Cells
    published: str  # paired, of the authors' nets
    pooled: str  # unpaired
    kind: Kind = "direction"
    any_depth: bool = False  # else of nets of eight layers only


CONTRASTS = (
    Contrast(
        "Y1", "Accuracy falls as more layers are copied from the other half and frozen",
        "AnB at n = 1 minus AnB with all but the last layer copied", ("AnB", (1,)), ("AnB", (LAST,)), "+8.6", "+8.6",
        any_depth=True,
    ),
    Contrast(
        "Y2", "Copied from the same half and frozen, accuracy dips in the middle and recovers near the top",
        "BnB, mean of n = 1 and 7 minus mean of n = 4 and 5", ("BnB", (1, 7)), ("BnB", (4, 5)), "+2.6", "+2.6",
    ),
    Contrast(
        "Y3", "Copied from the same half and tuned, accuracy has no dip",
        "BnB+, mean of n = 1 and 7 minus mean of n = 4 and 5", ("BnB+", (1, 7)), ("BnB+", (4, 5)), "-0.6", "-0.7",
        "absence",
    ),
    Contrast(
        "Y4", "Copied from the other half and tuned, nets beat their base (contested)",
        "AnB+ minus base, mean over n", ("AnB+", ()), BASE, "+1.0", "+1.6", any_depth=True,
    ),
    Contrast(
        "Y4 self-transfer", "Copied from the same half and tuned, nets beat it too, which is why Y4 is contested",
        "BnB+ minus base, mean over n", ("BnB+", ()), BASE, "+1.0", "+0.2", any_depth=True,
    ),
    Contrast(
        "Y7 co-adaptation", "In the middle, freezing loses what layers had learnt to do for each other",
        "base minus BnB, mean of n = 4 and 5", BASE, ("BnB", (4, 5)), "+2.4", "+2.6",
    ),
    Contrast(
        "Y7 specificity", "At the top, frozen layers are too specific to the other half",
        "BnB minus AnB at n = 7", ("BnB", (7,)), ("AnB", (7,)), "+8.2", "+8.1",
    ),
)  # fmt: skip


def claims(rows: pd.DataFrame) -> list[Claim]:
    """Y1 to Y7 held against the rows, each paired and unpaired."""
    nets, distant, filters = (Nets.of(rows, *names) for names in (OF_HALVES, ("dissimilar",), ("random-filters",)))
    found = [claim for one in CONTRASTS for claim in (_paired(nets, one), _unpaired(nets, one))]
    found += [*_distance(nets, distant), *_against_filters(nets, distant, filters)]
    return sorted(found, key=lambda claim: claim.id[:2])


def _paired(nets: Nets, contrast: Contrast) -> Claim:
    claim = _claim(contrast.name, contrast.says, contrast.quantity, contrast.published)
    if not (contrast.any_depth or nets.depth == DEPTH):
        return replace(
            decide(claim, contrast.kind, None, 0), quantity=f"{contrast.quantity} (of nets of {DEPTH} layers)"
        )
    both = contrast.some, contrast.others
    line = nets.mean(nets.accuracy, both[0]) - nets.mean(nets.accuracy, both[1])
    lines = line.dropna().index
    pairs = max(int(nets.cells(nets.accuracy, one).loc[lines].count().sum()) for one in both)
    found = decide(claim, contrast.kind, line, 1)
    return replace(found, pairs=pairs, rows=nets.runs(lines, *both))


def _unpaired(nets: Nets, contrast: Contrast) -> Claim:
    claim = _claim(f"{contrast.name} unpaired", contrast.says, contrast.quantity, contrast.pooled)
    both = contrast.some, contrast.others
    fits = contrast.any_depth or nets.depth == DEPTH
    some, others = (nets.pooled(nets.accuracy, one) if fits else [] for one in both)
    return _judged_pooled(claim, contrast.kind, some, others, nets.runs(nets.keys.index, *both))


def _judged_pooled(claim: Claim, kind: Kind, some: list[float], others: list[float], keys: tuple[str, ...]) -> Claim:
    if not some or not others:
        return judged(claim, kind, None, 0)
    found = judged(claim, kind, unpaired(some, others, LEVELS[kind]), 0)
    told = f"{claim.quantity}; {len(some)} nets against {len(others)}"
    return replace(found, rule=found.rule + POOLED, quantity=told, rows=keys)


def _distance(nets: Nets, distant: Nets) -> list[Claim]:
    """Y5 is an interaction: two groups of class splits, each net against its own base."""
    says = "Accuracy falls faster where the halves differ in kind"
    quantity = (
        "loss of the own base's accuracy above chance, AnB with all but the last layer, dissimilar minus random halves"
    )
    cells: Cells = ("AnB", (LAST,))
    losses = [1 - group.mean(group.kept, cells).dropna() for group in (distant, nets)]
    splits = [loss.groupby(level=0).mean().tolist() for loss in losses]
    keys = tuple(
        k for group, loss in zip((distant, nets), losses, strict=True) for k in group.runs(loss.index, BASE, cells)
    )
    claim = _claim("Y5", says, f"{quantity}; {len(splits[0])} class splits against {len(splits[1])}", "+29.2")
    if all(splits):
        mean = replace(unpaired(splits[0], splits[1], LEVELS["direction"]), given=f"given {KINDS}")
        claim = replace(judged(claim, "direction", mean, sum(map(len, losses))), rows=keys)
    else:
        claim = judged(claim, "direction", None, 0)
    theirs, ours = ([1 - kept for kept in group.pooled(group.kept, cells)] for group in (distant, nets))
    return [claim, _judged_pooled(_claim("Y5 unpaired", says, quantity, "+29.2"), "direction", theirs, ours, keys)]


def _against_filters(nets: Nets, distant: Nets, filters: Nets) -> list[Claim]:
    """Y6 pairs the halves of a class split with the nets on both halves of it."""
    group, which = (distant, "dissimilar") if len(distant.keys) else (nets, "random")
    cells: tuple[Cells, Cells] = (("AnB", (1, 2)), ("random filters", (1, 2)))
    says = "Even distant transfer beats random filters (contested from n = 3 on, where the authors' did not train)"
    quantity = (
        f"share kept of the own base's accuracy above chance, AnB of {which} halves minus random filters, mean of "
        "n = 1 and 2"
    )
    theirs = filters.mean(filters.kept, cells[1]).groupby(level="seed").mean()
    kept = group.mean(group.kept, cells[0])
    line = kept - pd.Series([theirs.get(seed) for _, seed, *_ in kept.index], kept.index, dtype=float)
    lines = line.dropna().index
    seeds = filters.keys.index[filters.keys.index.get_level_values("seed").isin(lines.get_level_values("seed"))]
    keys = (*group.runs(lines, BASE, cells[0]), *filters.runs(seeds, BASE, cells[1]))
    mean = over_clusters(line.dropna(), LEVELS["direction"]) if len(lines) else None
    if mean and group is distant:
        mean = replace(mean, given=f"{mean.given} of {KINDS}" if mean.given else f"given {KINDS}")
    claim = replace(judged(_claim("Y6", says, quantity, "+21.8"), "direction", mean, 2 * len(lines)), rows=keys)
    pooled = (group.pooled(group.kept, cells[0]), filters.pooled(filters.kept, cells[1]))
    return [claim, _judged_pooled(_claim("Y6 unpaired", says, quantity, "+21.8"), "direction", *pooled, keys)]


def _claim(name: str, says: str, quantity: str, published: str) -> Claim:
    paired = not name.endswith(" unpaired")
    claim = unmeasured(name, PAPER, says, quantity, cluster="class split" if paired else "net")
    return replace(claim, published=LOGS.format(published), tallied=paired)
