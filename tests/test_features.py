"""Features that several processes compute together: each chunk once, whoever dies."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from layerwise import features
from layerwise.execute.processor import as_workers_do
from layerwise.features import CHUNK, Shelf, common_folder

IMAGES = 12 * CHUNK + 7  # the last chunk is not full


def feature(row: int) -> Tensor:
    """What an image of this number becomes."""
    return torch.arange(6.0).view(2, 3) + row


def computes(counted: Counter[int], seconds: float = 0.0) -> Callable[[int], Tensor]:
    """Computes features, and counts how often each chunk was asked for."""

    def compute(begin: int) -> Tensor:
        counted[begin] += 1
        time.sleep(seconds)
        return torch.stack([feature(row % IMAGES) for row in range(begin, begin + CHUNK)])

    return compute


LIKE = torch.zeros(CHUNK, 2, 3)
WHOLE = torch.stack([feature(row) for row in range(IMAGES)])


def test_those_with_a_folder_in_common_compute_each_chunk_once(tmp_path: Path) -> None:
    counted: list[Counter[int]] = [Counter(), Counter(), Counter()]
    found: dict[int, Tensor | None] = {}

    def work(k: int) -> None:
        found[k] = Shelf(0, 2**30, tmp_path).fill("features", IMAGES, LIKE, computes(counted[k], 0.01))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counted, Counter()) == Counter(range(0, IMAGES, CHUNK))
    assert all(counted)  # each did some
    for one in found.values():
        assert one is not None
        assert torch.equal(one, WHOLE)


def test_who_comes_later_finds_all_done(tmp_path: Path) -> None:
    counted: Counter[int] = Counter()
    first = Shelf(0, 2**30, tmp_path).fill("features", IMAGES, LIKE, computes(counted))
    later = Shelf(0, 2**30, tmp_path).fill("features", IMAGES, LIKE, computes(counted))
    assert set(counted.values()) == {1}
    assert first is not None
    assert later is not None
    assert torch.equal(first, later)


def test_what_somebody_took_and_never_did_is_done_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed in the middle of a chunk has taken it for good."""
    monkeypatch.setattr(features, "PATIENCE", 0.5)

    def killed(begin: int) -> Tensor:
        if begin == 5 * CHUNK:
            raise KeyboardInterrupt
        return computes(Counter())(begin)

    with pytest.raises(KeyboardInterrupt):
        Shelf(0, 2**30, tmp_path).fill("features", IMAGES, LIKE, killed)
    counted: Counter[int] = Counter()
    found = Shelf(0, 2**30, tmp_path).fill("features", IMAGES, LIKE, computes(counted))
    assert found is not None
    assert torch.equal(found, WHOLE)
    assert counted == Counter(range(5 * CHUNK, IMAGES, CHUNK))


def test_what_one_lets_go_of_the_other_keeps(tmp_path: Path) -> None:
    size = IMAGES * 6 * 4
    one, other = (Shelf(0, size, tmp_path) for _ in range(2))
    held = other.fill("features", IMAGES, LIKE, computes(Counter()))
    one.fill("features", IMAGES, LIKE, computes(Counter()))
    one.fill("others", IMAGES, LIKE, computes(Counter()))
    assert [file.name for file in tmp_path.iterdir()] == ["others"]
    assert held is not None
    assert torch.equal(held, WHOLE)
    counted: Counter[int] = Counter()
    again = Shelf(0, size, tmp_path).fill("features", IMAGES, LIKE, computes(counted))
    assert again is not None
    assert len(counted) == 13


@pytest.mark.parametrize("common", [True, False], ids=["common", "own"])
def test_the_memory_format_is_kept(tmp_path: Path, common: bool) -> None:
    images = torch.randn(CHUNK, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    shelf = Shelf(0 if common else 2**30, 2**30, tmp_path if common else None)
    found = shelf.fill("features", 2 * CHUNK, images, lambda begin: images + begin)
    assert found is not None
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, torch.cat([images, images + CHUNK]))


def resident(file: str) -> int:
    """Kilobytes of this process's memory that are of a file."""
    maps = Path("/proc/self/smaps").read_text().split(file)[1:]
    return sum(int(part.partition("\nRss:")[2].split()[0]) for part in maps)


def test_at_rest_files_take_no_memory_and_still_hold_the_same(tmp_path: Path) -> None:
    shelf = Shelf(0, 2**30, tmp_path)
    found = shelf.fill("features", IMAGES, LIKE, computes(Counter()))
    assert resident(str(tmp_path / "features")) >= WHOLE.nbytes // 2**10
    shelf.rest()
    assert resident(str(tmp_path / "features")) == 0
    assert found is not None
    assert torch.equal(found, WHOLE)


def test_what_a_process_kept_for_training_is_given_back_afterwards() -> None:
    """A forecast measures speeds as workers train: the parent must not hold that memory while these do."""
    take = psutil.Process().memory_info
    before = take().rss
    with as_workers_do():
        some = [torch.ones(2**18) for _ in range(300)]  # 1 MiB each
        assert take().rss - before > 250 * 2**20
        del some
    assert take().rss - before < 100 * 2**20  # the heap keeps its 64 MiB to grow into


def test_a_folder_that_a_killed_command_has_left_is_removed_and_one_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever killed it killed its workers too, so that nobody of its own was left to remove it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = "import time; from layerwise.features import common_folder\n"
    script += "with common_folder() as folder: (folder / 'f').write_bytes(bytes(9)); print(flush=True); time.sleep(99)"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "layerwise-features-link").symlink_to(elsewhere)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        (its,) = (path.parent for path in tmp_path.glob("layerwise-features-*/f"))
        with common_folder() as ours:
            assert ours.is_dir()
            assert (its / "f").exists()
        assert not ours.exists()
        other.kill()
    assert (its / "f").exists()
    with common_folder() as ours:
        assert sorted(path for path in tmp_path.iterdir() if not path.is_symlink()) == sorted([elsewhere, ours])
    assert not list(elsewhere.iterdir())
