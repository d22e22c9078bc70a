"""Grand et al., small: does a net for one category, copied, learn another category sooner than a fresh one?

The whole study is `layerwise study grand`.

    python examples/grand.py
"""

import layerwise
from layerwise.rows import pick

found = layerwise.study(
    "grand", data="digits", resize=32, classes="0-5", net="small40", experiments="speed-up", shots=[60], steps=10,
    executor="serial",
)  # fmt: skip
curves = pick(found.rows[found.rows["trial"].notna()], quantity="accuracy", split="test")
means = curves.groupby(["condition", "step"])["value"].mean().unstack("step")  # over all ordered pairs of categories
print(means.map("{:.0%}".format))
print(found.answer)

assert set(means.index) == {"scratch", "transferred"}
pairs = curves[curves["condition"] == "transferred"]
assert pairs["source_task"].nunique() == pairs["target_task"].nunique() == 4
assert (pairs["source_task"] != pairs["target_task"]).all()
