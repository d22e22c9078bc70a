"""The cells on which advice is scored share no classes, and a small search is what trains each option by itself."""

import csv
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from layerwise.advising import experience
from layerwise.advising.experience import Circumstances, Experience, Seen
from layerwise.run import key

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


def test_a_search_advice_on_its_draws_and_their_scores(
    cells: ModuleType,
    shared: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import regret

    source = replace(cells.ORIGINS["lenet of mnist"], steps=5)
    monkeypatch.setitem(cells.ORIGINS, "lenet of mnist", source)
    monkeypatch.setattr("layerwise.advising.candidates.FEWEST_STEPS", 20)
    monkeypatch.setattr("layerwise.advising.candidates.EPOCHS", 0)
    shared("chars74k")
    folder = shared("mnist").parent
    cells.images.cache_clear()
    cells.weights.cache_clear()
    for what in ("search", "search", "advise", "score"):  # what has its table is not searched again
        words = [what, str(folder), "--store", str(tmp_path / "store"), "--tables", str(tmp_path), "--seeds", "2"]
        words += ["--cells", "mnist to letters by hand, 5 "]
        monkeypatch.setattr(sys, "argv", ["regret.py", *words])
        regret.main()
    (table,) = (tmp_path / "search").glob("*.csv")
    rows = pd.read_csv(table).to_dict("records")
    options = {(row["treatment"], row["policy"], row["rate"]) for row in rows}
    assert len(rows) == 2 * 2 * len(options)
    assert {row["share"] for row in rows} == {0.25, 1.0}
    assert {row["seed"] for row in rows} == {0, 1}
    assert all(0 <= row["accuracy"] <= 1 and row["flops"] > 0 for row in rows)
    (advice,) = (tmp_path / "advised at 10%").glob("*.csv")
    told = pd.read_csv(advice).to_dict("records")
    assert {(row["treatment"], row["policy"], row["rate"]) for row in told} <= options
    assert all(0 < row["share"] <= 0.1 and row["low"] <= row["expected"] <= row["high"] for row in told)
    assert all(isinstance(row[f"best layer by {score}"], str) for row in told for score in ("logme", "h_score"))
    printed = capsys.readouterr().out
    assert "| **advice** |" in printed
    assert "2 draws; advice spent" in printed
    assert "mnist to letters by hand, 5 a class: its table is there" in printed


def test_a_net_that_diverged_is_right_by_chance_and_ends_no_search(
    cells: ModuleType, shared: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: the search of a net that diverges at the largest rate was trained for minutes, and gave no table."""
    import regret

    monkeypatch.setitem(cells.ORIGINS, "lenet of mnist", replace(cells.ORIGINS["lenet of mnist"], steps=5))
    cells.images.cache_clear()
    cells.weights.cache_clear()
    (cell,) = [cell for cell in cells.CELLS if cell.name == "lenet of mnist to letters by hand, 5 a class"]
    shared("chars74k")
    bench = cells.Bench(shared("mnist").parent, tmp_path)
    draw = regret.Draw.of(bench, cell, 0)
    probe = replace(draw.probe, rate=3e38)
    run = draw.run(probe, share=0.25)
    sound = draw.run(draw.probe, share=0.25)
    assert set(regret.trained(bench, [sound, run], draw.data)) == {key(sound)}
    found = regret.row(draw, probe, 0.25, run, None)
    assert (found["accuracy"], found["loss"], found["rate"]) == (0.1, None, 3e38)
    assert found["flops"] > 0


def test_a_single_cell_teaches_no_constants(
    cells: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import regret

    monkeypatch.setattr(regret.Experience, "save", lambda self: None)  # the package keeps its own
    (alone,) = [cell for cell in cells.CELLS if cell.name == "lenet of mnist to omniglot, 5 a class"]
    regret.learn_from(regret.read(regret.TABLES / "search", [alone]))
    assert capsys.readouterr().out == ("no constants of belief: they take cells that share neither source nor target\n")


def test_the_package_has_the_experience_of_all_tables(cells: ModuleType, tmp_path: Path) -> None:
    """`learn` was run after the last search."""
    import regret

    regret.learnt(regret.read(regret.TABLES / "search", cells.CELLS)).save(tmp_path / "experience.json")
    assert (tmp_path / "experience.json").read_text() == experience.FILE.read_text()


def test_the_page_shows_what_the_tables_score(cells: ModuleType) -> None:
    import regret

    searched = regret.whole(regret.read(regret.TABLES / "search", cells.CELLS))
    page = (BENCHMARKS.parent / "docs" / "regret.md").read_text(encoding="utf-8")
    told = {}
    for budget in ("10%", "5%"):
        _, after = page.split(f"<!-- regret at {budget}: begin -->\n")
        shown, _ = after.split(f"<!-- regret at {budget}: end -->")
        told[budget] = regret.scored(searched, regret.read(regret.TABLES / f"advised at {budget}", cells.CELLS))
        assert shown.strip() == (told[budget] if budget == "10%" else in_short(told[budget]))
    assert told["10%"] != told["5%"]


def in_short(scored: str) -> str:
    """The rows of advice and of bars, and what is said of intervals."""
    choices, _, honest, _, bars = scored.split("\n\n")
    return "\n\n".join(["\n".join(choices.split("\n")[:3]), honest, bars])


@pytest.fixture
def scoring(cells: ModuleType) -> ModuleType:
    import scoring

    return scoring


def searched(accuracies: dict[str, list[float]], cell: str = "a") -> pd.DataFrame:
    """A search in which each option is a policy of its own, with an accuracy for each draw."""
    return pd.DataFrame(
        [
            {
                "cell": cell,
                "shots": 5,
                "seed": seed,
                "policy": name,
                "treatment": name,
                "rate": 0.1,
                "accuracy": one,
                "share": 1.0,
            }
            for name, accuracy in accuracies.items()
            for seed, one in enumerate(accuracy)
        ]
    )


def chosen(policies: list[str], cell: str = "a", **more: list[float]) -> pd.DataFrame:
    rows = {"seed": range(len(policies)), "policy": policies, "treatment": policies}
    return pd.DataFrame({"cell": cell, "rate": 0.1, **rows, **more})


def test_the_best_is_chosen_on_the_other_half_of_the_draws(scoring: ModuleType) -> None:
    table = searched({"x": [0.9, 0.5, 0.9, 0.5], "y": [0.6, 0.8, 0.6, 0.8]})
    found = scoring.best_on_other_half(table)  # y is best on draws 1 and 3, x on 0 and 2
    assert found.tolist() == [0.6, 0.5, 0.6, 0.5]


def test_luck_is_not_regret(scoring: ModuleType) -> None:
    """Two options that are equally good: the regret of always taking one is zero on average, not the mean maximum."""
    rng = np.random.default_rng(0)
    table = searched({"x": list(rng.normal(0.5, 0.1, 400)), "y": list(rng.normal(0.5, 0.1, 400))})
    score = scoring.regret(table, chosen(["x"] * 400))
    luckiest = 100 * (table.groupby("seed")["accuracy"].max() - 0.5).mean()
    assert luckiest > 5
    assert abs(score.mean) < 1.5


def test_regret_by_hand(scoring: ModuleType) -> None:
    table = pd.concat([searched({"x": [0.8, 0.9], "y": [0.5, 0.4]}), searched({"x": [0.6, 0.6], "y": [0.7, 0.9]}, "b")])
    score = scoring.regret(table, pd.concat([chosen(["x", "y"]), chosen(["y", "x"], "b")]))
    assert score.by_draw.tolist() == pytest.approx([0, 50, 0, 30])
    assert (score.mean, score.worst, score.worst_cell) == (pytest.approx(20), pytest.approx(25), "a")
    with pytest.raises(ValueError, match=r"no search has z at 0\.1 in a"):
        scoring.regret(table, chosen(["x", "z"]))


def test_a_fixed_policy_has_the_rate_that_is_best_over_all_cells(scoring: ModuleType) -> None:
    table = pd.concat(
        [searched({"x": [0.5, 0.6]}), searched({"x": [0.7, 0.8]}).assign(rate=0.2), searched({"y": [0.9, 0.9]})]
    )
    assert scoring.fixed(table, "x")["accuracy"].tolist() == [0.7, 0.8]


def test_hindsight_has_the_best_option_of_each_cell(scoring: ModuleType) -> None:
    one = searched({"x": [0.5, 0.9], "y": [0.6, 0.6]})
    other = searched({"x": [0.1, 0.1], "y": [0.0, 0.3]}, "b")
    table = pd.concat([one, other])
    found = scoring.hindsight(table)
    assert found.groupby("cell")["accuracy"].apply(list).to_dict() == {"a": [0.5, 0.9], "b": [0.0, 0.3]}
    assert scoring.regret(table, found).by_draw.min() < 0  # the best of one half need not be the best of all


def test_coverage_counts_what_was_held_and_tests_it_over_cells(scoring: ModuleType) -> None:
    cells = list("abcdefgh")
    table = pd.concat([searched({"x": [0.5] * 10}, cell) for cell in cells])
    held = [9, 10, 8, 9, 9, 10, 8, 9]  # of ten intervals
    told = [
        chosen(["x"] * 10, cell, low=[0.4] * 10, high=[0.6] * count + [0.45] * (10 - count))
        for cell, count in zip(cells, held, strict=True)
    ]
    found = scoring.coverage(table, pd.concat(told), 0.9)
    assert (found.draws, found.share, found.p) == (80, pytest.approx(0.9), pytest.approx(1.0))
    short = scoring.coverage(table, pd.concat(told).assign(high=0.45), 0.9)
    assert (short.share, short.p) == (0.0, 0.0)


def test_bars_and_confidence_by_hand(scoring: ModuleType) -> None:
    draws = pd.Series([0.0, 6.0, 0.0, 0.0], pd.MultiIndex.from_product([["a", "b"], [0, 1]], names=["cell", "seed"]))
    advice = scoring.Score(4, 1.5, 3.0, "a", {"a": 3.0, "b": 0.0}, draws)
    others = [replace(advice, mean=mean) for mean in (1.4, 3.0)]
    sure = pd.DataFrame({"cell": list("aabb"), "seed": [0, 1, 0, 1], "sure": [True, False, True, True]})
    assert scoring.by_confidence(advice, sure) == (
        "Advice called itself sure in 3 of 4 draws: its mean regret was 0.00 points there, and 6.00 points in the "
        "others."
    )
    found = scoring.bars(advice, others, 0.101, scoring.Coverage(4, 0.85, 0.9, 0.2))
    assert [bar.met for bar in found] == [False, True, False, False, False, True]
    assert [bar.found for bar in found] == ["4", "1.50", "6.0", "10.1%", "1.40", "85.0%"]
    (*_, honest) = scoring.bars(advice, others, 0.1, scoring.Coverage(4, 0.5, 0.9, 0.01))
    assert not honest.met


def test_the_interval_is_over_cells(scoring: ModuleType) -> None:
    found = pd.Series([1.0, 3.0, 5.0, 7.0], pd.MultiIndex.from_product([["a", "b"], [0, 1]], names=["cell", "seed"]))
    low, high = scoring.interval(found)  # cells 2 and 6: mean 4, deviation 2 sqrt(2), t of one degree 12.706
    assert (low, high) == (pytest.approx(4 - 12.7062 * 2, rel=1e-4), pytest.approx(4 + 12.7062 * 2, rel=1e-4))


def test_what_few_steps_lack_is_taken_from_draws_that_were_trained_both_ways(cells: ModuleType) -> None:
    import believing

    full = searched({"x": [0.8, 0.9, 0.7]})
    short = searched({"x": [0.5, 0.7]}).assign(share=0.25)
    found = believing.lost(pd.concat([full, short]))
    assert found["lost"].tolist() == pytest.approx([-0.3, -0.2])


def test_a_deviation_that_grows_is_found_again(cells: ModuleType) -> None:
    import believing

    sizes = np.linspace(0, 0.3, 4000)
    found = believing.fitted(sizes, np.random.default_rng(0).normal(0, 0.02 + 0.4 * sizes), (0.01, 0.2))
    assert found == (pytest.approx(0.02, rel=0.1), pytest.approx(0.4, rel=0.1))


def test_constants_are_those_of_what_did_better_than_elsewhere(
    cells: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that is expected 0.2 behind, and does 0.1 better in one cell and 0.3 worse in another."""
    monkeypatch.setattr("layerwise.advising.experience.SEARCHES", 1e-7)
    import believing

    names = [("fine-tune", 0.01), ("LP-FT", 0.01), ("scratch", 0.01)]
    up, down, known = (
        Seen(Circumstances(5), dict(zip(names, (0.8, 0.8, last), strict=True)), dict.fromkeys(names, -0.1))
        for last in (0.7, 0.3, 0.6)
    )
    elsewhere = Experience((replace(known, short={}),))
    asked = []
    monkeypatch.setattr(believing, "fitted", lambda *what: asked.append(what) or (0.01, 0.2))
    assert set(believing.constants([(up, elsewhere), (down, elsewhere)])) == {"UPWARDS", "BOTH_WAYS", "SHORT"}
    (behind, better, _), (_, both_ways, _), (lacking, more, _) = asked
    assert behind[better > 1e-6] == pytest.approx([0.2])
    assert better[better > 1e-6] == pytest.approx([0.1])
    assert min(both_ways) == pytest.approx(-0.3)
    assert lacking == pytest.approx([0] * 6)  # nothing was known of that
    assert more == pytest.approx([-0.1] * 6)
