"""The folder of an adapted net, and how it is written: every reader finds the old one or the new one, never half.

    FOLDER/layerwise.json          what it is: net, layers, preprocessing, tasks, and the digest of each file
    FOLDER/model.safetensors       the first task's net, whole
    FOLDER/tasks/NAME.safetensors  of a later task: its own layers; the trunk that it shares is in model.safetensors
    FOLDER/README.md               the model card
    FOLDER/model.onnx              where asked for; of a later task tasks/NAME.onnx

A task is added by writing its files beside the others and then replacing layerwise.json: files that it does not name
are not part of the net. Nothing in the folder is ever executed.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from layerwise import writing
from layerwise.errors import StoreError, StudyError, unknown

FORMAT = 1  # of the folder
DESCRIPTION, CARD, MODEL, TASKS = "layerwise.json", "README.md", "model.safetensors", "tasks"
MOST_SIDE = 4096  # of images, in pixels
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of a task: it becomes the name of a file


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what the net takes: decoded, made grey or square, then `(pixel / 255 - mean) / std`."""

    channels: int
    height: int
    width: int
    resize: int | None  # the side of the centre square that images become; null: they come in the right size
    grey: bool
    mean: tuple[float, ...]  # per channel, of pixels from 0 to 1
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the net takes."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class Learnt:
    """What one task has taught: classes, how it was trained, and how good it is."""

    name: str
    trunk: int  # leading layers that are the first task's, and are stored with it; 0 of the first task itself
    classes: tuple[str, ...]
    treatment: str  # as short as it can be spelt
    letters: str  # a letter per layer
    granularity: str  # over what the treatment was written: layers, blocks, stages
    recipes: tuple[dict[str, Any], ...]  # one per stage
    tried: tuple[dict[str, Any], ...]  # the rates that were compared on validation images
    seed: int
    run: str  # the key of the run that trained it
    data: dict[str, Any]  # name, digest, and how many images trained, chose the rate, and tested
    test: dict[str, Any] | None  # see `layerwise.adapting.measured`; null where no images were kept back
    notes: tuple[str, ...]
    made: str  # when
    command: str

    @property
    def is_first(self) -> bool:
        """Is its net stored whole?"""
        return self.trunk == 0

    @property
    def file(self) -> str:
        """Where its own tensors are, in the folder."""
        return MODEL if self.is_first else f"{TASKS}/{self.name}.safetensors"

    @property
    def onnx(self) -> str:
        """Where its exported net is, if there is one."""
        return self.file.replace(".safetensors", ".onnx")


@dataclass(frozen=True)
class Described:
    """What layerwise.json says."""

    net: str
    weights: str | None  # SHA-256 of the file that the net began with; null where there was none
    layers: tuple[str, ...]
    preprocessing: Preprocessing
    tasks: tuple[Learnt, ...]
    files: dict[str, str]  # SHA-256 of each, by its path in the folder
    versions: dict[str, str] = field(default_factory=dict)

    def task(self, name: str | None) -> Learnt:
        """The task of this name, by default the first; raises StudyError, naming all, where there is none."""
        found = {task.name: task for task in self.tasks}
        if name is not None and name not in found:
            raise StudyError(unknown("task", name, found))
        return self.tasks[0] if name is None else found[name]

    def adding(self, task: Learnt, files: Mapping[str, str]) -> "Described":
        """The same with one task more."""
        return replace(self, tasks=(*self.tasks, task), files={**self.files, **files})

    @property
    def as_json(self) -> dict[str, Any]:
        """What is shared by the tasks, what the first one is at the top too, and all tasks."""
        shared = {name: value for name, value in asdict(self).items() if name != "tasks"}
        first = asdict(self.tasks[0])
        told = {name: first[name] for name in ("treatment", "letters", "granularity", "recipes", "classes", "data")}
        test = first["test"] or {}
        told |= {"test_accuracy": test.get("accuracy"), "test_interval": test.get("interval")}
        return {"format": FORMAT, **told, **shared, "tasks": [{**asdict(t), "file": t.file} for t in self.tasks]}


def is_adapted(folder: Path) -> bool:
    """Does the folder look like an adapted net?"""
    return (folder / DESCRIPTION).is_file() and (folder / MODEL).is_file()


def read(folder: Path) -> Described:
    """What the folder says of itself; raises StoreError where it is no adapted net, or of a newer layerwise."""
    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        told = f"{folder} is no adapted net ({DESCRIPTION}: {why})"
        raise StoreError(f"{told}; name a folder that `layerwise adapt` has made") from error
    try:
        if values["format"] > FORMAT:
            raise StoreError(
                f"{folder} was written in format {values['format']} by a newer layerwise, and this one reads {FORMAT}; "
                "upgrade layerwise"
            )
        if amiss := _amiss(values):
            what = f"{DESCRIPTION} has {amiss} that it cannot have been given"
            raise StoreError(f"{folder} is no adapted net ({what}); copy the folder again, or adapt the net again")
        return Described(
            **{name: values[name] for name in ("net", "weights", "files", "versions")},
            layers=tuple(values["layers"]),
            preprocessing=_filled(Preprocessing, values["preprocessing"]),
            tasks=tuple(_filled(Learnt, task) for task in values["tasks"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{DESCRIPTION} lacks or misuses {error}"
        raise StoreError(f"{folder} is no adapted net ({what}); adapt the net again") from error


def _amiss(values: Mapping[str, Any]) -> str | None:
    """What in a description nothing here has written; nothing where all is well."""
    files = values["files"].items()
    if not isinstance(values["net"], str):
        return "a net"
    if not all(isinstance(text, str) for text in (*values["layers"], *(text for file in files for text in file))):
        return "layers or files"
    if not _is_preprocessing(values["preprocessing"]):
        return "a preprocessing"
    tasks = values["tasks"]
    if not tasks or not all(map(_is_task, tasks)) or tasks[0]["trunk"] != 0:
        return "tasks"
    return None


def _is_preprocessing(made: Mapping[str, Any]) -> bool:
    channels, height, width, resize = (made[name] for name in ("channels", "height", "width", "resize"))
    mean, std, sides = made["mean"], made["std"], range(1, MOST_SIDE + 1)
    return (
        all(isinstance(number, int) for number in (channels, height, width))
        and channels in (1, 3)
        and height == width
        and height in sides
        and (resize is None or resize in sides)
        and len(mean) == len(std) in {1, channels}
        and all(isinstance(number, float | int) and isfinite(number) for number in (*mean, *std))
        and min(std) > 0
    )


def _is_task(task: Mapping[str, Any]) -> bool:
    classes, trunk = task["classes"], task["trunk"]
    return (
        NAME.fullmatch(task["name"]) is not None
        and isinstance(classes, list)
        and all(isinstance(name, str) for name in classes)
        and len(set(classes)) == len(classes) >= 2
        and isinstance(trunk, int)
        and trunk >= 0
    )


def _filled(kind: Any, values: Mapping[str, Any]) -> Any:
    """The value of this kind with these fields; lists become tuples, as the fields are."""
    made = {one.name: values[one.name] for one in fields(kind)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in made.items()})


def content(folder: Path, described: Described, file: str) -> bytes:
    """The bytes of a file of the net; raises StoreError where they are not those that were written."""
    try:
        found = (folder / file).read_bytes()
    except OSError as error:
        raise StoreError(f"{folder / file} cannot be read ({error.strerror}); copy the folder again") from error
    if sha256(found) != described.files.get(file):
        raise StoreError(f"{folder / file} is damaged (it is not what {DESCRIPTION} says); copy the folder again")
    return found


def sha256(given: bytes) -> str:
    """64 hex digits, as `sha256sum` prints them."""
    return hashlib.sha256(given).hexdigest()


def check_free(folder: Path) -> None:
    """Raise StoreError, before hours of training, where a new net could not or must not be written to this folder."""
    if folder.is_dir() and not is_adapted(folder) and any(folder.iterdir()):
        raise StoreError(f"--out {folder} is a folder with other things in it; pass another")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"--out {folder} is a file; pass a folder")
    if is_adapted(folder) and len(tasks := read(folder).tasks) > 1:
        names = ", ".join(task.name for task in tasks)
        raise StoreError(f"--out {folder} holds the tasks {names}, which would be lost; pass another --out, or --onto")
    with _clear_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.rmdir(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))


def write(folder: Path, described: Described, files: Mapping[str, bytes], card: str) -> None:
    """A new folder with these files, in the place of an adapted net of one task that may be there."""
    check_free(folder)
    with _clear_errors(folder):
        aside = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            new = aside / "new"
            new.mkdir()
            for name, given in _all(described, files, card).items():
                writing.write_through(new / name, given)
            _exchange(new, folder, aside / "old")
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def add(
    folder: Path, task: Learnt, files: Mapping[str, bytes], trunk: str, card: Callable[[Described], str]
) -> Described:
    """Add a task to an adapted net, each file whole; what the net says of itself comes last but for its card.

    `trunk` is the digest of the first task's net that it was trained over. Raises StoreError where that is another by
    now, or the task's name is taken.
    """
    with _clear_errors(folder), _held(folder):
        before = read(folder)
        if before.files.get(MODEL) != trunk:
            raise StoreError(f"{folder} has been written anew meanwhile; the same command adds the task to what it is")
        if task.name in {other.name for other in before.tasks}:
            raise StoreError(f"{folder} has a task '{task.name}' by now; pass another --task")
        after = before.adding(task, {name: sha256(given) for name, given in files.items()})
        put(folder, after, files, card(after))
        return after


def put(folder: Path, described: Described, files: Mapping[str, bytes], card: str) -> None:
    """Put files in their places in a folder that is there, one after the other, each of them whole."""
    for name, given in _all(described, files, card).items():
        with _clear_errors(folder):
            (folder / name).parent.mkdir(exist_ok=True)
        write_whole(folder / name, given)


def write_whole(path: Path, given: bytes) -> None:
    """Write a file aside and put it into its place; raises StoreError where it cannot be written."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with _clear_errors(path):
        writing.write_whole(path, given, aside)


def attach(folder: Path, files: Mapping[str, bytes], card: Callable[[Described], str]) -> Described:
    """Add files, such as an exported net, to what an adapted net consists of."""
    with _clear_errors(folder), _held(folder):
        before = read(folder)
        after = replace(before, files={**before.files, **{name: sha256(given) for name, given in files.items()}})
        put(folder, after, files, card(after))
        return after


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """One writer at a time; the system lets go of the lock when a process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _exchange(new: Path, folder: Path, old: Path) -> None:
    """Put `new` where `folder` may be, and that aside; where that fails all is as it was."""
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:  # an interruption too: what is left aside is removed
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


def _all(described: Described, files: Mapping[str, bytes], card: str) -> dict[str, bytes]:
    told = json.dumps(described.as_json, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    texts = {DESCRIPTION: told, CARD: card}  # names of files need not be text: of such JSON has an escape
    return {**files, **{name: text.encode(errors="backslashreplace") for name, text in texts.items()}}


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        cure = "free some space or pass another --out" if full else "pass another --out"
        raise StoreError(f"{folder} cannot be written ({error.strerror or error}); {cure}") from error
