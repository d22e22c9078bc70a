"""The examples in docstrings do what they say."""

import doctest
import importlib
import pkgutil

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
    assert layerwise.__all__ == ["Treatment", "study", "train_all"]
    for name in layerwise.__all__:
        assert (getattr(layerwise, name).__doc__ or "").strip()
    with pytest.raises(AttributeError, match="module 'layerwise' has no attribute 'nothing'"):
        _ = layerwise.nothing
