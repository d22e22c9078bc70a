"""The executor for many machines: each unit of the plan is one task of a Ray cluster.

The same plan and the same workers as on one machine; the store, which all nodes share, says what is done. A task whose
process or node is lost is done again elsewhere, at most twice: then it first asks the store, so that nothing which was
finished is trained again. Tasks and not actors: a lost task is sent once more and ray finds it a place, on a node that
joined a minute ago too, and nobody has to keep a list of who is alive. What a process has loaded (data, sources) it
keeps for the next task that ray gives it.
"""

import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from layerwise.errors import StoreError, StudyError
from layerwise.execute.connection import connected, import_ray
from layerwise.execute.nodes import ONE_THREAD, Request, living, not_seen, request, survey
from layerwise.execute.plan import Plan, Unit
from layerwise.execute.processor import FEATURES, room
from layerwise.execute.queue import Queue
from layerwise.execute.work import Outcome, Setting, Worker
from layerwise.run import Run, key
from layerwise.store import Store

TRIES = 3  # at a unit that is lost each time
SENT_AHEAD = 1000  # tasks that ray holds at once: more than any cluster runs, few enough to look through often
WAKE_EVERY = 1  # seconds between two looks at whether an interrupt came that ray has swallowed, or the end did
LOOK_EVERY = 10  # seconds between two looks at whether somebody is left to do the work
PATIENCE = 300  # seconds for a node to join again where none is left that could do it


def offer(address: str) -> tuple[int, int]:
    """How many processors and GPUs the cluster at `address` has now; StudyError where none answers there."""
    ray = import_ray()
    with connected(ray, address):
        nodes = living(ray)
        return int(sum(node.cpus for node in nodes)), int(sum(node.gpus for node in nodes))


def execute(
    plan: Plan,
    setting: Setting,
    address: str,
    *,
    memory: Callable[[Unit], int] = lambda _unit: 0,
    workers: int | None = None,
) -> Iterator[Outcome]:
    """Do the missing runs on the cluster at `address`, and give the outcome of each as it ends, in whatever order.

    The address is `auto` (the one started on this machine), `HOST:PORT`, `ray://HOST:PORT`, or `local`: a private one.
    `memory` forecasts the bytes that a unit needs on its device, 0 where that is not known; `workers` is how many units
    are done at once, by default as many as there is room for. Stopped at any moment, it leaves the cluster running and
    nothing of its own on it. Raises StudyError or StoreError, before anything is trained, where the cluster cannot do
    the work; and StoreError where the store fails.
    """
    if not plan.units:
        return
    ray = import_ray()
    precisions = {recipe.precision for unit in plan.units for recipe in unit.runs[0].recipes}
    with connected(ray, address, workers), _marked(setting) as mark, _interrupts() as check:
        nodes, notes = survey(ray, setting, precisions, mark)
        asked = {_name(unit): request(memory(unit), setting.device, nodes, _title(unit)) for unit in plan.units}
        queue = _Queue(plan, setting)
        sender = _Sender(ray, setting, mark, check)
        while queue.pending:
            yield from queue.orphans()
            while len(sender.sent) < (workers or SENT_AHEAD) and (task := queue.take()):
                sender.send(*task, asked[_name(task[0])])
            for unit, answer in sender.answers():
                for outcome in queue.settle(unit, answer):
                    yield replace(outcome, notes=(*notes, *outcome.notes))
                    notes = ()


@contextmanager
def _interrupts() -> Iterator[Callable[[], None]]:
    """Gives a check that raises KeyboardInterrupt once one has come: ray's own code loses some that arrive in it."""
    came = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def check() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        handler = before[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)

    heard = [number for number, handler in before.items() if callable(handler)]
    if threading.current_thread() is not threading.main_thread():
        heard = []  # others are told of no signal
    for number in heard:
        signal.signal(number, note)
    try:
        yield check
    finally:
        for number in heard:
            if signal.getsignal(number) is note:
                signal.signal(number, before[number])


@dataclass(frozen=True)
class _Lost:
    """The answer of a task whose process or node is gone."""

    how: str


class _Queue(Queue):
    """The queue of units, which also remembers how some were lost."""

    tries = TRIES

    def __init__(self, plan: Plan, setting: Setting) -> None:
        super().__init__(plan, setting)
        self.losses: dict[str, tuple[str, ...]] = {}

    def settle(self, unit: Unit, answer: Sequence[Outcome] | _Lost | None) -> list[Outcome]:
        """Take what became of a unit; gives the outcomes of its runs, unless they are to be done again."""
        if isinstance(answer, _Lost):
            self.losses[_name(unit)] = (*self.losses.get(_name(unit), ()), answer.how)
            return super().settle(unit, None)
        ended = super().settle(unit, answer)
        if ended and (losses := self.losses.get(_name(unit))):
            note = f"{_title(unit)} was done again: {'; '.join(losses)}"
            ended[0] = replace(ended[0], notes=(*ended[0].notes, note))
        return ended

    def why(self, unit: Unit) -> str:
        losses = self.losses[_name(unit)]
        return f"tried {len(losses)} times, and each time its process or node was lost: {'; '.join(losses)}"


class _Sender:
    """Tasks that ray has, and their answers."""

    def __init__(self, ray: Any, setting: Setting, mark: str, check: Callable[[], None]) -> None:
        self.ray, self.mark, self.check = ray, mark, check
        self.setting = ray.put(setting)
        self.sent: dict[Any, tuple[Unit, Request]] = {}  # by ray's reference to the answer
        # Ray's own retries are off: a unit that is done again first asks the store what is left of it.
        how = {"max_retries": 0, "scheduling_strategy": "SPREAD", "runtime_env": ONE_THREAD}
        self.on_processors = ray.remote(**how)(_do)
        self.on_gpus = ray.remote(**how, num_gpus=1, max_calls=1)(_do)  # a process keeps to the first GPU that it saw

    def send(self, unit: Unit, wait: bool, request: Request) -> None:
        """Hand a unit to ray; `wait` is for other processes that train its runs."""
        kind = self.on_gpus if "num_gpus" in request else self.on_processors
        remote = kind.options(**request, name=_title(unit))
        self.sent[remote.remote([self.setting], self.mark, unit, wait)] = unit, request

    def answers(self) -> Iterator[tuple[Unit, Sequence[Outcome] | _Lost]]:
        """Wait until tasks have ended, and give their units with what became of them."""
        for reference in self._ended() if self.sent else ():
            unit, _ = self.sent.pop(reference)
            yield unit, self._answer(reference, unit)

    def _ended(self) -> list[Any]:
        waiting, last_seen = list(self.sent), time.monotonic()
        last_look = last_seen
        while True:
            self.check()
            ended, _ = self.ray.wait(waiting, num_returns=1, timeout=WAKE_EVERY)
            if ended:
                return list(self.ray.wait(waiting, num_returns=len(waiting), timeout=0)[0])
            if time.monotonic() - last_look < LOOK_EVERY:
                continue
            last_look = time.monotonic()
            nodes = living(self.ray)
            if any(node.can_give(asked) for _, asked in self.sent.values() for node in nodes):
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > PATIENCE:
                raise StudyError(
                    f"no node that could do the rest has been in the cluster for {PATIENCE} s; start nodes again "
                    "(see `ray status`): what is finished is stored, and the same command does the rest"
                )

    def _answer(self, reference: Any, unit: Unit) -> Sequence[Outcome] | _Lost:
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(reference)
        except errors.RayTaskError as error:  # no loss, but a mistake that it would make again
            return [_failed(run, error) for run in unit.todo]
        except errors.RayError as error:
            return _Lost(_how(error))
        if isinstance(answer, StoreError):
            raise answer
        return answer


_worker: tuple[str, Worker] | None = None  # what this process has loaded, and for which execution


def _do(setting: list[Any], mark: str, unit: Unit, wait: bool) -> list[Outcome] | StoreError:
    """The task itself, in a process of some node: have the worker of this process do the unit."""
    global _worker
    try:
        if _worker is None or _worker[0] != mark:
            _worker = (mark, _hire(import_ray().get(setting[0]), mark))
        worker = _worker[1]
        with _while_wanted(worker.store, mark):
            _look_anew(worker.store, unit)
            return worker.do(unit, wait=wait)
    except StoreError as error:
        return error


@contextmanager
def _while_wanted(store: Store, mark: str) -> Iterator[None]:
    """End this process when the execution that it works for is over: its mark is then gone from the store.

    Whoever disconnects has ray kill what it left; this is for who stays connected. `ray.cancel` is no help: now and
    then it has the process that calls it abort ("Tried to fail task that was not pending").
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(WAKE_EVERY):
            with suppress(OSError):  # of a file server that is away for a moment
                if store.folder.exists() and not _path(store.folder, mark).exists():
                    os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _hire(setting: Setting, mark: str) -> Worker:
    """A worker, where this node sees the store: one that joined late has not been asked, and would make its own."""
    if not _path(setting.store, mark).exists():
        raise StoreError(not_seen(import_ray().util.get_node_ip_address(), setting.store))
    memory, disk = _room(setting.device)
    return Worker(replace(setting, memory=memory, disk=disk))


def _room(device: str) -> tuple[int, int]:
    """What this process may hold of what frozen layers give: its share of this node, or of its GPU."""
    if device == "cpu":
        return room(len(os.sched_getaffinity(0)))
    share = min(1.0, import_ray().get_runtime_context().get_assigned_resources()["GPU"])
    torch.cuda.set_per_process_memory_fraction(share)  # what asks for more is done in halves, and no neighbour suffers
    return int(FEATURES * share * torch.cuda.mem_get_info()[1]), 0


def _look_anew(store: Store, unit: Unit) -> None:
    """Have an NFS client ask its server for what it may remember as not there: a source stored a moment ago.

    Opening a folder makes the client check it, which looking up a name in it does not, for up to a minute (`man nfs`).
    """
    for run in unit.runs:
        if isinstance(run.source, Run):
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
            _path(store.folder, mark).unlink(missing_ok=True)


def _path(store: Path, mark: str) -> Path:
    return store / "locks" / mark


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


def _name(unit: Unit) -> str:
    """By which a unit is known, whatever of it is left to do."""
    return key(unit.runs[0])


def _title(unit: Unit) -> str:
    """What errors call a unit."""
    first = unit.runs[0]
    others = f" and {len(unit.runs) - 1} more" if len(unit.runs) > 1 else ""
    return f"run {key(first)} ({first.treatment}{others})"
