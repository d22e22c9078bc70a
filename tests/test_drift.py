"""How far layers have moved, and how strong and how noisy their gradients are: arithmetic on tiny nets."""

import copy
import math
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from layerwise.data.dataset import DataSet
from layerwise.errors import RepresentationError
from layerwise.feed import feed
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.prefix import Prefix
from layerwise.probes import activations as probe_activations
from layerwise.probes import drift
from layerwise.probes.drift import (
    ABOUT,
    DISTANCES,
    GRADIENTS,
    Reading,
    Watch,
    distances,
    gradients,
    parts,
    similarities,
)
from layerwise.probes.similarity import linear_cka
from layerwise.run import Recipe, Run
from layerwise.start import State
from layerwise.tasks import Parts, Task
from layerwise.train import laid_out, train
from layerwise.treatment import Treatment

PLAIN = nn.Linear(2, 1)
INPUT = torch.zeros(1, 2)


def state(weight: tuple[float, float], bias: float) -> State:
    return {"weight": torch.tensor([weight]), "bias": torch.tensor([bias])}


def value(readings: list[Reading], quantity: str, *, step: int | None = None, part: str, number: int = 1) -> float:
    found = one(readings, quantity, step=step, part=part, number=number)
    assert found.value is not None, found.reason
    return found.value


def one(readings: list[Reading], quantity: str, *, step: int | None = None, part: str, number: int = 1) -> Reading:
    found = [r for r in readings if (r.quantity, r.step, r.part, r.number) == (quantity, step, part, number)]
    assert len(found) == 1
    return found[0]


def test_distances_are_arithmetic() -> None:
    states = {0: state((3, 4), 2), 5: state((3, 8), 5), 9: state((9, 12), 0)}
    readings = distances(PLAIN, layers(PLAIN, INPUT), states)
    found = {
        (r.step, r.part): tuple(value(readings, quantity, step=r.step, part=r.part) for quantity in DISTANCES)
        for r in readings
    }
    assert found == {
        (0, "weights"): (0, 0, 0, 0),
        (5, "weights"): pytest.approx((4, 4 / math.sqrt(2), 4 / 5, 4 / 10)),
        (9, "weights"): pytest.approx((10, 10 / math.sqrt(2), 10 / 5, 1)),
        (0, "biases"): (0, 0, 0, 0),
        (5, "biases"): (3, 3, 3 / 2, 3 / 2),
        (9, "biases"): (2, 2, 1, 1),
    }


def test_what_has_no_divisor_has_a_reason() -> None:
    states = {0: state((3, 4), 0), 5: state((3, 8), 1), 9: state((3, 4), 2)}
    readings = distances(PLAIN, layers(PLAIN, INPUT), states)
    assert one(readings, "distance_to_start_norm", step=5, part="biases") == Reading(
        5,
        "Linear",
        1,
        "biases",
        "distance_to_start_norm",
        None,
        "the biases of layer 1 'Linear' begin at 0, so no distance is relative to them; read distance_per_root_size",
    )
    assert one(readings, "distance_to_final", step=5, part="weights").reason == (
        "the weights of layer 1 'Linear' end where they began, so there is no way to have gone part of; "
        "read distance_per_root_size"
    )
    assert value(readings, "distance", step=5, part="weights") == 4
    assert value(readings, "distance_to_final", step=5, part="biases") == 0.5


def test_what_is_no_number_has_a_reason() -> None:
    states = {0: state((3, 4), 0), 5: state((3, math.inf), 1), 9: state((3, 5), 2)}
    readings = distances(PLAIN, layers(PLAIN, INPUT), states)
    for quantity in DISTANCES:
        assert one(readings, quantity, step=5, part="weights").reason == (
            "the weights of layer 1 'Linear' at step 5: no longer numbers; look at an earlier step"
        )
        assert one(readings, quantity, step=9, part="weights").value is not None


def test_one_state_is_no_drift() -> None:
    with pytest.raises(RepresentationError, match=r"needs a start and an end; the steps kept are \[3\]"):
        distances(PLAIN, layers(PLAIN, INPUT), {3: state((3, 4), 0)})


class Gains(nn.Module):
    """A layer scale, as transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class LayerScale(Gains): ...


def test_the_parts_of_a_layer() -> None:
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(3, 4)),
        nn.BatchNorm1d(4),
        nn.PReLU(),
        LayerScale(),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    )
    found = layers(net, torch.zeros(2, 3)[:, None].expand(2, 4, 3))
    assert parts(net, found[0]) == {
        "weights": (
            "0.parametrizations.weight.original0",
            "0.parametrizations.weight.original1",
            "2.weight",
            "3.gamma",
        ),
        "biases": ("0.bias",),
        "norms": ("1.weight", "1.bias"),
        "buffers": ("1.running_mean", "1.running_var"),
    }
    assert parts(net, found[1])["biases"] == ("4.self_attn.in_proj_bias", "4.self_attn.out_proj.bias")
    for layer in found:
        named = [name for part, names in parts(net, layer).items() if part != "buffers" for name in names]
        assert sorted(named) == sorted(layer.parameters)


def test_a_trainable_sub_sampling_has_weights_and_tables_are_no_buffers() -> None:
    net = build("lenet5", (1, 32, 32), 20, 0)
    found = layers(net, torch.zeros(1, 1, 32, 32))
    assert all(set(parts(net, layer)) == {"weights", "biases"} for layer in found)


# Gradients


def product(outputs: Tensor, factors: Tensor) -> Tensor:
    """A loss whose gradient by the weights is the input times the factor, whatever the weights."""
    return (outputs[:, 0] * factors).mean()


def linear(*weights: float) -> nn.Module:
    net = nn.Linear(len(weights), 1, bias=False)
    net.load_state_dict({"weight": torch.tensor([weights])})
    return net


def test_gradients_of_a_linear_net_are_arithmetic() -> None:
    """The gradients are (1, 0, 0) and (3, 4, 0): means 2, 2 and 0, variances 2, 8 and 0."""
    net, images = linear(3, 4, 0), torch.tensor([[1.0, 0, 0], [-3, -4, 0]])
    readings = gradients(net, layers(net, images), images, torch.tensor([1, -1]), product)
    assert value(readings, "gradient_norm", part="weights") == pytest.approx(math.sqrt(8))
    assert value(readings, "relative_gradient_norm", part="weights") == pytest.approx(math.sqrt(8) / 5)
    assert value(readings, "signal_to_noise", part="weights") == pytest.approx((4 / 2 + 4 / 8 + 0) / 3)
    assert value(readings, "silent", part="weights") == pytest.approx(1 / 3)
    assert {r.part for r in readings} == {"weights", "all"}


def test_gradients_that_cannot_be_related_have_reasons() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    net.load_state_dict(
        {
            "0.weight": torch.zeros(2, 2),
            "0.bias": torch.full((2,), -1.0),
            "2.weight": torch.ones(1, 2),
            "2.bias": torch.zeros(1),
        }
    )
    images = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    readings = gradients(net, layers(net, images), images, torch.ones(5, dtype=torch.int64), product)
    assert one(readings, "signal_to_noise", part="weights").reason == (
        "the gradient of the weights of layer 1 '0' is 0 for every example: neither signal nor noise; "
        "give other examples"
    )
    assert value(readings, "silent", part="weights") == 1
    assert one(readings, "relative_gradient_norm", part="weights").reason == (
        "the weights of layer 1 '0' are 0; read gradient_norm"
    )
    assert one(readings, "signal_to_noise", part="biases", number=2).reason == (
        "the gradient of the biases of layer 2 '2' is partly the same for every example: no noise; give more, "
        "and other, ones"
    )
    assert value(readings, "gradient_norm", part="biases", number=2) == 1


def test_gradients_that_are_no_numbers_have_a_reason() -> None:
    net, images = linear(3, 4), torch.tensor([[1.0, 0], [torch.inf, -4]])
    readings = gradients(net, layers(net, images[:1]), images, torch.tensor([1, 1]), product)
    for quantity in ("gradient_norm", "relative_gradient_norm", "signal_to_noise"):
        assert one(readings, quantity, part="weights").reason == (
            "the gradient of the weights of layer 1 'Linear': no longer numbers; look at an earlier step"
        )


def test_one_example_has_no_variance() -> None:
    net = linear(3, 4)
    with pytest.raises(RepresentationError, match="1 example has no variance"):
        gradients(net, layers(net, INPUT), INPUT, torch.tensor([1]), product)


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
    )


class Tokens(nn.Module):
    """Attention without biases: that of its keys has no gradient but for rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, bias=False)
        self.norm, self.head = nn.GroupNorm(2, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.encoder(x.reshape(x.shape[0], -1, 8)).mean(1)))


class Asking(nn.Module):
    """A forward pass that depends on what its input is like, which cannot be mapped over examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        return self.second(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("make", "size"), [(normed, 8), (Tokens, 8), (Asking, 8), (lambda: build("lenet5", (1, 32, 32), 3, 0), 32)]
)
@pytest.mark.parametrize("memory", [1, 2**28])
def test_the_same_as_a_loop_over_examples(make: Callable[[], nn.Module], size: int, memory: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, images, classes = make().double(), torch.randn(7, 1, size, size).double(), torch.randint(3, (7,))
        net.train()(images)
    found = layers(net, images[:1])
    before = copy.deepcopy(net.state_dict())
    readings = gradients(net, found, images, classes, step=4, memory=memory)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    net.eval()
    for layer in found:
        for part, names in {**parts(net, layer), "all": layer.parameters}.items():
            if part == "buffers":
                continue
            tensors = [net.get_parameter(name) for name in names]
            each = [
                torch.autograd.grad(F.cross_entropy(net(image[None]), label[None]), tensors)
                for image, label in zip(images, classes, strict=True)
            ]
            table = torch.stack([torch.cat([g.flatten() for g in gradient]) for gradient in each])
            mean, variance = table.mean(0), table.var(0)
            ratio = torch.where(variance == 0, 0, mean**2 / variance).mean()
            size_of = torch.cat([tensor.flatten() for tensor in tensors]).norm()
            expected = mean.norm(), mean.norm() / size_of, ratio, ((variance == 0) & (mean == 0)).double().mean()
            for quantity, number in zip(GRADIENTS, expected, strict=True):
                found_value = value(readings, quantity, step=4, part=part, number=layer.number)
                assert found_value == pytest.approx(number.item(), rel=1e-8, abs=1e-12), (layer.name, part, quantity)


def test_pure_noise_reads_one_over_the_examples() -> None:
    """As the probe says of itself; exactly, (n - 1) / (n (n - 3)) for Gaussian gradients."""
    images = torch.randn(20, 20_000, generator=torch.Generator().manual_seed(0))
    net = linear(*[1.0] * 20_000)
    readings = gradients(net, layers(net, images[:1]), images, torch.ones(20, dtype=torch.int64), product)
    assert value(readings, "signal_to_noise", part="weights") == pytest.approx(19 / (20 * 17), rel=0.05)


# On the way


def test_representations_are_compared_with_the_final_ones() -> None:
    """Turned weights are far from the final ones, and what they make of the images is the same up to rotation."""
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False))
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(50, 3, generator=draw)
    end = {"0.weight": torch.randn(3, 3, generator=draw), "1.weight": torch.randn(2, 3, generator=draw)}
    turn = torch.linalg.qr(torch.randn(3, 3, generator=draw)).Q
    turned = {"0.weight": turn @ end["0.weight"] * 2, "1.weight": torch.randn(2, 3, generator=draw)}
    flat = {"0.weight": torch.zeros(3, 3), "1.weight": end["1.weight"]}
    before = copy.deepcopy(net.state_dict())
    readings = similarities(net, layers(net, images[:1]), {0: flat, 7: turned, 9: end}, images)

    def cka(step: int, number: int) -> float:
        return value(readings, "cka_to_final", step=step, part="activations", number=number)

    assert [cka(9, 1), cka(9, 2), cka(7, 1)] == pytest.approx([1, 1, 1], abs=1e-5)
    last = [images @ chosen["0.weight"].T @ chosen["1.weight"].T for chosen in (turned, end)]
    assert cka(7, 2) == pytest.approx(linear_cka(*last, debiased=True), abs=1e-5)
    assert cka(7, 2) != pytest.approx(linear_cka(*last), abs=1e-3)
    assert one(readings, "cka_to_final", step=0, part="activations").value is None
    assert "constant" in one(readings, "cka_to_final", step=0, part="activations").reason
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_activations_lie_in_files_beyond_the_memory_and_those_of_two_steps_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the step before, the activations were held until those of the next were there; and no budget was kept to."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    images = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    found = layers(net, images[:1])
    states = {step: {name: step * t for name, t in net.state_dict().items()} for step in (1, 2, 3, 4)}
    made, most, budgets = weakref.WeakSet(), [], []

    def watched(*given: object, memory: int, **more: object) -> object:
        most.append(len(made))
        budgets.append(memory)
        activations = probe_activations.activations(*given, memory=memory, **more)
        made.update(activations.features.values())
        return activations

    monkeypatch.setattr(drift, "activations", watched)
    similarities(net, found, states, images, memory=100)
    assert budgets == [50] * 4
    assert max(most) == 2  # features of two layers: those of the last step


RECIPE = Recipe(steps=6, batch_size=8, rate=0.05, evaluate_every=3)


def run_of(data: DataSet, letters: str, recipes: tuple[Recipe, ...] = (RECIPE,)) -> Run:
    task = Task(data.digest, (0, 1, 2, 3), 4, "bits:20", Parts("random", 5), 0)
    treatment = Treatment.parse(letters)
    source = Run("lenet5", task, Treatment.parse("RRRRRR"), None, (RECIPE,)) if treatment.needs_source else None
    return Run("lenet5", task, treatment, source, recipes)


@pytest.mark.parametrize("ahead", [False, True])
def test_watching_changes_nothing_and_sees_from_the_start_to_the_end(blobs: DataSet, ahead: bool) -> None:
    run = run_of(blobs, "FFTRRR")
    food = feed(run.task, blobs, "lenet5")
    assert run.source_run is not None
    source = train(run.source_run, food)
    options = {"ahead": Prefix().ahead} if ahead else {}
    watch = Watch({0, 2, 6})
    unseen, seen = train(run, food, source, **options), train(run, food, source, observe=watch, **options)
    assert unseen.curve == seen.curve
    assert all(torch.equal(unseen.weights[name], tensor) for name, tensor in seen.weights.items())
    assert list(watch.states) == [0, 2, 6]
    for step, expected in ((0, seen.initial), (6, seen.weights)):
        assert watch.states[step].keys() == expected.keys()
        assert all(torch.equal(expected[name], tensor) for name, tensor in watch.states[step].items())
    net, found = laid_out([run], food)
    readings = distances(net, found, watch.states)
    for layer in found:
        for part in parts(net, layer):
            frozen = layer.number < 3
            for step, relative in ((0, 0), (6, 1)):
                reading = one(readings, "distance_to_final", step=step, part=part, number=layer.number)
                assert reading.value == (None if frozen else relative)
            moved = value(readings, "distance", step=2, part=part, number=layer.number)
            assert (moved == 0) == frozen


def test_steps_go_on_from_stage_to_stage(blobs: DataSet) -> None:
    run = run_of(blobs, "FFFFFR > TTTTTT", (RECIPE, RECIPE))
    food = feed(run.task, blobs, "lenet5")
    assert run.source_run is not None
    steps: list[int] = []
    train(run, food, train(run.source_run, food), observe=lambda step, net: steps.append(step))
    assert steps == list(range(13))


def test_each_quantity_says_what_it_tells() -> None:
    assert set(ABOUT) == {*DISTANCES, *GRADIENTS, "cka_to_final"}
