"""layerwise: which layers transfer, which do not, why, and what to do with each layer."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Treatment", "adapt", "advise", "apply", "compare", "export", "load_adapted", "predict", "probe", "study",
    "train_all",
]  # fmt: skip
HOMES = {
    "Treatment": "treatment",
    "adapt": "adapting.adapt",
    "advise": "advising.advise",
    "apply": "adapting.applying",
    "compare": "comparing",
    "export": "adapting.exporting",
    "load_adapted": "adapting.adapted",
    "predict": "adapting.predicting",
    "probe": "api",
    "study": "api",
    "train_all": "api",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds, and `layerwise --help` needs none of it."""
    if name in HOMES:
        return getattr(import_module(f"layerwise.{HOMES[name]}"), name)
    raise AttributeError(f"module 'layerwise' has no attribute '{name}'")
