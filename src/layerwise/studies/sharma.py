"""Sharma, with Cottrell: "Better techniques for transfer learning".

A net of two convolutions and a classifier learns some classes, the known ones. Which of its layers must be retrained
for which unknown class? The paper would tell that from activations alone: from how classes lie in a layer (experiment
1), from images sought by descent until a layer sees in them what it saw in others (2), and from decoders that draw the
image from a layer (3): "retrain a layer for the unknown classes whose error exceeds that of the known ones".

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
from layerwise.errors import StudyError
from layerwise.measure import Measurement, Option, Row
from layerwise.rows import final, frame, pick
from layerwise.run import Recipe, Run, key
from layerwise.studies.request import Request, available, experiments, fit_parts, scaled, sides
from layerwise.studies.results import Result, rows_of
from layerwise.studies.sharma_claims import DEEP as INVERSION_OF_DEEP
from layerwise.studies.sharma_claims import claims
from layerwise.studies.sharma_measures import MEASURES
from layerwise.studies.sharma_retraining import ALL, NONE, correlations, gains
from layerwise.studies.sharma_words import words
from layerwise.tasks import Parts, Task, choose_classes
from layerwise.treatment import Treatment, surgical

__all__ = ["MEASURES", "TITLE", "claims", "design", "draws", "measurements", "remarks", "runs", "table", "words"]

TITLE = "Which layers must be retrained for unknown classes? Sharma, with Cottrell: better techniques for transfer"
EXPERIMENTS = {
    "embedding": "how known and unknown classes lie in each layer: spread, nearest known class, t-SNE (the paper's 1)",
    "inversion": "images sought from a layer's activations, of trained and untrained nets, of a deep one too (2)",
    "decoders": "what decoders that learnt the known classes cannot draw of each class, from each layer (3)",
    "retraining": "does the decoder's error tell what retraining a layer gains for a class? (never tested there)",
}
DATA, RESIZE, GREY = "digits", 32, False
MOST_CLASSES = 5  # on each side
PAPERS_CLASSES = 10  # of which the first five are known, in the first draw
MOST_LAYERS = 6  # of a deep net: each is decoded and retrained
DEEP = {1: "vgg19narrow", 3: "resnet20"}  # by channels of the images
DEEP_LAYERS = (1, 2, 16)  # the paper's, of VGG-19
RATE = 0.02  # of all nets
TRIAL_STRIDE = 1_000  # between the seeds of a source's trials, so that asking for more of them renames none
LEARNT = 0.9  # of its test images: a source below it does not know its classes


@dataclass(frozen=True)
class Scale:
    """How large a study is run."""

    seeds: int  # draws of known and unknown classes
    trials: int
    shots: tuple[int, ...]
    source_shots: int
    test: int  # images a class
    steps: int
    source_steps: int
    looked_at: int  # images a class, for experiments 1 and 3
    decoders: int  # of each layer
    decoder_steps: int
    inverted_seeds: int  # draws in which images are inverted
    inverted: int  # images a class
    descent: int  # steps
    deep_steps: int  # of the deep net's training


SCALES = {
    "demo": Scale(
        seeds=10, trials=2, shots=(20,), source_shots=100, test=100, steps=120, source_steps=200, looked_at=40,
        decoders=2, decoder_steps=150, inverted_seeds=5, inverted=2, descent=150, deep_steps=120,
    ),
    "paper": Scale(
        seeds=20, trials=4, shots=(5, 20, 100), source_shots=5_000, test=1_000, steps=1_000, source_steps=4_000,
        looked_at=500, decoders=5, decoder_steps=1_000, inverted_seeds=10, inverted=4, descent=500, deep_steps=2_000,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Design:
    """The request fitted to the data: what exactly is run."""

    request: Request
    experiments: tuple[str, ...]
    net: str
    deep: str
    layers: tuple[str, ...]  # of the net
    at: tuple[int, ...]  # numbers of the layers in question: all but the head, or some of a deep net's
    scale: Scale
    parts: Parts
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Draw:
    """Known and unknown classes, the nets that know the known ones, and those that learn the unknown ones."""

    seed: int
    unknown: Task  # with the samples of the first trial
    source: Run
    deep: Run
    targets: tuple[tuple[Run, int, str], ...]  # with the trial, and what is retrained: a layer's name, ALL or NONE


def design(request: Request) -> Design:
    """Fit the paper's protocol to the data, and note what had to be fitted."""
    scale: Scale = scaled(request, SCALES)
    wanted = experiments(request, EXPERIMENTS)
    parts, notes = fit_parts(request, scale.test, max(*SCALES[request.scale].shots, *scale.shots))
    most = available(request, parts)
    if max(scale.shots) > most and request.shots is None:
        scale = replace(scale, shots=tuple(k for k in scale.shots if k <= most) or (most,))
        notes.append(f"samples per class: up to {max(scale.shots)}; the smallest class has {most} to train on")
    if max(scale.shots) > most:
        raise StudyError(
            f"--shots {max(scale.shots)}: the smallest class has {most} training images; ask for at most that"
        )
    fitted = {name: min(getattr(scale, name), most) for name in ("source_shots", "looked_at", "inverted")}
    scale = replace(scale, source_steps=request.source_steps or scale.source_steps, **fitted)
    net, shape = request.net or "sharma", request.data.images.shape[1:]
    known, unknown = classes(request, 0)
    layers = tuple(layer_parameters(net, shape, len(known)))
    if len(layers) < 3:
        raise StudyError(f"net '{net}' has {len(layers)} layers; depth tells nothing under 2 beside the head")
    notes.append(f"classes: {len(known)} known to the source; {len(unknown)} unknown, chance {1 / len(unknown):.0%}")
    if request.known and scale.seeds > 1:
        notes.append("known classes: those of --known for every seed; the seeds are not independent draws of classes")
    deep = DEEP[shape[0]]
    if "inversion" in wanted:
        notes.append(
            f"deep net: {deep}, trained here on the known classes, in the place of VGG-19 with ImageNet's weights; for "
            "weights of your own see `layerwise probe NET@FILE DATA --probes inversion`"
        )
    at = _some(len(layers) - 1)
    if len(at) < len(layers) - 1:
        notes.append(f"layers: {len(at)} of the {len(layers) - 1} below the head are looked at and retrained")
    return Design(request, wanted, net, deep, layers, at, scale, parts, tuple(notes))


def _some(count: int) -> tuple[int, ...]:
    """The numbers of so many layers, or of some evenly spread from the first to the last.

    >>> _some(3), _some(19)
    ((1, 2, 3), (1, 5, 8, 12, 15, 19))
    """
    most = min(count, MOST_LAYERS)
    return tuple(1 + round(k * (count - 1) / max(most - 1, 1)) for k in range(most))


def classes(request: Request, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Known and unknown classes of a draw; of ten the first is the paper's, unless the request says which."""
    names = request.data.class_names
    every = choose_classes(request.classes, names) if request.classes else tuple(range(len(names)))
    if seed == 0 and len(every) == PAPERS_CLASSES and not (request.known or request.split):
        return every[:MOST_CLASSES], every[MOST_CLASSES:]
    return sides(request, "sharma", seed, MOST_CLASSES)


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
        deep = _source(design, design.deep, learnt, scale.deep_steps)
        yield Draw(seed, replace(learnt, classes=unknown), source, deep, tuple(targets))


def _source(design: Design, net: str, task: Task, steps: int) -> Run:
    """A net that learns the known classes."""
    depth = len(layer_parameters(net, design.request.data.images.shape[1:], len(task.classes)))
    scratch = Treatment.parse("R*").resolve(depth)
    return Run(net, task, scratch, None, (_recipe(design.request, steps),), task.seed)


def _recipe(request: Request, steps: int) -> Recipe:
    """The paper does not say how its nets were trained: plain SGD, one rate for all, lowered near the end."""
    return Recipe(steps, 20, RATE, drops=(0.8,), precision=request.precision, channels_last=request.channels_last)


def runs(design: Design) -> list[Run]:
    """The runs wanted: those that are measured."""
    return list(dict.fromkeys(run for look in measurements(design) for run in look.runs))


def measurements(design: Design) -> list[Measurement]:
    """What is measured on their nets."""
    return [look for draw in draws(design) for _, look in looks(design, draw)]


def looks(design: Design, draw: Draw) -> Iterator[tuple[str, Measurement]]:
    """The measurements of a draw by experiment; decoders are for their own and to predict gains."""
    scale, wanted = design.scale, set(design.experiments)
    at, deep_at = (",".join(map(str, numbers)) for numbers in (design.at, DEEP_LAYERS))
    unknown = ",".join(map(str, draw.unknown.classes))

    def look(what: str, *looked_at: Run, **options: Option) -> Measurement:
        return Measurement("sharma", what, looked_at, tuple({"unknown": unknown, **options}.items()))

    if "embedding" in wanted:
        yield "embedding", look("embedding", draw.source, images=scale.looked_at, at=at, pictured=draw.seed == 0)
    if "inversion" in wanted and draw.seed < scale.inverted_seeds:
        for name, run, where in (("inversion", draw.source, at), (INVERSION_OF_DEEP, draw.deep, deep_at)):
            yield name, look("inversion", run, images=scale.inverted, at=where, steps=scale.descent)
    if wanted & {"decoders", "retraining"}:
        how: dict[str, Option] = {"decoders": scale.decoders, "steps": scale.decoder_steps}
        yield "decoders", look("decoders", draw.source, images=scale.looked_at, at=at, **how)
    if "retraining" in wanted:
        frozen = next(run for run, _, what in draw.targets if what == NONE)
        yield "retraining", look("predictors", draw.source, frozen, images=scale.looked_at, at=at)
        yield "retraining", Measurement("sharma", "accuracies", tuple(run for run, _, _ in draw.targets))


def table(design: Design, results: Mapping[str, Result], measured: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """The rows: learning curves and costs, what was measured, and from these gains and rank correlations."""
    rows: list[Row] = []
    for draw in draws(design):
        of_draw = {"seed": draw.seed, "source_task": draw.source.task.name, "target_task": draw.unknown.name}
        told: dict[str, Row] = {}
        for run, trial, what in ((draw.source, None, None), (draw.deep, None, None), *draw.targets):
            copied, experiment = (len(design.layers) - 1, "retraining") if run.source else (0, None)
            about = {"net": run.net, "trial": trial, "condition": what, "seed": draw.seed, "experiment": experiment}
            told[key(run)] = {**about, "shots": run.task.shots}
            if result := results.get(key(run)):
                rows.extend(rows_of(run, result, n=copied, **about))
        for experiment, look in looks(design, draw):
            for row in measured.get(look.key, ()):
                rows.append({**of_draw, **told[row["run_key"]], "experiment": experiment, **row})
    rows += gains(frame(rows))
    rows += correlations(frame(rows))
    common = {"study": "sharma", "net": design.net, "data": design.request.data.name}
    return frame({**common, **row} for row in rows)


def remarks(design: Design, rows: pd.DataFrame) -> list[str]:
    """What the rows show that a reader must know: sources that did not learn their classes."""
    sources = final(pick(rows[rows["trial"].isna()], quantity="accuracy", split="test"))
    return [
        f"source {row.net} of seed {row.seed}: right on {row.value:.1%} of test images of its own classes, not on "
        f"{LEARNT:.0%}: it does not know them well"
        for row in sources[sources["value"] < LEARNT].itertuples()
    ]
