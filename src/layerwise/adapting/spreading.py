"""Treatments over blocks or stages of a net, as treatments over its layers: all that is trained knows layers only."""

from torch import Tensor, nn

from layerwise.layers import fit, layers, spread
from layerwise.treatment import Treatment


def over_layers(treatment: Treatment, name: str, net: nn.Module, example: Tensor, granularity: str) -> Treatment:
    """The treatment over the net's layers, without `*`, that one over layers, blocks or stages means.

    Raises LayersError, naming the parts, where it does not fit, and for an unknown granularity.
    """
    found = layers(net, example)
    if granularity == "layer":
        return fit(treatment, name, found)
    return spread(treatment, name, layers(net, example, granularity), found, granularity)
