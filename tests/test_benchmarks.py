"""The benchmark compares like with like: what the plain script trains is what we train."""

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.torch
import torch

from layerwise import train_all
from layerwise.data.dataset import DataSet, make
from layerwise.progress import Quiet
from layerwise.randomness import generator
from layerwise.run import Recipe, Run, Weights, key
from layerwise.store import Store
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment, transfer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = Path(__file__).parents[2] / "shared" / "data"
RECIPE = Recipe(10, batch_size=8, rate=0.02, momentum=0.9, drops=(0.45,), evaluate_every=5)
DEPTHS = {"lenet5": 6, "small8": 8}


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the benchmark, imported as its scripts do it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import prepare

    return prepare


def tints() -> DataSet:
    """Four classes of colour noise, each with a tint of its own."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 20)
    images = draw.integers(0, 128, (80, 3, 32, 32)) + draw.integers(0, 128, (4, 3, 1, 1))[labels]
    return make("tints", images.astype(np.uint8), labels, list("abcd"))


def target(net: str, letters: str, data: DataSet) -> Run:
    """A run on the last two of four classes, from a source on the first two."""
    encoding = "bits:20" if net == "lenet5" else "onehot"
    known, unknown = (Task(data.digest, pair, 10, encoding, Parts("random", 5)) for pair in ((0, 1), (2, 3)))
    treatment = Treatment.parse(letters).resolve(DEPTHS[net])
    source = Run(net, known, transfer(DEPTHS[net], 0), None, (RECIPE,))
    return Run(net, unknown, treatment, source if treatment.needs_source else None, (RECIPE,), draw=1)


@pytest.mark.parametrize(
    ("net", "letters"),
    [("lenet5", "R*"), ("lenet5", "FFR*"), ("lenet5", "F5R"), ("small8", "F3R*"), ("small8", "T5R*")],
)
def test_the_plain_script_trains_what_we_train(
    net: str, letters: str, blobs: DataSet, prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same fresh weights, in the same order, both sides go through the same accuracies and losses."""
    run = target(net, letters, data := blobs if net == "lenet5" else tints())
    ours = trained(run, data, tmp_path)
    prepare.write_plan(tmp_path, [run], data, Store(tmp_path / "store"), SHARED)
    fresh = prepare.plain.NETS[net](run.task.outputs)
    fresh.load_state_dict(prepare.translated(net, initial(run, tmp_path), run, data))
    monkeypatch.setitem(prepare.plain.NETS, net, lambda outputs: fresh)
    assert plainly(run, tmp_path, prepare.plain, monkeypatch) == pytest.approx(ours, rel=1e-4)


def test_the_plain_script_probes_what_we_probe(
    shared: Callable[[str], Path], prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same head, in the same order, on features that the plain script computes once."""
    data = tints()
    content = (shared("pretrained") / "resnet20.safetensors").read_bytes()
    weights = Weights(Store(tmp_path / "store").put_weights(content))
    task = Task(data.digest, (0, 1, 2, 3), 10, parts=Parts("random", 5))
    run = Run("resnet20", task, transfer(20, 19), weights, (RECIPE,))
    ours = trained(run, data, tmp_path)
    prepare.write_plan(tmp_path, [run], data, Store(tmp_path / "store"), SHARED)
    head = torch.nn.Linear(64, 4)
    head.load_state_dict({n: initial(run, tmp_path)[f"linear.{n}"] for n in ("weight", "bias")})
    monkeypatch.setattr(prepare.plain, "head", lambda outputs: head)
    assert plainly(run, tmp_path, prepare.plain, monkeypatch) == pytest.approx(ours, rel=1e-4)


def trained(run: Run, data: DataSet, folder: Path) -> list[float]:
    """Accuracy and loss of each point of our learning curve, one after the other."""
    records = train_all([run], data, store=folder / "store", executor="serial", keep=True, listener=Quiet())
    curve = {(step, split, what): value for step, split, what, value in records[key(run)].result["curve"]}
    points = [(0, "test"), (5, "test"), (10, "test"), (10, "train")]
    assert len(curve) == 2 * len(points)
    return [curve[*point, what] for point in points for what in ("accuracy", "loss")]


def initial(run: Run, folder: Path) -> dict[str, torch.Tensor]:
    """Our weights before the first update."""
    return safetensors.torch.load(Store(folder / "store").tensors(key(run), "initial"))


def plainly(run: Run, folder: Path, plain: ModuleType, patch: pytest.MonkeyPatch) -> list[float]:
    """The same of the plain script, given our order of the training images."""
    order = generator("order", run.seed, run.task.stream, run.draw, 0)
    patch.setattr(torch, "randperm", lambda count: torch.from_numpy(order.permutation(count)))
    _, (found,) = plain.do(folder / "plan.json")
    return [value for point in found["curve"] for value in point]


@pytest.mark.soak
@pytest.mark.parametrize("workload", ["a", "b", "c", "d", "e"])
def test_every_workload_in_small(workload: str, shared: Callable[[str], Path], tmp_path: Path) -> None:
    """Both sides do all runs, learn the same, and are timed; a store of finished runs is measured."""
    words = [workload, "--quick", "--repeats", "1", "--cache", tmp_path / "cache", "--out", tmp_path / "found.json"]
    if workload in "cd":
        words += ["--shared", shared("cifar10").parent]
    subprocess.run([sys.executable, BENCHMARKS / "run.py", *map(str, words)], check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    (compared,) = found["workloads"].values()
    assert compared["runs"] == {"a": 24, "b": 8, "c": 8, "d": 6, "e": 500}[workload]
    if workload == "e":
        return
    assert sum(group["runs"] for group in compared["accuracies"]) == compared["runs"]
    assert compared["operations"]["least"] <= compared["operations"]["plain"]
    for timing in compared["timings"]:
        assert 0 < timing["training"] < timing["process"]
    best = min(t["training"] for t in compared["timings"] if t["side"] != "layerwise")
    (ours,) = (t["training"] for t in compared["timings"] if t["side"] == "layerwise")
    assert compared["ratios"]["training"]["median"] == pytest.approx(best / ours)


def test_memory_is_that_of_all_processes_and_what_they_share_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import study

    program = """if True:
        import os, sys, time
        held = os.urandom(64_000_000)
        if not os.fork():
            own = os.urandom(32_000_000)
            print("ready", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True) as running:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        found = study.memory(running.pid)
        os.killpg(running.pid, signal.SIGKILL)
    assert 96e6 < found < 128e6  # 160e6 were what they share counted twice
    assert study.memory(running.pid) == 0


@pytest.mark.soak
def test_a_whole_study_in_small() -> None:
    """A study is run as a user runs it, from nothing; time, memory and runs are told, a failure by its code."""
    program = [sys.executable, BENCHMARKS / "study.py"]
    small = "gutstein --experiments levels --data digits --resize 32 --seeds 1 --shots 1,2 --steps 4 --source-steps 4"
    ended = subprocess.run([*program, *small.split()], stdout=subprocess.PIPE, check=True)
    found = json.loads(ended.stdout)
    assert found["command"] == f"layerwise study {small}"
    assert found["runs"] == 1 + 2 * 6
    assert 0.1 < found["gigabytes"] < 4
    assert found["seconds"] > 0
    assert subprocess.run([*program, "gutenstein"], check=False, capture_output=True).returncode == 2


def test_the_plain_script_is_without_us() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse((BENCHMARKS / "plain.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported == {"argparse", "itertools", "json", "math", "numpy", "pathlib", "safetensors", "time", "torch"}
