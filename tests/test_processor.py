"""How a process that trains uses its processor, and what it leaves as it was."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from layerwise.data.dataset import DataSet, save
from layerwise.execute import work
from layerwise.execute.processor import as_workers_do
from layerwise.job import Job, Means
from layerwise.progress import Quiet
from layerwise.store import Store

from making import ON_GPU, grid

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # without which PyTorch refuses to multiply matrices deterministically on a GPU


@pytest.mark.parametrize("deterministic", [True, False])
def test_runs_are_trained_deterministically_where_that_is_asked_for(
    blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    """PyTorch is told so while they are trained, and is as it was afterwards."""
    monkeypatch.setenv(CUBLAS, "")
    monkeypatch.delenv(CUBLAS)
    found: list[tuple[bool, str | None]] = []
    by_itself: Callable[..., object] = work._train_one

    def seen(*given: object) -> object:
        found.append((torch.are_deterministic_algorithms_enabled(), os.environ.get(CUBLAS)))
        return by_itself(*given)

    monkeypatch.setattr(work, "_train_one", seen)
    store, place = Store(tmp_path / "store"), tmp_path / "blobs"
    save(blobs, place)
    means = Means("serial", device="cpu", deterministic=deterministic)
    Job(grid(blobs, sources=1)[:1], store, blobs, {blobs.digest: place}, means, Quiet()).complete()
    assert found == [(True, ":4096:8") if deterministic else (False, None)]
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("uses_cuda", [True, False])
def test_what_a_gpu_kept_is_given_back_whatever_happens(monkeypatch: pytest.MonkeyPatch, uses_cuda: bool) -> None:
    """And where no GPU was used, none is asked."""
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: uses_cuda)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    with pytest.raises(RuntimeError), as_workers_do():
        torch.empty(2**56)
    assert emptied == [True] * uses_cuda


@pytest.mark.parametrize("device", [ON_GPU])
def test_the_parent_keeps_nothing_of_a_gpu_that_it_has_measured(device: str) -> None:
    before = torch.cuda.memory_reserved()
    with as_workers_do():
        torch.zeros(2**26, device=device)
        assert torch.cuda.memory_reserved() >= before + 2**28
    assert torch.cuda.memory_reserved() < before + 2**28
