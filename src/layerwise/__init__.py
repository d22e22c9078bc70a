"""layerwise: which layers transfer, which do not, why, and what to do with each layer."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Treatment", "study"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds, and `layerwise --help` needs none of it."""
    if name == "study":
        from layerwise.api import study

        return study
    if name == "Treatment":
        from layerwise.treatment import Treatment

        return Treatment
    raise AttributeError(f"module 'layerwise' has no attribute '{name}'")
