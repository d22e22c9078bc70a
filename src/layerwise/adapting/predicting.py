"""Predictions for picture files, in the order in which they were named; folders stand for the pictures in them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerwise.adapting.adapted import AdaptedNet, load_adapted
from layerwise.data.folder import visible_files
from layerwise.errors import DataError, StudyError


@dataclass(frozen=True)
class Prediction:
    """What a net says of a picture, or why it says nothing."""

    image: str  # the file, as it was named
    chances: tuple[tuple[str, float], ...] = ()  # every class with its probability, the likeliest first
    error: str | None = None

    @property
    def class_name(self) -> str | None:
        """The likeliest class."""
        return self.chances[0][0] if self.chances else None


def predict(
    folder: str | Path | AdaptedNet,
    images: Sequence[str | Path],
    *,
    task: str | None = None,
    net: str | None = None,
) -> list[Prediction]:
    """What the adapted net in the folder says of these pictures, each by itself; see `layerwise predict --help`.

    One that cannot be read has an `error` in place of probabilities.
    """
    if not images:
        raise StudyError("there is no image to predict; name files, or folders of them")
    loaded = folder if isinstance(folder, AdaptedNet) else load_adapted(folder, task, net=net)
    return [_prediction(loaded, file) for image in images for file in _files(Path(image))]


def _files(path: Path) -> Iterator[Path]:
    """The picture itself, or all files in a folder and the folders in it, hidden ones left out."""
    found = visible_files(path) if path.is_dir() else [path]
    if not found:
        raise DataError(f"{path} has no files in it; name pictures, or a folder of them")
    yield from found


def _prediction(net: AdaptedNet, file: Path) -> Prediction:
    try:
        return Prediction(str(file), tuple(net.predict(file)))
    except DataError as error:
        return Prediction(str(file), error=str(error).removeprefix(f"{file} "))
