"""Callbacks for other people's training loops, which hold frozen layers to their contract after every epoch.

The net that `layerwise.apply` gives keeps the contract by itself; these say so when something else breaks it, such as
other weights loaded into the net. Each takes what `apply` gave, and needs its own library only when it is called:

    lightning(applied)       for lightning.pytorch.Trainer(callbacks=[...]), or pytorch_lightning's
    skorch(applied)          for skorch.NeuralNetClassifier(callbacks=[...])
    transformers(applied)    for transformers.Trainer(callbacks=[...])
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from layerwise.adapting.applying import Applied
from layerwise.errors import StudyError


def lightning(applied: Applied) -> Any:
    """A Lightning callback; raises LayersError after an epoch in which a frozen tensor has changed."""
    base: Any = _library("lightning.pytorch", "pytorch_lightning").Callback

    class FrozenLayers(base):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            applied.check()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            applied.check()

    return FrozenLayers()


def skorch(applied: Applied) -> Any:
    """A skorch callback; raises LayersError after an epoch in which a frozen tensor has changed."""
    base: Any = _library("skorch.callbacks").Callback

    class FrozenLayers(base):  # type: ignore[misc]
        def on_epoch_end(self, net: Any, **_more: Any) -> None:
            applied.check()

    return FrozenLayers()


def transformers(applied: Applied) -> Any:
    """A callback of transformers' Trainer; raises LayersError after an epoch in which a frozen tensor has changed."""
    base: Any = _library("transformers").TrainerCallback

    class FrozenLayers(base):  # type: ignore[misc]
        def on_epoch_end(self, args: Any, state: Any, control: Any, **_more: Any) -> None:
            applied.check()

    return FrozenLayers()


def _library(*names: str) -> Any:
    """The first of these modules that is installed, or rather of those that are in use already."""
    for name in sorted(names, key=lambda name: name not in sys.modules):
        if find_spec(name.partition(".")[0]) is not None:
            return import_module(name)
    raise StudyError(
        f"{names[-1].partition('.')[0]} is not installed; pip install it, or call applied.check() yourself"
    )
