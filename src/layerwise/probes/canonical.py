"""Canonical correlations: which directions can be found, linearly, in both of two representations?

Between the spaces that two centred representations span there are min(rank, rank) canonical correlations rho_i
(Hotelling 1936): the singular values of Ux'Uy, where X = Ux Sx Vx'. They do not change under any invertible linear map
of either side, which makes them blind to how much of the variance a direction has; SVCCA and PWCCA bring that back.

A constant or a repeated unit adds no direction. Where one side spans all that n examples can span (n - 1 directions
about the mean), every correlation is 1 whatever the other side is: that is refused and not called similar.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from layerwise.errors import RepresentationError
from layerwise.probes.about import About
from layerwise.probes.representation import centred, same_examples

SHARE = 0.99  # of the variance, that SVCCA keeps

ABOUT = {
    "cca_mean": About(
        "Mean canonical correlation: how much of one layer's space is found linearly in the other's, from 0 to 1.",
        "Counts every direction alike, noise too: high wherever there are not many more examples than units.",
        "Raghu, Gilmer, Yosinski, Sohl-Dickstein 2017, rho-bar; https://arxiv.org/abs/1706.05806",
    ),
    "cca_squared": About(
        "Mean squared canonical correlation: the share of variance of one side's whitened directions that the other "
        "explains.",
        "Counts every direction alike, noise too: high wherever there are not many more examples than units.",
        "Kornblith, Norouzi, Lee, Hinton 2019, R^2_CCA; https://arxiv.org/abs/1905.00414",
    ),
    "svcca": About(
        "Mean canonical correlation of the leading directions that hold 99 % of each layer's variance.",
        "Counts all directions that are kept alike, and jumps where the cut falls differently.",
        "Raghu, Gilmer, Yosinski, Sohl-Dickstein 2017, section 2; https://arxiv.org/abs/1706.05806",
    ),
    "pwcca": About(
        "Canonical correlations weighted by how much of the first layer each direction accounts for.",
        "Not symmetric, as the weights are of the first layer, whose rotation changes them; high wherever there are "
        "not many more examples than units.",
        "Morcos, Raghu, Bengio 2018, section 3; https://arxiv.org/abs/1806.05759",
    ),
}


@dataclass(frozen=True)
class Directions:
    """The directions of a centred representation, largest variance first: X = variates * deviations @ units."""

    variates: Float[Tensor, "examples rank"]  # orthonormal
    deviations: Float[Tensor, " rank"]  # singular values: root of n times the deviation along each
    units: Float[Tensor, "rank p"]  # orthonormal


def directions(x: Float[Tensor, "examples p"]) -> Directions:
    """All directions in which the representation varies by more than rounding: of the features, or of ours."""
    variates, deviations, units = torch.linalg.svd(centred(x), full_matrices=False)
    theirs = torch.finfo(x.dtype).eps * float(x.double().norm())
    ours = torch.finfo(torch.float64).eps * max(x.shape) * float(deviations[0])
    rank = int((deviations > max(theirs, ours)).sum())
    return Directions(variates[:, :rank], deviations[:rank], units[:rank])


def leading_directions(x: Float[Tensor, "examples p"], share: float = SHARE) -> Directions:
    """The fewest directions, from the largest on, that hold this share of the variance (squared singular values)."""
    if not 0 < share <= 1:
        raise RepresentationError(f"share={share} of the variance is not possible; it is above 0 and at most 1")
    found = directions(x)
    held = found.deviations.square().cumsum(0)
    kept = min(int((held < share * held[-1]).sum()) + 1, len(held))
    return Directions(found.variates[:, :kept], found.deviations[:kept], found.units[:kept])


def cca_mean(x: Float[Tensor, "examples p"], y: Float[Tensor, "same_examples q"]) -> float:
    """Mean of the min(rank, rank) canonical correlations, in [0, 1]; 1 if equal up to any invertible linear map.

    Raghu et al. 2017. Raises RepresentationError where a side spans as many dimensions as there are examples.
    """
    same_examples(x, y)
    return mean_correlation(directions(x), directions(y))


def cca_squared(x: Float[Tensor, "examples p"], y: Float[Tensor, "same_examples q"]) -> float:
    """Mean of the squared canonical correlations, in [0, 1]; as `cca_mean` else. Kornblith et al. 2019, R^2_CCA."""
    same_examples(x, y)
    return mean_squared_correlation(directions(x), directions(y))


def svcca(x: Float[Tensor, "examples p"], y: Float[Tensor, "same_examples q"], *, share: float = SHARE) -> float:
    """Mean canonical correlation of each side's leading directions, in [0, 1]; 1 if equal up to rotation and scale.

    Raghu et al. 2017, section 2. The directions kept are the fewest with this share of the *squared* singular values.
    Raises RepresentationError where these are as many as there are examples.
    """
    same_examples(x, y)
    return mean_correlation(leading_directions(x, share), leading_directions(y, share))


def pwcca(x: Float[Tensor, "examples p"], y: Float[Tensor, "same_examples q"]) -> float:
    """Mean of the canonical correlations weighted by what each variate h_i of x accounts for in x: sum_j |<h_i, x_j>|.

    Morcos et al. 2018. In [0, 1]; 1 if y is x under any invertible linear map. The weights are of the first argument,
    over the min(rank, rank) directions that have a correlation; as they add up over units, rotating x changes them.
    """
    same_examples(x, y)
    return weighted_correlation(directions(x), directions(y))


def mean_correlation(x: Directions, y: Directions) -> float:
    """Mean of the canonical correlations, in [0, 1]; symmetric. Of the leading directions only, it is SVCCA."""
    return float(correlations(x, y).mean())


def mean_squared_correlation(x: Directions, y: Directions) -> float:
    """Mean of the squared canonical correlations, in [0, 1], of equally many examples; symmetric."""
    return float(correlations(x, y).square().mean())


def weighted_correlation(x: Directions, y: Directions) -> float:
    """Mean of the canonical correlations rho_i, in [0, 1], weighted by sum_j |<h_i, x_j>|: what of x lies along each.

    h_i are the canonical variates of x over the examples, x_j its units (Morcos et al. 2018). Not symmetric.
    """
    _told(x, y)
    turns, rho, _ = torch.linalg.svd(x.variates.T @ y.variates, full_matrices=False)
    weights = ((turns.T * x.deviations) @ x.units).abs().sum(1)  # <h_i, x_j>, as h = variates @ turns
    return float(weights @ rho.clamp(max=1) / weights.sum())


def correlations(x: Directions, y: Directions) -> Float[Tensor, " few"]:
    """The canonical correlations, largest first."""
    _told(x, y)
    return torch.linalg.svdvals(x.variates.T @ y.variates).clamp(max=1)


def _told(x: Directions, y: Directions) -> None:
    examples = len(x.variates)
    rank = max(len(x.deviations), len(y.deviations))
    if rank >= examples - 1:
        raise RepresentationError(
            f"a layer varies in {rank} directions, all that {examples} examples have: every canonical correlation is "
            "1; take more examples than units"
        )
