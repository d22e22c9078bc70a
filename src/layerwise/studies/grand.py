"""Grand, Kahn, Reimers 2016: "Transferable learning in convolutional neural networks".

A net learns to tell one category from a null class. All or some of its six layers are then copied into a net that
learns another category, and everything is trained: a *lesion* has a bit per layer, 1 = copied, 0 = fresh, so that
111001 is TTTRRT. Where in the net is what transfers? And which layers move first, and furthest?

Adam at 1e-4 on batches of 50, dropout that keeps 0.8, 10,000 images in all, accuracy on the test part every 250. The
authors drew weights and biases from N(0, 1); all is done so, and with He's initialisation beside it. Each image is put
into train or test once, for all tasks, so that no net is tested on an image, of the null class either, that its source
was trained on (the authors shuffled anew for each net). Sources and targets share the null class, as in the paper.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import pandas as pd

from layerwise.measure import Measure, Measurement, Row
from layerwise.rows import final, frame, pick
from layerwise.run import Recipe, Run, key
from layerwise.studies.grand_claims import claims
from layerwise.studies.grand_design import ALL, EXPERIMENTS, LAYERS, NONE, RATE, RATES, Design, design
from layerwise.studies.grand_measures import BATCH, Curve, compared, drift
from layerwise.studies.grand_words import words
from layerwise.studies.request import TRIAL_STRIDE
from layerwise.studies.results import Result, rows_of
from layerwise.treatment import lesion

__all__ = ["EXPERIMENTS", "TITLE", "cells", "claims", "design", "measurements", "remarks", "runs", "table", "words"]

TITLE = "Where in a net is what transfers, and what learns first? Grand, Kahn, Reimers: transferable learning"
DATA, RESIZE, GREY = "glyphs", 40, True
MEASURES: dict[str, Measure] = {"drift": drift}
LOOKED_AT = 100  # test images for CKA


@dataclass(frozen=True)
class Cell:
    """One run, and where it stands in an experiment. A source net has no trial; from scratch there is no source."""

    experiment: str
    condition: str
    run: Run
    control: Run  # from scratch on the same task, in the same order; of a source, itself
    source: int | None
    target: int
    seed: int
    trial: int | None


def cells(design: Design) -> Iterator[Cell]:
    """All runs, once for each experiment that they are part of; the sources come first."""
    sources: dict[Run, Cell] = {}
    found = list(_targets(design))
    for cell in found:
        if (run := cell.run.source_run) and cell.source is not None:
            sources[run] = Cell(cell.experiment, "source", run, run, None, cell.source, cell.seed, None)
    yield from sources.values()
    yield from found


def _targets(design: Design) -> Iterator[Cell]:
    scale, every_pair = design.scale, list(permutations(design.categories, 2))
    for net, seed, trial in product(design.nets, range(scale.seeds), range(scale.trials)):
        for experiment in design.experiments:
            pairs = every_pair if experiment == "speed-up" else design.pairs
            masks = scale.masks if experiment == "lesions" else (NONE, ALL)
            for (source, target), mask in product(pairs, masks):
                control = _target(design, net, None, target, NONE, seed, trial)
                run = control if mask == NONE else _target(design, net, source, target, mask, seed, trial)
                if experiment == "lesions":
                    yield Cell(experiment, f"lesion {mask}", run, control, source, target, seed, trial)
                elif mask == ALL:
                    yield Cell(experiment, "transferred", run, control, source, target, seed, trial)
            if experiment != "lesions":
                for target in dict.fromkeys(target for _, target in pairs):
                    run = _target(design, net, None, target, NONE, seed, trial)
                    yield Cell(experiment, "scratch", run, run, None, target, seed, trial)


def _target(design: Design, net: str, source: int | None, target: int, mask: str, seed: int, trial: int) -> Run:
    """A net that learns the target category, some of its layers copied from one that learnt the source category.

    draw=1: the control from scratch shares fresh weights, data order and dropout with what is transferred to its task.
    A source is another draw (0), so that no net is its own target's control, nor a target's order its source's.
    """
    draw = seed + TRIAL_STRIDE * trial
    origin = None if source is None else _source(design, net, source, seed)
    recipe = _recipe(design, net, design.scale.steps, min(design.scale.every, design.scale.steps))
    return Run(net, design.task(target, draw), lesion(mask), origin, (recipe,), draw, draw=1)


def _source(design: Design, net: str, category: int, seed: int) -> Run:
    steps = design.request.source_steps or design.scale.source_steps
    return Run(net, design.task(category, seed), lesion(NONE), None, (_recipe(design, net, steps, 0),), seed)


def _recipe(design: Design, net: str, steps: int, every: int) -> Recipe:
    asked, rate = design.request, RATES.get(net, RATE)
    return Recipe(steps, BATCH, rate, "adam", evaluate_every=every, **asked.how)


def runs(design: Design) -> list[Run]:
    """The runs wanted."""
    return list(dict.fromkeys(cell.run for cell in cells(design)))


def measurements(design: Design) -> list[Measurement]:
    """The drift of the nets of the third experiment."""
    watched = [cell for cell in cells(design) if cell.experiment == "dynamics" and cell.trial is not None]
    return list(dict.fromkeys(_drift(design, cell.run) for cell in watched))


def _drift(design: Design, run: Run) -> Measurement:
    return Measurement("grand", "drift", (run,), (("every", design.scale.watched), ("images", LOOKED_AT)))


def table(design: Design, results: Mapping[str, Result], measured: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """The rows: learning curves and costs, each curve against its control's, and the drift of layers.

    `class_name` is the category that is learnt, `other_class` that of the source.
    """
    names, rows = design.request.data.class_names, list[dict[str, Any]]()
    for cell in cells(design):
        about = {
            "net": cell.run.net, "experiment": cell.experiment, "condition": cell.condition, "seed": cell.seed,
            "trial": cell.trial, "class_name": names[cell.target], "cluster": names[cell.target],
            "other_class": None if cell.source is None else names[cell.source],
            "n": {"scratch": 0, "transferred": LAYERS}.get(cell.condition),
        }  # fmt: skip
        result, control = (results.get(key(run)) for run in (cell.run, cell.control))
        if not result:
            continue
        of_run = list(rows_of(cell.run, result, **about))
        if control and cell.trial is not None:
            of_run += [{**of_run[-1], **row} for row in compared(_curve(result), _curve(control))]
        if cell.experiment == "dynamics":
            of_run += [{**of_run[-1], **row} for row in measured.get(_drift(design, cell.run).key, ())]
        rows += of_run
    sizes = [
        {"net": net, "layer": layer, "quantity": "parameters", "value": size}
        for net, layers in design.nets.items()
        for layer, size in layers.items()
    ]
    common = {"study": "grand", "data": design.request.data.name}
    return frame({**common, **row} for row in rows + sizes)


def _curve(result: Result) -> Curve:
    """Test accuracy after so many images."""
    return [(BATCH * step, value) for step, split, what, value in result.curve if (split, what) == ("test", "accuracy")]


def remarks(design: Design, rows: pd.DataFrame) -> list[str]:
    """What the rows show that a reader must know: nets that learnt nothing, and measures that had to be cut off."""
    found = []
    transferred = pick(rows, experiment="speed-up", condition="transferred", quantity="images_to_level")
    for name, of_net in transferred.groupby("net"):
        if never := int(of_net["reason"].notna().sum()):
            found.append(
                f"{name}: {never} of {len(of_net)} transferred nets never reach the final accuracy of the net from "
                f"scratch; they are counted with all {BATCH * design.scale.steps:,} images, not left out"
            )
    ends = final(pick(rows, experiment="speed-up", condition="scratch", split="test", quantity="accuracy"))
    for net, accuracy in ends.groupby("net")["value"].mean().items():
        if accuracy < 0.55:
            found.append(
                f"{net}: from scratch nets end with {accuracy:.1%} where guessing gives 50%: they learnt little"
            )
    return found
