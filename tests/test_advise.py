"""`layerwise advise`: what it looks at, what it spends, that it repeats itself, and that adapt does as it says."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import layerwise
from layerwise import cli
from layerwise.adapting.adapt import adapt
from layerwise.advising.advice import Advice, Considered, load_advice
from layerwise.advising.advise import advise
from layerwise.advising.candidates import RATES, Candidate, Option, options
from layerwise.advising.labels import curve, sizes
from layerwise.advising.racing import UNTRIED
from layerwise.advising.reasons import reasons
from layerwise.data import open_data
from layerwise.data.dataset import DataSet, shape_of
from layerwise.errors import LayersError, StudyError
from layerwise.nets import build, named
from layerwise.nets.weights import wants_colour
from layerwise.probes.folds import Accuracy
from layerwise.probes.linear import LinearProbe
from layerwise.running import running

QUICK: dict[str, Any] = {"quiet": True, "executor": "serial", "budget": 0.12}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small net with weights."""
    path = tmp_path_factory.mktemp("weights") / "lenet.safetensors"
    save_file(build("lenet5relu", (1, 32, 32), 10, 7).state_dict(), path)
    return f"lenet5relu@{path}"


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Options learn for a quarter of the steps: what is tested here is what becomes of their accuracies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerwise.advising.candidates.FEWEST_STEPS", 25)
        patch.setattr("layerwise.advising.candidates.EPOCHS", 5)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one advice: its images, its `store`, and `out`."""
    return tmp_path_factory.mktemp("advice")


@pytest.fixture(scope="module")
def written(place: Path) -> Callable[..., str]:
    """The locator of a data set of so many images a class, the last two of each for testing."""

    def write(data: DataSet, each: int, tested: int = 0) -> str:
        rows = np.concatenate([np.flatnonzero(data.labels == k)[:each] for k in range(4)])
        images = data.images[rows].copy()
        split = np.where(np.arange(len(rows)) % each < each - 2, "train", "test")
        images[split == "test"] += np.uint8(tested)
        file = place / f"{each}-{tested}.npz"
        np.savez(file, images=images, labels=data.labels[rows], split=split)
        return f"npz:{file}"

    return write


@pytest.fixture(scope="module")
def found(net: str, blobs: DataSet, written: Callable[..., str], place: Path) -> Advice:
    advice = advise(net, written(blobs, 12), store=place / "store", out=place / "out", **QUICK)
    assert advice is not None
    return advice


def test_advice_says_what_when_how_sure_and_at_what_cost(net: str, found: Advice, place: Path) -> None:
    (note,) = running(place / "store")  # for `layerwise watch`: the last round
    assert (note.command[:17], note.ended is None) == ("layerwise.advise(", False)
    assert "ahead: " in note.said
    assert found.weights == sha256(Path(net.partition("@")[2]).read_bytes()).hexdigest()
    best = found.recommended
    top = max(one.accuracy for one in found.considered)
    assert best.accuracy == top or (best.trials and best.accuracy > top - UNTRIED)
    assert sum(one.chance for one in found.considered) == pytest.approx(1)
    low, high = found.interval
    assert low < best.accuracy < high or high == 1
    assert {one.rate for one in found.considered} == set(RATES)
    spent = found.cost["spent"] / found.cost["exhaustive"]
    assert spent <= QUICK["budget"] * 1.5  # the first linear probes are always made
    assert best.treatment in found.answer
    assert [reason.layer for reason in found.reasons] == list(found.layers[:-1])
    assert load_advice(place / "out" / "advice.json") == found


def test_test_images_are_not_looked_at(
    net: str, blobs: DataSet, written: Callable[..., str], found: Advice, tmp_path: Path
) -> None:
    """With other test images everything but the digest of the data is as it was."""
    other = advise(net, written(blobs, 12, tested=70), store=tmp_path / "store2", **QUICK)
    assert other is not None
    assert other.data["digest"] != found.data["digest"]
    assert without_place(other) == without_place(found)


def without_place(advice: Advice) -> Advice:
    cost = {k: v for k, v in advice.cost.items() if k != "seconds"}
    return replace(advice, data={}, provenance={}, adapt=(), cost=cost)


def test_the_same_question_has_the_same_answer_and_trains_nothing(
    net: str, blobs: DataSet, written: Callable[..., str], found: Advice, place: Path
) -> None:
    before = sorted(path.name for path in (place / "store" / "runs").rglob("spec.json"))
    again = advise(net, written(blobs, 12), store=place / "store", **QUICK)
    assert again is not None
    assert without_place(again) == without_place(found)
    assert sorted(path.name for path in (place / "store" / "runs").rglob("spec.json")) == before


def test_adapt_does_what_was_advised(
    net: str, blobs: DataSet, written: Callable[..., str], found: Advice, place: Path, tmp_path: Path
) -> None:
    made = adapt(
        net, written(blobs, 12), advice=place / "out" / "advice.json", store=tmp_path / "store", out=tmp_path / "net",
        executor="serial", quiet=True,
    )  # fmt: skip
    assert made is not None
    assert made.task.letters == found.recommended.letters
    assert json.loads(json.dumps(made.task.recipes)) == json.loads(json.dumps(found.recommended.recipes))


MINE = """
from torch import nn

def small(outputs, channels=1, size=32):
    first = nn.Sequential(nn.Conv2d(channels, 4, 5, stride=2), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(first, nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(216, outputs))
"""


def test_a_net_of_ones_own_file_is_advised_on_and_adapted(
    blobs: DataSet, written: Callable[..., str], place: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    name = named(f"{tmp_path}/mine.py:small")
    torch.save(build(name, (1, 32, 32), 7, 3).state_dict(), tmp_path / "mine.pt")
    net, data = f"{tmp_path}/mine.py:small@{tmp_path}/mine.pt", written(blobs, 12)
    advice = advise(net, data, store=place / "store", out=tmp_path / "advice", **QUICK)
    assert advice is not None
    assert (advice.net, advice.layers) == (net, ("0", "1", "4"))
    assert {one.rate for one in advice.considered} == set(RATES)
    file, out = tmp_path / "advice" / "advice.json", tmp_path / "adapted"
    made = adapt(net, data, advice=file, store=place / "store", out=out, quiet=True, executor="serial")
    assert made is not None
    assert made.task.treatment == advice.recommended.treatment
    assert (made.described.net, made.described.weights) == (name, advice.weights)


def test_an_option_that_diverges_loses_and_harms_no_other(
    net: str, blobs: DataSet, written: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that have the largest rate have one at which every loss becomes infinite."""
    monkeypatch.setattr("layerwise.advising.asking.options", with_an_absurd_rate)
    advice = advise(net, written(blobs, 12), store=tmp_path / "store", **QUICK)
    assert advice is not None
    (lost,) = (one for one in advice.considered if one.policy == "linear probe" and one.rate == ABSURD)
    assert lost.trials == 5
    assert lost.accuracy < 0.5 < advice.recommended.accuracy
    assert advice.recommended.rate < ABSURD


ABSURD = 3e38  # weights overflow


def with_an_absurd_rate(found: Sequence[Candidate]) -> tuple[Option, ...]:
    return tuple(replace(one, rate=ABSURD) if one.rate == RATES[-1] else one for one in options(found))


def test_a_trial_that_failed_is_not_taken_for_one_that_was_bad(
    net: str, blobs: DataSet, written: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("layerwise.execute.work._train_one", failing)
    with pytest.raises(StudyError, match="there was not enough memory for it"):
        advise(net, written(blobs, 12), store=tmp_path / "store", **QUICK)


def test_one_image_a_class_is_told_and_nothing_is_tried(
    net: str, blobs: DataSet, written: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = {**QUICK, "quiet": False}
    advice = advise(net, written(blobs, 3), shots=1, store=tmp_path / "store", **loud)
    assert advice is not None
    assert "nothing can be tried" in capsys.readouterr().err
    assert all(one.trials == 0 for one in advice.considered)
    (probe,) = (one for one in advice.considered if one.policy == "linear probe" and one.rate == RATES[1])
    assert advice.cost["spent"] == probe.flops  # it tells whether the net wants a greater rate
    assert len(list((tmp_path / "store" / "runs").rglob("spec.json"))) == 1
    low, high = advice.interval
    assert high - low > 0.8  # who knows


def test_a_net_for_colour_takes_grey_images_and_not_the_other_way_about(
    net: str, blobs: DataSet, written: Callable[..., str], tmp_path: Path
) -> None:
    save_file(build("resnet20", (3, 32, 32), 10, 7).state_dict(), tmp_path / "colour.safetensors")
    where = written(blobs, 12)
    opened, place = open_data(where, tmp_path / "data")
    coloured, other = open_data(where, tmp_path / "data", colour=True)
    assert place != other
    assert np.array_equal(coloured.images, np.repeat(opened.images, 3, axis=1))
    content = (tmp_path / "colour.safetensors").read_bytes()
    assert wants_colour(content, "resnet20", shape_of(opened), "colour")
    assert not wants_colour(content, "resnet20", shape_of(coloured), "colour")
    grey = Path(net.partition("@")[2]).read_bytes()
    assert not wants_colour(grey, "lenet5relu", shape_of(opened), "grey")
    with pytest.raises(LayersError, match="weights 'grey' are for grey images, and these are in colour; pass --grey"):
        wants_colour(grey, "lenet5relu", shape_of(coloured), "grey")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"net": "lenet5relu"}, "net 'lenet5relu' has no weights, so there is nothing to transfer"),
        (
            {"budget": 0.0},
            "--budget 0% is not possible; it is a share of the exhaustive search, such as 10%, and 100% at most",
        ),
        ({"granularity": "module"}, "unknown granularity 'module'"),
    ],
)
def test_mistakes_are_told(
    asked: dict[str, Any], told: str, net: str, blobs: DataSet, written: Callable[..., str], tmp_path: Path
) -> None:
    options = {**QUICK, "store": tmp_path / "store", "net": net, **asked}
    with pytest.raises(layerwise.errors.LayerwiseError, match=told):
        advise(options.pop("net"), written(blobs, 12), **options)


def test_what_cannot_be_is_told_before_anything_is_trained(
    net: str, blobs: DataSet, written: Callable[..., str], tmp_path: Path
) -> None:
    """Bugs: a place that cannot be written was found out after the race, weights of another net after --dry-run."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StudyError, match=r"--out .*taken cannot be written"):
        advise(net, written(blobs, 12), store=tmp_path / "store", out=tmp_path / "taken", **QUICK)
    save_file(build("small8", (1, 32, 32), 10, 7).state_dict(), tmp_path / "small8.safetensors")
    other = f"lenet5relu@{tmp_path / 'small8.safetensors'}"
    with pytest.raises(LayersError, match="small8"):
        advise(other, written(blobs, 12), store=tmp_path / "store", dry_run=True, **QUICK)
    assert not list((tmp_path / "store" / "runs").rglob("spec.json"))


def test_a_file_that_is_no_advice_is_told(tmp_path: Path) -> None:
    (tmp_path / "advice.json").write_text("{}")
    with pytest.raises(StudyError, match="is not what `layerwise advise` writes"):
        load_advice(tmp_path / "advice.json")


def test_the_command_prints_the_advice_and_how_to_carry_it_out(
    net: str, blobs: DataSet, written: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    where, out = written(blobs, 12), tmp_path / "out"
    line = f"advise {net} {where} --budget 8% --executor serial --store {tmp_path / 'store'} --out {out}"
    monkeypatch.setattr(sys, "argv", ["layerwise", *line.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    told = capsys.readouterr()
    advice = load_advice(out / "advice.json")
    assert advice.answer in told.out
    store = tmp_path / "store"
    assert f"layerwise adapt {net} {where} --store {store} --advice {out / 'advice.json'}" in told.out
    assert "trying each once would take" in told.err


def probe(*folds: float) -> LinearProbe:
    return LinearProbe(Accuracy(sum(folds) / len(folds), (0.0, 1.0), folds, {}, 50), ())


def test_a_layer_is_useful_harmful_redundant_or_unknown() -> None:
    """Folds' accuracies by hand: up by 0.2 each, down by 0.1 each, hardly moved, here and there, not probed."""
    probed = [
        probe(0.5, 0.5, 0.6, 0.5, 0.5),
        probe(0.7, 0.7, 0.8, 0.7, 0.7),
        probe(0.6, 0.6, 0.7, 0.6, 0.6),
        probe(0.6, 0.601, 0.7, 0.599, 0.6),
        probe(0.4, 0.8, 0.5, 0.9, 0.6),
        None,
    ]
    told = reasons([f"layer{k}" for k in range(6)], probed, chance=0.25)
    assert [one.verdict for one in told] == ["useful", "useful", "harmful", "redundant", "unknown", "unknown"]
    assert told[1].gain == pytest.approx(0.2)


def test_the_learning_curve_by_hand() -> None:
    """Accuracies 0.9 - 0.4 / sqrt(s) exactly, in one fold, and 0.9 - 0.6 / sqrt(s) in the other."""
    samples = sizes(16)
    assert samples == (4, 8, 16)
    right = {fold: [0.9 - b / s**0.5 for s in samples] for fold, b in (("0", 0.4), ("1", 0.6))}
    found = curve(right, samples)
    assert found.slopes == pytest.approx((0.4, 0.6))
    gain, interval = found.gain(16, 64)
    assert gain == pytest.approx(0.5 * (1 / 4 - 1 / 8))
    assert interval is not None
    assert interval[0] < gain < interval[1]


def test_what_is_as_good_is_of_another_treatment_and_within_a_point(found: Advice) -> None:
    best = found.recommended
    close: Considered = replace(best, treatment="another", accuracy=best.accuracy - 0.005)
    far = replace(best, treatment="R4", accuracy=best.accuracy - 0.05)
    same = replace(best, rate=0.5, accuracy=best.accuracy - 0.001)
    assert replace(found, considered=(best, same, close, far)).as_good == (close,)
    assert asdict(found)["net"].startswith("lenet5relu@")
