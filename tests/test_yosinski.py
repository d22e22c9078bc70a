"""Yosinski's protocol and claims: the paper's grid exactly, and the verdicts that the authors' own nets support."""

import json
import runpy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from layerwise.claims import HOW, Claim, interval, unpaired
from layerwise.data import make
from layerwise.data.dataset import DataSet
from layerwise.errors import StudyError
from layerwise.feed import batches
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.report.costs import costs_of
from layerwise.report.figures import Figure
from layerwise.report.transfer_strip import strip
from layerwise.report.yosinski import PAPERS_GAINS, figures
from layerwise.rows import final, frame, pick
from layerwise.run import Run, key
from layerwise.start import begin
from layerwise.store import Store
from layerwise.studies.request import Request
from layerwise.studies.results import Result
from layerwise.studies.yosinski import Cell, cells, claims, design, remarks, runs, table, words
from layerwise.studies.yosinski_design import Design, halves, kinds
from layerwise.studies.yosinski_nets import losses
from layerwise.treatment import Treatment

from making import contents, done_by, setting

AUTHORS = json.loads((Path(__file__).parent / "yosinski_nets.json").read_text())["nets"]


def data_like(classes: int, each: int, kind: tuple[str, ...] | None = None, channels: int = 1) -> DataSet:
    """Blank images in so many classes."""
    labels = np.repeat(np.arange(classes), each)
    images = np.zeros((len(labels), channels, 32, 32), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels)) % 256
    columns = {"kind": kind} if kind else None
    return make("blank", images, labels, [f"k{c}" for c in range(classes)], class_columns=columns)


@pytest.fixture(scope="module")
def ten() -> DataSet:
    return data_like(10, 120, ("animal",) * 6 + ("vehicle",) * 4)


# ---------------------------------------------------------------- the authors' own nets


@cache
def of_the_authors() -> tuple[pd.DataFrame, dict[str, Claim], set[str]]:
    """Their nets as results of the paper's grid: the rows, the claims, and which nets found their place in it."""
    data = data_like(1_000, 4, ("man-made",) * 551 + ("natural",) * 449, channels=3)
    asked = Request(data, scale="paper", split="column:kind", experiments="transfer,dissimilar,random-filters")
    made = design(asked)
    names = {key(cell.run): name for cell in cells(made) if (name := authors_name(made, cell)) in AUTHORS}
    results = {k: Result(k, ((450_000, "test", "accuracy", AUTHORS[name]),), 0, 0) for k, name in names.items()}
    rows = table(made, results, {})
    return rows, {claim.id: claim for claim in claims(rows)}, set(names.values())


def authors_name(made: Design, cell: Cell) -> str:
    """What the authors called the net of this cell; their A is the first half, and of the kinds the natural one."""
    if cell.experiment == "random-filters":
        return "" if cell.seed else f"nolearn_1_{cell.n}" if cell.n else "netbase"
    is_random = cell.experiment == "transfer"
    split = (halves if is_random else kinds)(made.request, cell.seed, made.width)
    which, letters = (str(cell.seed), "AB") if is_random else ("natman" if cell.seed == 0 else "?", "BA")
    target = letters[split.index(cell.run.task.classes)]
    if cell.n == 0:
        return f"half{which}{target}"
    assert isinstance(cell.run.source, Run)
    source = letters[split.index(cell.run.source.task.classes)]
    tuned = "-ft" if cell.condition.endswith("+") else ""
    twice = which if is_random else ""
    return f"transfer{tuned}{which}{source}{twice}{target}_1_{cell.n}"


def test_every_net_of_the_authors_has_its_place_in_the_papers_grid() -> None:
    """Their BnB nets are of the halves A only, so that a cell of ours may be empty, but no net of theirs homeless."""
    assert of_the_authors()[2] == set(AUTHORS)
    assert len(AUTHORS) == 136


def test_the_authors_nets_give_the_means_of_the_papers_figure() -> None:
    """Mean accuracy per condition and n, as the logs were read for the paper's figure 2, to about the third digit."""
    rows = of_the_authors()[0]
    ends = rows[(rows["quantity"] == "accuracy") & (rows["experiment"] == "transfer")]
    means = ends.groupby(["condition", "n"])["value"].mean()
    table = {
        "BnB": (0.627, 0.624, 0.621, 0.605, 0.594, 0.619, 0.623),
        "AnB": (0.628, 0.624, 0.619, 0.600, 0.578, 0.581, 0.543),
        "BnB+": (0.618, 0.622, 0.631, 0.629, 0.630, 0.628, 0.627),
        "AnB+": (0.637, 0.636, 0.643, 0.640, 0.645, 0.646, 0.647),
    }
    assert means["base", 0] == pytest.approx(0.625, abs=0.0005)
    for condition, values in table.items():
        assert [means[condition, n] for n in range(1, 8)] == pytest.approx(values, abs=0.0006)


VERDICTS = {  # estimate in points, clusters, verdict
    "Y1": (8.6, 4, "undecided"),
    "Y1 unpaired": (8.6, 8, "reproduced"),
    "Y2": (2.6, 4, "undecided"),
    "Y2 unpaired": (2.6, 8, "reproduced"),
    "Y3": (-0.6, 1, "undecided"),
    "Y3 unpaired": (-0.7, 2, "undecided"),
    "Y4": (1.0, 2, "undecided"),
    "Y4 unpaired": (1.6, 8, "reproduced"),
    "Y4 self-transfer": (1.0, 2, "undecided"),
    "Y4 self-transfer unpaired": (0.2, 8, "undecided"),
    "Y5": (29.2, 1, "undecided"),
    "Y5 unpaired": (29.2, 2, "undecided"),
    "Y6": (21.8, 1, "undecided"),
    "Y6 unpaired": (21.8, 2, "undecided"),
    "Y7 co-adaptation": (2.4, 4, "undecided"),
    "Y7 co-adaptation unpaired": (2.6, 8, "reproduced"),
    "Y7 specificity": (8.2, 4, "undecided"),
    "Y7 specificity unpaired": (8.1, 4, "undecided"),
}


def test_the_authors_nets_give_the_verdicts_that_their_numbers_support() -> None:
    """Four random splits decide nothing paired; pooled, Y4 is reproduced, and its self-transfer shrinks to nothing."""
    found = of_the_authors()[1]
    assert {name: (round(100 * (c.estimate or 0), 1), c.clusters, c.verdict) for name, c in found.items()} == VERDICTS
    for name, claim in found.items():
        assert claim.published == f"{VERDICTS[name][0]:+.1f} points (released logs)"
    assert [found[name].pairs for name in ("Y1", "Y2", "Y4", "Y6")] == [8, 8, 10, 4]


def test_what_the_paper_pooled_is_shown_and_not_counted() -> None:
    """Bug: nine claims whose clusters share halves and bases eased the correction for all others, and were counted."""
    found = of_the_authors()[1]
    pooled = {name: claim for name, claim in found.items() if name.endswith(" unpaired")}
    assert len(pooled) == 9
    assert {(claim.tallied, claim.p, claim.outlasts) for claim in pooled.values()} == {(False, None, None)}
    assert "reproduced" in {claim.verdict for claim in pooled.values()}
    assert all(claim.tallied for name, claim in found.items() if name not in pooled)
    whole = {claim.id: claim for claim in claims(made_up(made_of_two_causes))}
    assert whole["Y5"].p is not None  # of independent groups, each net with its own base
    assert {name for name, claim in whole.items() if claim.p is None} == set(pooled)


def test_paired_and_pooled_differ_where_halves_differ() -> None:
    """By hand: AnB+ is of the halves 0B and 1B, which are easier than the mean half; so pooling adds half a point."""
    found = of_the_authors()[1]
    bases = [AUTHORS[f"half{k}{half}"] for k in range(4) for half in "AB"]
    plus = {name: value for name, value in AUTHORS.items() if name.startswith("transfer-ft") and "B_1" in name}
    pooled = unpaired(list(plus.values()), bases, 0.95)
    assert found["Y4 unpaired"].estimate == pytest.approx(pooled.estimate)
    assert found["Y4 unpaired"].interval == pytest.approx(pooled.bounds)
    gains = [[v - AUTHORS[f"half{k}B"] for name, v in plus.items() if f"ft{k}" in name] for k in range(2)]
    assert found["Y4"].estimate == pytest.approx(np.mean([np.mean(of_split) for of_split in gains]))
    assert len(found["Y4"].rows) == 2 + 2 + 10  # sources, bases, nets


def test_nets_that_all_end_alike_have_a_point_for_an_interval() -> None:
    """Bug: of nets that had learnt nothing, all at chance, scipy warned and gave no interval."""
    assert unpaired([0.25] * 3, [0.125] * 3, 0.95).bounds == (0.125, 0.125)
    found = unpaired([0.25] * 3, [0.1, 0.2, 0.3], 0.95)
    assert found.bounds == pytest.approx([0.05 - 0.1 * 4.302653 / 3**0.5, 0.05 + 0.1 * 4.302653 / 3**0.5])
    assert {claim.verdict for claim in claims(made_up(lambda *_: 0.5)) if claim.id != "Y3"} == {
        "undecided",
        "reproduced",
    }


def test_two_directions_of_a_split_are_one_cluster_of_its_costs() -> None:
    """As in the paired claims, so in the figure of costs: whiskers of AnB are over four splits, not eight halves."""
    rows, found, _ = of_the_authors()
    nets = rows[rows["experiment"].isin(["transfer"]) & rows["condition"].isin(["AnB", "BnB"])]
    table = costs_of(nets, [])
    assert set(table["clusters"]) == {found["Y1"].clusters} == {4}
    (row,) = table[(table["condition"] == "AnB") & (table["n"] == 7)].to_dict("records")
    ends = pick(nets, quantity="accuracy", split="test", condition="AnB", n=7)
    assert len(ends) == 8
    by_split = ends.groupby("seed")["value"].mean().astype(float)
    assert (row["low"], row["high"]) == pytest.approx(interval(by_split.tolist(), 0.95))


def test_dissimilar_halves_fall_three_times_as_far() -> None:
    rows = of_the_authors()[0]
    found = of_the_authors()[1]
    random = np.mean([1 - (AUTHORS[f"transfer{k}{s}{k}{t}_1_7"] - 1 / 449) / (AUTHORS[f"half{k}{t}"] - 1 / 449)
                      for k in range(4) for s, t in ("AB", "BA")])  # fmt: skip
    assert (random + (found["Y5"].estimate or 0)) / random == pytest.approx(3.2, abs=0.05)
    assert rows.loc[rows["quantity"] == "chance", "value"].round(6).unique().tolist() == [0.002227, 0.001114]


# ---------------------------------------------------------------- the grid


def test_paper_scale_is_the_papers_grid(ten: DataSet) -> None:
    made = design(Request(ten, scale="paper", split="column:kind"))
    found = list(cells(made))
    counts = Counter((cell.experiment, cell.condition) for cell in found)
    assert counts == {
        ("transfer", "base"): 4 * 2,
        **{("transfer", name): 4 * 2 * 7 for name in ("BnB", "BnB+", "AnB", "AnB+")},
        ("dissimilar", "base"): 4 * 2, ("dissimilar", "AnB"): 4 * 2 * 7,
        ("random-filters", "base"): 4, ("random-filters", "random filters"): 4 * 7,
        ("preserve", "preserve 1"): 4 * 2 * 6, ("preserve", "preserve 2"): 4 * 2 * 5,
        ("matched", "matched"): 4 * 2 * 7, ("rewound", "rewound"): 4 * 2 * 7,
        ("samples", "fewer samples"): 4 * 6,
    }  # fmt: skip
    assert all(cell.trial == 0 for cell in found)
    letters = {(c.condition, c.n): c.run.treatment.expanded for c in found}
    assert [letters[name, 3] for name in ("BnB", "AnB+", "preserve 1", "preserve 2", "random filters")] == [
        "FFFRRRRR", "TTTRRRRR", "FFFTRRRR", "FFFTTRRR", "XXXRRRRR"
    ]  # fmt: skip
    assert [letters["matched", 2], letters["rewound", 7]] == ["MMRRRRRR", "WWWWWWWR"]
    for cell in found:
        run, task = cell.run, cell.run.task
        if cell.condition.startswith("BnB"):
            assert run.source.task == task  # type: ignore[union-attr]
        elif run.source is not None:
            assert not set(run.source.task.classes) & set(task.classes)  # type: ignore[union-attr]
        assert task.shots == 90 or cell.condition == "fewer samples"
        assert task.width == (8 if cell.experiment in {"random-filters", "samples"} else 4)
        learns_it_all = run.source is None and cell.condition != "random filters"
        assert run.recipes == (made.base if learns_it_all else made.target,)
    assert made.base == replace(made.target, evaluate_every=made.target.steps // 20)


def test_the_papers_recipe(ten: DataSet) -> None:
    """Batches of 256, momentum 0.9, decay 5e-4, the rate 0.01 and a tenth after each 100,000 of 450,000 steps."""
    made = design(Request(ten, scale="paper"))
    recipe = made.target
    assert (recipe.batch_size, recipe.optimiser, recipe.momentum, recipe.weight_decay) == (256, "sgd", 0.9, 5e-4)
    assert recipe.steps == -(-179 * 5 * 90 // 256)
    shares = [k / 450 for k in (50, 150, 250, 350, 449)]
    assert [recipe.rate_at(int(share * recipe.steps)) for share in shares] == pytest.approx(
        [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    )
    colour = data_like(8, 4, channels=3)
    big = make("big", np.repeat(np.repeat(colour.images, 7, 2), 7, 3), colour.labels, colour.class_names)
    assert design(Request(big, scale="paper", net="alexnet8", experiments="transfer")).target.frozen_dropout
    assert not recipe.frozen_dropout


def test_paper_scale_takes_the_papers_net_where_images_fit(ten: DataSet) -> None:
    """Bug: small8 was the default at every scale, and refused the images of the paper's size."""
    stands_in = "net: small8 in the place of the paper's alexnet8, which takes colour images of 224x224 (--resize 224)"
    small = design(Request(ten, scale="paper"))
    assert (small.net, stands_in in small.notes) == ("small8", True)
    assert stands_in not in design(Request(ten)).notes
    colour = data_like(8, 4, channels=3)
    big = make("big", np.repeat(np.repeat(colour.images, 7, 2), 7, 3), colour.labels, colour.class_names)
    made = design(Request(big, scale="paper"))
    assert (made.net, made.target.frozen_dropout) == ("alexnet8", True)
    assert not [note for note in made.notes if note.startswith("net: ")]
    assert [note[-36:] for note in made.notes if note.startswith("random filters: ")] == [
        "pass --net alexnet8he, which has He's"[-36:]
    ]
    he = design(Request(big, scale="paper", net="alexnet8he"))
    assert he.target.frozen_dropout
    assert not [note for note in he.notes if note.startswith(("net: ", "random filters: "))]


def test_demo_has_one_direction_and_five_splits(ten: DataSet) -> None:
    made = design(Request(ten))
    found = list(cells(made))
    bases = [cell for cell in found if (cell.experiment, cell.condition) == ("transfer", "base")]
    assert [cell.trial for cell in bases] == [None, 0] * 5
    assert len({cell.run.task.classes for cell in bases}) == 10
    cuts = {c.n for c in found if c.condition == "AnB"}
    assert {1, 2, 4, 5, 7} <= cuts  # what Y1, Y2, Y6 and Y7 need
    assert made.notes[-1] == ("dissimilar halves: none, as no kinds were named (--split column:NAME, or --known LIST)")


def test_what_is_compared_is_paired(ten: DataSet) -> None:
    """All transfers of a trial share fresh weights and data order; trials and class splits do not, nor do bases.

    A base shares classes and samples with the nets it is compared with, but begins on its own, as it is a source too.
    """
    every = list(cells(design(Request(ten, trials=2, seeds=2))))
    found = [c for c in every if c.run.source is not None]
    heads: dict[tuple[int, int | None], set[bytes]] = {}
    orders: dict[tuple[int, int | None], set[bytes]] = {}
    for cell in found:
        heads.setdefault((cell.seed, cell.trial), set()).add(head(cell.run).numpy().tobytes())
        orders.setdefault((cell.seed, cell.trial), set()).add(next(batches(cell.run, 0, 450)).numpy().tobytes())
    assert {len(same) for same in (*heads.values(), *orders.values())} == {1}
    assert len({next(iter(same)) for same in heads.values()}) == len(heads) == 4
    bases = [c for c in every if (c.experiment, c.condition) == ("transfer", "base") and c.trial is not None]
    assert len(bases) == 2
    for base in bases:
        assert {cell.run.task for cell in found if cell.seed == base.seed} == {base.run.task}
        assert head(base.run).numpy().tobytes() not in set().union(*heads.values())
        assert next(batches(base.run, 0, 450)).numpy().tobytes() not in set().union(*orders.values())
    assert "as Yosinski's bases are" in HOW["One contrast"]


def test_random_filters_begin_as_their_base_does(ten: DataSet) -> None:
    found = list(cells(design(Request(ten, seeds=1, experiments="random-filters"))))
    assert {cell.condition for cell in found} == {"base", "random filters"}
    assert len({head(cell.run).numpy().tobytes() for cell in found}) == 1
    assert len({next(batches(cell.run, 0, 450)).numpy().tobytes() for cell in found}) == 1


def head(run: Run) -> torch.Tensor:
    """The fresh weights of the last layer, which no n copies."""
    net = build("small8", (1, 32, 32), run.task.outputs, seed=0)
    found = layers(net, torch.zeros(1, 1, 32, 32))
    return begin(run, 0, found, (1, 32, 32), net.state_dict(), net.state_dict())["fc8.weight"]


def test_more_trials_and_seeds_rename_nothing(ten: DataSet) -> None:
    few, trials, seeds = (
        {key(run) for run in runs(design(Request(ten, seeds=s, trials=t)))} for s, t in ((2, 1), (2, 3), (4, 1))
    )
    assert few < trials
    assert few < seeds


def test_kinds_give_equal_halves_and_so_do_the_random_ones_beside_them(ten: DataSet) -> None:
    """Six animals and four vehicles: four of each, the animals drawn anew for each seed; random halves of four too."""
    for asked in (Request(ten, split="column:kind"), Request(ten, known="6-9")):
        found = [cell for cell in cells(design(asked)) if cell.condition == "base"]
        assert {len(cell.run.task.classes) for cell in found if cell.experiment != "random-filters"} == {4}
        classes = [cell.run.task.classes for cell in found if cell.experiment == "dissimilar"]
        assert sum(set(one) <= set(range(6)) for one in classes) == 5
        assert sum(one == (6, 7, 8, 9) for one in classes) == 5
        assert len(set(classes)) > 2
    several = kinds(Request(ten, known="0-5"), 1, 4)
    assert (len(several[0]), several[1]) == (4, (6, 7, 8, 9))


LEFT_OUT = "is for the experiment '{}', which --experiments leaves out; name it there"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"experiments": "dissimilar"},
            "experiment 'dissimilar' needs two kinds of classes: pass --split column:NAME or --known LIST",
        ),
        ({"experiments": "transfer", "known": "0-4"}, f"--known 0-4 {LEFT_OUT.format('dissimilar')}"),
        ({"experiments": "transfer", "split": "column:kind"}, f"--split column:kind {LEFT_OUT.format('dissimilar')}"),
        ({"experiments": "transfer", "shots": (5,)}, f"--shots {LEFT_OUT.format('samples')}"),
        ({"shots": (5, 90)}, "--shots 90: all other nets have 90 samples per class; ask for fewer"),
        ({"split": "column:colour"}, "--split column:colour: the classes have no column 'colour' (they have: kind)"),
        ({"split": "by-luck"}, "--split 'by-luck' is not understood; --split is random:SEED or column:NAME"),
        ({"experiments": "transfre"}, "unknown experiment 'transfre'; did you mean 'transfer'? (known: "),
        ({"classes": "0-2"}, "3 classes cannot be split into source and target; at least 4 are needed"),
    ],
)
def test_options_that_do_not_go(ten: DataSet, asked: dict[str, str], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        design(Request(ten, **asked))  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_source_steps_are_of_the_bases(ten: DataSet) -> None:
    made = design(Request(ten, source_steps=7, steps=5))
    steps = {(cell.condition in {"base", "fewer samples"}, cell.run.steps) for cell in cells(made)}
    assert steps == {(True, 7), (False, 5)}
    assert "bases, which are sources and controls: 7 steps (--source-steps)" in made.notes


# ---------------------------------------------------------------- claims


LETTERS = {"base": "R", "BnB": "F", "BnB+": "T", "AnB": "F", "AnB+": "T", "random filters": "X"}


def made_up(accuracy: Callable[[str, int, int], float], seeds: int = 5, net: str = "small8") -> pd.DataFrame:
    """Rows for tests only: both directions of some class splits, accuracies a function of condition, n and target."""
    found = []
    for seed in range(seeds):
        conditions = {
            "transfer": ("BnB", "BnB+", "AnB", "AnB+"),
            "dissimilar": ("AnB",),
            "random-filters": ("random filters",),
        }
        for experiment, names in conditions.items():
            for target in range(1 if experiment == "random-filters" else 2):
                for condition, n in [("base", 0), *((name, n) for name in names for n in range(1, 8))]:
                    where = {
                        "experiment": experiment, "condition": condition, "n": n, "seed": seed, "trial": 0, "net": net,
                        "target_task": f"{experiment}{seed}{target}", "cluster": f"class split {seed}",
                        "run_key": f"{experiment}-{seed}-{target}-{condition}-{n}",
                        "source_key": None if n == 0 else f"{experiment}-{seed}-source", "shots": 90,
                        "source_task": f"{experiment}{seed}{target ^ (condition[0] == 'A')}" if n else None,
                        "treatment": str(Treatment.parse(LETTERS[condition] * n + "R" * (8 - n))),
                    }  # fmt: skip
                    value = accuracy(f"{experiment} {condition}", n, 2 * seed + target)
                    found.append({**where, "step": 9, "split": "test", "quantity": "accuracy", "value": value})
                    if n == 0:
                        found.append({**where, "quantity": "chance", "value": 0.1})
    sizes = [{"layer": f"l{k}", "quantity": "parameters", "value": 1.0} for k in range(8)]
    return frame([*found, *sizes])


def wobble(target: int) -> float:
    """Of targets: seeds differ a little, so that intervals are no points."""
    return 0.0001 * (target % 3)


def made_of_two_causes(name: str, n: int, target: int) -> float:
    """base 0.5 + target / 100; co-adaptation 2 points at n = 4 and 5; specificity n points, twice where dissimilar."""
    experiment, _, condition = name.partition(" ")
    base = 0.5 + target / 100
    loss = 0.02 * (n in {4, 5}) + (0.01 * n * (1 + (experiment == "dissimilar")) if "A" in condition else 0)
    change = {"base": 0.0, "BnB+": 0.005, "AnB+": 0.03, "random filters": -0.1 * n}.get(condition, -loss)
    return base + change + wobble(target * (n + 1)) * (n > 0)


def test_contrasts_by_arithmetic() -> None:
    """Each contrast of nets whose accuracies are sums; the wobble is at most 0.02 points."""
    found = {claim.id: claim for claim in claims(made_up(made_of_two_causes))}
    above = [0.4 + target / 100 for target in range(10)]
    kept = np.mean([0.1 / one for one in [0.4 + 2 * seed / 100 for seed in range(5)]])
    wanted = {
        "Y1": 0.06, "Y2": 0.02, "Y3": 0.0, "Y4": 0.03, "Y4 self-transfer": 0.005, "Y7 co-adaptation": 0.02,
        "Y7 specificity": 0.07, "Y5": np.mean([0.07 / one for one in above]),
        "Y6": 1.5 * kept - np.mean([0.03 / one for one in above]),
    }  # fmt: skip
    for name, value in wanted.items():
        assert found[name].estimate == pytest.approx(value, abs=0.0007)
        assert found[f"{name} unpaired"].estimate == pytest.approx(value, abs=0.012)
        assert found[name].clusters == 5
    assert {found[name].verdict for name in wanted} == {"reproduced"}
    assert [found[name].pairs for name in ("Y1", "Y2", "Y4", "Y7 co-adaptation", "Y5", "Y6")] == [
        10,
        20,
        70,
        20,
        20,
        20,
    ]
    assert found["Y5"].p is not None
    assert (found["Y4"].interval or (0, 0))[0] > 0 > (found["Y4 unpaired"].interval or (0, 0))[0] - 0.02


def test_a_dip_that_tuning_keeps_contradicts_y3_and_a_fall_of_anb_plus_y4() -> None:
    def accuracy(name: str, n: int, target: int) -> float:
        dip = 0.03 if name.endswith("BnB+") and n in {4, 5} else 0.0
        return 0.5 - dip - 0.02 * name.endswith("AnB+") + wobble(target * (n + 1))

    found = {claim.id: claim for claim in claims(made_up(accuracy))}
    assert (found["Y3"].verdict, found["Y4"].verdict) == ("contradicted", "contradicted")


def test_a_lost_net_leaves_its_half_out_where_it_is_needed_and_no_other() -> None:
    rows = made_up(made_of_two_causes)
    lost = claims(rows[rows["run_key"].fillna("") != "transfer-3-1-BnB-5"])
    found = {claim.id: claim for claim in lost}
    assert (found["Y2"].pairs, found["Y7 co-adaptation"].pairs, found["Y1"].pairs) == (18, 18, 10)
    assert not [name for name in found["Y2"].rows if name.startswith("transfer-3-1-BnB")]
    no_base = {c.id: c for c in claims(rows[~rows["run_key"].fillna("").str.startswith("transfer-2-0-base")])}
    assert (no_base["Y4"].pairs, no_base["Y5"].pairs) == (63, 19)


def test_trials_of_a_half_are_no_replicates_and_share_its_base() -> None:
    rows = made_up(made_of_two_causes)
    again = rows[rows["n"] > 0].assign(trial=1, run_key=lambda r: r["run_key"] + "-again")
    once, twice = ({c.id: c for c in claims(table)} for table in (rows, pd.concat([rows, again], ignore_index=True)))
    for name in ("Y1", "Y4", "Y5", "Y6", "Y7 co-adaptation"):
        assert twice[name].estimate == pytest.approx(once[name].estimate)
        assert twice[name].interval == pytest.approx(once[name].interval)
        assert (twice[name].clusters, twice[name].pairs) == (5, 2 * once[name].pairs)


def of_one_accuracy(made: Design) -> pd.DataFrame:
    """Rows of the whole grid; what it measures is made up: frozen layers lose, random filters more."""
    lost = {"AnB": 0.01, "random filters": 0.06}
    curves = {
        key(cell.run): (9, "test", "accuracy", 0.8 - lost.get(cell.condition, 0) * cell.n + 0.001 * cell.seed)
        for cell in cells(made)
    }
    return table(made, {name: Result(name, (point,), 0, 0) for name, point in curves.items()}, {})


def test_seeds_with_the_same_dissimilar_classes_are_one_class_split(ten: DataSet) -> None:
    """Bug: with two kinds of equally many classes five seeds trained on the same halves were five clusters."""
    made = design(Request(ten, known="0-4", experiments="transfer,dissimilar,random-filters"))
    tasks = {cell.run.task.name for cell in cells(made) if cell.experiment == "dissimilar"}
    assert len(tasks) == 2
    rows = of_one_accuracy(made)
    found = {claim.id: claim for claim in claims(rows)}
    assert [(found[n].clusters, found[n].verdict) for n in ("Y5", "Y6", "Y1")] == [
        (1, "undecided"), (1, "undecided"), (5, "reproduced")
    ]  # fmt: skip
    assert found["Y5"].quantity.endswith("1 class splits against 5")
    by_seed = pick(rows, experiment="dissimilar", condition="AnB", quantity="accuracy")
    assert by_seed["seed"].nunique() == 5
    assert found["Y6"].given == "given one class split of these two kinds of classes"
    assert found["Y6"].interval is not None  # over its five sources
    kept = next(figure for figure in figures(rows) if figure.title == "Distant tasks and random filters")
    assert set(kept.table.groupby("group")["class_splits"].first().items()) == {
        ("AnB, random halves", 5), ("AnB, dissimilar halves", 1), ("random filters, all classes", 5)
    }  # fmt: skip
    assert kept.caption.endswith("Those of dissimilar halves are given these two kinds of classes.")


def test_dissimilar_halves_that_share_a_kind_are_given_it(ten: DataSet) -> None:
    """Six animals and four vehicles: each seed has its own four animals, but no other vehicles, and no other kinds."""
    made = design(Request(ten, split="column:kind", experiments="transfer,dissimilar,random-filters"))
    animals = {cell.run.task.name for cell in cells(made) if cell.experiment == "dissimilar" and cell.n}
    found = {claim.id: claim for claim in claims(of_one_accuracy(made))}
    for name in ("Y5", "Y6"):
        assert found[name].clusters == len({tuple(kinds(made.request, seed, 4)) for seed in range(5)}) >= 2
        assert found[name].given == "given these two kinds of classes"
        assert found[name].rule.endswith("; this interval is given these two kinds of classes")
    assert found["Y1"].given == ""
    assert len(animals) == 1  # what is learnt in the end: the vehicles
    random = claims(of_one_accuracy(design(Request(ten, experiments="transfer,random-filters"))))
    assert {claim.id: claim.given for claim in random}["Y6"] == ""


def test_claims_need_the_runs_and_the_net_they_are_about() -> None:
    rows = made_up(made_of_two_causes)
    only = rows[rows["experiment"].isna() | (rows["experiment"] == "transfer")]
    found = {claim.id: claim for claim in claims(only)}
    assert {name for name, claim in found.items() if claim.estimate is None} == {
        "Y5",
        "Y5 unpaired",
        "Y6",
        "Y6 unpaired",
    }
    shallow = rows[~rows["layer"].isin(["l6", "l7"])]
    found = {claim.id: claim for claim in claims(shallow)}
    assert found["Y1"].estimate == pytest.approx(0.04 + 0.02, abs=0.0007)  # the last cut is now n = 5
    assert [found[name].estimate for name in ("Y2", "Y3", "Y7 specificity unpaired")] == [None] * 3
    nothing = claims(rows[rows["run_key"].isna()])
    assert {claim.verdict for claim in nothing} == {"undecided"}
    assert len(nothing) == 18


def test_the_two_causes_add_up_to_the_loss() -> None:
    """base - AnB = (base - BnB) + (BnB - AnB), at every cut."""
    rows = made_up(made_of_two_causes)
    found = losses(rows).pivot(index="n", columns="cause", values="mean")
    assert found["co-adaptation (base - BnB)"].tolist() == pytest.approx([0, 0, 0, 0.02, 0.02, 0, 0], abs=0.0003)
    assert found["specificity (BnB - AnB)"].tolist() == pytest.approx([n / 100 for n in range(1, 8)], abs=0.0003)
    ends = rows[(rows["quantity"] == "accuracy") & (rows["experiment"] == "transfer")]
    means = ends.groupby(["condition", "n"])["value"].mean()
    whole = [means["base", 0] - means["AnB", n] for n in range(1, 8)]
    assert found.sum(axis=1).tolist() == pytest.approx(whole, abs=1e-12)


def test_the_words_carry_the_numbers() -> None:
    rows = made_up(lambda name, n, target: made_of_two_causes(name, n, target) - wobble(target * (n + 1)) * (n > 0))
    answer, findings = words(rows, claims(made_up(made_of_two_causes)))
    assert answer == (
        "With the bottom 7 layers copied from a net of other classes and frozen, test accuracy changes, in points, by "
        "−7.0 [−7.0 to −7.0] because they are specific to those classes, and by 0.0 [0.0 to 0.0] because they were "
        "parted from the layers above them (co-adaptation: on their own classes they lose it too). With n of them: at "
        "n = 1 −1.0 [−1.0 to −1.0] and 0.0 [0.0 to 0.0]; at n = 4 −4.0 [−4.0 to −4.0] and −2.0 [−2.0 to −2.0]; at "
        "n = 5 −5.0 [−5.0 to −5.0] and −2.0 [−2.0 to −2.0]. Means over 5 class splits, 95 % intervals in brackets."
    )
    assert findings[0].startswith(
        "Copied from the other half and tuned, nets beat their base (contested): +3.0 points ("
    )
    assert all(finding.endswith("is reproduced.") for finding in findings)
    assert words(rows[rows["run_key"].isna()], claims(rows)) == ("No transfer between halves was measured.", ())


# ---------------------------------------------------------------- rows and figures


def overlaid(figure: Figure) -> bool:
    """Is the paper's own curve drawn dashed, with its numbers among the chart's data?"""
    drawn = figure.chart.to_dict()
    dashed = [layer for layer in drawn["layer"] if layer["encoding"].get("y", {}).get("field") == "the_paper"]
    values = [row["the_paper"] for layer in dashed for row in drawn["datasets"][layer["data"]["name"]]]
    assert all("strokeDash" in layer["mark"] for layer in dashed)
    return bool(values) and None not in values


def test_the_papers_gains_are_those_of_the_authors_nets() -> None:
    """Each of their tuned nets minus the base of its own half, as our figure makes it of their rows."""
    rows = of_the_authors()[0]
    gains = {figure.title: figure for figure in figures(rows)}["Where tuning begins, and what it gains"].table
    for condition, published in PAPERS_GAINS.items():
        mine = gains[gains["begin"].str.contains(condition, regex=False)].sort_values("n")
        assert mine["gain"].tolist() == pytest.approx(published, abs=0.0006)
        assert mine["the_paper"].tolist() == list(published)


def test_figures_are_drawn_from_the_rows() -> None:
    rows = made_up(made_of_two_causes)
    drawn = {figure.title: figure for figure in figures(rows)}
    assert runpy.run_path(str(Path(__file__).parents[1] / "docs" / "figures.py"))["FIGURES"]["yosinski"][-1] in drawn
    for figure in drawn.values():
        assert figure.chart.to_dict()["layer"]
        assert figure.section == "levels"
    nets = drawn["Test accuracy of every net, against layers copied"].table
    assert nets["kept"].drop_duplicates().tolist() == ["0", *(f"{n} l{n - 1}" for n in range(1, 8))]
    at = nets.set_index(["condition", "n"])["test_accuracy"]
    assert at["AnB", 0] == at["BnB+", 0] == pytest.approx(0.545)
    assert at["AnB", 7] == pytest.approx(0.545 - 0.07, abs=0.0003)
    kept = drawn["Distant tasks and random filters"].table.set_index(["group", "n"])["kept_share"]
    assert kept["AnB, dissimilar halves", 7] < kept["AnB, random halves", 7] < 1
    papers = drawn["Distant tasks and random filters"].table.set_index(["group", "n"])["the_paper"]
    assert papers["AnB, random halves", 7] == pytest.approx((0.543 - 0.002) / (0.625 - 0.002))
    causes = drawn["The two causes of loss, layer by layer"]
    papers = causes.table.set_index(["cause", "n"])["the_paper"]
    assert papers["co-adaptation (base - BnB)", 5] == pytest.approx(0.031)  # by hand: 0.625 - 0.594
    assert papers["specificity (BnB - AnB)", 7] == pytest.approx(0.080)
    assert "Dashed: the paper's own nets" in causes.caption
    tuned = drawn["Where tuning begins, and what it gains"]
    assert tuned.table.set_index(["begin", "n"])["gain"]["trained on A (AnB+)", 3] == pytest.approx(0.03, abs=0.0003)
    for figure in (causes, drawn["Distant tasks and random filters"], tuned):
        assert "Dashed: the paper's own nets" in figure.caption
        assert overlaid(figure), figure.title
    other = {figure.title: figure for figure in figures(made_up(made_of_two_causes).query("layer != 'l7'"))}
    assert not any(overlaid(figure) or "the_paper" in figure.table for figure in other.values())  # seven layers
    assert len(drawn) == 4
    assert {claim.id.partition(" ")[0] for claim in claims(rows)} == {c for f in drawn.values() for c in f.claims}
    assert figures(rows[rows["run_key"].isna()]) == ()


def test_the_layer_strip_is_of_transfers_between_random_halves() -> None:
    """Selffers have the letters of transfers, and dissimilar halves are another experiment: neither is averaged in."""
    found = strip(made_up(made_of_two_causes))
    assert found is not None
    lanes = {lane.title: [getattr(cell, "value", cell) for cell in lane.cells] for lane in reversed(found.lanes)}
    losses = [n / 100 + 0.02 * (n in {4, 5}) for n in range(1, 8)]
    assert lanes["General"] == [*(pytest.approx(-loss, abs=0.0003) for loss in losses), "fresh"]
    both = [sum(pair) for pair in zip(lanes["Fragile"][:-1], lanes["Specific"][:-1], strict=True)]
    assert both == [pytest.approx(loss, abs=0.0006) for loss in losses]  # the two causes are all of the loss
    assert lanes["Fragile"][3] - lanes["Fragile"][0] == pytest.approx(0.02, abs=0.0006)
    assert found.lacking == {}


def test_figures_of_preserved_layers_and_of_fewer_samples() -> None:
    rows = made_up(made_of_two_causes)
    more = rows[(rows["condition"] == "AnB") & (rows["experiment"] == "transfer") & (rows["n"] < 7)]
    more = more.assign(condition="preserve 1", experiment="preserve", value=more["value"] + 0.01)
    all_classes = rows[(rows["experiment"] == "random-filters") & (rows["condition"] == "base")].assign(shots=90)
    few = all_classes.assign(condition="fewer samples", experiment="samples", shots=10, value=0.3)
    few = few[few["quantity"] == "accuracy"].assign(run_key=lambda r: r["run_key"] + "-10")
    rest = rows[~rows["run_key"].isin(all_classes["run_key"])]
    drawn = {f.title: f for f in figures(pd.concat([rest, all_classes, few, more], ignore_index=True))}
    table = drawn["Preserving the layers above the cut"].table.set_index(["tuned", "n"])["test_accuracy"]
    assert (table["1", 4] - table["none (AnB)", 4]) == pytest.approx(0.01)
    samples = drawn["Bases from fewer samples"]
    assert samples.table[["shots", "test_accuracy"]].to_numpy().tolist() == [
        [10, pytest.approx(0.3)],
        [90, pytest.approx(0.54)],
    ]
    assert samples.section == "learning"
    assert len(drawn) == 6


def test_rows_say_what_the_store_has(blobs: DataSet, tmp_path: Path) -> None:
    """From design to rows through real training, every treatment of the study: its numbers are the store's."""
    made = design(Request(blobs, seeds=1, steps=2, shots=(2,), known="0-3"))
    wanted = runs(made)
    here = setting(tmp_path, blobs, wanted)
    assert {outcome.state for outcome in done_by(wanted, here)} == {"done"}
    results = {}
    for name in contents(tmp_path):
        record = Store(here.store).get(name).result
        curve = tuple((int(a), str(b), str(c), float(d)) for a, b, c, d in record["curve"])
        results[name] = Result(name, curve, record["train_flops"], record["parameters_trained"])
    rows = table(made, results, {})
    for cell in cells(made):
        of_run = rows[(rows["run_key"] == key(cell.run)) & (rows["experiment"] == cell.experiment)]
        assert of_run["condition"].eq(cell.condition).all()
        assert of_run["trial"].isna().all() == (cell.trial is None)
        measured = of_run[of_run["split"].notna()][["step", "split", "quantity", "value"]].to_numpy().tolist()
        assert measured == [list(point) for point in results[key(cell.run)].curve]
    assert rows.loc[rows["quantity"] == "chance", "value"].tolist() == [0.25, 0.25, 0.25, 0.25, 0.125]
    assert len(claims(rows)) == 18
    assert len(figures(rows)) == 7
    learnt = figures(rows)[-1].table
    assert learnt.groupby("halves", sort=False)["step"].apply(list).to_dict() == {
        "random halves": [0, 1, 2], "halves that differ in kind": [0, 1, 2], "all classes": [0, 1, 2]
    }  # fmt: skip
    ends = pick(final(rows), experiment="transfer", condition="base", quantity="accuracy", split="test")
    shown = pick(learnt, halves="random halves", step=2)["test_accuracy"].item()
    assert shown == pytest.approx(ends["value"].mean())
    in_the_end_alone = pd.concat([rows[rows["step"].isna()], final(rows)])
    assert [one.title for one in figures(in_the_end_alone)] == [one.title for one in figures(rows)[:-1]]
    assert all(str(run.treatment) != "" for run in wanted)
    assert Treatment.parse("W4R4") in {run.treatment for run in wanted}


def test_bases_that_have_not_finished_learning_are_said(ten: DataSet) -> None:
    made = design(Request(ten, experiments="transfer", seeds=1))
    for train, said in ((0.9, ["bases are right on 90% of their training samples in the end: they have not finished "
                               "learning, so that part of what tuned nets gain (AnB+, BnB+) is that they learn on (see "
                               "--steps)"]), (0.99, [])):  # fmt: skip
        curve = ((9, "train", "accuracy", train), (9, "test", "accuracy", 0.6))
        results = {key(cell.run): Result(key(cell.run), curve, 0, 0) for cell in cells(made)}
        assert remarks(made, table(made, results, {})) == said


def test_nets_that_learnt_nothing_are_said(ten: DataSet) -> None:
    made = design(Request(ten, net="small8bn", experiments="random-filters", seeds=2))
    results = {
        key(cell.run): Result(key(cell.run), ((9, "test", "accuracy", 0.15 if cell.n == 4 else 0.6),), 0, 0)
        for cell in cells(made)
    }
    assert remarks(made, table(made, results, {})) == [
        "random filters, n = 4: 2 of 2 nets end below 2 times chance; they learnt nothing, and are counted as they are",
        "random filters of small8bn: their batch norms, never trained, stay at mean 0 and deviation 1",
    ]
