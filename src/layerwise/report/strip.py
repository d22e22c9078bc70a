"""The layer strip, the signature of every report: the net's layers left to right, what to do with each, and why.

A strip has a tile a layer, which says what to do with it, and under the tiles lanes: how general a layer is, how
fragile, how specific, as far as the rows of this report know it. What they do not know is unknown, and says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from layerwise.report import words
from layerwise.studies.sentences import points

GENERAL, FRAGILE, SPECIFIC = "General", "Fragile", "Specific"
LACKING = {  # lanes that every strip has or lacks by name: what it would take to know
    GENERAL: "takes nets that copy it to another task, or a linear probe",
    FRAGILE: "takes nets that copy it to their own task (“layerwise study yosinski”: BnB)",
    SPECIFIC: "takes copies to their own task and to another (“layerwise study yosinski”: BnB and AnB)",
}
UNKNOWN = "unknown"
DEEDS = {  # letter of the treatment language: what is done with the layer
    "F": "freeze",
    "T": "tune",
    "R": "fresh",
    "X": "random",
    "M": "fresh, its spread kept",
    "W": "rewind",
    "P": "keep a part",
    "?": UNKNOWN,
}
MANY, SOME, LONG = 10, 5, 7  # tiles stand upright for more layers than many, or than some with names longer than this


@dataclass(frozen=True)
class Known:
    """What is known of a layer in a lane, with its interval and a verdict on it."""

    value: float
    low: float | None = None
    high: float | None = None
    word: str = ""
    given: str = ""  # what the interval is conditional on


@dataclass(frozen=True)
class Lane:
    """One property of every layer; text stands where it does not apply or nothing is known."""

    title: str  # GENERAL, FRAGILE, SPECIFIC, or of its own
    tells: str  # what is measured, in words
    cells: tuple[Known | str, ...]  # a layer each
    unit: Literal["points", "percent"] = "points"
    more_is_worse: bool = False


@dataclass(frozen=True)
class Deed:
    """What to do with a layer: a letter for each stage of training, and what else there is to say."""

    letters: str  # keys of DEEDS
    note: str = ""

    @property
    def text(self) -> str:
        """In words."""
        return ", then ".join(DEEDS[letter] for letter in self.letters)


@dataclass(frozen=True)
class Tile:
    """A layer: its name, its parameters where they are known, their share of all, and what to do with it."""

    name: str
    deed: Deed
    parameters: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Strip:
    """Layers in forward order, and lanes of what is known of them."""

    tiles: tuple[Tile, ...]
    lanes: tuple[Lane, ...]
    rule: str  # by which it was found what to do with the layers
    interval: str = ""  # what the whiskers are
    beside: tuple[Lane, ...] = ()  # lanes of another strip, with which these share their scales

    @property
    def drawn(self) -> "tuple[tuple[Tile, tuple[Bar | str, ...]], ...]":
        """Each tile with what stands under it, a lane each; all lanes of points share one scale."""
        lanes = [_bars(lane, self._ends(lane)) for lane in self.lanes]
        columns: Iterable[tuple[Bar | str, ...]] = zip(*lanes, strict=True) if lanes else [()] * len(self.tiles)
        return tuple(zip(self.tiles, columns, strict=True))

    @property
    def lacking(self) -> dict[str, str]:
        """The lanes that this report knows nothing of, and what it would take."""
        there = {lane.title for lane in self.lanes}
        return {name: why for name, why in LACKING.items() if name not in there}

    @property
    def is_upright(self) -> bool:
        """Are there so many layers, or names so long, that tiles have to be narrow?"""
        longest = max(len(tile.name) for tile in self.tiles)
        return len(self.tiles) > MANY or (len(self.tiles) > SOME and longest > LONG)

    @property
    def deeds(self) -> tuple[Deed, ...]:
        """The different things to do, in the order of the layers."""
        return tuple({tile.deed.letters: tile.deed for tile in self.tiles}.values())

    def _ends(self, lane: Lane) -> tuple[float, float]:
        """The scale of a lane: from its least to its greatest value or end of an interval, zero between them."""
        alike = [one for one in (*self.lanes, *self.beside) if one.unit == lane.unit]
        known = [cell for one in alike for cell in one.cells if isinstance(cell, Known)]
        ends = [0.0, *(end for cell in known for end in (cell.value, cell.low, cell.high) if end is not None)]
        return min(ends), max(ends)


@dataclass(frozen=True)
class Bar:
    """A value, in words, and where its bar and whisker stand, in per cent of the lane from its upper end."""

    known: Known
    text: str
    bounds: str  # the interval in words
    is_up: bool
    is_good: bool
    zero: float
    top: float
    height: float
    whisker_top: float | None
    whisker_height: float | None

    @property
    def number(self) -> str:
        """The value without its unit, where there is no room for that."""
        return self.text.rstrip("%").rstrip()

    @property
    def label(self) -> float:
        """Where the number stands: at the far end of bar and whisker, above what is up and below what is down."""
        first = self.top if self.whisker_top is None else min(self.top, self.whisker_top)
        last = self.top + self.height
        if self.whisker_top is not None and self.whisker_height is not None:
            last = max(last, self.whisker_top + self.whisker_height)
        return first if self.is_up else last


def _bars(lane: Lane, ends: tuple[float, float]) -> tuple[Bar | str, ...]:
    return tuple(_bar(cell, lane, *ends) if isinstance(cell, Known) else cell for cell in lane.cells)


def _bar(known: Known, lane: Lane, bottom: float, top: float) -> Bar:
    """Where a bar from zero to the value stands on the scale."""
    span = (top - bottom) or 1.0
    value, low, high = known.value, known.low, known.high
    told = points if lane.unit == "points" else words.percent
    ends = "" if low is None or high is None else f"{told(low)} to {told(high)}"
    return Bar(
        known, told(value), ", ".join(filter(None, (ends, known.given))),
        is_up=value >= 0,
        is_good=(value >= 0) != lane.more_is_worse,
        zero=100 * top / span,
        top=100 * (top - max(value, 0.0)) / span,
        height=100 * abs(value) / span,
        whisker_top=None if high is None else 100 * (top - high) / span,
        whisker_height=None if high is None or low is None else 100 * (high - low) / span,
    )  # fmt: skip


def tiles(names: Sequence[str], deeds: Sequence[Deed], parameters: Sequence[int] = ()) -> tuple[Tile, ...]:
    """A tile a layer; without `parameters` they are not known."""
    if not parameters:
        return tuple(map(Tile, names, deeds))
    total = sum(parameters) or 1
    return tuple(
        Tile(name, deed, size, size / total) for name, deed, size in zip(names, deeds, parameters, strict=True)
    )


def nothing_known(names: Sequence[str]) -> tuple[Deed, ...]:
    """What to do with each of these layers, of which this report knows nothing."""
    return (Deed("?"),) * len(names)
