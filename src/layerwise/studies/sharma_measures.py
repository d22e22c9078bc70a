"""What Sharma measures of a net: his three experiments, and the class by class accuracy.

A net is looked at as it is, and as it was before its first update ("untrained").
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerwise.errors import RepresentationError
from layerwise.layers import layers
from layerwise.measure import Bench, Measure, Row
from layerwise.nets import architecture
from layerwise.png import address, image_of, png
from layerwise.probes.activations import activations
from layerwise.probes.decoder import Training
from layerwise.probes.embedding import picture
from layerwise.probes.inversion import ClassError, Images, Search, in_pixels, invert
from layerwise.probes.inversion import by_class as inverted_by_class
from layerwise.probes.recovery import IMAGE, Case, Recovered, firsts, minus_untrained, recover
from layerwise.probes.recovery import by_class as recovered_by_class
from layerwise.probes.spread import ClassMeasures, class_measures
from layerwise.run import Run, key
from layerwise.studies.given_net import GivenNet
from layerwise.studies.sharma_claims import PICTURE, PIXELS
from layerwise.studies.sharma_images import TRAINED, UNTRAINED, Seen, chosen, numbers, seen
from layerwise.studies.sharma_predictors import predictors
from layerwise.studies.sharma_retraining import CLASS_ACCURACY

RESAMPLES = 200  # for the intervals of a class's spread, given the net
LEARNT = 400  # images of each known class, by decoders
EVALUATED = 500  # images at once


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


def inversion(
    bench: Bench, source: Run, *, unknown: str, images: int, at: str, steps: int, pictured: bool
) -> list[Row]:
    """Experiment 2: how far images found by descent from a layer's activations are from those given, per class."""
    looked_at, kind = seen(bench, source, unknown, images), architecture(source.net)
    pixels = kind.mean, kind.std
    return list(_inverted(nets(bench, source), looked_at, pixels, source, at, steps, pictured=pictured))


def inversion_given(
    bench: Bench,
    source: Run,
    *,
    unknown: str,
    images: int,
    at: str,
    steps: int,
    pictured: bool,
    net: str,
    weights: str,
) -> list[Row]:
    """The same of a net whose weights, of this digest, are the user's own; the classes are known to the source.

    Untrained is the same net fresh, drawn anew for each source.
    """
    channels, height, width = bench.data.images.shape[1:]
    given = GivenNet(net, bench.store.weights(weights), net)
    shape = given.takes((channels, height, width))
    looked_at = seen(bench, source, unknown, images, net, shape[0])
    trained, untrained = given.loaded(shape), given.fresh(shape, source.seed)
    pixels, pair = architecture(net).pixels(shape[0]), [(TRAINED, trained), (UNTRAINED, untrained)]
    return list(_inverted(pair, looked_at, pixels, source, at, steps, pictured=pictured))


def _inverted(
    pair: Iterable[tuple[str, nn.Module]],
    looked_at: Seen,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    source: Run,
    at: str,
    steps: int,
    *,
    pictured: bool,
) -> Iterator[Row]:
    """Errors of images found from layers of nets by condition; `pixels` are the mean and deviation that these want."""
    shown = firsts(looked_at.labels)
    originals = in_pixels(looked_at.images[shown], *pixels)
    if pictured:
        yield from _drawn(originals, originals, looked_at, source, IMAGE)
    for condition, net in pair:
        found = layers(net, looked_at.images[:1])
        inverted = invert(
            net, found, looked_at.images, mean=pixels[0], std=pixels[1], at=numbers(at),
            search=Search(steps, seed=source.seed),
        )  # fmt: skip
        yield from errors(inverted_by_class(inverted, looked_at.labels), looked_at, "inversion", source, condition)
        for one in inverted if pictured else ():
            yield from _drawn(one.pictures[shown], originals, looked_at, source, condition, one.layer)


def decoders(
    bench: Bench, source: Run, *, unknown: str, images: int, at: str, decoders: int, steps: int, pictured: bool
) -> list[Row]:
    """Experiment 3: what decoders that learnt the known classes from a layer cannot draw, per class."""
    looked_at, kind = seen(bench, source, unknown, images), architecture(source.net)
    learnt = bench.feed(source).parts["train"]
    some = torch.cat([(learnt.classes == k).nonzero().flatten()[:LEARNT] for k in range(source.task.width)])
    own, labels = learnt.images(some), torch.tensor(source.task.classes)[learnt.classes[some]]
    cases = [Case(condition, net, source.task.classes) for condition, net in nets(bench, source)]
    together = torch.cat([own, looked_at.images])
    found = layers(cases[0].net, together[:1])
    recovered = recover(
        cases, found, together, torch.cat([labels, looked_at.labels]), torch.arange(len(together)) < len(own),
        mean=kind.mean, std=kind.std, at=numbers(at), seeds=decoders, training=Training(steps),
    )  # fmt: skip
    originals = in_pixels(looked_at.images[firsts(looked_at.labels)], kind.mean, kind.std)
    made: list[Row] = list(_drawn(originals, originals, looked_at, source, IMAGE)) if pictured else []
    for (condition, layer), one in recovered.items():
        if isinstance(one, RepresentationError):
            about = {"run_key": key(source), "layer": layer, "condition": condition}
            made.append({**about, "quantity": "decoder_raw_error", "value": None, "reason": str(one)})
        else:
            made += errors(recovered_by_class(one), looked_at, "decoder", source, condition)
            if pictured:
                made += _drawn(one.drawings, originals, looked_at, source, condition, layer)
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


def _drawn(
    drawn: Images, originals: Images, looked_at: Seen, source: Run, condition: str, layer: str | None = None
) -> Iterator[Row]:
    """What became of the first image of each class, to be looked at, with its mean squared error per pixel."""
    labels = looked_at.labels[firsts(looked_at.labels)].tolist()
    for label, one, own in zip(labels, drawn, originals, strict=True):
        yield {
            "run_key": key(source), "layer": layer, "condition": condition, "quantity": PICTURE,
            "value": (one - own).square().mean().item(), "picture": address(png(image_of(one))),
            **looked_at.about(label),
        }  # fmt: skip


def errors(found: Iterable[ClassError], looked_at: Seen, probe: str, source: Run, condition: str) -> Iterator[Row]:
    """Errors of classes as rows."""
    for one in found:
        low, high = one.interval or (None, None)
        yield {
            "run_key": key(source), "layer": one.layer, "condition": condition, "quantity": f"{probe}_{one.quantity}",
            "value": one.value, "low": low, "high": high, "reason": one.why or None, **looked_at.about(one.label),
        }  # fmt: skip


MEASURES: dict[str, Measure] = {
    "embedding": embedding,
    "inversion": inversion,
    "inversion_given": inversion_given,
    "decoders": decoders,
    "accuracies": accuracies,
    "predictors": predictors,
}
