"""Sharma and Cottrell, small: how do classes that a net has never seen lie in its layers?

The whole study is `layerwise study sharma`.

    python examples/sharma.py
"""

import layerwise
from layerwise.rows import pick

found = layerwise.study("sharma", experiments="embedding", seeds=1, source_steps=100, executor="serial")
trained = found.rows[found.rows["condition"] == "trained"]
spread = pick(trained, quantity="relative_spread")
print(spread.pivot_table(index="layer", columns="group", values="value").round(2))  # 1: as wide as all together

near = pick(trained, quantity="nearest_known")  # of each unknown class, the known one that its images lie nearest to
table = near.pivot(index="class_name", columns="layer", values="other_class")
print(table)

known = set(pick(spread, group="known")["class_name"])
unknown = set(pick(spread, group="unknown")["class_name"])
assert len(known) == len(unknown) == 5
assert known.isdisjoint(unknown)
assert set(table.index) == unknown, "every unknown class has its nearest"
assert set(table.to_numpy().ravel()) <= known, "and it is a known one"
assert spread["value"].between(0, 1, inclusive="neither").all(), "a class is a part of the whole"
