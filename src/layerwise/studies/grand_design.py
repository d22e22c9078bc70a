"""Grand's protocol fitted to the data: its scales, its categories, and what had to be changed for lack of images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

from layerwise.costs import layer_parameters
from layerwise.errors import StudyError
from layerwise.randomness import generator
from layerwise.studies.grand_measures import BATCH
from layerwise.studies.request import Request, available, check_shots, experiments, fit_parts, scaled
from layerwise.tasks import Parts, Task

EXPERIMENTS = {
    "speed-up": "copy a net for one category, learn another: every ordered pair against learning from scratch",
    "lesions": "copy some layers only, a bit for each: what is lost without a layer, and what one layer brings",
    "dynamics": "how far each layer is from its start after so many images, by four measures",
}
LAYERS = 6
ALL, NONE = "1" * LAYERS, "0" * LAYERS
TOLD = ("111001", "000001", "100001", "111000")  # the masks that the paper speaks of
SINGLE = tuple(ALL[:k] + "0" + ALL[k + 1 :] for k in range(LAYERS))  # without layer 1, 2, ...
RATE = 1e-4
RATES = {"small40": 8e-4, "small40normal": 8e-4}  # of an eighth of the width; Yang et al. 2022, table 3: 1 / width
NULL = 2  # classes at least that are no category
EVERY_MASK = tuple("".join(bits) for bits in product("01", repeat=LAYERS))


@dataclass(frozen=True)
class Scale:
    """How large a grid is run."""

    nets: tuple[str, ...]
    seeds: int  # times that all is done, each with sources of its own
    trials: int  # of each source
    shots: tuple[int, ...]  # one number: training images of a category, and as many of the null class
    steps: int
    source_steps: int
    categories: int
    pairs: int  # of categories, for lesions and drift
    masks: tuple[str, ...]
    test: int  # images of a category
    every: int  # steps between two points of a learning curve
    watched: int  # steps between two looks at how far layers are from their start


SCALES = {
    "demo": Scale(
        ("small40normal", "small40"), 1, 1, shots=(2_240,), steps=80, source_steps=80, categories=6, pairs=6,
        masks=(ALL, NONE, *SINGLE, *TOLD), test=100, every=10, watched=10,
    ),
    "paper": Scale(
        ("alexnet40normal", "alexnet40"), 1, 1, shots=(2_240,), steps=200, source_steps=200, categories=10, pairs=5,
        masks=EVERY_MASK, test=560, every=5, watched=10,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Design:
    """The request fitted to the data: what exactly is run."""

    request: Request
    nets: Mapping[str, Mapping[str, int]]  # by name, the parameters of each layer
    scale: Scale
    experiments: tuple[str, ...]
    parts: Parts
    categories: tuple[int, ...]
    others: tuple[int, ...]  # classes that are no category, together the null class
    notes: tuple[str, ...]

    def task(self, category: int, seed: int) -> Task:
        """A category against the null class."""
        shots, digest = self.scale.shots[0], self.request.data.digest
        return Task(digest, (category,), shots, "onehot", self.parts, seed, self.others)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Source and target of lesions and drift: without a category in common where there are enough of them, else
        each category's source is the one before it (see `layerwise.studies.grand_nets.over_categories`).
        """
        count, most = len(self.categories), min(self.scale.pairs, len(self.categories))
        stride = 2 if 2 * most <= count else 1
        return [(self.categories[i], self.categories[(i + 1) % count]) for i in range(0, stride * most, stride)]


def design(request: Request) -> Design:
    """Fit the paper's protocol to the data, and note what had to be fitted."""
    scale: Scale = scaled(request, SCALES)
    for option, value in (("--known", request.known), ("--split", request.split)):
        if value is not None:
            raise StudyError(f"{option} {value}: this study has no classes on two sides; pass --classes")
    if len(scale.shots) != 1:
        raise StudyError(f"--shots {','.join(map(str, scale.shots))}: this study trains on one number; pass one")
    nets = (request.net,) if request.net else scale.nets
    sizes = {net: layer_parameters(net, request.data.images.shape[1:], 2) for net in nets}
    if wrong := [net for net in nets if len(sizes[net]) != LAYERS]:
        raise StudyError(
            f"--net {wrong[0]}: it has {len(sizes[wrong[0]])} layers, lesions are for {LAYERS}; pass another"
        )
    parts, notes = fit_parts(request, scale.test, scale.shots[0])
    chosen = request.chosen
    if len(chosen) < 3:
        raise StudyError(f"{len(chosen)} classes are too few for two categories and a null class; name 3 or more")
    drawn = generator("categories", "grand", request.data.digest).permutation(chosen).tolist()
    count = min(scale.categories, max(2, len(chosen) - NULL))
    categories, others = tuple(drawn[:count]), tuple(sorted(drawn[count:]))
    most, names = available(request, parts), request.data.class_names
    if request.shots:
        check_shots(scale.shots, most)
    told = "1 other class" if len(others) == 1 else f"{len(others)} other classes"
    notes.append(f"categories: {', '.join(names[c] for c in categories)}, each told from a null class of {told}")
    if count < scale.categories:
        notes.append(
            f"categories: {count}, not {scale.categories}: the null class needs classes of its own, as no net may have "
            "learnt that another's category is null"
        )
    if scale.shots[0] > most:
        notes.append(f"images: {most} of a category to train on, all there are (the protocol: {scale.shots[0]:,})")
        scale = replace(scale, shots=(most,))
    rate = RATES.get(nets[0], RATE)
    notes.append(
        f"nets: trained on {BATCH * scale.steps:,} images each, at a rate of {rate} (the paper: 10,000, {RATE})"
    )
    if not request.net:
        notes.append(f"initialisation: N(0, 1) as the authors had it ({nets[0]}), and He's beside it ({nets[1]})")
    return Design(request, sizes, scale, experiments(request, EXPERIMENTS), parts, categories, others, tuple(notes))
