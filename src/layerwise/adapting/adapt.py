"""Carry a treatment out on the user's images, and write the folder of the adapted net."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from layerwise import __version__
from layerwise.adapting import described
from layerwise.adapting.adapted import AdaptedNet, State, known, restored, tensors_of
from layerwise.adapting.card import card
from layerwise.adapting.described import MODEL, Described, Learnt, Preprocessing, sha256
from layerwise.adapting.exporting import check_can_export, exported
from layerwise.adapting.measured import Measured, measured
from layerwise.adapting.training import Training
from layerwise.adapting.wish import Fitted, Wish, fitted, task_name
from layerwise.curve import EVALUATION_BATCH
from layerwise.data.dataset import DataSet, shape_of
from layerwise.errors import DataError, LayersError, StudyError
from layerwise.images import Images, open_images
from layerwise.job import Means, counts
from layerwise.listening import listening
from layerwise.nets import LIBRARIES, architecture
from layerwise.nets.weights import parse_net, read_weights
from layerwise.plan_file import command_of
from layerwise.run import Run, key
from layerwise.store import Store
from layerwise.tasks import examples

VERSIONS_OF = ("torch", "numpy", "pillow", "safetensors")


@dataclass(frozen=True)
class Beginning:
    """A net before it is trained."""

    name: str  # of its architecture
    content: bytes | None  # of the file of its weights
    called: str  # that file, in errors


@dataclass(frozen=True)
class Target:
    """The folder that is written, and what is in it already."""

    folder: Path
    task: str  # the name of the task that comes into it
    before: Described | None  # what the task is added to; null where the folder is made

    @classmethod
    def of(cls, out: str | Path | None, onto: str | Path | None, task: str | None, data: str) -> "Target":
        """Checked before anything is trained; raises StoreError where it cannot be written."""
        if onto is None:
            folder = Path(out or "layerwise-out/adapt")
            described.check_free(folder)
            return cls(folder, task_name(task, data), None)
        if out is not None:
            raise StudyError(f"--onto {onto} adds to that folder, and --out {out} makes another; pass one of them")
        before = described.read(Path(onto))
        return cls(Path(onto), task_name(task, data, [other.name for other in before.tasks]), before)

    def begun(self, net: str | None) -> Beginning:
        """The net that is trained, and the weights that it begins with."""
        if self.before is not None:
            known(self.before.net, net, self.folder)
            content = described.content(self.folder, self.before, MODEL)
            return Beginning(self.before.net, content, str(self.folder / MODEL))
        if net is None:
            raise StudyError("the net is missing; write: layerwise adapt NET DATA")
        name, path = parse_net(net)
        return Beginning(name, read_weights(path) if path else None, str(path or name))

    def like(self, asked: Images) -> Images:
        """The images as asked; over a trunk made as they were for it, so in colour pictures too become grey."""
        if self.before is None:
            return asked
        made = self.before.preprocessing
        is_grey = made.channels == 1
        if asked.resize not in (None, made.resize) or (asked.grey and not is_grey):
            size = f"--resize {made.resize}" if made.resize else "as they come"
            raise StudyError(
                f"--onto {self.folder}: images are made as they were for its trunk ({size}, "
                f"{'grey' if is_grey else 'colour'}); leave out --resize and --grey"
            )
        return replace(asked, resize=made.resize, grey=is_grey)

    def check(self, data: DataSet) -> None:
        """Raise DataError where these images are not such as the trunk takes."""
        if self.before is None or shape_of(data) == self.before.preprocessing.shape:
            return
        there, here = ("x".join(map(str, shape)) for shape in (self.before.preprocessing.shape, shape_of(data)))
        what = f"the images are {here} (channels, height, width), and the trunk in {self.folder} takes {there}"
        raise DataError(f"{what}, as they come; make them so yourself, or adapt a net of their own, without --onto")


def adapt(
    net: str | None,
    data: str,
    *,
    treatment: str | None = None,
    advice: str | Path | None = None,
    option: int | None = None,
    onto: str | Path | None = None,
    task: str | None = None,
    granularity: str = "layer",
    classes: str | None = None,
    resize: int | None = None,
    grey: bool = False,
    skip_unreadable: bool = False,
    drop_duplicates: bool = False,
    groups: str | None = None,
    hold_out: str | None = None,
    share: float = 0.2,
    no_test: bool = False,
    rates: Sequence[float] | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    augment: str = "",
    seed: int = 0,
    onnx: bool = False,
    store: str | Path = "layerwise-store",
    out: str | Path | None = None,
    executor: str = "local",
    workers: int | None = None,
    device: str = "auto",
    deterministic: bool = False,
    tensorboard: str | Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    command: Sequence[str] | None = None,
) -> AdaptedNet | None:
    """Train a net as a treatment says on all images of the data but those kept back; see `layerwise adapt --help`.

    >>> net = adapt("resnet20@best.safetensors", "folder:pets", resize=32, out="pets")    # doctest: +SKIP
    >>> net.predict("photo.jpg")[0]                                                       # doctest: +SKIP
    ('cat', 0.93)

    `net` is a name; what builds an `nn.Module` of your own goes into a file: `mine.py:build@mine.pt`, see docs/nets.md.
    The net is written to `out` (by default layerwise-out/adapt), and given as `load_adapted` would. With `onto`, the
    folder of an adapted net, the data become one task more over its frozen trunk; `net` is None then, or names again
    the file that makes it. With `dry_run` the plan and its forecast are told, and nothing is trained or given. Raises
    LayerwiseError where an option, the data, the net or the folder is not usable.
    """
    given = {name: value for name, value in locals().items() if name not in {"command", "quiet"}}
    if onnx:
        check_can_export()
    target = Target.of(out, onto, task, data)
    began = target.begun(net)
    shelf, means = Store(Path(store)), Means(executor, workers, device, deterministic)
    told = command_of(command, {name: value for name, value in given.items() if value not in (None, "")}, "adapt")
    listener = listening(shelf, told, quiet=quiet, dry_run=dry_run, tensorboard=tensorboard)
    asked = target.like(Images(data, classes, resize, grey, skip_unreadable, drop_duplicates, groups, hold_out))
    opened = open_images(asked, shelf.folder / "data", began.name, began.content, began.called)
    target.check(opened.data)
    wish = Wish(
        began.name, began.content, opened.asked, treatment, None if advice is None else Path(advice), option,
        granularity, share, no_test, None if rates is None else tuple(rates), steps, batch_size, augment, seed,
        target.before, began.called,
    )  # fmt: skip
    plan = fitted(wish, opened.data)
    notes = (*opened.data.notes, *plan.notes)
    for note in notes:
        listener.say(f"Note: {note}")
    training = Training(plan, shelf, opened.place, means, listener)
    if dry_run:
        training.forecast()
        return None
    run, state, tried = training.carried_out()
    learnt = taught(target.task, plan, run, tried, notes, told)
    return written(target, plan, learnt, state, onnx=onnx)


def taught(
    task: str, plan: Fitted, run: Run, tried: tuple[dict[str, Any], ...], notes: tuple[str, ...], command: str
) -> Learnt:
    """What is to be said of the task once it is learnt; how good it is, is not measured yet."""
    data = plan.data
    return Learnt(
        name=task,
        trunk=plan.trunk,
        classes=plan.class_names,
        treatment=str(plan.treatment),
        letters=plan.treatment.expanded,
        granularity=plan.wish.granularity,
        recipes=tuple(asdict(recipe) for recipe in run.recipes),
        tried=tried,
        seed=plan.wish.seed,
        run=key(run),
        data={"name": data.name, "digest": data.digest, "images": counts(run.task, data)},
        test=None,
        notes=notes,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
    )


def preprocessing(plan: Fitted) -> Preprocessing:
    """How images are made what the net takes."""
    mean, std = architecture(plan.wish.net).pixels(plan.shape[0])
    return Preprocessing(*plan.shape, plan.wish.images.resize, plan.wish.images.grey, mean, std)


def written(target: Target, plan: Fitted, learnt: Learnt, state: State, *, onnx: bool) -> AdaptedNet:
    """Measure the trained net on the test images, write it into its folder, and give it."""
    wish, own = plan.wish, _own(target, plan, state)
    layers = tuple(layer.name for layer in plan.found)
    empty = Described(wish.net, wish.digest, layers, preprocessing(plan), (), {}, _versions(wish.net))
    net = restored(target.before or empty, learnt, state)
    found = tested(net, plan)
    learnt = replace(learnt, test=asdict(found) if found else None)
    net.task, files = learnt, {learnt.file: save(own)}
    if target.before is not None:
        net.described = described.add(target.folder, learnt, files, target.before.files[MODEL], card)
    else:
        net.described = empty.adding(learnt, {name: sha256(given) for name, given in files.items()})
        described.write(target.folder, net.described, files, card(net.described))
    if onnx:
        net.described = _exported(net, target.folder)
    return net


def _exported(net: AdaptedNet, folder: Path) -> Described:
    """What the folder says of itself with the net as ONNX in it too."""
    try:
        return described.attach(folder, {net.task.onnx: exported(net)}, card)
    except LayersError as error:
        raise LayersError(f"{error}; the adapted net itself is in {folder}") from error


def _own(target: Target, plan: Fitted, state: State) -> State:
    """The tensors that are stored with this task: all but the trunk's, which must be what they were."""
    if target.before is None:
        return state
    shared = {name for layer in plan.found[: plan.trunk] for name in layer.parameters + layer.buffers}
    first = tensors_of(target.folder, target.before, MODEL)
    moved = [name for name in sorted(shared & state.keys()) if not torch.equal(state[name], first[name])]
    assert not moved, f"frozen tensors have moved: {moved}"  # the trainer's contract
    return {name: tensor for name, tensor in state.items() if name not in shared}


@torch.no_grad()
def tested(net: AdaptedNet, plan: Fitted) -> Measured | None:
    """How good the net is on the images kept back; null where there are none."""
    where = examples(plan.task, plan.data.labels, plan.data.columns, plan.data.class_names).test
    if len(where) == 0:
        return None
    pieces = [where[at : at + EVALUATION_BATCH] for at in range(0, len(where), EVALUATION_BATCH)]
    chances = torch.cat([net(net.scaled(plan.data.images[piece])).double().softmax(1) for piece in pieces])
    positions = {label: k for k, label in enumerate(plan.task.classes)}
    return measured(chances.numpy(), torch.tensor([positions[int(c)] for c in plan.data.labels[where]]).numpy())


def _versions(net: str) -> dict[str, str]:
    """Of what decides how the net is built and what it gives; of the library too that it is one of."""
    library = net.partition(":")[0]
    found = {name: metadata.version(name) for name in (*VERSIONS_OF, *([library] if library in LIBRARIES else []))}
    return {"layerwise": __version__, "python": platform.python_version(), **found}
