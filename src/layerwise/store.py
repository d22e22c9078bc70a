"""The store: finished runs by key, in a folder.

    STORE/layerwise.json                 the store's version
    STORE/runs/7d/7d0c4b1f9a3e5512/      spec.json, result.json, SHA256SUMS, and where kept weights.safetensors,
                                         initial.safetensors (before the first update)
    STORE/weights/                       weights that no run made, named by their SHA-256
    STORE/data/                          decoded data sets (see layerwise.data)
    STORE/index/                         what the runs held when they were last read (see layerwise.index)
    STORE/measured/                      what was measured on trained nets (see layerwise.measure)
    STORE/locks/, writing/, damaged/     runs being trained, being written, and set aside
    STORE/running/                       what executions say of themselves (see layerwise.running)
    STORE/fleets.json, fleets.lock       how many runs train together (see layerwise.groups)

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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from layerwise import index
from layerwise.errors import StoreError
from layerwise.randomness import canonical
from layerwise.run import Run, Weights, from_spec, key, key_of, spec
from layerwise.writing import write_through, write_whole

STORE_VERSION = 1
SUMS = "SHA256SUMS"
FOLDERS = ("runs", "data", "locks", "writing")
LATER = ("weights", "index", "measured", "damaged", "running", "fleets.json", "fleets.lock")  # made when needed
READ_ANEW = 1 / 16  # of a shelf's runs: where more were not in its index, it is written
BEING_WRITTEN = 3600  # seconds for which a data set half decoded may still be at work
KEY, DIGEST = re.compile("[0-9a-f]{16}"), re.compile("[0-9a-f]{64}")
CANNOT_BE_WRITTEN = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG,
    errno.EFBIG, errno.EIO, errno.ESTALE,
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """A finished run as the store has it; held as text, since thousands are held at once."""

    key: str
    spec: bytes  # canonical JSON
    json: bytes
    files: tuple[str, ...]

    @property
    def run(self) -> Run:
        """The run; its key is the record's, unless an older version of layerwise made it."""
        return from_spec(json.loads(self.spec))

    @property
    def result(self) -> dict[str, Any]:
        """What layerwise.result wrote (curve, steps, cost, provenance), read from its text at each call."""
        return json.loads(self.json)

    @property
    def has_weights(self) -> bool:
        """Were the weights kept?"""
        return "weights.safetensors" in self.files


class Damaged(Exception):
    """A run folder whose content is not what was written."""


class Store:
    """A folder of finished runs; opening it makes it where it is not there, unless it is to be there (`make`).

    Raises StoreError where it cannot be written, is not there, or was written by a newer version of layerwise.
    """

    def __init__(self, folder: Path, *, make: bool = True) -> None:
        self.folder = folder
        mark = folder / "layerwise.json"
        with _clear_errors(folder):
            if make:
                self._make(mark)
            _check_version(folder, mark.read_text())

    def _make(self, mark: Path) -> None:
        folder = self.folder
        if folder.exists() and not mark.exists() and {entry.name for entry in folder.iterdir()} - {*FOLDERS, *LATER}:
            raise StoreError(f"store {folder} is a folder with other things in it; pass another --store")
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            write_whole(mark, json.dumps({"store_version": STORE_VERSION}).encode(), self._aside("layerwise"))

    def path(self, run_key: str) -> Path:
        """The folder of a run, there or not."""
        return self.folder / "runs" / run_key[:2] / run_key

    def has(self, run_key: str, *, weights: bool = False) -> bool:
        """Is the run finished (and were its weights kept)? Whether it is also whole, reading it will tell."""
        return os.path.exists(self._place(run_key) + "/weights.safetensors" * weights)

    def keys(self) -> Iterator[str]:
        """The keys of all finished runs, in alphabetical order."""
        with _clear_errors(self.folder):
            for shelf in sorted(os.listdir(self.folder / "runs")):
                yield from self._on(shelf)

    def newest(self, count: int) -> list[str]:
        """The keys of the runs that finished last, as the clock had it, the newest first."""
        dated = []
        for run_key in self.keys():
            with suppress(OSError):
                dated.append((os.stat(f"{self._place(run_key)}/result.json").st_mtime_ns, run_key))
        return [run_key for _, run_key in sorted(dated, reverse=True)[:count]]

    def put(self, run: Run, result: dict[str, Any], tensors: dict[str, bytes]) -> None:
        """Store a finished run: its result, and its tensors as files of safetensors bytes by name (may be none)."""
        run_key = key(run)
        aside = self._aside(run_key)
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
                    write_through(aside / name, content)
                self._move_in(aside, self.path(run_key))
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def get(self, run_key: str) -> Record:
        """A finished run; raises Damaged where its files are not what was written, KeyError where there is none."""
        folder = self.path(run_key)
        try:
            files = tuple(sorted(os.listdir(folder)))
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(run_key) from None
        except OSError as error:
            raise Damaged(f"run {run_key} cannot be read ({error.strerror})") from error
        sums = _sums(folder)
        try:
            spec = canonical(json.loads(_checked(folder, "spec.json", sums)))
            result = canonical(json.loads(_checked(folder, "result.json", sums)))
        except ValueError as error:
            raise Damaged(f"run {run_key} holds what is no JSON ({error})") from error
        if key_of(spec) != run_key:
            raise Damaged(f"run {run_key} holds the spec of {key_of(spec)}")
        return Record(run_key, spec.encode(), result.encode(), files)

    def records(self, run_keys: Iterable[str]) -> dict[str, Record]:
        """The runs of these that are finished and whole, in this order, however many; of the others `get` says more.

        Files that bear the marks under which they were last read and checked are not read again.
        """
        wanted = list(run_keys)
        found: dict[str, Record] = {}
        for shelf, names in groupby(sorted(set(wanted)), lambda run_key: run_key[:2]):
            found |= self._read_shelf(shelf, names)
        return {run_key: found[run_key] for run_key in wanted if run_key in found}

    def _read_shelf(self, shelf: str, run_keys: Iterable[str]) -> dict[str, Record]:
        known = index.read(self.folder / "index" / shelf)
        found, anew = {}, {}
        for run_key in run_keys:
            marks = index.marks(self._place(run_key))
            entry = known.get(run_key)
            if entry and entry.marks == marks:
                found[run_key] = Record(run_key, entry.spec, entry.result, tuple(json.loads(entry.files)))
                continue
            try:
                record = found[run_key] = self.get(run_key)
            except (Damaged, KeyError):
                continue
            if marks and marks == index.marks(self._place(run_key)) and index.settled(marks):
                files = json.dumps(record.files).encode()
                anew[run_key] = index.Entry(marks, files, record.spec, record.json)
        if len(anew) > READ_ANEW * len(known):
            here = set(self._on(shelf))
            entries = {name: entry for name, entry in {**known, **anew}.items() if name in here}
            index.write(self.folder / "index" / shelf, entries, self._aside(f"index-{shelf}"))
        return found

    def tensors(self, run_key: str, name: str) -> bytes:
        """The bytes of `weights` or `initial` of a run; raises Damaged where they are not those that were written."""
        folder = self.path(run_key)
        return _checked(folder, f"{name}.safetensors", _sums(folder))

    def put_weights(self, content: bytes) -> str:
        """Keep the bytes of a safetensors file that no run made; gives the digest that names them as a source."""
        digest = hashlib.sha256(content).hexdigest()
        place = self.folder / "weights" / f"{digest}.safetensors"
        with _clear_errors(self.folder):
            place.parent.mkdir(exist_ok=True)
            if not place.exists() or place.read_bytes() != content:
                with self._writes(digest[:16]):
                    write_whole(place, content, self._aside(digest[:16]))
        return digest

    def put_measured(self, name: str, content: bytes) -> None:
        """Keep the bytes of what was measured (see layerwise.measure) under its key."""
        place = self.measured(name)
        with _clear_errors(self.folder):
            for folder in (place.parent.parent, place.parent):  # not with parents: a store that is gone stays so
                folder.mkdir(exist_ok=True)
            with self._writes(name):
                write_whole(place, content, self._aside(name))

    def measured(self, name: str) -> Path:
        """The file of what was measured under this key, there or not."""
        return self.folder / "measured" / name[:2] / f"{name}.json"

    def check(self) -> None:
        """Raise StoreError where the folder is no longer there."""
        with _clear_errors(self.folder):
            os.stat(self.folder / "layerwise.json")

    def weights(self, digest: str) -> bytes:
        """The bytes of these weights; raises KeyError where there are none, Damaged where they are not theirs."""
        try:
            content = (self.folder / "weights" / f"{Weights(digest).digest}.safetensors").read_bytes()
        except FileNotFoundError:
            raise KeyError(digest) from None
        except OSError as error:
            raise Damaged(f"weights {digest} cannot be read ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise Damaged(f"weights {digest} are not what was written")
        return content

    def weights_kept(self) -> list[str]:
        """The digests of all weights that no run made."""
        found = (path.stem for path in (self.folder / "weights").glob("*.safetensors"))
        return sorted(filter(DIGEST.fullmatch, found))

    def verify_weights(self, digest: str) -> str | None:
        """Read weights whole: null if they are those that were given, else what is wrong."""
        try:
            self.weights(digest)
        except (Damaged, KeyError) as error:
            return str(error)
        return None

    def verify(self, run_key: str) -> str | None:
        """Read a run whole: null if all is as it was written, else what is not."""
        try:
            found = self.get(run_key)
            folder = self.path(run_key)
            sums = _sums(folder)
            for name in {*sums} - {"spec.json", "result.json"}:
                _checked(folder, name, sums)
            if strange := {*found.files} - {*sums, SUMS}:
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

    @contextmanager
    def _writes(self, name: str) -> Iterator[None]:
        """Keep from being cleaned what is written aside under this name; the lock goes with it."""
        with self.lock(name, wait=True):
            try:
                yield
            finally:
                (self.folder / "locks" / name).unlink(missing_ok=True)

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
        for name in ("writing", "locks"):  # in this order: to look whether a lock is held makes it
            for entry in sorted((self.folder / name).iterdir()):
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
        """Put a run in its place. One that is there says the same, and stays unless it lacks weights that this has."""
        place.parent.mkdir(exist_ok=True)
        replaced: list[Path] = []
        while True:  # others may be doing the same
            try:
                aside.rename(place)
                break
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
            if (place / "weights.safetensors").exists() or not (aside / "weights.safetensors").exists():
                break
            with suppress(FileNotFoundError):
                replaced.append(place.rename(self._aside(place.name)))
        for old in replaced:
            shutil.rmtree(old, ignore_errors=True)

    def _aside(self, name: str) -> Path:
        """A path that is nobody else's; it begins with the name of a lock, which keeps it from being cleaned."""
        return self.folder / "writing" / f"{name}-{uuid.uuid4().hex}"

    def _place(self, run_key: str) -> str:
        """`path` as text, for where there are thousands."""
        return f"{self.folder}/runs/{run_key[:2]}/{run_key}"

    def _on(self, shelf: str) -> list[str]:
        """The keys on a shelf; stray files are none, nor is what is not a shelf."""
        try:
            return sorted(filter(KEY.fullmatch, os.listdir(f"{self.folder}/runs/{shelf}")))
        except (FileNotFoundError, NotADirectoryError):
            return []


def _sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text().splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError) as error:
        raise Damaged(f"run {folder.name} has no readable {SUMS} ({error})") from error


def _checked(folder: Path, name: str, sums: Mapping[str, str]) -> bytes:
    """The bytes of a run's file; raises Damaged where they are not those that were written."""
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise Damaged(f"run {folder.name} lacks its {name}") from error
    if sums.get(name) != hashlib.sha256(content).hexdigest():
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
