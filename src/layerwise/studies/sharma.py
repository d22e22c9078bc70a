"""Sharma, with Cottrell: "Better techniques for transfer learning".

A net of two convolutions and a classifier learns some classes, the known ones. Which of its layers must be retrained
for which unknown class? The paper would tell that from activations alone: from how classes lie in a layer (experiment
1), from images sought by descent until a layer sees in them what it saw in others (2), and from decoders that draw the
image from a layer (3): it is to be retrained for the unknown classes whose error exceeds that of the known ones.

The paper stops there. Here the layers are retrained: nets learn the unknown classes, their head fresh, with every layer
copied and frozen (`FFR`), with one of them tuned (`TFR`, `FTR`), with all (`TTR`); see `sharma_retraining` for

    gain(class, layer) = accuracy(class, with the layer tuned) - accuracy(class, with all frozen).

Targets are the unknown classes alone: with the known ones among them, for which the layers were made, any measure of
how new a class is would predict gains, without telling one unknown class from another.
A cluster is a draw of known and unknown classes with its source net; the first is the paper's, 0-4 and 5-9.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pandas as pd

from layerwise.costs import layer_parameters
from layerwise.measure import Measurement, Option, Row
from layerwise.rows import final, frame, pick
from layerwise.run import Recipe, Run, key
from layerwise.studies.given_net import GivenNet
from layerwise.studies.request import TRIAL_STRIDE, Request
from layerwise.studies.results import Result, rows_of
from layerwise.studies.sharma_claims import DEEP as INVERSION_OF_DEEP
from layerwise.studies.sharma_claims import claims
from layerwise.studies.sharma_design import EXPERIMENTS, Design, classes, design
from layerwise.studies.sharma_measures import MEASURES
from layerwise.studies.sharma_retraining import ALL, NONE, correlations, gains
from layerwise.studies.sharma_words import words
from layerwise.tasks import Task
from layerwise.treatment import Treatment, surgical

__all__ = [
    "EXPERIMENTS", "MEASURES", "TITLE", "claims", "design", "draws", "measurements", "remarks", "runs", "table", "words"
]  # fmt: skip

TAKES_DEEP = True
TITLE = "Which layers must be retrained for unknown classes? Sharma, with Cottrell: better techniques for transfer"
DATA, RESIZE, GREY = "digits", 32, False
RATE = 0.02  # of all nets
LOOKS = 5  # at a source while it learns
LEARNT = 0.9  # of its test images: a source below it does not know its classes


@dataclass(frozen=True)
class Draw:
    """Known and unknown classes, the nets that know the known ones, and those that learn the unknown ones."""

    seed: int
    unknown: Task  # with the samples of the first trial
    source: Run
    deep: Run | None  # null where the deep net has weights of the user's own
    targets: tuple[tuple[Run, int, str], ...]  # with the trial, and what is retrained: a layer's name, ALL or NONE


def draws(design: Design) -> Iterator[Draw]:
    """The nets of every draw of known and unknown classes."""
    request, scale, depth = design.request, design.scale, len(design.layers)
    seeds = scale.seeds if set(design.experiments) != {"inversion"} else min(scale.seeds, scale.inverted_seeds)
    treatments = {NONE: Treatment.parse("F*R"), ALL: Treatment.parse("T*R")}
    treatments |= {design.layers[number - 1]: surgical(depth, number) for number in design.at}
    for seed in range(seeds):
        known, unknown = classes(request, seed)
        learnt = Task(request.data.digest, known, scale.source_shots, parts=design.parts, seed=seed)
        source = _source(design, design.net, learnt, scale.source_steps)
        targets = []
        for trial, shots in product(range(scale.trials), scale.shots):
            drawn = seed + TRIAL_STRIDE * trial
            task = replace(learnt, classes=unknown, shots=shots, seed=drawn)
            for what, treatment in treatments.items():
                recipe = _recipe(request, scale.steps)
                run = Run(design.net, task, treatment.resolve(depth), source, (recipe,), drawn)
                targets.append((run, trial, what))
        deep = _source(design, design.deep, learnt, scale.deep_steps) if isinstance(design.deep, str) else None
        yield Draw(seed, replace(learnt, classes=unknown), source, deep, tuple(targets))


def _source(design: Design, net: str, task: Task, steps: int) -> Run:
    """A net that learns the known classes."""
    depth = len(layer_parameters(net, design.request.data.images.shape[1:], len(task.classes)))
    scratch = Treatment.parse("R*").resolve(depth)
    recipe = replace(_recipe(design.request, steps), evaluate_every=max(1, steps // LOOKS))
    return Run(net, task, scratch, None, (recipe,), task.seed)


def _recipe(request: Request, steps: int) -> Recipe:
    """The paper does not say how its nets were trained: plain SGD, one rate for all, lowered near the end."""
    return Recipe(steps, 20, RATE, drops=(0.8,), **request.how)


def runs(design: Design) -> list[Run]:
    """The runs wanted: those that are measured."""
    return list(dict.fromkeys(run for look in measurements(design) for run in look.runs))


def measurements(design: Design) -> list[Measurement]:
    """What is measured on their nets."""
    return [look for draw in draws(design) for _, look in looks(design, draw)]


def looks(design: Design, draw: Draw) -> Iterator[tuple[str, Measurement]]:
    """The measurements of a draw by experiment; decoders are for their own and to predict gains."""
    scale, wanted = design.scale, set(design.experiments)
    at, deep_at = (",".join(map(str, numbers)) for numbers in (design.at, design.deep_at))
    unknown = ",".join(map(str, draw.unknown.classes))

    def look(what: str, *looked_at: Run, **options: Option) -> Measurement:
        return Measurement("sharma", what, looked_at, tuple({"unknown": unknown, **options}.items()))

    if "embedding" in wanted:
        yield "embedding", look("embedding", draw.source, images=scale.looked_at, at=at, pictured=draw.seed == 0)
    if "inversion" in wanted and draw.seed < scale.inverted_seeds:
        how: dict[str, Option] = {"images": scale.inverted, "steps": scale.descent, "pictured": draw.seed == 0}
        yield "inversion", look("inversion", draw.source, at=at, **how)
        if isinstance(design.deep, str):
            assert draw.deep
            yield INVERSION_OF_DEEP, look("inversion", draw.deep, at=deep_at, **how)
        else:
            how |= {"net": design.deep.net, "weights": design.deep.digest}
            yield INVERSION_OF_DEEP, look("inversion_given", draw.source, at=deep_at, **how)
    if wanted & {"decoders", "retraining"}:
        how = {"decoders": scale.decoders, "steps": scale.decoder_steps, "pictured": draw.seed == 0}
        yield "decoders", look("decoders", draw.source, images=scale.looked_at, at=at, **how)
    if "retraining" in wanted:
        frozen = next(run for run, _, what in draw.targets if what == NONE)
        yield "retraining", look("predictors", draw.source, frozen, images=scale.looked_at, at=at)
        yield "retraining", Measurement("sharma", "accuracies", tuple(run for run, _, _ in draw.targets))


def table(design: Design, results: Mapping[str, Result], measured: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """The rows: learning curves and costs, what was measured, gains and rank correlations from these, layers' sizes."""
    rows: list[Row] = []
    for draw in draws(design):
        of_draw = {"seed": draw.seed, "source_task": draw.source.task.name, "target_task": draw.unknown.name}
        told: dict[str, Row] = {}
        sources = [(run, None, None) for run in (draw.source, draw.deep) if run]
        for run, trial, what in (*sources, *draw.targets):
            copied, experiment = (len(design.layers) - 1, "retraining") if run.source else (0, None)
            about = {"net": run.net, "trial": trial, "condition": what, "seed": draw.seed, "experiment": experiment}
            told[key(run)] = {**about, "shots": run.task.shots}
            if result := results.get(key(run)):
                rows.extend(rows_of(run, result, n=copied, **about))
        for experiment, look in looks(design, draw):
            given = design.deep if experiment == INVERSION_OF_DEEP and isinstance(design.deep, GivenNet) else None
            of_net = {"net": given.called} if given else {}
            for row in measured.get(look.key, ()):
                rows.append({**of_draw, **told[row["run_key"]], "experiment": experiment, **of_net, **row})
    rows += gains(frame(rows))
    rows += correlations(frame(rows))
    clusters = {draw.seed: draw.unknown.name for draw in draws(design)}
    rows = [{**row, "cluster": clusters[row["seed"]]} for row in rows]
    common = {"study": "sharma", "net": design.net, "data": design.request.data.name}
    sizes = [{"layer": layer, "quantity": "parameters", "value": size} for layer, size in design.sizes.items()]
    return frame({**common, **row} for row in rows + sizes)


def remarks(design: Design, rows: pd.DataFrame) -> list[str]:
    """What the rows show that a reader must know: sources that did not learn their classes."""
    sources = final(pick(rows[rows["trial"].isna()], quantity="accuracy", split="test"))
    return [
        f"source {row.net} of seed {row.seed}: right on {row.value:.1%} of test images of its own classes, not on "
        f"{LEARNT:.0%}: it does not know them well"
        for row in sources[sources["value"] < LEARNT].itertuples()
    ]
