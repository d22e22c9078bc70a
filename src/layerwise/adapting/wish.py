"""What is to be adapted, fitted to the net and the data: the runs that choose a rate, and the one that is kept.

The learning rate is chosen on validation images out of the training part (see `layerwise.adapting.rates`), and with it
the net is trained anew on training and validation images together. Test images are looked at once, in the end. With
advice the recipes are the advice's, and nothing is tried.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.adapting.described import NAME, Described
from layerwise.adapting.rates import Recipes, recipes, trial
from layerwise.adapting.spreading import over_layers
from layerwise.augment import Augmentation, check_kornia
from layerwise.data.dataset import DataSet, shape_of
from layerwise.errors import DataError, LayersError, StudyError
from layerwise.images import Images, keeping, untested, untested_notes
from layerwise.job import counts
from layerwise.layers import Layer, fit, layers
from layerwise.nets import build, named
from layerwise.nets.weights import net_state, weights_digest
from layerwise.run import Recipe, Run, Weights, task_from
from layerwise.start import copy_layer
from layerwise.studies.request import Request, share_out
from layerwise.tasks import Parts, Task, choose_classes, examples
from layerwise.treatment import Treatment

WITH_WEIGHTS, WITHOUT, ONTO = "F*R > T*", "R*", "F*R"  # treatments, where none is given
USUAL = {
    WITH_WEIGHTS: "a new head on the frozen layers, then all layers at a tenth of the rate",
    WITHOUT: "from scratch, since the net has no weights",
    ONTO: "a new head on the frozen trunk",
}


@dataclass(frozen=True)
class Wish:
    """The options that decide what is trained."""

    net: str  # the name of its architecture
    content: bytes | None  # of the file of its weights
    images: Images  # as they were made, which a user may not have said
    treatment: str | None = None
    advice: Path | None = None
    option: int | None = None  # of the advice, by its number; else the recommended one
    granularity: str = "layer"
    share: float = 0.2  # of each class kept back, and of the rest to choose the rate by, where the data have no parts
    no_test: bool = False
    rates: tuple[float, ...] | None = None
    steps: int | None = None  # of each stage
    batch_size: int | None = None
    augment: str = ""
    seed: int = 0
    onto: Described | None = None
    called: str | None = None  # the file of its weights, in errors

    @cached_property
    def digest(self) -> str | None:
        """The SHA-256 of the weights' file."""
        return weights_digest(self.content) if self.content else None

    def __post_init__(self) -> None:
        check_kornia(Augmentation.parse(self.augment))
        for name in ("steps", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise StudyError(f"--{name.replace('_', '-')} {value} is not possible; the least is 1")
        if not 0 < self.share < 1:
            raise StudyError(f"--share {self.share} is not between 0 and 1; for no test images pass --no-test")
        if self.rates is not None and not (self.rates and all(0 < rate < float("inf") for rate in self.rates)):
            raise StudyError(f"--rates {','.join(map(str, self.rates))} is not possible; name numbers above 0")
        if self.option is not None and not self.advice:
            raise StudyError(f"--option {self.option} is a line of an advice's options.csv; pass --advice too")
        if self.treatment and self.advice:
            raise StudyError("--treatment and --advice both say what to do with the layers; pass one of them")
        if self.advice and (self.rates or self.steps or self.batch_size or self.augment):
            raise StudyError("--advice brings its own recipe; pass rates, steps and the like with --treatment instead")
        if self.advice and self.granularity != "layer":
            raise StudyError(f"--advice has a letter for each layer; leave out --granularity {self.granularity}")
        if self.no_test and (held := self.images.hold_out):
            raise StudyError(f"--hold-out {held} keeps images back and --no-test keeps none; pass one of them")


@dataclass(frozen=True)
class Fitted:
    """A wish fitted to the data."""

    wish: Wish
    data: DataSet
    task: Task  # of the net that is kept
    trial: Task | None  # of the trials; null where nothing is tried
    treatment: Treatment  # over layers, without `*`
    found: tuple[Layer, ...]
    trunk: int  # leading layers shared with the tasks before
    choices: tuple[Recipes, ...]  # recipes to choose from; one where nothing is tried
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images."""
        return shape_of(self.data)

    @cached_property
    def source(self) -> Weights | None:
        """The weights that the net begins with, where the treatment takes anything of them."""
        return Weights(self.wish.digest) if self.wish.digest and self.treatment.needs_source else None

    @cached_property
    def trials(self) -> tuple[Run, ...]:
        """The runs that choose the rate."""
        return tuple(self._run(self.trial, recipes) for recipes in self.choices) if self.trial else ()

    def final(self, recipes: Recipes) -> Run:
        """The run that is kept."""
        return self._run(self.task, recipes)

    def _run(self, task: Task, recipes: Recipes) -> Run:
        return Run(self.wish.net, task, self.treatment, self.source, recipes, self.wish.seed)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the net's outputs."""
        return tuple(self.data.class_names[label] for label in self.task.classes)


def fitted(wish: Wish, data: DataSet) -> Fitted:
    """The runs that a wish means on these data; raises LayerwiseError for what does not go together."""
    told: list[str] = []
    wanted = wish.images.classes
    classes = choose_classes(wanted, data.class_names)
    if len(classes) < 2:
        raise StudyError(f"--classes {wanted} names one class, which tells nothing apart; name at least 2")
    parted = Task(data.digest, tuple(classes), parts=_parts(wish, data, told), seed=wish.seed)
    task = replace(parted, parts=replace(parted.parts, validation=0))
    images = counts(task, data)
    if not wish.no_test:
        _check_tested(wish.images, task, data)
        told += untested_notes(task, data)
    shape = shape_of(data)
    net = build(wish.net, shape, task.outputs, seed=0)
    found = layers(net, torch.zeros(1, *shape))
    treatment, advised = _treatment(wish, data, task, net, found, told)
    _check_source(wish, treatment, net.state_dict(), found, shape)
    trunk = _trunk(wish.onto, treatment) if wish.onto else 0
    choices = advised or recipes(
        images["train"], len(treatment.stages), wish.rates, wish.steps, wish.batch_size, wish.augment
    )
    if wish.batch_size is not None and wish.batch_size > images["train"]:
        told.append(f"--batch-size {wish.batch_size}: a step has all {images['train']:,} training images, no more")
    compared = None
    if len(choices) > 1:
        compared, choices = trial(
            parted, counts(parted, data)["validation"], choices, told, named=wish.rates, is_own=images["validation"] > 0
        )
    return Fitted(wish, data, task, compared, treatment, found, trunk, choices, tuple(told))


def _parts(wish: Wish, data: DataSet, told: list[str]) -> Parts:
    """Which images are kept back to test on, and which of the others can choose a rate."""
    asked = wish.images
    request = Request(data, wish.net, classes=asked.classes, hold_out=asked.hold_out, groups=asked.group_column)
    parts, notes = share_out(request, wish.share)
    if not wish.no_test:
        seen = ["whether the weights that the net began with were trained on test images is not known here"]
        told += [*notes, *(seen if wish.content and not wish.onto else [])]
        return parts
    told.append("no images are kept back, so nothing will be known of how good the net is on others")
    return replace(parts, by="random", held_out=(), test=0)


def _check_tested(asked: Images, task: Task, data: DataSet) -> None:
    """Raise DataError where no class has a test image, and groups are to blame for it."""
    if (columns := keeping(task)) and len(untested(task, data)) == len(task.classes):
        raise DataError(
            f"no image can be tested on: of every class all images are of one {columns}, or linked to the others; pass "
            f"--no-test, or {'other --groups' if asked.groups else 'rename the column'}"
        )


def _treatment(
    wish: Wish, data: DataSet, task: Task, net: nn.Module, found: Sequence[Layer], told: list[str]
) -> tuple[Treatment, tuple[Recipes, ...]]:
    """The treatment over layers, and the recipes where advice brings them."""
    if wish.advice is not None:
        text, recipes = _advised(wish, wish.advice, data, task, found, told)
        return fit(Treatment.parse(text), wish.net, found), (recipes,)
    text = wish.treatment or (ONTO if wish.onto else WITH_WEIGHTS if wish.content else WITHOUT)
    if wish.treatment is None:
        told.append(f"treatment: {text} ({USUAL[text]}), as none was given; `layerwise advise` looks for a better one")
    example = torch.zeros(1, *shape_of(data))
    return over_layers(Treatment.parse(text), wish.net, net, example, wish.granularity), ()


def _advised(
    wish: Wish, path: Path, data: DataSet, task: Task, found: Sequence[Layer], told: list[str]
) -> tuple[str, Recipes]:
    """Letters and recipes that `layerwise advise` recommends in this file, or those of the option that is wished."""
    option = wish.option
    try:
        advice = json.loads(path.read_text(encoding="utf-8"))
        recommended = advice["recommended"] if option is None else _numbered(advice["candidates"], option)
        letters, recipes = str(recommended["treatment"]), tuple(map(_recipe, recommended["recipes"]))
        names, about, of_data = list(advice["layers"]), str(advice["net"]), advice["data"]["digest"]
        of_weights, expected = advice.get("weights"), _expected(recommended)
        of_task = task_from(advice["data"]["task"]) if "task" in advice["data"] else None
        again = shlex.join([*advice.get("adapt", ()), "--advice", str(path)])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise StudyError(
            f"--advice {path} is not what `layerwise advise` writes ({why}); pass its advice.json"
        ) from error
    if named(about.partition("@")[0]) != wish.net or names != [layer.name for layer in found]:
        one = f"net '{about}' of {len(names)} layers"
        raise StudyError(f"--advice {path} is about {one}, not '{wish.net}'; name that net")
    if of_data != data.digest:
        told.append(f"the advice {path} was given on other images (data {of_data}, not {data.digest})")
        expected = ""  # that is of those
    elif of_task is not None:
        _check_unseen(of_task, task, data, f"--advice {path}", again)
        if of_task.classes != task.classes:
            told.append(f"the advice {path} was given for other classes than those that are learnt here")
        if of_task.shots is not None:
            told.append(f"the advice {path} was given for {of_task.shots} images a class to learn from, not for all")
    if of_weights not in {None, wish.digest}:
        told.append(f"the advice {path} was given for other weights (SHA-256 {of_weights}, not {wish.digest})")
    says = "recommends" if option is None else f"has it as option {option}"
    told.append(f"treatment: {Treatment.parse(letters)}, as {path} {says}{expected}")
    return letters, recipes


def _check_unseen(advised: Task, task: Task, data: DataSet, what: str, again: str) -> None:
    """Raise StudyError where images would be tested on that the advice was found with."""
    before, now = (examples(one, data.labels, data.columns, data.class_names) for one in (advised, task))
    seen = int(np.isin(now.test, np.concatenate([before.train, before.validation])).sum())
    if seen:
        raise StudyError(
            f"{what} was found with {seen} of the {len(now.test)} images that would be tested on; keep back those that "
            f"it kept back: {again}"
        )


def _numbered(candidates: Sequence[Mapping[str, Any]], option: int) -> dict[str, Any]:
    """The option of this number, as a recommended one is written; no interval was found for it."""
    if not 1 <= option <= len(candidates):
        raise StudyError(f"--option {option} is not there; this advice has options 1 to {len(candidates)}")
    chosen = candidates[option - 1]
    return {"treatment": chosen["letters"], "recipes": chosen["recipes"], "accuracy": chosen["accuracy"]}


def _expected(recommended: Mapping[str, Any]) -> str:
    """What the advice says of the accuracy that will come out, if it says anything."""
    if not (accuracy := recommended.get("accuracy")):
        return ""
    bounds = recommended.get("interval")
    between = f" ({bounds[0]:.1%} to {bounds[1]:.1%})" if bounds else ""
    return f"; it expects {accuracy:.1%} of new images right{between}"


def _recipe(values: Mapping[str, Any]) -> Recipe:
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Recipe(**fields)


def _check_source(
    wish: Wish, treatment: Treatment, fresh: Mapping[str, Tensor], found: Sequence[Layer], shape: tuple[int, int, int]
) -> None:
    """Raise LayersError where the treatment takes what the weights' file does not have."""
    if not treatment.needs_source:
        return
    if wish.content is None:
        raise StudyError(
            f"treatment '{treatment}' copies weights, and net '{wish.net}' comes without any; "
            f"write {wish.net}@FILE.safetensors, or --treatment 'R*' to train from scratch"
        )
    if treatment.needs_rewinding:
        raise LayersError(
            f"treatment '{treatment}' rewinds (W), and a file of weights does not say where they began; write T or R"
        )
    given = net_state(wish.content, wish.net, shape, wish.called or wish.net)
    for layer, letter in zip(found, treatment.letters()[0], strict=True):
        if letter[0] in {"F", "T", "M", "P"}:
            copy_layer(dict(fresh), given, layer.parameters, layer)


def _trunk(onto: Described, treatment: Treatment) -> int:
    """How many leading layers the treatment leaves as they are, in every stage."""
    kept = 0
    for letters in zip(*treatment.letters(), strict=True):
        if set(letters) != {"F"}:
            break
        kept += 1
    if kept == 0:
        raise StudyError(
            f"treatment '{treatment}' keeps no leading layer frozen, so nothing is shared with "
            f"'{onto.tasks[0].name}'; begin it with F, such as 'F*R', or adapt without --onto"
        )
    return kept


def task_name(wanted: str | None, locator: str, taken: Sequence[str] = ()) -> str:
    """The name of a task: as asked, else after its data, with a number behind it where that is taken.

    >>> task_name(None, "folder:photos/my pets"), task_name(None, "digits", ["digits"])
    ('my-pets', 'digits-2')
    """
    if wanted is not None:
        if not NAME.fullmatch(wanted):
            raise StudyError(f"--task '{wanted}' is no name; use letters, digits, - and _, at most 64 of them")
        if wanted in taken:
            raise StudyError(f"--task {wanted} is there already ({', '.join(taken)}); pass another name")
        return wanted
    kind, _, argument = locator.partition(":")
    stem = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in Path(argument).stem or kind)
    stem = stem.strip("-")[:50] or kind
    number = next(n for n in range(1, len(taken) + 2) if (stem if n == 1 else f"{stem}-{n}") not in taken)
    return stem if number == 1 else f"{stem}-{number}"
