"""Local response normalisation in operations that a fleet can run at once, and that are quick on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResponseNorm(nn.Module):
    """Each number divided by a power of the squares around it: those of `size` neighbouring maps at the same place.

    x / (k + alpha / size * sum of squares)^beta: Krizhevsky et al. 2012, section 3.3, with alpha as PyTorch counts it.
    Equals `nn.LocalResponseNorm` for odd sizes; that takes several times longer on a CPU.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.arange(x.shape[1], device=x.device)
        near = ((maps[:, None] - maps).abs() <= self.size // 2).to(x.dtype) * (self.alpha / self.size)
        around = self.k + F.conv2d(x.square(), near[:, :, None, None])  # (images, maps, height, width)
        if self.beta == 0.75:  # two square roots, which are much faster than a power
            return x * torch.rsqrt(around * around.sqrt())
        return x * around**-self.beta

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
