"""An adapted net, loaded back from its folder with one call.

    >>> net = load_adapted("layerwise-out/adapt")                    # doctest: +SKIP
    >>> net.predict("photo.jpg")[0]                                  # doctest: +SKIP
    ('cat', 0.93)
    >>> net(net.preprocess("photo.jpg")[None]).softmax(1)            # doctest: +SKIP

Tensors are read from safetensors files whose digests are checked; nothing is unpickled, and no code in the folder runs.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from layerwise.adapting.described import MODEL, Described, Learnt, Preprocessing, content, read
from layerwise.data.pictures import Options, UnreadableError, decode, pixels_of
from layerwise.errors import DataError, StoreError, StudyError
from layerwise.feed import scaled
from layerwise.nets import architecture, build, named
from layerwise.nets.places import place

if TYPE_CHECKING:
    import pandas as pd

MOST_DRAWN = 40  # classes whose confusions a notebook shows by itself

State = dict[str, Tensor]


class AdaptedNet(nn.Module):
    """A net that takes preprocessed images (examples, channels, height, width), and gives a logit for each class."""

    def __init__(self, net: nn.Module, described: Described, task: Learnt) -> None:
        super().__init__()
        self.net = net
        self.described = described
        self.task = task

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its outputs."""
        return self.task.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes what the net takes."""
        return self.described.preprocessing

    @property
    def answer(self) -> str:
        """How good it is on images that it has not seen, in one sentence."""
        if not self.task.test:
            return f"{self.task.treatment}: trained on all images, so its accuracy on others is not known"
        test = self.task.test
        low, high = test["interval"]
        return (
            f"{self.task.treatment}: {test['accuracy']:.1%} of {test['examples']:,} test images right "
            f"(90% interval {low:.1%} to {high:.1%}), balanced {test['balanced_accuracy']:.1%}, "
            f"calibration error {test['calibration_error']:.1%}"
        )

    @property
    def rows(self) -> "pd.DataFrame":
        """A row for each class: its test images, the share of them that is recognised, and of guesses that is right."""
        import pandas as pd

        test = self.task.test or {}
        measured = {name: test.get(name, [None] * len(self.classes)) for name in ("support", "recall", "precision")}
        return pd.DataFrame({"class": self.classes, **measured})

    @property
    def figures(self) -> dict[str, Any]:
        """Which class is taken for which, where there are test images."""
        from layerwise.adapting.confusions import confusions
        from layerwise.notebook import charts

        return charts([confusions(self.classes, self.task.test["confusion"])] if self.task.test else [])

    def _repr_html_(self) -> str:
        from layerwise.notebook import page

        few = len(self.classes) <= MOST_DRAWN
        return page(f"{self.described.net}, {self.answer}.", (), self.rows, self.figures if few else None)

    def forward(self, images: Float[Tensor, "examples channels height width"]) -> Float[Tensor, "examples classes"]:
        return self.net(images)

    def preprocess(self, image: str | Path | bytes | Image.Image) -> Float[Tensor, "channels height width"]:
        """A picture (a file, the bytes of one, or a Pillow image) as the net takes it, just as in training.

        Raises DataError, naming the file, where it cannot be read or is of another size and none was set in training.
        """
        called = str(image) if isinstance(image, str | Path) else "the image"
        try:
            found = pixels(image, self.preprocessing)
        except UnreadableError as error:
            raise DataError(f"{called} {error}") from error
        return self.scaled(found[None].copy())[0]  # Pillow's pixels cannot be written to

    def scaled(self, found: np.ndarray) -> Float[Tensor, "some channels height width"]:
        """Pixels from 0 to 255 as the net takes them."""
        wanted = self.preprocessing
        kind = replace(architecture(self.described.net), mean=wanted.mean, std=wanted.std)
        return scaled(found, kind)

    @torch.no_grad()
    def predict(self, image: str | Path | bytes | Image.Image) -> list[tuple[str, float]]:
        """Every class with its probability, the likeliest first; the image is alone, so others cannot matter to it."""
        device = next(self.net.parameters()).device
        chances = self(self.preprocess(image)[None].to(device)).double().softmax(1)[0].tolist()
        order = sorted(range(len(chances)), key=lambda k: -chances[k])
        return [(self.classes[k], chances[k]) for k in order]


def pixels(image: str | Path | bytes | Image.Image, wanted: Preprocessing) -> np.ndarray:
    """The pixels of a picture in uint8 (channels, height, width), as the net was trained on them.

    Raises UnreadableError, also where its size is another and none was set in training.
    """
    options = Options(wanted.resize, grey=wanted.channels == 1)
    if isinstance(image, Image.Image):
        found = pixels_of(image, options)
    else:
        found = decode(Path(image) if isinstance(image, str) else image, options)
    if len(found) < wanted.channels:
        found = np.repeat(found, wanted.channels, axis=0)  # grey among colour, as in training
    if found.shape[1:] != (wanted.height, wanted.width):
        height, width = found.shape[1:]
        raise UnreadableError(
            f"is {width}x{height} pixels, and all training images were {wanted.width}x{wanted.height}; "
            f"make it so, or adapt the net with --resize {wanted.height}, which holds for predictions too"
        )
    return found


def load_adapted(folder: str | Path, task: str | None = None, *, net: str | None = None) -> AdaptedNet:
    """The adapted net in a folder, in eval mode, for one of its tasks (by default the first).

    A net that is made by a file or folder of your own is made only where you name that: `net="mine.py:build"`. Raises
    StoreError where a file is damaged or missing, StudyError for a task that the folder has not.
    """
    folder = Path(folder)
    described = read(folder)
    learnt = described.task(task)
    known(described.net, net, folder)
    return restored(described, learnt, state(folder, described, learnt))


def known(name: str, given: str | None, folder: Path) -> None:
    """Raise StudyError where a net needs a file or folder of the user's that is not given here, or is another now."""
    if given is not None and named(given.partition("@")[0]) != name:
        raise StudyError(f"{folder} holds net '{name}', and '{given}' is '{named(given.partition('@')[0])}'; give that")
    of_a_file = ("#" in name or ".py:" in name) and place(name) is None
    if of_a_file or named(name) != name:  # a folder from elsewhere may name any file or folder here
        raise StudyError(
            f"{folder} holds net '{name}', which is made by a file or folder of your own, and such are used only "
            "where you name them: pass --net FILE.py:FUNCTION, or --net transformers:DIR"
        )


def restored(described: Described, task: Learnt, tensors: State) -> AdaptedNet:
    """The net of a task with these tensors; raises StoreError where they are not its own."""
    net = build(described.net, described.preprocessing.shape, len(task.classes), seed=0)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        why = " ".join(str(error).partition("\n")[2].split())[:200]
        raise StoreError(
            f"the tensors of task '{task.name}' do not fit net '{described.net}' ({why}); "
            "the layerwise or library that made them may build another net by this name"
        ) from error
    return AdaptedNet(net, described, task).eval()


def state(folder: Path, described: Described, task: Learnt) -> State:
    """All tensors of a task: its own, and those of the trunk that it shares with the first."""
    first = tensors_of(folder, described, MODEL)
    return first if task.is_first else {**first, **tensors_of(folder, described, task.file)}


def tensors_of(folder: Path, described: Described, file: str) -> State:
    """The tensors in a file of an adapted net; raises StoreError where it is damaged."""
    try:
        return load(content(folder, described, file))
    except (SafetensorError, KeyError, ValueError) as error:
        raise StoreError(f"{folder / file} holds no tensors ({error}); copy the folder again") from error
