"""How each layer came to be what it is, and what the net loses without it: drift, gradients, resets."""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerwise.errors import RepresentationError
from layerwise.probes.drift import Reading, Watch, distances, gradients, similarities
from layerwise.probes.robustness import Draws, robustness
from layerwise.probing.look import Look
from layerwise.probing.subject import State, Subject
from layerwise.train import train

LOOKS = 12  # at the net on its way through training
LOOKED_AT = 500  # images, for gradients, for the similarity to the end, and for batch norm's statistics
RESET_ON = 300  # images: the net is evaluated some eleven times for each layer


def drift(look: Look) -> None:
    """Distance of each layer from its start at some steps of training, and its similarity to its end."""
    subject, states = look.subject, _states(look)
    if not states:
        raise RepresentationError(
            f"{subject.name} has its weights from elsewhere, and how they came about is not known; "
            "name a net without weights, and it is trained here"
        )
    images = subject.images[:: max(1, len(subject.images) // LOOKED_AT)]
    _note(look, distances(subject.net, subject.found, states))
    pooling, memory = look.pooling, look.memory
    _note(look, similarities(subject.net, subject.found, states, images, pooling=pooling, memory=memory))


def _states(look: Look) -> dict[int, State]:
    """The net at some steps of its training, which is done once more for them; none where it was not trained here."""
    run, feed = look.subject.run, look.subject.feed
    if not look.states and run is not None and feed is not None:
        watch = Watch(watched(run.steps))
        trained = train(run, feed, observe=watch)
        look.states |= {**watch.states, sum(trained.steps): trained.weights}
    return look.states


def watched(steps: int) -> tuple[int, ...]:
    """Steps at which a net is looked at: the start, the end, and between them ever more rarely.

    >>> watched(500)
    (0, 2, 3, 5, 8, 13, 22, 38, 63, 106, 177, 298, 500)
    """
    ratio = steps ** (1 / LOOKS)
    return tuple(sorted({0, *(round(ratio**k) for k in range(1, LOOKS + 1)), steps}))


def gradient(look: Look) -> None:
    """Norm and signal-to-noise ratio of each layer's gradient at some steps of training, on the classes that it knows.

    Of a net with weights from elsewhere there is one state, and no step.
    """
    subject = look.subject
    images, classes = (part[:LOOKED_AT] for part in headed(subject))
    states: list[tuple[int | None, State]] = [*_states(look).items()] or [(None, subject.net.state_dict())]
    walker = copy.deepcopy(subject.net)
    for done, (step, state) in enumerate(states, 1):
        walker.load_state_dict(state)
        _note(look, gradients(walker, subject.found, images, classes, step=step, memory=look.memory))
        look.progress(done, len(states))


def reset(look: Look) -> None:
    """Accuracy before and after one layer is reset to fresh, rewound or matched weights and nothing is trained."""
    subject = look.subject
    images, classes = (part[:RESET_ON] for part in headed(subject))
    draws = Draws(
        fresh=lambda drawn: dict(subject.fresh(drawn).state_dict()),
        initial=subject.start,
        seed=subject.seed,
    )
    mixed = torch.randperm(len(subject.train_images), generator=torch.Generator().manual_seed(subject.seed))
    estimate_on = subject.train_images[mixed[:LOOKED_AT]] if len(mixed) > 1 else None
    found = robustness(
        subject.net, subject.found, images, classes, draws, estimate_on=estimate_on, memory=look.memory,
        progress=look.progress,
    )  # fmt: skip
    for statistics, base in {one.statistics: one.base for one in found}.items():
        look.note("accuracy_before_reset", base, part=statistics)
    for one in found:
        same = {"part": one.statistics, "reason": one.reason or None}
        low, high = one.bounds or (None, None)
        bounds = {"low": one.base - high, "high": one.base - low} if low is not None and high is not None else {}
        look.note(f"accuracy_lost_{one.kind}", one.lost, one.layer, **same, **bounds)
        look.note("accuracy_after_reset", one.accuracy, one.layer, condition=one.kind, low=low, high=high, **same)


def headed(subject: Subject) -> tuple[Float[Tensor, "some ..."], Int[Tensor, " some"]]:
    """Probed images of the classes that the net's head has an output for, and which output that is, mixed."""
    if subject.head is None:
        raise RepresentationError(
            f"the head of {subject.name} has {subject.outputs} outputs, and which classes they are is not known; "
            f"if they are among these, name the {subject.outputs} with --known"
        )
    outputs = torch.full((len(subject.class_names),), -1)
    outputs[list(subject.head)] = torch.arange(len(subject.head))
    rows = torch.nonzero(outputs[subject.labels] >= 0).flatten()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(subject.seed))]
    return subject.images[rows], outputs[subject.labels[rows]]


def _note(look: Look, readings: list[Reading]) -> None:
    for one in readings:
        look.note(one.quantity, one.value, one.layer, part=one.part, step=one.step, reason=one.reason or None)
