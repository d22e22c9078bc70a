"""Measurements: made once, by as many processes as there are, and kept; one that fails harms no other."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from layerwise import measure as measuring
from layerwise.data.dataset import DataSet, save
from layerwise.errors import RepresentationError, StoreError
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


def fatal(bench: Bench, run: Run, *, marks: str, deaths: int) -> list[Row]:
    """The norm, but its process is killed the first times that it is asked for."""
    there = len(list(Path(marks).iterdir()))
    if there < deaths:
        (Path(marks) / str(there)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return norm(bench, run)


def endless(bench: Bench, run: Run, *, mark: str) -> list[Row]:
    """Says which process does it, and does not end."""
    Path(mark).write_text(str(os.getpid()))
    time.sleep(1000)
    return []


def many(bench: Bench, run: Run, *, rows: int) -> list[Row]:
    """So many rows."""
    return [{"run_key": key(run), "value": float(k)} for k in range(rows)]


def gone(bench: Bench, run: Run, *, first: bool) -> list[Row]:
    """The store's folder goes away before it is read, or before anything is kept."""
    found = [] if first else norm(bench, run)
    bench.store.folder.rename(bench.store.folder.with_name("removed"))
    return norm(bench, run) if first else found


OURS = {one.__name__: one for one in (norm, fatal, endless, many, gone)}
begin = measuring._begin


def begin_with_ours(*told: object) -> object:
    """A worker process begins, and knows the functions of this file."""
    gutstein.MEASURES.update(OURS)
    return begin(*told)


@pytest.fixture
def trained(blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Run], Store, Path]:
    """Two sources with three targets each; only those whose weights are asked for have them, and the sources."""
    for name, function in OURS.items():
        monkeypatch.setitem(gutstein.MEASURES, name, function)
    monkeypatch.setattr(measuring, "_begin", begin_with_ours)
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


def test_two_processes_measure_what_one_does(trained: tuple[list[Run], Store, Path], tmp_path: Path) -> None:
    """One failure among them, and a process that was killed: it is replaced, and its measurement is made again."""
    runs, store, place = trained
    (marks := tmp_path / "marks").mkdir()
    wanted = [Measurement("gutstein", "fatal", (runs[0],), (("deaths", 1), ("marks", str(marks))))]
    wanted += [Measurement("gutstein", "norm", (runs[k],), (("power", power),)) for k in (0, 1) for power in (0.0, 1.0)]
    found, failures = measure(wanted, store, place, 2, Quiet())
    assert [path.name for path in marks.iterdir()] == ["0"]
    assert len(failures) == 2
    assert {one.key for one in wanted} - found.keys() == {wanted[1].key, wanted[3].key}
    assert all(measuring._kept(store, one) == found[one.key] for one in wanted if one.key in found)
    for file in (store.folder / "measured").rglob("*.json"):
        file.unlink()
    alone, told = measure(wanted, store, place, 1, Quiet())
    assert (alone, sorted(told)) == (found, sorted(failures))


def test_a_measurement_that_kills_two_processes_has_failed_and_no_other(
    trained: tuple[list[Run], Store, Path], tmp_path: Path
) -> None:
    runs, store, place = trained
    (marks := tmp_path / "marks").mkdir()
    wanted = [Measurement("gutstein", "fatal", (runs[0],), (("deaths", 9), ("marks", str(marks))))]
    wanted += [Measurement("gutstein", "norm", (runs[0],), (("power", float(power)),)) for power in range(1, 6)]
    found, failures = measure(wanted, store, place, 2, Quiet())
    assert len(list(marks.iterdir())) == 2
    assert failures == [
        f"measurement gutstein fatal of run {key(runs[0])}: its process died twice (killed, or out of memory); "
        "the same command tries again, try fewer --workers"
    ]
    assert set(found) == {one.key for one in wanted[1:]}


def test_an_interrupt_ends_the_processes_at_once(trained: tuple[list[Run], Store, Path], tmp_path: Path) -> None:
    runs, store, place = trained
    mark = tmp_path / "mark"
    wanted = [Measurement("gutstein", "endless", (runs[0],), (("mark", str(mark)),))]
    wanted += [Measurement("gutstein", "norm", (runs[0],))]

    class Interrupting(Quiet):
        def probing(self, name: str) -> Callable[[int, int], None]:
            def tick(done: int, total: int) -> None:
                while not (mark.exists() and mark.read_text()):
                    time.sleep(0.01)
                raise KeyboardInterrupt

            return tick

    with pytest.raises(KeyboardInterrupt, match=r"^1 of 2 measurements are stored; the same command does the rest$"):
        measure(wanted, store, place, 2, Interrupting())
    assert not psutil.pid_exists(int(mark.read_text()))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_a_store_that_is_removed_while_it_is_measured_is_told(
    trained: tuple[list[Run], Store, Path], processes: int, first: bool
) -> None:
    runs, store, place = trained
    told = f"store {store.folder} is no longer there; the same command makes it anew"
    with pytest.raises(StoreError, match=f"^{re.escape(told)}$"):
        measure([Measurement("gutstein", "gone", (runs[0],), (("first", first),))], store, place, processes, Quiet())
    assert not store.folder.exists()


def test_a_full_disk_is_told(
    trained: tuple[list[Run], Store, Path], small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    runs, _, place = trained
    full = Store(small_disk("256k") / "store")
    wanted = [Measurement("gutstein", "many", (runs[0],), (("rows", rows),)) for rows in (10, 10_000)]
    with pytest.raises(StoreError, match=f"^store {re.escape(str(full.folder))} is full; free some space or "):
        measure(wanted, full, place, 1, Quiet())
    assert [measuring._kept(full, one) is None for one in wanted] == [False, True]
    assert not list((full.folder / "writing").iterdir())


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
