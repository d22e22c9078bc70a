"""A treatment for a training loop of your own: the net made ready, its optimiser groups, and what is frozen held.

    >>> from torch import nn, optim
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    >>> for stage in apply(net, "FR > T*", example=torch.zeros(1, 1, 8, 8), outputs=3).stages:
    ...     optimiser = optim.SGD(stage.groups, lr=0.1 if stage.number == 1 else 0.01)
    ...     print(stage.letters, [group["name"] for group in stage.groups])
    ('F', 'R') ['3']
    ('T', 'T') ['0', '3']

Frozen is a contract here too. Parameters of a frozen layer take no gradient, are in no group, and have none that a
weight decay could act on; its modules, batch norm and dropout included, are in eval mode whatever `train()` a loop
calls, so that buffers do not drift. `check` holds them to what they were, byte by byte.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layerwise.adapting.example import example_for
from layerwise.adapting.spreading import over_layers
from layerwise.errors import LayersError, StudyError
from layerwise.layers import Layer, layers, set_modes
from layerwise.randomness import seed as seeded
from layerwise.start import match
from layerwise.treatment import Treatment

FROZEN = frozenset("FX")
REFUSED = {
    "P": "an optimiser of your own moves whole tensors, and would move the units that P keeps; train it with "
    "layerwise.adapt, or write T",
    "W": "a net does not say what its weights were before it was trained; load those into these layers, and write T",
}


@dataclass
class Applied:
    """A net under a treatment, in one of its stages; the first one when it is made."""

    net: nn.Module
    treatment: Treatment  # over layers, without `*`
    found: tuple[Layer, ...]
    rate: float | None  # of the groups; null leaves it to the optimiser
    layer_rates: tuple[float, ...]  # a multiplier per layer; none is 1 for all
    seed: int
    fresh: Callable[[], nn.Module] | None
    number: int = 0  # of the stage, from 1
    _released: list[Callable[[], None]] = field(default_factory=list, repr=False)
    _digests: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def letters(self) -> tuple[str, ...]:
        """One letter per layer, of this stage."""
        return self.treatment.letters()[self.number - 1]

    @property
    def stages(self) -> "Iterator[Applied]":
        """This same value in each of its stages in turn: the next one begins with what the net is by then."""
        yield self
        while self.number < len(self.treatment.stages):
            self._begin(self.number + 1)
            yield self

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Optimiser groups, one for each trained layer: its name, its parameters, and its rate where one was given."""
        multipliers = self.layer_rates or (1.0,) * len(self.found)
        return [
            {"name": layer.name, "params": list(map(self.net.get_parameter, layer.parameters))}
            | ({} if self.rate is None else {"lr": self.rate * multiplier})
            for layer, letter, multiplier in zip(self.found, self.letters, multipliers, strict=True)
            if letter not in FROZEN and layer.parameters
        ]

    def check(self) -> None:
        """Raise LayersError, by name, where a tensor of a frozen layer is not what it was when the stage began."""
        state = _tensors(self.net)
        if moved := [name for name, digest in self._digests.items() if _digest(state[name]) != digest]:
            raise LayersError(
                f"'{moved[0]}' of a frozen layer has changed in stage {self.number} of '{self.treatment}' "
                f"({len(moved)} of {len(self._digests)} frozen tensors have); give the optimiser `groups`, and do not "
                "load other weights into the net"
            )

    def _begin(self, number: int) -> None:
        """Make the net ready for a stage: weights as the letters say, frozen layers held."""
        if self.number:
            self.check()
        for release in self._released:
            release()
        self.number, self._released = number, []
        _start(self.net, self.found, self.letters, self._drawn(), seeded("apply", self.seed, number))
        trained = [letter not in FROZEN for letter in self.letters]
        for layer, on in zip(self.found, trained, strict=True):
            for name in layer.parameters:
                parameter = self.net.get_parameter(name)
                parameter.requires_grad_(on)
                parameter.grad = None
        set_modes(self.net, self.found, trained)
        self._released = [_hold(module) for module in self.net.modules() if not module.training]
        frozen = [name for layer, on in zip(self.found, trained, strict=True) if not on for name in _names(layer)]
        state = _tensors(self.net)
        self._digests = {name: _digest(state[name]) for name in frozen}

    def _drawn(self) -> Mapping[str, Tensor] | None:
        """A draw of all weights where there is a function that makes them."""
        if self.fresh is None:
            return None
        with _stream(seeded("apply", self.seed, "fresh", self.number)):
            return _tensors(self.fresh())


def apply(
    net: nn.Module,
    treatment: str | Treatment,
    *,
    example: Tensor | None = None,
    outputs: int | None = None,
    granularity: str = "layer",
    rate: float | None = None,
    layer_rates: Sequence[float] = (),
    seed: int = 0,
    fresh: Callable[[], nn.Module] | None = None,
) -> Applied:
    """A copy of the net, made ready to be trained as the treatment says by a loop of your own.

    `example` is any input that the net takes; without one it is found (`layerwise.adapting.example`) where the net says
    what images it takes, or takes those of a usual size. With `outputs` its head, the last linear layer, is a new one
    of that width. Fresh layers (R, X, M) are drawn by each module's own `reset_parameters`, or taken from the net that
    `fresh` makes: apply it before the net goes to a GPU, and the seed decides the draw. The source is the net as it is
    now.

    Raises TreatmentError and LayersError where the treatment does not fit the net, LayersError where no example is
    found, and StudyError for P and W: an optimiser moves whole tensors, so it cannot keep some units of one; and no net
    says what it was before training.
    """
    made = copy.deepcopy(net)
    example = example_for(made) if example is None else example
    kind = type(net).__name__
    found = layers(made, example)
    wanted = over_layers(_parsed(treatment), kind, made, example, granularity)
    _check(wanted, kind, found, layer_rates, rate, outputs)
    if outputs is not None:
        with _stream(seeded("apply", seed, "head")):
            _replace_head(made, found[-1], outputs)
        found = layers(made, example)
    applied = Applied(made, wanted, found, rate, tuple(layer_rates), seed, fresh)
    applied._begin(1)
    return applied


def _parsed(treatment: str | Treatment) -> Treatment:
    return Treatment.parse(treatment) if isinstance(treatment, str) else treatment


def _check(
    treatment: Treatment, kind: str, found: Sequence[Layer], layer_rates: Sequence[float], rate: float | None,
    outputs: int | None,
) -> None:  # fmt: skip
    letters = treatment.letters()
    for letter, why in REFUSED.items():
        if any(symbol[0] == letter for stage in letters for symbol in stage):
            raise StudyError(f"treatment '{treatment}' has {letter}: {why}")
    if layer_rates and (len(layer_rates) != len(found) or rate is None):
        what = f"layer_rates are {len(layer_rates)}, the layers of net '{kind}' {len(found)}, and rate is {rate}"
        raise StudyError(f"{what}; pass a rate, and a multiplier of it for each layer")
    if outputs is not None and letters[0][-1] not in {"R", "X"}:
        raise LayersError(
            f"treatment '{treatment}' copies the head '{found[-1].name}' of net '{kind}', which outputs={outputs} "
            "replaces; end it with R"
        )


def _replace_head(net: nn.Module, head: Layer, outputs: int) -> None:
    """Put a new linear layer of this width in the place of the net's last."""
    for name in reversed(head.modules):
        old = net.get_submodule(name)
        if isinstance(old, nn.Linear):
            new = nn.Linear(old.in_features, outputs, old.bias is not None, old.weight.device, old.weight.dtype)
            net.set_submodule(name, new)
            return
    raise LayersError(f"the last layer '{head.name}' is not linear; replace the head yourself, and leave out `outputs`")


@torch.no_grad()
def _start(
    net: nn.Module, found: Sequence[Layer], letters: Sequence[str], drawn: Mapping[str, Tensor] | None, seed: int
) -> None:
    """The weights that a stage begins with; what is copied is there already."""
    state = {name: tensor.clone() for name, tensor in _tensors(net).items()}
    for layer, letter in zip(found, letters, strict=True):
        if letter in {"F", "T"}:
            continue
        if drawn is None:
            with _stream(seeded(seed, layer.name)):
                _reset(net, layer)
        else:
            _load(net, {name: _fitting(drawn, name, state[name], layer) for name in _names(layer)})
        if letter == "M":
            of_layer = {name: tensor.clone() for name, tensor in _tensors(net).items() if name in _names(layer)}
            match(of_layer, state, layer, torch.Generator().manual_seed(seeded(seed, "moments", layer.name)))
            _load(net, of_layer)


def _reset(net: nn.Module, layer: Layer) -> None:
    """Draw a layer anew by its modules' own ways to do so."""
    owned: set[str] = set()
    for holder in layer.modules:
        inside = list(net.get_submodule(holder).named_modules(prefix=holder))
        for name, module in reversed(inside):  # attention has the last word on the projection inside it
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
                owned |= {f"{name}.{own}" if name else own for own, _ in module.named_parameters(recurse=False)}
    if left := [name for name in layer.parameters if name not in owned]:
        raise LayersError(
            f"'{left[0]}' of layer {layer.number} '{layer.name}' belongs to a module without reset_parameters(); pass "
            "fresh=, a function that builds the net anew"
        )


def _fitting(drawn: Mapping[str, Tensor], name: str, here: Tensor, layer: Layer) -> Tensor:
    there = drawn.get(name)
    if there is None or there.shape != here.shape:
        shape = "missing" if there is None else f"{tuple(there.shape)}"
        raise LayersError(
            f"layer {layer.number} '{layer.name}': '{name}' is {shape} in the net that `fresh` makes, and "
            f"{tuple(here.shape)} here; have it make the same net, with as many outputs"
        )
    return there


def _load(net: nn.Module, values: Mapping[str, Tensor]) -> None:
    own = _tensors(net)
    for name, value in values.items():
        own[name].copy_(value)


class _Held:
    """`train` of a frozen module: it stays in eval mode, and what is inside it is told as ever."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        self.module.training = False
        for child in self.module.children():
            child.train(mode)
        return self.module


def _hold(module: nn.Module) -> Callable[[], None]:
    """Keep a module in eval mode, whatever is called; gives what lets it go.

    Its own `train` answers the loops that call it, and a hook those that set modes in another way. Both are values that
    are copied and pickled with the net.
    """
    module.train = _Held(module)  # type: ignore[method-assign]
    handle = module.register_forward_pre_hook(_in_eval)

    def release() -> None:
        handle.remove()
        del module.train

    return release


def _in_eval(module: nn.Module, _arguments: object) -> None:
    module.training = False


def _names(layer: Layer) -> tuple[str, ...]:
    return layer.parameters + layer.buffers


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; buffers that are not part of the state too."""
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    return hashlib.sha256(plain.view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


@contextmanager
def _stream(drawn: int) -> Iterator[None]:
    """PyTorch's stream on the CPU, seeded for a while; the caller's is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(drawn)
        yield
