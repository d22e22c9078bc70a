"""Batch norms that do more than normalise: what of them can be taken over by modules that know only the norm.

timm's `BatchNormAct2d` has the dropout and the activation behind it inside. Of a class that is not known here, with a
forward pass of its own, nothing can be said: LayersError.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from layerwise.errors import LayersError


def behind(name: str, norm: _BatchNorm) -> nn.Module:
    """What a batch norm does after it has normalised: nothing, or the activation that it has inside.

    Raises LayersError, with the name, where that is not known.
    """
    if type(norm).forward is _BatchNorm.forward:
        return nn.Identity()
    drop, act = getattr(norm, "drop", None), getattr(norm, "act", None)
    if type(norm).__name__.startswith("BatchNormAct") and isinstance(drop, nn.Module) and isinstance(act, nn.Module):
        return nn.Sequential(drop, act)
    raise LayersError(
        f"batch norm '{name}' is a {type(norm).__name__} with a forward pass of its own, which only the serial "
        "trainer can carry out, and only whole"
    )
