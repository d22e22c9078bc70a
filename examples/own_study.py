"""A study of your own, in two functions: is it better to tune copied layers than to freeze them?

python examples/own_study.py
"""

from pathlib import Path

from layerwise import Treatment, train_all
from layerwise.api import result_of
from layerwise.claims import decide, unmeasured
from layerwise.data import open_data
from layerwise.rows import final, frame, pick
from layerwise.run import Recipe, Run, key
from layerwise.studies.results import rows_of
from layerwise.tasks import Parts, Task, split_classes

data, _ = open_data("digits", Path("layerwise-store/data"), resize=32)
scratch, recipe, parts = Treatment.parse("R4"), (Recipe(steps=60, batch_size=20, rate=0.03),), Parts("random", 40)


def runs():
    """Of five class splits a source each, and two nets that learn the other classes from it."""
    for seed in range(5):
        known, others = split_classes(range(10), "own", seed)
        source = Run("lenet5relu", Task(data.digest, known, 60, parts=parts), scratch, None, recipe, seed)
        target = Task(data.digest, others, 5, parts=parts, seed=seed)
        for condition, letters in {"frozen": "F3R", "tuned": "T3R"}.items():
            yield condition, seed, Run("lenet5relu", target, Treatment.parse(letters), source, recipe, seed)


def table(records):
    """Their learning curves and costs, in the columns of `layerwise.rows`."""
    for condition, seed, run in runs():
        where = {"condition": condition, "seed": seed, "trial": 0, "cluster": f"class split {seed}"}
        yield from rows_of(run, result_of(records[key(run)]), study="own", **where)


rows = frame(table(train_all([run for *_, run in runs()], data, executor="serial")))
ends = pick(final(rows), quantity="accuracy", split="test")
ends = ends.pivot(index=["cluster", "seed", "trial"], columns="condition", values="value")
wanted = unmeasured("O1", "ours", "Tuning beats freezing", "test accuracy, tuned minus frozen")
claim = decide(wanted, "direction", ends["tuned"] - ends["frozen"], pairs_each=1)
print(ends.map("{:.0%}".format), claim, sep="\n")

assert claim.clusters == claim.pairs == 5
assert (claim.verdict == "reproduced") == (claim.interval[0] > 0)
assert ends.to_numpy().mean() > 0.3, "a fifth is chance"
