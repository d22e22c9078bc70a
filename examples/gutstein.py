"""Gutstein et al., small: keep the bottom n levels of a net, learn the rest from few samples, on classes never seen.

The whole study is `layerwise study gutstein --experiments levels`.

    python examples/gutstein.py
"""

import layerwise
from layerwise.rows import final, pick

found = layerwise.study(
    "gutstein", data="digits", resize=32, experiments="levels", seeds=2, shots=[1, 10], steps=80, executor="serial"
)
targets = pick(final(found.rows[found.rows["trial"].notna()]), quantity="accuracy", split="test")
table = targets.pivot_table(index="shots", columns="n", values="value")  # means over two class splits
print(table.map("{:.0%}".format))
print(found.answer)

(counted,) = (claim for claim in found.claims if claim.id == "G1")  # the paper's count of LeNet-5's parameters
assert counted.verdict == "reproduced"
assert (table.loc[10] > table.loc[1]).all(), "ten samples a class teach more than one"
