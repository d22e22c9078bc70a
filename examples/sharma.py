"""Sharma and Cottrell, small: how do classes that a net has never seen lie in its layers?

The whole study is `layerwise study sharma`.

    python examples/sharma.py
"""

import layerwise
from layerwise.rows import pick

found = layerwise.study("sharma", experiments="embedding", seeds=1, executor="serial")
spread = pick(found.rows, quantity="relative_spread", condition="trained")
table = spread.pivot_table(index="layer", columns="group", values="value", sort=False)
print(table.round(2))  # 1: a class fills the layer's space as all classes together do
print(found.answer)

assert (table["known"] < 1).all(), "a class is a part of the whole"
assert table["unknown"].iloc[-1] > table["known"].iloc[-1], "the last layer gathers the classes it has learnt"
