"""`layerwise doctor`: what is usable here, and that nothing that is broken breaks it."""

import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from layerwise.cli import checks
from layerwise.cli.checks import CHECKS, EXTRAS, LIBRARIES, PYTHON, TORCH, Found, check_device, check_extra, check_store
from layerwise.cli.doctor import findings
from layerwise.store import Store

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NO_EXTRAS = {"dev", "docs"}  # of users


def oldest(requirement: str) -> tuple[str, str]:
    """Distribution and oldest version, such as of `ray[client]>=2.60`."""
    found = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", requirement)
    assert found is not None, requirement
    return found[1], found[2]


def test_the_parts_are_those_that_can_be_installed() -> None:
    extras = {name: needs for name, needs in PROJECT["optional-dependencies"].items() if name not in NO_EXTRAS}
    told = {name: {library: least for library, (_, least) in extra.needs.items()} for name, extra in EXTRAS.items()}
    assert told == {name: dict(map(oldest, needs)) for name, needs in extras.items()}
    core = dict(map(oldest, PROJECT["dependencies"]))
    assert core.pop("torch") == TORCH
    assert LIBRARIES.keys() == core.keys()
    assert PROJECT["requires-python"] == f">={'.'.join(map(str, PYTHON))}"


def test_all_is_told_of_this_environment(
    run: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("raise ImportError('not this one')")  # nor is what lies in the folder imported
    found = run("doctor", "--json")
    assert (found.code, found.err) == (0, "")
    told = json.loads(found.out)
    assert [one["name"] for one in told["checks"]] == list(CHECKS)
    assert told["works"] is True
    by_name = {one["name"]: one for one in told["checks"]}
    assert all(by_name[name]["state"] == "usable" for name in ("python", "torch", "libraries"))
    assert all(by_name[name]["state"] in {"usable", "limited", "absent"} for name in EXTRAS), by_name
    assert by_name["store"]["told"] == "layerwise-store is not there yet, and can be made"
    assert [path.name for path in tmp_path.iterdir()] == ["torch.py"]


def test_a_broken_package_ends_no_more_than_its_own_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets.py").write_text("print('noise'); raise SystemError('broken\\nby hand')")
    (tmp_path / "onnxruntime.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    (tmp_path / "onnx.py").write_text("")
    (tmp_path / "ray.py").write_text("import time; time.sleep(100)")
    (tmp_path / "transformers.py").write_text("import sys; sys.exit(0)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(checks.__file__).parents[2]}")
    names = ["hub", "onnx", "cluster", "transformers", "python"]
    found = {one.name: one for one in findings(names, tmp_path, patience=5)}
    assert list(found) == names
    assert [found[name].state for name in names] == [*["broken"] * 4, "usable"]
    assert found["hub"].told == "SystemError: broken"
    assert found["hub"].cure == "pip install --force-reinstall 'layerwise[hub]'"
    assert found["onnx"].told == "its process was killed by SIGSEGV at onnxruntime"
    assert found["cluster"].told == "its process took longer than 5 s at ray"
    assert found["transformers"].told == "SystemExit: 0"


def test_a_broken_core_is_exit_code_1(
    run: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: cannot be opened')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(checks.__file__).parents[2]}")
    few = {name: CHECKS[name] for name in ("python", "torch", "disk")}
    monkeypatch.setattr(sys.modules["layerwise.cli.doctor"], "CHECKS", few)
    found = run("doctor", "--store", str(tmp_path / "st"))
    assert (found.code, found.err) == (1, "")
    head, python, torch, disk, _, last = found.out.splitlines()
    assert head.split() == ["part", "what", "state", "seconds", "why,", "and", "what", "to", "do"]
    assert (python.split()[:3], disk.split()[:2]) == (["core", "python", "usable"], ["machine", "disk"])
    assert torch.split()[:3] == ["core", "torch", "broken"]
    assert torch.endswith("ImportError: libtorch.so: cannot be opened; cure: pip install --force-reinstall torch")
    assert last == "layerwise 0.1.0: layerwise cannot work here: torch"


def test_what_is_not_installed_or_too_old_has_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "timm" else object())
    assert check_extra("vision", print) == Found(
        "absent", "nets of timm and torchvision: timm not installed", "pip install 'layerwise[vision]'"
    )
    monkeypatch.setattr(checks, "find_spec", lambda name: object())
    monkeypatch.setattr(checks, "_version", lambda name: "3.6.1")
    assert check_extra("hub", print) == Found(
        "broken",
        "data sets of the Hugging Face hub: datasets 3.6.1 is older than 4",
        "pip install --upgrade 'layerwise[hub]'",
    )


def test_the_store(tmp_path: Path) -> None:
    Store(tmp_path / "st")
    assert check_store(tmp_path / "st") == Found("usable", f"{tmp_path / 'st'}: 0 runs, version 1")
    (tmp_path / "st" / "layerwise.json").write_text('{"store_version": 99}')
    assert check_store(tmp_path / "st").told.startswith(f"store {tmp_path / 'st'} has version 99")
    (tmp_path / "file").write_text("")
    assert check_store(tmp_path / "file").state == "broken"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert "is a folder with other things in it; pass another --store" in check_store(tmp_path / "mine").told
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_memory_is_that_of_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CGROUP", tmp_path)
    whole = checks.free_memory()
    (tmp_path / "memory.max").write_text("500000000\n")
    (tmp_path / "memory.current").write_text("400000000\n")
    assert checks.free_memory() == 100_000_000 < whole
    found = checks.check_memory()
    assert (found.state, found.cure) == ("limited", "pass --workers 1")
    (tmp_path / "memory.max").write_text("max\n")
    assert checks.free_memory() > 100_000_000


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 10**8))
    assert checks.check_disk(tmp_path / "st" / "deep") == Found(
        "limited",
        "0.5 GB for the store, 0.5 GB for temporary files",
        "free some space, pass another --store, or set TMPDIR",
    )


def test_a_gpu_and_its_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    ones, found = torch.ones, SimpleNamespace(name="GPU of 2020", major=8, minor=0, total_memory=40 * 2**30)
    monkeypatch.setattr(torch, "ones", lambda size, device: ones(size))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: found)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    told = "2 GPUs, the first of them GPU of 2020, 40 GiB; float32, TF32, bfloat16"
    assert check_device() == Found("usable", told)
    found.major = 7
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert check_device() == Found("usable", "GPU of 2020, 40 GiB; float32, bfloat16")


def test_a_gpu_that_this_pytorch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(checks, "DRIVER", tmp_path / "none")
    assert check_device().state == "absent"
    monkeypatch.setattr(checks, "DRIVER", tmp_path)
    assert (check_device().state, check_device().cure) == (
        "limited",
        "install a PyTorch with CUDA, as pytorch.org tells",
    )
