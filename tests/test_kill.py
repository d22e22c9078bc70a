"""kill -9 of everything at a random moment: the same command does the rest, and the rows are those of no kill."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

STUDY = [
    sys.executable, "-c", "from layerwise.cli import main; main()",
    "study", "gutstein", "--experiments", "levels", "--data", "digits", "--resize", "32", "--seeds", "2",
    "--shots", "1,5", "--steps", "60", "--source-steps", "80", "--workers", "2",
]  # fmt: skip


def start(folder: Path) -> subprocess.Popen[str]:
    """The study in a process group of its own."""
    return subprocess.Popen(
        STUDY, cwd=folder, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(folder: Path) -> pd.DataFrame:
    """The study, to its end."""
    process = start(folder)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return pd.read_parquet(folder / "layerwise-out" / "gutstein" / "rows.parquet")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, float]:
    """The rows of a study that nobody disturbs, and how long it took."""
    begun = time.monotonic()
    rows = finish(tmp_path_factory.mktemp("undisturbed"))
    assert rows["run_key"].nunique() == 26
    return rows, time.monotonic() - begun


def survive(folder: Path, undisturbed: tuple[pd.DataFrame, float], kills: int, draw: random.Random) -> None:
    rows, seconds = undisturbed
    for _ in range(kills):
        process = start(folder)
        time.sleep(draw.uniform(0.1, 1.0) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    pd.testing.assert_frame_equal(finish(folder), rows, check_exact=True)


def test_killed_once(tmp_path: Path, undisturbed: tuple[pd.DataFrame, float]) -> None:
    print(f"the moment is drawn from seed {(seed := random.SystemRandom().randrange(10**6))}")  # where the test fails
    survive(tmp_path, undisturbed, 1, random.Random(seed))


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(20))
def test_killed_once_at_each_of_20_moments(
    tmp_path: Path, undisturbed: tuple[pd.DataFrame, float], attempt: int
) -> None:
    survive(tmp_path, undisturbed, 1, random.Random(attempt))


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    process = start(tmp_path)
    family: list[psutil.Process] = []
    while process.poll() is None and len(list((tmp_path / "layerwise-store" / "locks").glob("*"))) < 2:
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # the fork server and two workers
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=20)
    for left in alive:
        left.kill()
    assert not alive
