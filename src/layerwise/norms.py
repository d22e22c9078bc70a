"""Norms: whether a net has any, and what batch norms do beside, which modules that know only the norm can take over.

timm's `BatchNormAct2d` has the dropout and the activation behind it inside. Of a class that is not known here, with a
forward pass of its own, nothing can be said: LayersError.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from layerwise.errors import LayersError

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def normalises(net: nn.Module) -> bool:
    """Whether any of its modules divides activations by their own deviation: then weights have no scale to run off."""
    return any(isinstance(module, NORMS) for module in net.modules())


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
