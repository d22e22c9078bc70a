"""What Gutstein et al. wanted next: parts of a layer, kept levels that retrain, and the choice of source classes.

partial  of one layer, C3 or C5, a share of the maps is copied and frozen (half of them also copied and retrained) and
         the rest fresh; the levels below are copied and frozen, those above fresh. Which maps: by saliency (Optimal
         Brain Damage), by information about the class (discriminability-based transfer), or at random. The ends of the
         scale are none and all of the layer's maps.
tuned    T^n R beside F^n R: the kept levels free to retrain.
sources  5, 10 and 20 source classes, and 10 that were chosen for the target in several ways; each has as many samples,
         and every source is trained to the same accuracy (unless `--source-steps` fixes how long), so that more classes
         are more images and more steps. Nothing but the last one or two levels learns the target.

All targets are those of the paper's grid: same class splits, samples, codes, fresh weights and data order.
"""

from collections.abc import Iterator
from itertools import product

from layerwise.run import Run
from layerwise.studies.gutstein_design import Cell, Design
from layerwise.studies.request import TRIAL_STRIDE
from layerwise.tasks import Task
from layerwise.treatment import Part, Treatment, transfer

HALF = 0.5
SHARES = (0.25, HALF, 0.75)
CRITERIA = ("saliency", "information", "random")
BECAME = {"F": "frozen", "T": "retrained"}
CONDITIONS = {  # by the symbol of the layer in question
    "R": "none of {}",
    **{letter: f"all of {{}}, {became}" for letter, became in BECAME.items()},
    **{
        str(Part(share, criterion, letter)): f"{share:.0%} of {{}} by {criterion}, {became}"
        for criterion, (letter, became) in product(CRITERIA, BECAME.items())
        for share in (SHARES if letter == "F" else (HALF,))
    },
}
FEWEST_SHOTS = {"information": 2}  # per class: a single sample has no neighbour of its class


def partial(design: Design) -> Iterator[Cell]:
    """Part of one layer copied: each layer, share, criterion and letter."""
    yield from source_cells(design, "partial")
    for source, seed, trial, task in targets(design):
        for layer, (symbol, condition) in product(parted(design), CONDITIONS.items()):
            if "information" in symbol and (task.shots or 0) < FEWEST_SHOTS["information"]:
                continue
            below = list(design.sizes).index(layer)
            treatment = Treatment.parse("F" * below + symbol + "R" * (design.depth - below - 1))
            run = design.target_net(task, treatment, source)
            yield Cell(run, seed, trial, None, "partial", condition.format(layer))


def parted(design: Design) -> tuple[str, ...]:
    """The layers that are copied in part: one in the middle and the last but one. In LeNet-5 they are C3 and C5."""
    names = list(design.sizes)
    return tuple(dict.fromkeys((names[(design.depth - 1) // 2], names[-2])))


def tuned(design: Design) -> Iterator[Cell]:
    """Every n, frozen and retrained, and from scratch."""
    yield from source_cells(design, "tuned")
    for source, seed, trial, task in targets(design):
        for n, condition in [(0, "scratch"), *product(range(1, design.depth), ("frozen", "tuned"))]:
            run = design.target_net(task, transfer(design.depth, n, tuned=condition == "tuned"), source)
            yield Cell(run, seed, trial, n, "tuned", condition)


def sources(design: Design) -> Iterator[Cell]:
    """Every choice of source classes; all levels kept but the last one or two."""
    for seed, choices in design.chosen.items():
        unknown = design.sides(seed)[1]
        for choice, classes in choices.items():
            source = design.source_net(classes, seed)
            yield Cell(source, seed, None, 0, "sources", choice)
            for trial, shots, n in product(range(design.beyond.trials), design.beyond.shots, top_levels(design)):
                task = design.task(unknown, shots, seed + TRIAL_STRIDE * trial)
                run = design.target_net(task, transfer(design.depth, n), source)
                yield Cell(run, seed, trial, n, "sources", choice)


def top_levels(design: Design) -> range:
    """All levels but the last two, and but the last one: 4 and 5 in LeNet-5."""
    return range(max(1, design.depth - 2), design.depth)


def source_cells(design: Design, experiment: str) -> Iterator[Cell]:
    """The source net of every class split."""
    for seed in range(design.beyond.seeds):
        yield Cell(design.source_net(design.sides(seed)[0], seed), seed, None, 0, experiment)


def targets(design: Design) -> Iterator[tuple[Run, int, int, Task]]:
    """The source, class split and trial of every target, and the target's task."""
    for seed in range(design.beyond.seeds):
        known, unknown = design.sides(seed)
        source = design.source_net(known, seed)
        for trial, shots in product(range(design.beyond.trials), design.beyond.shots):
            yield source, seed, trial, design.task(unknown, shots, seed + TRIAL_STRIDE * trial)
