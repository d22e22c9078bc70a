"""What is probed: a net, its weights, and images, known classes apart from unknown ones.

A net without weights is trained here, on other images of the known classes, and kept in the store. One with weights
from elsewhere is taken as it is: what it has seen is not known.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from layerwise.data.dataset import DataSet
from layerwise.errors import DataError, LayersError, StudyError
from layerwise.feed import Feed, feed, scaled
from layerwise.layers import Layer, in_eval, layers
from layerwise.nets import Architecture, adopted, architecture, build, draw
from layerwise.nets.weights import head_width, net_state, parse_net, read_weights
from layerwise.randomness import generator
from layerwise.randomness import seed as seeded
from layerwise.result import restore
from layerwise.run import Recipe, Run, key
from layerwise.store import Store
from layerwise.studies.request import Request, fit_parts
from layerwise.tasks import TEST, TRAIN, Parts, Task, choose_classes, part
from layerwise.treatment import Treatment

State = dict[str, Tensor]

EVERY = 10**9  # training images a class: all there are
MOST_TRAIN = 2_000  # images from the training part that probes may use, all classes alike


@dataclass(frozen=True)
class Asked:
    """The options of a probe that say what is probed."""

    net: str | nn.Module  # a name, with @FILE.safetensors behind it if it has weights; or a net of the user's own
    known: str | None = None  # classes on which the net was or will be trained; the others are unknown
    classes: str | None = None  # all classes in question
    examples: int = 100  # probed images a class, at most
    shots: int | None = None  # training images a class, where the net is trained here; null is all
    steps: int = 500
    batch_size: int = 50
    rate: float = 0.05
    hold_out: str | None = None
    seed: int = 0
    mean: tuple[float, ...] = ()  # of the pixels from 0 to 1, per channel, for a net of the user's own; none is 0
    std: tuple[float, ...] = ()  # none is 1
    groups: str | None = None  # a column whose values are on one side: seen in training, or probed

    def __post_init__(self) -> None:
        for name in ("examples", "shots", "steps", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise StudyError(f"--{name.replace('_', '-')} {value} is not possible; the least is 1")
        if not 0 < self.rate < float("inf"):
            raise StudyError(f"--rate {self.rate} is not possible; it is a number above 0")
        if isinstance(self.net, str) and (self.mean or self.std):
            raise StudyError(f"mean and std are for a net of your own; '{self.net}' has its own")

    @property
    def name(self) -> str:
        """What the net is called in rows: of a file of weights, its name without its path."""
        if not isinstance(self.net, str):
            return type(self.net).__name__
        net, path = parse_net(self.net)
        return f"{net}@{path.name}" if path else net

    @property
    def is_trained_here(self) -> bool:
        """Has the net no weights yet?"""
        return isinstance(self.net, str) and parse_net(self.net)[1] is None


@dataclass(frozen=True)
class Plan:
    """The request fitted to the data: which images are probed, and what is trained, if anything is."""

    asked: Asked
    data: DataSet
    net: str  # the name of its architecture
    kind: Architecture
    content: bytes | None  # of the weights' file
    classes: tuple[int, ...]
    known: tuple[int, ...]  # empty where all classes are as good as one another
    parts: Parts
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images."""
        channels, height, width = self.data.images.shape[1:]
        return channels, height, width

    @cached_property
    def run(self) -> Run | None:
        """What trains the net; nothing where it has weights."""
        if not self.asked.is_trained_here:
            return None
        asked = self.asked
        task = Task(self.data.digest, self.known or self.classes, asked.shots, parts=self.parts, seed=asked.seed)
        recipe = Recipe(asked.steps, asked.batch_size, asked.rate, drops=(0.8,))
        return Run(self.net, task, Treatment.parse("R*").resolve(len(self.layers)), None, (recipe,), asked.seed)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the net's layers in forward order, as they can be told before it is trained."""
        net = self.built(len(self.known or self.classes)) if self.asked.is_trained_here else _loaded(self)
        _outputs(net, torch.zeros(1, *self.shape))
        return tuple(layer.name for layer in layers(net, torch.zeros(1, *self.shape)))

    def built(self, outputs: int, drawn: int = 0) -> nn.Module:
        """The net with so many outputs, fresh."""
        return build(self.net, self.shape, outputs, drawn)


@dataclass(frozen=True)
class Subject:
    """A net in the state that is probed, and the images on which its layers are looked at."""

    name: str
    kind: Architecture
    net: nn.Module
    found: tuple[Layer, ...]
    outputs: int  # of its head
    head: tuple[int, ...] | None  # the labels of their classes; null where that is not known
    start: State | None  # its weights before the first update; null where they are not known
    run: Run | None  # that trained it here
    feed: Feed | None  # of that run
    images: Float[Tensor, "examples channels height width"]
    labels: Int[Tensor, " examples"]  # as the data number their classes
    class_names: tuple[str, ...]  # by label
    known: frozenset[int]  # labels of the classes that the net was trained on; none, where that makes no difference
    train_images: Float[Tensor, "others channels height width"]  # some of those it may have seen, of known classes
    train_labels: Int[Tensor, " others"]
    seed: int

    @cached_property
    def groups(self) -> dict[str, Bool[Tensor, " examples"]]:
        """The probed images by group: known and unknown where there are both, else all."""
        known = torch.isin(self.labels, torch.tensor(sorted(self.known), dtype=torch.long))
        return {"known": known, "unknown": ~known} if known.any() and not known.all() else {"all": known | ~known}

    def group_of(self, label: int) -> str:
        """The group that a class belongs to."""
        return "all" if "all" in self.groups else "known" if label in self.known else "unknown"

    @property
    def target(self) -> str:
        """The group that a transfer would be to."""
        return "unknown" if "unknown" in self.groups else "all"

    def untrained(self) -> nn.Module:
        """The net before its first update where that is known, else a fresh one of the same architecture."""
        net = self.fresh(seeded("untrained", self.name, self.seed))
        if self.start is not None:
            net.load_state_dict(self.start)
        return net.eval()

    def fresh(self, drawn: int) -> nn.Module:
        """A net of the same architecture, its weights drawn from this seed."""
        channels, height, width = self.images.shape[1:]
        return draw(self.kind, (channels, height, width), self.outputs, drawn)


def fitted(asked: Asked, data: DataSet, *, beside: Asked | None = None) -> Plan:
    """Which images are probed and what is trained; `beside` is another net that is to see the same images.

    Raises StudyError and LayersError for what does not fit.
    """
    net, path = parse_net(asked.net) if isinstance(asked.net, str) else (asked.name, None)
    kind = architecture(net) if isinstance(asked.net, str) else _adopted(asked, asked.net, data)
    content = read_weights(path) if path else None
    classes = choose_classes(asked.classes, data.class_names)
    known = choose_classes(asked.known, data.class_names) if asked.known else ()
    if strange := [data.class_names[c] for c in known if c not in classes]:
        raise StudyError(f"--known {asked.known} has class '{strange[0]}', which --classes {asked.classes} leaves out")
    if len(classes) < 2 or len(known) == 1:
        raise StudyError(f"{min(len(classes), len(known) or 2)} class tells nothing apart; name at least 2")
    request = Request(data, net, known=asked.known, classes=asked.classes, hold_out=asked.hold_out, groups=asked.groups)
    parts, notes = _parts(asked, request, trains=any(one.is_trained_here for one in (asked, beside) if one))
    return Plan(asked, data, net, kind, content, classes, known, parts, tuple(notes))


def _adopted(asked: Asked, net: nn.Module, data: DataSet) -> Architecture:
    channels = data.images.shape[1]
    mean, std = asked.mean or (0.0,) * channels, asked.std or (1.0,) * channels
    if len(mean) != channels or len(std) != channels:
        raise StudyError(f"mean and std have {len(mean)} and {len(std)} numbers, the images {channels} channels")
    return adopted(net, mean, std)


def _parts(asked: Asked, request: Request, *, trains: bool) -> tuple[Parts, list[str]]:
    """Images that a net trained here has not seen: the data's own test part, or else images kept back.

    Where nothing is trained and the data have no test part, any images; what such weights have seen is not known.
    """
    seen = [] if asked.is_trained_here else ["whether the net's weights were trained on these images is not known here"]
    if trains or "split" in request.data.columns or asked.hold_out or asked.groups:
        parts, notes = fit_parts(request, asked.examples, asked.shots or EVERY)
        return parts, [*notes, *seen]
    return Parts("random", asked.examples), [f"probed images: at most {asked.examples} a class of all", *seen]


def subject(plan: Plan, store: Store) -> Subject:
    """The net with its weights, trained earlier where it has none of its own, and the images."""
    net, start, trained_on = _trained(plan, plan.run, store) if plan.run else (_loaded(plan), None, None)
    learnt = plan.known or plan.classes
    probed, train = _images(plan, plan.classes, TEST), _images(plan, learnt, TRAIN, max(1, MOST_TRAIN // len(learnt)))
    if not len(probed):
        raise DataError("there are no images to probe; name others with --classes or --hold-out")
    looked_at = scaled(plan.data.images[probed], plan.kind)
    outputs = _outputs(net, looked_at[:1])
    is_told = (plan.known or plan.run) and len(learnt) == outputs
    return Subject(
        name=plan.asked.name,
        kind=plan.kind,
        net=net.eval(),
        found=layers(net, torch.zeros(1, *plan.shape)),
        outputs=outputs,
        head=learnt if is_told else None,
        start=start,
        run=plan.run,
        feed=trained_on,
        images=looked_at,
        labels=torch.from_numpy(plan.data.labels[probed]).long(),
        class_names=tuple(plan.data.class_names),
        known=frozenset(plan.known),
        train_images=scaled(plan.data.images[train], plan.kind),
        train_labels=torch.from_numpy(plan.data.labels[train]).long(),
        seed=plan.asked.seed,
    )


def _images(plan: Plan, classes: Sequence[int], which: int, most: int | None = None) -> Int[np.ndarray, " some"]:
    """Positions of images in a part of the data, class after class, each mixed; at most so many a class."""
    labels = plan.data.labels
    pool = part(plan.parts, labels, plan.data.columns) == which
    mixed = [
        generator("probed", plan.data.digest, plan.asked.seed, label).permutation(
            np.flatnonzero(pool & (labels == label))
        )
        for label in classes
    ]
    return np.concatenate([own[:most] for own in mixed])


@torch.no_grad()
def _outputs(net: nn.Module, image: Float[Tensor, "one channels height width"]) -> int:
    """The width of what the net gives; raises LayersError where that is not a row of numbers an image."""
    try:
        with in_eval(net):
            made = net(image)
    except RuntimeError as error:
        raise LayersError(
            f"the net does not take images of {tuple(image.shape[1:])} ({error})".replace("\n", " ")
        ) from error
    if not isinstance(made, Tensor) or made.dim() != 2:
        what = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise LayersError(f"the net gives {what} for an image, not a row of outputs; wrap it in a module that does")
    return int(made.shape[1])


def _trained(plan: Plan, run: Run, store: Store) -> tuple[nn.Module, State, Feed]:
    trained = restore(store, key(run))
    net = plan.built(run.task.outputs)
    net.load_state_dict(trained.weights)
    return net, trained.initial, feed(run.task, plan.data, plan.net)


def _loaded(plan: Plan) -> nn.Module:
    if isinstance(plan.asked.net, nn.Module):
        return copy.deepcopy(plan.asked.net).cpu().float()
    assert plan.content is not None
    state = net_state(plan.content, plan.net, plan.shape, str(plan.asked.net))
    net = plan.built(head_width(state, plan.net, plan.shape))
    net.load_state_dict(state, strict=False)  # batch norm's counters may be absent; net_state has looked at the rest
    return net
