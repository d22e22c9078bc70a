"""Inversion: what is recovered where nothing is lost, what remains where something is, and images that do not meet."""

import re
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from layerwise.errors import RepresentationError
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.probes.inversion import (
    QUANTITIES,
    Inverted,
    Search,
    by_class,
    in_pixels,
    invert,
    minus_untrained,
    random_images,
    seek,
    total_variation,
)
from layerwise.probes.truncated import activations, truncated

PIXELS = {"mean": (0.25,), "std": (0.5,)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mapped(weight: Tensor, channels: int = 1) -> nn.Module:
    """A net of one layer, the linear map of all pixels by this matrix, and a head."""
    first, head = nn.Linear(weight.shape[1], len(weight)), nn.Linear(len(weight), 2)
    net = nn.Sequential(OrderedDict(flat=nn.Flatten(), first=first, head=head)).double()
    with torch.no_grad():
        first.weight.copy_(weight)
    return net


def inverted(net: nn.Module, images: Tensor, at: int = 1, search: Search | None = None) -> Inverted:
    found = layers(net, images)
    (one,) = invert(net, found, images, at=[at], search=search, **PIXELS)
    return one


# What is recovered.


@pytest.mark.parametrize("search", [Search(200), Search(3000, "adam", 0.01)], ids=["descent", "adam"])
def test_an_invertible_layer_gives_the_image_back(search: Search) -> None:
    """A rotation, and a map whose singular values lie between 1 and 2."""
    rotation = torch.linalg.qr(draw(16, 16)).Q
    stretched = rotation @ torch.diag(torch.linspace(1, 2, 16, dtype=torch.float64)) @ torch.linalg.qr(draw(16, 16)).Q
    images = draw(5, 1, 4, 4, seed=1)
    for weight in (rotation, stretched):
        one = inverted(mapped(weight), images, search=search)
        torch.testing.assert_close(one.pictures, images * 0.5 + 0.25, rtol=0, atol=1e-6)
        assert one.activation_error.max() < 1e-10
        assert one.image_error.max() < 1e-10
        assert not one.diverged.any()


def test_what_a_layer_does_not_look_at_stays_as_the_start_was() -> None:
    """The layer sees the first 10 of 16 pixels: those are recovered, the others never move."""
    images = draw(4, 1, 4, 4, seed=2)
    one = inverted(mapped(torch.eye(16, dtype=torch.float64)[:10]), images)
    start = in_pixels(random_images(images, *PIXELS.values(), 0), *PIXELS.values())
    aims = in_pixels(images, *PIXELS.values())
    torch.testing.assert_close(one.pictures.flatten(1)[:, :10], aims.flatten(1)[:, :10], rtol=0, atol=1e-9)
    assert torch.equal(one.pictures.flatten(1)[:, 10:], start.flatten(1)[:, 10:])
    lost = (start - aims).flatten(1)[:, 10:].square().sum(1) / 16
    torch.testing.assert_close(one.image_error, lost, rtol=1e-9, atol=0)
    assert one.activation_error.max() < 1e-15


def test_one_step_of_descent_by_hand() -> None:
    """Activations 2x of the pixels x: the error is |2x - 2a|^2 / |2a|^2, its gradient 2 (x - a) / |a|^2."""
    net, images = mapped(2 * torch.eye(4, dtype=torch.float64)), draw(3, 1, 2, 2, seed=3)
    net.get_parameter("first.bias").data.zero_()
    start = random_images(images, *PIXELS.values(), 7)
    one = inverted(net, images, search=Search(1, rate=0.1, seed=7))
    energy = images.square().sum((1, 2, 3), keepdim=True)
    by_hand = start - 0.1 * 2 * (start - images) / energy
    torch.testing.assert_close(one.pictures, in_pixels(by_hand, *PIXELS.values()), rtol=0, atol=1e-12)
    error = ((by_hand - images).square().sum((1, 2, 3), keepdim=True) / energy).flatten()
    torch.testing.assert_close(one.activation_error, error, rtol=0, atol=1e-12)


def test_the_step_that_is_found_is_the_longest_that_is_safe() -> None:
    """One over the curvature 2 s^2 / |a|^2, where s is the greatest singular value: one step ends its direction."""
    weight = torch.diag(torch.tensor([3.0, 0.5, 0.5, 0.5], dtype=torch.float64))
    net, images = mapped(weight), draw(3, 1, 2, 2, seed=4)
    net.get_parameter("first.bias").data.zero_()
    start = random_images(images, *PIXELS.values(), 0).flatten(1)
    one = inverted(net, images, search=Search(1))
    found = ((one.pictures - 0.25) / 0.5).flatten(1)
    left = (found - images.flatten(1)) / (start - images.flatten(1))
    torch.testing.assert_close(left[:, 0], torch.zeros_like(left[:, 0]), rtol=0, atol=1e-6)
    torch.testing.assert_close(left[:, 1:], torch.full_like(left[:, 1:], 1 - 0.25 / 9), rtol=0, atol=1e-6)


# Priors.


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]])
    by_hand = ((1 + 4 + 1) + (1 + 4 + 0 + 9)) / 6  # down: 1, 2, 1; across: 1, 2, 0, 3
    assert total_variation(torch.stack([image[None], 2 * image[None]])).tolist() == pytest.approx(
        [by_hand, 4 * by_hand]
    )


def test_priors_are_means_over_pixels_and_off_by_default() -> None:
    x = draw(3, 2, 4, 5)
    assert Search().prior(x).tolist() == [0, 0, 0]
    both = Search(total_variation=0.5, norm=2.0).prior(x)
    torch.testing.assert_close(both, 0.5 * total_variation(x) + 2 * (x**6).mean((1, 2, 3)), rtol=1e-12, atol=0)


def test_priors_fill_what_the_layer_does_not_see() -> None:
    """Where the layer sees the left half, smoothness draws the right half to it, and the norm draws it to 0."""
    images = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    seen = torch.eye(16, dtype=torch.float64)[[0, 1, 4, 5, 8, 9, 12, 13]]
    smooth = inverted(mapped(seen), images, search=Search(1000, total_variation=0.1))
    torch.testing.assert_close(smooth.pictures, in_pixels(images, *PIXELS.values()), rtol=0, atol=1e-3)
    short = inverted(mapped(seen), images, search=Search(1000, norm=1.0))
    plain = inverted(mapped(seen), images)
    right = [((one.pictures - 0.25) / 0.5)[..., 2:].abs().max().item() for one in (short, plain)]
    assert right[0] < 0.7 < 1.3 < right[1]


# Images do not meet.


@pytest.mark.parametrize("optimiser", ["descent", "adam"])
def test_an_image_is_found_alike_in_any_company(optimiser: str) -> None:
    net, images = build("lenet5", (1, 32, 32), 5, 0).double(), draw(5, 1, 32, 32, seed=5)
    search = Search(10, optimiser)
    first, start = truncated(net, layers(net, images), 3), random_images(images, *PIXELS.values(), 1)
    together = seek(first, images, start, search, lambda: None)
    for k in range(5):
        alone = seek(first, images[k : k + 1], start[k : k + 1], search, lambda: None)
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[k : k + 1], other, rtol=0, atol=1e-12)
    some = seek(first, images, start, Search(10, optimiser, at_once=2), lambda: None)
    torch.testing.assert_close(some[0], together[0], rtol=0, atol=1e-12)


def test_an_image_that_diverges_does_not_touch_the_others() -> None:
    """Of images of activations x, that of norm 0.02 has a curvature of 2 / 0.02^2: a rate of 0.1 is too much for it."""
    images = torch.stack([torch.full((1, 2, 2), value, dtype=torch.float64) for value in (1.0, 0.01, -1.0)])
    start, search = draw(3, 1, 2, 2, seed=6), Search(300, rate=0.1)
    found, errors, diverged = seek(nn.Flatten(), images, start, search, lambda: None)
    assert diverged.tolist() == [False, True, False]
    others, alone, _ = seek(nn.Flatten(), images[[0, 2]], start[[0, 2]], search, lambda: None)
    assert torch.equal(found[[0, 2]], others)
    assert torch.equal(errors[[0, 2]], alone)
    assert torch.equal(found[1], start[1])  # the best that was met


@pytest.mark.parametrize("optimiser", ["descent", "adam"])
def test_a_start_whose_activations_are_no_numbers_is_a_divergence(optimiser: str) -> None:
    images, start = draw(3, 1, 2, 2, seed=6), torch.zeros(3, 1, 2, 2, dtype=torch.float64)
    start[1] = 800.0

    def explosive(x: Tensor) -> Tensor:
        return x.exp().flatten(1)

    found, errors, diverged = seek(explosive, images, start, Search(20, optimiser, 0.01), lambda: None)
    assert diverged.tolist() == [False, True, False]
    others, alone, _ = seek(explosive, images[[0, 2]], start[[0, 2]], Search(20, optimiser, 0.01), lambda: None)
    assert torch.equal(found[[0, 2]], others)
    assert torch.equal(errors[[0, 2]], alone)
    assert (alone < 1).all()


def test_a_layer_that_sees_nothing_has_nothing_to_miss() -> None:
    images, start = draw(2, 1, 2, 2), draw(2, 1, 2, 2, seed=1)
    found, errors, diverged = seek(lambda x: 0 * x, images, start, Search(5), lambda: None)
    assert torch.equal(found, start)
    assert (errors.tolist(), diverged.tolist()) == ([0, 0], [False, False])


def test_starts_depend_on_seed_and_place_only() -> None:
    images = draw(6, 3, 4, 4)
    colours = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 4.0)}
    six, two = random_images(images, *colours.values(), 0), random_images(images[:2], *colours.values(), 0)
    assert torch.equal(six[:2], two)
    assert not torch.equal(six, random_images(images, *colours.values(), 1))
    pixels = in_pixels(random_images(draw(50, 3, 20, 20), *colours.values(), 2), *colours.values())
    assert 0 <= pixels.min() < 0.001
    assert 0.999 < pixels.max() <= 1
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx([0.5] * 3, abs=0.01)


# The net.


class Residual(nn.Module):
    """Two linear layers beside a shortcut: it cannot be cut between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.after = 0

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        y = self.one(x)
        self.after += 1
        return x + self.two(y)


class Raising(Residual):
    def forward(self, x: Tensor) -> Tensor:
        self.one(x.flatten(1)[:, :3])
        return x


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def test_where_the_net_cannot_be_cut_a_hook_looks_and_ends_the_pass() -> None:
    net, images = Residual().double(), draw(3, 1, 2, 2)
    found = layers(net, images)
    first = truncated(net, found, 1)
    net.after = 0
    assert torch.equal(activations(first, images), net.one(images.flatten(1)).detach())
    assert (hooks(net), net.after) == (0, 0)


def test_hooks_are_gone_after_an_error() -> None:
    images = draw(3, 1, 2, 2)
    found, net = layers(Residual().double(), images), Raising().double()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        truncated(net, found, 1)(images)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        invert(net.train(), found, images, at=[1], **PIXELS)
    assert hooks(net) == 0
    assert all(module.training for module in net.modules())


def test_the_net_is_left_as_it_was() -> None:
    net, images = build("resnet20", (3, 32, 32), 5, 0), draw(2, 3, 32, 32).float()
    found = layers(net, images)
    net.train()
    net.get_submodule("layer2").eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    invert(net, found, images, mean=(0.5,) * 3, std=(0.3,) * 3, at=[1, 4], search=Search(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert modes == [module.training for module in net.modules()]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert hooks(net) == 0


def test_activations_at_a_cut_are_those_after_the_layers_last_activation() -> None:
    net, images = build("resnet20", (3, 32, 32), 5, 0).eval(), draw(2, 3, 32, 32).float()
    found = layers(net, images)
    number = next(layer.number for layer in found if layer.name == "layer1.0.conv2")
    with torch.no_grad():
        after_block = net.get_submodule("layer1.0")(net.get_submodule("relu")(net.bn1(net.conv1(images))))
        convolved = net.get_submodule("layer1.0.conv1")(torch.relu(net.bn1(net.conv1(images))))
        inside = torch.relu(net.get_submodule("layer1.0.bn1")(convolved))
    assert torch.equal(activations(truncated(net, found, number), images), after_block)
    assert torch.equal(activations(truncated(net, found, number - 1), images), inside)


def test_a_net_that_writes_into_its_input_does_not_spoil_the_images() -> None:
    net = nn.Sequential(OrderedDict(relu=nn.ReLU(inplace=True), first=nn.Conv2d(1, 2, 1), head=nn.Conv2d(2, 2, 1)))
    images = draw(2, 1, 3, 3).float()
    before = images.clone()
    found = layers(net, images.clone())
    invert(net, found, images, at=[1], search=Search(3), **PIXELS)
    assert torch.equal(images, before)


def test_progress_counts_every_step() -> None:
    net, images, told = mapped(torch.eye(4, dtype=torch.float64)), draw(3, 1, 2, 2), []
    invert(
        net, layers(net, images), images, search=Search(2, at_once=2), progress=lambda *at: told.append(at), **PIXELS
    )
    assert told == [(k, 8) for k in range(1, 9)]


# Errors.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Search(steps=-1),
            "an inversion needs steps >= 0, rate > 0 and at_once >= 1, not Search(steps=-1, optimiser='descent', "
            "rate=None, total_variation=0.0, norm=0.0, seed=0, at_once=500)",
        ),
        (
            lambda: inverted(mapped(torch.eye(4, dtype=torch.float64)), torch.full((2, 1, 2, 2), torch.nan).double()),
            "8 pixels of the images are not finite; remove these images",
        ),
        (
            lambda: in_pixels(draw(2, 3, 4, 4), (0.1,), (0.2,)),
            "mean and std have 1 channels, the images 3; give as many",
        ),
        (
            lambda: activations(lambda x: (x, x), draw(2, 1, 2, 2)),
            "the layer gives a tuple, not one tensor; leave it out",
        ),
        (
            lambda: activations(lambda x: x.flatten(), draw(2, 1, 2, 2)),
            "the layer gives (8,), not a row for each of 2 images; leave it out",
        ),
        (
            lambda: activations(lambda x: x.log(), -torch.eye(2).view(2, 1, 1, 2)),
            "the layer gives no finite activations for 2 of 2 images",
        ),
    ],
)
def test_errors_say_what_and_what_to_do(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RepresentationError, match=f"^{re.escape(message)}$"):
        make()


# Tables.


def made_up(errors: list[float], diverged: list[bool] | None = None) -> Inverted:
    values = torch.tensor(errors, dtype=torch.float64)
    lost = torch.tensor(diverged or [False] * len(errors))
    mean = torch.tensor([0.1, 0.1, 0.3, 0.2, 0.2, 0.2], dtype=torch.float64)[: len(errors)]
    return Inverted("conv1", torch.zeros(len(errors), 1, 1, 1), values / 10, values, mean, lost)


LABELS = torch.tensor([0, 0, 0, 5, 5, 5])


def test_errors_per_class_by_hand() -> None:
    one = made_up([0.1, 0.2, 0.3, 0.4, 9.0, 0.6], [False, False, False, False, True, False])
    rows = {(row.label, row.quantity): row for row in by_class([one], LABELS)}
    assert len(rows) == 2 * len(QUANTITIES)
    assert rows[0, "image_error"].value == pytest.approx(0.2)
    assert rows[0, "activation_error"].value == pytest.approx(0.02)
    assert rows[0, "relative_error"].value == pytest.approx(0.2 / (0.5 / 3))
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert rows[0, "image_error"].interval == pytest.approx((0.2 - half, 0.2 + half))
    assert (rows[5, "image_error"].value, rows[5, "image_error"].images) == (pytest.approx(0.5), 2)


def test_an_error_that_cannot_be_computed_says_why() -> None:
    lost = made_up([0.1, 0.2, 0.3, 0.4, 9.0, 0.6], [False] * 3 + [True] * 3)
    row = by_class([lost], LABELS)[-1]
    assert (row.value, row.interval, row.images) == (None, None, 0)
    assert row.why == "the search diverged for every image of class 5; take a smaller rate"
    alone = Inverted("conv1", torch.zeros(1, 1, 1, 1), torch.ones(1), torch.ones(1), torch.zeros(1), torch.zeros(1) > 0)
    rows = by_class([alone], torch.tensor([3]))
    assert [row.value for row in rows] == [1, 1, None]
    assert rows[-1].why == "the images of class 3 are the mean of all images; give images that differ"
    assert rows[0].interval is None


def test_trained_and_untrained_are_compared_image_by_image() -> None:
    one, other = made_up([0.1, 0.5, 0.9, 0, 0, 0]), made_up([0.2, 0.6, 1.0, 0, 0, 0])
    row = minus_untrained([one], [other], LABELS)[0]
    assert row.value == pytest.approx(-0.1)
    assert row.interval == pytest.approx((-0.1, -0.1))
