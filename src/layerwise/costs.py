"""What training costs in arithmetic: floating-point operations, counted on the real net."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from layerwise.layers import Layer, layers
from layerwise.nets import build
from layerwise.run import Run
from layerwise.treatment import Treatment


@lru_cache(maxsize=4096)
def step_flops(net: str, shape: tuple[int, int, int], outputs: int, trained: tuple[bool, ...], batch: int) -> int:
    """Multiplications and additions of one training step: forward, and backward as far as a layer is trained.

    Convolutions and matrix products are counted (two operations each multiply-add), as PyTorch's own counter does.
    """
    built = build(net, shape, outputs, seed=0)
    images = torch.zeros(batch, *shape)
    found = layers(built, images[:1])
    built.eval()
    for layer, on in zip(found, trained, strict=True):
        for name in layer.parameters:
            built.get_parameter(name).requires_grad_(on)
    return counted(lambda: built(images).sum().backward() if any(trained) else built(images))


def counted(compute: Callable[[], object]) -> int:
    """Operations of a computation, as PyTorch counts them."""
    with counting() as counter:
        compute()
    return int(counter.get_total_flops())


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """PyTorch's counter, and none of the fast paths of attention, which it does not see."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def train_flops(run: Run, shape: tuple[int, int, int], steps: Sequence[int] = ()) -> int:
    """Operations of the run's training steps, evaluations and its source left out; by default of all planned steps."""
    return sum(
        taken * step_flops(run.net, shape, run.task.outputs, trained, recipe.batch_size)
        for taken, recipe, trained in zip(
            steps or [recipe.steps for recipe in run.recipes], run.recipes, run.treatment.trained, strict=True
        )
    )


@dataclass(frozen=True)
class Cost:
    """What a layer has and takes: numbers that it learns, and operations on one image, forward."""

    layer: Layer
    parameters: int
    flops: int


def layer_costs(
    net: str, shape: tuple[int, int, int], outputs: int, granularity: str = "layer"
) -> tuple[tuple[Cost, ...], int]:
    """What each layer (or block, or stage) has and takes, and the operations of the whole net on one image.

    What a net calculates between its modules, as functions, is in the whole alone.
    """
    built, image = build(net, shape, outputs, seed=0).eval(), torch.zeros(1, *shape)
    found = layers(built, image, granularity)
    with torch.no_grad(), counting() as counter:
        built(image)
    counts = {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    root = type(built).__name__
    costs = tuple(
        Cost(
            layer,
            sum(built.get_parameter(name).numel() for name in layer.parameters),
            sum(counts.get(f"{root}.{name}" if name else root, 0) for name in layer.modules),
        )
        for layer in found
    )
    return costs, int(counter.get_total_flops())


@lru_cache(maxsize=256)
def layer_parameters(net: str, shape: tuple[int, int, int], outputs: int) -> dict[str, int]:
    """Number of parameters of each layer, in order."""
    built = build(net, shape, outputs, seed=0)
    found = layers(built, torch.zeros(1, *shape))
    return {layer.name: sum(built.get_parameter(p).numel() for p in layer.parameters) for layer in found}


def parameters_trained(treatment: Treatment, sizes: Mapping[str, int], frozen: Mapping[str, int]) -> int:
    """Parameters that the last stage trains: of each layer so many, less those of the units that are frozen in it."""
    trained = zip(sizes.items(), treatment.trained[-1], strict=True)
    return sum(size - frozen.get(layer, 0) for (layer, size), on in trained if on)
