"""The index of a store: what its runs held when they were last read, so that thousands need not be read again.

    STORE/index/7d    of the runs in STORE/runs/7d: a checksum, then a line for each run, its parts parted by tabs

An entry counts only while the run's files bear the same marks (inode, size, times) as when they were read and checked,
and only if the index is itself what was written; whatever else is read anew from the run's folder, which is the truth.
Times are compared for equality alone, so that no clock can mislead. Each file is written aside and renamed: of two
processes that write at once one's additions are lost, and read anew the next time. Nothing here needs locks, and so it
does on network file systems what it does on others.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

FORMAT = b"layerwise index 1"
SETTLED = 2.0  # seconds after which another change would bear another time, on any file system


@dataclass(frozen=True, slots=True)
class Entry:
    """What a run's folder held, all as JSON, and the marks that it bore."""

    marks: bytes
    files: bytes  # names of all files
    spec: bytes  # canonical
    result: bytes


def marks(folder: str) -> bytes | None:
    """What changes when the run's record does, or a file comes or goes; null where there is no whole run."""
    try:
        place = os.stat(folder)
        spec, result = os.stat(f"{folder}/spec.json"), os.stat(f"{folder}/result.json")
    except OSError:
        return None
    return b"%d %d %d %d %d %d %d %d %d" % (
        place.st_mtime_ns,
        *(spec.st_ino, spec.st_size, spec.st_mtime_ns, spec.st_ctime_ns),
        *(result.st_ino, result.st_size, result.st_mtime_ns, result.st_ctime_ns),
    )


def settled(found: bytes) -> bool:
    """Would a change from now on surely alter these marks, as the clock has moved since the last one?"""
    now = time.time()
    times = [int(number) / 1e9 for number in found.split()]
    return all(abs(now - times[k]) > SETTLED for k in (0, 3, 4, 7, 8))


def read(path: Path) -> dict[str, Entry]:
    """The entries by key; none where the file is not there, or not what was written."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if head != _head(body):
        return {}
    lines = (line.split(b"\t") for line in body.split(b"\n") if line)
    return {name.decode(): Entry(*parts) for name, *parts in lines}


def write(path: Path, entries: Mapping[str, Entry], aside: Path) -> None:
    """Put the entries in the place of what is there; where that is not possible, the index stays as it was."""
    body = b"".join(b"\t".join((name.encode(), *astuple(entry))) + b"\n" for name, entry in sorted(entries.items()))
    try:
        path.parent.mkdir(exist_ok=True)
        aside.write_bytes(_head(body) + b"\n" + body)
        aside.rename(path)
    except OSError:  # a full disk, a store that may only be read: what was lost is time
        with suppress(OSError):
            aside.unlink()


def _head(body: bytes) -> bytes:
    return FORMAT + b" " + hashlib.sha256(body).hexdigest().encode()
