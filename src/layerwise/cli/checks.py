"""What `layerwise doctor` looks at: the core, this machine, and the optional parts, each by itself.

    python -m layerwise.cli.checks STORE NAME...     a line of JSON when a check begins, and one when it is done

The command runs this in a process of its own, so that a package that crashes or hangs while it is imported ends no more
than its own check. Nothing here imports more than the check at hand needs.
"""

import fcntl
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Begins = Callable[[str], None]  # is told what is about to be imported
USABLE, LIMITED, ABSENT, BROKEN = "usable", "limited", "absent", "broken"
PYTHON, TORCH = (3, 11), "2.6"  # the oldest that will do; tests hold these and the next two to pyproject.toml
LIBRARIES = {  # of the core, beside torch: by what they are imported as
    "altair": "altair", "jaxtyping": "jaxtyping", "jinja2": "jinja2", "markupsafe": "markupsafe",
    "matplotlib": "matplotlib", "numpy": "numpy", "openTSNE": "openTSNE", "pandas": "pandas", "pillow": "PIL",
    "psutil": "psutil", "pyarrow": "pyarrow", "rich": "rich", "safetensors": "safetensors", "scikit-learn": "sklearn",
    "scipy": "scipy", "typer": "typer", "vl-convert-python": "vl_convert",
}  # fmt: skip
ROOM = 10**9  # bytes of disk below which a study may not fit
CGROUP, DRIVER = Path("/sys/fs/cgroup"), Path("/proc/driver/nvidia")


@dataclass(frozen=True)
class Found:
    """What a check has found, and what to do about it."""

    state: str  # usable, limited (works, but not all of it), absent, broken
    told: str
    cure: str = ""


@dataclass(frozen=True)
class Extra:
    """An optional part: what it is for, and its distributions with what they are imported as and their oldest."""

    purpose: str
    needs: Mapping[str, tuple[str, str]]


EXTRAS = {
    "augment": Extra("rotate, scale, shear, hue and blur of --augment", {"kornia": ("kornia", "0.8")}),
    "vision": Extra(
        "nets of timm and torchvision", {"timm": ("timm", "1.0.20"), "torchvision": ("torchvision", "0.21")}
    ),
    "transformers": Extra(
        "nets of transformers", {"transformers": ("transformers", "5"), "huggingface_hub": ("huggingface_hub", "1")}
    ),
    "hub": Extra("data sets of the Hugging Face hub", {"datasets": ("datasets", "4")}),
    "onnx": Extra(
        "`layerwise export`",
        {"onnx": ("onnx", "1.18"), "onnxruntime": ("onnxruntime", "1.22"), "onnxscript": ("onnxscript", "0.3")},
    ),
    "large": Extra("one run on several devices", {"lightning-fabric": ("lightning_fabric", "2.5")}),
    "cluster": Extra("many machines: --executor cluster", {"ray": ("ray", "2.60")}),
    "tensorboard": Extra("--tensorboard", {"tensorboard": ("tensorboard", "2.18")}),
}  # fmt: skip


def check_python() -> Found:
    """This Python."""
    told = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.version_info < PYTHON:
        return Found(BROKEN, told, f"use Python {'.'.join(map(str, PYTHON))} or later")
    return Found(USABLE, told)


def check_torch() -> Found:
    """PyTorch, by a convolution and its gradient: it may be there and not calculate."""
    import torch

    weights = torch.ones(1, 1, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), weights).sum(), weights)
    if float(gradient.sum()) != 9:
        return Found(BROKEN, f"{torch.__version__} gives a wrong gradient", "pip install --force-reinstall torch")
    if numbers(torch.__version__) < numbers(TORCH):
        return Found(BROKEN, f"{torch.__version__} is too old", f"pip install --upgrade 'torch>={TORCH}'")
    return Found(USABLE, f"{torch.__version__} calculates")


def check_libraries(begins: Begins) -> Found:
    """The core's other libraries, imported one after the other."""
    wrong = {}
    for distribution, module in LIBRARIES.items():
        begins(module)
        try:
            import_module(module)
        except Exception as error:
            wrong[distribution] = f"{module}: {first_line(error)}"
    if wrong:
        return Found(BROKEN, "; ".join(wrong.values()), f"pip install --force-reinstall {' '.join(wrong)}")
    return Found(USABLE, f"all {len(LIBRARIES)} can be imported")


def check_device() -> Found:
    """A GPU, its memory and its precisions."""
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda is None and DRIVER.exists():
            told = "there is an NVIDIA GPU, and this PyTorch is built without CUDA; all is done on the CPU"
            return Found(LIMITED, told, "install a PyTorch with CUDA, as pytorch.org tells")
        return Found(ABSENT, "no GPU that PyTorch can use; all is done on the CPU")
    torch.ones(8, device="cuda").sum().item()  # raises where driver and PyTorch do not fit
    found = torch.cuda.get_device_properties(0)
    more = {"TF32": (found.major, found.minor) >= (8, 0), "bfloat16": torch.cuda.is_bf16_supported(False)}
    precisions = ", ".join(["float32", *(name for name, can in more.items() if can)])
    count = torch.cuda.device_count()
    many = f"{count} GPUs, the first of them " if count > 1 else ""
    return Found(USABLE, f"{many}{found.name}, {found.total_memory / 2**30:.0f} GiB; {precisions}")


def check_bfloat16() -> Found:
    """Whether this processor calculates in bfloat16."""
    from layerwise.execute.processor import has_bfloat16

    if has_bfloat16("cpu"):
        return Found(USABLE, "--precision bfloat16 on this processor")
    return Found(ABSENT, "this processor would only imitate it, slowly; --precision float32 is what it does well")


def check_threads() -> Found:
    """The cores that this process may use."""
    here, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    of = f" of {there}" if here < there else ""
    return Found(USABLE, f"{here}{of} core{'s' * (here != 1)}: a process for each, of one thread")


def check_memory() -> Found:
    """Free memory, that of the control group included, against what the default number of workers takes."""
    from layerwise.execute.forecast import PROCESS_MEGABYTES

    free, each = free_memory(), PROCESS_MEGABYTES * 2**20
    cores = len(os.sched_getaffinity(0))
    told = f"{free / 1e9:.1f} GB free"
    if free < (cores + 1) * each:
        workers = max(1, free // each - 1)
        return Found(
            LIMITED, f"{told}; {cores} workers take {(cores + 1) * each / 1e9:.1f}", f"pass --workers {workers}"
        )
    return Found(USABLE, told)


def free_memory() -> int:
    """Bytes that this process may still take."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        most, taken = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if most == "max" else min(free, int(most) - int(taken))
    except (OSError, ValueError):
        return free


def check_disk(store: Path) -> Found:
    """Room where the store is or would be, and for temporary files."""
    places = {"the store": there(store), "temporary files": Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(place).free for name, place in places.items()}
    told = ", ".join(f"{room / 1e9:.1f} GB for {name}" for name, room in free.items())
    if min(free.values()) < ROOM:
        return Found(LIMITED, told, "free some space, pass another --store, or set TMPDIR")
    return Found(USABLE, told)


def check_store(store: Path) -> Found:
    """Whether the store can be read, written and locked; one that is not there is not made."""
    from layerwise.errors import StoreError
    from layerwise.store import STORE_VERSION, Store

    try:
        count = sum(1 for _ in Store(store).keys()) if store.exists() else None  # noqa: SIM118 (not a dict)
        place = store / "writing" if count is not None else there(store)
        with tempfile.TemporaryFile(dir=place) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(b"layerwise")
            file.flush()
    except (StoreError, OSError) as error:
        cure = "" if "pass another" in str(error) else "pass another --store"
        return Found(BROKEN, first_line(error) if isinstance(error, OSError) else str(error), cure)
    if count is None:
        return Found(USABLE, f"{store} is not there yet, and can be made")
    return Found(USABLE, f"{store}: {count:,} run{'s' * (count != 1)}, version {STORE_VERSION}")


def check_extra(name: str, begins: Begins) -> Found:
    """An optional part: installed, new enough, and imported."""
    extra, cure = EXTRAS[name], f"pip install 'layerwise[{name}]'"
    lacking = [found for found, (module, _) in extra.needs.items() if find_spec(module) is None]
    if lacking:
        return Found(ABSENT, f"{extra.purpose}: {', '.join(lacking)} not installed", cure)
    versions = {found: _version(found) for found in extra.needs}
    old = [f for f, (_, oldest) in extra.needs.items() if versions[f] and numbers(versions[f]) < numbers(oldest)]
    if old:
        told = ", ".join(f"{one} {versions[one]} is older than {extra.needs[one][1]}" for one in old)
        return Found(BROKEN, f"{extra.purpose}: {told}", cure.replace("install", "install --upgrade"))
    for module, _ in extra.needs.values():
        begins(module)
        _import(module)
    told = ", ".join(f"{one} {version}" for one, version in versions.items())
    if name == "vision" and not _has_operators():
        limits = "torchvision is without its compiled operators: nets work, its box operators do not"
        return Found(
            LIMITED,
            f"{extra.purpose}: {told}; {limits}",
            "none is needed here; else install torch and torchvision that were built together",
        )
    return Found(USABLE, f"{extra.purpose}: {told}")


def _import(module: str) -> None:
    """As layerwise itself imports it."""
    if module in {"timm", "torchvision"}:
        from layerwise.nets.from_torchvision import imported

        imported(module)
    else:
        import_module("torch.utils.tensorboard" if module == "tensorboard" else module)


def _has_operators() -> bool:
    """Is torchvision whole?"""
    has: Any = import_module("torchvision.extension")._has_ops
    return bool(has())


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare.

    >>> numbers("2.13.0+cpu") > numbers("2.6")
    True
    """
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def there(path: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.is_dir())


def first_line(error: BaseException) -> str:
    """What was raised, on one line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


@dataclass(frozen=True)
class Check:
    """A check: of which part, how it is made, and what to do where it raises or crashes."""

    part: str  # core, machine, extra
    look: Callable[[Path, Begins], Found]
    cure: str = ""


def _check_of(extra: str) -> Check:
    cure = f"pip install --force-reinstall 'layerwise[{extra}]'"
    return Check("extra", lambda store, begins: check_extra(extra, begins), cure)


CHECKS = {
    "python": Check("core", lambda store, begins: check_python()),
    "torch": Check("core", lambda store, begins: check_torch(), "pip install --force-reinstall torch"),
    "libraries": Check(
        "core", lambda store, begins: check_libraries(begins), "pip install --force-reinstall layerwise"
    ),
    "device": Check("machine", lambda store, begins: check_device(), "pass --device cpu, or update the GPU's driver"),
    "bfloat16": Check("machine", lambda store, begins: check_bfloat16()),
    "threads": Check("machine", lambda store, begins: check_threads()),
    "memory": Check("machine", lambda store, begins: check_memory()),
    "disk": Check("machine", lambda store, begins: check_disk(store)),
    "store": Check("machine", lambda store, begins: check_store(store), "pass another --store"),
    **{name: _check_of(name) for name in EXTRAS},
}


def made(name: str, store: Path, begins: Begins) -> Found:
    """The check, made; what it raises is what it found."""
    try:
        return CHECKS[name].look(store, begins)
    except (Exception, SystemExit) as error:
        return Found(BROKEN, first_line(error), CHECKS[name].cure)


def main(store: Path, names: list[str]) -> None:
    """Make these checks; what packages print goes nowhere, so that the lines are ours."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**line: Any) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    for name in names:
        tell(begins=name)
        begun = time.perf_counter()
        found = made(name, store, lambda module: tell(begins=module))
        tell(name=name, seconds=round(time.perf_counter() - begun, 2), **asdict(found))
    os._exit(0)  # what was imported may have left threads that never end


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
