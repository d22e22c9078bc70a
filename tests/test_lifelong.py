"""A trunk for a lifetime: the chain of runs, what is left of earlier tasks to the byte, and the claims on it."""

import numpy as np
import pandas as pd
import pytest
import torch

from layerwise.data.dataset import DataSet, save
from layerwise.job import Job, Means
from layerwise.measure import measure
from layerwise.nets import build
from layerwise.progress import Quiet
from layerwise.report.costs import costs_of
from layerwise.report.gutstein import figures
from layerwise.result import restore
from layerwise.rows import pick
from layerwise.run import Run, key
from layerwise.start import State
from layerwise.store import Store
from layerwise.studies.gutstein import cells as grid_cells
from layerwise.studies.gutstein import claims, design, measurements, runs, table, words
from layerwise.studies.gutstein_design import Design
from layerwise.studies.lifelong import Chain, cells, chains, changed_numbers, looks
from layerwise.studies.request import Request
from layerwise.studies.results import Result
from layerwise.tasks import codes, examples
from test_gutstein import data_like
from test_sources import pictured


@pytest.fixture(scope="module")
def sixty_two() -> DataSet:
    return data_like(62, 60)


def test_each_net_begins_with_what_the_one_before_left(sixty_two: DataSet) -> None:
    made = design(Request(sixty_two, experiments="levels,lifelong", seeds=2))
    found = list(chains(made))
    assert len(found) == 2 * 2 * 2
    sources = {cell.seed: cell.run for cell in grid_cells(made) if cell.trial is None}
    for chain in found:
        assert chain.runs[0] == sources[chain.seed]
        assert [run.source for run in chain.runs[1:]] == list(chain.runs[:-1])
        kept = {"frozen": "F", "tuned": "T"}[chain.condition] * chain.n
        assert [run.treatment.expanded for run in chain.runs[1:]] == [kept + "R" * (6 - chain.n)] * 4
        new = [set(run.task.classes) for run in chain.runs[1:]]
        assert [len(classes) for classes in new] == [5] * 4
        assert set.union(*new) == set(made.sides(chain.seed)[1])
        assert {run.task.shots for run in chain.runs[1:]} == {40}
    assert found[0].runs[1].task.classes != found[4].runs[1].task.classes


def test_a_net_from_scratch_has_the_fresh_weights_and_order_of_those_it_is_compared_with(sixty_two: DataSet) -> None:
    found = list(cells(design(Request(sixty_two, experiments="lifelong", seeds=1))))
    for number in range(2, 6):
        here = [cell.run for cell in found if cell.group == f"task {number}"]
        assert len(here) == 5
        assert {(run.task, run.seed, run.draw) for run in here} == {(here[0].task, 0, number - 1)}
        assert [run.source is None for run in here] == [False] * 4 + [True]


def test_few_classes_make_fewer_tasks(blobs: DataSet) -> None:
    found = next(chains(design(Request(blobs, experiments="lifelong", seeds=1))))
    assert [len(run.task.classes) for run in found.runs] == [4, 2, 2]


def test_numbers_that_changed_by_their_bytes() -> None:
    """-0.0 equals 0.0 and is another number of bytes; not-a-number equals nothing and is the same bytes."""
    before = torch.tensor([[1.0, 0.0], [float("nan"), 2.0]])
    after = torch.tensor([[1.0, -0.0], [float("nan"), 2.0 + 2e-7]])
    assert changed_numbers(before, before.clone()) == 0
    assert changed_numbers(before, after) == 2
    assert changed_numbers(torch.tensor(7), torch.tensor(8)) == 1


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Design, Store, DataSet, pd.DataFrame]:
    """Lifetimes of five tasks in two class splits, really trained and measured."""
    data = pictured()
    store = Store(tmp_path_factory.mktemp("lived") / "store")
    place = store.folder / "data" / data.digest
    save(data, place)
    asked = Request(data, experiments="lifelong", seeds=2, shots=(5,), steps=20, source_steps=20)
    made = design(asked)
    wanted, looked_at = runs(made), measurements(made)
    kept = frozenset(key(run) for look in looked_at for run in look.runs)
    job = Job(wanted, store, data, {data.digest: place}, Means("serial"), Quiet(), kept)
    job.complete()
    assert job.failures == []
    measured, failures = measure(looked_at, store, place, 1, Quiet())
    assert failures == []
    results = {}
    for name, record in job.records.items():
        curve = tuple(tuple(point) for point in record.result["curve"])
        results[name] = Result(name, curve, record.result["train_flops"], record.result["parameters_trained"])
    return made, store, data, table(made, results, measured)


def trunk(chain: Chain) -> tuple[str, ...]:
    return ("C1", "S2", "C3", "S4", "C5")[: chain.n]


def test_a_frozen_trunk_is_the_same_bytes_after_every_task(
    lived: tuple[Design, Store, DataSet, pd.DataFrame],
) -> None:
    made, store, _, rows = lived
    for chain in chains(made):
        states = [restore(store, key(run)).weights for run in chain.runs]
        names = [name for name in states[0] if name.startswith(trunk(chain))]
        assert len(names) == 2 * chain.n
        same = [all(s[n].numpy().tobytes() == states[0][n].numpy().tobytes() for n in names) for s in states]
        assert all(same) == (chain.condition == "frozen")
        tops = [name for name in states[0] if name not in names]
        assert not any(torch.equal(states[0][name], states[1][name]) for name in tops)
    frozen = pick(rows, condition="frozen", quantity=["forgotten", "trunk_changed"])
    assert len(frozen) == 2 * 2 * 2 * (1 + 2 + 3 + 4 + 5)  # quantities, splits, levels shared, tasks so far after each
    assert frozen["value"].eq(0).all()


def by_hand(own: State, newest: State, chain: Chain, run: Run, data: DataSet) -> float:
    """Accuracy of a task's own levels on another trunk, by copying modules, and by the nearest of the codes."""
    net, other = (build("lenet5", (1, 32, 32), 20, seed=1).eval() for _ in range(2))
    net.load_state_dict(own)
    other.load_state_dict(newest)
    for name in trunk(chain):
        setattr(net, name, getattr(other, name))
    where = examples(run.task, data.labels, data.columns, data.class_names).test
    pixels = torch.from_numpy(data.images[where]).float() / 255
    with torch.no_grad():
        outputs = net((pixels - 0.1 / 1.275) * 1.275)  # background at -0.1, ink at 1.175
    distances = torch.cdist(outputs, torch.from_numpy(codes(run.task)).float())
    found = np.asarray(run.task.classes)[distances.argmin(1).numpy()]
    return float((found == data.labels[where]).mean())


def test_what_is_left_of_a_task_is_its_own_levels_on_the_newest_trunk(
    lived: tuple[Design, Store, DataSet, pd.DataFrame],
) -> None:
    made, store, data, rows = lived
    differ = 0
    for chain in (c for c in chains(made) if c.condition == "tuned"):
        states = [restore(store, key(run)).weights for run in chain.runs]
        here = pick(rows, condition="tuned", n=chain.n, seed=chain.seed)
        for after, newest in enumerate(states, 1):
            for number, run in enumerate(chain.runs[:after], 1):
                at = pick(here, group=f"task {number}", other_net=f"task {after}").set_index("quantity")["value"]
                own = states[number - 1]
                now, learnt = (by_hand(own, state, chain, run, data) for state in (newest, own))
                assert at["remembered"] == pytest.approx(now)
                assert at["forgotten"] == pytest.approx(learnt - now)
                moved = sum(int((own[k] != newest[k]).sum()) for k in own if k.startswith(trunk(chain)))
                assert at["trunk_changed"] == moved
                differ += moved > 0
    assert differ == 2 * 2 * (1 + 2 + 3 + 4)


def test_what_tasks_add_is_what_they_train_of_their_own(lived: tuple[Design, Store, DataSet, pd.DataFrame]) -> None:
    """C5 and F6 with four levels shared, F6 alone with five: the paper's table 1."""
    rows = lived[3]
    added = pick(rows, quantity="weights_added").groupby(["n", "group"])["value"].agg(["min", "max"])
    expected = {(4, "task 1"): 52_256, (5, "task 1"): 52_256}
    expected |= {(n, f"task {k}"): size for n, size in ((4, 48_120 + 2_420), (5, 2_420)) for k in (2, 3, 4, 5)}
    assert added["min"].to_dict() == added["max"].to_dict() == expected
    trained = pick(rows, quantity="parameters_trained", condition="frozen", n=5)
    assert trained["value"].unique().tolist() == [2_420]


def test_a_lifetime_alone_has_its_words_figures_and_claims(
    lived: tuple[Design, Store, DataSet, pd.DataFrame],
) -> None:
    rows = lived[3]
    found = claims(rows)
    assert [claim.id for claim in found] == ["G1", "G11", "G12", "G20", "G21"]
    by = {claim.id: claim for claim in found}
    assert (by["G11"].verdict, by["G11"].estimate, by["G11"].pairs, by["G11"].clusters) == ("reproduced", 0, 40, 2)
    assert by["G12"].verdict == "undecided"  # two class splits
    answer, findings = words(rows, found)
    assert answer.startswith("The paper's own grid was not run. On one frozen trunk for all tasks, ")
    assert len(findings) == 2
    drawn = figures(rows)
    assert [figure.section for figure in drawn] == ["learning"] * 5 + ["inside"]
    assert {claim.id for claim in found} == {name for figure in drawn for name in figure.claims}
    assert all(figure.chart.to_dict() for figure in drawn)
    weights = drawn[-2].table.set_index(["series", "after"])["weights"].to_dict()
    assert weights["5 levels shared", "3"] == 52_256 + 2 * 2_420
    assert weights["a net for each task", "3"] == 3 * 52_256


def test_claims_on_lifetimes_by_arithmetic(sixty_two: DataSet) -> None:
    """A tuned trunk loses 2 points a later task; new tasks have 0.7 on a frozen one, 0.65 alone, 0.8 on a tuned one."""
    made = design(Request(sixty_two, experiments="lifelong"))
    level = {"F": 0.7, "T": 0.8, "R": 0.65}
    results = {
        key(run): Result(key(run), ((640, "test", "accuracy", level[run.treatment.expanded[0]]),), 1, 1)
        for run in runs(made)
    }

    def lost(chain: Chain, number: int, after: int) -> float:
        return 0.02 * (after - number) * (chain.condition == "tuned")

    measured = {
        look.key: [
            {"run_key": key(run), "group": f"task {number}", "other_net": f"task {len(look.runs)}",
             "quantity": quantity, "value": value}
            for number, run in enumerate(look.runs, 1)
            for quantity, value in (("forgotten", lost(chain, number, len(look.runs))), ("trunk_changed", 0.0))
        ]
        for chain in chains(made)
        for look in looks(chain)
        if len(look.runs) > 1
    }  # fmt: skip
    rows = table(made, results, measured)
    by = {claim.id: claim for claim in claims(rows)}
    learnt = figures(rows)[1].table.groupby("series")["accuracy"].mean().to_dict()
    alone, frozen, tuned = "a net for each task", "frozen, {} levels", "retrained, {} levels"
    wanted = {alone: 0.65, **{frozen.format(n): 0.7 for n in (4, 5)}, **{tuned.format(n): 0.8 for n in (4, 5)}}
    assert learnt == pytest.approx(wanted)
    assert by["G12"].estimate == pytest.approx(0.02 * (4 + 3 + 2 + 1) / 4)
    assert (by["G12"].pairs, by["G12"].clusters, by["G12"].verdict) == (5 * 2 * 4, 5, "reproduced")
    costs = costs_of(table(made, results, measured), []).set_index(["condition", "n"])
    assert costs["clusters"].unique().tolist() == [5]  # four new tasks of a split are no repetitions
    assert costs["trials"].unique().tolist() == [5 * 4]
    assert by["G20"].estimate == pytest.approx(0.05)
    assert by["G21"].estimate == pytest.approx(0.1)
    assert (by["G11"].estimate, by["G11"].verdict) == (0.0, "reproduced")
    first = next(look for chain in chains(made) if chain.condition == "frozen" for look in looks(chain)[1:])
    measured[first.key][1]["value"] = 1.0  # one number of one trunk
    assert {c.id: c.verdict for c in claims(table(made, results, measured))}["G11"] == "contradicted"


def test_a_fixed_source_is_one_cluster(sixty_two: DataSet) -> None:
    """With --known all sources know the same classes: their targets are not those of independent class splits."""
    made = design(Request(sixty_two, experiments="levels,lifelong", known="0-19", seeds=5))
    curve = tuple((640, split, "accuracy", 0.5) for split in ("train", "test"))
    results = {key(run): Result(key(run), curve, 1, 1) for run in runs(made)}
    rows = table(made, results, {})
    by = {claim.id: claim for claim in claims(rows)}
    for name in ("G2", "G20"):
        assert (by[name].clusters, by[name].verdict, by[name].given) == (1, "undecided", "given one class split")
    assert by["G11"].estimate is None
    assert costs_of(rows, [])["clusters"].unique().tolist() == [1]
