"""Yosinski et al., small: copy the bottom n layers of a net, frozen or tuned, from its own half of the classes (BnB) or
the other one (AnB). The whole study is `layerwise study yosinski`.

    python examples/yosinski.py
"""

import layerwise
from layerwise.rows import final, pick

found = layerwise.study(
    "yosinski",
    data="digits",
    resize=32,
    net="lenet5relu",
    experiments="transfer",
    seeds=1,
    steps=40,
    executor="serial",
)
ends = pick(final(found.rows), quantity="accuracy", split="test")
table = ends.pivot_table(index="condition", columns="n", values="value")
print(table.map("{:.0%}".format, na_action="ignore"))
for claim in found.claims:
    if claim.estimate is not None:
        print(f"{claim.id}: {claim.estimate:+.1%} ({claim.verdict}: one class split decides nothing)")

assert table.loc["base", 0] > 0.4, "a fifth is chance"
assert set(table.index) == {"base", "BnB", "BnB+", "AnB", "AnB+"}
assert all(claim.verdict == "undecided" for claim in found.claims if claim.cluster == "class split")
