"""Doing a unit of a plan, in whatever process: look its runs up, lock them, train them, store them."""

import time
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerwise.data.dataset import DataSet, load
from layerwise.errors import Diverged, LayersError, LayerwiseError, StoreError
from layerwise.execute.plan import Unit
from layerwise.execute.processor import give_back_memory, resident, settle
from layerwise.features import Shelf
from layerwise.feed import Feed, feeds
from layerwise.fleet import train_fleet
from layerwise.nets.places import remember
from layerwise.nets.weights import net_state
from layerwise.prefix import Prefix
from layerwise.result import record, restore, tensors
from layerwise.run import Run, Weights, key
from layerwise.store import Damaged, Store
from layerwise.tasks import Task
from layerwise.train import Trained, train, whole

SOURCES_HELD = 16
KEPT_BYTES = 2**27  # of what a unit took, for the next one


@dataclass(frozen=True)
class Setting:
    """What every executor needs to know: where the store and the data are, whose weights are kept, on what to train."""

    store: Path
    data: Mapping[str, Path]  # folder of each data set, by its digest
    kept: frozenset[str]
    executor: str
    forecast: Mapping[str, float] = field(default_factory=dict)  # seconds by key, kept beside what it then took
    device: str = "cpu"
    deterministic: bool = False  # on a GPU; a CPU always is
    memory: int = 2**30  # bytes of each process for images, and as many for what frozen layers make of them
    disk: int = 0  # ... and where that is not enough
    common: Path | None = None  # a folder for features that several processes compute together
    tasks: tuple[Task, ...] = ()  # of the whole plan: those of the same classes have one pool of images
    nets: Mapping[str, Path] = field(default_factory=dict)  # files that make nets, by the nets' names

    @property
    def is_reference(self) -> bool:
        """Is each run to be trained by itself through the whole net, as plainly as can be?"""
        return self.executor == "serial"


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    key: str
    state: str  # done, stored (somebody else had done it), busy (somebody else is doing it), diverged, failed
    message: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()  # what was damaged and set aside, or could not be done together, on the way

    @property
    def is_stored(self) -> bool:
        """Does the store now have the run?"""
        return self.state in {"done", "stored"}


@dataclass
class Worker:
    """Does units one after the other, and remembers data, sources and features that the next may use again."""

    setting: Setting
    feeds: "OrderedDict[Any, dict[Task, Feed]]" = field(default_factory=OrderedDict)
    sources: "OrderedDict[str, Trained]" = field(default_factory=OrderedDict)
    notes: list[str] = field(default_factory=list)
    rested: int = 0  # bytes that this process had when it last gave memory back
    held: bool = False  # is there anything of earlier units that memory could be short of?

    def __post_init__(self) -> None:
        settle(deterministic=self.setting.deterministic)
        remember(self.setting.nets)
        self.store = Store(self.setting.store, make=False)  # one that was removed meanwhile stays so
        self.data: dict[str, DataSet] = {}
        self.prefix = self._prefix()

    def do(self, unit: Unit, *, wait: bool = False) -> list[Outcome]:
        """Make sure that the store has the unit's runs; never raises for what is wrong with these runs alone.

        Gives an outcome for each run that was missing. Raises StoreError where nothing can be stored any more.
        """
        self.notes = []
        with self._locked(unit.todo, wait) as ours:
            if not ours:
                return [Outcome(key(run), "busy") for run in unit.todo]
            there = [run for run in unit.todo if self._is_stored(run)]
            found = [Outcome(key(run), "stored") for run in there]
            left = replace(unit, missing=unit.missing - set(map(key, there)))
            if left.missing:
                found += self._settle(left)
                self._rest()
        return [replace(found[0], notes=tuple(self.notes)), *found[1:]]

    @contextmanager
    def _locked(self, runs: Sequence[Run], wait: bool) -> Iterator[bool]:
        """Hold the right to train all of these runs, or none; taken in one order, so that nobody waits in a ring."""
        with ExitStack() as locks:
            yield all(locks.enter_context(self.store.lock(name, wait=wait)) for name in sorted(map(key, runs)))

    def _settle(self, unit: Unit) -> list[Outcome]:
        """Train the unit, and say how that ended; what goes wrong with a fleet is tried again in smaller ones."""
        try:
            return self._train(unit)
        except StoreError:
            raise
        except Exception as error:  # a user's net may raise anything, and the other runs are not to suffer
            short, what = is_out_of_memory(error), _told(error)
        # Only here, where the error is forgotten, is the memory free that its frames held.
        held, self.held = self.held, False
        if short:
            self._forget()
            if held:
                return self._settle(unit)
        if unit.width > 1:
            return self._apart(unit, what, short)
        (run,) = unit.todo
        return [Outcome(key(run), "failed", f"run {key(run)} ({run.treatment}): {what}")]

    def _prefix(self) -> Prefix:
        return Prefix(Shelf(self.setting.memory, self.setting.disk, self.setting.common))

    def _rest(self) -> None:
        """Between two units, take little more memory than what is remembered needs.

        To give it back and to take it again costs time too, of which short units would feel each tenth of a second.
        """
        self.prefix.shelf.rest()
        if resident() - self.rested > KEPT_BYTES:
            give_back_memory()
            self.rested = resident()

    def _forget(self) -> None:
        """Let go of all that can be made or read again."""
        self.prefix = self._prefix()
        self.feeds.clear()
        self.sources.clear()
        if self.setting.device != "cpu":
            torch.cuda.empty_cache()

    def _apart(self, unit: Unit, why: str, short: bool) -> list[Outcome]:
        """Do a fleet's runs in halves where memory was short, and else each by itself."""
        parts = 2 if short else len(unit.runs)
        width = -(-len(unit.runs) // parts)
        why = "there was not enough memory" if short else why
        self.notes.append(f"{unit.width} runs could not be trained together ({why}); now {width} at a time")
        halves = [unit.runs[begin : begin + width] for begin in range(0, len(unit.runs), width)]
        units = [Unit(half, unit.missing & set(map(key, half)), width) for half in halves]
        return [outcome for part in units if part.missing for outcome in self._settle(part)]

    def _is_stored(self, run: Run) -> bool:
        """Is the run in the store, whole? A damaged one is set aside."""
        name = key(run)
        if not self.store.has(name, weights=name in self.setting.kept):
            return False
        if wrong := self.store.verify(name):
            self.notes.append(f"{wrong}; set aside as {self.store.set_aside(name)} and computed again")
        return not wrong

    def _train(self, unit: Unit) -> list[Outcome]:
        """Train what is missing of the unit, and store it."""
        todo = unit.todo
        places = [run if key(run) in unit.missing else todo[0] for run in unit.runs]
        places += todo[:1] * (unit.width - len(places))
        food = [self._feed(run) for run in places]
        sources = [self._source(run, food[0].shape) for run in places]
        start = time.perf_counter()
        trained: Sequence[Trained | Diverged]
        if len(places) > 1:
            trained = train_fleet(places, food, sources, self.prefix)
        else:
            ahead = whole if self.setting.is_reference else self.prefix.ahead
            trained = [_train_one(places[0], food[0], sources[0], ahead)]
        seconds, self.held = (time.perf_counter() - start) / len(todo), True
        own = zip(unit.runs, food, trained, strict=False)  # a run's stand-ins may differ from it in the last bit
        return [self._put(*ends, seconds, unit.width) for ends in own if key(ends[0]) in unit.missing]

    def _put(self, run: Run, fed: Feed, end: Trained | Diverged, seconds: float, width: int) -> Outcome:
        name = key(run)
        if isinstance(end, Diverged):
            return Outcome(name, "diverged", f"{end}; it has no rows, the others go on (a lower rate may help)")
        result = record(run, end, fed.shape, seconds, self.setting.executor, width, self.setting.device)
        result["forecast_seconds"] = self.setting.forecast.get(name)
        self.store.put(run, result, tensors(end) if name in self.setting.kept else {})
        return Outcome(name, "done", seconds=seconds)

    def _source(self, run: Run, shape: tuple[int, int, int]) -> Trained | None:
        """The run's source as it was stored; trained again where the store has lost it or its weights."""
        source = run.source
        if source is None:
            return None
        name = f"{run.net} {shape} {source.digest}" if isinstance(source, Weights) else key(source)
        if name not in self.sources:
            self.sources[name] = (
                self._given(source, run.net, shape) if isinstance(source, Weights) else self._restored(source)
            )
        self.sources.move_to_end(name)
        while len(self.sources) > SOURCES_HELD:
            self.sources.popitem(last=False)
        return self.sources[name]

    def _given(self, source: Weights, net: str, shape: tuple[int, int, int]) -> Trained:
        """Weights that were not trained here: where they began is not known."""
        try:
            content = self.store.weights(source.digest)
        except KeyError:
            what = f"its source, weights {source.digest}, is not in store {self.store.folder}"
            raise LayersError(f"{what}; give the file of the weights again") from None
        except Damaged as error:
            raise LayersError(f"its source cannot be read ({error}); give the file of the weights again") from error
        return Trained({}, net_state(content, net, shape, source.digest), (), ())

    def _restored(self, source: Run) -> Trained:
        with self.store.lock(key(source), wait=True):
            if not (self.store.has(key(source), weights=True) and self._is_stored(source)):
                outcome = self._settle(Unit((source,), frozenset({key(source)})))[0]
                if not outcome.is_stored:
                    raise LayersError(f"its source did not finish: {outcome.message}")
            try:
                return restore(self.store, key(source))
            except Damaged as error:
                raise LayersError(f"its source cannot be read ({error}); the same command makes it anew") from error

    def _feed(self, run: Run) -> Feed:
        """What a run is fed with; all tasks of the plan that have its classes share a pool."""
        task, recipe = run.task, run.recipes[0]
        how = (run.net, recipe.dtype_name, recipe.channels_last)
        wanted = (task.data, task.classes, task.rest, *how)
        if task not in self.feeds.get(wanted, {}):
            if task.data not in self.data:
                self.data[task.data] = load(self.setting.data[task.data])
            alike = [t for t in self.setting.tasks if (t.data, t.classes, t.rest) == wanted[:3]]
            tasks = list(dict.fromkeys([*alike, task]))
            made = feeds(tasks, self.data[task.data], *how, self.setting.device)
            self.feeds[wanted] = dict(zip(tasks, made, strict=True))
        self.feeds.move_to_end(wanted)
        while len(self.feeds) > 1 and sum(map(_bytes, self.feeds.values())) > self.setting.memory:
            self.feeds.popitem(last=False)
        return self.feeds[wanted][task]


def _bytes(held: Mapping[Task, Feed]) -> int:
    """What the pool of these tasks takes."""
    pool = next(iter(held.values())).pool
    return pool.nbytes if isinstance(pool, Tensor) else 0


def _train_one(run: Run, fed: Feed, source: Trained | None, ahead: Any) -> Trained | Diverged:
    try:
        return train(run, fed, source, ahead)
    except Diverged as error:
        return error


def _told(error: Exception) -> str:
    """What went wrong with a run, on one line, and what to do where that can be known."""
    if is_out_of_memory(error):
        return "there was not enough memory for it; pass fewer --workers, or end other programs"
    text = str(error).partition("\n")[0]
    return text if isinstance(error, LayerwiseError) else f"{type(error).__name__}: {text}"


def is_out_of_memory(error: BaseException) -> bool:
    """Was there not enough memory, of the machine or of its accelerator?"""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def orphaned(unit: Unit, lost: Container[str]) -> list[Outcome]:
    """The outcomes of runs whose source was lost on the way: they are not tried."""
    return [
        Outcome(key(run), "failed", f"run {key(run)} ({run.treatment}): its source {key(run.source)} did not finish")
        for run in unit.todo
        if isinstance(run.source, Run) and key(run.source) in lost
    ]
