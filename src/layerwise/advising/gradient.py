"""Rates by gradient signal: a layer that the new data would change most, for its size, learns fastest.

Lee et al. 2023, "Surgical fine-tuning improves adaptation to distribution shifts", section 5 (Auto-RGN),
https://arxiv.org/abs/2210.11466. There the ratio is taken anew in each epoch; here once, on the net with a linear probe
for a head, so that rates are part of a run's recipe and it can be repeated.
"""

import torch
from torch import nn

from layerwise.curve import EVALUATION_BATCH
from layerwise.feed import Feed
from layerwise.layers import Layer, in_eval

DIGITS = 3  # of a rate: it is part of a key


def relative_gradients(net: nn.Module, found: tuple[Layer, ...], feed: Feed) -> tuple[float, ...]:
    """Per layer: the norm of the loss's gradient over that of the weights, on all training examples, in eval mode."""
    part = feed.parts["train"]
    net.zero_grad()
    net.requires_grad_(True)
    with in_eval(net):
        for rows in torch.split(torch.arange(len(part.classes)), EVALUATION_BATCH):
            loss = feed.loss(net(part.images(rows)), part.classes[rows]) * (len(rows) / len(part.classes))
            loss.backward()  # type: ignore[no-untyped-call]
    parameters = dict(net.named_parameters())
    ratios = []
    for layer in found:
        own = [parameters[name] for name in layer.parameters]
        size = sum(float(one.detach().square().sum()) for one in own)
        change = sum(float(one.grad.square().sum()) for one in own if one.grad is not None)
        ratios.append((change / size) ** 0.5 if size else 0.0)
    net.zero_grad()
    return tuple(ratios)


def rates_of(ratios: tuple[float, ...]) -> tuple[float, ...]:
    """Multipliers of the learning rate: the ratios over the largest in front of the head, which itself has 1.

    >>> rates_of((0.1, 0.4, 0.2, 9.0))
    (0.25, 1.0, 0.5, 1.0)
    """
    most = max(ratios[:-1], default=0.0)
    return (*(float(f"{ratio / most:.{DIGITS}g}") if most else 1.0 for ratio in ratios[:-1]), 1.0)
