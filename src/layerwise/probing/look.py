"""A subject while it is looked at: what several probes need is computed once, and every measurement becomes a row."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerwise.errors import LayerwiseError
from layerwise.probes.activations import BATCH, Activations, activations
from layerwise.probing.reconstruction import Reconstruction
from layerwise.probing.subject import State, Subject

Row = dict[str, Any]
TRAINED, UNTRAINED = "F*", "X*"  # the net as it is, and a fresh one, as treatments


@dataclass
class Look:
    """A subject, how it is looked at, and what has been seen."""

    subject: Subject
    pooling: str
    memory: int  # bytes for features
    other: Subject | None = None  # whose layers are compared with the subject's; by default its untrained self
    reconstruction: Reconstruction = field(default_factory=Reconstruction)
    rows: list[Row] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)  # PNG files by name
    captions: dict[str, str] = field(default_factory=dict)  # of the pictures
    states: dict[int, State] = field(default_factory=dict)  # at steps of its training, once a probe has asked for them
    progress: Callable[[int, int], None] = lambda done, total: None

    @property
    def layers(self) -> list[str]:
        """The names of the layers in forward order."""
        return [layer.name for layer in self.subject.found]

    @cached_property
    def features(self) -> Activations:
        """What each layer makes of the probed images."""
        return self._of(self.subject.net, self.subject)

    @cached_property
    def probabilities(self) -> Float[Tensor, "examples outputs"]:
        """What the net's head says of the probed images: probabilities of its own classes."""
        with torch.no_grad():
            outputs = [self.subject.net(images) for images in torch.split(self.subject.images, BATCH)]
        return torch.cat(outputs).softmax(1)

    @cached_property
    def untrained(self) -> nn.Module:
        """A fresh net of the same architecture."""
        return self.subject.untrained()

    @cached_property
    def compared(self) -> tuple[str, Activations]:
        """Another net's features of the same images: those of `other`, or else of the untrained net."""
        if self.other is None:
            return UNTRAINED, self._of(self.untrained, self.subject)
        return self.other.name, self._of(self.other.net, self.other)

    def note(self, quantity: str, value: float | None, layer: str | None = None, **more: Any) -> None:
        """Keep a measurement; one without a value has a `reason`."""
        subject = self.subject
        self.rows.append(
            {
                "study": "probe",
                "net": subject.name,
                "treatment": TRAINED,
                "seed": subject.seed,
                "layer": layer,
                "quantity": quantity,
                "value": value,
                **more,
            }
        )

    def each(self, quantity: str, **more: Any) -> "Iterator[tuple[str, Any]]":
        """The layers with their features; those without have a row that says why."""
        for layer in self.layers:
            if layer in self.features.reasons:
                self.note(quantity, None, layer, reason=self.features.reasons[layer], **more)
            else:
                yield layer, self.features[layer]

    @contextmanager
    def unknown_is_unknown(self, quantity: str, layer: str | None, **more: Any) -> Iterator[None]:
        """What cannot be computed within becomes a row that says why."""
        try:
            yield
        except LayerwiseError as error:
            self.note(quantity, None, layer, reason=str(error), **more)

    def _of(self, net: nn.Module, seen: Subject) -> Activations:
        return activations(net, seen.images, found=seen.found, pooling=self.pooling, memory=self.memory // 2)
