"""The store: finished runs by key, in a folder.

    STORE/layerwise.json                 the store's version
    STORE/runs/7d/7d0c4b1f9a3e5512/      spec.json, result.json, SHA256SUMS, and where kept weights.safetensors,
                                         initial.safetensors (before the first update)
    STORE/data/                          decoded data sets (see layerwise.data)
    STORE/locks/, writing/, damaged/     runs being trained, being written, and set aside

A run is written aside and renamed into place, so that it is there whole or not at all; a lock, released by the system
when its process dies, keeps two processes from training one run. The store is the truth about what is finished, and
losing it costs time, never a result. SHA256SUMS is what `sha256sum -c` reads.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from layerwise.errors import StoreError
from layerwise.run import Run, from_spec, key, spec

STORE_VERSION = 1
SUMS = "SHA256SUMS"
FOLDERS = ("runs", "data", "locks", "writing")
BEING_WRITTEN = 3600  # seconds for which a data set half decoded may still be at work
KEY = re.compile("[0-9a-f]{16}")
CANNOT_BE_WRITTEN = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """A finished run as the store has it."""

    key: str
    run: Run
    result: dict[str, Any]  # what layerwise.result wrote: curve, steps, cost, provenance


class Damaged(Exception):
    """A run folder whose content is not what was written."""


class Store:
    """A folder of finished runs; opening it makes it where it is not there.

    Raises StoreError where it cannot be written, or was written by a newer version of layerwise.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mark = folder / "layerwise.json"
        with _clear_errors(folder):
            if folder.exists() and not mark.exists() and {entry.name for entry in folder.iterdir()} - {*FOLDERS}:
                raise StoreError(f"store {folder} is a folder with other things in it; pass another --store")
            for name in FOLDERS:
                (folder / name).mkdir(parents=True, exist_ok=True)
            if not mark.exists():
                _write_whole(mark, json.dumps({"store_version": STORE_VERSION}).encode())
            _check_version(folder, mark.read_text())

    def path(self, run_key: str) -> Path:
        """The folder of a run, there or not."""
        return self.folder / "runs" / run_key[:2] / run_key

    def has(self, run_key: str, *, weights: bool = False) -> bool:
        """Is the run finished (and were its weights kept)? Whether it is also whole, reading it will tell."""
        folder = self.path(run_key)
        return (folder / "weights.safetensors").exists() if weights else folder.is_dir()

    def keys(self) -> Iterator[str]:
        """The keys of all finished runs, in alphabetical order."""
        for shelf in sorted((self.folder / "runs").iterdir()):
            if shelf.is_dir():
                yield from sorted(entry.name for entry in shelf.iterdir() if KEY.fullmatch(entry.name))

    def put(self, run: Run, result: dict[str, Any], tensors: dict[str, bytes]) -> None:
        """Store a finished run: its result, and its tensors as files of safetensors bytes by name (may be none)."""
        run_key = key(run)
        aside = self.folder / "writing" / f"{run_key}-{uuid.uuid4().hex}"
        contents = {
            "spec.json": _pretty(spec(run)),
            "result.json": _pretty(result),
            **{f"{name}.safetensors": content for name, content in tensors.items()},
        }
        sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())
        with _clear_errors(self.folder):
            try:
                aside.mkdir()
                for name, content in {**contents, SUMS: sums.encode()}.items():
                    _write_through(aside / name, content)
                self._move_in(aside, self.path(run_key))
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def get(self, run_key: str) -> Record:
        """A finished run; raises Damaged where its files are not what was written, KeyError where there is none."""
        folder = self.path(run_key)
        if not self.has(run_key):
            raise KeyError(run_key)
        run = from_spec(json.loads(self._checked(folder, "spec.json")))
        if key(run) != run_key:
            raise Damaged(f"run {run_key} holds the spec of {key(run)}")
        return Record(run_key, run, json.loads(self._checked(folder, "result.json")))

    def tensors(self, run_key: str, name: str) -> bytes:
        """The bytes of `weights` or `initial` of a run; raises Damaged where they are not those that were written."""
        return self._checked(self.path(run_key), f"{name}.safetensors")

    def verify(self, run_key: str) -> str | None:
        """Read a run whole: null if all is as it was written, else what is not."""
        try:
            self.get(run_key)
            folder = self.path(run_key)
            sums = self._sums(folder)
            for name in sums:
                self._checked(folder, name)
            if strange := {entry.name for entry in folder.iterdir()} - {*sums, SUMS}:
                raise Damaged(f"run {run_key}: {SUMS} does not name {sorted(strange)[0]}")
        except (Damaged, KeyError) as error:
            return str(error)
        return None

    def set_aside(self, run_key: str) -> Path:
        """Move a damaged run out of the way, to `damaged/`, so that it is computed again; returns where it is.

        The caller holds the run's lock: somebody else may be about to do the same.
        """
        aside = self.folder / "damaged" / f"{run_key}-{uuid.uuid4().hex[:8]}"
        with _clear_errors(self.folder):
            aside.parent.mkdir(exist_ok=True)
            self.path(run_key).rename(aside)
        return aside

    def mend(self, run_key: str) -> str | None:
        """Set a run aside if it is damaged, and say so; null if it is whole or not there."""
        with self.lock(run_key, wait=True):
            wrong = self.verify(run_key) if self.has(run_key) else None
            return wrong and f"{wrong}; set aside as {self.set_aside(run_key)} and computed again"

    @contextmanager
    def lock(self, run_key: str, *, wait: bool) -> Iterator[bool]:
        """Hold the right to train a run; gives False where somebody else holds it and we do not wait.

        The system releases it when the process ends, however it ends.
        """
        file = self._locked(self.folder / "locks" / run_key, wait)
        if file is None:
            yield False
            return
        with file:
            yield True

    def _locked(self, path: Path, wait: bool) -> TextIO | None:
        """The lock file, open and locked; null where it is somebody else's."""
        with _clear_errors(self.folder):
            while True:
                file = open(path, "w")  # noqa: SIM115 (the lock lasts as long as it is open)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                    if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                        return file
                except BlockingIOError:
                    file.close()
                    return None
                file.close()  # it was removed while we waited: what counts is the file of this name

    def clean(self, *, dry_run: bool = False) -> list[Path]:
        """Remove what can go: runs half written, what was set aside, locks that nobody holds; gives what that was."""
        found: list[Path] = []
        for entry in [*sorted((self.folder / "locks").iterdir()), *sorted((self.folder / "writing").iterdir())]:
            with self.lock(entry.name[:16], wait=False) as free:
                if free and entry.exists():
                    found.append(entry)
                    if not dry_run:
                        _remove(entry)
        for entry in [*sorted((self.folder / "damaged").glob("*")), *sorted((self.folder / "data").glob(".*"))]:
            if time.time() - entry.stat().st_mtime < BEING_WRITTEN and entry.name.startswith("."):
                continue
            found.append(entry)
            if not dry_run:
                _remove(entry)
        return found

    def _move_in(self, aside: Path, place: Path) -> None:
        place.parent.mkdir(exist_ok=True)
        try:
            aside.rename(place)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            if (place / "weights.safetensors").exists() or not (aside / "weights.safetensors").exists():
                return  # somebody else finished the same run first: what is there says the same
            old = aside.with_name(f"{aside.name}-old")  # the same run again, now with its weights
            place.rename(old)
            aside.rename(place)
            shutil.rmtree(old, ignore_errors=True)

    def _sums(self, folder: Path) -> dict[str, str]:
        try:
            lines = (folder / SUMS).read_text().splitlines()
            return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        except (OSError, ValueError) as error:
            raise Damaged(f"run {folder.name} has no readable {SUMS} ({error})") from error

    def _checked(self, folder: Path, name: str) -> bytes:
        wanted = self._sums(folder).get(name)
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise Damaged(f"run {folder.name} lacks its {name}") from error
        if wanted != hashlib.sha256(content).hexdigest():
            raise Damaged(f"run {folder.name}: {name} is not what was written")
        return content


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _check_version(folder: Path, text: str) -> None:
    try:
        version = json.loads(text)["store_version"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"store {folder}: layerwise.json is not readable; pass another --store") from None
    if version != STORE_VERSION:
        raise StoreError(
            f"store {folder} has version {version}, this layerwise reads version {STORE_VERSION}; "
            "upgrade layerwise or pass another --store"
        )


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """Say what is wrong with the folder and what to do, in place of the system's error."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreError(
                f"store {folder} is full; free some space or pass another --store. "
                "Finished runs are safe, and the same command does the rest"
            ) from error
        if error.errno == errno.ENOENT and folder.parent.is_dir() and not (folder / "layerwise.json").exists():
            raise StoreError(f"store {folder} is no longer there; the same command makes it anew") from error
        if error.errno in CANNOT_BE_WRITTEN:
            raise StoreError(f"store {folder} cannot be written ({error.strerror}); pass another --store") from error
        raise


def _pretty(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _write_through(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_whole(path: Path, content: bytes) -> None:
    aside = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    _write_through(aside, content)
    aside.rename(path)
