"""Decoders: generated for any shape, trained together as if apart, and what follows from their errors, by hand."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerwise.errors import RepresentationError
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.probes import recovery
from layerwise.probes.decoder import Lesson, Training, fresh, generated, train_decoders
from layerwise.probes.recovery import (
    QUANTITIES,
    Case,
    Recovered,
    about_means,
    advise,
    by_class,
    decide,
    minus_untrained,
    recover,
    squared_errors,
)
from layerwise.probes.truncated import activations

NOT_DRAWN = torch.zeros(0, 1, 1, 1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(n: int, seed: int = 0, coarse: int = 3) -> Tensor:
    """Smooth grey pictures of 8x8 in 0 to 1, made from so many pixels a side."""
    drawn = torch.rand(n, 1, coarse, coarse, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.interpolate(drawn, (8, 8), mode="bilinear")


# The decoders.


@pytest.mark.parametrize("picture", [(1, 32, 32), (3, 32, 32), (3, 30, 45), (1, 5, 5)], ids=str)
@pytest.mark.parametrize(
    "shape",
    [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (8, 1, 1), (16, 34, 40), (2, 3, 7), (120,), (7, 12)],
    ids=str,
)
def test_every_shape_has_a_decoder_in_which_every_unit_and_every_weight_counts(
    shape: tuple[int, ...], picture: tuple[int, ...]
) -> None:
    decoder = generated(shape, picture).double()
    x = draw(2, *shape).requires_grad_()
    y = decoder(x)
    assert tuple(y.shape) == (2, *picture)
    y.sum().backward()
    inside = x.grad if len(shape) < 3 else x.grad[..., : picture[1], : picture[2]]
    assert (x.grad.abs().flatten(1).sum(1) > 0).all()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())
    assert inside.isfinite().all()


def test_maps_lie_over_the_part_of_the_picture_that_they_saw() -> None:
    """A pixel of a 14x14 map of valid convolutions, in the middle of its field, is drawn where it came from."""
    decoder = generated((1, 14, 14), (1, 32, 32)).double()
    for row, column in ((0, 0), (6, 9), (13, 13)):
        x = torch.zeros(1, 1, 14, 14, dtype=torch.float64)
        x[0, 0, row, column] = 1
        moved = (decoder(x) - decoder(0 * x)).detach()[0, 0].abs() > 0
        rows, columns = (moved.any(k).nonzero().flatten() for k in (1, 0))
        assert rows.double().mean().item() == pytest.approx(2 * row + 2.5, abs=1)
        assert columns.double().mean().item() == pytest.approx(2 * column + 2.5, abs=1)


def test_decoders_do_not_depend_on_the_scale_of_activations() -> None:
    seen, aims = draw(20, 3, 4, 4), pictures(20)
    scale, shift = torch.tensor([1e-3, 1.0, 1e4]).view(3, 1, 1), torch.tensor([5.0, -1.0, 0.0]).view(3, 1, 1)
    one, other = fresh(Lesson(seen, aims)), fresh(Lesson(seen * scale + shift, aims))
    torch.testing.assert_close(one(seen), other(seen * scale + shift), rtol=0, atol=1e-9)
    constant = torch.ones(20, 3, 4, 4, dtype=torch.float64)
    assert fresh(Lesson(constant, aims))(constant).isfinite().all()


def test_a_decoder_of_the_image_itself_gives_it_back() -> None:
    """As maps to under 2 % of what the mean picture leaves, as a vector to under 4 %."""
    aims = pictures(300, coarse=2).float()
    for seen, most in ((3 * aims - 1, 0.02), (3 * aims.flatten(1) - 1, 0.04)):
        (decoder,) = train_decoders([Lesson(seen[:200], aims[:200])], Training(300, 16, 1e-2))
        assert isinstance(decoder, nn.Module)
        error = squared_errors(decoder, seen[200:], aims[200:]).sum()
        assert error < most * about_means(aims[200:], torch.zeros(100).long()).sum()


def alone(lesson: Lesson, training: Training) -> nn.Module:
    """Training as plainly as it can be written."""
    decoder = fresh(lesson)
    adam = torch.optim.Adam(decoder.parameters())
    for step, rows in enumerate(lesson.batches(training)):
        adam.param_groups[0]["lr"] = training.rate * (1 - step / training.steps)
        loss = F.mse_loss(decoder(lesson.activations[rows]), lesson.pictures[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return decoder


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4), (4, 2, 2), (6,)], ids=str)
def test_together_is_one_after_another(shape: tuple[int, ...]) -> None:
    """In float64, to 1e-10 after 50 steps: members differ in seed, activations, pictures and examples."""
    lessons = [
        Lesson(draw(30, *shape), pictures(30), 0),
        Lesson(draw(30, *shape), pictures(30), 1),
        Lesson(draw(40, *shape, seed=2), pictures(40, seed=2), 0, torch.arange(10, 40)),
        Lesson(draw(30, *shape), pictures(30), 0, torch.tensor([3, 3, 3, 7, 9])),
    ]
    training = Training(50, 8, 5e-3)
    together = train_decoders(lessons, training)
    for lesson, decoder in zip(lessons, together, strict=True):
        assert isinstance(decoder, nn.Module)
        by_itself = alone(lesson, training)
        for one, other in zip(decoder.state_dict().values(), by_itself.state_dict().values(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    first, second = (dict(decoder.named_parameters()) for decoder in together[:2])
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_a_decoder_that_diverges_touches_no_other() -> None:
    good = Lesson(draw(30, 6), pictures(30), 1)
    bad = Lesson(draw(30, 6), torch.full_like(pictures(30), 1e300), 0)
    lost, found = train_decoders([bad, good], Training(5, 8))
    (by_itself,) = train_decoders([good], Training(5, 8))
    assert isinstance(lost, RepresentationError)
    assert str(lost) == "decoder 0 diverged; take a smaller rate"
    for one, other in zip(found.parameters(), by_itself.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Training(0),
            "decoders need steps >= 1, batch_size >= 1 and rate > 0, not Training(steps=0, batch_size=32, rate=0.003)",
        ),
        (
            lambda: train_decoders([Lesson(draw(3, 6), pictures(3), 4, torch.arange(0))]),
            "decoder 4 has no example to learn from; give some of a known class",
        ),
        (
            lambda: train_decoders([Lesson(draw(3, 6), pictures(3)), Lesson(draw(3, 5), pictures(3))]),
            "decoders are trained together from one shape to one, not [((5,), (1, 8, 8)), ((6,), (1, 8, 8))]",
        ),
        (
            lambda: advise(made_up({0: (1.0, 2.0)}, known=(7, 8))),
            "no image of the known classes [7, 8] is held out; hold some out",
        ),
    ],
)
def test_errors_say_what_and_what_to_do(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RepresentationError, match=f"^{re.escape(message)}$"):
        make()


# Errors of classes.


def test_the_mean_picture_has_a_normalised_error_of_1() -> None:
    """By hand: pixels 0 and 1 of one class lie 0.5 from their mean, 4 pixels each; two alike lie 0 from it."""
    aims = torch.tensor([0.0, 1.0, 0.3, 0.3]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    assert about_means(aims, torch.tensor([0, 0, 1, 1])).tolist() == [1, 1, 0, 0]
    labels = torch.tensor([0] * 6 + [1] * 6)
    aims = draw(12, 1, 4, 4)
    means = torch.stack([aims[labels == label].mean(0) for label in (0, 1)])[labels]
    drawn_as_mean = squared_errors(nn.Identity(), means, aims)
    found = Recovered("l", (0,), labels, drawn_as_mean[None], torch.zeros(1, 12), about_means(aims, labels), NOT_DRAWN)
    rows = {(row.label, row.quantity): row for row in by_class(found)}
    for label in (0, 1):
        assert rows[label, "normalised_error"].value == pytest.approx(1, abs=1e-12)
        assert rows[label, "normalised_error"].interval == pytest.approx((1, 1), abs=1e-12)
        assert rows[label, "excess_error"].value == pytest.approx(1, abs=1e-12)


def made_up(
    errors: dict[int, tuple[float, float]],
    known: tuple[int, ...],
    images: int = 40,
    decoders: int = 6,
    noise: float = 0,
) -> Recovered:
    """Held-out images of classes with this error of the layer's decoders, and of the class's mean image."""
    generator = np.random.default_rng(0)
    labels = torch.tensor([label for label in errors for _ in range(images)])
    e, b = (torch.tensor([errors[label][k] for label in labels.tolist()], dtype=torch.float64) for k in (0, 1))
    wobble = torch.from_numpy(1 + noise * generator.standard_normal((decoders, len(labels))))
    return Recovered("conv1", known, labels, e * wobble, 0.1 * b.expand(decoders, -1), b, NOT_DRAWN)


def test_errors_by_hand() -> None:
    rows = by_class(made_up({0: (2.0, 10.0), 5: (3.0, 4.0)}, (0,)))
    found = {(row.label, row.quantity): (row.value, row.interval) for row in rows}
    assert len(found) == 2 * len(QUANTITIES)
    for label, values in {0: (2, 0.2, 1 / 9), 5: (3, 0.75, 2.6 / 3.6)}.items():
        for quantity, value in zip(QUANTITIES, values, strict=True):
            assert found[label, quantity] == (pytest.approx(value), pytest.approx((value, value)))


def test_an_error_without_a_scale_says_why() -> None:
    rows = {(row.label, row.quantity): row for row in by_class(made_up({0: (2.0, 10.0), 5: (3.0, 0.0)}, (0,)))}
    row = rows[5, "normalised_error"]
    assert (row.value, row.interval) == (None, None)
    assert row.why == "the 40 held-out images of class 5 do not differ, or the decoders had too few steps"
    assert rows[5, "raw_error"].value == pytest.approx(3)
    (told,) = advise(made_up({0: (2.0, 10.0), 5: (3.0, 0.0)}, (0,)))
    assert (told.beyond, told.interval, told.verdict) == (None, None, "undecided")
    assert told.why == "the normalised_error of class 5 or of a known class cannot be computed"


def test_what_training_has_lost_of_a_class_by_hand() -> None:
    trained, untrained = (
        made_up({0: (2.0, 10.0), 5: (6.0, 10.0)}, (0,)),
        made_up({0: (3.0, 10.0), 5: (4.0, 10.0)}, (0,)),
    )
    rows = {row.label: row for row in minus_untrained(trained, untrained)}
    assert {label: row.value for label, row in rows.items()} == {0: pytest.approx(-0.1), 5: pytest.approx(0.2)}
    assert rows[5].interval == pytest.approx((0.2, 0.2))
    noisy = made_up({0: (2.0, 10.0)}, (0,), noise=0.3)
    assert minus_untrained(noisy, noisy)[0].interval == (0, 0)  # in pairs: the same images, the same seeds


def test_intervals_are_those_of_the_mean_over_decoders_and_images() -> None:
    """Over independent images of deviation s their 95 % interval is about 1.96 s / sqrt(n) each way."""
    spread = np.random.default_rng(3).normal(5, 1, 400)
    errors = torch.from_numpy(spread).expand(5, 400)
    found = Recovered("l", (0,), torch.zeros(400).long(), errors, torch.zeros(5, 400), torch.ones(400), NOT_DRAWN)
    row = by_class(found)[0]
    assert row.interval is not None
    assert row.value == pytest.approx(spread.mean())
    assert row.interval[1] - row.interval[0] == pytest.approx(2 * 1.96 * spread.std() / 20, rel=0.1)
    apart = torch.from_numpy(np.random.default_rng(4).normal(5, 1, 30))[:, None].expand(30, 400)
    found = Recovered("l", (0,), torch.zeros(400).long(), apart, torch.zeros(5, 400), torch.ones(400), NOT_DRAWN)
    row = by_class(found)[0]
    assert row.interval is not None
    assert row.interval[1] - row.interval[0] == pytest.approx(2 * 1.96 * apart[:, 0].std().item() / 30**0.5, rel=0.15)


# The advice.


@pytest.mark.parametrize(
    ("bounds", "decoders", "images", "verdict"),
    [
        ((0.01, 0.2), 5, 5, "retrain"),
        ((-0.2, -0.01), 5, 5, "keep"),
        ((-0.01, 0.2), 5, 5, "undecided"),
        ((0.0, 0.2), 5, 5, "undecided"),
        ((0.01, 0.2), 4, 100, "undecided"),
        ((-0.2, -0.01), 100, 4, "undecided"),
        (None, 5, 5, "undecided"),
    ],
)
def test_the_rule(bounds: tuple[float, float] | None, decoders: int, images: int, verdict: str) -> None:
    assert decide(bounds, decoders, images) == verdict


def test_advice_by_hand() -> None:
    """Known classes lose 20 and 30 %: one that loses 50 % is beyond them, one of 10 % and one of 25 % are not."""
    classes = {0: (2.0, 10.0), 1: (6.0, 20.0), 5: (50.0, 100.0), 6: (0.1, 1.0), 7: (2.5, 10.0)}
    told = {one.label: one for one in advise(made_up(classes, (0, 1), noise=0.1))}
    assert sorted(told) == [5, 6, 7]
    assert {label: one.verdict for label, one in told.items()} == {5: "retrain", 6: "keep", 7: "keep"}
    assert told[5].beyond == pytest.approx(0.2, abs=0.02)
    assert (told[5].decoders, told[5].images) == (6, 40)
    near = {0: (2.0, 10.0), 1: (3.0, 10.0), 5: (3.0, 10.0)}
    (one,) = advise(made_up(near, (0, 1), noise=0.5))
    assert one.interval is not None
    assert one.interval[0] < 0 < one.interval[1]
    assert one.verdict == "undecided"


def test_the_papers_rule_takes_ink_for_difficulty() -> None:
    """Class 5 has twice the ink, and loses the same share of it: raw it is to be retrained, normalised it is not."""
    classes = {0: (2.0, 10.0), 1: (3.0, 10.0), 5: (5.0, 20.0)}
    (raw,) = advise(made_up(classes, (0, 1), noise=0.05), "raw_error")
    (normalised,) = advise(made_up(classes, (0, 1), noise=0.05))
    assert (raw.verdict, normalised.verdict) == ("retrain", "keep")


# Nets.


class Blind(nn.Module):
    """Two layers: the first gives the left half of the image, the second nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 1, 1, bias=False)
        self.nothing = nn.Linear(32, 3)
        nn.init.ones_(self.left.weight)
        nn.init.zeros_(self.nothing.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.nothing(self.left(x[..., :4]).flatten(1))


def world(n: int = 240) -> tuple[Tensor, Tensor, Tensor]:
    aims = pictures(n).float()
    return aims * 2 - 1, torch.arange(n) % 4, torch.arange(n) < n * 2 // 3


def test_what_layers_lose_is_what_decoders_cannot_draw() -> None:
    """The net's last layer gives the same for all images: its decoders draw the known classes' mean at best."""
    images, labels, learnt = world()
    net = Blind()
    found = recover(
        [Case("blind", net, (0, 1))], layers(net, images[:1]), images, labels, learnt,
        mean=(0.5,), std=(0.5,), seeds=1, training=Training(200, 16, 1e-2),
    )  # fmt: skip
    assert list(found) == [("blind", "left"), ("blind", "nothing")]
    left, nothing = (
        {row.label: row for row in by_class(one) if row.quantity == "excess_error"} for one in found.values()
    )
    for label in range(4):
        assert left[label].value < 0.75
        assert nothing[label].value == pytest.approx(1, abs=0.1)
    assert left[0].images == 20
    held = images[~learnt]
    firsts = [labels[~learnt].tolist().index(label) for label in range(4)]
    for one in found.values():
        off = (one.drawings - (held[firsts] + 1) / 2).square().sum((1, 2, 3))
        assert torch.allclose(off, one.of_layer[0, firsts], atol=1e-5)


def test_the_net_is_left_as_it_was_and_cases_are_as_if_apart() -> None:
    images, labels, learnt = world(60)
    images = F.interpolate(images, (32, 32))
    nets = [build("lenet5", (1, 32, 32), 2, seed).train() for seed in (0, 1)]
    cases = [Case("one", nets[0], (0, 1)), Case("other", nets[1], (2, 3))]
    before = [{name: tensor.clone() for name, tensor in net.state_dict().items()} for net in nets]
    shapes, told = layers(nets[0], images[:1]), []
    how = {"mean": (0.5,), "std": (0.5,), "at": [4, 5], "seeds": 2, "training": Training(6, 8)}
    together = recover(cases, shapes, images, labels, learnt, progress=lambda *at: told.append(at), **how)
    assert told == [(k, 18) for k in range(1, 19)]
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
        assert all(module.training for module in net.modules())
        assert all(parameter.grad is None for parameter in net.parameters())
    apart = recover(cases[1:], shapes, images, labels, learnt, **how)
    for key, one in apart.items():
        torch.testing.assert_close(one.of_layer, together[key].of_layer, rtol=1e-4, atol=1e-4)
        assert not torch.equal(one.of_layer[0], one.of_layer[1])


def test_a_layer_that_cannot_be_probed_says_why_and_spoils_no_other() -> None:
    images, labels, learnt = world(60)
    broken, good = Blind(), Blind()
    with torch.no_grad():
        broken.nothing.weight.fill_(torch.inf)
    found = recover(
        [Case("broken", broken, (0, 1)), Case("good", good, (0, 1))], layers(good, images[:1]), images, labels, learnt,
        mean=(0.5,), std=(0.5,), seeds=1, training=Training(3, 8),
    )  # fmt: skip
    assert str(found["broken", "nothing"]) == "the layer gives no finite activations for 60 of 60 images"
    assert isinstance(found["broken", "left"], Recovered)
    assert isinstance(found["good", "nothing"], Recovered)


def test_activations_beyond_the_memory_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two nets, 60 images of 32 float32 each: three times 7,680 bytes; and one of the other layer's 3."""
    images, labels, learnt = world(60)
    net, passed = Blind(), []
    net.left.register_forward_hook(lambda _module, given, _made: passed.append(len(given[0])))
    cases = [Case("one", net, (0, 1)), Case("other", net, (0, 1))]
    found = layers(net, images[:1])
    how = {"mean": (0.5,), "std": (0.5,), "seeds": 1, "training": Training(2, 8)}
    passed.clear()
    refused = recover(cases, found, images, labels, learnt, memory=3 * 7680 - 1, **how)
    assert passed == [1, 1, 1, 60, 1, 60]
    for case in ("one", "other"):
        assert str(refused[case, "left"]) == (
            "the layer's activations of 60 images take 0.00768 MB, and there is room for 0.00768 MB; "
            "raise the budget, or leave the layer out"
        )
        assert isinstance(refused[case, "nothing"], Recovered)
    bounded, whole = (recover(cases, found, images, labels, learnt, memory=most, **how) for most in (3 * 7680, None))
    for key, one in whole.items():
        assert torch.equal(bounded[key].of_layer, one.of_layer)


def test_many_pixels_pass_few_at_a_time() -> None:
    """And what is joined is what the layer gives: 500 images of 224 x 224 at once took gigabytes within the net."""
    passed = []

    def first(images: Tensor) -> Tensor:
        passed.append(len(images))
        return images.mean(3)

    images = torch.rand(50, 1, 256, 256)
    assert torch.equal(activations(first, images), images.mean(3))
    assert passed == [32, 18]


def test_every_quantity_says_what_it_tells_and_when_it_misleads() -> None:
    assert set(recovery.ABOUT) == {*QUANTITIES, "minus_untrained", "advice"}


def test_nothing_held_out_is_an_error() -> None:
    images, labels, learnt = world(60)
    net = Blind()
    with pytest.raises(RepresentationError, match=r"^all 60 images are marked as learnt; hold some out$"):
        recover([Case("a", net, (0,))], layers(net, images[:1]), images, labels, learnt | True, mean=(0.5,), std=(0.5,))
