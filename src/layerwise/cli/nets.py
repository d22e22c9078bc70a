"""`layerwise nets`: what nets there are, or the layers, blocks or stages of one."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from layerwise.cli.options import among, net_names, whole
from layerwise.cli.printing import print_table

GRANULARITIES = {  # a test holds their names to layerwise.groups
    "layer": "each convolution, linear map or attention, with its norms and activations",
    "block": "residual, transformer, dense and such blocks",
    "stage": "runs of blocks of one resolution",
}
SIDE, COLOURS, OUTPUTS = 32, 3, 20  # where neither the net nor the user says


def nets(
    net: Annotated[
        str | None,
        typer.Argument(help="Show the layers of this one; NET@FILE tells if weights fit.", autocompletion=net_names),
    ] = None,
    granularity: Annotated[
        str,
        typer.Option(
            metavar="|".join(GRANULARITIES),
            autocompletion=among(GRANULARITIES),
            help="How coarse; " + "; ".join(f"{k}: {v}" for k, v in GRANULARITIES.items()) + ".",
        ),
    ] = "layer",
    resize: Annotated[
        int | None,
        typer.Option(metavar="N", parser=whole, help="For images of N x N pixels.  [default: the net's own]"),
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="For grey images.")] = False,
    classes: Annotated[
        int | None, typer.Option(metavar="N", parser=whole, help="How many outputs.  [default: 20]")
    ] = None,
) -> None:
    """List the nets and how others are named, or show the layers of one, their parameters, FLOPs and shapes."""
    from layerwise.errors import StudyError
    from layerwise.nets import FORMS, NETS, architecture

    if net is None:
        rows = [
            *([name, found.summary] for name, found in NETS.items()),
            *([form, told] for form, told in FORMS.items()),
        ]
        print_table(["net", "what it is"], rows)
        return
    for option, value in (("--classes", classes), ("--resize", resize)):
        if value is not None and value < 1:
            raise StudyError(f"{option} {value} is not possible; the least is 1")
    from layerwise.nets.weights import parse_net

    name, file = parse_net(net)
    found = architecture(name)
    channels = 1 if grey else len(found.mean) if name in NETS else COLOURS
    shape = (channels, *2 * (resize or found.size or SIDE,))
    print_table(
        ["layer", "name", "parameters", "FLOPs", "gives"], list(_rows(name, shape, classes or OUTPUTS, granularity))
    )
    for line in _remarks(name, shape, file):
        typer.echo(line)


def _rows(net: str, shape: tuple[int, int, int], outputs: int, granularity: str) -> Iterator[list[str]]:
    """A row for each layer and one for all; FLOPs are those of one image, forward."""
    import torch

    from layerwise.costs import layer_costs
    from layerwise.nets import build, head
    from layerwise.probes.activations import activations

    costs, flops = layer_costs(net, shape, outputs, granularity)
    found = tuple(cost.layer for cost in costs)
    seen = activations(build(net, shape, outputs, seed=0), torch.zeros(1, *shape), found=found)
    heads = head(net, shape)
    for cost in costs:
        gives = " x ".join(map(str, seen.shapes.get(cost.layer.name, ())))
        mark = ", the head" if any(name in heads for name in cost.layer.parameters) else ""
        number = str(cost.layer.number)
        yield [number, cost.layer.name, f"{cost.parameters:,}", f"{cost.flops:,}", f"{gives}{mark}".lstrip(", ")]
    yield ["", "in all", f"{sum(cost.parameters for cost in costs):,}", f"{flops:,}", ""]


def _remarks(net: str, shape: tuple[int, int, int], file: Any) -> Iterator[str]:
    """How the net wants its images, and whether the weights fit."""
    from layerwise.nets import architecture
    from layerwise.nets.weights import head_width, net_state, read_weights

    found = architecture(net)
    mean, std = ([f"{number:.3f}" for number in numbers] for numbers in found.pixels(shape[0]))
    yield f"\nimages: {' x '.join(map(str, shape))}; pixels less {', '.join(mean)}, over {', '.join(std)}"
    if found.size and found.size != shape[1]:
        yield f"its own size is {found.size} x {found.size}: images are resized to it where --resize is absent"
    if file:
        state = net_state(read_weights(file), net, shape, str(file))
        yield f"weights: {len(state)} tensors fit; their head has {head_width(state, net, shape)} outputs"
