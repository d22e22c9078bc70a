"""For every test: one torch thread, axes in annotations checked, a cache folder of its own, shared data by name."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# What a shell starts in the background ignores Ctrl-C, and hands that on to the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
hook = install_import_hook("layerwise", "checking.typechecker")

from layerwise import cli  # noqa: E402
from layerwise.data.dataset import DataSet, make  # noqa: E402

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is measured on this machine is measured once for all tests, and the user's own cache is left alone."""
    base = tmp_path_factory.getbasetemp()
    whole = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["XDG_CACHE_HOME"] = str(whole / "cache")


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """The path of a shared data set; skips, by name, where it is not there."""

    def found(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"shared data '{name}' is not here")
        return path

    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run a command in this process; gives code, out and err."""

    def ran(*words: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["layerwise", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main()
        found = capsys.readouterr()
        return SimpleNamespace(code=exit.value.code or 0, out=found.out, err=found.err)

    return ran


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Gives a folder with room for so much, such as `64k`; skips where mounting is not allowed."""
    place = tmp_path / "disk"

    def mounted(size: str) -> Path:
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("no right to mount a small disk here")
        return place

    yield mounted
    if place.is_mount():
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(scope="session")
def blobs() -> DataSet:
    """Eight easy classes of 32x32 grey images, 30 of each: a bright square whose place is the class, and noise."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 30)
    images = draw.integers(0, 60, (240, 1, 32, 32), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 4 + 12 * (label // 4), 2 + 7 * (label % 4)
        image[0, top : top + 8, left : left + 6] = draw.integers(150, 255)
    return make("blobs", images, labels, [f"class{k}" for k in range(8)])


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[[Path], str]:
    """The page as a browser leaves it when its scripts have run; skips where there is no browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")

    def page(path: Path) -> str:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                   f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--enable-logging=stderr",
                   "--dump-dom", path.as_uri()]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    return page
