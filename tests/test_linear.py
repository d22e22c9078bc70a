"""Linear probes: minima by hand and by scikit-learn, choices blind to the fold that is reported, intervals by hand."""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from layerwise.costs import counted
from layerwise.errors import RepresentationError
from layerwise.probes import linear
from layerwise.probes.folds import Accuracy, Parts, accuracy, classes_of, corrected_half_width, stratified, wilson
from layerwise.probes.linear import LinearProbe, linear_probes, linear_probes_in_parts
from layerwise.probes.logistic import GAP, Solution, _losses, _start, fit, principal, solve

TIGHT = 1e-17  # nats: as near to the minimum as float64 gives


def drawn(seed: int, counts: list[int], units: int, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gaussian classes of so many examples, shuffled, on units of different scales and shifts."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=draw)]
    centres = apart * torch.randn(len(counts), units, generator=draw, dtype=torch.float64)
    features = centres[labels] + torch.randn(len(labels), units, generator=draw, dtype=torch.float64)
    return features * torch.logspace(-2, 3, units) + 5, labels


def of(found: dict[str, LinearProbe | RepresentationError], layer: str) -> LinearProbe:
    probe = found[layer]
    assert isinstance(probe, LinearProbe), probe
    return probe


def test_a_weight_by_hand() -> None:
    """x = -1, 1 for classes 0, 1: weights (-w, w) with 1 / (1 + e^2w) = penalty w; so penalty 1 / (1 + e^2) gives 1."""
    one = fit(torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]), torch.tensor([0, 1, 0, 1]), [1 / (1 + math.e**2)])
    (found,) = solve([one], 2, TIGHT)
    weights, intercepts = found.coefficients()
    torch.testing.assert_close(weights, torch.tensor([[[-1.0], [1.0]]], dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(intercepts, torch.zeros(1, 2, dtype=torch.float64), rtol=0, atol=1e-8)


def test_constant_units_leave_the_shares_of_the_classes() -> None:
    """Without features the intercepts are log shares, up to their mean."""
    (found,) = solve([fit(torch.full((8, 3), 0.1), torch.tensor([0, 0, 0, 0, 0, 1, 1, 2]), [1e-3, 1.0])], 3, TIGHT)
    assert found.view.axes.shape == (3, 0)
    shares = found.coefficients()[1].softmax(1)
    torch.testing.assert_close(
        shares, torch.tensor([[5 / 8, 2 / 8, 1 / 8]] * 2, dtype=torch.float64), rtol=0, atol=1e-8
    )


def with_constant_units() -> tuple[Tensor, Tensor]:
    features, labels = drawn(3, [40, 40, 40], 6)
    return torch.cat([features, torch.full((120, 2), 0.3), features[:, :1] * 2], 1), labels


CASES = {
    "more examples than units": drawn(0, [50, 50, 50, 50], 10),
    "fewer examples than units": drawn(1, [8, 8, 8], 60, apart=0.3),
    "unbalanced": drawn(2, [150, 30, 5, 2], 7, apart=0.5),
    "constant and repeated units": with_constant_units(),
    "two classes": drawn(4, [60, 25], 5, apart=0.4),
}


@pytest.mark.parametrize("case", CASES)
def test_minima_are_those_of_scikit_learn(case: str) -> None:
    features, labels = CASES[case]
    classes, penalties = int(labels.max()) + 1, [1e-3, 1e-1, 10.0]
    (found,) = solve([fit(features, labels, penalties)], classes, TIGHT)
    assert found.arrived.all()
    weights, intercepts = found.coefficients()
    standard = StandardScaler().fit_transform(features.numpy())
    for index, penalty in enumerate(penalties):
        one_row = classes == 2
        theirs = LogisticRegression(
            C=(2 if one_row else 1) / (len(labels) * penalty), solver="newton-cg", tol=1e-12, max_iter=10_000
        ).fit(standard, labels)
        mine, start = weights[index].numpy(), intercepts[index].numpy()
        if one_row:
            mine, start = mine[1:] - mine[:1], start[1:] - start[:1]
        np.testing.assert_allclose(mine, theirs.coef_, rtol=0, atol=2e-6)
        offset = 0 if one_row else theirs.intercept_.mean()
        np.testing.assert_allclose(start, theirs.intercept_ - offset, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(found.predict(features)[index], theirs.predict(standard))


def test_layers_of_any_width_are_fitted_together_as_each_alone() -> None:
    labels = drawn(5, [30, 20, 10, 15], 1)[1]
    layers = [drawn(5, [30, 20, 10, 15], units, apart=0.4)[0] for units in (3, 90, 1, 20)]
    fits = [fit(features, labels, penalties) for features in layers for penalties in ([1e-4, 1.0], [1e-2])]
    together = solve(fits, 4, TIGHT)
    for one, solution in zip(fits, together, strict=True):
        (alone,) = solve([one], 4, TIGHT)
        torch.testing.assert_close(solution.weights, alone.weights, rtol=0, atol=1e-6)


def test_operations_are_those_that_pytorch_counts() -> None:
    """But for predictions, which are few; PyTorch's counter takes several times as long as what it counts."""
    labels = drawn(5, [30, 20, 10, 15], 1)[1]
    layers = {str(units): drawn(5, [30, 20, 10, 15], units, apart=0.4)[0] for units in (3, 20, 200)}
    told: list[int] = []
    whole = counted(lambda: linear_probes(layers, labels, spent=told.append))
    assert 0.9 * whole < sum(told) <= whole


def loss(one: Solution, features: Tensor, labels: Tensor, penalties: list[float]) -> Tensor:
    """The objective, as the documentation states it."""
    weights, intercepts = one.coefficients()
    standard = torch.from_numpy(StandardScaler().fit_transform(features.numpy()))
    return torch.stack(
        [
            torch.nn.functional.cross_entropy(standard @ w.T + b, labels) + penalty / 2 * w.square().sum()
            for w, b, penalty in zip(weights, intercepts, penalties, strict=True)
        ]
    )


def test_members_stop_within_the_promised_gap_of_the_minimum() -> None:
    features, labels = drawn(7, [100] * 5, 12, apart=0.7)
    penalties = [1e-5, 1e-3, 1e-1, 10.0]
    one = fit(features, labels, penalties)
    least = loss(solve([one], 5, TIGHT)[0], features, labels, penalties)
    above = loss(solve([one], 5)[0], features, labels, penalties) - least
    assert (above < GAP).all()
    assert (above > -1e-13).all()
    assert (loss(solve([one], 5, 1e-2)[0], features, labels, penalties) - least).max() > GAP


def test_the_bound_lies_above_the_hessian_everywhere() -> None:
    """Boehning 1992: bound - Hessian has no negative eigenvalue, wherever the weights are."""
    features, labels = drawn(8, [10, 6, 4], 3)
    one = fit(features, labels, [0.01])
    start = _start([one], torch.zeros(1, 3, 4, dtype=torch.float64), GAP, torch.float64, [0])

    def gradient(flat: Tensor) -> Tensor:
        return _losses([one], start.owner, flat.view(1, 3, 4), start.penalty, torch.float64, [0])[1].flatten()

    for seed in range(5):
        at = torch.randn(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * seed
        steps = 1e-5 * torch.eye(12, dtype=torch.float64)
        hessian = torch.stack([(gradient(at + step) - gradient(at - step)) / 2e-5 for step in steps])
        bound = torch.diag(start.curvature.expand(1, 3, 4).flatten())
        assert torch.linalg.eigvalsh(bound - (hessian + hessian.T) / 2).min() > -1e-8


def test_axes_are_orthonormal_and_standardised() -> None:
    for case in ("more examples than units", "fewer examples than units", "constant and repeated units"):
        features, _ = CASES[case]
        view = principal(features)
        rank = len(view.variances)
        torch.testing.assert_close(view.axes.T @ view.axes, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-9)
        seen = view.of(features)[:, 1:]
        torch.testing.assert_close(seen.T @ seen / len(seen), torch.diag(view.variances), rtol=0, atol=1e-9)


def test_a_fit_that_does_not_arrive_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = drawn(9, [30, 30, 30], 8)
    (found,) = solve([fit(features, labels, [1e-4, 10.0])], 3, most_steps=5)
    assert found.arrived.tolist() == [False, True]
    monkeypatch.setattr(linear, "solve", partial(solve, most_steps=5))
    layers = {"hard": features, "constant": torch.ones(90, 2)}
    probes = linear_probes(layers, labels, folds=3, penalties=[1e-4, 10.0])
    assert str(probes["hard"]) == (
        "the linear probe did not arrive at its minimum in 2000 steps with penalty 0.0001; take larger penalties"
    )
    assert of(probes, "constant").accuracy.mean == pytest.approx(1 / 3)


def by_scikit_learn(features: Tensor, labels: Tensor, train: Tensor, penalty: float) -> np.ndarray:
    """The predictions for all examples of a regression on these rows."""
    scaler = StandardScaler().fit(features[train].numpy())
    model = LogisticRegression(C=1 / (len(train) * penalty), tol=1e-10, max_iter=10_000)
    model.fit(scaler.transform(features[train].numpy()), labels[train].numpy())
    return np.asarray(model.predict(scaler.transform(features.numpy())))


def test_a_group_is_in_one_fold() -> None:
    """Five persons a class: whoever is tested on is not learnt from."""
    layer, labels = drawn(0, [25, 25], 4)
    groups = torch.arange(50) // 5
    tests = stratified(classes_of(labels, 1), 5, 0, groups=groups)
    assert sorted(torch.cat(tests).tolist()) == list(range(50))
    assert not any(set(groups[one].tolist()) & set(groups[other].tolist()) for one, other in combinations(tests, 2))
    apart, together = (linear_probes({"a": layer}, labels, groups=of)["a"] for of in (None, groups))
    assert apart != together
    with pytest.raises(RepresentationError, match="5 folds are not possible: there are 2 groups"):
        linear_probes({"a": layer}, labels, groups=labels)


def test_nested_choice_is_that_of_a_plain_loop() -> None:
    """Three layers at once, against a loop of scikit-learn over outer and inner folds on the same folds."""
    layers = {f"layer{seed}": drawn(10 + seed, [30, 25, 20], 4 + 6 * seed, apart=0.25)[0] for seed in range(3)}
    labels = drawn(10, [30, 25, 20], 4)[1]
    layers["informative"] = drawn(10, [30, 25, 20], 4, apart=0.5)[0]
    penalties = [1.0, 1e-1, 1e-2]
    found = linear_probes(layers, labels, folds=4, penalties=penalties[::-1], seed=5)
    tests = stratified(classes_of(labels, 1), 4, 5)
    answers = labels.numpy()
    for name, features in layers.items():
        chosen, shares = [], []
        for test in range(4):
            inner = [fold for fold in range(4) if fold != test]
            means = []
            for penalty in penalties:
                hits = []
                for held in inner:
                    train = torch.cat([tests[fold] for fold in inner if fold != held])
                    predicted = by_scikit_learn(features, labels, train, penalty)
                    hits.append((predicted == answers)[tests[held]].mean())
                means.append(np.mean(hits).round(12))
            chosen.append(penalties[int(np.argmax(means))])
            predicted = by_scikit_learn(features, labels, torch.cat([tests[fold] for fold in inner]), chosen[-1])
            shares.append((predicted == answers)[tests[test]].mean())
        probe = of(found, name)
        assert probe.penalties == tuple(chosen)
        assert probe.accuracy.folds == pytest.approx(shares)
        assert probe.accuracy.mean == pytest.approx(np.mean(shares))


def test_the_choice_for_a_fold_never_looks_at_that_fold() -> None:
    """Noise in place of one fold's features leaves what was chosen for that fold; it alters other folds' choices."""
    features, labels = drawn(20, [40, 40, 40], 30, apart=0.3)
    layers = {"clean": features}
    for number, test in enumerate(stratified(classes_of(labels, 1), 3, 0)):
        spoilt = features.clone()
        spoilt[test] = 1e3 * torch.randn(len(test), 30, generator=torch.Generator().manual_seed(number)).double()
        layers[f"{number}"] = spoilt
    found = {
        layer: of(found, layer).penalties for found in [linear_probes(layers, labels, folds=3)] for layer in layers
    }
    assert all(found[f"{number}"][number] == found["clean"][number] for number in range(3))
    assert any(found[f"{number}"] != found["clean"] for number in range(3))


def test_separable_classes_are_told_apart_and_noise_is_not() -> None:
    features, labels = drawn(30, [60, 60, 60], 5, apart=50)
    noise = torch.randn(180, 5, generator=torch.Generator().manual_seed(1))
    found = linear_probes({"apart": features, "noise": noise}, labels)
    apart, none = of(found, "apart").accuracy, of(found, "noise").accuracy
    assert (apart.mean, apart.by_class, apart.examples) == (1, {0: 1, 1: 1, 2: 1}, 180)
    assert 0.97 < apart.bounds[0] < 1 == apart.bounds[1]
    assert none.bounds[0] < 1 / 3 < none.bounds[1] < 0.5


def test_scale_and_shift_of_a_unit_do_not_matter() -> None:
    features, labels = drawn(31, [30, 30, 30], 6, apart=0.5)
    layers = {"plain": features, "moved": 7 - features * torch.logspace(-3, 3, 6)}
    found = linear_probes(layers, labels, folds=3)
    assert of(found, "plain") == of(found, "moved")


def test_a_layer_that_cannot_be_probed_says_why_and_harms_no_other() -> None:
    features, labels = drawn(32, [20, 20], 4)
    broken = features.clone()
    broken[3, 1] = math.nan
    found = linear_probes({"broken": broken, "fine": features, "short": features[:30]}, labels)
    assert str(found["broken"]) == "1 of 160 features are not finite; look for the layer where the net diverges"
    assert str(found["short"]) == "40 labels for features of 30 examples; give one for each"
    assert of(found, "fine") == of(linear_probes({"fine": features}, labels), "fine")


def test_labels_may_be_any_numbers() -> None:
    features, labels = drawn(33, [20, 15, 10], 4)
    plain = of(linear_probes({"a": features}, labels), "a").accuracy
    renamed = of(linear_probes({"a": features}, torch.tensor([7, 8, 40], dtype=torch.int32)[labels]), "a").accuracy
    assert renamed.folds == plain.folds
    assert list(renamed.by_class.items()) == list(zip([7, 8, 40], plain.by_class.values(), strict=True))


def test_memory_is_bounded() -> None:
    """A budget for one fit at a time gives the same; one too small for any says what it takes."""
    features, labels = drawn(34, [40, 40, 40], 8, apart=0.5)
    layers = {"a": features, "b": features[:, :3]}
    told: list[tuple[int, int]] = []
    small = linear_probes(layers, labels, budget=80_000, progress=lambda done, wanted: told.append((done, wanted)))
    assert small == linear_probes(layers, labels)
    assert len(told) > 10
    assert told[-1] == (30, 30)
    assert str(linear_probes(layers, labels, budget=20_000)["a"]) == (
        "a linear probe of 8 units takes 0.0695 MB, and the budget is 0.02 MB; "
        "pool the layer's places, or raise the budget"
    )


def test_given_parts_are_kept_apart() -> None:
    """The penalty with the best validation accuracy, and that fit's accuracy on the test part, by scikit-learn."""
    features, labels = drawn(35, [60, 60, 60], 25, apart=0.25)
    parts = Parts(torch.arange(60), torch.arange(60, 120), torch.arange(120, 180))
    penalties = [10.0, 1.0, 1e-1, 1e-2, 1e-3]
    right = [by_scikit_learn(features, labels, parts.train, penalty) == labels.numpy() for penalty in penalties]
    best = int(np.argmax([hits[60:120].mean() for hits in right]))
    probe = of(linear_probes_in_parts({"a": features}, labels, parts, penalties=penalties), "a")
    assert probe.penalties == (penalties[best],)
    assert probe.accuracy.mean == pytest.approx(right[best][120:].mean())
    assert probe.accuracy.bounds == pytest.approx(wilson(float(right[best][120:].mean()), 60))
    assert len({hits[120:].mean() for hits in right}) > 2


RARE = "and of class 1 there are 4 examples, one for each fold at most"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 2}, "2 folds are not possible: there must be 3 or more, " + RARE),
        ({"folds": 5}, "5 folds are not possible: there must be 3 or more, " + RARE),
        ({"penalties": []}, "penalties are []; give one or more, all above 0"),
        ({"penalties": [1.0, 0.0]}, "penalties are [1.0, 0.0]; give one or more, all above 0"),
        ({"labels": torch.ones(10, dtype=torch.int64)}, "all 10 examples are of one class; give two classes or more"),
    ],
)
def test_what_would_do_for_no_layer(change: dict[str, object], message: str) -> None:
    given = {"labels": torch.tensor([0] * 6 + [1] * 4), "folds": 4, **change}
    with pytest.raises(RepresentationError) as raised:
        linear_probes({"a": torch.randn(10, 3)}, given.pop("labels"), **given)  # type: ignore[arg-type]
    assert str(raised.value) == message


def test_parts_must_differ_and_know_every_class() -> None:
    rows = torch.arange(6)
    with pytest.raises(RepresentationError, match=r"^row 2 is in the parts 2 times; give each row to one part$"):
        Parts(rows[:3], rows[2:4], rows[4:])
    with pytest.raises(RepresentationError, match=r"^the validation part has no examples; give it some$"):
        Parts(rows[:3], rows[:0], rows[4:])
    labels = torch.tensor([0, 0, 0, 1, 1, 0])
    with pytest.raises(RepresentationError, match=r"^class 1 has no example in the training part; give it some$"):
        linear_probes_in_parts({"a": torch.randn(6, 2)}, labels, Parts(rows[:3], rows[3:4], rows[4:]))


def test_folds_hold_every_example_once_and_every_class_evenly() -> None:
    labels = drawn(36, [23, 17, 10], 2)[1]
    tests = stratified(classes_of(labels, 1), 5, 0)
    assert torch.cat(tests).sort().values.tolist() == list(range(50))
    for test in tests:
        counts = torch.bincount(labels[test], minlength=3)
        assert ((counts - torch.tensor([23, 17, 10]) / 5).abs() < 1).all()
    again, other = stratified(classes_of(labels, 1), 5, 0), stratified(classes_of(labels, 1), 5, 1)
    assert all(torch.equal(*pair) for pair in zip(tests, again, strict=True))
    assert not all(torch.equal(*pair) for pair in zip(tests, other, strict=True))


def test_the_corrected_interval_by_hand() -> None:
    """Means 0.5, 0.6, 0.7: variance 0.01; (1 / 3 + 1 / 2) 0.01 = 0.00833; t(0.975, 2) = 4.302653."""
    assert corrected_half_width([0.5, 0.6, 0.7], 0.5) == pytest.approx(4.302653 * math.sqrt(0.01 * 5 / 6), abs=1e-6)


def test_wilson_is_scipys() -> None:
    for hits, examples in [(8, 10), (0, 5), (5, 5), (499, 1000)]:
        theirs = stats.binomtest(hits, examples).proportion_ci(0.95, "wilson")
        assert wilson(hits / examples, examples) == pytest.approx((theirs.low, theirs.high))


def test_accuracy_by_hand() -> None:
    """Four folds of two: 1, 1, 1/2 and 1/2 right, so 3/4; class 3 all right, class 9 half."""
    right = torch.tensor([1, 1, 1, 1, 1, 0, 1, 0.0])
    classes = classes_of(torch.tensor([3, 9, 3, 9, 3, 9, 3, 9]), 1)
    found = accuracy(right, classes, [torch.tensor([i, i + 1]) for i in (0, 2, 4, 6)], trained=6)
    half = stats.t.ppf(0.975, 3) * math.sqrt((1 / 4 + 2 / 6) / 12)
    assert found == Accuracy(0.75, (0.75 - half, 1.0), (1, 1, 0.5, 0.5), {3: 1.0, 9: 0.5}, 8)


def test_intervals_over_folds_hold_the_accuracy_of_fresh_examples() -> None:
    """Over 60 draws, the accuracy of a probe on 2,000 fresh examples lies in the 95 % interval in at least 85 %."""
    held = 0
    for seed in range(60):
        draw = torch.Generator().manual_seed(seed)
        labels = torch.arange(2_120) % 2
        features = torch.randn(2_120, 3, generator=draw) + 0.6 * labels[:, None]
        low, high = of(linear_probes({"a": features[:120]}, labels[:120], penalties=[0.1]), "a").accuracy.bounds
        (known,) = solve([fit(features[:120], labels[:120], [0.1])], 2)
        fresh = float((known.predict(features[120:])[0] == labels[120:]).double().mean())
        held += low <= fresh <= high
    assert held >= 51


def test_published_features(shared: Callable[[str], Path]) -> None:
    """ResNet-20's features of CIFAR-10: the higher the layer, the more of the classes a linear probe finds."""
    arrays = np.load(shared("reference_values") / "inputs.npz")
    labels = torch.from_numpy(arrays["cifar_labels"].copy()).long()
    layers = {name: torch.from_numpy(arrays[f"cifar_{name}"].copy()) for name in ("low", "mid", "high", "dead")}
    found = linear_probes(layers, labels)
    low, mid, high = (of(found, name).accuracy for name in ("low", "mid", "high"))
    assert low.mean < mid.mean < high.bounds[0]
    assert low.bounds[1] < high.bounds[0]
    assert of(found, "dead").accuracy.examples == 400
