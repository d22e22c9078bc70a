"""Partly copied layers, `P(share,criterion,letter)`: which units are copied, and how the frozen ones stay as they are.

Units are ranked on the target's training samples under the source's weights, all of its layers as they are there,
whatever the treatment makes of them. The source's head knows nothing of the target's classes, so that a readout fitted
to their codes takes its place (`layerwise.saliency.read_out`); only where the head itself is copied in part is it
judged as it is, by the task's own loss. All is computed in float64 on the CPU: the choice is the run's, not the
executor's.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from layerwise.errors import RepresentationError
from layerwise.feed import Feed
from layerwise.information import mutual_information, unit_activations
from layerwise.layers import Layer
from layerwise.nets import build
from layerwise.norms import behind
from layerwise.randomness import generator
from layerwise.run import Run
from layerwise.saliency import optimal_brain_damage, read_out, taylor
from layerwise.start import State, copy_layer, known
from layerwise.treatment import Part
from layerwise.units import Chosen, Units, along, units

MOST_EXAMPLES = 500  # on which units are ranked
MOST_SLOPES = 2000  # of single examples' outputs: of many examples, outputs are mixed into a few
REMEMBERED = 1024  # rankings: runs that differ in share or letter alone have one
_remembered: "OrderedDict[str, Float[Tensor, ' units']]" = OrderedDict()


def choose(
    run: Run, stage: int, found: Sequence[Layer], feed: Feed, previous: Mapping[str, Tensor] | None
) -> dict[str, Chosen]:
    """The units that a stage copies of each partly copied layer, by the layer's name.

    `previous` is the source's final state in the first stage and the last stage's result in later ones. Of units that
    rank equally the first are taken. Raises LayersError where a layer has no units or the source does not fit, and
    RepresentationError where the criterion cannot be computed from these samples.
    """
    symbols = run.treatment.letters()[stage]
    wanted = {layer.name: symbol for layer, symbol in zip(found, symbols, strict=True) if symbol[0] == "P"}
    if not wanted:
        return {}
    net = build(run.net, feed.shape, run.task.outputs, seed=0)
    chosen = {}
    for layer in (layer for layer in found if layer.name in wanted):
        symbol, of_layer = wanted[layer.name], units(net, layer)
        part = Part.parse(symbol)
        if part.criterion == "random":
            draw = generator("units", run.seed, run.task.stream, layer.name, run.draw, stage)
            ranks = torch.from_numpy(draw.permutation(of_layer.count)).double()
        else:
            ranks = _ranks(run, part, found, of_layer, _Samples.of(feed), known(previous, run, symbol))
        best = ranks.argsort(descending=True, stable=True)[: part.of(of_layer.count)]
        chosen[layer.name] = Chosen(of_layer, tuple(sorted(best.tolist())), part.letter == "F")
    return chosen


@dataclass(frozen=True)
class _Samples:
    """Samples of a task's training part; where there are many, every so manieth, so that all classes are among them."""

    images: Float[Tensor, "examples channels height width"]
    classes: Int[Tensor, " examples"]
    codes: Float[Tensor, "classes outputs"]
    is_bits: bool

    @classmethod
    def of(cls, feed: Feed) -> "_Samples":
        part = feed.parts["train"]
        examples = len(part.classes)
        at = torch.arange(min(examples, MOST_EXAMPLES)) * examples // min(examples, MOST_EXAMPLES)
        images = part.images(at.to(part.rows.device)).double().cpu().contiguous()
        return cls(images, part.classes.cpu()[at], feed.codes.double().cpu(), feed.is_bits)

    @property
    def aims(self) -> Tensor:
        return self.codes[self.classes] if self.is_bits else self.classes


def _ranks(
    run: Run, part: Part, found: Sequence[Layer], of_layer: Units, samples: _Samples, given: Mapping[str, Tensor]
) -> Float[Tensor, " units"]:
    """How high each unit of a layer ranks by a criterion; computed once for equal weights, samples and layers."""
    layer, about_head = of_layer.layer, of_layer.layer == found[-1]
    layers = found if about_head else found[:-1]
    names = [name for one in layers for name in one.parameters + one.buffers if name in given]
    seen = [samples.images, samples.classes, samples.codes, *(given[name] for name in names)]
    name = _digest(f"{run.net} {part.criterion} {layer.name} {samples.is_bits} {names}", seen)
    if name not in _remembered:
        net = _source(run, layers, samples, given)
        try:
            _remembered[name] = _criterion(part.criterion, net, found, of_layer, samples)
        except RepresentationError as error:
            raise RepresentationError(f"'{part}' for layer {layer.number} '{layer.name}': {error}") from None
        if len(_remembered) > REMEMBERED:
            _remembered.popitem(last=False)
    return _remembered[name]


def _criterion(
    criterion: str, net: nn.Module, found: Sequence[Layer], of_layer: Units, samples: _Samples
) -> Float[Tensor, " units"]:
    if criterion == "information":
        return mutual_information(unit_activations(net, of_layer, samples.images), samples.classes)
    aims = samples.aims
    if of_layer.layer != found[-1]:
        aims = samples.codes[samples.classes]
        net = read_out(net, found, samples.images, aims)
    if criterion == "taylor":
        ranks = taylor(net, of_layer, samples.images, aims)
    else:
        ranks = optimal_brain_damage(net, of_layer, samples.images, aims, MOST_SLOPES // len(aims))
    if not ranks.isfinite().all():
        raise RepresentationError(f"the {criterion} of its units is no number under the source's weights")
    return ranks


def _source(run: Run, layers: Sequence[Layer], samples: _Samples, given: Mapping[str, Tensor]) -> nn.Module:
    """The run's net with the source's weights in these layers, in eval mode."""
    channels, height, width = samples.images.shape[1:]
    net = build(run.net, (channels, height, width), run.task.outputs, seed=0).double().eval()
    state = net.state_dict()
    for layer in layers:
        copy_layer(state, given, layer.parameters + layer.buffers, layer)
    net.load_state_dict(state)
    return net


def _digest(told: str, tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256(told.encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def keep_frozen(net: nn.Module, chosen: Mapping[str, Chosen], optimiser: torch.optim.Optimizer | None) -> None:
    """Have the frozen units of a net in its present state stay as they are, whatever the optimiser does.

    Their rows of every tensor are put back after each step, so that neither gradient nor momentum nor weight decay
    moves them; and where batch norm trains, their channels are normalised by the statistics that came with them.
    """
    rows = {name: rows for one in chosen.values() for name, rows in one.frozen.items()}
    state = net.state_dict(keep_vars=True)
    held = [(state[name], along(frozen, state[name]), state[name].detach().clone()) for name, frozen in rows.items()]

    @torch.no_grad()
    def put_back(*_step: object) -> None:
        for tensor, frozen, before in held:
            tensor.copy_(torch.where(frozen, before, tensor))

    if held and optimiser:
        optimiser.register_step_post_hook(put_back)
    for name, norm in net.named_modules():
        if isinstance(norm, _BatchNorm) and f"{name}.running_mean" in rows:
            norm.register_forward_hook(_Normalise(norm, rows[f"{name}.running_mean"], behind(name, norm)))


class _Normalise:
    """A hook that gives a batch norm's frozen channels as in eval mode while the others train."""

    def __init__(self, norm: _BatchNorm, frozen: Tensor, behind: nn.Module) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.mean, self.var = norm.running_mean.clone(), norm.running_var.clone()
        self.frozen, self.behind = frozen.to(self.mean.device), behind

    def __call__(self, norm: _BatchNorm, given: tuple[Tensor, ...], answer: Tensor) -> Tensor:
        if not norm.training:
            return answer
        stored = self.behind(F.batch_norm(given[0], self.mean, self.var, norm.weight, norm.bias, eps=norm.eps))
        return torch.where(self.frozen.view(1, -1, *[1] * (answer.dim() - 2)), stored, answer)


def trained_rows(members: Sequence[Mapping[str, Chosen]], state: State) -> dict[str, Tensor]:
    """For each tensor of which some member has frozen rows: which rows each member trains (members, rows)."""
    frozen = [{name: rows for one in chosen.values() for name, rows in one.frozen.items()} for chosen in members]
    shapes = {name: rows for of_member in frozen for name, rows in of_member.items()}
    return {
        name: torch.stack([~of_member.get(name, torch.zeros_like(like)) for of_member in frozen]).to(state[name].device)
        for name, like in shapes.items()
    }
