"""How large Sharma's study is, and how his protocol is fitted to the data that there are."""

from dataclasses import dataclass, replace

from layerwise.costs import layer_parameters
from layerwise.errors import StudyError
from layerwise.studies.given_net import GivenNet
from layerwise.studies.request import Request, available, experiments, fit_parts, fit_shots, scaled, sides
from layerwise.tasks import Parts

EXPERIMENTS = {
    "embedding": "how known and unknown classes lie in each layer: spread, nearest known class, t-SNE (the paper's 1)",
    "inversion": "images sought from a layer's activations, of trained and untrained nets, of a deep one too (2)",
    "decoders": "what decoders that learnt the known classes cannot draw of each class, from each layer (3)",
    "retraining": "does the decoder's error tell what retraining a layer gains for a class? (never tested there)",
}
MOST_CLASSES = 5  # on each side
PAPERS_CLASSES = 10  # of which the first five are known, in the first draw
MOST_LAYERS = 6  # of a deep net: each is decoded and retrained
DEEP = {1: "vgg19narrow", 3: "resnet20"}  # by channels of the images
DEEP_LAYERS = (1, 2, 16)  # the paper's, of VGG-19


@dataclass(frozen=True)
class Scale:
    """How large a study is run."""

    seeds: int  # draws of known and unknown classes
    trials: int
    shots: tuple[int, ...]
    source_shots: int
    test: int  # images a class
    steps: int
    source_steps: int
    looked_at: int  # images a class, for experiments 1 and 3
    decoders: int  # of each layer
    decoder_steps: int
    inverted_seeds: int  # draws in which images are inverted
    inverted: int  # images a class
    descent: int  # steps
    deep_steps: int  # of the deep net's training


SCALES = {
    "demo": Scale(
        seeds=10, trials=2, shots=(20,), source_shots=100, test=100, steps=120, source_steps=200, looked_at=40,
        decoders=2, decoder_steps=150, inverted_seeds=5, inverted=2, descent=150, deep_steps=120,
    ),
    "paper": Scale(
        seeds=20, trials=4, shots=(5, 20, 100), source_shots=5_000, test=1_000, steps=1_000, source_steps=4_000,
        looked_at=500, decoders=5, decoder_steps=1_000, inverted_seeds=10, inverted=4, descent=500, deep_steps=2_000,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Design:
    """The request fitted to the data: what exactly is run."""

    request: Request
    experiments: tuple[str, ...]
    net: str
    deep: str | GivenNet  # trained here, or with weights of the user's own
    deep_at: tuple[int, ...]  # numbers of its layers that are inverted
    sizes: dict[str, int]  # parameters of each layer of the net
    at: tuple[int, ...]  # numbers of the layers in question: all but the head, or some of a deep net's
    scale: Scale
    parts: Parts
    notes: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the net's layers."""
        return tuple(self.sizes)


def design(request: Request) -> Design:
    """Fit the paper's protocol to the data, and note what had to be fitted."""
    scale: Scale = scaled(request, SCALES)
    wanted = experiments(request, EXPERIMENTS)
    parts, notes = fit_parts(request, scale.test, max(*SCALES[request.scale].shots, *scale.shots))
    most = available(request, parts)
    shots, fewer = fit_shots(request, scale.shots, most)
    notes += fewer
    fitted = {name: min(getattr(scale, name), most) for name in ("source_shots", "looked_at", "inverted")}
    scale = replace(scale, shots=shots, source_steps=request.source_steps or scale.source_steps, **fitted)
    net, shape = request.net or "sharma", request.data.images.shape[1:]
    known, unknown = classes(request, 0)
    sizes = layer_parameters(net, shape, len(known))
    if len(sizes) < 3:
        raise StudyError(f"net '{net}' has {len(sizes)} layers; depth tells nothing under 2 beside the head")
    notes.append(f"classes: {len(known)} known to the source; {len(unknown)} unknown, chance {1 / len(unknown):.0%}")
    if request.known and scale.seeds > 1:
        notes.append("known classes: those of --known for every seed; the seeds are not independent draws of classes")
    deep, deep_at, said = _deep(request, shape)
    if "inversion" in wanted:
        notes.append(said)
    elif request.deep:
        raise StudyError("--deep is for the experiment 'inversion', which --experiments leaves out; name it there")
    at = _some(len(sizes) - 1)
    if len(at) < len(sizes) - 1:
        notes.append(f"layers: {len(at)} of the {len(sizes) - 1} below the head are looked at and retrained")
    return Design(request, wanted, net, deep, deep_at, sizes, at, scale, parts, tuple(notes))


def _deep(request: Request, shape: tuple[int, int, int]) -> tuple[str | GivenNet, tuple[int, ...], str]:
    """The deep net, the numbers of its layers that are inverted, and a note on it; LayersError where it does not fit.

    The layers are the paper's; of a net with fewer, the last one below the head in the place of those it lacks.
    """
    given = request.deep
    if given is None:
        ours = DEEP[shape[0]]
        told = (
            f"deep net: {ours}, a smaller one trained here on the known classes, in the place of VGG-19 with "
            "ImageNet's weights; for weights of your own pass --deep NET@FILE"
        )
        return ours, DEEP_LAYERS, told
    last = given.depth(shape) - 1
    told = (
        f"deep net: {given.called} with its own weights (SHA-256 {given.digest[:16]}) on the trained side, the same "
        "net fresh on the untrained one; it is one net in all draws, and which classes it knows is not known"
    )
    return given, tuple(dict.fromkeys(min(number, last) for number in DEEP_LAYERS)), told


def _some(count: int) -> tuple[int, ...]:
    """The numbers of so many layers, or of some evenly spread from the first to the last.

    >>> _some(3), _some(19)
    ((1, 2, 3), (1, 5, 8, 12, 15, 19))
    """
    most = min(count, MOST_LAYERS)
    return tuple(1 + round(k * (count - 1) / max(most - 1, 1)) for k in range(most))


def classes(request: Request, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Known and unknown classes of a draw; of ten the first is the paper's, unless the request says which."""
    every = request.chosen
    if seed == 0 and len(every) == PAPERS_CLASSES and not (request.known or request.split):
        return every[:MOST_CLASSES], every[MOST_CLASSES:]
    return sides(request, "sharma", seed, MOST_CLASSES)
