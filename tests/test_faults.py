"""Faults, each made on purpose: no finished run is lost, no wrong row is written, and the message says what to do.

The command line is run as its user runs it. `make test` has each fault once, `make soak` again and again.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

import layerwise
from layerwise.data.dataset import DataSet
from layerwise.errors import StoreError, StudyError
from layerwise.execute import local, work
from layerwise.execute.work import Outcome, Worker
from layerwise.run import Run, Weights, key, spec
from layerwise.store import Store
from layerwise.treatment import Treatment

from making import ON_GPU, RECIPE, assert_close, contents, done_by, grid, planned, setting

EXACT = replace(RECIPE, precision="float64")
WORDS = ["study", "gutstein", "--data", "npz:good.npz", "--experiments", "levels", "--seeds", "1", "--shots", "1,2"]
WORDS += ["--steps", "60", "--source-steps", "60", "--workers", "2"]
RUNS = 13
DIED = re.compile(
    r"Failed: run [0-9a-f]{16} \([FTR\d]+\): (its worker died twice \(killed, or out of memory\); the same "
    r"command tries again, try fewer --workers|its source [0-9a-f]{16} did not finish)"
)


def save_data(folder: Path) -> None:
    """A small data set of 8 classes."""
    images = np.random.default_rng(0).integers(0, 255, (80, 32, 32), dtype=np.uint8)
    np.savez(folder / "good.npz", images=images, labels=np.repeat(np.arange(8), 10))


def start(folder: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    """The study, on its way, in a process group of its own."""
    save_data(folder)
    return subprocess.Popen(
        [sys.executable, "-c", "from layerwise.cli import main; main()", *WORDS, *more],
        cwd=folder,
        env={**os.environ, **environment},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it complained of."""
    _, told = process.communicate(timeout=120)
    assert "Traceback" not in told, told
    return process.returncode, told


def rows(folder: Path, out: str = "layerwise-out/gutstein") -> pd.DataFrame:
    return pd.read_parquet(folder / out / "rows.parquet")


def stored(folder: Path) -> dict[str, int]:
    """The finished runs by key, and when each was written."""
    found = (folder / "layerwise-store" / "runs").glob("*/*/result.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def assert_whole(folder: Path, undisturbed: pd.DataFrame) -> None:
    """The rows are those of no fault, to the bit, and every run is as it was written."""
    pd.testing.assert_frame_equal(rows(folder), undisturbed, check_exact=True)
    store = Store(folder / "layerwise-store")
    store.clean()  # what a killed worker had half written
    assert [store.verify(name) for name in store.keys()] == [None] * RUNS  # noqa: SIM118


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The rows of a study that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, told = end(start(folder))
    assert code == 0, told
    assert len(stored(folder)) == RUNS
    return rows(folder)


# Workers.


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers: children of the fork server, which is the command's child."""
    with suppress(psutil.NoSuchProcess):
        return [worker for child in psutil.Process(process.pid).children() for worker in child.children()]
    return []


def survive_deaths(folder: Path, kills: int, draw: random.Random, undisturbed: pd.DataFrame, *more: str) -> int:
    """Kill a worker at so many random moments of one study, whose command is given again until it has done all."""
    there: dict[str, int] = {}
    failed, killed = ["not begun"], 0
    while failed:
        process = start(folder, *more)
        while process.poll() is None:
            found = workers_of(process)
            if found and killed < kills:
                with suppress(psutil.NoSuchProcess):
                    draw.choice(found).kill()
                    killed += 1
            time.sleep(draw.uniform(0, 0.6) if found else 0.02)
        code, told = end(process)
        assert there.items() <= stored(folder).items()  # nothing is lost, and nothing is written twice
        there = stored(folder)
        failed = [line for line in told.splitlines() if line.startswith("Failed")]
        assert all(map(DIED.fullmatch, failed)), told
        assert (code, len(there)) == (1 if failed else 0, RUNS - len(failed)), told
    assert_whole(folder, undisturbed)
    return killed


def test_a_worker_killed_at_a_random_moment(tmp_path: Path, undisturbed: pd.DataFrame) -> None:
    print(f"the moment is drawn from seed {(seed := random.SystemRandom().randrange(10**6))}")  # where the test fails
    assert survive_deaths(tmp_path, 1, random.Random(seed), undisturbed) == 1


@pytest.mark.soak
def test_workers_killed_50_times_in_one_study(tmp_path: Path) -> None:
    longer = ["--steps", "400", "--source-steps", "400"]
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
    code, told = end(start(tmp_path / "undisturbed", *longer))
    assert code == 0, told
    expected = rows(tmp_path / "undisturbed")
    assert survive_deaths(tmp_path / "disturbed", 50, random.Random(0), expected, *longer) == 50


# The store.


def survive_removal(folder: Path, undisturbed: pd.DataFrame, moment: float) -> None:
    """The store's folder goes away; the command says so, or had already finished, and given again does all."""
    process = start(folder)
    store = folder / "layerwise-store"
    while not stored(folder) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(moment)
    store.rename(folder / "removed")
    code, told = end(process)
    gone = f"StoreError: store {store} is no longer there; the same command makes it anew"
    lost = f"runs cannot be read back from {store.name}"
    assert code in {0, 1, 2}
    assert {2: gone in told, 1: lost in told, 0: True}[code], told
    assert not store.exists()
    kept = Store(folder / "removed")
    assert {kept.verify(name) for name in kept.keys()} == {None}  # noqa: SIM118
    code, told = end(start(folder))
    assert code == 0, told
    assert_whole(folder, undisturbed)


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(10))
def test_a_store_removed_at_a_random_moment(tmp_path: Path, undisturbed: pd.DataFrame, attempt: int) -> None:
    survive_removal(tmp_path, undisturbed, random.Random(attempt).uniform(0, 4))


def share(folder: Path, undisturbed: pd.DataFrame, delay: float) -> None:
    """Two commands at once: each gives all rows, and each run is trained by one of them."""
    one = start(folder, "--out", "one")
    time.sleep(delay)
    other = start(folder, "--out", "layerwise-out/gutstein")
    for process in (one, other):
        code, told = end(process)
        assert code == 0, told
    pd.testing.assert_frame_equal(rows(folder, "one"), undisturbed, check_exact=True)
    assert not list((folder / "layerwise-store" / "writing").iterdir())
    assert_whole(folder, undisturbed)


def test_two_studies_on_one_store(tmp_path: Path, undisturbed: pd.DataFrame) -> None:
    share(tmp_path, undisturbed, 0)


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(10))
def test_two_studies_on_one_store_one_of_them_later(tmp_path: Path, undisturbed: pd.DataFrame, attempt: int) -> None:
    share(tmp_path, undisturbed, random.Random(attempt).uniform(0, 5))


def survive_a_full_disk(blobs: DataSet, disk: Path, tmp_path: Path) -> None:
    """Two workers fill it; with more room the same command does the rest, and all is as where there was room."""
    runs = grid(blobs)
    full, roomy = (setting(place / "store", blobs, runs, "local") for place in (disk, tmp_path))
    full, roomy = (replace(here, kept=frozenset(map(key, runs))) for here in (full, roomy))  # 4 MB
    outcomes: list[Outcome] = []
    with pytest.raises(StoreError) as caught:
        outcomes.extend(local.execute(planned(runs, full.store), full, workers=2))
    assert str(caught.value) == (
        f"store {full.store} is full; free some space or pass another --store. "
        "Finished runs are safe, and the same command does the rest"
    )
    there = contents(full.store)
    assert there.keys() >= {outcome.key for outcome in outcomes}
    assert 0 < len(there) < len(runs)
    subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
    assert all(outcome.is_stored for outcome in local.execute(planned(runs, full.store), full, workers=2))
    list(local.execute(planned(runs, roomy.store), roomy, workers=2))
    assert contents(full.store) == contents(roomy.store)


def test_a_disk_that_fills_up_under_two_workers(
    blobs: DataSet, small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    survive_a_full_disk(blobs, small_disk("2m"), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(3))
def test_a_disk_that_fills_up_at_a_random_moment(
    blobs: DataSet, small_disk: Callable[[str], Path], tmp_path: Path, attempt: int
) -> None:
    survive_a_full_disk(blobs, small_disk(f"{random.Random(attempt).randrange(1200, 3400)}k"), tmp_path)


def test_a_report_that_does_not_fit_leaves_the_older_one_whole(
    small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    """What was trained for it is stored, and the same command reads it from there once there is room."""
    disk = small_disk("2m")
    save_data(tmp_path)
    options = {"seeds": 1, "shots": [1], "steps": 5, "source_steps": 5, "executor": "serial", "quiet": True}
    options |= {
        "experiments": "levels",
        "data": f"npz:{tmp_path}/good.npz",
        "store": tmp_path / "store",
        "out": disk / "out",
    }
    found = layerwise.study("gutstein", **options)
    before = {path.name: path.read_bytes() for path in (disk / "out").iterdir()}
    assert {"report.html", "rows.parquet", "rows.csv", "claims.json", "plan.json"} <= before.keys()
    (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * 4096 - 8192))
    for attempt in (lambda: layerwise.study("gutstein", **options), lambda: found.save(disk / "out")):
        with pytest.raises(StudyError) as caught:
            attempt()
        assert str(caught.value) == (
            f"--out {disk / 'out'} is full; free some space or pass another. "
            "Finished runs are safe, and the same command trains nothing again"
        )
        assert {path.name: path.read_bytes() for path in (disk / "out").iterdir()} == before
    (disk / "ballast").unlink()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "runs").rglob("*")}
    again = layerwise.study("gutstein", **options)
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "runs").rglob("*")}
    pd.testing.assert_frame_equal(again.rows, found.rows, check_exact=True)
    assert pd.read_parquet(disk / "out" / "rows.parquet").equals(found.rows)


def test_no_file_may_grow_larger(blobs: DataSet, tmp_path: Path) -> None:
    """Where a quota, or `ulimit -f`, ends a file: a user who may not mount has this for a full disk."""
    source = grid(blobs, sources=1)[0]
    script = (
        "import resource, sys; from pathlib import Path; from layerwise.errors import StoreError\n"
        "from layerwise.run import from_spec; from layerwise.store import Store; import json\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); store = Store(Path(sys.argv[1]))\n"
        "run = from_spec(json.loads(sys.stdin.read()))\n"
        "store.put(run, {'n': 1}, {'weights': bytes(40_000)})\n"
        "from dataclasses import replace\n"
        "try: store.put(replace(run, seed=7), {'n': 1}, {'weights': bytes(60_000)})\n"
        "except StoreError as error: print(error)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "store")]
    found = subprocess.run(words, input=json.dumps(spec(source)), capture_output=True, text=True)
    told = f"store {tmp_path / 'store'} cannot be written (File too large); pass another --store\n"
    assert (found.stdout, found.stderr) == (told, "")
    store = Store(tmp_path / "store")
    assert [(name, store.verify(name)) for name in store.keys()] == [(key(source), None)]  # noqa: SIM118
    assert not list((store.folder / "writing").iterdir())


# Ctrl-C.


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(15))
def test_interrupted_twice_at_a_random_moment(tmp_path: Path, undisturbed: pd.DataFrame, attempt: int) -> None:
    """From the moment that the command has begun until it has printed all; once is among test_cli's."""
    draw = random.Random(attempt)
    process = start(tmp_path)
    while not (tmp_path / "layerwise-store").exists():
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    time.sleep(draw.uniform(0, 6))
    for _ in range(2):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(draw.choice([0, 0.001, 0.1]))
    code, told = end(process)
    assert code in {0, 130}, told
    if code:
        assert re.fullmatch(
            rf"Interrupted: (\d+ of {RUNS} runs are stored|nothing is lost); the same command does the rest",
            told.splitlines()[-1],
        ), told
    assert not psutil.wait_procs(family, timeout=20)[1]
    there = stored(tmp_path)
    code, told = end(start(tmp_path))
    assert (code, there.items() <= stored(tmp_path).items()) == (0, True)
    assert_whole(tmp_path, undisturbed)


# The clock.

JUMPING = """
import random, time
_true, _true_ns, _draw = time.time, time.time_ns, random.Random()
def _back():
    return _draw.choice([0, 0, 3, 3600, 10 * 365 * 86400])
time.time = lambda: _true() - _back()
time.time_ns = lambda: _true_ns() - _back() * 10**9
"""


def test_a_clock_that_jumps_back_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are those of a steady clock; what was stored is found again; durations are no dates."""
    here, steady = tmp_path / "here", tmp_path / "steady"
    options = {"shots": [1], "seeds": 1, "steps": 20, "source_steps": 20, "executor": "serial", "quiet": True}
    options |= {"experiments": "levels"}
    save_data(tmp_path)
    undisturbed = layerwise.study("gutstein", data=f"npz:{tmp_path}/good.npz", store=steady, **options)
    now, now_ns, draw = time.time, time.time_ns, random.Random(0)

    def back() -> int:
        return draw.choice([0, 0, 3, 3600, 10 * 365 * 86400])

    monkeypatch.setattr(time, "time", lambda: now() - back())
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - back() * 10**9)
    written: list[dict[Path, int]] = []
    for _ in range(2):
        found = layerwise.study("gutstein", data=f"npz:{tmp_path}/good.npz", store=here, **options)
        assert found.failures == ()
        pd.testing.assert_frame_equal(found.rows, undisturbed.rows, check_exact=True)
        written.append({path: path.stat().st_mtime_ns for path in here.glob("runs/*/*/*")})
    assert written[0] == written[1]
    assert all(0 < run["seconds"] < 600 for run in found.plan["runs"])
    store = Store(here)
    assert {store.verify(name) for name in store.keys()} == {None}  # noqa: SIM118


@pytest.mark.soak
def test_a_clock_that_jumps_back_in_the_command_and_its_workers(tmp_path: Path, undisturbed: pd.DataFrame) -> None:
    """In the command and in each of its workers, from their first line on; and in one that reads what they left."""
    (tmp_path / "sitecustomize.py").write_text(JUMPING)
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    for _ in range(2):
        code, told = end(start(tmp_path, PYTHONPATH=paths))
        assert code == 0, told
        assert_whole(tmp_path, undisturbed)
    assert "nothing to train" in told


# One of a fleet.


def diverge(blobs: DataSet, tmp_path: Path, seeds: Sequence[int], place: int, scale: float) -> None:
    """One run's source's weights overflow; in a second store its place is taken by a run whose source is sound."""
    task, other, *_ = (run.task for run in grid(blobs, sources=1))
    source = Run("lenet5relu", task, Treatment.parse("R4"), None, (RECIPE,))
    two = Run("lenet5relu", other, Treatment.parse("FTRR"), source, (RECIPE,))
    sound, sick = (setting(tmp_path / name, blobs, [two], "local") for name in ("sound", "sick"))
    done_by([source], sound)
    done_by([source], sick)
    weights = Store(sound.store).tensors(key(source), "weights")
    huge = save_tensors({name: tensor * scale for name, tensor in load_tensors(weights).items()})
    others = [replace(two, seed=seed) for seed in seeds]
    for here, content in ((sound, weights), (sick, huge)):
        given = Weights(Store(here.store).put_weights(content))
        wild = replace(two, source=given)
        unit = (*others[:place], wild, *others[place:])
        outcomes = {o.key: o for o in Worker(here).do(work.Unit(unit, frozenset(map(key, unit)), len(unit) + 1))}
        assert [outcomes[key(run)].state for run in others] == ["done"] * len(others)
        assert outcomes[key(wild)].state == ("done" if here is sound else "diverged")
    message = outcomes[key(wild)].message
    assert re.fullmatch(
        rf"run {key(wild)} \(FTRR, seed 0\) loss (nan|inf) at step 0; "
        r"it has no rows, the others go on \(a lower rate may help\)",
        message,
    ), message
    well, beside = contents(sound.store), contents(sick.store)
    assert sorted(beside) == sorted(map(key, [source, *others]))
    assert all(well[name] == beside[name] for name in beside)


def test_a_run_that_diverges_in_a_fleet_changes_no_bit_of_the_others(blobs: DataSet, tmp_path: Path) -> None:
    diverge(blobs, tmp_path, (1, 2, 3), 3, 1e30)


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(5))
def test_a_run_that_diverges_at_any_place_of_a_fleet(blobs: DataSet, tmp_path: Path, attempt: int) -> None:
    draw = random.Random(attempt)
    seeds = draw.sample(range(1, 1000), draw.randint(1, 6))
    diverge(blobs, tmp_path, seeds, draw.randint(0, len(seeds)), 10.0 ** draw.uniform(20, 38))


# Memory.


def too_large(device: str = "cpu") -> None:
    """What PyTorch says where there is no more memory."""
    torch.empty(2**56, device=device)


@pytest.mark.parametrize("device", ["cpu", ON_GPU])
def test_a_fleet_that_outgrows_the_memory_is_split_until_it_fits(
    blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    runs = [run for run in grid(blobs, sources=3, recipe=EXACT) if run.source is None]
    here, alone = (setting(tmp_path / name, blobs, runs, "local", device=device) for name in ("here", "alone"))
    widths: list[int] = []
    left: list[weakref.ref[torch.Tensor]] = []

    def short(places: Sequence[Run], *more: object) -> object:
        assert [held() for held in left] == [None] * len(left)  # what the larger fleet held is free by now
        widths.append(len(places))
        if len(places) > 2:
            stacked = torch.zeros(10, device=device)
            left.append(weakref.ref(stacked))
            too_large(device)
        return together(places, *more)

    together = work.train_fleet
    monkeypatch.setattr(work, "train_fleet", short)
    outcomes = done_by(runs, here, width=6)
    # The halves of three are two runs, and one beside its stand-in. The second three are tried again when what the
    # worker held of the twos before it is gone.
    assert widths == [6, 3, 2, 2, 3, 3, 2, 2]
    assert [outcome.state for outcome in outcomes] == ["done"] * 6
    said = "runs could not be trained together (there was not enough memory); now"
    assert [note for outcome in outcomes for note in outcome.notes] == [
        f"6 {said} 3 at a time", f"3 {said} 2 at a time", f"3 {said} 2 at a time"
    ]  # fmt: skip
    done_by(runs, alone)
    assert_close(contents(here.store), contents(alone.store), 1e-10 if device == "cpu" else 1e-8)


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(5))
def test_memory_that_is_short_at_random_moments(
    blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    """Before a fleet's first step or after its last: whatever is split, all is done, and as alone."""
    draw = random.Random(attempt)
    runs = [run for run in grid(blobs, sources=3, recipe=EXACT) if run.source is None]
    here, alone = (setting(tmp_path / name, blobs, runs, "local") for name in ("here", "alone"))
    moments: list[float] = []

    def short(places: Sequence[Run], *more: object) -> object:
        moments.append(draw.random())
        if moments[-1] < 0.3:
            too_large()
        made = together(places, *more)
        if moments[-1] > 0.7:
            too_large()
        return made

    together = work.train_fleet
    monkeypatch.setattr(work, "train_fleet", short)
    outcomes = done_by(runs, here, width=6)
    assert [outcome.state for outcome in outcomes] == ["done"] * 6
    split = sum("there was not enough memory" in note for outcome in outcomes for note in outcome.notes)
    assert split <= sum(not 0.3 <= moment <= 0.7 for moment in moments)
    done_by(runs, alone)
    assert_close(contents(here.store), contents(alone.store))


def test_a_run_that_outgrows_the_memory_by_itself_is_told_and_the_others_are_done(
    blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run for run in grid(blobs) if run.source is None]
    here = setting(tmp_path, blobs, runs, "local")

    def short(run: Run, *more: object) -> object:
        if run == runs[1]:
            too_large()
        return by_itself(run, *more)

    def none(*_: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore about it")

    by_itself = work._train_one
    monkeypatch.setattr(work, "_train_one", short)
    monkeypatch.setattr(work, "train_fleet", none)
    outcomes = {outcome.key: outcome for outcome in done_by(runs, here, width=4)}
    assert {outcome.state for name, outcome in outcomes.items() if name != key(runs[1])} == {"done"}
    assert outcomes[key(runs[1])].message == (
        f"run {key(runs[1])} (R6): there was not enough memory for it; pass fewer --workers, or end other programs"
    )
    assert sorted(contents(here.store)) == sorted(key(run) for run in runs if run != runs[1])
