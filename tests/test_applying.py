"""`layerwise.apply`: fresh, copied and frozen layers for a loop of the user's own, whatever modes it sets."""

import copy
import io
import re
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import layerwise
from layerwise.adapting.applying import Applied, apply
from layerwise.adapting.example import example_for
from layerwise.data.dataset import DataSet
from layerwise.errors import LayersError, StudyError, TreatmentError
from layerwise.feed import batches, feed
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.nets.from_torchvision import imported
from layerwise.run import Recipe, Run, Weights
from layerwise.tasks import Parts, Task
from layerwise.train import Trained, train
from layerwise.treatment import Treatment

PAGE = Path(__file__).parents[1] / "docs" / "adapt.md"
EXAMPLE = torch.zeros(1, 1, 8, 8)


def small() -> nn.Module:
    """Four layers: two convolutions with batch norm and dropout, two linear ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
            nn.Flatten(), nn.Linear(64, 6), nn.Dropout(0.5), nn.Linear(6, 5),
        )  # fmt: skip


def loop(applied: Applied, optimiser: optim.Optimizer, epochs: int = 3) -> None:
    """A loop that knows nothing of freezing."""
    draw = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        applied.net.train()
        images = torch.randn(16, 1, 8, 8, generator=draw) + 3  # far from what batch norm has seen
        optimiser.zero_grad()
        applied.net(images).square().mean().backward()
        optimiser.step()


def moved(before: nn.Module, after: nn.Module) -> set[str]:
    """The tensors that differ."""
    one, other = before.state_dict(), after.state_dict()
    return {name for name in one if one[name].shape != other[name].shape or not torch.equal(one[name], other[name])}


def of_timm(name: str, **how: Any) -> nn.Module:
    return imported("timm").create_model(name, **how)


def of_transformers(kind: str, **how: Any) -> nn.Module:
    imported("transformers")
    from transformers import AutoConfig, AutoModelForImageClassification

    return AutoModelForImageClassification.from_config(AutoConfig.for_model(kind, **how))


WIDTHS = {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 4, "layer_type": "basic"}
HEADS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 6}


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (lambda: of_timm("test_vit"), (3, 160, 160)),  # as its configuration says
        (lambda: of_timm("test_vit", in_chans=1), (1, 160, 160)),
        (lambda: of_timm("vit_tiny_patch16_224", img_size=64, depth=1, embed_dim=24), (3, 64, 64)),
        (lambda: imported("torchvision").models.squeezenet1_1(), (3, 224, 224)),
        (lambda: of_transformers("resnet", num_channels=1, **WIDTHS), (1, 224, 224)),
        (lambda: of_transformers("vit", image_size=42, num_channels=1, **HEADS), (1, 42, 42)),
        (lambda: of_transformers("vit", image_size=[42, 36], **HEADS), (3, 42, 36)),
        (lambda: build("lenet5", (1, 32, 32), 5, 0), (1, 32, 32)),
        (lambda: build("resnet20", (3, 32, 32), 5, 0), (3, 224, 224)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 5)).double(), (784,)),
    ],
)
def test_a_net_needs_no_example_where_one_can_be_found(made: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """The layers are those that an example that is given shows."""
    try:
        net = made()
    except StudyError as error:
        pytest.skip(str(error))
    found = example_for(net)
    assert found.shape == (1, *shape)
    assert apply(net, "F*T").found == layers(net, found)


def test_a_net_without_an_example_is_trained_as_with_one() -> None:
    net = build("lenet5", (1, 32, 32), 5, 0)
    given, found = (apply(net, "F*R", **how) for how in ({"example": torch.zeros(2, 1, 32, 32)}, {}))
    assert (found.found, found.letters) == (given.found, given.letters)
    assert torch.equal(found.net.state_dict()["F6.0.weight"], given.net.state_dict()["F6.0.weight"])


@pytest.mark.parametrize(
    "net",
    [
        small(),  # takes 8x8
        nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),  # any example would decide its width
        nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(12, 2)),
    ],
)
def test_a_net_that_needs_an_example_says_so(net: nn.Module) -> None:
    message = (
        "net 'Sequential' does not say what images it takes; pass example=, any input that it takes, such as "
        "torch.zeros(1, 3, 224, 224)"
    )
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        apply(net, "F*R")


@pytest.mark.parametrize("optimiser", [optim.SGD, optim.AdamW])
@pytest.mark.parametrize("letters", ["FFTT", "TFTF", "FTFT", "TTTT", "FFFT"])
def test_a_loop_moves_the_trained_layers_and_nothing_else(letters: str, optimiser: type[optim.Optimizer]) -> None:
    net = small()
    applied = apply(net, letters, example=EXAMPLE)
    loop(applied, optimiser(applied.groups, lr=0.1, weight_decay=0.5))
    found = layers(net, EXAMPLE)
    expected = {
        name for layer, x in zip(found, letters, strict=True) if x == "T" for name in layer.parameters + layer.buffers
    }
    assert moved(net, applied.net) == expected
    applied.check()


def test_an_optimiser_of_all_parameters_moves_nothing_frozen() -> None:
    """Weight decay and momentum act on parameters that have a gradient; frozen ones never get any."""
    net = small()
    applied = apply(net, "FFRR", example=EXAMPLE)
    loop(applied, optim.SGD(applied.net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5))
    assert not {name for name in moved(net, applied.net) if name[0] in "014"}
    applied.check()


def test_freezing_by_hand_lets_batch_norm_drift_and_is_found_out() -> None:
    """The control: `requires_grad = False` alone is not freezing."""
    net = small()
    applied = apply(net, "FFRR", example=EXAMPLE)
    for release in applied._released:
        release()
    loop(applied, optim.SGD(applied.groups, lr=0.1))
    with pytest.raises(LayersError) as told:
        applied.check()
    assert str(told.value) == (
        "'1.running_mean' of a frozen layer has changed in stage 1 of 'FFRR' (6 of 14 frozen tensors have); give the "
        "optimiser `groups`, and do not load other weights into the net"
    )


def test_frozen_layers_are_in_eval_mode_after_any_call() -> None:
    applied = apply(small(), "FTFT", example=EXAMPLE)
    applied.net.train()
    assert [module.training for module in applied.net] == [False] * 4 + [True] * 3 + [False] * 2 + [True]
    for module in applied.net.modules():
        module.training = True  # as some loops set modes
    applied.net(torch.zeros(2, 1, 8, 8))
    assert [module.training for module in applied.net][:4] == [False] * 4


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_copies_of_the_net_are_held_too(copied: str) -> None:
    """As of a moving average of the weights, or of a net that is sent to another process."""
    applied = apply(small(), "FTFT", example=EXAMPLE)
    if copied == "deepcopy":
        net = copy.deepcopy(applied.net)
    else:
        file = io.BytesIO()
        torch.save(applied.net, file)
        file.seek(0)
        net = torch.load(file, weights_only=False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    assert not net[1].training
    assert net[5].training
    net(torch.randn(8, 1, 8, 8))
    assert torch.equal(net[1].running_mean, before["1.running_mean"])
    assert not torch.equal(net[5].running_mean, before["5.running_mean"])
    assert torch.equal(applied.net[5].running_mean, before["5.running_mean"])  # the first one knows nothing of it


def test_a_loop_of_ones_own_does_what_the_engine_does(blobs: DataSet) -> None:
    """SGD over `groups` on the engine's batches gives the engine's weights: in float64, to rounding."""
    recipe = Recipe(8, 10, 0.05, weight_decay=0.01, precision="float64", layer_rates=(1, 1, 1, 0.1, 1, 1))
    task = Task(blobs.digest, tuple(range(8)), 10, parts=Parts("random", 5))
    run = Run("lenet5", task, Treatment.parse("FFTTTT"), Weights("0" * 64), (recipe,))
    source = build("lenet5", (1, 32, 32), 8, 3).double()
    fed = feed(run.task, blobs, "lenet5", "float64")
    expected = train(run, fed, Trained({}, source.state_dict(), (), ())).weights
    first = fed.parts["train"].images(torch.tensor([0]))
    applied = apply(source, "FFTTTT", example=first, rate=0.05, layer_rates=recipe.layer_rates)
    optimiser = optim.SGD(applied.groups, momentum=0.9, weight_decay=0.01)
    for batch in islice(batches(run, 0, len(fed.parts["train"].classes)), 8):
        applied.net.train()
        optimiser.zero_grad()
        fed.loss(applied.net(fed.parts["train"].images(batch)), fed.parts["train"].classes[batch]).backward()
        optimiser.step()
    torch.testing.assert_close(applied.net.state_dict(), dict(expected), rtol=1e-12, atol=1e-12)


def test_the_net_that_was_given_and_the_global_stream_are_left_alone() -> None:
    net = small()
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    applied = apply(net, "XMRR", example=EXAMPLE, outputs=3)
    assert torch.equal(torch.rand(3), expected)
    loop(applied, optim.SGD(applied.groups, lr=0.1))
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_fresh_layers_follow_the_seed_and_no_other_layer() -> None:
    def weight(treatment: str, seed: int) -> Tensor:
        return apply(small(), treatment, example=EXAMPLE, seed=seed).net[4].weight

    assert torch.equal(weight("FRFF", 1), weight("RRTT", 1))
    assert torch.equal(weight("FRFF", 1), weight("FXFF", 1))
    assert not torch.equal(weight("FRFF", 1), weight("FRFF", 2))
    assert not torch.equal(weight("FRFF", 1), small()[4].weight)


def test_m_has_the_moments_of_what_was_there() -> None:
    """Twelve thousand numbers of mean 3 and deviation 0.5 are drawn anew with these, to four standard errors."""
    net = nn.Sequential(nn.Linear(100, 120), nn.ReLU(), nn.Linear(120, 2))
    nn.init.normal_(net[0].weight, 3, 0.5)
    made = apply(net, "MT", example=torch.zeros(1, 100)).net[0].weight
    assert not torch.equal(made, net[0].weight)
    assert made.mean().item() == pytest.approx(net[0].weight.mean().item(), abs=4 * 0.5 / 12_000**0.5)
    assert made.std().item() == pytest.approx(net[0].weight.std().item(), abs=4 * 0.5 / 24_000**0.5)


def test_stages_begin_with_what_the_last_one_left() -> None:
    applied = apply(small(), "FFFR > FTTT > TTTT", example=EXAMPLE, outputs=3, rate=0.1)
    seen = []
    for stage in applied.stages:
        start = copy.deepcopy(stage.net)
        loop(stage, optim.SGD(stage.groups))
        seen.append((stage.number, [group["name"] for group in stage.groups], {n[0] for n in moved(start, stage.net)}))
    assert seen == [
        (1, ["9"], {"9"}),
        (2, ["4", "7", "9"], {"4", "5", "7", "9"}),
        (3, ["0", "4", "7", "9"], {"0", "1", "4", "5", "7", "9"}),
    ]
    assert not any(module._forward_pre_hooks for module in applied.net.modules())  # nothing is held any more
    assert "train" not in vars(applied.net[0])


def test_letters_over_blocks_are_those_over_their_layers() -> None:
    net = build("resnet20", (3, 32, 32), 10, 0)
    applied = apply(net, "F9TR", example=torch.zeros(1, 3, 32, 32), outputs=4, granularity="block")
    assert applied.letters == ("F",) * 17 + ("T",) * 2 + ("R",)
    assert [group["name"] for group in applied.groups] == ["layer3.2.conv1", "layer3.2.conv2", "linear"]


def test_groups_have_names_and_rates() -> None:
    applied = apply(small(), "FTTR", example=EXAMPLE, rate=0.2, layer_rates=(1, 0.5, 0.25, 1))
    assert [(group["name"], group["lr"], len(group["params"])) for group in applied.groups] == [
        ("4", 0.1, 4), ("7", 0.05, 2), ("9", 0.2, 2),
    ]  # fmt: skip
    assert all("lr" not in group for group in apply(small(), "F*R", example=EXAMPLE).groups)


def test_the_head_is_replaced() -> None:
    applied = apply(small(), "F*R", example=EXAMPLE, outputs=7)
    assert applied.net(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert applied.groups[0]["params"][0] is applied.net[9].weight


class Bare(nn.Module):
    """Weights without a way to draw them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def test_fresh_takes_layers_from_a_net_that_builds_itself() -> None:
    def built() -> nn.Module:
        net = nn.Sequential(Bare(), nn.Linear(4, 2))
        nn.init.uniform_(net[0].weight)
        return net

    net = nn.Sequential(Bare(), nn.Linear(4, 2))
    with pytest.raises(LayersError, match=re.escape("'0.weight' of layer 1 '0' belongs to a module without")):
        apply(net, "RT", example=EXAMPLE)
    applied = apply(net, "RT", example=EXAMPLE, fresh=built)
    assert applied.net[0].weight.std() > 0
    assert torch.equal(applied.net[1].weight, net[1].weight)
    with pytest.raises(LayersError, match=re.escape("'1.weight' is (2, 4) in the net that `fresh` makes, and (3, 4)")):
        apply(net, "RR", example=EXAMPLE, outputs=3, fresh=built)


@pytest.mark.parametrize(
    ("call", "kind", "told"),
    [
        (lambda: apply(small(), "F3R2", example=EXAMPLE), LayersError,
         "treatment 'F3RR' is for 5 layers; net 'Sequential' has 4: 0 4 7 9"),
        (lambda: apply(small(), "FZ", example=EXAMPLE), TreatmentError,
         "'FZ' has 'Z' for layer 2; the letters are F T R X M W P (see layerwise.treatment)"),
        (lambda: apply(small(), "WTTT", example=EXAMPLE), StudyError,
         "treatment 'WT3' has W: a net does not say what its weights were before it was trained; load those into these "
         "layers, and write T"),
        (lambda: apply(small(), "P(0.5,random,F)T3", example=EXAMPLE), StudyError,
         "treatment 'P(0.5,random,F)T3' has P: an optimiser of your own moves whole tensors, and would move the units "
         "that P keeps; train it with layerwise.adapt, or write T"),
        (lambda: apply(small(), "T*", example=EXAMPLE, outputs=2), LayersError,
         "treatment 'T4' copies the head '9' of net 'Sequential', which outputs=2 replaces; end it with R"),
        (lambda: apply(small(), "T*", example=EXAMPLE, layer_rates=(1, 2)), StudyError,
         "layer_rates are 2, the layers of net 'Sequential' 4, and rate is None; pass a rate, and a multiplier of it "
         "for each layer"),
        (lambda: apply(nn.Sequential(nn.Conv2d(1, 2, 8)), "R", example=EXAMPLE, outputs=2), LayersError,
         "the last layer '0' is not linear; replace the head yourself, and leave out `outputs`"),
    ],
)  # fmt: skip
def test_mistakes_are_told(call: Callable[[], object], kind: type[Exception], told: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == told


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The runnable blocks of a page: which library each is for, and its text."""
    yield from re.findall(r'```python(?: title="(\w*)")?\n(.*?)```', page, flags=re.DOTALL)


@pytest.mark.parametrize("library", ["", "lightning", "skorch", "transformers"])
def test_the_page_runs_and_keeps_the_contract(library: str) -> None:
    """Frozen tensors are those of the net that was given, byte by byte, after each library's own loop."""
    needs = {"lightning": ["pytorch_lightning"], "transformers": ["transformers", "accelerate"]}.get(library, [library])
    for name in filter(None, needs):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    found = dict(blocks(PAGE.read_text(encoding="utf-8")))
    if library == "lightning" and find_spec("torchvision"):
        imported("torchvision")  # which may lack its compiled operators, and which Lightning imports as it is
    names: dict[str, object] = {}
    exec(found[""], names)
    if library:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other libraries, about one another
            exec(found[library], names)
    net, applied = names["net"], names["applied"]
    assert isinstance(net, nn.Module)
    assert isinstance(applied, layerwise.adapting.applying.Applied)
    frozen = {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert moved(net, applied.net) == ({"5.weight", "5.bias"} if library else {"5.weight", "5.bias"} | frozen)
    applied.check()


def test_a_callback_says_what_has_changed() -> None:
    pytest.importorskip("skorch")
    from layerwise.callbacks import skorch

    applied = apply(small(), "F*R", example=EXAMPLE)
    callback = skorch(applied)
    callback.on_epoch_end(None)
    with torch.no_grad():
        applied.net[0].bias += 1
    with pytest.raises(LayersError, match=re.escape("'0.bias' of a frozen layer has changed in stage 1 of 'F3R'")):
        callback.on_epoch_end(None)
