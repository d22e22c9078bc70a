"""The reverse hierarchy study: tasks that differ in one respect, claims by hand, rows that the nets themselves give."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import layerwise
from layerwise.data import load, make, stimuli
from layerwise.data.dataset import DataSet
from layerwise.data.stimuli import KINDS
from layerwise.errors import StudyError
from layerwise.feed import batches, images
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.outputs import Study
from layerwise.report.hierarchy import figures
from layerwise.result import restore
from layerwise.rows import final, frame, pick
from layerwise.run import Run, key
from layerwise.start import begin
from layerwise.store import Store
from layerwise.studies.hierarchy import Cell, cells, claims, design, measurements, remarks, runs, words
from layerwise.studies.hierarchy_claims import depth, kept, relearning
from layerwise.studies.request import Request
from layerwise.tasks import TEST, examples, part


@pytest.fixture(scope="module")
def bars() -> DataSet:
    """Forty arrays of each kind."""
    drawn = stimuli.draw(40, 0)
    names = [kind.name for kind in KINDS]
    return make("stimuli:40", drawn.images, drawn.labels, names, drawn.columns, stimuli.CLASS_COLUMNS)


def kinds(run: Run) -> tuple[stimuli.Kind, ...]:
    return tuple(KINDS[label] for label in run.task.classes)


def found(data: DataSet, **asked: Any) -> list[Cell]:
    return list(cells(design(Request(data, **{"shots": (5,), **asked}))))


# ---- the grid


def test_demo_has_five_worlds_with_an_easy_and_a_hard_source_each(bars: DataSet) -> None:
    every = found(bars)
    sources = [cell for cell in every if cell.trial is None]
    assert len(sources) == len({key(cell.run) for cell in sources}) == 10
    assert len({kinds(cell.run)[1].start * 2 + (kinds(cell.run)[1].side == "left") for cell in sources}) == 5
    assert len(every) - len(sources) == 5 * 2 * 2 * 4  # worlds, difficulties, places, n
    assert len(found(bars, scale="paper", seeds=8, trials=3)) == 8 * 2 * (1 + 3 * 2 * 4)


def test_a_task_is_an_odd_class_against_the_even_one_of_its_orientations(bars: DataSet) -> None:
    for cell in found(bars):
        even, odd = kinds(cell.run)
        assert even == odd.even
        assert odd.difference == {"easy": 30, "hard": 16}[cell.difficulty]


def test_a_place_differs_from_the_trained_one_in_one_respect(bars: DataSet) -> None:
    for cell in found(bars):
        if cell.run.source_run:
            (_, learnt), (_, asked) = kinds(cell.run.source_run), kinds(cell.run)
            assert asked.difference == learnt.difference
            turned, moved = (asked.start - learnt.start) % 180, asked.side != learnt.side
            assert (turned, moved) == {"new orientations": (90, False), "new positions": (0, True)}[cell.place]


def test_nothing_that_is_tested_trained_anything(bars: DataSet) -> None:
    where = [
        examples(run.task, bars.labels, bars.columns, bars.class_names)
        for run in runs(design(Request(bars, shots=(5,))))
    ]
    trained, tested = (np.unique(np.concatenate([getattr(one, name) for one in where])) for name in ("train", "test"))
    assert not set(trained.tolist()) & set(tested.tolist())


def test_what_is_compared_is_paired(bars: DataSet) -> None:
    """All n of a place have the same samples, fresh weights and data order; so has scratch."""
    every = [cell for cell in found(bars, seeds=1, trials=2) if cell.trial is not None]
    for place in ("new orientations", "new positions"):
        for trial in (0, 1):
            same = [c.run for c in every if (c.place, c.trial, c.difficulty) == (place, trial, "easy")]
            assert [run.treatment.copied[0].count(True) for run in same] == [0, 1, 2, 3]
            assert len({head(run).numpy().tobytes() for run in same}) == 1
            assert len({next(batches(run, 0, 10)).numpy().tobytes() for run in same}) == 1
            assert len({run.task for run in same}) == 1
    heads = {head(cell.run).numpy().tobytes() for cell in every}
    assert len(heads) == 2 * 2 * 2


def head(run: Run) -> torch.Tensor:
    """The fresh weights of the last layer, which no n copies."""
    net = build(run.net, (1, 32, 32), 2, seed=0)
    return begin(run, 0, layers(net, torch.zeros(1, 1, 32, 32)), (1, 32, 32), net.state_dict(), None)["F6.weight"]


def test_more_seeds_and_trials_rename_nothing(bars: DataSet) -> None:
    few, more, trials = ({key(cell.run) for cell in found(bars, **asked)} for asked in (
        {"seeds": 2}, {"seeds": 3}, {"seeds": 2, "trials": 2},
    ))  # fmt: skip
    assert few < more
    assert few < trials


def test_experiments_are_what_they_say(bars: DataSet) -> None:
    def made(experiments: str | None) -> tuple[int, list[str]]:
        here = design(Request(bars, shots=(5,), seeds=1, experiments=experiments))
        return len(runs(here)), sorted({one.what for one in measurements(here)})

    assert made("specificity") == (2, ["untouched"])
    assert made("layers") == (2, ["drift"])
    assert made("relearning") == (18, [])
    assert made(None) == (18, ["drift", "untouched"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seeds": 9}, "--seeds 9: there are 8 pairs of a quarter turn and a side to learn in"),
        ({"shots": (31,)}, "--shots 31: the smallest class has 30 training images; ask for at most that"),
        ({"known": "0-3"}, "--known 0-3: the tasks of this study are its own; leave it out"),
        ({"split": "random:1"}, "--split random:1: the tasks of this study are its own; leave it out"),
        ({"classes": "0-9"}, "--classes 0-9: the tasks of this study are its own; leave it out"),
        ({"experiments": "drift"}, "unknown experiment 'drift'"),
    ],
)
def test_options_that_do_not_go(bars: DataSet, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        design(Request(bars, **{"shots": (5,), **asked}))
    assert str(caught.value).startswith(message)


def test_other_data_are_refused(blobs: DataSet) -> None:
    with pytest.raises(StudyError) as caught:
        design(Request(blobs))
    assert str(caught.value) == "data 'blobs' are no arrays of bars; pass --data stimuli or stimuli:PER_CLASS:SEED"


# ---- claims, by hand


def made_up(
    seeds: int = 5, own: tuple[float, float] = (0.9, 0.7), there: tuple[float, float] = (0.8, 0.6)
) -> pd.DataFrame:
    """Two layers, one number of samples; easy and hard nets, of which these shares are right; measured by nobody."""
    rows: list[dict[str, Any]] = [{"layer": layer, "quantity": "parameters", "value": 9} for layer in ("A", "B")]
    for seed in range(seeds):
        for k, condition in enumerate(("easy", "hard")):
            about = {
                "condition": condition,
                "seed": seed,
                "run_key": f"{condition}{seed}",
                "target_task": f"{condition}{seed}",
            }
            curve = {"quantity": "accuracy", "split": "test", "group": "trained", "experiment": "specificity", "n": 0}
            rows += [
                {**about, **curve, "step": step, "value": value} for step, value in ((0, 0.5), (5, 0.6), (10, own[k]))
            ]
            places = {"trained": own[k], "new orientations": there[k], "new positions": 0.5 + 0.1 * k}
            rows += [{**about, "quantity": "untouched_accuracy", "group": g, "value": v} for g, v in places.items()]
            changes = {"A": (1.0, 3.0)[k] + seed, "B": (3.0, 1.0)[k] + seed}
            drift = {"quantity": "distance_to_start_norm", "part": "weights", "step": 10}
            rows += [{**about, **drift, "layer": layer, "value": v} for layer, v in changes.items()]
            rows += [
                row
                for n in (0, 1)
                for place in ("new orientations", "new positions")
                for row in target(about, n, k, place)
            ]
    return frame(rows)


def target(about: dict[str, Any], n: int, k: int, place: str) -> list[dict[str, Any]]:
    """Kept layers bring 10 points after easy and 2 after hard training, at new positions twice that."""
    run = {**about, "run_key": f"{about['run_key']} {n} {place}", "experiment": "relearning", "trial": 0, "n": n}
    gain = n * (0.1, 0.02)[k] * (1 + (place == "new positions"))
    ends = {"accuracy": 0.6 + gain, "parameters_trained": 9.0}
    return [
        {
            **run,
            "group": place,
            "shots": 5,
            "step": 7,
            "quantity": q,
            "value": v,
            "split": "test" if q == "accuracy" else None,
        }
        for q, v in ends.items()
    ]


def test_claims_by_hand() -> None:
    made = {claim.id: claim for claim in claims(made_up())}
    assert list(made) == ["H1", "H2", "H3", "H4", "H5"]
    assert made["H1"].estimate == pytest.approx((0.6 + 0.9) / 2 - (0.6 + 0.7) / 2)
    assert made["H2"].estimate == pytest.approx(0.3 / 0.4 - 0.1 / 0.2)
    assert made["H3"].estimate == pytest.approx(0.0 / 0.4 - 0.1 / 0.2)
    by_seed = [(1 + s + 2 * (3 + s)) / (4 + 2 * s) - (3 + s + 2 * (1 + s)) / (4 + 2 * s) for s in range(5)]
    assert made["H4"].estimate == pytest.approx(np.mean(by_seed))
    assert made["H5"].estimate == pytest.approx(0.08 * 1.5)
    verdicts = {name: claim.verdict for name, claim in made.items()}
    assert verdicts == {
        "H1": "reproduced",
        "H2": "reproduced",
        "H3": "contradicted",
        "H4": "reproduced",
        "H5": "reproduced",
    }
    assert {(claim.clusters, claim.unit) for claim in made.values()} == {(5, "points"), (5, "layers")}
    assert (made["H1"].pairs, made["H5"].pairs) == (5, 5 * 4)
    assert set(made["H1"].rows) == {f"{c}{seed}" for c in ("easy", "hard") for seed in range(5)}
    assert len(made["H5"].rows) == 5 * 2 * (1 + 4)


def test_four_worlds_decide_nothing() -> None:
    assert {claim.verdict for claim in claims(made_up(seeds=4))} == {"undecided"}


def test_of_a_net_that_learnt_nothing_nothing_is_said_that_it_keeps() -> None:
    rows = made_up(own=(0.9, 0.59))
    assert kept(rows, "new orientations")["hard"].isna().all()
    made = {claim.id: claim for claim in claims(rows)}
    assert (made["H2"].estimate, made["H2"].verdict) == (None, "undecided")
    assert made["H1"].verdict == made["H4"].verdict == "reproduced"


def test_a_lost_run_takes_its_world_out_of_relearning() -> None:
    rows = made_up()
    rows = rows[rows["run_key"].ne("hard3 1 new positions").fillna(True)]
    assert relearning(rows).index.get_level_values("seed").tolist() == [0, 1, 2, 4]
    assert {claim.id: claim.clusters for claim in claims(rows)} == {"H1": 5, "H2": 5, "H3": 5, "H4": 5, "H5": 4}


def test_what_was_not_run_is_not_claimed() -> None:
    rows = made_up()
    rows = rows[rows["experiment"].ne("relearning").fillna(True) & rows["part"].isna()]
    made = {claim.id: claim for claim in claims(rows)}
    assert made["H4"].estimate is made["H5"].estimate is None
    assert "not computed" in made["H4"].rule
    assert depth(rows).empty
    assert words(rows, list(made.values()))[1][4].endswith("not measured, the runs that it needs were not made.")


def test_words() -> None:
    rows = made_up()
    answer, findings = words(rows, claims(rows))
    assert answer == (
        "Nets that learnt the easy difference are right on 90.0 % of new images; untouched, they are right on 80.0 % "
        "at new orientations and 50.0 % at new positions. Nets that learnt the hard difference are right on 70.0 % of "
        "new images; untouched, they are right on 60.0 % at new orientations and 60.0 % at new positions. Chance is "
        "50 %. These are means over 5 worlds, each with its own orientations, side and nets."
    )
    assert findings[1] == (
        "Easy training carries over to new orientations, hard training is specific: easy minus hard is +25.0 points "
        "(95 % interval +25.0 to +25.0). H2 is reproduced."
    )
    assert "layers (95 % interval" in findings[3]
    assert ": under 5 decide nothing." in words(made_up(seeds=2), claims(made_up(seeds=2)))[0]
    assert words(frame([]), []) == ("No net was trained.", ())


def test_a_net_that_learnt_too_little_is_said(bars: DataSet) -> None:
    rows = made_up(seeds=1, own=(0.9, 0.55))
    assert remarks(design(Request(bars, shots=(5,))), rows) == [
        "hard source of seed 0: right on 55.0% of new images of its own task, under 60%: it learnt too little for what "
        "it keeps elsewhere to mean anything"
    ]


def test_places_at_which_there_is_nothing_to_compare_are_said(bars: DataSet) -> None:
    rows = made_up(there=(0.54, 0.5))
    assert remarks(design(Request(bars, shots=(5,))), rows) == [
        "at new orientations untouched nets are right on 54.0% after easy training and 50.0% after hard training: near "
        "chance, so there is little to compare"
    ]


def test_figures_show_the_rows() -> None:
    sheet, untouched, relearnt, learnt, drift = figures(made_up())
    assert [one.section for one in (sheet, untouched, relearnt, learnt, drift)] == [
        "learning", "levels", "levels", "learning", "inside",
    ]  # fmt: skip
    shown = untouched.table.set_index(["condition", "group"])["accuracy"]
    assert shown["hard", "new orientations"] == pytest.approx(0.6)
    assert len(shown) == 6
    gained = relearnt.table.set_index(["series", "kept"])["test_accuracy"]
    assert gained["easy, new positions", "1 A"] == pytest.approx(0.8)
    assert drift.table[["condition", "layer"]].values.tolist() == [
        ["easy", "A"],
        ["hard", "A"],
        ["easy", "B"],
        ["hard", "B"],
    ]
    assert [figure.title for figure in figures(frame([]))] == [sheet.title]


# ---- through real training


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """A world with its two sources and a target each way, trained for a moment."""
    place = tmp_path_factory.mktemp("hierarchy")
    study = layerwise.study(
        "hierarchy", data="stimuli:40", seeds=1, shots=[5], steps=6, source_steps=20, store=place / "store",
        out=place / "out", executor="serial", quiet=True,
    )  # fmt: skip
    return study, place


def opened(place: Path) -> DataSet:
    (folder,) = (place / "store" / "data").iterdir()
    return load(folder)


def test_untouched_on_the_own_task_is_the_end_of_the_learning_curve(ran: tuple[Study, Path]) -> None:
    rows = ran[0].rows
    ends = pick(final(rows[rows["trial"].isna()]), quantity="accuracy", split="test").set_index("condition")["value"]
    own = pick(rows, quantity="untouched_accuracy", group="trained").set_index("condition")["value"]
    assert own.sort_index().tolist() == ends.sort_index().tolist()
    assert len(own) == 2


def test_untouched_elsewhere_by_another_way(ran: tuple[Study, Path]) -> None:
    """The class by its name, its test part, the stored net on its pixels."""
    study, place = ran
    data = opened(place)
    every = list(cells(design(Request(data, seeds=1, shots=(5,), steps=6, source_steps=20))))
    source = next(cell.run for cell in every if cell.trial is None and cell.difficulty == "hard")
    learnt = kinds(source)[1]
    net = build(source.net, (1, 32, 32), 2, 0).eval()
    net.load_state_dict(restore(Store(place / "store"), key(source)).weights)
    test = part(source.task.parts, data.labels, data.columns) == TEST
    asked = {
        "new orientations": f"odd 16 {learnt.side} {(learnt.start + 90) % 180}-{(learnt.start + 90) % 180 + 90}",
        "new positions": f"odd 16 {'left' if learnt.side == 'right' else 'right'} {learnt.orientations}",
    }
    for group, name in asked.items():
        even = f"even {name.split()[-1]}"
        outputs, truth = [], []
        for says, of_class in enumerate((even, name)):
            where = np.flatnonzero(test & (data.labels == data.class_names.index(of_class)))
            outputs.append(net(images(data, where, source.net, "float32")).detach())
            truth += [says] * len(where)
        scores = torch.cat(outputs)
        rows = pick(study.rows, condition="hard", group=group, run_key=key(source)).set_index("quantity")["value"]
        right = (scores.argmax(1).numpy() == np.array(truth)).mean()
        assert rows["untouched_accuracy"] == pytest.approx(right)
        odder = roc_auc_score(truth, (scores[:, 1] - scores[:, 0]).double().numpy())
        assert rows["untouched_area"] == pytest.approx(odder)


def test_drift_by_another_way(ran: tuple[Study, Path]) -> None:
    study, place = ran
    asked = Request(opened(place), seeds=1, shots=(5,), steps=6, source_steps=20)
    source = next(cell.run for cell in cells(design(asked)) if cell.difficulty == "easy")
    left = restore(Store(place / "store"), key(source))
    before, after = (state["C3.0.weight"].double() for state in (left.initial, left.weights))
    rows = pick(study.rows, run_key=key(source), layer="C3", part="weights").set_index("quantity")["value"]
    assert rows["distance"] == pytest.approx(float((after - before).norm()))
    assert rows["distance_to_start_norm"] == pytest.approx(float((after - before).norm() / before.norm()))
    assert rows["distance"] > 0


def test_the_report_is_whole(ran: tuple[Study, Path]) -> None:
    study, place = ran
    assert study.failures == ()
    assert [claim.id for claim in study.claims] == ["H1", "H2", "H3", "H4", "H5"]
    page = (place / "out" / "report.html").read_text(encoding="utf-8")
    for title in ("The task: is there an odd one?", "What easy and hard training carry over", "Relearning elsewhere"):
        assert title in page
