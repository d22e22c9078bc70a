"""The images that a user asks for, and opening them as a net takes them: one way for every command.

asked = Images("folder:photos", resize=64, groups="(P[0-9]+)_")
opened = open_images(asked, store / "data", "resnet20", read_weights(path))
opened.data, opened.asked.resize
"""

from dataclasses import dataclass, replace
from pathlib import Path

from layerwise.data import DataSet, open_data
from layerwise.data.dataset import COPIES, shape_of
from layerwise.data.groups import column_of
from layerwise.nets import own_size
from layerwise.nets.weights import wants_colour
from layerwise.tasks import Task, examples

SHOWN = 5  # classes that a note names


@dataclass(frozen=True)
class Images:
    """Which images, how they are made alike, and which are kept on one side: the options of every command on data."""

    data: str  # a locator, see `layerwise.data`
    classes: str | None = None  # names and numbers of some; null is all
    resize: int | None = None  # the side of the squares that they become; null is the net's own, or as they are
    grey: bool = False
    skip_unreadable: bool = False
    drop_duplicates: bool = False
    groups: str | None = None  # a column, or a regular expression for the paths of files
    hold_out: str | None = None  # COLUMN:VALUES of those to test on

    @property
    def group_column(self) -> str | None:
        """The column of the data that holds the groups, where any are asked for."""
        return column_of(self.groups) if self.groups else None

    def open(self, cache: Path, *, colour: bool = False) -> tuple[DataSet, Path]:
        """The data set and the folder of the cache that it lies in, as they are asked for and for no net."""
        return open_data(
            self.data, cache, resize=self.resize, grey=self.grey, skip_unreadable=self.skip_unreadable,
            drop_duplicates=self.drop_duplicates, groups=self.groups, colour=colour,
        )  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """Images as a net takes them."""

    asked: Images  # with the size that they were made
    data: DataSet  # its notes say what was done for the net's sake
    place: Path  # the folder of the cache, from which workers open them


def open_images(
    asked: Images, cache: Path, net: str | None, weights: bytes | None = None, called: str | None = None
) -> Opened:
    """The images, of the net's own size where none is asked for, and in colour where its weights are for colour.

    `net` is the name of its architecture, if it has one, and `called` what an error calls its weights. Raises DataError
    for images that cannot be read, and LayersError where the weights are for grey images and these are not.
    """
    own = own_size(net) if net and asked.resize is None else None
    sized = replace(asked, resize=own) if own else asked
    data, place = sized.open(cache)
    if net and weights is not None and wants_colour(weights, net, shape_of(data), called or net):
        data, place = sized.open(cache, colour=True)
    if own:
        note = f"images are made {own} x {own}, the net's own size; --resize makes them others"
        data = replace(data, notes=(note, *data.notes))
    return Opened(sized, data, place)


def untested(task: Task, data: DataSet) -> list[str]:
    """The names of the task's classes that have no test image."""
    tested = data.labels[examples(task, data.labels, data.columns, data.class_names).test]
    return [data.class_names[label] for label in task.classes if label not in tested]


def keeping(task: Task) -> str:
    """The columns that keep images on one side where its parts are drawn, in words; copies are not told of."""
    return " or ".join(c for c in task.parts.groups if c != COPIES) if task.parts.by == "random" else ""


def untested_notes(task: Task, data: DataSet) -> list[str]:
    """What is to be said of classes that have no test image."""
    without, columns = untested(task, data), keeping(task)
    if not without:
        return []
    why = f": all its images are of one {columns}" if columns else ""
    told = ", ".join(without[:SHOWN]) + ", ..." * (len(without) > SHOWN)
    return [f"{len(without)} of {len(task.classes)} classes have no test image ({told}){why}"]
