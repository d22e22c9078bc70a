"""A net no further than one of its layers: what its layers give, as tensors that gradients pass through."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerwise.errors import LayersError, RepresentationError
from layerwise.layers import Layer, cut

AT_ONCE = 500  # images, and fewer of many pixels
PIXELS_AT_ONCE = 2**21


def truncated(net: nn.Module, found: Sequence[Layer], n: int) -> Callable[[Tensor], Any]:
    """The net up to layer n; what comes after it is not computed.

    With the activations after the layer where the net can be cut there, else what the layer's last module gives.
    """
    try:
        return cut(net, found, n)[0]
    except LayersError:
        return partial(_run_to, net, found[n - 1].modules[-1])


@torch.no_grad()
def activations(
    first: Callable[[Tensor], Any], images: Float[Tensor, "examples channels height width"], most: int | None = None
) -> Float[Tensor, "examples ..."]:
    """What these layers give.

    Raises RepresentationError where that is not one tensor of finite numbers with a row an image, or is more than
    `most` bytes: then one image has passed.
    """
    if most is not None:
        size = len(images) * _tensor(first, images[:1]).nbytes
        if size > most:
            raise RepresentationError(
                f"the layer's activations of {len(images):,} images take {size / 1e6:.3g} MB, and there is room for "
                f"{most / 1e6:.3g} MB; raise the budget, or leave the layer out"
            )
    at_once = max(1, min(AT_ONCE, PIXELS_AT_ONCE // images[0, 0].numel()))
    joined, broken, done = images.new_empty(0), 0, 0
    for some in torch.split(images, at_once):
        made = _tensor(first, some)
        joined = joined if done else made.new_empty(len(images), *made.shape[1:])
        joined[done : done + len(some)] = made
        broken += int((~made.flatten(1).isfinite().all(1)).sum())
        done += len(some)
    if broken:
        raise RepresentationError(f"the layer gives no finite activations for {broken} of {len(images)} images")
    return joined


def _tensor(first: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    made = first(images.clone())  # a net may write into what it is given
    if not isinstance(made, Tensor):
        raise RepresentationError(f"the layer gives a {type(made).__name__}, not one tensor; leave it out")
    if made.dim() < 2 or len(made) != len(images):
        raise RepresentationError(
            f"the layer gives {tuple(made.shape)}, not a row for each of {len(images)} images; leave it out"
        )
    return made


class _Reached(Exception):
    """The forward pass has come to where it ends."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _run_to(net: nn.Module, name: str, images: Tensor) -> Any:
    """What the module of this name gives when the net is run, no further than there."""

    def stop(_module: nn.Module, _given: Any, output: Any) -> None:
        raise _Reached(output)

    handle = net.get_submodule(name).register_forward_hook(stop)
    try:
        net(images)
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise RepresentationError(f"the forward pass does not come to module '{name}'; leave its layer out")
