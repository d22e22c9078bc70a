"""Gutstein, Fuentes, Freudenthal: "Knowledge transfer in deep convolutional neural nets".

A LeNet-5 learns 20 classes of characters (the source). Its bottom n levels are copied and frozen, F^n R, and the rest
learns 20 other classes from 1 to 40 samples each; n = 0 is learning from scratch. How does accuracy depend on n?

Every class has a random 20-bit target, and the nearest code is the predicted class. A cluster is a class split with its
own source; its trials differ in the samples, the codes and the fresh weights, which all n share.

What the authors wanted next stands beside it: parts of a layer, levels that retrain and the choice of source classes
(`gutstein_beyond`), and learning over a lifetime (`lifelong`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from layerwise.measure import Measure, Measurement, Row
from layerwise.rows import final, frame, pick
from layerwise.run import Run, key
from layerwise.studies import lifelong
from layerwise.studies.gutstein_beyond import partial, sources, tuned
from layerwise.studies.gutstein_claims import claims
from layerwise.studies.gutstein_design import BITS, EXPERIMENTS, Cell, Design, design
from layerwise.studies.gutstein_words import words
from layerwise.studies.request import TRIAL_STRIDE
from layerwise.studies.results import Result, rows_of
from layerwise.treatment import transfer

__all__ = ["BITS", "EXPERIMENTS", "TITLE", "cells", "claims", "design", "measurements", "remarks", "runs", "table",
           "words"]  # fmt: skip

TITLE = "Which levels of a LeNet-5 transfer? Gutstein, Fuentes, Freudenthal: knowledge transfer in deep nets"
DATA, RESIZE, GREY = "glyphs", None, False
MEASURES: dict[str, Measure] = {"remembered": lifelong.remembered}
LEARNT = 0.98  # of its training samples: a net from scratch below it has not finished learning


def cells(design: Design) -> Iterator[Cell]:
    """The paper's grid: per class split a source, and its targets for every trial, number of samples and n."""
    for seed in range(design.scale.seeds):
        known, unknown = design.sides(seed)
        source = design.source_net(known, seed)
        yield Cell(source, seed, None, 0)
        for trial in range(design.scale.trials):
            for shots in design.scale.shots:
                task = design.task(unknown, shots, seed + TRIAL_STRIDE * trial)
                for n in range(design.depth):
                    yield Cell(design.target_net(task, transfer(design.depth, n), source), seed, trial, n)


CELLS = {"levels": cells, "partial": partial, "tuned": tuned, "sources": sources, "lifelong": lifelong.cells}


def everything(design: Design) -> Iterator[Cell]:
    """The runs of all experiments that were asked for; some are in several of them."""
    for experiment in design.experiments:
        yield from CELLS[experiment](design)


def runs(design: Design) -> list[Run]:
    """The runs wanted."""
    return list({key(cell.run): cell.run for cell in everything(design)}.values())


def measurements(design: Design) -> list[Measurement]:
    """Beyond learning curves: what is left of earlier tasks after each new one."""
    if "lifelong" not in design.experiments:
        return []
    return [look for chain in lifelong.chains(design) for look in lifelong.looks(chain)]


def table(design: Design, results: Mapping[str, Result], measured: Mapping[str, Sequence[Row]]) -> pd.DataFrame:
    """The rows: each run's learning curve and cost, the parameters of each layer (the paper's table 1), and what was
    measured of the tasks of a lifetime.
    """
    rows: list[dict[str, Any]] = []
    for cell in everything(design):
        if result := results.get(key(cell.run)):
            about = {name: value for name, value in vars(cell).items() if name != "run"}
            rows.extend(rows_of(cell.run, result, **about))
    if "lifelong" in design.experiments:
        rows.extend(lifelong.rows(design, measured))
    clusters = {seed: design.cluster(seed) for seed in {row["seed"] for row in rows}}
    rows = [{**row, "cluster": clusters[row["seed"]]} for row in rows]
    common = {"study": "gutstein", "net": design.net, "data": design.request.data.name}
    sizes = [{"layer": layer, "quantity": "parameters", "value": size} for layer, size in design.sizes.items()]
    return frame({**common, **row} for row in rows + sizes)


def remarks(design: Design, rows: pd.DataFrame) -> list[str]:
    """What the rows show that a reader must know: nets that did not learn what they should have."""
    ends = final(pick(rows, quantity="accuracy", split="train")).drop_duplicates("run_key")
    wanted = design.source.stop_at or 0.0
    short = ends[ends["trial"].isna() & (ends["value"] < wanted)]
    found = [
        f"source of seed {row.seed}{_which(row)}: right on {row.value:.1%} of its training samples in the end, "
        f"not {wanted:.0%}"
        for row in short.itertuples()
    ]
    scratch = pick(ends[ends["trial"].notna() & (ends["experiment"] != "lifelong").fillna(True)], n=0)
    for shots, learnt in scratch.groupby("shots")["value"].mean().items():
        if learnt < LEARNT:
            found.append(
                f"from scratch with {shots} samples per class: right on {learnt:.0%} of training samples in the end; "
                "these nets have not finished learning, so that what transfer gains is partly speed (see --steps)"
            )
    return found


def _which(row: Any) -> str:
    """Which of the sources of one class split, where it has several."""
    return f" ({row.condition} classes)" if pd.notna(row.condition) else ""
