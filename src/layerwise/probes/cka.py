"""Centred kernel alignment: do two representations find the same examples alike?

CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), where K and L hold the similarities of all pairs of examples in either
representation (Kornblith, Norouzi, Lee, Hinton 2019, https://arxiv.org/abs/1905.00414). With linear kernels K = XX' it
is the same number from the features (p x p) as from the Gram matrices (n x n); whichever is smaller is computed.

The plain estimate is biased upwards where there are not many more examples than units: two independent Gaussian
representations of p units each get about p / (p + n), which is 0.71 for 500 units and 200 examples, and 0.05 for 500
units and 10,000. The debiased one puts the unbiased estimator of HSIC (Song et al. 2012) in all three places, and gives
these two about 0; it may be slightly negative.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerwise.errors import RepresentationError, unknown
from layerwise.probes.about import About
from layerwise.probes.representation import centred, same_examples
from layerwise.randomness import generator

BATCH = 256
FEWEST_DEBIASED = 4  # examples: the unbiased estimator divides by n - 3
Gram = Float[Tensor, "examples examples"]

ABOUT = {
    "cka": About(
        "Whether two layers find the same examples alike, from 0 to 1; 1 if they are equal up to rotation and scale.",
        "Biased upwards unless there are many more examples than units, and ruled by the few directions of largest "
        "variance and by outliers.",
        "Kornblith, Norouzi, Lee, Hinton 2019, eq. 3 and 4; https://arxiv.org/abs/1905.00414",
    ),
    "cka_debiased": About(
        "Linear CKA without its bias: near 0 for independent layers however many units they have.",
        "Still ruled by the directions of largest variance; a ratio of unbiased estimates is not unbiased itself, and "
        "may be negative.",
        "Song et al. 2012 (JMLR 13), unbiased HSIC; Nguyen, Raghu, Kornblith 2021, eq. 3; "
        "https://arxiv.org/abs/2010.15327",
    ),
    "cka_minibatch": About(
        "Linear CKA with unbiased HSIC averaged over batches of 256 examples, which wide layers can afford.",
        "Noisier than CKA of all examples at once, and equal to it only in expectation of its three parts.",
        "Nguyen, Raghu, Kornblith 2021, eq. 2 and 3; https://arxiv.org/abs/2010.15327",
    ),
    "cka_rbf": About(
        "Whether two layers find the same examples to be near neighbours, from 0 to 1.",
        "Depends on the bandwidth (here the median distance): a wide one gives linear CKA, a narrow one compares "
        "each example with itself alone; biased upwards in small samples.",
        "Kornblith, Norouzi, Lee, Hinton 2019, section 3, RBF kernel; https://arxiv.org/abs/1905.00414",
    ),
}


def linear_cka(x: Float[Tensor, "examples p"], y: Float[Tensor, "same_examples q"], *, debiased: bool = False) -> float:
    """Similarity in [0, 1] of two representations of the same examples; 1 if equal up to rotation and scale.

    Kornblith et al. 2019, eq. 4. Computed in float64. Changed by a linear map that is no rotation, on purpose: the
    directions of large variance count most. Biased upwards when there are few examples: use `debiased=True`, which
    may give a little less than 0. Raises RepresentationError where it cannot be told, as for constant features.
    """
    same_examples(x, y)
    x, y = centred(x), centred(y)
    (n, p), q = x.shape, y.shape[1]
    if p * p + p * q + q * q <= n * (p + q):
        return alignment(hsic_of_features, x, y, debiased)
    return alignment(hsic_of_grams, x @ x.T, y @ y.T, debiased)


def minibatch_cka(x: Float[Tensor, "examples p"], y: Float[Tensor, "same_examples q"], *, batch: int = BATCH) -> float:
    """Linear CKA whose three HSIC are each summed over batches of examples, where each is unbiased.

    Nguyen, Raghu, Kornblith 2021, eq. 2 and 3. Needs batch x batch numbers where `linear_cka` needs n x n.
    """
    same_examples(x, y)
    grams = [[linear_gram(side[rows]) for rows in batches(len(x), batch)] for side in (centred(x), centred(y))]
    return alignment(_hsic_of_batches, grams[0], grams[1], debiased=True)


def linear_gram(x: Float[Tensor, "some p"]) -> Float[Tensor, "some some"]:
    """K = XX' of these examples, centred by themselves."""
    moved = x - x.mean(0)
    return moved @ moved.T


def batches(n: int, batch: int) -> list[Tensor]:
    """The rows of each batch: all examples once, drawn by a fixed seed so that no batch is a class by itself.

    Sizes differ by one at most, and exceed `batch` where a batch would else have too few examples for the estimator.
    """
    if batch < FEWEST_DEBIASED:
        raise RepresentationError(
            f"batch={batch} is too few examples for unbiased HSIC; the least is {FEWEST_DEBIASED}"
        )
    parts = min(math.ceil(n / batch), enough(n, debiased=True) // FEWEST_DEBIASED)
    order = torch.from_numpy(generator("minibatch cka", n).permutation(n))
    return [rows.sort().values for rows in order.tensor_split(parts)]


def _hsic_of_batches(one: list[Gram], other: list[Gram], *, debiased: bool = False) -> Tensor:
    return torch.stack([hsic_of_grams(k, of, debiased=debiased) for k, of in zip(one, other, strict=True)]).sum()


def rbf_cka(
    x: Float[Tensor, "examples p"],
    y: Float[Tensor, "same_examples q"],
    *,
    bandwidth: str = "median",
    debiased: bool = False,
) -> float:
    """CKA of k(a, b) = exp(-d(a, b)^2 / 2 s^2), in float64; 1 if equal up to rotation and scale, as s scales along.

    Kornblith et al. 2019, section 3. `bandwidth` says what s^2 is: see BANDWIDTHS. Holds two n x n matrices.
    """
    same_examples(x, y)
    return alignment(hsic_of_grams, rbf_gram(x, bandwidth), rbf_gram(y, bandwidth), debiased)


BANDWIDTHS: dict[str, Callable[[Gram], float]] = {
    # s^2 from the squared distances of all n^2 ordered pairs, each side by itself
    "half_median": lambda squared: _median(squared) / 4,  # s is half the median distance (paper's fraction 0.5)
    "median": lambda squared: _median(squared),  # the n zeros of examples from themselves included
    "median_offdiagonal": lambda squared: _median(squared[squared > 0]),  # pairs that differ
}


def rbf_gram(x: Float[Tensor, "examples p"], bandwidth: str = "median") -> Gram:
    """The kernel of all pairs of examples; raises RepresentationError where so many examples are equal that s is 0."""
    if bandwidth not in BANDWIDTHS:
        raise RepresentationError(unknown("bandwidth", bandwidth, BANDWIDTHS))
    squared = squared_distances(centred(x))
    variance = BANDWIDTHS[bandwidth](squared)
    if variance == 0:
        raise RepresentationError(
            f"the median distance of {len(x)} examples is 0, as most are equal: no RBF bandwidth; leave this layer out"
        )
    return squared.div_(-2 * variance).exp_()


def unit_rbf_gram(x: Float[Tensor, "examples p"]) -> Gram:
    """The kernel at the default bandwidth, centred and of norm 1: two of them have their CKA as inner product."""
    gram = rbf_gram(x)
    gram -= gram.mean(0)
    gram -= gram.mean(1, keepdim=True)
    return gram.div_(gram.norm())


def inner_product(one: Gram, other: Gram) -> float:
    """Frobenius inner product, sum_ij K_ij L_ij, of two Gram matrices (examples, examples) of the same examples."""
    return float(one.flatten() @ other.flatten())


def squared_distances(x: Float[Tensor, "examples p"]) -> Gram:
    """Of all pairs of centred examples; of equal ones exactly 0, which rounding would hide from a median."""
    norms = x.square().sum(1)
    squared = (x @ x.T).mul_(-2).add_(norms).add_(norms[:, None])
    squared[squared <= 1e-14 * norms.max()] = 0
    return squared.fill_diagonal_(0)


def _median(values: Float[Tensor, "..."]) -> float:
    """Between the two middle values where they are even in number, unlike torch.median."""
    return float(np.median(values.cpu().numpy())) if values.numel() else 0.0


def alignment(hsic: Callable[..., Tensor], x: Any, y: Any, debiased: bool) -> float:
    """CKA from any form of HSIC; x and y are what that form takes."""

    def own(side: Any) -> float:
        biased = float(hsic(side, side))
        return distinct(float(hsic(side, side, debiased=True)) if debiased else biased, biased)

    return ratio(float(hsic(x, y, debiased=debiased)), own(x), own(y))


def ratio(both: float, one: float, other: float) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))."""
    return both / math.sqrt(one) / math.sqrt(other)


def distinct(own: float, biased: float, arithmetic: torch.dtype = torch.float64) -> float:
    """HSIC(K, K); raises RepresentationError where it is no more than rounding of the biased estimate.

    The unbiased estimate is a sum of squares too, and 0 where all examples are alike but one.
    """
    if not own > 10 * torch.finfo(arithmetic).eps * biased or not math.isfinite(own):
        raise RepresentationError(
            f"HSIC of a layer with itself is {own:.1g}, no number beyond rounding, as where all examples are alike but "
            "one: CKA is undefined; take more examples, or leave this layer out"
        )
    return own


def hsic_of_features(
    x: Float[Tensor, "examples p"], y: Float[Tensor, "examples q"], *, debiased: bool = False
) -> Float[Tensor, ""]:
    """HSIC of the linear kernels of centred features: ||X'Y||^2, over (n - 1)^2.

    Debiased it is Song's estimator again: a centred Gram matrix has rows that sum to 0, so that without its diagonal
    they sum to -||x_i||^2, and each of his three terms follows from the products and these norms.
    """
    n = enough(len(x), debiased)
    products = (x.T @ y).square().sum()  # = sum_ij K_ij L_ij
    if not debiased:
        return products / (n - 1) ** 2
    diagonal_x, diagonal_y = x.square().sum(1), y.square().sum(1)
    traces = diagonal_x.sum() * diagonal_y.sum() / ((n - 1) * (n - 2))
    return (products - n / (n - 2) * (diagonal_x @ diagonal_y) + traces) / (n * (n - 3))


def hsic_of_grams(one: Gram, other: Gram, *, debiased: bool = False) -> Float[Tensor, ""]:
    """HSIC of kernels K and L: tr(KHLH) / (n - 1)^2, H = 1 - 11'/n; or Song et al. 2012, eq. 5, without the bias."""
    n = enough(len(one), debiased)
    if not debiased:
        centred_one = one - one.mean(0) - one.mean(1, keepdim=True) + one.mean()
        return (centred_one * other).sum() / (n - 1) ** 2
    one, other = one.clone().fill_diagonal_(0), other.clone().fill_diagonal_(0)
    rows, others = one.sum(1), other.sum(1)
    total = (one * other).sum() + rows.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ others)
    return total / (n * (n - 3))


def enough(n: int, debiased: bool) -> int:
    """The number of examples; raises RepresentationError where HSIC of so few is undefined."""
    least = FEWEST_DEBIASED if debiased else 2
    if n < least:
        raise RepresentationError(
            f"{'debiased ' if debiased else ''}CKA of {n} examples is undefined; the least is {least}"
        )
    return n
