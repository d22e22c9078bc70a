"""The examples in docstrings do what they say."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import layerwise

MODULES = [
    m.name
    for m in pkgutil.walk_packages(layerwise.__path__, "layerwise.")
    if not m.ispkg or m.name == "layerwise.report"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0


def test_public_names_are_there_and_said() -> None:
    assert layerwise.__all__ == [
        "Treatment", "adapt", "advise", "apply", "compare", "export", "load_adapted", "predict", "probe", "study",
        "train_all",
    ]  # fmt: skip
    for name in layerwise.__all__:
        assert (getattr(layerwise, name).__doc__ or "").strip()
    with pytest.raises(AttributeError, match="module 'layerwise' has no attribute 'nothing'"):
        _ = layerwise.nothing


def test_the_page_on_probes_runs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "probes.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall("```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    assert names["alike"][0][0] == pytest.approx(1)
    assert names["probed"]["fc8"].accuracy.mean < 0.6  # of four classes, on noise
    assert isinstance(names["scored"]["leep"], str)
