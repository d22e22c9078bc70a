"""The cells on which advice is scored share no classes, and a small search is what trains each option by itself."""

import csv
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CIFAR = re.compile(
    r"frog|goose|penguin|albatross|retriever|shepherd|chihuahua|persian cat|egyptian cat|tabby|gazelle|wagon"
    r"|convertible|limousine|sports car|\bvan\b|school bus|tractor|trolley|lifeboat|gondola|go-kart",
    re.IGNORECASE,
)  # of Tiny ImageNet's words: CIFAR-10's classes, and near them


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cells

    return cells


def test_sources_and_targets_share_no_class(cells: ModuleType) -> None:
    _, rest = cells.pool("rest of tiny")
    learnt = cells.learnt_of_tiny()
    assert len(learnt) == cells.LEARNT
    assert not set(learnt) & set(rest)
    assert not (set(learnt) | set(rest)) & cells.LIKE_CIFAR
    assert len(rest) >= cells.CLASSES
    letters = cells.ORIGINS["lenet of letters"].classes
    assert not {str(digit) for digit in range(10)} & {
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[k] for k in letters if k < 36
    }
    for cell in cells.CELLS:
        name, _ = cells.pool(cell.target)
        source = cells.ORIGINS[cell.origin].data
        assert source != name or (source, cell.target) == ("tiny", "rest of tiny")


def test_classes_like_those_of_cifar_are_left_out(cells: ModuleType, shared: Callable[[str], Path]) -> None:
    with (shared("tiny_imagenet") / "classes.csv").open(encoding="utf-8") as lines:
        words = {int(line["label"]): line["words"] for line in csv.DictReader(lines)}
    assert {label for label, told in words.items() if CIFAR.search(told)} <= cells.LIKE_CIFAR


def test_there_are_enough_draws_from_five_samples_a_class_up(cells: ModuleType) -> None:
    counted = [cell for cell in cells.CELLS if cell.shots >= 5]
    assert len(counted) >= 12
    assert sum(cell.seeds for cell in counted) >= 200
    assert len({cell.name for cell in cells.CELLS}) == len(cells.CELLS)


def test_a_search_has_every_option_of_every_draw(
    cells: ModuleType, shared: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import regret

    source = replace(cells.ORIGINS["lenet of mnist"], steps=5)
    monkeypatch.setitem(cells.ORIGINS, "lenet of mnist", source)
    monkeypatch.setattr("layerwise.advising.candidates.FEWEST_STEPS", 3)
    monkeypatch.setattr("layerwise.advising.candidates.EPOCHS", 0)
    shared("chars74k")
    folder = shared("mnist").parent
    words = ["regret.py", "search", str(folder), "--store", str(tmp_path), "--cells", "mnist to letters by hand, 1 "]
    monkeypatch.setattr(sys, "argv", [*words, "--seeds", "2"])
    cells.images.cache_clear()
    cells.weights.cache_clear()
    regret.main()
    (table,) = (tmp_path / "search").glob("*.json")
    rows = json.loads(table.read_text())
    options = {(row["treatment"], row["policy"], row["rate"]) for row in rows}
    assert len(rows) == 2 * len(options)
    assert {row["seed"] for row in rows} == {0, 1}
    assert all(0 <= row["accuracy"] <= 1 and row["flops"] > 0 for row in rows)
