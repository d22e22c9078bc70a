"""What a command that trains leaves in its store, for whoever watches it: its plan, and what did not finish.

    STORE/running/4711-5b0c1d9e.jsonl    of process 4711: its plan, then a line for each failure, then that it has ended

Which runs are finished the store itself says; here is only what it cannot know. As long as the command lives it holds a
lock on its file, which the system releases however it ends: a plan that nobody holds and that says of no end was
killed. Nothing depends on these files, and whatever is wrong with one, it is as if it were not there.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

FOLDER = "running"


@dataclass(frozen=True)
class Failure:
    """A run that ended without a result, and why."""

    key: str
    why: str


@dataclass(frozen=True)
class Running:
    """A plan that is being carried out, or was; times are seconds since 1970."""

    command: str
    process: int
    machine: str
    begun: float
    workers: int
    forecast: float  # seconds that all missing runs were to take
    stored: tuple[str, ...]  # keys of the runs that needed no work
    missing: Mapping[str, float]  # forecast seconds by key, on one core, of those that did
    failures: tuple[Failure, ...] = ()
    said: str = ""  # what the command last told its user
    ended: float | None = None  # null: it is at work, or was killed
    is_alive: bool = False


def begin(store: Path, plan: Mapping[str, Any]) -> TextIO | None:
    """Leave a plan in a store, and hold it; null where it cannot be written."""
    folder = store / FOLDER
    try:
        folder.mkdir(exist_ok=True)  # a store that is gone is not made again
        file = open(folder / f"{os.getpid()}-{os.urandom(4).hex()}.jsonl", "w", encoding="utf-8")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return None
    add(file, plan)
    return file


def add(file: TextIO | None, line: Mapping[str, Any]) -> None:
    """Add a line to a plan that `begin` gave; what cannot be written is not known to others, which harms no run."""
    if file is not None and not file.closed:
        with suppress(OSError):
            file.write(json.dumps(line) + "\n")
            file.flush()


def end(file: TextIO | None, at: float) -> None:
    """Say that a plan has ended, and let go of it."""
    add(file, {"ended": at})
    if file is not None:
        with suppress(OSError):
            file.close()


def forget_ended(store: Path) -> None:
    """Remove the plans that nobody holds."""
    for path in (store / FOLDER).glob("*.jsonl"):
        if not is_held(path):
            with suppress(OSError):
                path.unlink()


def running(store: Path) -> tuple[Running, ...]:
    """The plans in a store, the one that began first in front."""
    found = (_read(path) for path in (store / FOLDER).glob("*.jsonl"))
    return tuple(sorted((one for one in found if one), key=lambda one: one.begun))


def is_held(path: Path) -> bool:
    """Does a process hold the lock on this file? To look takes no longer than a moment, and alters nothing in it."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read(path: Path) -> Running | None:
    try:
        plan, *more = _lines(path.read_text(encoding="utf-8"))
        failures = tuple(Failure(line["failed"], line["why"]) for line in more if "failed" in line)
        told: dict[str, Any] = {name: line[name] for line in more for name in ("said", "ended") if name in line}
        values = {**plan, "stored": tuple(plan["stored"]), "failures": failures, **told}
        return Running(**values, is_alive="ended" not in told and is_held(path))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lines(text: str) -> Iterator[dict[str, Any]]:
    """What each line says; the last one may not be whole yet."""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
