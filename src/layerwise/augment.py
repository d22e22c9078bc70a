"""Augmentation as a text: `crop:4,flip,jitter:0.2`, and the numbers that each sample of each pass draws for it.

    >>> Augmentation.parse("flip")                     # left and right exchanged, for one sample in two
    Augmentation(crop=0, flip=True, jitter=0.0)
    >>> Augmentation.parse("crop:4,flip").spell()      # cropped from the image with 4 pixels around it, and flipped
    'crop:4,flip'
    >>> Augmentation.parse("jitter:.2, flip").spell()  # in any order; brightness, contrast, saturation by 0.8 to 1.2
    'flip,jitter:0.2'
    >>> Augmentation.parse("crop:0,jitter:0") == Augmentation(), Augmentation().spell()      # nothing is done
    (True, '')

What is done with these numbers is in `layerwise.augmented`. Nothing here imports torch.
"""

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from layerwise.errors import StudyError, unknown
from layerwise.randomness import generator

FORMS = "crop:PIXELS, flip and jitter:SHARE, such as crop:4,flip,jitter:0.2"
NUMBERS = {"crop": r"[0-9]{1,3}", "flip": "", "jitter": r"(?:0|1)?\.?[0-9]{0,6}"}
DRAWS = ("top", "left", "flip", "brightness", "contrast", "saturation")  # of a sample, each uniform in [0, 1)


@dataclass(frozen=True)
class Augmentation:
    """How a training image is varied, in this order: cropped, flipped, jittered."""

    crop: int = 0  # pixels by which it is padded on every side, to be cropped to its size at random
    flip: bool = False  # left and right are exchanged, with probability one half
    jitter: float = 0.0  # brightness, contrast and saturation times up to so much more or less than 1 each

    @classmethod
    def parse(cls, text: str) -> "Augmentation":
        """What the text asks for; StudyError, with the text and the cure, where it asks for nothing that there is."""
        found: dict[str, str] = {}
        for word in filter(None, (word.strip() for word in text.split(","))):
            name, _, number = word.partition(":")
            if name not in NUMBERS:
                raise StudyError(f"augmentation '{text}': {unknown('word', name, NUMBERS)}; it is made of {FORMS}")
            if name in found:
                raise StudyError(f"augmentation '{text}' has '{name}' twice; write it once")
            if not re.fullmatch(NUMBERS[name], number) or (number in ("", ".")) == (name != "flip"):
                raise StudyError(f"augmentation '{text}': '{word}' is not understood; it is made of {FORMS}")
            found[name] = number
        made = cls(int(found.get("crop", 0)), "flip" in found, float(found.get("jitter", 0)))
        if made.jitter > 1:
            raise StudyError(f"augmentation '{text}': jitter:{found['jitter']} is not possible; the most is 1")
        return made

    def spell(self) -> str:
        """The one text that means this; '' for nothing."""
        words = [f"crop:{self.crop}"] * bool(self.crop) + ["flip"] * self.flip
        return ",".join(words + [f"jitter:{self.jitter:g}"] * bool(self.jitter))


class Draws:
    """What each sample draws, pass after pass over a run's training examples.

    A sample's numbers follow from the run, the pass and its position among the examples alone: not from the batch that
    it is in, nor from the treatment, nor from which words the augmentation has. Runs that are compared are so paired.
    """

    def __init__(self, purpose: tuple[object, ...], examples: int) -> None:
        self.draw, self.examples = generator("augment", *purpose), examples
        self.seen = 0  # samples
        self.table = np.empty((0, len(DRAWS)))  # of the pass that the last sample was in

    def take(self, positions: Int[np.ndarray, " samples"]) -> Float[np.ndarray, "samples 6"]:
        """The numbers of the next samples, in the order in which training sees them."""
        found = []
        while len(positions):
            if self.seen % self.examples == 0:
                self.table = self.draw.random((self.examples, len(DRAWS)))
            left = self.examples - self.seen % self.examples
            found.append(self.table[positions[:left]])
            self.seen += len(found[-1])
            positions = positions[left:]
        return np.concatenate(found) if found else np.empty((0, len(DRAWS)))
