"""What else may tell how much an unknown class gains from a layer, the rivals of Sharma's decoders."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerwise.errors import RepresentationError
from layerwise.layers import layers
from layerwise.measure import Bench, Row
from layerwise.probes.activations import activations
from layerwise.probes.drift import gradients
from layerwise.probes.evidence import logme
from layerwise.probes.linear import LinearProbe, linear_probes
from layerwise.probes.neighbours import neighbour_accuracy
from layerwise.run import Run, key
from layerwise.studies.sharma_images import TRAINED, Seen, chosen, seen

PENALTIES = (1e-3, 1e-1, 1e1)  # of linear probes: chosen among, in inner folds


def predictors(bench: Bench, source: Run, frozen: Run, *, unknown: str, images: int, at: str) -> list[Row]:
    """What else may tell how much an unknown class gains from a layer: from the layer's features, and from gradients.

    Accuracy of the nearest neighbours and of a linear probe (cross-validated), and LogME of the class against the rest.
    The signal-to-noise ratio is of the gradient of the target net whose layers are `frozen` and whose head is trained:
    of the first step that retraining the layer would take.
    """
    looked_at, net = seen(bench, source, unknown, images), bench.net(source)
    rows, labels = looked_at.of_unknown()
    pictures = looked_at.images[rows]
    features = activations(net, pictures, pooling="flatten")
    given = {layer: features[layer] for layer in chosen(net, looked_at, at)}
    probed = linear_probes(given, labels, penalties=PENALTIES, seed=source.seed)
    made: list[Row] = []
    for layer, points in given.items():
        about = {"run_key": key(source), "layer": layer, "condition": TRAINED}
        neighbours = neighbour_accuracy(points, labels, seed=source.seed).by_class
        linear = probed[layer]
        for label in looked_at.unknown:
            values: dict[str, float | str] = {
                "knn_accuracy": neighbours[label],
                "linear_accuracy": linear.accuracy.by_class[label] if isinstance(linear, LinearProbe) else str(linear),
                "logme": _logme(points, labels == label),
            }
            made += [{**about, **looked_at.about(label), **_valued(*pair)} for pair in values.items()]
    return made + list(_signals(bench.net(frozen), frozen, list(given), pictures, labels, looked_at))


def _logme(points: Float[Tensor, "examples units"], is_class: Tensor) -> float | str:
    try:
        return logme(points, is_class.long())
    except RepresentationError as error:
        return str(error)


def _signals(
    net: nn.Module, frozen: Run, wanted: Sequence[str], pictures: Tensor, labels: Tensor, looked_at: Seen
) -> Iterator[Row]:
    """The gradient's signal-to-noise ratio in each layer, over the images of each class."""
    every = layers(net, pictures[:1])
    for position, label in enumerate(frozen.task.classes):
        own = pictures[labels == label]
        for reading in gradients(net, every, own, torch.full((len(own),), position)):
            if reading.layer in wanted and (reading.part, reading.quantity) == ("all", "signal_to_noise"):
                about = {"run_key": key(frozen), "layer": reading.layer, "condition": TRAINED}
                value = reading.reason if reading.value is None else reading.value
                yield {**about, **looked_at.about(label), **_valued("signal_to_noise", value)}


def _valued(quantity: str, value: float | str) -> Row:
    """A quantity with its value, or with the reason why it has none."""
    told = {"value": None, "reason": value} if isinstance(value, str) else {"value": value}
    return {"quantity": quantity, **told}
