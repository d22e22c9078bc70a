"""What Sharma measures of a net: his three experiments, the class by class accuracy, and rival predictors.

Images are those that neither the net nor its decoders learnt from and on which no target is tested: of known classes
from the test part, of unknown ones from the training part. A net is looked at as it is, and as it was before its first
update ("untrained").
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from layerwise.errors import RepresentationError
from layerwise.feed import scaled
from layerwise.layers import layers
from layerwise.measure import Bench, Measure, Row
from layerwise.nets import architecture
from layerwise.probes.activations import activations
from layerwise.probes.decoder import Training
from layerwise.probes.drift import gradients
from layerwise.probes.embedding import picture
from layerwise.probes.evidence import logme
from layerwise.probes.inversion import ClassError, Search, invert
from layerwise.probes.inversion import by_class as inverted_by_class
from layerwise.probes.linear import LinearProbe, linear_probes
from layerwise.probes.neighbours import neighbour_accuracy
from layerwise.probes.recovery import Case, Recovered, minus_untrained, recover
from layerwise.probes.recovery import by_class as recovered_by_class
from layerwise.probes.spread import ClassMeasures, class_measures
from layerwise.run import Run, key
from layerwise.studies.given_net import GivenNet
from layerwise.studies.sharma_retraining import CLASS_ACCURACY
from layerwise.tasks import examples

TRAINED, UNTRAINED = "trained", "untrained"  # conditions
PIXELS = "pixels"  # in place of a layer's name: the image itself
RESAMPLES = 200  # for the intervals of a class's spread, given the net
PENALTIES = (1e-3, 1e-1, 1e1)  # of linear probes: chosen among, in inner folds
LEARNT = 400  # images of each known class, by decoders
EVALUATED = 500  # images at once


@dataclass(frozen=True, eq=False)
class Seen:
    """The images looked at, of known and unknown classes."""

    images: Float[Tensor, "examples channels height width"]  # scaled as the net takes them
    labels: Int[Tensor, " examples"]  # as the data number their classes
    known: tuple[int, ...]
    unknown: tuple[int, ...]
    names: tuple[str, ...]  # of all classes

    def about(self, label: int) -> Row:
        """The class and its group, as rows have them."""
        return {"class_name": self.names[label], "group": "known" if label in self.known else "unknown"}

    def of_unknown(self) -> tuple[Tensor, Tensor]:
        """Rows of the unknown classes' images, and their labels."""
        rows = torch.isin(self.labels, torch.tensor(self.unknown)).nonzero().flatten()
        return rows, self.labels[rows]


def seen(bench: Bench, source: Run, unknown: str, most: int, net: str | None = None, channels: int = 1) -> Seen:
    """At most so many images a class; `unknown` are the unknown classes' numbers, such as `5,6,7`.

    They are as the source takes them, or another net, over whose channels grey ones are repeated.
    """
    data, task, others = bench.data, source.task, tuple(map(int, unknown.split(",")))
    known = examples(task, data.labels, data.columns, data.class_names).test
    firsts = [known[data.labels[known] == label][:most] for label in task.classes]
    drawn = examples(replace(task, classes=others, shots=most), data.labels, data.columns, data.class_names).train
    rows = np.concatenate([*firsts, drawn])
    pixels = data.images[rows]
    if pixels.shape[1] < channels:
        pixels = pixels.repeat(channels, axis=1)
    images = scaled(pixels, architecture(net or source.net))
    return Seen(images, torch.from_numpy(data.labels[rows]).long(), task.classes, others, tuple(data.class_names))


def nets(bench: Bench, source: Run) -> Iterator[tuple[str, nn.Module]]:
    """The net as training left it, and as it was before the first update."""
    kept = bench.trained(source)
    for condition, state in ((TRAINED, kept.weights), (UNTRAINED, kept.initial)):
        net = bench.fresh(source)
        net.load_state_dict(state)
        yield condition, net


def embedding(bench: Bench, source: Run, *, unknown: str, images: int, at: str, pictured: bool) -> list[Row]:
    """Experiment 1: how each class lies in each layer, which known class an unknown one lies nearest to, and t-SNE.

    The same in the space of pixels tells which known class an unknown one looks like.
    """
    looked_at = seen(bench, source, unknown, images)
    made: list[Row] = []
    for condition, net in nets(bench, source):
        features = activations(net, looked_at.images, pooling="flatten")
        spaces = {layer: features[layer] for layer in chosen(net, looked_at, at)}
        if condition == TRAINED:
            spaces[PIXELS] = looked_at.images.flatten(1)
        for layer, points in spaces.items():
            about = {"run_key": key(source), "layer": layer, "condition": condition}
            made += [{**about, **row} for row in _lying(points, looked_at, source.seed)]
            if pictured and condition == TRAINED and layer != PIXELS:
                made += [{**about, **row} for row in _pictured(points, looked_at, source.seed)]
    return made


def _lying(points: Float[Tensor, "examples units"], looked_at: Seen, seed: int) -> Iterator[Row]:
    try:
        measured = class_measures(points, looked_at.labels, near=looked_at.known, resamples=RESAMPLES, seed=seed)
    except RepresentationError as error:
        yield {"quantity": "relative_spread", "value": None, "reason": str(error)}
        return
    for label, one in measured.items():
        yield from ({**looked_at.about(label), **row} for row in _of_class(one, looked_at))


def _of_class(one: ClassMeasures, looked_at: Seen) -> Iterator[Row]:
    for quantity, found in (("relative_spread", one.relative_spread), ("purity", one.purity)):
        yield {"quantity": quantity, "value": found.value, "low": found.bounds[0], "high": found.bounds[1]}
    if one.label in looked_at.unknown:
        near = one.nearest_by_neighbours
        other = looked_at.names[near.label]
        yield {"quantity": "nearest_known", "value": near.measured.value, "other_class": other}


def _pictured(points: Float[Tensor, "examples units"], looked_at: Seen, seed: int) -> Iterator[Row]:
    try:
        places = picture(points, seed=seed).places
    except RepresentationError as error:
        yield {"quantity": "tsne", "value": None, "reason": str(error)}
        return
    for unit, (label, place) in enumerate(zip(looked_at.labels.tolist(), places.tolist(), strict=True)):
        for part, value in zip(("first", "second"), place, strict=True):
            yield {**looked_at.about(label), "quantity": "tsne", "unit": unit, "part": part, "value": value}


def inversion(bench: Bench, source: Run, *, unknown: str, images: int, at: str, steps: int) -> list[Row]:
    """Experiment 2: how far images found by descent from a layer's activations are from those given, per class."""
    looked_at, kind = seen(bench, source, unknown, images), architecture(source.net)
    pixels = kind.mean, kind.std
    return list(_inverted(nets(bench, source), looked_at, pixels, source, at, steps))


def inversion_given(
    bench: Bench, source: Run, *, unknown: str, images: int, at: str, steps: int, net: str, weights: str
) -> list[Row]:
    """The same of a net whose weights, of this digest, are the user's own; the classes are known to the source.

    Untrained is the same net fresh, drawn anew for each source.
    """
    channels, height, width = bench.data.images.shape[1:]
    given = GivenNet(net, bench.store.weights(weights), net)
    shape = given.takes((channels, height, width))
    looked_at = seen(bench, source, unknown, images, net, shape[0])
    trained, untrained = given.loaded(shape), given.fresh(shape, source.seed)
    pixels = architecture(net).pixels(shape[0])
    return list(_inverted([(TRAINED, trained), (UNTRAINED, untrained)], looked_at, pixels, source, at, steps))


def _inverted(
    pair: Iterable[tuple[str, nn.Module]],
    looked_at: Seen,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    source: Run,
    at: str,
    steps: int,
) -> Iterator[Row]:
    """Errors of images found from layers of nets by condition; `pixels` are the mean and deviation that these want."""
    for condition, net in pair:
        found = layers(net, looked_at.images[:1])
        inverted = invert(
            net, found, looked_at.images, mean=pixels[0], std=pixels[1], at=numbers(at),
            search=Search(steps, seed=source.seed),
        )  # fmt: skip
        yield from errors(inverted_by_class(inverted, looked_at.labels), looked_at, "inversion", source, condition)


def decoders(bench: Bench, source: Run, *, unknown: str, images: int, at: str, decoders: int, steps: int) -> list[Row]:
    """Experiment 3: what decoders that learnt the known classes from a layer cannot draw, per class."""
    looked_at, kind = seen(bench, source, unknown, images), architecture(source.net)
    learnt = bench.feed(source).parts["train"]
    firsts = torch.cat([(learnt.classes == k).nonzero().flatten()[:LEARNT] for k in range(source.task.width)])
    own, labels = learnt.images(firsts), torch.tensor(source.task.classes)[learnt.classes[firsts]]
    cases = [Case(condition, net, source.task.classes) for condition, net in nets(bench, source)]
    together = torch.cat([own, looked_at.images])
    found = layers(cases[0].net, together[:1])
    recovered = recover(
        cases, found, together, torch.cat([labels, looked_at.labels]), torch.arange(len(together)) < len(own),
        mean=kind.mean, std=kind.std, at=numbers(at), seeds=decoders, training=Training(steps),
    )  # fmt: skip
    made: list[Row] = []
    for (condition, layer), one in recovered.items():
        if isinstance(one, RepresentationError):
            about = {"run_key": key(source), "layer": layer, "condition": condition}
            made.append({**about, "quantity": "decoder_raw_error", "value": None, "reason": str(one)})
        else:
            made += errors(recovered_by_class(one), looked_at, "decoder", source, condition)
    for number in numbers(at):
        pair = [recovered[condition, found[number - 1].name] for condition in (TRAINED, UNTRAINED)]
        whole = [one for one in pair if isinstance(one, Recovered)]
        if len(whole) == 2:
            made += errors(minus_untrained(*whole), looked_at, "decoder", source, TRAINED)
    return made


def accuracies(bench: Bench, *targets: Run) -> list[Row]:
    """The test accuracy of every class, of each of these nets."""
    feeds = {task: bench.feed(run) for task, run in {run.task: run for run in targets}.items()}
    made: list[Row] = []
    for run in targets:
        net, feed = bench.net(run), feeds[run.task]
        test = feed.parts["test"]
        with torch.no_grad():
            predicted = torch.cat([feed.predict(net(images)) for images in test.chunks(EVALUATED)])
        right = (predicted == test.classes).double()
        for position, label in enumerate(run.task.classes):
            about = {"run_key": key(run), "class_name": bench.data.class_names[label], "split": "test"}
            value = right[test.classes == position].mean().item()
            made.append({**about, "group": "unknown", "quantity": CLASS_ACCURACY, "value": value})
    return made


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


def errors(found: Iterable[ClassError], looked_at: Seen, probe: str, source: Run, condition: str) -> Iterator[Row]:
    """Errors of classes as rows."""
    for one in found:
        low, high = one.interval or (None, None)
        yield {
            "run_key": key(source), "layer": one.layer, "condition": condition, "quantity": f"{probe}_{one.quantity}",
            "value": one.value, "low": low, "high": high, "reason": one.why or None, **looked_at.about(one.label),
        }  # fmt: skip


def chosen(net: nn.Module, looked_at: Seen, at: str) -> list[str]:
    """The names of the layers of these numbers."""
    found = layers(net, looked_at.images[:1])
    return [found[number - 1].name for number in numbers(at)]


def numbers(at: str) -> list[int]:
    """The numbers in a text such as `1,2`."""
    return [int(number) for number in at.split(",")]


MEASURES: dict[str, Measure] = {
    "embedding": embedding,
    "inversion": inversion,
    "inversion_given": inversion_given,
    "decoders": decoders,
    "accuracies": accuracies,
    "predictors": predictors,
}
