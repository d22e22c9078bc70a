"""Augmentation carried out: images as a net is given them, each varied by numbers of its own.

Images are scaled by then, `(pixel / 255 - mean) / std`. What a crop brings in from outside the image is 0 there: the
mean colour, as in He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2, whose images had their mean taken off.
Jitter works on pixels from 0 to 1, as torchvision's `ColorJitter` with its order fixed: brightness (times a factor),
contrast (distance from the image's mean luma), saturation (distance from each pixel's luma; grey images have none),
cut off at 0 and 1 after each. Rotation, scale, shear, hue and blur are kornia's: see `layerwise.by_kornia`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from layerwise.augment import DRAWS, Augmentation, Draws
from layerwise.by_kornia import blurred, hued, turned
from layerwise.errors import StudyError
from layerwise.features import memory_format
from layerwise.nets import architecture
from layerwise.run import Run

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as in layerwise.data.pictures

Images = Float[Tensor, "images channels height width"]


class Augmenter:
    """Varies the training images of runs of one net and equal recipes, step after step; evaluation never sees it."""

    def __init__(self, runs: Sequence[Run], stage: int, examples: Sequence[int]) -> None:
        self.how = Augmentation.parse(runs[0].recipes[stage].augment)
        self.net = runs[0].net
        self.draws = [
            Draws((run.seed, run.task.stream, run.draw, stage), count, more=self.how.needs_kornia)
            for run, count in zip(runs, examples, strict=True)
        ]

    @property
    def is_on(self) -> bool:
        """Does the recipe augment at all?"""
        return self.how != Augmentation()

    def take(self, positions: Int[Tensor, "members samples"]) -> Float[Tensor, "members samples numbers"]:
        """The numbers that each member's next samples draw; positions are among its own training examples."""
        found = [draws.take(own) for draws, own in zip(self.draws, positions.cpu().numpy(), strict=True)]
        return torch.stack([torch.from_numpy(one) for one in found])

    def vary(self, images: Images, drawn: Float[Tensor, "images numbers"]) -> Images:
        """The images, each as its numbers say. Raises StudyError where a crop is as large as the images."""
        if not self.is_on:
            return images
        scale = architecture(self.net).pixels(images.shape[1])
        mean, std = (images.new_tensor(values)[:, None, None] for values in scale)
        return augmented(images, drawn, self.how, mean, std)


def augmented(
    images: Images, drawn: Float[Tensor, "images numbers"], how: Augmentation,
    mean: Float[Tensor, "channels 1 1"], std: Float[Tensor, "channels 1 1"],
) -> Images:  # fmt: skip
    """Scaled images, each varied by its own numbers (see `layerwise.augment.Draws`), in the layout they came in."""
    drawn = drawn.to(images.device)
    more = drawn[:, len(DRAWS) :]
    if how.crop or how.flip:
        images = _moved(images, drawn[:, :3], how)
    if how.rotate or how.scale or how.shear:
        images = turned(images, more[:, :3], how)
    if how.jitter or how.hue:
        pixels = images * std + mean
        if how.jitter:
            factors = (1 + how.jitter * (2 * drawn[:, 3 : len(DRAWS)] - 1)).to(images)
            pixels = _jittered(pixels, factors[:, :, None, None, None].unbind(1))
        if how.hue:
            pixels = hued(pixels, more[:, 3], how)
        images = (pixels - mean) / std
    return blurred(images, more[:, 4], how) if how.blur else images


def _moved(images: Images, drawn: Float[Tensor, "images 3"], how: Augmentation) -> Images:
    """Cropped and flipped: whole rows are chosen first, which are copied as they lie, then places within them."""
    count, channels, height, width = images.shape
    if how.crop >= min(height, width):
        raise StudyError(
            f"augmentation crop:{how.crop} is not possible for {height}x{width} images; take a smaller one"
        )
    padded = F.pad(images, (how.crop,) * 4).contiguous()  # (images, channels, rows, places)
    corners = (drawn[:, :2] * (2 * how.crop + 1)).long()  # (images, 2): top, left
    rows = torch.arange(height, device=images.device) + corners[:, :1]
    planes = torch.arange(count * channels, device=images.device).view(count, channels, 1) * padded.shape[2]
    chosen = padded.view(-1, padded.shape[3]).index_select(0, (planes + rows[:, None]).flatten())
    places = torch.arange(width, device=images.device) + corners[:, 1:]
    if how.flip:
        places = torch.where(drawn[:, 2:] < 0.5, places.flip(1), places)
    made = chosen.view(count, channels, height, -1).gather(3, places[:, None, None].expand(images.shape))
    return made.contiguous(memory_format=memory_format(images))


def _jittered(pixels: Images, factors: Sequence[Float[Tensor, "images 1 1 1"]]) -> Images:
    """Pixels from 0 to 1 with other brightness, contrast and saturation, by these factors."""
    brightness, contrast, saturation = factors
    pixels = (pixels * brightness).clamp(0, 1)
    middle = _luma(pixels).mean((1, 2, 3), keepdim=True)
    pixels = torch.lerp(middle.expand_as(pixels), pixels, contrast).clamp(0, 1)
    if pixels.shape[1] == len(LUMA):
        pixels = torch.lerp(_luma(pixels).expand_as(pixels), pixels, saturation).clamp(0, 1)
    return pixels


def _luma(pixels: Images) -> Float[Tensor, "images 1 height width"]:
    if pixels.shape[1] != len(LUMA):
        return pixels.mean(1, keepdim=True)
    weights = pixels.new_tensor(LUMA)[:, None, None]
    return (pixels * weights).sum(1, keepdim=True)
