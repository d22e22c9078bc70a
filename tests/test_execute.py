"""Plans and executors: the same bits from every executor, and nothing lost when something dies."""

import multiprocessing as mp
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from layerwise.data.dataset import DataSet
from layerwise.errors import StoreError
from layerwise.execute import local, serial
from layerwise.execute.forecast import Size, forecast
from layerwise.execute.plan import Plan, plan
from layerwise.execute.work import Outcome, Worker
from layerwise.run import Run, key
from layerwise.store import Store
from layerwise.treatment import transfer

from making import RECIPE, contents, grid, setting


def nothing(_name: str, _weights: bool) -> bool:
    return False


def of(runs: list[Run], folder: Path, *, keep: bool = False) -> Plan:
    store = Store(folder)
    return plan(runs, lambda name, weights: store.has(name, weights=weights), keep=keep)


def test_a_plan_has_sources_first_and_each_run_once(blobs: DataSet) -> None:
    runs = grid(blobs)
    made = plan([*reversed(runs), *runs], nothing)
    assert sorted(map(key, made.runs)) == sorted(map(key, runs))
    places = {key(run): place for place, run in enumerate(made.order())}
    assert all(places[key(run.source)] < places[key(run)] for run in runs if run.source)
    assert made.kept == {key(run) for run in runs if run.task.classes[0] == 0}
    assert (made.stored, len(made.missing)) == (0, 8)


def test_a_source_comes_along_with_its_target(blobs: DataSet) -> None:
    source, _, _, target = grid(blobs, sources=1)
    made = plan([target], nothing)
    assert [key(run) for run in made.order()] == [key(source), key(target)]


def test_a_stored_target_needs_no_source_and_a_missing_one_needs_its_weights(blobs: DataSet) -> None:
    source, _, two, five = grid(blobs, sources=1)
    stored = {key(two): False, key(source): False}  # by key: whether with weights
    missing = plan([two], lambda name, weights: name in stored and (stored[name] or not weights)).missing
    assert missing == ()
    missing = plan([two, five], lambda name, weights: name in stored and (stored[name] or not weights)).missing
    assert [key(run) for run in missing] == [key(source), key(five)]
    stored[key(source)] = True
    missing = plan([two, five], lambda name, weights: name in stored and (stored[name] or not weights)).missing
    assert [key(run) for run in missing] == [key(five)]


def test_long_runs_start_first(blobs: DataSet) -> None:
    runs = grid(blobs, sources=1)
    made = plan(runs, nothing)
    timed = Plan(made.runs, made.missing, made.kept, {key(run): float(k) for k, run in enumerate(runs)})
    assert [key(run) for run in timed.order()] == [key(runs[k]) for k in (0, 1, 3, 2)]


def test_serial_and_local_give_the_same_bits(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs)
    one, two = setting(tmp_path / "serial", blobs, runs), setting(tmp_path / "local", blobs, runs, "local")
    first = list(serial.execute(of(runs, one.store), one))
    second = list(local.execute(of(runs, two.store), two, workers=2))
    assert {outcome.state for outcome in first + second} == {"done"}
    assert contents(one.store) == contents(two.store)
    assert len(contents(one.store)) == len(runs)
    assert not mp.active_children()


def test_only_what_is_missing_is_done_and_nothing_changes_what_is_there(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1)
    here = setting(tmp_path, blobs, runs)
    assert len(list(serial.execute(of(runs[:2], here.store), here))) == 2
    before = {path: path.stat().st_mtime_ns for path in (here.store / "runs").rglob("*.json")}
    done = [outcome.key for outcome in serial.execute(of(runs, here.store), here)]
    assert sorted(done) == sorted(map(key, runs[2:]))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())


def test_a_killed_worker_is_replaced_and_its_run_done_again(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1, recipe=replace(RECIPE, steps=60))
    here, alone = setting(tmp_path / "a", blobs, runs), setting(tmp_path / "b", blobs, runs)
    outcomes = []
    for outcome in local.execute(of(runs, here.store), here, workers=1):
        outcomes.append(outcome)
        if len(outcomes) == 1:
            time.sleep(0.1)
            for child in mp.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
    assert sorted(o.key for o in outcomes) == sorted(map(key, runs))
    assert all(o.is_stored for o in outcomes)
    list(serial.execute(of(runs, alone.store), alone))
    assert contents(here.store) == contents(alone.store)


def test_a_run_that_kills_two_workers_has_failed_and_so_have_its_targets(blobs: DataSet) -> None:
    runs = grid(blobs, sources=1)
    queue = local._Queue(plan(runs, nothing))
    taken = queue.take()
    assert taken == (runs[0], False)
    assert queue.settle(runs[0], None) is None
    assert queue.take() == (runs[0], False)
    lost = queue.settle(runs[0], None)
    assert lost is not None
    assert lost.message == f"run {key(runs[0])} (R6): its worker died twice (out of memory?)"
    assert [outcome.key for outcome in queue.orphans()] == [key(run) for run in runs if run.source]
    assert queue.pending == {key(runs[1])}


def test_a_run_that_somebody_else_trains_comes_last_and_is_waited_for(blobs: DataSet) -> None:
    runs = grid(blobs, sources=2)
    queue = local._Queue(plan(runs[::4], nothing))
    first, _ = queue.take() or (None, None)
    assert first is not None
    assert queue.settle(first, Outcome(key(first), "busy")) is None
    second, waits = queue.take() or (None, None)
    assert second is not first
    assert waits is False
    assert queue.take() == (first, True)


def test_a_diverging_run_is_reported_and_the_others_are_stored(blobs: DataSet, tmp_path: Path) -> None:
    good, hot = grid(blobs, sources=1), (replace(RECIPE, rate=1e10),)
    wild = [Run("lenet5relu", good[0].task, transfer(4, 0), None, hot)]
    wild.append(Run("lenet5relu", good[1].task, transfer(4, 2), wild[0], hot))
    here = setting(tmp_path, blobs, [*good, *wild])
    outcomes = {o.key: o for o in serial.execute(of([*wild, *good], here.store), here)}
    diverged = outcomes[key(wild[0])]
    assert diverged.state == "diverged"
    assert diverged.message.startswith(f"run {key(wild[0])} (R4, seed 0) loss ")
    orphan = outcomes[key(wild[1])]
    assert orphan.message == f"run {key(wild[1])} (FFRR): its source {key(wild[0])} did not finish"
    assert sorted(contents(here.store)) == sorted(map(key, good))


def test_a_damaged_source_is_set_aside_and_trained_again(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1)
    here = setting(tmp_path, blobs, runs)
    list(serial.execute(of(runs[:1], here.store), here))
    before = contents(here.store)
    path = Store(here.store).path(key(runs[0])) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    outcomes = list(serial.execute(of(runs, here.store), here))
    assert all(outcome.is_stored for outcome in outcomes)
    notes = [note for outcome in outcomes for note in outcome.notes]
    assert len(notes) == 1
    assert notes[0].startswith(f"run {key(runs[0])}: weights.safetensors is not what was written; set aside as ")
    assert before.items() <= contents(here.store).items()


def test_two_executors_on_one_store_train_nothing_twice(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, recipe=replace(RECIPE, steps=40))
    here = setting(tmp_path, blobs, runs)
    both = [local.execute(of(runs, here.store), here, workers=1) for _ in range(2)]
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
    made = of(runs, here.store)
    (here.store / "layerwise.json").write_text('{"store_version": 9}')
    with pytest.raises(StoreError, match="has version 9"):
        list(local.execute(made, here, workers=1))
    with pytest.raises(StoreError, match="has version 9"):
        Worker(here)


def test_a_forecast_counts_the_missing_runs(blobs: DataSet) -> None:
    runs = grid(blobs, sources=1, recipe=replace(RECIPE, steps=200))
    made = plan(runs, nothing)
    sizes = {key(run): Size((1, 32, 32), 16, 20) for run in runs}
    expected = forecast(made, sizes, workers=2)
    assert set(expected.seconds) == {key(run) for run in runs}
    assert expected.wall_seconds >= sum(expected.seconds.values()) / 2
    scratch, two, five = (expected.flops[key(run)] for run in runs[1:])
    assert scratch > two > five
    half = forecast(plan(runs, lambda name, _: name != key(runs[1])), sizes, workers=2)
    assert set(half.seconds) == {key(runs[1])}
