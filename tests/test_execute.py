"""Executors: the same results from every one of them, the same bits each time, and nothing lost when something dies."""

import multiprocessing as mp
import os
import random
import shutil
import signal
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from layerwise.data.dataset import DataSet, save
from layerwise.errors import StoreError
from layerwise.execute import forecast as forecasting
from layerwise.execute import local, serial, work
from layerwise.execute.forecast import OVERHEAD_SECONDS, Size, forecast
from layerwise.execute.plan import Unit, grouped, plan
from layerwise.execute.queue import Queue
from layerwise.execute.speeds import Speed
from layerwise.execute.work import Outcome, Worker
from layerwise.job import Job, Means
from layerwise.nets import NETS, Architecture
from layerwise.progress import Quiet
from layerwise.run import Run, Weights, key
from layerwise.store import Store
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment, transfer

from making import RECIPE, assert_close, contents, done_by, grid, planned, setting

EXACT = replace(RECIPE, precision="float64")


def nothing(_name: str, _weights: bool) -> bool:
    return False


def test_a_plan_has_sources_first_and_each_run_once(blobs: DataSet) -> None:
    runs = grid(blobs)
    made = plan([*reversed(runs), *runs], nothing)
    assert sorted(map(key, made.runs)) == sorted(map(key, runs))
    places = {key(run): place for place, unit in enumerate(made.units) for run in unit.todo}
    assert all(places[key(run.source)] < places[key(run)] for run in runs if isinstance(run.source, Run))
    assert made.kept == {key(run) for run in runs if run.task.classes[0] == 0}
    assert (made.stored, len(made.missing)) == (0, 8)


def test_a_source_comes_along_with_its_target(blobs: DataSet) -> None:
    source, _, _, target = grid(blobs, sources=1)
    assert plan([target], nothing).missing == (source, target)


def test_a_stored_target_needs_no_source_and_a_missing_one_needs_its_weights(blobs: DataSet) -> None:
    source, _, two, five = grid(blobs, sources=1)
    stored = {key(two): False, key(source): False}  # by key: whether with weights

    def missing(*runs: Run) -> tuple[Run, ...]:
        return plan(runs, lambda name, weights: name in stored and (stored[name] or not weights)).missing

    assert missing(two) == ()
    assert missing(two, five) == (source, five)
    stored[key(source)] = True
    assert missing(two, five) == (five,)


# The same results.


def test_local_is_serial_up_to_rounding(blobs: DataSet, tmp_path: Path) -> None:
    """The foundation: fleets with stand-ins, shared prefixes and processes change float64 results by rounding alone."""
    runs = grid(blobs, recipe=EXACT)
    one, two = setting(tmp_path / "serial", blobs, runs), setting(tmp_path / "local", blobs, runs, "local")
    first = list(serial.execute(planned(runs, one.store), one))
    second = list(local.execute(planned(runs, two.store, width=3), two, workers=2))
    assert {outcome.state for outcome in first + second} == {"done"}
    assert_close(contents(one.store), contents(two.store))
    assert len(contents(one.store)) == len(runs)
    assert not mp.active_children()


def test_serial_is_the_plain_reference(blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever units the plan has: no fleet, no prefix, and so the same bits."""
    runs = grid(blobs, sources=1)
    one, two = setting(tmp_path / "a", blobs, runs), setting(tmp_path / "b", blobs, runs)
    monkeypatch.setattr(work, "train_fleet", None)
    monkeypatch.setattr(work.Prefix, "ahead", None)
    list(serial.execute(planned(runs, one.store), one))
    list(serial.execute(planned(runs, two.store, width=4), two))
    assert contents(one.store) == contents(two.store)
    assert {Store(one.store).get(key(run)).result["provenance"]["fleet"] for run in runs} == {1}


def test_a_fleet_and_each_run_alone_agree(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, recipe=EXACT)
    fleets, alone = (setting(tmp_path / name, blobs, runs, "local") for name in ("fleets", "alone"))
    done_by(runs, fleets, width=4)
    done_by(runs, alone)
    assert_close(contents(fleets.store), contents(alone.store))
    widths = {Store(fleets.store).get(key(run)).result["provenance"]["fleet"] for run in runs}
    assert widths == {4}


# The same bits.


def test_local_repeats_itself_to_the_bit(blobs: DataSet, tmp_path: Path) -> None:
    """In another store, in another order, with another number of processes, and resumed in the middle of fleets."""
    runs = grid(blobs)
    stores = [setting(tmp_path / name, blobs, runs, "local") for name in ("one", "two", "three")]
    one, two, resumed = stores
    list(local.execute(planned(runs, one.store, width=3), one, workers=2))
    list(local.execute(planned([*reversed(runs)], two.store, width=3), two, workers=1))
    assert contents(one.store) == contents(two.store)

    done_by(runs, resumed, width=3, choose=lambda run: run.source is None)
    for run in random.Random(0).sample([run for run in runs if run.source is None], 2):
        shutil.rmtree(Store(resumed.store).path(key(run)))
    outcomes = list(local.execute(planned(runs, resumed.store, width=3), resumed, workers=2))
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert contents(one.store) == contents(resumed.store)


def normed(channels: int, size: int, outputs: int) -> nn.Module:
    """Four layers with batch norm, dropout and a global average."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Sequential(nn.Conv2d(channels, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2)),
            second=nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            third=nn.Sequential(nn.Conv2d(8, 16, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3)),
            head=nn.Linear(16, outputs),
        )
    )


def mixed(data: DataSet, texts: Sequence[str]) -> list[Run]:
    """Runs of different treatments and tasks that may be trained together."""
    learnt = Task(data.digest, (0, 1, 2), 6, "onehot", Parts("random", 5))
    source = Run("normed", learnt, Treatment.parse("R4"), None, (replace(RECIPE, steps=10),))
    task = Task(data.digest, (3, 4, 5), 2, "onehot", Parts("random", 5))
    return [
        Run("normed", replace(task, shots=2 + k, seed=k), Treatment.parse(text), source, (RECIPE,), seed=k)
        for k, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    "texts",
    [["T4", "RTRR", "MFRR", "WFFR", "TRRR"], ["FFRR", "XFTR", "FXRR", "FFTR", "XXTT"], ["F3R", "X3T", "FXFT", "F4"]],
    ids=["from the first layer", "behind two", "head alone"],
)
def test_stand_ins_change_no_bit(
    blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    """Whichever members are finished, the others come out as they did beside them."""
    monkeypatch.setitem(NETS, "normed", Architecture(normed, (0.5,), (0.5,)))
    runs = mixed(blobs, texts)
    here = setting(tmp_path, blobs, runs, "local")
    here = replace(here, kept=frozenset(map(key, [*runs, runs[0].source])))
    outcomes = done_by(runs, here, width=6)
    assert {outcome.state for outcome in outcomes} == {"done"}
    whole = contents(here.store)
    assert len(planned([], here.store).runs) == 0
    draw = random.Random(1)
    for _ in range(3):
        lost = draw.sample(runs, draw.randint(1, len(runs) - 1))
        for run in lost:
            shutil.rmtree(Store(here.store).path(key(run)))
        assert sorted(o.key for o in done_by(runs, here, width=6)) == sorted(map(key, lost))
        assert contents(here.store) == whole


def test_a_lone_run_has_the_bits_that_it_has_beside_larger_and_smaller_ones(
    blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed by itself, where all places are its own, with the same losses, those on training images too.

    Bug: parts of equal size were looked at together, and others member by member, where batch norm rounds otherwise.
    """
    monkeypatch.setitem(NETS, "normed", Architecture(normed, (0.5,), (0.5,)))
    runs = mixed(blobs, ["T4", "TTRR", "RFRR"])
    validated = replace(runs[1].task, parts=replace(runs[1].task.parts, validation=1))
    runs[1] = replace(runs[1], task=validated)
    here = setting(tmp_path, blobs, runs, "local")
    done_by(runs, here, width=3)
    whole = contents(here.store)
    for run in runs:
        shutil.rmtree(Store(here.store).path(key(run)))
        assert [o.key for o in done_by(runs, here, width=3)] == [key(run)]
        assert contents(here.store)[key(run)] == whole[key(run)]
    assert {split for _, split, _, _ in whole[key(runs[1])][0]} == {"train", "validation", "test"}


def test_a_finished_run_is_a_stand_in_and_is_not_written(
    blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run for run in grid(blobs, sources=3) if run.source is None]
    here = setting(tmp_path, blobs, runs, "local")
    trained: list[list[Run]] = []

    def noted(places: Sequence[Run], *more: object) -> object:
        trained.append(list(places))
        return together(places, *more)

    together = work.train_fleet
    monkeypatch.setattr(work, "train_fleet", noted)
    done_by(runs, here, width=8)
    (unit,) = planned(runs, tmp_path / "other", width=8).units
    assert trained == [[*unit.runs, unit.runs[0], unit.runs[0]]]
    before = {path: path.stat().st_mtime_ns for path in (here.store / "runs").rglob("*.json")}
    for run in (unit.runs[1], unit.runs[4]):
        shutil.rmtree(Store(here.store).path(key(run)))
    done_by(runs, here, width=8)
    one, four = unit.runs[1], unit.runs[4]
    assert trained[1] == [one, one, one, one, four, one, one, one]
    after = {path: path.stat().st_mtime_ns for path in (here.store / "runs").rglob("*.json")}
    changed = {path.parent.name for path in before if before[path] != after[path]}
    assert changed == {key(one), key(four)}


def test_memory_for_features_changes_no_bit(blobs: DataSet, tmp_path: Path) -> None:
    """In memory, in a file, or computed each time."""
    runs = grid(blobs)
    found = []
    for name, room in {"memory": {}, "file": {"memory": 0, "disk": 2**30}, "none": {"memory": 0}}.items():
        here = setting(tmp_path / name, blobs, runs, "local", **room)
        done_by(runs, here, width=2)
        found.append(contents(here.store))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == len(runs)


# What is there is left alone.


def test_only_what_is_missing_is_done_and_nothing_changes_what_is_there(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1)
    here = setting(tmp_path, blobs, runs)
    assert len(list(serial.execute(planned(runs[:2], here.store), here))) == 2
    before = {path: path.stat().st_mtime_ns for path in (here.store / "runs").rglob("*.json")}
    done = [outcome.key for outcome in serial.execute(planned(runs, here.store), here)]
    assert sorted(done) == sorted(map(key, runs[2:]))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_a_worker_finds_done_what_somebody_else_did_since_it_was_planned(blobs: DataSet, tmp_path: Path) -> None:
    runs = [run for run in grid(blobs) if run.source is None]
    here = setting(tmp_path, blobs, runs, "local")
    (unit,) = planned(runs, here.store, width=4).units
    done_by(runs[:1], here)
    states = {outcome.key: outcome.state for outcome in Worker(here).do(unit)}
    assert states == {key(run): "stored" if run == runs[0] else "done" for run in runs}


def test_a_unit_with_a_run_that_somebody_else_trains_is_left_for_later(blobs: DataSet, tmp_path: Path) -> None:
    runs = [run for run in grid(blobs) if run.source is None]
    here = setting(tmp_path, blobs, runs, "local")
    (unit,) = planned(runs, here.store, width=4).units
    with Store(here.store).lock(key(runs[2]), wait=False):
        assert [outcome.state for outcome in Worker(here).do(unit)] == ["busy"] * 4
    for run in runs:
        with Store(here.store).lock(key(run), wait=False) as free:
            assert free
    assert contents(here.store) == {}


# What goes wrong.


def test_a_killed_worker_is_replaced_and_its_runs_done_again(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, recipe=replace(RECIPE, steps=60))
    here, alone = (setting(tmp_path / name, blobs, runs, "local") for name in "ab")
    outcomes = []
    for outcome in local.execute(planned(runs, here.store, width=2), here, workers=1):
        outcomes.append(outcome)
        if len(outcomes) == 2:
            time.sleep(0.1)
            for child in mp.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
    assert sorted(o.key for o in outcomes) == sorted(map(key, runs))
    assert all(o.is_stored for o in outcomes)
    done_by(runs, alone, width=2)
    assert contents(here.store) == contents(alone.store)


def test_a_unit_that_kills_two_workers_has_failed_and_so_have_its_targets(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1)
    source, control, two, five = runs
    queue = Queue(grouped(plan(runs, nothing), lambda _run, _count: 2), setting(tmp_path, blobs, runs))
    unit, waits = queue.take() or (None, None)
    assert unit is not None
    assert set(unit.runs) == {source, control}
    assert waits is False
    assert queue.settle(unit, None) == []
    assert queue.take() == (unit, False)
    lost = {outcome.key: outcome.message for outcome in queue.settle(unit, None)}
    why = "its worker died twice (killed, or out of memory); the same command tries again, try fewer --workers"
    assert lost == {key(run): f"run {key(run)} (R6): {why}" for run in unit.runs}
    told = {outcome.key: outcome.message for outcome in queue.orphans()}
    assert told == {
        key(run): f"run {key(run)} ({run.treatment}): its source {key(source)} did not finish" for run in (two, five)
    }
    assert queue.pending == set()
    assert queue.take() is None


def test_what_a_unit_stored_before_its_worker_died_again_is_stored_and_its_targets_are_done(
    blobs: DataSet, tmp_path: Path
) -> None:
    """The second worker died between storing and saying so; a run without the weights that it needs is not there."""
    runs = grid(blobs)
    (source, *_, target), other = runs[:4], runs[4]
    here = setting(tmp_path, blobs, runs)
    queue = Queue(grouped(plan([source, target, other], nothing), lambda _run, _count: 2), here)
    unit, _ = queue.take() or (None, None)
    assert unit is not None
    assert set(unit.runs) == {source, other}
    assert queue.settle(unit, None) == []
    assert queue.take() == (unit, False)
    done_by([source], here)
    done_by([other], replace(here, kept=frozenset()))
    assert {outcome.key: outcome.state for outcome in queue.settle(unit, None)} == {
        key(source): "stored", key(other): "failed",
    }  # fmt: skip
    assert list(queue.orphans()) == []
    left, _ = queue.take() or (None, None)
    assert left is not None
    assert left.todo == (target,)


def test_a_fleet_goes_on_without_those_whose_source_was_lost(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs)
    made = grouped(plan(runs, nothing), lambda _run, count: 2 if count == 2 else 1)
    queue = Queue(made, setting(tmp_path, blobs, runs))
    sources = [unit for unit in made.units if unit.runs[0].source is None]
    for unit in sources:
        assert queue.take() == (unit, False)
        failed = "failed" if unit.runs[0] == runs[0] else "done"
        queue.settle(unit, [Outcome(key(unit.runs[0]), failed)])
    assert {outcome.key for outcome in queue.orphans()} == {key(run) for run in runs if run.source == runs[0]}
    left = [queue.take() for _ in range(2)]
    for found in left:
        assert found is not None
        unit, _ = found
        assert (len(unit.runs), unit.width, [run.source for run in unit.todo]) == (2, 2, [runs[4]])
    assert queue.take() is None


def test_a_unit_that_somebody_else_trains_comes_last_and_is_waited_for(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=2)[::4]
    queue = Queue(plan(runs, nothing), setting(tmp_path, blobs, runs))
    first, _ = queue.take() or (None, None)
    assert first is not None
    assert queue.settle(first, [Outcome(key(first.runs[0]), "busy")]) == []
    second, waits = queue.take() or (None, None)
    assert second != first
    assert waits is False
    assert queue.take() == (first, True)


@pytest.mark.parametrize("executor", ["serial", "local"])
def test_a_diverging_run_is_reported_and_the_others_are_stored(blobs: DataSet, tmp_path: Path, executor: str) -> None:
    good, hot = grid(blobs, sources=1), (replace(RECIPE, rate=1e10),)
    wild = [Run("lenet5relu", good[0].task, transfer(4, 0), None, hot)]
    wild.append(Run("lenet5relu", good[1].task, transfer(4, 2), wild[0], hot))
    here = setting(tmp_path, blobs, [*good, *wild], executor)
    made = planned([*wild, *good], here.store, width=2)
    run_all = serial.execute(made, here) if executor == "serial" else local.execute(made, here, workers=1)
    outcomes = {o.key: o for o in run_all}
    diverged = outcomes[key(wild[0])]
    assert diverged.state == "diverged"
    assert diverged.message.startswith(f"run {key(wild[0])} (R4, seed 0) loss ")
    orphan = outcomes[key(wild[1])]
    assert orphan.message == f"run {key(wild[1])} (FFRR): its source {key(wild[0])} did not finish"
    assert sorted(contents(here.store)) == sorted(map(key, good))


def test_a_damaged_source_is_set_aside_and_trained_again(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1)
    here = setting(tmp_path, blobs, runs)
    list(serial.execute(planned(runs[:1], here.store), here))
    before = contents(here.store)
    path = Store(here.store).path(key(runs[0])) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    outcomes = list(serial.execute(planned(runs, here.store), here))
    assert all(outcome.is_stored for outcome in outcomes)
    notes = [note for outcome in outcomes for note in outcome.notes]
    assert len(notes) == 1
    assert notes[0].startswith(f"run {key(runs[0])}: weights.safetensors is not what was written; set aside as ")
    assert before.items() <= contents(here.store).items()


def test_two_executors_on_one_store_train_nothing_twice(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, recipe=replace(RECIPE, steps=40))
    here = setting(tmp_path, blobs, runs, "local")
    both = [local.execute(planned(runs, here.store, width=2), here, workers=1) for _ in range(2)]
    outcomes: list[Outcome] = []
    while both:  # in turn, so that both are at work at once
        for executor in list(both):
            try:
                outcomes.append(next(executor))
            except StopIteration:
                both.remove(executor)
    assert sorted(o.key for o in outcomes if o.state == "done") == sorted(map(key, runs))
    assert sum(o.state == "stored" for o in outcomes) == len(runs)


def test_a_store_that_fails_stops_the_study(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1)
    here = setting(tmp_path / "store", blobs, runs)
    made = planned(runs, here.store)
    (here.store / "layerwise.json").write_text('{"store_version": 9}')
    with pytest.raises(StoreError, match="has version 9"):
        list(local.execute(made, here, workers=1))
    with pytest.raises(StoreError, match="has version 9"):
        Worker(here)


# Weights that no run made.


def test_weights_as_a_source(blobs: DataSet, tmp_path: Path) -> None:
    """A run that starts from a stored run's weights, by digest, is trained as one that starts from that run."""
    runs = grid(blobs, sources=1, recipe=EXACT)
    source, _, two, five = runs
    here = setting(tmp_path, blobs, runs)
    list(serial.execute(planned(runs, here.store), here))
    store = Store(here.store)
    given = Weights(store.put_weights(store.tensors(key(source), "weights")))
    again = [replace(run, source=given) for run in (two, five)]
    assert all(run.draw == 1 for run in again)
    for executor in ("serial", "local"):
        outcomes = done_by(again, replace(here, executor=executor), width=2)
        assert [outcome.state for outcome in outcomes] == ["done", "done"]
        found = contents(here.store)
        for one, other in zip((two, five), again, strict=True):
            assert_close({"": found[key(one)]}, {"": found[key(other)]})
            shutil.rmtree(store.path(key(other)))


def test_weights_that_are_not_there_are_said(blobs: DataSet, tmp_path: Path) -> None:
    source, _, two, five = grid(blobs, sources=1)
    here = setting(tmp_path, blobs, [two], "local")
    done_by([source], here)
    store = Store(here.store)
    given = Weights(store.put_weights(store.tensors(key(source), "weights")))
    there, absent, rewound = (
        replace(five, source=given),
        replace(two, source=Weights("0f" * 32)),
        replace(two, source=given, treatment=Treatment.parse("FFWR3")),
    )
    outcomes = {o.key: o for run in (there, absent, rewound) for o in done_by([run], here)}
    assert outcomes[key(there)].state == "done"
    assert outcomes[key(absent)].message == (
        f"run {key(absent)} (FFR4): its source, weights {'0f' * 32}, is not in store {here.store}; "
        "give the file of the weights again"
    )
    assert outcomes[key(rewound)].state == "failed"
    assert "W" in outcomes[key(rewound)].message


# The forecast.


def test_a_forecast_by_hand(blobs: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """From made-up speeds: what is computed ahead, steps, evaluations and storing, for the missing runs alone."""
    runs = grid(blobs, sources=1, recipe=replace(RECIPE, steps=200, evaluate_every=50))
    made_up = Speed(ready=1.0, step=0.01, look=0.001, ahead=0.002)
    monkeypatch.setattr(forecasting, "speed", lambda run, stage, shape, width, device: made_up)
    made = grouped(plan(runs, nothing), lambda _run, count: count)
    sizes = {run: Size((1, 32, 32), 16, 20, 100) for run in runs}
    expected = forecast(made, sizes.__getitem__, workers=2)
    together, alone = 1 + 200 * 0.01 + 2 * (5 * 20 + 16) * 0.001, 1 + 200 * 0.01 + (5 * 20 + 16) * 0.001
    by_hand = {
        runs[0]: together + 2 * OVERHEAD_SECONDS,
        runs[2]: alone + (16 + 20) * 0.002 + OVERHEAD_SECONDS,
        runs[3]: alone + (16 + 20) * 0.002 + OVERHEAD_SECONDS,
    }
    for unit, seconds in expected.units.items():
        assert seconds == pytest.approx(next(by_hand[run] for run in unit.runs if run in by_hand))
    assert expected.wall_seconds == pytest.approx(by_hand[runs[0]] + by_hand[runs[2]])  # targets beside each other
    scratch, two, five = (expected.flops[key(run)] for run in runs[1:])
    assert scratch > two > five
    stored = plan(runs, lambda name, _: name != key(runs[1]))
    rest = forecast(stored, sizes.__getitem__, workers=2)
    assert [unit.todo for unit in rest.units] == [(runs[1],)]
    assert forecast(plan(runs, lambda *_: True), sizes.__getitem__, workers=2).wall_seconds == 0


def test_a_run_that_may_stop_is_forecast_as_those_that_stopped(
    blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three sources stopped after 40 and 80 of 200 steps: the third is forecast with 60; alone with 200."""
    made_up = Speed(ready=1.0, step=0.01, look=0.001, ahead=0.0)
    monkeypatch.setattr(forecasting, "speed", lambda run, stage, shape, width, device: made_up)
    recipe = replace(RECIPE, steps=200, evaluate_every=20, stop_at=0.9)
    sources = [run for run in grid(blobs, sources=3, recipe=recipe) if run.source is None and run.draw == 0]
    first, second, third = sources
    store = Store(tmp_path / "store")
    for run, steps in ((first, 40), (second, 80)):
        store.put(run, {"steps": [steps], "curve": [[steps, "test", "accuracy", 0.5]], "seconds": 1.0}, {})
    place = store.folder / "data" / blobs.digest
    save(blobs, place)

    def seconds(wanted: list[Run]) -> float:
        job = Job(wanted, store, blobs, {blobs.digest: place}, Means("serial"), Quiet())
        return job.plan().seconds[key(third)]

    size = Job([third], store, blobs, {}, Means("serial"), Quiet()).size(third)
    look = 0.001 * (size.train + size.others)
    assert seconds([third]) == pytest.approx(OVERHEAD_SECONDS + 1 + 200 * 0.01 + 11 * look)
    assert seconds(sources) == pytest.approx(OVERHEAD_SECONDS + 1 + 60 * 0.01 + 11 * 0.3 * look)


def test_a_unit_is_a_value(blobs: DataSet) -> None:
    source, control, two, _ = grid(blobs, sources=1)
    unit = Unit((source, control), frozenset({key(control)}), 2)
    assert unit.todo == (control,)
    assert unit.sources == frozenset()
    assert Unit((two,), frozenset({key(two)})).sources == {key(source)}
    assert Unit((two,), frozenset()).sources == frozenset()
