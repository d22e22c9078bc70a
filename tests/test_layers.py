"""What a layer is, in which order, and where a net can be cut."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from layerwise.errors import LayersError
from layerwise.layers import Layer, cut, fit, layers, set_modes
from layerwise.nets import build
from layerwise.treatment import Treatment

SHAPES: dict[str, tuple[int, ...]] = {"attention": (2, 5, 8), "transformer": (2, 5, 8), "patches": (2, 1, 4, 4)}


def names(found: tuple[Layer, ...]) -> str:
    return " ".join(layer.name for layer in found)


def example(name: str) -> Tensor:
    """A batch of two for the net of this name."""
    shape = SHAPES.get(name, (2, 1, 32, 32) if name.startswith("lenet5") else (2, 3, 8, 8))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Backwards(nn.Module):
    """Layers defined in another order than that in which they run, one ReLU for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.middle, self.stem = nn.Linear(4, 2), nn.Linear(5, 4), nn.Linear(192, 5)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.middle(self.relu(self.stem(x.flatten(1))))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))) + x)


def residual() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(stem, Residual(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def chain() -> nn.Module:
    """Norms, activations, pooling and dropouts behind each weight, and buffers that no state dict holds."""
    net = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.PReLU(4),
        nn.Dropout2d(0.5),
        nn.Conv2d(4, 5, 3),
        nn.GroupNorm(1, 5),
        Blur(),
        nn.Flatten(),
        nn.Linear(80, 4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4, 2),
    )
    return net


class Blur(nn.Module):
    """Without parameters, but not without buffers: one in the state dict and one outside it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("shift", torch.tensor(2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class SelfAttention(nn.Module):
    """Named for what it is; its dropout is a module inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.drop = nn.Linear(8, 24), nn.Linear(8, 8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(self.drop(torch.softmax(q @ k.transpose(1, 2), -1)) @ v)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attend = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.own, self.head = SelfAttention(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return self.head(self.own(x).mean(1))


class Block(nn.Module):
    """A transformer's block, with a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 7), nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.down(F.gelu(self.up(self.norm(x))))


class Patches(nn.Module):
    """Class token and positions at the root."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 5, 6))
        self.register_buffer("mask", torch.ones(5, 1))
        self.block, self.patch, self.head = Block(), nn.Conv2d(1, 6, 2, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        return self.head(self.block(x * self.mask)[:, 0])


class Scale(nn.Module):
    """Weights of its own around an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.act = nn.Parameter(torch.ones(3, 1, 1)), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x * self.weight)


NETS: dict[str, Callable[[], nn.Module]] = {
    "backwards": Backwards,
    "residual": residual,
    "chain": chain,
    "attention": Attention,
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
    "patches": Patches,
    "weight_norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 4, 8)), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)
    ),
    "scale": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Scale(), nn.Conv2d(3, 2, 1)),
    "scale_last": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Scale()),
    "scale_alone": Scale,
    "one_leaf": lambda: nn.Conv2d(3, 2, 1),
    "norms_only": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)),
    "lenet5": lambda: build("lenet5", (1, 32, 32), 20, 0),
    "lenet5relu": lambda: build("lenet5relu", (1, 32, 32), 20, 0),
}

ORDER = {
    "backwards": "stem middle head",
    "residual": "0 1.conv1 1.conv2 2.conv1 2.conv2 5",
    "chain": "1 5 9 12",
    "attention": "attend own head",
    "transformer": "self_attn linear1 linear2",
    "patches": "patch block.up block.down head",
    "weight_norm": "0 3",
    "scale": "0 1 2",
    "scale_last": "0 1",
    "scale_alone": "Scale",
    "one_leaf": "Conv2d",
    "norms_only": "1",
    "lenet5": "C1 S2 C3 S4 C5 F6",
    "lenet5relu": "C1 C3 C5 F6",
}


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_and_buffer_is_in_exactly_one_layer(name: str) -> None:
    net = NETS[name]()
    found = layers(net, example(name))
    assert sorted(p for layer in found for p in layer.parameters) == sorted(dict(net.named_parameters()))
    assert sorted(b for layer in found for b in layer.buffers) == sorted(dict(net.named_buffers()))
    assert all(layer.parameters for layer in found)
    assert [layer.number for layer in found] == list(range(1, len(found) + 1))
    modules = [m for layer in found for m in layer.modules]
    assert len(modules) == len(set(modules))


@pytest.mark.parametrize("name", NETS)
def test_layers_are_named_in_the_order_of_the_forward_pass(name: str) -> None:
    assert names(layers(NETS[name](), example(name))) == ORDER[name]


def test_norm_activation_and_dropout_belong_to_the_layer_before_them() -> None:
    found = layers(chain(), example("chain"))
    assert [layer.modules for layer in found] == [
        ("0", "1", "2", "3", "4"),  # a norm before the first weights belongs to them
        ("5", "6", "7", "8"),
        ("9", "10", "11"),
        ("12",),
    ]
    assert found[1].parameters == ("5.weight", "5.bias", "6.weight", "6.bias")
    assert found[1].buffers == ("7.scale", "7.shift")  # also the one that no state dict holds
    assert found[0].buffers[:3] == ("0.running_mean", "0.running_var", "0.num_batches_tracked")


def test_a_reused_activation_belongs_to_the_first_layer_that_uses_it() -> None:
    assert [layer.modules for layer in layers(Backwards(), example("backwards"))] == [
        ("stem", "relu"),
        ("middle",),
        ("head",),
    ]


def test_token_and_positions_belong_to_the_first_layer_and_a_blocks_own_to_the_first_inside_it() -> None:
    found = layers(Patches(), example("patches"))
    assert found[0].parameters == ("token", "positions", "patch.weight", "patch.bias")
    assert found[0].buffers == ("mask",)
    assert found[1].parameters == (
        "block.scale", "block.norm.weight", "block.norm.bias", "block.up.weight", "block.up.bias",
    )  # fmt: skip


def test_attention_is_one_layer_with_all_that_is_inside_it() -> None:
    found = layers(Attention(), example("attention"))
    assert found[0].modules == ("norm", "attend")
    assert found[0].parameters == (
        "norm.weight", "norm.bias", "attend.in_proj_weight", "attend.in_proj_bias",
        "attend.out_proj.weight", "attend.out_proj.bias",
    )  # fmt: skip
    assert found[1].parameters == ("own.qkv.weight", "own.qkv.bias", "own.out.weight", "own.out.bias")


def test_a_module_called_twice_is_one_layer() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.again, self.drop = nn.Linear(192, 4), nn.Linear(4, 4), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x.flatten(1))
            for _ in range(3):
                x = self.drop(self.again(x))
            return x

    found = layers(Recurrent(), example("recurrent"))
    assert [layer.modules for layer in found] == [("enter",), ("again", "drop")]


def test_a_buffer_under_two_names_is_a_buffer() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), Blur(), nn.Conv2d(3, 3, 1), Blur())
    net[3].scale = net[1].scale
    found = layers(net, example("shared buffer"))
    assert [layer.parameters for layer in found] == [("0.weight", "0.bias"), ("2.weight", "2.bias")]
    assert found[1].buffers == ("3.scale", "3.shift")


class Broken(nn.Module):
    """Raises once its first layer has run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.second = nn.Linear(192, 2), nn.Dropout(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.first(x.flatten(1))
        raise ValueError("broken")


def test_hooks_are_gone_and_modes_as_before_also_when_the_net_raised() -> None:
    fine, broken = chain(), Broken()
    for net in (fine, broken):
        net.train()
        next(net.children()).eval()
    before = [[m.training for m in net.modules()] for net in (fine, broken)]
    means = fine[2].running_mean.clone()
    layers(fine, example("chain"))
    with pytest.raises(ValueError, match="broken"):
        layers(broken, example("broken"))
    assert [[m.training for m in net.modules()] for net in (fine, broken)] == before
    assert torch.equal(fine[2].running_mean, means)
    for module in [*fine.modules(), *broken.modules()]:
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


class Unused(nn.Module):
    """Has a module that never runs."""

    def __init__(self, extra: nn.Module) -> None:
        super().__init__()
        self.fc, self.extra = nn.Linear(192, 2), extra

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def tied() -> nn.Module:
    net = Backwards()
    net.add_module("copy", nn.Linear(5, 4))
    net.copy.weight = net.middle.weight
    return net


class SharedDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.drop = nn.Linear(192, 4), nn.Linear(4, 2), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.two(self.drop(self.one(x.flatten(1)))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tied, "parameter 'copy.weight' is shared with 'middle.weight'; a layer's weights must be its own"),
        (
            lambda: Unused(nn.Linear(2, 2)),
            "module 'extra' has weights or buffers, and the forward pass never calls it; remove it",
        ),
        (
            lambda: Unused(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(2, affine=False))),
            "module 'extra.1' has weights or buffers, and the forward pass never calls it; remove it",
        ),
        (  # a holder that is not called has parameters of its own: they were lost silently
            lambda: Unused(Block()),
            "module 'extra' has weights or buffers, and the forward pass never calls it; remove it",
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "the net has no parameters, so it has no layers"),
        (
            lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False)),
            "the net has no parameters, so it has no layers",
        ),
        (
            SharedDropout,
            "dropout 'drop' runs after 'one' and again after 'two'; give each layer its own dropout",
        ),
    ],
)
def test_nets_without_a_partition_are_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        layers(make(), example("any"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("F3R5", "treatment 'F3R5' is for 8 layers; net 'lenet5' has 6: C1 S2 C3 S4 C5 F6"),
        ("F4R3T*", "treatment 'F4R3T*' is for at least 7 layers; net 'lenet5' has 6: C1 S2 C3 S4 C5 F6"),
        ("F*R > T5", "treatment 'F*R > T5' is for 5 layers; net 'lenet5' has 6: C1 S2 C3 S4 C5 F6"),
    ],
)
def test_a_treatment_for_another_number_of_layers_names_the_layers(text: str, message: str) -> None:
    found = layers(NETS["lenet5"](), example("lenet5"))
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        fit(Treatment.parse(text), "lenet5", found)


def test_a_treatment_is_filled_up_to_the_layers_there_are() -> None:
    found = layers(NETS["lenet5"](), example("lenet5"))
    assert fit(Treatment.parse("F*R > T*"), "lenet5", found).expanded == "FFFFFR > TTTTTT"


def test_modes_follow_the_layer_also_inside_attention() -> None:
    net = Attention()
    found = layers(net, example("attention"))
    set_modes(net, found, (False, True, False))
    on = {name for name, module in net.named_modules() if module.training}
    assert on == {"", "own", "own.qkv", "own.out", "own.drop"}
    set_modes(net, found, (True, False, False), frozen_dropout=True)
    on = {name for name, module in net.named_modules() if module.training}
    assert on == {"", "norm", "attend", "attend.out_proj", "own.drop"}


@pytest.mark.parametrize("name", NETS)
def test_all_modules_train_where_all_layers_do_and_none_where_none_does(name: str) -> None:
    net = NETS[name]()
    found = layers(net, example(name))
    for on in (True, False):
        set_modes(net, found, [on] * len(found))
        assert {module.training for module in net.modules()} == {on}


CUTS = [  # where one tensor crosses
    *(("chain", n) for n in range(1, 5)),
    *(("backwards", n) for n in range(1, 4)),
    *(("lenet5", n) for n in range(1, 7)),
    *(("lenet5relu", n) for n in range(1, 5)),
    *(("residual", n) for n in (1, 3, 5, 6)),
    *(("scale", n) for n in (1, 2, 3)),
    *(("weight_norm", n) for n in (1, 2)),
    ("patches", 3),
    ("attention", 1),
    ("attention", 2),
]


@pytest.mark.parametrize(("name", "n"), CUTS)
@pytest.mark.parametrize("training", [False, True])
def test_the_rest_after_the_first_half_is_the_net_bit_for_bit(name: str, n: int, training: bool) -> None:
    net, x = NETS[name](), example(name)
    found = layers(net, x)
    net.eval() if not training else [m.train(not isinstance(m, nn.modules.dropout._DropoutNd)) for m in net.modules()]
    first, rest = cut(net, found, n)
    assert torch.equal(rest(first(x)), net(x))
    assert _parameters(first) == {net.get_parameter(p) for layer in found[:n] for p in layer.parameters}
    assert _parameters(rest) == {net.get_parameter(p) for layer in found[n:] for p in layer.parameters}


def _parameters(half: nn.Module) -> set[nn.Parameter]:
    """The net's own parameters, not copies of them: tensors are hashed by identity."""
    return set(half.parameters())


def test_activations_after_the_cut_belong_to_the_first_half() -> None:
    net, x = chain().eval(), example("chain")
    first, _ = cut(net, layers(net, x), 3)
    assert torch.equal(first(x), net[:12](x))
    assert (first(x) >= 0).all()


@pytest.mark.parametrize("n", range(1, 7))
def test_lenet5_is_cut_between_its_blocks(n: int) -> None:
    net, x = NETS["lenet5"](), example("lenet5")
    first, _ = cut(net, layers(net, x), n)
    assert isinstance(net, nn.Sequential)
    assert torch.equal(first(x), net[:n](x))


def test_a_dropout_goes_with_its_layer() -> None:
    """A block's own scale opens its layer, so the dropout behind it is that layer's, and is not cut off from it."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.drop, self.fc = nn.Parameter(torch.ones(4)), nn.Dropout(0.5), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.drop(x) * self.scale)

    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), Scaled())
    found = layers(net, example("any"))
    assert [layer.modules for layer in found] == [("0", "1", "2"), ("3.drop", "3.fc")]
    first, rest = cut(net, found, 1)
    assert [sum(isinstance(m, nn.Dropout) for m in half.modules()) for half in (first, rest)] == [0, 1]


@pytest.mark.parametrize("n", [2, 4])
def test_inside_a_residual_block_there_is_no_cut(n: int) -> None:
    net = residual().eval()
    found = layers(net, example("residual"))
    message = f"the net cannot be cut after layer {n} '{found[n - 1].name}': more than one tensor crosses there"
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        cut(net, found, n)


def test_a_cut_never_takes_later_layers_along() -> None:
    """PyTorch's encoder layer holds three of ours: what cannot be traced inside is refused."""
    net = nn.Sequential(NETS["transformer"](), nn.Linear(8, 2)).eval()
    found = layers(net, example("transformer"))
    assert len(found) == 4
    with pytest.raises(LayersError, match=r"^the net cannot be cut after layer 1 '0.self_attn': "):
        cut(net, found, 1)


def test_a_forward_pass_that_cannot_be_traced_is_refused() -> None:
    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(192, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x.flatten(1))
            return self.head(x) if x.sum() > 0 else self.head(-x)

    net = Undecided()
    found = layers(net, example("any"))
    with pytest.raises(
        LayersError, match=r"^the net cannot be cut after layer 1 'fc': its forward pass cannot be traced \(.*\)$"
    ):
        cut(net, found, 1)


class Keeping(nn.Module):
    """Keeps a mean of its inputs as a buffer of its own, as a root may."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return self.second(self.first(x - self.mean))


def test_a_container_with_tensors_of_its_own_is_in_their_layers_mode() -> None:
    """Bug: the root's buffer belongs to the first layer, and moved although that was frozen."""
    net = Keeping()
    found = layers(net, torch.zeros(1, 4))
    assert found[0].buffers == ("mean",)
    set_modes(net, found, [False, True])
    assert (net.training, net.first.training, net.second.training) == (False, False, True)
    set_modes(net, found, [True, False])
    assert (net.training, net.first.training, net.second.training) == (True, True, False)
