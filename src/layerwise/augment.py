"""Augmentation as a text: `crop:4,flip,jitter:0.2`, and the numbers that each sample of each pass draws for it.

    >>> Augmentation.parse("flip")                     # left and right exchanged, for one sample in two
    Augmentation(flip=True)
    >>> Augmentation.parse("crop:4,flip").spell()      # cropped from the image with 4 pixels around it, and flipped
    'crop:4,flip'
    >>> Augmentation.parse("jitter:.2, flip").spell()  # in any order; brightness, contrast, saturation by 0.8 to 1.2
    'flip,jitter:0.2'
    >>> Augmentation.parse("rotate:15,scale:0.1").needs_kornia
    True
    >>> Augmentation.parse("crop:0,jitter:0") == Augmentation(), Augmentation().spell()      # nothing is done
    (True, '')

What is done with these numbers is in `layerwise.augmented`. Nothing here imports torch.
"""

import re
from dataclasses import dataclass, fields
from importlib.util import find_spec

import numpy as np
from jaxtyping import Float, Int

from layerwise.errors import StudyError, unknown
from layerwise.randomness import generator

FORMS = (
    "crop:PIXELS, flip, rotate:DEGREES, scale:SHARE, shear:DEGREES, jitter:SHARE, hue:TURNS and blur:PIXELS, such as "
    "crop:4,flip,jitter:0.2"
)
WHOLE, DECIMAL = r"[0-9]{1,3}", r"(?=\.?[0-9])[0-9]{0,3}\.?[0-9]{0,6}"
NUMBERS = {  # what each word is followed by, and the most that is possible
    "crop": (WHOLE, 999), "flip": ("", 0), "rotate": (DECIMAL, 180), "scale": (DECIMAL, 0.9), "shear": (DECIMAL, 60),
    "jitter": (DECIMAL, 1), "hue": (DECIMAL, 0.5), "blur": (DECIMAL, 20),
}  # fmt: skip
BY_KORNIA = ("rotate", "scale", "shear", "hue", "blur")
DRAWS = ("top", "left", "flip", "brightness", "contrast", "saturation")  # of a sample, each uniform in [0, 1)


@dataclass(frozen=True)
class Augmentation:
    """How a training image is varied, in this order."""

    crop: int = 0  # pixels by which it is padded on every side, to be cropped to its size at random
    flip: bool = False  # left and right are exchanged, with probability one half
    rotate: float = 0.0  # degrees at most, either way
    scale: float = 0.0  # its size times up to so much more or less than 1
    shear: float = 0.0  # degrees at most by which upright lines lean, either way
    jitter: float = 0.0  # brightness, contrast and saturation times up to so much more or less than 1 each
    hue: float = 0.0  # turns of the colour circle at most, either way
    blur: float = 0.0  # pixels, the largest standard deviation of a Gaussian

    def __repr__(self) -> str:
        given = [f"{one.name}={value!r}" for one in fields(self) if (value := getattr(self, one.name))]
        return f"Augmentation({', '.join(given)})"

    @classmethod
    def parse(cls, text: str) -> "Augmentation":
        """What the text asks for; StudyError, with the text and the cure, where it asks for nothing that there is."""
        found: dict[str, float] = {}
        for word in filter(None, (word.strip() for word in text.split(","))):
            name, _, number = word.partition(":")
            if name not in NUMBERS:
                raise StudyError(f"augmentation '{text}': {unknown('word', name, NUMBERS)}; it is made of {FORMS}")
            if name in found:
                raise StudyError(f"augmentation '{text}' has '{name}' twice; write it once")
            form, most = NUMBERS[name]
            if not re.fullmatch(form, number):
                raise StudyError(f"augmentation '{text}': '{word}' is not understood; it is made of {FORMS}")
            found[name] = float(number or 1)
            if number and found[name] > most:
                raise StudyError(f"augmentation '{text}': {word} is not possible; the most is {most:g}")
        return cls(**{name: type(getattr(cls, name))(value) for name, value in found.items()})

    def spell(self) -> str:
        """The one text that means this; '' for nothing."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return ",".join(name if value is True else f"{name}:{value:g}" for name, value in values.items() if value)

    @property
    def needs_kornia(self) -> bool:
        """Is there a word in it that the extra `augment` carries out?"""
        return any(getattr(self, name) for name in BY_KORNIA)


def check_kornia(how: Augmentation) -> None:
    """Raise StudyError, with what to install, where this augmentation needs kornia and it is not there."""
    if how.needs_kornia and find_spec("kornia") is None:
        words = ", ".join(name for name in BY_KORNIA if getattr(how, name))
        raise StudyError(
            f"augmentation '{how.spell()}': {words} needs kornia, which is not installed; "
            "pip install 'layerwise[augment]', or leave it out"
        )


class Draws:
    """What each sample draws, pass after pass over a run's training examples.

    A sample's numbers follow from the run, the pass and its position among the examples alone: not from the batch that
    it is in, nor from the treatment, nor from which words the augmentation has. Runs that are compared are so paired.
    Behind those of DRAWS are, where `more`, those of BY_KORNIA.
    """

    def __init__(self, purpose: tuple[object, ...], examples: int, *, more: bool = False) -> None:
        self.examples = examples
        self.draws = [(generator("augment", *purpose), len(DRAWS))]
        if more:
            self.draws.append((generator("augment more", *purpose), len(BY_KORNIA)))
        self.width = sum(width for _, width in self.draws)
        self.seen = 0  # samples
        self.table = np.empty((0, self.width))  # of the pass that the last sample was in

    def take(self, positions: Int[np.ndarray, " samples"]) -> Float[np.ndarray, "samples numbers"]:
        """The numbers of the next samples, in the order in which training sees them."""
        found = []
        while len(positions):
            if self.seen % self.examples == 0:
                self.table = np.concatenate([draw.random((self.examples, n)) for draw, n in self.draws], axis=1)
            left = self.examples - self.seen % self.examples
            found.append(self.table[positions[:left]])
            self.seen += len(found[-1])
            positions = positions[left:]
        return np.concatenate(found) if found else np.empty((0, self.width))
