"""Large runs: two processes on the CPU give what the reference gives, and their deaths are told."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from layerwise import large
from layerwise.data.dataset import DataSet, save
from layerwise.errors import Diverged, LayersError, StudyError
from layerwise.feed import feed
from layerwise.layers import layers
from layerwise.nets import NETS, build
from layerwise.result import record, tensors
from layerwise.run import PRECISIONS, Recipe, Run, key, spec
from layerwise.start import State
from layerwise.store import Store
from layerwise.tasks import Parts, Task
from layerwise.train import Trained, train
from layerwise.treatment import Treatment

pytest.importorskip("lightning_fabric")
import large_program
from layerwise.large.together import Share

SCRIPT = Path(__file__).with_name("large_program.py")
RECIPE = Recipe(12, 7, 0.05, weight_decay=0.02, evaluate_every=5, precision="float64")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our nets, here and in the program."""
    monkeypatch.setattr(large, "PROGRAM", (sys.executable, str(SCRIPT)))
    for name, net in large_program.OURS.items():
        monkeypatch.setitem(NETS, name, net)


@pytest.fixture
def place(blobs: DataSet, tmp_path: Path) -> Path:
    save(blobs, tmp_path / "blobs")
    return tmp_path / "blobs"


def run_of(data: DataSet, letters: str, *recipes: Recipe, net: str = "coupled", source: Run | None = None) -> Run:
    task = Task(data.digest, (1, 3, 4), 6, "onehot", Parts("random", 9, validation=5))
    treatment = Treatment.parse(letters)
    return Run(net, task, treatment, source, recipes or (RECIPE,) * len(treatment.stages))


def is_alive(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_close(found: Trained, reference: Trained, tolerance: float = 1e-10) -> None:
    """The same to rounding: weights, curve, steps; what they began with to the bit."""
    assert same(found.initial, reference.initial)
    assert found.weights.keys() == reference.weights.keys()
    for name, tensor in reference.weights.items():
        torch.testing.assert_close(
            found.weights[name], tensor, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert found.steps == reference.steps
    told = [
        [
            (name, one.picked, one.is_frozen, one.units.layer, one.units.count, one.units.counters)
            for stage in side.chosen
            for name, one in stage.items()
        ]
        for side in (found, reference)
    ]
    assert told[0] == told[1]
    points = [[(p.step, p.split, p.quantity) for p in one.curve] for one in (found, reference)]
    assert points[0] == points[1]
    assert [p.value for p in found.curve] == pytest.approx([p.value for p in reference.curve], abs=tolerance)


def test_two_processes_give_what_the_reference_gives(blobs: DataSet, place: Path) -> None:
    """With dropout and batch norm of every kind, frozen layers among trained ones, and batches of 7: 3 and 4."""
    first = run_of(blobs, "R5")
    adam = replace(RECIPE, optimiser="adam", rate=0.01, drops=(0.5,))
    run = run_of(blobs, "FTFRR > FFTTX", RECIPE, adam, source=first)
    food = feed(run.task, blobs, run.net, "float64")
    source = train(first, food)
    reference = train(run, food, source)
    found = large.train_large(run, place, source)
    assert_close(found, reference)
    assert {point.split for point in found.curve} == {"train", "validation", "test"}
    parts = layers(build(run.net, food.shape, 3, 0), food.parts["train"].images(torch.arange(1)).float())
    assert len(parts) == 5
    for name in parts[0].parameters + parts[0].buffers:
        assert torch.equal(found.weights[name], source.weights[name])  # frozen in both stages
    for name in parts[4].parameters:
        assert torch.equal(found.weights[name], reference.weights[name])  # never trained
    for layer in parts[1:4]:
        assert not torch.equal(found.weights[layer.parameters[0]], found.initial[layer.parameters[0]])


SAME = ("units", "parameters", "parameters_trained", "steps", "train_flops")  # in every record of a run


def test_layers_frozen_in_part_are_those_of_the_reference(blobs: DataSet, place: Path, tmp_path: Path) -> None:
    """Frozen channels by the statistics that came with them, the others by those of the whole batch."""
    first = run_of(blobs, "R5")
    run = run_of(blobs, "P(.5,saliency,F)P(.5,taylor,F)TP(.4,information,F)R", source=first)
    food = feed(run.task, blobs, run.net, "float64")
    source = train(first, food)
    reference = train(run, food, source)
    store = Store(tmp_path / "store")
    found = large.train_large(run, place, source, store=store.folder)
    assert_close(found, reference)
    assert [len(one.picked) for one in found.chosen[0].values()] == [2, 3, 3]
    told, expected = store.get(key(run)).result, record(run, reference, food.shape, 0.0, "serial", 1, "cpu")
    assert [told[name] for name in SAME] == [expected[name] for name in SAME]
    for one in found.chosen[0].values():
        for name, rows in one.frozen.items():
            assert torch.equal(found.weights[name][rows], source.weights[name][rows])


def test_the_program_by_itself_trains_a_published_net_and_stops_when_it_knows_enough(
    blobs: DataSet, place: Path, tmp_path: Path
) -> None:
    """As the documentation calls it, with bits as targets and frozen layers that stay the same to the byte."""
    task = Task(blobs.digest, (0, 2), 6, "bits:20", Parts("random", 9))
    recipe = replace(RECIPE, rate=0.1, weight_decay=0.0)
    first = Run("lenet5", task, Treatment.parse("R6"), None, (recipe,))
    stops = replace(recipe, steps=60, evaluate_every=2, stop_at=0.95)
    run = Run("lenet5", task, Treatment.parse("F2T2R2"), first, (stops,))
    food = feed(run.task, blobs, run.net, "float64")
    source = train(first, food)
    reference = train(run, food, source)
    assert reference.steps[0] < 60
    large.files.write_order(tmp_path, large.files.Order(run, place, source, 2, "cpu"))
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "layerwise.large", str(tmp_path / "order.json"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    found, provenance = large.files.read_result(out)
    assert_close(found, reference)
    for name, tensor in source.weights.items():
        assert torch.equal(found.weights[name], tensor) == name.startswith(("C1", "S2"))
    assert (provenance["devices"], provenance["device"], provenance["threads"]) == (2, "cpu", 1)


def test_a_large_run_is_stored_as_others_are_and_not_trained_again(
    blobs: DataSet, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source comes from the store too; a damaged run is set aside and trained anew, to the same bits."""
    first = run_of(blobs, "R5")
    run = run_of(blobs, "F2R3", source=first)
    store, food = Store(tmp_path / "store"), feed(run.task, blobs, run.net, "float64")
    source = train(first, food)
    store.put(first, record(first, source, food.shape, 1.0, "serial", 1, "cpu"), tensors(source))
    found = large.train_large(run, place, store=store.folder)
    assert_close(found, train(run, food, source))
    assert store.verify(key(run)) is None
    kept = store.get(key(run))
    assert kept.run == run
    assert kept.result["curve"] == [[p.step, p.split, p.quantity, p.value] for p in found.curve]
    made = kept.result["provenance"]
    assert made.keys() > store.get(key(first)).result["provenance"].keys()
    assert [made[name] for name in ("executor", "fleet", "device", "devices", "threads")] == ["large", 1, "cpu", 2, 1]
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(large, "PROGRAM", ("false",))
        again = large.train_large(run, place, store=store.folder, say=said.append)
    assert_close(again, found, 0)
    assert said == []
    (store.path(key(run)) / "weights.safetensors").write_bytes(b"")
    anew = large.train_large(run, place, store=store.folder, say=said.append)
    assert same(anew.weights, found.weights)
    assert said[0].startswith(f"run {key(run)}: weights.safetensors is not what was written; set aside as ")
    assert store.verify(key(run)) is None


@pytest.mark.skipif("bfloat16" not in PRECISIONS, reason="no recipe asks for bfloat16 yet")
def test_mixed_precision_rounds_the_arithmetic_and_not_the_weights(blobs: DataSet, place: Path) -> None:
    run = run_of(blobs, "R5", replace(RECIPE, precision="bfloat16"))
    exact = run_of(blobs, "R5", replace(RECIPE, precision="float32"))
    reference = train(exact, feed(exact.task, blobs, exact.net, "float32"))
    found = large.train_large(run, place)
    assert found.weights["0.weight"].dtype == torch.float32
    assert same(found.initial, reference.initial)
    difference = torch.cat(
        [(found.weights[n] - reference.weights[n]).flatten().abs() for n in ("0.weight", "4.weight")]
    )
    assert 1e-5 < difference.max() < 0.1


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("victim", [pytest.param("first", marks=pytest.mark.soak), "second"])
def test_a_killed_process_is_told_and_takes_the_other_with_it(victim: str, blobs: DataSet, place: Path) -> None:
    run = run_of(blobs, "R", replace(RECIPE, steps=2000, evaluate_every=0), net="slow")
    killed: list[psutil.Process] = []

    def kill(line: str) -> None:
        assert re.fullmatch(r"step \d+ of 2000, loss [\d.e+-]+", line)
        if not killed:
            (first,) = (p for p in psutil.Process().children() if is_alive(p) and str(SCRIPT) in p.cmdline())
            (second,) = first.children()
            killed.extend([first, second])
            (first if victim == "first" else second).send_signal(signal.SIGKILL)

    message = (
        f"run {key(run)} (R, seed 0): one of its 2 processes was killed by SIGKILL; "
        "if it was out of memory, a smaller batch needs less"
    )
    with pytest.raises(large.ProcessLost, match=f"^{re.escape(message)}$"):
        large.train_large(run, place, say=kill)
    assert_gone(killed)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_the_processes_end_with_their_parent(blobs: DataSet, place: Path, tmp_path: Path) -> None:
    """Killed outright, it has no time to end them."""
    run = run_of(blobs, "R", replace(RECIPE, steps=2000, evaluate_every=0), net="slow")
    (tmp_path / "spec.json").write_text(json.dumps(spec(run)))
    script = f"""
import json, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import large_program
from pathlib import Path
from layerwise import large
from layerwise.run import from_spec
large.PROGRAM = (sys.executable, {str(SCRIPT)!r})
run = from_spec(json.loads(Path({str(tmp_path / "spec.json")!r}).read_text()))
large.train_large(run, Path({str(place)!r}), say=lambda line: print(line, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("step ")
        processes = psutil.Process(parent.pid).children(recursive=True)
        assert len(processes) == 2
        parent.kill()
    assert_gone(processes)


def test_what_the_reference_raises_comes_back_as_it_is(blobs: DataSet, place: Path) -> None:
    run = run_of(blobs, "R5", replace(RECIPE, rate=1e30, precision="float32"))
    with pytest.raises(Diverged) as expected:
        train(run, feed(run.task, blobs, run.net, "float32"))
    with pytest.raises(Diverged, match=f"^{re.escape(str(expected.value))}$"):
        large.train_large(run, place)


def test_a_net_that_keeps_something_of_its_share_alone_is_refused(blobs: DataSet, place: Path) -> None:
    run = run_of(blobs, "R", net="keeping")
    message = "'seen' is updated from a share of the batch alone; train this net on one device"
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        large.train_large(run, place)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 8}, "8 devices cannot share batches of 7; ask for 1 to 7 devices"),
        ({"devices": 0}, "0 devices cannot share batches of 7; ask for 1 to 7 devices"),
        ({"accelerator": "cud"}, "unknown accelerator 'cud'; did you mean 'cuda'? (known: cpu, cuda)"),
    ],
)
def test_devices_that_cannot_be_had_are_refused_at_once(
    options: dict[str, object], message: str, blobs: DataSet, place: Path
) -> None:
    with pytest.raises(StudyError, match=f"^{re.escape(message)}$"):
        large.train_large(run_of(blobs, "R5"), place, **options)


def test_without_the_extra_the_cure_is_named(blobs: DataSet, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "find_spec", lambda name: None)
    message = "a large run needs lightning-fabric, which is not installed; pip install 'layerwise[large]'"
    with pytest.raises(StudyError, match=f"^{re.escape(message)}$"):
        large.train_large(run_of(blobs, "R5"), place)


# ---------------------------------------------------------------- the parts


@pytest.mark.parametrize(("batch", "processes"), [(7, 2), (8, 2), (3, 3), (10, 4), (5, 1)])
def test_shares_are_the_batch_in_order_and_nearly_equal(batch: int, processes: int) -> None:
    shares = [Share(rank, processes, batch) for rank in range(processes)]
    whole = torch.arange(batch)
    assert torch.equal(torch.cat([share.of(whole) for share in shares]), whole)
    assert {share.size for share in shares} <= {batch // processes, -(-batch // processes)}
    patches = torch.arange(batch * 3)  # three rows of each example
    assert torch.equal(torch.cat([share.of(patches) for share in shares]), patches)
