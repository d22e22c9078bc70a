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

    What was measured is remembered in the user's cache folder, for this machine, and beside the runs that were trained
    so: a study that is resumed elsewhere forms the same fleets. Where neither can be written, it is measured anew.
    """

    cores: int
    file: Path = field(default_factory=lambda: cache_folder() / f"fleets-{machine()}.json")
    beside: Path | None = None  # the file in the store
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.kept = _read(self.beside) if self.beside else {}
        self.known = _read(self.file) | self.kept

    def of(self, run: Run, count: int, shape: tuple[int, int, int]) -> int:
        """The width of units of so many runs like this one: all equally wide, no core without work; 1 is no fleet."""
        most = widest(run, shape, self.device)
        if most == 1 or count == 1:
            return 1
        units = max(-(-count // most), min(self.cores, count))
        width = -(-count // units)
        return width if width > 1 and self._is_worth(run, shape, width) else 1

    def _is_worth(self, run: Run, shape: tuple[int, int, int], width: int) -> bool:
        """Is a fleet of this width faster than its members one after the other?"""
        name = f"{width} {kind(run, shape, self.device).name}"
        if name not in self.known:
            self.known[name] = _measured(run, shape, width, self.device)
            self.known |= _add(self.file, {name: self.known[name]})
        if self.beside and name not in self.kept:
            self.kept |= _add(self.beside, {name: self.known[name]})
            self.known |= self.kept
        return self.known[name]


def _read(file: Path) -> dict[str, bool]:
    try:
        found = json.loads(file.read_text())
        return {name: worth for name, worth in found.items() if isinstance(worth, bool)}
    except (OSError, ValueError, AttributeError):
        return {}  # nothing is known yet


def _add(file: Path, found: dict[str, bool]) -> dict[str, bool]:
    """Add what was measured to what others have, and give all; where somebody else was first, that is kept to."""
    aside = file.with_name(f"{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = found | _read(file)
            aside.write_text(json.dumps(found, indent=1, sort_keys=True))
            aside.replace(file)
    except OSError:
        pass  # it will be measured anew
    return found


def _measured(run: Run, shape: tuple[int, int, int], width: int, device: str) -> bool:
    stages = range(len(run.recipes))
    try:
        together = sum(speed(run, stage, shape, width, device).step for stage in stages)
    except Exception:  # a net that cannot be mapped over its members, for whatever reason, is trained by itself
        return False
    return together < WORTH * width * sum(speed(run, stage, shape, 1, device).step for stage in stages)


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
