"""What the adviser is made of: candidates, folds, beliefs, the worth of a trial, costs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from layerwise.advising.belief import BOTH_WAYS, LEVEL, SHORT, UPWARDS, Belief, Model, Place, Trial, likeness
from layerwise.advising.candidates import RATES, Candidate, Option, candidates, options, recipes, steps_for
from layerwise.advising.cost import flops
from layerwise.advising.gradient import rates_of, relative_gradients
from layerwise.advising.race import Possible, gains_of, next_trials
from layerwise.advising.racing import Race
from layerwise.advising.rehearsal import ALWAYS, FOLD, GROUP, rehearsal
from layerwise.data.dataset import COPIES, DataSet, make
from layerwise.errors import LayersError
from layerwise.feed import Feed, Part
from layerwise.layers import layers
from layerwise.norms import normalises
from layerwise.run import Run, Weights, key
from layerwise.store import Record, Store
from layerwise.tasks import Parts, Task, examples
from layerwise.treatment import Treatment

DEEP = (1, *(2,) * 9, 1)  # layers of each block of a ResNet-20


@pytest.mark.parametrize("groups", [(1, 1), (1,) * 4, (1,) * 8, DEEP])
def test_every_candidate_is_for_all_layers_has_a_fresh_head_and_is_there_once(groups: tuple[int, ...]) -> None:
    found = candidates(groups)
    for one in found:
        first, *_ = one.treatment.letters()
        assert len(first) == sum(groups)
        assert first[-groups[-1] :] == ("R",) * groups[-1]
    assert len({(one.treatment, one.by_gradient) for one in found}) == len(found)
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    wanted = {"linear probe", "fine-tune", "LP-FT", "Auto-RGN", "scratch"}
    assert wanted <= {one.policy for one in found} or groups == (1, 1)


def test_candidates_of_a_deep_net_keep_blocks_whole() -> None:
    """No border between letters lies inside a block of two layers."""
    starts = set(np.cumsum([0, *DEEP]).tolist())
    for one in candidates(DEEP):
        for stage in one.treatment.letters():
            borders = {k for k, (a, b) in enumerate(pairwise(stage), 1) if a != b}
            assert borders <= starts


def test_a_net_of_one_layer_has_nothing_to_transfer() -> None:
    with pytest.raises(LayersError, match="a net of one layer has nothing to transfer"):
        candidates((1,))


def test_stages_share_the_steps_and_a_probe_has_five_times_its_part() -> None:
    found = {one.policy: one for one in candidates((1,) * 4)}
    first, second = recipes(Option(found["LP-FT"], 0.002), 160)
    assert second.steps == steps_for(160) // 2
    assert first.steps == 5 * second.steps
    assert (first.rate, second.rate) == (RATES[1], 0.002)
    (probe,), (tuned,) = (recipes(Option(found[name], 0.01), 160) for name in ("linear probe", "fine-tune"))
    assert (probe.steps, tuned.steps) == (5 * steps_for(160), steps_for(160))
    assert recipes(Option(found["linear probe"], 0.01), 160, share=0.25)[0].steps == probe.steps // 4


@pytest.fixture
def grouped(blobs: DataSet) -> DataSet:
    """The same images, six of a class of each of five hands."""
    hands = np.arange(len(blobs.labels)) % 5
    return make("grouped", blobs.images, blobs.labels, blobs.class_names, {"hand": hands})


def test_a_rehearsal_has_the_training_images_and_no_others(blobs: DataSet) -> None:
    task = Task(blobs.digest, (5, 2, 7), 10, parts=Parts("random", 5), seed=3)
    there = rehearsal(blobs, task)
    train = np.sort(examples(task, blobs.labels, blobs.columns, blobs.class_names).train)
    assert np.array_equal(there.data.images, blobs.images[train])
    assert [there.data.class_names[k] for k in there.data.labels] == [blobs.class_names[k] for k in blobs.labels[train]]
    assert there.folds == ("0", "1", "2", "3", "4")
    for fold in there.folds:
        held = there.held_out(fold)
        parts = examples(held, there.data.labels, there.data.columns, there.data.class_names)
        assert np.bincount(there.data.labels[parts.test]).tolist() == [2, 2, 2]
        assert there.size(fold) == len(parts.test)
        assert sorted([*parts.train, *parts.test]) == list(range(30))


def test_images_of_a_group_are_in_one_fold(grouped: DataSet) -> None:
    task = Task(grouped.digest, (0, 1, 2, 3), 20, parts=Parts("random", 5, groups=("hand",)))
    there = rehearsal(grouped, task)
    train = np.sort(examples(task, grouped.labels, grouped.columns, grouped.class_names).train)
    folds = there.data.columns[FOLD]
    trained = set(grouped.columns["hand"][train].tolist())
    assert len(trained) == len(there.folds) == 4  # the fifth hand is tested on
    for hand in trained:
        assert len(set(folds[grouped.columns["hand"][train] == hand].tolist())) == 1


def test_copies_of_one_picture_are_in_one_fold(blobs: DataSet) -> None:
    """Fifteen pictures of each class, each twice: of the training images both are in the fold, or neither."""
    same = np.arange(len(blobs.labels)) // 2 * 2
    data = make("twice", blobs.images[same], blobs.labels, blobs.class_names, {COPIES: same})
    task = Task(data.digest, (0, 1), parts=Parts("random", 6, groups=(COPIES,)))
    there = rehearsal(data, task)
    train = np.sort(examples(task, data.labels, data.columns, data.class_names).train)
    folds = {picture: set(there.data.columns[FOLD][same[train] == picture].tolist()) for picture in set(same[train])}
    assert set(map(len, folds.values())) == {1}
    assert len(there.folds) == 5


def test_a_class_of_one_group_is_always_learnt(blobs: DataSet) -> None:
    """Whoever holds the group out has nothing to learn the class from; what else the group has stays with it."""
    hands = np.where(blobs.labels == 0, 0, np.arange(len(blobs.labels)) % 5)
    data = make("one hand", blobs.images, blobs.labels, blobs.class_names, {"hand": hands})
    there = rehearsal(data, Task(data.digest, (0, 1, 2), parts=Parts("random", 5, groups=("hand",))))
    assert there.never_held_out == (blobs.class_names[0],)
    assert len(there.folds) == 3  # of five groups, one is tested on and one is never held out
    hand = hands[np.isin(data.labels, (0, 1, 2))]
    assert set(hand.tolist()) == set(range(5))
    groups, fold = there.data.columns[GROUP], there.data.columns[FOLD]
    assert set(fold[groups == groups[there.data.labels == 0][0]].tolist()) == {ALWAYS}
    assert all(len(set(fold[groups == group].tolist())) == 1 for group in set(groups.tolist()))


def test_a_class_of_one_image_is_always_learnt_and_hinders_no_fold(blobs: DataSet) -> None:
    """The others are held out as ever: what they are rare in is not what is looked at."""
    rows = np.concatenate([np.flatnonzero(blobs.labels == label)[:count] for label, count in ((0, 1), (1, 2), (2, 20))])
    data = make("rare", blobs.images[rows], blobs.labels[rows], blobs.class_names, {})
    there = rehearsal(data, Task(data.digest, (0, 1, 2), parts=Parts("random", 0)))
    assert there.never_held_out == (blobs.class_names[0],)
    assert len(there.folds) == 5
    for number in range(5):
        learnt = there.data.labels[there.data.columns[FOLD] != number]
        assert set(learnt.tolist()) == {0, 1, 2}


def test_a_validation_part_is_the_one_fold(blobs: DataSet) -> None:
    task = Task(blobs.digest, (0, 1), 10, parts=Parts("random", 5, validation=4))
    there = rehearsal(blobs, task)
    assert there.folds == ("0",)
    assert there.size("0") == 8
    assert len(there.data.labels) == 28


def test_one_image_a_class_cannot_be_folded(blobs: DataSet) -> None:
    assert rehearsal(blobs, Task(blobs.digest, (0, 1), 1, parts=Parts("random", 5))).folds == ()


def record(name: str, end: dict[str, float]) -> Record:
    """Of a run that ended so: values by part and quantity."""
    curve = [[9, *where.split(), value] for where, value in end.items()]
    return Record(name, b"", json.dumps({"curve": curve}).encode(), ())


class Made(Race):
    """A race of LeNet-5 on twenty images of each of eight classes, in which nothing is trained."""

    def __init__(self, blobs: DataSet, place: Path, came_out: Callable[[Run], dict[str, float] | None]) -> None:
        self.asked: list[Run] = []

        def train(runs: Sequence[Run], keep: bool) -> dict[str, Record]:
            self.asked.extend(runs)
            ends = {key(run): came_out(run) for run in runs}
            return {name: record(name, end) for name, end in ends.items() if end}

        learnt = rehearsal(blobs, Task(blobs.digest, tuple(range(8)), 20, parts=Parts("random", 5)))
        found = options(candidates((1,) * 4))
        super().__init__("lenet5relu", Weights("0" * 64), learnt, found, train, Store(place))
        assert learnt.folds

    def named(self, policy: str, rate: float) -> int:
        """The position of an option."""
        (found,) = (k for k, one in enumerate(self.options) if (one.candidate.policy, one.rate) == (policy, rate))
        return found

    def hope(self, policy: str, rate: float, more: float) -> int:
        """Expect one option to be the best by so much, and all others to be alike."""
        best = self.named(policy, rate)
        self.expect(np.where(np.arange(len(self.options)) == best, 0.0, -more), np.zeros(len(self.options)), 0.8)
        return best


@pytest.mark.parametrize("outcome", ["learns", "diverges"])
def test_what_a_probe_leaves_unlearnt_is_its_loss_over_that_of_guessing(
    outcome: str, blobs: DataSet, tmp_path: Path
) -> None:
    end = {"train loss": 0.2, "train accuracy": 0.9} if outcome == "learns" else None
    race = Made(blobs, tmp_path, lambda run: end)
    assert race.unlearnt == (pytest.approx(0.2 / np.log(8)) if outcome == "learns" else None)
    assert race.unlearnt == race.unlearnt  # trained once
    (run,) = race.asked
    assert (run.treatment.expanded, run.recipes[-1].rate) == ("FFFR", RATES[1])
    assert race.spent == race.flops(run)
    if outcome == "diverges":
        race.find_rates()
        assert race.rates == ()  # all layers alike


def test_enough_is_kept_to_try_what_is_advised(blobs: DataSet, tmp_path: Path) -> None:
    """Bug: what was ahead for what it did elsewhere could be advised untried, the budget gone into other trials."""
    for budget in (0.05, 0.1, 0.2):
        race = Made(blobs, tmp_path, lambda run: {"test accuracy": 0.8})
        best = race.hope("fine-tune", 0.05, 0.02)
        race.go(budget)
        assert race.advised == best
        assert best in {trial.option for trial in race.trials if trial.share == 1}
        assert race.spent <= budget * race.exhaustive


def test_what_diverges_here_is_not_advised_whatever_it_did_elsewhere(blobs: DataSet, tmp_path: Path) -> None:
    race = Made(blobs, tmp_path, lambda run: None if run.recipes[-1].rate == 0.05 else {"test accuracy": 0.9})
    race.hope("fine-tune", 0.05, 0.02)
    race.go(0.1)
    assert race.options[race.advised].rate < 0.05


@pytest.mark.parametrize(("more", "untried"), [(0.003, False), (0.007, True)])
def test_what_was_tried_is_advised_unless_what_was_not_is_clearly_better(
    more: float, untried: bool, blobs: DataSet, tmp_path: Path
) -> None:
    race = Made(blobs, tmp_path, lambda run: None)
    best, other = race.hope("fine-tune", 0.01, more), race.named("scratch", 0.05)
    race.trials = [Trial(other, "0", 1.0, 10, 0.8 - more)]
    assert race.belief.best == best
    assert race.advised == (best if untried else other)


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.LocalResponseNorm(2), nn.ReLU()), False),
        *((nn.Sequential(nn.Sequential(norm), nn.ReLU()), True) for norm in (
            nn.BatchNorm2d(2), nn.InstanceNorm2d(2), nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.RMSNorm(2)
        )),
    ],
)  # fmt: skip
def test_a_net_normalises_where_activations_are_divided_by_their_deviation(net: nn.Module, found: bool) -> None:
    assert normalises(net) is found


def one(letters: str, rate: float = 0.01) -> Option:
    return Option(Candidate(letters, letters, Treatment.parse(letters)), rate)


def test_a_belief_after_one_trial_by_hand() -> None:
    """Of one option: prior variance v, observed with variance s: the mean moves by v / (v + s) of the surprise."""
    found = (one("FFR"),)
    model = Model(found, np.array([0.1]))
    after = model.belief([Trial(0, "0", 1.0, 50, 0.8)])
    prior = LEVEL**2 + UPWARDS[0] ** 2
    noise = 0.8 * 0.2 / 50
    assert after.mean[0] == pytest.approx(0.6 + prior / (prior + noise) * 0.2)
    assert after.covariance[0, 0] == pytest.approx(prior - prior**2 / (prior + noise))


def test_a_trial_tells_of_options_alike_more_than_of_others() -> None:
    found = (one("FFFR"), one("FFTR"), one("RRRR"))
    k = likeness(found)
    assert k[0, 1] > k[0, 2]
    before = Model(found, np.zeros(3)).belief([Trial(0, "0", 1.0, 1000, 0.5)])
    after = Model(found, np.zeros(3)).belief([Trial(0, "0", 1.0, 1000, 0.5), Trial(1, "0", 1.0, 1000, 0.6)])
    assert after.mean[1] > before.mean[1]
    assert after.mean[1] > after.mean[2]


def test_what_is_expected_to_be_far_behind_may_be_far_from_where_it_is_expected() -> None:
    found = (one("FFFR"), one("RRRR"))
    for least, grows in (UPWARDS, BOTH_WAYS):
        before = Model(found, np.array([0.0, -0.3]), spread=(least, grows)).belief([])
        assert np.sqrt(np.diag(before.covariance) - LEVEL**2) == pytest.approx([least, least + 0.3 * grows])


def test_an_option_that_failed_is_believed_to_be_as_bad_as_it_was() -> None:
    """Bug: seen at chance five times, it was told to be nearly as good as it is elsewhere."""
    found = (one("FFFR", 0.01), one("FFFR", 0.002), one("FFFR", 0.05), one("TTTR"))
    usual = Model(found, np.zeros(4))
    trials = [Trial(k, fold, 1.0, 20, right) for k, right in enumerate((0.8, 0.75, 0.1)) for fold in "01234"]
    freed = usual.after(trials)
    assert freed.freed == pytest.approx([0, 0, 0.7, 0])
    assert usual.belief(trials).mean[2] > 0.5
    assert freed.belief(trials).mean[2] < 0.2
    assert freed.belief(trials).mean[[0, 1, 3]] == pytest.approx([0.77, 0.77, 0.77], abs=0.03)
    assert not np.any(usual.after([trial for trial in trials if trial.option < 2]).freed)
    assert not np.any(freed.after([]).freed)


def test_a_short_trial_far_behind_is_no_failure_yet() -> None:
    """Bug: it was held against the variance of a whole training, and what a quarter of the steps leaves out is more."""
    usual = Model((one("FFFR", 0.01), one("TTTR")), np.zeros(2), short=np.array([0.0, -0.1]))

    def fails(share: float) -> bool:
        trials = [Trial(0, fold, 1.0, 20, 0.8) for fold in "01234"]
        return bool(usual.after([*trials, *(Trial(1, fold, share, 20, 0.4) for fold in "01234")]).freed[1])

    assert fails(1.0)
    assert not fails(0.25)


def test_trials_of_one_fold_share_what_is_hard_in_it() -> None:
    """Two options on one fold: their difference has the options' own noise alone, and not the images'."""
    found = (one("FFFR"), one("RRRR"))
    same = Model(found, np.zeros(2)).belief([Trial(0, "0", 1.0, 10, 0.5), Trial(1, "0", 1.0, 10, 0.6)])
    apart = Model(found, np.zeros(2)).belief([Trial(0, "0", 1.0, 10, 0.5), Trial(1, "1", 1.0, 10, 0.6)])
    assert same.difference(1, 0)[1] < apart.difference(1, 0)[1]


def test_likeness_is_a_covariance() -> None:
    found = options(candidates(DEEP))
    assert np.linalg.eigvalsh(likeness(found)).min() > -1e-9
    assert np.allclose(np.diag(likeness(found)), 1)


def test_what_a_trial_would_show_is_what_the_belief_says_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that turns out one deviation above what is expected moves every mean as was foreseen."""
    monkeypatch.setattr(Model, "_typical", lambda self, trials: 0.6)
    found = options(candidates((1,) * 8))
    model = Model(found, np.zeros(len(found)))
    done = [Trial(0, "0", 1.0, 10, 0.6), Trial(3, "1", 1.0, 10, 0.7), Trial(6, "1", 0.25, 10, 0.5)]
    other = Possible(5, "1", 1.0, 10, 1.0)
    covariance, variance = model.foreseen(done, [other])
    shown = model.expected(done, other) + np.sqrt(variance[0])
    after = model.belief([*done, Trial(5, "1", 1.0, 10, shown)])
    assert np.allclose(after.mean, model.belief(done).mean + covariance[:, 0] / np.sqrt(variance[0]), atol=1e-12)


def test_the_worth_of_a_trial_of_two_options_by_hand() -> None:
    """Two options d apart, of which one moves by s: the best gains s phi(d / s) - d Phi(-d / s) on average."""
    belief = Belief(np.array([0.6, 0.58]), np.eye(2))
    covariance = np.array([[0.0], [0.03]])  # only the second moves, by 0.03 for one deviation
    (gain,) = gains_of(belief, covariance, np.array([1.0]))
    wanted = 0.03 * norm.pdf(0.02 / 0.03) - 0.02 * norm.cdf(-0.02 / 0.03)
    assert gain == pytest.approx(wanted, rel=0.02)  # of 64 equally likely outcomes


def test_trials_keep_within_the_budget_and_stop_where_nothing_can_be_gained() -> None:
    found = options(candidates((1,) * 4))
    model = Model(found, np.zeros(len(found)))
    done = [Trial(0, fold, 1.0, 20, 0.6) for fold in "01"]
    possible = [Possible(k, fold, 1.0, 20, 3.0) for k in range(len(found)) for fold in "01"]
    chosen = next_trials(model, done, possible, 10.0, 8)
    assert len(chosen) == 3
    assert len(set(chosen)) == 3
    sure = replace(model, prior=np.where(np.arange(len(found)) == 0, 0.9, 0.0))
    assert next_trials(sure, done, possible, 10.0, 8) == []


def test_a_training_that_was_cut_short_is_held_against_what_such_lack() -> None:
    """Half right after a quarter of the steps, where such mostly lack 0.2, speaks for more after all of them."""
    found = (one("FFFR"), one("RRRR"))
    usual = Model(found, np.zeros(2), short=np.array([0.0, -0.2]))
    tried = [Trial(1, "0", 0.25, 1000, 0.5)]
    own = UPWARDS[0] ** 2 + LEVEL**2
    gain = own / (own + (SHORT[0] + SHORT[1] * 0.2) ** 2 + 0.25 / 1000)
    assert usual.belief(tried).mean[1] == pytest.approx(0.5 + 0.2 * gain)
    assert Model(found, np.zeros(2)).belief(tried).mean[1] == pytest.approx(0.5)
    place, whole = Place(1, "1", 0.25, 1000), Place(1, "1", 1.0, 1000)
    assert usual.expected([], whole) - usual.expected([], place) == pytest.approx(0.2)
    assert usual.expected(tried, place) == pytest.approx(0.5, abs=0.01)


def test_of_equal_promise_the_cheaper_trial_is_made() -> None:
    found = (one("FFFR"), one("RRRR"))
    model = Model(found, np.zeros(2))
    dear, cheap = Possible(0, "0", 1.0, 20, 3.0), Possible(0, "1", 1.0, 20, 1.0)
    assert next_trials(model, [], [dear, cheap], 10.0, 1) == [cheap]


def test_frozen_layers_are_paid_for_once() -> None:
    """LeNet-5's linear probe: all layers but the head once an image, the head's products in every step."""
    task = Task("d", tuple(range(10)), 5)
    letters = Treatment.parse("F*R").resolve(6)
    (option,) = (o for o in options(candidates((1,) * 6)) if o.candidate.policy == "linear probe" and o.rate == 0.01)
    how = recipes(option, 50)
    probe = Run("lenet5", task, letters, Weights("0" * 64), how)
    head = 2 * 120 * 10  # a multiplication and an addition for each weight
    body = 2 * (28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 120 * 400)  # C1, C3, C5; subsampling is not counted
    steps = how[0].steps * how[0].batch_size
    assert flops(probe, (1, 32, 32), 50) == 50 * body + steps * 2 * head  # a step: forward, and the weights' gradient


def test_relative_gradients_by_hand() -> None:
    """y = b a x with a loss of y itself: dy/da = b x, so the ratio is |b x / a|; and dy/db = a x."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            self.first.weight.data.fill_(2.0)
            self.second.weight.data.fill_(5.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x.flatten(1)))  # type: ignore[no-any-return]

    images = torch.full((4, 1, 1, 1), 3.0)
    part = Part(images, torch.arange(4), torch.zeros(4, dtype=torch.long))
    fed = Feed({"train": part}, torch.ones(1, 1), is_bits=True, name="")
    net = Product()
    ratios = relative_gradients(net, layers(net, images), fed)
    error = 2 * (30.0 - 1.0)  # of the squared distance to 1
    assert ratios == pytest.approx((error * 15 / 2, error * 6 / 5))
    assert rates_of(ratios) == (1.0, 1.0)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in net.parameters())
