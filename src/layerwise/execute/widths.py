"""How many runs train together: decided once, and then kept to, so that results repeat to the bit."""

import fcntl
import hashlib
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from layerwise.execute.speeds import kind, speed, widest
from layerwise.nets.downloads import cache_folder
from layerwise.run import Run

WORTH = 0.95  # of the time alone: a fleet that does not save a twentieth is left


@dataclass
class Widths:
    """The widths of fleets, as they are faster here.

    What was measured is remembered in the user's cache folder, for this machine. What was chosen is remembered beside
    the runs that are trained so: a study that is resumed, on this machine or elsewhere, with fewer cores or more, forms
    the fleets that it had. Where neither can be written, it is decided anew.
    """

    cores: int
    file: Path = field(default_factory=lambda: cache_folder() / f"fleets-{machine()}.json")
    beside: Path | None = None  # the file in the store
    device: str = "cpu"
    begins: bool = True  # are the runs trained now? A plan alone leaves the choice to who carries it out

    def __post_init__(self) -> None:
        self.chosen = _read(self.beside, int) if self.beside else {}
        self.known = _read(self.file, bool)

    def of(self, run: Run, count: int, shape: tuple[int, int, int]) -> int:
        """The width of units of so many runs like this one: all equally wide, no core without work; 1 is no fleet."""
        if count == 1:
            return 1
        name = self._name(count, run, shape)
        if name not in self.chosen:
            self.chosen[name] = self._choice(run, count, shape)
            if self.beside and self.begins:
                self.chosen |= _add(self.beside, name, self.chosen[name])
        return self.chosen[name]

    def _choice(self, run: Run, count: int, shape: tuple[int, int, int]) -> int:
        most = widest(run, shape, self.device)
        if most == 1:
            return 1
        units = max(-(-count // most), min(self.cores, count))
        width = -(-count // units)
        return width if width > 1 and self._is_worth(run, shape, width) else 1

    def _is_worth(self, run: Run, shape: tuple[int, int, int], width: int) -> bool:
        """Is a fleet of this width faster than its members one after the other?"""
        name = self._name(width, run, shape)
        if name not in self.known:
            self.known |= _add(self.file, name, _measured(run, shape, width, self.device))
        return bool(self.known[name])

    def _name(self, runs: int, run: Run, shape: tuple[int, int, int]) -> str:
        """What decides about so many runs like this one: a longer training is more worth being made ready for."""
        return f"{runs} {[recipe.steps for recipe in run.recipes]} {kind(run, shape, self.device).name}"


def _read(file: Path, of: type[int]) -> dict[str, int]:
    try:
        found = json.loads(file.read_text())
        return {name: value for name, value in found.items() if type(value) is of}
    except (OSError, ValueError, AttributeError):
        return {}  # nothing is known yet


def _add(file: Path, name: str, value: int) -> dict[str, int]:
    """Add what was found to what others have, and give all; where somebody else was first, that is kept to."""
    found = {name: value}
    aside = file.with_name(f"{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found |= _read(file, type(value))
            aside.write_text(json.dumps(found, indent=1, sort_keys=True))
            aside.replace(file)
    except OSError:
        pass  # it will be found anew
    return found


def _measured(run: Run, shape: tuple[int, int, int], width: int, device: str) -> bool:
    try:
        together = _seconds(run, shape, width, device)
    except Exception:  # a net that cannot be mapped over its members, for whatever reason, is trained by itself
        return False
    return together < WORTH * width * _seconds(run, shape, 1, device)


def _seconds(run: Run, shape: tuple[int, int, int], width: int, device: str) -> float:
    """What a unit of so many runs takes until its last step: a fleet is made ready first, which may take longer."""
    found = [speed(run, stage, shape, width, device) for stage in range(len(run.recipes))]
    return sum(one.ready + recipe.steps * one.step for one, recipe in zip(found, run.recipes, strict=True))


def machine() -> str:
    """A name for what decides how fast things are here: processor, cores, memory, torch."""
    told = (platform.machine(), _processor(), os.cpu_count(), psutil.virtual_memory().total >> 30, torch.__version__)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
