"""Measurements on trained nets beyond their learning curves: named as values, made once, kept in the store.

A study says what it wants measured as it says what it wants trained: a `Measurement` names a function of the study's
`MEASURES`, the runs whose nets it looks at, and its options. What it found is rows, kept as JSON under its key, so that
a study that was stopped goes on where it was.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerwise.data import load
from layerwise.data.dataset import DataSet
from layerwise.errors import LayerwiseError, StoreError
from layerwise.execute.hands import hired
from layerwise.feed import Feed, feed
from layerwise.nets import build
from layerwise.nets.places import places, remember
from layerwise.progress import Quiet
from layerwise.randomness import canonical
from layerwise.result import restore
from layerwise.run import Run, key, key_of
from layerwise.store import Store
from layerwise.train import Trained

Row = dict[str, Any]  # columns of layerwise.rows, as far as they apply
Option = int | float | str | bool | None
DIED = "its process died twice (killed, or out of memory); the same command tries again, try fewer --workers"


@dataclass(frozen=True)
class Measurement:
    """What is to be measured, by which function of which study, on whose nets."""

    study: str
    what: str  # a name in the study's MEASURES
    runs: tuple[Run, ...]
    options: tuple[tuple[str, Option], ...] = ()

    @property
    def key(self) -> str:
        """Sixteen hex digits that name it, as `layerwise.run.key` names a run."""
        return key_of(canonical([self.study, self.what, [key(run) for run in self.runs], sorted(self.options)]))

    @property
    def nets(self) -> tuple[str, ...]:
        """The nets that it builds: those of its runs, and what an option `net` names."""
        return *(run.net for run in self.runs), *(str(value) for name, value in self.options if name == "net")


@dataclass(frozen=True)
class Bench:
    """What a measurement works with: the store's nets, and the images they were trained on."""

    store: Store
    data: DataSet

    def trained(self, run: Run) -> Trained:
        """The run as training left it; its weights were kept because it is measured."""
        return restore(self.store, key(run))

    def net(self, run: Run) -> nn.Module:
        """The trained net, in eval mode."""
        made = self.fresh(run)
        made.load_state_dict(self.trained(run).weights)
        return made

    def fresh(self, run: Run, drawn: int = 0) -> nn.Module:
        """A net like the run's with weights of its own, in eval mode."""
        channels, height, width = self.data.images.shape[1:]
        return build(run.net, (channels, height, width), run.task.outputs, drawn).eval()

    def feed(self, run: Run) -> Feed:
        """The run's task: its training, validation and test images as the net takes them."""
        return feed(run.task, self.data, run.net)


Measure = Callable[..., list[Row]]  # (bench, *runs, **options)


def measure(
    wanted: Sequence[Measurement], store: Store, data: Path, processes: int, listener: Quiet
) -> tuple[dict[str, list[Row]], list[str]]:
    """Make what the store lacks of these measurements; gives the rows of each by its key, and what failed.

    `data` is the folder of the data set. With one process they are made in this one; of several, one that dies is
    replaced, and what it measured is measured once more. Raises StoreError where nothing can be kept any more.
    """
    each = {one.key: one for one in wanted}
    found = {name: rows for name, one in each.items() if (rows := _kept(store, one)) is not None}
    missing = [one for name, one in each.items() if name not in found]
    if not missing:
        return found, []
    failures: list[str] = []
    listener.say(f"Measuring: {len(each)} measurements wanted, {len(found)} stored, {len(missing)} missing")
    tick = listener.probing("measuring")
    try:
        for done, (one, end) in enumerate(_made(missing, store, data, processes), 1):
            if isinstance(end, str):
                failures.append(f"measurement {one.study} {one.what} of run {key(one.runs[0])}: {end}")
            else:
                found[one.key] = end
            tick(done, len(missing))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{len(found)} of {len(each)} measurements are stored; the same command does the rest"
        ) from None
    finally:
        listener.close()
    return found, failures


def _made(
    missing: Sequence[Measurement], store: Store, data: Path, processes: int
) -> Iterator[tuple[Measurement, list[Row] | str]]:
    """Each measurement as it ends, with its rows or with what went wrong."""
    if processes == 1:
        with _one_thread():
            bench = Bench(store, load(data))
            yield from ((one, _make(bench, one)) for one in missing)
        return
    waiting, left, died = deque(missing), len(missing), set[str]()
    told = store.folder.absolute(), data.absolute(), places(net for one in missing for net in one.nets)
    with hired(min(processes, left), _begin, *told) as hands:
        while left:
            for hand in hands.idle:
                if waiting:
                    hand.give(waiting.popleft())
            for one, answer in hands.heard():
                end = _kept(store, one) if answer is None else answer  # it may have died before it could say so
                if end is None and one.key not in died:
                    died.add(one.key)
                    waiting.appendleft(one)
                    continue
                left -= 1
                yield one, DIED if end is None else end


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _begin(store: Path, data: Path, nets: dict[str, Path]) -> Callable[[Measurement], list[Row] | str]:
    """A worker process begins."""
    remember(nets)
    torch.set_num_threads(1)
    return partial(_make, Bench(Store(store, make=False), load(data)))


def _make(bench: Bench, one: Measurement) -> list[Row] | str:
    """Measure and keep; a failure is told, and harms no other measurement. Raises StoreError."""
    functions: Mapping[str, Measure] = import_module(f"layerwise.studies.{one.study}").MEASURES
    try:
        rows = functions[one.what](bench, *one.runs, **dict(one.options))
        _keep(bench.store, one, rows)
    except StoreError:
        raise
    except Exception as error:  # a study's function, or a user's net, may raise anything
        bench.store.check()
        told = str(error).partition("\n")[0]
        return told if isinstance(error, LayerwiseError) else f"{type(error).__name__}: {told}"
    return rows


def _kept(store: Store, one: Measurement) -> list[Row] | None:
    """What the store has of it; what cannot be read is measured again."""
    try:
        rows: list[Row] = json.loads(store.measured(one.key).read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows


def _keep(store: Store, one: Measurement, rows: list[Row]) -> None:
    about = {"study": one.study, "what": one.what, "runs": [key(run) for run in one.runs], "options": one.options}
    store.put_measured(one.key, json.dumps({**about, "rows": rows}, allow_nan=False).encode())
