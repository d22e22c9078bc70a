"""What the reverse hierarchy study measures on trained nets: what they do elsewhere, and how far their layers went."""

from dataclasses import replace

import torch

from layerwise.layers import layers
from layerwise.measure import Bench, Row
from layerwise.probes.drift import distances
from layerwise.run import Run


def untouched(bench: Bench, run: Run, *, even: int, odd: int) -> list[Row]:
    """What a net does, as it is, on the test images of these two classes.

    Accuracy; and, since a net may see a difference and yet draw the line elsewhere, how often an odd array looks odder
    to it than an even one (the area under its receiver operating characteristic).
    """
    elsewhere = replace(run, task=replace(run.task, classes=(even, odd)))
    part = bench.feed(elsewhere).parts["test"]
    net = bench.net(run)
    with torch.no_grad():
        outputs = torch.cat([net(images) for images in part.chunks(100)]).double()  # (examples, 2)
    oddness, is_odd = outputs[:, 1] - outputs[:, 0], part.classes == 1
    above = (oddness[is_odd][:, None] - oddness[~is_odd]).sign().add(1).div(2)
    found = {"accuracy": ((oddness > 0) == is_odd).double().mean(), "area": above.mean()}
    return [{"quantity": f"untouched_{name}", "split": "test", "value": float(value)} for name, value in found.items()]


def drift(bench: Bench, run: Run) -> list[Row]:
    """How far each layer's weights went in training, by the four distances of `layerwise.probes.drift`."""
    net, trained = bench.fresh(run), bench.trained(run)
    found = layers(net, torch.zeros(1, *bench.data.images.shape[1:]))
    readings = distances(net, found, {0: trained.initial, sum(trained.steps): trained.weights})
    return [
        {"layer": one.layer, "part": one.part, "quantity": one.quantity, "step": one.step, "value": one.value}
        | ({"reason": one.reason} if one.value is None else {})
        for one in readings
        if one.step
    ]
