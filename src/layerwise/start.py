"""The weights that a stage begins with: what each letter of a treatment means in tensors."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from layerwise.errors import LayersError
from layerwise.layers import Layer
from layerwise.nets import architecture, build
from layerwise.nets.weights import COUNTER
from layerwise.randomness import seed
from layerwise.run import Run, key
from layerwise.units import Chosen, along

State = dict[str, Tensor]

DRAWN_BYTES = 2**26  # for fresh draws, in case they are asked for again
_drawn: "OrderedDict[tuple[Any, ...], State]" = OrderedDict()


def begin(
    run: Run,
    stage: int,
    found: Sequence[Layer],
    shape: tuple[int, int, int],
    previous: Mapping[str, Tensor] | None,
    rewound: Mapping[str, Tensor] | None,
    chosen: Mapping[str, Chosen] = MappingProxyType({}),
) -> State:
    """The net's state before the stage's first update, layer by layer as the treatment's letters say.

    `previous` is the source's final state in the first stage and the last stage's result in later ones; `rewound` is
    the source's state before its first update, for W: none, or an empty one, where that is not known, as of weights
    from a file. `chosen` are the units that are copied of each P layer, by its name (see `layerwise.parts`). Raises
    LayersError where a copied layer has another shape, or is not known.
    """
    drawn = seed("weights", run.seed, run.task.stream, run.draw, stage)
    state = fresh(run.net, shape, run.task.outputs, drawn, run.recipes[stage].dtype_name)
    for layer, letter in zip(found, run.treatment.letters()[stage], strict=True):
        names = layer.parameters + layer.buffers
        if letter in {"F", "T"}:
            copy_layer(state, known(previous, run, letter), names, layer)
        elif letter == "W":
            copy_layer(state, _rewound(rewound, run), names, layer)
        elif letter == "M":
            draw = torch.Generator().manual_seed(
                seed("moments", run.seed, run.task.stream, layer.name, run.draw, stage)
            )
            match(state, known(previous, run, letter), layer, draw)
        elif letter[0] == "P":
            _copy_units(state, known(previous, run, letter), chosen[layer.name])
    return state


def fresh(net: str, shape: tuple[int, int, int], outputs: int, drawn: int, dtype: str) -> State:
    """A new draw of the whole net, so that a layer's fresh weights do not depend on the treatment of the others.

    Small nets are remembered: runs that are compared begin with the same draw.
    """
    name = architecture(net), shape, outputs, drawn, dtype
    if name not in _drawn:
        state = build(net, shape, outputs, drawn).to(getattr(torch, dtype)).state_dict()
        size = sum(tensor.nbytes for tensor in state.values())
        if size > DRAWN_BYTES:
            return dict(state)
        while _drawn and len(_drawn) >= DRAWN_BYTES // max(size, 1):
            _drawn.popitem(last=False)
        _drawn[name] = state
    return {name: tensor.clone() for name, tensor in _drawn[name].items()}


def known(state: Mapping[str, Tensor] | None, run: Run, letter: str) -> Mapping[str, Tensor]:
    """The state that a letter copies from; raises LayersError where it is not known."""
    if state is None:
        raise LayersError(f"run {key(run)} ({run.treatment}) takes {letter} from a source whose weights are not known")
    return state


def _rewound(state: Mapping[str, Tensor] | None, run: Run) -> Mapping[str, Tensor]:
    if not state:
        raise LayersError(
            f"run {key(run)} ({run.treatment}) takes W from a source whose weights before training are not known; "
            "write T or R for these layers"
        )
    return state


def copy_layer(state: State, given: Mapping[str, Tensor], names: Sequence[str], layer: Layer) -> None:
    """Put these tensors of a layer into the state as they were given; LayersError where one has another shape."""
    for name in names:
        if name.endswith(COUNTER) and name not in given:
            continue  # files older than batch norm's counter: it begins anew
        if name in state:  # buffers that are not part of the state stay as the builder made them
            state[name] = _same_shape(given, name, state[name], layer).to(state[name].dtype, copy=True)


def _copy_units(state: State, given: Mapping[str, Tensor], chosen: Chosen) -> None:
    """Put the chosen units' rows of a layer's tensors into the state; the others stay fresh."""
    whole = dict(state)
    copy_layer(whole, given, tuple(chosen.copied), chosen.units.layer)
    for name, rows in chosen.copied.items():
        fresh = state[name]
        state[name] = torch.where(along(rows, fresh), whole[name].to(fresh.device), fresh)


def match(state: State, given: Mapping[str, Tensor], layer: Layer, draw: torch.Generator) -> None:
    """Gaussian tensors with the copied ones' mean and deviation; single numbers copied, norm buffers fresh."""
    for name in layer.parameters:
        copied = _same_shape(given, name, state[name], layer).to(state[name].dtype)
        noise = torch.randn(copied.shape, generator=draw, dtype=torch.float64).to(copied)
        state[name] = copied.clone() if copied.numel() == 1 else copied.mean() + copied.std(correction=0) * noise


def _same_shape(given: Mapping[str, Tensor], name: str, here: Tensor, layer: Layer) -> Tensor:
    there = given.get(name)
    if there is None or there.shape != here.shape:
        shape = "missing" if there is None else f"{tuple(there.shape)}"
        raise LayersError(
            f"layer {layer.number} '{layer.name}' cannot be copied: '{name}' is {shape} in the source "
            f"and {tuple(here.shape)} here; write R for this layer"
        )
    return there
