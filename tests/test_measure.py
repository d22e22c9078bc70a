"""Measurements: made once, by as many processes as there are, and kept; one that fails harms no other."""

import json
from pathlib import Path

import pytest

from layerwise.data.dataset import DataSet, save
from layerwise.errors import RepresentationError
from layerwise.job import Job, Means
from layerwise.measure import Bench, Measurement, Row, measure
from layerwise.progress import Quiet
from layerwise.run import Run, key
from layerwise.store import Store
from layerwise.studies import gutstein

from making import grid


def norm(bench: Bench, run: Run, *, power: float = 2.0) -> list[Row]:
    """The norm of the weights of the first layer."""
    if power == 0:
        raise RepresentationError("there is no norm of power 0; pass another")
    weights = next(bench.net(run).parameters()).detach()
    return [{"run_key": key(run), "quantity": "norm", "value": float(weights.norm(power))}]


@pytest.fixture
def trained(blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Run], Store, Path]:
    """Two sources with three targets each; only those whose weights are asked for have them, and the sources."""
    monkeypatch.setitem(gutstein.MEASURES, "norm", norm)
    runs, store = grid(blobs), Store(tmp_path / "store")
    place = store.folder / "data" / blobs.digest
    save(blobs, place)
    Job(runs, store, blobs, {blobs.digest: place}, Means("serial"), Quiet(), frozenset({key(runs[1])})).complete()
    return runs, store, place


def test_what_is_measured_is_kept(trained: tuple[list[Run], Store, Path]) -> None:
    runs, store, place = trained
    wanted = [Measurement("gutstein", "norm", (run,)) for run in runs[:2]]
    found, failures = measure(wanted, store, place, 1, Quiet())
    assert failures == []
    assert [row["run_key"] for one in wanted for row in found[one.key]] == [key(run) for run in runs[:2]]
    kept = store.folder / "measured" / wanted[0].key[:2] / f"{wanted[0].key}.json"
    changed = json.loads(kept.read_text())
    changed["rows"][0]["value"] = -1.0
    kept.write_text(json.dumps(changed))
    again, _ = measure(wanted, store, place, 1, Quiet())
    assert again[wanted[0].key][0]["value"] == -1.0  # it was read, not made again
    kept.write_text("{ half of")
    assert measure(wanted, store, place, 1, Quiet())[0] == found


def test_a_failure_is_told_and_harms_no_other(trained: tuple[list[Run], Store, Path]) -> None:
    runs, store, place = trained
    wanted = [Measurement("gutstein", "norm", (runs[0],), (("power", power),)) for power in (0.0, 1.0)]
    found, failures = measure(wanted, store, place, 1, Quiet())
    assert list(found) == [wanted[1].key]
    assert failures == [f"measurement gutstein norm of run {key(runs[0])}: there is no norm of power 0; pass another"]


def test_weights_of_what_is_measured_are_kept(trained: tuple[list[Run], Store, Path]) -> None:
    runs, store, _ = trained
    assert [store.has(key(run), weights=True) for run in runs[:3]] == [True, True, False]


def test_equal_measurements_have_equal_keys(blobs: DataSet) -> None:
    run, other, *_ = grid(blobs)
    one = Measurement("gutstein", "norm", (run,), (("a", 1), ("b", 2)))
    assert one.key == Measurement("gutstein", "norm", (run,), (("b", 2), ("a", 1))).key
    others = [Measurement("gutstein", "norm", (other,)), Measurement("gutstein", "other", (run,)),
              Measurement("grand", "norm", (run,)), Measurement("gutstein", "norm", (run,), (("a", 2),))]  # fmt: skip
    assert len({one.key, *(another.key for another in others)}) == 5
