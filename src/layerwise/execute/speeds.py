"""How fast this machine trains: measured on the net itself, in moments, before anything is trained."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from layerwise.curve import EVALUATION_BATCH
from layerwise.execute.processor import as_workers_do
from layerwise.feed import Feed, Part, layout
from layerwise.fleet import rehearse
from layerwise.layers import layers
from layerwise.nets import build
from layerwise.prefix import Prefix, frozen_depth, split
from layerwise.run import Run
from layerwise.tasks import codes
from layerwise.train import Trained, rehearse_alone

WARM_UP, TIMED = 2, 7
ENOUGH_SECONDS = 0.3  # of timing one thing
CACHE_BYTES = 2**25  # what the members of a fleet may use between them; beyond it, memory is waited for
GPU_SHARE = 0.25  # of its memory, for the members of a fleet
WIDEST = {"cpu": 128, "cuda": 512}
STILL = 1e-12  # a rate at which no net diverges while its steps are timed


@dataclass(frozen=True)
class Speed:
    """Measured seconds of training a unit of so many runs."""

    ready: float  # until the first step, once per stage
    step: float  # of all its members together
    look: float  # at one image in an evaluation, per member
    ahead: float  # per image, of the layers that are computed once


def speed(run: Run, stage: int, shape: tuple[int, int, int], width: int, device: str = "cpu") -> Speed:
    """How fast units of so many runs like this one are, in the images' shape (channels, height, width)."""
    return _measured(kind(run, shape, device), stage, width)


def widest(run: Run, shape: tuple[int, int, int], device: str = "cpu") -> int:
    """How many runs like this one may be worth training together.

    As many as a processor's cache has room for, or a good part of a GPU's memory.
    """
    if any(recipe.stop_at is not None for recipe in run.recipes):
        return 1  # a fleet would go on until its last member stops
    room = CACHE_BYTES if device == "cpu" else int(GPU_SHARE * torch.cuda.mem_get_info()[1])
    return max(1, min(WIDEST[device], room // _bytes(kind(run, shape, device))))


def step_bytes(run: Run, shape: tuple[int, int, int]) -> int:
    """Bytes that a step of a run like this one keeps between its forward and its backward pass."""
    return _bytes(kind(run, shape))


@dataclass(frozen=True)
class Kind:
    """What of a run decides how long a step takes. Compared by its description: runs of one kind are equally fast."""

    name: str
    run: Run
    shape: tuple[int, int, int]
    device: str

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kind) and self.name == other.name

    def feed(self) -> Feed:
        """Noise instead of images, in two batches."""
        task, size = self.run.task, 2 * self.run.recipes[0].batch_size
        pool, rows = self.noise(size), torch.arange(size, device=self.device)
        part = Part(pool, rows, rows % task.width)
        return Feed({"train": part, "test": part}, torch.from_numpy(codes(task)).to(pool), task.is_bits, "noise")

    def noise(self, images: int) -> Tensor:
        """So many images as the net gets them."""
        dtype = getattr(torch, self.run.recipes[0].dtype_name)
        form = layout(channels_last=self.run.recipes[0].channels_last)
        return torch.randn(images, *self.shape, dtype=dtype, device=self.device).to(memory_format=form)

    def net(self) -> nn.Module:
        """A fresh net."""
        net = build(self.run.net, self.shape, self.run.task.outputs, seed=0)
        return net.to(self.device, getattr(torch, self.run.recipes[0].dtype_name))


def kind(run: Run, shape: tuple[int, int, int], device: str = "cpu") -> Kind:
    """The kind of a run on images of shape (channels, height, width)."""
    task = run.task
    depths = [frozen_depth(run, stage) for stage in range(len(run.recipes))]
    how = [(r.batch_size, r.optimiser, r.momentum, r.precision, r.channels_last, r.augment) for r in run.recipes]
    where = device if device == "cpu" else torch.cuda.get_device_name()
    parts = [symbol for stage in run.treatment.at_random.letters() for symbol in stage if symbol[0] == "P"]
    if parts:
        run = replace(run, treatment=run.treatment.at_random)  # noise is not to be ranked on
    run = replace(run, recipes=tuple(replace(recipe, rate=STILL, layer_rates=()) for recipe in run.recipes))
    what = (run.net, shape, task.outputs, task.is_bits, run.treatment.trained, depths, how, where, *parts)
    return Kind(repr(what), run, shape, device)


@lru_cache(maxsize=1024)
def _measured(kind: Kind, stage: int, width: int) -> Speed:
    with as_workers_do():
        return _measure(kind, stage, width)


def _measure(kind: Kind, stage: int, width: int) -> Speed:
    _step(kind, stage, 1)()  # what a process does once is no part of a unit's time
    start = time.perf_counter()
    step = _step(kind, stage, width)
    step()
    ready = time.perf_counter() - start
    net, images = kind.net().eval(), kind.noise(EVALUATION_BATCH)
    _, first, rest = split(net, layers(net, images[:1]), frozen_depth(kind.run, stage))
    with torch.no_grad():
        features = first(images)
        ahead = 0.0 if isinstance(first, nn.Identity) else _seconds(lambda: first(images)) / EVALUATION_BATCH
        look = _seconds(lambda: rest(features)) / EVALUATION_BATCH
    return Speed(ready, _seconds(step), look, ahead)


def _step(kind: Kind, stage: int, width: int) -> Callable[[], object]:
    """A training step of so many stand-ins for the run."""
    source = Trained(kind.net().state_dict(), kind.net().state_dict(), (), ())
    if width == 1:
        return rehearse_alone(kind.run, stage, kind.feed(), source, Prefix().ahead)
    return rehearse([kind.run] * width, stage, [kind.feed()] * width, [source] * width)


@lru_cache(maxsize=1024)
def _bytes(kind: Kind) -> int:
    """What one member of a fleet keeps in a step: weights, gradients and momentum, and what the backward pass needs."""
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor

    step = _step(kind, 0, 1)
    with as_workers_do(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    return sum(saved.values()) + 2 * _trained_bytes(kind)


def _trained_bytes(kind: Kind) -> int:
    """The parameters behind the layers that are computed once."""
    net = kind.net()
    named = dict(net.named_parameters())
    rest = layers(net, kind.noise(1))[frozen_depth(kind.run, 0) :]
    return sum(named[name].nbytes for layer in rest for name in layer.parameters)


def _seconds(action: Callable[[], object]) -> float:
    """The median time of an action, after some to warm up."""
    times: list[float] = []
    for _ in range(WARM_UP + TIMED):
        start = time.perf_counter()
        action()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        if sum(times) > ENOUGH_SECONDS and len(times) > WARM_UP:
            break
    return sorted(times[WARM_UP:])[(len(times) - WARM_UP) // 2]
