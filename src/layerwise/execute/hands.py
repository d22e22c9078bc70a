"""Worker processes of this machine: each does one thing at a time and says what came of it, or dies and is replaced.

Workers come from a fork server that has loaded torch once. They never hear Ctrl-C, which is their parent's to answer,
and end with it, however that ends.
"""

import multiprocessing as mp
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from layerwise.errors import LayerwiseError
from layerwise.execute import forks

Begin = Callable[..., Callable[[Any], Any]]  # what a worker does first; gives what makes its answers of tasks


@dataclass
class Hand:
    """A worker process, the pipe to it, and what it is doing."""

    process: ForkServerProcess
    pipe: Connection
    task: Any = None

    def give(self, task: Any) -> None:
        """Have it do this."""
        self.task = task
        with suppress(OSError):  # a worker that has died is seen by `Hands.heard`
            self.pipe.send(task)

    def dismiss(self) -> None:
        """Kill it, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


@dataclass
class Hands:
    """The workers; see `hired`."""

    hire: Callable[[], Hand]
    all: list[Hand]

    @property
    def idle(self) -> list[Hand]:
        """Those that have nothing to do."""
        return [hand for hand in self.all if hand.task is None]

    def heard(self) -> Iterator[tuple[Any, Any]]:
        """Wait until some have ended, and give what they did with their answers; null where one died of it.

        Those that died are replaced. Raises the LayerwiseError that keeps one from going on.
        """
        ready = wait([hand.pipe for hand in self.all] + [hand.process.sentinel for hand in self.all])
        for hand in [hand for hand in self.all if hand.pipe in ready or hand.process.sentinel in ready]:
            answer, task = _listen(hand), hand.task
            hand.task = None
            if isinstance(answer, LayerwiseError):
                raise answer
            if answer is None:
                hand.dismiss()
                self.all[self.all.index(hand)] = self.hire()
            if task is not None:
                yield task, answer


@contextmanager
def hired(count: int, begin: Begin, *told: Any, common: Path | None = None) -> Iterator[Hands]:
    """So many workers that begin with `begin(*told)`; they are killed when this is left.

    What they are told, what they do and what they answer is pickled; an answer is never null. Should this process end
    without leaving, they remove the folder that they have in common.
    """

    def hire() -> Hand:
        server = forks.context()
        ours, theirs = server.Pipe()
        process = server.Process(target=_live, args=(begin, told, common, theirs), daemon=True)
        with forks.hidden_main(), forks.deaf_to_interrupts():
            process.start()
        theirs.close()
        return Hand(process, ours)

    hands = Hands(hire, [])
    try:
        for _ in range(count):
            hands.all.append(hire())
        yield hands
    finally:
        for hand in hands.all:
            hand.dismiss()


def _listen(hand: Hand) -> Any:
    """The worker's answer; null if it died before it gave one."""
    try:
        return hand.pipe.recv() if hand.pipe.poll() else None
    except (EOFError, OSError):
        return None


def _live(begin: Begin, told: tuple[Any, ...], common: Path | None, pipe: Connection) -> None:
    """The life of a worker: take a task, do it, say how it ended."""
    threading.Thread(target=_end_with_parent, args=(common,), daemon=True).start()
    try:
        do = begin(*told)
        while True:
            pipe.send(do(pipe.recv()))
    except LayerwiseError as error:
        pipe.send(error)
    except (EOFError, OSError):
        return


def _end_with_parent(common: Path | None) -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
    if common:
        shutil.rmtree(common, ignore_errors=True)
    os._exit(1)
