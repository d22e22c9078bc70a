"""Doing one run, in whatever process: look it up, lock it, train it, store it."""

import time
from collections import OrderedDict
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from layerwise.data.dataset import DataSet, load
from layerwise.errors import Diverged, LayerwiseError, StoreError
from layerwise.feed import Feed, feed
from layerwise.result import record, restore, tensors
from layerwise.run import Run, key
from layerwise.store import Damaged, Store
from layerwise.train import Trained, train

Held = TypeVar("Held")

FEEDS_HELD = 4
SOURCES_HELD = 8


@dataclass(frozen=True)
class Setting:
    """What every executor needs to know: where the store and the data are, and whose weights are kept."""

    store: Path
    data: Mapping[str, Path]  # folder of each data set, by its digest
    kept: frozenset[str]
    executor: str
    forecast: Mapping[str, float] = field(default_factory=dict)  # seconds by key, kept beside what it then took


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    key: str
    state: str  # done, stored (somebody else had done it), busy (somebody else is doing it), diverged, failed
    message: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()  # what was damaged and set aside on the way

    @property
    def is_stored(self) -> bool:
        """Does the store now have the run?"""
        return self.state in {"done", "stored"}


@dataclass
class Worker:
    """Does runs one after the other, and remembers data and sources that the next run may use again."""

    setting: Setting
    feeds: "OrderedDict[object, Feed]" = field(default_factory=OrderedDict)
    sources: "OrderedDict[str, Trained]" = field(default_factory=OrderedDict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        self.store = Store(self.setting.store)
        self.data: dict[str, DataSet] = {}

    def do(self, run: Run, *, wait: bool = False) -> Outcome:
        """Make sure that the store has the run; never raises for what is wrong with this run alone.

        Raises StoreError where nothing can be stored any more.
        """
        name, self.notes = key(run), []
        try:
            with self.store.lock(name, wait=wait) as ours:
                if not ours:
                    return Outcome(name, "busy")
                if self._is_stored(run):
                    return Outcome(name, "stored", notes=tuple(self.notes))
                seconds = self._train(run)
        except StoreError:
            raise
        except Diverged as error:
            return Outcome(name, "diverged", str(error), notes=tuple(self.notes))
        except LayerwiseError as error:
            return Outcome(name, "failed", f"run {name} ({run.treatment}): {error}", notes=tuple(self.notes))
        except Exception as error:  # a user's net may raise anything, and the other runs are not to suffer
            message = f"run {name} ({run.treatment}): {type(error).__name__}: {error}"
            return Outcome(name, "failed", message, notes=tuple(self.notes))
        return Outcome(name, "done", seconds=seconds, notes=tuple(self.notes))

    def _is_stored(self, run: Run) -> bool:
        """Is the run in the store, whole? A damaged one is set aside."""
        name = key(run)
        if not self.store.has(name, weights=name in self.setting.kept):
            return False
        if wrong := self.store.verify(name):
            self.notes.append(f"{wrong}; set aside as {self.store.set_aside(name)} and computed again")
        return not wrong

    def _train(self, run: Run) -> float:
        source = self._source(run.source) if run.source else None
        food = self._feed(run)
        start = time.perf_counter()
        trained = train(run, food, source)
        seconds = time.perf_counter() - start
        result = record(run, trained, food.shape, seconds, self.setting.executor)
        result["forecast_seconds"] = self.setting.forecast.get(key(run))
        self.store.put(run, result, tensors(trained) if key(run) in self.setting.kept else {})
        return seconds

    def _source(self, run: Run) -> Trained:
        """The source as it was stored; trained again where the store has lost it or its weights."""
        name = key(run)
        if name not in self.sources:
            with self.store.lock(name, wait=True):
                if not (self.store.has(name, weights=True) and self._is_stored(run)):
                    self._train(run)
                try:
                    self.sources[name] = restore(self.store, name)
                except Damaged as error:
                    raise RuntimeError(f"its source cannot be read: {error}") from error
        return _remember(self.sources, name, self.sources[name], SOURCES_HELD)

    def _feed(self, run: Run) -> Feed:
        wanted = (run.task, run.net, run.recipes[0].precision)
        if wanted not in self.feeds:
            digest = run.task.data
            if digest not in self.data:
                self.data[digest] = load(self.setting.data[digest])
            self.feeds[wanted] = feed(run.task, self.data[digest], run.net, run.recipes[0].precision)
        return _remember(self.feeds, wanted, self.feeds[wanted], FEEDS_HELD)


def orphaned(run: Run, lost: Container[str]) -> Outcome | None:
    """The outcome of a run whose source was lost on the way: it is not tried."""
    if run.source is None or key(run.source) not in lost:
        return None
    return Outcome(key(run), "failed", f"run {key(run)} ({run.treatment}): its source {key(run.source)} did not finish")


def _remember(held: "OrderedDict[Any, Held]", name: object, value: Held, most: int) -> Held:
    """Keep what was used last, and forget the oldest."""
    held.move_to_end(name)
    while len(held) > most:
        held.popitem(last=False)
    return value
