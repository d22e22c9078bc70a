"""Rows, reports and advice made up by formulas, for tests of the report only: they are nobody's measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from layerwise.advising.advice import Advice, Considered, Labels
from layerwise.advising.reasons import Reason
from layerwise.claims import Claim
from layerwise.report import Report, thumbnails
from layerwise.report.figures import gap, learning, levels
from layerwise.report.probe import render_probe
from layerwise.rows import frame

LAYERS = {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48120, "F6": 2420}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;"


def made_up_accuracy(n: int, shots: int, seed: int, trial: int, step: int) -> float:
    """A formula for tests, measured by nobody."""
    return 0.2 + 0.1 * (shots > 1) + 0.02 * n + 0.01 * seed + 0.002 * trial + 0.0005 * step


def made_up_rows(seeds: int = 2, trials: int = 2, shots: tuple[int, ...] = (1, 10), data: str = "made-up"):
    """Rows shaped as the Gutstein study's: source nets, target nets at two steps, their costs, the layers' sizes."""
    same = {"study": "gutstein", "net": "lenet5", "data": data}
    found = [{**same, "layer": name, "quantity": "parameters", "value": size} for name, size in LAYERS.items()]
    for seed in range(seeds):
        source = {**same, "run_key": f"source{seed}", "treatment": "R6", "n": 0, "shots": 400, "seed": seed}
        source |= {"target_task": "known", "split": "test", "step": 90, "quantity": "accuracy", "value": 0.99}
        found.append(source)
        for n in range(6):
            for few in shots:
                for trial in range(trials):
                    found += made_up_run(same, n, few, seed, trial)
    return frame(found)


def made_up_run(same: dict, n: int, shots: int, seed: int, trial: int) -> list[dict]:
    run = {**same, "run_key": f"n{n}-{shots}-{seed}-{trial}", "source_key": f"source{seed}" if n else None,
           "target_task": f"new{seed}", "cluster": f"split {seed}", "treatment": f"F{n}R" if n else "R6", "n": n,
           "shots": shots, "seed": seed, "trial": trial}  # fmt: skip
    found = []
    for step in (50, 100):
        test = made_up_accuracy(n, shots, seed, trial, step)
        found.append({**run, "split": "test", "step": step, "quantity": "accuracy", "value": test})
        found.append({**run, "split": "train", "step": step, "quantity": "accuracy", "value": test + 0.3 - 0.04 * n})
    costs = {"seconds": 2.0 - 0.1 * n, "train_flops": 1e9 * shots * (6 - n), "parameters_trained": 52256 - 100 * n}
    return found + [{**run, "step": 100, "quantity": name, "value": value} for name, value in costs.items()]


def made_up_claims(clusters: int = 6) -> list[dict]:
    """A claim of each verdict; the statements and numbers are for tests only."""
    made = [
        ("T1", "accuracy kept minus fresh", 0.032, (0.011, 0.053), "reproduced"),
        ("T2", "accuracy with many samples minus few", -0.02, (-0.03, -0.01), "contradicted"),
        ("T3", "steps to equal accuracy", 12.5, (-3.0, 28.0), "undecided"),
    ]
    return [
        Claim(name, "a made-up paper", f"statement {name}", quantity, value, bounds, 0.95, 4, clusters, verdict,
              f"rule of {name}", ("n1-1-0-0", "n0-1-0-0"), published="+1.0 points (its table 2)" * (name == "T1"),
              p=0.02, adjusted=0.06 if name == "T2" else 0.0301,
              given="given one source" * (clusters == 1)).as_json()
        | {"unit": "steps" if name == "T3" else "points"}
        for name, quantity, value, bounds, verdict in made
    ]  # fmt: skip


def made_up_plan(rows: pd.DataFrame) -> dict:
    runs = [
        {"key": run.run_key, "source_key": None, "net": "lenet5", "task": run.target_task, "treatment": run.treatment,
         "shots": run.shots, "seed": run.seed, "examples": 20, "steps": 100, "batch_size": 20, "forecast_flops": 1e9,
         "forecast_seconds": 1.5, "seconds": 2.0}
        for run in rows.dropna(subset=["run_key"]).drop_duplicates("run_key").itertuples()
    ]  # fmt: skip
    totals = {"runs": len(runs), "stored": len(runs), "missing": 0, "forecast_seconds": 90.0, "seconds": 120.0,
              "forecast_flops": 5e12}  # fmt: skip
    return {"runs": runs, "totals": totals}


def made_up_report(rows: pd.DataFrame, text: str = "plain") -> Report:
    names = list(LAYERS)
    figures = (replace(levels(rows, layers=names), claims=("T1",)), levels(rows, 10, names), learning(rows, 10, names),
               gap(rows, names))  # fmt: skip
    provenance = {"command": f"layerwise study gutstein {text} --out KEYS", "versions": {"torch": "2.6", text: text},
                  "seeds": [0, 1],
                  "data": {"name": text, "digest": "ab12", "notes": [text, {"deep": text}]}}  # fmt: skip
    claims = [{**claim, "statement": claim["statement"] + text} for claim in made_up_claims()]
    return Report(f"A made-up report {text}", f"The answer {text}", (f"first {text}", "second", "third"), rows,
                  claims, figures, made_up_plan(rows), provenance, (f"note {text}",))  # fmt: skip


def made_up_advice(text: str = "", names: tuple[str, ...] = ("C1", "C3", "C5", "F6")) -> Advice:
    """Freezing all but the head is a little ahead of tuning the last layer too; nine options, one of them untried."""
    depth = len(names)
    kinds = {
        "linear probe": "F" * (depth - 1) + "R",
        "freeze 2 of 3, tune the rest": "F" * (depth - 2) + "TR",
        "linear probe, then fine-tune everything": "F" * (depth - 1) + "R > " + "T" * depth,
    }
    considered = [
        Considered(
            name + text, name, str(letters), letters, rate, ({"layer_rates": [], "rate": rate},),
            accuracy=0.8 - 0.05 * place - 0.01 * k, deviation=0.01 * (place + k), chance=1 / 9,
            trials=2 if place < 2 else 0, flops=1e9 * 3**place,
        )
        for place, (name, letters) in enumerate(kinds.items())
        for k, rate in enumerate((0.01, 0.05, 0.002))
    ]  # fmt: skip
    verdicts = (("useful", 0.2, (0.15, 0.25)), ("harmful", -0.1, (-0.15, -0.05)), ("unknown", None, None))
    reasons = tuple(
        Reason(name, verdict, None if gain is None else 0.5 + gain, gain, interval)
        for name, (verdict, gain, interval) in zip(names[:-1], verdicts, strict=False)
    )
    return Advice(
        net="lenet5@weights.safetensors" + text, layers=names, granularity="layer",
        data={"name": "photos" + text, "digest": "ab12", "classes": ["cat" + text, "dog"], "training_images": 32,
              "test_images": 8},
        considered=tuple(considered), interval=(0.7, 0.9), level=0.9, reasons=reasons,
        labels=(Labels(2, 0.02, (0.01, 0.03)), Labels(4, 0.04, None)),
        cost={"exhaustive": 1e12, "spent": 5e10, "budget": 0.1, "seconds": 12.0}, notes=("note " + text,),
        provenance={"command": "layerwise advise lenet5@weights.safetensors folder:photos", "seeds": [0],
                    "data": {"name": "photos" + text, "digest": "ab12"}, "versions": {"torch": "2.6"}},
        learning_curve=((4, 0.5), (8, 0.6), (16, 0.65)),
        adapt=("layerwise", "adapt", "lenet5@weights.safetensors", "folder:my photos", "--resize", "32"),
    )  # fmt: skip


QUANTITIES: dict[str, Mapping[str, str]] = {
    name: {"form": form, "section": section, "title": name.replace("_", " "), "unit": unit, "tells": "What it tells.",
           "misleads": "when it does.", "source": "made up"}
    for name, form, section, unit in (
        ("linear_accuracy", "by_layer", "features", "percent"),
        ("linear_accuracy_of_class", "by_class", "classes", "percent"),
        ("cka", "pairs", "similarity", "number"), ("tsne", "scatter", "classes", "number"),
        ("taylor", "ticks", "units", "number"), ("distance", "by_step", "training", "number"),
    )
}  # fmt: skip


def made_up_probe(text: str = "", layers: Sequence[str] = ("conv1", "conv2", "head")) -> str:
    """The page of a probe of these layers and two classes, with a figure of each form."""
    names, classes = (layers[0] + text, *layers[1:]), ("cat" + text, "dog")
    found: list[dict[str, Any]] = []
    for place, layer in enumerate(names):
        same = {"study": "probe", "net": "sharma", "layer": layer, "group": "all", "treatment": "F*", "seed": 0}
        value = 0.4 + 0.2 * (place % 3)
        found.append({**same, "quantity": "linear_accuracy", "value": value, "low": value - 0.1, "high": value + 0.1})
        for k, name in enumerate(classes):
            found.append({**same, "quantity": "linear_accuracy_of_class", "class_name": name, "value": value + 0.1 * k})
            for unit in range(4):
                at = {**same, "quantity": "tsne", "class_name": name, "unit": 4 * k + unit}
                found += [{**at, "part": part, "value": unit * k + place} for part in ("first", "second")]
        for other in names:
            found.append({**same, "quantity": "cka", "other_net": "sharma", "other_layer": other, "value": 0.5})
        for unit in range(5):
            found.append({**same, "quantity": "taylor", "unit": unit, "value": 0.1 * unit})
        for step in (0, 10, 20):
            for part, times in (("weights", 1), ("biases", 5)):
                value = 0.1 * step * (place + 1) * times
                found.append({**same, "quantity": "distance", "part": part, "step": step, "value": value})
    rows = frame(found)
    plan: dict[str, Any] = {
        "quantities": QUANTITIES, "layers": list(names), "net": "sharma" + text, "notes": ["note " + text],
        "failures": [], "facts": [["layers", str(len(names))]],
        "provenance": {"command": "layerwise probe sharma digits" + text},
    }  # fmt: skip
    images = np.arange(8 * 3 * 6 * 6, dtype=np.uint8).reshape(8, 3, 6, 6)
    plan["captions"], plan[thumbnails.NAME] = {thumbnails.NAME: ""}, list(range(8))
    pictures = {thumbnails.NAME: thumbnails.sheet(images)}
    table = pd.DataFrame({"layer": names, "linear": [("40 %", "60 %", "80 %")[k % 3] for k in range(len(names))]})
    return render_probe("The answer " + text, ("first " + text,), rows, table, pictures, plan)
