"""What can be read from each layer: neighbours, linear probes, scores, similarity. Each probe adds rows to a look."""

from collections.abc import Iterator, Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from layerwise.errors import RepresentationError
from layerwise.probes.activations import Activations
from layerwise.probes.folds import Accuracy
from layerwise.probes.linear import linear_probes
from layerwise.probes.neighbours import neighbour_accuracy
from layerwise.probes.scores import FROM_FEATURES, FROM_PROBABILITIES
from layerwise.probes.similarity import all_pairs
from layerwise.probing.look import Look


def knn(look: Look) -> None:
    """Accuracy of the nearest neighbours' vote, per layer and class, for each group of classes."""
    quantity = "knn_accuracy"
    for group, rows in look.subject.groups.items():
        for done, (layer, features) in enumerate(look.each(quantity, group=group), 1):
            with look.unknown_is_unknown(quantity, layer, group=group):
                found = neighbour_accuracy(features[rows], look.subject.labels[rows], seed=look.subject.seed)
                _note_accuracy(look, quantity, layer, group, found)
            look.progress(done, len(look.layers))


def linear(look: Look) -> None:
    """Accuracy of a linear probe, per layer and class, for each group of classes."""
    quantity = "linear_accuracy"
    for group, rows in look.subject.groups.items():
        features = Chosen(dict(look.each(quantity, group=group)), rows)
        labels, seed = look.subject.labels[rows], look.subject.seed
        try:
            probed = linear_probes(features, labels, seed=seed, budget=look.memory, progress=look.progress)
        except RepresentationError as error:  # of the labels
            probed = dict.fromkeys(features, error)
        for layer, found in probed.items():
            with look.unknown_is_unknown(quantity, layer, group=group):
                if isinstance(found, RepresentationError):
                    raise found
                _note_accuracy(look, quantity, layer, group, found.accuracy)


class Chosen(Mapping[str, Float[Tensor, "some units"]]):
    """Some rows of each layer's features; only the latest layer's are held, as all of them may lie in files."""

    def __init__(self, features: Mapping[str, Float[Tensor, "examples units"]], rows: Bool[Tensor, " examples"]):
        self.features, self.rows, self.is_whole = features, rows, bool(rows.all())
        self.latest: tuple[str, Tensor] | None = None

    def __getitem__(self, layer: str) -> Float[Tensor, "some units"]:
        if self.is_whole:
            return self.features[layer]
        if self.latest is None or self.latest[0] != layer:
            self.latest = None  # before room is made for another
            self.latest = layer, self.features[layer][self.rows]
        return self.latest[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)


def _note_accuracy(look: Look, quantity: str, layer: str, group: str, found: Accuracy) -> None:
    low, high = found.bounds
    look.note(quantity, found.mean, layer, group=group, low=low, high=high)
    for label, value in found.by_class.items():
        look.note(f"{quantity}_of_class", value, layer, group=group, class_name=look.subject.class_names[label])


def score(look: Look, name: str) -> None:
    """A transferability score, for the classes that a transfer would be to; some have only one, of the outputs."""
    group = look.subject.target
    rows = look.subject.groups[group]
    labels = look.subject.labels[rows]
    if name in FROM_PROBABILITIES:
        with look.unknown_is_unknown(name, look.layers[-1], group=group):
            look.note(name, FROM_PROBABILITIES[name][0](look.probabilities[rows], labels), look.layers[-1], group=group)
        return
    for done, (layer, features) in enumerate(look.each(name, group=group), 1):
        with look.unknown_is_unknown(name, layer, group=group):
            look.note(name, FROM_FEATURES[name][0](features[rows], labels), layer, group=group)
        look.progress(done, len(look.layers))


def similarity(look: Look, name: str) -> None:
    """One measure of all pairs of the net's layers, and of these with another net's, or its own before training."""
    _compare(look, name, look.features, None, look.subject.name)
    other_name, other = look.compared
    _compare(look, name, look.features, other, other_name)


def _compare(look: Look, name: str, ours: Activations, theirs: Activations | None, other_net: str) -> None:
    for layer, reason in ours.reasons.items():
        look.note(name, None, layer, other_net=other_net, reason=reason)
    for layer, reason in theirs.reasons.items() if theirs else ():
        look.note(name, None, other_net=other_net, other_layer=layer, reason=reason)
    others = None if theirs is None else list(theirs.values())
    found = all_pairs(list(ours.values()), others, measure=name, memory=look.memory, progress=look.progress)
    for i, layer in enumerate(ours):
        for j, other_layer in enumerate(ours if theirs is None else theirs):
            look.note(
                name, found.values[i][j], layer, other_net=other_net, other_layer=other_layer,
                reason=found.unknown.get((i, j)),
            )  # fmt: skip
