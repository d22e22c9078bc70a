"""The executor for many machines: each unit of the plan is one task of a Ray cluster.

The same plan and the same workers as on one machine; the store, which all nodes share, says what is done. A task whose
process or node is lost is done again elsewhere, at most twice: then it first asks the store, so that nothing which was
finished is trained again. Tasks and not actors: a lost task is sent once more and ray finds it a place, on a node that
joined a minute ago too, and nobody has to keep a list of who is alive. What a process has loaded (data, sources) it
keeps for the next task that ray gives it.
"""

import os
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from layerwise.errors import StoreError, StudyError
from layerwise.execute.connection import connected, import_ray
from layerwise.execute.nodes import ONE_THREAD, Request, living, not_seen, request, survey
from layerwise.execute.plan import Plan
from layerwise.execute.work import Outcome, Setting, Worker, orphaned
from layerwise.run import Run, key
from layerwise.store import Store

REDONE = 2  # times that a lost unit is done again
SENT_AHEAD = 1000  # tasks that ray holds at once: more than any cluster runs, few enough to look through often
LOOK_EVERY = 10  # seconds between two looks at whether somebody is left to do the work
PATIENCE = 300  # seconds for a node to join again where none is left that could do it


def execute(
    plan: Plan,
    setting: Setting,
    address: str,
    *,
    device: str = "cpu",
    memory: Callable[["Unit"], int] = lambda _unit: 0,
    workers: int | None = None,
) -> Iterator[Outcome]:
    """Do the missing runs on the cluster at `address`, and give the outcome of each as it ends, in whatever order.

    The address is `auto` (the one started on this machine), `HOST:PORT`, `ray://HOST:PORT`, or `local`: a private one
    of so many `workers`. `memory` forecasts the bytes that a unit needs on its device, 0 where that is not known.
    Stopped at any moment, it leaves the cluster running and nothing of its own on it. Raises StudyError or StoreError,
    before anything is trained, where the cluster cannot do the work; and StoreError where the store fails.
    """
    units = _units(plan)
    if not units:
        return
    ray = import_ray()
    with connected(ray, address, workers), _marked(setting) as mark:
        nodes, notes = survey(ray, setting.store, list(setting.data.values()), mark)
        asked = [request(memory(unit), device, nodes, _title(unit)) for unit in units]
        queue = _Queue(map(_Task, units, asked), setting)
        sender = _Sender(ray, setting, mark)
        try:
            while queue.pending:
                for task in queue.take(SENT_AHEAD - len(sender.sent)):
                    sender.send(task)
                for task, answer in sender.answers():
                    for outcome in queue.settle(task, answer):
                        yield replace(outcome, notes=(*notes, *outcome.notes))
                        notes = ()
        finally:
            sender.cancel()


@dataclass(frozen=True)
class _Task:
    """A unit on its way: what it asks for, how often it was lost, and how."""

    unit: "Unit"
    request: Request
    wait: bool = False  # for other processes that train its runs
    losses: tuple[str, ...] = ()

    @cached_property
    def sources(self) -> frozenset[str]:
        """What must have ended before it can start."""
        return frozenset(key(run.source) for run in self.unit.runs if run.source)

    @property
    def missing(self) -> list[Run]:
        return [run for run in self.unit.runs if key(run) in self.unit.missing]

    def without(self, keys: Iterable[str]) -> "_Task":
        return replace(self, unit=replace(self.unit, missing=self.unit.missing - frozenset(keys)))


@dataclass(frozen=True)
class _Lost:
    """The answer of a task whose process or node is gone."""

    how: str


Answer = list[Outcome] | _Lost


class _Queue:
    """The units that wait: which can start, which others hold, which were lost with their process, node or source."""

    def __init__(self, tasks: Iterable[_Task], setting: Setting) -> None:
        self.waiting = deque(tasks)
        self.setting = setting
        self.pending = {name for task in self.waiting for name in task.unit.missing}
        self.lost: set[str] = set()

    def take(self, most: int) -> list[_Task]:
        """At most so many tasks whose sources are not still to be done, in order."""
        ready = [task for task in self.waiting if task.sources.isdisjoint(self.pending)][: max(most, 0)]
        taken = set(map(id, ready))
        self.waiting = deque(task for task in self.waiting if id(task) not in taken)
        return ready

    def settle(self, task: _Task, answer: Answer) -> list[Outcome]:
        """Take what became of a task; gives the outcomes of its runs, except of those to be done again."""
        if isinstance(answer, _Lost):
            task = replace(task, losses=(*task.losses, answer.how))
            if len(task.losses) <= REDONE:
                self.waiting.appendleft(task)
                return []
            answer = [self._given_up(run, task) for run in task.missing]
        ended = [outcome for outcome in answer if outcome.state != "busy"]
        if left := task.without(outcome.key for outcome in ended).missing:
            names = {key(run) for run in left}
            self.waiting.append(replace(task, wait=True, unit=replace(task.unit, missing=frozenset(names))))
        if ended and task.losses:
            told = f"done again: {'; '.join(task.losses)}"
            ended[0] = replace(ended[0], notes=(*ended[0].notes, f"{_title(task.unit)} was {told}"))
        return [*self._end(ended), *self._orphans(ended)]

    def _given_up(self, run: Run, task: _Task) -> Outcome:
        name = key(run)
        if Store(self.setting.store).has(name, weights=name in self.setting.kept):
            return Outcome(name, "stored")  # before it was lost
        tries = f"tried {len(task.losses)} times, and each time its process or node was lost: {'; '.join(task.losses)}"
        return Outcome(name, "failed", f"run {name} ({run.treatment}): {tries}")

    def _end(self, outcomes: list[Outcome]) -> list[Outcome]:
        self.pending.difference_update(outcome.key for outcome in outcomes)
        self.lost.update(outcome.key for outcome in outcomes if not outcome.is_stored)
        return outcomes

    def _orphans(self, ended: list[Outcome]) -> list[Outcome]:
        """The outcomes of waiting runs whose source, or its source, was lost just now."""
        if all(outcome.is_stored for outcome in ended):
            return []
        found = [outcome for task in self.waiting for run in task.missing if (outcome := orphaned(run, self.lost))]
        tasks = (task.without(outcome.key for outcome in found) for task in self.waiting)
        self.waiting = deque(task for task in tasks if task.unit.missing)
        return [*self._end(found), *self._orphans(found)]


class _Sender:
    """Tasks that ray has, and their answers."""

    def __init__(self, ray: Any, setting: Setting, mark: str) -> None:
        self.ray, self.mark = ray, mark
        self.setting = ray.put(setting)
        self.sent: dict[Any, _Task] = {}  # by ray's reference to the answer
        # Ray's own retries are off: a unit that is done again first asks the store what is left of it.
        self.remote = ray.remote(max_retries=0, scheduling_strategy="SPREAD", runtime_env=ONE_THREAD)(_do)

    def send(self, task: _Task) -> None:
        remote = self.remote.options(**task.request, name=_title(task.unit))
        self.sent[remote.remote([self.setting], self.mark, task.unit, task.wait)] = task

    def answers(self) -> Iterator[tuple[_Task, Answer]]:
        """Wait until tasks have ended, and give them with what became of them."""
        for reference in self._ended():
            yield self.sent.pop(reference), self._answer(reference)

    def _ended(self) -> list[Any]:
        waiting, last_seen = list(self.sent), time.monotonic()
        while True:
            ended, _ = self.ray.wait(waiting, num_returns=1, timeout=LOOK_EVERY)
            if ended:
                return list(self.ray.wait(waiting, num_returns=len(waiting), timeout=0)[0])
            nodes = living(self.ray)
            if any(node.can_give(task.request) for task in self.sent.values() for node in nodes):
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > PATIENCE:
                raise StudyError(
                    f"no node that could do the rest has been in the cluster for {PATIENCE} s; start nodes again "
                    "(see `ray status`): what is finished is stored, and the same command does the rest"
                )

    def _answer(self, reference: Any) -> Answer:
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(reference)
        except errors.RayTaskError as error:  # no loss, but a mistake that it would make again
            return [_failed(run, error) for run in self.sent[reference].missing]
        except errors.RayError as error:
            return _Lost(_how(error))
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def cancel(self) -> None:
        """Kill what is being done: nobody waits for it any more."""
        for reference in self.sent:
            with suppress(Exception):  # the cluster itself may be what was lost
                self.ray.cancel(reference, force=True)


_worker: tuple[str, Worker] | None = None  # what this process has loaded, and for which execution


def _do(setting: list[Any], mark: str, unit: "Unit", wait: bool) -> list[Outcome] | StoreError:
    """The task itself, in a process of some node: have the worker of this process do the unit."""
    global _worker
    try:
        if _worker is None or _worker[0] != mark:
            _worker = (mark, _hire(import_ray().get(setting[0]), mark))
        worker = _worker[1]
        _look_anew(worker.store, unit)
        return _do_unit(worker, unit, wait)
    except StoreError as error:
        return error


def _hire(setting: Setting, mark: str) -> Worker:
    """A worker, where this node sees the store: one that joined late has not been asked, and would make its own."""
    if not (setting.store / "locks" / mark).exists():
        raise StoreError(not_seen(import_ray().util.get_node_ip_address(), setting.store))
    return Worker(setting)


def _look_anew(store: Store, unit: "Unit") -> None:
    """Have an NFS client ask its server for what it may remember as not there: a source stored a moment ago.

    Opening a folder makes the client check it, which looking up a name in it does not, for up to a minute (`man nfs`).
    """
    for run in unit.runs:
        if run.source:
            shelf = store.path(key(run.source)).parent
            for folder in (shelf.parent, shelf):
                with suppress(OSError):
                    os.scandir(folder).close()


@contextmanager
def _marked(setting: Setting) -> Iterator[str]:
    """Hold a lock of a new name in the store, by which nodes see that it is the same one."""
    store, mark = Store(setting.store), uuid.uuid4().hex[:16]
    with store.lock(mark, wait=False):
        try:
            yield mark
        finally:
            (store.folder / "locks" / mark).unlink(missing_ok=True)


def _failed(run: Run, error: BaseException) -> Outcome:
    cause = getattr(error, "cause", None) or error
    words = " ".join(str(cause).split())
    return Outcome(key(run), "failed", f"run {key(run)} ({run.treatment}): {type(cause).__name__}: {words}")


def _how(error: BaseException) -> str:
    """How a task was lost, in words."""
    name, told = type(error).__name__, str(error)
    if name == "NodeDiedError":
        where = re.search(r"Node IP: ([^,\s]+)", told)
        return f"node {where[1]} was lost" if where else "its node was lost"
    if name == "OutOfMemoryError":
        return "its node ran out of memory"
    if name == "WorkerCrashedError":
        return "its process died (killed, or out of memory)"
    return f"{name}: {told.partition('. ')[0]}"


def _title(unit: "Unit") -> str:
    """What errors call a unit."""
    first = unit.runs[0]
    others = f" and {len(unit.runs) - 1} more" if len(unit.runs) > 1 else ""
    return f"run {key(first)} ({first.treatment}{others})"


# Until the plan has units: each run is one.


@dataclass(frozen=True)
class Unit:
    """Runs done together, and which of them are missing."""

    runs: tuple[Run, ...]
    missing: frozenset[str]


def _units(plan: Plan) -> tuple[Unit, ...]:
    return tuple(Unit((run,), frozenset({key(run)})) for run in plan.order())


def _do_unit(worker: Worker, unit: Unit, wait: bool) -> list[Outcome]:
    return [worker.do(run, wait=wait) for run in unit.runs if key(run) in unit.missing]
