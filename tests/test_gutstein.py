"""Gutstein's protocol: the paper's grid exactly, and what is fitted where the data cannot give it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from layerwise.data import make, open_data
from layerwise.data.dataset import DataSet
from layerwise.errors import StudyError
from layerwise.feed import batches
from layerwise.layers import layers
from layerwise.nets import NETS, build
from layerwise.rows import frame
from layerwise.run import Run, key
from layerwise.start import begin
from layerwise.store import Store
from layerwise.studies import study_module
from layerwise.studies.gutstein import cells, claims, design, remarks, runs, table
from layerwise.studies.request import Request
from layerwise.studies.results import Result
from layerwise.tasks import Parts, codes, examples

from making import contents, done_by, setting


def data_like(classes: int, each: int, columns: dict[str, np.ndarray] | None = None) -> DataSet:
    """Blank images in so many classes."""
    labels = np.repeat(np.arange(classes), each)
    images = np.zeros((len(labels), 1, 32, 32), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels)) % 256
    return make("blank", images, labels, [f"k{c}" for c in range(classes)], columns)


def grid(data: DataSet, **more: object) -> Request:
    """A request for the paper's own grid."""
    return Request(data, experiments="levels", **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sixty_two() -> DataSet:
    return data_like(62, 450)


def test_paper_scale_is_the_papers_grid(sixty_two: DataSet) -> None:
    found = list(cells(design(grid(sixty_two, scale="paper"))))
    sources = [cell.run for cell in found if cell.trial is None]
    targets = [cell.run for cell in found if cell.trial is not None]
    assert (len(sources), len(targets), len({key(run) for run in targets})) == (1, 150, 150)
    assert {(cell.n, cell.run.task.shots, cell.trial) for cell in found if cell.trial is not None} == {
        (n, shots, trial) for n in range(6) for shots in (1, 5, 10, 20, 40) for trial in range(5)
    }
    source = sources[0]
    assert (len(source.task.classes), source.task.shots, source.task.encoding) == (20, 400, "bits:20")
    assert source.recipes[0].stop_at == 0.94
    for run in targets:
        assert len(run.task.classes) == 20
        assert not set(run.task.classes) & set(source.task.classes)
        assert run.source in {None, source}
        assert (run.source is None) == (run.treatment.copied == ((False,) * 6,))
    tested = examples(targets[0].task, sixty_two.labels, {}, sixty_two.class_names).test
    assert len(tested) == 1_000


def test_what_is_compared_is_paired(sixty_two: DataSet) -> None:
    """All n of a trial share samples, codes and fresh weights; trials and class splits do not."""
    found = [cell for cell in cells(design(grid(sixty_two, trials=2, seeds=2))) if cell.trial is not None]
    trials = [(cell.seed, cell.trial) for cell in found if cell.n == 0 and cell.run.task.shots == 1]
    assert len(trials) == 4
    fresh = [head(cell.run) for cell in found if cell.run.task.shots == 1]
    for at in trials:
        same = [cell.run for cell in found if (cell.seed, cell.trial) == at]
        weights = [head(run) for run in same]
        assert all(torch.equal(weights[0], other) for other in weights)
        assert len({codes(run.task).tobytes() for run in same}) == 1
        assert len({next(batches(run, 0, 100)).numpy().tobytes() for run in same}) == 1
        few = {tuple(train_part(run, sixty_two)) for run in same if run.task.shots == 1}
        more = {tuple(train_part(run, sixty_two)) for run in same if run.task.shots == 5}
        assert len(few) == len(more) == 1
        assert set(few.pop()) < set(more.pop())
    assert len({weight.numpy().tobytes() for weight in fresh}) == 4


def head(run: Run) -> torch.Tensor:
    """The fresh weights of the last layer, which no n copies."""
    net = build("lenet5", (1, 32, 32), 20, seed=0)
    found = layers(net, torch.zeros(1, 1, 32, 32))
    return begin(run, 0, found, (1, 32, 32), net.state_dict(), None)["F6.0.weight"]


def train_part(run: Run, data: DataSet) -> list[int]:
    return examples(run.task, data.labels, data.columns, data.class_names).train.tolist()


def test_demo_has_five_sources_with_their_own_classes(sixty_two: DataSet) -> None:
    made = design(grid(sixty_two))
    found = list(cells(made))
    sources = {cell.run for cell in found if cell.trial is None}
    assert len({source.task.classes for source in sources}) == len(sources) == 5
    assert len(found) == 125
    assert made.notes == (
        "classes: 20 for the source; 20 others for the target, chance 5%",
        "targets: trained for 640 steps, whatever n (the paper does not say how long it trained)",
    )


def test_few_classes_are_halved() -> None:
    made = list(cells(design(grid(data_like(10, 450)))))
    assert {len(cell.run.task.classes) for cell in made} == {5}
    assert design(grid(data_like(10, 450), scale="paper")).parts == Parts("random", 112)


def test_few_samples_are_said() -> None:
    made = design(grid(data_like(8, 20), scale="paper"))
    assert made.scale.shots == (1, 5, 10)
    assert made.scale.source_shots == 15
    assert (made.source.stop_at, made.source.steps) == (0.94, 8_000)  # what it stops at is of the samples there are
    assert made.notes == (
        "test images: 5 a class, not 250: the smallest class, 'k0', has 20 images (leave it out with --classes)",
        "classes: 4 for the source; 4 others for the target, chance 25%",
        "samples per class: up to 10; the smallest class has 15 to train on",
        "source: 15 samples per class, all there are (the protocol: 400)",
        "targets: trained for 2,000 steps, whatever n (the paper does not say how long it trained)",
    )


def test_a_source_trains_for_a_fixed_time_only_where_that_is_asked_for(sixty_two: DataSet) -> None:
    for data in (sixty_two, data_like(8, 20)):
        made = design(grid(data, source_steps=70))
        assert (made.source.stop_at, made.source.steps, made.source.drops) == (None, 70, (0.8,))
        told = "source: trained for 70 steps, fixed beforehand; nothing was chosen by looking at accuracy"
        assert told in made.notes


def test_asking_for_more_than_there_is_is_an_error() -> None:
    with pytest.raises(StudyError) as caught:
        design(grid(data_like(8, 20), shots=(1, 40)))
    assert str(caught.value) == "--shots 40: the smallest class has 15 training images; ask for at most that"


def test_hands_that_were_seen_are_not_tested() -> None:
    """55 writers, one image of each class each, up to 40 samples: writers 0 to 39 train, 40 to 54 test."""
    data = data_like(8, 55, {"writer": np.tile(np.arange(55), 8)})
    made = design(grid(data, scale="paper"))
    assert made.parts == Parts("writer", 250, tuple(map(str, range(40, 55))))
    assert made.scale.source_shots == 40
    asked = design(grid(data, scale="paper", hold_out="writer:50-54"))
    assert asked.parts.held_out == ("50", "51", "52", "53", "54")
    for cell in cells(made):
        found = examples(cell.run.task, data.labels, data.columns, data.class_names)
        assert set(data.columns["writer"][found.test]) == set(range(40, 55))
        assert set(data.columns["writer"][found.train]) <= set(range(40))


def test_fewer_shots_change_neither_the_source_nor_the_test() -> None:
    """Bug: the largest number of samples asked for sized the training part, and so the source and the test part."""
    data = data_like(8, 55, {"writer": np.tile(np.arange(55), 8)})
    few, all_of_them = (design(grid(data, scale="paper", shots=shots)) for shots in ((1, 5), None))
    assert few.parts == all_of_them.parts
    assert (few.scale.source_shots, few.source) == (40, all_of_them.source)


def test_too_few_hands_are_still_kept_apart() -> None:
    """Bug: where no part of the writers was enough to train on, images were drawn, and hands were on both sides."""
    data = data_like(8, 30, {"writer": np.tile(np.arange(30), 8)})
    made = design(grid(data))
    assert made.parts == Parts("writer", 100, tuple(map(str, range(23, 30))))
    assert made.scale.shots == (1, 5, 10)
    uneven = np.concatenate([np.arange(330), [330]])  # a ninth class with a single image
    labels, writer = np.append(np.repeat(np.arange(6), 55), 6), np.append(np.tile(np.arange(55), 6), 0)
    images = np.zeros((len(labels), 1, 32, 32), np.uint8)
    images[:, 0, 0, 0] = uneven % 256
    data = make("blank", images, labels, [f"k{c}" for c in range(7)], {"writer": writer})
    assert design(grid(data, classes="0-5")).parts.held_out == tuple(map(str, range(40, 55)))


def test_the_grid_keeps_its_keys(sixty_two: DataSet) -> None:
    """What users have stored stays theirs: the runs of the grid are named as they ever were."""
    for scale, count, digest in (("demo", 125, "1fcb73eeb7e316a1"), ("paper", 151, "df38c8661dd3b079")):
        names = [key(run) for run in runs(design(grid(sixty_two, scale=scale)))]
        assert (len(names), hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]) == (count, digest)


def test_more_trials_and_seeds_rename_nothing(sixty_two: DataSet) -> None:
    """Bug: the second trial of a source took the name of another source's first."""
    few, trials, seeds = (
        {key(run) for run in runs(design(grid(sixty_two, seeds=s, trials=t)))} for s, t in ((2, 1), (2, 3), (4, 1))
    )
    assert few < trials
    assert few < seeds


def test_chars74k_as_it_is(shared: Callable[[str], Path], tmp_path: Path) -> None:
    data, _ = open_data(f"npz:{shared('chars74k/chars74k_hnd.npz')}", tmp_path)
    made = design(grid(data, scale="paper"))
    assert made.parts.held_out == tuple(map(str, range(40, 55)))
    assert (made.scale.source_shots, max(made.scale.shots), made.source.stop_at) == (40, 40, 0.94)
    assert len(runs(made)) == 151


def test_known_classes_and_class_lists(sixty_two: DataSet) -> None:
    made = list(cells(design(grid(sixty_two, known="0-4", classes="0-9", seeds=1))))
    assert made[0].run.task.classes == (0, 1, 2, 3, 4)
    assert {cell.run.task.classes for cell in made[1:]} == {(5, 6, 7, 8, 9)}
    many = list(cells(design(grid(sixty_two, known="0-4", seeds=3))))
    drawn = {cell.run.task.classes for cell in many if cell.trial is not None}
    assert len(drawn) == 3  # twenty of the other 57, anew for each seed
    assert {len(classes) for classes in drawn} == {20}


def test_a_source_that_learnt_too_little_is_said(sixty_two: DataSet) -> None:
    made = design(grid(sixty_two, seeds=2))
    about = {"quantity": "accuracy", "split": "train", "step": 3_000, "trial": None}
    rows = frame([{**about, "run_key": str(seed), "seed": seed, "value": (0.61, 0.95)[seed]} for seed in range(2)])
    assert remarks(made, rows) == ["source of seed 0: right on 61.0% of its training samples in the end, not 94%"]
    assert remarks(design(grid(sixty_two, source_steps=9)), rows) == []
    learnt = {1: 1.0, 40: 0.8}
    scratch = [{**about, "run_key": f"t{k}", "trial": 0, "n": 0, "shots": k, "value": v} for k, v in learnt.items()]
    assert remarks(design(grid(sixty_two, source_steps=9)), frame(scratch)) == [
        "from scratch with 40 samples per class: right on 80% of training samples in the end; these nets have not "
        "finished learning, so that what transfer gains is partly speed (see --steps)"
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"split": "by-luck"}, "--split 'by-luck' is not understood; --split is random:SEED or column:NAME"),
        ({"split": "column:kind"}, "--split column:kind: the classes have no column 'kind' (they have: none)"),
        ({"known": "0-1", "split": "random:1"}, "--known fixes the source's classes and --split draws them; pass one"),
        ({"known": "0"}, "--known 0 gives the source 1 classes and the target 61; both need 2"),
        ({"classes": "0-2"}, "3 classes cannot be split into source and target; at least 4 are needed"),
        ({"seeds": 0}, "--seeds 0 is not possible; the least is 1"),
        ({"scale": "papper"}, "unknown scale 'papper'; did you mean 'paper'? (known: demo, paper)"),
        ({"net": "lenet"}, f"unknown net 'lenet'; did you mean 'lenet5'? (known: {', '.join(sorted(NETS))})"),
        (
            {"hold_out": "writer:3"},
            "--hold-out 'writer:3' is not COLUMN:VALUES of the data, such as writer:40-54",
        ),
    ],
)
def test_options_that_do_not_go(sixty_two: DataSet, asked: dict[str, str], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        design(grid(sixty_two, **asked))
    assert str(caught.value).startswith(message)


def test_another_net_has_its_own_levels(sixty_two: DataSet) -> None:
    made = design(grid(sixty_two, net="lenet5relu", seeds=1))
    assert {cell.n for cell in cells(made)} == {0, 1, 2, 3}


def test_unknown_study() -> None:
    with pytest.raises(StudyError, match=r"unknown study 'gutenstein'; did you mean 'gutstein'\?"):
        study_module("gutenstein")


def test_rows_say_what_the_store_has(blobs: DataSet, tmp_path: Path) -> None:
    """From design to rows through real training: every number of the rows is in the store's records."""
    made = design(grid(blobs, seeds=2, shots=(1, 2), steps=10, source_steps=10))
    wanted = runs(made)
    here = setting(tmp_path, blobs, wanted)
    assert {outcome.state for outcome in done_by(wanted, here)} == {"done"}
    stored = contents(tmp_path)
    results = {}
    for name in stored:
        record = Store(here.store).get(name).result
        curve = tuple((int(a), str(b), str(c), float(d)) for a, b, c, d in record["curve"])
        results[name] = Result(name, curve, record["train_flops"], record["parameters_trained"])
    rows = table(made, results, {})
    for cell in cells(made):
        here = rows[rows["run_key"] == key(cell.run)]
        assert here["n"].eq(cell.n).all()
        assert here["trial"].isna().all() == (cell.trial is None)
        measured = here[here["split"].notna()][["step", "split", "quantity", "value"]].values.tolist()
        assert measured == [list(point) for point in results[key(cell.run)].curve]
    assert [claim.id for claim in claims(rows)] == ["G1", "G2", "G3", "G4", "G5", "G6", "G7"]
    one_lost = {name: result for name, result in results.items() if name != key(wanted[1])}
    assert key(wanted[1]) not in set(table(made, one_lost, {})["run_key"].dropna())
