"""The optimiser of a recipe: it holds trained layers only, each at its own rate."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from layerwise.errors import LayersError
from layerwise.layers import Layer
from layerwise.run import Recipe


def build_optimiser(
    weights: Mapping[str, Tensor],
    found: Sequence[Layer],
    trained: Sequence[bool],
    recipe: Recipe,
    *,
    fused: bool = False,
) -> torch.optim.Optimizer | None:
    """An optimiser that holds the trained layers only, a group for each rate; nothing where no layer is trained."""
    if recipe.layer_rates and len(recipe.layer_rates) != len(found):
        raise LayersError(
            f"the recipe has layer_rates for {len(recipe.layer_rates)} layers; the net has {len(found)}: "
            + " ".join(layer.name for layer in found)
        )
    by_rate: dict[float, list[Tensor]] = {}
    for k, (layer, on) in enumerate(zip(found, trained, strict=True)):
        parameters = [weights[name].requires_grad_(on) for name in layer.parameters if name in weights]
        if on and parameters:
            by_rate.setdefault(recipe.layer_rates[k] if recipe.layer_rates else 1.0, []).extend(parameters)
    if not by_rate:
        return None
    groups = [{"params": parameters, "multiplier": rate} for rate, parameters in by_rate.items()]
    if recipe.optimiser == "adam":
        return torch.optim.Adam(groups, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=fused or None)
    return torch.optim.SGD(
        groups,
        lr=recipe.rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=fused or None,
    )


def set_rates(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the step's learning rate, times each layer's multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["multiplier"]
