"""What any two representations must be before they are compared: examples x units, finite, of the same examples.

The axes matter. A convolution's activations (examples, channels, height, width) read as channels x positions make two
independent random tensors look alike, so that anything but two axes is refused.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from layerwise.errors import RepresentationError


def checked(x: Float[Tensor, "..."]) -> Float[Tensor, "examples p"]:
    """The features as they are; raises RepresentationError where they are not a finite table of examples x units."""
    table(x)
    if not bool(torch.isfinite(x).all()):
        example, unit = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise not_finite(f"{float(x[example, unit])} at example {example}, unit {unit}")
    return x


def table(x: Float[Tensor, "..."]) -> None:
    """Raises RepresentationError where the axes are not examples x units."""
    shape = tuple(x.shape)
    if x.ndim != 2:
        raise RepresentationError(
            f"features have shape {shape}, not examples x units; pool or flatten what comes after the first axis"
        )
    if 0 in shape:
        raise RepresentationError(f"features have shape {shape}; there must be an example and a unit at least")


def not_finite(found: str) -> RepresentationError:
    """The error, to be raised, of features with infinities or not-a-numbers; `found` says which and where."""
    return RepresentationError(f"features are not finite: {found}; run the net in float32, or leave this layer out")


def same_examples(*xs: Float[Tensor, "..."]) -> None:
    """Raises RepresentationError where not all have equally many examples."""
    counts = sorted({len(x) for x in xs})
    if len(counts) > 1:
        raise RepresentationError(
            f"representations have {' and '.join(map(str, counts))} examples; compare them on the same examples"
        )


def centred(x: Float[Tensor, "examples p"]) -> Float[Tensor, "examples p"]:
    """Each unit with its mean taken off, in float64; raises RepresentationError where no unit varies."""
    exact = checked(x).double()
    moved = exact - exact.mean(0)
    varying(float(moved.norm()), float(exact.norm()), x, torch.float64)
    return moved


def varying(deviation: float, size: float, x: Float[Tensor, "examples p"], arithmetic: torch.dtype) -> None:
    """Raises RepresentationError where the norm of the centred features is no more than rounding of their own norm."""
    if deviation <= 10 * torch.finfo(arithmetic).eps * size:
        raise RepresentationError(
            f"all units ({x.shape[1]}) are constant over {len(x)} examples: there is nothing to compare; "
            "leave this layer out"
        )
