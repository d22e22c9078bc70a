"""Treatments over blocks or stages of a net, as treatments over its layers: all that is trained knows layers only."""

from layerwise.errors import StudyError
from layerwise.treatment import Treatment


def over_layers(treatment: Treatment, granularity: str) -> Treatment:
    """The treatment over layers that one over coarser parts means; StudyError for an unknown granularity."""
    if granularity != "layer":
        raise StudyError(f"--granularity {granularity} is not known; known: layer")
    return treatment
