"""What Gutstein et al. wanted next: the runs by the paper's rules, and every contrast by arithmetic."""

import re
from collections.abc import Callable, Mapping

import altair as alt
import numpy as np
import pandas as pd
import pytest
from scipy import linalg, stats

from layerwise.claims import Claim, interval
from layerwise.data.dataset import DataSet
from layerwise.report.gutstein import figures
from layerwise.rows import pick
from layerwise.run import Run, key
from layerwise.studies.gutstein import cells, claims, design, runs, table, words
from layerwise.studies.gutstein_beyond import CRITERIA, partial, sources, tuned
from layerwise.studies.gutstein_beyond_claims import slope_on_doublings
from layerwise.studies.gutstein_design import Design
from layerwise.studies.request import Request
from layerwise.studies.results import Result
from layerwise.treatment import Part
from test_gutstein import data_like


@pytest.fixture(scope="module")
def sixty_two() -> DataSet:
    return data_like(62, 450)


def made_up(
    made: Design, accuracy: Callable[[Run], float], steps: Callable[[Run], int] = lambda run: 640
) -> pd.DataFrame:
    """The rows of a study whose nets have these accuracies after so many steps; nothing is trained."""
    results: dict[str, Result] = {}
    for run in runs(made):
        curve = tuple((steps(run), split, "accuracy", accuracy(run)) for split in ("train", "test"))
        results[key(run)] = Result(key(run), curve, 1, 1)
    return table(made, results, {})


def by_id(rows: pd.DataFrame) -> Mapping[str, Claim]:
    return {claim.id: claim for claim in claims(rows)}


def part_of(run: Run) -> Part | None:
    found = re.search(r"P\(.*\)", str(run.treatment))
    return Part.parse(found[0]) if found else None


def test_a_part_of_c3_and_c5_is_kept_and_the_ends_are_the_papers(sixty_two: DataSet) -> None:
    made = design(Request(sixty_two, experiments="levels,partial"))
    grid = {key(cell.run) for cell in cells(made)}
    found = [cell for cell in partial(made) if cell.trial is not None]
    kinds = {cell.condition: str(cell.run.treatment) for cell in found}
    assert len(kinds) == 2 * (3 + 3 * 3 + 3)
    assert kinds["25% of C3 by saliency, frozen"] == "FFP(0.25,saliency,F)R3"
    assert kinds["50% of C5 by information, retrained"] == "F4P(0.5,information,T)R"
    assert {cell.condition: str(cell.run.treatment) for cell in found if key(cell.run) in grid} == {
        "none of C3": "FFR4", "all of C3, frozen": "F3R3", "none of C5": "F4RR", "all of C5, frozen": "F5R",
    }  # fmt: skip
    assert (kinds["all of C3, retrained"], kinds["all of C5, retrained"]) == ("FFTR3", "F4TR")
    assert {cell.run.task.shots for cell in found} == {10}
    single = partial(design(Request(sixty_two, experiments="partial", shots=(1,), seeds=1)))
    assert not any("information" in (cell.condition or "") for cell in single)


def test_other_nets_have_a_middle_and_a_last_layer_kept_in_part(sixty_two: DataSet) -> None:
    found = partial(design(Request(sixty_two, experiments="partial", net="lenet5relu", seeds=1)))
    assert {cell.condition for cell in found if str(cell.run.treatment) == "FFRR"} == {
        "all of C3, frozen", "none of C5",
    }  # fmt: skip


def test_tuned_and_frozen_differ_in_their_letters_alone(sixty_two: DataSet) -> None:
    made = design(Request(sixty_two, experiments="levels,tuned"))
    grid = {key(cell.run) for cell in cells(made)}
    found = [cell for cell in tuned(made) if cell.trial is not None]
    assert all((key(cell.run) in grid) == (cell.condition != "tuned") for cell in found)
    at = {(cell.seed, cell.n, cell.run.task.shots, cell.condition): cell.run for cell in found}
    for (seed, n, shots, condition), run in at.items():
        if condition == "tuned":
            twin = at[seed, n, shots, "frozen"]
            assert str(run.treatment).replace("T", "F") == str(twin.treatment)
            assert (run.task, run.source, run.seed, run.draw) == (twin.task, twin.source, twin.seed, twin.draw)


def test_sources_by_number_and_choice(sixty_two: DataSet) -> None:
    """All of a split's own source classes are the paper's source; the others are of ten, and none of the target's."""
    made = design(Request(sixty_two, experiments="levels,sources", seeds=2))
    own = {cell.seed: cell.run for cell in cells(made) if cell.trial is None}
    found = {(c.seed, c.condition): c.run.task.classes for c in sources(made) if c.trial is None}
    assert len(found) == 2 * 6
    for seed, run in own.items():
        assert found[seed, "random 20"] == run.task.classes
        five, ten = (set(found[seed, f"random {k}"]) for k in (5, 10))
        assert five < ten < set(run.task.classes)
        for choice in ("similar", "diverse", "probe"):
            classes = found[seed, f"{choice} 10"]
            assert len(set(classes)) == 10
            assert not set(classes) & set(made.sides(seed)[1])
    fixed = design(Request(sixty_two, experiments="sources", known="0-9", seeds=1))
    assert set(fixed.chosen[0]["similar 5"]) < set(range(10))


def test_more_seeds_and_trials_rename_nothing_of_any_experiment(sixty_two: DataSet) -> None:
    def asked(seeds: int, trials: int) -> set[str]:
        wanted = "partial,tuned,sources,lifelong"
        return {key(run) for run in runs(design(Request(sixty_two, seeds=seeds, trials=trials, experiments=wanted)))}

    assert asked(1, 1) < asked(1, 2)
    assert asked(1, 1) < asked(2, 1)


def test_contrasts_on_parts_by_arithmetic(sixty_two: DataSet) -> None:
    """0.4 with none; the criterion's worth times the share on top; 0.03 for retraining; 0.52 with all, frozen."""
    worth = {"saliency": 0.2, "information": 0.12, "random": 0.04}

    def accuracy(run: Run) -> float:
        if part := part_of(run):
            return 0.4 + worth[part.criterion] * part.share + 0.03 * (part.letter == "T")
        return {"FFR4": 0.4, "F4RR": 0.4, "F3R3": 0.52, "F5R": 0.52}.get(str(run.treatment), 0.55)

    found = by_id(made_up(design(Request(sixty_two, experiments="partial")), accuracy))
    assert list(found) == ["G1", "G8", "G13", "G14", "G15", "G16"]
    expected = {"G8": 0.08, "G13": 0.04, "G14": -0.02, "G15": 0.1, "G16": 0.03}
    assert {name: found[name].estimate for name in expected} == pytest.approx(expected)
    assert {found[name].verdict for name in ("G8", "G13", "G15", "G16")} == {"reproduced"}
    assert found["G14"].verdict == "contradicted"
    assert found["G8"].pairs == 5 * 2 * 3
    assert len(found["G8"].rows) == 5 + 2 * 5 * 2 * 3
    assert {claim.clusters for claim in found.values()} == {0, 5}


def test_one_sample_has_no_information_and_does_without(sixty_two: DataSet) -> None:
    """With 1 and 5 samples the information contrast is that of 5, on both sides; with 1 alone it is not measured."""

    def accuracy(run: Run) -> float:
        part = part_of(run)
        return 0.1 * (run.task.shots == 5) if part and part.criterion == "random" else 0.3

    both = by_id(made_up(design(Request(sixty_two, experiments="partial", shots=(1, 5))), accuracy))
    assert both["G13"].estimate == pytest.approx(0.2)
    assert both["G8"].estimate == pytest.approx(0.25)
    one = by_id(made_up(design(Request(sixty_two, experiments="partial", shots=(1,))), accuracy))
    assert (one["G13"].estimate, one["G13"].verdict) == (None, "undecided")
    assert one["G8"].estimate == pytest.approx(0.3)


def test_contrasts_on_retraining_and_sources_by_arithmetic(sixty_two: DataSet) -> None:
    """Retraining n levels brings n points; each doubling of classes 3; similar classes 5 more, diverse ones 5 less."""
    made = design(Request(sixty_two, experiments="tuned,sources"))
    bonus = {"similar": 0.05, "diverse": -0.05, "probe": 0.01}
    extra = {
        made.source_net(classes, seed): bonus.get(choice.split()[0], 0.0)
        for seed, choices in made.chosen.items()
        for choice, classes in choices.items()
    }

    def accuracy(run: Run) -> float:
        learnt = run.source_run
        if learnt is None:
            return 0.2
        letters = run.treatment.letters()[0]
        return 0.3 + 0.01 * letters.count("T") + 0.03 * np.log2(len(learnt.task.classes)) + extra[learnt]

    found = by_id(made_up(made, accuracy))
    assert list(found) == ["G1", "G9", "G10", "G17", "G18", "G19"]
    expected = {"G9": 0.03, "G10": 0.05, "G17": -0.05, "G18": 0.01, "G19": 0.03}
    assert {name: found[name].estimate for name in expected} == pytest.approx(expected)
    assert (found["G17"].verdict, found["G19"].verdict) == ("contradicted", "reproduced")


def test_the_caption_says_how_long_sources_were_trained(sixty_two: DataSet) -> None:
    """Bug: it said "to the same accuracy" of sources that had trained for a fixed number of steps as well."""
    made = design(Request(sixty_two, experiments="sources", seeds=2))
    stopped = figures(made_up(made, lambda run: 0.5, lambda run: 100 * len(run.task.classes)))[0].caption
    assert "every source is trained until it is right on 94 % of its training samples: more classes are also" in stopped
    made = design(Request(sixty_two, experiments="sources", seeds=2, source_steps=1_500))
    fixed = figures(made_up(made, lambda run: 0.5, lambda run: run.recipes[0].steps))[0].caption
    assert "every source is trained for 1,500 steps: more classes are also more images. Choices" in fixed


def test_a_slope_by_its_weights() -> None:
    values = np.random.default_rng(0).normal(size=4)
    assert np.dot(slope_on_doublings([2, 5, 10, 20]), values) == pytest.approx(
        np.polyfit(np.log2([2, 5, 10, 20]), values, 1)[0]
    )


def test_a_lost_run_leaves_its_trial_out_and_a_lost_column_the_claim(sixty_two: DataSet) -> None:
    made = design(Request(sixty_two, experiments="tuned"))
    rows = made_up(made, lambda run: 0.3 + 0.1 * ("T" in str(run.treatment)))
    kept = pick(rows, condition="tuned", n=3)
    one = by_id(rows[rows["run_key"] != kept["run_key"].iloc[0]])["G9"]
    assert (one.clusters, one.estimate) == (4, pytest.approx(0.1))
    every = rows[~rows["run_key"].isin(kept["run_key"]).fillna(False)]
    assert by_id(every)["G9"].estimate is None
    answer, findings = words(every, claims(every))
    assert "not measured" in findings[0]
    assert "nan" not in answer


@pytest.mark.parametrize("experiment", ["levels", "partial", "tuned", "sources"])
def test_words_and_figures_of_any_experiment_alone(sixty_two: DataSet, experiment: str) -> None:
    draw = np.random.default_rng(1)
    rows = made_up(design(Request(sixty_two, experiments=experiment)), lambda run: draw.uniform(0.3, 0.6))
    answer, findings = words(rows, claims(rows))
    assert answer.startswith("Copying and freezing" if experiment == "levels" else "The paper's own grid was not run. ")
    assert "nan" not in " ".join([answer, *findings])
    whose = "The paper's claim" if experiment == "levels" else "Our claim"
    assert all(whose in finding for finding in findings)
    drawn = figures(rows)
    assert {"levels": 8, "partial": 3, "tuned": 2, "sources": 2}[experiment] == len(drawn)
    assert {claim.id for claim in claims(rows)} == {name for figure in drawn for name in figure.claims}
    for figure in drawn:
        assert isinstance(figure.chart, alt.TopLevelMixin)
        assert figure.chart.to_dict()


def test_experiments_together_say_what_each_says_alone(sixty_two: DataSet) -> None:
    """Runs that stand in several experiments are counted in each once: the claims are those of each alone."""
    draw: dict[str, float] = {}

    def accuracy(run: Run) -> float:
        return draw.setdefault(key(run), np.random.default_rng(len(draw)).uniform(0.3, 0.6))

    def asked(names: str) -> pd.DataFrame:
        return made_up(design(Request(sixty_two, experiments=names)), accuracy)

    together, alone = asked("levels,partial,tuned"), {name: asked(name) for name in ("levels", "partial", "tuned")}
    assert {c.id: (c.estimate, c.interval, c.rows) for c in claims(together)} == {
        c.id: (c.estimate, c.interval, c.rows) for rows in alone.values() for c in claims(rows)
    }
    pd.testing.assert_frame_equal(figures(together)[0].table, figures(alone["levels"])[0].table)


def test_g3_is_the_interaction_of_transfer_with_log2_samples(sixty_two: DataSet) -> None:
    """The contrast is minus the interaction term of a least-squares fit to single nets: pooled, and split by split."""
    draw = np.random.default_rng(2)
    rows = made_up(design(Request(sixty_two, experiments="levels")), lambda run: draw.uniform(0.1, 0.9))
    claim = by_id(rows)["G3"]
    nets = pick(rows[rows["trial"].notna()], quantity="accuracy", split="test").astype({"seed": int, "n": int})
    x, transfer = np.log2(nets["shots"].to_numpy(float)), (nets["n"] > 0).to_numpy(float)
    splits = pd.get_dummies(nets["seed"]).to_numpy(float)
    y = nets["value"].to_numpy(float)

    def interaction(some: np.ndarray) -> float:
        terms = np.column_stack([splits, transfer, x, transfer * x])[some]
        return float(linalg.lstsq(terms, y[some])[0][-1])

    assert claim.estimate == pytest.approx(-interaction(np.ones(len(nets), bool)))
    each = [-interaction((nets["seed"] == seed).to_numpy()) for seed in range(5)]
    assert claim.interval == pytest.approx(interval(each, 0.95))
    assert claim.interval == pytest.approx(stats.t.interval(0.95, 4, np.mean(each), stats.sem(each)))
    assert "interaction of transfer with log2(samples per class)" in claim.quantity


def test_the_mixed_model_has_the_same_interaction(sixty_two: DataSet) -> None:
    """Splits as random effects, by statsmodels where it is installed: in a balanced grid the term is the same."""
    formula = pytest.importorskip("statsmodels.formula.api")
    draw = np.random.default_rng(3)
    made = design(Request(sixty_two, experiments="levels"))
    rows = made_up(made, lambda run: draw.uniform(0.1, 0.9) + 0.05 * run.seed)
    nets = pick(rows[rows["trial"].notna()], quantity="accuracy", split="test").astype({"seed": int, "n": int})
    nets = pd.DataFrame({"y": nets["value"].astype(float), "t": (nets["n"] > 0) * 1.0, "seed": nets["seed"],
                         "x": np.log2(nets["shots"].astype(float))})  # fmt: skip
    fitted = formula.mixedlm("y ~ t * x", nets, groups="seed").fit()
    assert by_id(rows)["G3"].estimate == pytest.approx(-fitted.params["t:x"], rel=1e-6)


def test_the_papers_parameters_stand_beside_those_of_the_net(sixty_two: DataSet) -> None:
    """Bug: the scoreboard had no figure for G1."""
    made = design(Request(sixty_two, experiments="levels", seeds=1, shots=(1,)))
    last = figures(made_up(made, lambda run: 0.5))[-1]
    assert last.claims == ("G1",)
    assert last.table.to_dict("list") == {
        "layer": ["C1", "S2", "C3", "S4", "C5", "F6", "all"],
        "parameters": [156, 12, 1_516, 32, 48_120, 2_420, 52_256],
        "paper": [156, 12, 1_516, 32, 48_120, 2_420, 52_256],
    }
    other = design(Request(sixty_two, net="lenet5relu", experiments="levels", seeds=1, shots=(1,)))
    assert list(figures(made_up(other, lambda run: 0.5))[-1].table) == ["layer", "parameters"]


def test_the_shares_of_a_layer_stand_in_their_order(sixty_two: DataSet) -> None:
    rows = made_up(design(Request(sixty_two, experiments="partial")), lambda run: 0.5)
    for figure in figures(rows)[:2]:
        assert list(dict.fromkeys(figure.table["kept"])) == ["none", "25%", "50%", "75%", "all"]
        several = figure.table.groupby("series")["kept"].count().to_dict()
        assert several == {f"{c}, {b}": k for c in CRITERIA for b, k in (("frozen", 5), ("retrained", 3))}
