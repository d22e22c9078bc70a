"""What of an image each layer keeps: inversion by descent, and decoders that learn to draw it."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from layerwise.errors import RepresentationError
from layerwise.png import image_of, png
from layerwise.probes.decoder import Training
from layerwise.probes.inversion import ClassError, Inverted, Search, in_pixels, invert
from layerwise.probes.inversion import by_class as inverted_by_class
from layerwise.probes.inversion import minus_untrained as inverted_minus_untrained
from layerwise.probes.recovery import Case, Recovered, advise, firsts, recover
from layerwise.probes.recovery import by_class as recovered_by_class
from layerwise.probes.recovery import minus_untrained as recovered_minus_untrained
from layerwise.probing.look import TRAINED, UNTRAINED, Look

INVERTED_A_CLASS = 4  # images
MOST_INVERTED = 20  # images
MOST_LAYERS = 6  # of a deep net: each takes minutes
LEARNT_FROM = 2_000  # images, by decoders
JUDGED_ON = 1_000
DESCENT = 500  # steps of an inversion
LESSONS = Training()  # of a decoder
SHOWN = 10  # images on a sheet
ZOOM = 2


def inversion(look: Look) -> None:
    """Images sought by descent from each layer's activations, of the net and of an untrained one."""
    subject, chosen = look.subject, some_layers(look, "inversion_image_error")
    rows = _few_of_each(subject.labels, INVERTED_A_CLASS)[:MOST_INVERTED]
    images, labels = subject.images[rows], subject.labels[rows]
    there, inverted = len(torch.unique(subject.labels)), len(torch.unique(labels))
    if inverted < there:
        why = f"{there - inverted} of the {there} classes are left out: {MOST_INVERTED} images are inverted"
        look.note("inversion_image_error", None, reason=f"{why}; name fewer classes with --classes")
    mean, std = subject.kind.pixels(images.shape[1])
    priors = look.reconstruction
    search = Search(DESCENT, total_variation=priors.total_variation, norm=priors.norm, seed=subject.seed)
    found: dict[str, list[Inverted]] = {}
    for treatment, net in ((TRAINED, subject.net), (UNTRAINED, look.untrained)):
        found[treatment] = invert(
            net, subject.found, images, mean=mean, std=std, at=chosen, search=search, progress=look.progress
        )
        _note(look, "inversion", inverted_by_class(found[treatment], labels), treatment)
    _note(look, "inversion", inverted_minus_untrained(found[TRAINED], found[UNTRAINED], labels), TRAINED)
    originals = in_pixels(images, mean, std)
    for number, *reconstructed in zip(chosen, *found.values(), strict=True):
        name = reconstructed[0].layer
        look.pictures[f"inversion-{number:02}"] = sheet([originals, *(one.pictures for one in reconstructed)])
        look.captions[f"inversion-{number:02}"] = (
            f"Layer {number}, {name}: the images, what was sought from this net's activations, and from the untrained "
            "net's."
        )


def decoder(look: Look) -> None:
    """Error of decoders trained on known classes, per class and layer, and which layers that tells to retrain."""
    subject, chosen = look.subject, some_layers(look, "decoder_normalised_error")
    if not len(subject.train_images):
        raise RepresentationError("there are no images of known classes to train a decoder on; all are looked at")
    mean, std = subject.kind.pixels(subject.images.shape[1])
    learnt, held = (
        _few_of_each(labels, max(1, most // len(torch.unique(labels))))
        for labels, most in ((subject.train_labels, LEARNT_FROM), (subject.labels, JUDGED_ON))
    )
    images = torch.cat([subject.train_images[learnt], subject.images[held]])
    labels = torch.cat([subject.train_labels[learnt], subject.labels[held]])
    known = tuple(torch.unique(subject.train_labels).tolist())
    if set(labels.tolist()) <= set(known):
        why = "no class is unknown to the net; name those that it knows with --known, and the others are"
        look.note("decoder_advice", None, group="unknown", reason=why)
    cases = [Case(TRAINED, subject.net, known), Case(UNTRAINED, look.untrained, known)]
    recovered = recover(
        cases, subject.found, images, labels, torch.arange(len(labels)) < len(learnt), mean=mean, std=std, at=chosen,
        training=LESSONS, memory=look.memory, progress=look.progress,
    )  # fmt: skip
    for (treatment, layer), one in recovered.items():
        with look.unknown_is_unknown("decoder_normalised_error", layer, treatment=treatment):
            if isinstance(one, RepresentationError):
                raise one
            _note(look, "decoder", recovered_by_class(one), treatment)
            _note_advice(look, one, treatment)
    originals = in_pixels(subject.images[held][firsts(subject.labels[held])], mean, std)
    for number, layer in ((number, subject.found[number - 1].name) for number in chosen):
        pair = [recovered[treatment, layer] for treatment in (TRAINED, UNTRAINED)]
        whole = [one for one in pair if isinstance(one, Recovered)]
        if len(whole) < len(pair):
            continue
        _note(look, "decoder", recovered_minus_untrained(*whole), TRAINED)
        look.pictures[f"decoder-{number:02}"] = sheet([originals, *(one.drawings for one in whole)])
        look.captions[f"decoder-{number:02}"] = (
            f"Layer {number}, {layer}: an image of each class, what a decoder draws of it from this net's activations, "
            "and from the untrained net's."
        )


def _note_advice(look: Look, recovered: Recovered, treatment: str) -> None:
    for advice in advise(recovered):
        low, high = advice.interval or (None, None)
        look.note(
            "decoder_advice", advice.beyond, recovered.layer, group="unknown", treatment=treatment, low=low, high=high,
            class_name=look.subject.class_names[advice.label], condition=advice.verdict, reason=advice.why or None,
        )  # fmt: skip


def some_layers(look: Look, quantity: str) -> list[int]:
    """Numbers of the layers to look at: those named, or else of a deep net some; the others have a row that says so."""
    names = look.layers
    chosen = look.reconstruction.numbers(names) or evenly(len(names))
    why = f"left out: {len(chosen)} of the {len(names)} layers are looked at; name others, or all, with --layers"
    for number, name in enumerate(names, 1):
        if number not in chosen:
            look.note(quantity, None, name, reason=why)
    return chosen


def evenly(layers: int) -> list[int]:
    """Numbers of all layers, or of a deep net of some, evenly spread from the first to the last.

    >>> evenly(3), evenly(20)
    ([1, 2, 3], [1, 5, 9, 12, 16, 20])
    """
    if layers <= MOST_LAYERS:
        return list(range(1, layers + 1))
    return sorted({1 + round(k * (layers - 1) / (MOST_LAYERS - 1)) for k in range(MOST_LAYERS)})


def sheet(rows: Sequence[Float[Tensor, "images channels height width"]]) -> bytes:
    """Rows of pictures with pixels from 0 to 1, one below the other, as a PNG."""
    tiles = torch.cat([torch.cat(list(row[:SHOWN]), 2) for row in rows], 1)
    image = image_of(tiles)
    return png(image.resize((image.width * ZOOM, image.height * ZOOM), Image.Resampling.NEAREST))


def _few_of_each(labels: Int[Tensor, " examples"], most: int) -> Int[Tensor, " some"]:
    """Rows of the first few of each class, taking turns: any beginning of them has all classes alike."""
    own = [torch.nonzero(labels == label).flatten()[:most].tolist() for label in torch.unique(labels).tolist()]
    return torch.tensor([rows[turn] for turn in range(most) for rows in own if turn < len(rows)])


def _note(look: Look, probe: str, errors: Iterable[ClassError], treatment: str) -> None:
    names = look.subject.class_names
    for one in errors:
        low, high = one.interval or (None, None)
        look.note(
            f"{probe}_{one.quantity}", one.value, one.layer, class_name=names[one.label],
            group=look.subject.group_of(one.label), treatment=treatment, low=low, high=high, reason=one.why or None,
        )  # fmt: skip
