"""What of augmentation kornia carries out (the extra `augment`): each image by numbers of its own, uniform in [0, 1).

Images are given back in the layout they came in. What a rotation, a shear or a smaller scale brings in from outside the
image is 0, as with a crop.
"""

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from layerwise.augment import Augmentation, check_kornia
from layerwise.errors import StudyError
from layerwise.features import memory_format

Images = Float[Tensor, "images channels height width"]
Numbers = Float[Tensor, " images"]

COLOURS = 3
REACH = 3  # standard deviations of a blur, to either side


def turned(images: Images, drawn: Float[Tensor, "images 3"], how: Augmentation) -> Images:
    """Rotated, scaled and sheared about the middle, in one resampling."""
    geometry = _kornia("geometry.transform", how)
    count, _, height, width = images.shape
    angle, size, lean = (2 * drawn - 1).to(images).unbind(1)
    middle = images.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(count, 2)
    scale = (1 + how.scale * size)[:, None].expand(count, 2)
    shear = torch.deg2rad(how.shear * lean)
    nothing = torch.zeros_like(shear)
    matrix = geometry.get_affine_matrix2d(torch.zeros_like(middle), middle, scale, how.rotate * angle, shear, nothing)
    made = geometry.warp_affine(images.contiguous(), matrix[:, :2], (height, width))
    return made.contiguous(memory_format=memory_format(images))


def hued(pixels: Images, drawn: Numbers, how: Augmentation) -> Images:
    """Pixels from 0 to 1 with every colour moved along the colour circle; grey images have none."""
    if pixels.shape[1] != COLOURS:
        return pixels
    enhance = _kornia("enhance", how)
    turns = how.hue * (2 * drawn - 1).to(pixels)
    made = enhance.adjust_hue(pixels.contiguous(), 2 * torch.pi * turns)
    return made.contiguous(memory_format=memory_format(pixels))


def blurred(images: Images, drawn: Numbers, how: Augmentation) -> Images:
    """Blurred by a Gaussian of up to so many pixels. Raises StudyError where that reaches beyond the image."""
    filters = _kornia("filters", how)
    reach, side = int(REACH * how.blur) + 1, min(images.shape[2:])
    if reach >= side:
        raise StudyError(
            f"augmentation blur:{how.blur:g} is not possible for images of {side} pixels; take a smaller one"
        )
    deviation = (how.blur * drawn).clamp(min=1e-3).to(images)  # of 0 there is no Gaussian, and so little blurs nothing
    made = filters.gaussian_blur2d(images.contiguous(), 2 * reach + 1, deviation[:, None].expand(-1, 2))
    return made.contiguous(memory_format=memory_format(images))


def _kornia(part: str, how: Augmentation) -> Any:
    check_kornia(how)
    return import_module(f"kornia.{part}")
