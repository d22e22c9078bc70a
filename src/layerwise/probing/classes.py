"""How classes lie in each layer: in a picture, and by measures that the eye cannot cheat."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from layerwise.probes.embedding import picture
from layerwise.probes.spread import ClassMeasures, Measured, Nearest, class_measures
from layerwise.probing.look import Look

PICTURED = 1_000  # images at most in t-SNE


def spread(look: Look) -> None:
    """Spread, silhouette, purity and nearest other class of every class in every layer."""
    names = look.subject.class_names
    for done, (layer, features) in enumerate(look.each("spread"), 1):
        with look.unknown_is_unknown("spread", layer):
            for label, one in class_measures(features, look.subject.labels, seed=look.subject.seed).items():
                note = partial(look.note, class_name=names[label], group=look.subject.group_of(label))
                _note(look, layer, one, note)
        look.progress(done, len(look.layers))


def _note(look: Look, layer: str, one: ClassMeasures, note: Callable[..., None]) -> None:
    measured: dict[str, Measured] = {
        "spread": one.spread,
        "relative_spread": one.relative_spread,
        "silhouette": one.silhouette,
        "purity": one.purity,
    }
    for quantity, found in measured.items():
        note(quantity, found.value, layer, low=found.bounds[0], high=found.bounds[1])
    nearest: dict[str, Nearest] = {
        "nearest_by_distance": one.nearest_by_distance,
        "nearest_by_neighbours": one.nearest_by_neighbours,
    }
    for quantity, near in nearest.items():
        low, high = near.measured.bounds
        other = look.subject.class_names[near.label]
        note(quantity, near.measured.value, layer, low=low, high=high, other_class=other)


def embedding(look: Look, method: str) -> None:
    """Each image as a point, layer by layer; the picture is fitted to known and unknown classes alike."""
    subject = look.subject
    rows = _mixed(subject.labels, subject.seed)[:PICTURED]
    for done, (layer, features) in enumerate(look.each(method), 1):
        with look.unknown_is_unknown(method, layer):
            drawn = picture(features[rows], method=method, seed=subject.seed)
            if drawn.variance is not None:
                look.note(f"{method}_variance", drawn.variance, layer)
            for row, place in zip(rows.tolist(), drawn.places.tolist(), strict=True):
                label = int(subject.labels[row])
                of_class = {"class_name": subject.class_names[label], "group": look.subject.group_of(label)}
                for part, value in zip(("first", "second"), place, strict=True):
                    look.note(method, value, layer, part=part, unit=row, **of_class)
        look.progress(done, len(look.layers))


def _mixed(labels: Int[Tensor, " examples"], seed: int) -> Int[Tensor, " examples"]:
    return torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
