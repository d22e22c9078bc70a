"""Features of pools of images: where they are kept, and who computes them.

They are kept in memory, then in a file, each within a budget. Processes that have a folder in common keep them in files
there, and compute each chunk of images once between them. Such a folder is locked as long as it is used, so that one
which a killed command has left behind is known, and removed by the next.
"""

import fcntl
import mmap
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile, gettempdir, mkdtemp
from weakref import ref

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 100  # images at once
FREE, TAKEN, DONE = 0, 1, 2  # what became of a chunk
LOOK_EVERY = 0.002  # seconds, while others compute the last chunks
COMMON = "layerwise-features-"  # how the names of folders begin
PATIENCE = 20  # times as long as a chunk takes: then whoever had taken it is thought dead

Compute = Callable[[int], Float[Tensor, "chunk ..."]]  # the features of the images from this one on


@dataclass
class Shelf:
    """Features by name; the oldest go where others need their room."""

    memory: int = 2**30  # bytes
    disk: int = 0  # bytes
    common: Path | None = None  # a folder that several processes have in common
    held: "OrderedDict[str, Tensor]" = field(default_factory=OrderedDict)
    in_files: dict[str, mmap.mmap] = field(default_factory=dict)
    alive: "list[tuple[ref[Tensor], bool]]" = field(default_factory=list)  # with what a run still uses; in a file?

    def get(self, name: str) -> Tensor | None:
        """The features of this name, if they are here."""
        if name in self.held:
            self.held.move_to_end(name)
        return self.held.get(name)

    def is_begun(self, name: str) -> bool:
        """Does somebody compute features of this name in the common folder, or has done so?"""
        return self.common is not None and (self.common / name).exists()

    def lent(self, name: str, images: int, like: Float[Tensor, "chunk ..."]) -> Tensor | None:
        """The features of this name if all of them are in the common folder: to be read, not to be kept."""
        if self.common is None or not like.is_cpu:
            return None
        try:
            with open(self.common / name, "r+b") as file:
                if os.fstat(file.fileno()).st_size != _sizes(images, like)[1]:
                    return None  # whoever begins it has not taken its room yet
                _, states, features = _mapped(file.fileno(), images, like)
        except OSError:
            return None  # somebody let go of it
        return features if (states == DONE).all() else None

    def fill(self, name: str, images: int, like: Float[Tensor, "chunk ..."], compute: Compute) -> Tensor | None:
        """The features of so many images, each like this one; null where there is no room for them."""
        size = images * like[0].nbytes
        made = None
        if self.common and like.is_cpu and self._makes_room(size, self.disk, in_file=True):
            made = self._from_file(name, images, like, compute)
        if made is None and self._makes_room(size, self.memory, in_file=False):
            made = torch.empty((images, *like.shape[1:]), dtype=like.dtype, device=like.device)
            made = made.to(memory_format=memory_format(like))
            for begin in range(0, images, CHUNK):
                made[begin : begin + CHUNK] = compute(begin)[: images - begin]
            self._note(name, made, in_file=False)
        if made is None and not self.common and like.is_cpu and self._makes_room(size, self.disk, in_file=True):
            made = self._from_file(name, images, like, compute)
        return made

    def _from_file(self, name: str, images: int, like: Tensor, compute: Compute) -> Tensor | None:
        """Features in a file, filled together with others who may be at it; null where the disk has no room."""
        path = self.common / name if self.common else None
        try:
            with TemporaryFile() if path is None else open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                made, content = _filled(file.fileno(), images, like, compute)
        except OSError:
            if path is not None:
                path.unlink(missing_ok=True)
            return None
        self._note(name, made, in_file=True)
        self.in_files[name] = content
        return made

    def rest(self) -> None:
        """Leave the files' contents to the system, which can do with their memory what it likes, until they are used.

        Mapped, they count as this process's memory. They are still in the system's cache as long as it has room.
        """
        for content in self.in_files.values():
            content.madvise(mmap.MADV_DONTNEED)

    def _note(self, name: str, made: Tensor, *, in_file: bool) -> None:
        self.held[name] = made
        self.alive.append((ref(made), in_file))

    def _makes_room(self, size: int, budget: int, *, in_file: bool) -> bool:
        """Let go of the oldest features until there is room; what a run is using stays, and counts."""
        while size <= budget:
            self.alive = [(features, where) for features, where in self.alive if features() is not None]
            used = sum(found.nbytes for features, where in self.alive if where == in_file for found in _now(features))
            if used + size <= budget:
                return True
            oldest = next((name for name in self.held if (name in self.in_files) == in_file), None)
            if oldest is None:
                return False
            self._let_go(oldest)
        return False

    def _let_go(self, name: str) -> None:
        del self.held[name]
        if name in self.in_files:
            del self.in_files[name]
            if self.common:
                (self.common / name).unlink(missing_ok=True)  # whoever has it open keeps it


@contextmanager
def common_folder() -> Iterator[Path]:
    """A folder for features that several processes have in common; those that nobody holds any more are removed."""
    for left in Path(gettempdir()).glob(f"{COMMON}*"):
        with suppress(OSError):
            lock = _hold(left)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    folder, lock = _new_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _new_folder() -> tuple[Path, int]:
    """A new folder, and the open file by which we hold it."""
    while True:
        folder = Path(mkdtemp(prefix=COMMON))
        with suppress(BlockingIOError, FileNotFoundError):  # somebody took it for one that was left behind
            lock = _hold(folder)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _hold(folder: Path) -> int:
    """The open file by which we hold a folder until it is closed; raises BlockingIOError where somebody else does."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)  # nobody is to lead us elsewhere
    try:
        file = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=place)
    finally:
        os.close(place)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


def _now(features: "ref[Tensor]") -> Iterator[Tensor]:
    """The features, if somebody still has them."""
    if (found := features()) is not None:
        yield found


def is_channels_last(tensor: Tensor) -> bool:
    """Do the channels of these images lie innermost?"""
    is_so = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return is_so and not tensor.is_contiguous()


def memory_format(tensor: Tensor) -> torch.memory_format:
    """The memory format that the tensor has."""
    return torch.channels_last if is_channels_last(tensor) else torch.contiguous_format


def _filled(file: int, images: int, like: Tensor, compute: Compute) -> tuple[Tensor, mmap.mmap]:
    """The features of so many images in a file, which has a byte for each chunk and then the features; and the file.

    Raises OSError where the disk has no room: it is taken at once, as a disk that is full later would kill the process.
    """
    os.posix_fallocate(file, 0, _sizes(images, like)[1])
    content, states, features = _mapped(file, images, like)

    def do(chunk: int) -> float:
        start, begin = time.monotonic(), chunk * CHUNK
        features[begin : begin + CHUNK] = compute(begin)[: images - begin]
        with _locked(file):
            states[chunk] = DONE
        return time.monotonic() - start

    longest = 0.0
    while (chunk := _take(file, states)) is not None:
        longest = max(longest, do(chunk))
    since, left = time.monotonic(), np.flatnonzero(states != DONE)
    while len(left):
        time.sleep(LOOK_EVERY)
        if len(now := np.flatnonzero(states != DONE)) < len(left):
            since, left = time.monotonic(), now
        elif time.monotonic() - since > PATIENCE * max(longest, 0.1):
            do(int(left[0]))  # the same bits, should the other be at it still
    return features, content


def _sizes(images: int, like: Tensor) -> tuple[int, int]:
    """Bytes of a file of features: of its head, which is whole pages, and of all of it."""
    head = -(-_chunks(images) // mmap.PAGESIZE) * mmap.PAGESIZE
    return head, head + images * like[0].nbytes


def _chunks(images: int) -> int:
    return -(-images // CHUNK)


def _mapped(file: int, images: int, like: Tensor) -> tuple[mmap.mmap, np.ndarray, Tensor]:
    """A file of features: its content, and in it what became of each chunk, and the features."""
    head, size = _sizes(images, like)
    content = mmap.mmap(file, size)
    states = np.frombuffer(content, np.uint8, _chunks(images))
    flat = torch.frombuffer(content, dtype=like.dtype, count=images * like[0].numel(), offset=head)
    return content, states, _shaped(flat, images, like)


def _shaped(flat: Float[Tensor, " numbers"], images: int, like: Tensor) -> Float[Tensor, "images ..."]:
    """The numbers as features of so many images, in the memory format that these have."""
    if memory_format(like) is torch.contiguous_format:
        return flat.view(images, *like.shape[1:])
    _, channels, height, width = like.shape
    return flat.view(images, height, width, channels).permute(0, 3, 1, 2)


def _take(file: int, states: np.ndarray) -> int | None:
    """The next chunk that nobody has taken, which is now ours."""
    with _locked(file):
        free = np.flatnonzero(states == FREE)
        if len(free):
            states[free[0]] = TAKEN
    return int(free[0]) if len(free) else None


@contextmanager
def _locked(file: int) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
